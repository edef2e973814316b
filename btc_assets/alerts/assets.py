"""The asset that records the alerts of each day."""

from dataclasses import asdict
from datetime import timedelta

import dagster as dg
import polars as pl

from btc_assets import freshness
from btc_assets.alerts.outbox import Outbox
from btc_assets.alerts.tables import ALERTS
from btc_assets.clock import midnight
from btc_assets.display import table_metadata
from btc_assets.lake import output_of
from btc_assets.partitions import DAILY, day_of
from btc_assets.schema import dagster_type


@dg.asset(
    key=["alerts", "alerts"],
    partitions_def=DAILY,
    group_name="alerts",
    backfill_policy=dg.BackfillPolicy.single_run(),
    code_version="1",
    op_tags={"dagster/max_runtime": "3600", "dagster/priority": "1"},
    dagster_type=dagster_type(ALERTS),
    kinds={"sqlite"},
    freshness_policy=freshness.DAILY,
)
def alerts(context: dg.AssetExecutionContext, outbox: dg.ResourceParam[Outbox]) -> dg.Output[pl.DataFrame]:
    """Every alert raised on a day and the delivery state of each of its channels.

    An alert is stored in the outbox before its first delivery attempt; this table is the daily record of the outbox.
    """
    days = sorted(map(day_of, context.partition_keys))
    raised = outbox.between(midnight(days[0]), midnight(days[-1] + timedelta(days=1)))
    frame = pl.DataFrame([asdict(alert) for alert in raised], schema=ALERTS.columns).sort(ALERTS.key)
    frame = frame.filter(ALERTS.day.is_in(days))
    tally = frame.group_by("severity", "rule", "channel", "state").len("n").sort("severity", "rule", "channel", "state")
    undelivered = frame.filter(pl.col("state") != "delivered").height
    return output_of(context, ALERTS, frame, {"tally": table_metadata(tally), "not_delivered": undelivered})


ASSETS = [alerts]
