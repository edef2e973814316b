"""A webhook and a mail server on the loopback interface."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, str]], list[int]]]:
    """Run a local webhook: its address, the messages it received, and a queue of statuses to respond with."""
    messages: list[dict[str, str]] = []
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(statuses.pop(0) if statuses else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/services/T0PS3CRET", messages, statuses
    server.shutdown()
    server.server_close()


@pytest.fixture
def mail_server() -> Iterator[tuple[int, list[str], list[str]]]:
    """Run a local SMTP server: its port, the accepted mails, and a queue of replies that refuse recipients."""
    mails: list[str] = []
    refusals: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 local\r\n")
            while line := self.rfile.readline():
                verb = line.decode().split(" ")[0].strip().upper()
                if verb == "DATA":
                    self.wfile.write(b"354 go\r\n")
                    body = b""
                    while not body.endswith(b"\r\n.\r\n"):
                        body += self.rfile.readline()
                    mails.append(body.decode())
                    self.wfile.write(b"250 taken\r\n")
                elif verb == "RCPT" and refusals:
                    self.wfile.write(f"{refusals.pop(0)}\r\n".encode())
                elif verb == "QUIT":
                    self.wfile.write(b"221 bye\r\n")
                    return
                else:
                    self.wfile.write(b"250 ok\r\n")

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], mails, refusals
    server.shutdown()
    server.server_close()
