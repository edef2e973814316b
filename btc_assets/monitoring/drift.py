"""Have the inputs moved away from what the champion was trained on?

Hours follow each other: 168 hours of a slow feature are worth a handful of independent ones, and a test that counts
them all as new finds drift every week. Sample sizes here are those of independent draws that would carry as much
information; significance is judged over all features together, at a stated share of false discoveries; and a feature
counts as drifted only if the move is large as well. Moved inputs are a reason to look, not to act: what a forecast is
worth shows in its outcomes (`monitoring.degradation`).

Sources: Y. Benjamini, Y. Hochberg (1995), Controlling the false discovery rate; G. Zwiers, H. von Storch (1995), Taking
serial correlation into account in tests of the mean (effective sample size); population stability index as in credit
scoring, 0.2 being the usual mark of a large move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.contracts import DRIFT_REPORT

Floats = npt.NDArray[np.float64]

PSI_BOUND = 0.2
"""Population stability index from which a move counts as large."""
FALSE_DISCOVERIES = 0.05
"""Share of false discoveries accepted among the features called drifted."""
MISSING_BOUND = 0.1
"""Change of the share of unknown values from which a feature counts as gone or come."""
_BINS = 10
_LEAST = 24
"""Fewest known values on either side for a comparison."""
_EMPTY_BIN = 1e-4


@dataclass(frozen=True)
class FeatureDrift:
    """How one column moved.

    Attributes:
        name: of the column.
        psi: population stability index over deciles of the reference, unknown values as a bin of their own.
        wasserstein: distance of the distributions in standard deviations of the reference; None with too few values.
        ks: Kolmogorov-Smirnov statistic; None with too few values.
        p_value: of it, at effective sample sizes.
        q_value: least share of false discoveries at which it would be called drifted.
        missing_change: share of unknown values now less that of the reference.
        drifted: whether the move is both significant and large, or the column went missing or came back.
        n: known values now.
    """

    name: str
    psi: float
    wasserstein: float | None
    ks: float | None
    p_value: float | None
    q_value: float | None
    missing_change: float
    drifted: bool
    n: int


def memory(values: Floats) -> float:
    """Return the correlation of the ranks of neighbouring hours, no less than 0."""
    from scipy.stats import rankdata

    if len(values) < 3 or values.min() == values.max():
        return 0.0
    ranks = rankdata(values)
    return max(0.0, float(np.corrcoef(ranks[:-1], ranks[1:])[0, 1]))


def effective_size(hours: int, remembered: float) -> float:
    """Return how many independent draws carry as much information as so many hours: n (1 - r) / (1 + r).

    Args:
        hours: in time order.
        remembered: r, see `memory`.
    """
    return max(1.0, hours * (1 - remembered) / (1 + remembered))


def stability_index(reference: Floats, current: Floats) -> float:
    """Return the population stability index, NaN counted as a bin of its own.

    Args:
        reference: (n,) values, NaN where unknown.
        current: (m,) values, NaN where unknown.
    """
    known = reference[np.isfinite(reference)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(known) else np.empty(0)

    def shares(values: Floats) -> Floats:
        inside = values[np.isfinite(values)]
        counts = np.bincount(np.searchsorted(edges, inside, side="left"), minlength=len(edges) + 1)
        return np.maximum(np.append(counts, len(values) - len(inside)) / max(len(values), 1), _EMPTY_BIN)

    before, now = shares(reference), shares(current)
    return float(((now - before) * np.log(now / before)).sum())


def input_drift(reference: pl.DataFrame, current: pl.DataFrame, names: Sequence[str]) -> list[FeatureDrift]:
    """Compare columns now with their reference.

    Args:
        reference: rows in time order, one column a name; null where unknown.
        current: the same columns, in time order.
        names: columns to compare.

    Returns:
        One entry a column, in the order of `names`.
    """
    from scipy.stats import false_discovery_control, kstwobign, wasserstein_distance

    measured: list[tuple[str, float, float | None, float | None, float | None, float, int]] = []
    for name in names:
        before, now = (
            frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() for frame in (reference, current)
        )
        known_before, known_now = before[np.isfinite(before)], now[np.isfinite(now)]
        change = _missing(now) - _missing(before)
        psi = stability_index(before, now)
        if min(len(known_before), len(known_now)) < _LEAST:
            measured.append((name, psi, None, None, None, change, len(known_now)))
            continue
        spread = float(known_before.std())
        ks = _largest_gap(known_before, known_now)
        remembered = memory(known_before)  # a week is too short to show its own
        sizes = [effective_size(len(known), remembered) for known in (known_before, known_now)]
        p_value = float(kstwobign.sf(np.sqrt(sizes[0] * sizes[1] / (sizes[0] + sizes[1])) * ks))
        distance = float(wasserstein_distance(known_before, known_now)) / spread if spread > 0 else None
        measured.append((name, psi, distance, ks, p_value, change, len(known_now)))
    p_values = [p for *_, p, _, _ in measured if p is not None]
    q_values = iter(false_discovery_control(p_values) if p_values else [])
    found = []
    for name, psi, apart, gap, p, change, n in measured:
        q = float(next(q_values)) if p is not None else None
        moved = q is not None and q <= FALSE_DISCOVERIES and psi >= PSI_BOUND
        found.append(FeatureDrift(name, psi, apart, gap, p, q, change, moved or abs(change) >= MISSING_BOUND, n))
    return found


def drift_rows(found: Sequence[FeatureDrift], *, day: date, version: int, cutoff: date) -> pl.DataFrame:
    """Return DRIFT_REPORT rows of moved inputs.

    Args:
        found: the columns compared.
        day: last day of the stretch.
        version: registry version of the champion.
        cutoff: of the champion.
    """
    records = [
        {
            "day": day,
            "kind": "input",
            "subject": one.name,
            "measure": measure,
            "value": value,
            "bound": bound,
            "alarm": one.drifted,
            "n": one.n,
            "model_version": version,
            "model_cutoff": cutoff,
        }
        for one in found
        for measure, value, bound in (
            ("psi", one.psi, PSI_BOUND),
            ("wasserstein", one.wasserstein, None),
            ("ks", one.ks, None),
            ("ks_p_value", one.p_value, None),
            ("ks_q_value", one.q_value, FALSE_DISCOVERIES),
            ("missing_change", one.missing_change, MISSING_BOUND),
        )
    ]
    return pl.DataFrame(records, schema=DRIFT_REPORT.columns).sort(DRIFT_REPORT.key)


def markdown(found: Sequence[FeatureDrift], most: int = 20) -> str:
    """Return the columns that moved most as a Markdown table."""
    ranked = sorted(found, key=lambda one: (not one.drifted, 1.0 if one.q_value is None else one.q_value, -one.psi))
    lines = [
        "| column | drifted | PSI | Wasserstein (sd) | KS | q | change of unknown |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.name} | {'yes' if one.drifted else 'no'} | {one.psi:.2f} | {_shown(one.wasserstein)} "
        f"| {_shown(one.ks)} | {_shown(one.q_value)} | {one.missing_change:+.1%} |"
        for one in ranked[:most]
    ]
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _missing(values: Floats) -> float:
    return float(1 - np.isfinite(values).mean()) if len(values) else 0.0


def _largest_gap(one: Floats, other: Floats) -> float:
    """Return the largest distance between two empirical distribution functions."""
    points = np.concatenate([one, other])
    share_one = np.searchsorted(np.sort(one), points, side="right") / len(one)
    share_other = np.searchsorted(np.sort(other), points, side="right") / len(other)
    return float(np.abs(share_one - share_other).max())


def write_evidently(reference: pl.DataFrame, current: pl.DataFrame, names: Sequence[str], path: Path) -> None:
    """Write Evidently's own report of the same comparison as one HTML page.

    Its test is set to the population stability index at `PSI_BOUND`: the default one, a normed Wasserstein distance
    of 0.1, calls many hourly columns drifted that have not moved.

    Args:
        reference: rows in time order.
        current: rows in time order.
        names: columns to compare; those without a known value on a side are left out, as it cannot take them.
        path: of the page.
    """
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    known = [name for name in names if reference[name].count() and current[name].count()]
    definition = DataDefinition(numerical_columns=known)
    before, now = (
        Dataset.from_pandas(frame.select(pl.col(known).cast(pl.Float64)).to_pandas(), data_definition=definition)
        for frame in (reference, current)
    )
    report = Report([DataDriftPreset(num_method="psi", num_threshold=PSI_BOUND)])
    report.run(now, before).save_html(str(path))
