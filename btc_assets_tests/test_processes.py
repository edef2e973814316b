"""Processes that are started, waited for, and gone afterwards with everything they started."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from btc_assets import processes
from btc_assets.processes import ProcessError, free_port, running, wait_for_port
from btc_assets_tests.conftest import WATCHDOG_S

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


LEAVES_A_CHILD = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
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
        wait_for_port(process, "127.0.0.1", port, seconds=WATCHDOG_S)
        assert alive(process.pid)
    assert not alive(process.pid)


def ended(pid: int, seconds: float = WATCHDOG_S) -> bool:
    """Return whether a process has ended; whoever adopts an orphan takes a moment to notice its end."""
    until = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(pid)


def said(log: Path, seconds: float = WATCHDOG_S) -> str:
    """Return what a process has written, once it has written something."""
    until = time.monotonic() + seconds
    while not (words := log.read_text().strip()) and time.monotonic() < until:
        time.sleep(0.05)
    return words


def test_what_it_started_ends_with_it_even_if_it_ignores_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE_S", 0.5)
    path = tmp_path / "log"
    with path.open("wb") as log, running([sys.executable, "-c", STUBBORN], log=log.fileno()) as process:
        child = int(said(path))
        assert alive(child)
    assert not alive(process.pid)
    assert ended(child)


def test_what_it_started_ends_even_if_it_has_ended_before(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as log, running([sys.executable, "-c", LEAVES_A_CHILD], log=log.fileno()) as process:
        child = int(said(path))
        process.wait(WATCHDOG_S)
        assert alive(child)
    assert ended(child)


def test_what_it_started_ends_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with (
        pytest.raises(ZeroDivisionError),
        path.open("wb") as log,
        running(
            [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(600)"], log=log.fileno()
        ) as process,
    ):
        assert said(path) == "1"
        raise ZeroDivisionError
    assert not alive(process.pid)


def test_a_process_that_ends_before_it_listens_is_reported() -> None:
    with (
        running([sys.executable, "-c", "raise SystemExit(3)"], log=subprocess.DEVNULL) as process,
        pytest.raises(ProcessError, match="status 3"),
    ):
        wait_for_port(process, "127.0.0.1", free_port("127.0.0.1", 0), seconds=WATCHDOG_S)


def test_a_process_that_does_not_listen_is_given_up_in_time() -> None:
    with (
        running([sys.executable, "-c", "import time; time.sleep(600)"]) as process,
        pytest.raises(ProcessError, match=r"does not listen on 127\.0\.0\.1:"),
    ):
        wait_for_port(process, "127.0.0.1", free_port("127.0.0.1", 0), seconds=0.5)


def test_waiting_ends_at_once_when_it_is_called_off() -> None:
    called_off = threading.Event()
    called_off.set()
    with running([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        wait_for_port(process, "127.0.0.1", free_port("127.0.0.1", 0), seconds=600, unless=called_off)


def test_a_taken_port_is_replaced_by_a_free_one() -> None:
    port = free_port("127.0.0.1", 0)
    with running([sys.executable, "-c", LISTEN, str(port)]) as process:
        wait_for_port(process, "127.0.0.1", port, seconds=WATCHDOG_S)
        assert free_port("127.0.0.1", port) != port
