"""`market/prices`, the hourly bars, and `market/quarter_bars`: one partition per UTC day."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta

import dagster as dg
import polars as pl
from pydantic import Field

from btc_assets.clock import HOUR, floor, midnight
from btc_assets.lake import output_of
from btc_assets.markdown import markdown_rows
from btc_assets.market.bars import BarsError, Merged, clean, find_gaps, merge, zone_shift
from btc_assets.market.quarter_bars import QUARTER_BARS, QUARTER_STREAM, as_quarter_bars, whole_hours
from btc_assets.market.resources import Market
from btc_assets.market.sources.protocol import MarketSource
from btc_assets.market.streams import BARS
from btc_assets.market.tables import PRICES
from btc_assets.partitions import DAILY, day_of
from btc_assets.reads import DeclaredReads, Tables
from btc_assets.schema import dagster_type
from btc_assets.transport import SourceError, SourceMalformedError

ROWS_SHOWN = 50


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
    first, last = closed_span(days, market.now())
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


def closed_span(days: Sequence[date], now: datetime, step: timedelta = HOUR) -> tuple[datetime, datetime]:
    """Return the span [first, last) of the bars of `days` that are closed at `now`, UTC; empty if none is closed."""
    first = midnight(days[0])
    end = midnight(days[-1] + timedelta(days=1))
    return first, max(first, min(end, floor(now, step)))


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
        "missing_hours": int(gaps.get_column("bars").sum()),
        "gaps": dg.MetadataValue.md(gap_table(gaps)),
        "last_close": float(frame.get_column("close")[-1]),
    }


def gap_table(gaps: pl.DataFrame) -> str:
    """Return gaps (see `find_gaps`) as a Markdown table, newest first."""
    if gaps.is_empty():
        return "No hour is missing."
    rows = [
        (f"{start:%Y-%m-%d %H:%M}", f"{end:%Y-%m-%d %H:%M}", hours)
        for start, end, hours in gaps.sort("first_missing", descending=True).head(ROWS_SHOWN).iter_rows()
    ]
    more = f"\n\n… and {gaps.height - ROWS_SHOWN} more." if gaps.height > ROWS_SHOWN else ""
    return markdown_rows(("first missing", "last missing", "hours"), rows) + more


def _listed(items: Sequence[str]) -> str:
    shown = "\n".join(f"- {item}" for item in items[-ROWS_SHOWN:])
    return shown or "None."


class QuarterBarsConfig(dg.Config):
    """How to fetch quarter bars.

    Attributes:
        required: whether the run fails if the source does. The run of the hourly forecast sets false: then only the
            venue of the newest hour is requested, once, and if it fails, the forecast is made without new bars.
    """

    required: bool = True


@dg.asset(
    key=QUARTER_BARS.asset_key,
    partitions_def=DAILY,
    dagster_type=dagster_type(QUARTER_BARS),
    group_name="market",
    kinds={"polars", "parquet"},
    deps=[PRICES.asset_key],
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=QUARTER_STREAM.fail_after, warn_window=QUARTER_STREAM.warn_after
    ),
    backfill_policy=dg.BackfillPolicy.single_run(),
    code_version="1",
    op_tags={"dagster/max_runtime": "3600", "dagster/priority": "1"},
)
def quarter_bars(
    context: dg.AssetExecutionContext,
    config: QuarterBarsConfig,
    tables: dg.ResourceParam[Tables],
    market: dg.ResourceParam[Market],
) -> Iterator[dg.Output[pl.DataFrame]]:
    """Closed 15-minute Bitcoin bars of the source of `market/prices`; the embedded sample has 30-minute bars.

    With several venues, requests begin with the venue of the newest stored hour. Units, gaps and restatements are as in
    `market/prices`. Without quarter bars (`BTC_QUARTER_FILES` is empty) the table is empty. In the run of the hourly
    forecast, a source that fails leaves the stored bars unchanged and the run continues; otherwise the run fails with
    an explanation.
    """
    days = sorted(day_of(key) for key in context.partition_keys)
    with tables.locked(QUARTER_BARS):
        reads = tables.of(context)
        stored = reads.scan(QUARTER_BARS, days[0], days[-1]).collect()
        hours = reads.scan(PRICES, days[0], days[-1]).sort("open_time").collect()
        venue = None if hours.is_empty() else hours["venue"][-1]
        source = market.quarters_from(venue, eager=not config.required)
        try:
            fresh = QUARTER_BARS.empty() if source is None else _new_quarters(source, hours, days, market.now())
        except (SourceError, BarsError) as error:
            if config.required:
                raise
            context.log.warning(f"Continuing without new quarter bars: {error}")
            yield output_of(context, QUARTER_BARS, stored, {"bars": stored.height, "not_fetched": str(error)})
        else:
            merged = merge(stored, fresh, () if market.quarters is None else market.quarters.venues)
            yield output_of(
                context,
                QUARTER_BARS,
                merged.frame,
                {
                    "bars": merged.frame.height,
                    "added": merged.added,
                    "restated": len(merged.restated),
                    "venues": dict(merged.frame.group_by("venue").len().sort("venue").iter_rows()),
                },
            )


def _new_quarters(source: MarketSource, hours: pl.DataFrame, days: Sequence[date], now: datetime) -> pl.DataFrame:
    """Fetch the closed quarter bars of some days.

    Raises:
        SourceError: there is no usable answer.
        BarsError: a bar breaks a rule.
    """
    first, last = closed_span(days, now, source.step)
    if first == last:
        return QUARTER_BARS.empty()
    fetched = clean(source.fetch(first, last, now), source.step).frame
    fresh = as_quarter_bars(fetched.filter(PRICES.day.is_in(days)), source.step)
    if shift := zone_shift(hours, whole_hours(fresh)):
        raise SourceMalformedError(
            f"{source.venue} returned quarter bars that make the stored hours {abs(shift)} hours "
            f"{'earlier' if shift > 0 else 'later'}: their times are not in UTC. Convert them to UTC; "
            f"nothing was stored."
        )
    return fresh


ASSETS = [prices, quarter_bars]
