"""Features inside the hour, from its four 15-minute bars: the group `intrahour`.

Every window ends with the hour, so its first quarter is one of the four of some hour: the expressions run over hours
that have their quarters side by side (`market.quarter_grid`), and a window of n minutes is whole hours plus the last
quarters of one. A value is null if a quarter of its window is missing; the scales and past means, which describe many
hours, need most of theirs. Returns and distances are in units of sigma_n = rv24 * sqrt(n / 60), where rv24 is the root
of the mean realised variance of an hour over the last 24 h.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import polars as pl

from btc_assets.features.expressions import min_samples, over
from btc_assets.market.quarter_grid import QUARTERS, RETURN, VALUES, column
from btc_assets.streams import Feature

GROUP = "intrahour"
_STREAMS = ("quarter_bars",)
_HOUR, _DAY = 60, 1440
"""Minutes."""
_MINUTES = _HOUR // len(QUARTERS)
_SLOPE_HOURS = 168
_FUNDING_HOURS = 8

_SIGMAS, _RATIO, _SIGNED = "standard deviations", "ratio", "-1 to 1"

Quarterly = Callable[[int], pl.Expr]
"""Function from the number of a quarter to its value in the hour."""


def _of(value: str) -> Quarterly:
    return lambda quarter: pl.col(column(quarter, value))


_high, _low, _close, _volume, _quote, _trades, _taker, _return = map(_of, (*VALUES, RETURN))
_last = _close(QUARTERS[-1])


def _flow(quarter: int) -> pl.Expr:
    """Return taker buys less taker sells."""
    return 2 * _taker(quarter) - _volume(quarter)


def _inside(values: Quarterly, minutes: int) -> list[pl.Expr]:
    """Return the values of the last quarters of the hour."""
    return [values(quarter) for quarter in QUARTERS[-(minutes // _MINUTES) :]]


def _sum(values: Quarterly, minutes: int) -> pl.Expr:
    """Return the sum over the last minutes, whole hours and quarters before them; null unless every one is known."""
    hours, rest = divmod(minutes, _HOUR)
    parts = []
    if hours:
        whole = pl.sum_horizontal(_inside(values, _HOUR), ignore_nulls=False)
        parts.append(whole.rolling_sum(hours) if hours > 1 else whole)
    if rest:
        parts.append(pl.sum_horizontal(_inside(values, rest), ignore_nulls=False).shift(hours))
    return pl.sum_horizontal(parts, ignore_nulls=False) if len(parts) > 1 else parts[0]


def _log_return(minutes: int) -> pl.Expr:
    return _sum(_return, minutes)


def _power(exponent: int) -> Quarterly:
    return lambda quarter: _return(quarter).pow(exponent)


_rv24 = _sum(_power(2), _HOUR).rolling_mean(24, min_samples=min_samples(24)).sqrt()


def _sigma(minutes: int) -> pl.Expr:
    return _rv24 * math.sqrt(minutes / _HOUR)


def _imbalance(minutes: int) -> pl.Expr:
    return over(_sum(_flow, minutes), _sum(_volume, minutes))


def _of_day(value: pl.Expr, minutes: int) -> pl.Expr:
    """Divide an amount of some minutes by the volume of as many minutes at the rate of the last 24 h."""
    return over(value * (_DAY / minutes), _sum(_volume, _DAY))


def _trade_size(minutes: int) -> pl.Expr:
    return over(_sum(_volume, minutes), _sum(_trades, minutes))


def _vwap_distance(minutes: int) -> pl.Expr:
    return over((_last * over(_sum(_volume, minutes), _sum(_quote, minutes))).log(), _sigma(minutes))


def _range_position(minutes: int) -> pl.Expr:
    high, low = pl.max_horizontal(_inside(_high, minutes)), pl.min_horizontal(_inside(_low, minutes))
    return pl.when(_sum(_close, minutes).is_not_null()).then(over(_last - low, high - low))


def _path(quarter: int) -> pl.Expr:
    return _return(quarter).abs()


def _past_mean(days: int) -> pl.Expr:
    """Return the mean log return of the clock hour that starts when the hour closes, on the days before."""
    yesterday = _log_return(_HOUR).shift(23)
    if days == 1:
        return over(yesterday, _rv24)
    window = 24 * (days - 1) + 1
    same_hour = [float(row % 24 == 0) for row in range(window)]
    known = yesterday.is_not_null().cast(pl.Float64).rolling_sum(window, weights=same_hour)
    total = yesterday.fill_null(0.0).rolling_sum(window, weights=same_hour)
    return pl.when(known >= min_samples(days)).then(over(total, known * _rv24))


def _signed_square(quarter: int) -> pl.Expr:
    return _return(quarter) * _return(quarter).abs()


def _skewness(minutes: int) -> pl.Expr:
    cubes, squares = _sum(_power(3), minutes), _sum(_power(2), minutes)
    return over(math.sqrt(minutes / _MINUTES) * cubes, squares.sqrt().pow(3))


def _minutes_since(values: Quarterly, *, highest: bool) -> pl.Expr:
    """Return the minutes from the close of the newest quarter with the hour's extreme to the hour's close."""
    best = pl.max_horizontal(_inside(values, _HOUR)) if highest else pl.min_horizontal(_inside(values, _HOUR))
    minutes = pl.coalesce(
        pl.when(values(quarter) == best).then(_MINUTES * (QUARTERS[-1] - quarter)) for quarter in reversed(QUARTERS)
    )
    return pl.when(_sum(values, _HOUR).is_not_null()).then(minutes)


def _slope() -> pl.Expr:
    """Return the slope of quarter returns on taker flow (Kyle, 1985) over the hours before this one, log fraction."""

    def past(values: Quarterly) -> pl.Expr:
        known = _sum(values, _HOUR).shift(1)
        return known.rolling_mean(_SLOPE_HOURS, min_samples=min_samples(_SLOPE_HOURS))

    return over(past(lambda quarter: _return(quarter) * _flow(quarter)), past(lambda quarter: _flow(quarter).pow(2)))


def _flow_residual(minutes: int) -> pl.Expr:
    return over(_log_return(minutes) - _slope() * _sum(_flow, minutes), _sigma(minutes))


def _warmup(minutes: int) -> int:
    """Return the hours of a window and of the close before it, less the hour itself."""
    return max(1, minutes // _HOUR)


def _feature(name: str, unit: str, about: str, warmup_hours: int, expression: pl.Expr) -> Feature:
    return Feature(name, GROUP, unit, about, warmup_hours, expression, _STREAMS)


_SCALE_HOURS = 24
"""Hours before the hour itself that rv24 reads."""

QUARTER_SET: tuple[Feature, ...] = (
    *(
        _feature(
            f"quarter_return_{n}m",
            _SIGMAS,
            f"log return over the last {n} min over sigma_{n}",
            _SCALE_HOURS,
            over(_log_return(n), _sigma(n)),
        )
        for n in (15, 30, 45, 60, 90, 120, 180, 240, 480, 720, 1440)
    ),
    *(
        _feature(f"quarter_log_return_{n}m", "log fraction", f"log return over the last {n} min", 0, _log_return(n))
        for n in (15, 30)
    ),
    *(
        _feature(
            f"quarter_imbalance_{n}m",
            _SIGNED,
            f"taker buys less taker sells over volume, last {n} min",
            _warmup(n) - 1,
            _imbalance(n),
        )
        for n in (15, 30, 60, 120, 240, 480, 1440)
    ),
    *(
        _feature(
            f"quarter_imbalance_lag_{k}",
            _SIGNED,
            f"taker buys less taker sells over volume, quarter that closed {_MINUTES * k} min before the hour",
            0,
            over(_flow(QUARTERS[-1] - k), _volume(QUARTERS[-1] - k)),
        )
        for k in (1, 2, 3)
    ),
    *(
        _feature(
            f"quarter_volume_rate_{n}m",
            _RATIO,
            f"volume a minute of the last {n} min over that of 24 h",
            _SCALE_HOURS - 1,
            _of_day(_sum(_volume, n), n),
        )
        for n in (15, 30, 60, 240)
    ),
    *(
        _feature(
            f"quarter_signed_flow_{n}m",
            _RATIO,
            f"taker buys less taker sells a minute of the last {n} min over the volume a minute of 24 h",
            _SCALE_HOURS - 1,
            _of_day(_sum(_flow, n), n),
        )
        for n in (15, 60)
    ),
    *(
        _feature(
            f"quarter_trade_size_{n}m",
            _RATIO,
            f"mean trade size of the last {n} min over that of 24 h",
            _SCALE_HOURS - 1,
            over(_trade_size(n), _trade_size(_DAY)),
        )
        for n in (15, 60)
    ),
    *(
        _feature(
            f"quarter_vwap_distance_{n}m",
            _SIGMAS,
            f"log of close over the volume-weighted price of the last {n} min, over sigma_{n}",
            _SCALE_HOURS,
            _vwap_distance(n),
        )
        for n in (15, 30, 60, 120, 240, 480, 1440)
    ),
    *(
        _feature(
            f"quarter_range_position_{n}m",
            "fraction",
            f"close within the range of the last {n} min",
            0,
            _range_position(n),
        )
        for n in (15, 30)
    ),
    _feature(
        "quarter_path_efficiency_240m",
        _SIGNED,
        "log return over the last 240 min over the sum of the absolute returns of its quarters",
        4,
        over(_log_return(240), _sum(_path, 240)),
    ),
    *(
        _feature(
            f"coming_hour_return_{days}d",
            _SIGMAS,
            f"mean return of the clock hour about to start, of the last {days} d, over rv24",
            24 * days,
            _past_mean(days),
        )
        for days in (1, 7, 28)
    ),
    *(
        _feature(f"price_modulo_{n}", "fraction", f"close modulo {n} USD, over {n}", 0, _last % n / n)
        for n in (500, 1000)
    ),
    _feature(
        "minutes_to_funding",
        "minutes",
        f"minutes from the close of the hour to the next funding of a perpetual future, every {_FUNDING_HOURS} h",
        0,
        pl.lit(_HOUR) * (_FUNDING_HOURS - (pl.col("open_time").dt.hour().cast(pl.Int64) + 1) % _FUNDING_HOURS),
    ),
)
"""The 15-minute set. The hour of the day and the weekday, which belong to it too, are features of the group `time`."""

TREE_EXTRAS: tuple[Feature, ...] = (
    *(
        _feature(
            f"quarter_semivariance_{n}m",
            _SIGNED,
            f"squared rising less squared falling quarter returns over all, last {n} min "
            "(signed jump variation; Patton and Sheppard, 2015)",
            _warmup(n),
            over(_sum(_signed_square, n), _sum(_power(2), n)),
        )
        for n in (60, 1440)
    ),
    _feature(
        "quarter_skewness_1440m",
        "skewness",
        "realised skewness of the quarter returns of 24 h (Amaya et al., 2015)",
        24,
        _skewness(_DAY),
    ),
    _feature(
        "minutes_since_high",
        "minutes",
        "minutes since the quarter with the hour's high closed",
        0,
        _minutes_since(_high, highest=True),
    ),
    _feature(
        "minutes_since_low",
        "minutes",
        "minutes since the quarter with the hour's low closed",
        0,
        _minutes_since(_low, highest=False),
    ),
    *(
        _feature(
            f"quarter_flow_residual_{n}m",
            _SIGMAS,
            f"log return over the last {n} min less what its taker flow explains by the slope of the {_SLOPE_HOURS} h "
            f"before the hour, over sigma_{n}",
            _SLOPE_HOURS + 1,
            _flow_residual(n),
        )
        for n in (15, 60)
    ),
)
"""What trees may add to the 15-minute set."""

FEATURES = (*QUARTER_SET, *TREE_EXTRAS)
"""The group."""
