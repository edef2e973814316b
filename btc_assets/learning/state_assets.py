"""Learning assets of the state of the market at a cutoff: its volatility and its regimes."""

import dagster as dg
import polars as pl

from btc_assets.clock import midnight
from btc_assets.lake import output_of
from btc_assets.learning import regimes
from btc_assets.learning.assets import COMMON
from btc_assets.learning.cutoff import same_cutoff
from btc_assets.learning.tables import MARKET_REGIMES, VOLATILITY_MODEL
from btc_assets.learning.volatility import (
    COLUMNS,
    WINDOW_DAYS,
    fit_volatility,
    score_volatility,
    volatility_rows,
)
from btc_assets.markdown import markdown_table
from btc_assets.partitions import day_of, days_before
from btc_assets.schema import dagster_type

_WINDOW = days_before(WINDOW_DAYS, and_today=False)


@dg.asset(
    key=["learning", "volatility_model"],
    **COMMON,
    dagster_type=dagster_type(VOLATILITY_MODEL),
    ins={
        "hourly_features": dg.AssetIn(key=["features", "hourly_features"], partition_mapping=_WINDOW),
        "hourly_labels": dg.AssetIn(key=["features", "hourly_labels"], partition_mapping=_WINDOW),
        "cv_folds": same_cutoff("learning/cv_folds"),
    },
    kinds={"polars", "numpy"},
)
def volatility_model(
    context: dg.AssetExecutionContext,
    hourly_features: pl.LazyFrame,
    hourly_labels: pl.LazyFrame,
    cv_folds: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """Volatility of the return over each horizon: an autoregression of the log variance over four years (HAR).

    A row has the volatility of the first linear model whose regressors it knows: from 15-minute bars and implied
    volatility down to the hourly bars of a day. On the folds of the cutoff the model is compared with GARCH(1,1)-t and
    the standard deviation of a rolling day, by QLIKE and by the pinball loss of conformal quantiles.
    """
    cutoff = day_of(context.partition_key)
    known = hourly_features.collect_schema().names()
    features = hourly_features.select("open_time", *(name for name in COLUMNS if name in known)).collect()
    labels, layout = hourly_labels.collect(), cv_folds.collect()
    horizons = layout["horizon_minutes"].unique().sort().to_list()
    document = fit_volatility(features, labels, end=midnight(cutoff), horizons=horizons)
    scores = score_volatility(features, labels, layout)
    return output_of(
        context,
        VOLATILITY_MODEL,
        volatility_rows(document, scores, cutoff),
        {
            "models": [model["name"] for model in document["models"]],
            "scores": dg.MetadataValue.md(markdown_table(scores)),
        },
    )


@dg.asset(
    key=["learning", "market_regimes"],
    **COMMON,
    dagster_type=dagster_type(MARKET_REGIMES),
    ins={
        "hourly_features": dg.AssetIn(
            key=["features", "hourly_features"], partition_mapping=days_before(regimes.WINDOW_DAYS, and_today=False)
        )
    },
    kinds={"scikitlearn", "numpy"},
)
def market_regimes(context: dg.AssetExecutionContext, hourly_features: pl.LazyFrame) -> dg.Output[pl.DataFrame]:
    """Regimes of the market before a cutoff: accumulation, uptrend, distribution and downtrend, and its volatility.

    The four states are clusters of hours in the principal components of features of trend and level, named by their
    trend and their distance to the highest price of a month. A hidden Markov model of the log variance gives the
    probability of high volatility in each hour from that hour and earlier ones.
    """
    cutoff = day_of(context.partition_key)
    features = hourly_features.select("open_time", *regimes.COLUMNS).collect()
    fitted = regimes.fit_regimes(features, end=midnight(cutoff))
    return output_of(
        context,
        MARKET_REGIMES,
        fitted.rows(cutoff),
        {"regimes": dg.MetadataValue.md(markdown_table(regimes.shares(fitted, features)))},
    )


ASSETS = [volatility_model, market_regimes]
