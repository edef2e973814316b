"""Learning on cutoff days: folds, parameters, out-of-fold forecasts, the model, why, the verdict and the history."""

import base64
import json
import tempfile
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import numpy as np
import polars as pl
from pydantic import Field

from btc_assets.clock import HOUR, midnight
from btc_assets.contracts import (
    CV_FOLDS,
    FEATURE_GROUP_STUDY,
    FOLD_FORECASTS,
    FORECASTS,
    HORIZONS,
    HOURLY_FEATURES,
    MODEL_EXPLANATION,
    MODEL_HISTORY,
    MODEL_VERDICT,
    QUANTILE_COLUMNS,
    SERVING_BUNDLE,
    SHADOW_REPORT,
    TRAINED_MODEL,
    TRAINING_PROFILE,
    TUNED_PARAMETERS,
    dagster_type,
)
from btc_assets.digest import digest
from btc_assets.features.assets import stored_texts
from btc_assets.features.catalog import FEATURE_SETS, FEATURES, WARMUP_DAYS
from btc_assets.lake import Lake, stored
from btc_assets.learning import folds, gate, history, missingness, training
from btc_assets.learning.bundle import ModelBundle, graph_name, write_bundle
from btc_assets.learning.families.gradient_boosting import BoostedOutput, BoostingParameters
from btc_assets.learning.group_study import as_markdown, feature_groups, picture, study_groups
from btc_assets.learning.recipe import recipe_changes
from btc_assets.learning.registry import MODEL_FOLDER, NATIVE_FOLDER, ModelRegistry, RegistryError
from btc_assets.partitions import DAILY, day_of, days_before
from btc_assets.serving.publish import live_manifest
from btc_assets.settings import settings

GROUP = "learning"
CODE_VERSION = "1"
WEEK = timedelta(days=7)
STUDY_SEEDS = 5
"""Seeds of every set of feature groups that is compared."""
CAUSALITY_DAYS = 3
"""Newest days of the window on which a verdict runs the causality laws."""
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


def _window(table: str) -> dg.AssetIn:
    """Everything of a table inside the training window: the days before the cutoff, never its own."""
    return dg.AssetIn(key=table.split("/"), partition_mapping=days_before(settings().window_days, and_today=False))


def _same_cutoff(table: str) -> dg.AssetIn:
    return dg.AssetIn(key=table.split("/"))


def _known(features: pl.DataFrame, cutoff: date) -> tuple[str, ...]:
    """Return the features of the chosen set known in the window of a cutoff, and the returns' scale."""
    chosen = FEATURE_SETS[settings().feature_set]
    names = chosen if training.SCALE_FEATURE in chosen else (*chosen, training.SCALE_FEATURE)
    return folds.learnable(
        features, names, cutoff=cutoff, window_days=settings().window_days, needed=training.SCALE_FEATURE
    )


def _names(features: pl.DataFrame, cutoff: date) -> tuple[str, ...]:
    """Return the features a cutoff learns from: those known in its window that are not gone at its end."""
    known = _known(features, cutoff)
    left_out = set(missingness.gone(features, known, cutoff=cutoff, window_days=settings().window_days))
    return tuple(name for name in known if name not in left_out - {training.SCALE_FEATURE})


def _rows(features: pl.LazyFrame, labels: pl.LazyFrame, cutoff: date, names: tuple[str, ...]) -> dict[int, folds.Rows]:
    wide, known = features.select("open_time", "available_at", *names).collect(), labels.collect()
    return {
        horizon: folds.labelled_rows(
            wide, known, cutoff=cutoff, horizon=horizon, window_days=settings().window_days, names=names
        )
        for horizon in HORIZONS
    }


def _parameters(tuned: pl.DataFrame) -> dict[int, BoostingParameters]:
    return {
        row["horizon_hours"]: BoostingParameters.from_json(row["parameters"]) for row in tuned.iter_rows(named=True)
    }


@dg.asset(
    key=["learning", "cv_folds"],
    **_COMMON,
    dagster_type=dagster_type(CV_FOLDS),
    ins={"hourly_features": _window("features/hourly_features"), "hourly_labels": _window("features/hourly_labels")},
    kinds={"polars"},
)
def cv_folds(
    context: dg.AssetExecutionContext, hourly_features: pl.LazyFrame, hourly_labels: pl.LazyFrame
) -> dg.Output[pl.DataFrame]:
    """Walk-forward folds inside the window of a cutoff, one row for each horizon and fold.

    Each fold trains on everything in the window whose label is known when its test starts, so the purge
    between the two is the horizon plus one hour. No embargo: nothing is ever trained on after a test.
    """
    config, cutoff = settings(), day_of(context.partition_key)
    frame = folds.make_folds(
        _rows(hourly_features, hourly_labels, cutoff, ()),
        cutoff=cutoff,
        window_days=config.window_days,
        n_folds=config.cv_folds,
        test_days=config.cv_test_days,
    )
    return stored(context, CV_FOLDS, frame, {"folds": dg.MetadataValue.md(_markdown(frame))})


@dg.asset(
    key=["learning", "tuned_parameters"],
    **_COMMON,
    dagster_type=dagster_type(TUNED_PARAMETERS),
    ins={
        "hourly_features": _window("features/hourly_features"),
        "hourly_labels": _window("features/hourly_labels"),
        "cv_folds": _same_cutoff("learning/cv_folds"),
        "earlier": _window("learning/tuned_parameters"),
    },
    kinds={"optuna", "xgboost"},
)
def tuned_parameters(
    context: dg.AssetExecutionContext,
    registry: ModelRegistry,
    hourly_features: pl.LazyFrame,
    hourly_labels: pl.LazyFrame,
    cv_folds: pl.LazyFrame,
    earlier: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """Parameters of each horizon's boosters at a cutoff.

    The previous cutoff's parameters are reused until their study is older than `BTC_TUNE_EVERY_DAYS`; then a
    seeded, pruned Optuna study starts from them on this cutoff's folds. They are replaced only by a trial
    whose gain over the fold hours exceeds its standard error. Studies are kept in SQLite.
    """
    from btc_assets.learning.tuning import tune

    config, cutoff = settings(), day_of(context.partition_key)
    previous = earlier.collect().sort("cutoff")
    layout = cv_folds.collect()
    wide, known = hourly_features.collect(), hourly_labels.collect()
    rows: dict[int, folds.Rows] = {}
    records: list[dict[str, Any]] = []
    for horizon in HORIZONS:
        newest = previous.filter(pl.col("horizon_hours") == horizon).tail(1).to_dicts()
        incumbent = BoostingParameters.from_json(newest[0]["parameters"]) if newest else BoostingParameters()
        record: dict[str, Any] = {
            "cutoff": cutoff,
            "horizon_hours": horizon,
            "log_loss": None,
            "incumbent_log_loss": None,
            "trials": 0,
            "pruned": 0,
            "parameters": incumbent.to_json(),
        }
        fresh = newest and cutoff - newest[0]["tuned_cutoff"] < timedelta(days=config.tune_every_days)
        if config.tune_trials == 0 or fresh:
            record |= {
                "source": "reused" if newest else "default",
                "tuned_cutoff": newest[0]["tuned_cutoff"] if newest else cutoff,
            }
        else:
            rows = rows or _rows(wide.lazy(), known.lazy(), cutoff, _names(wide, cutoff))
            own = layout.filter(pl.col("horizon_hours") == horizon).sort("fold")
            study = tune(
                [folds.split(rows[horizon], fold) for fold in own.iter_rows(named=True)],
                incumbent,
                horizon=horizon,
                study_name=f"{cutoff}/{horizon}h",
                study_url=config.study_url,
                trials=config.tune_trials,
                seed=config.seed,
                threads=config.train_threads,
            )
            record |= {
                "source": "tuned",
                "tuned_cutoff": cutoff,
                "log_loss": study.log_loss,
                "incumbent_log_loss": study.incumbent_log_loss,
                "trials": study.trials,
                "pruned": study.pruned,
                "parameters": study.parameters.to_json(),
            }
        records.append(record)
    frame = pl.DataFrame(records, schema=TUNED_PARAMETERS.columns)
    versions = _versions(hourly_features=wide, hourly_labels=known, cv_folds=layout, earlier=previous)
    with registry.run(context, versions) as run:
        for row in frame.iter_rows(named=True):
            horizon = row["horizon_hours"]
            run.parameters({f"{horizon}h.{k}": v for k, v in json.loads(row["parameters"]).items()})
            run.metrics({f"{horizon}h.{k}": row[k] for k in ("log_loss", "incumbent_log_loss") if row[k] is not None})
        link = run.link()
    return stored(
        context, TUNED_PARAMETERS, frame, {"parameters": dg.MetadataValue.md(_markdown(frame)), "mlflow_run": link}
    )


@dg.asset(
    key=["learning", "fold_forecasts"],
    **_COMMON,
    dagster_type=dagster_type(FOLD_FORECASTS),
    ins={
        "hourly_features": _window("features/hourly_features"),
        "hourly_labels": _window("features/hourly_labels"),
        "cv_folds": _same_cutoff("learning/cv_folds"),
        "tuned_parameters": _same_cutoff("learning/tuned_parameters"),
    },
    kinds={"xgboost"},
)
def fold_forecasts(
    context: dg.AssetExecutionContext,
    hourly_features: pl.LazyFrame,
    hourly_labels: pl.LazyFrame,
    cv_folds: pl.LazyFrame,
    tuned_parameters: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """Out-of-sample forecasts of every fold's test hours, by models that saw only the hours before.

    Calibration, conformal intervals, the metrics of the MLflow run and the gate's view of the candidate all
    rest on this table, so nothing of them is fitted on hours the booster has learnt from.
    """
    config, cutoff = settings(), day_of(context.partition_key)
    wide = hourly_features.collect()
    frame = training.forecast_folds(
        _rows(wide.lazy(), hourly_labels, cutoff, _names(wide, cutoff)),
        cv_folds.collect(),
        _parameters(tuned_parameters.collect()),
        seed=config.seed,
        threads=config.train_threads,
    )
    table = pl.DataFrame(
        [
            {"horizon_hours": horizon, "fold": fold, **training.out_of_sample_metrics(part)}
            for (horizon, fold), part in frame.partition_by("horizon_hours", "fold", as_dict=True).items()
        ]
    ).sort("horizon_hours", "fold")
    return stored(context, FOLD_FORECASTS, frame, {"metrics": dg.MetadataValue.md(_markdown(table))})


@dg.asset(
    key=["learning", "trained_model"],
    **_COMMON,
    dagster_type=dagster_type(TRAINED_MODEL),
    ins={
        "hourly_features": _window("features/hourly_features"),
        "hourly_labels": _window("features/hourly_labels"),
        "tuned_parameters": _same_cutoff("learning/tuned_parameters"),
        "fold_forecasts": _same_cutoff("learning/fold_forecasts"),
    },
    kinds={"xgboost", "onnx", "mlflow"},
)
def trained_model(
    context: dg.AssetExecutionContext,
    registry: ModelRegistry,
    hourly_features: pl.LazyFrame,
    hourly_labels: pl.LazyFrame,
    tuned_parameters: pl.LazyFrame,
    fold_forecasts: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """The model of a cutoff: P(up) and five return quantiles for 1, 4 and 24 h, as ONNX graphs.

    Trained on the window before the cutoff, labels included; calibrated and conformalised from the
    out-of-fold forecasts; every graph must answer as its booster before the model is registered in MLflow.
    The same data and settings give the same digest, and the same digest keeps its version.
    """
    config, cutoff = settings(), day_of(context.partition_key)
    forecasts, tuned = fold_forecasts.collect(), tuned_parameters.collect()
    parameters = _parameters(tuned)
    declared = {feature.name: feature for feature in FEATURES}
    metrics = {
        horizon: training.out_of_sample_metrics(forecasts.filter(pl.col("horizon_hours") == horizon))
        for horizon in HORIZONS
    }
    wide, known = hourly_features.collect(), hourly_labels.collect()
    names = _names(wide, cutoff)
    rows = _rows(wide.lazy(), known.lazy(), cutoff, names)
    versions = _versions(hourly_features=wide, hourly_labels=known, tuned_parameters=tuned, fold_forecasts=forecasts)
    with registry.run(context, versions) as run:
        model = training.fit_model(
            rows,
            forecasts,
            parameters,
            cutoff=cutoff,
            feature_set=config.feature_set,
            features=[
                {"name": n, "unit": declared[n].unit, "group": declared[n].group, "about": declared[n].about}
                for n in names
            ],
            metrics=metrics,
            seed=config.seed,
            other_seeds=_other_seeds(),
            threads=config.train_threads,
        )
        with tempfile.TemporaryDirectory() as scratch:
            folder, natives = Path(scratch) / MODEL_FOLDER, Path(scratch) / NATIVE_FOLDER
            model_digest = write_bundle(folder, model.document, model.graphs)
            natives.mkdir()
            for name, content in model.natives.items():
                (natives / name).write_bytes(content)
            run.files(folder, MODEL_FOLDER)
            run.files(natives, NATIVE_FOLDER)
        for horizon in HORIZONS:
            run.parameters({f"{horizon}h.{k}": v for k, v in asdict(parameters[horizon]).items()})
            run.metrics({f"{horizon}h.{k}": v for k, v in metrics[horizon].items()})
        for (horizon, fold), part in forecasts.partition_by("horizon_hours", "fold", as_dict=True).items():
            run.metrics({f"fold.{horizon}h.{k}": v for k, v in training.out_of_sample_metrics(part).items()}, step=fold)
        run.parameters({"feature_set": config.feature_set, "window_days": config.window_days, "seed": config.seed})
        run.tags({"model_digest": model_digest, "cutoff": cutoff.isoformat()})
        version = registry.register(run.run_id, model_digest, cutoff.isoformat())
        run.tags({"model_version": str(version)})
        link = run.link()
    stated = registry.load(version).document["graphs"]
    frame = pl.DataFrame(
        [
            {
                "cutoff": cutoff,
                "horizon_hours": horizon,
                "output": output,
                "model_version": version,
                "model_digest": model_digest,
                "graph_digest": stated[graph_name(output, horizon)],
                "rows": len(rows[horizon]),
                "trees": model.trees[graph_name(output, horizon)],
                "parity_error": model.parity[graph_name(output, horizon)],
            }
            for horizon in HORIZONS
            for output in ("p_up", *QUANTILE_COLUMNS)
        ],
        schema=TRAINED_MODEL.columns,
    ).sort(TRAINED_MODEL.key)
    return stored(
        context,
        TRAINED_MODEL,
        frame,
        {
            "model_version": version,
            "model_digest": model_digest,
            "mlflow_run": link,
            "out_of_fold": dg.MetadataValue.md(
                _markdown(pl.DataFrame([{"horizon_hours": h, **metrics[h]} for h in HORIZONS]))
            ),
        },
    )


@dg.asset(
    key=["learning", "model_explanation"],
    **_COMMON,
    dagster_type=dagster_type(MODEL_EXPLANATION),
    ins={
        "hourly_features": _window("features/hourly_features"),
        "hourly_labels": _window("features/hourly_labels"),
        "trained_model": _same_cutoff("learning/trained_model"),
    },
    kinds={"shap", "mlflow"},
)
def model_explanation(
    context: dg.AssetExecutionContext,
    registry: ModelRegistry,
    hourly_features: pl.LazyFrame,
    hourly_labels: pl.LazyFrame,
    trained_model: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """Which features move P(up): mean |SHAP value| by horizon over the newest hours of the window.

    The beeswarm of the primary horizon is shown here and kept with the MLflow run.
    """
    from btc_assets.learning.explain import explain

    cutoff, trained = day_of(context.partition_key), trained_model.collect()
    version = trained["model_version"][0]
    names = registry.load(version).features
    wide, known = hourly_features.collect(), hourly_labels.collect()
    rows = _rows(wide.lazy(), known.lazy(), cutoff, names)
    natives = registry.native(version)
    found = {h: explain(natives / f"p_up_{h}h.ubj", rows[h].inputs, names) for h in HORIZONS}
    frame = pl.concat([found[h].importance(cutoff, h) for h in HORIZONS]).sort(MODEL_EXPLANATION.key)
    primary = HORIZONS[0]
    picture = found[primary].beeswarm(f"P(up) over {primary} h, cutoff {cutoff}")
    versions = _versions(hourly_features=wide, hourly_labels=known, trained_model=trained)
    with registry.run(context, {"model_version": str(version), **versions}) as run:
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / f"beeswarm_{primary}h.png").write_bytes(picture)
            frame.write_csv(Path(scratch) / "importance.csv")
            run.files(Path(scratch), "explanation")
        link = run.link()
    top = frame.filter((pl.col("horizon_hours") == primary) & (pl.col("rank") <= 15))
    return stored(
        context,
        MODEL_EXPLANATION,
        frame,
        {
            "beeswarm": dg.MetadataValue.md(f"![beeswarm](data:image/png;base64,{base64.b64encode(picture).decode()})"),
            "importance": dg.MetadataValue.md(_markdown(top.select("rank", "feature", "mean_abs_shap"))),
            "mlflow_run": link,
        },
    )


@dg.asset(
    key=["learning", "training_profile"],
    **_COMMON,
    dagster_type=dagster_type(TRAINING_PROFILE),
    ins={
        "hourly_features": _window("features/hourly_features"),
        "hourly_labels": _window("features/hourly_labels"),
        "model_explanation": _same_cutoff("learning/model_explanation"),
    },
    kinds={"polars"},
)
def training_profile(
    context: dg.AssetExecutionContext,
    hourly_features: pl.LazyFrame,
    hourly_labels: pl.LazyFrame,
    model_explanation: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """What the model of a cutoff saw in training: how long its inputs were missing, and what usually happened.

    A forecast whose inputs are missing for longer than this is marked as degraded; a missing input is answered at
    the median given here, and where too much is missing, the base rate and the scaled quantiles answer instead of the
    model. An input that was gone at the cutoff was not learnt from, and has no weight.
    """
    cutoff = day_of(context.partition_key)
    wide = hourly_features.sort("open_time").collect()
    frame = missingness.profile_rows(
        wide,
        _rows(wide.lazy(), hourly_labels, cutoff, (training.SCALE_FEATURE,)),
        model_explanation.collect(),
        _known(wide, cutoff),
        cutoff=cutoff,
        window_days=settings().window_days,
    )
    primary = frame.filter(pl.col("horizon_hours") == HORIZONS[0])
    missed = primary.filter(pl.col("longest_missing_hours") > 0).sort("longest_missing_hours", descending=True)
    return stored(
        context,
        TRAINING_PROFILE,
        frame,
        {
            "gone_at_the_cutoff": sorted(missingness.gone_inputs(primary)),
            "longest_missing": dg.MetadataValue.md(
                _markdown(missed.head(20).select("feature", "weight", "missing_share", "longest_missing_hours"))
            ),
            "returns": dg.MetadataValue.md(
                _markdown(
                    frame.unique("horizon_hours")
                    .sort("horizon_hours")
                    .select("horizon_hours", "base_rate", *QUANTILE_COLUMNS, "rows")
                )
            ),
        },
    )


@dg.asset(
    key=["learning", "model_verdict"],
    **(_COMMON | {"code_version": "2"}),
    dagster_type=dagster_type(MODEL_VERDICT),
    ins={
        "prices": dg.AssetIn(
            key=["market", "prices"], partition_mapping=days_before(WARMUP_DAYS + CAUSALITY_DAYS, and_today=False)
        ),
        "hourly_features": _window("features/hourly_features"),
        "hourly_labels": _window("features/hourly_labels"),
        "cv_folds": _same_cutoff("learning/cv_folds"),
        "tuned_parameters": _same_cutoff("learning/tuned_parameters"),
        "fold_forecasts": _same_cutoff("learning/fold_forecasts"),
        "trained_model": dg.AssetIn(
            key=["learning", "trained_model"], partition_mapping=days_before(settings().window_days, and_today=True)
        ),
    },
    deps=[
        dg.AssetDep(
            ["learning", "training_profile"], partition_mapping=days_before(settings().window_days, and_today=False)
        )
    ],
    kinds={"mlflow"},
)
def model_verdict(
    context: dg.AssetExecutionContext,
    registry: ModelRegistry,
    lake: dg.ResourceParam[Lake],
    prices: pl.LazyFrame,
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
    from btc_assets.features.causality import feature_failures

    config, cutoff = settings(), day_of(context.partition_key)
    models = trained_model.collect()
    trained = models.filter(pl.col("cutoff") == cutoff)
    candidate = history.ModelChoice(trained["model_version"][0], cutoff, trained["model_digest"][0])
    past = lake.scan(MODEL_HISTORY, None, cutoff).collect().filter(pl.col("verdict_cutoff").ne_missing(cutoff))
    before = history.holder(past, history.CHAMPION, takes_effect(lake, cutoff, replayed=is_replay(lake, cutoff)))
    wide, known, forecasts = hourly_features.collect(), hourly_labels.collect(), fold_forecasts.collect()
    rows = _rows(wide.lazy(), known.lazy(), cutoff, _names(wide, cutoff))[gate.PRIMARY]
    newest = cv_folds.filter(pl.col("horizon_hours") == gate.PRIMARY).sort("fold").collect().row(-1, named=True)
    learnt, judged = folds.split(rows, newest)
    parameters = _parameters(tuned_parameters.collect())[gate.PRIMARY]
    fits = training.fit_seeds(
        learnt, parameters, horizon=gate.PRIMARY, seeds=_other_seeds(), threads=config.train_threads
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
            lost_inputs=set(_known(wide, cutoff)) - set(rows.names),
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
    texts = stored_texts(lake, cutoff - timedelta(days=WARMUP_DAYS + CAUSALITY_DAYS), cutoff - timedelta(days=1))
    verdict = gate.judge(
        evidence,
        champion,
        parity_error=float(trained["parity_error"].to_numpy().max()),
        champion_parity_error=champion_parity,
        recipe_changes=changes,
        causality_failures=feature_failures(prices.collect(), texts),
        inputs_changed=sorted(changed),
        new_inputs_allowed=config.gate_new_inputs,
        margin_nats=config.gate_margin_nats,
        tolerance_nats=config.gate_tolerance_nats,
        significance=config.gate_significance,
        fee_bps=config.fee_bps,
    )
    frame = gate.verdict_rows(verdict, cutoff=cutoff, candidate=candidate, before=before)
    summary = _markdown(frame.select("criterion", "value", "champion_value", "bound", "passed", "reason"))
    versions = _versions(hourly_features=wide, hourly_labels=known, fold_forecasts=forecasts, trained_model=trained)
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
    paths = [natives / training.seed_name(seed) for seed in _other_seeds()]
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
    """Return the run config that asks `learning/model_history` for a change, see `HistoryChange`."""
    return {"ops": {"learning__model_history": {"config": change}}}


@dg.asset(
    key=["learning", "model_history"],
    **(_COMMON | {"code_version": "2"}),
    dagster_type=dagster_type(MODEL_HISTORY),
    ins={"model_verdict": _same_cutoff("learning/model_verdict")},
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
    if config.event == "replay" and is_replay(lake, day):
        everything = everything.filter(~on_the_day | ~pl.col("actor").is_in([history.VERDICT, history.SHADOW]))
        with lake.alone(MODEL_HISTORY):
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
                _markdown(frame.select("effective_from", "role", "event", "model_version", "actor", "reason"))
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
        newest = newest_day_forecast(lake, settings().now()) or day
        if day != newest:
            raise history.HistoryError(f"roll back on {newest}, the newest day with forecasts, not on {day}")
        return history.after_rollback(
            everything,
            to=config.to or _under_way(everything),
            reason=" ".join(config.reason.split()) or "no reason was given",
            actor=" ".join(config.actor.split()) or "unknown",
            effective_from=takes_effect(lake, day, replayed=False),
            recorded_at=written,
        )
    replayed = is_replay(lake, day)
    times = {"effective_from": takes_effect(lake, day, replayed=replayed), "recorded_at": written}
    if config.event != "verdict":
        report = lake.read(SHADOW_REPORT, day - timedelta(days=1))
        added = history.after_shadow(everything, SHADOW_REPORT.empty() if report is None else report, **times)
    elif verdict.is_empty():
        raise history.HistoryError(f"no verdict of {day} is stored: materialise learning/model_verdict first")
    else:
        added = history.after_verdict(everything, verdict, **times)
    if added.height and not replayed and has_passed(day):
        raise history.HistoryError(
            f"{day} has passed and what was forecast since was served, so nothing is decided for it any more: train "
            f"the cutoff {settings().now().date()}, or replay the period in a data folder of its own"
        )
    return added


def _can_forecast(bundle: ModelBundle, version: int) -> None:
    """Refuse a model that the hourly features of today cannot feed: it would stop every forecast."""
    missing = sorted(set(bundle.features) - set(HOURLY_FEATURES.columns))
    if missing:
        raise dg.Failure(
            f"version {version} needs features that are not computed any more: {', '.join(missing)}",
            allow_retries=False,
        )


def takes_effect(lake: Lake, day: date, *, replayed: bool) -> datetime:
    """Return the first hour (open_time, UTC) that a change decided on a day holds for.

    In a replay that is the day's first hour. On the running day, hours were forecast and served before the change was
    decided: it holds from the newest of them on, which is forecast anew at once, and never before.

    Args:
        lake: where the forecasts are.
        day: the day of the change.
        replayed: whether the day has passed, so that its decision is made as if at its first hour.
    """
    start, own = midnight(day), pl.col("role") == history.CHAMPION
    if replayed:
        return start
    newest = lake.scan(FORECASTS, day, day).filter(own).select(pl.col("open_time").max()).collect().item()
    return start if newest is None else newest


def has_passed(day: date) -> bool:
    """Say whether the last hour of a day has closed."""
    return day < (settings().now() - HOUR).date()


def is_replay(lake: Lake, day: date) -> bool:
    """Say whether a day is decided as if at its first hour: of a closed history, or with nothing served since."""
    served = any(published >= day for published in lake.days(SERVING_BUNDLE))
    return settings().history_end is not None or (has_passed(day) and not served)


def newest_day_forecast(lake: Lake, now: datetime) -> date | None:
    """Return the newest day, up to now, on which a champion has forecast, or None."""
    for day in reversed([day for day in lake.days(FORECASTS) if day <= now.date()]):
        made = lake.read(FORECASTS, day)
        if made is not None and history.CHAMPION in made["role"]:
            return day
    return None


def _under_way(everything: pl.DataFrame) -> int | None:
    """Return the version of a rollback that is written but not served yet: one that was killed, to be finished."""
    champion = everything.filter(pl.col("role") == history.CHAMPION).sort("effective_from", "recorded_at")
    live = live_manifest(settings().serving_dir)
    if champion.is_empty() or live is None or champion["event"][-1] != "rolled_back":
        return None
    return None if live.get("model_version") == champion["model_version"][-1] else champion["model_version"][-1]


@dg.asset(
    key=["learning", "feature_group_study"],
    **(_COMMON | {"freshness_policy": dg.FreshnessPolicy.time_window(fail_window=60 * WEEK, warn_window=30 * WEEK)}),
    dagster_type=dagster_type(FEATURE_GROUP_STUDY),
    ins={
        "hourly_features": _window("features/hourly_features"),
        "hourly_labels": _window("features/hourly_labels"),
        "cv_folds": _same_cutoff("learning/cv_folds"),
        "tuned_parameters": _same_cutoff("learning/tuned_parameters"),
    },
    kinds={"xgboost"},
)
def feature_group_study(
    context: dg.AssetExecutionContext,
    hourly_features: pl.LazyFrame,
    hourly_labels: pl.LazyFrame,
    cv_folds: pl.LazyFrame,
    tuned_parameters: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """Does a group of features help? Price alone, sentiment alone, social alone, together, and each one left out.

    Every set of groups forecasts the same test hours of the cutoff's folds with the same seeds; differences in
    log-loss are tested (Diebold-Mariano with Holm's correction, paired t) and put in words: helps, hurts, or cannot
    tell. A group nobody gathered is left out. Not part of a training: it is run when the question is asked.
    """
    config, cutoff = settings(), day_of(context.partition_key)
    wide = hourly_features.collect()
    names = _names(wide, cutoff)
    horizon = HORIZONS[0]
    study = study_groups(
        _rows(wide.lazy(), hourly_labels, cutoff, names)[horizon],
        cv_folds.collect(),
        feature_groups(names),
        _parameters(tuned_parameters.collect())[horizon],
        seeds=range(config.seed, config.seed + STUDY_SEEDS),
        threads=config.train_threads,
    )
    return stored(
        context,
        FEATURE_GROUP_STUDY,
        study.rows,
        {
            "table": dg.MetadataValue.md(as_markdown(study.rows)),
            "notes": list(study.notes),
            "picture": dg.MetadataValue.md(
                f"![groups](data:image/png;base64,{base64.b64encode(picture(study.rows)).decode()})"
            ),
            "verdicts": {
                f"{row['groups']} against {row['against'] or 'base rate'}": row["verdict"]
                for row in study.rows.iter_rows(named=True)
            },
        },
    )


def _other_seeds() -> range:
    """Return the seeds of the fits that a verdict compares beside the model's own."""
    return range(settings().seed + 1, settings().seed + gate.SEEDS)


def _versions(**frames: pl.DataFrame) -> dict[str, str]:
    """Return tags with the content hash of what a model was made from."""
    return {f"data_version.{name}": digest(frame) for name, frame in frames.items()}


def _markdown(frame: pl.DataFrame) -> str:
    """Return a frame as a Markdown table with four significant digits."""
    with pl.Config(
        tbl_formatting="MARKDOWN",
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_rows=100,
        tbl_cols=30,
        fmt_str_lengths=200,
        tbl_width_chars=400,
    ):
        return str(frame.with_columns(pl.col(pl.Float64).round_sig_figs(4)))


ASSETS = [
    cv_folds,
    tuned_parameters,
    fold_forecasts,
    trained_model,
    model_explanation,
    training_profile,
    model_verdict,
    model_history,
    feature_group_study,
]
