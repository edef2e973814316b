"""Has the model stopped keeping its word? Sequential tests of realised forecasts with a stated false-alarm rate.

Each promise of a forecast is a bet at fair odds for as long as the promise holds: that P(up) is the share of rises,
that the 90 % interval holds nine outcomes of ten, that the forecast costs no more log-loss than a coin. Whoever bets
against a promise that holds cannot expect to win, whatever the dependence between hours; whoever grows rich has shown
it broken. The wealth of such a bettor, who may start anew with one unit at any hour, is an e-detector: while the
promise holds, the mean time to its first exceeding `1 / level` is at least `1 / level` hours.

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
from btc_assets.vocabulary import HORIZONS, QUANTILE_NAMES, ROLES

Floats = npt.NDArray[np.float64]

LEAST_HOURS = 24 * 14
"""Fewest hours on which a report proves anything."""
COVERAGE_SLACK = 0.05
"""How far coverage of the 90 % interval may be off."""
_STAKES = (0.05, 0.1, 0.2, 0.4)
"""Shares of the largest safe stake that are bet; a detector is the mean of them."""
_RUIN = 1e-300
"""Least factor of a bet: its logarithm is finite, and nobody recovers from it."""
_LARGEST_LOSS = 1.0
"""Nats at which the difference of two log-losses is cut off, so that a bet on it cannot lose more than its stake."""


@dataclass(frozen=True)
class Evidence:
    """What one detector says at the end of a stretch of hours.

    Attributes:
        name: the promise watched: calibration, coverage_90 or log_loss.
        wealth: of the bettor against it, now or when the alarm went; 1 is where everyone starts.
        bound: wealth above which the promise counts as broken.
        alarm: whether it reached the bound within the newest `alarm_hours`.
        since: index of the first hour of that run of wealth; where the trouble is likely to have begun.
        n: hours watched.
        value: the plain figure behind it: mean forecast less share of rises, share inside, or mean loss difference.
        sentence: for a person.
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
    """Return the wealth of a bettor who may start anew at every hour, and since when its current run lasts.

    Args:
        gains: (n, k) factors by which k bets multiply their stake each hour; each has mean at most 1 while the
            promise holds, whatever came before, and none is below 0.
        bound: mean wealth at which the detector has made its point; it begins anew after that hour.

    Returns:
        (n,) mean wealth of the k bets, and (n,) the first hour of the run of the richest of them.
    """
    n, k = gains.shape
    steps = np.log(np.maximum(gains, _RUIN))
    path, since = np.empty(n), np.empty(n, dtype=np.int64)
    begin = 0
    while begin < n:
        # Wealth that starts anew whenever it falls below 1 is, in logarithms, the height above the lowest point so far.
        walked = np.cumsum(steps[begin:], axis=0)
        before = np.vstack([np.zeros(k), walked[:-1]])
        lowest = np.minimum.accumulate(before, axis=0)
        wealth = np.exp(walked - lowest)
        hours = np.arange(begin, n)
        started = np.maximum.accumulate(np.where(before <= lowest, hours[:, None], begin), axis=0)
        mean = wealth.mean(axis=1)
        crossed = np.flatnonzero(mean >= bound)
        until = int(crossed[0]) + 1 if len(crossed) else len(hours)
        path[begin : begin + until] = mean[:until]
        since[begin : begin + until] = started[np.arange(until), wealth[:until].argmax(axis=1)]
        begin += until
    return path, since


def calibration_gains(p_up: Floats, up: Floats) -> Floats:
    """Bet that rises are more, or less, frequent than P(up) says, always or in the direction forecast; (n, 4 k).

    Args:
        p_up: probabilities, (n,).
        up: 1.0 where the price rose, (n,).
    """
    surprise = up - p_up
    direction = np.where(p_up >= 0.5, 1.0, -1.0)
    return np.column_stack(
        [1 + sign * stake * surprise for stake in _STAKES for sign in (1.0, -1.0, direction, -direction)]
    )


def coverage_gains(inside: Floats, share: float) -> Floats:
    """Bet that outcomes fall inside an interval less, or more, often than it claims; (n, 2 k).

    Args:
        inside: 1.0 where the outcome was inside, (n,).
        share: what the interval claims.
    """
    surprise = inside - share
    return np.column_stack([1 + sign * stake * surprise / share for stake in _STAKES for sign in (1.0, -1.0)])


def loss_gains(loss: Floats, base_loss: Floats) -> Floats:
    """Bet that forecasts cost more log-loss than their base; (n, k).

    Args:
        loss: of the forecasts, nats, (n,).
        base_loss: of the base, nats, (n,).
    """
    worse = np.clip(loss - base_loss, -_LARGEST_LOSS, _LARGEST_LOSS) / _LARGEST_LOSS
    return np.column_stack([1 + stake * worse for stake in _STAKES])


def concept_rows(found: Sequence[Evidence], *, day: date, version: int, cutoff: date) -> pl.DataFrame:
    """Return DRIFT_REPORT rows of the promises watched: the plain figure, and the wealth of the bet against it.

    Args:
        found: the evidence.
        day: last day of the stretch.
        version: registry version of the champion.
        cutoff: of the champion.
    """
    records = [
        {
            "day": day,
            "kind": "concept",
            "subject": one.name,
            "measure": measure,
            "value": value,
            "bound": bound,
            "alarm": one.alarm,
            "n": one.n,
            "model_version": version,
            "model_cutoff": cutoff,
        }
        for one in found
        for measure, value, bound in (("figure", one.value, None), ("wealth", one.wealth, one.bound))
    ]
    return pl.DataFrame(records, schema=DRIFT_REPORT.columns).sort(DRIFT_REPORT.key)


def watch(outcomes: pl.DataFrame, *, alarm_hours: int, mean_hours: float) -> list[Evidence]:
    """Watch the promises of one role's forecasts of one horizon.

    Args:
        outcomes: FORECAST_OUTCOMES rows of one role and a horizon of one hour, whose outcomes do not overlap.
        alarm_hours: newest hours within which an exceeded bound is an alarm; older ones were told before.
        mean_hours: least mean time to a false alarm, hours.

    Returns:
        The evidence on calibration, coverage of the 90 % interval and log-loss against a coin; empty without outcomes.
    """
    rows = outcomes.sort("open_time")
    if rows.is_empty():
        return []
    p_up, happened = rows["p_up"].to_numpy(), rows["log_return"].to_numpy()
    up = (happened > 0).astype(np.float64)
    inside = (
        ((rows[QUANTILE_NAMES[0]] <= rows["log_return"]) & (rows["log_return"] <= rows[QUANTILE_NAMES[-1]]))
        .cast(pl.Float64)
        .to_numpy()
    )
    loss = log_losses(np.clip(p_up, 1e-6, 1 - 1e-6), happened > 0)
    coin = np.full(len(loss), np.log(2))
    watched: Sequence[tuple[str, Floats, float, str]] = (
        (
            "calibration",
            calibration_gains(p_up, up),
            float((p_up - up).mean()),
            "mean P(up) less the share of rises",
        ),
        (
            "coverage_90",
            coverage_gains(inside, 0.9),
            float(inside.mean()),
            "share of outcomes inside the 90 % interval",
        ),
        ("log_loss", loss_gains(loss, coin), float((loss - coin).mean()), "mean log-loss less that of a coin, nats"),
    )
    found = []
    for name, gains, value, meaning in watched:
        path, since = e_detector(gains, mean_hours)
        crossed = np.flatnonzero(path[-alarm_hours:] >= mean_hours) + max(len(path) - alarm_hours, 0)
        at = int(crossed[0]) if len(crossed) else len(path) - 1
        began = rows["open_time"][int(since[at])]
        found.append(
            Evidence(
                name=name,
                wealth=float(path[at]),
                bound=float(mean_hours),
                alarm=bool(len(crossed)),
                since=int(since[at]),
                n=len(path),
                value=value,
                sentence=f"{meaning}: {value:+.4f} over {len(path)} hours; a bet against it, begun at "
                f"{began:%Y-%m-%d %H:%M} UTC, turned 1 into {path[at]:.3g}; {mean_hours:,.0f} counts as proof",
            )
        )
    return found


@dataclass(frozen=True)
class Broken:
    """A promise that a drift report found broken.

    Attributes:
        promise: its name.
        proof: what shows it, as the end of a sentence.
        value: the figure behind it.
    """

    promise: str
    proof: str
    value: float


def broken_promises(report: pl.DataFrame) -> list[Broken]:
    """Return the promises that a drift report found broken; moved inputs alone break none.

    Args:
        report: DRIFT_REPORT rows of one day.
    """
    alarms = report.filter("alarm").sort("subject")
    lost = alarms.filter((pl.col("kind") == "input") & (pl.col("measure") == "lost_hours"))["subject"].to_list()
    found = []
    for row in alarms.filter(pl.col("kind") == "concept").iter_rows(named=True):
        if row["measure"] == "wealth":
            proof = f"a bet against it turned 1 into {row['value']:.3g} over {row['n']} hours"
        elif row["measure"] == "lost_hours":
            proof = f"for up to {row['value']:.0f} of {row['n']} hours {_named(lost)} missing"
        else:
            continue
        found.append(Broken(row["subject"], proof, row["value"]))
    return found


def _named(names: Sequence[str], most: int = 8) -> str:
    listed = ", ".join(names[:most]) + (f" and {len(names) - most} others" if len(names) > most else "")
    return f"{listed} {'were' if len(names) > 1 else 'was'}"


def degraded(report: pl.DataFrame) -> list[str]:
    """Say what a performance report proves against the champion's 1 h forecasts of the last 90 days; empty is well.

    Proof is a 95 % interval that lies wholly on the wrong side: log-loss skill below zero, or coverage of the 90 %
    interval more than five points off.

    Args:
        report: PERFORMANCE_REPORT rows of one day.
    """
    newest = report.filter(
        (pl.col("role") == ROLES[0]) & (pl.col("horizon_hours") == HORIZONS[0]) & (pl.col("period") == "last_90_days")
    )
    found = []
    for row in newest.sort("metric").iter_rows(named=True):
        low, high, n = row["lower"], row["upper"], row["n"]
        if low is None or high is None or n < LEAST_HOURS:
            continue
        if row["metric"] == "log_loss_skill" and high < 0:
            found.append(f"log-loss skill is {row['value']:.2%}, at most {high:.2%}, over {n} hours")
        if row["metric"] == "coverage_90" and (high < 0.9 - COVERAGE_SLACK or low > 0.9 + COVERAGE_SLACK):
            found.append(f"the 90 % interval holds {row['value']:.1%} of outcomes ({low:.1%} to {high:.1%}), n = {n}")
    return found
