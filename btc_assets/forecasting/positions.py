"""Paper positions: what one stated rule would have held on the champion's forecasts. No order goes anywhere.

Every hour, the champion's forecast for 60 minutes has a score: the log-odds of P(up) and the expected return over
sigma, weighed alike, in standard deviations of the scores of the `SCORE_DAYS` days before. The rule enters beyond
`enter` standard deviations, in the direction of the score, and keeps the position until the score passes `exit` on the
other side; in between it does not trade (hysteresis), as costs exceed the edge of most hours. The size of a position is
fixed when it is entered.

A decision is made at the close of an hour. With a delay it is executed at the first known close at least that much
later: of a quarter bar, or of the next hour where there is none. A row tells what the hour that has just closed earned
and what is held next, so that no row depends on a later price. Returns are log returns times the position, on a fixed
notional of one; they are not reinvested. A position is held across a gap of the bars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import midnight
from btc_assets.evaluation.metrics import Estimate
from btc_assets.evaluation.trading import FEES_BPS, Strategy, deflated_sharpe, distinct_sharpes
from btc_assets.forecasting.tables import DELAYS, POSITIONS
from btc_assets.learning.forecast_model import log_odds
from btc_assets.markdown import format_estimate, markdown_rows
from btc_assets.vocabulary import CHAMPION, PRIMARY

SCORE_DAYS = 90
"""Days before a day whose scores give its standard deviation."""
MIN_SCORES = 24 * 14
"""Fewest scores of these days from which the rule trades."""
FULL_CONFIDENCE = 2.0
"""Multiple of `enter` from which a position sized by confidence is whole."""
TRIED = 163
"""Variants of forecasters tried on the developers' period (docs/method.md), trials of the Sharpe ratio too."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """A rule of positions.

    Attributes:
        enter: |score| from which a position is entered, standard deviations.
        exit: score on the other side from which it is left, standard deviations, at most `enter`.
        by_volatility: whether a position shrinks with the forecast volatility above its usual value.
        by_confidence: whether a position grows with the score, to a whole one at `FULL_CONFIDENCE * enter`.
    """

    enter: float = 2.0
    exit: float = 1.0
    by_volatility: bool = False
    by_confidence: bool = False

    def size(self, score: float, volatility_ratio: float) -> float:
        """Return the size of a position that is entered now, within (0, 1].

        Args:
            score: standard deviations.
            volatility_ratio: forecast volatility over its usual value.
        """
        volatility = min(1.0, 1 / volatility_ratio) if self.by_volatility else 1.0
        confidence = min(1.0, abs(score) / (FULL_CONFIDENCE * self.enter)) if self.by_confidence else 1.0
        return volatility * confidence


GRID = tuple(
    Rule(enter, exit_, by_volatility, by_confidence)
    for enter in (1.0, 1.5, 2.0, 2.5, 3.0)
    for exit_ in (0.0, 0.5, 1.0, 1.5, 2.0)
    if exit_ <= enter
    for by_volatility in (False, True)
    for by_confidence in (False, True)
)
"""Rules whose Sharpe ratios count as trials of the one in use."""


def decide(score: Floats, volatility_ratio: Floats, rule: Rule, held: float = 0.0) -> Floats:
    """Return the position decided at each hour, within [-1, 1], (n,).

    Args:
        score: standard deviations, NaN where unknown, oldest first, (n,).
        volatility_ratio: forecast volatility over its usual value, (n,).
        rule: the rule.
        held: the position before the first hour.
    """
    positions = np.empty(len(score))
    for i, (now, ratio) in enumerate(zip(score.tolist(), volatility_ratio.tolist(), strict=True)):
        if held * now < 0 and abs(now) > rule.exit:
            held = 0.0
        if held == 0 and abs(now) >= rule.enter:
            held = rule.size(now, ratio) if now > 0 else -rule.size(now, ratio)
        positions[i] = held
    return positions


def scored(forecasts: pl.DataFrame, days: Sequence[date]) -> pl.DataFrame:
    """Return the scores of the champion's forecasts of these days.

    Args:
        forecasts: FORECASTS rows of the days and of the `SCORE_DAYS` days before the first.
        days: the days, in order.

    Returns:
        open_time, model_version, close, score (standard deviations, null while there are too few) and volatility_ratio
        (sigma over its median in the days before), by open_time.
    """
    champion = forecasts.filter((pl.col("role") == CHAMPION) & (pl.col("horizon_minutes") == PRIMARY)).sort("open_time")
    sigma = champion["sigma"].to_numpy()
    parts = log_odds(champion["p_up"].to_numpy()), champion["expected_return_bps"].to_numpy() / sigma
    score, ratio = np.full(len(sigma), np.nan), np.ones(len(sigma))
    for day in days:
        start = midnight(day)
        first, at, end = (
            champion["open_time"].search_sorted(time)
            for time in (start - timedelta(days=SCORE_DAYS), start, start + timedelta(days=1))
        )
        if at - first >= MIN_SCORES:
            both = np.zeros(end - first)
            for part in parts:
                both += _standardised(part[first:end], at - first)
            score[at:end] = _standardised(both, at - first)[at - first :]
            ratio[at:end] = sigma[at:end] / np.median(sigma[first:at])
    made = champion.select("open_time", "model_version", "close").with_columns(
        pl.Series("score", score).fill_nan(None), pl.Series("volatility_ratio", ratio)
    )
    return made.filter(pl.col("open_time").dt.date().is_in(list(days)))


def _standardised(values: Floats, n: int) -> Floats:
    """Return values over the standard deviation of the first n, zeros if these are all alike, (m,)."""
    spread = values[:n].std()
    return values / spread if spread > 1e-12 else np.zeros(len(values))


def paper_positions(
    forecasts: pl.DataFrame, quarters: pl.DataFrame, before: pl.DataFrame, *, days: Sequence[date], rule: Rule
) -> pl.DataFrame:
    """Continue the record of positions over these days.

    Args:
        forecasts: FORECASTS rows of the days and of the `SCORE_DAYS` days before the first.
        quarters: QUARTER_BARS rows of the days and of the day before the first; may be empty.
        before: POSITIONS rows of earlier days; the newest hour is the state. Empty starts flat.
        days: the days, in order.
        rule: the rule.

    Returns:
        POSITIONS rows of each hour with a forecast of the champion.
    """
    hours = scored(forecasts, days)
    if hours.is_empty():
        return POSITIONS.empty()
    state = _State.of(before.filter(pl.col("open_time") < hours["open_time"][0]), hours)
    position = decide(
        hours["score"].fill_null(np.nan).to_numpy(), hours["volatility_ratio"].to_numpy(), rule, state.position
    )
    previous = np.concatenate([[state.position], position[:-1]])
    earlier = np.concatenate([[state.previous], previous[:-1]])
    prices = _Prices.of(hours, quarters, state)
    parts = []
    for delay in DELAYS:
        first, second, after = prices.split(delay)
        gross = earlier * first + previous * second
        traded = np.abs(position - previous) if delay == 0 else np.abs(previous - earlier)
        for cost in FEES_BPS:
            total, peak = state.sums.get((delay, cost), (0.0, 0.0))
            net = gross - traded * cost / 1e4
            cumulative = np.cumsum(np.concatenate([[total], net]))[1:]
            peaks = np.maximum.accumulate(np.concatenate([[peak], cumulative]))[1:]
            parts.append(
                hours.with_columns(
                    pl.lit(delay, pl.Int64).alias("delay_minutes"),
                    pl.lit(cost).alias("cost_bps"),
                    pl.Series("previous_position", previous),
                    pl.Series("position", position),
                    pl.Series("turnover", traded),
                    pl.Series("executed_after_minutes", np.where(traded > 0, after, -1)).replace(-1, None),
                    pl.Series("hour_return", prices.hour_return),
                    pl.Series("gross_return", gross),
                    pl.Series("net_return", net),
                    pl.Series("cumulative_return", cumulative),
                    pl.Series("peak_return", peaks),
                    pl.Series("drawdown", peaks - cumulative),
                )
            )
    return pl.concat(parts).select(list(POSITIONS.columns)).cast(POSITIONS.columns).sort(POSITIONS.key)


@dataclass(frozen=True)
class _State:
    """The newest hour of a record.

    Attributes:
        open_time: the hour, microseconds since 1970.
        close: its close, USD.
        position: the position decided at its close.
        previous: the position decided an hour before.
        sums: cumulative net return and its peak by delay (minutes) and cost (bp).
    """

    open_time: int
    close: float
    position: float
    previous: float
    sums: dict[tuple[int, float], tuple[float, float]]

    @classmethod
    def of(cls, before: pl.DataFrame, hours: pl.DataFrame) -> _State:
        """Return the newest hour of POSITIONS rows, or a flat start one hour before the first of `hours`."""
        if before.is_empty():
            first = hours.row(0, named=True)
            return cls(_microseconds(hours["open_time"])[0] - _HOUR, first["close"], 0.0, 0.0, {})
        newest = before.filter(pl.col("open_time") == pl.col("open_time").max())
        row = newest.row(0, named=True)
        return cls(
            _microseconds(newest["open_time"])[0],
            row["close"],
            row["position"],
            row["previous_position"],
            {
                (delay, cost): (total, peak)
                for delay, cost, total, peak in newest.select(
                    "delay_minutes", "cost_bps", "cumulative_return", "peak_return"
                ).iter_rows()
            },
        )


@dataclass(frozen=True)
class _Prices:
    """The way of the price from each hour's decision before to its close.

    Attributes:
        decided: when the decision before was made, microseconds, (n,).
        start: the close at that time, USD, (n,).
        closed: when the hour closed, microseconds, (n,).
        end: its close, USD, (n,).
        quarter_times: when quarter bars closed, microseconds, ascending, (m,).
        quarter_closes: their closes, USD, (m,).
    """

    decided: npt.NDArray[np.int64]
    start: Floats
    closed: npt.NDArray[np.int64]
    end: Floats
    quarter_times: npt.NDArray[np.int64]
    quarter_closes: Floats

    @classmethod
    def of(cls, hours: pl.DataFrame, quarters: pl.DataFrame, state: _State) -> _Prices:
        closed, end = _microseconds(hours["open_time"]) + _HOUR, hours["close"].to_numpy()
        bars = quarters.sort("open_time")
        return cls(
            decided=np.concatenate([[state.open_time + _HOUR], closed[:-1]]),
            start=np.concatenate([[state.close], end[:-1]]),
            closed=closed,
            end=end,
            quarter_times=_microseconds(bars["open_time"]) + bars["minutes"].to_numpy() * _MINUTE,
            quarter_closes=bars["close"].to_numpy(),
        )

    @property
    def hour_return(self) -> Floats:
        """Log return from the decision before to the close of the hour, (n,)."""
        return np.log(self.end / self.start)

    def split(self, delay: int) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
        """Split `hour_return` at the execution of the decision before.

        Args:
            delay: least minutes from the decision to its execution.

        Returns:
            Log return until the execution, log return after it, and minutes from the decision to it, (n,) each.
        """
        if delay == 0:
            return np.zeros(len(self.end)), self.hour_return, np.zeros(len(self.end), dtype=np.int64)
        at = np.searchsorted(self.quarter_times, self.decided + delay * _MINUTE)
        inside = at < len(self.quarter_times)
        at = np.where(inside, at, 0)
        times = self.quarter_times[at] if len(self.quarter_times) else self.closed
        inside &= times < self.closed
        price = np.where(inside, self.quarter_closes[at] if len(self.quarter_times) else self.end, self.end)
        after = (np.where(inside, times, self.closed) - self.decided) // _MINUTE
        return np.log(price / self.start), np.log(self.end / price), after


@dataclass(frozen=True)
class PositionScore:
    """What a record of positions made at one delay and cost.

    Attributes:
        delay_minutes, cost_bps: delay and one-way cost.
        strategy: its hourly returns.
        deflated: deflated Sharpe ratio, None if undefined.
        trials: number of trials of it.
    """

    delay_minutes: int
    cost_bps: float
    strategy: Strategy
    deflated: float | None
    trials: int


def judge_positions(rows: pl.DataFrame) -> list[PositionScore]:
    """Judge a record of positions at each delay and cost.

    The trials of the deflated Sharpe ratio are every rule of `GRID` on the same scores, executed at once and a bar
    later, at the same cost, and the `TRIED` variants of forecasters.

    Args:
        rows: POSITIONS rows.
    """
    ordered = rows.sort(POSITIONS.key)
    one = ordered.filter((pl.col("delay_minutes") == DELAYS[0]) & (pl.col("cost_bps") == FEES_BPS[0]))
    score, ratio = one["score"].fill_null(np.nan).to_numpy(), one["volatility_ratio"].to_numpy()
    returns = one["hour_return"].to_numpy()
    tried = [_executed(decide(score, ratio, rule), returns, bars) for rule in GRID for bars in (0, 1)]
    scores = []
    for (delay, cost), part in ordered.group_by("delay_minutes", "cost_bps", maintain_order=True):
        fee = float(str(cost))
        held, gross, traded = (part[name].to_numpy() for name in ("previous_position", "gross_return", "turnover"))
        ours = Strategy(held, gross, traded, fee)
        sharpes = distinct_sharpes([ours.net, *(strategy.at(fee).net for strategy in tried)])
        trials = len(sharpes) + TRIED
        scores.append(PositionScore(int(str(delay)), fee, ours, deflated_sharpe(ours.net, sharpes, trials), trials))
    return sorted(scores, key=lambda found: (found.delay_minutes, found.cost_bps))


def buy_and_hold(rows: pl.DataFrame) -> Strategy:
    """Return the strategy that is always long over the hours of POSITIONS rows, without costs."""
    returns = rows.sort("open_time").unique("open_time", maintain_order=True)["hour_return"].to_numpy()
    return Strategy(np.ones(len(returns)), returns, np.zeros(len(returns)), 0.0)


def as_markdown(rows: pl.DataFrame) -> str:
    """Return what a record of positions made as a Markdown table, beside buy-and-hold."""
    lines = [
        (f"{found.delay_minutes} min", f"{found.cost_bps:g} bp", *_cells(found.strategy), _share(found.deflated))
        for found in judge_positions(rows)
    ]
    lines.append(("buy-and-hold", "-", *_cells(buy_and_hold(rows)), "-"))
    headings = ("delay", "cost one-way", "hours", "in the market", "trades a day", "return", "Sharpe", "drawdown")
    return markdown_rows((*headings, "deflated"), lines)


def _cells(strategy: Strategy) -> tuple[str, ...]:
    n = len(strategy.net)
    return (
        f"{n:,}",
        _share(float((strategy.position != 0).mean()) if n else None),
        f"{24 * strategy.traded.mean():.2f}" if n else "-",
        _estimate(strategy.total_return(), "{:+.1%}"),
        _estimate(strategy.sharpe(), "{:.2f}"),
        _estimate(strategy.max_drawdown(), "{:.1%}"),
    )


def _estimate(found: Estimate, template: str) -> str:
    return format_estimate({"value": found.value, "lower": found.lower, "upper": found.upper}, template)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _executed(position: Floats, returns: Floats, bars: int) -> Strategy:
    """Return the strategy of positions decided at each close, executed `bars` hours later."""
    held = np.concatenate([np.zeros(1 + bars), position])[: len(position)]
    return Strategy(held, held * returns, np.abs(np.diff(held, append=held[-1:])), 0.0)


_MINUTE = 60_000_000
_HOUR = 60 * _MINUTE
"""Microseconds."""


def _microseconds(times: pl.Series) -> npt.NDArray[np.int64]:
    return times.dt.epoch("us").to_numpy()
