"""Calibrate the members of an ensemble and weigh them, on their own out-of-fold forecasts.

The forecast of the ensemble is the weighted mean of its members' calibrated log-odds. A member may abstain in an hour;
the others then share its weight. Equal weights are the default: learnt ones did no better (docs/method.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import midnight
from btc_assets.evaluation import metrics
from btc_assets.learning.calibration import Calibration, conformal_offsets, fit_calibration, fit_size_slope
from btc_assets.learning.families.protocol import Vector
from btc_assets.learning.folds import last_train_open_time
from btc_assets.learning.forecast_model import log_odds, probability, tercile, weighted_mean
from btc_assets.learning.members import Member
from btc_assets.learning.tables import ENSEMBLE
from btc_assets.vocabulary import QUANTILE_NAMES, hours_spanned

Floats = npt.NDArray[np.float64]

WEIGHTS = ("equal", "learnt", "regime", "experts")
"""How members are weighed: the values of `BTC_ENSEMBLE_WEIGHTS`."""
WEIGHT_SPREAD = 0.1
"""Prior standard deviation of a learnt weight around the equal one."""
SWITCHES_PER_HOUR = 1 / 168
"""Share of an expert's weight that moves to the others per hour: the best expert changes about once a week."""
TERCILES = (1 / 3, 2 / 3)

OUT_OF_FOLD_COLUMNS = ("cutoff", "horizon_minutes", "fold", "open_time", "log_return", "p_up", *QUANTILE_NAMES)
"""Columns of `out_of_fold`."""


@dataclass(frozen=True)
class Ensemble:
    """The ensemble of one horizon.

    Attributes:
        members: names of its m members.
        calibrations: calibration of each member.
        weights: (r, m), one row, or one for each tercile of volatility; each sums to 1 with `coin`.
        coin: weight of the forecast 1/2; 0 except among experts.
        edges: the r - 1 edges between the terciles, in units of the row's scale.
    """

    members: tuple[str, ...]
    calibrations: tuple[Calibration, ...]
    weights: Floats
    coin: float = 0.0
    edges: tuple[float, ...] = ()

    def __call__(self, p_up: Floats, scale: Vector) -> Vector:
        """Return the forecast of the ensemble, (n,); 1/2 where every member abstains.

        Args:
            p_up: probabilities of the members before calibration, (m, n); NaN where a member abstains.
            scale: scale of each row, (n,), fraction.
        """
        known = ~np.isnan(p_up)
        logits = np.stack(
            [one.slope * log_odds(row) + one.intercept for one, row in zip(self.calibrations, p_up, strict=True)]
        )
        weights = self.weights[tercile(scale, np.asarray(self.edges))].T * known
        return probability(weighted_mean(np.where(known, logits, 0.0), weights, self.coin))


def fit_ensemble(
    members: Sequence[str], p_up: Floats, up: Vector, scale: Vector, *, weights: str, horizon: int
) -> Ensemble:
    """Calibrate each member and weigh them.

    `equal`: the same weight for all. `learnt`: weights of least log-loss, none below 0, with a normal prior at equal
    weights. `regime`: the same in each tercile of volatility. `experts`: the state after the last row of prediction
    with expert advice, fixed share on realised log-loss with a coin among the experts.

    Source of the experts: M. Herbster & M. Warmuth (1998), Tracking the best expert; for those that abstain, Y. Freund
    et al. (1997), Using and combining predictors that specialize.

    Args:
        members: names of the m members.
        p_up: their out-of-fold probabilities, (m, n), in time order; NaN where a member abstains.
        up: 1.0 where the return was positive, (n,).
        scale: scale of each row, (n,), fraction.
        weights: one of `WEIGHTS`.
        horizon: minutes each outcome spans; outcomes that overlap for h hours count as 1 / h of a row each.
    """
    calibrations = []
    for row in p_up:
        known = ~np.isnan(row)
        calibrations.append(fit_calibration(row[known], up[known], horizon=horizon) if known.any() else Calibration())
    calibrated = np.stack([one(row) for one, row in zip(calibrations, p_up, strict=True)])
    span, coin, edges = hours_spanned(horizon), 0.0, np.empty(0)
    if weights == "learnt":
        table = _least_loss(calibrated, up, span)[None, :]
    elif weights == "regime":
        edges = np.quantile(scale, TERCILES)
        at = tercile(scale, edges)
        table = np.stack([_least_loss(calibrated[:, at == i], up[at == i], span) for i in range(len(edges) + 1)])
    elif weights == "experts":
        share = _shares(calibrated, up, span)
        table, coin = share[None, :-1], float(share[-1])
    else:
        table = np.full((1, len(members)), 1 / len(members))
    return Ensemble(tuple(members), tuple(calibrations), table, coin, tuple(map(float, edges)))


def _shares(p_up: Floats, up: Vector, span: int) -> Vector:
    """Return the weights of the members and of a coin after the last row, (m + 1,)."""
    experts = np.vstack([p_up, np.full(p_up.shape[1], 0.5)])
    likelihood = np.where(up > 0, experts, 1 - experts)
    share = np.full(len(experts), 1 / len(experts))
    for column in likelihood.T:
        awake = ~np.isnan(column)
        mixture = float(share[awake] @ column[awake] / share[awake].sum())
        share = share * np.where(awake, column, mixture) ** (1 / span)
        share /= share.sum()
        share = (1 - SWITCHES_PER_HOUR) * share + SWITCHES_PER_HOUR / len(share)
    return share


def _least_loss(p_up: Floats, up: Vector, span: int) -> Vector:
    """Return non-negative weights with the sum 1 and least log-loss, shrunk to equal ones, (m,).

    Only rows in which every member forecasts count.
    """
    from scipy.optimize import minimize

    known = ~np.isnan(p_up).any(axis=0)
    logit, rose, n = log_odds(p_up[:, known]), up[known], len(p_up)

    def loss(weights: Vector) -> tuple[float, Vector]:
        score, away = weights @ logit, (weights - 1 / n) / WEIGHT_SPREAD
        gradient = logit @ (1 / (1 + np.exp(-score)) - rose) / span + away / WEIGHT_SPREAD
        return float((np.logaddexp(0, score).sum() - rose @ score) / span + 0.5 * away @ away), gradient

    found: Vector = minimize(loss, np.full(n, 1 / n), jac=True, method="L-BFGS-B", bounds=[(0, None)] * n).x
    return found / found.sum() if found.sum() > 0 else np.full(n, 1 / n)


@dataclass(frozen=True)
class FoldRows:
    """The out-of-fold forecasts of one horizon, in time order.

    Attributes:
        frame: cutoff, horizon_minutes, fold, open_time, log_return, scale, size and quantiles of each hour, (n, ...).
        members: names of the m members that have forecasts.
        p_up: (m, n); NaN where a member abstains.
    """

    frame: pl.DataFrame
    members: tuple[str, ...]
    p_up: Floats

    @classmethod
    def of(cls, forecasts: pl.DataFrame, horizon: int, members: Sequence[str]) -> FoldRows:
        """Collect the rows of a horizon.

        Args:
            forecasts: FOLD_FORECASTS rows.
            horizon: minutes ahead.
            members: names of the members, in order; one that failed is left out.
        """
        rows = forecasts.filter(pl.col("horizon_minutes") == horizon).sort("open_time")
        sizes = rows.drop_nulls("size").select("open_time", "size")
        quantiles = rows.drop_nulls(QUANTILE_NAMES[0]).drop("size")
        quantiles = quantiles.join(sizes, on="open_time", how="left", maintain_order="left")
        columns = {
            name: part["p_up"].to_numpy()
            for name in members
            if (part := rows.filter(pl.col("member") == name)).height == quantiles.height
            and part["failure"].null_count() == part.height
        }
        p_up = np.stack(list(columns.values())) if columns else np.empty((0, quantiles.height))
        return cls(quantiles, tuple(columns), p_up.astype(np.float64))

    @property
    def up(self) -> Vector:
        """1.0 where the return was positive, (n,)."""
        return (self.frame["log_return"].to_numpy() > 0).astype(np.float64)

    @property
    def scale(self) -> Vector:
        """Scale of each row, (n,), fraction."""
        return self.frame["scale"].to_numpy()

    @property
    def scaled_quantiles(self) -> Floats:
        """Quantiles in units of the scale, (n, 5)."""
        return self.frame.select(QUANTILE_NAMES).to_numpy() / self.scale[:, None]

    def where(self, kept: npt.NDArray[np.bool_]) -> FoldRows:
        """Return the rows of a mask, (n,)."""
        return FoldRows(self.frame.filter(pl.Series(kept)), self.members, self.p_up[:, kept])

    def before(self, start: datetime, horizon: int) -> FoldRows:
        """Return the rows whose outcome is known at `start`."""
        return self.where((self.frame["open_time"] <= last_train_open_time(start, horizon)).to_numpy())

    def ensemble(self, weights: str, horizon: int) -> Ensemble:
        """Return the ensemble that these rows teach; without rows, of equal weights and not calibrated."""
        if self.frame.is_empty():
            n = len(self.members)
            return Ensemble(self.members, (Calibration(),) * n, np.full((1, n), 1 / n))
        return fit_ensemble(self.members, self.p_up, self.up, self.scale, weights=weights, horizon=horizon)

    def offsets(self) -> dict[str, float]:
        """Return the conformal offsets of the scaled quantiles that these rows teach; none without rows."""
        if self.frame.is_empty():
            return {}
        scaled = self.frame["log_return"].to_numpy() / self.scale
        return conformal_offsets(scaled, self.scaled_quantiles, horizon=self.frame["horizon_minutes"][0])

    def size_slope(self, horizon: int) -> float:
        """Return the slope of the expected return in the forecast size that these rows teach."""
        scaled = self.frame["log_return"].to_numpy() / self.scale
        return fit_size_slope(self.frame["size"].to_numpy(), scaled, horizon=horizon)

    def quantiles(self, offsets: Mapping[str, float]) -> Floats:
        """Return the quantiles of the log return with offsets, (n, 5), sorted."""
        shift = np.array([offsets.get(name, 0.0) for name in QUANTILE_NAMES])
        return np.sort((self.scaled_quantiles + shift) * self.scale[:, None], axis=1)


def out_of_fold(forecasts: pl.DataFrame, members: Sequence[str], *, weights: str) -> pl.DataFrame:
    """Return the ensemble's forecasts of every fold, by calibrations, weights and offsets from the older folds.

    Nothing of a fold is fitted on its own hours; the oldest is neither calibrated nor weighed.

    Args:
        forecasts: FOLD_FORECASTS rows of one cutoff.
        members: names of the members.
        weights: one of `WEIGHTS`.

    Returns:
        `OUT_OF_FOLD_COLUMNS`, in order of horizon and time.
    """
    parts = []
    for horizon in forecasts["horizon_minutes"].unique().sort():
        rows = FoldRows.of(forecasts, horizon, members)
        for fold in rows.frame["fold"].unique().sort():
            test = rows.where((rows.frame["fold"] == fold).to_numpy())
            lesson = rows.before(test.frame["open_time"][0], horizon)
            p_up = lesson.ensemble(weights, horizon)(test.p_up, test.scale)
            quantiles = test.quantiles(lesson.offsets())
            parts.append(
                test.frame.with_columns(
                    pl.Series("p_up", p_up),
                    *(pl.Series(name, quantiles[:, i]) for i, name in enumerate(QUANTILE_NAMES)),
                ).select(OUT_OF_FOLD_COLUMNS)
            )
    return pl.concat(parts)


class NoMemberError(RuntimeError):
    """No member of the recipe could be trained."""


def ensemble_rows(forecasts: pl.DataFrame, members: Sequence[Member], *, cutoff: date, weights: str) -> pl.DataFrame:
    """Calibrate and weigh the members of a cutoff.

    Args:
        forecasts: FOLD_FORECASTS rows of the cutoff.
        members: the members of the recipe, in order.
        cutoff: the cutoff.
        weights: one of `WEIGHTS`.

    Returns:
        ENSEMBLE rows.

    Raises:
        NoMemberError: every member failed or is absent.
    """
    records = []
    for horizon in forecasts["horizon_minutes"].unique().sort():
        rows = FoldRows.of(forecasts, horizon, [member.name for member in members])
        if not rows.members:
            reasons = ", ".join(sorted(set(forecasts["failure"].drop_nulls()))) or "none has an input with values"
            raise NoMemberError(f"no member of the ensemble could be trained on the cutoff {cutoff}: {reasons}")
        ensemble = rows.ensemble(weights, horizon)
        for member in members:
            own = forecasts.filter((pl.col("horizon_minutes") == horizon) & (pl.col("member") == member.name))
            state, reason = _state(member, own, cutoff)
            record: dict[str, Any] = {
                "cutoff": cutoff,
                "horizon_minutes": horizon,
                "member": member.name,
                "family": member.family,
                "state": state,
                "reason": reason,
                "window_days": member.window_days,
                "rows": own["n_train"].max() or 0,
                "abstained": 0,
                "weight": 0.0,
                "weights": "[]",
                "edges": json.dumps(ensemble.edges),
                "coin": ensemble.coin,
            }
            if member.name in rows.members:
                at = rows.members.index(member.name)
                p_up, calibration = rows.p_up[at], ensemble.calibrations[at]
                known = ~np.isnan(p_up)
                score = metrics.log_loss(p_up, rows.frame["log_return"].to_numpy()).value
                record |= {
                    **calibration.document(),
                    "weight": float(ensemble.weights[:, at].mean()),
                    "weights": json.dumps(ensemble.weights[:, at].tolist()),
                    "log_loss": score,
                    "skill": None if score is None else 1 - score / math.log(2),
                    "abstained": int((~known).sum()),
                }
            records.append(record)
    return pl.DataFrame(records, schema=ENSEMBLE.columns).sort(ENSEMBLE.key)


def _state(member: Member, forecasts: pl.DataFrame, cutoff: date) -> tuple[str, str]:
    """Return the state of a member and its reason, from its FOLD_FORECASTS rows of one horizon."""
    if forecasts.is_empty():
        return (
            "absent",
            "nothing that only it reads has a value in its window, or its family reads several hours at once",
        )
    failures = forecasts["failure"].drop_nulls()
    if len(failures):
        return "failed", failures[0]
    start = midnight(cutoff - timedelta(days=member.window_days))
    late = (forecasts["trained_from"].min() - start).days  # type: ignore[operator, union-attr]
    if late > 0:
        return "short_window", f"trained on {member.window_days - late} days: the history starts later than its window"
    return "trained", ""


def ensembles_of(table: pl.DataFrame) -> dict[int, Ensemble]:
    """Return the ensemble of each horizon, minutes.

    Args:
        table: ENSEMBLE rows of one cutoff.
    """
    return {
        horizon: Ensemble(
            tuple(rows["member"]),
            tuple(Calibration(*pair) for pair in rows.select("slope", "intercept").iter_rows()),
            np.array([json.loads(text) for text in rows["weights"]]).T,
            coin=rows["coin"][0],
            edges=tuple(json.loads(rows["edges"][0])),
        )
        for (horizon,), rows in table.drop_nulls("slope").partition_by("horizon_minutes", as_dict=True).items()
    }


def ensemble_of(document: Mapping[str, Any], horizon: int) -> Ensemble:
    """Return the ensemble of one horizon that is stored in `model.json`.

    Args:
        document: the document.
        horizon: minutes ahead.
    """
    members, key = document["members"], str(horizon)
    return Ensemble(
        tuple(member["name"] for member in members),
        tuple(Calibration(**member["calibration"][key]) for member in members),
        np.array([member["weights"][key] for member in members]).T,
        coin=document["weights"]["coin"][key],
        edges=tuple(document["weights"]["edges"][key]),
    )
