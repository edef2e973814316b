"""The sensors: new bars become forecasts, new forecasts are published."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Self

import dagster as dg

from btc_assets.automation.jobs import (
    FEATURES,
    FORECASTS,
    LABELS,
    OUTCOMES,
    PRICES,
    REPORT,
    VERDICT,
    forecast_days,
    publish_bundle,
)
from btc_assets.automation.spans import Span, spans
from btc_assets.automation.walk_forward import WALK_TAG
from btc_assets.partitions import DAILY, day_of, key_of
from btc_assets.settings import settings

BATCH = 2_000
"""Materialisations a tick reads at most; the rest wait for the next tick."""
REMEMBERED_DAYS = 14
"""Newest days whose content is remembered, so that an unchanged one is not carried on again."""
REPORTED_DAYS = 7
"""A longer range is history being filled in: the report waits for the next day that closes."""

RUNNING_WHEN_LIVE = dg.DefaultSensorStatus.RUNNING if settings().history_end is None else dg.DefaultSensorStatus.STOPPED


@dataclass
class Position:
    """How far a sensor has read, and what it has acted on.

    Attributes:
        after: storage id of the last event read.
        seen: content of the newest days acted on, by partition key.
    """

    after: int = 0
    seen: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, cursor: str | None) -> Self:
        """Read a cursor; none means the beginning."""
        return cls(**json.loads(cursor)) if cursor else cls()

    def moved(self, after: int, content: Mapping[str, str]) -> Self:
        """Return the position after acting on `content`."""
        merged = sorted((self.seen | dict(content)).items())
        return type(self)(after, dict(merged[-REMEMBERED_DAYS:]))

    def __str__(self) -> str:
        return json.dumps({"after": self.after, "seen": self.seen}, sort_keys=True)


def new_content(instance: dg.DagsterInstance, asset: dg.AssetKey, position: Position) -> tuple[int, dict[str, str]]:
    """Read every materialisation of an asset since a position, none skipped.

    What a run made counts once the run has succeeded, its blocking checks included: events of an unfinished run are
    left for a later tick, those of a failed run are passed over. So are those of a walk-forward, which carries its
    own bars on.

    Args:
        instance: whose event log is read.
        asset: the asset.
        position: where to start.

    Returns:
        The storage id read up to, and the newest content digest of each partition whose content is new.
    """
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset, after_storage_id=position.after), limit=BATCH, ascending=True
    ).records
    runs: dict[str, dg.DagsterRun | None] = {}
    content: dict[str, str] = {}
    after = position.after
    for record in records:
        if record.run_id not in runs:
            runs[record.run_id] = instance.get_run_by_id(record.run_id)
        run, materialisation = runs[record.run_id], record.asset_materialization
        if run is not None and not run.is_finished:
            break
        after = record.storage_id
        if run is not None and (not run.is_success or WALK_TAG in run.tags):
            continue
        if record.partition_key is None or not DAILY.has_partition_key(record.partition_key):
            continue  # recorded by a deployment with another history
        digest = materialisation.metadata.get("partition_digest") if materialisation else None
        content[record.partition_key] = str(digest.value) if digest else f"event {record.storage_id}"
    return after, {key: digest for key, digest in content.items() if position.seen.get(key) != digest}


def carried_assets(span: Span, *, today: date, has_model: bool) -> list[dg.AssetKey]:
    """Return what new bars of a span bring: forecasts once there is a model, the report when a day has closed."""
    carried = [FEATURES, LABELS]
    if has_model:
        carried += [FORECASTS, OUTCOMES]
        if span.first < today and len(span.days) <= REPORTED_DAYS:
            carried.append(REPORT)
    return carried


@dg.sensor(
    name="forecast_from_new_prices",
    job=forecast_days,
    minimum_interval_seconds=15,
    default_status=RUNNING_WHEN_LIVE,
    description="Carry new bars on to features, labels, forecasts and outcomes of the same days.",
)
def forecast_from_new_prices(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Ask for the days whose bars have changed: neighbouring days in one run, unchanged days not at all."""
    position = Position.parse(context.cursor)
    after, changed = new_content(context.instance, PRICES, position)
    moved = str(position.moved(after, changed))
    if not changed:
        context.update_cursor(moved)
        return dg.SkipReason("no new bars")
    has_model = context.instance.get_latest_materialization_event(VERDICT) is not None
    today = settings().now().date()
    requests = []
    for span in spans(day_of(key) for key in changed):
        content = "|".join(changed[key_of(day)] for day in span.days)
        content = content if span.first == span.last else hashlib.sha256(content.encode()).hexdigest()
        requests.append(
            dg.RunRequest(
                run_key=f"{span}|{content}|{after}",
                asset_selection=carried_assets(span, today=today, has_model=has_model),
                **({"partition_key": str(span)} if span.first == span.last else {"tags": span.tags}),
            )
        )
    return dg.SensorResult(run_requests=requests, cursor=moved)


@dg.sensor(
    name="publish_new_forecasts",
    job=publish_bundle,
    minimum_interval_seconds=15,
    default_status=RUNNING_WHEN_LIVE,
    description="Publish the newest forecast to the server whenever it has changed.",
)
def publish_new_forecasts(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Ask for the bundle of the newest day with new forecasts; an older day never replaces a newer one."""
    position = Position.parse(context.cursor)
    after, changed = new_content(context.instance, FORECASTS, position)
    newest = max([*position.seen, *changed], default=None)
    moved = str(position.moved(after, changed))
    if newest is None or newest not in changed:
        context.update_cursor(moved)
        return dg.SkipReason("no new forecasts of the newest day")
    request = dg.RunRequest(run_key=f"{newest}|{changed[newest]}|{after}", partition_key=newest)
    return dg.SensorResult(run_requests=[request], cursor=moved)


SENSORS = [forecast_from_new_prices, publish_new_forecasts]
