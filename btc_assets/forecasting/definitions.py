"""Dagster definitions of forecasting."""

import dagster as dg

from btc_assets.forecasting.assets import ASSETS
from btc_assets.forecasting.checks import CHECKS

DEFINITIONS = dg.Definitions(assets=ASSETS, asset_checks=CHECKS)
