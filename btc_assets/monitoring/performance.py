"""The performance report: every metric of every role, horizon and period, with n and 95 % intervals.

Periods are 'all' days of the report's window, each calendar year (UTC, by open_time) and 'last_90_days' (by the time
the outcome was known). Metrics are named as follows:

    accuracy, auc, log_loss, ...                        of the forecasts
    <rule>_<measure>_<fee>bps_lag<bars>                 of trading a rule at a one-way cost
    <rule>_turnover_lag<bars>                           of its trades
    <test>_p_<benchmark>                                p-values

Rules are `model`, `persistence` (the last move continues) and `buy_and_hold`. Strategies run on the hourly grid of 1 h
outcomes, from the period's first forecast to the end of its last window.

SPA and the model confidence set compare losses averaged over UTC days, in blocks of five days on average; most of the
dependence between hours is within a day. Each period is evaluated separately: its causal base rate and persistence are
estimated from its own first hour on.

`deflated_sharpe_<fee>bps` is the deflated Sharpe ratio of the model's strategy at lag 0. Its trials are the sign
strategies of the same period and cost for every role, horizon and lag. Identical strategies count once, and strategies
that never trade do not count (`strategies_tried_<fee>bps`). A longer horizon trades less and pays less, so costs raise
the spread of the trials and the benchmark. Trials are correlated, so the count and the benchmark are rather too high.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import HOUR, midnight
from btc_assets.evaluation import metrics, significance
from btc_assets.evaluation.metrics import Estimate
from btc_assets.evaluation.significance import Floats, Significance
from btc_assets.evaluation.trading import (
    FEES_BPS,
    Strategy,
    deflated_sharpe,
    distinct_sharpes,
    persistence_signal,
    sign_signal,
    strategy,
)
from btc_assets.markdown import format_estimate, markdown_rows
from btc_assets.monitoring.tables import PERFORMANCE_REPORT
from btc_assets.vocabulary import EVERY_HORIZON, QUANTILE_NAMES, QUANTILES, REPORTED_ROLES, display, hours_spanned

ALL, LAST_90_DAYS = "all", "last_90_days"
LAGS = (0, 1)
"""Bars between a forecast and its trade."""
BLOCK_DAYS = 5
BOOTSTRAP_DRAWS = 500

Metric = tuple[str, Estimate]


@dataclass(frozen=True)
class Hours:
    """Log returns on a complete hourly grid, NaN where a bar is missing.

    Attributes:
        start: open_time of the first forecast hour, UTC; entry i is the return over the hour after the close of the
            bar that opens at `start + i` hours.
        returns: log returns as fractions, (n,).
    """

    start: datetime
    returns: Floats

    @classmethod
    def of(cls, outcomes: pl.DataFrame) -> Hours:
        """Build the grid from the 60 min outcomes of all roles; empty without outcomes."""
        hourly = (
            outcomes.filter(pl.col("horizon_minutes") == 60)
            .select("open_time", "log_return")
            .unique("open_time")
            .sort("open_time")
        )
        if hourly.is_empty():
            return cls(datetime.min.replace(tzinfo=UTC), np.empty(0))
        # The grid spans every horizon: a longer return may be known where the 60 min return is not.
        start, end = outcomes["open_time"].min(), outcomes["open_time"].max()
        assert isinstance(start, datetime)
        assert isinstance(end, datetime)
        returns = np.full((end - start) // HOUR + 1, np.nan)
        returns[_hours_since(hourly["open_time"], start)] = hourly["log_return"].to_numpy()
        return cls(start, returns)


@dataclass(frozen=True)
class Trading:
    """The three rules over the same hours, before costs.

    Attributes:
        start: open_time of the first hour.
        model: strategy that trades the forecasts, by lag.
        persistence: strategy that trades the last move, by lag.
        buy_and_hold: strategy that is always long.
        last_move: persistence signal at each forecast row, (n,).
    """

    start: datetime
    model: Mapping[int, Strategy]
    persistence: Mapping[int, Strategy]
    buy_and_hold: Strategy
    last_move: Floats


def trade(rows: pl.DataFrame, hours: Hours, *, horizon: int) -> Trading | None:
    """Trade one role's forecasts of one horizon; return None without forecasts or hourly returns.

    Args:
        rows: FORECAST_OUTCOMES rows of one role and horizon, by open_time.
        hours: hourly returns that cover the forecasts.
        horizon: minutes for which a position is held, rounded up to hours.
    """
    if rows.is_empty() or not len(hours.returns):
        return None
    at = _hours_since(rows["open_time"], hours.start)
    first, last = int(at[0]), int(at[-1]) + hours_spanned(horizon) - 1
    returns = np.full(last - first + 1, np.nan)
    available = hours.returns[first : last + 1]
    returns[: len(available)] = available
    signal = np.zeros(len(returns))
    signal[at - first] = sign_signal(rows["p_up"].to_numpy())
    last_move = persistence_signal(hours.returns, horizon=horizon)[at]
    persistence = np.zeros(len(returns))
    persistence[at - first] = last_move
    return Trading(
        start=rows["open_time"][0],
        model={lag: strategy(signal, returns, horizon=horizon, lag=lag) for lag in LAGS},
        persistence={lag: strategy(persistence, returns, horizon=horizon, lag=lag) for lag in LAGS},
        buy_and_hold=strategy(np.ones(len(returns)), returns),
        last_move=last_move,
    )


def performance_report(outcomes: pl.DataFrame, *, day: date, fee_bps: float, seed: int) -> pl.DataFrame:
    """Report on all outcomes known by the end of a day.

    Args:
        outcomes: FORECAST_OUTCOMES rows.
        day: last day of the report.
        fee_bps: one-way cost of the deployment, basis points; reported in addition to `FEES_BPS`.
        seed: of the bootstraps.

    Returns:
        PERFORMANCE_REPORT rows.
    """
    end = midnight(day + timedelta(days=1))
    available = outcomes.filter(pl.col("known_at") <= end).sort("open_time")
    hours = Hours.of(available)
    parts = {
        (role, horizon, period): part
        for role in REPORTED_ROLES
        for horizon in EVERY_HORIZON
        for period, part in periods(
            available.filter((pl.col("role") == role) & (pl.col("horizon_minutes") == horizon)), end
        )
    }
    traded = {key: trade(part, hours, horizon=key[1]) for key, part in parts.items()}
    rows = []
    for (role, horizon, period), part in parts.items():
        tradings = [other for (*_, span), other in traded.items() if span == period and other is not None]
        trading = traded[role, horizon, period]
        for metric, estimate in judge(part, trading, tradings, horizon=horizon, fee_bps=fee_bps, seed=seed):
            values = (estimate.value, estimate.lower, estimate.upper, estimate.n)
            rows.append((day, role, horizon, period, metric, *values))
    frame = pl.DataFrame(rows, schema=dict(PERFORMANCE_REPORT.columns), orient="row")
    return frame.sort(PERFORMANCE_REPORT.key)


def within(day: date, days: int) -> pl.Expr:
    """Return a filter for outcomes known in the `days` days that end with `day`."""
    end = midnight(day + timedelta(days=1))
    return (pl.col("known_at") > end - timedelta(days=days)) & (pl.col("known_at") <= end)


def periods(rows: pl.DataFrame, end: datetime) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the name and rows of each period that has rows; `end` is the end of the last day."""
    if rows.is_empty():
        return
    yield ALL, rows
    for (year,), part in rows.group_by(pl.col("open_time").dt.year(), maintain_order=True):
        yield str(year), part
    recent = rows.filter(pl.col("known_at") > end - timedelta(days=90))
    if recent.height:
        yield LAST_90_DAYS, recent


def judge(
    rows: pl.DataFrame,
    trading: Trading | None,
    tradings: Sequence[Trading],
    *,
    horizon: int,
    fee_bps: float,
    seed: int,
) -> list[Metric]:
    """Return every metric of one role's outcomes of one horizon, by name.

    Args:
        rows: FORECAST_OUTCOMES rows of one role and horizon, by open_time.
        trading: result of trading the forecasts, see `trade`; None omits the metrics that need it.
        tradings: results of trading every role and horizon in the same period, including `trading`.
        horizon: minutes ahead.
        fee_bps: one-way cost of the deployment, basis points.
        seed: of the bootstraps.
    """
    return [
        *_forecast_metrics(rows, horizon, seed),
        *(_strategy_metrics(trading, fee_bps) if trading else ()),
        *(_significance(rows, trading, horizon, fee_bps, seed) if trading else ()),
        *(_deflated(trading, tradings, fee_bps) if trading else ()),
    ]


def _forecast_metrics(rows: pl.DataFrame, horizon: int, seed: int) -> Iterator[Metric]:
    p, r = rows["p_up"].to_numpy(), rows["log_return"].to_numpy()
    yield "accuracy", metrics.accuracy(p, r, horizon=horizon)
    yield "auc", metrics.auc(p, r, horizon=horizon)
    yield "log_loss", metrics.log_loss(p, r, horizon=horizon)
    yield "log_loss_skill", metrics.log_loss_skill(p, r, horizon=horizon)
    base = metrics.causal_base_rate(r, horizon=horizon)
    yield "log_loss_skill_causal", metrics.log_loss_skill(p, r, base, horizon=horizon)
    yield "up_share", metrics.share(r > 0, horizon=horizon)
    yield "brier", metrics.brier(p, r, horizon=horizon)
    yield "calibration_error", metrics.calibration_error(p, r, horizon=horizon, seed=seed)
    line = metrics.calibration_line(p, r)
    for name, value in zip(("calibration_slope", "calibration_intercept"), line or (None, None), strict=True):
        yield name, Estimate(value, None, None, len(p))
    for low, high, name in (("q25", "q75", "50"), ("q05", "q95", "90")):
        ends = rows[low].to_numpy(), rows[high].to_numpy()
        yield f"coverage_{name}", metrics.interval_coverage(r, *ends, horizon=horizon)
        yield f"width_{name}", metrics.interval_width(*ends, horizon=horizon)
    levels = dict(zip(QUANTILES, (rows[name].to_numpy() for name in QUANTILE_NAMES), strict=True))
    yield "pinball_loss", metrics.pinball_loss(r, levels, horizon=horizon)
    for top in metrics.CONFIDENCE_SHARES:
        yield f"accuracy_top_{top:.0%}".rstrip("%"), metrics.accuracy_at_confidence(p, r, top, horizon=horizon)
    by_move = metrics.accuracy_by_move(p, r, horizon=horizon)
    for (least, most), accuracy in by_move.items():
        name = f"{least:.0f}_{most:.0f}bps" if math.isfinite(most) else f"over_{least:.0f}bps"
        yield f"accuracy_move_{name}", accuracy
    yield "return_weighted_accuracy", metrics.return_weighted_accuracy(p, r, horizon=horizon)
    yield "rank_ic", metrics.rank_ic(p, r, horizon=horizon)


_MEASURES: dict[str, Callable[[Strategy], Estimate]] = {
    "total_return": Strategy.total_return,
    "annual_return": Strategy.annual_return,
    "sharpe": Strategy.sharpe,
    "max_drawdown": Strategy.max_drawdown,
    "win_rate": Strategy.win_rate,
}


def _strategy_metrics(trading: Trading, fee_bps: float) -> Iterator[Metric]:
    rules = {"model": trading.model, "persistence": trading.persistence, "buy_and_hold": {0: trading.buy_and_hold}}
    for rule, by_lag in rules.items():
        for lag, traded in by_lag.items():
            yield f"{rule}_turnover_lag{lag}", traded.turnover()
            for fee in sorted({*FEES_BPS, fee_bps}):
                for measure, of in _MEASURES.items():
                    yield f"{rule}_{measure}_{fee:g}bps_lag{lag}", of(traded.at(fee))


def _significance(rows: pl.DataFrame, trading: Trading, horizon: int, fee_bps: float, seed: int) -> Iterator[Metric]:
    p, r = rows["p_up"].to_numpy(), rows["log_return"].to_numpy()
    every_hth = slice(None, None, hours_spanned(horizon))  # target windows of every h-th row do not overlap
    yield "pesaran_timmermann_p", _p_estimate(significance.pesaran_timmermann(p[every_hth], r[every_hth]))
    up = r > 0
    losses = {
        "model": metrics.log_losses(p, up),
        "base_rate": metrics.log_losses(metrics.causal_base_rate(r, horizon=horizon), up),
        "persistence": metrics.log_losses(metrics.causal_persistence(trading.last_move, r, horizon=horizon), up),
    }
    for benchmark in ("base_rate", "persistence"):
        test = significance.diebold_mariano(losses["model"], losses[benchmark], horizon=horizon)
        yield f"diebold_mariano_{benchmark}", Estimate(test.statistic(), None, None, test.n)
        yield f"diebold_mariano_p_{benchmark}", Estimate(test.p_value(), None, None, test.n)
    daily = _means_by(losses, rows["open_time"].dt.date())
    yield from _contest("log_loss", daily, benchmark="base_rate", seed=seed)
    fee = trading.model[0].at(fee_bps)
    earned = {
        "model": -fee.net,
        "persistence": -trading.persistence[0].at(fee_bps).net,
        "buy_and_hold": -trading.buy_and_hold.at(fee_bps).net,
        "cash": np.zeros(len(fee.net)),
    }
    grid_days = pl.Series((np.arange(len(fee.net)) + trading.start.hour) // 24)
    yield from _contest(f"return_{fee_bps:g}bps", _means_by(earned, grid_days), benchmark="buy_and_hold", seed=seed)
    monthly = _means_by(losses, rows["open_time"].dt.truncate("1mo"))
    folds = significance.paired_folds(monthly["model"], monthly["base_rate"])
    yield "monthly_log_loss_p_base_rate", _p_estimate(folds)
    yield "monthly_log_loss_cohens_d", Estimate(folds.effect, None, None, folds.n)


def trial_sharpes(tradings: Sequence[Trading], fee_bps: float) -> list[float]:
    """Return the hourly Sharpe ratio, not annualised, of each distinct strategy of the model at one cost.

    Args:
        tradings: results of trading, one per role and horizon; every lag is a strategy.
        fee_bps: one-way cost, basis points.
    """
    return distinct_sharpes(strategy.at(fee_bps).net for trading in tradings for strategy in trading.model.values())


def _deflated(trading: Trading, tradings: Sequence[Trading], fee_bps: float) -> Iterator[Metric]:
    for fee in sorted({0.0, fee_bps}):
        net = trading.model[0].at(fee).net
        trials = trial_sharpes(tradings, fee)
        yield f"strategies_tried_{fee:g}bps", Estimate(float(len(trials)), None, None, len(net))
        yield f"deflated_sharpe_{fee:g}bps", Estimate(deflated_sharpe(net, trials), None, None, len(net))


def _contest(name: str, losses: Mapping[str, Floats], *, benchmark: str, seed: int) -> Iterator[Metric]:
    """Yield the SPA p-value against the benchmark and each contestant's p-value in the model confidence set."""
    n = len(losses[benchmark])
    alternatives = np.column_stack([values for rival, values in losses.items() if rival != benchmark])
    settings = {"block": BLOCK_DAYS, "reps": BOOTSTRAP_DRAWS, "seed": seed}
    enough = n >= 4 * BLOCK_DAYS
    spa = significance.superior_ability(losses[benchmark], alternatives, **settings) if enough else None
    yield f"spa_p_{name}_{benchmark}", Estimate(spa, None, None, n)
    best = significance.model_confidence_set(losses, **settings) if enough else {}
    for contestant in losses:
        yield f"mcs_p_{name}_{contestant}", Estimate(best.get(contestant), None, None, n)


def _means_by(columns: Mapping[str, npt.ArrayLike], group: pl.Series) -> dict[str, Floats]:
    """Return the mean of each column per group, with groups in order of appearance."""
    frame = pl.DataFrame({name: np.asarray(values) for name, values in columns.items()})
    means = frame.with_columns(group.alias("_group")).group_by("_group", maintain_order=True).mean()
    return {name: means[name].to_numpy() for name in columns}


def _p_estimate(test: Significance) -> Estimate:
    return Estimate(test.p_value, None, None, test.n)


def _hours_since(times: pl.Series, start: datetime) -> npt.NDArray[np.int64]:
    return (times - start).dt.total_hours().to_numpy()


# --- Markdown ----------------------------------------------------------------------------------------
_COLUMNS: Sequence[tuple[str, str, str]] = (
    ("accuracy", "accuracy", "{:.1%}"),
    ("AUC", "auc", "{:.3f}"),
    ("log-loss skill", "log_loss_skill", "{:.2%}"),
    ("top 10 %", "accuracy_top_10", "{:.1%}"),
    ("calibration error", "calibration_error", "{:.1%}"),
    ("coverage of the 90 % interval", "coverage_90", "{:.1%}"),
    ("coverage of the 50 % interval", "coverage_50", "{:.1%}"),
    ("rank IC", "rank_ic", "{:.3f}"),
)


def markdown(report: pl.DataFrame) -> str:
    """Return the report's main metrics as a Markdown table with 95 % intervals in parentheses."""
    if report.is_empty():
        return "No forecast has a known outcome yet."
    rows = []
    for (role, horizon, period), part in report.group_by("role", "horizon_minutes", "period", maintain_order=True):
        by_metric = {row["metric"]: row for row in part.iter_rows(named=True)}
        cells = [format_estimate(by_metric.get(metric), template) for _, metric, template in _COLUMNS]
        rows.append((role, display(horizon), period, f"{by_metric['accuracy']['n']:,}", *cells))
    return markdown_rows(("role", "horizon", "period", "n", *(title for title, _, _ in _COLUMNS)), rows)
