"""What the jobs select."""

from datetime import date, timedelta

import dagster as dg
import pytest

from btc_assets.automation.jobs import fetched_with_the_clock, gathered_tables
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
