"""The rows of a file of texts: Parquet, CSV, JSON or JSON Lines, as programs and people leave them.

A byte order mark, another separator, blank lines, UTF-16 and the envelopes of news services are read. A line that is no
row is left out and named as long as such lines are few; a file with more of them is refused.
"""

from __future__ import annotations

import csv
import glob
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from btc_assets.archives import UnreadableError, decode_text, gunzip, invalid_file

ENDINGS = (".parquet", ".csv", ".csv.gz", ".json", ".json.gz", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
MOST_BAD = 0.01
"""Share of a file's rows that may be left out because they cannot be read; a cut last line is left out in any case."""
ENVELOPES = ("articles", "posts", "results", "items", "data", "hits", "children")
"""Names under which the answers of services hold their entries, or an entry its content."""

_OF_ENTRIES = ("title", "headline", "text", "body", "selftext", "full_text", "content", "description", "summary")
"""Names that only an entry has; what has one is no envelope."""
_SEPARATORS = ",;\t|"
_LONGEST_VALUE = 64 * 1024 * 1024
_SHOWN = 40


def read_rows(path: Path) -> tuple[pl.LazyFrame, list[str]]:
    """Open a file of rows; of Parquet and sound JSON Lines only the selected columns are read.

    Args:
        path: of a `.parquet`, `.csv`, `.json`, `.jsonl` or `.ndjson` file, all but Parquet also with `.gz`.

    Returns:
        Its rows, those of a CSV all text, and a sentence about each kind of fault for which some were left out.

    Raises:
        UnreadableError: it is damaged, is something else, or too much of it is.
    """
    name = path.name.lower().removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            rows = pl.scan_parquet(path, hive_partitioning=False, glob=False)
            rows.collect_schema()
            return rows, []
        if not name.endswith((".csv", ".json")) and (lines := _sound_lines(path)) is not None:
            return lines, []
        content = path.read_bytes()
    except pl.exceptions.PolarsError as error:
        raise invalid_file(path.name, "Parquet") from error
    except OSError as error:
        raise UnreadableError(f"{path.name} cannot be opened: {error.strerror or type(error).__name__}") from error
    text, faults = decode_text(path.name, gunzip(path.name, content))
    if not text.strip():
        raise UnreadableError(f"{path.name} is empty")
    rows, bad = _csv_rows(path.name, text) if name.endswith(".csv") else _json_rows(path.name, text)
    return rows, faults + bad


def _sound_lines(path: Path) -> pl.LazyFrame | None:
    """Return the rows of JSON Lines as polars reads them; None where it cannot, or finds no rows but envelopes."""
    try:
        rows = pl.scan_ndjson(glob.escape(str(path)), infer_schema_length=None)
        schema = rows.collect_schema()
    except pl.exceptions.PolarsError:
        return None
    nested = [key for key in ENVELOPES if isinstance(schema.get(key), (pl.List, pl.Struct))]
    return None if nested and not set(_OF_ENTRIES) & set(schema) else rows


# --- CSV -------------------------------------------------------------------------------------------
def _csv_rows(name: str, text: str) -> tuple[pl.LazyFrame, list[str]]:
    text = text.lstrip("\ufeff\r\n ")
    header = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=_unquoted(header).count)
    try:
        rows = pl.read_csv(io.BytesIO(text.encode("utf-8", "replace")), separator=separator, infer_schema=False)
        faults: list[str] = []
    except pl.exceptions.PolarsError:
        rows, faults = _csv_rows_one_by_one(name, text, separator)
    blank = pl.all_horizontal(pl.all().is_null())
    return rows.lazy().filter(~blank), faults


def _csv_rows_one_by_one(name: str, text: str, separator: str) -> tuple[pl.DataFrame, list[str]]:
    """Read what polars refuses; a row with more values than the header, or a quotation mark too many, is left out."""
    csv.field_size_limit(_LONGEST_VALUE)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header = next(reader)
    good: list[list[str | None]] = []
    bad: list[tuple[int, str]] = []
    while True:
        begins = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            break
        except csv.Error:
            bad += [(line, "has a quotation mark without its pair") for line in range(begins, reader.line_num + 1)]
            continue
        if len(values) > len(header):
            bad.append((begins, f"holds {len(values)} values where the header names {len(header)}"))
        elif any(values):
            good.append([*(value or None for value in values), *[None] * (len(header) - len(values))])
    faults = _faults(name, bad, len(good), reader.line_num)
    return pl.DataFrame(good, dict.fromkeys(header, pl.String), orient="row"), faults


def _unquoted(line: str) -> str:
    return "".join(line.split('"')[::2])


# --- JSON ------------------------------------------------------------------------------------------
def _json_rows(name: str, text: str) -> tuple[pl.LazyFrame, list[str]]:
    text = text.lstrip("\ufeff")
    bad: list[tuple[int, str]] = []
    try:
        documents, lines = [_parsed(text)], 0
    except (ValueError, RecursionError):
        documents, bad, lines = _json_lines(text)
    records = [record for document in documents for record in _records(document)]
    faults = _faults(name, bad, len(records), lines)
    if not records:
        raise UnreadableError(f"{name} holds no JSON objects with texts")
    packed = "\n".join(json.dumps(record) for record in records).encode()
    try:
        rows = pl.scan_ndjson(packed, infer_schema_length=None)
        rows.collect_schema()
    except pl.exceptions.PolarsError as error:
        raise UnreadableError(f"{name} holds values of one kind in some rows and of quite another in others") from error
    return rows, faults


def _json_lines(text: str) -> tuple[list[Any], list[tuple[int, str]], int]:
    """Return the documents of the lines that are JSON, the others with what is wrong, and how many lines there are."""
    documents: list[Any] = []
    bad: list[tuple[int, str]] = []
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            document = _parsed(line)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, (Mapping, list)):
            documents.append(document)
        else:
            bad.append((number, f"is no JSON object, it starts with {line.strip()[:_SHOWN]!r}"))
    return documents, bad, len(lines)


def _records(document: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the entries in a document: itself, those of a list, or those in the envelope of a service."""
    if isinstance(document, list):
        for part in document:
            yield from _records(part)
    elif isinstance(document, Mapping):
        key = next((key for key in ENVELOPES if _holds_objects(document.get(key))), None)
        if key is not None and not set(_OF_ENTRIES) & set(document):
            yield from _records(document[key])
        elif document:
            yield document


def _holds_objects(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(part, Mapping) for part in value))


def _parsed(text: str) -> Any:
    return json.loads(text, parse_constant=lambda _: None)


def _faults(name: str, bad: list[tuple[int, str]], good: int, last: int) -> list[str]:
    """Return a sentence about the lines that were left out.

    Raises:
        UnreadableError: they are more than the most that may be.
    """
    if not bad:
        return []
    line, what = bad[0]
    is_cut = good > 0 and len(bad) == 1 and line == last
    if is_cut:
        return [f"its last line, {line}, is cut and was left out: it {what}"]
    if len(bad) > MOST_BAD * (good + len(bad)):
        more = f" ({len(bad)} of {good + len(bad)} lines are like that)" if len(bad) > 1 else ""
        raise UnreadableError(f"{name}, line {line} {what}{more}")
    return [f"{len(bad)} of {good + len(bad)} lines cannot be read and were left out; the first, line {line}, {what}"]
