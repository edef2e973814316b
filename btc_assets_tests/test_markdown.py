from __future__ import annotations

from btc_assets.markdown import markdown_rows


def test_a_table_has_its_headings_a_rule_and_a_line_for_each_row() -> None:
    table = markdown_rows(("source", "rows"), [("rss", 3), ("gdelt", 12)], right=("rows",))
    assert table.splitlines() == ["| source | rows |", "|---|---:|", "| rss | 3 |", "| gdelt | 12 |"]


def test_a_table_without_rows_keeps_its_headings() -> None:
    assert markdown_rows(("a", "b"), []) == "| a | b |\n|---|---|"
