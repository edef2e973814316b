"""`btc-assets sql` from the command line."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from btc_assets.cli.main import main
from btc_assets.lake import Lake, by_day
from btc_assets.market.tables import PRICES
from btc_assets.settings import settings
from btc_assets_tests.conftest import random_walk_bars


def test_the_command_answers_a_question_and_names_the_views_when_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = Lake(root=str(tmp_path / "lake"))
    for day, part in by_day(PRICES, random_walk_bars(48), [date(2018, 1, 1), date(2018, 1, 2)]):
        lake.write(PRICES, day, part)
    monkeypatch.setenv("BTC_DATA_DIR", str(tmp_path))
    settings.cache_clear()
    try:
        assert main(["sql", "SELECT count(*) AS bars FROM market.prices"]) == 0
        assert "48" in capsys.readouterr().out
        assert main(["sql", "SELECT * FROM market.pieces"]) == 2
        assert "market.prices" in capsys.readouterr().err
    finally:
        monkeypatch.undo()
        settings.cache_clear()
