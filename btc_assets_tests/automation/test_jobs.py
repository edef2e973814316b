"""What the jobs select and configure."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from btc_assets.automation import jobs
from btc_assets.automation.jobs import fetched_with_the_clock, gathered_tables
from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.lake import Lake
from btc_assets.market.quarter_bars import QUARTER_BARS
from btc_assets.market.tables import PRICES
from btc_assets.news.tables import ARTICLES, POSTS, SENTIMENT_SCORES
from btc_assets.settings import Settings


def test_a_deployment_without_news_prepares_days_without_their_assets() -> None:
    """Their missing outputs would make Dagster skip the features of the same run."""
    texts = {contract.asset_key for contract in (ARTICLES, POSTS, SENTIMENT_SCORES)}
    bars = {PRICES.asset_key, QUARTER_BARS.asset_key}
    assert gathered_tables(Settings(news_sources="none")) == bars
    assert gathered_tables(Settings(news_sources="sample")) == {*bars, *texts}


@pytest.mark.parametrize(("quarter_files", "fetched"), [("", []), ("quarters.csv", [QUARTER_BARS.asset_key])])
def test_files_without_quarter_bars_are_prepared_and_forecast_without_them(
    quarter_files: str, fetched: list[dg.AssetKey]
) -> None:
    day = date(2018, 5, 5)
    files = Settings(
        market_source="files",
        market_files="hours.csv",
        quarter_files=quarter_files,
        history_start=day,
        history_end=day + timedelta(days=1),
    )
    assert fetched_with_the_clock(files) == fetched
    assert gathered_tables(files) == {PRICES.asset_key, *fetched}


def test_a_requested_rollback_knows_the_newest_change_of_any_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The asset reads the history up to its day; what requests the run reads all of it."""
    config = Settings(data_dir=tmp_path)
    monkeypatch.setattr(jobs, "settings", lambda: config)
    change = datetime(2018, 6, 4, 9, tzinfo=UTC)
    row = {"effective_from": change, "role": "champion", "event": "promoted"}
    Lake(root=config.lake_root).write(MODEL_HISTORY, change.date(), pl.DataFrame([row], schema=MODEL_HISTORY.columns))
    requested = jobs.rollback_champion.config
    assert isinstance(requested, dg.PartitionedConfig)
    [step] = requested.get_run_config_for_partition_key(date(2018, 5, 1).isoformat())["ops"].values()
    assert step["config"] == {"event": "rollback", "champion_since": change.isoformat()}
