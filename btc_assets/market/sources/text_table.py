"""Parse the text of a CSV into a table: detect header and separator, and keep each row's line number."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import polars as pl

from btc_assets.archives import UnreadableError

LINE = "line of the file"
"""Column with each row's line number, from 1."""
_SEPARATORS = (",", ";", "\t", "|")
_MAX_PREAMBLE = 50
"""Largest number of lines before the header."""
_BLANK = " \t,;|\x1a"
"""Characters of a line without a value: spreadsheets write separators alone, DOS ends a file with Ctrl-Z."""

NamesOf = Callable[[Sequence[str]], Sequence[str] | None]


def text_table(name: str, text: str, names_of: NamesOf) -> pl.DataFrame:
    """Parse separated values into columns of text.

    Args:
        name: file name, for messages.
        text: content of the file.
        names_of: returns the column names if the cells of a line are a usable header (then the cells themselves) or
            the first row of a file without a header; None if they are neither.

    Returns:
        One text column per name, and `LINE`. Blank lines and lines above the header are left out.

    Raises:
        UnreadableError: the file is empty, or a line has more or fewer values than the header.
    """
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip(_BLANK)]
    if not numbered:
        raise UnreadableError(f"{name} is empty")
    above, separator, names, headerless = _header(numbered, names_of)
    body = numbered[above if headerless else above + 1 :]
    lines = pl.Series("text", [line for _, line in body], pl.String)
    numbers = pl.Series(LINE, [number for number, _ in body], pl.UInt32)
    plain = lines.str.replace_all(r'"[^"]*"', "") if '"' in text else lines
    width = len(names)
    surplus = plain.str.count_matches(separator, literal=True).cast(pl.Int64) + 1 - width
    # A line may end with a separator even if the header does not, and vice versa.
    closing = 1 if names[-1] == "" else 0
    fits = (surplus == 0) | (surplus == -closing) | ((surplus == 1) & plain.str.ends_with(separator))
    if not fits.all():
        row = fits.not_().arg_max() or 0
        raise UnreadableError(
            f"{name}, line {numbers[row]}: expected {width - closing} values as in the lines above, got "
            f"{surplus[row] + width}; the line may be truncated, or its decimal commas are also its separators"
        )
    unique = [
        called if names.index(called) == place else f"{called} ({place + 1})" for place, called in enumerate(names)
    ]
    if lines.is_empty():
        return pl.DataFrame(schema=dict.fromkeys(unique, pl.String) | {LINE: pl.UInt32})
    try:
        table = pl.read_csv(
            io.BytesIO("\n".join(lines).encode()),
            separator=separator, has_header=False, infer_schema=False, truncate_ragged_lines=True,
            extra_columns="ignore",
            schema=dict.fromkeys(unique, pl.String),
        )  # fmt: skip
    except pl.exceptions.PolarsError as error:
        raise UnreadableError(f"{name} is not a table: its quotation marks do not match") from error
    if table.height != lines.len():
        raise UnreadableError(f"{name} is not a table: a quoted value spans several lines")
    return table.with_columns(numbers)


def _header(numbered: list[tuple[int, str]], names_of: NamesOf) -> tuple[int, str, list[str], bool]:
    """Return the lines above the header or first row, the separator, the names, and whether there is no header."""
    for above, (_, line) in enumerate(numbered[:_MAX_PREAMBLE]):
        for separator in _SEPARATORS:
            cells = _cells(line, separator)
            if names := names_of(cells):
                return above, separator, list(names), list(names) != cells
    first = numbered[0][1]
    separator = max(_SEPARATORS, key=first.count)
    return 0, separator, _cells(first, separator), False


def _cells(line: str, separator: str) -> list[str]:
    return [cell.strip().strip('"').strip() for cell in line.split(separator)]
