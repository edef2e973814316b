"""The declared features: name, group, unit, warm-up and expression of each.

An expression runs over bars in time order (columns of `market/prices`) and looks back only. Windows are counted in
bars, as in TA-Lib; a feature of a span in hours is null if the span contains a gap. Expressions of features that read
other streams run over every hour, with or without a bar, so their windows are counted in hours; they may use columns
and features of the bars. An unknown value is null: never NaN, never a zero that looks like data. The engine blanks the
first `warmup_hours` of a history, so a value never depends on where the history starts.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import reduce

import polars as pl
import polars_talib as talib

from btc_assets.features import intrahour, volatility
from btc_assets.features.expressions import min_samples, over
from btc_assets.features.inputs import STREAMS
from btc_assets.streams import Feature

GAP_SLACK_HOURS = 72
"""Hours added to every warm-up: windows are counted in bars, and the longest recorded outage lasted 33 hours."""

_open_time, _open, _high, _low, _close, _volume = (
    pl.col(name) for name in ("open_time", "open", "high", "low", "close", "volume")
)
_quote, _trades, _taker = pl.col("quote_volume"), pl.col("trades"), pl.col("taker_buy_volume")


def _spans(hours: int) -> pl.Expr:
    """Return whether the bar `hours` rows before opened exactly `hours` hours earlier."""
    return (_open_time - _open_time.shift(hours)) == pl.duration(hours=hours)


def _log_return(hours: int) -> pl.Expr:
    return pl.when(_spans(hours)).then((_close / _close.shift(hours)).log())


_return = _log_return(1)


def _volatility(bars: int) -> pl.Expr:
    return _return.rolling_std(bars, min_samples=min_samples(bars))


def _imbalance(bars: int) -> pl.Expr:
    """Return taker buys less taker sells over taker volume; null unless the order flow of every bar is known."""
    return 2 * over(_taker.rolling_sum(bars), _volume.rolling_sum(bars)) - 1


def _vwap(bars: int) -> pl.Expr:
    return over(_quote.rolling_sum(bars), _volume.rolling_sum(bars))


def _position(bars: int) -> pl.Expr:
    low = _low.rolling_min(bars)
    return over(_close - low, _high.rolling_max(bars) - low)


def _zscore(value: pl.Expr, bars: int) -> pl.Expr:
    return over(value - value.rolling_mean(bars), value.rolling_std(bars))


def _bollinger(side: int) -> pl.Expr:
    return _close.rolling_mean(20) + side * 2 * _close.rolling_std(20, ddof=0)


def _macd(field: str) -> pl.Expr:
    return talib.macd(_close, fastperiod=12, slowperiod=26, signalperiod=9).struct.field(field) / _close


def _log_positive(value: pl.Expr) -> pl.Expr:
    return pl.when(value > 0).then(value.log())


_trade_size = over(_volume, _trades.cast(pl.Float64))
_last_gap = pl.when(_open_time.diff() > pl.duration(hours=1)).then(_open_time).forward_fill()
_HOURS_WITHOUT_GAP = 168
_since_gap = (
    (_open_time - _last_gap).dt.total_hours().cast(pl.Float64).fill_null(_HOURS_WITHOUT_GAP).clip(0, _HOURS_WITHOUT_GAP)
)
_hour = _open_time.dt.hour().cast(pl.Float64)
_weekday = _open_time.dt.weekday().cast(pl.Float64)

WILDER = 420
"""Hours after which the start of a Wilder average of 14 bars weighs less than 1e-12."""
SLOW_EMA = 520
"""The same for a twice smoothed exponential average of 26 bars."""

_PRICE = (
    *(
        Feature(f"returns_{h}h", "price", "log fraction", f"log return over the last {h} h", h, _log_return(h))
        for h in (1, 2, 3, 4, 5, 10, 24, 48, 72, 168)
    ),
    *(
        Feature(f"return_lag_{k}", "price", "log fraction", f"1 h log return, {k} bars ago", k + 1, _return.shift(k))
        for k in (1, 2, 3, 5, 10)
    ),
    Feature("sma_20", "price", "USD", "simple moving average of close, 20 bars", 20, talib.sma(_close, timeperiod=20)),
    *(
        Feature(
            f"sma_{n}_distance",
            "price",
            "fraction",
            f"close over its simple moving average of {n} bars, less 1",
            n,
            _close / talib.sma(_close, timeperiod=n) - 1,
        )
        for n in (5, 10, 20, 50, 200)
    ),
    *(
        Feature(
            f"ema_{n}_distance",
            "price",
            "fraction",
            f"close over its exponential moving average of {n} bars, less 1",
            WILDER,
            _close / talib.ema(_close, timeperiod=n) - 1,
        )
        for n in (5, 10, 20)
    ),
    *(
        Feature(
            f"close_zscore_{n}",
            "price",
            "standard deviations",
            f"close against its last {n} bars",
            n,
            _zscore(_close, n),
        )
        for n in (10, 24, 72)
    ),
    Feature("rsi", "price", "0-100", "relative strength index, 14 bars", WILDER, talib.rsi(_close, timeperiod=14)),
    Feature("rsi_6", "price", "0-100", "relative strength index, 6 bars", WILDER, talib.rsi(_close, timeperiod=6)),
    Feature(
        "atr", "price", "USD", "average true range, 14 bars", WILDER, talib.atr(_high, _low, _close, timeperiod=14)
    ),
    Feature(
        "atr_relative",
        "price",
        "fraction",
        "average true range, 14 bars, over close",
        WILDER,
        talib.atr(_high, _low, _close, timeperiod=14) / _close,
    ),
    Feature("macd_line", "price", "fraction", "MACD 12/26 line over close", SLOW_EMA, _macd("macd")),
    Feature("macd_signal", "price", "fraction", "MACD 9-bar signal over close", SLOW_EMA, _macd("macdsignal")),
    Feature("macd_histogram", "price", "fraction", "MACD line less signal, over close", SLOW_EMA, _macd("macdhist")),
    Feature(
        "bollinger_width",
        "price",
        "fraction",
        "Bollinger band (20 bars, 2 standard deviations), upper less lower over middle",
        20,
        (_bollinger(1) - _bollinger(-1)) / _close.rolling_mean(20),
    ),
    Feature(
        "bollinger_position",
        "price",
        "fraction",
        "close within the Bollinger band: 0 at the lower, 1 at the upper",
        20,
        over(_close - _bollinger(-1), _bollinger(1) - _bollinger(-1)),
    ),
    Feature("roc_10", "price", "percent", "rate of change over 10 bars", 10, talib.roc(_close, timeperiod=10)),
    Feature(
        "momentum_12",
        "price",
        "fraction",
        "change over 12 bars, over close",
        12,
        talib.mom(_close, timeperiod=12) / _close,
    ),
    Feature(
        "cci_20",
        "price",
        "index",
        "commodity channel index, 20 bars",
        20,
        talib.cci(_high, _low, _close, timeperiod=20),
    ),
    Feature(
        "adx",
        "price",
        "0-100",
        "average directional index, 14 bars",
        2 * WILDER - 220,
        talib.adx(_high, _low, _close, timeperiod=14),
    ),
    Feature(
        "range_position_1h", "price", "fraction", "close within the hour's range", 0, over(_close - _low, _high - _low)
    ),
    Feature("range_position_24h", "price", "fraction", "close within the range of 24 bars", 24, _position(24)),
    Feature("range_position_168h", "price", "fraction", "close within the range of 168 bars", 168, _position(168)),
    Feature("range_1h", "price", "fraction", "high less low over close", 0, (_high - _low) / _close),
    Feature(
        "body_1h", "price", "fraction", "close less open over the hour's range", 0, over(_close - _open, _high - _low)
    ),
    Feature(
        "drawdown_168h",
        "price",
        "fraction",
        "close below the highest high of 168 bars",
        168,
        _close / _high.rolling_max(168) - 1,
    ),
    Feature(
        "drawdown_720h",
        "price",
        "fraction",
        "close below the highest high of 720 bars",
        720,
        _close / _high.rolling_max(720) - 1,
    ),
)

_FLOW = (
    Feature(
        "volume_ratio", "flow", "ratio", "volume over its mean of 24 bars", 24, over(_volume, _volume.rolling_mean(24))
    ),
    Feature(
        "volume_ratio_168h",
        "flow",
        "ratio",
        "volume over its mean of 168 bars",
        168,
        over(_volume, _volume.rolling_mean(168)),
    ),
    Feature(
        "volume_zscore_24h",
        "flow",
        "standard deviations",
        "log volume against its last 24 bars",
        24,
        _zscore(_log_positive(_volume), 24),
    ),
    *(
        Feature(
            f"taker_imbalance_{n}h",
            "flow",
            "-1 to 1",
            f"taker buys less taker sells over volume, {n} bars",
            n,
            _imbalance(n),
        )
        for n in (1, 4, 24, 72)
    ),
    Feature(
        "vwap_1h_distance",
        "flow",
        "fraction",
        "close over the hour's volume-weighted price, less 1",
        0,
        over(_close, _vwap(1)) - 1,
    ),
    Feature(
        "vwap_24h_distance",
        "flow",
        "fraction",
        "close over the volume-weighted price of 24 bars, less 1",
        24,
        over(_close, _vwap(24)) - 1,
    ),
    Feature(
        "trade_size_ratio",
        "flow",
        "ratio",
        "mean trade size over its mean of 24 bars",
        24,
        over(_trade_size, _trade_size.rolling_mean(24, min_samples=min_samples(24))),
    ),
    Feature(
        "trades_ratio",
        "flow",
        "ratio",
        "number of trades over its mean of 24 bars",
        24,
        over(_trades.cast(pl.Float64), _trades.cast(pl.Float64).rolling_mean(24)),
    ),
    Feature(
        "signed_volume_24h",
        "flow",
        "-1 to 1",
        "volume of rising hours less volume of falling hours over all, 24 bars",
        24,
        over((_volume * (_close - _open).sign()).rolling_sum(24), _volume.rolling_sum(24)),
    ),
    Feature(
        "return_volume_product",
        "flow",
        "log fraction",
        "1 h log return times volume over its mean of 24 bars: moves made on volume revert less",
        24,
        _return * over(_volume, _volume.rolling_mean(24)),
    ),
    Feature(
        "flow_hours_24h",
        "flow",
        "hours",
        "bars of the last 24 whose order flow is known",
        24,
        _taker.is_not_null().cast(pl.Float64).rolling_sum(24),
    ),
)

_REGIME = (
    *(
        Feature(
            f"realised_volatility_{n}h",
            "regime",
            "log fraction an hour",
            f"standard deviation of the last {n} one-hour log returns",
            n + 1,
            _volatility(n),
        )
        for n in (6, 24, 72, 168)
    ),
    Feature(
        "parkinson_volatility_24h",
        "regime",
        "log fraction an hour",
        "Parkinson (1980) range volatility of 24 bars",
        24,
        ((_high / _low).log().pow(2).rolling_mean(24) / (4 * math.log(2))).sqrt(),
    ),
    Feature(
        "volatility_ratio",
        "regime",
        "ratio",
        "realised volatility of 24 bars over that of 720",
        721,
        over(_volatility(24), _volatility(720)),
    ),
    Feature(
        "volatility_regime",
        "regime",
        "0-1",
        "rank of the 24-bar realised volatility among its last 720 values: 0 calm, 1 wild",
        745,
        (_volatility(24).rolling_rank(720, min_samples=min_samples(720)) - 1) / 719,
    ),
    Feature(
        "trend_regime",
        "regime",
        "fraction",
        "mean close of 50 bars over that of 200, less 1: above 0 an up-trend",
        200,
        talib.sma(_close, timeperiod=50) / talib.sma(_close, timeperiod=200) - 1,
    ),
    Feature(
        "trend_strength",
        "regime",
        "standard deviations",
        "log return over 168 h in units of its own volatility",
        169,
        over(_log_return(168), _volatility(168) * math.sqrt(168)),
    ),
    Feature(
        "hours_since_gap",
        "regime",
        "hours",
        f"hours since the bars resumed after a gap, at most {_HOURS_WITHOUT_GAP}",
        _HOURS_WITHOUT_GAP,
        _since_gap,
    ),
)

_TIME = (
    Feature("hour_of_day", "time", "hour, UTC", "hour the bar opened in", 0, _hour),
    Feature("hour_sin", "time", "-1 to 1", "sine of the hour of the day", 0, (_hour * (2 * math.pi / 24)).sin()),
    Feature("hour_cos", "time", "-1 to 1", "cosine of the hour of the day", 0, (_hour * (2 * math.pi / 24)).cos()),
    Feature("day_of_week", "time", "1-7", "ISO day of the week the bar opened on", 0, _weekday),
    Feature(
        "is_weekend", "time", "0 or 1", "whether that day is a Saturday or Sunday", 0, (_weekday >= 6).cast(pl.Float64)
    ),
)

# --- articles and posts --------------------------------------------------------------------------

HALF_LIVES = 7
"""Half-lives after which a text no longer counts: it then weighs less than a hundredth of a new text."""
LONGEST_SILENCE_HOURS = 168
_WEEK = 168
_WEEKS = 4
_EQUAL_SCORES = 1e-12
"""Variance of scores up to which it is rounding error."""


def _text(kind: str, amount: str) -> pl.Expr:
    return pl.col(f"{kind}_{amount}")


def _window_sum(value: pl.Expr, hours: int, half_life: float | None = None) -> pl.Expr:
    """Return the sum of the known values of a window of hours; null unless most of its hours are known.

    With weights, even equal ones, polars sums every window separately, so earlier values leave no rounding error.

    Args:
        value: hourly values.
        hours: length of the window, including the current hour.
        half_life: hours after which a value counts half; None: equal weights.
    """
    weights = [1.0 if half_life is None else 0.5 ** (back / half_life) for back in reversed(range(hours))]
    known = value.is_not_null().cast(pl.Float64).rolling_sum(hours) >= min_samples(hours)
    return pl.when(known).then(value.fill_null(0.0).rolling_sum(hours, weights=weights))


def _window_mean(kind: str, amount: str, count: str, hours: int, half_life: float | None = None) -> pl.Expr:
    """Divide the sum of an amount by the sum of a count, both over a window."""
    return over(_window_sum(_text(kind, amount), hours, half_life), _window_sum(_text(kind, count), hours, half_life))


def _mean_score(kind: str) -> pl.Expr:
    return over(_text(kind, "score_sum"), _text(kind, "scored"))


def _decayed(kind: str, half_life: int) -> pl.Expr:
    return _window_mean(kind, "score_sum", "scored", HALF_LIVES * half_life, half_life)


def _dispersion(kind: str, hours: int) -> pl.Expr:
    n, total = _window_sum(_text(kind, "scored"), hours), _window_sum(_text(kind, "score_sum"), hours)
    variance = (_window_sum(_text(kind, "score_squares"), hours) - total * over(total, n)) / (n - 1)
    return pl.when(n > 1).then(pl.when(variance > _EQUAL_SCORES).then(variance.sqrt()).otherwise(0.0))


def _most_extreme(kind: str) -> pl.Expr:
    high, low = _text(kind, "high"), _text(kind, "low")
    return pl.when(high > -low).then(high).otherwise(low)


def _volume_surprise(kind: str) -> pl.Expr:
    count = _text(kind, "count")
    before = [count.shift(_WEEK * week) for week in range(1, _WEEKS + 1)]
    known = pl.sum_horizontal(past.is_not_null() for past in before) >= min_samples(_WEEKS)
    return pl.when(known).then(((1 + count) / (1 + pl.mean_horizontal(before))).log())


def _hours_since(kind: str) -> pl.Expr:
    """Return the hours from the newest text to the end of the hour; null if a newer one may not have been gathered."""
    newest = _text(kind, "last_at").forward_fill()
    unknown = pl.when(_text(kind, "count").is_null()).then(_open_time).forward_fill()
    hours = (_open_time.dt.offset_by("1h") - newest).dt.total_microseconds() / 3_600_000_000
    later = (unknown >= newest).fill_null(True)
    within = (_open_time - unknown < pl.duration(hours=LONGEST_SILENCE_HOURS)).fill_null(False)
    return pl.when(~(later & within)).then(hours.fill_null(LONGEST_SILENCE_HOURS).clip(0, LONGEST_SILENCE_HOURS))


_SENTIMENT = (
    Feature("sentiment_mean", "sentiment", "-1 to 1", "mean score of the hour's articles", 0, _mean_score("article")),
    Feature("sentiment_count", "sentiment", "articles", "articles of the hour", 0, _text("article", "count")),
    Feature(
        "sentiment_change_1h",
        "sentiment",
        "-2 to 2",
        "mean score of the hour's articles less that of the hour before",
        1,
        _mean_score("article") - _mean_score("article").shift(1),
    ),
    Feature(
        "sentiment_extreme",
        "sentiment",
        "-1 to 1",
        "score of the hour's articles that is furthest from zero; of two as far, the negative one",
        0,
        _most_extreme("article"),
    ),
    *(
        Feature(
            f"sentiment_decay_{h}h",
            "sentiment",
            "-1 to 1",
            f"mean score of the articles of {HALF_LIVES * h} h, one of {h} h ago counting half",
            HALF_LIVES * h,
            _decayed("article", h),
        )
        for h in (1, 6, 24)
    ),
    Feature(
        "sentiment_dispersion_24h",
        "sentiment",
        "score",
        "standard deviation of the scores of the articles of 24 h",
        24,
        _dispersion("article", 24),
    ),
    Feature(
        "sentiment_negative_share_24h",
        "sentiment",
        "fraction",
        "share of negative articles among those of 24 h",
        24,
        _window_mean("article", "negative", "scored", 24),
    ),
    Feature(
        "sentiment_outlet_mean_24h",
        "sentiment",
        "-1 to 1",
        "mean score of 24 h in which an outlet counts once an hour, however much it wrote",
        24,
        _window_mean("article", "outlet_sum", "outlets", 24),
    ),
    Feature(
        "sentiment_volatility_regime",
        "sentiment",
        "-1 to 1",
        "sentiment_decay_6h times volatility_regime: what is said in wild hours",
        745,
        _decayed("article", 6) * pl.col("volatility_regime"),
    ),
    Feature(
        "news_count_24h",
        "sentiment",
        "articles",
        "articles of 24 h; null unless every hour of them was gathered",
        24,
        _text("article", "count").rolling_sum(24),
    ),
    Feature(
        "news_novelty_24h",
        "sentiment",
        "fraction",
        "share of the articles of 24 h that are the first of their story; the rest repeat one",
        24,
        _window_mean("article", "first", "count", 24),
    ),
    Feature(
        "news_volume_surprise",
        "sentiment",
        "log ratio",
        f"one more than the articles of the hour over one more than their mean at this hour of the last {_WEEKS} weeks",
        _WEEKS * _WEEK,
        _volume_surprise("article"),
    ),
    Feature(
        "hours_since_news",
        "sentiment",
        "hours",
        f"hours since the newest article, at most {LONGEST_SILENCE_HOURS}",
        LONGEST_SILENCE_HOURS,
        _hours_since("article"),
    ),
)

_SOCIAL = (
    Feature("social_volume", "social", "posts", "posts of the hour, reposts included", 0, _text("post", "count")),
    Feature("social_sentiment", "social", "-1 to 1", "mean score of the hour's posts", 0, _mean_score("post")),
    *(
        Feature(
            f"social_decay_{h}h",
            "social",
            "-1 to 1",
            f"mean score of the posts of {HALF_LIVES * h} h, one of {h} h ago counting half",
            HALF_LIVES * h,
            _decayed("post", h),
        )
        for h in (6, 24)
    ),
    Feature(
        "social_dispersion_24h",
        "social",
        "score",
        "standard deviation of the scores of the posts of 24 h",
        24,
        _dispersion("post", 24),
    ),
    Feature(
        "social_negative_share_24h",
        "social",
        "fraction",
        "share of negative posts among those of 24 h",
        24,
        _window_mean("post", "negative", "scored", 24),
    ),
    Feature(
        "social_originality_24h",
        "social",
        "fraction",
        "share of the posts of 24 h that repeat no other",
        24,
        _window_mean("post", "first", "count", 24),
    ),
    Feature(
        "social_volume_surprise",
        "social",
        "log ratio",
        f"one more than the posts of the hour over one more than their mean at this hour of the last {_WEEKS} weeks",
        _WEEKS * _WEEK,
        _volume_surprise("post"),
    ),
    Feature(
        "hours_since_post",
        "social",
        "hours",
        f"hours since the newest post, at most {LONGEST_SILENCE_HOURS}",
        LONGEST_SILENCE_HOURS,
        _hours_since("post"),
    ),
)

FEATURES: tuple[Feature, ...] = (
    *_PRICE,
    *_FLOW,
    *_REGIME,
    *_TIME,
    *volatility.OF_BARS,
    *(replace(feature, streams=("articles",)) for feature in _SENTIMENT),
    *(replace(feature, streams=("posts",)) for feature in _SOCIAL),
    *intrahour.FEATURES,
    *volatility.OF_QUARTERS,
    *(feature for stream in STREAMS for feature in stream.features),
)
"""Every feature, in column order of `features/hourly_features`; features of `BTC_CONTEXT` streams come last."""
GROUPS = tuple(dict.fromkeys(feature.group for feature in FEATURES))
"""Groups of features, in catalogue order."""
JOINED_GROUPS = tuple(dict.fromkeys(feature.group for feature in FEATURES if feature.streams))
"""Groups of features of other streams than the bars; null where the streams were not gathered."""

_STREAMLINED = (
    "sma_20",
    "rsi",
    "atr",
    "returns_1h",
    "returns_4h",
    "returns_24h",
    "volume_ratio",
    "volatility_regime",
    "sentiment_mean",
    "sentiment_count",
    "sentiment_change_1h",
    "sentiment_extreme",
    "social_volume",
    "social_sentiment",
    "hour_of_day",
)
_COMPREHENSIVE = (
    *_STREAMLINED,
    "returns_72h",
    "return_lag_1",
    "sma_20_distance",
    "ema_10_distance",
    "rsi_6",
    "realised_volatility_24h",
    "range_position_1h",
    "range_position_24h",
    "taker_imbalance_1h",
    "taker_imbalance_24h",
    "vwap_24h_distance",
    "trend_regime",
    "sentiment_decay_6h",
    "sentiment_decay_24h",
    "news_volume_surprise",
)

_BESIDE_EXTENDED = (intrahour.GROUP, volatility.GROUP, volatility.QUARTER_GROUP, "implied_volatility")
_EXTENDED = tuple(feature.name for feature in FEATURES if feature.group not in _BESIDE_EXTENDED)

FEATURE_SETS: dict[str, tuple[str, ...]] = {
    "streamlined": _STREAMLINED,
    "comprehensive": _COMPREHENSIVE,
    "extended": _EXTENDED,
    "intrahour": (*_EXTENDED, *(feature.name for feature in intrahour.QUARTER_SET)),
    "complete": tuple(feature.name for feature in FEATURES),
}
"""Named feature sets that a model can be trained on."""

WARMUP_DAYS = math.ceil((reduce(max, (feature.warmup_hours for feature in FEATURES)) + 2 * GAP_SLACK_HOURS) / 24)
"""Days before a day that its features need, of every stream."""
