"""What the market brings to the graph."""

import dagster as dg

from btc_assets.market.assets import ASSETS
from btc_assets.market.checks import CHECKS
from btc_assets.market.resources import Market
from btc_assets.settings import settings

DEFINITIONS = dg.Definitions(assets=ASSETS, asset_checks=CHECKS, resources={"market": Market.from_settings(settings())})
