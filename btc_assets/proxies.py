"""The proxies of the environment, as the requests to services outside use them.

`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper or lower case. One that cannot be used is named when a
request would need it, without its credentials. Requests to our own loopback bypass proxies and this module.
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
    """The proxy variables of the environment cannot be used; the message names its variable and the remedy."""


class ProxiedTransport(httpx.BaseTransport):
    """Sends each request through the proxy that the environment names for its address, or straight.

    Args:
        options: of every `httpx.HTTPTransport` it uses.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._routes: dict[str, httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request.

        Raises:
            RouteError: its proxy, or the certificates the environment names, cannot be used.
        """
        variable = _variable_for(request.url)
        try:
            return self._route(variable).handle_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            if not variable:
                raise
            raise type(error)(f"the proxy of {variable} does not let it through: {error}") from error

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
                    "SSL_CERT_FILE or SSL_CERT_DIR names certificates that cannot be read "
                    f"({error.strerror or type(error).__name__}); correct or unset it"
                ) from error
        return self._routes[variable]


def proxy_fault(url: str) -> str:
    """Return why the proxy that the environment names for an address cannot be used; empty where it can, or is none."""
    try:
        variable = _variable_for(httpx.URL(url))
        if variable:
            _proxy_of(variable)
    except RouteError as error:
        return str(error)
    return ""


def _variable_for(url: httpx.URL) -> str:
    """Return the variable with the proxy of an address; empty where it is reached directly."""
    if _is_exempt(url):
        return ""
    named = {name.lower(): name for name in sorted(os.environ) if os.environ[name].strip()}  # lower case counts first
    return named.get(f"{url.scheme}_proxy") or named.get("all_proxy") or ""


def _is_exempt(url: httpx.URL) -> bool:
    """Return whether NO_PROXY holds an address: its host, a domain it is in, or an IP range; parts may have a port."""
    host = url.host.rstrip(".").lower()
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    for part in re.split(r"[,\s]+", os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))):
        name, of_port = part.rpartition("://")[2].lower(), None
        if found := re.fullmatch(r"(\[[^\]]*\]|[^:]*):(\d{1,5})", name):
            name, of_port = found[1], int(found[2])
        name = name.strip("[]").lstrip("*").strip(".")
        if part == "*":
            return True
        if not name or (of_port is not None and of_port != port):
            continue
        if host == name or host.endswith(f".{name}"):
            return True
        with suppress(ValueError):
            if ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False):
                return True
    return False


def _proxy_of(variable: str) -> httpx.Proxy:
    """Return the proxy that a variable names.

    Raises:
        RouteError: it names none that can be used.
    """
    text = _WITHOUT_SCHEME.sub("http://", os.environ[variable].strip())
    scheme = text.partition("://")[0].lower()
    if scheme.startswith("socks"):
        raise RouteError(f"{variable} names a SOCKS proxy ({scheme}://), which cannot be used here; {_REMEDY}")
    try:
        proxy = httpx.Proxy(text)
    except (httpx.InvalidURL, ValueError, UnicodeError):
        proxy = None
    if proxy is None or not _HOST.match(proxy.url.host) or not 0 < (proxy.url.port or 80) < 65536:
        # What exactly is wrong may hold its password; it is neither shown nor chained.
        raise RouteError(f"{variable} is no address of a proxy; {_REMEDY}") from None
    return proxy
