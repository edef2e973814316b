"""Measure the effect of a group of features: the same model on the same folds and seeds, with and without the group.

P(up) of one horizon is fitted for several sets of groups: each group alone, each with the base group, all groups, and
all but one. Compared sets are nested, so every comparison measures the effect of the added groups:

- a group alone against the base rate (the share of rises in the training hours of the fold): its own information;
- the base group and another against the base group: the information the other adds;
- all against the base group: the information the others add together;
- all against all but one: the information only this one has.

Both sides of a comparison are trained and evaluated on the same hours: those in which every compared group has values.
The columns of groups outside a set are null (see `_only`). A set is evaluated by its hourly log-loss averaged over
seeds. The difference of two sets is tested by Diebold & Mariano (1995) with a Newey-West variance, and the p-values of
all comparisons are corrected together (Holm, 1979). Only that p-value determines the verdict.

The paired t-test and Cohen's d over folds and seeds are reported too. The t-test is optimistic: the seeds of a fold
share its hours and expanding folds share most of their training rows, so there are fewer independent pairs than are
counted. It measures how stable a difference is between fits, not whether it recurs on other hours.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.evaluation import metrics, significance
from btc_assets.evaluation.significance import Floats
from btc_assets.features.catalog import FEATURES
from btc_assets.learning.families.protocol import Family, Fit, P, Parameters
from btc_assets.learning.folds import MIN_TRAIN_ROWS, NotEnoughHistoryError, Rows, split
from btc_assets.learning.tables import FEATURE_GROUP_STUDY
from btc_assets.learning.training import row_weights, run_parallel, up
from btc_assets.markdown import markdown_rows
from btc_assets.vocabulary import PRIMARY, display

BASE = "price"
"""The base group: all features built from bars."""
GROUPS_OF_BARS = ("price", "flow", "regime", "time")
"""Groups of the catalogue built from bars; the study treats them as one group."""
BASE_RATE = "base rate"
"""The benchmark of a group alone: the forecast of a model without features."""
MIN_SEEDS = 5
"""Minimum number of seeds, so that differences between seeds are not mistaken for differences between groups."""
MIN_TEST_HOURS = 24
"""Minimum number of test hours of a fold, after the hours without values of a group are removed."""
LEVEL = 0.05
"""Probability of any verdict other than `cannot tell` in a study if no group has an effect."""

Groups = tuple[str, ...]
"""Names of groups, the base first and the others by name. Empty for the base rate."""


class DifferentHoursError(ValueError):
    """Two sets of groups were evaluated on different hours and cannot be compared."""


@dataclass(frozen=True)
class SetForecasts:
    """Out-of-sample forecasts of one set of groups over all folds, oldest first.

    Attributes:
        groups: groups of the set.
        fold: fold of each hour, (n,).
        open_time: (n,) polars Datetime series, UTC.
        log_return: realised log return, fraction, (n,).
        seeds: of the fits.
        p_up: probability of a rise by seed, (seeds, n).
    """

    groups: Groups
    fold: npt.NDArray[np.int64]
    open_time: pl.Series
    log_return: Floats
    seeds: tuple[int, ...]
    p_up: Floats

    @property
    def losses(self) -> Floats:
        """Negative log-likelihood of each seed and hour, nats, (seeds, n)."""
        return metrics.log_losses(self.p_up, np.broadcast_to(self.log_return > 0, self.p_up.shape))

    @property
    def fold_losses(self) -> Floats:
        """Mean log-loss of each fold and seed, nats, (folds * seeds,), seeds next to each other."""
        losses = self.losses
        return np.concatenate([losses[:, self.fold == fold].mean(axis=1) for fold in np.unique(self.fold)])


@dataclass(frozen=True)
class Study:
    """The result of a study.

    Attributes:
        rows: FEATURE_GROUP_STUDY rows.
        notes: sentences about the used hours and groups and the verdict of each group.
    """

    rows: pl.DataFrame
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Sample:
    """The hours and groups of a study.

    Attributes:
        rows: labelled rows in which every group has values, with the features of these groups.
        folds: CV_FOLDS records, oldest first.
        columns: column indices of each group's features in `rows.inputs`, ascending.
        notes: sentences about omitted groups.
    """

    rows: Rows
    folds: list[dict[str, Any]]
    columns: dict[str, list[int]]
    notes: list[str]


def feature_groups(names: Iterable[str]) -> dict[str, Groups]:
    """Return features by group of the study: those built from bars as `price`, the others as in the catalogue.

    Args:
        names: names of features.

    Raises:
        ValueError: a name is not in the catalogue.
    """
    group_of = {feature.name: feature.group for feature in FEATURES}
    features_of: dict[str, Groups] = {}
    for name in names:
        if name not in group_of:
            raise ValueError(f"the catalogue declares no feature {name!r}")
        group = BASE if group_of[name] in GROUPS_OF_BARS else group_of[name]
        features_of[group] = (*features_of.get(group, ()), name)
    return features_of


def study_groups(
    family: Family[P],
    rows: Rows,
    folds: pl.DataFrame,
    groups: Mapping[str, Collection[str]],
    parameters: P,
    *,
    seeds: Sequence[int],
    threads: int,
    horizon: int = PRIMARY,
) -> Study:
    """Compare sets of feature groups on identical hours, folds and seeds; see the module docstring.

    Args:
        family: family of the models.
        rows: labelled rows of a cutoff's window, see `folds.labelled_rows`, with every feature of the groups.
        folds: CV_FOLDS rows of one cutoff; only those of `horizon` are used.
        groups: names of features by group, see `feature_groups`; their order does not matter.
        parameters: parameters of P(up), the same for every set.
        seeds: of the fits, at least `MIN_SEEDS` different ones.
        threads: fits at a time, one thread each.
        horizon: minutes ahead.

    Raises:
        NotEnoughHistoryError: no group has values in enough hours of every fold.
        ValueError: there are too few seeds, no folds or folds of several cutoffs; or the groups have a feature that
            the rows do not have, or a duplicated feature.
    """
    horizon_folds = folds.filter(pl.col("horizon_minutes") == horizon).sort("fold")
    _validate(rows, horizon_folds, groups, seeds)
    sample = _sample(rows, list(horizon_folds.iter_rows(named=True)), groups)
    pairs = comparisons(tuple(sample.columns))
    wanted = sorted({members for pair in pairs for members in pair if members}, key=_order)
    tasks = [(chosen, fold) for chosen in wanted for fold in sample.folds]

    def forecast(task: tuple[Groups, dict[str, Any]]) -> Floats:
        chosen, fold = task
        train, test = split(_only(sample, chosen), fold)
        weights, rose = row_weights(train, horizon, parameters.half_life_days), up(train)
        options = Fit(train.names)  # the same for every seed, so that they share the prepared rows
        fitted = [
            family.fit_direction(train.inputs, rose, weights, parameters, replace(options, seed=seed)) for seed in seeds
        ]
        return np.stack([output.predict(test.inputs) for output in fitted])

    made = run_parallel(forecast, tasks, threads)
    parts = {(chosen, fold["fold"]): p_up for (chosen, fold), p_up in zip(tasks, made, strict=True)}
    forecasts_of = {
        chosen: _set_forecasts(chosen, sample, [parts[chosen, fold["fold"]] for fold in sample.folds], seeds)
        for chosen in wanted
    }
    forecasts_of[()] = _set_forecasts((), sample, _base_rates(sample, parameters, horizon, len(seeds)), seeds)
    records = [compare(forecasts_of[ours], forecasts_of[theirs], horizon=horizon) for ours, theirs in pairs]
    corrected = significance.holm([record["dm_p_value"] for record in records])
    frame = pl.DataFrame(
        [
            {
                **record,
                "cutoff": horizon_folds["cutoff"][0],
                "horizon_minutes": horizon,
                "holm_p_value": p_value,
                "verdict": verdict(record["difference"], p_value),
            }
            for record, p_value in zip(records, corrected, strict=True)
        ],
        schema=FEATURE_GROUP_STUDY.columns,
    ).sort(FEATURE_GROUP_STUDY.key)
    return Study(frame, (*sample.notes, *_notes(frame, forecasts_of[wanted[0]], sample)))


def comparisons(groups: Iterable[str]) -> list[tuple[Groups, Groups]]:
    """Return the pairs (set, its benchmark set) of a study; the benchmark is a subset of the set.

    The base rate is the empty set. Without the base group, each group is compared with the base rate, and all groups
    with all but one.
    """
    whole = tuple(sorted(groups, key=_rank))
    pairs: list[tuple[Groups, Groups]] = [((group,), ()) for group in whole]
    if BASE in whole:
        pairs += [((BASE, group), (BASE,)) for group in whole if group != BASE]
        pairs.append((whole, (BASE,)))
    pairs += [(whole, tuple(group for group in whole if group != left_out)) for left_out in whole]
    return [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1]]


def compare(ours: SetForecasts, theirs: SetForecasts, *, horizon: int) -> dict[str, Any]:
    """Compare two sets on the same hours and seeds.

    Returns:
        The columns of FEATURE_GROUP_STUDY that depend on this pair only: all but cutoff, horizon_minutes, holm_p_value
        and verdict.

    Raises:
        DifferentHoursError: the hours, folds, outcomes or seeds of the sets differ.
    """
    _require_same_hours(ours, theirs)
    losses, others = ours.losses.mean(axis=0), theirs.losses.mean(axis=0)
    difference = significance.diebold_mariano(losses, others, horizon=horizon)
    lower, upper = difference.interval()
    paired = significance.paired_folds(ours.fold_losses, theirs.fold_losses)
    areas = [metrics.auc(p_up, ours.log_return).value for p_up in ours.p_up]
    return {
        "groups": label(ours.groups),
        "against": label(theirs.groups),
        "log_loss": float(losses.mean()),
        "log_loss_against": float(others.mean()),
        "difference": difference.value,
        "lower": lower,
        "upper": upper,
        "accuracy": float(np.mean([metrics.accuracy(p_up, ours.log_return).value for p_up in ours.p_up])),
        "auc": None if None in areas else float(np.mean(np.array(areas, dtype=np.float64))),
        "t_p_value": paired.p_value,
        "dm_p_value": difference.p_value(),
        "cohens_d": paired.effect,
        "n": len(losses),
        "folds": len(np.unique(ours.fold)),
        "seeds": len(ours.seeds),
    }


def verdict(difference: float, holm_p_value: float | None) -> str:
    """Return the verdict on the added groups: helps, hurts or cannot tell."""
    if holm_p_value is None or holm_p_value >= LEVEL:
        return "cannot tell"
    return "helps" if difference < 0 else "hurts"


def label(groups: Groups) -> str:
    """Return the name of a set of groups in the tables."""
    return "+".join(groups) or BASE_RATE


# --- hours and groups ------------------------------------------------------------------------------
def _validate(rows: Rows, folds: pl.DataFrame, groups: Mapping[str, Collection[str]], seeds: Sequence[int]) -> None:
    if len(set(seeds)) < max(MIN_SEEDS, len(seeds)):
        raise ValueError(f"a study needs at least {MIN_SEEDS} different seeds, got {list(seeds)}")
    if folds.is_empty() or folds["cutoff"].n_unique() > 1:
        cutoffs = folds["cutoff"].unique().sort().to_list()
        raise ValueError(f"a study needs the folds of one cutoff, got those of {[str(day) for day in cutoffs]}")
    names = [name for members in groups.values() for name in members]
    if unknown := sorted(set(names) - set(rows.names)):
        raise ValueError(f"the rows have no feature {', '.join(unknown)}")
    if duplicated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"a feature belongs to one group, but {', '.join(duplicated)} is in two")


def _sample(rows: Rows, folds: list[dict[str, Any]], groups: Mapping[str, Collection[str]]) -> _Sample:
    """Select the groups with enough values, and the hours in which all of them have values.

    The base is added first, then the groups with the most hours; a group is added if every fold keeps enough training
    and test hours.
    """
    inside = np.zeros(len(rows), dtype=bool)
    for fold in folds:
        for first, last in ((fold["train_start"], fold["train_end"]), (fold["test_start"], fold["test_end"])):
            inside |= ((rows.open_time >= first) & (rows.open_time <= last)).to_numpy()
    known = np.isfinite(rows.inputs)
    columns = {
        group: [place for place, name in enumerate(rows.names) if name in set(members) and known[inside, place].any()]
        for group, members in groups.items()
    }
    hours = {group: known[:, places].any(axis=1) & inside for group, places in columns.items()}
    kept: list[str] = []
    used, notes = inside, list[str]()
    for group in sorted(groups, key=lambda name: (name != BASE, -int(hours[name].sum()), name)):
        if not hours[group].any():
            notes.append(f"{group} is left out: it has no values in the window.")
        elif short := _too_short(rows, folds, used & hours[group]):
            together = f" together with {' and '.join(kept)}" if kept else ""
            notes.append(f"{group} is left out: {short} in which it has values{together}.")
        else:
            kept.append(group)
            used = used & hours[group]
    if not kept:
        raise NotEnoughHistoryError(
            f"the study has no usable group: {' '.join(notes) or 'none was given.'} Materialise the features of the "
            "window first"
        )
    names = sorted(kept, key=_rank)
    share = (
        f"Every set is trained and tested on the same {used.sum():,} of {inside.sum():,} labelled hours of the folds, "
        f"in which {_listed(names)} {'has' if len(names) == 1 else 'all have'} values."
    )
    places = sorted(place for group in names for place in columns[group])
    within = Rows(
        rows.open_time.filter(pl.Series(used)),
        rows.inputs[used][:, places],
        rows.log_return[used],
        tuple(rows.names[place] for place in places),
    )
    columns_within = {group: [places.index(place) for place in columns[group]] for group in names}
    return _Sample(within, folds, columns_within, [share, *notes])


def _too_short(rows: Rows, folds: list[dict[str, Any]], used: npt.NDArray[np.bool_]) -> str:
    """Describe the fold that would have too few hours; empty if every fold has enough."""
    kept = Rows(rows.open_time.filter(pl.Series(used)), rows.inputs[used][:, :0], rows.log_return[used], ())
    for fold in folds:
        train, test = split(kept, fold)
        if len(train) < MIN_TRAIN_ROWS or len(test) < MIN_TEST_HOURS:
            return (
                f"fold {fold['fold']} needs {MIN_TRAIN_ROWS} training hours and {MIN_TEST_HOURS} test hours, and has "
                f"{len(train)} and {len(test)}"
            )
    return ""


def _only(sample: _Sample, chosen: Groups) -> Rows:
    """Return the rows for a set of groups: all columns, with null columns for the other groups.

    If the columns were removed instead, trees that sample a share of the columns would sample a different number of the
    remaining ones, and noise could help through that alone. With null columns, each column has the same probability in
    every set, and with the same seed the same trees sample it.
    """
    inputs = np.full_like(sample.rows.inputs, np.nan)
    columns = [place for group in chosen for place in sample.columns[group]]
    inputs[:, columns] = sample.rows.inputs[:, columns]
    return replace(sample.rows, inputs=inputs)


# --- forecasts -------------------------------------------------------------------------------------
def _set_forecasts(chosen: Groups, sample: _Sample, parts: Sequence[Floats], seeds: Sequence[int]) -> SetForecasts:
    """Combine the forecasts of a set's folds, (seeds, n) each, with the outcomes."""
    tests = [split(sample.rows, fold)[1] for fold in sample.folds]
    return SetForecasts(
        groups=chosen,
        fold=np.concatenate([np.full(len(t), f["fold"]) for f, t in zip(sample.folds, tests, strict=True)]),
        open_time=pl.concat([test.open_time for test in tests]),
        log_return=np.concatenate([test.log_return for test in tests]),
        seeds=tuple(seeds),
        p_up=np.concatenate(parts, axis=1),
    )


def _base_rates(sample: _Sample, parameters: Parameters, horizon: int, seeds: int) -> list[Floats]:
    """Return the forecasts of a model without features per fold, (seeds, n): the weighted share of earlier rises."""
    rates = []
    for fold in sample.folds:
        train, test = split(sample.rows, fold)
        rate = np.average(up(train), weights=row_weights(train, horizon, parameters.half_life_days))
        rates.append(np.full((seeds, len(test)), rate))
    return rates


def _require_same_hours(ours: SetForecasts, theirs: SetForecasts) -> None:
    same = (
        ours.open_time.equals(theirs.open_time)
        and np.array_equal(ours.fold, theirs.fold)
        and np.array_equal(ours.log_return, theirs.log_return)
        and ours.seeds == theirs.seeds
        and ours.p_up.shape == theirs.p_up.shape == (len(ours.seeds), len(ours.open_time))
    )
    if not same:
        raise DifferentHoursError(
            f"{label(ours.groups)} was evaluated on {len(ours.open_time):,} hours and {len(ours.seeds)} seeds and "
            f"{label(theirs.groups)} on {len(theirs.open_time):,} and {len(theirs.seeds)}, and the hours, folds or "
            "seeds differ; only forecasts of the same hours can be compared"
        )


# --- presentation -----------------------------------------------------------------------------------
def as_markdown(rows: pl.DataFrame) -> str:
    """Return a study as a Markdown table with one comparison per row; differences are in thousandths of a nat.

    Args:
        rows: FEATURE_GROUP_STUDY rows of one cutoff and horizon.
    """
    lines = [
        (
            "+".join(_added(row)),
            row["groups"],
            row["against"],
            _difference(row),
            f"{row['log_loss']:.5f}",
            f"{row['accuracy']:.2%}",
            _format(row["auc"], ".4f"),
            *(_format(row[name], ".2g") for name in ("dm_p_value", "holm_p_value", "t_p_value")),
            _format(row["cohens_d"], ".2f"),
            row["verdict"],
        )
        for row in _in_order(rows)
    ]
    return markdown_rows(("effect of", *_HEADINGS, "verdict"), lines)


def plot(rows: pl.DataFrame) -> bytes:
    """Plot each comparison's log-loss difference with its 95 % interval as a small PNG; negative is better.

    Args:
        rows: FEATURE_GROUP_STUDY rows of one cutoff and horizon.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ordered = _in_order(rows)
    colours = {"helps": "tab:green", "hurts": "tab:red", "cannot tell": "tab:grey"}
    figure = Figure(figsize=(7.0, 1.2 + 0.28 * len(ordered)), dpi=80, layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(reversed(ordered)):
        middle = row["difference"]
        ends = [middle if row[end] is None else row[end] for end in ("lower", "upper")]
        axes.plot(np.array(ends) * 1e3, [place, place], color=colours[row["verdict"]], linewidth=2)
        axes.plot([middle * 1e3], [place], "o", color=colours[row["verdict"]], markersize=4)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(ordered)), [f"{row['groups']} against {row['against']}" for row in reversed(ordered)])
    axes.set_xlabel("difference of log-loss, 0.001 nats; left of 0 is better", fontsize=8)
    horizon = display(ordered[0]["horizon_minutes"])
    axes.set_title(f"Effect of feature groups, {horizon}, n = {ordered[0]['n']:,}", fontsize=9)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _notes(frame: pl.DataFrame, forecasts: SetForecasts, sample: _Sample) -> list[str]:
    """Return sentences about the evaluated hours and the verdict of each group."""
    trained = [len(split(sample.rows, fold)[0]) for fold in sample.folds]
    purge = min(fold["purge_hours"] for fold in sample.folds)
    notes = [
        (
            f"Every set was fitted with seeds {_listed(map(str, forecasts.seeds))} on {len(sample.folds)} folds of "
            f"{min(trained):,} to {max(trained):,} hours, purged by {purge} h, and evaluated on the same "
            f"{len(forecasts.open_time):,} hours from {forecasts.open_time[0]:%Y-%m-%d} to "
            f"{forecasts.open_time[-1]:%Y-%m-%d}."
        )
    ]
    ordered = _in_order(frame)
    for group in sample.columns:
        verdicts = [
            f"{row['verdict']} ({row['groups']} against {row['against']}: {_difference(row)})"
            for row in ordered
            if _added(row) == [group]
        ]
        notes.append(f"{group}: {'; '.join(verdicts)}, in thousandths of a nat, below 0 is better.")
    return notes


def _in_order(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the comparisons in order: alone, added to the base, all, and all but one."""
    return sorted(
        rows.iter_rows(named=True),
        key=lambda row: (_order(_groups(row["against"])), _order(_groups(row["groups"]))),
    )


def _groups(named: str) -> Groups:
    return () if named == BASE_RATE else tuple(named.split("+"))


def _added(row: Mapping[str, Any]) -> list[str]:
    """Return the groups whose effect a comparison measures: those that the benchmark lacks."""
    against = _groups(row["against"])
    return [group for group in _groups(row["groups"]) if group not in against]


def _difference(row: Mapping[str, Any]) -> str:
    middle = _thousandths(row["difference"])
    if row["lower"] is None or row["upper"] is None:
        return middle
    return f"{middle} ({_thousandths(row['lower'])} to {_thousandths(row['upper'])})"


def _thousandths(nats: float) -> str:
    return f"{round(nats * 1e3, 2) + 0.0:+.2f}"  # + 0.0 avoids -0.00


def _format(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _rank(group: str) -> tuple[bool, str]:
    return group != BASE, group


def _order(groups: Groups) -> tuple[int, list[tuple[bool, str]]]:
    return len(groups), [_rank(group) for group in groups]


_HEADINGS = (
    "groups",
    "against",
    "difference, 0.001 nats",
    "log-loss",
    "accuracy",
    "AUC",
    "DM p",
    "Holm p",
    "t p",
    "Cohen's d",
)
