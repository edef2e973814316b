"""Dagster definitions of the champion."""

import dagster as dg

from btc_assets.champion.assets import ASSETS

DEFINITIONS = dg.Definitions(assets=ASSETS)
