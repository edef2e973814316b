"""Why the champion forecasts what it does: SHAP contributions of its inputs to P(up), hour by hour.

The contributions are those of the stored forecast, not of a similar one: the same rows, the same members that abstain
and the same weights. Where the base rate replaces the model, there are none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from btc_assets.forecasting.forecasts import ModelInputs
from btc_assets.forecasting.tables import EXPLANATIONS
from btc_assets.learning.attribution import Attribution, attribute
from btc_assets.learning.families.registry import family
from btc_assets.learning.forecast_model import ForecastModel, log_odds
from btc_assets.learning.missingness import Profile
from btc_assets.learning.natives import read_members
from btc_assets.learning.reasons import Reason, Reasons, base_rate_reasons, listed, reasons_of

TOLERANCE = 1e-6
"""Largest difference between the sum of the contributions and the log-odds of a forecast."""


class Models(Protocol):
    """A source of registered models."""

    def load(self, version: int) -> ForecastModel:
        """Return one registered version, verified."""
        ...

    def native(self, version: int) -> Path:
        """Return a folder with the members of a version in the formats of their libraries."""
        ...


def explain_hours(
    forecasts: pl.DataFrame, features: pl.DataFrame, models: Models, profiles: pl.DataFrame
) -> pl.DataFrame:
    """Explain forecasts.

    Args:
        forecasts: FORECASTS rows of one role.
        features: HOURLY_FEATURES rows of their hours and of `missingness.LOOK_BACK_DAYS` before them.
        models: source of the models.
        profiles: TRAINING_PROFILE rows of their cutoffs.

    Returns:
        EXPLANATIONS rows, one for each forecast.

    Raises:
        FileNotFoundError: a model was stored without one of its members.
        FamilyError: a library that a member needs is not installed.
    """
    features = features.sort("open_time")
    records: list[dict[str, Any]] = []
    for (version,), made in forecasts.sort("model_version", "open_time").group_by("model_version", maintain_order=True):
        model, folder = models.load(int(version)), models.native(int(version))
        hours = features.join(made, on="open_time", how="semi")
        profile = Profile.of(profiles.filter(pl.col("cutoff") == model.cutoff), model.features)
        inputs = ModelInputs.of(model, hours, features, profile)
        predicted = model.predict(inputs.rows, inputs.missing)
        weights = model.weigh(predicted.abstains, predicted.sigma)
        rows = inputs.rows.astype(np.float32)
        shown = np.where(inputs.missing, np.nan, inputs.rows)
        place = {open_time: i for i, open_time in enumerate(hours["open_time"])}
        for place_of_horizon, horizon in enumerate(model.horizons):
            members = read_members(model, folder, horizon)
            parts = attribute(model.document, members, rows, weights[:, :, place_of_horizon], horizon)
            for forecast in made.filter(pl.col("horizon_minutes") == horizon).iter_rows(named=True):
                at = place[forecast["open_time"]]
                records.append(_record(model, forecast, parts, at, shown[at]))
    return pl.DataFrame(records, schema=EXPLANATIONS.columns).sort(EXPLANATIONS.key)


def _record(
    model: ForecastModel, forecast: Mapping[str, Any], parts: Attribution, at: int, values: np.ndarray
) -> dict[str, Any]:
    """Return the EXPLANATIONS row of one forecast, which is row `at` of the attribution."""
    horizon, missing = forecast["horizon_minutes"], forecast["missing_inputs"].split(",")
    if forecast["fallback"]:
        reasons = base_rate_reasons(forecast["p_up"], missing, horizon)
    else:
        reasons = reasons_of(
            model.document["features"],
            values.tolist(),
            parts.values[at],
            p_up=forecast["p_up"],
            base=float(parts.base[at]),
            unexplained=float(parts.unexplained[at]),
            horizon=horizon,
        )
    return {
        **{name: forecast[name] for name in ("open_time", "horizon_minutes", "model_version", "model_digest", "p_up")},
        "base": reasons.base,
        "raises": _json(reasons.raises),
        "lowers": _json(reasons.lowers),
        "others": reasons.others,
        "unexplained": reasons.unexplained,
        "approximate": ",".join(approximate_members(model.document)),
        "sentence": _sentence(reasons, forecast),
    }


def approximate_members(document: Mapping[str, Any]) -> list[str]:
    """Return the members of a model whose contributions are approximations."""
    return [one["name"] for one in document["members"] if not family(one["family"]).exact_contributions]


def _sentence(reasons: Reasons, forecast: Mapping[str, Any]) -> str:
    """Return the sentence of a forecast, and another one if inputs are missing."""
    if forecast["fallback"]:
        return reasons.sentence
    notes = []
    if forecast["degraded"]:
        names = listed(forecast["missing_inputs"].split(","))
        notes.append(f"The forecast is degraded, as these inputs are missing and count as their usual values: {names}.")
    if forecast["abstained"]:
        notes.append(f"Members that lack an input do not forecast: {forecast['abstained'].replace(',', ', ')}.")
    return " ".join((reasons.sentence, *notes))


def _json(reasons: tuple[Reason, ...]) -> str:
    return json.dumps([asdict(reason) for reason in reasons])


def unequal_sums(explanations: pl.DataFrame, forecasts: pl.DataFrame) -> pl.DataFrame:
    """Return the explanations whose parts do not add up to the log-odds of the stored forecast.

    Args:
        explanations: EXPLANATIONS rows.
        forecasts: FORECASTS rows of the same days; an explanation of another forecast is not equal either.
    """
    stored = forecasts.select(*EXPLANATIONS.key, "model_digest", pl.col("p_up").alias("stored"))
    both = explanations.join(stored, on=[*EXPLANATIONS.key, "model_digest"], how="left")
    listed_sum = [
        sum(reason["contribution"] for side in sides for reason in json.loads(side))
        for sides in both.select("raises", "lowers").iter_rows()
    ]
    total = both["base"] + both["others"] + both["unexplained"] + pl.Series(listed_sum, dtype=pl.Float64)
    difference = np.abs(total.to_numpy() - log_odds(both["stored"].fill_null(float("nan")).to_numpy()))
    return explanations.filter(pl.Series(~(difference <= TOLERANCE), dtype=pl.Boolean))
