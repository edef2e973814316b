"""Builders of small published bundles: boosted trees as ONNX graphs, and matching frames."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from btc_assets.alerts.tables import ALERTS
from btc_assets.forecasting.tables import EXPLANATIONS, FORECAST_OUTCOMES, FORECASTS
from btc_assets.learning.forecast_model import DOCUMENT, INTERVALS, SIZE, graph_name, log_odds, save_model
from btc_assets.market.tables import PRICES
from btc_assets.monitoring.tables import DRIFT_REPORT, PERFORMANCE_REPORT
from btc_assets.serving.publish import Publication, publish
from btc_assets.vocabulary import HORIZONS, QUANTILE_NAMES, QUANTILES
from btc_assets_tests.conftest import random_walk_bars

FEATURE_NAMES = ("returns_1h", "rsi", "volume_ratio", "log_variance_1h", "hour_of_day", "day_of_week")
MADE_AT = datetime(2019, 6, 3, 12, tzinfo=UTC)


MEMBERS = {"flow": [0, 1, 2, 3], "plain": [0, 1, 3]}
"""Two members, by the positions of their inputs; `flow` requires the volume ratio and `plain` nothing."""
QUANTILE_INPUTS = [0, 1, 2, len(FEATURE_NAMES)]
"""Positions of the inputs of the quantiles; the last is the log of sigma."""


def volatility(horizons: Sequence[int] = HORIZONS) -> dict[str, Any]:
    """Return a volatility model that repeats the variance of the last hour; unknown, it is that of 0.5 % an hour."""
    last_hour = {"intercept": [float(np.log(h / 60)) for h in horizons], "log_variance_1h": [1.0] * len(horizons)}
    constant = {"intercept": [float(np.log(2.5e-5 * h / 60)) for h in horizons]}
    models = [{"name": "last hour", "coefficients": last_hour}, {"name": "constant", "coefficients": constant}]
    return {"horizons": list(horizons), "models": models}


_SIZE = {"n_estimators": 4, "max_depth": 2, "n_jobs": 1}


def _training_rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 400 rows with missing values, and their target."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(400, len(FEATURE_NAMES) + 1)).astype(np.float32)
    rows[::7, 1] = np.nan
    return rows, rows[:, 0] + rows[:, 2] + rng.normal(size=len(rows))


@lru_cache(maxsize=32)
def _classifier(seed: int, member: str) -> Any:
    """Return P(up) of a member, the same for every horizon."""
    import xgboost

    rows, target = _training_rows(seed)
    return xgboost.XGBClassifier(**_SIZE).fit(rows[:, MEMBERS[member]], target > 0)


def tiny_natives(seed: int = 7) -> dict[str, bytes]:
    """Return P(up) of each member and horizon of `tiny_graphs` in the format of its library."""
    return {
        f"{member}.p_up_{horizon}m.ubj": bytes(_classifier(seed, member).get_booster().save_raw("ubj"))
        for member in MEMBERS
        for horizon in HORIZONS
    }


@lru_cache(maxsize=32)
def tiny_graphs(seed: int = 7) -> dict[str, bytes]:
    """Return 24 small boosted-tree graphs; the quantile trees of each horizon differ."""
    import xgboost
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    rows, target = _training_rows(seed)

    def graph(model: Any, width: int) -> bytes:
        shape = [("rows", FloatTensorType([None, width]))]
        return convert_xgboost(model, name="tiny", initial_types=shape, target_opset=15).SerializeToString()

    graphs = {}
    for horizon in HORIZONS:
        for member, columns in MEMBERS.items():
            graphs[graph_name(member, "p_up", horizon)] = graph(_classifier(seed, member), len(columns))
        for quantile, name in zip(QUANTILES, QUANTILE_NAMES, strict=True):
            regressor = xgboost.XGBRegressor(objective="reg:quantileerror", quantile_alpha=quantile, **_SIZE)
            fitted = regressor.fit(rows[:, QUANTILE_INPUTS], target)
            graphs[graph_name(INTERVALS, name, horizon)] = graph(fitted, len(QUANTILE_INPUTS))
        size_graph = graph(xgboost.XGBRegressor(**_SIZE).fit(rows[:, :1], target), 1)
        graphs[graph_name(SIZE, SIZE, horizon)] = size_graph
    return graphs


def member(name: str, /, **changes: Any) -> dict[str, Any]:
    """Return the entry of a member of `tiny_graphs` in a model document."""
    return {
        "name": name,
        "family": "xgboost",
        "inputs": "hourly",
        "window_days": 365,
        "features": MEMBERS[name],
        "required": [2] if name == "flow" else [],
        "first": "2018-06-03T00:00:00+00:00",
        "last": "2019-06-02T22:00:00+00:00",
        "rows": 8000,
        "parameters": {str(h): "{}" for h in HORIZONS},
        "calibration": {str(h): {"slope": 0.9, "intercept": 0.02} for h in HORIZONS},
        "weights": {str(h): [0.5] for h in HORIZONS},
        **changes,
    }


def document(**changes: Any) -> dict[str, Any]:
    """Return a model document for `tiny_graphs`."""
    return {
        "cutoff": "2019-06-03",
        "horizons": list(HORIZONS),
        "quantiles": list(QUANTILES),
        "features": [{"name": n, "unit": "fraction", "group": "price", "about": n} for n in FEATURE_NAMES],
        "feature_set": "streamlined",
        "members": [member(name) for name in MEMBERS],
        "weights": {
            "option": "equal",
            "coin": {str(h): 0.0 for h in HORIZONS},
            "edges": {str(h): [] for h in HORIZONS},
        },
        "intervals": {"family": "xgboost", "inputs": "hourly", "window_days": 365, "features": QUANTILE_INPUTS[:-1]}
        | {"parameters": {str(h): "{}" for h in HORIZONS}},
        "size": {"family": "ridge_logistic", "inputs": "hourly", "window_days": 365, "features": [0]}
        | {"parameters": {str(h): "{}" for h in HORIZONS}, "slope": {str(h): 1.0 for h in HORIZONS}},
        "conformal": {str(h): {"q05": -0.1, "q25": -0.02, "q75": 0.02, "q95": 0.1} for h in HORIZONS},
        "volatility": volatility(),
        "metrics": {str(h): {"log_loss": 0.69, "auc": 0.55, "accuracy": 0.54, "n": 2000} for h in HORIZONS},
        "training": {"seed": 7},
        **changes,
    }


def write_model(folder: Path, *, seed: int = 7) -> str:
    """Write a small model to `folder` unless it exists; return its digest."""
    if folder.exists():
        return str(json.loads((folder / DOCUMENT).read_bytes())["digest"])
    return save_model(folder, document(), tiny_graphs(seed))


def write_natives(folder: Path, *, seed: int = 7) -> Path:
    """Write the members of a small model in the format of their library to `folder`, at once, and return it."""
    if not folder.exists():
        temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
        temporary.mkdir(parents=True)
        for name, content in tiny_natives(seed).items():
            (temporary / name).write_bytes(content)
        with contextlib.suppress(OSError):  # another thread was faster
            temporary.rename(folder)
    return folder


def forecast_frame(digest: str, *, made_at: datetime = MADE_AT, hours: int = 48, version: int = 1) -> pl.DataFrame:
    """Return a FORECASTS frame of `hours` hours of champion forecasts, the last made at `made_at`."""
    rows = [
        {
            "open_time": made_at - timedelta(hours=back + 1),
            "horizon_minutes": horizon,
            "role": "champion",
            "made_at": made_at - timedelta(hours=back),
            "target_time": made_at - timedelta(hours=back) + timedelta(minutes=horizon),
            "model_version": version,
            "model_cutoff": date(2018, 1, 1),
            "model_digest": digest,
            "close": 8000.0 + back,
            "p_up": 0.5 + 0.01 * (back % 7),
            **{name: 0.01 * (i - 2) for i, name in enumerate(QUANTILE_NAMES)},
            "sigma": 0.01,
            "expected_return_bps": 1.5,
            "abstained": "",
            "degraded": False,
            "missing_inputs": "",
            "missing_weight": 0.0,
            "fallback": False,
        }
        for back in reversed(range(hours))
        for horizon in HORIZONS
    ]
    return pl.DataFrame(rows, schema=FORECASTS.columns).sort(FORECASTS.key)


def explanation_frame(forecasts: pl.DataFrame) -> pl.DataFrame:
    """Return explanations of forecasts in which one input explains everything."""
    reason = {"feature": "rsi", "value": 71.0, "unit": "0-100", "points": 1.0}
    rows = [
        {name: row[name] for name in ("open_time", "horizon_minutes", "model_version", "model_digest", "p_up")}
        | {"base": 0.0, "lowers": "[]", "others": 0.0, "unexplained": 0.0, "approximate": "", "sentence": "why"}
        | {"raises": json.dumps([reason | {"contribution": float(log_odds(np.array(row["p_up"])))}])}
        for row in forecasts.iter_rows(named=True)
    ]
    return pl.DataFrame(rows, schema=EXPLANATIONS.columns).sort(EXPLANATIONS.key)


def outcome_frame(forecasts: pl.DataFrame, *, now: datetime) -> pl.DataFrame:
    """Return outcomes of the forecasts whose window has closed by `now`."""
    return (
        forecasts.with_columns(
            known_at=pl.col("target_time"),
            log_return=pl.lit(0.004),
            outcome=pl.lit("correct"),
            signed_return_bps=pl.lit(40.0),
            net_return_bps=pl.lit(30.0),
        )
        .filter(pl.col("known_at") <= now)
        .select(list(FORECAST_OUTCOMES.columns))
        .cast(FORECAST_OUTCOMES.columns)
    )


def drift_frame(day: date, *, version: int = 1) -> pl.DataFrame:
    """Return a drift report with one drifted input of four and broken calibration."""
    subjects = [("input", name, measure, name == "rsi") for name in FEATURE_NAMES for measure in ("ks", "psi")]
    subjects += [("concept", name, "wealth", name == "calibration") for name in ("calibration", "coverage_90")]
    rows = [
        {
            "day": day,
            "kind": kind,
            "subject": subject,
            "measure": measure,
            "value": 0.1,
            "bound": None,
            "alarm": alarm,
            "n": 168,
            "model_version": version,
            "model_cutoff": date(2018, 1, 1),
        }
        for kind, subject, measure, alarm in subjects
    ]
    return pl.DataFrame(rows, schema=DRIFT_REPORT.columns).sort(DRIFT_REPORT.key)


def alert_frame(raised_at: datetime) -> pl.DataFrame:
    """Return two alerts: severity high, delivered to the log and pending for mail; and severity info."""
    deliveries = [
        ("a", "log", "high", "delivered"),
        ("a", "email", "high", "pending"),
        ("b", "log", "info", "delivered"),
    ]
    rows = [
        {
            "alert_id": alert * 32,
            "channel": channel,
            "raised_at": raised_at,
            "rule": "failed_run",
            "kind": "failed_run",
            "severity": severity,
            "subject": "a subject",
            "message": "a message",
            "state": state,
            "tries": 1,
            "fault": "",
        }
        for alert, channel, severity, state in deliveries
    ]
    return pl.DataFrame(rows, schema=ALERTS.columns).sort(ALERTS.key)


def published_frames(digest: str, *, made_at: datetime = MADE_AT, version: int = 1) -> dict[str, pl.DataFrame]:
    """Return the tables of a bundle whose newest forecast was made at `made_at`."""
    forecasts = forecast_frame(digest, made_at=made_at, version=version)
    return {
        "forecasts": forecasts,
        "explanations": explanation_frame(forecasts),
        "forecast_outcomes": outcome_frame(forecasts, now=made_at),
        "performance_report": PERFORMANCE_REPORT.empty(),
        "drift_report": drift_frame(made_at.date(), version=version),
        "alerts": alert_frame(made_at).drop("subject", "message", "value", "bound", "tries", "settled_at", "fault"),
        "prices": random_walk_bars(48, start=made_at - timedelta(hours=48)).select(list(PRICES.columns)),
    }


def publish_small(
    serving_dir: Path,
    models: Path,
    *,
    seed: int = 7,
    made_at: datetime = MADE_AT,
    allow_older: bool = False,
    **tables: pl.DataFrame | None,
) -> Publication:
    """Write the model of `seed` and publish a forecast of it; `tables` replace the default tables, None omits one."""
    digest = write_model(models / f"model-{seed}", seed=seed)
    frames = {**published_frames(digest, made_at=made_at, version=seed), **tables}
    return publish(
        serving_dir,
        manifest={
            "day": made_at.date().isoformat(),
            "model_version": seed,
            "model_cutoff": "2019-06-03",
            "model_digest": digest,
            "made_at": made_at.isoformat(),
            "features": dict.fromkeys(FEATURE_NAMES, 0.1),
            "medians": dict.fromkeys(FEATURE_NAMES, 0.5),
        },
        model_folder=models / f"model-{seed}",
        native_folder=write_natives(models / f"native-{seed}", seed=seed),
        tables={name: frame for name, frame in frames.items() if frame is not None},
        allow_older=allow_older,
    )
