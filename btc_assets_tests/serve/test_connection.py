"""A response is sent in one write, and no data is lost or sent late."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

from btc_assets_tests.serve.conftest import Server
from serve.connection import JoiningTransport


class Recorder(asyncio.Transport):
    """A transport that records the data written to it."""

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


def test_writes_of_one_loop_iteration_are_joined() -> None:
    async def write_and_record() -> list[bytes]:
        recorder = Recorder()
        joined = JoiningTransport(recorder, asyncio.get_running_loop())
        for head, body in ((b"head ", b"body"), (b"next ", b"answer")):
            joined.write(head)
            joined.write(body)
            await asyncio.sleep(0)
        return recorder.pieces

    assert asyncio.run(write_and_record()) == [b"head body", b"next answer"]


def test_a_flush_sends_buffered_data_immediately() -> None:
    async def write_and_record() -> list[bytes]:
        recorder = Recorder()
        joined = JoiningTransport(recorder, asyncio.get_running_loop())
        joined.write(b"head ")
        joined.write(b"body")
        joined.flush()
        return list(recorder.pieces)

    assert asyncio.run(write_and_record()) == [b"head body"]


def test_data_written_before_a_close_is_sent_and_data_after_it_is_not() -> None:
    async def write_and_record() -> list[bytes]:
        recorder = Recorder()
        joined = JoiningTransport(recorder, asyncio.get_running_loop())
        joined.write(b"before close")
        joined.close()
        joined.write(b"after close")
        await asyncio.sleep(0)
        assert joined.is_closing()
        return recorder.pieces

    assert asyncio.run(write_and_record()) == [b"before close"]


def test_two_requests_in_one_packet_are_answered_in_order(server: Server) -> None:
    request = "GET /{} HTTP/1.1\r\nHost: localhost\r\n{}\r\n"
    with socket.create_connection((urlsplit(server.url).hostname, urlsplit(server.url).port), timeout=20) as connection:
        connection.sendall((request.format("health", "") + request.format("nowhere", "Connection: close\r\n")).encode())
        answers = b"".join(iter(lambda: connection.recv(65_536), b""))
    first, second = answers.split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200")
    assert first.endswith(b'{"status":"ok"}')
    assert second.startswith(b"404")
    assert second.endswith(b"}")
