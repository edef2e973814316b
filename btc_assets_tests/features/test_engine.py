"""Every feature of the bars against an oracle of its own: TA-Lib where it defines the indicator, arithmetic elsewhere.

Those of texts are in `test_texts.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.features.catalog import FEATURES, GAP_SLACK_HOURS, JOINED_GROUPS, WARMUP_DAYS
from btc_assets.features.engine import compute_features, features_between
from btc_assets.features.inputs import inputs_of
from btc_assets.features.tables import HOURLY_FEATURES
from btc_assets.market.synthetic import stressed
from btc_assets_tests.conftest import random_walk_bars

Vector = npt.NDArray[np.float64]
START = datetime(2018, 1, 1, tzinfo=UTC)
BY_NAME = {feature.name: feature for feature in FEATURES if feature.group not in JOINED_GROUPS}
HOURS = 50 * 24


@pytest.fixture(scope="module")
def clean() -> pl.DataFrame:
    """Return 50 days of whole bars."""
    return random_walk_bars(HOURS, start=START)


@pytest.fixture(scope="module")
def rough(clean: pl.DataFrame) -> pl.DataFrame:
    """Return the same with holes, unknown order flow and an hour without trades in the newest days."""
    return stressed(clean)


# --- TA-Lib ------------------------------------------------------------------------------------


def talib_oracle(bars: pl.DataFrame) -> dict[str, Vector]:
    """Return what TA-Lib itself gives for each feature it defines."""
    import talib

    high, low, close = (bars[name].to_numpy() for name in ("high", "low", "close"))
    upper, middle, lower = talib.BBANDS(close, timeperiod=20, nbdevup=2, nbdevdn=2)
    line, signal, histogram = talib.MACD(close, 12, 26, 9)
    return {
        "sma_20": talib.SMA(close, 20),
        **{f"sma_{n}_distance": close / talib.SMA(close, n) - 1 for n in (5, 10, 20, 50, 200)},
        **{f"ema_{n}_distance": close / talib.EMA(close, n) - 1 for n in (5, 10, 20)},
        "rsi": talib.RSI(close, 14),
        "rsi_6": talib.RSI(close, 6),
        "atr": talib.ATR(high, low, close, 14),
        "atr_relative": talib.ATR(high, low, close, 14) / close,
        "macd_line": line / close,
        "macd_signal": signal / close,
        "macd_histogram": histogram / close,
        "bollinger_width": (upper - lower) / middle,
        "bollinger_position": (close - lower) / (upper - lower),
        "roc_10": talib.ROC(close, 10),
        "momentum_12": talib.MOM(close, 12) / close,
        "cci_20": talib.CCI(high, low, close, 20),
        "adx": talib.ADX(high, low, close, 14),
        "trend_regime": talib.SMA(close, 50) / talib.SMA(close, 200) - 1,
    }


TALIB = tuple(talib_oracle(random_walk_bars(300)))


@pytest.mark.parametrize("name", TALIB)
@pytest.mark.parametrize("kind", ["clean", "rough"])
def test_an_indicator_equals_talib(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    bars = request.getfixturevalue(kind)
    made = compute_features(inputs_of(bars), features=[BY_NAME[name]])[name]
    known = made.is_not_null().to_numpy()
    assert known.sum() > 300
    np.testing.assert_allclose(made.to_numpy()[known], talib_oracle(bars)[name][known], rtol=1e-9, atol=1e-10)


# --- by hand -----------------------------------------------------------------------------------


class Hand:
    """Each feature by plain arithmetic on the rows up to one row; None where it is not known."""

    def __init__(self, bars: pl.DataFrame) -> None:
        """Take the columns apart; NaN is unknown."""
        self.hour = ((bars["open_time"] - bars["open_time"][0]).dt.total_hours()).to_numpy()
        self.times = bars["open_time"].to_list()
        columns = ("open", "high", "low", "close", "volume", "quote_volume", "trades", "taker_buy_volume")
        self.open, self.high, self.low, self.close, self.volume, self.quote, self.trades, self.taker = (
            bars[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() for name in columns
        )

    def returns(self, i: int, hours: int) -> float | None:
        """Return the log return over hours, None across a gap."""
        if self.hour[i] - self.hour[i - hours] != hours:
            return None
        return math.log(self.close[i] / self.close[i - hours])

    def volatility(self, i: int, n: int) -> float | None:
        """Return the standard deviation of the known returns of a window, None where a quarter is not known."""
        known = [r for j in range(i - n + 1, i + 1) if (r := self.returns(j, 1)) is not None]
        return float(np.std(known, ddof=1)) if len(known) >= max(2, math.ceil(0.75 * n)) else None

    def zscore(self, i: int, values: Vector, n: int) -> float | None:
        """Return a value against its window."""
        window = values[i - n + 1 : i + 1]
        return over(values[i] - window.mean(), float(np.std(window, ddof=1)))

    def position(self, i: int, n: int) -> float | None:
        """Return close within the range of a window."""
        low, high = self.low[i - n + 1 : i + 1].min(), self.high[i - n + 1 : i + 1].max()
        return over(self.close[i] - low, high - low)

    def to_mean(self, i: int, values: Vector, n: int) -> float | None:
        """Return a value over its mean."""
        return over(values[i], values[i - n + 1 : i + 1].mean())

    def imbalance(self, i: int, n: int) -> float | None:
        """Return taker buys less taker sells over volume."""
        window = slice(i - n + 1, i + 1)
        bought, volume = self.taker[window].sum(), self.volume[window].sum()
        return over(bought - (volume - bought), volume)

    def vwap(self, i: int, n: int) -> float | None:
        """Return close over the volume-weighted price, less 1."""
        window = slice(i - n + 1, i + 1)
        price = over(self.quote[window].sum(), self.volume[window].sum())
        return None if price is None else self.close[i] / price - 1

    def drawdown(self, i: int, n: int) -> float:
        """Return close below the highest high."""
        return self.close[i] / self.high[i - n + 1 : i + 1].max() - 1

    def trade_size(self, i: int) -> float | None:
        """Return the mean trade against the mean of the known hours."""
        sizes = [over(self.volume[j], self.trades[j]) for j in range(i - 23, i + 1)]
        known = [size for size in sizes if size is not None]
        if sizes[-1] is None or len(known) < 18:
            return None
        return over(sizes[-1], float(np.mean(known)))

    def rank_of_volatility(self, i: int) -> float | None:
        """Return the rank of today's volatility among its last 720 values."""
        now = self.volatility(i, 24)
        if now is None:
            return None
        known = np.array([v for j in range(i - 719, i + 1) if (v := self.volatility(j, 24)) is not None])
        below, same = (known < now - 1e-15).sum(), (np.abs(known - now) <= 1e-15).sum()
        return float((below + (same + 1) / 2 - 1) / 719)

    def log_variance(self, i: int, n: int) -> float:
        """Return the log of the mean range variance of a window, at least that of a basis point."""
        ranges = np.log(self.high / self.low)[i - n + 1 : i + 1]
        return math.log(max(float((ranges**2).mean()) / (4 * math.log(2)), 1e-8))

    def log_variance_ago(self, i: int, days: int) -> float | None:
        """Return the log variance of the coming hour of the day, days ago; None across a gap."""
        back = 24 * days - 1
        return self.log_variance(i - back, 1) if self.hour[i] - self.hour[i - back] == back else None

    def since_gap(self, i: int) -> float:
        """Return the hours since bars resumed, at most a week."""
        for j in range(i, 0, -1):
            if self.hour[j] - self.hour[j - 1] > 1:
                return float(min(168, self.hour[i] - self.hour[j]))
        return 168.0


def over(numerator: float, denominator: float) -> float | None:
    """Divide, None where there is nothing to divide by or a part is not known."""
    value = numerator / denominator if abs(denominator) > 1e-12 else float("nan")
    return None if math.isnan(value) else float(value)


def times(left: float | None, right: float | None) -> float | None:
    """Multiply what is known."""
    return None if left is None or right is None else left * right


def log_volume(h: Hand) -> Vector:
    """Return the log of volume, NaN where nothing was traded."""
    return np.array([math.log(v) if v > 0 else math.nan for v in h.volume])


Oracle = Callable[[Hand, int], float | None]


def oracle(method: Callable[..., float | None], *args: int) -> Oracle:
    """Fix a method's window."""
    return lambda h, i: method(h, i, *args)


BY_HAND: dict[str, Oracle] = {
    **{f"returns_{n}h": oracle(Hand.returns, n) for n in (1, 2, 3, 4, 5, 10, 24, 48, 72, 168)},
    **{f"return_lag_{k}": partial(lambda h, i, k: h.returns(i - k, 1), k=k) for k in (1, 2, 3, 5, 10)},
    **{f"close_zscore_{n}": partial(lambda h, i, n: h.zscore(i, h.close, n), n=n) for n in (10, 24, 72)},
    "range_position_1h": oracle(Hand.position, 1),
    "range_position_24h": oracle(Hand.position, 24),
    "range_position_168h": oracle(Hand.position, 168),
    "range_1h": lambda h, i: (h.high[i] - h.low[i]) / h.close[i],
    "body_1h": lambda h, i: over(h.close[i] - h.open[i], h.high[i] - h.low[i]),
    "drawdown_168h": oracle(Hand.drawdown, 168),
    "drawdown_720h": oracle(Hand.drawdown, 720),
    "volume_ratio": lambda h, i: h.to_mean(i, h.volume, 24),
    "volume_ratio_168h": lambda h, i: h.to_mean(i, h.volume, 168),
    "volume_zscore_24h": lambda h, i: h.zscore(i, log_volume(h), 24),
    **{f"taker_imbalance_{n}h": oracle(Hand.imbalance, n) for n in (1, 4, 24, 72)},
    "vwap_1h_distance": oracle(Hand.vwap, 1),
    "vwap_24h_distance": oracle(Hand.vwap, 24),
    "trade_size_ratio": oracle(Hand.trade_size),
    "trades_ratio": lambda h, i: h.to_mean(i, h.trades, 24),
    "signed_volume_24h": lambda h, i: over(
        float((h.volume * np.sign(h.close - h.open))[i - 23 : i + 1].sum()), float(h.volume[i - 23 : i + 1].sum())
    ),
    "return_volume_product": lambda h, i: times(h.returns(i, 1), h.to_mean(i, h.volume, 24)),
    "flow_hours_24h": lambda h, i: float((~np.isnan(h.taker[i - 23 : i + 1])).sum()),
    **{f"realised_volatility_{n}h": oracle(Hand.volatility, n) for n in (6, 24, 72, 168)},
    "parkinson_volatility_24h": lambda h, i: math.sqrt(
        float((np.log(h.high / h.low)[i - 23 : i + 1] ** 2).mean()) / (4 * math.log(2))
    ),
    "volatility_ratio": lambda h, i: times(h.volatility(i, 24), 1 / (h.volatility(i, 720) or math.nan)),
    "volatility_regime": oracle(Hand.rank_of_volatility),
    "trend_strength": lambda h, i: times(h.returns(i, 168), 1 / ((h.volatility(i, 168) or math.nan) * math.sqrt(168))),
    "hours_since_gap": oracle(Hand.since_gap),
    **{f"log_variance_{n}h": oracle(Hand.log_variance, n) for n in (1, 2, 4, 8, 24, 72, 168, 720)},
    **{f"log_variance_{n}d_ago": oracle(Hand.log_variance_ago, n) for n in (1, 2, 7)},
    "hour_of_day": lambda h, i: float(h.times[i].hour),
    "hour_sin": lambda h, i: math.sin(2 * math.pi * h.times[i].hour / 24),
    "hour_cos": lambda h, i: math.cos(2 * math.pi * h.times[i].hour / 24),
    "day_of_week": lambda h, i: float(h.times[i].isoweekday()),
    "is_weekend": lambda h, i: float(h.times[i].isoweekday() in (6, 7)),
}


def test_every_feature_has_an_oracle() -> None:
    assert set(BY_HAND) | set(TALIB) == set(BY_NAME)


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("kind", ["clean", "rough"])
def test_a_feature_equals_arithmetic_by_hand(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    """Newest rows, where the holes, the unknown flow and the empty hour lie; None must be null, and null None."""
    bars = request.getfixturevalue(kind)
    made, hand = compute_features(inputs_of(bars), features=[BY_NAME[name]])[name], Hand(bars)
    rows = range(bars.height - 90, bars.height, 7 if name == "volatility_regime" else 1)
    expected = [BY_HAND[name](hand, i) for i in rows]
    expected = [None if value is None or math.isnan(value) else value for value in expected]
    found = [made[i] for i in rows]
    assert [value is None for value in found] == [value is None for value in expected]
    known = [(f, e) for f, e in zip(found, expected, strict=True) if e is not None]
    if not known:  # a hole a week, roughly: a span of a week may hold one throughout
        assert BY_NAME[name].warmup_hours >= 168
        return
    np.testing.assert_allclose(*zip(*known, strict=True), rtol=1e-9, atol=1e-11)


# --- what is not known -------------------------------------------------------------------------


def test_unknown_order_flow_is_null_and_never_a_zero() -> None:
    bars = random_walk_bars(HOURS, start=START, flow=False)
    newest = compute_features(inputs_of(bars)).tail(24)
    of_flow = [f.name for f in FEATURES if "taker" in f.name or "vwap" in f.name or "trade" in f.name]
    assert newest.select(of_flow).null_count().row(0) == (24,) * len(of_flow)
    assert newest["flow_hours_24h"].to_list() == [0.0] * 24
    assert newest["volume_ratio"].null_count() == 0


def test_a_return_across_a_gap_is_null_and_the_next_inside_is_known() -> None:
    bars = random_walk_bars(300, start=START)
    gap = START + timedelta(hours=200)
    made = compute_features(inputs_of(bars.filter(~pl.col("open_time").is_between(gap, gap + timedelta(hours=4)))))
    after = made.filter(pl.col("open_time") >= gap).head(5)
    assert after["returns_1h"].is_null().to_list() == [True, False, False, False, False]
    assert after["returns_4h"].is_null().to_list() == [True, True, True, True, False]
    assert after["return_lag_1"].is_null().to_list() == [False, True, False, False, False]


@pytest.mark.parametrize("kind", ["flat", "empty hours", "one bar", "no bar", "huge", "tiny"])
def test_no_bars_give_a_nan_or_an_infinity(kind: str, clean: pl.DataFrame) -> None:
    prices = ("open", "high", "low", "close")
    bars = {
        "flat": clean.with_columns(pl.lit(5_000.0).alias(name) for name in prices),
        "empty hours": clean.with_columns(
            pl.lit(0.0).alias("volume"), pl.lit(0.0).alias("quote_volume"), pl.lit(0.0).alias("taker_buy_volume"),
            pl.lit(0, dtype=pl.Int64).alias("trades"),
        ),
        "one bar": clean.head(1),
        "no bar": clean.head(0),
        "huge": clean.with_columns(pl.col(name) * 1e12 for name in (*prices, "volume")),
        "tiny": clean.with_columns(pl.col(name) * 1e-9 for name in (*prices, "volume")),
    }[kind]  # fmt: skip
    made = compute_features(inputs_of(bars))
    assert made.height == bars.height
    assert HOURLY_FEATURES.faults(made) == []
    for name in BY_NAME:
        assert made[name].is_nan().sum() == 0, name
        assert made[name].is_infinite().sum() == 0, name


def test_a_feature_is_null_for_its_warm_up_and_known_after_it(clean: pl.DataFrame) -> None:
    made = compute_features(inputs_of(clean))
    for feature in BY_NAME.values():
        warm = feature.warmup_hours + GAP_SLACK_HOURS if feature.warmup_hours else 0
        assert made[feature.name].head(warm).null_count() == warm, feature.name
        assert made[feature.name][warm:].null_count() == 0, feature.name


def test_rows_are_available_one_hour_after_they_open(clean: pl.DataFrame) -> None:
    made = compute_features(inputs_of(clean))
    assert made["open_time"].equals(clean["open_time"])
    assert ((made["available_at"] - made["open_time"]) == timedelta(hours=1)).all()


# --- one engine --------------------------------------------------------------------------------


def test_a_span_is_the_same_rows_of_the_whole(clean: pl.DataFrame) -> None:
    first = START + timedelta(days=WARMUP_DAYS + 3)
    last = first + timedelta(days=2)
    span = features_between(inputs_of(clean), first, last)
    whole = compute_features(inputs_of(clean))
    assert span.equals(whole.filter((pl.col("open_time") >= first) & (pl.col("open_time") < last)))
    assert span.height == 48


_SHORT = [feature for feature in BY_NAME.values() if feature.warmup_hours <= 24]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1_000),
    gaps=st.sets(st.integers(1, 219), max_size=40),
    unknown=st.sets(st.integers(0, 219), max_size=40),
    cut=st.integers(1, 219),
)
def test_no_row_depends_on_a_later_bar(seed: int, gaps: set[int], unknown: set[int], cut: int) -> None:
    row = pl.int_range(pl.len())
    flow = pl.col("quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
    bars = (
        random_walk_bars(220, seed=seed, start=START)
        .with_columns(pl.when(~row.is_in(sorted(unknown))).then(flow))
        .filter(~row.is_in(sorted(gaps)))
    )
    until = pl.col("open_time") <= START + timedelta(hours=cut)
    whole = compute_features(inputs_of(bars), features=_SHORT).filter(until)
    prefix = compute_features(inputs_of(bars.filter(until)), features=_SHORT)
    assert whole.select(pl.all().is_null()).equals(prefix.select(pl.all().is_null()))
    for feature in _SHORT:
        np.testing.assert_allclose(
            whole[feature.name].drop_nulls(), prefix[feature.name].drop_nulls(), rtol=1e-9, atol=1e-12
        )
