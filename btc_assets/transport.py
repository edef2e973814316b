"""One GET over HTTP: bounded in time, size, rate, tries and redirects, and honest about why it failed.

Every source that asks over the network uses it, and every source raises its errors. No message and no log tells the
query of an address, its credentials or a header: keys are there.
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
_BUSY = (418, 429)
_MOVED = (301, 302, 303, 307, 308)
_DRIP = 5
"""Timeouts a whole try may take; httpx bounds each read alone."""
_REMEMBERED_S = 3600.0
"""How long an answer is remembered before it is asked for in full again."""
_CACHE_BYTES = 256 * _MEBIBYTE
_GZIP = 31
_PIECE = 64 * 1024
"""Bytes unpacked at a time."""
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LOCATION = "btc_assets_location"
_FOR_ANYBODY = ("Cache-Control",)
"""Headers of a request that follow a redirect to another host."""


class SourceError(RuntimeError):
    """A source gave nothing that can be stored; what is stored stays as it is."""


class SourceUnavailableError(SourceError):
    """The service is down, too slow or rate-limited; retry later.

    Attributes:
        retry_after_s: seconds after which the service accepts a retry; None where it does not say.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SourceRefusedError(SourceError):
    """The service understood and will not answer; a person must change something."""


class SourceMalformedError(SourceError):
    """An answer or a file holds something else than what the source promises."""


class _RetryError(SourceUnavailableError):
    """Another try may succeed."""


@dataclass(frozen=True)
class Limits:
    """How patient one service's transport is.

    Attributes:
        timeout_s: seconds before one try is given up.
        attempts: tries of one request, the first included.
        max_wait_s: longest wait between two tries in seconds; a service that asks for more ends the request.
        requests_per_second: rate never exceeded, of one host.
        body_bytes: size, unpacked, above which an answer is refused.
        redirects: redirects followed; 0 refuses them all.
        total_s: seconds for one request with all its tries; none is begun, and a running one is ended, after that.
    """

    timeout_s: float = 20.0
    attempts: int = 4
    max_wait_s: float = 60.0
    requests_per_second: float = 5.0
    body_bytes: int = 64 * _MEBIBYTE
    redirects: int = 0
    total_s: float = float("inf")


@dataclass(frozen=True)
class _Question:
    """What is asked; `purpose` is that of `content_if_changed`, None where nothing is to be remembered."""

    path: str
    params: Mapping[str, str | int]
    headers: Mapping[str, str]
    purpose: str | None = None


@dataclass(frozen=True)
class _Answer:
    """What came of a request.

    Attributes:
        body: unpacked; None where the service says 404.
        unchanged: whether the service says that it is the body of the last time, which is not read again.
        moved: where to, as the header says; empty for every answer that is no redirect.
    """

    body: bytes | None
    unchanged: bool = False
    moved: str = ""


class Transport:
    """GETs of one service, one at a time.

    Args:
        base_url: of the service; a name and password in it go into a header.
        limits: how patient it is.
        cache: SQLite file that `content_if_changed` remembers answers in; processes may share it.
        remedy: what a person may do where the service refuses, the end of a sentence.
    """

    def __init__(
        self,
        base_url: str,
        limits: Limits,
        *,
        cache: Path | None = None,
        remedy: str = "check the base URL, or choose another source",
    ) -> None:
        # Credentials of a proxy or a gateway go into a header, never into a message or a log.
        parts = urlsplit(base_url.rstrip("/"))
        self._auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        self._base = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self._limits = limits
        self._cache = cache
        self._remedy = remedy
        self._watch = _Watch()

    # --- what is asked -----------------------------------------------------------------------------
    def json(
        self, path: str, params: Mapping[str, str | int] | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """GET a JSON document.

        Args:
            path: after the base URL.
            params: of the query; they are in no message.
            headers: beside our own; they are in no message, and never go to another host.

        Raises:
            SourceUnavailableError: timeout, connection fault, 418, 429 or 5xx on every try.
            SourceRefusedError: any other status that is not 200.
            SourceMalformedError: the body is not JSON, or too large.
        """
        body = self.content(path, params, headers)
        try:
            return json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            start = body[:60].decode("utf-8", "replace").strip()
            kind = "an HTML page" if start.lower().startswith(("<!doctype", "<html")) else "truncated or not JSON"
            raise SourceMalformedError(
                f"{_shown(self._base + path)}: the answer is {kind}, it starts with {start!r}; is the base URL right?"
            ) from error

    def content(
        self, path: str, params: Mapping[str, str | int] | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """GET a body; takes and raises what `json` does."""
        found = self.content_if_found(path, params, headers)
        if found is None:
            raise self._not_found(path)
        return found

    def content_if_found(
        self, path: str, params: Mapping[str, str | int] | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes | None:
        """GET a body, or None where the service says 404; takes and raises what `json` does otherwise."""
        return self._ask(_Question(path, params or {}, headers or {})).body

    def content_if_changed(self, path: str, purpose: str) -> bytes | None:
        """GET a body, or None where the service says (304) that it is the one of the last time.

        A body is remembered for an hour: after that it is asked for in full, so that what a run lost after it had
        fetched it comes again. Without a cache it is always asked for in full.

        Args:
            path: after the base URL.
            purpose: what the body is wanted for; what was given for another purpose does not count.

        Raises:
            SourceError: as `json` does.
        """
        answer = self._ask(_Question(path, {}, {"Cache-Control": "no-cache"}, purpose))
        if answer.unchanged:
            return None
        if answer.body is None:
            raise self._not_found(path)
        return answer.body

    def forget(self, path: str, purpose: str) -> None:
        """Forget what `content_if_changed` remembers: it was of no use, and is to be asked for in full."""
        storage = self._storage
        if storage is not None:
            for entry in storage.get_entries(self._remembered_as(path, purpose)):
                storage.remove_entry(entry.id)

    # --- how it is asked ---------------------------------------------------------------------------
    @cached_property
    def _client(self) -> httpx.Client:
        return self._client_over(self._routed())

    @cached_property
    def _remembering_client(self) -> httpx.Client:
        if self._storage is None:
            return self._client
        from hishel.httpx import CacheTransport

        # The rules of RFC 9111, for a cache that is ours alone: answers marked private are remembered as well.
        return self._client_over(CacheTransport(self._routed(), storage=self._storage, rfc={"shared": False}))

    def _routed(self) -> ProxiedTransport:
        import httpx

        from btc_assets.proxies import ProxiedTransport

        # Where several hosts are asked, a connection for each request: the watch must know which one it waits for.
        return ProxiedTransport(limits=httpx.Limits(max_keepalive_connections=0 if self._limits.redirects else 1))

    def _client_over(self, transport: httpx.BaseTransport) -> httpx.Client:
        import httpx

        logging.getLogger("httpx").addFilter(_log_no_query)
        logging.getLogger("httpcore").setLevel(logging.INFO)  # below that it tells every header
        return httpx.Client(
            transport=transport,
            timeout=self._limits.timeout_s,
            # httpx would unpack a redirect's body without limit and send our own headers, keys too, to the next host.
            follow_redirects=False,
            event_hooks={"response": [_take_location]},
            headers={"Accept": "*/*", "Accept-Encoding": "gzip", "User-Agent": "btc_assets"},
        )

    @cached_property
    def _storage(self) -> hishel.SqliteStorage | None:
        if self._cache is None:
            return None
        import hishel

        return hishel.SqliteStorage(database_path=self._cache, default_ttl=_REMEMBERED_S, max_size=_CACHE_BYTES)

    def _remembered_as(self, path: str, purpose: str) -> str:
        return f"{purpose} {self._base}{path}"

    def _ask(self, question: _Question) -> _Answer:
        import stamina

        end = time.monotonic() + self._limits.total_s
        tries = 0
        try:
            for attempt in stamina.retry_context(
                on=lambda error: _wait(error, end),
                attempts=self._limits.attempts,
                timeout=None,
                wait_initial=min(0.5, self._limits.max_wait_s),
                wait_max=self._limits.max_wait_s,
                wait_jitter=min(0.5, self._limits.max_wait_s),
            ):
                tries = attempt.num
                with attempt:
                    return self._once(question, end)
        except _RetryError as fault:
            given_up = f"given up after {tries} {'try' if tries == 1 else 'tries'}"
            raise SourceUnavailableError(f"{fault}; {given_up}, try later", fault.retry_after_s) from fault
        raise AssertionError("unreachable")

    def _once(self, question: _Question, end: float) -> _Answer:
        """Ask once, wherever the redirects lead."""
        end = min(end, time.monotonic() + _DRIP * self._limits.timeout_s)
        url = self._base + question.path
        visited = [url]
        while True:
            _pace(url, self._limits.requests_per_second)
            answer = self._hop(url, question, end)
            if not answer.moved:
                return answer
            url = self._moved_to(answer.moved, visited)
            question = replace(question, params={})
            visited.append(url)

    def _hop(self, url: str, question: _Question, end: float) -> _Answer:
        import httpx

        from btc_assets.proxies import RouteError

        shown = _shown(url)
        ours = _origin(url) == _origin(self._base)
        client = self._client if question.purpose is None else self._remembering_client
        key = self._remembered_as(question.path, question.purpose or "")
        headers = {name: value for name, value in question.headers.items() if ours or name in _FOR_ANYBODY}
        try:
            with (
                self._watch.until(end),
                client.stream(
                    "GET",
                    url,
                    params=dict(question.params) or None,
                    headers=headers,
                    auth=self._auth if ours else None,
                    extensions={"trace": self._watch.trace, "caching": {"key": key}},
                ) as answer,
            ):
                return self._read(shown, answer)
        except httpx.TimeoutException as error:
            raise _RetryError(f"{shown}: no answer within {self._limits.timeout_s:g} s (BTC_HTTP_TIMEOUT_S)") from error
        except RouteError as error:
            raise SourceRefusedError(f"{shown} was not requested: {error}") from error
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as error:
            # What exactly is wrong may hold a key; it is neither told nor chained.
            raise SourceRefusedError(
                f"{shown}: this cannot be asked over HTTP ({type(error).__name__}); {self._remedy}"
            ) from None
        except (httpx.TransportError, zlib.error) as error:
            if self._watch.over:
                raise _drips(shown) from error
            raise _RetryError(f"{shown}: the connection failed or was cut ({error})") from error

    def _read(self, shown: str, answer: httpx.Response) -> _Answer:
        status = answer.status_code
        if status == 404:
            return _Answer(None)
        if status in _MOVED and self._limits.redirects and answer.extensions.get(_LOCATION):
            return _Answer(None, moved=answer.extensions[_LOCATION])
        if status != 200:
            self._raise_for(shown, status, answer.headers.get("Retry-After"))
        remembered = answer.extensions.get("caching")
        if remembered is not None and remembered["from_cache"]:
            return _Answer(None, unchanged=True)
        body = bytearray()
        for piece in _unpacked(shown, answer):
            body += piece
            if self._watch.over:
                raise _drips(shown)
            if len(body) > self._limits.body_bytes:
                raise SourceMalformedError(f"{shown}: the answer is larger than {self._limits.body_bytes} bytes")
        if self._watch.over:  # a body that ends where the connection does looks whole when it is shut
            raise _drips(shown)
        return _Answer(bytes(body))

    def _moved_to(self, location: str, visited: list[str]) -> str:
        """Return the address that a redirect leads to.

        Raises:
            SourceRefusedError: it leads nowhere, in a circle, too far, or from https to http.
        """
        here = visited[-1]
        try:
            target = urlsplit(urljoin(here, location.strip()))
            whole = target.scheme in _DEFAULT_PORTS and bool(target.hostname) and target.port != 0
        except ValueError:
            whole = False
        if not whole:
            raise SourceRefusedError(f"{_shown(here)}: redirects to what is no http or https address; {self._remedy}")
        if target.scheme != "https" and here.startswith("https:"):
            raise SourceRefusedError(
                f"{_shown(here)}: redirects from https to http, where anybody between could answer; {self._remedy}"
            )
        url = urlunsplit(target._replace(netloc=target.netloc.rpartition("@")[2], fragment=""))
        if url in visited:
            circle = " → ".join(_shown(place) for place in [*visited[visited.index(url) :], url])
            raise SourceRefusedError(f"{_shown(visited[0])}: redirects in a circle, {circle}; {self._remedy}")
        if len(visited) > self._limits.redirects:
            raise SourceRefusedError(
                f"{_shown(visited[0])}: redirects more than {self._limits.redirects} times, at last to {_shown(url)}; "
                f"{self._remedy}"
            )
        return url

    def _raise_for(self, shown: str, status: int, retry_after: str | None) -> None:
        if status in _BUSY or status >= 500:
            wait = _seconds(retry_after)
            why = "asks us to slow down" if status in _BUSY else "has a fault of its own"
            if wait is not None and wait > self._limits.max_wait_s:
                raise SourceUnavailableError(
                    f"{shown}: HTTP {status}, the service {why} and to come back in {wait:.0f} s, longer than "
                    f"BTC_HTTP_MAX_WAIT_S ({self._limits.max_wait_s:g} s); try later",
                    wait,
                )
            raise _RetryError(f"{shown}: HTTP {status}, the service {why}", wait)
        if status == 451:
            raise SourceRefusedError(f"{shown}: HTTP 451, the service does not serve this location; {self._remedy}")
        raise SourceRefusedError(f"{shown}: HTTP {status}, the service refuses the request; {self._remedy}")

    def _not_found(self, path: str) -> SourceRefusedError:
        return SourceRefusedError(f"{_shown(self._base + path)}: HTTP 404, there is no such thing; {self._remedy}")


class _Watch:
    """Ends a request that is not done in time, wherever it hangs.

    A peer that sends a byte now and then lets no read time out. A socket that is shut wakes whoever reads it.
    """

    def __init__(self) -> None:
        self.over = False
        self._stream: Any = None

    @contextmanager
    def until(self, end: float) -> Iterator[None]:
        """Shut the connection when `end`, of the monotonic clock, comes before the block is left."""
        self.over = False
        timer = threading.Timer(max(0.0, end - time.monotonic()), self._shut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Notice the connection that is being used; the one before it is no longer."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._stream = info["return_value"]
            if self.over:
                self._shut()

    def _shut(self) -> None:
        self.over = True
        connection = self._stream.get_extra_info("socket") if self._stream is not None else None
        if connection is not None:
            with suppress(OSError):
                # Of the plain socket: an SSL socket's own would take its state away under the thread that reads.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


_NEXT: dict[tuple[str, str, int], float] = {}
"""When each host may be asked again, of the monotonic clock; of all transports of this process."""
_NEXT_LOCK = threading.Lock()


def _pace(url: str, requests_per_second: float) -> None:
    """Wait until the host of an address may be asked again."""
    host = _origin(url)
    with _NEXT_LOCK:
        now = time.monotonic()
        at = max(now, _NEXT.get(host, now))
        _NEXT[host] = at + 1 / requests_per_second
    if at > now:
        time.sleep(at - now)


def _unpacked(shown: str, answer: httpx.Response) -> Iterator[bytes]:
    """Read a body, unpacking it in small pieces: a bomb is noticed before it has gone off."""
    packed_as = answer.headers.get("Content-Encoding", "").strip().lower()
    if packed_as in ("", "identity"):
        yield from answer.iter_raw()
        return
    if packed_as not in ("gzip", "x-gzip"):
        raise SourceMalformedError(f"{shown}: the answer is packed as {packed_as[:40]!r}; only gzip was asked for")
    unpacker = zlib.decompressobj(wbits=_GZIP)
    begun = False
    for chunk in answer.iter_raw():
        rest = chunk
        while rest:
            if unpacker.eof:
                if not rest.startswith(b"\x1f"):
                    return  # padding behind the last member
                unpacker = zlib.decompressobj(wbits=_GZIP)
            begun = True
            yield unpacker.decompress(rest, _PIECE)
            rest = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
    if begun and not unpacker.eof:
        yield unpacker.flush()
        if not unpacker.eof:
            raise zlib.error("the packed body ends in the middle")


def _drips(shown: str) -> _RetryError:
    return _RetryError(f"{shown}: the answer drips in, not done in time ({_DRIP} x BTC_HTTP_TIMEOUT_S at most)")


def _shown(url: str) -> str:
    """Return an address as a message may show it: without credentials, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)


def _take_location(answer: httpx.Response) -> None:
    """Take a redirect's address out of httpx's sight, which fails on one it cannot read even if it follows none."""
    location = answer.headers.pop("Location", "")
    if location:
        answer.extensions[_LOCATION] = location


def _log_no_query(record: logging.LogRecord) -> bool:
    """Take the query out of the addresses that httpx logs."""
    import httpx

    if isinstance(record.args, tuple):
        record.args = tuple(_shown(str(value)) if isinstance(value, httpx.URL) else value for value in record.args)
    return True


def _wait(error: Exception, end: float) -> bool | float:
    """Say whether, and how long from now, another try is made; none begins after `end`, of the monotonic clock."""
    if not isinstance(error, _RetryError) or time.monotonic() + (error.retry_after_s or 0.0) >= end:
        return False
    return True if error.retry_after_s is None else error.retry_after_s


def _seconds(retry_after: str | None) -> float | None:
    """Read a Retry-After header, seconds or a date; None where there is none to honour."""
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


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
