"""Parse the entries of an RSS or Atom document in a subprocess.

A hostile document can block a feed parser: 50 kB of `a.a.a.` in place of a name keep feedparser 6.0 busy for hours in
one regular expression, which a thread cannot interrupt. `read_in_subprocess` therefore parses the document in a child
process with limited time and memory. The child runs this file, so this module imports nothing from the project.
"""

from __future__ import annotations

import codecs
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from html.entities import html5
from typing import Any
from urllib.parse import urljoin

MAX_ENTRIES = 2_000
"""Only the first entries of a document are read."""
MAX_TEXT_CHARACTERS = 32_000
"""Maximum length of one value."""
CPU_SECONDS = 20
"""CPU time limit of the child."""
TIMEOUT_S = 120
"""Wall-clock limit of the child, seconds; other processes may use the CPU."""
MEBIBYTES = 1024
"""Memory limit of the child."""

_SINGLE_BYTE = re.compile(r"^(us-ascii|iso-?8859-?\d+|latin-?\d|windows-?125\d|cp125\d|koi8-[ru])$")
_MULTI_BYTE = re.compile(r"^(gb2312|gbk|gb18030|big5|euc-(jp|kr)|shift[-_]jis|iso-2022-jp)$")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"<\0?\0", "utf-16-le"), (b"\0<\0?", "utf-16-be"),
)  # fmt: skip
"""First bytes of a document in each encoding, longer ones first."""
_DECLARED = re.compile(rb"^\s*<\?xml\b[^>]{0,200}?\bencoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})")
_DECLARATION = re.compile(r"^\s*<\?xml\b[^>]*\?>")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_CDATA = re.compile(r"(<!\[CDATA\[.*?\]\]>)", re.DOTALL)
_AMPERSAND = re.compile(r"&(#\d{1,7};|#[xX][0-9a-fA-F]{1,6};|\w{1,32};)?")
_XML_ENTITIES = ("amp;", "lt;", "gt;", "quot;", "apos;")
_ROOT_ENDS = re.compile(r"</(?:[\w.-]+:)?(?:rss|feed|rdf)\s*>", re.IGNORECASE)
_ENTRY_OPENS = re.compile(r"<(?:[\w.-]+:)?(?:item|entry)[\s>]", re.IGNORECASE)
_ENTRY_ENDS = re.compile(r"</(?:[\w.-]+:)?(?:item|entry)\s*>", re.IGNORECASE)
_ABSOLUTE = re.compile(r"^https?://", re.IGNORECASE)
_PREVIEW_CHARACTERS = 60


class FeedError(ValueError):
    """A document is not a usable feed; the message completes the sentence `expected a feed, but ...`."""


@dataclass(frozen=True)
class DocumentEntry:
    """The raw values of one entry; missing values are empty.

    Attributes:
        title: with markup.
        link: absolute if possible.
        guid: id or guid.
        published: date of publication as text, otherwise of creation or change.
        summary: with markup; the content if there is no summary.
    """

    title: str
    link: str
    guid: str
    published: str
    summary: str


@dataclass(frozen=True)
class Document:
    """A parsed feed.

    Attributes:
        entries: in the order of the document.
        is_complete: whether the document has its closing tag; a truncated last entry is not included.
        skipped: number of entries beyond MAX_ENTRIES.
    """

    entries: list[DocumentEntry]
    is_complete: bool = True
    skipped: int = 0


def read_in_subprocess(body: bytes, url: str) -> Document:
    """Parse a document in a child process with time and memory limits.

    Args:
        body: the response body.
        url: its address, the base of relative links.

    Raises:
        FeedError: as `read` does, or the child failed or exceeded a limit.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-P", __file__, url], input=body, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise FeedError(f"parsing it takes longer than {TIMEOUT_S} s") from error
    if child.returncode != 0:
        message = (child.stderr.decode("utf-8", "replace").strip().splitlines() or [f"status {child.returncode}"])[-1]
        raise FeedError(f"its parser failed (limits: {CPU_SECONDS} s CPU, {MEBIBYTES} MiB): {message[:200]!r}")
    answer = json.loads(child.stdout)
    if "fault" in answer:
        raise FeedError(answer["fault"])
    entries = [DocumentEntry(**entry) for entry in answer.pop("entries")]
    return Document(entries, **answer)


def read(body: bytes, url: str) -> Document:
    """Parse a document in this process, without limits.

    Args:
        body: the response body.
        url: its address, the base of relative links.

    Raises:
        FeedError: it is empty, is not a feed, declares entities, or is truncated before its first entry ends.
    """
    from io import BytesIO

    import feedparser

    text = decode(body)
    if not text.strip():
        raise FeedError("it is empty")
    if re.search("<!DOCTYPE", text, re.IGNORECASE) and re.search("<!ENTITY", text, re.IGNORECASE):
        raise FeedError("it declares entities, which feeds do not need and which can expand without limit")
    parsed = feedparser.parse(  # a stream: feedparser would open a string as an address or a file name
        BytesIO(_escape_stray_ampersands(text).encode()),
        response_headers={"content-type": "application/xml; charset=utf-8"},
        resolve_relative_uris=False,
        sanitize_html=False,
    )
    start = " ".join(text[: 4 * _PREVIEW_CHARACTERS].split())[:_PREVIEW_CHARACTERS]
    if not parsed.get("version") and not parsed.entries:
        is_html = re.match(r"<(!doctype html|html)\b", start, re.IGNORECASE)
        raise FeedError(f"it is {'an HTML page' if is_html else 'not an RSS or Atom feed'}, it starts with {start!r}")
    parsed_entries = list(parsed.entries)
    is_complete = _ROOT_ENDS.search(text) is not None
    if not is_complete and parsed_entries and _last_start(_ENTRY_OPENS, text) > _last_start(_ENTRY_ENDS, text):
        parsed_entries.pop()
    if not is_complete and not parsed_entries:
        raise FeedError(f"it is truncated before its first entry ends, it has {len(body)} bytes")
    entries = [_entry(entry, url) for entry in parsed_entries[:MAX_ENTRIES]]
    return Document(entries, is_complete, max(0, len(parsed_entries) - MAX_ENTRIES))


def decode(body: bytes) -> str:
    """Decode a document, also with a wrong declared encoding, and remove its XML declaration.

    Valid UTF-8 is decoded as UTF-8 even if Latin-1 is declared, because a wrong declaration is more likely than
    Latin-1 text that happens to be valid UTF-8. The fallback is Windows-1252.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if body.startswith(mark):
            text = body.decode(encoding, "replace")
            break
    else:
        text = _decode_without_mark(body)
    return _DECLARATION.sub("", _CONTROL.sub("", text.lstrip("\ufeff")), count=1)


def _decode_without_mark(body: bytes) -> str:
    match = _DECLARED.match(body)
    declared = match[1].decode("ascii").lower() if match else ""
    if _MULTI_BYTE.match(declared):
        return body.decode(declared, "replace")
    text = body.decode("utf-8", "replace")
    if (broken := text.count("\ufffd")) == 0 or sum(character > "\x7f" for character in text) > 2 * broken:
        return text
    known = _SINGLE_BYTE.match(declared) and declared not in ("us-ascii", "iso-8859-1")
    try:
        return body.decode(declared if known else "windows-1252", "replace")
    except LookupError:
        return body.decode("windows-1252", "replace")


def _escape_stray_ampersands(text: str) -> str:
    """Escape ampersands that do not start an XML reference and resolve HTML entities; CDATA is unchanged."""
    parts = _CDATA.split(text)
    return "".join(part if index % 2 else _AMPERSAND.sub(_reference, part) for index, part in enumerate(parts))


def _reference(match: re.Match[str]) -> str:
    name = match[1]
    if name is None:
        return "&amp;"
    if name in _XML_ENTITIES or name.startswith("#"):
        return match[0]
    return html5.get(name, f"&amp;{name}")


def _entry(entry: Mapping[str, Any], url: str) -> DocumentEntry:
    contents = entry.get("content") or [{}]
    guid, link = _text(entry.get("id")), _text(entry.get("link"))
    if link == guid and not _ABSOLUTE.match(link):
        link = ""  # feedparser uses an id as link unless it is marked isPermaLink="false", which most feeds omit
    return DocumentEntry(
        title=_text(entry.get("title")),
        link=_absolute_link(url, link),
        guid=guid,
        published=next((date for name in ("published", "created", "updated") if (date := _text(entry.get(name)))), ""),
        summary=_text(entry.get("summary")) or _text(contents[0].get("value")),
    )


def _absolute_link(base: str, link: str) -> str:
    try:
        return urljoin(base, link) if link else ""
    except ValueError:
        return link


def _text(value: object) -> str:
    return value.strip()[:MAX_TEXT_CHARACTERS] if isinstance(value, str) else ""


def _last_start(pattern: re.Pattern[str], text: str) -> int:
    return max((match.start() for match in pattern.finditer(text)), default=-1)


def _limit_resources() -> None:
    """Limit the CPU time and memory of this process."""
    import resource

    for kind, limit in ((resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_AS, MEBIBYTES * 1024 * 1024)):
        try:
            resource.setrlimit(kind, (limit, limit))
        except (ValueError, OSError):  # not supported here; the wall-clock limit still applies
            continue


def _main() -> None:
    _limit_resources()
    try:
        answer = asdict(read(sys.stdin.buffer.read(), sys.argv[1]))
    except FeedError as fault:
        answer = {"fault": str(fault)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _main()
