"""What the champion brings to the graph."""

import dagster as dg

from btc_assets.champion.assets import ASSETS

DEFINITIONS = dg.Definitions(assets=ASSETS)
