"""What the jobs select."""

from btc_assets.automation.jobs import gathered_tables
from btc_assets.market.tables import PRICES
from btc_assets.news.tables import ARTICLES, POSTS, SENTIMENT_SCORES
from btc_assets.settings import Settings


def test_a_deployment_without_news_prepares_days_without_their_assets() -> None:
    """Their missing outputs would make Dagster skip the features of the same run."""
    texts = {contract.asset_key for contract in (ARTICLES, POSTS, SENTIMENT_SCORES)}
    assert gathered_tables(Settings(news_sources="none")) == {PRICES.asset_key}
    assert gathered_tables(Settings(news_sources="sample")) == {PRICES.asset_key, *texts}
