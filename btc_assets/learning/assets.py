"""Learning assets of a cutoff day: folds, parameters, out-of-fold forecasts, ensemble, model and profile."""

import base64
import json
import tempfile
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from btc_assets import freshness
from btc_assets.features.catalog import FEATURE_SETS, FEATURES
from btc_assets.lake import output_of
from btc_assets.learning import folds, missingness, training
from btc_assets.learning.comparison import as_markdown as comparison_table
from btc_assets.learning.comparison import best_beats_coin, compare_families, costs, family_forecasts
from btc_assets.learning.cutoff import (
    data_versions,
    known_inputs,
    members,
    other_seeds,
    recent_window_of,
    rows_by_horizon,
    same_cutoff,
    trainees,
    training_inputs,
    tuned_families,
    window_of,
)
from btc_assets.learning.ensemble import FoldRows, ensemble_rows, ensembles_of, out_of_fold
from btc_assets.learning.families.registry import family, installed
from btc_assets.learning.forecast_model import INTERVALS, SIZE, ForecastModel, graph_inputs, graph_parts, save_model
from btc_assets.learning.group_study import as_markdown, feature_groups, plot, study_groups
from btc_assets.learning.members import directions
from btc_assets.learning.natives import read_members
from btc_assets.learning.registry import MODEL_FOLDER, NATIVE_FOLDER, ModelRegistry
from btc_assets.learning.sigma import Sigma
from btc_assets.learning.tables import (
    CV_FOLDS,
    ENSEMBLE,
    FAMILY_COMPARISON,
    FEATURE_GROUP_STUDY,
    FOLD_FORECASTS,
    MODEL_EXPLANATION,
    TRAINED_MODEL,
    TRAINING_PROFILE,
    TUNED_PARAMETERS,
)
from btc_assets.learning.volatility import INPUTS, document_of, fit_volatility
from btc_assets.markdown import markdown_table
from btc_assets.partitions import DAILY, day_of
from btc_assets.schema import dagster_type
from btc_assets.settings import settings
from btc_assets.vocabulary import PRIMARY, QUANTILE_NAMES, display

GROUP = "learning"
CODE_VERSION = "2"
WEEK = timedelta(days=7)
STUDY_SEEDS = 5
"""Number of seeds per compared set of feature groups."""
ON_REQUEST = dg.FreshnessPolicy.time_window(fail_window=60 * WEEK, warn_window=30 * WEEK)
"""Freshness of studies, which are not part of a training."""
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

    A member trains a fold on the rows of its own window whose label is known at the start of the test, so the purge
    between training and test is the horizon plus one hour. There is no embargo, as no fold trains on rows after a test.
    """
    config, cutoff = settings(), day_of(context.partition_key)
    frame = folds.make_folds(
        rows_by_horizon(hourly_features, hourly_labels, cutoff, (), days=config.window_days),
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
    """Parameters of each family and horizon at a cutoff.

    The parameters of the previous cutoff are reused until their study is older than `BTC_TUNE_EVERY_DAYS`. Then a
    seeded Optuna study with pruning starts from them, on the folds and inputs of the family's first member. Only a
    trial whose gain over the fold hours exceeds its standard error replaces them. Studies are stored in SQLite. A
    family that reads several hours at once has no member, so its parameters are the defaults.
    """
    from btc_assets.learning.tuning import tune

    config, cutoff = settings(), day_of(context.partition_key)
    previous = earlier.collect().sort("cutoff")
    layout = cv_folds.collect()
    wide, known = hourly_features.collect(), hourly_labels.collect()
    rows: dict[int, folds.Rows] = {}
    records: list[dict[str, Any]] = []
    horizons = layout["horizon_minutes"].unique().sort()
    for of, horizon in ((family(name), horizon) for name in config.family_names for horizon in horizons):
        same = (pl.col("family") == of.name) & (pl.col("horizon_minutes") == horizon)
        newest = previous.filter(same).tail(1).to_dicts()
        incumbent = of.parameters.from_json(newest[0]["parameters"]) if newest else of.parameters()
        record: dict[str, Any] = {
            "cutoff": cutoff,
            "horizon_minutes": horizon,
            "family": of.name,
            "log_loss": None,
            "incumbent_log_loss": None,
            "trials": 0,
            "pruned": 0,
            "parameters": incumbent.to_json(),
        }
        fresh = newest and cutoff - newest[0]["tuned_cutoff"] < timedelta(days=config.tune_every_days)
        if config.tune_trials == 0 or fresh or of.lookback(incumbent) > 1:
            record |= {
                "source": "reused" if newest else "default",
                "tuned_cutoff": newest[0]["tuned_cutoff"] if newest else cutoff,
            }
        else:
            if not rows:
                names = training_inputs(wide, cutoff)
                rows = rows_by_horizon(wide.lazy(), known.lazy(), cutoff, names, days=config.window_days)
                ready = trainees(wide, cutoff, {})
            fold_rows = layout.filter(pl.col("horizon_minutes") == horizon).sort("fold")
            splits = [folds.split(rows[horizon], fold) for fold in fold_rows.iter_rows(named=True)]
            first = next(trainee for trainee in ready if trainee.family.name == of.name)
            study = tune(
                of,
                [(first.rows(train, cutoff), test.select(first.features)) for train, test in splits],
                incumbent,
                horizon=horizon,
                study_name=f"{cutoff}/{of.name}/{horizon}m",
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
    frame = pl.DataFrame(records, schema=TUNED_PARAMETERS.columns).sort(TUNED_PARAMETERS.key)
    versions = data_versions(hourly_features=wide, hourly_labels=known, cv_folds=layout, earlier=previous)
    with registry.run(context, TUNED_PARAMETERS.asset_key, versions) as run:
        for row in frame.iter_rows(named=True):
            prefix = f"{row['family']}.{row['horizon_minutes']}m"
            run.parameters({f"{prefix}.{k}": v for k, v in json.loads(row["parameters"]).items()})
            run.metrics({f"{prefix}.{k}": row[k] for k in ("log_loss", "incumbent_log_loss") if row[k] is not None})
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
    """Out-of-sample forecasts of every fold's test hours, by members and heads trained on earlier hours only.

    Calibration, weights, conformal intervals, the metrics of the MLflow run and the gate's evaluation of the candidate
    use this table, so none of them uses hours on which a member was trained. A member that fails has rows that say why.
    """
    config, cutoff = settings(), day_of(context.partition_key)
    wide, known, layout = hourly_features.collect(), hourly_labels.collect(), cv_folds.collect()
    names, horizons = training_inputs(wide, cutoff), layout["horizon_minutes"].unique().sort().to_list()
    frame = training.forecast_folds(
        trainees(wide, cutoff, tuned_families(tuned_parameters.collect())),
        rows_by_horizon(wide.lazy(), known.lazy(), cutoff, names, days=config.window_days),
        layout,
        {
            start: training.scale_of(fit_volatility(wide, known, end=start, horizons=horizons))
            for start in layout["test_start"].unique()
        },
        cutoff=cutoff,
        seed=config.seed,
        threads=config.train_threads,
    )
    failures = frame.drop_nulls("failure").unique("member").sort("member").select("member", "failure")
    return output_of(
        context,
        FOLD_FORECASTS,
        frame,
        {
            "members": sorted(frame["member"].unique()),
            "failures": dg.MetadataValue.md(markdown_table(failures) if failures.height else "none"),
        },
    )


@dg.asset(
    key=["learning", "ensemble"],
    **COMMON,
    dagster_type=dagster_type(ENSEMBLE),
    ins={"fold_forecasts": same_cutoff("learning/fold_forecasts")},
    kinds={"scipy"},
)
def ensemble(context: dg.AssetExecutionContext, fold_forecasts: pl.LazyFrame) -> dg.Output[pl.DataFrame]:
    """State, calibration and weight of each member of a cutoff's ensemble, fitted on its out-of-fold forecasts.

    P(up) is the weighted mean of the members' calibrated log-odds; `BTC_ENSEMBLE_WEIGHTS` says how they are weighed,
    equally by default. A member whose window reaches further back than the history is trained on what there is. A
    member that failed or has nothing of its own to read is left out, and `reason` says why.
    """
    config, cutoff = settings(), day_of(context.partition_key)
    forecasts = fold_forecasts.collect()
    frame = ensemble_rows(forecasts, directions(members()), cutoff=cutoff, weights=config.ensemble_weights)
    columns = ("horizon_minutes", "member", "state", "weight", "slope", "intercept", "log_loss", "skill", "reason")
    return output_of(
        context,
        ENSEMBLE,
        frame,
        {
            "weights": config.ensemble_weights,
            "members": dg.MetadataValue.md(markdown_table(frame.select(columns))),
            "out_of_fold": dg.MetadataValue.md(markdown_table(_metrics_by_horizon(forecasts, frame))),
        },
    )


def _metrics_by_horizon(forecasts: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
    """Return the metrics of the ensemble's out-of-fold forecasts, a row per horizon.

    Args:
        forecasts: FOLD_FORECASTS rows.
        table: ENSEMBLE rows of the same cutoff.
    """
    names = table["member"].unique(maintain_order=True).to_list()
    combined = out_of_fold(forecasts, names, weights=settings().ensemble_weights)
    parts = combined.partition_by("horizon_minutes", as_dict=True, maintain_order=True)
    return pl.DataFrame(
        [{"horizon_minutes": h, **training.out_of_sample_metrics(part)} for (h,), part in parts.items()]
    )


@dg.asset(
    key=["learning", "trained_model"],
    **COMMON,
    dagster_type=dagster_type(TRAINED_MODEL),
    ins={
        "hourly_features": window_of("features/hourly_features"),
        "hourly_labels": window_of("features/hourly_labels"),
        "tuned_parameters": same_cutoff("learning/tuned_parameters"),
        "fold_forecasts": same_cutoff("learning/fold_forecasts"),
        "ensemble": same_cutoff("learning/ensemble"),
        "volatility_model": same_cutoff("learning/volatility_model"),
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
    ensemble: pl.LazyFrame,
    volatility_model: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """The model of a cutoff as ONNX graphs: an ensemble for P(up), heads for five return quantiles and the mean return.

    Each member is trained on its own window before the cutoff and calibrated on its out-of-fold forecasts; intervals
    are conformalised on them. Every graph, and the ensemble as a whole, must reproduce its libraries before the model
    is registered in MLflow. A member that cannot be fitted is left out. The same data and settings give the same
    digest, and the same digest keeps its version.
    """
    config, cutoff = settings(), day_of(context.partition_key)
    forecasts, tuned, weighed = fold_forecasts.collect(), tuned_parameters.collect(), ensemble.collect()
    ensembles, volatility = ensembles_of(weighed), document_of(volatility_model.collect())
    declared = {feature.name: feature for feature in FEATURES}
    wide, known = hourly_features.collect(), hourly_labels.collect()
    standing = {*next(iter(ensembles.values())).members, INTERVALS, SIZE}
    ready = [one for one in trainees(wide, cutoff, tuned_families(tuned)) if one.member.name in standing]
    # With every input of the volatility model, fitted or not, a longer history does not change the recipe.
    used = {name for one in ready for name in one.features} | set(INPUTS)
    names = tuple(name for name in training_inputs(wide, cutoff) if name in used)
    rows = rows_by_horizon(wide.lazy(), known.lazy(), cutoff, names, days=config.window_days)
    table = _metrics_by_horizon(forecasts, weighed)
    metrics = {row.pop("horizon_minutes"): row for row in table.to_dicts()}
    versions = data_versions(hourly_features=wide, hourly_labels=known, tuned_parameters=tuned, ensemble=weighed)
    with registry.run(context, TRAINED_MODEL.asset_key, versions) as run:
        model = training.fit_model(
            ready,
            rows,
            ensembles,
            {h: FoldRows.of(forecasts, h, ()).offsets() for h in rows},
            {h: FoldRows.of(forecasts, h, ()).size_slope(h) for h in rows},
            volatility,
            cutoff=cutoff,
            feature_set=config.feature_set,
            weights=config.ensemble_weights,
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
            whole_parity = model.verify(ForecastModel.load(folder))
            natives.mkdir()
            for name, content in model.natives.items():
                (natives / name).write_bytes(content)
            run.files(folder, MODEL_FOLDER)
            run.files(natives, NATIVE_FOLDER)
        for one in ready:
            for horizon in rows:
                parameters = asdict(one.parameters[horizon])
                run.parameters({f"{one.member.name}.{horizon}m.{k}": v for k, v in parameters.items()})
        for horizon, values in metrics.items():
            run.metrics({f"{horizon}m.{k}": v for k, v in values.items()})
        run.metrics({"ensemble_parity": whole_parity})
        run.curves(model.curves)
        run.parameters(
            {"feature_set": config.feature_set, "ensemble_weights": config.ensemble_weights, "seed": config.seed}
        )
        run.tags({"model_digest": model_digest, "cutoff": cutoff.isoformat()})
        version = registry.register(run.run_id, model_digest, cutoff.isoformat())
        run.tags({"model_version": str(version)})
        link = run.link()
    document = registry.load(version).document
    frame = pl.DataFrame(
        [
            {
                "cutoff": cutoff,
                "horizon_minutes": horizon,
                "member": member,
                "output": output,
                "model_version": version,
                "model_digest": model_digest,
                "graph_digest": document["graphs"][name],
                "rows": model.rows[name],
                "trees": model.trees[name],
                "parity_error": model.parity[name],
            }
            for name in graph_inputs(document)
            for member, output, horizon in [graph_parts(name)]
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
            "members": [member["name"] for member in document["members"]],
            "left_out": model.failures,
            "ensemble_parity": whole_parity,
            "out_of_fold": dg.MetadataValue.md(markdown_table(table)),
        },
    )


@dg.asset(
    key=["learning", "model_explanation"],
    **COMMON,
    dagster_type=dagster_type(MODEL_EXPLANATION),
    ins={
        "hourly_features": recent_window_of("features/hourly_features"),
        "hourly_labels": recent_window_of("features/hourly_labels"),
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
    """Feature importance for P(up): mean |SHAP value| of the ensemble by horizon, over the newest hours of the window.

    The SHAP value of an input is the mean of the members' values in calibrated log-odds, with their weights. The
    metadata and the MLflow run contain the beeswarm plot of the primary horizon.
    """
    from btc_assets.learning.explain import explain

    cutoff, trained = day_of(context.partition_key), trained_model.collect()
    version = trained["model_version"][0]
    model, natives = registry.load(version), registry.native(version)
    wide, known = hourly_features.collect(), hourly_labels.collect()
    rows = rows_by_horizon(wide.lazy(), known.lazy(), cutoff, model.features, days=settings().recent_days)
    explanations = {h: explain(model, read_members(model, natives, h), rows[h].inputs, h) for h in model.horizons}
    frame = pl.concat([explanations[h].importance(cutoff, h) for h in model.horizons]).sort(MODEL_EXPLANATION.key)
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
        "hourly_features": recent_window_of("features/hourly_features"),
        "hourly_labels": recent_window_of("features/hourly_labels"),
        "model_explanation": same_cutoff("learning/model_explanation"),
        "volatility_model": same_cutoff("learning/volatility_model"),
    },
    kinds={"polars"},
)
def training_profile(
    context: dg.AssetExecutionContext,
    hourly_features: pl.LazyFrame,
    hourly_labels: pl.LazyFrame,
    model_explanation: pl.LazyFrame,
    volatility_model: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """Profile of a cutoff's training window: missing runs and medians of the inputs, base rate and return quantiles.

    A forecast with inputs that are missing for longer than in training is marked as degraded. Members that require
    such an input abstain, and the others get its median. If every member requires one and too much is missing, the
    base rate and the scaled quantiles replace the model. An input that was gone at the cutoff is not used in training
    and has no weight.
    """
    cutoff = day_of(context.partition_key)
    wide, volatility = hourly_features.sort("open_time").collect(), document_of(volatility_model.collect())
    frame = missingness.profile_rows(
        wide,
        rows_by_horizon(wide.lazy(), hourly_labels, cutoff, Sigma(volatility).inputs, days=settings().recent_days),
        model_explanation.collect(),
        known_inputs(wide, cutoff),
        training.scale_of(volatility),
        cutoff=cutoff,
        window_days=settings().recent_days,
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
    **(COMMON | {"freshness_policy": ON_REQUEST}),
    dagster_type=dagster_type(FEATURE_GROUP_STUDY),
    ins={
        "hourly_features": recent_window_of("features/hourly_features"),
        "hourly_labels": recent_window_of("features/hourly_labels"),
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
    names = tuple(name for name in training_inputs(wide, cutoff) if name in FEATURE_SETS[config.feature_set])
    boosting = family("xgboost")
    study = study_groups(
        boosting,
        rows_by_horizon(wide.lazy(), hourly_labels, cutoff, names, days=config.recent_days)[PRIMARY],
        cv_folds.collect(),
        feature_groups(names),
        tuned_families(tuned_parameters.collect()).get((boosting.name, PRIMARY), boosting.parameters()),
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


class ComparedFamilies(dg.Config):
    """Which families `learning/family_comparison` compares."""

    families: list[str] = Field(
        default=[], description="Names, or places such as mypackage.module:FAMILY. Empty: every known one installed."
    )


@dg.asset(
    key=["learning", "family_comparison"],
    **(COMMON | {"freshness_policy": ON_REQUEST}),
    dagster_type=dagster_type(FAMILY_COMPARISON),
    ins={
        "prices": recent_window_of("market/prices"),
        "hourly_features": recent_window_of("features/hourly_features"),
        "hourly_labels": recent_window_of("features/hourly_labels"),
        "cv_folds": same_cutoff("learning/cv_folds"),
    },
    kinds={"xgboost", "lightgbm", "scikitlearn", "mlflow"},
)
def family_comparison(
    context: dg.AssetExecutionContext,
    config: ComparedFamilies,
    registry: ModelRegistry,
    prices: pl.LazyFrame,
    hourly_features: pl.LazyFrame,
    hourly_labels: pl.LazyFrame,
    cv_folds: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """Scores of model families side by side, and tests of their differences, on the folds of a cutoff.

    Every family forecasts the same test hours, trained on the same hours of the newest two years with the same seed and
    its default parameters. Skill against a coin has an interval by block bootstrap; every pair is compared by
    Diebold-Mariano with Holm's correction, all of them by a model confidence set. The comparison is not part of a
    training and runs on request; over a period of cutoffs, use the command `compare`. The MLflow run has
    the training curves of families that read several hours at once, which are fitted here alone.
    """
    cutoff, days, seed = day_of(context.partition_key), settings().recent_days, settings().seed
    wide, known = hourly_features.collect(), hourly_labels.collect()
    layout = cv_folds.filter(pl.col("horizon_minutes") == PRIMARY).collect()
    names = training_inputs(wide, cutoff)
    rows = rows_by_horizon(wide.lazy(), known.lazy(), cutoff, names, days=days)[PRIMARY]
    own = [name for name in names if name in FEATURE_SETS[settings().feature_set]]
    scales = {
        start: training.scale_of(fit_volatility(wide, known, end=start, horizons=[PRIMARY]))
        for start in layout["test_start"]
    }
    curves: dict[str, list[float]] = {}
    families = {name: family(name) for name in config.families or installed()}
    forecasts = pl.concat(
        family_forecasts(
            name,
            of,
            rows,
            layout,
            scales,
            names=own,
            cutoff=cutoff,
            window_days=days,
            seed=seed,
            curves=curves if of.lookback(of.parameters()) > 1 else None,
        )
        for name, of in families.items()
    )
    frame = compare_families(forecasts, prices.collect(), cutoff=cutoff, seed=seed)
    table = comparison_table(frame, costs(forecasts), best_beats_coin(forecasts, seed=seed))
    versions = data_versions(hourly_features=wide, hourly_labels=known, cv_folds=layout)
    with registry.run(context, FAMILY_COMPARISON.asset_key, versions) as run:
        run.curves(curves)
        run.table("comparison.md", table)
        link = run.link()
    return output_of(context, FAMILY_COMPARISON, frame, {"comparison": dg.MetadataValue.md(table), "mlflow_run": link})


ASSETS = [
    cv_folds,
    tuned_parameters,
    fold_forecasts,
    ensemble,
    trained_model,
    model_explanation,
    training_profile,
    feature_group_study,
    family_comparison,
]
