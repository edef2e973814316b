"""Find and read the user's table files: Parquet, CSV, JSON and JSON Lines, also in zip or gzip.

Byte order marks, other encodings, separators, lines above the header, blank lines and the envelopes of services are
supported. The reader reports invalid lines; the caller decides whether to tolerate them, and what the columns mean.
"""

from __future__ import annotations

import csv
import glob
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from btc_assets.archives import MAX_BYTES, UnreadableError, decode_text, invalid_file, unpack
from btc_assets.paths import matching
from btc_assets.transport import SourceMalformedError, SourceRefusedError

FILE = "file"
"""Column with a row's file and the word for its rows: `bars.csv, line`."""
LINE = "line of the file"
"""Column with each row's line number in a CSV, otherwise its row number, from 1."""
_JSON = (".json", ".jsonl", ".ndjson")
_TABLES = (".parquet", ".csv", *_JSON)
ENDINGS = (*_TABLES, *(f"{ending}.gz" for ending in _TABLES[1:]), ".zip")
"""Endings of table files, in lower case."""
_SEPARATORS = (",", ";", "\t", "|")
_UNIT = "\x1f"
"""Separator of values whose quotation marks are removed."""
_MAX_PREAMBLE = 50
"""Largest number of lines before the header."""
_BLANK = " \t,;|\x1a\x1f"
"""Characters of a line without a value: spreadsheets write separators alone, DOS ends a file with Ctrl-Z."""
_MAX_VALUE_CHARACTERS = 64 * 1024 * 1024
_ENVELOPES = ("articles", "posts", "results", "items", "data", "hits", "children")
"""Field names of the entries in a service's response, or of an entry's content."""
_PREVIEW_CHARACTERS = 40

NamesOf = Callable[[Sequence[str]], Sequence[str] | None]
"""Returns the column names if the values are a usable header (then the values themselves) or the first row of a CSV
without a header; None if they are neither. It also distinguishes an entry in JSON from an envelope."""
Problem = tuple[int, str]
"""A line number and what is wrong with the line, such as `has 3 values, but the header has 6`."""


@dataclass(frozen=True)
class TableFile:
    """One table of a file.

    Attributes:
        name: name of the file, of a member of an archive `archive.zip/member.csv`.
        word: `line` if rows are numbered by the lines of a CSV, otherwise `row`.
        rows: `FILE`, `LINE` and the columns of the file, those of a CSV all text, without blank lines.
        notes: sentences about a guessed encoding.
        bad: invalid lines, which are left out.
        short: lines with fewer values than the header; the missing values are null.
        last: number of the last line of a CSV or of JSON Lines with an invalid line.
    """

    name: str
    word: str
    rows: pl.LazyFrame
    notes: list[str] = field(default_factory=list)
    bad: list[Problem] = field(default_factory=list)
    short: list[Problem] = field(default_factory=list)
    last: int = 0

    def complete(self) -> pl.DataFrame:
        """Return the rows of a table without invalid or short lines.

        Raises:
            UnreadableError: a line is invalid or short.
        """
        if problems := sorted(self.bad + self.short):
            line, problem = problems[0]
            hint = "; it may be truncated, or its decimal commas are also its separators" if self.word == "line" else ""
            raise UnreadableError(f"{self.name}, line {line} {problem}{hint}")
        return self.rows.collect()


# --- files and columns ------------------------------------------------------------------------------
def matching_files(setting: str, pattern: str, content: str) -> list[Path]:
    """Return the table files that match a setting's path or glob, sorted.

    Raises:
        SourceRefusedError: no file matches.
    """
    paths = matching(pattern, ENDINGS)
    if not paths:
        raise SourceRefusedError(
            f"{setting}={pattern!r} matches no {', '.join(ENDINGS)} file; set it to a path or glob of files with "
            f"{content}."
        )
    return paths


@contextmanager
def unusable_file_refused(name: str, remedy: str) -> Iterator[None]:
    """Raise the errors of an unusable file as errors of a source that end with the remedy, a sentence."""
    try:
        yield
    except UnreadableError as error:
        raise SourceMalformedError(f"{error}. {remedy}") from error
    except pl.exceptions.PolarsError as error:
        raise SourceMalformedError(
            f"{name} cannot be read: it is damaged or changed while it was read. {remedy}"
        ) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SourceRefusedError(f"{name} cannot be read: {reason}; make it readable. {remedy}") from error


def normalised_names(columns: Sequence[str]) -> dict[str, str]:
    """Return the columns by their normalised names: lower case, words separated by `_`; the first of duplicates."""
    words = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column): column for column in reversed(columns)}
    plain = {re.sub(r"[^a-z0-9]+", "_", word.lower()).strip("_"): column for word, column in words.items()}
    return {key.removeprefix("btc_"): column for key, column in plain.items()}


def find_columns(columns: Sequence[str], names: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Return the file's column for each requested column; missing columns are omitted.

    Args:
        columns: columns of the file.
        names: accepted `normalised_names` of each requested column; the first one present is used.
    """
    present = normalised_names(columns)
    matches = {
        requested: next((present[name] for name in accepted if name in present), None)
        for requested, accepted in names.items()
    }
    return {requested: column for requested, column in matches.items() if column is not None}


# --- tables -----------------------------------------------------------------------------------------
def read_tables(path: Path, names_of: NamesOf) -> list[TableFile]:
    """Open the tables of a file; of Parquet and valid JSON Lines only the selected columns are read.

    Raises:
        UnreadableError: the file is damaged, empty or of another kind.
        OSError: the file cannot be opened.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        return [_parquet(path.name, path)]
    if name.endswith(_JSON[1:]) and (rows := _json_lines(glob.escape(str(path)), names_of)) is not None:
        return [TableFile(path.name, "row", _numbered(rows, path.name))]
    return read_content(path.name, path.read_bytes(), names_of)


def read_content(name: str, content: bytes, names_of: NamesOf, limit: int = MAX_BYTES) -> list[TableFile]:
    """Open the tables of a file's content; the first bytes determine whether it is an archive or Parquet.

    Args:
        name: name of the file, whose ending tells CSV from JSON.
        content: bytes of the file.
        names_of: see `NamesOf`.
        limit: largest unpacked size, bytes.

    Raises:
        UnreadableError: the content is damaged, empty, too large or of another kind.
    """
    return [_table(part, plain, names_of) for part, plain in unpack(name, content, _TABLES, limit)]


def _table(name: str, content: bytes, names_of: NamesOf) -> TableFile:
    if content.startswith(b"PAR1") or name.lower().endswith(".parquet"):
        return _parquet(name, content)
    text, notes = decode_text(name, content)
    if not text.strip(_BLANK + "\n"):
        raise UnreadableError(f"{name} is empty")
    parse = _json_table if name.lower().endswith(_JSON) else _csv_table
    return parse(name, text.lstrip("\ufeff"), notes, names_of)


def _parquet(name: str, source: Path | bytes) -> TableFile:
    try:
        rows = _numbered(pl.scan_parquet(source, hive_partitioning=False, glob=False), name)
        rows.collect_schema()
    except pl.exceptions.PolarsError as error:
        raise invalid_file(name, "Parquet") from error
    return TableFile(name, "row", rows)


def _numbered(rows: pl.LazyFrame, name: str) -> pl.LazyFrame:
    return rows.with_row_index(LINE, offset=1).with_columns(pl.lit(f"{name}, row").alias(FILE))


# --- CSV --------------------------------------------------------------------------------------------
def _csv_table(name: str, text: str, notes: list[str], names_of: NamesOf) -> TableFile:
    csv.field_size_limit(_MAX_VALUE_CHARACTERS)
    lines = text.rstrip("\n").split("\n")
    start, separator, names = _header(lines, names_of)
    numbers: Sequence[int] = range(start + 1, len(lines) + 1)
    records, bad = lines[start:], list[Problem]()
    if any('"' in record for record in records):
        numbers, records, bad = _without_quotation_marks(records, start, separator)
        separator = _UNIT
    values, blank = pl.col("values"), pl.col("values").str.strip_chars(_BLANK) == ""
    table = pl.DataFrame({LINE: numbers, "values": records}, {LINE: pl.UInt32, "values": pl.String})
    table = table.filter(~blank).with_columns(values.str.split(separator))
    # A line may end with a separator even if the header does not, and vice versa.
    width, closing = len(names), 1 if names[-1] == "" else 0
    surplus = values.list.len().cast(pl.Int64) - width
    long = (surplus > 0) & ~((surplus == 1) & (values.list.last().str.strip_chars() == ""))
    short = surplus < -closing

    def problems(faulty: pl.Expr) -> list[Problem]:
        counts = table.filter(faulty).select(LINE, values.list.len()).rows()
        return [(line, f"has {count} values, but the header has {width - closing}") for line, count in counts]

    columns = [called if names.index(called) == place else f"{called} ({place + 1})"
               for place, called in enumerate(names)]  # fmt: skip
    rows = table.filter(~long).select(
        pl.lit(f"{name}, line").alias(FILE), LINE,
        *(values.list.get(place, null_on_oob=True).replace("", None).alias(column)
          for place, column in enumerate(columns)),
    )  # fmt: skip
    return TableFile(name, "line", rows.lazy(), notes, sorted(bad + problems(long)), problems(short), len(lines))


def _header(lines: list[str], names_of: NamesOf) -> tuple[int, str, list[str]]:
    """Return the index of the first line below the header, the separator and the names of the columns."""
    filled = (number for number, line in enumerate(lines) if line.strip(_BLANK))
    first, *others = itertools.islice(filled, _MAX_PREAMBLE)
    for number, separator in itertools.product((first, *others), _SEPARATORS):
        cells = _cells(lines[number], separator)
        if names := names_of(cells):
            return (number + 1 if list(names) == cells else number), separator, list(names)
    separator = max(_SEPARATORS, key=lambda separator: len(_cells(lines[first], separator)))
    return first + 1, separator, _cells(lines[first], separator)


def _cells(line: str, separator: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]


def _without_quotation_marks(
    lines: list[str], start: int, separator: str
) -> tuple[list[int], list[str], list[Problem]]:
    """Return the line numbers of records, their values separated by `_UNIT`, and lines with unbalanced marks."""
    texts = (line.replace(_UNIT, " ") + "\n" for line in lines)
    reader = csv.reader(texts, delimiter=separator, skipinitialspace=True, strict=True)
    numbers, records, bad = list[int](), list[str](), list[Problem]()
    while True:
        first_line = start + reader.line_num + 1
        try:
            records.append(_UNIT.join(next(reader)))
            numbers.append(first_line)
        except StopIteration:
            return numbers, records, bad
        except csv.Error:
            last_line = start + reader.line_num
            bad += [(line, "has an unbalanced quotation mark") for line in range(first_line, last_line + 1)]


# --- JSON -------------------------------------------------------------------------------------------
def _json_lines(source: str, names_of: NamesOf) -> pl.LazyFrame | None:
    """Return the rows of JSON Lines read by polars; None if it cannot read them or finds only envelopes."""
    try:
        rows = pl.scan_ndjson(source, infer_schema_length=None)
        schema = rows.collect_schema()
    except pl.exceptions.PolarsError:
        return None
    nested = any(isinstance(schema.get(key), (pl.List, pl.Struct)) for key in _ENVELOPES)
    return None if nested and names_of(schema.names()) is None else rows


def _json_table(name: str, text: str, notes: list[str], names_of: NamesOf) -> TableFile:
    documents, bad, last = list[Any](), list[Problem](), 0
    try:
        documents = [_parse_json(text)]
    except (ValueError, RecursionError):
        lines = text.rstrip().split("\n")
        last = len(lines)
        for number, line in enumerate(lines, 1):
            try:
                document = _parse_json(line) if line.strip() else []
            except (ValueError, RecursionError):
                document = None
            if isinstance(document, (Mapping, list)):
                documents.append(document)
            else:
                bad.append((number, f"is not a JSON object, it starts with {line.strip()[:_PREVIEW_CHARACTERS]!r}"))
    entries = [json.dumps(entry) for document in documents for entry in _entries(document, names_of)]
    if not entries:
        raise UnreadableError(f"{name}, line {bad[0][0]} {bad[0][1]}" if bad else f"{name} has no JSON object")
    try:
        rows = _numbered(pl.scan_ndjson("\n".join(entries).encode(), infer_schema_length=None), name)
        rows.collect_schema()
    except pl.exceptions.PolarsError as error:
        raise UnreadableError(f"{name} has values of incompatible types in one column") from error
    return TableFile(name, "row", rows, notes, bad, last=last)


def _entries(document: Any, names_of: NamesOf) -> Iterator[Mapping[str, Any]]:
    """Yield the entries of a document: the document itself, or the entries of a list or a service's envelope."""
    if isinstance(document, list):
        for part in document:
            yield from _entries(part, names_of)
    elif isinstance(document, Mapping):
        key = next((key for key in _ENVELOPES if _contains_objects(document.get(key))), None)
        if key is not None and names_of(list(document)) is None:
            yield from _entries(document[key], names_of)
        elif document:
            yield document


def _contains_objects(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(part, Mapping) for part in value))


def _parse_json(text: str) -> Any:
    return json.loads(text, parse_constant=lambda _: None)
