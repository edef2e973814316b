"""The contract of the alert log."""

import polars as pl

from btc_assets.columns import ITEM_ID
from btc_assets.schema import UTC_TIME, Column, check, declare, schema

ALERTS = declare(
    table="alerts/alerts",
    schema=schema(
        {
            "alert_id": Column(pl.String, ITEM_ID, about="names the alert in every channel"),
            "channel": Column(pl.String, about="log, webhook or email"),
            "raised_at": Column(UTC_TIME, about="when it was raised, UTC"),
            "rule": Column(pl.String, about="the rule that raised it"),
            "kind": Column(pl.String, about="what the rule watches"),
            "severity": Column(pl.String, check("isin", ["info", "medium", "high"]), about="how grave it is"),
            "subject": Column(pl.String, about="what it is about"),
            "message": Column(pl.String, about="a sentence for a person"),
            "value": Column(pl.Float64, nullable=True, about="the figure behind it, in the unit of its kind"),
            "bound": Column(pl.Float64, nullable=True, about="where the rule begins to count"),
            "state": Column(
                pl.String, check("isin", ["pending", "delivered", "undeliverable"]), about="of this delivery"
            ),
            "tries": Column(pl.Int64, check("ge", 0), about="deliveries tried"),
            "settled_at": Column(UTC_TIME, nullable=True, about="when it was delivered or given up, UTC"),
            "fault": Column(pl.String, about="why the last try failed; empty where it did not"),
        },
    ),
    day=pl.col("raised_at").dt.date(),
    key=("alert_id", "channel"),
)
