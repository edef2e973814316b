"""Contracts of the learning tables."""

import polars as pl

from btc_assets.columns import CUTOFF, HORIZON, MODEL_DIGEST, OPEN_TIME, ORDERED_QUANTILES, RETURN_QUANTILES
from btc_assets.schema import FINITE, PROBABILITY, UTC_TIME, Column, check, declare, row_check, schema
from btc_assets.vocabulary import MEMBER_STATES, QUANTILE_NAMES, QUANTILES

CV_FOLDS = declare(
    table="learning/cv_folds",
    schema=schema(
        {
            "cutoff": CUTOFF,
            "horizon_minutes": HORIZON,
            "fold": Column(pl.Int64, check("ge", 0), about="0 is the oldest"),
            "train_start": Column(UTC_TIME, about="first open_time of the training rows"),
            "train_end": Column(
                UTC_TIME, about="last open_time of the training rows; its label is known by test_start"
            ),
            "test_start": Column(UTC_TIME, about="first open_time of the test rows"),
            "test_end": Column(UTC_TIME, about="last open_time of the test rows"),
            "purge_hours": Column(
                pl.Int64, check("ge", 1), about="hours between training and test, at least the horizon"
            ),
            "n_train": Column(pl.Int64, check("ge", 1), about="number of labelled training rows"),
            "n_test": Column(pl.Int64, check("ge", 1), about="number of labelled test rows"),
        },
        row_check("train ends before test starts", pl.col("train_end") < pl.col("test_start")),
        row_check("purge covers the horizon", 60 * pl.col("purge_hours") >= pl.col("horizon_minutes")),
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "horizon_minutes", "fold"),
)

TUNED_PARAMETERS = declare(
    table="learning/tuned_parameters",
    schema=schema(
        {
            "cutoff": CUTOFF,
            "horizon_minutes": HORIZON,
            "family": Column(pl.String, about="model family; its members share the parameters"),
            "source": Column(
                pl.String, check("isin", ["default", "tuned", "reused"]), about="origin of the parameters"
            ),
            "tuned_cutoff": Column(pl.Date, about="cutoff of the study that selected them"),
            "log_loss": Column(
                pl.Float64, FINITE, nullable=True, about="mean log-loss over folds, nats; null if not measured"
            ),
            "incumbent_log_loss": Column(
                pl.Float64, FINITE, nullable=True, about="mean log-loss of the previous parameters, nats"
            ),
            "trials": Column(pl.Int64, check("ge", 0), about="number of completed trials"),
            "pruned": Column(pl.Int64, check("ge", 0), about="number of pruned trials"),
            "parameters": Column(pl.String, about="JSON object, keys sorted"),
        },
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "horizon_minutes", "family"),
)

FOLD_FORECASTS = declare(
    table="learning/fold_forecasts",
    schema=schema(
        {
            "cutoff": CUTOFF,
            "horizon_minutes": HORIZON,
            "member": Column(pl.String, about="member of the ensemble, or the head of the quantiles"),
            "fold": Column(pl.Int64, check("ge", 0), about="fold the row was tested in"),
            "open_time": OPEN_TIME,
            "log_return": Column(pl.Float64, FINITE, about="realised log return, fraction"),
            "scale": Column(pl.Float64, check("gt", 0), FINITE, about="forecast size of a move of the hour, fraction"),
            "p_up": Column(
                pl.Float64,
                *PROBABILITY,
                nullable=True,
                about="probability of a rise, before calibration; null of a head, and where the member abstains",
            ),
            **{
                name: Column(pl.Float64, FINITE, nullable=True, about=f"{column.description}; null of a member")
                for name, column in RETURN_QUANTILES.items()
            },
            "size": Column(
                pl.Float64,
                FINITE,
                nullable=True,
                about="signed root of the scaled return; null but of the head of sizes",
            ),
            "trained_from": Column(UTC_TIME, nullable=True, about="first open_time of its training rows; null without"),
            "n_train": Column(pl.Int64, check("ge", 0), about="number of its training rows"),
            "failure": Column(pl.String, nullable=True, about="why the member could not be fitted; null if it was"),
        },
        ORDERED_QUANTILES,
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "horizon_minutes", "member", "open_time"),
)

ENSEMBLE = declare(
    table="learning/ensemble",
    schema=schema(
        {
            "cutoff": CUTOFF,
            "horizon_minutes": HORIZON,
            "member": Column(pl.String, about="member of the ensemble"),
            "family": Column(pl.String, about="its model family"),
            "state": Column(
                pl.String,
                check("isin", MEMBER_STATES),
                about="trained, trained on a short window, failed, or absent: it has nothing of its own to read",
            ),
            "reason": Column(pl.String, about="why its window is short, or why it failed or is absent; else empty"),
            "window_days": Column(pl.Int64, check("ge", 1), about="days of its window"),
            "rows": Column(pl.Int64, check("ge", 0), about="labelled hours of its newest fold's training"),
            "slope": Column(
                pl.Float64, FINITE, nullable=True, about="of its calibration in log-odds; null if it is out"
            ),
            "intercept": Column(pl.Float64, FINITE, nullable=True, about="of its calibration, log-odds"),
            "weight": Column(pl.Float64, *PROBABILITY, about="its weight, the mean over terciles of volatility"),
            "weights": Column(pl.String, about="JSON list: its weight, or one for each tercile of volatility"),
            "edges": Column(pl.String, about="JSON list: the scales between the terciles, fraction"),
            "coin": Column(pl.Float64, *PROBABILITY, about="weight of the forecast 1/2 among experts, of the horizon"),
            "log_loss": Column(
                pl.Float64,
                FINITE,
                nullable=True,
                about="mean log-loss of its out-of-fold forecasts, nats, uncalibrated",
            ),
            "skill": Column(
                pl.Float64, FINITE, nullable=True, about="share of a coin's log-loss that it saves, before calibration"
            ),
            "abstained": Column(pl.Int64, check("ge", 0), about="out-of-fold hours in which it abstained"),
        },
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "horizon_minutes", "member"),
)

TRAINED_MODEL = declare(
    table="learning/trained_model",
    schema=schema(
        {
            "cutoff": CUTOFF,
            "horizon_minutes": HORIZON,
            "member": Column(pl.String, about="member of the ensemble, or the head of the quantiles"),
            "output": Column(pl.String, check("isin", ["p_up", *QUANTILE_NAMES, "size"]), about="output of the graph"),
            "model_version": Column(pl.Int64, check("ge", 1), about="version in the MLflow registry"),
            "model_digest": MODEL_DIGEST,
            "graph_digest": Column(
                pl.String, check("str_matches", r"^[0-9a-f]{64}$"), about="SHA-256 of the ONNX graph"
            ),
            "rows": Column(pl.Int64, check("ge", 1), about="number of labelled training rows"),
            "trees": Column(pl.Int64, check("ge", 0), about="number of trees in the graph; 0 of other families"),
            "parity_error": Column(pl.Float64, check("ge", 0), about="largest |ONNX - library| on the parity rows"),
        },
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "horizon_minutes", "member", "output"),
)

MODEL_EXPLANATION = declare(
    table="learning/model_explanation",
    schema=schema(
        {
            "cutoff": CUTOFF,
            "horizon_minutes": HORIZON,
            "feature": Column(pl.String, about="feature name"),
            "mean_abs_shap": Column(pl.Float64, check("ge", 0), about="mean |SHAP value| of P(up), log-odds"),
            "rank": Column(pl.Int64, check("ge", 1), about="1 is the most important"),
        },
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "horizon_minutes", "rank"),
)

TRAINING_PROFILE = declare(
    table="learning/training_profile",
    schema=schema(
        {
            "cutoff": CUTOFF,
            "horizon_minutes": HORIZON,
            "feature": Column(pl.String, about="input with values in the training window"),
            "weight": Column(
                pl.Float64,
                *PROBABILITY,
                nullable=True,
                about="share of the model's mean |SHAP value| of P(up); null if not used in training",
            ),
            "missing_share": Column(pl.Float64, *PROBABILITY, about="share of the window's hours without a value"),
            "longest_missing_hours": Column(
                pl.Int64, check("ge", 0), about="longest run of hours without a value after the first known value"
            ),
            "median": Column(pl.Float64, FINITE, nullable=True, about="median of its values; null without values"),
            "gone": Column(pl.Boolean, about="whether it was gone at the cutoff and not used in training"),
            "base_rate": Column(pl.Float64, *PROBABILITY, about="share of rises in the window, for the horizon"),
            **{
                name: Column(pl.Float64, FINITE, about=f"{q:.0%} quantile of the return over the scale of its hour")
                for name, q in zip(QUANTILE_NAMES, QUANTILES, strict=True)
            },
            "rows": Column(pl.Int64, check("ge", 1), about="number of labelled hours of base rate and quantiles"),
        },
        ORDERED_QUANTILES,
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "horizon_minutes", "feature"),
)

FEATURE_GROUP_STUDY = declare(
    table="learning/feature_group_study",
    schema=schema(
        {
            "cutoff": CUTOFF,
            "horizon_minutes": HORIZON,
            "groups": Column(pl.String, about="feature groups of the models, joined by +"),
            "against": Column(pl.String, about="feature groups they are compared with"),
            "log_loss": Column(pl.Float64, FINITE, about="mean log-loss over the same test hours and seeds, nats"),
            "log_loss_against": Column(pl.Float64, FINITE, about="mean log-loss of the other models, nats"),
            "difference": Column(pl.Float64, FINITE, about="log_loss - log_loss_against, nats; below 0 is better"),
            "lower": Column(
                pl.Float64, FINITE, nullable=True, about="lower end of the 95 % interval of the difference, nats"
            ),
            "upper": Column(
                pl.Float64, FINITE, nullable=True, about="upper end of the 95 % interval of the difference, nats"
            ),
            "accuracy": Column(pl.Float64, *PROBABILITY, about="directional accuracy, fraction"),
            "auc": Column(pl.Float64, *PROBABILITY, nullable=True, about="area under the ROC curve"),
            "t_p_value": Column(pl.Float64, nullable=True, about="paired t-test over folds and seeds, two-sided"),
            "dm_p_value": Column(pl.Float64, nullable=True, about="Diebold-Mariano over hours, two-sided"),
            "holm_p_value": Column(pl.Float64, nullable=True, about="dm_p_value after Holm's correction"),
            "cohens_d": Column(pl.Float64, nullable=True, about="effect size over folds and seeds, paired"),
            "verdict": Column(
                pl.String, check("isin", ["helps", "hurts", "cannot tell"]), about="verdict on the groups that differ"
            ),
            "n": Column(pl.Int64, check("ge", 1), about="test hours"),
            "folds": Column(pl.Int64, check("ge", 1), about="folds"),
            "seeds": Column(pl.Int64, check("ge", 1), about="seeds"),
        },
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "horizon_minutes", "groups", "against"),
)

FAMILY_COMPARISON = declare(
    table="learning/family_comparison",
    schema=schema(
        {
            "cutoff": CUTOFF,
            "horizon_minutes": HORIZON,
            "family": Column(pl.String, about="model family, with its default parameters"),
            "against": Column(pl.String, about="the coin (P(up) = 0.5), or another family"),
            "n": Column(pl.Int64, check("ge", 1), about="test hours, the same of every family"),
            "first": Column(UTC_TIME, about="first open_time of the test hours"),
            "last": Column(UTC_TIME, about="last open_time of the test hours"),
            "folds": Column(pl.Int64, check("ge", 1), about="fits of each family, one after another in time"),
            "seed": Column(pl.Int64, check("ge", 0), about="seed of the fits and of the bootstrap"),
            "families": Column(pl.Int64, check("ge", 1), about="compared families; each is a trial"),
            "log_loss": Column(pl.Float64, FINITE, about="mean log-loss, nats"),
            "skill": Column(pl.Float64, FINITE, about="1 - log-loss / ln 2, fraction"),
            "skill_lower": Column(
                pl.Float64, FINITE, nullable=True, about="lower end of its 95 % interval by block bootstrap"
            ),
            "skill_upper": Column(
                pl.Float64, FINITE, nullable=True, about="upper end of its 95 % interval by block bootstrap"
            ),
            "auc": Column(pl.Float64, *PROBABILITY, nullable=True, about="area under the ROC curve"),
            "accuracy": Column(pl.Float64, *PROBABILITY, about="directional accuracy, fraction"),
            "brier": Column(pl.Float64, *PROBABILITY, about="Brier score"),
            "pinball": Column(
                pl.Float64, FINITE, nullable=True, about="pinball loss of the quantiles, fraction; null without them"
            ),
            "rmse_usd": Column(pl.Float64, FINITE, about="root mean squared error of the price, USD"),
            "mae_usd": Column(pl.Float64, FINITE, about="mean absolute error of the price, USD"),
            "r2": Column(pl.Float64, FINITE, nullable=True, about="R2 of the price"),
            "rmse_usd_unchanged": Column(pl.Float64, FINITE, about="the same error of the unchanged price, USD"),
            "mae_usd_unchanged": Column(pl.Float64, FINITE, about="the same error of the unchanged price, USD"),
            "r2_unchanged": Column(pl.Float64, FINITE, nullable=True, about="R2 of the unchanged price"),
            "mcs_p_value": Column(
                pl.Float64, *PROBABILITY, nullable=True, about="model confidence set; above 0.1 is in the 90 % set"
            ),
            "difference": Column(pl.Float64, FINITE, about="log_loss minus that of `against`, nats; below 0 is better"),
            "lower": Column(
                pl.Float64, FINITE, nullable=True, about="lower end of the 95 % interval of the difference, nats"
            ),
            "upper": Column(
                pl.Float64, FINITE, nullable=True, about="upper end of the 95 % interval of the difference, nats"
            ),
            "dm_p_value": Column(pl.Float64, nullable=True, about="Diebold-Mariano over hours, two-sided"),
            "holm_p_value": Column(
                pl.Float64, nullable=True, about="dm_p_value after Holm's correction over all rows of the comparison"
            ),
        },
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "horizon_minutes", "family", "against"),
)

VOLATILITY_MODEL = declare(
    table="learning/volatility_model",
    schema=schema(
        {
            "cutoff": CUTOFF,
            "horizon_minutes": HORIZON,
            "preference": Column(pl.Int64, check("ge", 0), about="0 is the model that a row uses if it can"),
            "model": Column(pl.String, about="name of the model, after the data it needs"),
            "regressor": Column(pl.String, about="feature, indicator of the coming hour, or intercept"),
            "coefficient": Column(pl.Float64, FINITE, about="of the log variance of the return over the horizon"),
            **{
                name: Column(pl.Float64, FINITE, nullable=True, about=about)
                for forecaster, of in (("", "the model"), ("_garch", "GARCH(1,1)-t"), ("_rolling", "a rolling day"))
                for name, about in (
                    (f"qlike{forecaster}", f"QLIKE of {of} against squared returns on the folds; lower is better"),
                    (f"pinball{forecaster}", f"pinball loss of the quantiles of {of} on the folds, fraction"),
                )
            },
            "coverage_90": Column(
                pl.Float64, *PROBABILITY, nullable=True, about="share of outcomes between the 5 and 95 % quantiles"
            ),
            "n": Column(pl.Int64, check("ge", 0), about="scored hours"),
        },
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "horizon_minutes", "preference", "regressor"),
)

MARKET_REGIMES = declare(
    table="learning/market_regimes",
    schema=schema(
        {
            "cutoff": CUTOFF,
            "part": Column(
                pl.String, about="bound, mean or spread of the features; component; regime; or state of the volatility"
            ),
            "name": Column(pl.String, about="feature or component, or mean, deviation and stay of a state"),
            "value": Column(pl.Float64, FINITE, about="the parameter"),
        },
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "part", "name"),
)
