"""Walk the default members forward and compare the ways to weigh them, and an outage of the order flow.

    python -m benchmarks.ensemble --bars HOURLY --quarters QUARTERS [--first DAY] [--last DAY] [--out ROWS.parquet]

The files are Parquet files of hourly and 15-minute bars. Every 28 days the members of the default recipe are fitted
with the parameters of their families, calibrated on their out-of-fold forecasts, and forecast the hours up to the next
fit. The table compares each way to weigh them with the single model `xgboost_2y` on the same hours, by a paired HAC
test. In the outage every feature that reads the order flow is missing from each fit on, and the ensemble is compared
with two models that never had it. `--out` keeps the forecasts of every hour.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks.volatility import REFIT_DAYS, SPLIT, fits
from btc_assets.clock import midnight
from btc_assets.evaluation import metrics, significance
from btc_assets.features.catalog import FEATURES
from btc_assets.features.engine import compute_features
from btc_assets.features.inputs import CLOCK
from btc_assets.features.labels import compute_labels
from btc_assets.learning import training
from btc_assets.learning.ensemble import WEIGHTS, FoldRows
from btc_assets.learning.families.registry import family
from btc_assets.learning.folds import Rows as LabelledRows
from btc_assets.learning.folds import features_with_values, labelled_rows, make_folds
from btc_assets.learning.members import MEMBERS, Member, known_features
from btc_assets.learning.training import Trainee
from btc_assets.learning.volatility import fit_volatility
from btc_assets.markdown import markdown_rows
from btc_assets.market.quarter_bars import QUARTER_STREAM
from btc_assets.streams import Inputs, Rows
from btc_assets.vocabulary import display

Floats = npt.NDArray[np.float64]

SEED, FOLDS, TEST_DAYS, THREADS = 7, 3, 28, 1
LONGEST_DAYS = max(member.window_days for member in MEMBERS)
SINGLE = MEMBERS[0].name
PRICE = Member("xgboost_2y_price", "xgboost", "price_and_volume", 730)
FLOW = {"taker_buy_volume", "taker_buy_quote_volume", "quote_volume", "trades"}


def read(bars: str, quarters: str, end: datetime) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the files up to a moment; return features and labels."""

    def rows(path: str) -> pl.DataFrame:
        frame = pl.read_parquet(path).with_columns(pl.col("open_time").cast(pl.Datetime("us", "UTC")))
        return frame.filter(pl.col("open_time") < end).sort("open_time")

    clock = rows(bars)
    inputs = Inputs({CLOCK: Rows(clock), QUARTER_STREAM: Rows(rows(quarters))})
    wanted = [feature for feature in FEATURES if set(feature.streams) <= {QUARTER_STREAM.name}]
    return compute_features(inputs, wanted), compute_labels(clock, clock["open_time"][0], end)


def flow_features() -> frozenset[str]:
    """Return the features that need more than price and volume, of hourly and of quarter bars."""
    needs = {feature.name for feature in FEATURES if FLOW & set(feature.expression.meta.root_names())}
    return frozenset(needs | {f.name for f in FEATURES if f.streams and ("imbalance" in f.name or "flow" in f.name)})


def trainees_at(features: pl.DataFrame, cutoff: date, horizon: int) -> list[Trainee]:
    """Return the members, and the single model on price and volume."""
    names = [feature.name for feature in FEATURES if feature.name in features.columns]
    ready = []
    for member in (*MEMBERS, PRICE):
        known = features_with_values(features, names, cutoff=cutoff, window_days=member.window_days)
        of = family(member.family)
        if own := known_features(member, "extended", known):
            ready.append(Trainee(member, of, own, {horizon: of.parameters()}))
    return ready


def forecast(
    features: pl.DataFrame, labels: pl.DataFrame, start: datetime, end: datetime, horizon: int
) -> pl.DataFrame:
    """Return the forecasts of the hours from a fit to the next one, a column each; `out_` in the outage."""
    cutoff = start.date()
    trainees = trainees_at(features, cutoff, horizon)
    names = tuple(dict.fromkeys(name for one in trainees for name in one.features))
    volatility = [name for name in features.columns if "log_variance" in name or name in ("hour_of_day", "day_of_week")]
    names = tuple(dict.fromkeys((*names, *volatility)))
    rows = labelled_rows(features, labels, cutoff=cutoff, horizon=horizon, window_days=LONGEST_DAYS, names=names)
    layout = make_folds({horizon: rows}, cutoff=cutoff, window_days=LONGEST_DAYS, n_folds=FOLDS, test_days=TEST_DAYS)
    scales = {
        at: training.scale_of(fit_volatility(features, labels, end=at, horizons=(horizon,)))
        for at in [*layout["test_start"], start]
    }
    made = training.forecast_folds(trainees, {horizon: rows}, layout, scales, cutoff=cutoff, seed=SEED, threads=THREADS)
    days = (end - start).days + 2
    coming = labelled_rows(
        features, labels, cutoff=(end + timedelta(days=2)).date(), horizon=horizon, window_days=days, names=names
    ).between(start, end - timedelta(hours=1))
    sigma = scales[start](coming, horizon)
    raw, silent = _raw(trainees, rows, coming, scales[start], cutoff, horizon)
    columns: dict[str, Floats] = {}
    ways = {one.member.name: [one.member.name] for one in trainees}
    for name, members in ways.items():
        columns[name] = _combine(made, members, "equal", raw, sigma, horizon)
    default = [member.name for member in MEMBERS if member.name in ways]
    for way in WEIGHTS:
        columns[way] = _combine(made, default, way, raw, sigma, horizon)
        columns[f"out_{way}"] = _combine(made, default, way, silent, sigma, horizon)
    return pl.DataFrame(
        {"open_time": coming.open_time, "log_return": coming.log_return, "horizon_minutes": horizon, **columns}
    )


def _raw(
    trainees: Sequence[Trainee],
    rows: LabelledRows,
    coming: LabelledRows,
    scale: training.Scale,
    cutoff: date,
    horizon: int,
) -> tuple[Mapping[str, Floats], Mapping[str, Floats]]:
    """Return the members' uncalibrated P(up) of the coming hours, and the same without order flow."""
    raw, silent, flow = dict[str, Floats](), dict[str, Floats](), flow_features()
    for one in trainees:
        own = one.rows(rows, cutoff)
        sigma = scale(rows, horizon)[len(rows) - len(own) :]
        output = training.fit(one, own, sigma, horizon, seed=SEED)["p_up"]
        required = training.required_inputs(own)
        inputs = coming.select(one.features).inputs
        outage = inputs.copy()
        outage[:, [name in flow for name in one.features]] = np.nan
        for target, values in ((raw, inputs), (silent, outage)):
            target[one.member.name] = np.where(np.isnan(values) @ required, np.nan, output.predict(values))
    return raw, silent


def _combine(
    made: pl.DataFrame, members: Sequence[str], way: str, raw: Mapping[str, Floats], sigma: Floats, horizon: int
) -> Floats:
    parts = {name: made.filter(member=name).sort("open_time") for name in members}
    frame = next(iter(parts.values()))
    rows = FoldRows(frame, tuple(members), np.stack([part["p_up"].to_numpy() for part in parts.values()]))
    return rows.ensemble(way, horizon)(np.stack([raw[name] for name in members]), sigma)


def walk(
    features: pl.DataFrame, labels: pl.DataFrame, first: date, last: date, horizons: Sequence[int]
) -> Iterator[pl.DataFrame]:
    """Yield the forecasts of every fit."""
    for start, end in fits(first, last):
        began = time.monotonic()
        yield pl.concat(forecast(features, labels, start, end, horizon) for horizon in horizons)
        print(f"{start:%Y-%m-%d}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def table(made: pl.DataFrame) -> str:
    """Return the comparison as Markdown."""
    ways = [name for name in made.columns if name not in ("open_time", "log_return", "horizon_minutes")]
    rows = []
    spans = {"all": made, f"from {SPLIT}": made.filter(pl.col("open_time") >= midnight(SPLIT))}
    for horizon in made["horizon_minutes"].unique(maintain_order=True):
        for span, part in spans.items():
            own = part.filter(horizon_minutes=horizon)
            returns = own["log_return"].to_numpy()
            if not len(returns):
                continue
            single = metrics.log_losses(own[SINGLE].to_numpy(), returns > 0)
            for way in ways:
                p_up = own[way].to_numpy()
                losses = metrics.log_losses(p_up, returns > 0)
                test = significance.diebold_mariano(losses, single, horizon=horizon)
                error = 196 * (test.standard_error or 0.0) / math.log(2)
                gain = -100 * (test.value or 0.0) / math.log(2)
                rows.append(
                    (
                        display(horizon),
                        span,
                        way,
                        f"{len(losses):,}",
                        f"{100 * (metrics.accuracy(p_up, returns).value or 0):.2f}%",
                        f"{metrics.auc(p_up, returns).value or 0:.4f}",
                        f"{100 * (1 - losses.mean() / math.log(2)):.3f}%",
                        f"{gain:+.3f} ({gain - error:+.3f} to {gain + error:+.3f})",
                    )
                )
    columns = (
        "horizon",
        "hours",
        "forecast",
        "n",
        "accuracy",
        "AUC",
        "skill against a coin",
        f"skill over {SINGLE}, points",
    )
    return markdown_rows(columns, rows)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", required=True, help="Parquet file of hourly bars")
    parser.add_argument("--quarters", required=True, help="Parquet file of 15-minute bars")
    parser.add_argument("--first", type=date.fromisoformat, default=date(2023, 1, 2))
    parser.add_argument("--last", type=date.fromisoformat, default=date(2025, 7, 31))
    parser.add_argument("--horizons", type=int, nargs="+", default=[60, 240])
    parser.add_argument("--out", default="", help="Parquet file for the forecasts of every hour")
    arguments = parser.parse_args()
    end = midnight(arguments.last) + timedelta(days=1)
    features, labels = read(arguments.bars, arguments.quarters, end)
    parts = []
    for part in walk(features, labels, arguments.first, arguments.last, arguments.horizons):
        parts.append(part)
        if arguments.out:
            pl.concat(parts).write_parquet(arguments.out)
    print(f"Refit every {REFIT_DAYS} days, seed {SEED}.\n")
    print(table(pl.concat(parts)))


if __name__ == "__main__":
    main()
