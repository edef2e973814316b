"""The Dagster definitions of monitoring."""

import dagster as dg

from btc_assets.monitoring.assets import ASSETS
from btc_assets.monitoring.checks import CHECKS

DEFINITIONS = dg.Definitions(assets=ASSETS, asset_checks=CHECKS)
