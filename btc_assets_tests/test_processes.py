"""Processes are started, waited for and stopped together with their children."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from btc_assets import processes
from btc_assets.processes import (
    ProcessError,
    free_port,
    port_fault,
    reachable_host,
    running,
    wait_for_port,
    wait_for_socket,
    web_root,
)
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


LISTEN_AT_A_PATH = """
import socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.bind(sys.argv[1])
    server.listen()
    server.accept()
"""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().split()[2]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_process_runs_only_inside_the_block() -> None:
    port = free_port("127.0.0.1", 0)
    with running([sys.executable, "-c", LISTEN, str(port)]) as process:
        wait_for_port(process, "127.0.0.1", port, seconds=WATCHDOG_S)
        assert is_running(process.pid)
    assert not is_running(process.pid)


def has_ended(pid: int, seconds: float = WATCHDOG_S) -> bool:
    """Return whether a process has has_ended; the parent that adopts an orphan reaps it with a delay."""
    until = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not is_running(pid)


def first_output(log: Path, seconds: float = WATCHDOG_S) -> str:
    """Return the output of a process as soon as there is any."""
    until = time.monotonic() + seconds
    while not (text := log.read_text().strip()) and time.monotonic() < until:
        time.sleep(0.05)
    return text


def test_children_of_a_process_that_ignores_sigint_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_S", 0.5)
    path = tmp_path / "log"
    with path.open("wb") as log, running([sys.executable, "-c", STUBBORN], log=log.fileno()) as process:
        child = int(first_output(path))
        assert is_running(child)
    assert not is_running(process.pid)
    assert has_ended(child)


def test_children_of_an_ended_process_are_stopped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as log, running([sys.executable, "-c", LEAVES_A_CHILD], log=log.fileno()) as process:
        child = int(first_output(path))
        process.wait(WATCHDOG_S)
        assert is_running(child)
    assert has_ended(child)


def test_a_failing_block_stops_the_process(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with (
        pytest.raises(ZeroDivisionError),
        path.open("wb") as log,
        running(
            [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(600)"], log=log.fileno()
        ) as process,
    ):
        assert first_output(path) == "1"
        raise ZeroDivisionError
    assert not is_running(process.pid)


def test_a_process_that_ends_before_it_listens_is_reported() -> None:
    with (
        running([sys.executable, "-c", "raise SystemExit(3)"], log=subprocess.DEVNULL) as process,
        pytest.raises(ProcessError, match="status 3"),
    ):
        wait_for_port(process, "127.0.0.1", free_port("127.0.0.1", 0), seconds=WATCHDOG_S)


def test_a_process_that_does_not_listen_in_time_is_reported() -> None:
    with (
        running([sys.executable, "-c", "import time; time.sleep(600)"]) as process,
        pytest.raises(ProcessError, match=r"does not listen on 127\.0\.0\.1:"),
    ):
        wait_for_port(process, "127.0.0.1", free_port("127.0.0.1", 0), seconds=0.5)


def test_waiting_can_be_cancelled() -> None:
    cancelled = threading.Event()
    cancelled.set()
    with running([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        wait_for_port(process, "127.0.0.1", free_port("127.0.0.1", 0), seconds=600, unless=cancelled)


def test_a_port_in_use_is_replaced_by_a_free_one() -> None:
    port = free_port("127.0.0.1", 0)
    with running([sys.executable, "-c", LISTEN, str(port)]) as process:
        wait_for_port(process, "127.0.0.1", port, seconds=WATCHDOG_S)
        assert free_port("127.0.0.1", port) != port


def test_another_program_on_the_port_does_not_count() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            running([sys.executable, "-c", "import time; time.sleep(600)"]) as process,
            pytest.raises(ProcessError, match="another program listens there"),
        ):
            wait_for_port(process, "127.0.0.1", port, seconds=0.5)


def test_a_listening_child_counts() -> None:
    port = free_port("127.0.0.1", 0)
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {LISTEN!r}, '{port}'])"
    with running([sys.executable, "-c", parent]) as process:
        wait_for_port(process, "127.0.0.1", port, seconds=WATCHDOG_S)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "0.0.0.0"])
def test_a_port_in_use_is_detected_on_every_host(host: str) -> None:
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    place = "127.0.0.1" if host == "localhost" else host
    try:
        other = socket.create_server((place, 0), family=family)
    except OSError:
        pytest.skip(f"{host} is not available here")
    with other:
        port = other.getsockname()[1]
        assert port_fault(host, port) == "is in use by another program"
    assert port_fault(host, port) == ""


def test_an_unusable_port_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    assert "the host nowhere.invalid is unknown" in port_fault("nowhere.invalid", 8000)
    assert "cannot be used" in port_fault("192.0.2.1", 8000)
    monkeypatch.setattr(socket.socket, "bind", refuse)
    assert port_fault("127.0.0.1", 80) == "needs permissions that this user does not have; ports from 1024 on do not"


def test_reachable_addresses_of_a_server() -> None:
    assert web_root(reachable_host("::1"), 8000) == "http://[::1]:8000"
    assert web_root(reachable_host("0.0.0.0"), 8000) == "http://127.0.0.1:8000"


def test_waiting_for_a_unix_socket(tmp_path: Path) -> None:
    with running([sys.executable, "-c", LISTEN_AT_A_PATH, str(tmp_path / "s")]) as process:
        wait_for_socket(process, tmp_path / "s", seconds=WATCHDOG_S)
        assert process.wait(WATCHDOG_S) == 0


def test_a_process_without_a_socket_is_reported(tmp_path: Path) -> None:
    with (
        running([sys.executable, "-c", "raise SystemExit(3)"]) as process,
        pytest.raises(ProcessError, match="ended with status 3 before it listened"),
    ):
        wait_for_socket(process, tmp_path / "s", seconds=WATCHDOG_S)
    with (
        running([sys.executable, "-c", "input()"]) as process,
        pytest.raises(ProcessError, match=r"does not listen at \S+ after 0 s"),
    ):
        wait_for_socket(process, tmp_path / "s", seconds=0.0)
