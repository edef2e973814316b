"""Numeric series: strict parsing of service answers and files into a table's columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from btc_assets.archives import UnreadableError
from btc_assets.market.sources.answer import number, whole
from btc_assets.schema import Contract
from btc_assets.table_files import (
    FILE,
    LINE,
    TableFile,
    find_columns,
    matching_files,
    read_tables,
    unusable_file_refused,
)
from btc_assets.timestamps import iso_time, time_of
from btc_assets.transport import SourceMalformedError

_SHOWN = 80
_MILLISECONDS = 1_000
"""Microseconds in a millisecond."""


def milliseconds(at: datetime) -> int:
    """Return a time as an epoch in ms."""
    return int(at.timestamp() * 1000)


def rows_of(service: str, answer: Any, fields: Mapping[str, int | str], *, micros: int = _MILLISECONDS) -> pl.DataFrame:
    """Parse a list of rows, each a list or an object.

    Args:
        service: name of the service, for messages.
        answer: parsed JSON.
        fields: index or name of each column in a row; the first is the time.
        micros: microseconds in one unit of the time.

    Returns:
        The rows in the order of the answer: the time in UTC, and Float64 columns.

    Raises:
        SourceMalformedError: the answer is not a list of such rows, or a value is not a finite number.
    """
    if not isinstance(answer, list):
        raise SourceMalformedError(f"{service}: expected a list of rows, got {str(answer)[:_SHOWN]!r}")
    time, *_ = fields
    read: dict[str, list[Any]] = {name: [] for name in fields}
    for row in answer:
        for name, key in fields.items():
            try:
                value = row[key]
            except (KeyError, IndexError, TypeError):
                raise SourceMalformedError(
                    f"{service}: expected a row with {name} at {key!r}, got {str(row)[:_SHOWN]!r}"
                ) from None
            read[name].append(whole(service, name, value) * micros if name == time else number(service, name, value))
    frame = pl.DataFrame(read, schema={name: pl.Int64 if name == time else pl.Float64 for name in fields})
    return frame.with_columns(pl.from_epoch(time, time_unit="us").dt.replace_time_zone("UTC"))


def pages(
    service: str, request_page: Callable[[datetime], pl.DataFrame], first: datetime, last: datetime, *, full: int
) -> pl.DataFrame:
    """Request page after page, oldest first, until a page is not full or reaches the end.

    Args:
        service: name of the service, for messages.
        request_page: returns the page from a time on; its first column is the time.
        first: first time, UTC.
        last: end, exclusive, UTC.
        full: number of rows in a full page.

    Raises:
        SourceMalformedError: a page holds only rows before the requested time.
    """
    parts = [page := request_page(first)]
    time = page.columns[0]
    while page.height >= full and (newest := page[time].max()) is not None and newest < last:  # type: ignore[operator]
        if newest < first:  # type: ignore[operator]
            raise SourceMalformedError(f"{service} returned only rows before the requested {first:%Y-%m-%d %H:%M} UTC")
        first = newest + timedelta(milliseconds=1)  # type: ignore[operator, assignment]
        parts.append(page := request_page(first))
    return pl.concat(parts)


def read_files(setting: str, pattern: str, contract: Contract, aliases: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """Read a series from files.

    Args:
        setting: environment variable that names them, for messages.
        pattern: path or glob of table files.
        contract: of the columns to read.
        aliases: further names of each column, lower case; the first one present is used.

    Returns:
        The contract's columns, in the order of the files; a row in two files is returned twice.

    Raises:
        SourceRefusedError: there is no file, or a file cannot be read.
        SourceMalformedError: a file cannot be parsed; the message names the file and line.
    """
    names = {column: (column, *aliases.get(column, ())) for column in contract.columns}
    frames = []
    for path in matching_files(setting, pattern, contract.table):
        with unusable_file_refused(str(path), f"Correct the file or point {setting} at another."):
            tables = read_tables(path, lambda cells: cells if len(find_columns(cells, names)) == len(names) else None)
            frames += [_series(table, contract, names) for table in tables]
    return pl.concat(frames)


def _series(file: TableFile, contract: Contract, names: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    table = file.complete()
    chosen = find_columns(table.columns, names)
    if missing := [column for column in names if column not in chosen]:
        shown = ", ".join(column for column in table.columns if column not in (FILE, LINE))
        raise UnreadableError(f"{file.name}: found no column for {', '.join(missing)}; got {shown}")
    read = table.select(
        _read(table.schema[chosen[column]], chosen[column], dtype).alias(column)
        for column, dtype in contract.columns.items()
    )
    for column, called in chosen.items():
        if read[column].has_nulls():
            row = read[column].is_null().arg_max() or 0
            raise UnreadableError(
                f"{table[FILE][row]} {table[LINE][row]}: expected {contract.columns[column]} in column {called!r}, got "
                f"{table[called][row]!r}"
            )
    return read


def _read(stored: pl.DataType, name: str, wanted: pl.DataType) -> pl.Expr:
    """Return a column as a type, null where it cannot be parsed; a time without a zone is UTC."""
    column = pl.col(name)
    if not wanted.is_temporal():
        return column.cast(wanted, strict=False)
    time = time_of(column, stored, iso_time)
    return pl.lit(None, wanted) if time is None else time.cast(wanted)
