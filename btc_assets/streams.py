"""Streams: everything that comes from outside, each declared once, and `Inputs`: what is known of them.

One stream is the clock: its rows, one an hour, are the rows of the feature table. The rows of every other stream
join an hour; which hour a row counts for, and when it may be used, is part of the declaration, so that the engine
and the causality laws are written once and hold for every stream, numbers or texts.
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
"""How much of the past a made-up future repeats: twice the longest span a bug of a day would reach for."""


@dataclass(frozen=True)
class Feature:
    """One declared feature.

    Attributes:
        name: column name.
        group: what it is about, see `features.catalog.GROUPS`.
        unit: of the value.
        about: a sentence that says what it is.
        warmup_hours: hours of earlier rows after which the value no longer depends on where they start.
        expression: over the clock's rows in time order; where it reads other streams, over every hour.
        streams: names of the other streams it reads. Such an expression may also name columns of the clock and
            features of the clock alone; it is null where one of the streams was not gathered.
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
        days: UTC days that were gathered, also where they gave no row; None where silence says nothing.
    """

    frame: pl.DataFrame
    days: frozenset[date] | None = None


@dataclass(frozen=True)
class Service:
    """Where a stream of numbers comes from, for the asset that `market.gathering` builds.

    Attributes:
        url: base URL of the live service.
        fetch: asks it for the rows with `first` <= row < `last` (UTC); may give more, and rows twice.
        aliases: names each column goes by in files, lower case, the first one present is taken.
        cron: when the newest rows are fetched, a cron expression in UTC.
        kinds: shown on the asset.
    """

    url: str
    fetch: Callable[[Transport, datetime, datetime], pl.DataFrame]
    aliases: Mapping[str, tuple[str, ...]]
    cron: str = "50 * * * *"
    kinds: frozenset[str] = frozenset({"polars", "parquet"})


@dataclass(frozen=True, eq=False)
class Stream:
    """One thing that comes from outside.

    Attributes:
        name: what features call it.
        about: what it is, for the description of its asset.
        tables: contract of its table, then those of tables derived from it that are read beside it.
        rows: LazyFrames of `tables` to the columns that features and laws read.
        available_at: when a row may first be used, UTC.
        hour: open_time of the hour a row counts for; never later known than that hour's close.
        join: rows and every hour of a span to one row an hour: open_time and columns of its own; the clock needs none.
        futures: other futures after a moment, by name: what the laws of poisoning try.
        made_up: rows for a span of hours and a seed, for laws that need data with no signal.
        roughened: the same rows with holes and unknown values, for laws that must hold across them.
        cadence: usual time from one row to the next.
        warn_after, fail_after: age of the newest materialisation that is a warning, and an error.
        lookback: how long a row may count for hours after its own.
        tempting: moments from a given one on at which a join is likely to look ahead.
        gathered: stored days and rows to the days that were gathered; None where silence says nothing.
        features: what is made of it, where the catalogue does not declare that itself.
        service: where its asset gets it; None where its domain has an asset of its own.
        is_gathered: whether a deployment's settings name somewhere to get it from.
        followed_as: what its newest rows are called in the name of the sensor that follows them; its name unless given.
        is_clock: whether its rows are the rows of the feature table.
    """

    name: str
    about: str
    tables: tuple[Contract, ...]
    rows: Callable[..., pl.DataFrame]
    available_at: pl.Expr
    hour: pl.Expr
    join: Callable[[Rows, pl.Series], pl.DataFrame]
    futures: Callable[[Rows, pl.Expr, datetime], dict[str, Rows]]
    made_up: Callable[[pl.Series, int], Rows]
    cadence: timedelta
    warn_after: timedelta
    fail_after: timedelta
    lookback: timedelta = timedelta(0)
    roughened: Callable[[pl.DataFrame], pl.DataFrame] = field(default=lambda frame: frame)
    tempting: Callable[[Rows, datetime], list[datetime]] = field(default=lambda _rows, _since: [])
    gathered: Callable[[Collection[date], pl.DataFrame], frozenset[date]] | None = None
    features: tuple[Feature, ...] = ()
    service: Service | None = None
    is_gathered: Callable[[Settings], bool] = field(default=lambda _settings: True)
    followed_as: str = ""
    is_clock: bool = False

    @property
    def contract(self) -> Contract:
        """Contract of its own table."""
        return self.tables[0]

    @property
    def derived(self) -> tuple[Contract, ...]:
        """Tables made from its own, which features read beside it."""
        return self.tables[1:]

    @property
    def followed(self) -> Contract:
        """The table whose change reaches the features: the stream's own, or the last one derived from it."""
        return self.tables[-1]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What is known of each stream; a stream that was not gathered is absent.

    Attributes:
        rows: of each stream, the clock among them.
    """

    rows: Mapping[Stream, Rows]

    def __contains__(self, name: str) -> bool:
        """Return whether a stream was gathered."""
        return any(stream.name == name for stream in self.rows)

    @property
    def clock(self) -> pl.DataFrame:
        """The clock's rows in time order, one an hour, gaps left as gaps."""
        return self.rows[self._clock].frame

    @property
    def _clock(self) -> Stream:
        return next(stream for stream in self.rows if stream.is_clock)

    def joined(self, names: Collection[str], hours: pl.Series) -> pl.DataFrame:
        """Return every hour with what some of the streams say of it.

        Args:
            names: of the streams.
            hours: open_times, one an hour, UTC.
        """
        frames = [stream.join(rows, hours).drop("open_time") for stream, rows in self.rows.items()
                  if stream.name in names]  # fmt: skip
        return pl.concat([pl.DataFrame({"open_time": hours}, schema={"open_time": UTC_TIME}), *frames],
                         how="horizontal")  # fmt: skip

    def with_clock(self, frame: pl.DataFrame) -> Self:
        """Return the same with other rows of the clock."""
        return replace(self, rows={**self.rows, self._clock: Rows(frame)})

    def until(self, moment: datetime) -> Self:
        """Return what was available at a moment, and the days that had begun by then."""
        return self._where(lambda stream: stream.available_at <= moment, lambda day: day <= moment.date())

    def between(self, first: datetime, last: datetime) -> Self:
        """Return the rows that count for the hours with first <= open_time < last, and the days that span touches."""
        newest = (last - timedelta(microseconds=1)).date()
        return self._where(
            lambda stream: (stream.hour >= first) & (stream.hour < last), lambda day: first.date() <= day <= newest
        )

    def poisoned(self, moment: datetime) -> dict[str, Self]:
        """Return the same with another future after a moment, by name; what was available at the moment stays.

        Every stream's future changes at once: its first kind of future, its second, its third.
        """
        futures = [
            [(name, stream, rows) for name, rows in stream.futures(rows, stream.available_at, moment).items()]
            for stream, rows in self.rows.items()
        ]
        made = {}
        for kinds in zip(*futures, strict=True):
            name = ", ".join(dict.fromkeys(name for name, _, _ in kinds))
            made[name] = replace(self, rows={stream: rows for _, stream, rows in kinds})
        return made

    def roughened(self) -> Self:
        """Return the same with holes and unknown values where a stream declares some."""
        rows = {stream: replace(rows, frame=stream.roughened(rows.frame)) for stream, rows in self.rows.items()}
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
    """Return each hour from the clock's first row to its last, those without a row included.

    Args:
        clock: rows with `open_time`, in time order.
    """
    if clock.is_empty():
        return pl.Series("open_time", [], dtype=UTC_TIME)
    first, last = clock["open_time"][0], clock["open_time"][-1]
    return pl.datetime_range(first, last, "1h", time_unit="us", eager=True).alias("open_time")


# --- streams of numbers --------------------------------------------------------------------------
def same_columns(columns: Sequence[str]) -> Callable[[pl.LazyFrame], pl.DataFrame]:
    """Return how to read a table as it is stored: some of its columns, in the order of the first."""
    return lambda table: table.select(columns).sort(columns[0]).collect()


def latest(hour: pl.Expr, columns: Mapping[str, str], lookback: timedelta) -> Callable[[Rows, pl.Series], pl.DataFrame]:
    """Return a join by which an hour has the newest row that counts for it or for an earlier hour.

    Args:
        hour: the hour a row counts for.
        columns: of the rows, and what each is called beside an hour.
        lookback: how much earlier that row may be; older ones are unknown.
    """

    def join(rows: Rows, hours: pl.Series) -> pl.DataFrame:
        known = rows.frame.select(hour.alias("open_time"), *(pl.col(old).alias(new) for old, new in columns.items()))
        known = known.sort("open_time", maintain_order=True).unique("open_time", keep="last", maintain_order=True)
        frame = pl.DataFrame({"open_time": hours}, schema={"open_time": UTC_TIME})
        return frame.join_asof(known, on="open_time", strategy="backward", tolerance=lookback)

    return join


def numbers_poisoned(frame: pl.DataFrame, future: pl.Expr, *, seed: int = 3) -> dict[str, pl.DataFrame]:
    """Return a frame with the numbers of its future made unknown, a million times larger, and shuffled, by name.

    Args:
        frame: in time order.
        future: which rows are the future.
        seed: of the shuffle.
    """
    values = [name for name, dtype in frame.schema.items() if dtype.is_numeric()]
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


def number_futures(rows: Rows, available_at: pl.Expr, moment: datetime) -> dict[str, Rows]:
    """Return a stream of numbers with other futures after a moment, by name; one is made up where none is there.

    Args:
        rows: in time order.
        available_at: when each may be used.
        moment: after which they may change, UTC.
    """
    frame, future = rows.frame, available_at > moment
    if not frame.select(future.any()).item():
        recent = frame.filter(available_at > moment - _REACH)
        times = [name for name, dtype in frame.schema.items() if dtype.is_temporal()]
        frame = pl.concat([frame, recent.with_columns((pl.col(name) + _REACH).cast(frame.schema[name])
                                                      for name in times)])  # fmt: skip
    return {name: Rows(poisoned, rows.days) for name, poisoned in numbers_poisoned(frame, future).items()}


def random_numbers(contract: Contract, cadence: timedelta, columns: Sequence[str]) -> Callable[[pl.Series, int], Rows]:
    """Return how to make up rows of a stream of numbers: random walks that know nothing of the clock, a hole in them.

    Args:
        contract: of the table; its first key column is the time of a row.
        cadence: time from one row to the next.
        columns: of the table that features read, the time first.
    """

    def made_up(hours: pl.Series, seed: int) -> Rows:
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
        hole = pl.int_range(pl.len()).is_between(int(0.8 * steps), int(0.8 * steps) + max(1, int(30 * HOUR / cadence)))
        return Rows(frame.filter(~hole & (pl.lit(times) <= hours[-1] + cadence)))

    return made_up


def after_the_widest_gap(available_at: pl.Expr) -> Callable[[Rows, datetime], list[datetime]]:
    """Return what finds the moments a join of numbers is tempted at: the end of the longest silence, the newest row."""

    def tempting(rows: Rows, since: datetime) -> list[datetime]:
        at = rows.frame.select(available_at.alias("at")).filter(pl.col("at") > since).to_series().sort()
        if at.len() < 2:
            return at.to_list()
        return [at[int(at.diff().arg_max() or 0)], at[-1]]

    return tempting


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
    """Declare a stream of numbers that join an hour by their newest row.

    A row counts for the hour in which it becomes available, as a text does: what a service publishes on the stroke of
    an hour is used when the hour that begins there has closed. So there is an hour to fetch it in, and a live forecast
    reads what a replay reads.

    Args:
        name: what features call it.
        about: what it is.
        contract: of its table; its first key column is the time of a row.
        available_at: when a row may first be used, UTC.
        cadence: usual time from one row to the next.
        lookback: how long a row counts for later hours.
        columns: of the table that features read, and what each is called beside an hour.
        features: made of it.
        service: where it comes from.
        others: further attributes of `Stream`.
    """
    hour = available_at.dt.truncate("1h")
    read = (contract.key[0], *(column for column in columns if column != contract.key[0]))
    return Stream(
        name=name,
        about=about,
        tables=(contract,),
        rows=same_columns(read),
        available_at=available_at,
        hour=hour,
        join=latest(hour, columns, lookback),
        futures=number_futures,
        made_up=random_numbers(contract, cadence, read),
        cadence=cadence,
        warn_after=max(2 * cadence, timedelta(hours=3)),
        fail_after=max(4 * cadence, timedelta(hours=6)),
        lookback=lookback,
        tempting=after_the_widest_gap(available_at),
        features=features,
        service=service,
        **others,
    )
