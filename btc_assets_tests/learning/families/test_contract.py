"""The contract of every model family, and for each of its clauses a family that breaks it.

`BTC_FAMILIES=mypackage.module:FAMILY make test TESTS=btc_assets_tests/learning/families` tests a family of one's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import optuna
import pytest

from btc_assets.evaluation import metrics
from btc_assets.learning.export import parity_error, parity_rows
from btc_assets.learning.families import climatology, ridge_logistic
from btc_assets.learning.families.gradient_boosting import GradientBoostingParameters
from btc_assets.learning.families.lightgbm import LightgbmParameters
from btc_assets.learning.families.linear import LinearOutput
from btc_assets.learning.families.lstm_attention import LstmParameters
from btc_assets.learning.families.protocol import LOG_LOSS, Family, Fit, FittedOutput, Inputs, Parameters, Vector
from btc_assets.learning.families.random_forest import ForestParameters
from btc_assets.learning.families.registry import FAMILIES, FamilyError, family
from btc_assets.learning.families.transformer import TransformerParameters
from btc_assets.learning.families.xgboost import XgboostParameters
from btc_assets.learning.graph import Graphs
from btc_assets.vocabulary import QUANTILE_NAMES, QUANTILES

NAMES = ("returns_1h", "noise", "level", "count", "constant", "empty")
"""Features of the rows: the planted signal, noise with missing values, a large level, integers, and two that say
nothing."""
CONSTANT = 42.0
QUICK: dict[str, Parameters] = {
    "xgboost": XgboostParameters(rounds=20, quantile_rounds=20, eta=0.1, min_child_weight=5.0),
    "lightgbm": LightgbmParameters(rounds=20, quantile_rounds=20, learning_rate=0.1, min_sum_hessian=5.0),
    "random_forest": ForestParameters(trees=15, max_depth=5),
    "extra_trees": ForestParameters(trees=15, max_depth=5),
    "gradient_boosting": GradientBoostingParameters(
        rounds=10, quantile_rounds=10, max_depth=3, learning_rate=0.2, min_leaf_weight=30.0, quantile_learning_rate=0.3
    ),
    "lstm_attention": LstmParameters(
        lookback=2, units=6, bidirectional=True, dropout=0.1, learning_rate=0.05, batch_rows=100, max_epochs=3
    ),
    "transformer": TransformerParameters(
        lookback=2, layers=1, head_width=4, dropout=0.1, learning_rate=0.02, batch_rows=100, max_epochs=3
    ),
}
"""Parameters of small models; others have their defaults."""
DEEP = ("lstm_attention", "transformer")
"""Families that import torch, which takes seconds."""
BLIND = frozenset({"climatology"})
"""Families that use no feature."""
OWN = tuple(name for name in os.environ.get("BTC_FAMILIES", "").split(",") if ":" in name)


@dataclass(frozen=True)
class Sample:
    """Rows and what follows them.

    Attributes:
        inputs: (n, lookback * 6).
        odds: log-odds of a rise, from the planted signal, (n,).
        up: 1.0 after a rise, (n,).
    """

    inputs: Inputs
    odds: Vector
    up: Vector


def sample(hours: int, *, seed: int, lookback: int = 1, strength: float = 1.5) -> Sample:
    """Return rows of NAMES, whose newest hour's `returns_1h` carries a signal of a strength in log-odds."""
    rng = np.random.default_rng(seed)
    signal, noise = rng.normal(size=(2, hours))
    level, count = 30_000 + 100 * rng.normal(size=hours), rng.integers(0, 5, hours)
    noise[rng.random(hours) < 0.2] = np.nan
    columns = [0.005 * signal, noise, level, count, np.full(hours, CONSTANT), np.full(hours, np.nan)]
    single = np.column_stack(columns).astype(np.float32)
    stacked = np.hstack([single[first : hours - lookback + 1 + first] for first in range(lookback)])
    odds = strength * signal[lookback - 1 :]
    return Sample(stacked, odds, (rng.random(len(odds)) < 1 / (1 + np.exp(-odds))).astype(np.float64))


@dataclass(frozen=True)
class Subject:
    """A family under test."""

    family: Family[Any]
    parameters: Parameters

    @property
    def lookback(self) -> int:
        return self.family.lookback(self.parameters)

    @cached_property
    def train(self) -> Sample:
        return sample(1_000, seed=1, lookback=self.lookback)

    @cached_property
    def fresh(self) -> Sample:
        return sample(1_000, seed=2, lookback=self.lookback)

    def fit(self, rows: Sample, weights: Vector | None = None, *, seed: int = 3) -> FittedOutput:
        weights = np.ones(len(rows.up)) if weights is None else weights
        return self.family.fit_direction(rows.inputs, rows.up, weights, self.parameters, Fit(NAMES, seed=seed))

    @cached_property
    def fitted(self) -> FittedOutput:
        return self.fit(self.train)

    @cached_property
    def scaled(self) -> Vector:
        """Scaled returns that depend on the signal, (n,)."""
        return 0.5 * self.train.odds + np.random.default_rng(4).normal(size=len(self.train.odds))

    @cached_property
    def others(self) -> dict[str, FittedOutput]:
        """The outputs other than P(up): quantiles and size."""
        arguments = (self.train.inputs, self.scaled, np.ones(len(self.scaled)), self.parameters, Fit(NAMES, seed=3))
        quantiles = {} if self.family.fit_quantiles is None else self.family.fit_quantiles(*arguments)
        return dict(quantiles) | ({} if self.family.fit_size is None else {"size": self.family.fit_size(*arguments)})

    @property
    def outputs(self) -> list[FittedOutput]:
        return [self.fitted, *self.others.values()]


# --- the clauses ---------------------------------------------------------------------------------
def outputs_have_one_value_a_row(subject: Subject) -> None:
    inputs = subject.fresh.inputs
    for output in subject.outputs:
        values = output.predict(inputs)
        assert values.shape == (len(inputs),)
        assert values.dtype == np.float64
        assert np.isfinite(values).all()
        assert np.isfinite(output.base)
        assert output.trees >= 0
    p_up = subject.fitted.predict(inputs)
    assert ((p_up >= 0) & (p_up <= 1)).all()


def the_same_rows_and_seed_give_the_same_bytes(subject: Subject) -> None:
    again = subject.fit(subject.train)
    assert again.native() == subject.fitted.native()
    assert again.onnx() == subject.fitted.onnx()


def a_row_counts_as_much_as_its_weight(subject: Subject) -> None:
    """Rows of little weight, in which the signal has the other sign, do not hide the signal of the others."""
    train = subject.train
    light = np.arange(len(train.up)) % 3 > 0
    mixed = Sample(train.inputs, train.odds, np.where(light, 1 - train.up, train.up))
    fitted = subject.fit(mixed, np.where(light, 0.02, 3.0))
    if subject.family.name in BLIND:
        assert fitted.predict(train.inputs)[0] == pytest.approx(mixed.up[~light].mean(), abs=0.02)
    else:
        assert area(fitted, subject.fresh) > 0.6


def missing_values_still_get_a_forecast(subject: Subject) -> None:
    inputs = parity_rows(subject.fresh.inputs, seed=5)
    inputs[:3] = np.nan
    for output in subject.outputs:
        assert np.isfinite(output.predict(inputs)).all()


def a_column_that_said_nothing_in_training_says_nothing(subject: Subject) -> None:
    changed = subject.fresh.inputs.copy()
    changed[:, NAMES.index("constant") :: len(NAMES)] = -3.0
    changed[:, NAMES.index("empty") :: len(NAMES)] = 7.0
    assert np.array_equal(subject.fitted.predict(changed), subject.fitted.predict(subject.fresh.inputs))


def one_class_is_forecast_as_likely(subject: Subject) -> None:
    for up in (0.0, 1.0):
        train = Sample(subject.train.inputs, subject.train.odds, np.full(len(subject.train.up), up))
        fitted = subject.fit(train)
        assert np.abs(fitted.predict(subject.fresh.inputs) - up).max() < 0.3
        parity_error(fitted, fitted.onnx(), subject.fresh.inputs, subject.family.parity_tolerance)


def a_stored_output_is_the_same(subject: Subject) -> None:
    inputs = subject.fresh.inputs
    for output in subject.outputs:
        content = output.native()
        assert not content.startswith(b"\x80"), "a pickle"
        loaded = subject.family.read(content, inputs.shape[1])
        assert loaded.native() == content
        assert loaded.onnx() == output.onnx()
        assert loaded.trees == output.trees
        assert loaded.predict(inputs) == pytest.approx(output.predict(inputs), abs=subject.family.parity_tolerance)


def graphs_agree_with_the_library(subject: Subject) -> None:
    rows = parity_rows(subject.fresh.inputs, seed=5)
    assert np.isnan(rows).any()
    for output in subject.outputs:
        error = np.abs(Graphs({"graph": output.onnx()}, rows.shape[1])(rows)[:, 0] - output.predict(rows))
        assert error.max() <= subject.family.parity_tolerance


def a_row_alone_has_the_forecast_it_has_among_others(subject: Subject) -> None:
    rows = parity_rows(subject.fresh.inputs, seed=5)[:100]
    for output in subject.outputs:
        graph = Graphs({"graph": output.onnx()}, rows.shape[1])
        alone = np.concatenate([graph(rows[i : i + 1]) for i in range(len(rows))])
        assert alone.tobytes() == graph(rows).tobytes()


def contributions_add_up_to_the_score(subject: Subject) -> None:
    rows = parity_rows(subject.fresh.inputs, seed=5)[:200]
    for output in subject.outputs:
        values = output.contributions(rows)
        if values is None:
            continue
        assert values.shape == rows.shape
        expected, score = output.predict(rows), output.base + values.sum(axis=1)
        if output is subject.fitted:
            expected = np.log(expected / (1 - expected))
        assert score == pytest.approx(expected, abs=1e-4)


def a_planted_signal_is_found(subject: Subject) -> None:
    assert area(subject.fitted, subject.fresh) > 0.65
    if "size" in subject.others:
        assert np.corrcoef(subject.others["size"].predict(subject.fresh.inputs), subject.fresh.odds)[0, 1] > 0.5


def where_there_is_no_signal_there_is_no_confidence(subject: Subject) -> None:
    train, fresh = (sample(1_000, seed=seed, lookback=subject.lookback, strength=0.0) for seed in (6, 7))
    loss = metrics.log_losses(subject.fit(train).predict(fresh.inputs), fresh.up > 0).mean()
    assert loss < np.log(2) + 0.05


def quantiles_have_their_nominal_coverage(subject: Subject) -> None:
    if subject.family.fit_quantiles is None:
        return
    assert set(QUANTILE_NAMES) <= set(subject.others)
    below = [(subject.scaled <= subject.others[name].predict(subject.train.inputs)).mean() for name in QUANTILE_NAMES]
    assert below == pytest.approx(QUANTILES, abs=0.08)


def parameters_are_json_and_can_be_searched(subject: Subject) -> None:
    kind = subject.family.parameters
    changed = kind(half_life_days=77.5)
    assert kind.from_json(changed.to_json()) == changed
    with pytest.raises(ValueError, match="leaves_of_grass"):
        kind.from_json('{"leaves_of_grass": 1}')
    suggested: list[Parameters] = []

    def objective(trial: optuna.Trial) -> float:
        suggested.append(subject.family.suggest(trial, changed))
        return 0.0

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, n_trials=2)
    for trial, parameters in zip(study.trials, suggested, strict=True):
        assert isinstance(parameters, kind)
        assert parameters.half_life_days == changed.half_life_days
        assert set(trial.params) <= {entry.name for entry in fields(kind)}
        assert all(getattr(parameters, name) == value for name, value in trial.params.items())


def area(output: FittedOutput, rows: Sample) -> float:
    """Return the area under the ROC curve."""
    return metrics.auc(output.predict(rows.inputs), rows.up - 0.5).value or 0.5


CLAUSES: tuple[Callable[[Subject], None], ...] = (
    outputs_have_one_value_a_row,
    the_same_rows_and_seed_give_the_same_bytes,
    a_row_counts_as_much_as_its_weight,
    missing_values_still_get_a_forecast,
    a_column_that_said_nothing_in_training_says_nothing,
    one_class_is_forecast_as_likely,
    a_stored_output_is_the_same,
    graphs_agree_with_the_library,
    a_row_alone_has_the_forecast_it_has_among_others,
    contributions_add_up_to_the_score,
    a_planted_signal_is_found,
    where_there_is_no_signal_there_is_no_confidence,
    quantiles_have_their_nominal_coverage,
    parameters_are_json_and_can_be_searched,
)


SUBJECTS = [pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name for name in (*FAMILIES, *OWN)]


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    try:
        chosen = family(request.param)
    except FamilyError as error:
        pytest.skip(str(error))
    return Subject(chosen, QUICK.get(request.param, chosen.parameters()))


@pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: clause.__name__)
def test_every_family_keeps_the_contract(clause: Callable[[Subject], None], subject: Subject) -> None:
    if clause is a_planted_signal_is_found and subject.family.name in BLIND:
        pytest.skip("it uses no feature")
    clause(subject)


@pytest.mark.parametrize("name", ["xgboost", "lightgbm", "gradient_boosting"])
def test_the_training_curve_falls_and_changes_nothing(name: str) -> None:
    subject, points = Subject(family(name), QUICK[name]), list[tuple[str, int, float]]()
    fit = Fit(NAMES, seed=3, curve=lambda *point: points.append(point))
    train = subject.train
    fitted = subject.family.fit_direction(train.inputs, train.up, np.ones(len(train.up)), subject.parameters, fit)
    assert [(curve, step) for curve, step, _ in points] == [(LOG_LOSS, step) for step in range(fitted.trees)]
    assert points[-1][2] < points[0][2] < np.log(2)
    assert points[-1][2] == pytest.approx(
        metrics.log_losses(fitted.predict(train.inputs), train.up > 0).mean(), abs=1e-3
    )
    assert fitted.native() == subject.fitted.native()


# --- a family that breaks each clause --------------------------------------------------------------
def broken(change: type[LinearOutput]) -> Family[Any]:
    """Return ridge logistic regression with an output of another class."""

    def fit_direction(*arguments: Any) -> LinearOutput:
        return change(**vars(ridge_logistic.fit_direction(*arguments)))

    return replace(ridge_logistic.FAMILY, fit_direction=fit_direction, read=change.read)


class Columns(LinearOutput):
    def predict(self, inputs: Inputs) -> Vector:
        return super().predict(inputs)[:, None]


class Random(LinearOutput):
    def native(self) -> bytes:
        return LinearOutput(**vars(self) | {"intercept": np.random.default_rng().normal()}).native()


class Strict(LinearOutput):
    def predict(self, inputs: Inputs) -> Vector:
        return np.where(np.isnan(inputs[:, 1]), np.nan, super().predict(inputs))


class Attentive(LinearOutput):
    def predict(self, inputs: Inputs) -> Vector:
        return np.where(inputs[:, NAMES.index("constant")] == CONSTANT, super().predict(inputs), 0.5)


class Forgetful(LinearOutput):
    def native(self) -> bytes:
        return LinearOutput(**vars(self) | {"intercept": 0.0}).native()


class Inexact(LinearOutput):
    def onnx(self) -> bytes:
        return LinearOutput(**vars(self) | {"intercept": self.intercept + 1e-3}).onnx()


class Relative(LinearOutput):
    def onnx(self) -> bytes:
        from onnx import ModelProto, helper

        model = ModelProto.FromString(super().onnx())
        centred = next(node for node in model.graph.node if node.output[0] == "centred")
        position = list(model.graph.node).index(centred)
        mean = helper.make_node("ReduceMean", ["clipped"], ["mean_of_batch"], axes=[0], keepdims=1)
        centred.input[1] = "mean_of_batch"
        model.graph.node.insert(position, mean)
        return model.SerializeToString()


class Doubled(LinearOutput):
    def contributions(self, inputs: Inputs) -> Vector:
        return 2 * super().contributions(inputs)


class Certain(LinearOutput):
    def predict(self, inputs: Inputs) -> Vector:
        return np.where(inputs[:, 0] > 0, 0.999, 0.001)


def unweighted(inputs: Inputs, up: Vector, weights: Vector, parameters: Any, fit: Fit) -> LinearOutput:
    return ridge_logistic.fit_direction(inputs, up, np.ones_like(weights), parameters, fit)


def undecided(inputs: Inputs, up: Vector, *others: Any) -> LinearOutput:
    if up.min() == up.max():
        return LinearOutput.constant(inputs, 0.0)
    return ridge_logistic.fit_direction(inputs, up, *others)


def swapped(*arguments: Any) -> dict[str, LinearOutput]:
    right = climatology.fit_quantiles(*arguments)
    return dict(zip(right, reversed(right.values()), strict=True))


class AnyNames(Parameters):
    @classmethod
    def from_json(cls, text: str) -> AnyNames:
        return cls()


RIDGE = ridge_logistic.FAMILY
BROKEN: dict[Callable[[Subject], None], Family[Any]] = {
    outputs_have_one_value_a_row: broken(Columns),
    the_same_rows_and_seed_give_the_same_bytes: broken(Random),
    a_row_counts_as_much_as_its_weight: replace(RIDGE, fit_direction=unweighted),
    missing_values_still_get_a_forecast: broken(Strict),
    a_column_that_said_nothing_in_training_says_nothing: broken(Attentive),
    one_class_is_forecast_as_likely: replace(RIDGE, fit_direction=undecided),
    a_stored_output_is_the_same: broken(Forgetful),
    graphs_agree_with_the_library: broken(Inexact),
    a_row_alone_has_the_forecast_it_has_among_others: broken(Relative),
    contributions_add_up_to_the_score: broken(Doubled),
    a_planted_signal_is_found: climatology.FAMILY,
    where_there_is_no_signal_there_is_no_confidence: broken(Certain),
    quantiles_have_their_nominal_coverage: replace(climatology.FAMILY, fit_quantiles=swapped),
    parameters_are_json_and_can_be_searched: replace(climatology.FAMILY, parameters=AnyNames),
}


@pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: clause.__name__)
def test_a_family_that_breaks_a_clause_is_caught(clause: Callable[[Subject], None]) -> None:
    chosen = BROKEN[clause]
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        clause(Subject(chosen, chosen.parameters()))
