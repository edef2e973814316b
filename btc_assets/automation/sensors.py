"""The sensors: score new texts, forecast from new bars, scores and models, publish and report on forecasts.

The forecast of an hour does not need them: one run fetches, builds, forecasts and publishes. The sensors are its safety
net: they continue from the results of any run and request nothing if that run produced the downstream assets too. A
requested run counts as done; a failed run is retried a few times with a delay of minutes.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Self

import dagster as dg

from btc_assets.automation.jobs import (
    UNFINISHED,
    fetched_with_the_clock,
    forecast_days,
    publish_bundle,
    refresh_forecast,
    report_performance,
    score_texts,
    settle_shadow,
)
from btc_assets.automation.spans import DAY, RANGE_END_TAG, RANGE_START_TAG, Span, spans
from btc_assets.automation.walk_forward import WALK_TAG
from btc_assets.champion.assets import shadow_config
from btc_assets.champion.history import holder, shadow_decision
from btc_assets.champion.tables import MODEL_HISTORY, SHADOW_REPORT
from btc_assets.clock import HOUR, midnight
from btc_assets.digest import digest
from btc_assets.features import checks as features_checks
from btc_assets.features.catalog import WARMUP_DAYS
from btc_assets.features.inputs import BESIDE_THE_CLOCK, CLOCK
from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.forecasting import checks as forecasting_checks
from btc_assets.forecasting.tables import EXPLANATIONS, FORECAST_OUTCOMES, FORECASTS
from btc_assets.lake import Lake
from btc_assets.market import checks as market_checks
from btc_assets.partitions import DAILY, day_of, key_of
from btc_assets.serving.assets import newest_champion
from btc_assets.serving.tables import SERVING_BUNDLE
from btc_assets.settings import settings
from btc_assets.streams import Stream
from btc_assets.vocabulary import CHAMPION

BATCH = 2_000
"""Maximum number of materialisations that a tick reads; the next tick reads the rest."""
REMEMBERED_DAYS = 14
"""Newest days whose content is stored in the cursor to recognise unchanged content."""
REPORTED_DAYS = 7
"""Newest closed days to report on; earlier days come from a backfill."""
PARTITION_TAG = "dagster/partition"
RUN_KEY_TAG = "dagster/run_key"
SENSOR_TAG = "dagster/sensor_name"
SCHEDULE_TAG = "dagster/schedule_name"
ATTEMPT_TAG = "btc/attempt"
"""Tag of a retried run with the number of the attempt."""
MAX_ATTEMPTS = 3
"""Maximum number of attempts, including the first."""
RETRY_AFTER = timedelta(minutes=5)
"""Delay between the end of a failed run and its retry; doubled after each further failure."""
RETRY_WITHIN = timedelta(hours=12)
"""Earlier failures are not retried automatically."""

_BLOCKING = {
    (spec.asset_key, spec.name)
    for checks in (*market_checks.CHECKS, *features_checks.CHECKS, *forecasting_checks.CHECKS)
    for spec in checks.check_specs
    if spec.blocking
}
"""Blocking checks between bars and bundle, by asset and name."""

RUNNING_WHEN_LIVE = dg.DefaultSensorStatus.RUNNING if settings().history_end is None else dg.DefaultSensorStatus.STOPPED


@dataclass
class Position:
    """The cursor of a sensor: its position in the event log and the content it has processed.

    Attributes:
        after: storage id of the last event read.
        seen: content of the newest processed days, by partition key.
        hours: content of the hours of the newest days by open_time, for days that are compared by hour.
    """

    after: int = 0
    seen: dict[str, str] = field(default_factory=dict)
    hours: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, cursor: str | None) -> Self:
        """Parse a cursor; None is the start of the event log."""
        return cls(**json.loads(cursor)) if cursor else cls()

    def advance(self, after: int, content: Mapping[str, str]) -> Self:
        """Return the position after processing `content`."""
        merged = sorted((self.seen | dict(content)).items())
        return type(self)(after, dict(merged[-REMEMBERED_DAYS:]), dict(self.hours))

    def __str__(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def positions_of(cursor: str | None) -> dict[str, Position]:
    """Parse the cursor of a sensor on several assets, by name; None is the start of the event log."""
    return {name: Position.parse(text) for name, text in json.loads(cursor).items()} if cursor else {}


def positions_text(positions: Mapping[str, Position]) -> str:
    """Format the cursor of a sensor on several assets."""
    return json.dumps({name: str(position) for name, position in positions.items()}, sort_keys=True)


def accepted_assets(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[dg.AssetKey]:
    """Return the assets that a finished run has materialised with all of their blocking checks passed."""
    entries = instance.all_logs(
        run.run_id, of_type={dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_CHECK_EVALUATION}
    )
    materialised: set[dg.AssetKey] = set()
    passed: set[tuple[dg.AssetKey, str]] = set()
    for event in (entry.get_dagster_event() for entry in entries):
        if event.is_step_materialization and event.asset_key is not None:
            materialised.add(event.asset_key)
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            if evaluation.passed or evaluation.severity != dg.AssetCheckSeverity.ERROR:
                passed.add((evaluation.asset_key, evaluation.check_name))
    return materialised - {key for key, name in _BLOCKING - passed}


def new_content(
    instance: dg.DagsterInstance,
    asset: dg.AssetKey,
    position: Position,
    *,
    even_failed: bool = False,
    downstream: Collection[dg.AssetKey] = (),
) -> tuple[Position, dict[str, str]]:
    """Read every materialisation of an asset after a position.

    Materialisations count once their run has succeeded, including its blocking checks. Events of an unfinished run are
    read in a later tick, events of a failed run are skipped. Events of a walk-forward are skipped too, as it builds its
    own downstream assets. The same holds for the run of the hourly forecast; if it fails, its materialised assets
    count unless it has materialised the downstream assets too.

    Args:
        instance: the Dagster instance with the event log.
        asset: the asset.
        position: start position.
        even_failed: whether to count materialisations of failed runs, for append-only tables.
        downstream: assets that are built from this asset.

    Returns:
        The new position, and the newest content digest of each partition to process.
    """
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset, after_storage_id=position.after), limit=BATCH, ascending=True
    ).records
    runs: dict[str, dg.DagsterRun | None] = {}
    refreshes: dict[str, set[dg.AssetKey]] = {}
    content: dict[str, str] = {}
    processed = dict(position.seen)
    after = position.after
    for record in records:
        if record.run_id not in runs:
            runs[record.run_id] = instance.get_run_by_id(record.run_id)
        run, materialisation = runs[record.run_id], record.asset_materialization
        if run is not None and not run.is_finished:
            break
        after = record.storage_id
        if run is not None and run.job_name == refresh_forecast.name and run.run_id not in refreshes:
            refreshes[run.run_id] = accepted_assets(instance, run)
        materialised = refreshes.get(record.run_id, set())
        if run is not None and (not (run.is_success or even_failed or asset in materialised) or WALK_TAG in run.tags):
            continue
        if record.partition_key is None or not DAILY.has_partition_key(record.partition_key):
            continue  # from a deployment with a different history
        digest = materialisation.metadata.get("partition_digest") if materialisation else None
        content[record.partition_key] = str(digest.value) if digest else f"event {record.storage_id}"
        if downstream and materialised.issuperset(downstream):
            processed[record.partition_key] = content[record.partition_key]
    return position.advance(after, content), {
        key: digest for key, digest in content.items() if processed.get(key) != digest
    }


def retry_requests(
    instance: dg.DagsterInstance, sensor: str, now: datetime, *, schedule: str | None = None
) -> list[dg.RunRequest]:
    """Return the retries of a sensor's failed runs.

    The run storage holds the state: only the newest run of the same days counts, so a superseded request is not
    retried. A cancelled run is not retried, as a user has cancelled it.

    Args:
        instance: the Dagster instance with the runs.
        sensor: name of the sensor.
        now: current time, UTC.
        schedule: name of a schedule whose runs the sensor retries if they stored no bars. Other sensors continue from
            bars that such a run stored.
    """
    records = [
        record
        for tags in ({SENSOR_TAG: sensor}, {SCHEDULE_TAG: schedule} if schedule else {})
        if tags
        for record in instance.get_run_records(dg.RunsFilter(tags=tags, created_after=now - RETRY_WITHIN), limit=BATCH)
    ]
    requests, seen = [], set()
    for record in sorted(records, key=lambda record: record.storage_id, reverse=True):
        run = record.dagster_run
        days = tuple(run.tags.get(tag) for tag in (PARTITION_TAG, RANGE_START_TAG, RANGE_END_TAG))
        if days in seen:
            continue
        seen.add(days)
        attempt = int(run.tags.get(ATTEMPT_TAG, "1"))
        if run.status != dg.DagsterRunStatus.FAILURE or attempt >= MAX_ATTEMPTS:
            continue
        delay = RETRY_AFTER.total_seconds() * 2 ** (attempt - 1)
        # An end far in the future was recorded before the clock was set back and does not delay the retry.
        if record.end_time is None or abs(now.timestamp() - record.end_time) < delay:
            continue
        if schedule and CLOCK.contract.asset_key in accepted_assets(instance, run):
            continue
        run_key = run.tags.get(RUN_KEY_TAG, run.run_id).removesuffix(f"|attempt {attempt}")
        span_tags = {tag: run.tags[tag] for tag in (RANGE_START_TAG, RANGE_END_TAG) if tag in run.tags}
        requests.append(
            dg.RunRequest(
                run_key=f"{run_key}|attempt {attempt + 1}",
                partition_key=run.tags.get(PARTITION_TAG),
                asset_selection=sorted(run.asset_selection) if run.asset_selection else None,
                run_config=run.run_config,
                tags={**span_tags, ATTEMPT_TAG: str(attempt + 1)},
            )
        )
    return requests


def tick_result(
    context: dg.SensorEvaluationContext, requests: list[dg.RunRequest], cursor: str, skip_reason: str
) -> dg.SensorResult | dg.SkipReason:
    """Return the requests of a tick, or a skip reason without requests; update the cursor in both cases."""
    if requests:
        return dg.SensorResult(run_requests=requests, cursor=cursor)
    context.update_cursor(cursor)
    return dg.SkipReason(skip_reason)


def affected_days(changed: Iterable[date], stored: Sequence[date]) -> list[date]:
    """Return the days whose features, labels or forecasts depend on changed bars.

    These are each changed day and the stored days after it within the warm-up of the features (labels need less). For
    an ordinary hour this is today only; for a restated or backfilled past day it includes the following weeks.
    """
    days = set(changed)
    dependent = {day + n * DAY for day in days for n in range(1, WARMUP_DAYS + 1)}
    return sorted(days | (dependent & set(stored)))


def has_champion(lake: Lake, day: date) -> bool:
    """Return whether there is a champion in the last hour of a day."""
    return holder(lake.scan(MODEL_HISTORY, None, day).collect(), CHAMPION, midnight(day + DAY) - HOUR) is not None


def forecast_assets(lake: Lake, day: date) -> list[dg.AssetKey]:
    """Return the assets that `forecast_days` materialises for a day: forecasts only with a champion."""
    return [
        HOURLY_FEATURES.asset_key,
        HOURLY_LABELS.asset_key,
        *([FORECASTS.asset_key, FORECAST_OUTCOMES.asset_key] if has_champion(lake, day) else []),
    ]


def refresh_assets(lake: Lake, now: datetime) -> list[dg.AssetKey]:
    """Return the assets that `refresh_forecast` materialises: forecasts only with a champion, else no bundle."""
    hour = now.replace(minute=0, second=0, microsecond=0) - HOUR
    fetched = [CLOCK.contract.asset_key, *fetched_with_the_clock(settings())]
    materialised = [*fetched, *forecast_assets(lake, hour.date())]
    champion = holder(lake.scan(MODEL_HISTORY, None, hour.date()).collect(), CHAMPION, hour)
    return materialised if champion is None else [*materialised, EXPLANATIONS.asset_key, SERVING_BUNDLE.asset_key]


def rows_by_hour(lake: Lake, stream: Stream, days: Collection[date]) -> dict[str, str]:
    """Return the content digest of a stream's followed rows of these days, by the open_time of their hour."""
    if not days:
        return {}
    rows = lake.scan_days(stream.followed, sorted(days)).sort(stream.followed.key).collect()
    by_hour = rows.group_by(stream.hour.alias("hour"), maintain_order=True)
    return {hour.isoformat(): digest(part)[:16] for (hour,), part in by_hour}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _request(span: Span, run_key: str, assets: Sequence[dg.AssetKey] | None = None) -> dg.RunRequest:
    """Return a request for one run over a span."""
    if span.first == span.last:
        return dg.RunRequest(run_key=run_key, asset_selection=assets, partition_key=str(span))
    return dg.RunRequest(run_key=run_key, asset_selection=assets, tags=span.tags)


@dg.sensor(
    name="refresh_late_bars",
    job=refresh_forecast,
    minimum_interval_seconds=30,
    default_status=RUNNING_WHEN_LIVE,
    description="Retry the forecast of an hour whose bar could not be fetched.",
)
def refresh_late_bars(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Retry a refresh that failed before its bars were stored and checked; other sensors handle later failures."""
    requests = retry_requests(context.instance, "refresh_late_bars", datetime.now(tz=UTC), schedule="hourly_refresh")
    return tick_result(context, requests, "", "no refresh has failed without bars")


@dg.sensor(
    name="forecast_from_new_prices",
    job=forecast_days,
    minimum_interval_seconds=15,
    default_status=RUNNING_WHEN_LIVE,
    description="Build features, labels, forecasts and outcomes of the days affected by new bars.",
)
def forecast_from_new_prices(
    context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake]
) -> dg.SensorResult | dg.SkipReason:
    """Request the days affected by changed bars, with one run per span of consecutive days."""
    position = Position.parse(context.cursor)
    downstream = forecast_assets(lake, settings().now().date())
    new_position, changed = new_content(context.instance, CLOCK.contract.asset_key, position, downstream=downstream)
    requests = retry_requests(context.instance, "forecast_from_new_prices", datetime.now(tz=UTC))
    affected = affected_days(map(day_of, changed), lake.days(CLOCK.contract)) if changed else []
    for span in spans(affected):
        content = "|".join(changed.get(key_of(day), "") for day in span.days)
        content = content if span.first == span.last else _sha256(content)
        requests.append(_request(span, f"{span}|{content}|{new_position.after}", forecast_assets(lake, span.last)))
    return tick_result(context, requests, str(new_position), "no new bars")


@dg.sensor(
    name="score_new_texts",
    job=score_texts,
    minimum_interval_seconds=15,
    default_status=RUNNING_WHEN_LIVE,
    description="Score the sentiment of the days whose articles or posts have changed.",
)
def score_new_texts(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Request the scores of the days with new texts, with one run for articles and posts."""
    positions = positions_of(context.cursor)
    changed: dict[str, str] = {}
    for asset in (stream.contract.asset_key for stream in BESIDE_THE_CLOCK if stream.derived):
        name = asset.path[-1]
        positions[name], content = new_content(context.instance, asset, positions.get(name, Position()))
        for key, texts in content.items():
            changed[key] = f"{changed.get(key, '')}|{name} {texts}"
    requests = retry_requests(context.instance, "score_new_texts", datetime.now(tz=UTC))
    for span in spans(map(day_of, changed)):
        content_of_span = "".join(changed[key_of(day)] for day in span.days)
        requests.append(_request(span, f"{span}|{_sha256(content_of_span)}"))
    new_position = positions_text(positions)
    return tick_result(context, requests, new_position, "no new articles or posts")


def forecast_from(stream: Stream) -> dg.SensorDefinition:
    """Return the sensor that builds the features and forecasts of the days affected by new rows of a stream.

    Args:
        stream: the stream; of several with the same followed table, any one.
    """
    rows = stream.followed_as or stream.name
    name = f"forecast_from_new_{rows}"

    @dg.sensor(
        name=name,
        job=forecast_days,
        minimum_interval_seconds=15,
        default_status=RUNNING_WHEN_LIVE,
        description=f"Build features and forecasts of the days affected by new {rows}.",
    )
    def follow(context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake]) -> dg.SensorResult | dg.SkipReason:
        """Request the days whose rows have changed in a closed hour.

        A row that becomes available within an hour belongs to the features of that hour, which are built after it has
        closed. Rows stored before that are included in the forecast of the hour, so there is no request while that run
        is in progress.
        """
        position = Position.parse(context.cursor)
        running = dg.RunsFilter(job_name=refresh_forecast.name, statuses=UNFINISHED)
        if context.instance.get_runs(running, limit=1):
            return dg.SkipReason(f"the forecast of the hour is running and includes the stored {rows}")
        now = settings().now()
        downstream = forecast_assets(lake, now.date()) if stream.with_the_clock else []
        new_position, changed = new_content(
            context.instance, stream.followed.asset_key, position, downstream=downstream
        )
        requests = retry_requests(context.instance, name, datetime.now(tz=UTC))
        recent = {day for day in map(day_of, changed) if day >= now.date() - DAY}
        hours = rows_by_hour(lake, stream, recent)
        new_position.hours = {
            hour: content for hour, content in position.hours.items() if day_of(hour[:10]) >= now.date() - DAY
        }
        closed = {hour for hour in hours if datetime.fromisoformat(hour) + HOUR <= now}
        late = {day_of(hour[:10]) for hour in closed if new_position.hours.get(hour) != hours[hour]}
        new_position.hours |= hours
        stored = lake.days(CLOCK.contract)
        days = late | (set(map(day_of, changed)) - recent)
        affected = [day for day in affected_days(days, stored) if day in set(stored)] if days else []
        for span in spans(affected):
            content = json.dumps([sorted(changed.items()), sorted((hour, hours[hour]) for hour in closed)])
            requests.append(_request(span, f"{span}|{_sha256(content)}", forecast_assets(lake, span.last)))
        return tick_result(context, requests, str(new_position), f"no new {rows} of closed hours on days with bars")

    return follow


FOLLOWING = [
    forecast_from(stream) for stream in {stream.followed.table: stream for stream in BESIDE_THE_CLOCK}.values()
]
"""One sensor per followed table, except that of the clock."""


@dg.sensor(
    name="publish_new_forecasts",
    job=publish_bundle,
    minimum_interval_seconds=15,
    default_status=RUNNING_WHEN_LIVE,
    description="Publish the newest forecast when it has changed.",
)
def publish_new_forecasts(
    context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake]
) -> dg.SensorResult | dg.SkipReason:
    """Request the bundle of the newest day with new forecasts; an older day never replaces a newer one."""
    position = Position.parse(context.cursor)
    new_position, changed = new_content(
        context.instance, FORECASTS.asset_key, position, downstream=[SERVING_BUNDLE.asset_key]
    )
    today = key_of(settings().now().date())  # a fast clock may have created empty future days
    newest = max((key for key in new_position.seen if key <= today), default=None)
    requests = retry_requests(context.instance, "publish_new_forecasts", datetime.now(tz=UTC))
    message = "no new forecasts of the newest day"
    if newest is not None and newest in changed:
        day = day_of(newest)
        if newest_champion(lake.scan(FORECASTS, day - DAY, day).collect()).is_empty():
            message = f"no champion forecast on {newest} or the day before, so there is nothing to publish"
        else:
            requests.append(_request(Span(day, day), f"{newest}|{changed[newest]}|{new_position.after}"))
    return tick_result(context, requests, str(new_position), message)


@dg.sensor(
    name="forecast_from_new_models",
    job=forecast_days,
    minimum_interval_seconds=15,
    default_status=RUNNING_WHEN_LIVE,
    description="Forecast the newest hour with a model that was promoted, restored by a rollback or put in shadow.",
)
def forecast_from_new_models(
    context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake]
) -> dg.SensorResult | dg.SkipReason:
    """Request today's forecasts if the history of the newest days has changed; older days are not re-forecast."""
    position = Position.parse(context.cursor)
    new_position, changed = new_content(context.instance, MODEL_HISTORY.asset_key, position, even_failed=True)
    requests = retry_requests(context.instance, "forecast_from_new_models", datetime.now(tz=UTC))
    today = settings().now().date()
    stored = [day for day in lake.days(CLOCK.contract) if day <= today]
    recent = {key: content for key, content in changed.items() if day_of(key) >= today - DAY}
    if recent and stored and stored[-1] >= today - DAY and has_champion(lake, stored[-1]):
        content = _sha256(json.dumps(recent, sort_keys=True))
        newest = Span(stored[-1], stored[-1])
        requests.append(
            _request(
                newest, f"{newest}|{content}|{new_position.after}", [FORECASTS.asset_key, FORECAST_OUTCOMES.asset_key]
            )
        )
    return tick_result(context, requests, str(new_position), "no change of champion or challenger today")


@dg.sensor(
    name="settle_shadows",
    job=settle_shadow,
    minimum_interval_seconds=30,
    default_status=RUNNING_WHEN_LIVE,
    description="Promote or dismiss a challenger after the report of a closed day has decided.",
)
def settle_shadows(
    context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake]
) -> dg.SensorResult | dg.SkipReason:
    """Request today's history if yesterday's shadow report promotes or dismisses the challenger."""
    position = Position.parse(context.cursor)
    new_position, changed = new_content(context.instance, SHADOW_REPORT.asset_key, position)
    requests = retry_requests(context.instance, "settle_shadows", datetime.now(tz=UTC))
    today = settings().now().date()
    message = "no report of a closed day decides about a challenger"
    if key_of(today - DAY) in changed and DAILY.has_partition_key(key_of(today)):
        report = lake.read(SHADOW_REPORT, today - DAY)
        decided = None if report is None else shadow_decision(report)
        message = f"the report of {key_of(today - DAY)} decides nothing"
        if decided is not None:
            key = f"shadow|{key_of(today)}|{changed[key_of(today - DAY)]}"
            config = shadow_config("shadow", decided)
            requests.append(dg.RunRequest(run_key=key, partition_key=key_of(today), run_config=config))
    return tick_result(context, requests, str(new_position), message)


@dg.sensor(
    name="report_on_closed_days",
    job=report_performance,
    minimum_interval_seconds=60,
    default_status=RUNNING_WHEN_LIVE,
    description="Report on the forecasts of a day once the day has closed.",
)
def report_on_closed_days(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Request the reports of the newest closed days with changed outcomes, in a separate run."""
    position = Position.parse(context.cursor)
    new_position, changed = new_content(context.instance, FORECAST_OUTCOMES.asset_key, position)
    requests = retry_requests(context.instance, "report_on_closed_days", datetime.now(tz=UTC))
    today = settings().now().date()
    closed = sorted(day for day in map(day_of, changed) if day < today)
    for span in spans(closed[-REPORTED_DAYS:]):
        content = "|".join(changed[key_of(day)] for day in span.days)
        requests.append(_request(span, f"{span}|{_sha256(content)}|{new_position.after}"))
    return tick_result(context, requests, str(new_position), "no closed day has new outcomes")


SENSORS = [
    refresh_late_bars,
    score_new_texts,
    forecast_from_new_prices,
    *FOLLOWING,
    forecast_from_new_models,
    publish_new_forecasts,
    report_on_closed_days,
    settle_shadows,
]
