"""Plots of the monitoring reports as PNGs small enough for Dagster's Markdown metadata."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import polars as pl

from btc_assets.display import empty_figure, render_png
from btc_assets.evaluation.metrics import CALIBRATION_BINS
from btc_assets.monitoring.drift import PSI_BOUND, FeatureDrift
from btc_assets.monitoring.performance import LAGS, Hours, trade
from btc_assets.vocabulary import display

ROLLING_DAYS = 30
_POINTS = 1500


def equity(outcomes: pl.DataFrame, *, role: str, horizon: int, fee_bps: float) -> bytes | None:
    """Plot the cumulative return of trading a role's forecasts after costs, and of buy-and-hold.

    Args:
        outcomes: FORECAST_OUTCOMES rows of all horizons.
        role: role of the forecasts.
        horizon: minutes ahead.
        fee_bps: one-way cost, basis points.

    Returns:
        A PNG, or None without known hours.
    """
    trading = trade(_of(outcomes, role, horizon), Hours.of(outcomes), horizon=horizon)
    if trading is None:
        return None
    lines = {"before costs": trading.model[0].at(0)}
    for lag in LAGS:
        delay = f", {lag} h later" if lag else ""
        lines[f"after {fee_bps:g} bp one-way{delay}"] = trading.model[lag].at(fee_bps)
    lines["buy and hold"] = trading.buy_and_hold.at(fee_bps)
    n = len(trading.buy_and_hold.net)
    shown = np.unique(np.linspace(0, n - 1, min(n, _POINTS)).astype(int))
    times = np.datetime64(trading.start.replace(tzinfo=None), "us") + (shown + 2) * np.timedelta64(1, "h")
    title = f"Cumulative return of the sign strategy, {role}, {display(horizon)}"
    figure, axes = empty_figure(title, "share of the notional")
    for label, strategy in lines.items():
        axes.plot(times, np.cumsum(strategy.net)[shown], label=label, linewidth=1.2)
    axes.axhline(0, color="grey", linewidth=0.6)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.legend(fontsize=7, frameon=False)
    return render_png(figure)


def reliability(outcomes: pl.DataFrame, *, role: str, horizon: int) -> bytes | None:
    """Plot the share of rises against p_up in equal-count bins with 95 % error bars and the diagonal."""
    rows = _of(outcomes, role, horizon)
    if rows.height < CALIBRATION_BINS:
        return None
    order = rows.sort("p_up")
    stated, rose = order["p_up"].to_numpy(), order["log_return"].to_numpy() > 0
    bins = np.array_split(np.arange(rows.height), CALIBRATION_BINS)
    x = np.array([stated[part].mean() for part in bins])
    y = np.array([rose[part].mean() for part in bins])
    error = 1.96 * np.sqrt(np.maximum(y * (1 - y), 1e-12) / np.array([len(part) for part in bins]))
    figure, axes = empty_figure(f"Reliability, {role}, {display(horizon)}, n = {rows.height:,}", "share of rises")
    ends = [min(x.min(), (y - error).min()), max(x.max(), (y + error).max())]
    axes.plot(ends, ends, color="grey", linewidth=0.8)
    axes.errorbar(x, y, yerr=error, fmt="o-", markersize=3, linewidth=1, capsize=2)
    axes.set_xlabel("p_up", fontsize=8)
    return render_png(figure)


def rolling_accuracy(outcomes: pl.DataFrame, *, role: str, horizon: int) -> bytes | None:
    """Plot the daily rolling accuracy over `ROLLING_DAYS` days."""
    daily = (
        _of(outcomes, role, horizon)
        .group_by(pl.col("open_time").dt.date().alias("day"), maintain_order=True)
        .agg(((pl.col("p_up") > 0.5) == (pl.col("log_return") > 0)).sum().alias("right"), pl.len().alias("n"))
        .sort("day")
        .with_columns(pl.col("right", "n").rolling_sum_by("day", f"{ROLLING_DAYS}d"))
        .filter(pl.col("day") >= pl.col("day").min() + timedelta(days=ROLLING_DAYS - 1))
    )
    if daily.is_empty():
        return None
    figure, axes = empty_figure(f"Accuracy over {ROLLING_DAYS} days, {role}, {display(horizon)}", "")
    axes.plot(daily["day"].to_list(), (daily["right"] / daily["n"]).to_numpy(), linewidth=1.2)
    axes.axhline(0.5, color="grey", linewidth=0.8)
    axes.yaxis.set_major_formatter("{x:.0%}")
    return render_png(figure)


def drift(columns: Sequence[FeatureDrift], limit: int = 20) -> bytes:
    """Plot the population stability index of the columns with the largest drift; drifted columns are red."""
    ranked = sorted(columns, key=lambda column: column.psi)[-limit:]
    figure, axes = empty_figure("Population stability index, last days against the champion's window", "")
    colours = ["tab:red" if column.drifted else "tab:grey" for column in ranked]
    axes.barh([column.name for column in ranked], [column.psi for column in ranked], color=colours, height=0.7)
    axes.axvline(PSI_BOUND, color="black", linewidth=0.8)
    axes.tick_params(axis="y", labelsize=5)
    return render_png(figure)


def _of(outcomes: pl.DataFrame, role: str, horizon: int) -> pl.DataFrame:
    return outcomes.filter((pl.col("role") == role) & (pl.col("horizon_minutes") == horizon)).sort("open_time")
