"""`btc-assets compare` from the command line."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from btc_assets.cli.main import main
from btc_assets.learning.tables import FAMILY_COMPARISON
from btc_assets_tests.conftest import random_walk_bars


@pytest.fixture
def bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return a file with eight weeks of bars; results are stored beside it."""
    monkeypatch.setenv("BTC_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("BTC_FEATURE_SET", "streamlined")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    random_walk_bars(24 * 56, start=datetime(2018, 1, 1, tzinfo=UTC)).write_parquet("bars.parquet")
    return "bars.parquet"


def compare(bars: str, families: str, start: str, end: str) -> int:
    return main(
        ["compare", "--families", families, "--from", start, "--to", end, "--window-days", "40", "--files", bars]
    )


def test_it_prints_the_table_and_stores_it(bars: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(bars, "climatology,persistence", "2018-02-12", "2018-02-20") == 0
    shown = capsys.readouterr().out
    [path] = tmp_path.glob("comparisons/*/comparison.parquet")
    rows = pl.read_parquet(path)
    assert FAMILY_COMPARISON.faults(rows) == []
    assert rows.height == 3
    assert path.with_suffix(".md").read_text().strip() in shown
    assert pl.read_csv(path.with_suffix(".csv"))["family"].to_list() == rows["family"].to_list()


@pytest.mark.parametrize(
    ("families", "start", "end", "message"),
    [
        ("persistence,oracle", "2018-02-12", "2018-02-20", "there is no model family 'oracle'"),
        ("persistence,persistence", "2018-02-12", "2018-02-20", "names persistence twice"),
        ("persistence", "2018-02-20", "2018-02-12", "expected --from on or before --to"),
        ("persistence", "2012-02-12", "2012-02-20", "has no bars from"),
    ],
)
def test_unusable_input_is_refused_with_one_sentence(
    bars: str, capsys: pytest.CaptureFixture[str], families: str, start: str, end: str, message: str
) -> None:
    assert compare(bars, families, start, end) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""


def test_an_empty_lake_is_refused(bars: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--families", "persistence", "--from", "2018-02-12", "--to", "2018-02-20"]) == 2
    assert "the data has none of them" in capsys.readouterr().err
