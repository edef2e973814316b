"""`market/prices`: hourly bars, one partition per UTC day."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta

import dagster as dg
import polars as pl
from pydantic import Field

from btc_assets.clock import HOUR, midnight
from btc_assets.lake import output_of
from btc_assets.markdown import markdown_rows
from btc_assets.market.bars import Merged, clean, find_gaps, merge, zone_shift
from btc_assets.market.resources import Market
from btc_assets.market.sources.protocol import MarketSource
from btc_assets.market.streams import BARS
from btc_assets.market.tables import PRICES
from btc_assets.partitions import DAILY, day_of
from btc_assets.reads import DeclaredReads, Tables
from btc_assets.schema import dagster_type
from btc_assets.transport import SourceMalformedError

_ROWS_SHOWN = 50


class PricesConfig(dg.Config):
    """How to fetch bars.

    Attributes:
        patience_s: longest time to wait for the bar of the hour that has just closed, seconds; the request is retried
            each second. 0 does not wait, as in a backfill.
    """

    patience_s: float = Field(default=0.0, ge=0, le=600)


@dg.asset(
    key=["market", "prices"],
    partitions_def=DAILY,
    dagster_type=dagster_type(PRICES),
    group_name="market",
    kinds={"polars", "parquet"},
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=BARS.fail_after, warn_window=BARS.warn_after),
    backfill_policy=dg.BackfillPolicy.single_run(),
    code_version="1",
    op_tags={"dagster/max_runtime": "3600", "dagster/priority": "1"},
)
def prices(
    context: dg.AssetExecutionContext,
    config: PricesConfig,
    tables: dg.ResourceParam[Tables],
    market: dg.ResourceParam[Market],
) -> Iterator[dg.Output[pl.DataFrame]]:
    """Closed hourly Bitcoin bars of the chosen source (`BTC_MARKET_SOURCE`), with the venue on each row.

    Prices are USD (or the venue's dollar coin), volumes BTC; quote volume, trades and taker buy volumes where the
    venue publishes them, else null. Today's partition holds the hours closed so far and is refreshed hourly.
    A missing hour stays missing. An hour that the source restates replaces the stored one and is listed in the
    metadata; an hour that the source no longer returns stays stored. If the source fails or returns anything other
    than hourly bars, the run fails with an explanation and every stored partition stays unchanged.
    """
    days = sorted(day_of(key) for key in context.partition_keys)
    source = market.source
    if config.patience_s and market.newest_hour().date() in days:
        arrival, source = market.await_newest(config.patience_s)
        if arrival is not None:
            context.log.info(str(arrival))
    with tables.locked(PRICES):
        yield _refreshed(context, tables.of(context), market, source, days)


def _refreshed(
    context: dg.AssetExecutionContext,
    reads: DeclaredReads,
    market: Market,
    source: MarketSource,
    days: Sequence[date],
) -> dg.Output[pl.DataFrame]:
    """Fetch the days of the run and merge the bars with the stored ones."""
    first, last = closed_hours(days, market.now())
    old = reads.scan(PRICES, days[0], days[-1]).collect()
    if first == last:  # none of these days has a closed hour yet
        return output_of(context, PRICES, old, {"bars": old.height, "missing_hours": 0})
    fetched = clean(source.fetch(first, last, market.now()))
    fresh = fetched.frame.filter(PRICES.day.is_in(days))
    if fresh.is_empty() and old.is_empty():
        raise SourceMalformedError(
            f"{market.source.venue} has no bar from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC, and "
            f"none is stored; expected {(last - first) // HOUR}. Choose days that its history covers, or "
            f"another BTC_MARKET_SOURCE."
        )
    if shift := zone_shift(old, fresh):
        raise SourceMalformedError(
            f"{market.source.venue} returned bars that equal the stored bars {abs(shift)} hours "
            f"{'earlier' if shift > 0 else 'later'}: their times are not in UTC (KST is 9 hours "
            f"ahead). Convert them to UTC; nothing was stored."
        )
    merged = merge(old, fresh, market.source.venues)
    return output_of(
        context,
        PRICES,
        merged.frame,
        {
            **_summary(merged, first, last),
            "duplicates_dropped": fetched.duplicates,
            "conflicting_hours": fetched.conflicts,
        },
    )


def closed_hours(days: Sequence[date], now: datetime) -> tuple[datetime, datetime]:
    """Return the span [first, last) of the hours of `days` that are closed at `now`, UTC; empty if none is closed."""
    first = midnight(days[0])
    end = midnight(days[-1] + timedelta(days=1))
    return first, max(first, min(end, now.replace(minute=0, second=0, microsecond=0)))


def _summary(merged: Merged, first: datetime, last: datetime) -> dict[str, object]:
    frame = merged.frame
    gaps = find_gaps(frame, first, last)
    by_venue = frame.group_by("venue").len().sort("venue")
    return {
        "venues": dict(by_venue.iter_rows()),
        "bars": frame.height,
        "added_hours": merged.added,
        "kept_hours": merged.kept,
        "restated_hours": len(merged.restated),
        "restated": dg.MetadataValue.md(_listed([f"{at:%Y-%m-%d %H:%M}" for at in merged.restated])),
        "missing_hours": int(gaps.get_column("hours").sum()),
        "gaps": dg.MetadataValue.md(gap_table(gaps)),
        "last_close": float(frame.get_column("close")[-1]),
    }


def gap_table(gaps: pl.DataFrame) -> str:
    """Return gaps (see `find_gaps`) as a Markdown table, newest first."""
    if gaps.is_empty():
        return "No hour is missing."
    rows = [
        (f"{start:%Y-%m-%d %H:%M}", f"{end:%Y-%m-%d %H:%M}", hours)
        for start, end, hours in gaps.sort("first_missing", descending=True).head(_ROWS_SHOWN).iter_rows()
    ]
    more = f"\n\n… and {gaps.height - _ROWS_SHOWN} more." if gaps.height > _ROWS_SHOWN else ""
    return markdown_rows(("first missing", "last missing", "hours"), rows) + more


def _listed(items: Sequence[str]) -> str:
    shown = "\n".join(f"- {item}" for item in items[-_ROWS_SHOWN:])
    return shown or "None."


ASSETS = [prices]
