"""The contract of the alerts table."""

import polars as pl

from btc_assets.columns import ITEM_ID
from btc_assets.schema import UTC_TIME, Column, check, declare, schema

ALERTS = declare(
    table="alerts/alerts",
    schema=schema(
        {
            "alert_id": Column(pl.String, ITEM_ID, about="id of the alert in every channel"),
            "channel": Column(pl.String, about="log, webhook or email"),
            "raised_at": Column(UTC_TIME, about="when it was raised, UTC"),
            "rule": Column(pl.String, about="the rule that raised it"),
            "kind": Column(pl.String, about="kind of the rule"),
            "severity": Column(pl.String, check("isin", ["info", "medium", "high"]), about="severity of the rule"),
            "subject": Column(pl.String, about="what the alert is about"),
            "message": Column(pl.String, about="one sentence that describes the condition"),
            "value": Column(pl.Float64, nullable=True, about="measured value, in the unit of the kind"),
            "bound": Column(pl.Float64, nullable=True, about="smallest value that the rule reports"),
            "state": Column(
                pl.String, check("isin", ["pending", "delivered", "undeliverable"]), about="state of the delivery"
            ),
            "tries": Column(pl.Int64, check("ge", 0), about="delivery attempts"),
            "settled_at": Column(UTC_TIME, nullable=True, about="when it was delivered or became undeliverable, UTC"),
            "fault": Column(pl.String, about="why the last attempt failed; empty if it succeeded"),
        },
    ),
    day=pl.col("raised_at").dt.date(),
    key=("alert_id", "channel"),
)
