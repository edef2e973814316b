"""Compare model families: every family forecasts the same hours, trained on the same hours with the same seed.

A family has the parameters it declares as defaults. Tuned ones would favour the families that were tuned, and on the
folds of a cutoff also use its test hours. All families read the same features.

Skill is measured against a coin, P(up) = 0.5 for every hour, and its interval comes from a circular block bootstrap of
the hourly log-losses. Every pair of families, and each family and the coin, is compared by Diebold & Mariano (1995)
with a Newey-West variance; the p-values of all comparisons are corrected together (Holm, 1979). The model confidence
set (Hansen, Lunde & Nason, 2011) says which families may be the best. Each family counts as a trial: the SPA test
(Hansen, 2005) is about whether the best of them beats the coin, given how many were tried.

A forecast of the price is the close times the exponential of the log return that P(up) implies, see
`price.implied_log_return`; the rule is the same for every family. It is judged beside the unchanged price.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from btc_assets.clock import midnight
from btc_assets.digest import digest
from btc_assets.evaluation import metrics, significance
from btc_assets.evaluation.price import implied_log_return, price_errors
from btc_assets.evaluation.significance import Floats
from btc_assets.learning.families.protocol import Family
from btc_assets.learning.folds import Rows, features_with_values, labelled_rows, last_train_open_time, make_folds
from btc_assets.learning.members import Member
from btc_assets.learning.tables import FAMILY_COMPARISON
from btc_assets.learning.training import Scale, Trainee, forecast_folds, scale_of
from btc_assets.learning.volatility import COLUMNS, fit_volatility
from btc_assets.markdown import markdown_rows
from btc_assets.vocabulary import QUANTILE_NAMES, QUANTILES, display, hours_spanned

COIN = "coin"
"""The benchmark of skill: P(up) = 0.5 for every hour."""
UNCHANGED = "unchanged price"
"""The benchmark of prices: the price stays."""
BLOCK_DAYS = 5
"""Length of a bootstrap block, days."""
DRAWS = 1000
"""Bootstrap draws of an interval and of a test."""
CONFIDENCE_SET = 0.1
"""A family is in the 90 % model confidence set if its p-value is above this."""
_COLUMNS = (
    *("cutoff", "horizon_minutes", "family", "fold", "open_time", "log_return", "scale", "trained_from", "p_up"),
    *QUANTILE_NAMES,
    *("cpu_s", "memory_mb"),
)
"""Columns of the forecasts of a family."""
_SAMPLE_S = 0.01
_STATM = Path("/proc/self/statm")
_MB = 1e6


class ComparisonError(ValueError):
    """Families cannot be compared on these hours."""


@dataclass(frozen=True)
class Period:
    """A walk over cutoffs: a family is fitted at each and forecasts the hours up to the next.

    Attributes:
        first: first cutoff.
        last: last day to forecast, inclusive.
        every_days: days from one cutoff to the next.
        window_days: days of the training window before each cutoff.
        horizon: minutes ahead.
        seed: seed of the fits.
    """

    first: date
    last: date
    every_days: int
    window_days: int
    horizon: int
    seed: int

    @property
    def end(self) -> date:
        """The day after the last one; no label that became known later is used."""
        return self.last + timedelta(days=1)


# --- forecasts -------------------------------------------------------------------------------------
def family_forecasts(
    name: str,
    family: Family[Any],
    rows: Rows,
    folds: pl.DataFrame,
    scales: Mapping[datetime, Scale],
    *,
    names: Sequence[str],
    cutoff: date,
    window_days: int,
    seed: int,
    curves: dict[str, list[float]] | None = None,
) -> pl.DataFrame:
    """Forecast the test hours of folds of one horizon with one family, with one thread.

    Args:
        name: name of the family in the results.
        family: the family.
        rows: labelled rows with every feature and `volatility.COLUMNS`.
        folds: CV_FOLDS rows of one horizon.
        scales: by start of a test, the scale that was fitted before it.
        names: the features that the family reads.
        cutoff: end of the training window.
        window_days: days of the training window.
        seed: seed of the fits.
        curves: see `forecast_folds`.

    Returns:
        Columns of FOLD_FORECASTS, with the name in `family`. `cpu_s` is the processor time and `memory_mb` the growth
        of the resident memory while P(up) was fitted and forecast, the same in every row.

    Raises:
        ComparisonError: the family could not be fitted.
    """
    horizon = folds["horizon_minutes"][0]
    features = tuple(names)

    def forecast(target: Literal["direction", "quantiles"]) -> pl.DataFrame:
        trainee = Trainee(
            Member(name, family.name, "hourly", window_days, target), family, features, {horizon: family.parameters()}
        )
        return forecast_folds(
            [trainee], {horizon: rows}, folds, scales, cutoff=cutoff, seed=seed, threads=1, curves=curves
        )

    started = time.process_time()
    with memory_growth() as growth:
        frame = forecast("direction")
    cpu_s = time.process_time() - started
    if failures := frame["failure"].drop_nulls().to_list():
        raise ComparisonError(f"the family {name} cannot be fitted at the cutoff {cutoff}: {failures[0]}")
    if family.fit_quantiles is not None:
        frame = frame.with_columns(forecast("quantiles").select(QUANTILE_NAMES))
    measured = {"cpu_s": pl.lit(cpu_s, pl.Float64), "memory_mb": pl.lit(growth(), pl.Float64)}
    return frame.rename({"member": "family"}).with_columns(**measured).select(_COLUMNS)


@contextmanager
def memory_growth() -> Iterator[Callable[[], float | None]]:
    """Sample the resident memory of this process during the block.

    Yields:
        A function that returns, after the block, the largest value above the one at its start, MB; None where the
        system has no `/proc`.
    """
    if not _STATM.exists():
        yield lambda: None
        return

    def resident() -> float:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MB

    start, done = resident(), threading.Event()
    largest = [start]

    def watch() -> None:
        while not done.wait(_SAMPLE_S):
            largest.append(max(largest.pop(), resident()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: largest[0] - start
    finally:
        done.set()
        watcher.join()
        largest.append(max(largest.pop(), resident()))


def walk(
    families: Mapping[str, Family[Any]],
    features: pl.DataFrame,
    labels: pl.DataFrame,
    period: Period,
    folder: Path,
    *,
    feature_set: Sequence[str],
    again: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[pl.DataFrame, Path]:
    """Forecast a period with every family, cutoff by cutoff; what is stored is not computed again.

    Args:
        families: the families by name.
        features: HOURLY_FEATURES rows.
        labels: HOURLY_LABELS rows.
        period: the period.
        folder: where forecasts are stored, one file per cutoff and family, in a folder for these data and this period.
        feature_set: names of the features that families read, those with values in a window.
        again: compute everything again.
        report: receives a line of progress for each fit.

    Returns:
        The forecasts of `family_forecasts`, of all families, and the folder where they are stored.

    Raises:
        ComparisonError: the data does not reach over the period, or a family could not be fitted.
        NotEnoughHistoryError: a cutoff has too little labelled history.
    """
    features = features.filter(pl.col("available_at") <= midnight(period.end))
    labels = labels.filter((pl.col("known_at") <= midnight(period.end)) & (pl.col("horizon_minutes") == period.horizon))
    names = [name for name in feature_set if name in features.columns]
    present = list(dict.fromkeys((*names, *(name for name in COLUMNS if name in features.columns))))
    days = (period.end - period.first).days
    rows = labelled_rows(
        features,
        labels,
        cutoff=period.end,
        horizon=period.horizon,
        window_days=days + period.window_days,
        names=present,
    )
    _require_data(rows, period)
    content = digest(features.select("open_time", "available_at", *present)), digest(labels)
    spec = [*content, str(period.first), period.every_days, period.window_days, period.horizon, period.seed]
    stored = folder / hashlib.sha256(json.dumps(spec).encode()).hexdigest()[:16]
    stored.mkdir(parents=True, exist_ok=True)
    parts = []
    count = math.ceil(((rows.open_time[-1].date() - period.first).days + 1) / period.every_days)
    folds = make_folds(
        {period.horizon: replace(rows, inputs=rows.inputs[:, :0], names=())},
        cutoff=period.first + timedelta(days=count * period.every_days),
        window_days=count * period.every_days + period.window_days,
        n_folds=count,
        test_days=period.every_days,
    )
    for place in range(count):
        cutoff = period.first + timedelta(days=place * period.every_days)
        fold = folds.filter(pl.col("fold") == place)
        paths = {name: stored / f"{cutoff}_{_part_name(name, family)}.parquet" for name, family in families.items()}
        missing = [name for name, path in paths.items() if again or not path.exists()]
        if missing:
            scale = scale_of(fit_volatility(features, labels, end=midnight(cutoff), horizons=[period.horizon]))
            known = features_with_values(features, names, cutoff=cutoff, window_days=period.window_days)
        for name in missing:
            frame = family_forecasts(
                name,
                families[name],
                rows,
                fold,
                {fold["test_start"][0]: scale},
                names=known,
                cutoff=cutoff,
                window_days=period.window_days,
                seed=period.seed,
            )
            temporary = paths[name].with_suffix(f".{os.getpid()}")
            frame.write_parquet(temporary)
            os.replace(temporary, paths[name])
            report(f"{cutoff} ({place + 1} of {count}) {name}: {frame['cpu_s'][0]:.1f} s")
        parts += [pl.read_parquet(path, columns=list(_COLUMNS)) for path in paths.values()]
    return pl.concat(parts), stored


def _part_name(name: str, family: Family[Any]) -> str:
    """Return the part of a file name that identifies a family and its default parameters."""
    content = hashlib.sha256(f"{name} {family.parameters().to_json()}".encode()).hexdigest()[:8]
    return f"{name.replace(':', '.')}_{content}"


def _require_data(rows: Rows, period: Period) -> None:
    """Refuse data that does not reach over the windows and the period."""
    start = period.first - timedelta(days=period.window_days)
    end = last_train_open_time(midnight(period.end), period.horizon)
    needs = (
        f"expected labelled hours from {start} to {end.date()}, with {period.window_days} days before the first cutoff"
    )
    if not len(rows):
        raise ComparisonError(f"{needs}; the data has none of them")
    first, last = rows.open_time[0], rows.open_time[-1]
    if first.date() > start or last.date() < end.date():
        raise ComparisonError(f"{needs}; the data has those from {first.date()} to {last.date()}")


# --- comparison ------------------------------------------------------------------------------------
def compare_families(forecasts: pl.DataFrame, closes: pl.DataFrame, *, cutoff: date, seed: int) -> pl.DataFrame:
    """Score families on the hours that all of them forecast and test their differences.

    Args:
        forecasts: rows of `family_forecasts` of one horizon.
        closes: open_time and close, USD.
        cutoff: cutoff of the rows: nothing that became known later was used.
        seed: seed of the fits, and of the bootstrap.

    Returns:
        FAMILY_COMPARISON rows: each family against the coin, and every pair.

    Raises:
        ComparisonError: the families have different hours, or none.
    """
    horizon = forecasts["horizon_minutes"][0]
    by_family = _same_hours(forecasts, closes)
    first = next(iter(by_family.values()))
    up = first["log_return"].to_numpy() > 0
    losses = {name: metrics.log_losses(frame["p_up"].to_numpy(), up) for name, frame in by_family.items()}
    daily = _daily(losses, first["open_time"])
    enough = len(first["open_time"].dt.date().unique()) >= 4 * BLOCK_DAYS
    best = significance.model_confidence_set(daily, block=BLOCK_DAYS, reps=DRAWS, seed=seed) if enough else {}
    intervals = _skill_intervals(losses, horizon, seed)
    common = {
        "cutoff": cutoff,
        "horizon_minutes": horizon,
        "n": first.height,
        "first": first["open_time"][0],
        "last": first["open_time"][-1],
        "folds": forecasts.select("cutoff", "fold").unique().height,
        "seed": seed,
        "families": len(by_family),
    }
    scores = {
        name: {
            **common,
            "family": name,
            "skill_lower": intervals[name][0],
            "skill_upper": intervals[name][1],
            "mcs_p_value": best.get(name),
            **_scores(frame, losses[name]),
        }
        for name, frame in by_family.items()
    }
    pairs = [*((name, COIN) for name in by_family), *combinations(by_family, 2)]
    losses[COIN] = np.full(first.height, math.log(2))
    tests = [significance.diebold_mariano(losses[ours], losses[theirs], horizon=horizon) for ours, theirs in pairs]
    corrected = significance.holm([test.p_value() for test in tests])
    return pl.DataFrame(
        [
            {
                **scores[ours],
                "against": theirs,
                "difference": test.value,
                "lower": test.interval()[0],
                "upper": test.interval()[1],
                "dm_p_value": test.p_value(),
                "holm_p_value": holm_p_value,
            }
            for (ours, theirs), test, holm_p_value in zip(pairs, tests, corrected, strict=True)
        ],
        schema=FAMILY_COMPARISON.columns,
    ).sort(FAMILY_COMPARISON.key)


def best_beats_coin(forecasts: pl.DataFrame, *, seed: int) -> float | None:
    """Return the p-value that the best family is no better than the coin, given how many were tried (Hansen, 2005).

    Args:
        forecasts: rows of `family_forecasts` of one horizon.
        seed: seed of the bootstrap.
    """
    wide = forecasts.pivot("family", index=["open_time", "log_return"], values="p_up").drop_nulls().sort("open_time")
    up = wide["log_return"].to_numpy() > 0
    names = wide.columns[2:]
    losses = {name: metrics.log_losses(wide[name].to_numpy(), up) for name in names}
    daily = _daily(losses | {COIN: np.full(wide.height, math.log(2))}, wide["open_time"])
    if len(daily[COIN]) < 4 * BLOCK_DAYS:
        return None
    rivals = np.column_stack([daily[name] for name in names])
    return significance.superior_ability(daily[COIN], rivals, block=BLOCK_DAYS, reps=DRAWS, seed=seed)


def costs(forecasts: pl.DataFrame) -> pl.DataFrame:
    """Return the cost of a fit of P(up) by family: median processor seconds and largest growth of memory, MB."""
    fits = forecasts.group_by("family", "cutoff", maintain_order=True).agg(
        pl.first("cpu_s") / pl.n_unique("fold"), pl.first("memory_mb")
    )
    return fits.group_by("family", maintain_order=True).agg(pl.median("cpu_s"), pl.max("memory_mb"))


def _same_hours(forecasts: pl.DataFrame, closes: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return the forecasts by family on the hours that every family forecast, with the close of each hour."""
    known = forecasts.drop_nulls("p_up").join(closes.select("open_time", "close"), on="open_time")
    names = forecasts["family"].unique(maintain_order=True).to_list()
    delivered = forecasts.group_by("open_time").len()
    if (delivered["len"] != len(names)).any():
        raise ComparisonError(f"{', '.join(names)} forecast different hours and cannot be compared")
    everywhere = known.group_by("open_time").len().filter(pl.col("len") == len(names)).select("open_time")
    if everywhere.is_empty():
        raise ComparisonError(f"{', '.join(names)} have no hour in common in which each of them has a forecast")
    kept = known.join(everywhere, on="open_time", how="semi").sort("open_time")
    return {name: kept.filter(pl.col("family") == name) for name in names}


def _scores(frame: pl.DataFrame, losses: Floats) -> dict[str, float | None]:
    """Return the scores of one family, by column of FAMILY_COMPARISON."""
    p_up, log_return, close = (frame[name].to_numpy() for name in ("p_up", "log_return", "close"))
    outcome = close * np.exp(log_return)
    errors = price_errors(close * np.exp(implied_log_return(p_up, frame["scale"].to_numpy())), outcome)
    unchanged = price_errors(close, outcome)
    quantiles = {level: frame[name].to_numpy() for level, name in zip(QUANTILES, QUANTILE_NAMES, strict=True)}
    has_quantiles = frame[QUANTILE_NAMES[0]].null_count() == 0
    return {
        "log_loss": float(losses.mean()),
        "skill": float(1 - losses.mean() / math.log(2)),
        "auc": metrics.auc(p_up, log_return).value,
        "accuracy": metrics.accuracy(p_up, log_return).value,
        "brier": metrics.brier(p_up, log_return).value,
        "pinball": metrics.pinball_loss(log_return, quantiles).value if has_quantiles else None,
        "rmse_usd": errors.rmse,
        "mae_usd": errors.mae,
        "r2": errors.r2,
        "rmse_usd_unchanged": unchanged.rmse,
        "mae_usd_unchanged": unchanged.mae,
        "r2_unchanged": unchanged.r2,
    }


def _skill_intervals(
    losses: Mapping[str, Floats], horizon: int, seed: int
) -> dict[str, tuple[float | None, float | None]]:
    """Return the 95 % interval of each family's skill, from the same bootstrap draws of hours."""
    table = np.column_stack(list(losses.values()))
    block = max(24 * BLOCK_DAYS, hours_spanned(horizon))
    if len(table) < 4 * block:
        return dict.fromkeys(losses, (None, None))
    skills = 1 - significance.resampled_means(table, block=block, reps=DRAWS, seed=seed) / math.log(2)
    ends = np.quantile(skills, [0.025, 0.975], axis=0)
    return {name: (float(low), float(high)) for name, low, high in zip(losses, *ends, strict=True)}


def _daily(losses: Mapping[str, Floats], open_time: pl.Series) -> dict[str, Floats]:
    """Return the mean loss of each UTC day."""
    means = pl.DataFrame(dict(losses)).group_by(open_time.dt.date().alias("_day"), maintain_order=True).mean()
    return {name: means[name].to_numpy() for name in losses}


# --- presentation -----------------------------------------------------------------------------------
def as_markdown(rows: pl.DataFrame, cost: pl.DataFrame, spa_p_value: float | None) -> str:
    """Return a comparison as Markdown: scores of the families, best first, their differences, and what to know.

    Args:
        rows: FAMILY_COMPARISON rows of one cutoff and horizon.
        cost: see `costs`.
        spa_p_value: see `best_beats_coin`.
    """
    alone = rows.filter(pl.col("against") == COIN).join(cost, on="family").sort("log_loss", "family")
    lines = [
        (
            row["family"],
            f"{row['log_loss']:.5f}",
            _skill(row),
            _number(row["auc"], ".4f"),
            f"{row['accuracy']:.2%}",
            f"{row['brier']:.5f}",
            _number(row["pinball"] and 1e4 * row["pinball"], ".3f"),
            f"{row['rmse_usd']:.2f}",
            f"{row['mae_usd']:.2f}",
            _number(row["r2"], ".5f"),
            _number(row["holm_p_value"], ".2g"),
            _drawn(row["mcs_p_value"]),
            f"{row['cpu_s']:.2f}",
            _number(row["memory_mb"], ".0f"),
        )
        for row in alone.iter_rows(named=True)
    ]
    any_row = alone.row(0, named=True)
    blank = ["-"] * len(_HEADINGS)
    blank[0] = UNCHANGED
    blank[7:10] = (
        f"{any_row['rmse_usd_unchanged']:.2f}",
        f"{any_row['mae_usd_unchanged']:.2f}",
        _number(any_row["r2_unchanged"], ".5f"),
    )
    pairs = rows.filter(pl.col("against") != COIN).sort("dm_p_value", "family", "against", nulls_last=True)
    pair_lines = [
        (
            row["family"],
            row["against"],
            f"{1e3 * row['difference']:+.3f}",
            "-" if row["lower"] is None else f"{1e3 * row['lower']:+.3f} to {1e3 * row['upper']:+.3f}",
            _number(row["dm_p_value"], ".2g"),
            _number(row["holm_p_value"], ".2g"),
        )
        for row in pairs.iter_rows(named=True)
    ]
    hours = (
        f"n = {any_row['n']:,} hours from {any_row['first']:%Y-%m-%d} to {any_row['last']:%Y-%m-%d}, the same of all "
        f"families; {display(any_row['horizon_minutes'])} ahead; {any_row['folds']} fits of each family; seed "
        f"{any_row['seed']}; default parameters."
    )
    parts = [hours, markdown_rows(_HEADINGS, [*lines, blank], right=_HEADINGS[1:])]
    parts.append(_notes(any_row["families"], spa_p_value))
    if pair_lines:
        parts.append(markdown_rows(_PAIR_HEADINGS, pair_lines, right=_PAIR_HEADINGS[2:]))
    return "\n\n".join(parts)


def _notes(families: int, spa_p_value: float | None) -> str:
    return f"""\
- {families} families were compared, and each counts as a trial: the best score of several is partly luck. The p-value
  of the best being no better than a coin, given {families} trials (SPA test), is {_drawn(spa_p_value)}.
- Skill is 1 - log-loss / ln 2 with the 95 % interval of a block bootstrap ({BLOCK_DAYS}-day blocks, {DRAWS:,} draws).
- Holm p is of Diebold-Mariano against the coin, corrected over all comparisons, pairs included. Families with an MCS p
  above {CONFIDENCE_SET:g} form the 90 % model confidence set: the best is among them.
- The price is forecast as the close moved by the return that P(up) implies. Its R² is near one for anybody: over months
  prices move by tens of thousands of USD, in an hour by a fraction of a percent, so the {UNCHANGED} explains nearly all
  of their variance. R² says nothing about skill.
- Pinball is the mean over five quantiles of the return, for families that have them. Seconds are the processor
  time of a fit of P(up) and its forecasts (median), MB the growth of the process's memory during them (maximum; a
  library counts for the first family that loads it)."""


def _skill(row: Mapping[str, Any]) -> str:
    middle = f"{100 * row['skill']:.2f}"
    if row["skill_lower"] is None:
        return middle
    return f"{middle} ({100 * row['skill_lower']:.2f} to {100 * row['skill_upper']:.2f})"


def _drawn(p_value: float | None) -> str:
    """Format a p-value of the bootstrap, which is a share of the draws."""
    return f"< {1 / DRAWS:g}" if p_value is not None and p_value < 1 / DRAWS else _number(p_value, ".3f")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


_HEADINGS = (
    "family",
    "log-loss",
    "skill, %",
    "AUC",
    "accuracy",
    "Brier",
    "pinball, bp",
    "RMSE, USD",
    "MAE, USD",
    "R² of price",
    "Holm p",
    "MCS p",
    "s",
    "MB",
)
_PAIR_HEADINGS = ("family", "against", "difference, 0.001 nats", "95 % interval", "DM p", "Holm p")
