"""Detect degradation of a model: sequential tests of realised forecasts with a stated false-alarm rate.

A forecast makes three promises: P(up) is the share of rises, the 90 % interval covers nine outcomes of ten, and the
log-loss is at most that of a coin. While a promise holds, a bet against it is fair or worse, whatever the dependence
between hours, so the bettor's expected wealth does not grow; large wealth is evidence against the promise. The wealth
of a bettor who may restart with one unit at any hour is an e-detector: while the promise holds, the mean time until the
wealth first exceeds a bound is at least that many hours.

Source: J. Shin, A. Ramdas, A. Rinaldo (2023), E-detectors: a nonparametric framework for sequential change detection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.evaluation.metrics import log_losses
from btc_assets.monitoring.tables import DRIFT_REPORT
from btc_assets.vocabulary import PRIMARY, QUANTILE_NAMES, ROLES

Floats = npt.NDArray[np.float64]

MIN_HOURS = 24 * 14
"""Minimum number of hours for a significant result."""
COVERAGE_SLACK = 0.05
"""Tolerance of the coverage of the 90 % interval."""
_STAKES = (0.05, 0.1, 0.2, 0.4)
"""Fractions of the largest safe stake; a detector is the mean over these bets."""
_MIN_GAIN = 1e-300
"""Lower bound of a bet's factor: its logarithm stays finite, and the bet cannot recover from it."""
_MAX_LOSS_DIFFERENCE = 1.0
"""Nats at which a log-loss difference is clipped, so that a bet on it cannot lose more than its stake."""


@dataclass(frozen=True)
class Evidence:
    """The result of one detector at the end of a period.

    Attributes:
        name: the promise: calibration, coverage_90 or log_loss.
        wealth: wealth of the bet against the promise, now or at the alarm; the initial wealth is 1.
        bound: wealth from which the promise counts as broken.
        alarm: whether the wealth reached the bound within the newest `alarm_hours`.
        since: index of the hour of the last restart, the likely start of the degradation.
        n: number of hours tested.
        value: the tested statistic: mean P(up) minus share of rises, share inside, or mean loss difference.
        sentence: a description of the result.
    """

    name: str
    wealth: float
    bound: float
    alarm: bool
    since: int
    n: int
    value: float
    sentence: str


def e_detector(gains: Floats, bound: float) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return the wealth of bets that may restart at every hour, and the hour of the last restart.

    Args:
        gains: (n, k) non-negative factors by which k bets multiply their stake each hour. While the promise holds,
            each factor has a conditional mean of at most 1 given the hours before.
        bound: mean wealth that raises an alarm; the detector restarts after that hour.

    Returns:
        (n,) mean wealth of the k bets, and (n,) the hour in which the bet with the largest wealth last restarted.
    """
    n, k = gains.shape
    steps = np.log(np.maximum(gains, _MIN_GAIN))
    mean_wealth, since = np.empty(n), np.empty(n, dtype=np.int64)
    start = 0
    while start < n:
        # In logarithms, wealth that restarts below 1 is the height of the cumulative sum above its running minimum.
        log_wealth = np.cumsum(steps[start:], axis=0)
        log_wealth_before = np.vstack([np.zeros(k), log_wealth[:-1]])
        lowest = np.minimum.accumulate(log_wealth_before, axis=0)
        wealth = np.exp(log_wealth - lowest)
        hours = np.arange(start, n)
        started = np.maximum.accumulate(np.where(log_wealth_before <= lowest, hours[:, None], start), axis=0)
        mean = wealth.mean(axis=1)
        crossed = np.flatnonzero(mean >= bound)
        end = int(crossed[0]) + 1 if len(crossed) else len(hours)
        mean_wealth[start : start + end] = mean[:end]
        since[start : start + end] = started[np.arange(end), wealth[:end].argmax(axis=1)]
        start += end
    return mean_wealth, since


def calibration_gains(p_up: Floats, up: Floats) -> Floats:
    """Return the gains of bets that rises are more or less frequent than P(up), overall or in the forecast direction.

    Args:
        p_up: probabilities, (n,).
        up: 1.0 where the price rose, (n,).
    """
    residual = up - p_up
    direction = np.where(p_up >= 0.5, 1.0, -1.0)
    return np.column_stack(
        [1 + sign * stake * residual for stake in _STAKES for sign in (1.0, -1.0, direction, -direction)]
    )


def coverage_gains(inside: Floats, share: float) -> Floats:
    """Return the gains of bets that an interval covers fewer or more outcomes than its nominal share.

    Args:
        inside: 1.0 where the outcome was inside, (n,).
        share: nominal coverage of the interval.
    """
    residual = inside - share
    return np.column_stack([1 + sign * stake * residual / share for stake in _STAKES for sign in (1.0, -1.0)])


def loss_gains(loss: Floats, base_loss: Floats) -> Floats:
    """Return the gains of bets that forecasts have a higher log-loss than their base.

    Args:
        loss: log-loss of the forecasts, nats, (n,).
        base_loss: log-loss of the base, nats, (n,).
    """
    worse = np.clip(loss - base_loss, -_MAX_LOSS_DIFFERENCE, _MAX_LOSS_DIFFERENCE) / _MAX_LOSS_DIFFERENCE
    return np.column_stack([1 + stake * worse for stake in _STAKES])


def concept_rows(evidence: Sequence[Evidence], *, day: date, version: int, cutoff: date) -> pl.DataFrame:
    """Return DRIFT_REPORT rows of the promises: the tested statistic and the wealth of the bet against the promise.

    Args:
        evidence: results of the detectors.
        day: last day of the period.
        version: registry version of the champion.
        cutoff: cutoff of the champion.
    """
    records = [
        {
            "day": day,
            "kind": "concept",
            "subject": result.name,
            "measure": measure,
            "value": value,
            "bound": bound,
            "alarm": result.alarm,
            "n": result.n,
            "model_version": version,
            "model_cutoff": cutoff,
        }
        for result in evidence
        for measure, value, bound in (("figure", result.value, None), ("wealth", result.wealth, result.bound))
    ]
    return pl.DataFrame(records, schema=DRIFT_REPORT.columns).sort(DRIFT_REPORT.key)


def watch(outcomes: pl.DataFrame, *, alarm_hours: int, mean_hours: float) -> list[Evidence]:
    """Test the promises of one role's forecasts of one horizon.

    Args:
        outcomes: FORECAST_OUTCOMES rows of one role and a horizon of one hour, whose outcomes do not overlap.
        alarm_hours: newest hours in which reaching the bound is an alarm; earlier alarms were reported before.
        mean_hours: minimum mean time to a false alarm, hours.

    Returns:
        The evidence on calibration, coverage of the 90 % interval and log-loss against a coin; empty without outcomes.
    """
    rows = outcomes.sort("open_time")
    if rows.is_empty():
        return []
    p_up, log_return = rows["p_up"].to_numpy(), rows["log_return"].to_numpy()
    up = (log_return > 0).astype(np.float64)
    inside = (
        ((rows[QUANTILE_NAMES[0]] <= rows["log_return"]) & (rows["log_return"] <= rows[QUANTILE_NAMES[-1]]))
        .cast(pl.Float64)
        .to_numpy()
    )
    loss = log_losses(np.clip(p_up, 1e-6, 1 - 1e-6), log_return > 0)
    coin = np.full(len(loss), np.log(2))
    tests: Sequence[tuple[str, Floats, float, str]] = (
        (
            "calibration",
            calibration_gains(p_up, up),
            float((p_up - up).mean()),
            "mean P(up) minus the share of rises",
        ),
        (
            "coverage_90",
            coverage_gains(inside, 0.9),
            float(inside.mean()),
            "share of outcomes inside the 90 % interval",
        ),
        ("log_loss", loss_gains(loss, coin), float((loss - coin).mean()), "mean log-loss minus that of a coin, nats"),
    )
    results = []
    for name, gains, value, meaning in tests:
        mean_wealth, since = e_detector(gains, mean_hours)
        crossed = np.flatnonzero(mean_wealth[-alarm_hours:] >= mean_hours) + max(len(mean_wealth) - alarm_hours, 0)
        at = int(crossed[0]) if len(crossed) else len(mean_wealth) - 1
        restarted = rows["open_time"][int(since[at])]
        results.append(
            Evidence(
                name=name,
                wealth=float(mean_wealth[at]),
                bound=float(mean_hours),
                alarm=bool(len(crossed)),
                since=int(since[at]),
                n=len(mean_wealth),
                value=value,
                sentence=f"{meaning}: {value:+.4f} over {len(mean_wealth)} hours; a bet against the promise, started "
                f"{restarted:%Y-%m-%d %H:%M} UTC, turned 1 into {mean_wealth[at]:.3g} (alarm at {mean_hours:,.0f})",
            )
        )
    return results


@dataclass(frozen=True)
class BrokenPromise:
    """A promise that is broken according to a drift report.

    Attributes:
        promise: name of the promise.
        proof: the evidence, as the end of a sentence.
        value: the measured value.
    """

    promise: str
    proof: str
    value: float


def broken_promises(report: pl.DataFrame) -> list[BrokenPromise]:
    """Return the broken promises of a drift report; drifted inputs alone break none.

    Args:
        report: DRIFT_REPORT rows of one day.
    """
    alarms = report.filter("alarm").sort("subject")
    lost = alarms.filter((pl.col("kind") == "input") & (pl.col("measure") == "lost_hours"))["subject"].to_list()
    results = []
    for row in alarms.filter(pl.col("kind") == "concept").iter_rows(named=True):
        if row["measure"] == "wealth":
            proof = f"a bet against it turned 1 into {row['value']:.3g} over {row['n']} hours"
        elif row["measure"] == "lost_hours":
            proof = f"for up to {row['value']:.0f} of {row['n']} hours {_were_missing(lost)}"
        else:
            continue
        results.append(BrokenPromise(row["subject"], proof, row["value"]))
    return results


def _were_missing(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most]) + (f" and {len(names) - most} others" if len(names) > most else "")
    return f"{shown} {'were' if len(names) > 1 else 'was'} missing"


def significant_degradation(report: pl.DataFrame) -> list[str]:
    """Describe the significant degradation of the champion's 60 min forecasts in the last 90 days; empty without one.

    Degradation is significant if the whole 95 % interval is on the wrong side: log-loss skill below zero, or coverage
    of the 90 % interval off by more than five points.

    Args:
        report: PERFORMANCE_REPORT rows of one day.
    """
    newest = report.filter(
        (pl.col("role") == ROLES[0]) & (pl.col("horizon_minutes") == PRIMARY) & (pl.col("period") == "last_90_days")
    )
    results = []
    for row in newest.sort("metric").iter_rows(named=True):
        low, high, n = row["lower"], row["upper"], row["n"]
        if low is None or high is None or n < MIN_HOURS:
            continue
        if row["metric"] == "log_loss_skill" and high < 0:
            results.append(f"log-loss skill is {row['value']:.2%}, at most {high:.2%}, over {n} hours")
        if row["metric"] == "coverage_90" and (high < 0.9 - COVERAGE_SLACK or low > 0.9 + COVERAGE_SLACK):
            results.append(
                f"the 90 % interval covers {row['value']:.1%} of outcomes ({low:.1%} to {high:.1%}), n = {n}"
            )
    return results
