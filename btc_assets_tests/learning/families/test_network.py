"""Networks stop in time, say how unsure they are, and need their extra only when they are used."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from btc_assets.evaluation import metrics
from btc_assets.learning.families.protocol import LOG_LOSS, VALIDATION_LOG_LOSS, Fit
from btc_assets.learning.families.registry import FamilyError, family
from btc_assets_tests.learning.families.test_contract import DEEP, NAMES, QUICK, Sample, Subject, sample

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=DEEP)
def subject(request: pytest.FixtureRequest) -> Subject:
    pytest.importorskip("torch")
    return Subject(family(request.param), QUICK[request.param])


def curves(subject: Subject, train: Sample) -> dict[str, list[float]]:
    """Return the training curves by name."""
    points: dict[str, list[float]] = {LOG_LOSS: [], VALIDATION_LOG_LOSS: []}

    def curve(name: str, step: int, value: float) -> None:
        assert step == len(points[name])
        points[name].append(value)

    fit = Fit(NAMES, seed=3, curve=curve)
    subject.family.fit_direction(train.inputs, train.up, np.ones(len(train.up)), subject.parameters, fit)
    return points


def test_the_loss_of_each_epoch_is_drawn_over_training_and_validation_rows(subject: Subject) -> None:
    drawn = curves(subject, subject.train)
    assert len(drawn[LOG_LOSS]) == len(drawn[VALIDATION_LOG_LOSS]) <= 3
    assert drawn[LOG_LOSS][-1] < drawn[LOG_LOSS][0] < np.log(2)
    newest = slice(-100, None)
    p_up = subject.fitted.predict(subject.train.inputs[newest])
    kept = metrics.log_losses(p_up, subject.train.up[newest] > 0).mean()
    assert min(drawn[VALIDATION_LOG_LOSS]) == pytest.approx(kept, abs=1e-3)


def test_what_the_newest_rows_contradict_is_not_kept(subject: Subject) -> None:
    """Older rows have a signal, the newest tenth its opposite: fitting stops, and the forecast is the base rate."""
    train = subject.train
    up = np.where(np.arange(len(train.up)) < 890, train.up, 1 - train.up)
    contradicted = Sample(train.inputs, train.odds, up)
    patient = Subject(subject.family, replace(subject.parameters, max_epochs=9, patience=2))
    assert len(curves(patient, contradicted)[LOG_LOSS]) == 2
    assert patient.fit(contradicted).predict(train.inputs) == pytest.approx(up.mean(), abs=1e-3)


def test_an_hour_before_the_newest_counts(subject: Subject) -> None:
    train, fresh = (
        Sample(rows.inputs[1:], rows.odds[:-1], rows.up[:-1])
        for rows in (subject.train, sample(500, seed=8, lookback=2))
    )
    p_up = subject.fit(train).predict(fresh.inputs)
    assert (metrics.auc(p_up, fresh.up - 0.5).value or 0.5) > 0.65


def test_uncertainty_is_the_spread_over_dropouts(subject: Subject) -> None:
    inputs = subject.fresh.inputs[:50]
    spread = subject.fitted.uncertainty(inputs, samples=5, seed=1)  # type: ignore[attr-defined]
    assert spread.shape == (50,)
    assert ((spread > 0) & (spread < 0.5)).all()
    assert np.array_equal(spread, subject.fitted.uncertainty(inputs, samples=5, seed=1))  # type: ignore[attr-defined]
    certain = replace(subject.fitted, parameters=replace(subject.parameters, dropout=0.0))  # type: ignore[type-var]
    assert certain.uncertainty(inputs, samples=2, seed=1).max() < 1e-9  # type: ignore[attr-defined]


def test_an_output_of_another_width_is_refused(subject: Subject) -> None:
    with pytest.raises(ValueError, match="expected an output of 7 columns, got one of 12"):
        subject.family.read(subject.fitted.native(), 7)


@pytest.mark.parametrize("name", DEEP)
def test_without_torch_the_error_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.startswith("btc_assets.learning.families.")]:
        if module.endswith((f".{name}", ".network", ".traced")):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(FamilyError, match=r"needs torch: install the extra, pip install 'btc_assets\[deep\]'"):
        family(name)
