"""Files as people keep them: packed in zip or gzip, and text in the encodings that programs write."""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import PurePosixPath

MOST_BYTES = 2 * 1024**3
"""Largest size a file may unpack to."""
_DEEPEST = 3
"""Archives inside one another that are opened."""
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    struct.error,
    ValueError,
    KeyError,
    RuntimeError,
)
"""What the libraries raise about bytes that are no archive of theirs."""
_ENCRYPTED = 0x1
_ZIP, _GZIP = (b"PK\x03\x04", b"PK\x05\x06"), b"\x1f\x8b"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_REPLACEMENT = "\ufffd"
"""What a decoder puts in the place of bytes that it cannot read."""


class UnreadableError(ValueError):
    """A file cannot be unpacked or read; the message names it, and the remedy if there is one, without a full stop."""


def unpack(name: str, content: bytes, endings: Sequence[str], limit: int = MOST_BYTES) -> list[tuple[str, bytes]]:
    """Return the files in a file: those packed in a zip or gzip file, or the file itself.

    The first bytes show the kind of archive, so a wrong ending does no harm. Members of other kinds and the hidden ones
    that macOS adds are skipped. Nothing is written to disk, so a member may have any name.

    Args:
        name: of the file, for messages and of the files returned.
        content: its bytes.
        endings: of the members wanted, in lower case.
        limit: most bytes all of it may unpack to.

    Returns:
        Name and bytes of each; a member is called `archive.zip/member.csv`.

    Raises:
        UnreadableError: it is damaged, cut, too large, protected by a password or packed by a method that only other
            programs know, or holds no such member.
    """
    return _unpack(name, content, tuple(endings), limit, _DEEPEST)


def _unpack(name: str, content: bytes, endings: tuple[str, ...], limit: int, depth: int) -> list[tuple[str, bytes]]:
    lower = name.lower()
    zipped = content.startswith(_ZIP) or lower.endswith(".zip")
    if not (zipped or _is_gzip(name, content)):
        return [(name, content)]
    if depth == 0:
        raise UnreadableError(f"{name} is an archive in an archive in an archive; unpack the outer ones")
    try:
        if zipped:
            return _members(name, content, endings, limit, depth)
    except UnreadableError:
        raise
    except _DAMAGE as error:
        raise damaged(name, "zip") from error
    plain = gunzip(name, content, limit)
    return _unpack(name[:-3] if lower.endswith(".gz") else name, plain, endings, limit, depth - 1)


def gunzip(name: str, content: bytes, limit: int = MOST_BYTES) -> bytes:
    """Return what a gzip file holds; other content as it is, unless the name ends in `.gz`.

    Raises:
        UnreadableError: it is damaged, cut or too large.
    """
    if not _is_gzip(name, content):
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
            plain = packed.read(limit + 1)
    except _DAMAGE as error:
        raise damaged(name, "gzip") from error
    if len(plain) > limit:
        raise _too_large(name, limit)
    return plain


def damaged(name: str, kind: str) -> UnreadableError:
    """Return the error for a file that should be of a kind, such as `gzip` or `Parquet`, and is not."""
    return UnreadableError(f"{name} is no whole {kind} file: it is damaged, cut short or something else; get it again")


def _is_gzip(name: str, content: bytes) -> bool:
    return content.startswith(_GZIP) or name.lower().endswith(".gz")


def _members(name: str, content: bytes, endings: tuple[str, ...], limit: int, depth: int) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        every = [member for member in archive.infolist() if not member.is_dir()]
        wanted = [
            member
            for member in every
            if member.filename.lower().removesuffix(".gz").endswith((*endings, ".zip"))
            and not _is_hidden(member.filename)
        ]
        if not wanted:
            held = ", ".join(_shown(member.filename) for member in every[:3]) or "nothing"
            raise UnreadableError(f"{name} holds no {' or '.join(endings)} file but {held}")
        if sum(member.file_size for member in wanted) > limit:
            raise _too_large(name, limit)
        found: list[tuple[str, bytes]] = []
        for member in wanted:
            called = f"{name}/{_shown(member.filename)}"
            if member.flag_bits & _ENCRYPTED:
                raise UnreadableError(f"{called} is protected by a password; unpack it and name what comes out")
            try:
                plain = archive.read(member)
            except (NotImplementedError, RuntimeError) as error:
                raise UnreadableError(
                    f"{called} is packed by a method that Python cannot unpack, such as Deflate64; unpack it, for "
                    f"instance with 7-Zip, and name what comes out"
                ) from error
            found.extend(_unpack(called, plain, endings, limit, depth - 1))
    return found


def _is_hidden(member: str) -> bool:
    parts = PurePosixPath(member).parts
    return "__MACOSX" in parts or any(part.startswith(".") and part.strip(".") for part in parts)


def _shown(member: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in member[:200])


def _too_large(name: str, limit: int) -> UnreadableError:
    return UnreadableError(f"{name} unpacks to more than {limit:,} bytes, far more than is expected")


def text_of(name: str, content: bytes) -> tuple[str, list[str]]:
    """Return the text in a file, its lines ended by a single newline, and a sentence where its encoding is a guess.

    UTF-8, UTF-16 and UTF-32 are recognized by their marks and by their bytes; other text is read as Windows-1252, or as
    UTF-8 with replacement characters where most of its characters beyond ASCII are valid UTF-8.

    Raises:
        UnreadableError: it holds zero bytes, which text does not have.
    """
    encoding = _encoding_of(content)
    text = content.decode(encoding, "replace").replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        raise UnreadableError(f"{name} is no text: it holds zero bytes, the first in line {_line_of(text, chr(0))}")
    broken = text.count(_REPLACEMENT) if encoding == "utf-8" else 0
    if broken == 0 or _REPLACEMENT.encode() in content:
        return text, []
    line = _line_of(text, _REPLACEMENT)
    if sum(character > "\x7f" for character in text) > 2 * broken:
        return text, [f"{broken} characters are no UTF-8 and show as {_REPLACEMENT}, the first is in line {line}"]
    text = content.decode("cp1252", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return text, [
        f"it is no UTF-8 from line {line} on and was read as Windows-1252; save it as UTF-8 if letters are wrong"
    ]


def _encoding_of(content: bytes) -> str:
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return encoding
    head = content[:1000]
    if head[1::2].count(0) > len(head) // 4:
        return "utf-16-le"
    if head[::2].count(0) > len(head) // 4:
        return "utf-16-be"
    return "utf-8"


def _line_of(text: str, character: str) -> int:
    return text.count("\n", 0, text.index(character)) + 1
