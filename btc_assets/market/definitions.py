"""Dagster definitions of the market domain."""

import dagster as dg

from btc_assets.market.assets import ASSETS
from btc_assets.market.checks import CHECKS
from btc_assets.market.gathering import Sources, asset_of, check_of
from btc_assets.market.resources import Market
from btc_assets.market.streams import CONTEXT_ON
from btc_assets.settings import settings

GATHERED = {stream: asset_of(stream) for stream in CONTEXT_ON}
"""Assets of the streams that `BTC_CONTEXT` enables."""

DEFINITIONS = dg.Definitions(
    assets=[*ASSETS, *GATHERED.values()],
    asset_checks=[*CHECKS, *(check_of(stream, asset) for stream, asset in GATHERED.items())],
    resources={
        "market": Market.from_settings(settings()),
        **({"sources": Sources(settings())} if GATHERED else {}),
    },
)
