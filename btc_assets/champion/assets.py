"""The champion: verdicts of the gate, the history of who holds a role, the challenger in shadow."""

from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import dagster as dg
import numpy as np
import polars as pl
from pydantic import Field

from btc_assets.champion import gate, history, plots, shadow
from btc_assets.champion.recipe import recipe_changes
from btc_assets.champion.tables import MODEL_HISTORY, MODEL_VERDICT, SHADOW_REPORT
from btc_assets.clock import HOUR, midnight
from btc_assets.columns import KNOWN_DAY
from btc_assets.display import markdown_image, table_metadata
from btc_assets.features.catalog import WARMUP_DAYS
from btc_assets.features.inputs import TABLES, read_inputs
from btc_assets.features.tables import HOURLY_FEATURES
from btc_assets.lake import Lake, stored
from btc_assets.learning import folds, missingness, training
from btc_assets.learning.cutoff import (
    data_versions,
    known_inputs,
    learnt_inputs,
    other_seeds,
    parameters_by_horizon,
    rows_by_horizon,
    same_cutoff,
    window_of,
)
from btc_assets.learning.families.gradient_boosting import BoostedOutput
from btc_assets.learning.forecast_model import ForecastModel
from btc_assets.learning.registry import ModelRegistry, RegistryError
from btc_assets.learning.tables import (
    TRAINING_PROFILE,
)
from btc_assets.markdown import markdown_table
from btc_assets.partitions import DAILY, day_of, days_before
from btc_assets.published import live_manifest, newest_served_hour
from btc_assets.schema import dagster_type
from btc_assets.settings import settings
from btc_assets.vocabulary import CHAMPION, NEWEST

GROUP = "champion"


CODE_VERSION = "1"


WEEK = timedelta(days=7)


_BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=1)


_FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=2 * WEEK, warn_window=WEEK + timedelta(days=1))


_LIMITS = {"dagster/max_runtime": "3600"}


_COMMON: dict[str, Any] = {
    "partitions_def": DAILY,
    "group_name": GROUP,
    "freshness_policy": _FRESHNESS,
    "backfill_policy": _BACKFILL,
    "code_version": CODE_VERSION,
    "op_tags": _LIMITS,
}
"""What every asset of this domain has in common."""
_REPORT: dict[str, Any] = {
    "code_version": "2",
    "backfill_policy": dg.BackfillPolicy.single_run(),
    "freshness_policy": dg.FreshnessPolicy.time_window(
        fail_window=timedelta(hours=50), warn_window=timedelta(hours=26)
    ),
    "op_tags": _LIMITS | {"dagster/priority": "1"},
}
"""What differs for a report of each day."""


MOST_DAYS_IN_SHADOW = 370
"""Days back a shadow may have begun; `BTC_SHADOW_HOURS` allows a year."""


CAUSALITY_DAYS = 3
"""Newest days of the window on which a verdict runs the causality laws."""


@dg.asset(
    key=["champion", "model_verdict"],
    **(_COMMON | {"code_version": "2"}),
    dagster_type=dagster_type(MODEL_VERDICT),
    ins={
        "hourly_features": window_of("features/hourly_features"),
        "hourly_labels": window_of("features/hourly_labels"),
        "cv_folds": same_cutoff("learning/cv_folds"),
        "tuned_parameters": same_cutoff("learning/tuned_parameters"),
        "fold_forecasts": same_cutoff("learning/fold_forecasts"),
        "trained_model": dg.AssetIn(
            key=["learning", "trained_model"], partition_mapping=days_before(settings().window_days, and_today=True)
        ),
    },
    deps=[
        *(
            dg.AssetDep(table.asset_key, partition_mapping=days_before(WARMUP_DAYS + CAUSALITY_DAYS, and_today=False))
            for table in TABLES
        ),
        dg.AssetDep(
            ["learning", "training_profile"], partition_mapping=days_before(settings().window_days, and_today=False)
        ),
    ],
    kinds={"mlflow"},
)
def model_verdict(
    context: dg.AssetExecutionContext,
    registry: ModelRegistry,
    lake: dg.ResourceParam[Lake],
    hourly_features: pl.LazyFrame,
    hourly_labels: pl.LazyFrame,
    cv_folds: pl.LazyFrame,
    tuned_parameters: pl.LazyFrame,
    fold_forecasts: pl.LazyFrame,
    trained_model: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """The gate: does the candidate of this cutoff replace the champion? One row a criterion, with both sides.

    The first valid model becomes champion. After that a *refresh* (the champion's recipe on a newer window) is
    promoted unless its log-loss, on hours neither has learnt from, is shown to be higher by more than
    `BTC_GATE_TOLERANCE_NATS`. A *changed recipe* must show a log-loss lower by `BTC_GATE_MARGIN_NATS`, significant at
    `BTC_GATE_SIGNIFICANCE` by a one-sided Diebold-Mariano test, and with at least four of five paired seeds; its Sharpe
    ratio after costs must not be shown to be worse, and its inputs must be the champion's. Either must equal its
    library, keep the causality laws, and hold calibration and coverage at least where the champion does.

    Whom it is held against is read from the history of the hours before, which this verdict itself goes on: a circle
    in time that a lineage without circles cannot draw.
    """
    from btc_assets.laws.laws import feature_failures

    config, cutoff = settings(), day_of(context.partition_key)
    models = trained_model.collect()
    trained = models.filter(pl.col("cutoff") == cutoff)
    candidate = history.ModelChoice(trained["model_version"][0], cutoff, trained["model_digest"][0])
    past = lake.scan(MODEL_HISTORY, None, cutoff).collect().filter(pl.col("verdict_cutoff").ne_missing(cutoff))
    before = history.holder(past, CHAMPION, takes_effect(cutoff, replayed=is_replay(cutoff)))
    wide, known, forecasts = hourly_features.collect(), hourly_labels.collect(), fold_forecasts.collect()
    rows = rows_by_horizon(wide.lazy(), known.lazy(), cutoff, learnt_inputs(wide, cutoff))[gate.PRIMARY]
    newest = cv_folds.filter(pl.col("horizon_hours") == gate.PRIMARY).sort("fold").collect().row(-1, named=True)
    learnt, judged = folds.split(rows, newest)
    parameters = parameters_by_horizon(tuned_parameters.collect())[gate.PRIMARY]
    fits = training.fit_seeds(
        learnt, parameters, horizon=gate.PRIMARY, seeds=other_seeds(), threads=config.train_threads
    )
    evidence = gate.candidate_evidence(forecasts, rows, np.stack([fit.predict(judged.inputs) for fit in fits]))
    champion, champion_parity, changed, changes = None, None, set[str](), list[str]()
    if before is not None:
        bundle = registry.load(before.version)
        profile = lake.read(TRAINING_PROFILE, before.cutoff)
        changes = recipe_changes(
            registry.load(candidate.version).document,
            bundle.document,
            horizon=gate.PRIMARY,
            lost_inputs=set(known_inputs(wide, cutoff)) - set(rows.names),
            lost_before=frozenset() if profile is None else missingness.gone_inputs(profile),
        )
        champion_parity = models.filter(model_digest=before.digest).select(pl.col("parity_error").max()).item()
        champion = gate.champion_evidence(
            bundle,
            wide.sort("open_time"),
            evidence,
            _fits_of(registry, before.version, len(bundle.features)),
            None if profile is None else missingness.Profile.of(profile, bundle.features),
        )
        changed = set(bundle.features) ^ set(rows.names)
    first, last = cutoff - timedelta(days=WARMUP_DAYS + CAUSALITY_DAYS), cutoff - timedelta(days=1)
    inputs = read_inputs(lake, first, last)
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
    frame = gate.verdict_rows(verdict, cutoff=cutoff, candidate=candidate, before=before)
    summary = markdown_table(frame.select("criterion", "value", "champion_value", "bound", "passed", "reason"))
    versions = data_versions(hourly_features=wide, hourly_labels=known, fold_forecasts=forecasts, trained_model=trained)
    tags = {"decision": verdict.decision, "kind": verdict.kind, "model_version": str(candidate.version)}
    with registry.run(context, tags | versions) as run:
        run.metrics({one.name: one.value for one in verdict.criteria if one.value is not None})
        run.metrics(
            {f"champion.{one.name}": one.champion_value for one in verdict.criteria if one.champion_value is not None}
        )
        run.table("verdict.md", f"# {verdict.decision} ({verdict.kind})\n\n{summary}\n")
        link = run.link()
    return stored(
        context,
        MODEL_VERDICT,
        frame,
        {
            "decision": verdict.decision,
            "kind": verdict.kind,
            "recipe_changes": "; ".join(verdict.recipe_changes) or "none",
            "held_against": before.version if before else "nobody",
            "verdict": dg.MetadataValue.md(summary),
            "mlflow_run": link,
        },
    )


def _fits_of(registry: ModelRegistry, version: int, features: int) -> list[BoostedOutput]:
    """Return a model's fits with the other seeds; a model that came without them has the one that serves."""
    try:
        natives = registry.native(version)
    except RegistryError:
        return []
    paths = [natives / training.seed_name(seed) for seed in other_seeds()]
    return [BoostedOutput.read(path, features) for path in paths] if all(path.exists() for path in paths) else []


class HistoryChange(dg.Config):
    """What to write into the history beside the verdict of the day; empty for an ordinary training."""

    event: Literal["verdict", "shadow", "rollback", "replay"] = Field(
        default="verdict",
        description="verdict: what the day's verdict decides. shadow: what the shadow report of the day before "
        "decides. rollback: go back to an earlier champion. replay: as shadow, but forget the day's rows first, for a "
        "walk-forward that decides it anew.",
    )
    to: int = Field(default=0, ge=0, description="Registry version to roll back to; 0 is the champion before.")
    reason: str = Field(default="", max_length=500, description="Why a person rolls back.")
    actor: str = Field(default="", max_length=100, description="Who rolls back.")


def history_config(**change: str | int) -> dict[str, Any]:
    """Return the run config that asks `champion/model_history` for a change, see `HistoryChange`."""
    return {"ops": {"champion__model_history": {"config": change}}}


@dg.asset(
    key=["champion", "model_history"],
    **(_COMMON | {"code_version": "2"}),
    dagster_type=dagster_type(MODEL_HISTORY),
    ins={"model_verdict": same_cutoff("champion/model_verdict")},
    kinds={"polars"},
)
def model_history(
    context: dg.AssetExecutionContext,
    config: HistoryChange,
    registry: ModelRegistry,
    lake: dg.ResourceParam[Lake],
    model_verdict: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """Who is champion and who is in shadow, since which hour, by whose decision and why; rows are only ever added.

    A verdict promotes its candidate or sends a changed recipe into the shadow; a shadow report promotes the challenger
    or dismisses it; a rollback is manual. Forecasts of every hour, past or present, are made by the model that this
    table names for that hour. A change counts from the newest hour forecast by then, so that a forecast that was served
    is never replaced by another model's. Asking again for what is already written adds nothing.
    One exception: a walk-forward that decides a day anew, since when nobody was served, drops what verdicts and shadows
    decided on it before, never what a person did.
    """
    day = day_of(context.partition_key)
    everything = lake.scan(MODEL_HISTORY).collect()
    on_the_day = MODEL_HISTORY.day == day
    if config.event == "replay" and is_replay(day):
        everything = everything.filter(~on_the_day | ~pl.col("actor").is_in([history.VERDICT, history.SHADOW]))
        with lake.locked(MODEL_HISTORY):
            lake.write(MODEL_HISTORY, day, everything.filter(on_the_day))
    try:
        added = _added(config, everything, lake, model_verdict.collect(), day)
    except history.HistoryError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    for version in added["model_version"].drop_nulls().unique():
        _can_forecast(registry.load(version), version)
    frame = pl.concat([everything.filter(on_the_day), added]).sort(MODEL_HISTORY.key)
    stands = history.standing(pl.concat([everything, added]))
    return stored(
        context,
        MODEL_HISTORY,
        frame,
        {
            "added": added.height,
            "champion": stands.champion or "nobody",
            "previous": stands.previous or "nobody",
            "challenger": stands.challenger or "nobody",
            "changes": dg.MetadataValue.md(
                markdown_table(frame.select("effective_from", "role", "event", "model_version", "actor", "reason"))
            ),
        },
    )


def _added(
    config: HistoryChange,
    everything: pl.DataFrame,
    lake: Lake,
    verdict: pl.DataFrame,
    day: date,
) -> pl.DataFrame:
    """Return the rows that what is asked for adds to the history."""
    written = history.moment(everything, datetime.now(tz=UTC))
    if config.event == "rollback":
        served = newest_served_hour(settings().serving_dir)
        if served is not None and day != served.date():
            raise history.HistoryError(f"roll back on {served.date()}, the newest day that is served, not on {day}")
        return history.after_rollback(
            everything,
            to=config.to or _unserved_rollback(everything),
            reason=" ".join(config.reason.split()) or "no reason was given",
            actor=" ".join(config.actor.split()) or "unknown",
            effective_from=takes_effect(day, replayed=False),
            recorded_at=written,
        )
    replayed = is_replay(day)
    times = {"effective_from": takes_effect(day, replayed=replayed), "recorded_at": written}
    if config.event != "verdict":
        report = lake.read(SHADOW_REPORT, day - timedelta(days=1))
        added = history.after_shadow(everything, SHADOW_REPORT.empty() if report is None else report, **times)
    elif verdict.is_empty():
        raise history.HistoryError(f"no verdict of {day} is stored: materialise champion/model_verdict first")
    else:
        added = history.after_verdict(everything, verdict, **times)
    if added.height and not replayed and has_passed(day):
        raise history.HistoryError(
            f"{day} has passed and what was forecast since was served, so nothing is decided for it any more: train "
            f"the cutoff {settings().now().date()}, or replay the period in a data folder of its own"
        )
    return added


def _can_forecast(bundle: ForecastModel, version: int) -> None:
    """Refuse a model that the hourly features of today cannot feed: it would stop every forecast."""
    missing = sorted(set(bundle.features) - set(HOURLY_FEATURES.columns))
    if missing:
        raise dg.Failure(
            f"version {version} needs features that are not computed any more: {', '.join(missing)}",
            allow_retries=False,
        )


def takes_effect(day: date, *, replayed: bool) -> datetime:
    """Return the first hour (open_time, UTC) that a change decided on a day holds for.

    In a replay that is the day's first hour. On the running day, hours were forecast and served before the change was
    decided: it holds from the newest of them on, which is forecast again at once, and never before.

    Args:
        day: the day of the change.
        replayed: whether the day has passed, so that its decision is made as if at its first hour.
    """
    start, served = midnight(day), newest_served_hour(settings().serving_dir)
    return served if served is not None and served.date() == day and not replayed else start


def has_passed(day: date) -> bool:
    """Say whether the last hour of a day has closed."""
    return day < (settings().now() - HOUR).date()


def is_replay(day: date) -> bool:
    """Say whether a day is decided as if at its first hour: of a closed history, or with nothing served since."""
    served = newest_served_hour(settings().serving_dir)
    return settings().history_end is not None or (has_passed(day) and (served is None or served.date() < day))


def _unserved_rollback(everything: pl.DataFrame) -> int | None:
    """Return the version of a rollback that is written but not served yet: one that was killed, to be finished."""
    champion = everything.filter(pl.col("role") == CHAMPION).sort("effective_from", "recorded_at")
    live = live_manifest(settings().serving_dir)
    if champion.is_empty() or live is None or champion["event"][-1] != "rolled_back":
        return None
    return None if live.get("model_version") == champion["model_version"][-1] else champion["model_version"][-1]


@dg.asset(
    key=["champion", "shadow_report"],
    **(_COMMON | _REPORT),
    dagster_type=dagster_type(SHADOW_REPORT),
    ins={
        "forecasts": dg.AssetIn(key=["forecasting", "forecasts"]),
        "forecast_outcomes": dg.AssetIn(
            key=["forecasting", "forecast_outcomes"],
            partition_mapping=days_before(MOST_DAYS_IN_SHADOW, and_today=True),
        ),
    },
    kinds={"polars", "matplotlib"},
)
def shadow_report(
    context: dg.AssetExecutionContext, forecasts: pl.LazyFrame, forecast_outcomes: pl.LazyFrame
) -> dg.Output[pl.DataFrame]:
    """Champion against challenger, by the tests of the gate, on every hour the challenger has spent in shadow.

    The challenger forecasts beside the champion without being served. After `BTC_SHADOW_HOURS` realised hours it is
    judged once: promoted if it is shown to be better, else dismissed. Empty on days without a model in shadow.
    """
    config = settings()
    outcomes, made = forecast_outcomes.collect(), forecasts.collect()
    days = sorted(map(day_of, context.partition_keys))
    known, at = KNOWN_DAY, pl.col("open_time").dt.date()
    reports = [
        shadow.shadow_rows(
            outcomes.filter(known <= day),
            made.filter(at == day),
            day=day,
            least_hours=config.shadow_hours,
            margin_nats=config.gate_margin_nats,
            significance=config.gate_significance,
            fee_bps=config.fee_bps,
        )
        for day in days
    ]
    newest = reports[-1]
    metadata: dict[str, Any] = {"decision": "Nobody is in shadow."}
    if newest.height:
        first = newest.row(0, named=True)
        drawn = plots.shadow(outcomes.filter(pl.col("role") != NEWEST), version=first["challenger_version"])
        metadata = {
            "decision": first["decision"],
            "challenger": first["challenger_version"],
            "champion": first["champion_version"],
            "criteria": table_metadata(newest.select("criterion", "value", "bound", "passed", "reason")),
            **({"picture": dg.MetadataValue.md(markdown_image(drawn, "shadow"))} if drawn else {}),
        }
    return stored(context, SHADOW_REPORT, pl.concat(reports), metadata)


ASSETS = [model_verdict, model_history, shadow_report]
