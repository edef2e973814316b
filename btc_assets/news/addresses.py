"""Normalise untrusted web addresses to RFC 3986.

Pure functions that accept any string and never raise.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from urllib.parse import quote, urlsplit, urlunsplit

MAX_ADDRESS_CHARACTERS = 2_048

_LINE_BREAK = re.compile(r"\s*[\r\n\t]+\s*")
_GLUED = re.compile(r"^https?://[^/?#]*?(https?:/+.*)$", re.IGNORECASE)
"""Two addresses concatenated without a separator, as some feeds publish them."""
_HOST = re.compile(r"^[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*$")
_HOST_START = re.compile(r"^(\[|[a-z0-9]([a-z0-9_-]*[a-z0-9])?(\.|$))")
_INVISIBLE_CATEGORIES = ("Cc", "Cf", "Co", "Cs")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_IN_PATH = "%/:@!$&()*+,;=~"
_IN_QUERY = f"{_IN_PATH}?"
"""Characters left unencoded in a path, and in a query or fragment. An apostrophe would end an HTML attribute."""


def web_address(text: str) -> str:
    """Return an http or https address that can be stored and linked to, or an empty string for an invalid address.

    Invalid characters are percent-encoded as UTF-8 and a non-ASCII host is converted to Punycode. Existing escapes are
    kept, so the function is idempotent. A valid address has a host, no credentials
    (`https://bank.example@evil.example` is misleading), no invisible characters and at most 2,048 characters.
    """
    url = repair_address(text)
    if remove_invisible(url) != url:
        return ""
    try:
        parts = urlsplit(url)
        host, port = ascii_host(parts.hostname or ""), parts.port
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or "@" in parts.netloc or not _HOST_START.match(host):
        return ""
    netloc = host if port is None else f"{host}:{port}"
    path, query, fragment = (
        _percent_encoded(parts.path, _IN_PATH),
        _percent_encoded(parts.query),
        _percent_encoded(parts.fragment),
    )
    address = urlunsplit((parts.scheme, netloc, path, query, fragment))
    return address if len(address) <= MAX_ADDRESS_CHARACTERS else ""


def repair_address(text: str) -> str:
    """Remove line breaks from an address; of two concatenated addresses return the second."""
    url = _LINE_BREAK.sub("", text.strip())
    while match := _GLUED.match(url):
        url = match[1]
    return url


def remove_invisible(text: str) -> str:
    """Return a text without control, format, private-use and surrogate characters."""
    return "".join(character for character in text if unicodedata.category(character) not in _INVISIBLE_CATEGORIES)


def ascii_host(name: str) -> str:
    """Return a host in lower-case ASCII, an IPv6 address in brackets; empty if the name is not a valid host."""
    host = unicodedata.normalize("NFKC", name).lower().strip(".")
    if ":" in host:
        try:
            return f"[{ipaddress.IPv6Address(host)}]" if "%" not in host else ""
        except ValueError:
            return ""
    if not host.isascii():
        host = _punycode(host)
    return host if _HOST.match(host) and len(host) <= 253 else ""


def _punycode(host: str) -> str:
    import idna

    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError:
        try:
            return host.encode("idna").decode("ascii").lower()  # IDNA 2003 allowed symbols
        except UnicodeError:
            return ""


def _percent_encoded(text: str, safe: str = _IN_QUERY) -> str:
    return quote(_STRAY_PERCENT.sub("%25", text), safe=safe)
