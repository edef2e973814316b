"""Tuning is reproducible and does not accept chance improvements."""

from __future__ import annotations

from pathlib import Path

import pytest

from btc_assets.learning.families.xgboost import FAMILY, XgboostParameters
from btc_assets.learning.folds import Rows, make_folds, split
from btc_assets.learning.tuning import Tuning, tune
from btc_assets_tests.learning.conftest import CUTOFF, signal_rows

DAYS = 60
"""Days of the rows: 30 to learn from, and two folds of 14."""
WEAK = XgboostParameters(rounds=60, max_depth=2, eta=0.01, colsample_bytree=0.2, min_child_weight=200.0)


def study(rows: Rows, where: Path, incumbent: XgboostParameters, trials: int = 6) -> Tuning[XgboostParameters]:
    layout = make_folds({60: rows}, cutoff=CUTOFF, window_days=DAYS, n_folds=2, test_days=14)
    return tune(
        FAMILY,
        [split(rows, fold) for fold in layout.iter_rows(named=True)],
        incumbent,
        horizon=60,
        study_name="2018-06-04/1h",
        study_url=f"sqlite:///{where}/optuna/studies.db",
        trials=trials,
        seed=5,
        threads=1,
    )


def test_a_weak_incumbent_is_replaced_if_there_is_a_signal(tmp_path: Path) -> None:
    tuning = study(signal_rows(DAYS, strength=1.0), tmp_path, WEAK)
    assert tuning.replaced
    assert tuning.log_loss < tuning.incumbent_log_loss
    assert tuning.trials + tuning.pruned == 6
    assert tuning.parameters != WEAK
    assert tuning.parameters.quantile_rounds == WEAK.quantile_rounds


def test_a_rerun_gives_the_same_result(tmp_path: Path) -> None:
    rows = signal_rows(DAYS)
    assert study(rows, tmp_path, WEAK, trials=4) == study(rows, tmp_path, WEAK, trials=4)


def test_chance_on_a_random_walk_does_not_replace_the_incumbent(tmp_path: Path) -> None:
    """One trial is better than the incumbent by less than the standard error."""
    calm = XgboostParameters(rounds=60, max_depth=2, eta=0.01)
    assert not study(signal_rows(DAYS, seed=0, strength=0.0), tmp_path, calm, trials=4).replaced


@pytest.mark.filterwarnings("ignore:Fixed parameter", "ignore:The value 310")
def test_an_incumbent_outside_the_search_space_is_evaluated_unchanged(tmp_path: Path) -> None:
    tuning = study(signal_rows(DAYS), tmp_path, XgboostParameters(rounds=310, max_depth=2), trials=1)
    assert tuning.parameters.rounds == 310
    assert not tuning.replaced
