"""The gate: a candidate becomes champion only on evidence, and any doubt keeps the champion.

Both are judged on the same hours, which neither has learnt from: the newest fold of the candidate's
window, as far as it lies after the champion's own cutoff. For the candidate that means its recipe
fitted before the fold, with calibration and intervals learnt from the older folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import midnight
from btc_assets.contracts import HORIZONS, MODEL_VERDICT, QUANTILE_COLUMNS
from btc_assets.learning.bundle import MEDIAN, ModelBundle
from btc_assets.learning.evaluation import log_losses
from btc_assets.learning.export import PARITY_TOLERANCE
from btc_assets.learning.folds import Rows, last_train_open_time
from btc_assets.learning.training import learn, scales

PRIMARY = HORIZONS[0]
"""The horizon a verdict rests on, hours."""
MIN_HOURS = 120
"""Fewest common hours a comparison may rest on: five days."""
COVERAGE_SLACK = 0.06
"""How far the 90 % interval may cover more or less than it claims on the judged hours."""
BIAS_BOUND = 0.06
"""How far the mean forecast may lie from the share of rises on the judged hours."""


@dataclass(frozen=True)
class Evidence:
    """Forecasts of the primary horizon on judged hours, and what happened.

    Attributes:
        open_time: (n,) Datetime series, UTC.
        p_up: (n,) calibrated probabilities.
        quantiles: (n, 5) log-return quantiles, conformalised.
        log_return: (n,) fraction.
    """

    open_time: pl.Series
    p_up: npt.NDArray[np.float64]
    quantiles: npt.NDArray[np.float64]
    log_return: npt.NDArray[np.float64]

    def at(self, times: pl.Series) -> Evidence:
        """Return the hours that are among `times`."""
        kept = self.open_time.is_in(times.implode())
        mask = kept.to_numpy()
        return Evidence(self.open_time.filter(kept), self.p_up[mask], self.quantiles[mask], self.log_return[mask])

    def losses(self) -> npt.NDArray[np.float64]:
        """Return the log-loss of each hour, (n,), nats."""
        return log_losses(self.p_up, self.log_return > 0)


@dataclass(frozen=True)
class Criterion:
    """One thing asked of a candidate."""

    name: str
    value: float | None
    bound: float | None
    passed: bool
    reason: str


@dataclass(frozen=True)
class ModelChoice:
    """A registered model: its registry version, cutoff and digest."""

    version: int
    cutoff: date
    digest: str


def candidate_evidence(forecasts: pl.DataFrame, rows: Rows) -> Evidence:
    """Return the candidate's evidence: its newest fold, corrected by what the older folds taught.

    Args:
        forecasts: FOLD_FORECASTS rows of the candidate's cutoff.
        rows: the labelled rows of the primary horizon in its window.
    """
    own = forecasts.filter(pl.col("horizon_hours") == PRIMARY).sort("open_time")
    newest = own["fold"].max()
    judged = own.filter(pl.col("fold") == newest)
    known = last_train_open_time(judged["open_time"][0], PRIMARY)
    lesson = learn(own.filter(pl.col("open_time") <= known), rows, PRIMARY)
    scale = scales(rows, PRIMARY)[rows.open_time.search_sorted(judged["open_time"]).to_numpy()]
    offsets = np.array([lesson.offsets.get(name, 0.0) for name in QUANTILE_COLUMNS])
    quantiles = judged.select(QUANTILE_COLUMNS).to_numpy() + offsets * scale[:, None]
    return Evidence(
        judged["open_time"],
        lesson.calibration(judged["p_up"].to_numpy()),
        np.sort(quantiles, axis=1),
        judged["log_return"].to_numpy(),
    )


def champion_evidence(bundle: ModelBundle, inputs: npt.NDArray[np.float32], candidate: Evidence) -> Evidence:
    """Return the champion's forecasts on the candidate's judged hours that lie after the champion's cutoff.

    Args:
        bundle: the champion.
        inputs: its features on the judged hours, (n, f).
        candidate: whose hours are judged.
    """
    fresh = (candidate.open_time >= midnight(bundle.cutoff)).to_numpy()
    forecast = bundle.predict(inputs[fresh])[PRIMARY]
    return Evidence(
        candidate.open_time.filter(pl.Series(fresh)),
        forecast.p_up,
        forecast.quantiles,
        candidate.log_return[fresh],
    )


def judge(
    candidate: Evidence,
    champion: Evidence | None,
    *,
    parity_error: float,
    causality_failures: Sequence[str],
    margin_nats: float,
) -> tuple[str, list[Criterion]]:
    """Judge a candidate.

    Args:
        candidate: its evidence.
        champion: the champion's on the same hours, or None when there is no champion yet.
        parity_error: largest |ONNX - library| of its graphs.
        causality_failures: names of the laws its features broke; empty is green.
        margin_nats: how much lower its log-loss must be.

    Returns:
        The decision, and every criterion: `promoted`; `refused` when the candidate is not valid in
        itself; `kept` when it is valid but not shown to be better.
    """
    coverage = _coverage(candidate)
    bias = abs(float(candidate.p_up.mean() - (candidate.log_return > 0).mean())) if len(candidate.p_up) else None
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
    valid = all(criterion.passed for criterion in validity)
    if champion is None:
        return ("promoted" if valid else "refused"), validity
    ours, theirs = candidate.at(champion.open_time), champion.at(candidate.open_time)
    common = len(theirs.p_up)
    gain = float((theirs.losses() - ours.losses()).mean()) if common >= MIN_HOURS else None
    comparison = [
        Criterion(
            "common_hours",
            float(common),
            float(MIN_HOURS),
            common >= MIN_HOURS,
            "hours neither the candidate nor the champion has learnt from",
        ),
        Criterion(
            "log_loss_gain",
            gain,
            margin_nats,
            gain is not None and gain >= margin_nats,
            "champion's log-loss less the candidate's on the common hours, nats",
        ),
    ]
    better = all(criterion.passed for criterion in comparison)
    decision = "refused" if not valid else "promoted" if better else "kept"
    return decision, validity + comparison


def _coverage(evidence: Evidence) -> float | None:
    if not len(evidence.log_return):
        return None
    low, high = evidence.quantiles[:, 0], evidence.quantiles[:, 2 * MEDIAN]
    return float(((low <= evidence.log_return) & (evidence.log_return <= high)).mean())


def champion_as_of(verdicts: pl.DataFrame, day: date, *, window_days: int) -> ModelChoice | None:
    """Return the champion on a day: the one the newest verdict with cutoff <= day names.

    The history of verdicts only grows, so a replay of a past day sees the champion of that day.

    Args:
        verdicts: MODEL_VERDICT rows.
        day: the day in question.
        window_days: verdicts older than this many days are not asked, as the assets' mappings have it.

    Returns:
        The choice, or None when no verdict names a champion yet.
    """
    named = verdicts.filter(
        pl.col("cutoff").is_between(day - timedelta(days=window_days), day) & pl.col("champion_version").is_not_null()
    ).sort("cutoff")
    if named.is_empty():
        return None
    row = named.row(-1, named=True)
    return ModelChoice(row["champion_version"], row["champion_cutoff"], row["champion_digest"])


@dataclass(frozen=True)
class Standing:
    """Where the registry's aliases belong: registry versions, None where nobody stands."""

    champion: int | None
    previous: int | None
    challenger: int | None


def standing(verdicts: pl.DataFrame) -> Standing:
    """Return who stands after the newest of these verdicts.

    The champion is the one it names, the previous one the last other champion before; the challenger is a
    candidate that is valid but was not shown to be better. A refused candidate stands nowhere.

    Args:
        verdicts: MODEL_VERDICT rows of the whole history.
    """
    by_cutoff = verdicts.unique("cutoff", keep="any").sort("cutoff")
    if by_cutoff.is_empty():
        return Standing(None, None, None)
    newest = by_cutoff.row(-1, named=True)
    champion = newest["champion_version"]
    others = by_cutoff["champion_version"].drop_nulls().to_list()
    previous = next((version for version in reversed(others) if version != champion), None)
    kept = newest["decision"] == "kept" and newest["candidate_version"] != champion
    return Standing(champion, previous, newest["candidate_version"] if kept else None)


def verdict_rows(
    decision: str, criteria: Sequence[Criterion], *, cutoff: date, candidate: ModelChoice, before: ModelChoice | None
) -> pl.DataFrame:
    """Return MODEL_VERDICT rows, one a criterion; `champion_*` is who stands after this verdict."""
    after = candidate if decision == "promoted" else before
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
                    "champion_version": after.version if after else None,
                    "champion_cutoff": after.cutoff if after else None,
                    "champion_digest": after.digest if after else None,
                }
                for criterion in criteria
            ],
            schema=MODEL_VERDICT.columns,
        )
    ).sort(MODEL_VERDICT.key)
