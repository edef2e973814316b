"""Read the rows of a file of texts: Parquet, CSV, JSON or JSON Lines.

Byte order marks, other separators, blank lines, UTF-16 and the envelopes of news services are supported. A few invalid
lines are left out and reported; a file with more of them is refused.
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
MAX_BAD_SHARE = 0.01
"""Maximum share of unreadable rows that are left out; a truncated last line is always left out."""
ENVELOPES = ("articles", "posts", "results", "items", "data", "hits", "children")
"""Field names of the entries in a service's response, or of an entry's content."""

_ENTRY_FIELDS = ("title", "headline", "text", "body", "selftext", "full_text", "content", "description", "summary")
"""Field names of entries; an object with one of them is not an envelope."""
_SEPARATORS = ",;\t|"
_MAX_VALUE_CHARACTERS = 64 * 1024 * 1024
_PREVIEW_CHARACTERS = 40


def read_rows(path: Path) -> tuple[pl.LazyFrame, list[str]]:
    """Open a file of rows; of Parquet and valid JSON Lines only the selected columns are read.

    Args:
        path: a `.parquet`, `.csv`, `.json`, `.jsonl` or `.ndjson` file, all except Parquet also with `.gz`.

    Returns:
        Its rows, those of a CSV all text, and one sentence per kind of fault for which rows were left out.

    Raises:
        UnreadableError: the file is damaged, of another kind, or has too many invalid lines.
    """
    name = path.name.lower().removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            rows = pl.scan_parquet(path, hive_partitioning=False, glob=False)
            rows.collect_schema()
            return rows, []
        if not name.endswith((".csv", ".json")) and (lines := _valid_json_lines(path)) is not None:
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


def _valid_json_lines(path: Path) -> pl.LazyFrame | None:
    """Return the rows of JSON Lines read by polars; None if it cannot read them or finds only envelopes."""
    try:
        rows = pl.scan_ndjson(glob.escape(str(path)), infer_schema_length=None)
        schema = rows.collect_schema()
    except pl.exceptions.PolarsError:
        return None
    nested = [key for key in ENVELOPES if isinstance(schema.get(key), (pl.List, pl.Struct))]
    return None if nested and not set(_ENTRY_FIELDS) & set(schema) else rows


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
    """Read a file that polars refuses; leave out rows with too many values or unbalanced quotation marks."""
    csv.field_size_limit(_MAX_VALUE_CHARACTERS)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header = next(reader)
    good: list[list[str | None]] = []
    bad: list[tuple[int, str]] = []
    while True:
        first_line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            break
        except csv.Error:
            bad += [(line, "has an unbalanced quotation mark") for line in range(first_line, reader.line_num + 1)]
            continue
        if len(values) > len(header):
            bad.append((first_line, f"has {len(values)} values, but the header has {len(header)}"))
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
        documents, lines = [_parse_json(text)], 0
    except (ValueError, RecursionError):
        documents, bad, lines = _json_lines(text)
    records = [record for document in documents for record in _records(document)]
    faults = _faults(name, bad, len(records), lines)
    if not records:
        raise UnreadableError(f"{name} has no JSON objects with texts")
    content = "\n".join(json.dumps(record) for record in records).encode()
    try:
        rows = pl.scan_ndjson(content, infer_schema_length=None)
        rows.collect_schema()
    except pl.exceptions.PolarsError as error:
        raise UnreadableError(f"{name} has values of incompatible types in one column") from error
    return rows, faults


def _json_lines(text: str) -> tuple[list[Any], list[tuple[int, str]], int]:
    """Return the documents of valid lines, the numbers and problems of invalid lines, and the number of lines."""
    documents: list[Any] = []
    bad: list[tuple[int, str]] = []
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            document = _parse_json(line)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, (Mapping, list)):
            documents.append(document)
        else:
            bad.append((number, f"is not a JSON object, it starts with {line.strip()[:_PREVIEW_CHARACTERS]!r}"))
    return documents, bad, len(lines)


def _records(document: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the entries of a document: the document itself, or the entries of a list or a service's envelope."""
    if isinstance(document, list):
        for part in document:
            yield from _records(part)
    elif isinstance(document, Mapping):
        key = next((key for key in ENVELOPES if _contains_objects(document.get(key))), None)
        if key is not None and not set(_ENTRY_FIELDS) & set(document):
            yield from _records(document[key])
        elif document:
            yield document


def _contains_objects(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(part, Mapping) for part in value))


def _parse_json(text: str) -> Any:
    return json.loads(text, parse_constant=lambda _: None)


def _faults(name: str, bad: list[tuple[int, str]], good: int, last: int) -> list[str]:
    """Return a sentence about the lines that were left out.

    Raises:
        UnreadableError: there are more of them than MAX_BAD_SHARE allows.
    """
    if not bad:
        return []
    line, problem = bad[0]
    is_truncated = good > 0 and len(bad) == 1 and line == last
    if is_truncated:
        return [f"its last line, {line}, is truncated and was left out: it {problem}"]
    if len(bad) > MAX_BAD_SHARE * (good + len(bad)):
        count = f" ({len(bad)} of {good + len(bad)} lines are invalid)" if len(bad) > 1 else ""
        raise UnreadableError(f"{name}, line {line} {problem}{count}")
    return [
        f"{len(bad)} of {good + len(bad)} lines cannot be read and were left out; the first, line {line}, {problem}"
    ]
