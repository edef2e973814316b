"""Long-running commands as context managers: started, waited for, and stopped together with their children."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

GRACE_S = 6.0
"""Seconds a process has to end after it was interrupted, and again after it was told to terminate."""
LOOPBACK = "127.0.0.1"
_LISTENING = "0A"
"""State of a socket in /proc/net/tcp."""


class ProcessError(RuntimeError):
    """A process ended, or did not answer, when it should have run."""


@contextlib.contextmanager
def running(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, log: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own until the block ends; then stop it and everything it started.

    Args:
        command: program and arguments.
        environment: variables on top of this process's own.
        log: file descriptor for its output; None shares this process's.
    """
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT if log is not None else None,
        start_new_session=True,  # Ctrl-C in the terminal reaches us alone, and we stop it in our own time
    )
    try:
        yield process
    finally:
        stop(process)


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, as Ctrl-C would; return at once."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a process; end its whole session when it has gone, or when its patience has run out."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if process.poll() is None:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for_port(
    process: subprocess.Popen[bytes], host: str, port: int, *, seconds: float, unless: threading.Event | None = None
) -> None:
    """Wait until a process, or one it started, listens, or until `unless` is set; another program there does not count.

    Raises:
        ProcessError: it ended, or does not listen in time.
    """
    until = time.monotonic() + seconds
    is_answered = False
    while time.monotonic() < until:
        if unless is not None and unless.is_set():
            return
        if process.poll() is not None:
            raise ProcessError(f"{process.args!r} ended with status {process.returncode} before it listened on {port}")
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            is_answered = True
        if is_answered and _listens(process.pid, port):
            return
        time.sleep(0.1)
    other = "; another program answers there" if is_answered else ""
    raise ProcessError(f"{process.args!r} does not listen on {host}:{port} after {seconds:.0f} s{other}")


def wait_for_socket(
    process: subprocess.Popen[bytes], path: Path, *, seconds: float, unless: threading.Event | None = None
) -> None:
    """Wait until a process answers at a Unix socket, or until `unless` is set.

    Raises:
        ProcessError: it ended, or does not answer in time.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if unless is not None and unless.is_set():
            return
        if process.poll() is not None:
            raise ProcessError(f"{process.args!r} ended with status {process.returncode} before it answered at {path}")
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
            return
        time.sleep(0.1)
    raise ProcessError(f"{process.args!r} does not answer at {path} after {seconds:.0f} s")


def reached_at(host: str) -> str:
    """Return the address at which this machine reaches what listens on a host."""
    return LOOPBACK if host == "0.0.0.0" else host  # noqa: S104 - compared, not bound


def web_root(host: str, port: int) -> str:
    """Return the address of a web server without a path."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def port_fault(host: str, port: int) -> str:
    """Return why nothing of ours can listen on a port, the end of a sentence about it; empty where it can."""
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return f"cannot be listened on: there is no {host} here ({error.strerror})"
    for family, kind, protocol, _, place in dict.fromkeys(places):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(place)
                probe.listen(1)
            except PermissionError:
                return "needs rights that this user does not have; ports from 1024 on do not"
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return "is taken by another program"
                if error.errno == errno.EADDRNOTAVAIL and len(places) > 1:
                    continue  # `localhost` where IPv6 is off
                return f"of {host} cannot be listened on: {error.strerror}"
    return ""


def _listens(session: int, port: int) -> bool:
    """Return whether a process of a session listens on a port; true where the system does not show who does."""
    sockets = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    if not sockets:
        return not Path("/proc/net/tcp").exists()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) != session:
                continue
            for handle in (folder / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(handle.readlink()) in sockets:
                        return True
    return False


def free_port(host: str, wanted: int) -> int:
    """Return `wanted` if nothing listens there, else a port the system gives."""
    for port in (wanted, 0):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                return int(probe.getsockname()[1])
    raise ProcessError(f"no free port on {host}")
