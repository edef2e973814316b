"""Training from rows to a model folder: an ensemble, calibrated on out-of-fold forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import numpy as np
import polars as pl
import pytest

from btc_assets.clock import midnight
from btc_assets.evaluation import metrics
from btc_assets.learning.ensemble import FoldRows, ensemble_rows, ensembles_of, out_of_fold
from btc_assets.learning.export import ParityError
from btc_assets.learning.families import ridge_logistic
from btc_assets.learning.families.protocol import Family, FittedOutput
from btc_assets.learning.families.ridge_logistic import RidgeLogisticParameters
from btc_assets.learning.folds import Rows, make_folds
from btc_assets.learning.forecast_model import ForecastModel, save_model
from btc_assets.learning.tables import FOLD_FORECASTS
from btc_assets.learning.training import (
    FittedModel,
    Trainee,
    fit_model,
    forecast_folds,
    out_of_sample_metrics,
    row_weights,
)
from btc_assets.vocabulary import HORIZONS, PRIMARY, QUANTILE_NAMES
from btc_assets_tests.learning.conftest import CUTOFF, INTERVALS, MEMBERS, NAMES, SCALE, SIZE
from btc_assets_tests.serving.builders import volatility

FEATURES = [{"name": name, "unit": "1", "group": "price", "about": "made up"} for name in NAMES]
TRAINEES = [*MEMBERS, INTERVALS, SIZE]


def forecasts_of(rows: dict[int, Rows], trainees: Sequence[Trainee] = TRAINEES) -> pl.DataFrame:
    layout = make_folds(rows, cutoff=CUTOFF, window_days=120, n_folds=2, test_days=14)
    scales = dict.fromkeys(layout["test_start"], SCALE)
    return forecast_folds(trainees, rows, layout, scales, cutoff=CUTOFF, seed=1, threads=1)


@pytest.fixture(scope="module")
def forecasts(rows: dict[int, Rows]) -> pl.DataFrame:
    return forecasts_of(rows)


def fit(rows: dict[int, Rows], forecasts: pl.DataFrame, trainees: Sequence[Trainee] = TRAINEES) -> FittedModel:
    members = [trainee.member for trainee in trainees if trainee.member.target == "direction"]
    table = ensemble_rows(forecasts, members, cutoff=CUTOFF, weights="equal")
    return fit_model(
        trainees,
        rows,
        ensembles_of(table),
        {h: FoldRows.of(forecasts, h, ()).offsets() for h in rows},
        {h: FoldRows.of(forecasts, h, ()).size_slope(h) for h in rows},
        volatility(tuple(rows)),
        cutoff=CUTOFF,
        feature_set="synthetic",
        weights="equal",
        features=FEATURES,
        metrics={h: {} for h in rows},
        seed=1,
        threads=1,
    )


@pytest.fixture(scope="module")
def fitted(rows: dict[int, Rows], forecasts: pl.DataFrame) -> FittedModel:
    return fit(rows, forecasts)


@pytest.fixture(scope="module")
def model(fitted: FittedModel, tmp_path_factory: pytest.TempPathFactory) -> ForecastModel:
    folder = tmp_path_factory.mktemp("models") / "model"
    save_model(folder, fitted.document, fitted.graphs)
    return ForecastModel.load(folder)


def test_fold_forecasts_satisfy_their_contract_and_cover_every_test_hour(
    rows: dict[int, Rows], forecasts: pl.DataFrame
) -> None:
    assert FOLD_FORECASTS.faults(forecasts) == []
    layout = make_folds(rows, cutoff=CUTOFF, window_days=120, n_folds=2, test_days=14)
    assert forecasts.height == layout["n_test"].sum() * len(TRAINEES)


def test_the_newest_labels_do_not_change_earlier_folds(rows: dict[int, Rows], forecasts: pl.DataFrame) -> None:
    edge = midnight(CUTOFF - timedelta(days=14))
    spoilt = {
        h: Rows(r.open_time, r.inputs, np.where((r.open_time >= edge).to_numpy(), -r.log_return, r.log_return), r.names)
        for h, r in rows.items()
    }
    outputs = ["member", "p_up", *QUANTILE_NAMES]
    assert forecasts_of(spoilt).select(outputs).equals(forecasts.select(outputs))


def test_a_member_is_trained_on_its_own_window(forecasts: pl.DataFrame) -> None:
    starts = dict(forecasts.group_by("member").agg(pl.col("trained_from").min()).iter_rows())
    assert starts["long"] == midnight(CUTOFF - timedelta(days=120))
    assert starts["short"] == midnight(CUTOFF - timedelta(days=80))


def test_a_member_abstains_in_the_fold_hours_that_lack_an_input_it_always_had(rows: dict[int, Rows]) -> None:
    outage = rows[PRIMARY].inputs.copy()
    outage[-100:, NAMES.index("signal")] = np.nan
    changed = {PRIMARY: replace(rows[PRIMARY], inputs=outage)}
    p_up = FoldRows.of(forecasts_of(changed), PRIMARY, ["long", "plain"]).p_up
    assert np.isnan(p_up[0, -100:]).all()
    assert not np.isnan(p_up[0, :-100]).any(), "noise is often missing, so nobody requires it"
    assert not np.isnan(p_up[1]).any(), "plain does not read the signal"


def test_a_family_of_several_hours_reads_the_hours_before_each_test_hour(rows: dict[int, Rows]) -> None:
    """The signal is in the hour before."""
    changed = {PRIMARY: replace(rows[PRIMARY], inputs=np.roll(rows[PRIMARY].inputs, -1, axis=0))}
    pair = replace(ridge_logistic.FAMILY, lookback=lambda _: 2)
    parameters = dict.fromkeys(HORIZONS, RidgeLogisticParameters(inverse_penalty=1.0))
    trainees = [
        Trainee(replace(TRAINEES[0].member, name=name), of, ("signal",), parameters)
        for name, of in (("one", ridge_logistic.FAMILY), ("two", pair))
    ]
    forecasts = forecasts_of(changed, trainees)
    skill = {
        name: metrics.auc(part["p_up"].to_numpy(), part["log_return"].to_numpy()).value or 0.5
        for (name,), part in forecasts.group_by("member")
    }
    assert skill["one"] < 0.56 < 0.62 < skill["two"]


def test_intervals_fitted_on_folds_have_their_nominal_coverage(rows: dict[int, Rows], model: ForecastModel) -> None:
    forecast = model.predict(rows[PRIMARY].inputs[-400:])[PRIMARY]
    happened = rows[PRIMARY].log_return[-400:]
    inside = (forecast.quantiles[:, 0] <= happened) & (happened <= forecast.quantiles[:, 4])
    assert inside.mean() == pytest.approx(0.9, abs=0.06)
    assert model.cutoff == CUTOFF


def test_the_expected_return_is_that_of_the_signal(rows: dict[int, Rows], model: ForecastModel) -> None:
    """The return of a row is half its volatility times the signal, and noise."""
    newest = rows[PRIMARY].inputs[-800:]
    expected = model.predict(newest)[PRIMARY].expected_return_bps
    planted = 1e4 * 0.5 * newest[:, 0] * np.exp(newest[:, 2] / 2)
    assert np.corrcoef(expected, planted)[0, 1] > 0.95
    assert np.polyfit(planted, expected, 1)[0] == pytest.approx(1, abs=0.3)


def test_training_twice_gives_the_same_digest_and_another_label_another(
    rows: dict[int, Rows], forecasts: pl.DataFrame, model: ForecastModel, tmp_path: Path
) -> None:
    again = fit(rows, forecasts)
    assert save_model(tmp_path / "again", again.document, again.graphs) == model.digest
    returns = rows[PRIMARY].log_return.copy()
    returns[: len(returns) // 4] *= -1
    other = fit({**rows, PRIMARY: replace(rows[PRIMARY], log_return=returns)}, forecasts)
    assert save_model(tmp_path / "other", other.document, other.graphs) != model.digest


def test_the_saved_ensemble_forecasts_what_its_libraries_forecast(fitted: FittedModel, model: ForecastModel) -> None:
    """Among the compared rows are some in which members abstain."""
    assert fitted.verify(model) < 1e-6
    assert model.predict(fitted.check).abstains.any(axis=0).tolist() == [True, True, False]
    with pytest.raises(ParityError, match="the saved ensemble differs from its libraries"):
        replace(fitted, expected=fitted.expected + 1e-4).verify(model)


def test_an_input_is_required_that_was_known_in_nearly_all_training_hours(model: ForecastModel) -> None:
    required = {member["name"]: member["required"] for member in model.document["members"]}
    assert required == {"long": [0], "short": [0], "plain": []}


class FaultyFamilyError(RuntimeError):
    """The library of a family fails."""


def fails(*_: object) -> NoReturn:
    raise FaultyFamilyError("its library fails")


def faulty(trainee: Trainee, **changes: object) -> Trainee:
    family: Family[object] = replace(trainee.family, **changes)  # type: ignore[arg-type]
    return replace(trainee, family=family)


def test_a_member_that_fails_leaves_the_others_standing_and_says_why(
    rows: dict[int, Rows], forecasts: pl.DataFrame
) -> None:
    broken = [faulty(MEMBERS[0], fit_direction=fails), *TRAINEES[1:]]
    only = {PRIMARY: rows[PRIMARY]}
    made = forecasts_of(only, broken)
    assert FOLD_FORECASTS.faults(made) == []
    table = ensemble_rows(made, [trainee.member for trainee in MEMBERS], cutoff=CUTOFF, weights="equal")
    states = {row["member"]: (row["state"], row["reason"], row["weight"]) for row in table.iter_rows(named=True)}
    assert states["long"] == ("failed", "FaultyFamilyError: its library fails", 0.0)
    assert states["short"] == ("trained", "", 0.5)
    model = fit(only, made, broken)
    assert [member["name"] for member in model.document["members"]] == ["short", "plain"]
    late = fit(only, forecasts.filter(pl.col("horizon_minutes") == PRIMARY), broken)
    assert late.failures == {"long": "FaultyFamilyError: its library fails"}
    assert [member["name"] for member in late.document["members"]] == ["short", "plain"]


@dataclass(frozen=True)
class Unlike:
    """An output whose graph is that of another output."""

    own: FittedOutput
    other: FittedOutput

    def __getattr__(self, name: str) -> object:
        return getattr(self.own, name)

    def onnx(self) -> bytes:
        return self.other.onnx()


def test_a_member_whose_graph_differs_from_its_library_is_left_out(
    rows: dict[int, Rows], forecasts: pl.DataFrame
) -> None:
    family = MEMBERS[0].family

    def fit_direction(inputs: np.ndarray, up: np.ndarray, *rest: object) -> Unlike:
        return Unlike(family.fit_direction(inputs, up, *rest), family.fit_direction(inputs, 1 - up, *rest))  # type: ignore[arg-type]

    only = {PRIMARY: rows[PRIMARY]}
    model = fit(
        only,
        forecasts.filter(horizon_minutes=PRIMARY),
        [faulty(MEMBERS[0], fit_direction=fit_direction), *TRAINEES[1:]],
    )
    assert "differs from its library" in model.failures["long"]


def test_out_of_sample_metrics_of_the_ensemble_have_plausible_values(forecasts: pl.DataFrame) -> None:
    combined = out_of_fold(forecasts, ["long", "short", "plain"], weights="equal")
    metrics = out_of_sample_metrics(combined.filter(horizon_minutes=PRIMARY))
    assert metrics["n"] == combined.filter(horizon_minutes=PRIMARY).height
    assert metrics["auc"] > 0.6
    assert 0.8 < metrics["coverage_90"] < 0.98


def test_the_weight_of_an_hour_halves_after_the_half_life(rows: dict[int, Rows]) -> None:
    weights = row_weights(rows[PRIMARY], PRIMARY, half_life_days=10)
    assert weights[-1] == 1
    assert weights[-1 - 240] == pytest.approx(0.5)
    assert (np.diff(weights) > 0).all()


def test_the_weights_of_overlapping_labels_sum_to_one_outcome(rows: dict[int, Rows]) -> None:
    weights = row_weights(rows[HORIZONS[-1]], HORIZONS[-1], half_life_days=1e9)
    assert weights[:24].sum() == pytest.approx(1)
