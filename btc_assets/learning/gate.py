"""The gate: a candidate becomes champion only on evidence, and any doubt keeps the champion.

Both are judged on the same hours, which neither has learnt from: the newest fold of the candidate's
window, as far as it lies after the champion's own cutoff. For the candidate that means its recipe
fitted before the fold, with calibration and intervals learnt from the older folds. Each side is fitted with several
seeds, the same for both, and losses are averaged over them, so that a lucky seed is no evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import midnight
from btc_assets.contracts import HORIZONS, MODEL_VERDICT, QUANTILE_COLUMNS
from btc_assets.learning.bundle import MEDIAN, ModelBundle
from btc_assets.learning.calibration import Calibration
from btc_assets.learning.evaluation import (
    diebold_mariano,
    log_losses,
    sharpe_difference,
    sign_signal,
    strategy,
)
from btc_assets.learning.export import PARITY_TOLERANCE
from btc_assets.learning.families.protocol import FittedOutput
from btc_assets.learning.folds import Rows, last_train_open_time
from btc_assets.learning.history import ModelChoice
from btc_assets.learning.training import Lesson, learn, scales

PRIMARY = HORIZONS[0]
"""The horizon a verdict rests on, hours."""
MIN_HOURS = 120
"""Fewest common hours a comparison may rest on: five days."""
COVERAGE_SLACK = 0.06
"""How far the 90 % interval may cover more or less than it claims on the judged hours."""
BIAS_BOUND = 0.06
"""How far the mean forecast may lie from the share of rises on the judged hours."""
SEEDS = 5
"""Fits of each side, with the same seeds, that a verdict compares."""
SEED_WINS = 4
"""Seeds of which the candidate must lose less."""


@dataclass(frozen=True)
class Evidence:
    """Forecasts of the primary horizon on judged hours, and what happened.

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
        """Return the hours that are among `times`."""
        kept = self.open_time.is_in(times.implode())
        mask = kept.to_numpy()
        others = self.other_seeds[:, mask] if len(self.other_seeds) else self.other_seeds
        return Evidence(
            self.open_time.filter(kept), self.p_up[mask], self.quantiles[mask], self.log_return[mask], others
        )

    def losses(self, seeds: int = 1) -> npt.NDArray[np.float64]:
        """Return the log-loss of each seed and hour, (seeds, n), nats; a side with one fit repeats it."""
        rose = self.log_return > 0
        fits = [self.p_up, *self.other_seeds]
        fits = fits[:seeds] if len(fits) > 1 else fits * seeds
        return np.stack([log_losses(p_up, rose) for p_up in fits])


@dataclass(frozen=True)
class Criterion:
    """One thing asked of a candidate."""

    name: str
    value: float | None
    bound: float | None
    passed: bool
    reason: str


def candidate_evidence(
    forecasts: pl.DataFrame, rows: Rows, other_seeds: npt.NDArray[np.float64] | None = None
) -> Evidence:
    """Return the candidate's evidence: its newest fold, corrected by what the older folds taught.

    Args:
        forecasts: FOLD_FORECASTS rows of the candidate's cutoff.
        rows: the labelled rows of the primary horizon in its window.
        other_seeds: (s, n) uncalibrated probabilities of the newest fold by other seeds.
    """
    judged = newest_fold(forecasts)
    lesson = _lesson(forecasts, rows, judged)
    scale = scales(rows, PRIMARY)[rows.open_time.search_sorted(judged["open_time"]).to_numpy()]
    offsets = np.array([lesson.offsets.get(name, 0.0) for name in QUANTILE_COLUMNS])
    quantiles = judged.select(QUANTILE_COLUMNS).to_numpy() + offsets * scale[:, None]
    return Evidence(
        judged["open_time"],
        lesson.calibration(judged["p_up"].to_numpy()),
        np.sort(quantiles, axis=1),
        judged["log_return"].to_numpy(),
        _calibrated(lesson.calibration, other_seeds),
    )


def newest_fold(forecasts: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the primary horizon's newest fold, in time order."""
    own = forecasts.filter(pl.col("horizon_hours") == PRIMARY).sort("open_time")
    return own.filter(pl.col("fold") == own["fold"].max())


def champion_evidence(
    bundle: ModelBundle,
    inputs: npt.NDArray[np.float32],
    candidate: Evidence,
    other_seeds: Sequence[FittedOutput] = (),
) -> Evidence:
    """Return the champion's forecasts on the candidate's judged hours that lie after the champion's cutoff.

    Args:
        bundle: the champion.
        inputs: its features on the judged hours, (n, f).
        candidate: whose hours are judged.
        other_seeds: P(up) of the champion's recipe fitted on its window with other seeds.
    """
    fresh = (candidate.open_time >= midnight(bundle.cutoff)).to_numpy()
    forecast = bundle.predict(inputs[fresh])[PRIMARY]
    others = np.stack([fit.predict(inputs[fresh]) for fit in other_seeds]) if other_seeds else None
    return Evidence(
        candidate.open_time.filter(pl.Series(fresh)),
        forecast.p_up,
        forecast.quantiles,
        candidate.log_return[fresh],
        _calibrated(Calibration(**bundle.document["calibration"][str(PRIMARY)]), others),
    )


def _lesson(forecasts: pl.DataFrame, rows: Rows, judged: pl.DataFrame) -> Lesson:
    """Return what the hours known when the judged ones began teach."""
    known = last_train_open_time(judged["open_time"][0], PRIMARY)
    own = forecasts.filter(pl.col("horizon_hours") == PRIMARY)
    return learn(own.filter(pl.col("open_time") <= known), rows, PRIMARY)


def _calibrated(calibration: Calibration, p_up: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
    return np.empty((0, 0)) if p_up is None or not len(p_up) else np.stack([calibration(row) for row in p_up])


def judge(
    candidate: Evidence,
    champion: Evidence | None,
    *,
    parity_error: float,
    causality_failures: Sequence[str],
    inputs_changed: Sequence[str] = (),
    new_inputs_allowed: bool = False,
    margin_nats: float,
    significance: float,
    fee_bps: float,
) -> tuple[str, list[Criterion]]:
    """Judge a candidate.

    Args:
        candidate: its evidence.
        champion: the champion's on the same hours, or None when there is no champion yet.
        parity_error: largest |ONNX - library| of its graphs.
        causality_failures: names of the laws its features broke; empty is green.
        inputs_changed: inputs that the candidate has and the champion lacks, or the other way round.
        new_inputs_allowed: whether that may be.
        margin_nats: how much lower its log-loss must be.
        significance: largest p-value of that.
        fee_bps: one-way cost at which the Sharpe ratios are compared, basis points.

    Returns:
        The decision, and every criterion: `promoted`; `refused` when the candidate is not valid in
        itself; `kept` when it is valid but not shown to be better.
    """
    validity = [
        Criterion(
            "onnx_parity",
            parity_error,
            PARITY_TOLERANCE,
            parity_error <= PARITY_TOLERANCE,
            "largest difference between the ONNX graphs and their library",
        ),
        Criterion(
            "causality",
            float(len(causality_failures)),
            0.0,
            not causality_failures,
            "causality laws broken: " + (", ".join(causality_failures) or "none"),
        ),
        Criterion(
            "hours",
            float(len(candidate.p_up)),
            float(MIN_HOURS),
            len(candidate.p_up) >= MIN_HOURS,
            "out-of-sample hours of the candidate",
        ),
        *promises(candidate),
    ]
    valid = all(criterion.passed for criterion in validity)
    if champion is None:
        return ("promoted" if valid else "refused"), validity
    named = ", ".join(inputs_changed[:8]) or "none"
    comparison = [
        Criterion(
            "input_schema",
            float(len(inputs_changed)),
            None if new_inputs_allowed else 0.0,
            new_inputs_allowed or not inputs_changed,
            f"inputs that only one of the two models has: {named}; callers of /predict send the champion's",
        ),
        *compare(
            candidate,
            champion,
            seeds=SEEDS,
            min_hours=MIN_HOURS,
            margin_nats=margin_nats,
            significance=significance,
            fee_bps=fee_bps,
        ),
    ]
    better = all(criterion.passed for criterion in comparison)
    decision = "refused" if not valid else "promoted" if better else "kept"
    return decision, validity + comparison


def promises(evidence: Evidence) -> list[Criterion]:
    """Return whether calibration and coverage hold on the judged hours."""
    coverage = _coverage(evidence)
    bias = abs(float(evidence.p_up.mean() - (evidence.log_return > 0).mean())) if len(evidence.p_up) else None
    return [
        Criterion(
            "calibration",
            bias,
            BIAS_BOUND,
            bias is not None and bias <= BIAS_BOUND,
            "|mean P(up) - share of rises| on the judged hours",
        ),
        Criterion(
            "coverage_90",
            coverage,
            COVERAGE_SLACK,
            coverage is not None and abs(coverage - 0.9) <= COVERAGE_SLACK,
            "share of outcomes inside the 90 % interval; may be off by the bound",
        ),
    ]


def compare(
    challenger: Evidence,
    champion: Evidence,
    *,
    seeds: int,
    min_hours: int,
    margin_nats: float,
    significance: float,
    fee_bps: float,
) -> list[Criterion]:
    """Return whether one model is shown to be better than another on the hours they share.

    Source: F. X. Diebold & R. S. Mariano (1995), Comparing predictive accuracy; one-sided here.

    Args:
        challenger: evidence of the one that must be better.
        champion: of the other.
        seeds: fits of each that are compared; 1 asks nothing of seeds.
        min_hours: fewest hours they must share.
        margin_nats: how much lower the log-loss must be.
        significance: largest p-value of that.
        fee_bps: one-way cost of the Sharpe ratios, basis points.
    """
    ours, theirs = challenger.at(champion.open_time), champion.at(challenger.open_time)
    common = len(theirs.p_up)
    gain = p_value = wins = None
    if common >= min_hours:
        lost, lost_by_champion = ours.losses(seeds), theirs.losses(seeds)
        gains = (lost_by_champion - lost).mean(axis=1)
        gain, wins = float(gains.mean()), float((gains > 0).sum())
        test = diebold_mariano(lost.mean(axis=0), lost_by_champion.mean(axis=0), horizon=PRIMARY)
        if test.p_value is not None and test.statistic is not None:
            p_value = test.p_value / 2 if test.statistic < 0 else 1 - test.p_value / 2
    found = [
        Criterion(
            "common_hours",
            float(common),
            float(min_hours),
            common >= min_hours,
            "hours neither of the two has learnt from",
        ),
        Criterion(
            "log_loss_gain",
            gain,
            margin_nats,
            gain is not None and gain >= margin_nats,
            "champion's log-loss less the candidate's on the common hours, nats",
        ),
        Criterion(
            "gain_p_value",
            p_value,
            significance,
            p_value is not None and p_value <= significance,
            "one-sided Diebold-Mariano test that the candidate does not lose less",
        ),
    ]
    if seeds > 1:
        fits = 1 + len(ours.other_seeds)
        sentence = f"of {seeds} pairs of fits with the same seed, those in which the candidate loses less"
        enough = fits >= seeds and wins is not None and wins >= SEED_WINS
        found.append(Criterion("seed_wins", wins, float(SEED_WINS), enough, sentence))
    traded, champion_traded = (
        strategy(sign_signal(side.p_up), side.log_return, fee_bps=fee_bps) for side in (ours, theirs)
    )
    sharpe = sharpe_difference(traded, champion_traded)
    found.append(
        Criterion(
            "net_sharpe",
            sharpe.upper,
            0.0,
            sharpe.upper is not None and sharpe.upper >= 0,
            f"upper end of the 95 % interval of the gain in annual Sharpe ratio at {fee_bps:g} bp one-way",
        )
    )
    return found


def _coverage(evidence: Evidence) -> float | None:
    if not len(evidence.log_return):
        return None
    low, high = evidence.quantiles[:, 0], evidence.quantiles[:, 2 * MEDIAN]
    return float(((low <= evidence.log_return) & (evidence.log_return <= high)).mean())


def verdict_rows(
    decision: str, criteria: Sequence[Criterion], *, cutoff: date, candidate: ModelChoice, before: ModelChoice | None
) -> pl.DataFrame:
    """Return MODEL_VERDICT rows, one a criterion; `before` is the champion the candidate was held against."""
    return (
        pl.DataFrame(
            [
                {
                    "cutoff": cutoff,
                    "criterion": criterion.name,
                    "value": criterion.value,
                    "bound": criterion.bound,
                    "passed": criterion.passed,
                    "reason": criterion.reason,
                    "decision": decision,
                    "candidate_version": candidate.version,
                    "candidate_digest": candidate.digest,
                    "champion_version": before.version if before else None,
                    "champion_cutoff": before.cutoff if before else None,
                    "champion_digest": before.digest if before else None,
                }
                for criterion in criteria
            ],
            schema=MODEL_VERDICT.columns,
        )
    ).sort(MODEL_VERDICT.key)
