"""Paper positions: the rule with hysteresis, delays, costs and the record from day to day."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from btc_assets.evaluation.trading import FEES_BPS
from btc_assets.forecasting.positions import (
    GRID,
    MIN_SCORES,
    TRIED,
    Rule,
    as_markdown,
    buy_and_hold,
    decide,
    judge_positions,
    paper_positions,
    scored,
)
from btc_assets.forecasting.tables import DELAYS, FORECASTS, POSITIONS

START = datetime(2024, 1, 1, tzinfo=UTC)
WARM_DAYS = MIN_SCORES // 24
FIRST = START.date() + timedelta(days=WARM_DAYS)
DAYS = [FIRST + timedelta(days=n) for n in range(4)]
RULE = Rule(enter=1.0, exit=0.5)
NO_QUARTERS = pl.DataFrame(schema={"open_time": pl.Datetime("us", "UTC"), "minutes": pl.Int64, "close": pl.Float64})

scores = st.lists(st.floats(-4, 4) | st.just(math.nan), min_size=1, max_size=60).map(np.array)
rules = st.sampled_from(GRID)


def forecasts(hours: int = (WARM_DAYS + len(DAYS)) * 24, *, seed: int = 1) -> pl.DataFrame:
    """Return the champion's forecasts from START on, with the columns that positions read."""
    rng = np.random.default_rng(seed)
    times = pl.datetime_range(START, START + timedelta(hours=hours - 1), "1h", eager=True, time_unit="us")
    frame = pl.DataFrame(
        {
            "open_time": times,
            "horizon_minutes": 60,
            "role": "champion",
            "model_version": 1,
            "close": 30_000 * np.exp(np.cumsum(rng.normal(0, 0.005, hours))),
            "p_up": 0.5 + 0.05 * np.tanh(rng.normal(size=hours)),
            "expected_return_bps": rng.normal(0, 3, hours),
            "sigma": 0.004 + 0.001 * rng.random(hours),
        }
    )
    return frame.cast({name: FORECASTS.columns[name] for name in frame.columns})


def quarters_of(rows: pl.DataFrame, *, minutes: int = 15, seed: int = 2) -> pl.DataFrame:
    """Return bars inside the hour that follows each hour's close, at other prices than its two closes."""
    rng = np.random.default_rng(seed)
    return pl.concat(
        rows.select(
            (pl.col("open_time") + timedelta(hours=1, minutes=start)).alias("open_time"),
            pl.lit(minutes, pl.Int64).alias("minutes"),
            pl.col("close") * pl.Series(np.exp(rng.normal(0, 0.002, rows.height))),
        )
        for start in range(0, 60, minutes)
    ).sort("open_time")


FORECAST_ROWS = forecasts()
QUARTERS = quarters_of(FORECAST_ROWS)


def record(
    rows: pl.DataFrame = FORECAST_ROWS,
    quarters: pl.DataFrame = QUARTERS,
    before: pl.DataFrame | None = None,
    days: list[date] = DAYS,
    rule: Rule = RULE,
) -> pl.DataFrame:
    return paper_positions(rows, quarters, POSITIONS.empty() if before is None else before, days=days, rule=rule)


RECORD = record()


def of(rows: pl.DataFrame, delay: int, cost: float = 0.0) -> pl.DataFrame:
    return rows.filter((pl.col("delay_minutes") == delay) & (pl.col("cost_bps") == cost))


@given(scores, rules, st.integers(0, 60))
def test_a_position_never_depends_on_later_hours(score: np.ndarray, rule: Rule, cut: int) -> None:
    ratio = np.linspace(0.5, 2, len(score))
    whole = decide(score, ratio, rule)
    assert whole[:cut].tolist() == decide(score[:cut], ratio[:cut], rule).tolist()


@given(scores, rules, st.sampled_from([-1.0, 0.0, 0.5]))
def test_nothing_is_traded_inside_the_band(score: np.ndarray, rule: Rule, held: float) -> None:
    position = decide(score, np.ones(len(score)), rule, held)
    before = np.concatenate([[held], position[:-1]])
    for now, old, new in zip(score, before, position, strict=True):
        entered = old == 0 and abs(now) >= rule.enter
        left = old * now < 0 and abs(now) > rule.exit
        assert (new != old) == (entered or left)
        assert new == 0 or new == old or (new > 0) == (now > 0)
        assert abs(new) <= 1


def test_a_position_is_held_until_the_score_passes_the_exit_on_the_other_side() -> None:
    score = np.array([0.5, 2.1, 0.0, -0.9, -1.1, 0.3, -2.5, 2.5, np.nan])
    assert decide(score, np.ones(9), Rule(2, 1)).tolist() == [0, 1, 1, 1, 0, 0, -1, 1, 1]


@pytest.mark.parametrize(
    ("by_volatility", "by_confidence", "size"),
    [(False, False, 1), (True, False, 0.5), (False, True, 0.75), (True, True, 0.375)],
)
def test_a_position_is_smaller_with_more_volatility_and_less_confidence(
    by_volatility: bool, by_confidence: bool, size: float
) -> None:
    rule = Rule(2, 1, by_volatility, by_confidence)
    assert decide(np.array([-3.0]), np.array([2.0]), rule)[0] == -size
    assert rule.size(9.0, 0.5) == 1


def test_the_record_satisfies_its_contract_and_has_every_hour_delay_and_cost() -> None:
    assert POSITIONS.faults(RECORD) == []
    assert RECORD.height == len(DAYS) * 24 * len(DELAYS) * len(FEES_BPS)
    assert of(RECORD, 0)["turnover"].sum() > 5, "the rule trades, so that the tests below say something"


def test_a_record_made_day_by_day_is_the_record_made_at_once() -> None:
    made = POSITIONS.empty()
    for day in DAYS:
        made = pl.concat([made, record(before=made, days=[day])])
    assert made.sort(POSITIONS.key).equals(RECORD)


def test_poisoning_later_hours_changes_no_earlier_row() -> None:
    cut = datetime(DAYS[2].year, DAYS[2].month, DAYS[2].day, 11, tzinfo=UTC)
    later = pl.col("open_time") > cut
    spoilt = FORECAST_ROWS.with_columns(
        pl.when(later).then(1 - pl.col("p_up")).otherwise("p_up").alias("p_up"),
        pl.when(later).then(pl.col("close") * 2).otherwise("close").alias("close"),
    )
    quarters = QUARTERS.with_columns(
        pl.when(pl.col("open_time") >= cut + timedelta(hours=1)).then(1.0).otherwise("close").alias("close")
    )
    assert record(spoilt, quarters).filter(~later).equals(RECORD.filter(~later))


def test_scores_of_a_day_are_in_units_of_the_days_before_only() -> None:
    odds = np.log(FORECAST_ROWS["p_up"] / (1 - FORECAST_ROWS["p_up"])).to_numpy()
    size = (FORECAST_ROWS["expected_return_bps"] / FORECAST_ROWS["sigma"]).to_numpy()
    before, day = slice(0, MIN_SCORES), slice(MIN_SCORES, MIN_SCORES + 24)
    both = odds / odds[before].std() + size / size[before].std()
    first = scored(FORECAST_ROWS, DAYS[:1])
    assert first["score"].to_numpy() == pytest.approx(both[day] / both[before].std())
    without_size = scored(FORECAST_ROWS.with_columns(expected_return_bps=pl.lit(0.0)), DAYS[:1])
    assert without_size["score"].to_numpy() == pytest.approx(odds[day] / odds[before].std())
    flat = FORECAST_ROWS.with_columns(expected_return_bps=pl.lit(0.0), p_up=pl.lit(0.5))
    assert set(scored(flat, DAYS[:1])["score"]) == {0.0}
    early = scored(FORECAST_ROWS, [DAYS[0] - timedelta(days=1)])
    assert early.height == 24
    assert early["score"].is_null().all()


def test_gross_returns_equal_a_loop_over_prices() -> None:
    later = {0: None, 15: dict(QUARTERS.select(pl.col("open_time"), "close").iter_rows()), 60: None}
    for delay in DELAYS:
        rows = of(RECORD, delay).to_dicts()
        for two_before, before, row in zip(rows, rows[1:], rows[2:], strict=False):
            decided = before["open_time"] + timedelta(hours=1)
            prices = {0: before["close"], 15: (later[15] or {}).get(decided), 60: row["close"]}
            change = math.log(prices[delay] / before["close"]) * two_before["position"]
            change += math.log(row["close"] / prices[delay]) * before["position"]
            assert row["gross_return"] == pytest.approx(change, abs=1e-12)


def test_costs_are_paid_once_on_what_is_traded_and_never_earned() -> None:
    for delay in DELAYS:
        free = of(RECORD, delay)
        for cost in FEES_BPS:
            paid = free["gross_return"] - of(RECORD, delay, cost)["net_return"]
            assert paid.to_numpy() == pytest.approx((free["turnover"] * cost / 1e4).to_numpy(), abs=1e-15)
            assert paid.min() >= 0


def test_the_cumulative_return_and_the_drawdown_are_those_of_the_net_returns() -> None:
    rows = of(RECORD, 15, 5.0)
    total = rows["net_return"].cum_sum()
    assert rows["cumulative_return"].to_numpy() == pytest.approx(total.to_numpy())
    peak = np.maximum.accumulate(np.maximum(total.to_numpy(), 0))
    assert rows["drawdown"].to_numpy() == pytest.approx(peak - total.to_numpy())


@pytest.mark.parametrize(
    ("quarters", "expected"),
    [(QUARTERS, 15), (quarters_of(FORECAST_ROWS, minutes=30), 30), (NO_QUARTERS, 60)],
    ids=["quarters", "half hours", "none"],
)
def test_a_delayed_trade_has_the_first_known_price_after_the_delay(quarters: pl.DataFrame, expected: int) -> None:
    after = of(record(quarters=quarters), 15)["executed_after_minutes"].drop_nulls()
    assert set(after) == {expected}


def test_a_position_is_held_across_a_gap() -> None:
    opened = of(RECORD, 0).filter((pl.col("position") != 0) & (pl.col("position") == pl.col("previous_position")))
    hour = opened["open_time"][3]
    holed = of(record(FORECAST_ROWS.filter(pl.col("open_time") != hour)), 0).to_dicts()
    after = next(row for row in holed if row["open_time"] == hour + timedelta(hours=1))
    closes = dict(FORECAST_ROWS.select("open_time", "close").iter_rows())
    change = math.log(closes[hour + timedelta(hours=1)] / closes[hour - timedelta(hours=1)])
    assert after["gross_return"] == pytest.approx(after["previous_position"] * change)


def test_without_forecasts_there_is_no_record() -> None:
    assert record(FORECAST_ROWS.clear()).is_empty()


def test_the_judgement_has_every_trial_of_the_rule_and_of_the_forecasters() -> None:
    found = judge_positions(RECORD)
    assert [(one.delay_minutes, one.cost_bps) for one in found] == [(d, c) for d in DELAYS for c in FEES_BPS]
    assert all(TRIED < one.trials <= TRIED + 2 * len(GRID) + 1 for one in found)
    costs = [one.strategy.total_return().value for one in found if one.delay_minutes == 0]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] == pytest.approx(of(RECORD, 0)["cumulative_return"][-1])
    assert buy_and_hold(RECORD).total_return().value == pytest.approx(of(RECORD, 0)["hour_return"].sum())
    assert as_markdown(RECORD).count("\n") == 2 + len(found)
