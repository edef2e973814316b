"""Processes that are started, waited for, and gone afterwards with everything they started."""

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
    reached_at,
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


def test_another_program_on_the_port_is_not_taken_for_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            running([sys.executable, "-c", "import time; time.sleep(600)"]) as process,
            pytest.raises(ProcessError, match="another program answers there"),
        ):
            wait_for_port(process, "127.0.0.1", port, seconds=0.5)


def test_what_a_process_started_counts_as_the_process() -> None:
    port = free_port("127.0.0.1", 0)
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {LISTEN!r}, '{port}'])"
    with running([sys.executable, "-c", parent]) as process:
        wait_for_port(process, "127.0.0.1", port, seconds=WATCHDOG_S)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "0.0.0.0"])
def test_a_port_in_use_is_seen_on_every_host(host: str) -> None:
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    place = "127.0.0.1" if host == "localhost" else host
    try:
        other = socket.create_server((place, 0), family=family)
    except OSError:
        pytest.skip(f"{host} cannot be listened on here")
    with other:
        port = other.getsockname()[1]
        assert port_fault(host, port) == "is taken by another program"
    assert port_fault(host, port) == ""


def test_a_port_that_cannot_be_had_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    assert "there is no nowhere.invalid here" in port_fault("nowhere.invalid", 8000)
    assert "cannot be listened on" in port_fault("192.0.2.1", 8000)
    monkeypatch.setattr(socket.socket, "bind", refuse)
    assert port_fault("127.0.0.1", 80) == "needs rights that this user does not have; ports from 1024 on do not"


def test_an_ipv6_server_is_reached_under_its_own_address() -> None:
    assert web_root(reached_at("::1"), 8000) == "http://[::1]:8000"
    assert web_root(reached_at("0.0.0.0"), 8000) == "http://127.0.0.1:8000"


def test_a_socket_that_answers_is_waited_for(tmp_path: Path) -> None:
    with running([sys.executable, "-c", LISTEN_AT_A_PATH, str(tmp_path / "s")]) as process:
        wait_for_socket(process, tmp_path / "s", seconds=WATCHDOG_S)
        assert process.wait(WATCHDOG_S) == 0


def test_a_process_that_ends_or_is_late_before_its_socket_answers_is_a_fault(tmp_path: Path) -> None:
    with (
        running([sys.executable, "-c", "raise SystemExit(3)"]) as process,
        pytest.raises(ProcessError, match="ended with status 3 before it answered"),
    ):
        wait_for_socket(process, tmp_path / "s", seconds=WATCHDOG_S)
    with (
        running([sys.executable, "-c", "input()"]) as process,
        pytest.raises(ProcessError, match=r"does not answer at \S+ after 0 s"),
    ):
        wait_for_socket(process, tmp_path / "s", seconds=0.0)
