"""The schedules: a forecast every hour, texts every 15 minutes, a training every Monday."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import dagster as dg
import polars as pl

from btc_assets.automation.jobs import GATHERINGS, UNFINISHED, gather_texts, refresh_forecast, train_cutoff
from btc_assets.automation.sensors import refresh_assets
from btc_assets.automation.spans import DAY, Span
from btc_assets.champion.history import is_recorded
from btc_assets.champion.tables import MODEL_HISTORY, MODEL_VERDICT
from btc_assets.clock import HOUR
from btc_assets.features.inputs import CLOCK, GATHERED_ALONE, OF_OTHER_ASSETS, WITH_THE_CLOCK
from btc_assets.features.tables import HOURLY_FEATURES
from btc_assets.lake import Lake
from btc_assets.partitions import key_of
from btc_assets.schema import Contract
from btc_assets.settings import ENV_PREFIX, SettingsError, settings
from btc_assets.streams import Stream

CLOSING_HOURS = 3
"""Hours after midnight in which yesterday's bars are fetched again even if they look complete."""
PATIENCE_HOURS = 6
"""Hours after midnight in which a training waits for yesterday's last bar; after that it uses the stored bars."""
MAX_DAYS_TO_GATHER = 30
"""Days for which texts are gathered automatically after an outage; a longer gap needs a manual backfill."""

RUNNING_WHEN_LIVE = (
    dg.DefaultScheduleStatus.RUNNING if settings().history_end is None else dg.DefaultScheduleStatus.STOPPED
)
"""Schedules run if the history grows; a closed history gets no new data."""


def cron_of(name: str) -> str:
    """Return the cron expression that a setting holds.

    Raises:
        SettingsError: Dagster does not accept it.
    """
    expression = getattr(settings(), name)
    try:
        dg.ScheduleDefinition(job=refresh_forecast, cron_schedule=expression)
    except dg.DagsterInvalidDefinitionError as error:
        raise SettingsError(
            f"{ENV_PREFIX}{name.upper()}={expression!r}: expected a cron expression of five fields, such as "
            "'0 * * * *' for every full hour"
        ) from error
    return expression


def days_to_refresh(now: datetime, stored: list[date], newest_bar: datetime | None) -> Span | None:
    """Return the days whose bars to fetch.

    These are today once its first bar has closed, yesterday in the first hours of a day or while its last hour is
    missing, and all days since the newest stored day and the newest bar, for example after an outage.

    Args:
        now: time of the tick, UTC.
        stored: days whose prices are stored, in order.
        newest_bar: open_time of the newest stored bar; None without stored bars.

    Returns:
        The days, or None if there is no bar to fetch yet.
    """
    today = now.date()
    last = today if now.hour > 0 else today - DAY
    first = last
    closed_until = datetime.combine(today, time(), tzinfo=UTC) - timedelta(hours=1)
    if now.hour <= CLOSING_HOURS or newest_bar is None or newest_bar < closed_until:
        first = today - DAY
    earlier = [day for day in stored if day <= today]
    if earlier:
        first = min(first, earlier[-1])
    if newest_bar is not None:  # earlier than the newest stored day if that day has no bar
        first = min(first, newest_bar.date())
    first = max(first, settings().first_day)
    return Span(first, last) if first <= last else None


def _newest_row(lake: Lake, contract: Contract, days: Sequence[date]) -> pl.DataFrame | None:
    """Return the newest row of these days, a frame of one row; a stored day may have no rows."""
    for day in reversed(days):
        frame = lake.read(contract, day)
        if frame is not None and not frame.is_empty():
            return frame.sort(contract.key).tail(1)
    return None


def _newest_bar(lake: Lake, days: Sequence[date]) -> datetime | None:
    """Return the open_time of the newest bar of these days."""
    row = _newest_row(lake, CLOCK.contract, days)
    return None if row is None else row["open_time"][0]


@dg.schedule(
    name="hourly_refresh",
    cron_schedule=cron_of("refresh_cron"),
    execution_timezone="UTC",
    job=refresh_forecast,
    default_status=RUNNING_WHEN_LIVE,
    description="Forecast the hour that has just closed: fetch today's bars, complete yesterday's, catch up after an "
    "outage, and publish.",
)
def hourly_refresh(
    context: dg.ScheduleEvaluationContext, lake: dg.ResourceParam[Lake]
) -> dg.RunRequest | dg.SkipReason:
    """Request the forecast of the hour that has just closed for every day whose bars may have changed.

    Without a champion the run produces bars, features and labels only.
    """
    end = settings().history_end
    now = settings().now()
    if end is not None and now.date() >= end:
        return dg.SkipReason(f"the history is closed: it ends on {key_of(end - DAY)}")
    stored = lake.days(CLOCK.contract)
    span = days_to_refresh(now, stored, _newest_bar(lake, [day for day in stored if day <= now.date()]))
    if span is None:
        return dg.SkipReason("no bar of the first day has closed yet")
    return dg.RunRequest(
        run_key=f"{context.scheduled_execution_time.astimezone(UTC).isoformat()}|{span}",
        partition_key=key_of(span.last) if span.first == span.last else None,
        asset_selection=refresh_assets(lake, now),
        tags=span.tags if span.first < span.last else {},
    )


def days_to_gather(now: datetime, stored: list[date]) -> Span:
    """Return the days of a stream to gather: today, and the days since the newest stored day after an outage.

    Args:
        now: time of the tick, UTC.
        stored: stored days of the stream, in order.
    """
    today = now.date()
    newest = max((day for day in stored if day <= today), default=today)
    return Span(max(newest, today - MAX_DAYS_TO_GATHER * DAY, settings().first_day), today)


@dg.schedule(
    name="gather_news",
    cron_schedule=cron_of("news_cron"),
    execution_timezone="UTC",
    job=gather_texts,
    default_status=RUNNING_WHEN_LIVE,
    description="Gather articles and posts into today's partition, and catch up after an outage.",
)
def gather_news(context: dg.ScheduleEvaluationContext, lake: dg.ResourceParam[Lake]) -> dg.RunRequest | dg.SkipReason:
    """Request today's texts unless an earlier gathering is still running."""
    if not settings().news:
        return dg.SkipReason("BTC_NEWS_SOURCES is none: no source to gather from")
    return _gathering(context, gather_texts.name, lake.days(OF_OTHER_ASSETS[0].contract))


def gathering_of(stream: Stream, job: Any) -> dg.ScheduleDefinition:
    """Return the gathering schedule of a stream whose asset is built from its declaration.

    Args:
        stream: the stream.
        job: the job that gathers it.
    """
    assert stream.service is not None

    @dg.schedule(
        name=f"gather_{stream.name}",
        cron_schedule=stream.service.cron,
        execution_timezone="UTC",
        job=job,
        default_status=RUNNING_WHEN_LIVE,
        description=f"Gather {stream.contract.table} into today's partition, and catch up after an outage.",
    )
    def gather(context: dg.ScheduleEvaluationContext, lake: dg.ResourceParam[Lake]) -> dg.RunRequest | dg.SkipReason:
        return _gathering(context, job.name, lake.days(stream.contract))

    return gather


def late_gathering_of(stream: Stream, job: Any) -> dg.ScheduleDefinition:
    """Return the schedule that fetches rows which the run of the hourly forecast did not get.

    Args:
        stream: a stream that is fetched in that run.
        job: the job that gathers it.
    """

    @dg.schedule(
        name=f"gather_late_{stream.name}",
        cron_schedule="5 * * * *",
        execution_timezone="UTC",
        job=job,
        default_status=RUNNING_WHEN_LIVE,
        description=f"Gather rows of {stream.contract.table} that were late for the forecast of the hour.",
    )
    def gather(context: dg.ScheduleEvaluationContext, lake: dg.ResourceParam[Lake]) -> dg.RunRequest | dg.SkipReason:
        if not stream.is_gathered(settings()):
            return dg.SkipReason(f"the chosen source has no {stream.name}")
        today = settings().now().date()
        bar = _newest_bar(lake, [day for day in lake.days(CLOCK.contract) if day <= today])
        stored = [day for day in lake.days(stream.contract) if day <= today]
        newest = _newest_row(lake, stream.contract, stored[-MAX_DAYS_TO_GATHER:])
        if bar is None:
            return dg.SkipReason(f"no bars are stored, which come before {stream.name}")
        if newest is not None and newest.select(stream.available_at).item() >= bar + HOUR:
            return dg.SkipReason(f"{stream.name} are stored up to the newest bar")
        # A day without rows, stored while the source failed, is gathered again.
        with_rows = [] if newest is None else newest.select(stream.contract.day).to_series().to_list()
        return _gathering(context, job.name, with_rows)

    return gather


def _gathering(context: dg.ScheduleEvaluationContext, job: str, stored: list[date]) -> dg.RunRequest | dg.SkipReason:
    """Request the days to gather unless an earlier run of the job is still running."""
    now = context.scheduled_execution_time.astimezone(UTC)
    end = settings().history_end
    if end is not None and now.date() >= end:
        return dg.SkipReason(f"the history is closed: it ends on {key_of(end - DAY)}")
    if now.date() < settings().first_day:
        return dg.SkipReason(f"the history begins on {key_of(settings().first_day)}")
    running = dg.RunsFilter(job_name=job, statuses=UNFINISHED)
    if runs := context.instance.get_runs(running, limit=1):
        return dg.SkipReason(f"an earlier gathering is still running (run {runs[0].run_id})")
    span = days_to_gather(now, stored)
    run_key = f"{now.isoformat()}|{span}"
    if span.first == span.last:
        return dg.RunRequest(run_key=run_key, partition_key=key_of(span.last))
    return dg.RunRequest(run_key=run_key, tags=span.tags)


@dg.schedule(
    name="weekly_training",
    cron_schedule="20 0-11 * * 1",
    execution_timezone="UTC",
    job=train_cutoff,
    default_status=RUNNING_WHEN_LIVE,
    description="On Mondays, once Sunday is complete, train and evaluate the model of that cutoff.",
)
def weekly_training(
    context: dg.ScheduleEvaluationContext, lake: dg.ResourceParam[Lake]
) -> dg.RunRequest | dg.SkipReason:
    """Request the training of this Monday's cutoff until its verdict is recorded.

    Later ticks retry after a late Sunday or a failed training; a tick during a training starts no second one.
    """
    now = context.scheduled_execution_time.astimezone(UTC)
    cutoff = now.date()
    end = settings().history_end
    if end is not None and cutoff > end:
        return dg.SkipReason(f"the history is closed: its last cutoff is {key_of(end)}")
    verdict = lake.read(MODEL_VERDICT, cutoff)
    if verdict is not None and not verdict.is_empty() and is_recorded(lake.scan(MODEL_HISTORY).collect(), verdict):
        return dg.SkipReason(f"the model of {key_of(cutoff)} is trained and has a verdict")
    running = dg.RunsFilter(job_name=train_cutoff.name, tags={"dagster/partition": key_of(cutoff)}, statuses=UNFINISHED)
    if runs := context.instance.get_runs(running, limit=1):
        return dg.SkipReason(f"the model of {key_of(cutoff)} is being trained (run {runs[0].run_id})")
    sunday = lake.read(HOURLY_FEATURES, cutoff - DAY)
    if sunday is None or sunday.is_empty():
        return dg.SkipReason(f"no features of {key_of(cutoff - DAY)} are stored yet")
    newest = sunday.select(pl.col("open_time").max()).item()
    if newest.hour < 23 and now.hour < PATIENCE_HOURS:
        return dg.SkipReason(f"{key_of(cutoff - DAY)} is incomplete: its newest hour is {newest:%H:%M}")
    return dg.RunRequest(run_key=f"weekly|{now.isoformat()}", partition_key=key_of(cutoff))


SCHEDULES = [
    hourly_refresh,
    gather_news,
    *(late_gathering_of(stream, GATHERINGS[stream]) for stream in WITH_THE_CLOCK),
    *(gathering_of(stream, GATHERINGS[stream]) for stream in GATHERED_ALONE),
    weekly_training,
]
