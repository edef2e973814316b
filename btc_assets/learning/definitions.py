"""The Dagster definitions of learning."""

import dagster as dg

from btc_assets.learning import assets, state_assets
from btc_assets.learning.registry import ModelRegistry
from btc_assets.settings import settings

DEFINITIONS = dg.Definitions(
    assets=[*assets.ASSETS, *state_assets.ASSETS],
    resources={
        "registry": ModelRegistry(tracking_uri=settings().tracking_uri, artifacts=str(settings().mlflow_artifacts))
    },
)
