"""Markdown tables from cells or a frame."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import polars as pl


def markdown_rows(headings: Sequence[str], rows: Iterable[Iterable[object]], *, right: Collection[str] = ()) -> str:
    """Return cells as a Markdown table.

    Args:
        headings: headings of the columns.
        rows: cells of each row; untrusted text must be escaped.
        right: headings of right-aligned columns.
    """
    rule = "".join(f"|{'---:' if heading in right else '---'}" for heading in headings)
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (headings, *rows)]
    return "\n".join([lines[0], f"{rule}|", *lines[1:]])


def markdown_table(frame: pl.DataFrame) -> str:
    """Return a frame as a Markdown table, floats with four significant digits."""
    with pl.Config(
        tbl_formatting="MARKDOWN",
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_rows=100,
        tbl_cols=30,
        fmt_str_lengths=200,
        tbl_width_chars=400,
    ):
        return str(frame.with_columns(pl.col(pl.Float64).round_sig_figs(4)))


def format_estimate(row: Mapping[str, float | None] | None, template: str) -> str:
    """Format a value with its interval; a dash without a value."""
    if row is None or row["value"] is None:
        return "-"
    if row["lower"] is None or row["upper"] is None:
        return template.format(row["value"])
    return f"{template.format(row['value'])} ({template.format(row['lower'])} to {template.format(row['upper'])})"
