"""The assets that a refresh of the hour makes."""

from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.forecasting.tables import EXPLANATIONS, FORECAST_OUTCOMES, FORECASTS
from btc_assets.market.quarter_bars import QUARTER_BARS
from btc_assets.market.tables import PRICES
from btc_assets.serving.tables import SERVING_BUNDLE

HOUR_ASSETS = [
    contract.asset_key
    for contract in (
        PRICES,
        QUARTER_BARS,
        HOURLY_FEATURES,
        HOURLY_LABELS,
        FORECASTS,
        FORECAST_OUTCOMES,
        EXPLANATIONS,
        SERVING_BUNDLE,
    )
]
"""In the order in which they follow from each other."""
