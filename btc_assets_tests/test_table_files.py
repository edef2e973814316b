"""Table files of every kind: one reader gives the rows with their lines, and reports what it cannot read."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Sequence

import polars as pl
import pytest

from btc_assets.archives import UnreadableError
from btc_assets.table_files import FILE, LINE, TableFile, read_content

ROWS = [{"time": "1", "text": "one"}, {"time": "2", "text": "two"}]


def header(cells: Sequence[str]) -> Sequence[str] | None:
    return cells if {"time", "text"} <= set(cells) else None


def read(content: str, name: str = "x.csv") -> TableFile:
    [table] = read_content(name, content.encode(), header)
    return table


def rows(table: TableFile) -> list[tuple[object, ...]]:
    return table.rows.select(LINE, "time", "text").collect().rows()


def parquet() -> bytes:
    target = io.BytesIO()
    pl.DataFrame(ROWS).write_parquet(target)
    return target.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(name, content)
    return target.getvalue()


CONTENTS = {
    "x.csv": b"\xef\xbb\xbfmade by hand\ntime;text\n1;one\n\n2;two\n;\n",
    "x.parquet": parquet(),
    "x.json": json.dumps({"status": "ok", "data": {"items": ROWS}}).encode(),
    "x.jsonl": "\n\n".join(map(json.dumps, ROWS)).encode("utf-16"),
}


@pytest.mark.parametrize("packing", ["plain", "gz", "zip"])
@pytest.mark.parametrize("name", CONTENTS)
def test_every_kind_of_file_has_the_same_rows(name: str, packing: str) -> None:
    content = CONTENTS[name]
    if packing == "gz":
        content = gzip.compress(content)
    if packing == "zip":
        content = zipped(name, content)
    [table] = read_content(f"x.{packing}" if packing == "zip" else name, content, header)
    assert table.complete().select("time", "text").to_dicts() == ROWS


def test_values_in_quotation_marks_may_hold_separators_and_lines() -> None:
    table = read('# above\n"time","text"\n1,"a, ""b""\nc"\n\n2, "d"\n')
    assert rows(table) == [(3, "1", 'a, "b"\nc'), (6, "2", "d")]
    assert table.complete()[FILE].to_list() == ["x.csv, line"] * 2


@pytest.mark.parametrize(("mark", "last"), [("", "two"), ('"', "t,wo")])
def test_a_line_of_another_width_is_reported(mark: str, last: str) -> None:
    """The reports do not depend on quotation marks, which another parser reads."""
    table = read(f"time,text,note\n1,a,b,c\n1\n2,{mark}{last}{mark},,\n")
    assert table.bad == [(2, "has 4 values, but the header has 3")]
    assert table.short == [(3, "has 1 values, but the header has 3")]
    assert rows(table) == [(3, "1", None), (4, "2", last)]
    with pytest.raises(UnreadableError, match=r"^x\.csv, line 2 has 4 values"):
        table.complete()


def test_an_object_with_the_columns_is_a_row_whatever_else_it_holds() -> None:
    entry = ROWS[0] | {"data": {"time": "9", "text": "nested"}}
    assert rows(read(json.dumps(entry), "x.json")) == [(1, "1", "one")]
    assert rows(read(json.dumps({"kind": "t3", "data": ROWS[0]}), "x.json")) == [(1, "1", "one")]


def test_a_file_of_blank_lines_is_empty() -> None:
    with pytest.raises(UnreadableError, match=r"^x\.csv is empty"):
        read(" \n,,\n\x1a")
