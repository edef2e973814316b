"""Contributions add up to the stored forecast, and sentences name inputs with values and units."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from btc_assets.features.tables import HOURLY_FEATURES
from btc_assets.forecasting import assets, checks
from btc_assets.forecasting.explanations import explain_hours, unequal_sums
from btc_assets.forecasting.forecasts import forecast_hours
from btc_assets.forecasting.tables import EXPLANATIONS, FORECASTS
from btc_assets.lake import Lake
from btc_assets.learning.forecast_model import ForecastModel
from btc_assets.learning.natives import native_names
from btc_assets.learning.registry import ModelRegistry
from btc_assets.learning.tables import TRAINING_PROFILE
from btc_assets.partitions import DAILY, key_of
from btc_assets.reads import lake_resources
from btc_assets.vocabulary import HORIZONS, QUANTILE_NAMES
from btc_assets_tests.conftest import random_walk_bars
from btc_assets_tests.serving.builders import FEATURE_NAMES, MADE_AT, tiny_natives, write_model, write_natives

HOURS = 6
WITHOUT_FLOW, WITHOUT_ANYTHING = 2, 4
"""Hours in which the volume ratio, and every input, is missing."""


@dataclass
class Stored:
    """A registry of one model."""

    root: Path

    def load(self, _: int) -> ForecastModel:
        """Return the model."""
        return ForecastModel.load(self.root / "model")

    def native(self, _: int) -> Path:
        """Return its members."""
        return self.root / "native"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    root = tmp_path_factory.mktemp("registry")
    write_model(root / "model")
    write_natives(root / "native")
    return Stored(root)


def hour(i: int) -> datetime:
    return MADE_AT + timedelta(hours=i)


BARS = random_walk_bars(HOURS, start=hour(0))
VALUES = np.random.default_rng(3).normal(size=(HOURS, len(FEATURE_NAMES))) ** 2
FEATURES = pl.DataFrame(
    {
        "open_time": [hour(i) for i in range(HOURS)],
        "available_at": [hour(i + 1) for i in range(HOURS)],
        **{name: VALUES[:, i] for i, name in enumerate(FEATURE_NAMES)},
    }
).select(
    pl.when(
        ((pl.col("open_time") == hour(WITHOUT_FLOW)) & (name == "volume_ratio"))
        | (pl.col("open_time") == hour(WITHOUT_ANYTHING))
        | (name not in FEATURE_NAMES)
    )
    .then(None)
    .otherwise(pl.col(name) if name in FEATURE_NAMES else None)
    .cast(dtype)
    .alias(name)
    if name not in ("open_time", "available_at")
    else pl.col(name).cast(dtype)
    for name, dtype in HOURLY_FEATURES.columns.items()
)
"""Hours of random values; some are missing."""


def profile() -> pl.DataFrame:
    """Return TRAINING_PROFILE rows of a window in which no input was missing."""
    rows = [
        {"cutoff": MADE_AT.date(), "horizon_minutes": horizon, "feature": name, "missing_share": 0.0}
        | {"longest_missing_hours": 0, "median": 0.5, "gone": False, "weight": 0.25, "base_rate": 0.52, "rows": 100}
        | {quantile: 0.5 * (i - 2) for i, quantile in enumerate(QUANTILE_NAMES)}
        for horizon in HORIZONS
        for name in FEATURE_NAMES
    ]
    return pl.DataFrame(rows, schema=TRAINING_PROFILE.columns)


@pytest.fixture(scope="module")
def forecasts(models: Stored) -> pl.DataFrame:
    model = models.load(1)
    chosen = FEATURES.select(
        "open_time",
        pl.lit("champion").alias("role"),
        pl.lit(1, pl.Int64).alias("model_version"),
        pl.lit(model.cutoff).alias("model_cutoff"),
        pl.lit(model.digest).alias("model_digest"),
    )
    return forecast_hours(FEATURES, BARS, chosen, models, profile())


@pytest.fixture(scope="module")
def explained(models: Stored, forecasts: pl.DataFrame) -> pl.DataFrame:
    return explain_hours(forecasts, FEATURES, models, profile())


def at(explained: pl.DataFrame, i: int) -> dict[str, object]:
    """Return the explanation of the 60 min forecast of an hour."""
    return explained.filter((pl.col("open_time") == hour(i)) & (pl.col("horizon_minutes") == 60)).row(0, named=True)


def test_every_forecast_is_explained_by_contract(explained: pl.DataFrame, forecasts: pl.DataFrame) -> None:
    assert EXPLANATIONS.faults(explained) == []
    assert explained.height == forecasts.height == HOURS * len(HORIZONS)


def test_contributions_add_up_to_the_stored_forecasts(explained: pl.DataFrame, forecasts: pl.DataFrame) -> None:
    """Also where a member abstains."""
    assert set(forecasts["abstained"]) == {"", "flow"}
    assert unequal_sums(explained, forecasts).is_empty()
    assert any(json.loads(raises) for raises in explained["raises"])


def test_a_changed_contribution_or_forecast_is_noticed(explained: pl.DataFrame, forecasts: pl.DataFrame) -> None:
    changed = explained.with_columns(pl.col("others") + 2e-6)
    assert unequal_sums(changed, forecasts).height == explained.height
    other = forecasts.with_columns(model_digest=pl.lit("0" * 64))
    assert unequal_sums(explained, other).height == explained.height
    assert unequal_sums(EXPLANATIONS.empty(), FORECASTS.empty()).is_empty()


def test_a_degraded_forecast_says_what_is_missing(explained: pl.DataFrame) -> None:
    sentence = str(at(explained, WITHOUT_FLOW)["sentence"])
    assert "degraded" in sentence
    assert "volume_ratio" in sentence
    assert "flow" in sentence
    assert "degraded" not in str(at(explained, 0)["sentence"])


def test_the_base_rate_has_no_contributions(models: Stored, forecasts: pl.DataFrame) -> None:
    replaced = forecasts.filter(pl.col("open_time") == hour(WITHOUT_ANYTHING)).with_columns(fallback=True, p_up=0.52)
    explained = explain_hours(replaced, FEATURES, models, profile())
    row = at(explained, WITHOUT_ANYTHING)
    assert (row["raises"], row["lowers"], row["others"]) == ("[]", "[]", 0.0)
    assert "52.0 %, the share of rises in the training window" in str(row["sentence"])
    assert unequal_sums(explained, replaced).is_empty()


def test_a_model_without_its_members_is_refused(models: Stored, forecasts: pl.DataFrame, tmp_path: Path) -> None:
    @dataclass
    class Bare(Stored):
        def native(self, _: int) -> Path:
            return tmp_path

    with pytest.raises(FileNotFoundError):
        explain_hours(forecasts, FEATURES, Bare(models.root), profile())


class StoredRegistry(ModelRegistry):
    """A registry of one model.

    Attributes:
        root: folder of the model and its members.
    """

    root: str

    def load(self, version: int) -> ForecastModel:
        """Return the model."""
        return Stored(Path(self.root)).load(version)

    def native(self, version: int) -> Path:
        """Return its members."""
        return Stored(Path(self.root)).native(version)


def materialise(lake: Lake, root: Path) -> tuple[dict[str, object], bool]:
    """Materialise the explanations of the day; return their metadata and whether the check passed."""
    asset = assets.explanations
    result = dg.materialize(
        [asset, checks.contributions_add_up, *(dg.AssetSpec(k, partitions_def=DAILY) for k in asset.dependency_keys)],
        selection=dg.AssetSelection.assets(asset),
        partition_key=key_of(MADE_AT.date()),
        resources={**lake_resources(lake), "registry": StoredRegistry(tracking_uri="", root=str(root))},
    )
    (event,) = result.get_asset_materialization_events()
    (check,) = result.get_asset_check_evaluations()
    return {name: value.value for name, value in event.materialization.metadata.items()}, check.passed


def test_the_asset_explains_the_stored_forecasts(
    models: Stored, forecasts: pl.DataFrame, explained: pl.DataFrame, tmp_path: Path
) -> None:
    lake, day = Lake(root=str(tmp_path / "lake")), MADE_AT.date()
    for contract, frame in ((FORECASTS, forecasts), (HOURLY_FEATURES, FEATURES), (TRAINING_PROFILE, profile())):
        lake.write(contract, day, frame)
    metadata, passed = materialise(lake, models.root)
    stored = lake.read(EXPLANATIONS, day)
    assert stored is not None
    assert stored.equals(explained)
    assert passed
    assert str(at(explained, HOURS - 1)["sentence"]) in str(metadata["newest"])

    (tmp_path / "model").symlink_to(models.root / "model")  # a registry without the members
    metadata, passed = materialise(lake, tmp_path)
    assert (metadata["unexplained"], passed) == (forecasts.height, False)


def test_natives_have_the_names_of_the_stored_files(models: Stored) -> None:
    assert sorted(native_names(models.load(1).document)) == sorted(tiny_natives())
