"""Measure the cost of missing inputs, compare the fallbacks, and measure the delay of the reports.

    python -m benchmarks.missing_inputs [--out docs/missing_inputs.md]

`BTC_MARKET_FILES` names real bars with taker volumes from 2019 to the middle of 2024. With `BTC_MARKET_SOURCE=files`
the settings also require `BTC_HISTORY_START` and `BTC_HISTORY_END`, which are not used here. Columns are removed from
the bars from an hour on, features are computed from the rest, and 1 h models with default parameters forecast and are
retrained with the functions of a training. The same bars and seed give the same document. P(up) is not calibrated and
intervals are not conformalised.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import HOUR, midnight
from btc_assets.evaluation import metrics
from btc_assets.features.catalog import FEATURE_SETS, FEATURES
from btc_assets.features.engine import compute_features
from btc_assets.features.inputs import inputs_of
from btc_assets.features.labels import compute_labels
from btc_assets.learning import missingness
from btc_assets.learning.explain import EXPLAINED_ROWS, Explanation
from btc_assets.learning.families.protocol import Fit, FittedOutput
from btc_assets.learning.families.xgboost import FAMILY, XgboostParameters
from btc_assets.learning.folds import Rows, features_with_values, labelled_rows
from btc_assets.learning.forecast_model import HorizonForecast
from btc_assets.learning.missingness import FALLBACK_WEIGHT, MAX_LOST_HOURS, Profile
from btc_assets.learning.training import row_weights, up
from btc_assets.markdown import markdown_rows
from btc_assets.market.bars import clean
from btc_assets.market.sources.files import FileSource
from btc_assets.settings import PROJECT_ROOT, settings
from btc_assets.vocabulary import PRIMARY, QUANTILE_NAMES

Floats = npt.NDArray[np.float64]
Result = TypeVar("Result")

DAY, WEEK = timedelta(days=1), timedelta(days=7)
NAMES = FEATURE_SETS["extended"]
SCALE_FEATURE = "realised_volatility_24h"
"""Feature that scales the intervals of these models: standard deviation of an hour's log return, fraction."""
SCALE_UNKNOWN = 0.005
"""Its substitute where it is unknown."""
KINDS: Mapping[str, tuple[str, ...]] = {
    "Kraken's bars: no taker volumes": ("taker_buy_volume", "taker_buy_quote_volume"),
    "Coinbase's bars: no taker volumes, quote volume or trades": (
        *("taker_buy_volume", "taker_buy_quote_volume", "quote_volume", "trades"),
    ),
}
"""Removed columns by the name of the case."""
RETRAINED = list(KINDS)[-1]
"""The case in which models are retrained too, which takes most of the time."""
RETRAINED_AFTER_WEEKS = (0, 1, 2, 4, 8)
"""Weeks from the cutoff before an outage to the retrainings; each model forecasts until the next."""
BANDS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.01)
"""Edges of the weight of the lost inputs in the model."""
_EVER = datetime(2009, 1, 3, tzinfo=UTC)


@dataclass(frozen=True)
class Plan:
    """The size of the evaluation.

    Attributes:
        first: first cutoff of an outage; the next ones follow after the length of an outage.
        stretches: number of outages of each kind.
        days: days from the cutoff before an outage to its end.
        chosen_first: first cutoff of the models that determine the bound of the fallback.
        chosen: number of these models, each evaluated on the `chosen_days` after its cutoff.
        chosen_days: days after each of these cutoffs.
        draws: number of random sets of inputs per size.
        window_days: length of a training window, days.
        seed: seed of models, hours and sets.
    """

    first: date = date(2023, 1, 2)
    stretches: int = 6
    days: int = 84
    chosen_first: date = date(2021, 1, 4)
    chosen: int = 7
    chosen_days: int = 104
    draws: int = 6
    window_days: int = 730
    seed: int = 7


def scales(rows: Rows, horizon: int) -> Floats:
    """Return the scale of each row over the horizon, (n,), fraction."""
    return scale_of(rows.column(SCALE_FEATURE), horizon)


def scale_of(volatility: np.ndarray, horizon: int) -> Floats:
    """Return the scale over the horizon for values of `SCALE_FEATURE`, (n,), fraction."""
    return np.maximum(np.nan_to_num(volatility.astype(np.float64), nan=SCALE_UNKNOWN), 0.0005) * np.sqrt(horizon / 60)


@dataclass(frozen=True)
class Model:
    """A 1 h model and the profile of its training window.

    Attributes:
        outputs: fitted P(up), and quantiles if they were fitted, by name.
        profile: profile of its training window.
    """

    outputs: Mapping[str, FittedOutput]
    profile: Profile

    def p_up(self, rows: Rows, lost: npt.NDArray[np.bool_] | None = None) -> Floats:
        """Return P(up) with lost inputs at their medians; None passes every missing value to the trees."""
        inputs = rows.inputs if lost is None else self.profile.fill(rows.inputs.astype(np.float64), lost)
        return self.outputs["p_up"].predict(inputs.astype(np.float32))

    def quantiles(self, rows: Rows, lost: npt.NDArray[np.bool_] | None = None) -> Floats:
        """Return the quantiles of the log return, with lost inputs as in `p_up`."""
        inputs = rows.inputs.astype(np.float64)
        inputs = inputs if lost is None else self.profile.fill(inputs, lost)
        filled = Rows(rows.open_time, inputs.astype(np.float32), rows.log_return, rows.names)
        quantiles = np.column_stack([self.outputs[name].predict(filled.inputs) for name in QUANTILE_NAMES])
        return np.sort(quantiles, axis=1) * scales(filled, PRIMARY)[:, None]


@dataclass(frozen=True)
class History:
    """Bars with derived features, labels and models.

    Attributes:
        bars: PRICES rows, in time order.
        plan: size of the evaluation.
    """

    bars: pl.DataFrame
    plan: Plan
    _champions: dict[date, Model] = field(default_factory=dict)

    @cached_property
    def features(self) -> pl.DataFrame:
        """HOURLY_FEATURES rows of the unchanged bars."""
        return compute_features(inputs_of(self.bars))

    @cached_property
    def labels(self) -> pl.DataFrame:
        """HOURLY_LABELS rows of 1 h."""
        first, last = self.bars["open_time"][0], self.bars["open_time"][-1]
        labels = compute_labels(self.bars, first, last + 2 * DAY)
        return labels.filter(pl.col("horizon_minutes") == PRIMARY)

    def without(self, columns: Sequence[str], start: datetime) -> pl.DataFrame:
        """Return the features with columns of the bars removed from an hour on."""
        known = [pl.when(pl.col("open_time") < start).then(pl.col(column)).alias(column) for column in columns]
        return compute_features(inputs_of(self.bars.with_columns(known)))

    def rows(self, features: pl.DataFrame, cutoff: date, days: int, names: Sequence[str]) -> Rows:
        """Return the labelled rows of a number of days before a cutoff."""
        return labelled_rows(features, self.labels, cutoff=cutoff, horizon=PRIMARY, window_days=days, names=names)

    def known(self, features: pl.DataFrame, cutoff: date) -> tuple[str, ...]:
        """Return the inputs with values in the window of a cutoff."""
        return features_with_values(features, NAMES, cutoff=cutoff, window_days=self.plan.window_days)

    def gone(self, features: pl.DataFrame, cutoff: date) -> tuple[str, ...]:
        """Return the inputs that are gone at a cutoff."""
        known = self.known(features, cutoff)
        return missingness.gone(features, known, cutoff=cutoff, window_days=self.plan.window_days)

    def champion(self, cutoff: date) -> Model:
        """Return the model of a cutoff trained on the unchanged bars, with a cache."""
        if cutoff not in self._champions:
            names = self.known(self.features, cutoff)
            self._champions[cutoff] = self.train(self.features, cutoff, names, whole=True)
        return self._champions[cutoff]

    def train(self, features: pl.DataFrame, cutoff: date, names: Sequence[str], *, whole: bool = False) -> Model:
        """Train P(up) of a cutoff; if `whole`, also the quantiles and the weights of the inputs."""
        rows, parameters = self.rows(features, cutoff, self.plan.window_days, names), XgboostParameters()
        explanation = pl.DataFrame({"feature": list(names), "horizon_minutes": PRIMARY, "mean_abs_shap": 0.0})
        weights = row_weights(rows, PRIMARY, parameters.half_life_days)
        options = Fit(rows.names, seed=self.plan.seed)
        outputs: dict[str, FittedOutput] = {
            "p_up": FAMILY.fit_direction(rows.inputs, up(rows), weights, parameters, options)
        }
        if whole and FAMILY.fit_quantiles is not None:
            scaled = rows.log_return / scales(rows, PRIMARY)
            outputs |= FAMILY.fit_quantiles(rows.inputs, scaled, weights, parameters, options)
            newest = rows.inputs[-EXPLAINED_ROWS:]
            values = outputs["p_up"].contributions(newest)
            assert values is not None
            explanation = Explanation(values, newest, rows.names).importance(cutoff, PRIMARY)
        made = missingness.profile_rows(
            features, {PRIMARY: rows}, explanation, names, scales, cutoff=cutoff, window_days=self.plan.window_days
        )
        profile = Profile.of(made, names)
        assert profile is not None
        return Model(outputs, profile)


@dataclass
class Tally:
    """The losses of one forecaster, per hour of every outage.

    Attributes:
        losses: log-loss of each hour, nats, one array per outage.
        inside: whether the outcome is inside the 90 % interval, for forecasters with intervals.
    """

    losses: list[Floats]
    inside: list[npt.NDArray[np.bool_]]


@dataclass
class Outage:
    """The results of the outages of one kind.

    Attributes:
        tallies: losses by forecaster.
        base: log-loss of the share of rises in the champion's window, nats, one array per outage.
        marked_after: hours from the start of each outage to its first degraded forecast.
        requested_after: hours to the end of the first day whose drift report requests a training.
        lost: number of lost inputs at the end of each outage, and their weight in the champion.
        left_out_after: hours to the first cutoff that leaves them out.
    """

    tallies: dict[str, Tally]
    base: list[Floats]
    marked_after: list[float]
    requested_after: list[float]
    lost: list[tuple[int, float]]
    left_out_after: list[float]


WHOLE, AS_IT_WAS, AS_SERVED = "champion, nothing missing", "champion, nulls to the trees", "champion, as served"
KEPT, LEFT_OUT = "retrained, missing inputs kept", "retrained, missing inputs left out"
WITHOUT, USUAL = "a model that never had flow inputs", "base rate, scaled intervals"


def outages(history: History, columns: Sequence[str], *, retrained: bool) -> Outage:
    """Remove columns in every outage of the plan and evaluate every forecaster, optionally with retrained models."""
    plan, rng = history.plan, np.random.default_rng(history.plan.seed)
    ways = (WHOLE, AS_IT_WAS, AS_SERVED, *((KEPT, LEFT_OUT) if retrained else ()), WITHOUT, USUAL)
    seen = Outage({way: Tally([], []) for way in ways}, [], [], [], [], [])
    for number in range(plan.stretches):
        cutoff = plan.first + number * plan.days * DAY
        start = midnight(cutoff) + int(rng.integers(1, 7 * 24)) * HOUR
        _outage(history, columns, cutoff, start, seen)
    return seen


def _outage(history: History, columns: Sequence[str], cutoff: date, start: datetime, seen: Outage) -> None:
    plan, end = history.plan, cutoff + history.plan.days * DAY
    whole, dead = history.features, history.without(columns, start)
    champion = history.champion(cutoff)
    names = champion.profile.names
    intact, incomplete = (
        history.rows(made, end, plan.days, names).between(start, midnight(end)) for made in (whole, dead)
    )
    lost = _at(dead, champion.profile.lost(dead), incomplete.open_time)
    weight = lost @ champion.profile.weight[PRIMARY]
    answers: dict[str, tuple[Floats, Floats | None]] = {
        WHOLE: (champion.p_up(intact), champion.quantiles(intact)),
        AS_IT_WAS: (champion.p_up(incomplete), champion.quantiles(incomplete)),
    }
    filled = champion.profile.fill(incomplete.inputs.astype(np.float64), lost)
    sigma = scale_of(filled[:, names.index(SCALE_FEATURE)], PRIMARY)
    model = HorizonForecast(champion.p_up(incomplete, lost), champion.quantiles(incomplete, lost), sigma, sigma)
    served = champion.profile.adjust(PRIMARY, model, lost, np.asarray(lost.any(axis=1))).forecast
    answers[AS_SERVED] = (served.p_up, served.quantiles)
    base_rate = np.full(len(incomplete), champion.profile.base_rate[PRIMARY])
    scaled = champion.profile.quantiles[PRIMARY] * scales(incomplete, PRIMARY)[:, None]
    answers[USUAL] = (base_rate, scaled)
    price = tuple(name for name in names if _GROUP[name] != "flow")
    bare = history.rows(dead, end, plan.days, price).between(start, midnight(end))
    answers[WITHOUT] = (history.train(whole, cutoff, price).p_up(bare), None)
    if KEPT in seen.tallies:
        parts = list(_retrained(history, dead, cutoff, start, end))
        answers[KEPT] = (np.concatenate([kept for kept, _, _ in parts]), None)
        answers[LEFT_OUT] = (np.concatenate([left for _, left, _ in parts]), None)
        seen.left_out_after.append(next(at for _, _, at in parts if at is not None))
    for way, (p_up, quantiles) in answers.items():
        seen.tallies[way].losses.append(metrics.log_losses(p_up, incomplete.log_return > 0))
        if quantiles is not None:
            low, high = quantiles[:, 0], quantiles[:, -1]
            seen.tallies[way].inside.append((low <= incomplete.log_return) & (incomplete.log_return <= high))
    seen.base.append(metrics.log_losses(base_rate, incomplete.log_return > 0))
    seen.marked_after.append((incomplete.open_time.filter(pl.Series(lost.any(axis=1)))[0] - start) / HOUR)
    seen.requested_after.append(_requested_after(dead, champion, names, start, end))
    seen.lost.append((int(lost[-1].sum()), float(weight[-1])))


def _retrained(
    history: History, dead: pl.DataFrame, cutoff: date, start: datetime, end: date
) -> Iterator[tuple[Floats, Floats, float | None]]:
    """Yield P(up) of each retraining with the missing inputs kept and left out, and since when they are left out."""
    known = history.known(dead, cutoff)
    mondays = [cutoff + weeks * WEEK for weeks in RETRAINED_AFTER_WEEKS if cutoff + weeks * WEEK < end]
    for monday, following in pairwise([*mondays, end]):
        gone = history.gone(dead, monday)
        kept, left = known, tuple(name for name in known if name not in gone)
        models = [history.train(dead, monday, names) for names in dict.fromkeys((kept, left))]
        answers = []
        for model, names, served in ((models[0], kept, False), (models[-1], left, True)):
            rows = history.rows(dead, end, (end - cutoff).days, names)
            rows = rows.between(max(start, midnight(monday)), midnight(following) - HOUR)
            lost = _at(dead, model.profile.lost(dead), rows.open_time)
            answers.append(model.p_up(rows, lost if served else None))
        yield answers[0], answers[1], (midnight(monday) - start) / HOUR if gone else None


def _at(features: pl.DataFrame, values: npt.NDArray[np.bool_], hours: pl.Series) -> npt.NDArray[np.bool_]:
    return values[features["open_time"].search_sorted(hours).to_numpy()]


def _requested_after(features: pl.DataFrame, model: Model, names: Sequence[str], start: datetime, end: date) -> float:
    """Return the hours to the end of the first day whose drift report has inputs lost for more than a day."""
    lost = model.profile.lost(features)
    marks = features.select("open_time").with_columns(
        pl.Series("degraded", lost.any(axis=1)),
        pl.Series("missing_inputs", [",".join(np.array(names)[row]) for row in lost]),
    )
    day = start.date()
    while day < end:
        last = midnight(day + DAY)
        week = marks.filter(pl.col("open_time").is_between(last - WEEK, last, "left"))
        counted = missingness.hours_lost(week, features.filter(pl.col("open_time") < last))
        if max(counted.values(), default=0) > MAX_LOST_HOURS:
            return (last - start) / HOUR
        day += DAY
    return float("inf")


@dataclass(frozen=True)
class Loss:
    """The effect of removing one set of inputs from a model.

    Attributes:
        weight: weight of the inputs in the model.
        nulls: remaining skill over the base rate with nulls, fraction.
        medians: remaining skill with medians.
        whole: skill of the model with all inputs.
    """

    weight: float
    nulls: float
    medians: float
    whole: float


def losses(history: History) -> list[Loss]:
    """Remove single inputs, groups and random sets from models; measure the remaining skill."""
    plan, rng = history.plan, np.random.default_rng(history.plan.seed)
    results = []
    for number in range(plan.chosen):
        cutoff = plan.chosen_first + number * plan.chosen_days * DAY
        model = history.champion(cutoff)
        names = model.profile.names
        rows = history.rows(history.features, cutoff + plan.chosen_days * DAY, plan.chosen_days, names)
        base = metrics.log_losses(np.full(len(rows), model.profile.base_rate[PRIMARY]), rows.log_return > 0).mean()

        def skill(p_up: Floats, rows: Rows = rows, base: float = base) -> float:
            return float(1 - metrics.log_losses(p_up, rows.log_return > 0).mean() / base)

        whole = skill(model.p_up(rows))
        sets = [[name] for name in names]
        sets += [[name for name in names if _GROUP[name] == group] for group in {_GROUP[name] for name in names}]
        for size in (2, 4, 8, 16, 32, 64):
            if size < len(names):
                sets += [list(rng.choice(names, size, replace=False)) for _ in range(plan.draws)]
        for lost in sets:
            taken = np.isin(names, lost)
            gone = Rows(rows.open_time, np.where(taken, np.nan, rows.inputs), rows.log_return, rows.names)
            everywhere = np.broadcast_to(taken, rows.inputs.shape)
            results.append(
                Loss(
                    weight=float(model.profile.weight[PRIMARY][taken].sum()),
                    nulls=skill(model.p_up(gone)),
                    medians=skill(model.p_up(gone, everywhere)),
                    whole=whole,
                )
            )
    return results


@dataclass(frozen=True)
class Quiet:
    """The results of the rules on unchanged bars.

    Attributes:
        hours: number of forecast hours.
        degraded: number of degraded hours.
        cutoffs: number of weekly cutoffs.
        gone: number of cutoffs at which an input is gone.
    """

    hours: int
    degraded: int
    cutoffs: int
    gone: int


def quiet(history: History) -> Quiet:
    """Apply the rules to the unchanged bars, week by week."""
    plan, features = history.plan, history.features
    end = plan.first + plan.stretches * plan.days * DAY
    hours = degraded = cutoffs = gone = 0
    cutoff = plan.chosen_first
    at = pl.col("open_time")
    while cutoff < end:
        names = history.known(features, cutoff)
        window = features.filter(at.is_between(midnight(cutoff - plan.window_days * DAY), midnight(cutoff), "left"))
        longest = missingness.longest_runs(window, names)
        week = features.filter(at.is_between(midnight(cutoff) - 2 * WEEK, midnight(cutoff) + WEEK, "left"))
        lost = (missingness.missing_runs(week, names) > longest)[(week["open_time"] >= midnight(cutoff)).to_numpy()]
        hours, degraded = hours + len(lost), degraded + int(lost.any(axis=1).sum())
        cutoffs, gone = cutoffs + 1, gone + bool(history.gone(features, cutoff))
        cutoff += WEEK
    return Quiet(hours, degraded, cutoffs, gone)


_GROUP = {feature.name: feature.group for feature in FEATURES}


def document(history: History) -> str:
    """Return the document."""
    plan = history.plan
    last = plan.first + plan.stretches * plan.days * DAY - DAY
    chosen_last = plan.chosen_first + plan.chosen * plan.chosen_days * DAY - DAY
    lines = [
        "# The cost of missing inputs",
        "",
        _prose(
            f"""Written by `python -m benchmarks.missing_inputs`; do not edit. Real BTCUSDT hours; models of 1 h with
            default parameters, windows of {plan.window_days} days, one seed ({plan.seed}), P(up) not calibrated and
            intervals not conformalised. Skill is the relative reduction of the log-loss against the share of rises in
            the champion's window. In brackets: 95 % intervals, corrected for autocorrelation. The rule is in
            [method.md](method.md#missing-inputs)."""
        ),
        "",
    ]
    calm = _timed("bars as they are", lambda: quiet(history))
    bands = _timed("lost inputs", lambda: losses(history))
    lines += _quiet_text(calm, plan, last)
    lines += _bands_text(bands, plan, chosen_last)
    for kind, columns in KINDS.items():
        outage = _timed(kind, partial(outages, history, columns, retrained=kind == RETRAINED))
        lines += _outage_text(kind, outage, plan, last)
    return "\n".join(lines)


def _quiet_text(calm: Quiet, plan: Plan, last: date) -> list[str]:
    text = f"""From {plan.chosen_first} to {last}, each week judged by the window before it:
        {calm.degraded:,} of {calm.hours:,} forecasts ({calm.degraded / calm.hours:.2%}) are degraded, all within a week
        of a gap in the bars or for an hour without trades. An input has no values at {calm.gone} of {calm.cutoffs}
        cutoffs, so the rules do not change the inputs of the models."""
    return ["## Bars as they are", "", _prose(text), ""]


def _bands_text(bands: Sequence[Loss], plan: Plan, last: date) -> list[str]:
    text = f"""{plan.chosen} models, {plan.chosen_first} to {last}, each over the {plan.chosen_days} days after its
        cutoff: single inputs, groups and random sets of 2 to 64 are removed in all of these hours. The weight is
        their share of the mean |SHAP value|. The base rate has a skill of 0, so it is the better answer where the
        remaining skill is negative: medians keep a positive skill up to a weight of about one half, and from
        {FALLBACK_WEIGHT:.0%} on the base rate answers."""
    headings = ("weight lost", "sets", "skill, complete", "skill, nulls", "skill, medians", "medians below 0")
    rows = []
    for low, high in pairwise(BANDS):
        in_band = [loss for loss in bands if low <= loss.weight < high]
        if in_band:
            cells = [
                float(np.mean([getattr(loss, name) for loss in in_band])) for name in ("whole", "nulls", "medians")
            ]
            below = np.mean([loss.medians < 0 for loss in in_band])
            shown = (f"{cell:.2%}" for cell in cells)
            rows.append((f"{low:.0%} to {min(high, 1):.0%}", len(in_band), *shown, f"{below:.0%}"))
    return ["## How many inputs may be missing", "", _prose(text), "", markdown_rows(headings, rows), ""]


def _outage_text(kind: str, outage: Outage, plan: Plan, last: date) -> list[str]:
    base = np.concatenate(outage.base)
    n_lost = sorted({n for n, _ in outage.lost})
    weights = [weight for _, weight in outage.lost]
    counted = " or ".join(map(str, n_lost))
    text = f"""{plan.stretches} stretches of {plan.days} days, {plan.first} to {last}, {len(base):,} hours: from a
        random hour of the first week on the columns are null to the end of the stretch. {counted} inputs are lost,
        {min(weights):.0%} to {max(weights):.0%} of the champion's weight. The first degraded forecast comes
        {_span(outage.marked_after)} h after the start; the first drift report that requests a training closes
        {_span(outage.requested_after)} h after it."""
    if outage.left_out_after:
        weeks = ", ".join(map(str, RETRAINED_AFTER_WEEKS))
        text += f""" Models are retrained {weeks} weeks after the cutoff before it; the first of them that leaves the
            inputs out is {_span(outage.left_out_after)} h after it."""
    headings = ("answered by", "log-loss skill", "against the champion with nulls, 0.0001 nats", "90 % interval holds")
    rows = []
    nulls = np.concatenate(outage.tallies[AS_IT_WAS].losses)
    for way, tally in outage.tallies.items():
        losses = np.concatenate(tally.losses)
        skill = metrics.mean(base - losses)
        gain = metrics.mean(nulls - losses)
        inside = f"{np.concatenate(tally.inside).mean():.1%}" if tally.inside else "-"
        versus = "-" if way == AS_IT_WAS else _interval(gain, 1e4, "{:+.1f}")
        rows.append((way, _interval(skill, 100 / base.mean(), "{:.2f} %"), versus, inside))
    return [f"## {kind}", "", _prose(text), "", markdown_rows(headings, rows), ""]


def _interval(estimate: metrics.Estimate, factor: float, shape: str) -> str:
    numbers = (estimate.value, estimate.lower, estimate.upper)
    value, low, high = ("-" if number is None else shape.format(factor * number) for number in numbers)
    return f"{value} ({low} to {high})"


def _span(hours: Sequence[float]) -> str:
    low, high = min(hours), max(hours)
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def _prose(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120)


def _timed(what: str, make: Callable[[], Result]) -> Result:
    start_time = time.process_time()
    made = make()
    print(f"{what}: {time.process_time() - start_time:.0f} s of CPU", file=sys.stderr, flush=True)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and print the document; return 1 if the settings name no bars."""
    description, _, notes = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.missing_inputs", description=description, epilog=notes)
    parser.add_argument("--out", type=Path, default=PROJECT_ROOT / "docs" / "missing_inputs.md")
    options = parser.parse_args(arguments)
    config = settings()
    if not config.market_files:
        print("BTC_MARKET_FILES must name the bars", file=sys.stderr)
        return 1
    plan, now = Plan(), datetime.now(tz=UTC)
    end = midnight(plan.first + plan.stretches * plan.days * DAY + DAY)
    bars = clean(FileSource(config.market_files).fetch(_EVER, end, now)).frame.sort("open_time")
    text = document(History(bars, plan))
    options.out.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
