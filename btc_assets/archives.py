"""Read files packed in zip or gzip, and text in common encodings."""

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

MAX_BYTES = 2 * 1024**3
"""Maximum unpacked size of a file."""
_MAX_DEPTH = 3
"""Maximum nesting depth of archives."""
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
"""Exceptions of the libraries for invalid archives."""
_ENCRYPTED = 0x1
_ZIP, _GZIP = (b"PK\x03\x04", b"PK\x05\x06"), b"\x1f\x8b"
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_REPLACEMENT = "\ufffd"
"""Replacement of invalid bytes by a decoder."""


class UnreadableError(ValueError):
    """A file cannot be unpacked or read; the message has the file and the remedy, without a full stop."""


def unpack(name: str, content: bytes, endings: Sequence[str], limit: int = MAX_BYTES) -> list[tuple[str, bytes]]:
    """Return the files in a zip or gzip file, or the file itself if it is not packed.

    The first bytes determine the kind of archive, so the file's ending may be wrong. Members with other endings and
    hidden members, which macOS adds, are skipped. Nothing is written to disk, so a member may have any name.

    Args:
        name: name of the file, for messages and for the names of the members.
        content: content of the file.
        endings: endings of the requested members, in lower case.
        limit: maximum unpacked size, bytes.

    Returns:
        Name and content of each file; the name of a member is `archive.zip/member.csv`.

    Raises:
        UnreadableError: the file is damaged, truncated, too large, encrypted or packed by an unsupported method, or has
            no member with one of the endings.
    """
    return _unpack(name, content, tuple(endings), limit, _MAX_DEPTH)


def _unpack(name: str, content: bytes, endings: tuple[str, ...], limit: int, depth: int) -> list[tuple[str, bytes]]:
    lower = name.lower()
    zipped = content.startswith(_ZIP) or lower.endswith(".zip")
    if not (zipped or _is_gzip(name, content)):
        return [(name, content)]
    if depth == 0:
        raise UnreadableError(f"{name} is nested in more than {_MAX_DEPTH} archives; unpack the outer archives")
    try:
        if zipped:
            return _members(name, content, endings, limit, depth)
    except UnreadableError:
        raise
    except _DAMAGE as error:
        raise invalid_file(name, "zip") from error
    plain = _gunzip(name, content, limit)
    return _unpack(name[:-3] if lower.endswith(".gz") else name, plain, endings, limit, depth - 1)


def _gunzip(name: str, content: bytes, limit: int = MAX_BYTES) -> bytes:
    """Decompress a gzip file; return other content unchanged unless the name ends in `.gz`.

    Raises:
        UnreadableError: the file is damaged, truncated or too large.
    """
    if not _is_gzip(name, content):
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
            plain = packed.read(limit + 1)
    except _DAMAGE as error:
        raise invalid_file(name, "gzip") from error
    if len(plain) > limit:
        raise _too_large(name, limit)
    return plain


def invalid_file(name: str, kind: str) -> UnreadableError:
    """Return the error for an invalid file of a kind such as `gzip` or `Parquet`."""
    return UnreadableError(
        f"{name} is not a valid {kind} file: it is damaged, truncated or of another kind; get it again"
    )


def _is_gzip(name: str, content: bytes) -> bool:
    return content.startswith(_GZIP) or name.lower().endswith(".gz")


def _members(name: str, content: bytes, endings: tuple[str, ...], limit: int, depth: int) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        wanted = [
            member
            for member in members
            if member.filename.lower().removesuffix(".gz").endswith((*endings, ".zip"))
            and not _is_hidden(member.filename)
        ]
        if not wanted:
            listed = ", ".join(_printable(member.filename) for member in members[:3]) or "no file"
            raise UnreadableError(f"{name} has no {' or '.join(endings)} file; it has {listed}")
        if sum(member.file_size for member in wanted) > limit:
            raise _too_large(name, limit)
        files: list[tuple[str, bytes]] = []
        for member in wanted:
            path = f"{name}/{_printable(member.filename)}"
            if member.flag_bits & _ENCRYPTED:
                raise UnreadableError(f"{path} is protected by a password; unpack it and use the unpacked file")
            try:
                plain = archive.read(member)
            except (NotImplementedError, RuntimeError) as error:
                raise UnreadableError(
                    f"{path} is packed by a method that Python cannot unpack, such as Deflate64; unpack it, for "
                    f"example with 7-Zip, and use the unpacked file"
                ) from error
            files.extend(_unpack(path, plain, endings, limit, depth - 1))
    return files


def _is_hidden(member: str) -> bool:
    parts = PurePosixPath(member).parts
    return "__MACOSX" in parts or any(part.startswith(".") and part.strip(".") for part in parts)


def _printable(member: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in member[:200])


def _too_large(name: str, limit: int) -> UnreadableError:
    return UnreadableError(f"{name} unpacks to more than {limit:,} bytes, the maximum")


def decode_text(name: str, content: bytes) -> tuple[str, list[str]]:
    """Return the text of a file with newlines as line ends, and a sentence if its encoding is a guess.

    UTF-8, UTF-16 and UTF-32 are recognised by their byte order marks and bytes. Other text is decoded as UTF-8 with
    replacement characters if most of its non-ASCII characters are valid UTF-8, otherwise as Windows-1252.

    Raises:
        UnreadableError: the file contains zero bytes, so it is not text.
    """
    encoding = _detect_encoding(content)
    text = content.decode(encoding, "replace").replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        raise UnreadableError(f"{name} is not text: it has zero bytes, the first in line {_line_of(text, chr(0))}")
    broken = text.count(_REPLACEMENT) if encoding == "utf-8" else 0
    if broken == 0 or _REPLACEMENT.encode() in content:
        return text, []
    line = _line_of(text, _REPLACEMENT)
    if sum(character > "\x7f" for character in text) > 2 * broken:
        return text, [f"{broken} characters are not UTF-8 and appear as {_REPLACEMENT}, the first is in line {line}"]
    text = content.decode("cp1252", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return text, [
        f"it is not UTF-8 from line {line} on and was read as Windows-1252; save it as UTF-8 if letters are wrong"
    ]


def _detect_encoding(content: bytes) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS:
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
