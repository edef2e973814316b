"""The sensors: new texts are scored; new bars, scores and models become forecasts; those are published and reported on.

The forecast of an hour needs none of them: one run fetches, builds, forecasts and publishes. They are its safety net,
which carries on from what a run has made, whatever started it, and finds nothing to do where that run made the rest.
A requested run counts as done; a run that fails is retried a few times, minutes apart.
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
from btc_assets.forecasting.tables import FORECAST_OUTCOMES, FORECASTS
from btc_assets.lake import Lake
from btc_assets.market import checks as market_checks
from btc_assets.partitions import DAILY, day_of, key_of
from btc_assets.serving.assets import newest_champion
from btc_assets.serving.tables import SERVING_BUNDLE
from btc_assets.settings import settings
from btc_assets.streams import Stream
from btc_assets.vocabulary import CHAMPION

BATCH = 2_000
"""Materialisations a tick reads at most; the rest wait for the next tick."""
REMEMBERED_DAYS = 14
"""Newest days whose content is remembered, so that an unchanged one is not carried on again."""
REPORTED_DAYS = 7
"""Newest closed days that are reported on; what lies further back is history being filled in."""
PARTITION_TAG = "dagster/partition"
RUN_KEY_TAG = "dagster/run_key"
SENSOR_TAG = "dagster/sensor_name"
SCHEDULE_TAG = "dagster/schedule_name"
ATTEMPT_TAG = "btc/attempt"
"""Tag of a run that was asked for again: which attempt it is."""
ATTEMPTS = 3
"""How often a run is asked for, the first time included."""
RETRY_AFTER = timedelta(minutes=5)
"""How long after its end a failed run is asked for again; twice as long after each further failure."""
RETRY_WITHIN = timedelta(hours=12)
"""Older failures are left to a person."""

_BLOCKING = {
    (spec.asset_key, spec.name)
    for checks in (*market_checks.CHECKS, *features_checks.CHECKS, *forecasting_checks.CHECKS)
    for spec in checks.check_specs
    if spec.blocking
}
"""Checks on the way of a forecast that stop what follows, by asset and name."""

RUNNING_WHEN_LIVE = dg.DefaultSensorStatus.RUNNING if settings().history_end is None else dg.DefaultSensorStatus.STOPPED


@dataclass
class Position:
    """How far a sensor has read, and what it has acted on.

    Attributes:
        after: storage id of the last event read.
        seen: content of the newest days acted on, by partition key.
        hours: content of the hours of the newest days, by open_time, where a day is compared hour by hour.
    """

    after: int = 0
    seen: dict[str, str] = field(default_factory=dict)
    hours: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, cursor: str | None) -> Self:
        """Read a cursor; none means the beginning."""
        return cls(**json.loads(cursor)) if cursor else cls()

    def moved(self, after: int, content: Mapping[str, str]) -> Self:
        """Return the position after acting on `content`."""
        merged = sorted((self.seen | dict(content)).items())
        return type(self)(after, dict(merged[-REMEMBERED_DAYS:]), dict(self.hours))

    def __str__(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def positions_of(cursor: str | None) -> dict[str, Position]:
    """Read the cursor of a sensor that follows several assets, by name; none means the beginning."""
    return {name: Position.parse(text) for name, text in json.loads(cursor).items()} if cursor else {}


def positions_text(positions: Mapping[str, Position]) -> str:
    """Return the cursor of a sensor that follows several assets."""
    return json.dumps({name: str(position) for name, position in positions.items()}, sort_keys=True)


def accepted(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[dg.AssetKey]:
    """Return the assets that a finished run has made and every blocking check of which it has passed."""
    entries = instance.all_logs(
        run.run_id, of_type={dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_CHECK_EVALUATION}
    )
    made: set[dg.AssetKey] = set()
    passed: set[tuple[dg.AssetKey, str]] = set()
    for event in (entry.get_dagster_event() for entry in entries):
        if event.is_step_materialization and event.asset_key is not None:
            made.add(event.asset_key)
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            if evaluation.passed or evaluation.severity != dg.AssetCheckSeverity.ERROR:
                passed.add((evaluation.asset_key, evaluation.check_name))
    return made - {key for key, name in _BLOCKING - passed}


def new_content(
    instance: dg.DagsterInstance,
    asset: dg.AssetKey,
    position: Position,
    *,
    even_failed: bool = False,
    then: Collection[dg.AssetKey] = (),
) -> tuple[Position, dict[str, str]]:
    """Read every materialisation of an asset since a position, none skipped.

    What a run made counts once the run has succeeded, its blocking checks included: events of an unfinished run are
    left for a later tick, those of a failed run are passed over. So are those of a walk-forward, which carries its
    own bars on. The run that makes the forecast of the hour carries its own on as well; if it fails, what it has made
    until then counts, unless it has made what follows too.

    Args:
        instance: whose event log is read.
        asset: the asset.
        position: where to start.
        even_failed: count what a failed run made as well: rows that are only ever added stand, whatever failed after.
        then: what follows from the asset.

    Returns:
        The position after what was read, and the newest content digest of each partition that is to be carried on.
    """
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset, after_storage_id=position.after), limit=BATCH, ascending=True
    ).records
    runs: dict[str, dg.DagsterRun | None] = {}
    refreshes: dict[str, set[dg.AssetKey]] = {}
    content: dict[str, str] = {}
    carried = dict(position.seen)
    after = position.after
    for record in records:
        if record.run_id not in runs:
            runs[record.run_id] = instance.get_run_by_id(record.run_id)
        run, materialisation = runs[record.run_id], record.asset_materialization
        if run is not None and not run.is_finished:
            break
        after = record.storage_id
        if run is not None and run.job_name == refresh_forecast.name and run.run_id not in refreshes:
            refreshes[run.run_id] = accepted(instance, run)
        made = refreshes.get(record.run_id, set())
        if run is not None and (not (run.is_success or even_failed or asset in made) or WALK_TAG in run.tags):
            continue
        if record.partition_key is None or not DAILY.has_partition_key(record.partition_key):
            continue  # recorded by a deployment with another history
        digest = materialisation.metadata.get("partition_digest") if materialisation else None
        content[record.partition_key] = str(digest.value) if digest else f"event {record.storage_id}"
        if then and made.issuperset(then):
            carried[record.partition_key] = content[record.partition_key]
    return position.moved(after, content), {
        key: digest for key, digest in content.items() if carried.get(key) != digest
    }


def asked_again(
    instance: dg.DagsterInstance, sensor: str, now: datetime, *, schedule: str | None = None
) -> list[dg.RunRequest]:
    """Return the requests of a sensor whose runs have failed and deserve another attempt.

    The run storage is the memory: of the runs started for the same days the newest counts, so a request that was
    overtaken is not repeated, and a cancelled one is a person's decision.

    Args:
        instance: whose runs are read.
        sensor: name of the sensor.
        now: UTC.
        schedule: name of a schedule whose runs the sensor retries. Bars that such a run has made are carried on
            by the other sensors; it is retried only where it has made none.
    """
    records = [
        record
        for tags in ({SENSOR_TAG: sensor}, {SCHEDULE_TAG: schedule} if schedule else {})
        if tags
        for record in instance.get_run_records(dg.RunsFilter(tags=tags, created_after=now - RETRY_WITHIN), limit=BATCH)
    ]
    requests, met = [], set()
    for record in sorted(records, key=lambda record: record.storage_id, reverse=True):
        run = record.dagster_run
        days = tuple(run.tags.get(tag) for tag in (PARTITION_TAG, RANGE_START_TAG, RANGE_END_TAG))
        if days in met:
            continue
        met.add(days)
        attempt = int(run.tags.get(ATTEMPT_TAG, "1"))
        if run.status != dg.DagsterRunStatus.FAILURE or attempt >= ATTEMPTS:
            continue
        rest = RETRY_AFTER.total_seconds() * 2 ** (attempt - 1)
        # An end far in the future comes from a clock that has been put back since and does not count.
        if record.end_time is None or abs(now.timestamp() - record.end_time) < rest:
            continue
        if schedule and CLOCK.contract.asset_key in accepted(instance, run):
            continue
        asked = run.tags.get(RUN_KEY_TAG, run.run_id).removesuffix(f"|attempt {attempt}")
        kept = {tag: run.tags[tag] for tag in (RANGE_START_TAG, RANGE_END_TAG) if tag in run.tags}
        requests.append(
            dg.RunRequest(
                run_key=f"{asked}|attempt {attempt + 1}",
                partition_key=run.tags.get(PARTITION_TAG),
                asset_selection=sorted(run.asset_selection) if run.asset_selection else None,
                run_config=run.run_config,
                tags={**kept, ATTEMPT_TAG: str(attempt + 1)},
            )
        )
    return requests


def answered(
    context: dg.SensorEvaluationContext, requests: list[dg.RunRequest], cursor: str, otherwise: str
) -> dg.SensorResult | dg.SkipReason:
    """Answer a tick with its requests, or say why there are none; the cursor moves on either way."""
    if requests:
        return dg.SensorResult(run_requests=requests, cursor=cursor)
    context.update_cursor(cursor)
    return dg.SkipReason(otherwise)


def days_touched(changed: Iterable[date], stored: Sequence[date]) -> list[date]:
    """Return the days whose features, labels or forecasts follow from bars that have changed.

    Each changed day, and the stored days after it as far as the features look back (labels look back less): nothing
    more than today for an ordinary hour, the following weeks for a past day that was restated or filled in.
    """
    days = set(changed)
    reached = {day + n * DAY for day in days for n in range(1, WARMUP_DAYS + 1)}
    return sorted(days | (reached & set(stored)))


def has_champion(lake: Lake, day: date) -> bool:
    """Say whether the history names a champion by the end of a day."""
    return holder(lake.scan(MODEL_HISTORY, None, day).collect(), CHAMPION, midnight(day + DAY) - HOUR) is not None


def forecast_assets(lake: Lake, day: date) -> list[dg.AssetKey]:
    """Return what `forecast_days` makes of the days up to one: forecasts only where there is a champion."""
    return [
        HOURLY_FEATURES.asset_key,
        HOURLY_LABELS.asset_key,
        *([FORECASTS.asset_key, FORECAST_OUTCOMES.asset_key] if has_champion(lake, day) else []),
    ]


def refresh_assets(lake: Lake, now: datetime) -> list[dg.AssetKey]:
    """Return what `refresh_forecast` makes: forecasts only with a champion, the bundle only with its forecast."""
    hour = now.replace(minute=0, second=0, microsecond=0) - HOUR
    made = [CLOCK.contract.asset_key, *forecast_assets(lake, hour.date())]
    champion = holder(lake.scan(MODEL_HISTORY, None, hour.date()).collect(), CHAMPION, hour)
    return made if champion is None else [*made, SERVING_BUNDLE.asset_key]


def rows_by_hour(lake: Lake, stream: Stream, days: Collection[date]) -> dict[str, str]:
    """Return the content of the rows that features read last, of these days, by the open_time they count for."""
    if not days:
        return {}
    rows = lake.scan_days(stream.followed, sorted(days)).sort(stream.followed.key).collect()
    by_hour = rows.group_by(stream.hour.alias("hour"), maintain_order=True)
    return {hour.isoformat(): digest(part)[:16] for (hour,), part in by_hour}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _request(span: Span, run_key: str, assets: Sequence[dg.AssetKey] | None = None) -> dg.RunRequest:
    """Return the request of one run over a span."""
    if span.first == span.last:
        return dg.RunRequest(run_key=run_key, asset_selection=assets, partition_key=str(span))
    return dg.RunRequest(run_key=run_key, asset_selection=assets, tags=span.tags)


@dg.sensor(
    name="refresh_late_bars",
    job=refresh_forecast,
    minimum_interval_seconds=30,
    default_status=RUNNING_WHEN_LIVE,
    description="Ask again for the forecast of an hour whose bar could not be fetched.",
)
def refresh_late_bars(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Ask again for a refresh that failed before its bars were stored and checked; what failed later is carried on."""
    requests = asked_again(context.instance, "refresh_late_bars", datetime.now(tz=UTC), schedule="hourly_refresh")
    return answered(context, requests, "", "no refresh has failed for want of bars")


@dg.sensor(
    name="forecast_from_new_prices",
    job=forecast_days,
    minimum_interval_seconds=15,
    default_status=RUNNING_WHEN_LIVE,
    description="Carry new bars on to features, labels, forecasts and outcomes of the days they touch.",
)
def forecast_from_new_prices(
    context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake]
) -> dg.SensorResult | dg.SkipReason:
    """Ask for the days whose bars have changed: neighbouring days in one run, unchanged days not at all."""
    position = Position.parse(context.cursor)
    then = forecast_assets(lake, settings().now().date())
    moved, changed = new_content(context.instance, CLOCK.contract.asset_key, position, then=then)
    requests = asked_again(context.instance, "forecast_from_new_prices", datetime.now(tz=UTC))
    touched = days_touched(map(day_of, changed), lake.days(CLOCK.contract)) if changed else []
    for span in spans(touched):
        content = "|".join(changed.get(key_of(day), "") for day in span.days)
        content = content if span.first == span.last else _sha256(content)
        requests.append(_request(span, f"{span}|{content}|{moved.after}", forecast_assets(lake, span.last)))
    return answered(context, requests, str(moved), "no new bars")


@dg.sensor(
    name="score_new_texts",
    job=score_texts,
    minimum_interval_seconds=15,
    default_status=RUNNING_WHEN_LIVE,
    description="Score the sentiment of the days whose articles or posts have changed.",
)
def score_new_texts(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Ask for the scores of the days with new texts; articles and posts of one gathering are one request."""
    positions = positions_of(context.cursor)
    changed: dict[str, str] = {}
    for asset in (stream.contract.asset_key for stream in BESIDE_THE_CLOCK if stream.derived):
        name = asset.path[-1]
        positions[name], content = new_content(context.instance, asset, positions.get(name, Position()))
        for key, texts in content.items():
            changed[key] = f"{changed.get(key, '')}|{name} {texts}"
    requests = asked_again(context.instance, "score_new_texts", datetime.now(tz=UTC))
    for span in spans(map(day_of, changed)):
        content_of_span = "".join(changed[key_of(day)] for day in span.days)
        requests.append(_request(span, f"{span}|{_sha256(content_of_span)}"))
    moved = positions_text(positions)
    return answered(context, requests, moved, "no new articles or posts")


def forecast_from(stream: Stream) -> dg.SensorDefinition:
    """Return the sensor that carries new rows of a stream on to the features and forecasts of the days they touch.

    Args:
        stream: which; where several share the table that features read last, any one of them.
    """
    rows = stream.followed_as or stream.name
    name = f"forecast_from_new_{rows}"

    @dg.sensor(
        name=name,
        job=forecast_days,
        minimum_interval_seconds=15,
        default_status=RUNNING_WHEN_LIVE,
        description=f"Carry new {rows} on to features and forecasts of the days they touch.",
    )
    def follow(context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake]) -> dg.SensorResult | dg.SkipReason:
        """Ask for the days whose rows have changed in an hour that has closed.

        A row that becomes available within an hour counts for that hour's features, which are made when the hour has
        closed: what is stored before that is joined by the forecast of the hour. While that one is running nothing is
        requested.
        """
        position = Position.parse(context.cursor)
        at_work = dg.RunsFilter(job_name=refresh_forecast.name, statuses=UNFINISHED)
        if context.instance.get_runs(at_work, limit=1):
            return dg.SkipReason(f"the forecast of the hour is at work; it joins the {rows} stored by then")
        moved, changed = new_content(context.instance, stream.followed.asset_key, position)
        requests = asked_again(context.instance, name, datetime.now(tz=UTC))
        now = settings().now()
        recent = {day for day in map(day_of, changed) if day >= now.date() - DAY}
        hours = rows_by_hour(lake, stream, recent)
        moved.hours = {
            hour: content for hour, content in position.hours.items() if day_of(hour[:10]) >= now.date() - DAY
        }
        closed = {hour for hour in hours if datetime.fromisoformat(hour) + HOUR <= now}
        late = {day_of(hour[:10]) for hour in closed if moved.hours.get(hour) != hours[hour]}
        moved.hours |= hours
        stored = lake.days(CLOCK.contract)
        days = late | (set(map(day_of, changed)) - recent)
        touched = [day for day in days_touched(days, stored) if day in set(stored)] if days else []
        for span in spans(touched):
            content = json.dumps([sorted(changed.items()), sorted((hour, hours[hour]) for hour in closed)])
            requests.append(_request(span, f"{span}|{_sha256(content)}", forecast_assets(lake, span.last)))
        return answered(context, requests, str(moved), f"no new {rows} of closed hours of days that have bars")

    return follow


FOLLOWING = [
    forecast_from(stream) for stream in {stream.followed.table: stream for stream in BESIDE_THE_CLOCK}.values()
]
"""A sensor for each table that features read last, but the clock's."""


@dg.sensor(
    name="publish_new_forecasts",
    job=publish_bundle,
    minimum_interval_seconds=15,
    default_status=RUNNING_WHEN_LIVE,
    description="Publish the newest forecast to the server whenever it has changed.",
)
def publish_new_forecasts(
    context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake]
) -> dg.SensorResult | dg.SkipReason:
    """Ask for the bundle of the newest day with new forecasts; an older day never replaces a newer one."""
    position = Position.parse(context.cursor)
    moved, changed = new_content(context.instance, FORECASTS.asset_key, position, then=[SERVING_BUNDLE.asset_key])
    today = key_of(settings().now().date())  # a clock that was ahead has made days to come, which are empty
    newest = max((key for key in moved.seen if key <= today), default=None)
    requests = asked_again(context.instance, "publish_new_forecasts", datetime.now(tz=UTC))
    message = "no new forecasts of the newest day"
    if newest is not None and newest in changed:
        day = day_of(newest)
        if newest_champion(lake.scan(FORECASTS, day - DAY, day).collect()).is_empty():
            message = f"no champion forecasts {newest} or the day before, so there is nothing to publish"
        else:
            requests.append(_request(Span(day, day), f"{newest}|{changed[newest]}|{moved.after}"))
    return answered(context, requests, str(moved), message)


@dg.sensor(
    name="forecast_from_new_models",
    job=forecast_days,
    minimum_interval_seconds=15,
    default_status=RUNNING_WHEN_LIVE,
    description="Let a model that was promoted, rolled back to or sent into shadow forecast the newest hour at once.",
)
def forecast_from_new_models(
    context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake]
) -> dg.SensorResult | dg.SkipReason:
    """Ask for today's forecasts where the history of the newest days has changed; older days are not made anew."""
    position = Position.parse(context.cursor)
    moved, changed = new_content(context.instance, MODEL_HISTORY.asset_key, position, even_failed=True)
    requests = asked_again(context.instance, "forecast_from_new_models", datetime.now(tz=UTC))
    today = settings().now().date()
    stored = [day for day in lake.days(CLOCK.contract) if day <= today]
    recent = {key: content for key, content in changed.items() if day_of(key) >= today - DAY}
    if recent and stored and stored[-1] >= today - DAY and has_champion(lake, stored[-1]):
        content = _sha256(json.dumps(recent, sort_keys=True))
        newest = Span(stored[-1], stored[-1])
        requests.append(
            _request(newest, f"{newest}|{content}|{moved.after}", [FORECASTS.asset_key, FORECAST_OUTCOMES.asset_key])
        )
    return answered(context, requests, str(moved), "no new champion today")


@dg.sensor(
    name="settle_shadows",
    job=settle_shadow,
    minimum_interval_seconds=30,
    default_status=RUNNING_WHEN_LIVE,
    description="Promote or dismiss a challenger once the report of a closed day has judged it.",
)
def settle_shadows(
    context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake]
) -> dg.SensorResult | dg.SkipReason:
    """Ask for the history of the day after the newest report, where that report promotes or dismisses."""
    position = Position.parse(context.cursor)
    moved, changed = new_content(context.instance, SHADOW_REPORT.asset_key, position)
    requests = asked_again(context.instance, "settle_shadows", datetime.now(tz=UTC))
    today = settings().now().date()
    message = "no report of a closed day judges a challenger"
    if key_of(today - DAY) in changed and DAILY.has_partition_key(key_of(today)):
        report = lake.read(SHADOW_REPORT, today - DAY)
        decided = None if report is None else shadow_decision(report)
        message = f"the report of {key_of(today - DAY)} decides nothing"
        if decided is not None:
            key = f"shadow|{key_of(today)}|{changed[key_of(today - DAY)]}"
            config = shadow_config("shadow", decided)
            requests.append(dg.RunRequest(run_key=key, partition_key=key_of(today), run_config=config))
    return answered(context, requests, str(moved), message)


@dg.sensor(
    name="report_on_closed_days",
    job=report_performance,
    minimum_interval_seconds=60,
    default_status=RUNNING_WHEN_LIVE,
    description="Report on the forecasts of a day once the day has closed.",
)
def report_on_closed_days(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Ask for the reports of the newest closed days whose outcomes have changed, in a run of their own."""
    position = Position.parse(context.cursor)
    moved, changed = new_content(context.instance, FORECAST_OUTCOMES.asset_key, position)
    requests = asked_again(context.instance, "report_on_closed_days", datetime.now(tz=UTC))
    today = settings().now().date()
    closed = sorted(day for day in map(day_of, changed) if day < today)
    for span in spans(closed[-REPORTED_DAYS:]):
        content = "|".join(changed[key_of(day)] for day in span.days)
        requests.append(_request(span, f"{span}|{_sha256(content)}|{moved.after}"))
    return answered(context, requests, str(moved), "no closed day has new outcomes")


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
