"""Archives and encodings as people have them: read, or named with what helps, and never a library's words."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile

import pytest

from btc_assets.archives import UnreadableError, text_of, unpack

CSV = b"time,close\n" + b"".join(b"%d,%d\n" % (n, n * 7919 % 1000) for n in range(200))


def zipped(method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in (members or {"a.csv": CSV}).items():
            archive.writestr(name, content)
    return target.getvalue()


def patched(content: bytes, *, flag: int = 0, method: int | None = None) -> bytes:
    """Return a zip whose headers claim a password or another method, as archives of other programs have."""
    raw = bytearray(content)
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = raw.index(mark)
        raw[start + at] |= flag
        if method is not None:
            raw[start + at + 2 : start + at + 4] = struct.pack("<H", method)
    return bytes(raw)


def plain(name: str, content: bytes) -> list[tuple[str, bytes]]:
    return unpack(name, content, (".csv", ".parquet"))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_of_any_common_method_is_read(method: int) -> None:
    assert plain("x.zip", zipped(method)) == [("x.zip/a.csv", CSV)]


def test_an_archive_is_recognized_by_its_bytes_and_not_by_its_name() -> None:
    assert plain("x.csv", zipped()) == [("x.csv/a.csv", CSV)]
    assert plain("x.csv", gzip.compress(CSV)) == [("x.csv", CSV)]
    assert plain("x.csv.gz", gzip.compress(CSV)) == [("x.csv", CSV)]
    assert plain("x.csv", CSV) == [("x.csv", CSV)]


def test_members_of_other_kinds_and_hidden_ones_are_passed_over() -> None:
    members = {
        "data/a.csv": CSV, "__MACOSX/data/._a.csv": b"\0\5\26\7", "data/.DS_Store": b"x", "._a.csv": b"x",
        "readme.txt": b"x", "B.CSV": CSV, "c.csv.gz": gzip.compress(CSV), "../../etc/d.csv": CSV,
        "inner.zip": zipped(), "folder/": b"",
    }  # fmt: skip
    names = ["data/a.csv", "B.CSV", "c.csv", "../../etc/d.csv", "inner.zip/a.csv"]
    assert plain("x.zip", zipped(**members)) == [(f"x.zip/{name}", CSV) for name in names]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.zip", b"", "x.zip is no whole zip file"),
        ("x.zip", b"<html>404</html>", "x.zip is no whole zip file: it is damaged, cut short or something else"),
        ("x.zip", zipped()[:-30], "x.zip is no whole zip file"),
        ("x.zip", zipped()[:80] + b"\0" * 40 + zipped()[120:], "x.zip is no whole zip file"),
        ("x.zip", patched(zipped(), flag=1), "x.zip/a.csv is protected by a password; unpack it"),
        ("x.zip", patched(zipped(), method=9), "x.zip/a.csv is packed by a method that Python cannot unpack"),
        ("x.zip", patched(zipped(), method=93), "x.zip/a.csv is packed by a method that Python cannot unpack"),
        ("x.zip", patched(zipped(), flag=0x20), "x.zip/a.csv is packed by a method that Python cannot unpack"),
        ("x.zip", zipped(**{"readme.txt": b"x"}), r"x.zip holds no .csv or .parquet file but readme.txt"),
        ("x.zip", zipped(**{"__MACOSX/._a.csv": b"x"}), r"x.zip holds no .csv or .parquet file but __MACOSX"),
        ("x.zip", zipped(**{"folder/": b""}), r"x.zip holds no .csv or .parquet file but nothing"),
        ("x.csv.gz", gzip.compress(CSV)[:-20], "x.csv.gz is no whole gzip file"),
        ("x.csv.gz", gzip.compress(CSV)[:60] + b"\xff" * 20 + gzip.compress(CSV)[80:], "is no whole gzip file"),
        ("x.csv.gz", CSV, "x.csv.gz is no whole gzip file"),
        (
            "x.zip",
            zipped(**{"1.zip": zipped(**{"2.zip": zipped(**{"3.zip": zipped()})})}),
            "x.zip/1.zip/2.zip/3.zip is an archive in an archive",
        ),
    ],
    ids=lambda value: "content" if isinstance(value, bytes) else None,  # which holds the time it was packed
)  # fmt: skip
def test_an_archive_that_cannot_be_read_is_named_with_what_helps(name: str, content: bytes, sentence: str) -> None:
    with pytest.raises(UnreadableError, match=sentence):
        plain(name, content)


@pytest.mark.parametrize("content", [zipped(), gzip.compress(b"0" * 5000)], ids=["zip", "gz"])
def test_what_unpacks_to_far_too_much_is_refused_before_it_is_unpacked(content: bytes) -> None:
    with pytest.raises(UnreadableError, match="unpacks to more than 100 bytes"):
        unpack("x", content, (".csv",), limit=100)


@pytest.mark.parametrize(
    "content",
    [zipped(), zipped(zipfile.ZIP_LZMA), zipped(zipfile.ZIP_BZIP2), gzip.compress(CSV)],
    ids=["zip", "lzma", "bzip2", "gz"],
)
def test_no_damage_shows_a_librarys_error(content: bytes) -> None:
    chance = random.Random(7)
    for _ in range(300):
        raw = bytearray(content)
        for _ in range(chance.choice((1, 1, 3, 20))):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        if chance.random() < 0.3:
            raw = raw[: chance.randrange(len(raw))]
        try:
            found = plain("x.zip", bytes(raw))
        except UnreadableError:
            continue
        assert found


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_text_in_any_common_encoding_is_read(encoding: str) -> None:
    text = "Zürich,1\n" * 50
    assert text_of("x.csv", text.encode(encoding))[0] == text


@pytest.mark.parametrize("ending", ["\r\n", "\r", "\n"])
def test_lines_end_as_every_system_ends_them(ending: str) -> None:
    assert text_of("x.csv", f"a{ending}b{ending}".encode()) == ("a\nb\n", [])


def test_bytes_are_no_text() -> None:
    with pytest.raises(UnreadableError, match=r"x\.csv is no text: it holds zero bytes, the first in line 2"):
        text_of("x.csv", b"a\nbc\0\0\0def" * 20 + b"a" * 900)
