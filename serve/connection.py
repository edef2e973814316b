"""Uvicorn's HTTP/1.1 protocol, changed to send a complete response in one write: one system call, one packet."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class OneWriteProtocol(HttpToolsProtocol):
    """Uvicorn's protocol writes the head and the body of a response separately; the transport joins them."""

    transport: JoiningTransport  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wrap the transport of a new connection."""
        super().connection_made(JoiningTransport(transport, self.loop))  # type: ignore[arg-type]

    def on_response_complete(self) -> None:
        """Send a complete response."""
        self.transport.flush()
        super().on_response_complete()


class JoiningTransport:
    """A transport that joins all writes until `flush` or the end of the event loop's iteration."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Wrap a transport that runs on `loop`."""
        self._transport, self._loop = transport, loop
        self._buffer: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Buffer data until the next `flush`."""
        if not self._buffer:
            self._loop.call_soon(self.flush)
        self._buffer.append(data)

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Write the buffered data."""
        chunks, self._buffer = self._buffer, []
        if chunks and not self._transport.is_closing():
            self._transport.write(b"".join(chunks))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
