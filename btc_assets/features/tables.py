"""The contracts of the feature and label tables."""

import polars as pl

from btc_assets.columns import HORIZON, KNOWN_DAY, OPEN_TIME
from btc_assets.features.catalog import FEATURES
from btc_assets.schema import FINITE, ON_THE_HOUR, UTC_TIME, Column, declare, row_check, schema

HOURLY_FEATURES = declare(
    table="features/hourly_features",
    schema=schema(
        {
            "open_time": OPEN_TIME,
            "available_at": Column(UTC_TIME, ON_THE_HOUR, about="when the row could first be used: open_time + 1 h"),
            **{
                feature.name: Column(pl.Float64, FINITE, nullable=True, about=f"{feature.about} [{feature.unit}]")
                for feature in FEATURES
            },
        },
        row_check(
            "available one hour after open_time", pl.col("available_at") == pl.col("open_time").dt.offset_by("1h")
        ),
    ),
    day=pl.col("open_time").dt.date(),
    key=("open_time",),
)

HOURLY_LABELS = declare(
    table="features/hourly_labels",
    schema=schema(
        {
            "open_time": OPEN_TIME,
            "horizon_minutes": HORIZON,
            "known_at": Column(UTC_TIME, about="when the label was first known: open_time + 1 h + horizon"),
            "log_return": Column(
                pl.Float64, FINITE, nullable=True, about="ln(close h later / close), fraction; null across gaps"
            ),
        },
        row_check(
            "known when its window closes",
            pl.col("known_at") == pl.col("open_time") + pl.duration(minutes=pl.col("horizon_minutes") + 60),
        ),
    ),
    day=KNOWN_DAY,
    key=("open_time", "horizon_minutes"),
)
