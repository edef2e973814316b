"""The performance report is complete, reproducible and equal to the metrics of `evaluation`."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest

from btc_assets.display import markdown_image
from btc_assets.evaluation import metrics, trading
from btc_assets.forecasting.tables import FORECAST_OUTCOMES
from btc_assets.monitoring import plots
from btc_assets.monitoring.performance import (
    LAGS,
    Hours,
    Trading,
    _deflated,
    markdown,
    performance_report,
    trade,
    trial_sharpes,
    within,
)
from btc_assets.monitoring.tables import PERFORMANCE_REPORT
from btc_assets.vocabulary import HORIZONS, QUANTILE_NAMES, QUANTILES, REPORTED_ROLES

START = datetime(2018, 10, 1, tzinfo=UTC)
DAYS = 120
END = START.date() + timedelta(days=DAYS - 1)


def history(*, skill: float = 1.0, seed: int = 5, gap: int | None = None) -> pl.DataFrame:
    """Return the known FORECAST_OUTCOMES of every role and horizon over 120 days."""
    rng = np.random.default_rng(seed)
    hours = DAYS * 24
    times = pl.datetime_range(START, START + timedelta(hours=hours - 1), "1h", eager=True, time_unit="us")
    steps = rng.normal(0, 0.005, hours)
    log_price = np.concatenate([[0.0], np.cumsum(steps)])
    parts = []
    for role in REPORTED_ROLES:
        for h in HORIZONS:
            ahead = h // 60
            n = hours - ahead
            y = log_price[ahead : ahead + n] - log_price[:n]
            p = np.clip(0.5 + skill * 8 * y / np.sqrt(ahead) + rng.normal(0, 0.05, n), 0.01, 0.99)
            part = pl.DataFrame(
                {
                    "open_time": times[:n],
                    "horizon_minutes": np.full(n, h),
                    "role": [role] * n,
                    "known_at": times[:n] + timedelta(minutes=h + 60),
                    "model_version": np.ones(n, dtype=np.int64),
                    "model_cutoff": [START.date()] * n,
                    "p_up": p,
                    **{
                        name: np.full(n, z * 0.005 * np.sqrt(ahead))
                        for name, z in zip(QUANTILE_NAMES, (-1.645, -0.674, 0.0, 0.674, 1.645), strict=True)
                    },
                    "log_return": y,
                    "outcome": ["correct"] * n,
                    "signed_return_bps": y * 1e4,
                    "net_return_bps": y * 1e4,
                }
            )
            parts.append(part if gap is None else part.filter(pl.col("open_time") != times[gap]))
    return pl.concat(parts).select(list(FORECAST_OUTCOMES.columns)).sort(FORECAST_OUTCOMES.key)


OUTCOMES = history()
TEN_DAYS = OUTCOMES.filter(pl.col("open_time") < START + timedelta(days=10))
"""Enough rows for tests that need no significance."""


def report_of(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return the report of the last day."""
    return performance_report(outcomes, day=END, fee_bps=5, seed=7)


@cache
def skilled() -> pl.DataFrame:
    """Return the report of `OUTCOMES`."""
    return report_of(OUTCOMES)


@cache
def noise() -> pl.DataFrame:
    """Return the report of forecasts without skill."""
    return report_of(history(skill=0))


def value(
    metric: str,
    *,
    role: str = "champion",
    horizon: int = 60,
    period: str = "all",
    report: Callable[[], pl.DataFrame] = skilled,
):
    """Return one row of a report."""
    return (
        report()
        .filter(
            (pl.col("metric") == metric)
            & (pl.col("role") == role)
            & (pl.col("horizon_minutes") == horizon)
            & (pl.col("period") == period)
        )
        .row(0, named=True)
    )


def test_the_report_satisfies_its_contract_for_every_role_horizon_and_period() -> None:
    assert FORECAST_OUTCOMES.faults(OUTCOMES) == []
    report = skilled()
    assert PERFORMANCE_REPORT.faults(report) == []
    groups = report.group_by("role", "horizon_minutes", "period").len()
    assert groups.height == len(REPORTED_ROLES) * len(HORIZONS) * 4
    assert groups["len"].n_unique() == 1
    assert set(report["period"]) == {"all", "2018", "2019", "last_90_days"}


def test_the_same_outcomes_give_the_same_report() -> None:
    assert report_of(TEN_DAYS).equals(report_of(TEN_DAYS))


def test_a_period_contains_only_its_hours() -> None:
    years = [value("accuracy", period=period)["n"] for period in ("2018", "2019")]
    assert sum(years) == value("accuracy")["n"] == DAYS * 24 - 1
    assert value("accuracy", period="last_90_days")["n"] == 90 * 24


def test_metrics_equal_those_of_the_evaluation_module() -> None:
    rows = OUTCOMES.filter((pl.col("role") == "newest") & (pl.col("horizon_minutes") == 240))
    p, r = rows["p_up"].to_numpy(), rows["log_return"].to_numpy()
    for metric, expected in {
        "accuracy": metrics.accuracy(p, r).value,
        "auc": metrics.auc(p, r).value,
        "log_loss": metrics.log_loss(p, r).value,
        "brier": metrics.brier(p, r).value,
        "coverage_90": metrics.interval_coverage(r, rows["q05"].to_numpy(), rows["q95"].to_numpy()).value,
        "accuracy_top_10": metrics.accuracy_at_confidence(p, r, 0.1).value,
    }.items():
        assert value(metric, role="newest", horizon=240)["value"] == expected


@pytest.mark.parametrize("horizon", HORIZONS)
def test_before_costs_the_strategy_earns_the_mean_signed_window_return(horizon: int) -> None:
    rows = OUTCOMES.filter((pl.col("role") == "champion") & (pl.col("horizon_minutes") == horizon))
    signed = np.sign(rows["p_up"].to_numpy() - 0.5) * rows["log_return"].to_numpy()
    found = value("model_total_return_0bps_lag0", horizon=horizon)
    assert found["value"] == pytest.approx(signed.sum() / (horizon // 60))


def test_buy_and_hold_earns_the_move_of_the_price() -> None:
    hourly = OUTCOMES.filter((pl.col("role") == "champion") & (pl.col("horizon_minutes") == 60))["log_return"].sum()
    assert value("buy_and_hold_total_return_0bps_lag0")["value"] == pytest.approx(hourly)


def test_costs_and_delay_reduce_the_return() -> None:
    totals = [value(f"model_total_return_{fee}bps_lag0")["value"] for fee in (0, 2, 5, 10)]
    assert totals == sorted(totals, reverse=True)
    assert value("model_total_return_0bps_lag1")["value"] < totals[0]


def test_skill_is_significant_and_noise_is_not() -> None:
    tests = ("pesaran_timmermann_p", "diebold_mariano_p_base_rate", "spa_p_log_loss_base_rate")
    for test in tests:
        assert value(test)["value"] < 0.01
    assert value("pesaran_timmermann_p", report=noise)["value"] > 0.01
    assert value("spa_p_log_loss_base_rate", report=noise)["value"] > 0.01
    assert value("mcs_p_log_loss_model")["value"] == 1
    assert value("auc", report=noise)["lower"] < 0.5 < value("auc", report=noise)["upper"]


# --- the deflated Sharpe ratio -------------------------------------------------------------------
def edges(*, good: int, strategies: int, seed: int) -> list[Trading]:
    """Return the tradings of noise signals over 5,000 hours, the first `good` of them with an edge."""
    rng = np.random.default_rng(seed)
    hourly = rng.normal(0, 0.005, 5_000)
    tradings = []
    for i in range(strategies):
        p = rng.uniform(0, 1, len(hourly)) + (30 * hourly if i < good else 0)
        signal = trading.sign_signal(p)
        lags = {lag: trading.strategy(signal, hourly, lag=lag) for lag in LAGS}
        tradings.append(Trading(START, lags, lags, lags[0], signal))
    return tradings


def deflated(trading: Trading, tradings: list[Trading], fee_bps: float = 0) -> float:
    """Return the deflated Sharpe ratio of one strategy among its trials."""
    found = dict(_deflated(trading, tradings, fee_bps))[f"deflated_sharpe_{fee_bps:g}bps"].value
    assert found is not None
    return found


@pytest.mark.parametrize("fee_bps", [0, 5])
def test_a_good_strategy_among_noise_has_a_high_deflated_sharpe(fee_bps: float) -> None:
    for seed in range(10):
        tradings = edges(good=1, strategies=6, seed=seed)
        assert deflated(tradings[0], tradings, fee_bps) > 0.95


def test_the_luckiest_of_many_noise_strategies_has_a_low_deflated_sharpe() -> None:
    undeflated, found = [], []
    for seed in range(20):
        tradings = edges(good=0, strategies=40, seed=seed)
        best = max(tradings, key=lambda one: one.model[0].net.mean() / one.model[0].net.std())
        undeflated.append(trading.deflated_sharpe(best.model[0].net, [0.0]))
        found.append(deflated(best, tradings))
    assert np.median(undeflated) > 0.95  # without deflation, most look skilled
    assert np.median(found) < 0.7
    assert sum(one > 0.95 for one in found) <= 2


def test_skill_survives_the_deflation_in_the_report_and_noise_does_not() -> None:
    assert value("deflated_sharpe_0bps")["value"] > 0.99
    assert value("deflated_sharpe_0bps", report=noise)["value"] < 0.9


def test_the_trials_are_the_roles_horizons_and_lags_of_the_period_at_one_cost() -> None:
    hours = Hours.of(OUTCOMES)
    tradings = []
    for role in REPORTED_ROLES:
        for h in HORIZONS:
            rows = OUTCOMES.filter((pl.col("role") == role) & (pl.col("horizon_minutes") == h)).sort("open_time")
            tradings.append(trade(rows, hours, horizon=h))
    assert value("strategies_tried_5bps")["value"] == len(REPORTED_ROLES) * len(HORIZONS) * len(LAGS)
    trials = trial_sharpes(tradings, 5)
    assert len(set(trials)) == len(REPORTED_ROLES) * len(HORIZONS) * len(LAGS)
    expected = trading.deflated_sharpe(tradings[0].model[0].at(5).net, trials)
    assert value("deflated_sharpe_5bps")["value"] == expected


def test_identical_strategies_count_as_one_trial_and_idle_strategies_do_not_count() -> None:
    same = TEN_DAYS.filter(pl.col("role") == "champion")
    both = pl.concat([same.with_columns(pl.lit(role).alias("role")) for role in REPORTED_ROLES]).sort(
        FORECAST_OUTCOMES.key
    )
    report = report_of(both)
    assert value("strategies_tried_5bps", report=lambda: report)["value"] == len(HORIZONS) * len(LAGS)
    idle = report_of(both.with_columns(pl.lit(0.5).alias("p_up")))
    assert value("strategies_tried_5bps", report=lambda: idle)["value"] == 0
    assert value("deflated_sharpe_5bps", report=lambda: idle)["value"] is None


def test_the_pinball_loss_is_the_mean_over_the_five_quantiles() -> None:
    rows = OUTCOMES.filter((pl.col("role") == "champion") & (pl.col("horizon_minutes") == 240))
    r = rows["log_return"].to_numpy()
    one_by_one = [
        metrics.pinball_loss(r, {level: rows[name].to_numpy()}).value
        for level, name in zip(QUANTILES, QUANTILE_NAMES, strict=True)
    ]
    assert value("pinball_loss", horizon=240)["value"] == pytest.approx(np.mean(one_by_one))


def test_later_outcomes_do_not_change_an_earlier_report() -> None:
    day = START.date() + timedelta(days=6)
    end = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
    early = TEN_DAYS.filter(pl.col("known_at") <= end)
    assert early.height < TEN_DAYS.height
    assert performance_report(TEN_DAYS, day=day, fee_bps=5, seed=7).equals(
        performance_report(early, day=day, fee_bps=5, seed=7)
    )


def test_a_missing_hour_does_not_shift_later_hours() -> None:
    holed = history(gap=1000)
    rows = holed.filter((pl.col("role") == "champion") & (pl.col("horizon_minutes") == 60))
    trading = trade(rows, Hours.of(holed), horizon=60)
    whole = trade(
        OUTCOMES.filter((pl.col("role") == "champion") & (pl.col("horizon_minutes") == 60)),
        Hours.of(OUTCOMES),
        horizon=60,
    )
    assert trading.model[0].gross[1000] == 0
    assert np.array_equal(np.delete(trading.model[0].gross, 1000), np.delete(whole.model[0].gross, 1000))
    part = holed.filter(pl.col("open_time").is_between(START + timedelta(days=38), START + timedelta(days=48)))
    assert PERFORMANCE_REPORT.faults(report_of(part)) == []


def test_a_longer_return_known_beyond_the_hourly_ones_keeps_its_strategy() -> None:
    cut = OUTCOMES["open_time"].min() + timedelta(days=10)
    kept = OUTCOMES.filter((pl.col("horizon_minutes") != 60) | (pl.col("open_time") > cut))
    rows = kept.filter((pl.col("role") == "champion") & (pl.col("horizon_minutes") == 240))
    trading = trade(rows, Hours.of(kept), horizon=240)
    assert trading.start == OUTCOMES["open_time"].min()
    assert not trading.model[0].gross[: 10 * 24 + 1].any()
    assert trading.model[0].gross[10 * 24 + 1 :].any()


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_report_of_few_rows_has_nulls_and_no_nan(n: int) -> None:
    few = OUTCOMES.sort("horizon_minutes", "role", "open_time").head(n).sort(FORECAST_OUTCOMES.key)
    report = report_of(few)
    assert PERFORMANCE_REPORT.faults(report) == []
    assert not report.select(pl.col("value", "lower", "upper").is_nan().any()).row(0)[0]
    assert markdown(report)


def test_a_constant_forecast_has_no_skill() -> None:
    report = report_of(TEN_DAYS.with_columns(pl.lit(0.5).alias("p_up")))
    assert value("rank_ic", report=lambda: report)["value"] is None
    assert value("auc", report=lambda: report)["value"] == 0.5
    assert value("model_sharpe_5bps_lag0", report=lambda: report)["value"] is None


def test_a_window_ends_with_its_day() -> None:
    kept = OUTCOMES.filter(within(date(2018, 10, 10), 2))["known_at"]
    assert kept.min() == datetime(2018, 10, 9, 1, tzinfo=UTC)
    assert kept.max() == datetime(2018, 10, 11, tzinfo=UTC)


def test_the_summary_shows_each_group_with_n_and_interval() -> None:
    lines = markdown(skilled()).splitlines()
    assert len(lines) == 2 + len(REPORTED_ROLES) * len(HORIZONS) * 4
    assert "| champion | 60 min | all | 2,879 |" in "\n".join(lines)
    assert " to " in lines[2]
    assert markdown(skilled().clear()) == "No forecast has a known outcome yet."


# --- plots ---------------------------------------------------------------------------------------
PLOTS = {
    "equity": lambda frame: plots.equity(frame, role="champion", horizon=60, fee_bps=5),
    "reliability": lambda frame: plots.reliability(frame, role="champion", horizon=60),
    "rolling_accuracy": lambda frame: plots.rolling_accuracy(frame, role="champion", horizon=60),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_a_small_deterministic_png(name: str) -> None:
    from matplotlib.image import imread

    png = PLOTS[name](OUTCOMES)
    assert png is not None
    assert imread(io.BytesIO(png)).shape[:2] == (256, 560)
    assert len(markdown_image(png, name)) < 60_000
    assert PLOTS[name](OUTCOMES) == png


@pytest.mark.parametrize("name", PLOTS)
def test_there_is_no_plot_without_outcomes(name: str) -> None:
    assert PLOTS[name](OUTCOMES.clear()) is None
