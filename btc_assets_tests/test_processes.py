from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from btc_assets.processes import ProcessError, free_port, running, wait_for_port

LISTEN = """
import http.server, sys
address = ("127.0.0.1", int(sys.argv[1]))
http.server.HTTPServer(address, http.server.BaseHTTPRequestHandler).serve_forever()
"""
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().split()[2]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_process_runs_inside_the_block_and_not_after_it() -> None:
    port = free_port("127.0.0.1", 0)
    with running([sys.executable, "-c", LISTEN, str(port)]) as process:
        wait_for_port(process, "127.0.0.1", port, seconds=20)
        assert alive(process.pid)
    assert not alive(process.pid)


def test_what_it_started_ends_with_it_even_if_it_ignores_ctrl_c(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log, running([sys.executable, "-c", STUBBORN], log=log.fileno()) as process:
        until = time.monotonic() + 20
        while not (said := (tmp_path / "log").read_text().strip()) and time.monotonic() < until:
            time.sleep(0.05)
        child = int(said)
        assert alive(child)
    assert not alive(process.pid)
    until = time.monotonic() + 5  # whoever adopts an orphan takes a moment to notice its end
    while alive(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(child)


def test_a_process_that_ends_before_it_listens_is_reported() -> None:
    with (
        running([sys.executable, "-c", "raise SystemExit(3)"], log=subprocess.DEVNULL) as process,
        pytest.raises(ProcessError, match="status 3"),
    ):
        wait_for_port(process, "127.0.0.1", free_port("127.0.0.1", 0), seconds=20)


def test_a_taken_port_is_replaced_by_a_free_one() -> None:
    port = free_port("127.0.0.1", 0)
    with running([sys.executable, "-c", LISTEN, str(port)]) as process:
        wait_for_port(process, "127.0.0.1", port, seconds=20)
        assert free_port("127.0.0.1", port) != port
