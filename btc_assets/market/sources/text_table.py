"""From the text of a CSV to a table: the header and the separator are detected, and every row keeps its line."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import polars as pl

from btc_assets.archives import UnreadableError

LINE = "line of the file"
"""Column of a table that holds each row's line, from 1."""
_SEPARATORS = (",", ";", "\t", "|")
_MOST_ABOVE = 50
"""Lines that may precede the header."""
_BLANK = " \t,;|\x1a"
"""What a line without a value may hold; spreadsheets write separators alone, DOS ends a file with Ctrl-Z."""

NamesOf = Callable[[Sequence[str]], Sequence[str] | None]


def text_table(name: str, text: str, names_of: NamesOf) -> pl.DataFrame:
    """Read separated values as text.

    Args:
        name: of the file, for messages.
        text: what is in it.
        names_of: returns the names of the columns where the cells of a line are a header that can be used (those
            cells) or the first row of a file without one (names for it), and None where they are neither.

    Returns:
        One column a name, all text, and `LINE`. Blank lines and lines above the header are left out.

    Raises:
        UnreadableError: it is empty, or a line has more or fewer values than the header.
    """
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip(_BLANK)]
    if not numbered:
        raise UnreadableError(f"{name} is empty")
    above, separator, names, headless = _header(numbered, names_of)
    body = numbered[above if headless else above + 1 :]
    lines = pl.Series("text", [line for _, line in body], pl.String)
    numbers = pl.Series(LINE, [number for number, _ in body], pl.UInt32)
    plain = lines.str.replace_all(r'"[^"]*"', "") if '"' in text else lines
    width = len(names)
    surplus = plain.str.count_matches(separator, literal=True).cast(pl.Int64) + 1 - width
    # A line may end in its separator, whether or not the header does.
    closing = 1 if names[-1] == "" else 0
    fits = (surplus == 0) | (surplus == -closing) | ((surplus == 1) & plain.str.ends_with(separator))
    if not fits.all():
        row = fits.not_().arg_max() or 0
        raise UnreadableError(
            f"{name}, line {numbers[row]}: expected {width - closing} values as above it, got {surplus[row] + width}; "
            f"the line may be cut, or its decimal commas are its separators"
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
        raise UnreadableError(f"{name} is no table: its quotation marks do not pair") from error
    if table.height != lines.len():
        raise UnreadableError(f"{name} is no table: a quoted value goes over several lines")
    return table.with_columns(numbers)


def _header(numbered: list[tuple[int, str]], names_of: NamesOf) -> tuple[int, str, list[str], bool]:
    """Return how many lines are above the header or first row, the separator, the names, and if there is no header."""
    for above, (_, line) in enumerate(numbered[:_MOST_ABOVE]):
        for separator in _SEPARATORS:
            cells = _cells(line, separator)
            if names := names_of(cells):
                return above, separator, list(names), list(names) != cells
    first = numbered[0][1]
    separator = max(_SEPARATORS, key=first.count)
    return 0, separator, _cells(first, separator), False


def _cells(line: str, separator: str) -> list[str]:
    return [cell.strip().strip('"').strip() for cell in line.split(separator)]
