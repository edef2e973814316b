"""HTTP GET with limits on time, size, rate, attempts and redirects, and with clear errors.

Every network source uses this module, and every source raises its errors. Messages and logs contain no query,
credentials or headers, because these may contain keys.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

if TYPE_CHECKING:
    import hishel
    import httpx

    from btc_assets.proxies import ProxiedTransport

_MEBIBYTE = 1024 * 1024
_RATE_LIMITED = (418, 429)
_REDIRECTS = (301, 302, 303, 307, 308)
_ATTEMPT_TIMEOUTS = 5
"""Maximum duration of one attempt, in timeouts; httpx limits only the time of each read."""
_CACHE_TTL_S = 3600.0
"""Seconds after which a cached response is requested in full again."""
_CACHE_BYTES = 256 * _MEBIBYTE
_GZIP = 31
_CHUNK_BYTES = 64 * 1024
"""Bytes decompressed at a time."""
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LOCATION = "btc_assets_location"
_FORWARDED_HEADERS = ("Cache-Control",)
"""Request headers that are sent to another host after a redirect."""


class SourceError(RuntimeError):
    """A source returned nothing that can be stored; stored data is unchanged."""


class SourceUnavailableError(SourceError):
    """The service is down, too slow or rate-limited; retry later.

    Attributes:
        retry_after_s: seconds after which the service accepts a retry; None if it does not state them.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SourceRefusedError(SourceError):
    """The service refuses the request; a retry does not help, the configuration must change."""


class SourceMalformedError(SourceError):
    """A response or a file does not have the expected format."""


class _RetryError(SourceUnavailableError):
    """Another attempt may succeed."""


@dataclass(frozen=True)
class Limits:
    """Limits of one service's transport.

    Attributes:
        timeout_s: timeout of a connection or read, seconds.
        attempts: attempts per request, including the first.
        max_wait_s: longest wait between two attempts, seconds; a longer Retry-After ends the request.
        requests_per_second: maximum request rate per host.
        body_bytes: maximum decompressed size of a response.
        redirects: maximum number of redirects; 0 refuses them.
        total_s: seconds for a request with all its attempts; then a running attempt is stopped and no new one starts.
    """

    timeout_s: float = 20.0
    attempts: int = 4
    max_wait_s: float = 60.0
    requests_per_second: float = 5.0
    body_bytes: int = 64 * _MEBIBYTE
    redirects: int = 0
    total_s: float = float("inf")


@dataclass(frozen=True)
class _Request:
    """One request; `purpose` is that of `content_if_changed`, None without caching."""

    path: str
    params: Mapping[str, str | int]
    headers: Mapping[str, str]
    purpose: str | None = None


@dataclass(frozen=True)
class _Response:
    """The response to a request.

    Attributes:
        body: decompressed body; None for status 404.
        unchanged: whether the body equals the cached one; it is not read again.
        location: target of a redirect, as in the header; empty for any other response.
    """

    body: bytes | None
    unchanged: bool = False
    location: str = ""


class Transport:
    """GET requests to one service, one at a time.

    Args:
        base_url: base URL of the service; credentials in it are sent in a header.
        limits: limits of time, size, rate, attempts and redirects.
        cache: SQLite file for responses of `content_if_changed`; processes may share it.
        remedy: what to do if the service refuses the request, the end of a sentence.
    """

    def __init__(
        self,
        base_url: str,
        limits: Limits,
        *,
        cache: Path | None = None,
        remedy: str = "check the base URL, or choose another source",
    ) -> None:
        # Credentials of a gateway are sent in a header and never appear in messages or logs.
        parts = urlsplit(base_url.rstrip("/"))
        self._auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        self._base = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self._limits = limits
        self._cache = cache
        self._remedy = remedy
        self._deadline = _Deadline()

    # --- requests ----------------------------------------------------------------------------------
    def json(
        self, path: str, params: Mapping[str, str | int] | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """GET a JSON document.

        Args:
            path: path relative to the base URL.
            params: query parameters; they do not appear in messages.
            headers: additional headers; they do not appear in messages and are never sent to another host.

        Raises:
            SourceUnavailableError: timeout, connection error, 418, 429 or 5xx on every attempt.
            SourceRefusedError: any other status except 200.
            SourceMalformedError: the body is not JSON or is too large.
        """
        body = self.content(path, params, headers)
        try:
            return json.loads(body, parse_constant=_reject_constant)
        except (ValueError, RecursionError) as error:
            start = body[:60].decode("utf-8", "replace").strip()
            kind = "an HTML page" if start.lower().startswith(("<!doctype", "<html")) else "truncated or not JSON"
            raise SourceMalformedError(
                f"{_public_url(self._base + path)}: the response is {kind}, it starts with {start!r}; "
                "check the base URL"
            ) from error

    def content(
        self, path: str, params: Mapping[str, str | int] | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """GET a body; arguments and errors are those of `json`."""
        body = self.content_if_found(path, params, headers)
        if body is None:
            raise self._not_found(path)
        return body

    def content_if_found(
        self, path: str, params: Mapping[str, str | int] | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes | None:
        """GET a body; None for status 404. Arguments and other errors are those of `json`."""
        return self._request(_Request(path, params or {}, headers or {})).body

    def content_if_changed(self, path: str, purpose: str) -> bytes | None:
        """GET a body; None if it is unchanged since the last request (304).

        A body is cached for an hour and then requested in full, so that a run that failed after fetching it loses
        nothing permanently. Without a cache it is always requested in full.

        Args:
            path: path relative to the base URL.
            purpose: part of the cache key; requests with another purpose are independent.

        Raises:
            SourceError: as `json` does.
        """
        response = self._request(_Request(path, {}, {"Cache-Control": "no-cache"}, purpose))
        if response.unchanged:
            return None
        if response.body is None:
            raise self._not_found(path)
        return response.body

    def forget(self, path: str, purpose: str) -> None:
        """Remove a cached response that could not be used, so that the next request is in full."""
        storage = self._storage
        if storage is not None:
            for entry in storage.get_entries(self._cache_key(path, purpose)):
                storage.remove_entry(entry.id)

    # --- implementation ----------------------------------------------------------------------------
    @cached_property
    def _client(self) -> httpx.Client:
        return self._new_client(self._new_transport())

    @cached_property
    def _caching_client(self) -> httpx.Client:
        if self._storage is None:
            return self._client
        from hishel.httpx import CacheTransport

        # RFC 9111 rules for a private cache, which also stores responses marked private.
        return self._new_client(CacheTransport(self._new_transport(), storage=self._storage, rfc={"shared": False}))

    def _new_transport(self) -> ProxiedTransport:
        import httpx

        from btc_assets.proxies import ProxiedTransport

        # With redirects to several hosts, one connection per request: the deadline must know the active connection.
        return ProxiedTransport(limits=httpx.Limits(max_keepalive_connections=0 if self._limits.redirects else 1))

    def _new_client(self, transport: httpx.BaseTransport) -> httpx.Client:
        import httpx

        logging.getLogger("httpx").addFilter(_remove_query)
        logging.getLogger("httpcore").setLevel(logging.INFO)  # DEBUG would log every header
        return httpx.Client(
            transport=transport,
            timeout=self._limits.timeout_s,
            # httpx would decompress a redirect's body without limit and send our headers with keys to the next host.
            follow_redirects=False,
            event_hooks={"response": [_move_location]},
            headers={"Accept": "*/*", "Accept-Encoding": "gzip", "User-Agent": "btc_assets"},
        )

    @cached_property
    def _storage(self) -> hishel.SqliteStorage | None:
        if self._cache is None:
            return None
        import hishel

        return hishel.SqliteStorage(database_path=self._cache, default_ttl=_CACHE_TTL_S, max_size=_CACHE_BYTES)

    def _cache_key(self, path: str, purpose: str) -> str:
        return f"{purpose} {self._base}{path}"

    def _request(self, request: _Request) -> _Response:
        import stamina

        end = time.monotonic() + self._limits.total_s
        attempts = 0
        try:
            for attempt in stamina.retry_context(
                on=lambda error: _retry_delay(error, end),
                attempts=self._limits.attempts,
                timeout=None,
                wait_initial=min(0.5, self._limits.max_wait_s),
                wait_max=self._limits.max_wait_s,
                wait_jitter=min(0.5, self._limits.max_wait_s),
            ):
                attempts = attempt.num
                with attempt:
                    return self._attempt(request, end)
        except _RetryError as fault:
            count = f"{attempts} {'attempt' if attempts == 1 else 'attempts'}"
            raise SourceUnavailableError(f"{fault}; gave up after {count}, try later", fault.retry_after_s) from fault
        raise AssertionError("unreachable")

    def _attempt(self, request: _Request, end: float) -> _Response:
        """Make one attempt, following redirects."""
        end = min(end, time.monotonic() + _ATTEMPT_TIMEOUTS * self._limits.timeout_s)
        url = self._base + request.path
        visited = [url]
        while True:
            _wait_for_rate_limit(url, self._limits.requests_per_second)
            response = self._send(url, request, end)
            if not response.location:
                return response
            url = self._redirect_target(response.location, visited)
            request = replace(request, params={})
            visited.append(url)

    def _send(self, url: str, request: _Request, end: float) -> _Response:
        import httpx

        from btc_assets.proxies import RouteError

        address = _public_url(url)
        is_same_origin = _origin(url) == _origin(self._base)
        client = self._client if request.purpose is None else self._caching_client
        key = self._cache_key(request.path, request.purpose or "")
        headers = {
            name: value for name, value in request.headers.items() if is_same_origin or name in _FORWARDED_HEADERS
        }
        try:
            with (
                self._deadline.enforce(end),
                client.stream(
                    "GET",
                    url,
                    params=dict(request.params) or None,
                    headers=headers,
                    auth=self._auth if is_same_origin else None,
                    extensions={"trace": self._deadline.trace, "caching": {"key": key}},
                ) as response,
            ):
                return self._read(address, response)
        except httpx.TimeoutException as error:
            raise _RetryError(
                f"{address}: no response within {self._limits.timeout_s:g} s (BTC_HTTP_TIMEOUT_S)"
            ) from error
        except RouteError as error:
            raise SourceRefusedError(f"{address} was not requested: {error}") from error
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as error:
            # The original message may contain a key, so it is neither shown nor chained.
            raise SourceRefusedError(
                f"{address}: this is not a valid HTTP request ({type(error).__name__}); {self._remedy}"
            ) from None
        except (httpx.TransportError, zlib.error) as error:
            if self._deadline.expired:
                raise _too_slow(address) from error
            raise _RetryError(f"{address}: the connection failed or was cut ({error})") from error

    def _read(self, address: str, response: httpx.Response) -> _Response:
        status = response.status_code
        if status == 404:
            return _Response(None)
        if status in _REDIRECTS and self._limits.redirects and response.extensions.get(_LOCATION):
            return _Response(None, location=response.extensions[_LOCATION])
        if status != 200:
            self._raise_for(address, status, response.headers.get("Retry-After"))
        caching = response.extensions.get("caching")
        if caching is not None and caching["from_cache"]:
            return _Response(None, unchanged=True)
        body = bytearray()
        for chunk in _decompress(address, response):
            body += chunk
            if self._deadline.expired:
                raise _too_slow(address)
            if len(body) > self._limits.body_bytes:
                raise SourceMalformedError(f"{address}: the response is larger than {self._limits.body_bytes} bytes")
        if self._deadline.expired:  # without a length, a body looks complete when its connection is shut down
            raise _too_slow(address)
        return _Response(bytes(body))

    def _redirect_target(self, location: str, visited: list[str]) -> str:
        """Return the target of a redirect.

        Raises:
            SourceRefusedError: the target is invalid, a loop, too many redirects away, or http after https.
        """
        current = visited[-1]
        try:
            target = urlsplit(urljoin(current, location.strip()))
            is_valid = target.scheme in _DEFAULT_PORTS and bool(target.hostname) and target.port != 0
        except ValueError:
            is_valid = False
        if not is_valid:
            raise SourceRefusedError(
                f"{_public_url(current)}: redirects to an address that is not http or https; {self._remedy}"
            )
        if target.scheme != "https" and current.startswith("https:"):
            raise SourceRefusedError(
                f"{_public_url(current)}: redirects from https to http, which is not authenticated; {self._remedy}"
            )
        url = urlunsplit(target._replace(netloc=target.netloc.rpartition("@")[2], fragment=""))
        if url in visited:
            loop = " → ".join(_public_url(step) for step in [*visited[visited.index(url) :], url])
            raise SourceRefusedError(f"{_public_url(visited[0])}: redirects in a loop, {loop}; {self._remedy}")
        if len(visited) > self._limits.redirects:
            raise SourceRefusedError(
                f"{_public_url(visited[0])}: redirects more than {self._limits.redirects} times, "
                f"the last to {_public_url(url)}; {self._remedy}"
            )
        return url

    def _raise_for(self, address: str, status: int, retry_after: str | None) -> None:
        if status in _RATE_LIMITED or status >= 500:
            wait = _parse_retry_after(retry_after)
            reason = "limits the request rate" if status in _RATE_LIMITED else "has an internal error"
            if wait is not None and wait > self._limits.max_wait_s:
                raise SourceUnavailableError(
                    f"{address}: HTTP {status}, the service {reason} and accepts a retry after {wait:.0f} s, "
                    f"longer than BTC_HTTP_MAX_WAIT_S ({self._limits.max_wait_s:g} s); try later",
                    wait,
                )
            raise _RetryError(f"{address}: HTTP {status}, the service {reason}", wait)
        if status == 451:
            raise SourceRefusedError(f"{address}: HTTP 451, the service does not serve this location; {self._remedy}")
        raise SourceRefusedError(f"{address}: HTTP {status}, the service refuses the request; {self._remedy}")

    def _not_found(self, path: str) -> SourceRefusedError:
        return SourceRefusedError(f"{_public_url(self._base + path)}: HTTP 404, not found; {self._remedy}")


class _Deadline:
    """Stops a request that is not complete in time.

    A peer that sends single bytes never triggers a read timeout. Shutting down the socket ends a blocked read.
    """

    def __init__(self) -> None:
        self.expired = False
        self._stream: Any = None

    @contextmanager
    def enforce(self, end: float) -> Iterator[None]:
        """Shut down the connection if the block is still running at `end` (monotonic clock)."""
        self.expired = False
        timer = threading.Timer(max(0.0, end - time.monotonic()), self._shut_down)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Record the active connection; httpcore calls this on every event."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._stream = info["return_value"]
            if self.expired:
                self._shut_down()

    def _shut_down(self) -> None:
        self.expired = True
        connection = self._stream.get_extra_info("socket") if self._stream is not None else None
        if connection is not None:
            with suppress(OSError):
                # The plain socket's method: that of an SSL socket would remove its state under the reading thread.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


_NEXT_REQUEST_AT: dict[tuple[str, str, int], float] = {}
"""Earliest time of the next request to each host (monotonic clock), for all transports of this process."""
_NEXT_REQUEST_LOCK = threading.Lock()


def _wait_for_rate_limit(url: str, requests_per_second: float) -> None:
    """Wait until the rate limit allows the next request to the host of an address."""
    host = _origin(url)
    with _NEXT_REQUEST_LOCK:
        now = time.monotonic()
        at = max(now, _NEXT_REQUEST_AT.get(host, now))
        _NEXT_REQUEST_AT[host] = at + 1 / requests_per_second
    if at > now:
        time.sleep(at - now)


def _decompress(address: str, response: httpx.Response) -> Iterator[bytes]:
    """Yield the decompressed body in small chunks, so that the size limit stops a decompression bomb early."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("", "identity"):
        yield from response.iter_raw()
        return
    if encoding not in ("gzip", "x-gzip"):
        raise SourceMalformedError(f"{address}: expected a gzip-encoded response, got encoding {encoding[:40]!r}")
    decompressor = zlib.decompressobj(wbits=_GZIP)
    has_started = False
    for chunk in response.iter_raw():
        rest = chunk
        while rest:
            if decompressor.eof:
                if not rest.startswith(b"\x1f"):
                    return  # padding after the last member
                decompressor = zlib.decompressobj(wbits=_GZIP)
            has_started = True
            yield decompressor.decompress(rest, _CHUNK_BYTES)
            rest = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
    if has_started and not decompressor.eof:
        yield decompressor.flush()
        if not decompressor.eof:
            raise zlib.error("the compressed body is truncated")


def _too_slow(address: str) -> _RetryError:
    return _RetryError(
        f"{address}: the response is too slow, not complete within {_ATTEMPT_TIMEOUTS} x BTC_HTTP_TIMEOUT_S"
    )


def _public_url(url: str) -> str:
    """Return an address without credentials, query and fragment, for messages."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)


def _move_location(response: httpx.Response) -> None:
    """Move the Location header to the extensions: httpx fails on an invalid one even without following redirects."""
    location = response.headers.pop("Location", "")
    if location:
        response.extensions[_LOCATION] = location


def _remove_query(record: logging.LogRecord) -> bool:
    """Remove the query from addresses that httpx logs."""
    import httpx

    if isinstance(record.args, tuple):
        record.args = tuple(_public_url(str(value)) if isinstance(value, httpx.URL) else value for value in record.args)
    return True


def _retry_delay(error: Exception, end: float) -> bool | float:
    """Return whether to retry, or the seconds to wait first; no attempt starts after `end` (monotonic clock)."""
    if not isinstance(error, _RetryError) or time.monotonic() + (error.retry_after_s or 0.0) >= end:
        return False
    return True if error.retry_after_s is None else error.retry_after_s


def _parse_retry_after(retry_after: str | None) -> float | None:
    """Parse a Retry-After header, seconds or a date; return seconds, or None if it is missing or invalid."""
    if retry_after is None:
        return None
    try:
        wait = float(retry_after)
    except ValueError:
        try:
            wait = (parsedate_to_datetime(retry_after) - datetime.now(tz=UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, wait) if wait < float("inf") else None


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
