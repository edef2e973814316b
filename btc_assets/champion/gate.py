"""The gate: decides by two rules which candidate becomes champion.

A *refresh* is the champion's recipe on a newer window: it is promoted unless it is shown to be worse. A *changed
recipe* must be shown to be better; in doubt the champion stays. Both must be valid, but a bound that the champion
breaks by as much on the same hours does not refuse a candidate.

Candidate and champion are judged on the same hours, on which neither was trained: the newest fold of the candidate's
window, as far as it lies after the champion's cutoff. For the candidate, its recipe is fitted before the fold, with
calibration and intervals from the older folds. Both sides are fitted with the same seeds, and losses are averaged over
the seeds, so that a lucky seed does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.champion.history import ModelChoice
from btc_assets.champion.tables import MODEL_VERDICT
from btc_assets.clock import midnight
from btc_assets.evaluation.metrics import interval_coverage, log_losses
from btc_assets.evaluation.significance import LossDifference, diebold_mariano
from btc_assets.evaluation.trading import sharpe_difference, sign_signal, strategy
from btc_assets.learning.ensemble import FoldRows
from btc_assets.learning.families.protocol import PARITY_TOLERANCE, FittedOutput
from btc_assets.learning.folds import matrix
from btc_assets.learning.forecast_model import MEDIAN, ForecastModel
from btc_assets.learning.missingness import Profile
from btc_assets.learning.natives import library_p_up
from btc_assets.learning.training import SEEDS
from btc_assets.vocabulary import PRIMARY, VERDICT_KINDS

FIRST, REFRESH, CHANGED_RECIPE = VERDICT_KINDS
MIN_HOURS = 120
"""Fewest common hours of a comparison: five days."""
COVERAGE_SLACK = 0.06
"""Largest deviation of the 90 % interval's coverage from 90 % on the judged hours."""
BIAS_BOUND = 0.06
"""Largest deviation of the mean forecast from the share of rises on the judged hours."""
SEED_WINS = 4
"""Number of seeds with which the candidate's log-loss must be lower."""


@dataclass(frozen=True)
class Evidence:
    """Forecasts of the primary horizon on judged hours, with their outcomes.

    Attributes:
        open_time: (n,) Datetime series, UTC.
        p_up: (n,) calibrated probabilities.
        quantiles: (n, 5) log-return quantiles, conformalised.
        log_return: (n,) fraction.
        other_seeds: (s, n) calibrated probabilities of the same recipe fitted with other seeds.
    """

    open_time: pl.Series
    p_up: npt.NDArray[np.float64]
    quantiles: npt.NDArray[np.float64]
    log_return: npt.NDArray[np.float64]
    other_seeds: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))

    def at(self, times: pl.Series) -> Evidence:
        """Return the evidence of the hours in `times`."""
        kept = self.open_time.is_in(times.implode())
        mask = kept.to_numpy()
        others = self.other_seeds[:, mask] if len(self.other_seeds) else self.other_seeds
        return Evidence(
            self.open_time.filter(kept), self.p_up[mask], self.quantiles[mask], self.log_return[mask], others
        )

    def losses(self, seeds: int = 1) -> npt.NDArray[np.float64]:
        """Return the log-loss of each seed and hour, (seeds, n), nats; a single fit is repeated."""
        rose = self.log_return > 0
        fits = [self.p_up, *self.other_seeds]
        fits = fits[:seeds] if len(fits) > 1 else fits * seeds
        return np.stack([log_losses(p_up, rose) for p_up in fits])


@dataclass(frozen=True)
class Criterion:
    """One measurement of a verdict.

    Attributes:
        name: what is measured.
        value: value of the candidate; None if it cannot be measured.
        champion_value: value of the champion on the same hours; None without a champion.
        bound: bound of the value; None if it is for information.
        passed: whether the candidate passes.
        reason: a sentence.
    """

    name: str
    value: float | None
    champion_value: float | None
    bound: float | None
    passed: bool
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Decision of the gate about a candidate.

    Attributes:
        decision: promoted, kept (the champion stays) or refused (the candidate is not valid).
        kind: the rule that decides, of `VERDICT_KINDS`.
        recipe_changes: differences from the champion's recipe; empty for a refresh.
        criteria: every measurement.
    """

    decision: str
    kind: str
    recipe_changes: tuple[str, ...]
    criteria: tuple[Criterion, ...]


def candidate_evidence(
    forecasts: pl.DataFrame,
    members: Sequence[str],
    *,
    weights: str,
    other_seeds: Mapping[str, npt.NDArray[np.float64]] | None = None,
    seeds: int = 0,
) -> Evidence:
    """Return the candidate's evidence: its newest fold, calibrated and weighed on the older folds.

    Args:
        forecasts: FOLD_FORECASTS rows of the candidate's cutoff.
        members: names of its members.
        weights: how they are weighed, see `ensemble.WEIGHTS`.
        other_seeds: by name of a member whose fit depends on the seed, its uncalibrated probabilities of the newest
            fold with the other seeds, (seeds, n).
        seeds: number of other seeds.
    """
    rows = FoldRows.of(forecasts, PRIMARY, members)
    judged = rows.where((rows.frame["fold"] == rows.frame["fold"].max()).to_numpy())
    lesson = rows.before(judged.frame["open_time"][0], PRIMARY)
    ensemble = lesson.ensemble(weights, PRIMARY)
    others = []
    for seed in range(seeds):
        p_up = judged.p_up.copy()
        for name, probabilities in (other_seeds or {}).items():
            at = judged.members.index(name)
            p_up[at] = np.where(np.isnan(p_up[at]), np.nan, probabilities[seed])
        others.append(ensemble(p_up, judged.scale))
    return Evidence(
        judged.frame["open_time"],
        ensemble(judged.p_up, judged.scale),
        judged.quantiles(lesson.offsets()),
        judged.frame["log_return"].to_numpy(),
        np.array(others) if others else np.empty((0, 0)),
    )


def champion_evidence(
    model: ForecastModel,
    features: pl.DataFrame,
    candidate: Evidence,
    other_seeds: Sequence[Mapping[str, FittedOutput]] = (),
    profile: Profile | None = None,
) -> Evidence:
    """Return the champion's forecasts, as it serves them, on the candidate's judged hours after its own cutoff.

    Args:
        model: the champion.
        features: HOURLY_FEATURES rows in time order, from `LOOK_BACK_DAYS` before the judged hours on.
        candidate: evidence whose hours are judged.
        other_seeds: P(up) of each member of the champion's recipe, fitted on its window with each other seed.
        profile: its training profile, by which lost inputs are replaced; None: not replaced.
    """
    times = candidate.open_time.filter(candidate.open_time >= midnight(model.cutoff))
    at = features["open_time"].is_in(times.implode()).to_numpy()
    inputs = matrix(features.filter(at), model.features)
    missing = np.isnan(inputs)
    lost = np.zeros_like(missing) if profile is None else profile.lost(features)[at]
    filled = inputs if profile is None else profile.fill(inputs.astype(np.float64), lost).astype(np.float32)
    served = model.predict(filled, missing)
    forecast, fallback = served[PRIMARY], np.zeros(len(inputs), dtype=np.bool_)
    if profile is not None:
        answer = profile.adjust(PRIMARY, forecast, lost, served.unfounded)
        forecast, fallback = answer.forecast, answer.fallback
    others = [
        library_p_up(model.document, outputs, filled, forecast.sigma, PRIMARY, missing) for outputs in other_seeds
    ]
    return Evidence(
        times,
        forecast.p_up,
        forecast.quantiles,
        candidate.log_return[candidate.open_time.is_in(times.implode()).to_numpy()],
        np.where(fallback, forecast.p_up, np.array(others)) if others else np.empty((0, 0)),
    )


def judge(
    candidate: Evidence,
    champion: Evidence | None,
    *,
    parity_error: float,
    champion_parity_error: float | None = None,
    causality_failures: Sequence[str],
    recipe_changes: Sequence[str] = (),
    inputs_changed: Sequence[str] = (),
    new_inputs_allowed: bool = False,
    margin_nats: float,
    tolerance_nats: float,
    significance: float,
    fee_bps: float,
) -> Verdict:
    """Judge a candidate.

    Args:
        candidate: its evidence.
        champion: the champion's evidence on the same hours; None if there is no champion yet.
        parity_error: largest |ONNX - library| of its graphs.
        champion_parity_error: the same for the champion's graphs; None if unknown.
        causality_failures: names of the laws that its features break.
        recipe_changes: see `recipe.recipe_changes`; empty makes the candidate a refresh.
        inputs_changed: inputs that only one of candidate and champion has.
        new_inputs_allowed: whether changed inputs are allowed.
        margin_nats: how much lower the log-loss of a changed recipe must be.
        tolerance_nats: how much higher the log-loss of a refresh may be.
        significance: largest p-value at which either counts as shown.
        fee_bps: one-way cost at which the Sharpe ratios are compared, basis points.
    """
    failures = float(len(causality_failures))
    validity = [
        Criterion(
            "onnx_parity",
            parity_error,
            champion_parity_error,
            PARITY_TOLERANCE,
            parity_error <= PARITY_TOLERANCE,
            "largest difference between the ONNX graphs and their library",
        ),
        Criterion(
            "causality",
            failures,
            None if champion is None else failures,
            0.0,
            not causality_failures,
            f"causality laws broken by the features of both models: {', '.join(causality_failures) or 'none'}",
        ),
        Criterion(
            "hours",
            float(len(candidate.p_up)),
            None if champion is None else float(len(champion.p_up)),
            float(MIN_HOURS),
            len(candidate.p_up) >= MIN_HOURS,
            "out-of-sample hours; for the champion, those after its cutoff",
        ),
        *promises(candidate, champion),
    ]
    valid = all(criterion.passed for criterion in validity)
    if champion is None:
        return Verdict("promoted" if valid else "refused", FIRST, (), tuple(validity))
    if recipe_changes:
        kind = CHANGED_RECIPE
        named = ", ".join(inputs_changed[:8]) or "none"
        comparison = [
            Criterion(
                "input_schema",
                float(len(inputs_changed)),
                0.0,
                None if new_inputs_allowed else 0.0,
                new_inputs_allowed or not inputs_changed,
                f"inputs that only one of the two models has: {named}; callers of /predict send the champion's inputs",
            ),
            *shown_better(
                candidate,
                champion,
                seeds=SEEDS,
                min_hours=MIN_HOURS,
                margin_nats=margin_nats,
                significance=significance,
                fee_bps=fee_bps,
            ),
        ]
    else:
        kind = REFRESH
        comparison = not_shown_worse(
            candidate, champion, tolerance_nats=tolerance_nats, significance=significance, fee_bps=fee_bps
        )
    passed = all(criterion.passed for criterion in comparison)
    decision = "refused" if not valid else "promoted" if passed else "kept"
    return Verdict(decision, kind, tuple(recipe_changes), (*validity, *comparison))


def promises(candidate: Evidence, champion: Evidence | None) -> list[Criterion]:
    """Return whether calibration and coverage hold on the judged hours.

    A bound that the champion breaks by as much or more on the common hours does not count: the served model is no
    better.

    Args:
        candidate: its evidence.
        champion: the champion's evidence on some of the same hours; None if there is no champion.
    """
    return [
        _promise(
            "calibration",
            candidate,
            champion,
            value=_bias,
            miss=_bias,
            bound=BIAS_BOUND,
            reason="|mean P(up) - share of rises|",
        ),
        _promise(
            "coverage_90",
            candidate,
            champion,
            value=_coverage,
            miss=_coverage_miss,
            bound=COVERAGE_SLACK,
            reason="share of outcomes inside the 90 % interval, which may deviate by the bound",
        ),
    ]


def _promise(
    name: str,
    candidate: Evidence,
    champion: Evidence | None,
    *,
    value: Callable[[Evidence], float | None],
    miss: Callable[[Evidence], float | None],
    bound: float,
    reason: str,
) -> Criterion:
    miss_of_candidate = miss(candidate)
    theirs = None if champion is None else value(champion)
    if miss_of_candidate is not None and miss_of_candidate <= bound:
        return Criterion(name, value(candidate), theirs, bound, True, reason)
    if champion is not None and len(champion.p_up) >= MIN_HOURS:
        ours, missed = miss(candidate.at(champion.open_time)), miss(champion)
        if ours is not None and missed is not None and missed > bound and missed >= ours:
            reason += f"; off by {ours:.3f} on the {len(champion.p_up)} common hours, the champion by {missed:.3f}"
            return Criterion(name, value(candidate), theirs, bound, True, reason)
    return Criterion(name, value(candidate), theirs, bound, False, reason)


@dataclass(frozen=True)
class _Pair:
    """Two models on their common hours."""

    ours: Evidence
    theirs: Evidence
    losses: npt.NDArray[np.float64]
    rival_losses: npt.NDArray[np.float64]
    test: LossDifference

    @classmethod
    def of(cls, candidate: Evidence, champion: Evidence, seeds: int) -> _Pair:
        ours, theirs = candidate.at(champion.open_time), champion.at(candidate.open_time)
        losses, rival_losses = ours.losses(seeds), theirs.losses(seeds)
        test = diebold_mariano(losses.mean(axis=0), rival_losses.mean(axis=0), horizon=PRIMARY)
        return cls(ours, theirs, losses, rival_losses, test)

    @property
    def hours(self) -> int:
        return len(self.theirs.p_up)

    def log_loss(self, bound: float | None, passed: bool, reason: str) -> Criterion:
        """Return the criterion with both log-losses, averaged over seeds."""
        ours, theirs = (float(side.mean()) if self.hours else None for side in (self.losses, self.rival_losses))
        return Criterion("log_loss", ours, theirs, bound, passed, reason)

    def net_sharpe(self, fee_bps: float, *, required: bool) -> Criterion:
        """Return the criterion with both Sharpe ratios after costs."""
        ours, theirs = (
            strategy(sign_signal(side.p_up), side.log_return, fee_bps=fee_bps) for side in (self.ours, self.theirs)
        )
        gain = sharpe_difference(ours, theirs)
        passed = not required or (gain.upper is not None and gain.upper >= 0)
        span = "unknown" if gain.upper is None else f"{gain.lower:.1f} to {gain.upper:.1f}"
        reason = f"annual Sharpe ratio of the sign at {fee_bps:g} bp one-way; the gain's 95 % interval is {span}"
        return Criterion("net_sharpe", ours.sharpe().value, theirs.sharpe().value, None, passed, reason)


def shown_better(
    challenger: Evidence,
    champion: Evidence,
    *,
    seeds: int,
    min_hours: int,
    margin_nats: float,
    significance: float,
    fee_bps: float,
) -> list[Criterion]:
    """Return the criteria by which a model is shown to be better than another on their common hours.

    Args:
        challenger: evidence of the model that must be better.
        champion: evidence of the other model.
        seeds: number of fits of each side; 1 leaves the criterion of seeds out.
        min_hours: fewest common hours.
        margin_nats: how much lower the log-loss must be.
        significance: largest p-value of the difference.
        fee_bps: one-way cost of the Sharpe ratios, basis points.
    """
    pair = _Pair.of(challenger, champion, seeds)
    enough = pair.hours >= min_hours
    gain = -pair.test.value if enough and pair.test.value is not None else None
    p_value = pair.test.p_below() if enough else None
    champions = float(pair.rival_losses.mean()) if pair.hours else None
    criteria = [
        Criterion(
            "common_hours",
            float(pair.hours),
            float(pair.hours),
            float(min_hours),
            enough,
            "hours on which neither of the two was trained",
        ),
        pair.log_loss(
            None if champions is None else champions - margin_nats,
            gain is not None and gain >= margin_nats,
            f"log-loss on the common hours, nats; must be lower by {margin_nats:g}",
        ),
        Criterion(
            "better_p_value",
            p_value,
            None,
            significance,
            p_value is not None and p_value <= significance,
            "one-sided Diebold-Mariano test (HAC) that the candidate's loss is not lower",
        ),
    ]
    if seeds > 1:
        wins = float((pair.rival_losses.mean(axis=1) > pair.losses.mean(axis=1)).sum()) if enough else None
        fits = 1 + len(pair.ours.other_seeds)
        sentence = f"of {seeds} pairs of fits with the same seed, those in which the side's loss is lower"
        won = fits >= seeds and wins is not None and wins >= SEED_WINS
        criteria.append(
            Criterion("seed_wins", wins, None if wins is None else seeds - wins, float(SEED_WINS), won, sentence)
        )
    criteria.append(pair.net_sharpe(fee_bps, required=True))
    return criteria


def not_shown_worse(
    candidate: Evidence, champion: Evidence, *, tolerance_nats: float, significance: float, fee_bps: float
) -> list[Criterion]:
    """Return the criteria of a refresh: it passes unless its log-loss is shown to be higher by more than a tolerance.

    Fewer than `MIN_HOURS` common hours show nothing, so a valid refresh then passes.

    Source of the test: F. X. Diebold & R. S. Mariano (1995), one-sided against a difference of the tolerance.

    Args:
        candidate: evidence of the refresh.
        champion: evidence of the champion.
        tolerance_nats: how much higher its log-loss may be.
        significance: largest p-value at which more than that counts as shown.
        fee_bps: one-way cost of the Sharpe ratios, basis points; for information.
    """
    pair = _Pair.of(candidate, champion, SEEDS)
    p_value = pair.test.p_above(tolerance_nats) if pair.hours >= MIN_HOURS else None
    return [
        pair.log_loss(None, True, f"log-loss on the {pair.hours} common hours, nats"),
        Criterion(
            "worse_p_value",
            p_value,
            None,
            significance,
            p_value is None or p_value > significance,
            f"one-sided Diebold-Mariano test (HAC) that the candidate's loss is at most {tolerance_nats:g} nats "
            "higher; at or below the bound it is shown to be worse",
        ),
        pair.net_sharpe(fee_bps, required=False),
    ]


def _bias(evidence: Evidence) -> float | None:
    if not len(evidence.p_up):
        return None
    return abs(float(evidence.p_up.mean() - (evidence.log_return > 0).mean()))


def _coverage_miss(evidence: Evidence) -> float | None:
    covered = _coverage(evidence)
    return None if covered is None else abs(covered - 0.9)


def _coverage(evidence: Evidence) -> float | None:
    return interval_coverage(evidence.log_return, evidence.quantiles[:, 0], evidence.quantiles[:, 2 * MEDIAN]).value


def verdict_rows(verdict: Verdict, *, cutoff: date, candidate: ModelChoice, rival: ModelChoice | None) -> pl.DataFrame:
    """Return MODEL_VERDICT rows, one per criterion; `rival` is the champion that the candidate was compared with."""
    return (
        pl.DataFrame(
            [
                {
                    "cutoff": cutoff,
                    "criterion": criterion.name,
                    "value": criterion.value,
                    "champion_value": criterion.champion_value,
                    "bound": criterion.bound,
                    "passed": criterion.passed,
                    "reason": criterion.reason,
                    "decision": verdict.decision,
                    "kind": verdict.kind,
                    "recipe_changes": "; ".join(verdict.recipe_changes),
                    "candidate_version": candidate.version,
                    "candidate_digest": candidate.digest,
                    "champion_version": rival.version if rival else None,
                    "champion_cutoff": rival.cutoff if rival else None,
                    "champion_digest": rival.digest if rival else None,
                }
                for criterion in verdict.criteria
            ],
            schema=MODEL_VERDICT.columns,
        )
    ).sort(MODEL_VERDICT.key)
