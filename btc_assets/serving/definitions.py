"""The Dagster definitions of serving."""

import dagster as dg

from btc_assets.serving.assets import ASSETS

DEFINITIONS = dg.Definitions(assets=ASSETS)
