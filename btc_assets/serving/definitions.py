"""What serving brings to the graph."""

import dagster as dg

from btc_assets.serving.assets import ASSETS

DEFINITIONS = dg.Definitions(assets=ASSETS)
