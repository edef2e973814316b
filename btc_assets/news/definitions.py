"""Dagster definitions of the news domain."""

import dagster as dg

from btc_assets.news.assets import ASSETS
from btc_assets.news.checks import CHECKS
from btc_assets.news.resources import News
from btc_assets.settings import settings

DEFINITIONS = dg.Definitions(assets=ASSETS, asset_checks=CHECKS, resources={"news": News.from_settings(settings())})
