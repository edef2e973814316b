"""The champion: verdicts of the gate, the history of roles, and the challenger in shadow."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from inspect import cleandoc
from typing import Any, Literal

import dagster as dg
import polars as pl
from pydantic import Field

from btc_assets import freshness
from btc_assets.champion import gate, history, plots, shadow
from btc_assets.champion.recipe import recipe_changes
from btc_assets.champion.tables import MODEL_HISTORY, MODEL_VERDICT, SHADOW_REPORT
from btc_assets.clock import HOUR, midnight
from btc_assets.columns import KNOWN_DAY
from btc_assets.display import markdown_image, table_metadata
from btc_assets.features.catalog import WARMUP_DAYS
from btc_assets.features.inputs import TABLES, read_inputs
from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.lake import output_of
from btc_assets.learning import folds, missingness, training
from btc_assets.learning.cutoff import (
    data_versions,
    known_inputs,
    other_seeds,
    rows_by_horizon,
    trainees,
    training_inputs,
    tuned_families,
)
from btc_assets.learning.families.protocol import FittedOutput
from btc_assets.learning.forecast_model import ForecastModel
from btc_assets.learning.natives import read_members
from btc_assets.learning.registry import ModelRegistry, RegistryError
from btc_assets.learning.tables import (
    CV_FOLDS,
    FOLD_FORECASTS,
    TRAINED_MODEL,
    TRAINING_PROFILE,
    TUNED_PARAMETERS,
)
from btc_assets.markdown import markdown_table
from btc_assets.partitions import DAILY, day_of, days_before, everything_until
from btc_assets.published import live_manifest, newest_served_hour
from btc_assets.reads import DeclaredReads, Tables
from btc_assets.schema import Contract, dagster_type
from btc_assets.settings import settings
from btc_assets.vocabulary import CHAMPION, NEWEST, PRIMARY

GROUP = "champion"
DECISIONS = "champion__decisions"
"""Name of the step that makes verdict and history."""
MAX_SHADOW_DAYS = 370
"""Days back to the earliest start of a shadow; `BTC_SHADOW_HOURS` allows a year."""
CAUSALITY_DAYS = 3
"""Newest days of the window on which a verdict tests the causality laws."""
_BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=1)
_LIMITS = {"dagster/max_runtime": "3600"}


def _of_window(contract: Contract) -> dg.AssetDep:
    """Declare a read of the training window of a table: the days before the cutoff."""
    return dg.AssetDep(contract.asset_key, partition_mapping=days_before(settings().window_days, and_today=False))


def _of_newest_days(contract: Contract) -> dg.AssetDep:
    """Declare the input of the causality laws: the newest days before the cutoff, and their warm-up."""
    days = days_before(WARMUP_DAYS + CAUSALITY_DAYS, and_today=False)
    return dg.AssetDep(contract.asset_key, partition_mapping=days)


_DECISION_DEPS = [
    *map(_of_newest_days, TABLES),
    *map(_of_window, (HOURLY_FEATURES, HOURLY_LABELS)),
    *(dg.AssetDep(contract.asset_key) for contract in (CV_FOLDS, TUNED_PARAMETERS, FOLD_FORECASTS)),
    dg.AssetDep(TRAINED_MODEL.asset_key, partition_mapping=days_before(settings().window_days, and_today=True)),
    dg.AssetDep(TRAINING_PROFILE.asset_key, partition_mapping=everything_until(and_today=False)),
    dg.AssetDep(MODEL_HISTORY.asset_key, partition_mapping=everything_until(and_today=False)),
]
"""The tables that a decision rests on: earlier decisions included."""


def _decision_out(contract: Contract, *, about: str, kinds: set[str]) -> dg.AssetOut:
    """Return the output of the step `decisions` for a table."""
    return dg.AssetOut(
        key=contract.asset_key,
        description=cleandoc(about),
        dagster_type=dagster_type(contract),
        is_required=False,
        group_name=GROUP,
        code_version="2",
        kinds=kinds,
        freshness_policy=freshness.WEEKLY,
    )


class HistoryChange(dg.Config):
    """The change to record in the history; the defaults are an ordinary training."""

    event: Literal["verdict", "shadow", "rollback", "replay"] = Field(
        default="verdict",
        description="verdict: judge the day's cutoff and record the decision. shadow: record the decision of the "
        "shadow report of the day before, given below. rollback: go back to an earlier champion. replay: like shadow, "
        "but drop the day's decisions first, for a walk-forward that decides the day again.",
    )
    to: int = Field(default=0, ge=0, description="Registry version to roll back to; 0 is the previous champion.")
    reason: str = Field(default="", max_length=2000, description="Reason of a rollback or of a shadow's decision.")
    actor: str = Field(default="", max_length=100, description="User who rolls back.")
    champion_since: str = Field(
        default="",
        description="Of a rollback: first hour of the newest champion when the run was requested, ISO 8601; an earlier "
        "rollback is refused. The job and the command read it from the history.",
    )
    decision: Literal["", "promote", "dismiss"] = Field(
        default="", description="Decision of a shadow report; empty: none."
    )
    version: int = Field(default=0, ge=0, description="Registry version of the challenger.")
    cutoff: str = Field(default="", description="Its cutoff, YYYY-MM-DD.")
    digest: str = Field(default="", description="Its digest.")

    def shadow(self) -> history.ShadowDecision | None:
        """Return the decision about the challenger; None if there is none.

        Raises:
            ValueError: the cutoff is not a date.
        """
        if not self.decision:
            return None
        challenger = history.ModelChoice(self.version, date.fromisoformat(self.cutoff), self.digest)
        return history.ShadowDecision(self.decision, challenger, self.reason)

    def newest_change(self) -> datetime:
        """Return `champion_since`.

        Raises:
            HistoryError: it is missing.
        """
        if not self.champion_since:
            raise history.HistoryError(
                "the run config has no champion_since: use the command rollback, or launch the job rollback_champion "
                "with its config of the day"
            )
        return datetime.fromisoformat(self.champion_since)


def rollback_config(complete_history: pl.DataFrame, **change: str | int) -> dict[str, Any]:
    """Return the run config of a rollback, see `HistoryChange`; its hour is compared with that of the newest change."""
    since = history.newest_change(complete_history)
    return history_config(event="rollback", champion_since="" if since is None else since.isoformat(), **change)


def history_config(**change: str | int) -> dict[str, Any]:
    """Return the run config of a change of `champion/model_history`, see `HistoryChange`."""
    return {"ops": {DECISIONS: {"config": change}}}


def shadow_config(event: Literal["shadow", "replay"], decided: history.ShadowDecision | None) -> dict[str, Any]:
    """Return the run config that records the decision of a shadow report; None: no decision."""
    if decided is None:
        return history_config(event=event)
    return history_config(
        event=event,
        decision=decided.decision,
        version=decided.challenger.version,
        cutoff=decided.challenger.cutoff.isoformat(),
        digest=decided.challenger.digest,
        reason=decided.reason,
    )


@dg.multi_asset(
    name=DECISIONS,
    partitions_def=DAILY,
    backfill_policy=_BACKFILL,
    op_tags=_LIMITS,
    can_subset=True,
    deps=_DECISION_DEPS,
    outs={
        MODEL_HISTORY.asset_key.to_python_identifier(): _decision_out(
            MODEL_HISTORY,
            kinds={"polars"},
            about="""The champion and the challenger in shadow of every hour, with the decision and the reason.

            Rows are only added. A verdict promotes its candidate or sends a changed recipe into shadow; a shadow report
            promotes or dismisses the challenger; a rollback is manual. Every hour, past or present, is forecast by the
            model that this table names for it. A change takes effect from the newest hour served by then, so that a
            served forecast is never replaced by another model's. Repeating a recorded change adds nothing. One
            exception: a walk-forward that repeats the decisions of a day without served forecasts since then drops the
            day's earlier decisions of verdicts and shadows, but never a manual one.
            """,
        ),
        MODEL_VERDICT.asset_key.to_python_identifier(): _decision_out(
            MODEL_VERDICT,
            kinds={"mlflow"},
            about="""The gate: does the candidate of this cutoff replace the champion? One row per criterion.

            The first valid model becomes champion. After that a *refresh* (the champion's recipe on a newer window) is
            promoted unless its log-loss, on hours that neither model was trained on, is shown to be higher by more than
            `BTC_GATE_TOLERANCE_NATS`. A *changed recipe* must show a log-loss lower by `BTC_GATE_MARGIN_NATS`,
            significant at `BTC_GATE_SIGNIFICANCE` by a one-sided Diebold-Mariano test, and with at least four of five
            paired seeds; its Sharpe ratio after costs must not be shown to be worse, and its inputs must be the
            champion's. Both kinds must match their library, obey the causality laws, and keep calibration and coverage
            at least where the champion does. The champion comes from `champion/model_history` of the earlier days; the
            same step records the decision there, so both tables are made together.
            """,
        ),
    },
)
def decisions(
    context: dg.AssetExecutionContext,
    config: HistoryChange,
    registry: ModelRegistry,
    tables: dg.ResourceParam[Tables],
) -> Iterator[dg.Output[pl.DataFrame]]:
    """Judge the cutoff of the day or apply another change, and record it in the history; the verdict explains it."""
    reads, judging = tables.of(context), config.event == "verdict"
    expected = {MODEL_HISTORY.asset_key, *([MODEL_VERDICT.asset_key] if judging else [])}
    if context.selected_asset_keys != expected:
        names = " and ".join(sorted(key.to_user_string() for key in expected))
        raise dg.Failure(f"the event {config.event} makes {names}: select exactly these", allow_retries=False)
    verdict, verdict_output = _judged(context, registry, reads) if judging else (MODEL_VERDICT.empty(), None)
    with tables.locked(MODEL_HISTORY):
        yield _recorded(context, config, registry, reads, verdict)
    if verdict_output is not None:
        yield verdict_output


def _judged(
    context: dg.AssetExecutionContext, registry: ModelRegistry, reads: DeclaredReads
) -> tuple[pl.DataFrame, dg.Output[pl.DataFrame]]:
    """Judge the candidate of the cutoff against the previous champion; return the verdict and its output."""
    from btc_assets.laws.laws import feature_failures

    config, cutoff = settings(), day_of(context.partition_key)
    models = reads.scan(TRAINED_MODEL).collect()
    trained = models.filter(pl.col("cutoff") == cutoff)
    candidate = history.ModelChoice(trained["model_version"][0], cutoff, trained["model_digest"][0])
    past = reads.scan(MODEL_HISTORY).filter(pl.col("verdict_cutoff").ne_missing(cutoff)).collect()
    rival = history.holder(past, CHAMPION, effective_hour(cutoff, replayed=is_replay(cutoff)))
    wide, known = reads.scan(HOURLY_FEATURES).collect(), reads.scan(HOURLY_LABELS).collect()
    forecasts, names = reads.scan(FOLD_FORECASTS).collect(), training_inputs(wide, cutoff)
    rows = rows_by_horizon(wide.lazy(), known.lazy(), cutoff, names, days=config.window_days)[PRIMARY]
    newest = (
        reads.scan(CV_FOLDS).filter(pl.col("horizon_minutes") == PRIMARY).sort("fold").collect().row(-1, named=True)
    )
    model = registry.load(candidate.version)
    ready = trainees(wide, cutoff, tuned_families(reads.scan(TUNED_PARAMETERS).collect()))
    evidence = gate.candidate_evidence(
        forecasts,
        model.members,
        weights=model.document["weights"]["option"],
        other_seeds=training.forecast_seeds(
            [one for one in ready if one.member.name in model.members],
            *folds.split(rows, newest),
            cutoff=cutoff,
            seeds=other_seeds(),
            threads=config.train_threads,
        ),
        seeds=len(other_seeds()),
    )
    champion, champion_parity, changed, changes = None, None, set[str](), list[str]()
    if rival is not None:
        rival_model = registry.load(rival.version)
        # The profile of a model of this same cutoff, made champion by hand, is written after the verdict.
        profile = reads.read(TRAINING_PROFILE, rival.cutoff) if rival.cutoff < cutoff else None
        changes = recipe_changes(
            model.document,
            rival_model.document,
            horizon=PRIMARY,
            lost_inputs=set(known_inputs(wide, cutoff)) - set(names),
            lost_before=frozenset() if profile is None else missingness.gone_inputs(profile),
        )
        champion_parity = models.filter(model_digest=rival.digest).select(pl.col("parity_error").max()).item()
        champion = gate.champion_evidence(
            rival_model,
            wide.sort("open_time"),
            evidence,
            _fits_of(registry, rival.version),
            None if profile is None else missingness.Profile.of(profile, rival_model.features),
        )
        changed = set(rival_model.features) ^ set(model.features)
    first, last = cutoff - timedelta(days=WARMUP_DAYS + CAUSALITY_DAYS), cutoff - timedelta(days=1)
    inputs = read_inputs(reads, first, last)
    verdict = gate.judge(
        evidence,
        champion,
        parity_error=float(trained["parity_error"].to_numpy().max()),
        champion_parity_error=champion_parity,
        recipe_changes=changes,
        causality_failures=feature_failures(inputs),
        inputs_changed=sorted(changed),
        new_inputs_allowed=config.gate_new_inputs,
        margin_nats=config.gate_margin_nats,
        tolerance_nats=config.gate_tolerance_nats,
        significance=config.gate_significance,
        fee_bps=config.fee_bps,
    )
    frame = gate.verdict_rows(verdict, cutoff=cutoff, candidate=candidate, rival=rival)
    summary = markdown_table(frame.select("criterion", "value", "champion_value", "bound", "passed", "reason"))
    versions = data_versions(hourly_features=wide, hourly_labels=known, fold_forecasts=forecasts, trained_model=trained)
    tags = {"decision": verdict.decision, "kind": verdict.kind, "model_version": str(candidate.version)}
    with registry.run(context, MODEL_VERDICT.asset_key, tags | versions) as run:
        run.metrics({criterion.name: criterion.value for criterion in verdict.criteria if criterion.value is not None})
        run.metrics(
            {f"champion.{row.name}": row.champion_value for row in verdict.criteria if row.champion_value is not None}
        )
        run.table("verdict.md", f"# {verdict.decision} ({verdict.kind})\n\n{summary}\n")
        link = run.link()
    return frame, output_of(
        context,
        MODEL_VERDICT,
        frame,
        {
            "decision": verdict.decision,
            "kind": verdict.kind,
            "recipe_changes": "; ".join(verdict.recipe_changes) or "none",
            "compared_with": rival.version if rival else "none",
            "verdict": dg.MetadataValue.md(summary),
            "mlflow_run": link,
        },
    )


def _fits_of(registry: ModelRegistry, version: int) -> list[dict[str, FittedOutput]]:
    """Return the members of a model with each other seed; empty for a model that was stored without them."""
    model = registry.load(version)
    try:
        natives = registry.native(version)
        return [read_members(model, natives, PRIMARY, seed) for seed in other_seeds()]
    except (RegistryError, FileNotFoundError):
        return []


def _recorded(
    context: dg.AssetExecutionContext,
    config: HistoryChange,
    registry: ModelRegistry,
    reads: DeclaredReads,
    verdict: pl.DataFrame,
) -> dg.Output[pl.DataFrame]:
    """Add a change to the history of the day."""
    day = day_of(context.partition_key)
    past = reads.scan(MODEL_HISTORY).collect()
    on_the_day = MODEL_HISTORY.day == day
    replaced = config.event == "replay" and is_replay(day)
    if replaced:
        past = past.filter(~on_the_day | ~pl.col("actor").is_in([history.VERDICT, history.SHADOW]))
    try:
        added = _added(config, past, verdict, day)
    except history.HistoryError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    for version in added["model_version"].drop_nulls().unique():
        _require_features(registry.load(version), version)
    frame = pl.concat([past.filter(on_the_day), added]).sort(MODEL_HISTORY.key)
    roles = history.current_roles(pl.concat([past, added]))
    return output_of(
        context,
        MODEL_HISTORY,
        frame,
        {
            "added": added.height,
            "champion": roles.champion or "none",
            "previous": roles.previous or "none",
            "challenger": roles.challenger or "none",
            "changes": dg.MetadataValue.md(
                markdown_table(frame.select("effective_from", "role", "event", "model_version", "actor", "reason"))
            ),
        },
        replaces=replaced,
    )


def _added(
    config: HistoryChange,
    past: pl.DataFrame,
    verdict: pl.DataFrame,
    day: date,
) -> pl.DataFrame:
    """Return the rows that a change adds to the history."""
    recorded_at = history.recording_time(past, datetime.now(tz=UTC))
    if config.event == "rollback":
        _refuse_served_past(day)
        return history.after_rollback(
            past,
            champion_since=config.newest_change(),
            to=config.to or _unserved_rollback(past),
            reason=" ".join(config.reason.split()) or "no reason given",
            actor=" ".join(config.actor.split()) or "unknown",
            effective_from=effective_hour(day, replayed=False),
            recorded_at=recorded_at,
        )
    replayed = is_replay(day)
    times = {"effective_from": effective_hour(day, replayed=replayed), "recorded_at": recorded_at}
    if config.event == "shadow" and not config.decision:
        raise history.HistoryError(
            "the run config has no decision of a shadow report: the sensor settle_shadows gives decision, version, "
            "cutoff, digest and reason"
        )
    if config.event != "verdict":
        added = history.after_shadow(past, config.shadow(), **times)
    else:
        added = history.after_verdict(past, verdict, **times)
    if added.height and not replayed and has_passed(day):
        raise history.HistoryError(
            f"{day} cannot be decided any more, because later forecasts were served: train "
            f"the cutoff {settings().now().date()}, or replay the period in another data folder"
        )
    return added


def _require_features(model: ForecastModel, version: int) -> None:
    """Refuse a model with inputs that are not computed any more: it would stop every forecast."""
    missing = sorted(set(model.features) - set(HOURLY_FEATURES.columns))
    if missing:
        raise dg.Failure(
            f"version {version} needs features that are not computed any more: {', '.join(missing)}",
            allow_retries=False,
        )


def effective_hour(day: date, *, replayed: bool) -> datetime:
    """Return the first hour (open_time, UTC) for which a change of a day is effective.

    In a replay, this is the day's first hour. On the current day, some hours were already forecast and served: the
    change is effective from the newest of them on, which is forecast again at once, and never earlier.

    Args:
        day: the day of the change.
        replayed: whether the decision counts as made at the day's first hour.
    """
    served = None if replayed else newest_served_hour(settings().serving_dir)
    return served if served is not None and served.date() == day else midnight(day)


def _refuse_served_past(day: date) -> None:
    """Refuse a rollback on a day before the newest served; a later one may hold a champion that cannot be published."""
    served = newest_served_hour(settings().serving_dir)
    if served is not None and day < served.date():
        raise history.HistoryError(f"roll back on {served.date()}, the newest served day, not on {day}")


def has_passed(day: date) -> bool:
    """Return whether the last hour of a day has closed."""
    return day < (settings().now() - HOUR).date()


def is_replay(day: date) -> bool:
    """Return whether a day's decision counts as made at its first hour: closed history, or nothing served since."""
    if settings().history_end is not None:
        return True
    if not has_passed(day):
        return False
    served = newest_served_hour(settings().serving_dir)
    return served is None or served.date() < day


def _unserved_rollback(past: pl.DataFrame) -> int | None:
    """Return the version of a recorded rollback that is not served yet, because it was killed before the end."""
    champion = past.filter(pl.col("role") == CHAMPION).sort("effective_from", "recorded_at")
    live = live_manifest(settings().serving_dir)
    if champion.is_empty() or live is None or champion["event"][-1] != "rolled_back":
        return None
    return None if live.get("model_version") == champion["model_version"][-1] else champion["model_version"][-1]


@dg.asset(
    key=["champion", "shadow_report"],
    partitions_def=DAILY,
    group_name=GROUP,
    freshness_policy=freshness.DAILY,
    backfill_policy=dg.BackfillPolicy.single_run(),
    code_version="2",
    op_tags=_LIMITS | {"dagster/priority": "1"},
    dagster_type=dagster_type(SHADOW_REPORT),
    ins={
        "forecasts": dg.AssetIn(key=["forecasting", "forecasts"]),
        "forecast_outcomes": dg.AssetIn(
            key=["forecasting", "forecast_outcomes"],
            partition_mapping=days_before(MAX_SHADOW_DAYS, and_today=True),
        ),
    },
    kinds={"polars", "matplotlib"},
)
def shadow_report(
    context: dg.AssetExecutionContext, forecasts: pl.LazyFrame, forecast_outcomes: pl.LazyFrame
) -> dg.Output[pl.DataFrame]:
    """Champion against challenger, by the tests of the gate, on every hour that the challenger was in shadow.

    The challenger forecasts every hour but is not served. After `BTC_SHADOW_HOURS` hours with known outcomes it is
    judged once: promoted if it is shown to be better, else dismissed. Empty on days without a model in shadow.
    """
    config = settings()
    outcomes, role_forecasts = forecast_outcomes.collect(), forecasts.collect()
    days = sorted(map(day_of, context.partition_keys))
    known, at = KNOWN_DAY, pl.col("open_time").dt.date()
    reports = [
        shadow.shadow_rows(
            outcomes.filter(known <= day),
            role_forecasts.filter(at == day),
            day=day,
            least_hours=config.shadow_hours,
            margin_nats=config.gate_margin_nats,
            significance=config.gate_significance,
            fee_bps=config.fee_bps,
        )
        for day in days
    ]
    newest = reports[-1]
    metadata: dict[str, Any] = {"decision": "No model is in shadow."}
    if newest.height:
        first = newest.row(0, named=True)
        picture = plots.shadow(outcomes.filter(pl.col("role") != NEWEST), version=first["challenger_version"])
        metadata = {
            "decision": first["decision"],
            "challenger": first["challenger_version"],
            "champion": first["champion_version"],
            "criteria": table_metadata(newest.select("criterion", "value", "bound", "passed", "reason")),
            **({"picture": dg.MetadataValue.md(markdown_image(picture, "shadow"))} if picture else {}),
        }
    return output_of(context, SHADOW_REPORT, pl.concat(reports), metadata)


ASSETS = [decisions, shadow_report]
