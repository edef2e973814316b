"""Build the asset, check and source of a numeric stream from its declaration."""

from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta

import dagster as dg
import polars as pl

from btc_assets.clock import midnight
from btc_assets.lake import Lake, output_of
from btc_assets.market.sources.answer import CLOCK_SKEW, wall_clock
from btc_assets.market.sources.series import read_files
from btc_assets.partitions import DAILY, day_of, days_to_check, nothing_stored
from btc_assets.reads import DeclaredReads, Tables
from btc_assets.schema import dagster_type
from btc_assets.settings import ENV_PREFIX, Settings
from btc_assets.streams import Service, Stream
from btc_assets.transport import Limits, SourceMalformedError, Transport

FILES_SETTING, URLS_SETTING = f"{ENV_PREFIX}CONTEXT_FILES", f"{ENV_PREFIX}CONTEXT_URLS"
_GAP = 1.5
"""A step between two rows longer than this many cadences is a gap."""


class Sources:
    """The resource `sources`: fetches the numeric streams."""

    def __init__(self, config: Settings, clock: Callable[[], datetime] = wall_clock) -> None:
        """Store the settings; nothing is fetched yet.

        Args:
            config: settings of the deployment.
            clock: the wall clock, UTC; rows with later times are refused.
        """
        self._config = config
        self._clock = clock

    def now(self) -> datetime:
        """Return the project's clock, UTC: the wall clock, or the end of a closed history."""
        return self._config.now()

    def fetch(self, stream: Stream, first: datetime, last: datetime) -> pl.DataFrame:
        """Return the rows of a stream that are available by now, without duplicates, in key order.

        Args:
            stream: the stream; it declares a service.
            first: start of the first day, UTC.
            last: end of the last day, UTC, exclusive.

        Raises:
            SourceError: there is no usable answer; the message says what to do.
        """
        service = _service(stream)
        if pattern := self._config.context_files.get(stream.name):
            rows = read_files(FILES_SETTING, pattern, stream.contract, service.aliases)
        else:
            rows = service.fetch(self._transport(stream.name, service), first, min(last, self.now()))
        return valid_rows(stream, rows, first, last, self.now(), self._clock())

    def _transport(self, name: str, service: Service) -> Transport:
        limits = Limits(
            timeout_s=self._config.http_timeout_s,
            attempts=self._config.http_attempts,
            max_wait_s=self._config.http_max_wait_s,
            requests_per_second=self._config.http_requests_per_second,
        )
        remedy = f"check {URLS_SETTING}, or read {name} from {FILES_SETTING}, or take it out of {ENV_PREFIX}CONTEXT"
        return Transport(self._config.context_urls.get(name, service.url), limits, remedy=remedy)


def valid_rows(
    stream: Stream, rows: pl.DataFrame, first: datetime, last: datetime, now: datetime, wall: datetime
) -> pl.DataFrame:
    """Return the rows of the days from `first` to `last` available at `now`, without duplicates, in key order.

    Raises:
        SourceMalformedError: a row breaks the contract, is from the future, or conflicts with another row of its key.
    """
    contract = stream.contract
    time = contract.key[0]
    rows = rows.select(list(contract.columns)).cast(contract.columns).unique().sort(contract.key)
    if (conflicting := rows.filter(pl.struct(contract.key).is_duplicated())).height:
        raise SourceMalformedError(
            f"{stream.name}: expected one row of {conflicting[time][0]}, got two with different values; nothing was "
            f"stored. Try again later, or correct the file."
        )
    future = rows.filter(pl.col(time).cast(pl.Datetime("us", "UTC")) > wall + max(CLOCK_SKEW, stream.cadence))
    if future.height:
        raise SourceMalformedError(
            f"{stream.name}: a row has the time {future[time][0]}, after now ({wall:%Y-%m-%d %H:%M} UTC). Its times "
            f"may not be in UTC, or this machine's clock is behind. Nothing was stored."
        )
    days = (contract.day >= first.date()) & (contract.day <= (last - timedelta(microseconds=1)).date())
    rows = rows.filter(days & (stream.available_at <= now))
    if faults := contract.faults(rows):
        column, fault = faults[0]
        raise SourceMalformedError(f"{stream.name}: {column} breaks its contract, {fault}; nothing was stored.")
    return rows


def _service(stream: Stream) -> Service:
    assert stream.service is not None, f"{stream.name} declares no service"
    return stream.service


def asset_of(stream: Stream) -> dg.AssetsDefinition:
    """Return the asset of a stream: it fetches, validates and merges rows with the stored ones, and stores each day."""
    contract, service = stream.contract, _service(stream)

    @dg.asset(
        key=contract.asset_key,
        partitions_def=DAILY,
        dagster_type=dagster_type(contract),
        group_name=contract.asset_key.path[0],
        kinds=set(service.kinds),
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=stream.fail_after, warn_window=stream.warn_after),
        backfill_policy=dg.BackfillPolicy.single_run(),
        code_version="1",
        op_tags={"dagster/max_runtime": "3600"},
        description=f"{stream.about}. A row that the source restates replaces the stored one, a row that it no longer "
        "returns stays stored, and a missing row stays missing. If the source fails or returns anything else, the run "
        "fails with an explanation and every stored partition stays unchanged.",
    )
    def gathered(
        context: dg.AssetExecutionContext, tables: dg.ResourceParam[Tables], sources: dg.ResourceParam[Sources]
    ) -> Iterator[dg.Output[pl.DataFrame]]:
        with tables.locked(contract):
            yield refreshed(context, stream, tables.of(context), sources)

    return gathered


def refreshed(
    context: dg.AssetExecutionContext, stream: Stream, reads: DeclaredReads, sources: Sources
) -> dg.Output[pl.DataFrame]:
    """Fetch the days of the run and merge the rows with the stored ones.

    Raises:
        SourceError: there is no usable answer; nothing is stored.
    """
    contract = stream.contract
    days = sorted(day_of(key) for key in context.partition_keys)
    first, last = midnight(days[0]), midnight(days[-1] + timedelta(days=1))
    old = reads.scan(contract, days[0], days[-1]).collect()
    fresh = sources.fetch(stream, first, last) if first < sources.now() else contract.empty()
    fresh = fresh.filter(contract.day.is_in(days))
    if fresh.is_empty() and old.is_empty() and (expected := _expected(stream, first, min(last, sources.now()))):
        raise SourceMalformedError(
            f"{stream.name} has no row from {first:%Y-%m-%d} to {days[-1]}, and none is stored; expected about "
            f"{expected}. Choose days that its history covers."
        )
    merged = pl.concat([old.join(fresh, on=contract.key, how="anti"), fresh]).sort(contract.key)
    changed = old.join(fresh, on=contract.key, how="inner").height - old.join(fresh, on=old.columns, how="inner").height
    return output_of(
        context,
        contract,
        merged,
        {
            "added": merged.height - old.height,
            "kept": old.join(fresh, on=contract.key, how="anti").height,
            "restated": changed,
            "gaps": gaps(stream, merged).height,
        },
    )


def _expected(stream: Stream, first: datetime, last: datetime) -> int:
    """Return how many rows a span should have, without the newest, which may be late."""
    return max(0, int((last - first) / stream.cadence) - 1)


def gaps(stream: Stream, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the first row after each gap: `after_a_gap` (its time) and `step` (time since the previous row)."""
    time = pl.col(stream.contract.key[0]).cast(pl.Datetime("us", "UTC"))
    steps = rows.select(time.alias("after_a_gap"), time.diff().alias("step"))
    return steps.filter(pl.col("step") > stream.cadence * _GAP)


def check_of(stream: Stream, asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """Return the check of a stream: its rows have no gaps, and the newest is recent enough.

    Only a warning: other streams than the bars may be absent, and their features are then unknown.
    """
    contract = stream.contract

    @dg.asset_check(
        asset=asset,
        name="rows_present",
        description=f"Rows of {contract.table} have no gaps, and the newest is recent enough; only a warning.",
    )
    def rows_present(
        context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake], sources: dg.ResourceParam[Sources]
    ) -> dg.AssetCheckResult:
        days = days_to_check(context.run.tags, lake.days(contract))
        if not days:
            return nothing_stored(contract.table)
        return _judge(stream, lake, days, sources.now())

    return rows_present


def _judge(stream: Stream, lake: Lake, days: Sequence[date], now: datetime) -> dg.AssetCheckResult:
    rows = lake.scan(stream.contract, days[0] - timedelta(days=1), days[-1]).collect().sort(stream.contract.key)
    missing = gaps(stream, rows)
    newest = rows.select(stream.available_at.max()).item()
    age = None if newest is None else now - newest
    old = days[-1] >= now.date() and (age is None or age > stream.fail_after)
    sentences = [f"{rows.height} rows from {days[0]} to {days[-1]}, {missing.height} gaps"]
    sentences += [f"the first before {missing['after_a_gap'][0]:%Y-%m-%d %H:%M}"] if missing.height else []
    sentences += (
        [f"the newest became available at {newest or 'no time'}, expected within {stream.fail_after}"] if old else []
    )
    return dg.AssetCheckResult(
        passed=missing.is_empty() and not old and not rows.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(sentences) + ".",
        metadata={"gaps": missing.height, **({} if age is None else {"age_hours": age / timedelta(hours=1)})},
    )
