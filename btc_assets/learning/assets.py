"""Learning assets of a cutoff day: folds, parameters, out-of-fold forecasts, model, explanation and profile."""

import base64
import json
import tempfile
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from btc_assets import freshness
from btc_assets.features.catalog import FEATURES
from btc_assets.lake import output_of
from btc_assets.learning import folds, missingness, training
from btc_assets.learning.cutoff import (
    FAMILY,
    data_versions,
    known_inputs,
    other_seeds,
    parameters_by_horizon,
    rows_by_horizon,
    same_cutoff,
    training_inputs,
    window_of,
)
from btc_assets.learning.forecast_model import graph_name, save_model
from btc_assets.learning.group_study import as_markdown, feature_groups, plot, study_groups
from btc_assets.learning.registry import MODEL_FOLDER, NATIVE_FOLDER, ModelRegistry
from btc_assets.learning.tables import (
    CV_FOLDS,
    FEATURE_GROUP_STUDY,
    FOLD_FORECASTS,
    MODEL_EXPLANATION,
    TRAINED_MODEL,
    TRAINING_PROFILE,
    TUNED_PARAMETERS,
)
from btc_assets.markdown import markdown_table
from btc_assets.partitions import DAILY, day_of
from btc_assets.schema import dagster_type
from btc_assets.settings import settings
from btc_assets.vocabulary import HORIZONS, PRIMARY, QUANTILE_NAMES, display

GROUP = "learning"
CODE_VERSION = "2"
WEEK = timedelta(days=7)
STUDY_SEEDS = 5
"""Number of seeds per compared set of feature groups."""
_BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=1)
_LIMITS = {"dagster/max_runtime": "3600"}
COMMON: dict[str, Any] = {
    "partitions_def": DAILY,
    "group_name": GROUP,
    "freshness_policy": freshness.WEEKLY,
    "backfill_policy": _BACKFILL,
    "code_version": CODE_VERSION,
    "op_tags": _LIMITS,
}
"""Options shared by every asset of this domain."""


@dg.asset(
    key=["learning", "cv_folds"],
    **COMMON,
    dagster_type=dagster_type(CV_FOLDS),
    ins={
        "hourly_features": window_of("features/hourly_features"),
        "hourly_labels": window_of("features/hourly_labels"),
    },
    kinds={"polars"},
)
def cv_folds(
    context: dg.AssetExecutionContext, hourly_features: pl.LazyFrame, hourly_labels: pl.LazyFrame
) -> dg.Output[pl.DataFrame]:
    """Walk-forward folds inside the window of a cutoff, one row per horizon and fold.

    Each fold trains on every row of the window whose label is known at the start of its test, so the purge between
    training and test is the horizon plus one hour. There is no embargo, as no fold trains on rows after a test.
    """
    config, cutoff = settings(), day_of(context.partition_key)
    frame = folds.make_folds(
        rows_by_horizon(hourly_features, hourly_labels, cutoff, ()),
        cutoff=cutoff,
        window_days=config.window_days,
        n_folds=config.cv_folds,
        test_days=config.cv_test_days,
    )
    return output_of(context, CV_FOLDS, frame, {"folds": dg.MetadataValue.md(markdown_table(frame))})


@dg.asset(
    key=["learning", "tuned_parameters"],
    **COMMON,
    dagster_type=dagster_type(TUNED_PARAMETERS),
    ins={
        "hourly_features": window_of("features/hourly_features"),
        "hourly_labels": window_of("features/hourly_labels"),
        "cv_folds": same_cutoff("learning/cv_folds"),
        "earlier": window_of("learning/tuned_parameters"),
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

    The parameters of the previous cutoff are reused until their study is older than `BTC_TUNE_EVERY_DAYS`. Then a
    seeded Optuna study with pruning starts from them on the folds of this cutoff. Only a trial whose gain over the fold
    hours exceeds its standard error replaces them. Studies are stored in SQLite.
    """
    from btc_assets.learning.tuning import tune

    config, cutoff = settings(), day_of(context.partition_key)
    previous = earlier.collect().sort("cutoff")
    layout = cv_folds.collect()
    wide, known = hourly_features.collect(), hourly_labels.collect()
    rows: dict[int, folds.Rows] = {}
    records: list[dict[str, Any]] = []
    for horizon in HORIZONS:
        newest = previous.filter(pl.col("horizon_minutes") == horizon).tail(1).to_dicts()
        incumbent = FAMILY.parameters.from_json(newest[0]["parameters"]) if newest else FAMILY.parameters()
        record: dict[str, Any] = {
            "cutoff": cutoff,
            "horizon_minutes": horizon,
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
            rows = rows or rows_by_horizon(wide.lazy(), known.lazy(), cutoff, training_inputs(wide, cutoff))
            fold_rows = layout.filter(pl.col("horizon_minutes") == horizon).sort("fold")
            study = tune(
                FAMILY,
                [folds.split(rows[horizon], fold) for fold in fold_rows.iter_rows(named=True)],
                incumbent,
                horizon=horizon,
                study_name=f"{cutoff}/{horizon}m",
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
    versions = data_versions(hourly_features=wide, hourly_labels=known, cv_folds=layout, earlier=previous)
    with registry.run(context, TUNED_PARAMETERS.asset_key, versions) as run:
        for row in frame.iter_rows(named=True):
            horizon = row["horizon_minutes"]
            run.parameters({f"{horizon}m.{k}": v for k, v in json.loads(row["parameters"]).items()})
            run.metrics({f"{horizon}m.{k}": row[k] for k in ("log_loss", "incumbent_log_loss") if row[k] is not None})
        link = run.link()
    return output_of(
        context, TUNED_PARAMETERS, frame, {"parameters": dg.MetadataValue.md(markdown_table(frame)), "mlflow_run": link}
    )


@dg.asset(
    key=["learning", "fold_forecasts"],
    **COMMON,
    dagster_type=dagster_type(FOLD_FORECASTS),
    ins={
        "hourly_features": window_of("features/hourly_features"),
        "hourly_labels": window_of("features/hourly_labels"),
        "cv_folds": same_cutoff("learning/cv_folds"),
        "tuned_parameters": same_cutoff("learning/tuned_parameters"),
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
    """Out-of-sample forecasts of every fold's test hours, by models trained on earlier hours only.

    Calibration, conformal intervals, the metrics of the MLflow run and the gate's evaluation of the candidate use this
    table, so none of them uses hours on which the booster was trained.
    """
    config, cutoff = settings(), day_of(context.partition_key)
    wide = hourly_features.collect()
    frame = training.forecast_folds(
        FAMILY,
        rows_by_horizon(wide.lazy(), hourly_labels, cutoff, training_inputs(wide, cutoff)),
        cv_folds.collect(),
        parameters_by_horizon(tuned_parameters.collect()),
        seed=config.seed,
        threads=config.train_threads,
    )
    table = pl.DataFrame(
        [
            {"horizon_minutes": horizon, "fold": fold, **training.out_of_sample_metrics(part)}
            for (horizon, fold), part in frame.partition_by("horizon_minutes", "fold", as_dict=True).items()
        ]
    ).sort("horizon_minutes", "fold")
    return output_of(context, FOLD_FORECASTS, frame, {"metrics": dg.MetadataValue.md(markdown_table(table))})


@dg.asset(
    key=["learning", "trained_model"],
    **COMMON,
    dagster_type=dagster_type(TRAINED_MODEL),
    ins={
        "hourly_features": window_of("features/hourly_features"),
        "hourly_labels": window_of("features/hourly_labels"),
        "tuned_parameters": same_cutoff("learning/tuned_parameters"),
        "fold_forecasts": same_cutoff("learning/fold_forecasts"),
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
    """The model of a cutoff: P(up) and five return quantiles for 60 min, 4 h and 24 h, as ONNX graphs.

    The model is trained on the window before the cutoff, including labels, and calibrated and conformalised on the
    out-of-fold forecasts. Every graph must reproduce its booster before the model is registered in MLflow. The same
    data and settings give the same digest, and the same digest keeps its version.
    """
    config, cutoff = settings(), day_of(context.partition_key)
    forecasts, tuned = fold_forecasts.collect(), tuned_parameters.collect()
    parameters = parameters_by_horizon(tuned)
    declared = {feature.name: feature for feature in FEATURES}
    metrics = {
        horizon: training.out_of_sample_metrics(forecasts.filter(pl.col("horizon_minutes") == horizon))
        for horizon in HORIZONS
    }
    wide, known = hourly_features.collect(), hourly_labels.collect()
    names = training_inputs(wide, cutoff)
    rows = rows_by_horizon(wide.lazy(), known.lazy(), cutoff, names)
    versions = data_versions(
        hourly_features=wide, hourly_labels=known, tuned_parameters=tuned, fold_forecasts=forecasts
    )
    with registry.run(context, TRAINED_MODEL.asset_key, versions) as run:
        model = training.fit_model(
            FAMILY,
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
            other_seeds=other_seeds(),
            threads=config.train_threads,
        )
        with tempfile.TemporaryDirectory() as scratch:
            folder, natives = Path(scratch) / MODEL_FOLDER, Path(scratch) / NATIVE_FOLDER
            model_digest = save_model(folder, model.document, model.graphs)
            natives.mkdir()
            for name, content in model.natives.items():
                (natives / name).write_bytes(content)
            run.files(folder, MODEL_FOLDER)
            run.files(natives, NATIVE_FOLDER)
        for horizon in HORIZONS:
            run.parameters({f"{horizon}m.{k}": v for k, v in asdict(parameters[horizon]).items()})
            run.metrics({f"{horizon}m.{k}": v for k, v in metrics[horizon].items()})
        for (horizon, fold), part in forecasts.partition_by("horizon_minutes", "fold", as_dict=True).items():
            run.metrics({f"fold.{horizon}m.{k}": v for k, v in training.out_of_sample_metrics(part).items()}, step=fold)
        run.parameters({"feature_set": config.feature_set, "window_days": config.window_days, "seed": config.seed})
        run.tags({"model_digest": model_digest, "cutoff": cutoff.isoformat()})
        version = registry.register(run.run_id, model_digest, cutoff.isoformat())
        run.tags({"model_version": str(version)})
        link = run.link()
    graph_digests = registry.load(version).document["graphs"]
    frame = pl.DataFrame(
        [
            {
                "cutoff": cutoff,
                "horizon_minutes": horizon,
                "output": output,
                "model_version": version,
                "model_digest": model_digest,
                "graph_digest": graph_digests[graph_name(output, horizon)],
                "rows": len(rows[horizon]),
                "trees": model.trees[graph_name(output, horizon)],
                "parity_error": model.parity[graph_name(output, horizon)],
            }
            for horizon in HORIZONS
            for output in ("p_up", *QUANTILE_NAMES)
        ],
        schema=TRAINED_MODEL.columns,
    ).sort(TRAINED_MODEL.key)
    return output_of(
        context,
        TRAINED_MODEL,
        frame,
        {
            "model_version": version,
            "model_digest": model_digest,
            "mlflow_run": link,
            "out_of_fold": dg.MetadataValue.md(
                markdown_table(pl.DataFrame([{"horizon_minutes": h, **metrics[h]} for h in HORIZONS]))
            ),
        },
    )


@dg.asset(
    key=["learning", "model_explanation"],
    **COMMON,
    dagster_type=dagster_type(MODEL_EXPLANATION),
    ins={
        "hourly_features": window_of("features/hourly_features"),
        "hourly_labels": window_of("features/hourly_labels"),
        "trained_model": same_cutoff("learning/trained_model"),
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
    """Feature importance for P(up): mean |SHAP value| by horizon over the newest hours of the window.

    The metadata and the MLflow run contain the beeswarm plot of the primary horizon.
    """
    from btc_assets.learning.explain import explain

    cutoff, trained = day_of(context.partition_key), trained_model.collect()
    version = trained["model_version"][0]
    names = registry.load(version).features
    wide, known = hourly_features.collect(), hourly_labels.collect()
    rows = rows_by_horizon(wide.lazy(), known.lazy(), cutoff, names)
    natives = registry.native(version)
    fitted = {h: FAMILY.read((natives / training.native_name(FAMILY, h)).read_bytes(), len(names)) for h in HORIZONS}
    explanations = {h: explain(fitted[h], rows[h].inputs, names) for h in HORIZONS}
    frame = pl.concat([explanations[h].importance(cutoff, h) for h in HORIZONS]).sort(MODEL_EXPLANATION.key)
    picture = explanations[PRIMARY].beeswarm(f"P(up) over {display(PRIMARY)}, cutoff {cutoff}")
    versions = data_versions(hourly_features=wide, hourly_labels=known, trained_model=trained)
    with registry.run(context, MODEL_EXPLANATION.asset_key, {"model_version": str(version), **versions}) as run:
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / f"beeswarm_{PRIMARY}m.png").write_bytes(picture)
            frame.write_csv(Path(scratch) / "importance.csv")
            run.files(Path(scratch), "explanation")
        link = run.link()
    top = frame.filter((pl.col("horizon_minutes") == PRIMARY) & (pl.col("rank") <= 15))
    return output_of(
        context,
        MODEL_EXPLANATION,
        frame,
        {
            "beeswarm": dg.MetadataValue.md(f"![beeswarm](data:image/png;base64,{base64.b64encode(picture).decode()})"),
            "importance": dg.MetadataValue.md(markdown_table(top.select("rank", "feature", "mean_abs_shap"))),
            "mlflow_run": link,
        },
    )


@dg.asset(
    key=["learning", "training_profile"],
    **COMMON,
    dagster_type=dagster_type(TRAINING_PROFILE),
    ins={
        "hourly_features": window_of("features/hourly_features"),
        "hourly_labels": window_of("features/hourly_labels"),
        "model_explanation": same_cutoff("learning/model_explanation"),
    },
    kinds={"polars"},
)
def training_profile(
    context: dg.AssetExecutionContext,
    hourly_features: pl.LazyFrame,
    hourly_labels: pl.LazyFrame,
    model_explanation: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """Profile of a cutoff's training window: missing runs and medians of the inputs, base rate and return quantiles.

    A forecast with inputs that are missing for longer than in training is marked as degraded. Such an input is replaced
    by its median; if too much is missing, the base rate and the scaled quantiles replace the model. An input that was
    gone at the cutoff is not used in training and has no weight.
    """
    cutoff = day_of(context.partition_key)
    wide = hourly_features.sort("open_time").collect()
    frame = missingness.profile_rows(
        wide,
        rows_by_horizon(wide.lazy(), hourly_labels, cutoff, (training.SCALE_FEATURE,)),
        model_explanation.collect(),
        known_inputs(wide, cutoff),
        cutoff=cutoff,
        window_days=settings().window_days,
    )
    primary = frame.filter(pl.col("horizon_minutes") == PRIMARY)
    often_missing = primary.filter(pl.col("longest_missing_hours") > 0).sort("longest_missing_hours", descending=True)
    return output_of(
        context,
        TRAINING_PROFILE,
        frame,
        {
            "gone_at_the_cutoff": sorted(missingness.gone_inputs(primary)),
            "longest_missing": dg.MetadataValue.md(
                markdown_table(
                    often_missing.head(20).select("feature", "weight", "missing_share", "longest_missing_hours")
                )
            ),
            "returns": dg.MetadataValue.md(
                markdown_table(
                    frame.unique("horizon_minutes")
                    .sort("horizon_minutes")
                    .select("horizon_minutes", "base_rate", *QUANTILE_NAMES, "rows")
                )
            ),
        },
    )


@dg.asset(
    key=["learning", "feature_group_study"],
    **(COMMON | {"freshness_policy": dg.FreshnessPolicy.time_window(fail_window=60 * WEEK, warn_window=30 * WEEK)}),
    dagster_type=dagster_type(FEATURE_GROUP_STUDY),
    ins={
        "hourly_features": window_of("features/hourly_features"),
        "hourly_labels": window_of("features/hourly_labels"),
        "cv_folds": same_cutoff("learning/cv_folds"),
        "tuned_parameters": same_cutoff("learning/tuned_parameters"),
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
    """Effect of each group of features: price, sentiment and social alone, together, and with each one left out.

    Every set of groups forecasts the same test hours of the cutoff's folds with the same seeds. Differences in log-loss
    are tested (Diebold-Mariano with Holm's correction, paired t) and get a verdict: helps, hurts or cannot tell. A
    group without data is left out. The study is not part of a training and runs on request.
    """
    config, cutoff = settings(), day_of(context.partition_key)
    wide = hourly_features.collect()
    names = training_inputs(wide, cutoff)
    horizon = PRIMARY
    study = study_groups(
        FAMILY,
        rows_by_horizon(wide.lazy(), hourly_labels, cutoff, names)[horizon],
        cv_folds.collect(),
        feature_groups(names),
        parameters_by_horizon(tuned_parameters.collect())[horizon],
        seeds=range(config.seed, config.seed + STUDY_SEEDS),
        threads=config.train_threads,
    )
    return output_of(
        context,
        FEATURE_GROUP_STUDY,
        study.rows,
        {
            "table": dg.MetadataValue.md(as_markdown(study.rows)),
            "notes": list(study.notes),
            "picture": dg.MetadataValue.md(
                f"![groups](data:image/png;base64,{base64.b64encode(plot(study.rows)).decode()})"
            ),
            "verdicts": {
                f"{row['groups']} against {row['against'] or 'base rate'}": row["verdict"]
                for row in study.rows.iter_rows(named=True)
            },
        },
    )


ASSETS = [
    cv_folds,
    tuned_parameters,
    fold_forecasts,
    trained_model,
    model_explanation,
    training_profile,
    feature_group_study,
]
