"""HTTP/1.1 as uvicorn speaks it, with an answer in one write as soon as it is whole: one system call, one packet."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class OneWriteProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which writes the head of an answer and then its body, over a transport that joins the two."""

    transport: JoinedWrites  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start on a connection."""
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]

    def on_response_complete(self) -> None:
        """Send an answer that is whole."""
        self.transport.flush()
        super().on_response_complete()


class JoinedWrites:
    """A transport that hands on what is written until `flush`, or in one turn of the loop, as one piece."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Join the writes to `transport`, which `loop` runs."""
        self._transport, self._loop = transport, loop
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Write with what else is written before the next `flush`."""
        if not self._pieces:
            self._loop.call_soon(self.flush)
        self._pieces.append(data)

    def close(self) -> None:
        """Close once all is written."""
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Write now what is kept."""
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
