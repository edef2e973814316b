"""Dagster definitions of the causality laws: checks on the feature tables."""

import dagster as dg

from btc_assets.laws.checks import CHECKS

DEFINITIONS = dg.Definitions(asset_checks=CHECKS)
