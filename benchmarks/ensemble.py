"""Judge the default recipe by a walk: its members, ways to weigh them, and what is left without order flow.

    python -m benchmarks.ensemble --bars HOURLY --quarters QUARTERS --cache FOLDER [--out PAGE]

The files are Parquet files of hourly and 15-minute bars. Every 28 days each member is fitted on its own window before
the cutoff, with default parameters, and forecasts the hours up to the next cutoff. It is calibrated on its forecasts of
the three earlier cutoffs, whose outcomes are known, as in the folds of a training; so the walk starts three cutoffs
earlier. Fits are kept in FOLDER by cutoff: a walk that was
killed resumes where it stopped. Skill is against a coin.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import HOUR, midnight
from btc_assets.evaluation import metrics
from btc_assets.evaluation.significance import diebold_mariano
from btc_assets.features.catalog import FEATURES
from btc_assets.features.engine import compute_features
from btc_assets.features.inputs import inputs_of
from btc_assets.features.labels import compute_labels
from btc_assets.learning.ensemble import WEIGHTS, fit_ensemble
from btc_assets.learning.families.registry import family
from btc_assets.learning.folds import Rows as LabelledRows
from btc_assets.learning.folds import features_with_values, labelled_rows, last_train_open_time
from btc_assets.learning.members import MEMBERS, Member, feature_names, known_features
from btc_assets.learning.training import Trainee, fit
from btc_assets.markdown import markdown_rows
from btc_assets.market.quarter_bars import QUARTER_STREAM
from btc_assets.streams import Rows
from btc_assets.vocabulary import display

Floats = npt.NDArray[np.float64]

STEP = timedelta(days=28)
CALIBRATED_ON = 3
"""Number of earlier cutoffs whose forecasts calibrate a member, as there are folds in a training."""
HORIZONS = (60, 240)
"""Judged horizons, minutes."""
FEATURE_SET = "extended"
SEED = 7
VOLATILITY = "realised_volatility_24h"
"""Feature whose terciles the weights by regime depend on; unknown hours count as the median."""
NAMES = tuple(feature.name for feature in FEATURES)
SPLIT = date(2024, 8, 1)
"""Nothing was chosen on the days from here on."""
PRESENT = "xgboost_2y"
"""The recipe before the ensemble."""
WITHOUT_FLOW = f"{PRESENT} without flow"
PRICE = [member.name for member in MEMBERS if member.inputs == "price_and_volume"]
PRICE_AND_VOLUME = frozenset(feature_names("price_and_volume", FEATURE_SET))
ABSTAINING = "ensemble after an outage of order flow"
TRAINED_WITHOUT = "ensemble trained without flow"


@dataclass(frozen=True)
class History:
    """Features and labels of a history.

    Attributes:
        features: HOURLY_FEATURES rows in time order.
        rows: labelled rows with every feature, by horizon.
    """

    features: pl.DataFrame
    rows: Mapping[int, LabelledRows]

    @classmethod
    def read(cls, bars: Path, quarters: Path, last: date) -> History:
        """Read the files up to the end of a day."""
        end = last + timedelta(days=1)

        def read(path: Path) -> pl.DataFrame:
            frame = pl.read_parquet(path).with_columns(pl.col("open_time").cast(pl.Datetime("us", "UTC")))
            return frame.filter(pl.col("open_time") < midnight(end)).sort("open_time")

        clock = read(bars)
        first = clock["open_time"][0]
        labels = compute_labels(clock, first, midnight(end), HORIZONS)
        features = compute_features(inputs_of(clock, {QUARTER_STREAM: Rows(read(quarters))}))
        rows = {
            horizon: labelled_rows(
                features, labels, cutoff=end, horizon=horizon, window_days=(end - first.date()).days, names=NAMES
            )
            for horizon in HORIZONS
        }
        return cls(features, rows)

    def forecasts(self, cutoff: date, end: date, horizon: int) -> pl.DataFrame:
        """Fit every member at a cutoff and forecast the hours up to `end`.

        Returns:
            open_time, log_return, scale and one column of probabilities for each member, and `WITHOUT_FLOW`.
        """
        known = last_train_open_time(midnight(cutoff), horizon)
        train = self.rows[horizon].between(datetime.min.replace(tzinfo=UTC), known)
        test = self.rows[horizon].between(midnight(cutoff), midnight(end) - HOUR)
        columns: dict[str, Floats] = {}
        for member in MEMBERS:
            names = features_with_values(self.features, NAMES, cutoff=cutoff, window_days=member.window_days)
            inputs = known_features(member, FEATURE_SET, names)
            columns[member.name] = _p_up(member, inputs, train, test, cutoff, horizon)
            if member.name == PRESENT:
                without = tuple(name for name in inputs if name in PRICE_AND_VOLUME)
                columns[WITHOUT_FLOW] = _p_up(member, without, train, test, cutoff, horizon)
        scale = test.column(VOLATILITY).astype(np.float64)
        scale = np.nan_to_num(scale, nan=float(np.nanmedian(scale)))
        return pl.DataFrame({"open_time": test.open_time, "log_return": test.log_return, "scale": scale, **columns})


def _p_up(
    member: Member, inputs: tuple[str, ...], train: LabelledRows, test: LabelledRows, cutoff: date, horizon: int
) -> Floats:
    of = family(member.family)
    trainee = Trainee(member, of, inputs, {horizon: of.parameters()})
    own = trainee.rows(train, cutoff)
    outputs = fit(trainee, own, np.ones(len(own)), horizon, seed=SEED)
    return outputs["p_up"].predict(test.select(inputs).inputs)


def cutoffs(first: date, last: date) -> Iterator[tuple[date, date]]:
    """Yield each cutoff and the next one, from `CALIBRATED_ON` before `first` on."""
    cutoff = first - CALIBRATED_ON * STEP
    while cutoff <= last:
        yield cutoff, min(cutoff + STEP, last + timedelta(days=1))
        cutoff += STEP


def walk(history: History, folder: Path, first: date, last: date, horizon: int) -> list[pl.DataFrame]:
    """Return the forecasts of every cutoff, oldest first, reading those that are in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = []
    for cutoff, end in cutoffs(first, last):
        path = folder / f"{horizon}m_{cutoff}_{end}.parquet"
        if not path.exists():
            temporary = path.with_suffix(".new")
            history.forecasts(cutoff, end, horizon).write_parquet(temporary)
            temporary.rename(path)
            print(f"{display(horizon)}, cutoff {cutoff}", file=sys.stderr, flush=True)
        steps.append(pl.read_parquet(path))
    return steps


def combined(steps: Sequence[pl.DataFrame], names: Sequence[str], horizon: int, weights: str) -> Floats:
    """Return the calibrated forecasts of an ensemble after the first `CALIBRATED_ON` steps, (n,).

    Args:
        steps: the forecasts of every cutoff.
        names: columns of its members.
        horizon: minutes ahead.
        weights: one of `ensemble.WEIGHTS`.
    """
    parts = []
    for place in range(CALIBRATED_ON, len(steps)):
        test = steps[place]
        known = last_train_open_time(test["open_time"][0], horizon)
        lesson = pl.concat(steps[place - CALIBRATED_ON : place]).filter(pl.col("open_time") <= known)
        ensemble = fit_ensemble(
            names,
            lesson.select(names).to_numpy().T,
            (lesson["log_return"] > 0).cast(pl.Float64).to_numpy(),
            lesson["scale"].to_numpy(),
            weights=weights,
            horizon=horizon,
        )
        parts.append(ensemble(test.select(names).to_numpy().T, test["scale"].to_numpy()))
    return np.concatenate(parts)


@dataclass(frozen=True)
class Judged:
    """The forecasts of one horizon on the judged hours.

    Attributes:
        frame: open_time and log_return, (n, ...).
        p_up: (n,) by name of the forecaster.
        horizon: minutes ahead.
    """

    frame: pl.DataFrame
    p_up: Mapping[str, Floats]
    horizon: int

    @classmethod
    def of(cls, steps: Sequence[pl.DataFrame], horizon: int) -> Judged:
        """Judge every member alone and every ensemble."""
        names = [member.name for member in MEMBERS]
        p_up = {name: combined(steps, [name], horizon, "equal") for name in names}
        p_up |= {f"ensemble, {weights}": combined(steps, names, horizon, weights) for weights in WEIGHTS}
        p_up[ABSTAINING] = combined(steps, PRICE, horizon, "equal")
        p_up[TRAINED_WITHOUT] = combined(steps, [WITHOUT_FLOW, *PRICE], horizon, "equal")
        p_up[WITHOUT_FLOW] = combined(steps, [WITHOUT_FLOW], horizon, "equal")
        frame = pl.concat(steps[CALIBRATED_ON:]).select("open_time", "log_return")
        return cls(frame, p_up, horizon)

    def where(self, first: date, last: date) -> Judged:
        """Return the hours of first <= day <= last."""
        kept = self.frame["open_time"].dt.date().is_between(first, last)
        return Judged(
            self.frame.filter(kept), {name: p[kept.to_numpy()] for name, p in self.p_up.items()}, self.horizon
        )

    @property
    def log_return(self) -> Floats:
        """(n,), fraction."""
        return self.frame["log_return"].to_numpy()

    def losses(self, name: str) -> Floats:
        """Return the log-loss of each hour, (n,), nats."""
        return metrics.log_losses(self.p_up[name], self.log_return > 0)

    def skill(self, name: str) -> metrics.Estimate:
        """Return the skill against a coin, fraction."""
        coin = np.full(len(self.frame), 0.5)
        return metrics.log_loss_skill(self.p_up[name], self.log_return, coin, horizon=self.horizon)

    def difference(self, name: str, rival: str) -> str:
        """Return the difference in skill, points, with its HAC interval and p-value."""
        if name == rival:
            return ""
        test = diebold_mariano(self.losses(rival), self.losses(name), horizon=self.horizon)
        low, high = test.interval()
        if test.value is None or low is None or high is None:
            return "unknown"
        value, low, high = (100 * number / math.log(2) for number in (test.value, low, high))
        return f"{value:+.3f} [{low:+.3f}, {high:+.3f}], p {test.p_value():.3g}"


def _percent(estimate: metrics.Estimate) -> str:
    if estimate.value is None or estimate.lower is None or estimate.upper is None:
        return "unknown"
    return f"{100 * estimate.value:.2f} [{100 * estimate.lower:.2f}, {100 * estimate.upper:.2f}]"


def document(judged: Sequence[Judged], first: date, last: date, outage_days: int = 84) -> str:
    """Return the tables in Markdown."""
    parts = [
        "# The ensemble",
        (
            f"Made by `python -m benchmarks.ensemble` (its docstring says how): cutoffs every {STEP.days} days, "
            f"{first} to {last}, seed {SEED}, default parameters. Skill is against a coin; intervals are HAC, 95 %. "
            "A difference is of skill on the same hours, with a two-sided Diebold-Mariano test. Every row is a trial; "
            f"nothing was chosen on the days from {SPLIT} on. *{ABSTAINING}* is what the members without order flow "
            f"give when the others abstain; *{TRAINED_WITHOUT}* has `{WITHOUT_FLOW}` beside them."
        ),
    ]
    periods = {"all": (first, last), f"to {SPLIT - timedelta(days=1)}": (first, SPLIT - timedelta(days=1))}
    if last >= SPLIT:
        periods[f"from {SPLIT}"] = (SPLIT, last)
    for horizon in judged:
        for name, span in periods.items():
            part = horizon.where(*span)
            parts.append(f"## {display(horizon.horizon)}, {name}, n = {len(part.frame):,}")
            parts.append(
                markdown_rows(
                    ("forecaster", "accuracy %", "AUC", "skill % [95 %]", f"skill less that of {PRESENT}, points"),
                    (
                        (
                            forecaster,
                            f"{100 * (metrics.accuracy(p, part.log_return).value or 0):.2f}",
                            f"{metrics.auc(p, part.log_return).value or 0:.4f}",
                            _percent(part.skill(forecaster)),
                            part.difference(forecaster, PRESENT),
                        )
                        for forecaster, p in part.p_up.items()
                    ),
                )
            )
        parts.append(f"## {display(horizon.horizon)}: order flow missing for {outage_days} days")
        parts.append(
            markdown_rows(
                ("from", "ensemble, members abstaining", "less the ensemble trained without flow, points"),
                (
                    (f"{start}", _percent(part.skill(ABSTAINING)), part.difference(ABSTAINING, TRAINED_WITHOUT))
                    for start in _outages(first, min(last, SPLIT - timedelta(days=1)), outage_days)
                    for part in [horizon.where(start, start + timedelta(days=outage_days - 1))]
                ),
            )
        )
        parts.append(f"## {display(horizon.horizon)}: worth of order flow by year, points of skill")
        parts.append(
            markdown_rows(
                ("year", PRESENT, "ensemble"),
                (
                    (
                        f"{year}",
                        part.difference(PRESENT, WITHOUT_FLOW),
                        part.difference("ensemble, equal", TRAINED_WITHOUT),
                    )
                    for year in sorted(set(horizon.frame["open_time"].dt.year()))
                    for part in [horizon.where(date(year, 1, 1), min(date(year, 12, 31), SPLIT - timedelta(days=1)))]
                    if len(part.frame)
                ),
            )
        )
    return "\n\n".join(parts) + "\n"


def _outages(first: date, last: date, days: int) -> Iterator[date]:
    start = first
    while start + timedelta(days=days - 1) <= last:
        yield start
        start += timedelta(days=days)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the walk and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bars", type=Path, required=True)
    parser.add_argument("--quarters", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="folder of the fits")
    parser.add_argument("--out", type=Path, default=Path("docs/ensemble.md"))
    parser.add_argument("--first", type=date.fromisoformat, default=date(2023, 1, 2))
    parser.add_argument("--last", type=date.fromisoformat, default=date(2025, 7, 31))
    options = parser.parse_args(arguments)
    history = History.read(options.bars, options.quarters, options.last)
    judged = [
        Judged.of(walk(history, options.cache, options.first, options.last, horizon), horizon) for horizon in HORIZONS
    ]
    text = document(judged, options.first, options.last)
    options.out.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
