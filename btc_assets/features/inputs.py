"""The streams of this deployment, and `Inputs` from their stored tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import date

import numpy as np
import polars as pl

from btc_assets.lake import Reader
from btc_assets.market.streams import STREAMS as MARKET_STREAMS
from btc_assets.news.streams import STREAMS as NEWS_STREAMS
from btc_assets.schema import Contract
from btc_assets.streams import Inputs, Rows, Stream

STREAMS: tuple[Stream, ...] = (*MARKET_STREAMS, *NEWS_STREAMS)
"""Every enabled stream, the clock first."""
CLOCK = next(stream for stream in STREAMS if stream.is_clock)
"""The stream whose rows are the rows of the feature table."""
BESIDE_THE_CLOCK = tuple(stream for stream in STREAMS if not stream.is_clock)
"""The streams that may be absent."""
WITH_THE_CLOCK = tuple(stream for stream in BESIDE_THE_CLOCK if stream.with_the_clock)
"""Those that the run of the hourly forecast fetches too."""
OF_OTHER_ASSETS = tuple(stream for stream in BESIDE_THE_CLOCK if stream.service is None and not stream.with_the_clock)
"""Those whose domain has assets of its own; the other assets are made from the declaration."""
GATHERED_ALONE = tuple(stream for stream in BESIDE_THE_CLOCK if stream.service is not None)
"""Those whose asset is made from the declaration, each gathered by a job and a schedule of its own."""
DERIVED = tuple({table.table: table for stream in STREAMS for table in stream.derived}.values())
"""Tables derived from the streams' own tables, which features read too."""
TABLES: tuple[Contract, ...] = tuple({table.table: table for stream in STREAMS for table in stream.tables}.values())
"""Every table that features are computed from, without duplicates."""


def inputs_of(clock: pl.DataFrame, others: Mapping[Stream, Rows] | None = None) -> Inputs:
    """Return inputs from the clock's rows and the rows of other streams.

    Args:
        clock: rows in time order.
        others: rows by stream; None: the clock only.
    """
    return Inputs({CLOCK: Rows(clock), **(others or {})})


def read_inputs(tables: Reader, first: date | None = None, last: date | None = None) -> Inputs:
    """Read every stream; a stream that was not gathered on any of the days is absent.

    Args:
        tables: reader of the stored tables.
        first: first day, UTC; None: from the first stored day.
        last: last day, UTC, inclusive; None: to the last stored day.
    """
    rows: dict[Stream, Rows] = {}
    for stream in STREAMS:
        days = tables.days(stream.contract, first, last)
        if not days and not stream.is_clock:
            continue
        frame = stream.rows(*(tables.scan(table, first, last) for table in stream.tables))
        rows[stream] = Rows(frame, None if stream.gathered is None else stream.gathered(days, frame))
    return Inputs(rows)


def synthetic_inputs(hours: pl.Series, seed: int, streams: Collection[Stream] = STREAMS) -> Inputs:
    """Return synthetic rows of independent streams, in which nothing predicts the next hour.

    Args:
        hours: open_times, one per hour, at least three days.
        seed: random seed.
        streams: the streams.
    """
    seeds = np.random.SeedSequence(seed).generate_state(len(streams))
    return Inputs(
        {stream: stream.synthetic(hours, int(stream_seed)) for stream, stream_seed in zip(streams, seeds, strict=True)}
    )
