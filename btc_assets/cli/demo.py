"""`make demo`: run the whole graph on the embedded sample, then request the forecast over HTTP."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from btc_assets.partitions import previous_monday
from btc_assets.processes import free_port, reachable_host, running, wait_for_port, web_root
from btc_assets.settings import SAMPLE_END, Settings

WEEKS = 2
"""Weekly cutoffs that the demo walks over, at the end of the sample."""
READY_S = 30.0


def demo(config: Settings) -> int:
    """Run the demo and return its exit status."""
    if config.market_source != "sample":
        print(
            f"make demo runs on the embedded sample, but BTC_MARKET_SOURCE is {config.market_source!r}; unset it "
            "(and the other settings of .env) for the demo.",
            file=sys.stderr,
        )
        return 2
    from btc_assets.cli.walk_forward import walk_forward

    end = SAMPLE_END - timedelta(days=1)
    start = previous_monday(end) - timedelta(weeks=WEEKS - 1)
    with _step(f"walk forward over {WEEKS} weekly cutoffs, {start} to {end}: bars, features, models, forecasts"):
        status = walk_forward(start, end, every_days=7, resume=True)
    if status:
        return status
    with _step("start the forecast server and request the forecast"):
        print(_forecast_over_http(config), flush=True)
    print(f"==> the sample ends on {end}, so the forecast is marked as stale. Next: make up", flush=True)
    return 0


def _forecast_over_http(config: Settings) -> str:
    """Start the forecast server and return its answer to /v1/forecast, with the request."""
    import httpx

    host = reachable_host(config.serve_host)
    port = free_port(host, config.serve_port)
    path = config.serving_dir.parent / "demo_server.log"
    with path.open("wb") as log:
        command = [sys.executable, "-m", "serve"]
        with running(command, environment={"BTC_SERVE_PORT": str(port)}, log=log.fileno()) as server:
            wait_for_port(server, host, port, seconds=READY_S)
            url = f"{web_root(host, port)}/v1/forecast"
            answer = httpx.get(url, timeout=10, trust_env=False)
            answer.raise_for_status()
    return f"$ curl {url}\n{json.dumps(answer.json(), indent=2)}"


@contextmanager
def _step(description: str) -> Iterator[None]:
    """Print what the block does and how long it took."""
    print(f"==> {description}", flush=True)
    started = time.monotonic()
    yield
    print(f"==> done in {time.monotonic() - started:.1f} s", flush=True)
