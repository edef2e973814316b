"""Dagster definitions of features and labels."""

import dagster as dg

from btc_assets.features.assets import ASSETS
from btc_assets.features.checks import CHECKS

DEFINITIONS = dg.Definitions(assets=ASSETS, asset_checks=CHECKS)
