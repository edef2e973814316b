"""Proxies from the environment for requests to external services.

`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are read in upper or lower case. An unusable proxy is reported
when a request needs it, without its credentials. Requests to our own loopback do not use this module or any proxy.
"""

from __future__ import annotations

import ipaddress
import os
import re
from contextlib import suppress
from typing import Any

import httpx

_WITHOUT_SCHEME = re.compile(r"^(?!\w+://)")
_HOST = re.compile(r"^[\w.:-]+$")
_REMEDY = "set it to an HTTP proxy such as http://proxy.example:3128, or unset it"


class RouteError(httpx.TransportError):
    """A proxy or certificate variable of the environment is unusable; the message names the variable and the remedy."""


class ProxiedTransport(httpx.BaseTransport):
    """Sends each request through the environment's proxy for its address, or directly.

    Args:
        options: options of every `httpx.HTTPTransport`.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._routes: dict[str, httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request.

        Raises:
            RouteError: its proxy, or the certificates from the environment, cannot be used.
        """
        variable = _variable_for(request.url)
        try:
            return self._route(variable).handle_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            if not variable:
                raise
            raise type(error)(f"the proxy of {variable} failed: {error}") from error

    def close(self) -> None:
        """Close every connection."""
        for route in self._routes.values():
            route.close()

    def _route(self, variable: str) -> httpx.HTTPTransport:
        if variable not in self._routes:
            proxy = _proxy_of(variable) if variable else None
            try:
                self._routes[variable] = httpx.HTTPTransport(proxy=proxy, **self._options)
            except OSError as error:
                raise RouteError(
                    "the certificates in SSL_CERT_FILE or SSL_CERT_DIR cannot be read "
                    f"({error.strerror or type(error).__name__}); correct or unset the variable"
                ) from error
        return self._routes[variable]


def proxy_fault(url: str) -> str:
    """Return why the environment's proxy for an address cannot be used; empty if it can or there is none."""
    try:
        variable = _variable_for(httpx.URL(url))
        if variable:
            _proxy_of(variable)
    except RouteError as error:
        return str(error)
    return ""


def _variable_for(url: httpx.URL) -> str:
    """Return the variable with the proxy of an address; empty if it is reached directly."""
    if _is_exempt(url):
        return ""
    variables = {name.lower(): name for name in sorted(os.environ) if os.environ[name].strip()}  # lower case wins
    return variables.get(f"{url.scheme}_proxy") or variables.get("all_proxy") or ""


def _is_exempt(url: httpx.URL) -> bool:
    """Return whether NO_PROXY contains the address's host, its domain or its IP range, optionally with a port."""
    host = url.host.rstrip(".").lower()
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    for part in re.split(r"[,\s]+", os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))):
        name, exempt_port = part.rpartition("://")[2].lower(), None
        if match := re.fullmatch(r"(\[[^\]]*\]|[^:]*):(\d{1,5})", name):
            name, exempt_port = match[1], int(match[2])
        name = name.strip("[]").lstrip("*").strip(".")
        if part == "*":
            return True
        if not name or (exempt_port is not None and exempt_port != port):
            continue
        if host == name or host.endswith(f".{name}"):
            return True
        with suppress(ValueError):
            if ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False):
                return True
    return False


def _proxy_of(variable: str) -> httpx.Proxy:
    """Return the proxy in a variable.

    Raises:
        RouteError: the variable is not a usable proxy address.
    """
    text = _WITHOUT_SCHEME.sub("http://", os.environ[variable].strip())
    scheme = text.partition("://")[0].lower()
    if scheme.startswith("socks"):
        raise RouteError(f"{variable} is a SOCKS proxy ({scheme}://), which is not supported; {_REMEDY}")
    try:
        proxy = httpx.Proxy(text)
    except (httpx.InvalidURL, ValueError, UnicodeError):
        proxy = None
    if proxy is None or not _HOST.match(proxy.url.host) or not 0 < (proxy.url.port or 80) < 65536:
        # The original message may contain the password, so it is neither shown nor chained.
        raise RouteError(f"{variable} is not a valid proxy address; {_REMEDY}") from None
    return proxy
