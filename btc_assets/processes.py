"""Start long-running commands, wait for them, and stop them together with their children."""

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
"""Seconds that a process has to end after SIGINT, and again after SIGTERM."""
LOOPBACK = "127.0.0.1"
_LISTENING = "0A"
"""State of a socket in /proc/net/tcp."""


class ProcessError(RuntimeError):
    """A process ended unexpectedly or did not respond."""


@contextlib.contextmanager
def running(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, log: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in its own session until the block ends; then stop it and all its children.

    Args:
        command: program and arguments.
        environment: variables in addition to those of this process.
        log: file descriptor for its output; None uses the output of this process.
    """
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT if log is not None else None,
        start_new_session=True,  # Ctrl-C in the terminal reaches only this process, which then stops the command
    )
    try:
        yield process
    finally:
        stop(process)


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Send SIGINT to a process, as Ctrl-C does, without waiting."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a process, then terminate it; kill its session when it has ended or after the grace periods."""
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
    """Wait until a process or one of its children listens, or until `unless` is set; other programs do not count.

    Raises:
        ProcessError: the process ended or does not listen in time.
    """
    deadline = time.monotonic() + seconds
    is_answered = False
    while time.monotonic() < deadline:
        if unless is not None and unless.is_set():
            return
        if process.poll() is not None:
            raise ProcessError(f"{process.args!r} ended with status {process.returncode} before it listened on {port}")
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            is_answered = True
        if is_answered and _listens(process.pid, port):
            return
        time.sleep(0.1)
    suffix = "; another program listens there" if is_answered else ""
    raise ProcessError(f"{process.args!r} does not listen on {host}:{port} after {seconds:.0f} s{suffix}")


def wait_for_socket(
    process: subprocess.Popen[bytes], path: Path, *, seconds: float, unless: threading.Event | None = None
) -> None:
    """Wait until a process listens at a Unix socket, or until `unless` is set.

    Raises:
        ProcessError: the process ended or does not listen in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if unless is not None and unless.is_set():
            return
        if process.poll() is not None:
            raise ProcessError(f"{process.args!r} ended with status {process.returncode} before it listened at {path}")
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
            return
        time.sleep(0.1)
    raise ProcessError(f"{process.args!r} does not listen at {path} after {seconds:.0f} s")


def reachable_host(host: str) -> str:
    """Return the address at which this machine reaches a server that listens on a host."""
    return LOOPBACK if host == "0.0.0.0" else host  # noqa: S104 - compared, not bound


def web_root(host: str, port: int) -> str:
    """Return the address of a web server without a path."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def port_fault(host: str, port: int) -> str:
    """Return why a server cannot listen on a port, the end of a sentence about the port; empty if it can."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return f"cannot be used: the host {host} is unknown ({error.strerror})"
    for family, kind, protocol, _, address in dict.fromkeys(addresses):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
                probe.listen(1)
            except PermissionError:
                return "needs permissions that this user does not have; ports from 1024 on do not"
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return "is in use by another program"
                if error.errno == errno.EADDRNOTAVAIL and len(addresses) > 1:
                    continue  # `localhost` without IPv6
                return f"of {host} cannot be used: {error.strerror}"
    return ""


def _listens(session: int, port: int) -> bool:
    """Return whether a process of a session listens on a port; true if the system does not show the owner."""
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


def free_port(host: str, preferred: int) -> int:
    """Return `preferred` if it is free, otherwise a port chosen by the system."""
    for port in (preferred, 0):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                return int(probe.getsockname()[1])
    raise ProcessError(f"no free port on {host}")
