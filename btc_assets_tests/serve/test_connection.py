"""What one answer writes leaves as one piece, and nothing is lost or written late."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

from btc_assets_tests.serve.conftest import Server
from serve.connection import JoinedWrites


class Recorder(asyncio.Transport):
    """A transport that keeps what it is handed."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.pieces.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def test_writes_of_one_turn_leave_as_one_and_those_of_the_next_as_another() -> None:
    async def answer() -> list[bytes]:
        recorder = Recorder()
        joined = JoinedWrites(recorder, asyncio.get_running_loop())
        for head, body in ((b"head ", b"body"), (b"next ", b"answer")):
            joined.write(head)
            joined.write(body)
            await asyncio.sleep(0)
        return recorder.pieces

    assert asyncio.run(answer()) == [b"head body", b"next answer"]


def test_a_flush_hands_on_what_is_written_without_waiting_for_the_turn_to_end() -> None:
    async def answer() -> list[bytes]:
        recorder = Recorder()
        joined = JoinedWrites(recorder, asyncio.get_running_loop())
        joined.write(b"head ")
        joined.write(b"body")
        joined.flush()
        return list(recorder.pieces)

    assert asyncio.run(answer()) == [b"head body"]


def test_what_is_written_before_a_close_leaves_and_after_it_does_not() -> None:
    async def answer() -> list[bytes]:
        recorder = Recorder()
        joined = JoinedWrites(recorder, asyncio.get_running_loop())
        joined.write(b"last words")
        joined.close()
        joined.write(b"too late")
        await asyncio.sleep(0)
        assert joined.is_closing()
        return recorder.pieces

    assert asyncio.run(answer()) == [b"last words"]


def test_two_requests_in_one_packet_are_both_answered_in_order(server: Server) -> None:
    asked = "GET /{} HTTP/1.1\r\nHost: localhost\r\n{}\r\n"
    with socket.create_connection((urlsplit(server.url).hostname, urlsplit(server.url).port), timeout=20) as connection:
        connection.sendall((asked.format("health", "") + asked.format("nowhere", "Connection: close\r\n")).encode())
        answers = b"".join(iter(lambda: connection.recv(65_536), b""))
    first, second = answers.split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200")
    assert first.endswith(b'{"status":"ok"}')
    assert second.startswith(b"404")
    assert second.endswith(b"}")
