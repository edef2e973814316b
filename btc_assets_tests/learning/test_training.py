"""Training from rows to a model folder, calibrated on out-of-fold forecasts."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from btc_assets.clock import midnight
from btc_assets.learning.families.xgboost import FAMILY, XgboostParameters
from btc_assets.learning.folds import Rows, make_folds
from btc_assets.learning.forecast_model import ForecastModel, save_model
from btc_assets.learning.tables import FOLD_FORECASTS
from btc_assets.learning.training import (
    FittedModel,
    fit_model,
    fit_output_calibration,
    forecast_folds,
    out_of_sample_metrics,
    row_weights,
)
from btc_assets.vocabulary import HORIZONS, QUANTILE_NAMES
from btc_assets_tests.learning.conftest import CUTOFF, NAMES

QUICK = XgboostParameters(rounds=25, quantile_rounds=20)
FEATURES = [{"name": name, "unit": "1", "group": "price", "about": "made up"} for name in NAMES]


@pytest.fixture(scope="module")
def forecasts(rows: dict[int, Rows]) -> pl.DataFrame:
    return forecasts_of(rows)


def forecasts_of(rows: dict[int, Rows]) -> pl.DataFrame:
    layout = make_folds(rows, cutoff=CUTOFF, window_days=120, n_folds=2, test_days=14)
    return forecast_folds(FAMILY, rows, layout, dict.fromkeys(HORIZONS, QUICK), seed=1, threads=1)


def fit(rows: dict[int, Rows], forecasts: pl.DataFrame) -> FittedModel:
    return fit_model(
        FAMILY,
        rows,
        forecasts,
        dict.fromkeys(HORIZONS, QUICK),
        cutoff=CUTOFF,
        feature_set="synthetic",
        features=FEATURES,
        metrics={h: out_of_sample_metrics(forecasts.filter(pl.col("horizon_minutes") == h)) for h in HORIZONS},
        seed=1,
        threads=1,
    )


def test_fold_forecasts_satisfy_their_contract_and_cover_every_test_hour(
    rows: dict[int, Rows], forecasts: pl.DataFrame
) -> None:
    assert FOLD_FORECASTS.faults(forecasts) == []
    layout = make_folds(rows, cutoff=CUTOFF, window_days=120, n_folds=2, test_days=14)
    assert forecasts.height == layout["n_test"].sum()


def test_the_newest_labels_do_not_change_earlier_folds(rows: dict[int, Rows], forecasts: pl.DataFrame) -> None:
    edge = midnight(CUTOFF - timedelta(days=14))
    spoilt = {
        h: Rows(r.open_time, r.inputs, np.where((r.open_time >= edge).to_numpy(), -r.log_return, r.log_return), r.names)
        for h, r in rows.items()
    }
    other = forecasts_of(spoilt)
    outputs = ["p_up", *QUANTILE_NAMES]
    assert other.select(outputs).equals(forecasts.select(outputs))


def test_intervals_fitted_on_folds_have_their_nominal_coverage(
    rows: dict[int, Rows], forecasts: pl.DataFrame, tmp_path: Path
) -> None:
    model = fit(rows, forecasts)
    save_model(tmp_path / "model", model.document, model.graphs)
    bundle = ForecastModel.load(tmp_path / "model")
    forecast = bundle.predict(rows[60].inputs[-400:])[60]
    happened = rows[60].log_return[-400:]
    inside = (forecast.quantiles[:, 0] <= happened) & (happened <= forecast.quantiles[:, 4])
    assert inside.mean() == pytest.approx(0.9, abs=0.06)
    assert bundle.cutoff == CUTOFF


def test_training_twice_gives_the_same_digest(rows: dict[int, Rows], forecasts: pl.DataFrame, tmp_path: Path) -> None:
    digests = set()
    for attempt in ("first", "second"):
        model = fit(rows, forecasts)
        digests.add(save_model(tmp_path / attempt, model.document, model.graphs))
    assert len(digests) == 1


def test_another_label_gives_another_digest(rows: dict[int, Rows], forecasts: pl.DataFrame, tmp_path: Path) -> None:
    model = fit(rows, forecasts)
    returns = rows[60].log_return.copy()
    returns[: len(returns) // 4] *= -1
    changed = {**rows, 60: Rows(rows[60].open_time, rows[60].inputs, returns, rows[60].names)}
    other = fit(changed, forecasts)
    assert save_model(tmp_path / "a", model.document, model.graphs) != save_model(
        tmp_path / "b", other.document, other.graphs
    )


def test_calibration_depends_on_the_forecasts_only(rows: dict[int, Rows], forecasts: pl.DataFrame) -> None:
    flat = forecasts.with_columns(p_up=pl.lit(0.5))
    assert fit_output_calibration(flat, rows[60], 60).calibration.slope == pytest.approx(1.0, abs=1e-6)


def test_out_of_sample_metrics_have_plausible_values(forecasts: pl.DataFrame) -> None:
    metrics = out_of_sample_metrics(forecasts.filter(pl.col("horizon_minutes") == 60))
    assert metrics["n"] == forecasts.filter(pl.col("horizon_minutes") == 60).height
    assert metrics["auc"] > 0.6
    assert 0.8 < metrics["coverage_90"] < 0.98


def test_the_weight_of_an_hour_halves_after_the_half_life(rows: dict[int, Rows]) -> None:
    weights = row_weights(rows[60], 60, half_life_days=10)
    assert weights[-1] == 1
    assert weights[-1 - 240] == pytest.approx(0.5)
    assert (np.diff(weights) > 0).all()


def test_the_weights_of_overlapping_labels_sum_to_one_outcome(rows: dict[int, Rows]) -> None:
    weights = row_weights(rows[1440], 1440, half_life_days=1e9)
    assert weights[:24].sum() == pytest.approx(1)
