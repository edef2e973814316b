"""The walk-forward: replay history cutoff by cutoff, training each model before the days that it forecasts.

The job runs the project's own asset jobs inside its single step, on the same instance, so everything it makes is an
ordinary materialisation. It can be interrupted and resumed: partitions made from the same data, code and settings are
kept.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from btc_assets.automation.failures import why_failed
from btc_assets.automation.spans import DAY, Span, spans
from btc_assets.champion.assets import shadow_config
from btc_assets.champion.history import holder, holders, is_recorded, shadow_decision
from btc_assets.champion.tables import MODEL_HISTORY, MODEL_VERDICT, SHADOW_REPORT
from btc_assets.clock import HOUR, midnight
from btc_assets.digest import digest
from btc_assets.features.catalog import WARMUP_DAYS
from btc_assets.features.inputs import BESIDE_THE_CLOCK, CLOCK
from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.forecasting.tables import EXPLANATIONS, FORECAST_OUTCOMES, FORECASTS, POSITIONS
from btc_assets.lake import Lake
from btc_assets.learning.missingness import LOOK_BACK_DAYS
from btc_assets.learning.tables import (
    CV_FOLDS,
    ENSEMBLE,
    FOLD_FORECASTS,
    MODEL_EXPLANATION,
    TRAINED_MODEL,
    TRAINING_PROFILE,
    TUNED_PARAMETERS,
    VOLATILITY_MODEL,
)
from btc_assets.market.assets import closed_span
from btc_assets.market.bars import coverage_fault
from btc_assets.market.quarter_bars import QUARTER_BARS
from btc_assets.market.sources.choose import source_of
from btc_assets.partitions import key_of, previous_monday
from btc_assets.schema import Contract
from btc_assets.settings import Settings, settings
from btc_assets.streams import Stream
from btc_assets.transport import SourceError
from btc_assets.vocabulary import CHALLENGER, HELD_ROLES

BACKGROUND = "btc/background"
"""Tag of long runs: `dagster.yaml` keeps one run slot free of them, for the hourly forecast."""
WALK_TAG = "btc/walk_forward"
"""Tag of every run that a walk-forward starts: the run id of the walk."""
FINGERPRINT_TAG = "btc/fingerprint"
"""Tag of a run: fingerprint of its data, code and settings."""
TRAINING_SETTINGS = {
    "feature_set",
    "families",
    "ensemble_weights",
    "train_days",
    "cv_folds",
    "cv_test_days",
    "tune_trials",
    "tune_every_days",
    "seed",
}
"""Settings that a model depends on."""
JUDGING_SETTINGS = {
    "gate_margin_nats",
    "gate_tolerance_nats",
    "gate_significance",
    "gate_new_inputs",
    "shadow_hours",
    "fee_bps",
}
"""Further settings that a verdict depends on."""
TRAINED = (
    CV_FOLDS,
    VOLATILITY_MODEL,
    TUNED_PARAMETERS,
    FOLD_FORECASTS,
    ENSEMBLE,
    TRAINED_MODEL,
    MODEL_EXPLANATION,
    TRAINING_PROFILE,
)
"""Tables of a trained cutoff, in graph order; training does not depend on any verdict."""
JUDGED = (MODEL_HISTORY, MODEL_VERDICT)
"""Tables of a judged cutoff; a verdict depends on the earlier verdicts."""
FORECAST_SETTINGS = {"train_days", "fee_bps", "too_small_to_call"}
"""Further settings that forecasts and outcomes depend on."""
POSITION_SETTINGS = {"position_enter", "position_exit", "position_sizing"}
"""Settings that paper positions depend on."""


class WalkError(RuntimeError):
    """A walk-forward cannot continue."""


class WalkForwardConfig(dg.Config):
    """The period to replay."""

    start: str = Field(default="", description="First cutoff, YYYY-MM-DD; empty: the first Monday with a full window.")
    end: str = Field(default="", description="Last day to forecast, YYYY-MM-DD; empty: the last day that has closed.")
    every_days: int = Field(
        default=7, ge=0, le=365, description="Days from one cutoff to the next; 0: the first cutoff is the only one."
    )
    resume: bool = Field(
        default=True, description="Keep partitions that were made from the same data, code and settings."
    )


@dataclass(frozen=True)
class Leg:
    """One cutoff and the days for which its model is the newest.

    Attributes:
        cutoff: cutoff day; the model uses no data from its 00:00 UTC on.
        days: days to forecast up to the next cutoff, the cutoff's own day first.
    """

    cutoff: date
    days: Span


def plan(first_cutoff: date, last_day: date, every_days: int) -> list[Leg]:
    """Split a period into legs, in order; one leg if `every_days` is 0.

    Raises:
        WalkError: the period is empty.
    """
    if last_day < first_cutoff:
        raise WalkError(f"the walk ends on {last_day}, before its first cutoff {first_cutoff}")
    if every_days == 0:
        return [Leg(first_cutoff, Span(first_cutoff, last_day))]
    legs = []
    cutoff = first_cutoff
    while cutoff <= last_day:
        following = cutoff + timedelta(days=every_days)
        legs.append(Leg(cutoff, Span(cutoff, min(following - DAY, last_day))))
        cutoff = following
    return legs


def period(config: WalkForwardConfig, chosen: Settings) -> tuple[date, date]:
    """Return the first cutoff and the last day of a walk, with defaults.

    Raises:
        WalkError: the period is outside the history, or a date cannot be parsed.
    """
    try:
        start = date.fromisoformat(config.start) if config.start else None
        end = date.fromisoformat(config.end) if config.end else None
    except ValueError as error:
        raise WalkError(f"start and end are dates like 2024-01-01: {error}") from error
    newest = chosen.now().date() - DAY
    if start is None:
        earliest = chosen.first_day + timedelta(days=chosen.recent_days)
        start = previous_monday(earliest + 6 * DAY)
    if end is None:
        end = newest
    if start <= chosen.first_day:
        raise WalkError(f"the first cutoff {start} has no history before it: BTC_HISTORY_START is {chosen.first_day}")
    if chosen.history_end is not None and end >= chosen.history_end:
        raise WalkError(f"the walk ends on {end}, but BTC_HISTORY_END closes the history before {chosen.history_end}")
    return start, end


def missing_days(lake: Lake, contract: Contract, days: Iterable[date]) -> list[date]:
    """Return the days that are not stored, or are stored with other columns than the present contract's."""
    stored = set(lake.days(contract))
    return [day for day in days if day not in stored or lake.columns(contract, day) != list(contract.columns)]


def days_to_fetch(lake: Lake, days: Iterable[date], now: datetime) -> list[date]:
    """Return the days whose bars must be fetched: missing days, and the newest stored day if it has grown since.

    The newest stored day may be incomplete. A missing hour of an older day is a gap, which
    stays a gap.
    """
    days = list(days)
    to_fetch = set(missing_days(lake, CLOCK.contract, days))
    newest = max(lake.days(CLOCK.contract), default=None)
    if newest is not None and newest in days:
        first, end = closed_span([newest], now)
        stored_until = lake.scan_days(CLOCK.contract, [newest]).select(pl.col("open_time").max()).collect().item()
        if first < end and (stored_until is None or stored_until < end - timedelta(hours=1)):
            to_fetch.add(newest)
    return sorted(to_fetch)


@dataclass
class Walk:
    """One walk-forward over a lake.

    Attributes:
        instance: the Dagster instance that records its runs.
        definitions: definitions with the jobs to run.
        lake: holds the tables.
        settings: of the deployment.
        walk_id: run id of the walk.
        report: receives progress messages, one sentence each.
        resume: keep partitions that are up to date.
    """

    instance: dg.DagsterInstance
    definitions: dg.Definitions
    lake: Lake
    settings: Settings
    walk_id: str
    report: Callable[[str], None]
    resume: bool = True
    _digests: dict[tuple[str, date], str] = field(default_factory=dict)

    def run(self, legs: Sequence[Leg]) -> int:
        """Walk every leg in order, then report and publish the last day.

        Returns:
            The number of cutoffs trained; the others were up to date.

        Raises:
            WalkError: a run failed; the message names it.
        """
        began = time.monotonic()
        last_day = legs[-1].days.last
        self._prepare_data(legs[0].cutoff, last_day)
        trained, retrain, rejudge = 0, not self.resume, not self.resume
        for number, leg in enumerate(legs, start=1):
            started = time.monotonic()
            new = self._train(leg, again=retrain)
            # A model reuses parameters of earlier cutoffs, and is judged against their models.
            retrain = retrain or new
            rejudge = rejudge or new or self._lacks_verdict(leg)
            if rejudge:
                self._judge(leg)
            trained += new
            mark = time.monotonic()
            made = self._forecast(leg, again=new)
            self.report(
                f"cutoff {key_of(leg.cutoff)} ({number}/{len(legs)}): "
                f"{'trained' if new else 'already trained'}, {'judged' if rejudge else 'already judged'} "
                f"({mark - started:.1f} s), {self._decision(leg.cutoff)}; "
                f"forecasts {leg.days} {'made' if made else 'already made'} ({time.monotonic() - mark:.1f} s)"
            )
        started = time.monotonic()
        reports = ["monitoring/performance_report", "champion/shadow_report"]
        self._materialise("report_performance", Span(last_day, last_day), reports)
        self._record_positions(Span(legs[0].cutoff, last_day))
        published = [EXPLANATIONS.table, "serving/bundle"]
        self._materialise("publish_bundle", Span(last_day, last_day), published)
        self.report(f"reported on and published {key_of(last_day)} ({time.monotonic() - started:.1f} s)")
        self.report(f"walked {len(legs)} cutoffs, {trained} of them trained now, in {time.monotonic() - began:.0f} s")
        return trained

    # --- the steps -----------------------------------------------------------------------------
    def _prepare_data(self, first_cutoff: date, last_day: date) -> None:
        """Materialise the missing data of the walk; tables with the same missing days share a run.

        Features and labels are needed from the first window on; bars and texts also for the warm-up before it.
        """
        start = first_cutoff - timedelta(days=self.settings.window_days)
        first = self.settings.first_day
        fetched = Span(max(first, start - timedelta(days=WARMUP_DAYS)), last_day).days
        bars = set(days_to_fetch(self.lake, fetched, self.settings.now()))
        self._require_bars(first_cutoff, sorted(bars))
        to_fetch, changed = [(CLOCK.contract, bars)], set(bars)
        together: dict[str, list[Stream]] = {}  # streams that share a derived table, whose days are made together
        for stream in BESIDE_THE_CLOCK:
            if stream.is_gathered(self.settings):
                together.setdefault(stream.followed.table, []).append(stream)
        for streams in together.values():
            days = {day for stream in streams for day in missing_days(self.lake, stream.contract, fetched)}
            to_fetch += [(stream.contract, days) for stream in streams]
            for table in streams[0].derived:
                days = {*missing_days(self.lake, table, fetched), *days}
                to_fetch.append((table, days))
            changed |= days
        reached = {day + i * DAY for day in changed for i in range(WARMUP_DAYS + 1)}
        for contract in (HOURLY_FEATURES, HOURLY_LABELS):
            built = set(Span(max(first, start), last_day).days)
            if self.resume:
                built &= {*missing_days(self.lake, contract, built), *reached}
            to_fetch.append((contract, built))
        for days, tables in groupby(to_fetch, key=lambda pair: pair[1]):
            names = [contract.table for contract, _ in tables]
            for span in spans(days):
                started = time.monotonic()
                self._materialise("prepare_days", span, names)
                self.report(f"{', '.join(names)} of {span} made ({time.monotonic() - started:.1f} s)")

    def _require_bars(self, first_cutoff: date, days: Sequence[date]) -> None:
        """Check that files have the bars of these days before anything is materialised.

        Raises:
            WalkError: the files cannot be read, lack a day, or do not reach a day before the first cutoff.
        """
        if self.settings.source_grows or not days:
            return
        now = self.settings.now()
        first, last = closed_span(days, now)
        try:
            bars = source_of(self.settings).fetch(first, last, now)
        except SourceError as error:
            raise WalkError(str(error)) from error
        if fault := coverage_fault(bars, days, last, grows=False):
            raise WalkError(f"{fault}.")
        begin = bars.get_column("open_time").min()
        if isinstance(begin, datetime) and days[0] < first_cutoff <= begin.date():
            raise WalkError(
                f"the files begin at {begin:%Y-%m-%d %H:%M} UTC, which leaves no training data before the first "
                f"cutoff {first_cutoff}: set BTC_HISTORY_START={begin.date()}, and begin the walk a "
                f"training window later."
            )

    def _train(self, leg: Leg, *, again: bool) -> bool:
        """Train a cutoff unless it is up to date; return whether a model was trained.

        If the model exists and only a later table is missing (its step failed, or a newer version added it), only that
        table is materialised.
        """
        fingerprint = self._training_fingerprint(leg)
        outdated = [table for table in TRAINED if again or not self._made_from(table, [leg.cutoff], fingerprint)]
        new = any(self._is_upstream(table, TRAINED_MODEL) for table in outdated)
        to_fetch = TRAINED if new else outdated
        if to_fetch:
            cutoff = Span(leg.cutoff, leg.cutoff)
            self._materialise("train_cutoff", cutoff, [table.table for table in to_fetch], fingerprint)
        return new

    def _is_upstream(self, table: Contract, target: Contract) -> bool:
        """Return whether a table is another table or upstream of it."""
        upstream = dg.AssetSelection.assets(dg.AssetKey(target.table.split("/"))).upstream()
        return dg.AssetKey(table.table.split("/")) in upstream.resolve(self.definitions.resolve_asset_graph())

    def _lacks_verdict(self, leg: Leg) -> bool:
        """Return whether a cutoff is not judged yet, or its verdict is not recorded in the history."""
        verdict = self.lake.read(MODEL_VERDICT, leg.cutoff)
        if verdict is None or not is_recorded(self.lake.scan(MODEL_HISTORY).collect(), verdict):
            return True
        fingerprint = self._judging_fingerprint(leg)
        return not all(self._made_from(table, [leg.cutoff], fingerprint) for table in JUDGED)

    def _judge(self, leg: Leg) -> None:
        """Judge a trained cutoff and record the decision in the history."""
        self._settle_shadow(leg.cutoff)
        tables = [table.table for table in JUDGED]
        self._materialise("train_cutoff", Span(leg.cutoff, leg.cutoff), tables, self._judging_fingerprint(leg))

    def _training_fingerprint(self, leg: Leg) -> str:
        # The training profile does not affect the model: an older model gets one without being trained again.
        tables = [table for table in TRAINED if table is not TRAINING_PROFILE]
        return self._fingerprint(TRAINING_SETTINGS, tables, self._content(leg.cutoff))

    def _judging_fingerprint(self, leg: Leg) -> str:
        content = [self._training_fingerprint(leg), *self._rivals(leg)]
        return self._fingerprint(JUDGING_SETTINGS, JUDGED, content)

    def _rivals(self, leg: Leg) -> Iterator[str]:
        """Yield the digests of the models that a cutoff is judged against."""
        history = self.lake.scan(MODEL_HISTORY, None, leg.cutoff).collect()
        for role in HELD_ROLES:
            held = holder(history, role, midnight(leg.cutoff) - HOUR)
            yield "nobody" if held is None else held.digest

    def _settle_shadow(self, cutoff: date) -> None:
        """Apply the shadow report before a cutoff, and drop what an earlier walk decided on the cutoff's day."""
        previous_day = cutoff - DAY
        history = self.lake.scan(MODEL_HISTORY, None, cutoff).collect()
        in_shadow = holder(history, CHALLENGER, midnight(cutoff) - HOUR) is not None
        if in_shadow:
            self._materialise("report_performance", Span(previous_day, previous_day), [SHADOW_REPORT.table])
        if in_shadow or history.filter(MODEL_HISTORY.day == cutoff).height:
            report = self.lake.read(SHADOW_REPORT, previous_day)
            decided = None if report is None else shadow_decision(report)
            self._materialise("settle_shadow", Span(cutoff, cutoff), None, config=shadow_config("replay", decided))

    def _forecast(self, leg: Leg, *, again: bool) -> bool:
        """Forecast a leg's days unless they are up to date; return whether forecasts were made."""
        tables = (CLOCK.contract, HOURLY_FEATURES, HOURLY_LABELS)
        content = [self._digest(table, day) for table in tables for day in leg.days.days]
        content += [self._digest(HOURLY_FEATURES, leg.cutoff - n * DAY) for n in range(1, LOOK_BACK_DAYS + 1)]
        content += [self._digest(table, leg.cutoff) for table in (TRAINED_MODEL, TRAINING_PROFILE)]
        content += self._role_digests(leg)
        forecast = (FORECASTS, FORECAST_OUTCOMES)
        fingerprint = self._fingerprint(FORECAST_SETTINGS, forecast, content)
        if not again and all(self._made_from(table, leg.days.days, fingerprint) for table in forecast):
            return False
        self._materialise(
            "forecast_days", leg.days, ["forecasting/forecasts", "forecasting/forecast_outcomes"], fingerprint
        )
        return True

    def _record_positions(self, span: Span) -> None:
        """Record the paper positions of the walked days at once, unless they are up to date."""
        content = [self.lake.fingerprint(FORECASTS, day) for day in span.days]
        content += [self._digest(QUARTER_BARS, day) for day in span.days]
        fingerprint = self._fingerprint(POSITION_SETTINGS, (POSITIONS,), content)
        if not self.resume or not self._made_from(POSITIONS, span.days, fingerprint):
            self._materialise("report_performance", span, [POSITIONS.table], fingerprint)

    def _role_digests(self, leg: Leg) -> Iterator[str]:
        """Yield digests of the models of each role in the hours of a leg, and of their training profiles.

        The bytes of the history itself do not count, as they include recording times.
        """
        history = self.lake.scan(MODEL_HISTORY, None, leg.days.last).collect()
        hours = pl.datetime_range(
            midnight(leg.days.first), midnight(leg.days.last + DAY), HOUR, closed="left", eager=True
        )
        for role in HELD_ROLES:
            held = holders(history, role, hours)
            yield digest(held)
            yield from (self._digest(TRAINING_PROFILE, cutoff) for cutoff in held["model_cutoff"].unique().sort())

    def _materialise(
        self,
        job: str,
        span: Span,
        assets: Sequence[str] | None,
        fingerprint: str = "",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Run one of the project's jobs in this process, on a day or a range of days."""
        is_one_day = span.first == span.last
        result = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            partition_key=key_of(span.first) if is_one_day else None,
            tags={WALK_TAG: self.walk_id, FINGERPRINT_TAG: fingerprint, **({} if is_one_day else span.tags)},
            asset_selection=None if assets is None else [dg.AssetKey(name.split("/")) for name in assets],
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, **(config or {})},
            raise_on_error=False,
        )
        if not result.success:
            reasons = " ".join(why_failed(result.all_events)) or "no reason given."
            raise WalkError(f"{job} of {span} failed: {reasons} (run {result.run_id})")

    # --- what is up to date --------------------------------------------------------------------
    def _content(self, cutoff: date) -> Iterator[str]:
        """Yield the digests of all data in a cutoff's window."""
        first = max(self.settings.first_day, cutoff - timedelta(days=self.settings.window_days))
        for table in (HOURLY_FEATURES, HOURLY_LABELS):
            for day in Span(first, cutoff - DAY).days:
                yield self._digest(table, day)

    def _digest(self, contract: Contract, day: date) -> str:
        """Return the digest of a stored partition; cached for data, which does not change during a walk."""
        if contract in (TRAINED_MODEL, TRAINING_PROFILE):
            return self.lake.fingerprint(contract, day)
        if (contract.table, day) not in self._digests:
            self._digests[contract.table, day] = self.lake.fingerprint(contract, day)
        return self._digests[contract.table, day]

    def _fingerprint(self, names: set[str], tables: Sequence[Contract], content: Iterable[str]) -> str:
        """Return the SHA-256 of the inputs of tables: settings, code versions and content."""
        graph = self.definitions.resolve_asset_graph()
        code = {table.table: graph.get(dg.AssetKey(table.table.split("/"))).code_version for table in tables}
        parts = [self.settings.model_dump_json(include=names), json.dumps(code, sort_keys=True), *content]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _made_from(self, contract: Contract, days: Sequence[date], fingerprint: str) -> bool:
        """Return whether every partition is stored and was made by a run with this fingerprint."""
        key = dg.AssetKey(contract.table.split("/"))
        if missing_days(self.lake, contract, days):
            return False
        tags: dict[str, bool] = {}
        for day in days:
            records = self.instance.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=key, asset_partitions=[key_of(day)]), limit=1
            ).records
            if not records:
                return False
            run_id = records[0].run_id
            if run_id not in tags:
                run = self.instance.get_run_by_id(run_id)
                tags[run_id] = run is not None and run.tags.get(FINGERPRINT_TAG) == fingerprint
            if not tags[run_id]:
                return False
        return True

    def _decision(self, cutoff: date) -> str:
        verdict = self.lake.read(MODEL_VERDICT, cutoff)
        if verdict is None or verdict.is_empty():
            return "no verdict"
        return str(verdict.select(pl.col("decision").first()).item())


class _Sentences(logging.Formatter):
    """Format a log line as time and message, without Dagster's ids."""

    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", {})
        return f"{self.formatTime(record, '%H:%M:%S')} {meta.get('orig_message') or record.getMessage()}"


@dg.logger(config_schema={}, description="Progress of a walk-forward, one sentence per line.")
def sentences(_context: dg.InitLoggerContext) -> logging.Logger:
    """Return a console logger that prints sentences."""
    console = logging.Logger("walk_forward", logging.INFO)  # noqa: LOG001 - not a shared logger
    handler = logging.StreamHandler()
    handler.setFormatter(_Sentences())
    console.addHandler(handler)
    return console


def walk_forward_job(whole: Callable[[], dg.Definitions]) -> dg.JobDefinition:
    """Return the job that replays history.

    Args:
        whole: returns the definitions with the jobs to run; called when the walk runs, since they include this job.
    """

    @dg.op(
        name="walk",
        description="Prepare the data; train, judge and forecast each cutoff; finally report and publish.",
        tags={"dagster/max_runtime": "14400"},
    )
    def walk(context: dg.OpExecutionContext, config: WalkForwardConfig, lake: dg.ResourceParam[Lake]) -> None:
        try:
            first_cutoff, last_day = period(config, settings())
            Walk(
                instance=context.instance,
                definitions=whole(),
                lake=lake,
                settings=settings(),
                walk_id=context.run_id,
                report=context.log.info,
                resume=config.resume,
            ).run(plan(first_cutoff, last_day, config.every_days))
        except WalkError as error:
            raise dg.Failure(str(error), allow_retries=False) from error

    @dg.job(
        name="walk_forward",
        description="Replay history: for each cutoff in order train, judge and forecast the days to the next one.",
        executor_def=dg.in_process_executor,
        logger_defs={"console": sentences},
        tags={"dagster/max_runtime": "14400", BACKGROUND: "yes"},
    )
    def walk_forward() -> None:
        walk()

    return walk_forward
