"""Long-running commands as context managers: started, waited for, and stopped together with their children."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

GRACE_S = 6.0
"""Seconds a process has to end after it was interrupted, and again after it was told to terminate."""


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
    """Wait until a process listens, or until `unless` is set.

    Raises:
        ProcessError: it ended, or does not listen in time.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if unless is not None and unless.is_set():
            return
        if process.poll() is not None:
            raise ProcessError(f"{process.args!r} ended with status {process.returncode} before it listened on {port}")
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        time.sleep(0.1)
    raise ProcessError(f"{process.args!r} does not listen on {host}:{port} after {seconds:.0f} s")


def free_port(host: str, wanted: int) -> int:
    """Return `wanted` if nothing listens there, else a port the system gives."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                return int(probe.getsockname()[1])
    raise ProcessError(f"no free port on {host}")
