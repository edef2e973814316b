"""Declarations of streams, the data from outside, and `Inputs`: their known rows.

One stream is the clock: its rows, one per hour, are the rows of the feature table. The rows of every other stream are
joined to hours. The declaration says for which hour a row counts and when it may be used, so that the engine and the
causality laws are the same for every stream, numbers or texts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl

from btc_assets.clock import HOUR
from btc_assets.schema import UTC_TIME, Contract

if TYPE_CHECKING:
    from btc_assets.settings import Settings
    from btc_assets.transport import Transport

IN_ITS_HOUR = pl.col("available_at").dt.truncate("1h")
"""The hour of a row that names its own `available_at`: the one in which it became available."""
_REACH = timedelta(hours=48)
"""Length of the past that a synthetic future repeats: twice the reach of a bug of a day."""


@dataclass(frozen=True)
class Feature:
    """One declared feature.

    Attributes:
        name: column name.
        group: one of `features.catalog.GROUPS`.
        unit: of the value.
        about: description.
        warmup_hours: hours of earlier rows after which the value no longer depends on their start.
        expression: over the clock's rows in time order; if it reads other streams, over every hour.
        streams: names of the other streams it reads. Such an expression may also use columns and features of the
            clock; it is null where one of the streams was not gathered.
    """

    name: str
    group: str
    unit: str
    about: str
    warmup_hours: int
    expression: pl.Expr
    streams: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one stream.

    Attributes:
        frame: the columns that features and laws read.
        days: UTC days that were gathered, with or without rows; None if the absence of rows has no meaning.
    """

    frame: pl.DataFrame
    days: frozenset[date] | None = None


@dataclass(frozen=True)
class Service:
    """Source of a numeric stream, for the asset that `market.gathering` builds.

    Attributes:
        url: base URL of the live service.
        fetch: requests the rows with `first` <= row < `last` (UTC); may return more rows, and duplicates.
        aliases: names of each column in files, lower case; the first one present is used.
        cron: when the newest rows are fetched, a cron expression in UTC.
        kinds: kinds of the asset in Dagster.
    """

    url: str
    fetch: Callable[[Transport, datetime, datetime], pl.DataFrame]
    aliases: Mapping[str, tuple[str, ...]]
    cron: str = "50 * * * *"
    kinds: frozenset[str] = frozenset({"polars", "parquet"})


@dataclass(frozen=True, eq=False)
class Stream:
    """One kind of data from outside.

    Attributes:
        name: name in features and settings.
        about: description, for its asset.
        tables: contract of its table, then the contracts of derived tables that are read with it.
        rows: function from LazyFrames of `tables` to the columns that features and laws read.
        available_at: when a row may first be used, UTC.
        hour: open_time of the hour for which a row counts; the row is available by the close of that hour.
        join: function from rows and all hours of a span to one row per hour: open_time and its own columns.
        futures: function to rows with other futures after a moment, by name, for the law of poisoning.
        synthetic: function from hours and a seed to synthetic rows without signal, for the laws.
        stressed: function that adds gaps and unknown values to rows, for the laws.
        cadence: usual time from one row to the next.
        warn_after, fail_after: age of the newest materialisation from which it is a warning, or an error.
        lookback: time after its own hour for which a row still counts.
        critical_moments: function to the moments, from a given one on, at which a join is likely to look ahead.
        gathered: function from stored days and rows to the gathered days; None as in `Rows.days`.
        features: its features, if the catalogue does not declare them.
        service: source of its asset; None if its domain has its own asset.
        is_gathered: whether a deployment's settings name somewhere to get it from.
        followed_as: what its newest rows are called in the name of the sensor that follows them; its name unless given.
        is_clock: whether its rows are the rows of the feature table.
        with_the_clock: whether the run of the hourly forecast fetches it too, without waiting for it.
    """

    name: str
    about: str
    tables: tuple[Contract, ...]
    rows: Callable[..., pl.DataFrame]
    available_at: pl.Expr
    hour: pl.Expr
    join: Callable[[Rows, pl.Series], pl.DataFrame]
    futures: Callable[[Rows, pl.Expr, datetime], dict[str, Rows]]
    synthetic: Callable[[pl.Series, int], Rows]
    cadence: timedelta
    warn_after: timedelta
    fail_after: timedelta
    lookback: timedelta = timedelta(0)
    stressed: Callable[[pl.DataFrame], pl.DataFrame] = field(default=lambda frame: frame)
    critical_moments: Callable[[Rows, datetime], list[datetime]] = field(default=lambda _rows, _since: [])
    gathered: Callable[[Collection[date], pl.DataFrame], frozenset[date]] | None = None
    features: tuple[Feature, ...] = ()
    service: Service | None = None
    is_gathered: Callable[[Settings], bool] = field(default=lambda _settings: True)
    followed_as: str = ""
    is_clock: bool = False
    with_the_clock: bool = False

    @property
    def contract(self) -> Contract:
        """Contract of the stream's own table."""
        return self.tables[0]

    @property
    def derived(self) -> tuple[Contract, ...]:
        """Contracts of the tables derived from its own, which features read too."""
        return self.tables[1:]

    @property
    def followed(self) -> Contract:
        """Contract of the table whose changes reach the features: the stream's own or the last derived table."""
        return self.tables[-1]


@dataclass(frozen=True, eq=False)
class Inputs:
    """Known rows of each stream; a stream that was not gathered is absent.

    Attributes:
        rows: rows by stream, including the clock.
    """

    rows: Mapping[Stream, Rows]

    def __contains__(self, name: str) -> bool:
        """Return whether a stream was gathered."""
        return any(stream.name == name for stream in self.rows)

    @property
    def clock(self) -> pl.DataFrame:
        """The clock's rows in time order, one per hour, with gaps."""
        return self.rows[self._clock].frame

    @property
    def _clock(self) -> Stream:
        return next(stream for stream in self.rows if stream.is_clock)

    def joined(self, names: Collection[str], hours: pl.Series) -> pl.DataFrame:
        """Return every hour with the joined columns of some streams.

        Args:
            names: names of the streams.
            hours: open_times, one per hour, UTC.
        """
        frames = [stream.join(rows, hours).drop("open_time") for stream, rows in self.rows.items()
                  if stream.name in names]  # fmt: skip
        return pl.concat([pl.DataFrame({"open_time": hours}, schema={"open_time": UTC_TIME}), *frames],
                         how="horizontal")  # fmt: skip

    def with_clock(self, frame: pl.DataFrame) -> Self:
        """Return the same inputs with other rows of the clock."""
        return replace(self, rows={**self.rows, self._clock: Rows(frame)})

    def until(self, moment: datetime) -> Self:
        """Return the rows available at a moment, and the days that had begun by then."""
        return self._where(lambda stream: stream.available_at <= moment, lambda day: day <= moment.date())

    def between(self, first: datetime, last: datetime) -> Self:
        """Return the rows that count for the hours with first <= open_time < last, and the days of that span."""
        newest = (last - timedelta(microseconds=1)).date()
        return self._where(
            lambda stream: (stream.hour >= first) & (stream.hour < last), lambda day: first.date() <= day <= newest
        )

    def poisoned(self, moment: datetime) -> dict[str, Self]:
        """Return inputs with another future after a moment, by name; rows available at the moment stay.

        The futures of all streams change together: the first kind of each stream, then the second, then the third.
        """
        futures = [
            [(name, stream, rows) for name, rows in stream.futures(rows, stream.available_at, moment).items()]
            for stream, rows in self.rows.items()
        ]
        variants = {}
        for kinds in zip(*futures, strict=True):
            name = ", ".join(dict.fromkeys(name for name, _, _ in kinds))
            variants[name] = replace(self, rows={stream: rows for _, stream, rows in kinds})
        return variants

    def stressed(self) -> Self:
        """Return the same inputs with gaps and unknown values."""
        rows = {stream: replace(rows, frame=stream.stressed(rows.frame)) for stream, rows in self.rows.items()}
        return replace(self, rows=rows)

    def _where(self, kept: Callable[[Stream], pl.Expr], day: Callable[[date], bool]) -> Self:
        return replace(
            self,
            rows={
                stream: Rows(
                    rows.frame.filter(kept(stream)),
                    None if rows.days is None else frozenset(filter(day, rows.days)),
                )
                for stream, rows in self.rows.items()
            },
        )


def every_hour(clock: pl.DataFrame) -> pl.Series:
    """Return each hour from the clock's first row to its last, with or without a row.

    Args:
        clock: rows with `open_time`, in time order.
    """
    if clock.is_empty():
        return pl.Series("open_time", [], dtype=UTC_TIME)
    first, last = clock["open_time"][0], clock["open_time"][-1]
    return pl.datetime_range(first, last, "1h", time_unit="us", eager=True).alias("open_time")


# --- numeric streams -----------------------------------------------------------------------------
def same_columns(columns: Sequence[str]) -> Callable[[pl.LazyFrame], pl.DataFrame]:
    """Return a reader of some columns of a table, sorted by the first column."""
    return lambda table: table.select(columns).sort(columns[0]).collect()


def latest(hour: pl.Expr, columns: Mapping[str, str], lookback: timedelta) -> Callable[[Rows, pl.Series], pl.DataFrame]:
    """Return a join that gives each hour the newest row that counts for it or an earlier hour.

    Args:
        hour: the hour for which a row counts.
        columns: name of each column in the rows, and in the result.
        lookback: how much earlier the row may be; otherwise the values are unknown.
    """

    def join(rows: Rows, hours: pl.Series) -> pl.DataFrame:
        known = rows.frame.select(hour.alias("open_time"), *(pl.col(old).alias(new) for old, new in columns.items()))
        known = known.sort("open_time", maintain_order=True).unique("open_time", keep="last", maintain_order=True)
        frame = pl.DataFrame({"open_time": hours}, schema={"open_time": UTC_TIME})
        return frame.join_asof(known, on="open_time", strategy="backward", tolerance=lookback)

    return join


def numbers_poisoned(
    frame: pl.DataFrame, future: pl.Expr, *, seed: int = 3, unchanged: Collection[str] = ()
) -> dict[str, pl.DataFrame]:
    """Return frames whose future values are unknown, multiplied by a million, or shuffled, by name.

    Args:
        frame: rows in time order.
        future: selects the rows of the future.
        seed: random seed of the shuffle.
        unchanged: numeric columns that stay, such as the length of a bar.
    """
    values = [name for name, dtype in frame.schema.items() if dtype.is_numeric() and name not in unchanged]
    floats = [name for name in values if frame.schema[name].is_float()]
    past, later = frame.filter(~future), frame.filter(future)
    order = np.random.default_rng(seed).permutation(later.height)
    return {
        "unknown": frame.with_columns(
            *(pl.when(future).then(float("nan")).otherwise(pl.col(name)).alias(name) for name in floats),
            *(pl.when(~future).then(pl.col(name)).alias(name) for name in values if name not in floats),
        ),
        "x1e6": frame.with_columns(
            pl.when(future).then(pl.col(name) * 1_000_000).otherwise(pl.col(name)).alias(name) for name in values
        ),
        "shuffled": pl.concat([past, later.with_columns(later[name][order] for name in values)]),
    }


def number_futures(
    rows: Rows, available_at: pl.Expr, moment: datetime, *, unchanged: Collection[str] = ()
) -> dict[str, Rows]:
    """Return a numeric stream with other futures after a moment, by name; a missing future is synthesised.

    Args:
        rows: rows in time order.
        available_at: when each row may be used.
        moment: rows available after it change, UTC.
        unchanged: numeric columns that stay.
    """
    frame, future = rows.frame, available_at > moment
    if not frame.select(future.any()).item():
        recent = frame.filter(available_at > moment - _REACH)
        times = [name for name, dtype in frame.schema.items() if dtype.is_temporal()]
        frame = pl.concat([frame, recent.with_columns((pl.col(name) + _REACH).cast(frame.schema[name])
                                                      for name in times)])  # fmt: skip
    poisoned_frames = numbers_poisoned(frame, future, unchanged=unchanged)
    return {name: Rows(poisoned, rows.days) for name, poisoned in poisoned_frames.items()}


def random_numbers(contract: Contract, cadence: timedelta, columns: Sequence[str]) -> Callable[[pl.Series, int], Rows]:
    """Return a function to synthetic rows of a numeric stream: random walks independent of the clock, with a gap.

    Args:
        contract: contract of the table; its first key column is the time of a row.
        cadence: time from one row to the next.
        columns: columns of the table that features read, the time first.
    """

    def synthetic(hours: pl.Series, seed: int) -> Rows:
        rng = np.random.default_rng(seed)
        time = columns[0]
        steps = int((hours[-1] - hours[0]) / cadence) + 2
        start = hours[0].replace(hour=0) - cadence
        times = pl.Series(time, [start + n * cadence for n in range(steps + 24)], UTC_TIME)
        values = {
            name: np.exp(rng.normal(0, 0.05, len(times)).cumsum())
            for name in columns[1:]
            if contract.columns[name].is_numeric()
        }
        frame = pl.DataFrame({time: times.cast(contract.columns[time]), **values})
        gap = pl.int_range(pl.len()).is_between(int(0.8 * steps), int(0.8 * steps) + max(1, int(30 * HOUR / cadence)))
        return Rows(frame.filter(~gap & (pl.lit(times) <= hours[-1] + cadence)))

    return synthetic


def around_the_widest_gap(available_at: pl.Expr) -> Callable[[Rows, datetime], list[datetime]]:
    """Return a function to the moments at which a join is likely to look ahead: end of the widest gap, newest row."""

    def critical_moments(rows: Rows, since: datetime) -> list[datetime]:
        at = rows.frame.select(available_at.alias("at")).filter(pl.col("at") > since).to_series().sort()
        if at.len() < 2:
            return at.to_list()
        return [at[int(at.diff().arg_max() or 0)], at[-1]]

    return critical_moments


def numbers(
    *,
    name: str,
    about: str,
    contract: Contract,
    available_at: pl.Expr,
    cadence: timedelta,
    lookback: timedelta,
    columns: Mapping[str, str],
    features: tuple[Feature, ...],
    service: Service,
    **others: Any,
) -> Stream:
    """Declare a numeric stream whose newest row is joined to each hour.

    A row counts for the hour in which it becomes available, like a text: a row published at a full hour is used when
    the hour that begins then has closed. This leaves an hour to fetch it, so that a live forecast and a replay use the
    same rows.

    Args:
        name: name in features and settings.
        about: what it is.
        contract: contract of its table; its first key column is the time of a row.
        available_at: when a row may first be used, UTC.
        cadence: usual time from one row to the next.
        lookback: time for which a row counts for later hours.
        columns: name of each column in the table, and in the joined hours.
        features: its features.
        service: its source.
        others: further attributes of `Stream`.
    """
    hour = available_at.dt.truncate("1h")
    row_columns = (contract.key[0], *(column for column in columns if column != contract.key[0]))
    return Stream(
        name=name,
        about=about,
        tables=(contract,),
        rows=same_columns(row_columns),
        available_at=available_at,
        hour=hour,
        join=latest(hour, columns, lookback),
        futures=number_futures,
        synthetic=random_numbers(contract, cadence, row_columns),
        cadence=cadence,
        warn_after=max(2 * cadence, timedelta(hours=3)),
        fail_after=max(4 * cadence, timedelta(hours=6)),
        lookback=lookback,
        critical_moments=around_the_widest_gap(available_at),
        features=features,
        service=service,
        **others,
    )
