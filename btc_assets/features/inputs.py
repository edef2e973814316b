"""The streams of this deployment, and how what the lake stores of them becomes `Inputs`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import date

import numpy as np
import polars as pl

from btc_assets.lake import Reader
from btc_assets.market.streams import STREAMS as OF_THE_MARKET
from btc_assets.news.streams import STREAMS as OF_THE_NEWS
from btc_assets.schema import Contract
from btc_assets.streams import Inputs, Rows, Stream

STREAMS: tuple[Stream, ...] = (*OF_THE_MARKET, *OF_THE_NEWS)
"""Every stream that is on, the clock first."""
CLOCK = next(stream for stream in STREAMS if stream.is_clock)
"""The stream whose rows are the rows of the features."""
BESIDE_THE_CLOCK = tuple(stream for stream in STREAMS if not stream.is_clock)
"""The streams that may be absent."""
OF_OTHER_ASSETS = tuple(stream for stream in BESIDE_THE_CLOCK if stream.service is None)
"""Those whose domain has assets of its own; the other assets are made from the declaration."""
GATHERED_ALONE = tuple(stream for stream in BESIDE_THE_CLOCK if stream.service is not None)
"""Those whose asset is made from the declaration, each gathered by a job and a schedule of its own."""
DERIVED = tuple({table.table: table for stream in STREAMS for table in stream.derived}.values())
"""Tables made from those of streams, which features read beside them."""
TABLES: tuple[Contract, ...] = tuple({table.table: table for stream in STREAMS for table in stream.tables}.values())
"""Every table that features are made from, once."""


def inputs_of(clock: pl.DataFrame, others: Mapping[Stream, Rows] | None = None) -> Inputs:
    """Return inputs of the clock's rows and those of other streams, as they are.

    Args:
        clock: rows in time order.
        others: by stream; none where the clock is all there is.
    """
    return Inputs({CLOCK: Rows(clock), **(others or {})})


def read_inputs(tables: Reader, first: date | None = None, last: date | None = None) -> Inputs:
    """Read every stream; one that was not gathered on any of the days is absent.

    Args:
        tables: where the rows are stored.
        first: first day, UTC; None for all that the reader holds.
        last: last day, UTC, included.
    """
    rows: dict[Stream, Rows] = {}
    for stream in STREAMS:
        days = tables.days(stream.contract, first, last)
        if not days and not stream.is_clock:
            continue
        frame = stream.rows(*(tables.scan(table, first, last) for table in stream.tables))
        rows[stream] = Rows(frame, None if stream.gathered is None else stream.gathered(days, frame))
    return Inputs(rows)


def made_up(hours: pl.Series, seed: int, streams: Collection[Stream] = STREAMS) -> Inputs:
    """Return made-up rows of streams that say nothing of one another, so that nothing tells the next hour.

    Args:
        hours: open_times, one an hour, three days of them or more.
        seed: of everything.
        streams: which.
    """
    seeds = np.random.SeedSequence(seed).generate_state(len(streams))
    return Inputs({stream: stream.made_up(hours, int(own)) for stream, own in zip(streams, seeds, strict=True)})
