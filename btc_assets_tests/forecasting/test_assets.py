"""The lineage of the assets of forecasts; their runs are tested with those of monitoring, on one lake."""

import dagster as dg

from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.forecasting import assets as forecasting
from btc_assets.learning.tables import TRAINED_MODEL, TRAINING_PROFILE


def test_forecasts_do_not_depend_on_models_of_later_days() -> None:
    for table in (TRAINED_MODEL, TRAINING_PROFILE, MODEL_HISTORY):
        mapping = forecasting.forecasts.get_partition_mapping(table.asset_key)
        assert isinstance(mapping, dg.TimeWindowPartitionMapping)
        assert mapping.end_offset == 0
        assert mapping.start_offset < 0
