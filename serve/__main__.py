"""Run the server: `python -m serve`, on BTC_SERVE_HOST and BTC_SERVE_PORT."""

from __future__ import annotations

import logging
import sys

import uvicorn

from btc_assets.processes import port_fault
from btc_assets.settings import SettingsError, read_settings
from serve.app import create_app
from serve.connection import OneWriteProtocol


def main() -> None:
    """Serve until interrupted."""
    try:
        config = read_settings()
    except SettingsError as error:
        sys.exit(str(error))
    if fault := port_fault(config.serve_host, config.serve_port):
        sys.exit(f"Port {config.serve_port} {fault}; set BTC_SERVE_PORT to a free one.")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    uvicorn.run(
        create_app(config.serving_dir),
        host=config.serve_host,
        port=config.serve_port,
        loop="uvloop",
        http=OneWriteProtocol,
        proxy_headers=False,  # no response depends on the client's address
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
