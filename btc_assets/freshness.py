"""Freshness policies that assets of several domains share."""

from datetime import timedelta

import dagster as dg

HOURLY = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=3), warn_window=timedelta(hours=2))
"""Of what each closed hour makes again."""
DAILY = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=50), warn_window=timedelta(hours=26))
"""Of the report or record of each closed day."""
WEEKLY = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=14), warn_window=timedelta(days=8))
"""Of what each weekly training makes."""
