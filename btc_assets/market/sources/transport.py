"""One GET over HTTP: bounded in time, size, rate and tries, and honest about why it failed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from btc_assets.market.sources.protocol import SourceMalformedError, SourceRefusedError, SourceUnavailableError

if TYPE_CHECKING:
    import httpx

_BODY_LIMIT = 64 * 1024 * 1024
_BUSY = (418, 429)
_DRIP = 5
"""Timeouts a whole answer may take; httpx bounds each read alone."""


class _RetryError(SourceUnavailableError):
    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Limits:
    """How patient one venue's transport is.

    Attributes:
        timeout_s: seconds before one try is given up.
        attempts: tries of one request, the first included.
        max_wait_s: longest wait between two tries in seconds; a venue that asks for more ends the request.
        requests_per_second: rate never exceeded.
        body_bytes: size above which an answer is refused.
    """

    timeout_s: float = 20.0
    attempts: int = 4
    max_wait_s: float = 60.0
    requests_per_second: float = 5.0
    body_bytes: int = _BODY_LIMIT


class Transport:
    """GETs of one venue, one at a time."""

    def __init__(self, base_url: str, limits: Limits) -> None:
        # Credentials of a proxy or a gateway go into a header, never into a message or a log.
        parts = urlsplit(base_url.rstrip("/"))
        self._auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        self._base = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self._limits = limits
        self._lock = threading.Lock()
        self._next = 0.0

    @cached_property
    def _client(self) -> httpx.Client:
        import httpx

        return httpx.Client(
            timeout=self._limits.timeout_s,
            follow_redirects=False,
            auth=self._auth,
            headers={"Accept": "*/*", "User-Agent": "btc_assets"},
        )

    def json(self, path: str, params: Mapping[str, str | int]) -> Any:
        """GET a JSON document.

        Raises:
            SourceUnavailableError: timeout, connection fault, 418, 429 or 5xx on every try.
            SourceRefusedError: any other status that is not 200.
            SourceMalformedError: the body is not JSON, or too large.
        """
        body = self.content(path, params)
        try:
            return json.loads(body, parse_constant=_no_constant)
        except ValueError as error:
            start = body[:60].decode("utf-8", "replace").strip()
            kind = "an HTML page" if start.lower().startswith(("<!doctype", "<html")) else "truncated or not JSON"
            raise SourceMalformedError(
                f"{self._base}{path}: the answer is {kind}, it starts with {start!r}; is the base URL right?"
            ) from error

    def content(self, path: str, params: Mapping[str, str | int] | None = None) -> bytes:
        """GET a body; raises as `json` does."""
        found = self.content_if_found(path, params)
        if found is None:
            raise SourceRefusedError(
                f"{self._base}{path}: HTTP 404, there is no such thing; check the base URL and symbol"
            )
        return found

    def content_if_found(self, path: str, params: Mapping[str, str | int] | None = None) -> bytes | None:
        """GET a body, or None where the venue says 404; raises as `json` does otherwise."""
        import stamina

        try:
            for attempt in stamina.retry_context(
                on=_wait,
                attempts=self._limits.attempts,
                timeout=None,
                wait_initial=min(0.5, self._limits.max_wait_s),
                wait_max=self._limits.max_wait_s,
                wait_jitter=min(0.5, self._limits.max_wait_s),
            ):
                with attempt:
                    return self._once(path, params or {})
        except _RetryError as fault:
            raise SourceUnavailableError(f"{fault}; given up after {self._limits.attempts} tries, try later") from fault
        raise AssertionError("unreachable")

    def _once(self, path: str, params: Mapping[str, str | int]) -> bytes | None:
        import httpx

        self._pace()
        url = self._base + path
        try:
            with self._client.stream("GET", url, params=dict(params)) as answer:
                status = answer.status_code
                if status == 404:
                    return None
                if status != 200:
                    self._raise_for(url, status, answer.headers.get("Retry-After"))
                body = bytearray()
                deadline = time.monotonic() + _DRIP * self._limits.timeout_s
                for chunk in answer.iter_bytes():
                    body += chunk
                    if time.monotonic() > deadline:
                        raise _RetryError(f"{url}: the answer drips in, not done after {_DRIP} x BTC_HTTP_TIMEOUT_S")
                    if len(body) > self._limits.body_bytes:
                        raise SourceMalformedError(f"{url}: the answer is larger than {self._limits.body_bytes} bytes")
                return bytes(body)
        except httpx.TimeoutException as error:
            raise _RetryError(f"{url}: no answer within {self._limits.timeout_s:g} s (BTC_HTTP_TIMEOUT_S)") from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _RetryError(f"{url}: the connection failed or was cut ({error})") from error
        except httpx.InvalidURL as error:
            raise SourceRefusedError(f"{url}: not a URL ({error}); check the base URL setting") from error

    def _raise_for(self, url: str, status: int, retry_after: str | None) -> None:
        if status in _BUSY or status >= 500:
            wait = _seconds(retry_after)
            why = "asks us to slow down" if status in _BUSY else "has a fault of its own"
            if wait is not None and wait > self._limits.max_wait_s:
                raise SourceUnavailableError(
                    f"{url}: HTTP {status}, the venue {why} and to come back in {wait:.0f} s, longer than "
                    f"BTC_HTTP_MAX_WAIT_S ({self._limits.max_wait_s:g} s); try later"
                )
            raise _RetryError(f"{url}: HTTP {status}, the venue {why}", wait)
        if status == 451:
            raise SourceRefusedError(
                f"{url}: HTTP 451, the venue does not serve this location; choose another BTC_MARKET_SOURCE"
            )
        raise SourceRefusedError(f"{url}: HTTP {status}, the venue refuses the request; check the base URL and symbol")

    def _pace(self) -> None:
        with self._lock:
            now = time.monotonic()
            wait = self._next - now
            self._next = max(now, self._next) + 1 / self._limits.requests_per_second
        if wait > 0:
            time.sleep(wait)


def _wait(error: Exception) -> bool | float:
    if not isinstance(error, _RetryError):
        return False
    return True if error.wait_s is None else error.wait_s


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
