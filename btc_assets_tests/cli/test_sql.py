"""`btc-assets sql` from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from btc_assets.lake import Lake, by_day
from btc_assets.market.tables import PRICES
from btc_assets.news.tables import ARTICLES
from btc_assets.settings import PROJECT_ROOT
from btc_assets_tests.conftest import random_walk_bars


def run_sql(data: Path, query: str) -> subprocess.CompletedProcess[str]:
    """Run the command in its own process, which must register every table itself."""
    return subprocess.run(
        [sys.executable, "-m", "btc_assets", "sql", query],
        cwd=PROJECT_ROOT, env={"PATH": os.environ["PATH"], "BTC_DATA_DIR": str(data)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_it_answers_about_every_stored_table_and_names_the_views_when_it_cannot(tmp_path: Path) -> None:
    lake = Lake(root=str(tmp_path / "lake"))
    for day, part in by_day(PRICES, random_walk_bars(48), [date(2018, 1, 1), date(2018, 1, 2)]):
        lake.write(PRICES, day, part)
    lake.write(ARTICLES, date(2018, 1, 1), ARTICLES.empty())
    assert "48" in run_sql(tmp_path, "SELECT count(*) AS bars FROM market.prices").stdout
    failed = run_sql(tmp_path, "SELECT * FROM market.pieces")
    assert failed.returncode == 2
    assert failed.stderr.rstrip().endswith("The views are: market.prices, news.articles")
