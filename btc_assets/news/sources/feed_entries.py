"""The entries of one RSS or Atom document, read in a process of its own.

A feed parser is slow by nature and slower on purpose: measured, 50 kB of `a.a.a.` where a name is expected keep
feedparser 6.0 busy for hours inside one regular expression, which no thread can interrupt. So `read_apart` gives the
document to a child process with little time and memory; the child runs this file, which needs nothing of the project.
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

MOST_ENTRIES = 2_000
"""Entries read of one document, the first ones."""
LONGEST_TEXT = 32_000
"""Characters kept of one value."""
SECONDS = 20
"""Processor time the child may take."""
PATIENCE_S = 120
"""Seconds on the clock after which it is given up; other processes may need the processor more."""
MEBIBYTES = 1024
"""Memory the child may take."""

_SINGLE_BYTE = re.compile(r"^(us-ascii|iso-?8859-?\d+|latin-?\d|windows-?125\d|cp125\d|koi8-[ru])$")
_MULTI_BYTE = re.compile(r"^(gb2312|gbk|gb18030|big5|euc-(jp|kr)|shift[-_]jis|iso-2022-jp)$")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"<\0?\0", "utf-16-le"), (b"\0<\0?", "utf-16-be"),
)  # fmt: skip
"""How a document in each encoding begins, the longer beginnings first."""
_DECLARED = re.compile(rb"^\s*<\?xml\b[^>]{0,200}?\bencoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})")
_DECLARATION = re.compile(r"^\s*<\?xml\b[^>]*\?>")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_CDATA = re.compile(r"(<!\[CDATA\[.*?\]\]>)", re.DOTALL)
_AMPERSAND = re.compile(r"&(#\d{1,7};|#[xX][0-9a-fA-F]{1,6};|\w{1,32};)?")
_OF_XML = ("amp;", "lt;", "gt;", "quot;", "apos;")
_ROOT_ENDS = re.compile(r"</(?:[\w.-]+:)?(?:rss|feed|rdf)\s*>", re.IGNORECASE)
_ENTRY_OPENS = re.compile(r"<(?:[\w.-]+:)?(?:item|entry)[\s>]", re.IGNORECASE)
_ENTRY_ENDS = re.compile(r"</(?:[\w.-]+:)?(?:item|entry)\s*>", re.IGNORECASE)
_ABSOLUTE = re.compile(r"^https?://", re.IGNORECASE)
_SHOWN = 60


class FeedError(ValueError):
    """A document is no feed that can be used; the message ends a sentence that says so."""


@dataclass(frozen=True)
class DocumentEntry:
    """What one entry says, as it stands there; empty where it says nothing.

    Attributes:
        title: with its markup.
        link: absolute where it can be made so.
        guid: id or guid.
        published: the date as text, of publication, else of creation or change.
        summary: with its markup; the content where there is no summary.
    """

    title: str
    link: str
    guid: str
    published: str
    summary: str


@dataclass(frozen=True)
class Document:
    """What was read of a feed.

    Attributes:
        entries: in the order of the document.
        is_whole: whether it ends where a feed ends; a last entry that is cut is not among the entries.
        passed_over: entries beyond the most that are read.
    """

    entries: list[DocumentEntry]
    is_whole: bool = True
    passed_over: int = 0


def read_apart(body: bytes, url: str) -> Document:
    """Read a document in a child process that is ended when it takes too long.

    Args:
        body: as fetched.
        url: its address, which relative links start from.

    Raises:
        FeedError: as `read` does, or the child did not come to an end.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-P", __file__, url], input=body, capture_output=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise FeedError(f"reading it takes longer than {PATIENCE_S} s, which no ordinary feed does") from error
    if child.returncode != 0:
        said = (child.stderr.decode("utf-8", "replace").strip().splitlines() or [f"status {child.returncode}"])[-1]
        raise FeedError(f"its reader gave up within {SECONDS} s and {MEBIBYTES} MiB, which suffice: {said[:200]!r}")
    answer = json.loads(child.stdout)
    if "fault" in answer:
        raise FeedError(answer["fault"])
    entries = [DocumentEntry(**entry) for entry in answer.pop("entries")]
    return Document(entries, **answer)


def read(body: bytes, url: str) -> Document:
    """Read a document; nothing bounds how long that takes.

    Args:
        body: as fetched.
        url: its address, which relative links start from.

    Raises:
        FeedError: it is empty, no feed, declares entities, or is cut before its first entry ends.
    """
    from io import BytesIO

    import feedparser

    text = decoded(body)
    if not text.strip():
        raise FeedError("it is empty")
    if re.search("<!DOCTYPE", text, re.IGNORECASE) and re.search("<!ENTITY", text, re.IGNORECASE):
        raise FeedError("it declares entities, which can be made to expand without end and no feed needs")
    parsed = feedparser.parse(  # a stream: a string would be taken for an address or a file name, and opened
        BytesIO(_with_sound_references(text).encode()),
        response_headers={"content-type": "application/xml; charset=utf-8"},
        resolve_relative_uris=False,
        sanitize_html=False,
    )
    start = " ".join(text[: 4 * _SHOWN].split())[:_SHOWN]
    if not parsed.get("version") and not parsed.entries:
        kind = "an HTML page" if re.match(r"<(!doctype html|html)\b", start, re.IGNORECASE) else "no RSS or Atom feed"
        raise FeedError(f"it is {kind}, it starts with {start!r}")
    found = list(parsed.entries)
    is_whole = _ROOT_ENDS.search(text) is not None
    if not is_whole and found and _last(_ENTRY_OPENS, text) > _last(_ENTRY_ENDS, text):
        found.pop()
    if not is_whole and not found:
        raise FeedError(f"it is cut short before its first entry ends, it has {len(body)} bytes")
    entries = [_entry(entry, url) for entry in found[:MOST_ENTRIES]]
    return Document(entries, is_whole, max(0, len(found) - MOST_ENTRIES))


def decoded(body: bytes) -> str:
    """Return a document as text without its XML declaration, whatever its encoding is and is said to be.

    Bytes that are UTF-8 are read as that, because documents say Latin-1 and mean UTF-8 more often than they happen to
    be both; what fits nothing is read as Windows-1252.
    """
    for mark, encoding in _MARKS:
        if body.startswith(mark):
            text = body.decode(encoding, "replace")
            break
    else:
        text = _decoded_without_mark(body)
    return _DECLARATION.sub("", _CONTROL.sub("", text.lstrip("\ufeff")), count=1)


def _decoded_without_mark(body: bytes) -> str:
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


def _with_sound_references(text: str) -> str:
    """Escape ampersands that begin no reference of XML, which feeds forget; CDATA stays as it is."""
    parts = _CDATA.split(text)
    return "".join(part if place % 2 else _AMPERSAND.sub(_reference, part) for place, part in enumerate(parts))


def _reference(match: re.Match[str]) -> str:
    name = match[1]
    if name is None:
        return "&amp;"
    if name in _OF_XML or name.startswith("#"):
        return match[0]
    return html5.get(name, f"&amp;{name}")


def _entry(entry: Mapping[str, Any], url: str) -> DocumentEntry:
    contents = entry.get("content") or [{}]
    guid, link = _text(entry.get("id")), _text(entry.get("link"))
    if link == guid and not _ABSOLUTE.match(link):
        link = ""  # an id stands in for a link unless it says that it is none, which most forget
    return DocumentEntry(
        title=_text(entry.get("title")),
        link=_joined(url, link),
        guid=guid,
        published=next((told for name in ("published", "created", "updated") if (told := _text(entry.get(name)))), ""),
        summary=_text(entry.get("summary")) or _text(contents[0].get("value")),
    )


def _joined(base: str, link: str) -> str:
    try:
        return urljoin(base, link) if link else ""
    except ValueError:
        return link


def _text(value: object) -> str:
    return value.strip()[:LONGEST_TEXT] if isinstance(value, str) else ""


def _last(pattern: re.Pattern[str], text: str) -> int:
    return max((match.start() for match in pattern.finditer(text)), default=-1)


def _bound_resources() -> None:
    """Have the system end this process when it takes more than its share."""
    import resource

    for kind, most in ((resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_AS, MEBIBYTES * 1024 * 1024)):
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):  # a system that cannot; the clock still bounds it
            continue


def _main() -> None:
    _bound_resources()
    try:
        answer = asdict(read(sys.stdin.buffer.read(), sys.argv[1]))
    except FeedError as fault:
        answer = {"fault": str(fault)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _main()
