"""Contract of the published bundles."""

import polars as pl

from btc_assets.columns import CUTOFF, MODEL_DIGEST
from btc_assets.schema import UTC_TIME, Column, check, declare, schema

SERVING_BUNDLE = declare(
    table="serving/bundle",
    schema=schema(
        {
            "day": Column(pl.Date, about="day of the published forecast"),
            "bundle_id": Column(
                pl.String, check("str_matches", r"^[0-9a-f]{16}$"), about="id and folder name of the bundle"
            ),
            "model_version": Column(pl.Int64, about="registry version of the model"),
            "model_cutoff": CUTOFF,
            "model_digest": MODEL_DIGEST,
            "made_at": Column(UTC_TIME, about="when the newest forecast was made"),
            "published_at": Column(
                UTC_TIME, nullable=True, about="when the bundle was published; null if it was not published"
            ),
            "forecasts": Column(pl.Int64, check("ge", 1), about="forecast rows in serving.duckdb"),
            "outcomes": Column(pl.Int64, check("ge", 0), about="outcome rows in serving.duckdb"),
        },
    ),
    day=pl.col("day"),
    key=("day",),
)
