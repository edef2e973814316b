"""Tune the parameters of P(up) on the folds of a cutoff with Optuna.

On hourly returns the best of several trials is mostly chance, so a trial replaces the incumbent only if its paired gain
over the fold hours exceeds the standard error of the gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Generic

import numpy as np

from btc_assets.evaluation.metrics import log_losses
from btc_assets.learning.families.protocol import Family, Fit, P, Vector
from btc_assets.learning.folds import Rows
from btc_assets.learning.training import row_weights, up
from btc_assets.paths import make_database_folder
from btc_assets.vocabulary import hours_spanned

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Tuning(Generic[P]):
    """The result of a study of one horizon.

    Attributes:
        parameters: the selected parameters.
        log_loss: mean log-loss of the selected parameters over the fold hours, nats.
        incumbent_log_loss: mean log-loss of the incumbent over the same hours, nats.
        replaced: whether a trial beat the incumbent.
        trials: number of completed trials.
        pruned: number of pruned trials.
    """

    parameters: P
    log_loss: float
    incumbent_log_loss: float
    replaced: bool
    trials: int
    pruned: int


def tune(
    family: Family[P],
    folds: Sequence[tuple[Rows, Rows]],
    incumbent: P,
    *,
    horizon: int,
    study_name: str,
    study_url: str,
    trials: int,
    seed: int,
    threads: int,
) -> Tuning[P]:
    """Run a study that starts from the incumbent; it is stored in SQLite and replaced on a re-run.

    Args:
        family: family of the models.
        folds: (train, test) rows, oldest first.
        incumbent: the parameters to beat, also the first trial.
        horizon: minutes ahead.
        study_name: name of the study.
        study_url: SQLAlchemy URL of the storage.
        trials: number of trials, including the incumbent.
        seed: seed of the sampler and the fits; the same seed and rows give the same result.
        threads: threads of one fit.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    make_database_folder(study_url)
    losses: dict[int, Vector] = {}
    tried: dict[int, P] = {}

    def objective(trial: optuna.Trial) -> float:
        parameters = tried[trial.number] = family.suggest(trial, incumbent)
        fold_losses: list[Vector] = []
        for step, (train, test) in enumerate(folds):
            weights = row_weights(train, horizon, parameters.half_life_days)
            options = Fit(train.names, seed=seed, threads=threads)
            fitted = family.fit_direction(train.inputs, up(train), weights, parameters, options)
            fold_losses.append(log_losses(fitted.predict(test.inputs), test.log_return > 0))
            trial.report(float(np.concatenate(fold_losses).mean()), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        losses[trial.number] = np.concatenate(fold_losses)
        return float(losses[trial.number].mean())

    if study_name in optuna.get_all_study_names(study_url):
        optuna.delete_study(study_name=study_name, storage=study_url)
    study = optuna.create_study(
        study_name=study_name,
        storage=study_url,
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(5, trials)),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=0),
        direction="minimize",
    )
    first = optuna.trial.FixedTrial(asdict(incumbent))
    family.suggest(first, incumbent)
    study.enqueue_trial(first.params)
    study.optimize(objective, n_trials=trials, catch=())
    best = min(losses, key=lambda number: float(losses[number].mean()))
    gain = losses[0] - losses[best]
    independent = len(gain) / hours_spanned(horizon)
    replaced = best != 0 and float(gain.mean()) > float(gain.std(ddof=1)) / np.sqrt(independent)
    selected = best if replaced else 0
    return Tuning(
        parameters=tried[selected],
        log_loss=float(losses[selected].mean()),
        incumbent_log_loss=float(losses[0].mean()),
        replaced=replaced,
        trials=len(losses),
        pruned=trials - len(losses),
    )
