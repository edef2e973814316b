"""Archives and encodings: read, or refused with a clear message and a remedy."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile

import pytest

from btc_assets.archives import UnreadableError, decode_text, unpack

CSV = b"time,close\n" + b"".join(b"%d,%d\n" % (n, n * 7919 % 1000) for n in range(200))


def zipped(method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in (members or {"a.csv": CSV}).items():
            archive.writestr(name, content)
    return target.getvalue()


def patched(content: bytes, *, flag: int = 0, method: int | None = None) -> bytes:
    """Return a zip whose headers declare encryption or another method, as archives of other programs do."""
    raw = bytearray(content)
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = raw.index(mark)
        raw[start + at] |= flag
        if method is not None:
            raw[start + at + 2 : start + at + 4] = struct.pack("<H", method)
    return bytes(raw)


def unpacked(name: str, content: bytes) -> list[tuple[str, bytes]]:
    return unpack(name, content, (".csv", ".parquet"))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_common_zip_method_is_read(method: int) -> None:
    assert unpacked("x.zip", zipped(method)) == [("x.zip/a.csv", CSV)]


def test_an_archive_is_recognised_by_its_bytes() -> None:
    assert unpacked("x.csv", zipped()) == [("x.csv/a.csv", CSV)]
    assert unpacked("x.csv", gzip.compress(CSV)) == [("x.csv", CSV)]
    assert unpacked("x.csv.gz", gzip.compress(CSV)) == [("x.csv", CSV)]
    assert unpacked("x.csv", CSV) == [("x.csv", CSV)]


def test_other_and_hidden_members_are_skipped() -> None:
    members = {
        "data/a.csv": CSV, "__MACOSX/data/._a.csv": b"\0\5\26\7", "data/.DS_Store": b"x", "._a.csv": b"x",
        "readme.txt": b"x", "B.CSV": CSV, "c.csv.gz": gzip.compress(CSV), "../../etc/d.csv": CSV,
        "inner.zip": zipped(), "folder/": b"",
    }  # fmt: skip
    names = ["data/a.csv", "B.CSV", "c.csv", "../../etc/d.csv", "inner.zip/a.csv"]
    assert unpacked("x.zip", zipped(**members)) == [(f"x.zip/{name}", CSV) for name in names]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.zip", b"", "x.zip is not a valid zip file"),
        ("x.zip", b"<html>404</html>", "x.zip is not a valid zip file: it is damaged, truncated or of another kind"),
        ("x.zip", zipped()[:-30], "x.zip is not a valid zip file"),
        ("x.zip", zipped()[:80] + b"\0" * 40 + zipped()[120:], "x.zip is not a valid zip file"),
        ("x.zip", patched(zipped(), flag=1), "x.zip/a.csv is protected by a password; unpack it"),
        ("x.zip", patched(zipped(), method=9), "x.zip/a.csv is packed by a method that Python cannot unpack"),
        ("x.zip", patched(zipped(), method=93), "x.zip/a.csv is packed by a method that Python cannot unpack"),
        ("x.zip", patched(zipped(), flag=0x20), "x.zip/a.csv is packed by a method that Python cannot unpack"),
        ("x.zip", zipped(**{"readme.txt": b"x"}), r"x.zip has no .csv or .parquet file; it has readme.txt"),
        ("x.zip", zipped(**{"__MACOSX/._a.csv": b"x"}), r"x.zip has no .csv or .parquet file; it has __MACOSX"),
        ("x.zip", zipped(**{"folder/": b""}), r"x.zip has no .csv or .parquet file; it has no file"),
        ("x.csv.gz", gzip.compress(CSV)[:-20], "x.csv.gz is not a valid gzip file"),
        ("x.csv.gz", gzip.compress(CSV)[:60] + b"\xff" * 20 + gzip.compress(CSV)[80:], "is not a valid gzip file"),
        ("x.csv.gz", CSV, "x.csv.gz is not a valid gzip file"),
        (
            "x.zip",
            zipped(**{"1.zip": zipped(**{"2.zip": zipped(**{"3.zip": zipped()})})}),
            "x.zip/1.zip/2.zip/3.zip is nested in more than 3 archives",
        ),
    ],
    ids=lambda value: "content" if isinstance(value, bytes) else None,  # it contains the time of packing
)  # fmt: skip
def test_an_unreadable_archive_is_reported_with_a_remedy(name: str, content: bytes, sentence: str) -> None:
    with pytest.raises(UnreadableError, match=sentence):
        unpacked(name, content)


@pytest.mark.parametrize("content", [zipped(), gzip.compress(b"0" * 5000)], ids=["zip", "gz"])
def test_a_decompression_bomb_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadableError, match="unpacks to more than 100 bytes"):
        unpack("x", content, (".csv",), limit=100)


@pytest.mark.parametrize(
    "content",
    [zipped(), zipped(zipfile.ZIP_LZMA), zipped(zipfile.ZIP_BZIP2), gzip.compress(CSV)],
    ids=["zip", "lzma", "bzip2", "gz"],
)
def test_damage_never_raises_an_error_of_a_library(content: bytes) -> None:
    rng = random.Random(7)
    for _ in range(300):
        raw = bytearray(content)
        for _ in range(rng.choice((1, 1, 3, 20))):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        if rng.random() < 0.3:
            raw = raw[: rng.randrange(len(raw))]
        try:
            files = unpacked("x.zip", bytes(raw))
        except UnreadableError:
            continue
        assert files


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_common_encodings_are_read(encoding: str) -> None:
    text = "Zürich,1\n" * 50
    assert decode_text("x.csv", text.encode(encoding))[0] == text


@pytest.mark.parametrize("ending", ["\r\n", "\r", "\n"])
def test_all_line_ends_become_newlines(ending: str) -> None:
    assert decode_text("x.csv", f"a{ending}b{ending}".encode()) == ("a\nb\n", [])


def test_zero_bytes_are_refused() -> None:
    with pytest.raises(UnreadableError, match=r"x\.csv is not text: it has zero bytes, the first in line 2"):
        decode_text("x.csv", b"a\nbc\0\0\0def" * 20 + b"a" * 900)
