"""Web addresses from outside, spelt as RFC 3986 wants them.

Pure functions that take any string and never raise.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from urllib.parse import quote, urlsplit, urlunsplit

LONGEST = 2_048
"""Characters of an address."""

_BREAK = re.compile(r"\s*[\r\n\t]+\s*")
_TWICE = re.compile(r"^https?://[^/?#]*?(https?:/+.*)$", re.IGNORECASE)
"""An address glued to the front of another, as some feeds give it."""
_HOST = re.compile(r"^[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*$")
_SHOWABLE = re.compile(r"^(\[|[a-z0-9]([a-z0-9_-]*[a-z0-9])?(\.|$))")
_UNSEEN = ("Cc", "Cf", "Co", "Cs")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_IN_PATH = "%/:@!$&()*+,;=~"
_IN_QUERY = f"{_IN_PATH}?"
"""What stays as it is in a path, and in a query or fragment; an apostrophe would end an attribute."""


def web_address(text: str) -> str:
    """Return an http or https address that can be stored and linked to, or an empty string where it is none.

    Characters that are not valid in an address are percent-encoded as UTF-8, and a host outside ASCII is spelt in
    Punycode; what is encoded stays as it is, so the address of an address is itself. It has a host, no credentials
    (`https://bank.example@evil.example` is not what it seems), no invisible character, and at most 2,048 characters.
    """
    url = unbroken(text)
    if visible(url) != url:
        return ""
    try:
        parts = urlsplit(url)
        host, port = ascii_host(parts.hostname or ""), parts.port
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or "@" in parts.netloc or not _SHOWABLE.match(host):
        return ""
    place = host if port is None else f"{host}:{port}"
    path, query, fragment = _encoded(parts.path, _IN_PATH), _encoded(parts.query), _encoded(parts.fragment)
    whole = urlunsplit((parts.scheme, place, path, query, fragment))
    return whole if len(whole) <= LONGEST else ""


def unbroken(text: str) -> str:
    """Return an address on one line, and of two glued together the second."""
    url = _BREAK.sub("", text.strip())
    while match := _TWICE.match(url):
        url = match[1]
    return url


def visible(text: str) -> str:
    """Return a text without control, invisible and private characters and halves of characters."""
    return "".join(character for character in text if unicodedata.category(character) not in _UNSEEN)


def ascii_host(name: str) -> str:
    """Return a host in ASCII and lower case, an IPv6 address in brackets; empty where it cannot be one."""
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
            return host.encode("idna").decode("ascii").lower()  # symbols, which the older standard allowed
        except UnicodeError:
            return ""


def _encoded(text: str, safe: str = _IN_QUERY) -> str:
    return quote(_STRAY_PERCENT.sub("%25", text), safe=safe)
