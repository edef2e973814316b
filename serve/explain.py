"""Explain a row of features: SHAP contributions of the published members, or a local linear model of the forecast.

The members are kept as the bytes of their portable files and read on the first request for contributions, so that the
server loads no training library before.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import astuple
from functools import cached_property
from typing import Literal

import numpy as np

from btc_assets.learning.attribution import attribute
from btc_assets.learning.families.protocol import FittedOutput
from btc_assets.learning.families.registry import FamilyError, family
from btc_assets.learning.forecast_model import ForecastModel, log_odds
from btc_assets.learning.lime import fit_locally
from btc_assets.learning.natives import members_of
from btc_assets.learning.reasons import Reasons, reasons_of
from serve.answers import HorizonExplanation, ReasonAnswer

Method = Literal["shap", "lime"]

_BY_MEMBERS, _BY_FIT = "members without contributions", "effects that the local fit misses"


class UnexplainedError(RuntimeError):
    """The published bundle lacks what an explanation needs; the message says what."""


class Explainer:
    """Explains rows by one published model. Thread-safe."""

    def __init__(self, model: ForecastModel, natives: Mapping[str, bytes], medians: Mapping[str, float]) -> None:
        """Store the model, its members by file name and its training medians by feature; either may be empty."""
        self._model = model
        self._natives = natives
        self._medians = np.array([medians.get(name, np.nan) for name in model.features])
        self._lock = threading.Lock()  # a library's output is not always safe to use from several threads

    @cached_property
    def approximate(self) -> list[str]:
        """Names of the members whose contributions are approximations."""
        return [one["name"] for one in self._model.document["members"] if not family(one["family"]).exact_contributions]

    @cached_property
    def _members(self) -> dict[int, dict[str, FittedOutput]]:
        """P(up) of each member by horizon and name."""
        if not self._natives:
            raise UnexplainedError("The published bundle has no members to explain rows with; publish it again.")
        document = self._model.document
        return {horizon: members_of(document, self._natives.__getitem__, horizon) for horizon in self._model.horizons}

    def contributions(self, row: np.ndarray) -> list[HorizonExplanation]:
        """Return the SHAP contributions to the forecasts of a row, shape (f,), NaN if unknown.

        Raises:
            UnexplainedError: a member was not published, or its library is not installed.
        """
        rows = row[None, :]
        forecasts = self._model.predict(rows)
        weights = self._model.weigh(forecasts.abstains, forecasts.sigma)
        explanations = []
        for place, horizon in enumerate(self._model.horizons):
            try:
                with self._lock:
                    parts = attribute(
                        self._model.document,
                        self._members[horizon],
                        rows.astype(np.float32),
                        weights[:, :, place],
                        horizon,
                    )
            except (FamilyError, ImportError) as error:
                raise UnexplainedError(f"The server cannot explain rows: {error}.") from error
            p_up, base, unexplained = forecasts.p_up[0, place], parts.base[0], parts.unexplained[0]
            explanations.append(self._answer(row, parts.values[0], p_up, base, unexplained, horizon))
        return explanations

    def local_fit(self, row: np.ndarray) -> list[HorizonExplanation]:
        """Return local linear models of the forecasts of a row, shape (f,), NaN if unknown.

        Raises:
            UnexplainedError: the training medians were not published.
        """
        if np.isnan(self._medians).all():
            raise UnexplainedError("The published bundle has no training medians to fit with; publish it again.")
        missing = np.isnan(row)[None, :]

        def score(rows: np.ndarray) -> np.ndarray:
            return log_odds(self._model.predict(rows, np.repeat(missing, len(rows), axis=0)).p_up)

        fits = fit_locally(score, row, self._medians)
        p_up = self._model.predict(row[None, :]).p_up[0]
        missed = log_odds(p_up) - fits.base - fits.values.sum(axis=1)
        parts = zip(fits.values, p_up, fits.base, missed, self._model.horizons, fits.r_squared.tolist(), strict=True)
        return [self._answer(row, *part) for part in parts]

    def _answer(
        self,
        row: np.ndarray,
        values: np.ndarray,
        p_up: float,
        base: float,
        unexplained: float,
        horizon: int,
        r_squared: float | None = None,
    ) -> HorizonExplanation:
        reasons = reasons_of(
            self._model.document["features"],
            row.tolist(),
            values,
            p_up=float(p_up),
            base=float(base),
            unexplained=float(unexplained),
            horizon=horizon,
            unexplained_by=_BY_MEMBERS if r_squared is None else _BY_FIT,
        )
        return _as_answer(reasons, horizon, r_squared)


def _as_answer(reasons: Reasons, horizon: int, r_squared: float | None) -> HorizonExplanation:
    return HorizonExplanation(
        horizon_minutes=horizon,
        p_up=reasons.p_up,
        base=reasons.base,
        raises=[ReasonAnswer(*astuple(reason)) for reason in reasons.raises],
        lowers=[ReasonAnswer(*astuple(reason)) for reason in reasons.lowers],
        others=reasons.others,
        unexplained=reasons.unexplained,
        sentence=reasons.sentence,
        r_squared=r_squared,
    )
