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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.learning.missingness import LEAST_GONE_HOURS
from btc_assets.markdown import markdown_rows
from btc_assets.monitoring.tables import DRIFT_REPORT

Floats = npt.NDArray[np.float64]

PSI_BOUND = 0.2
"""Population stability index from which a move counts as large."""
FALSE_DISCOVERIES = 0.05
"""Share of false discoveries accepted among the features called drifted."""
MISSING_BOUND = 0.1
"""Change of the share of unknown values from which a feature counts as gone or come."""
INPUTS_KNOWN = "inputs_known"
"""The promise that no input is missing beyond what the champion saw in training."""
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


@dataclass(frozen=True)
class Reference:
    """What a column was: all that a comparison with it needs, worked out once for many.

    Attributes:
        name: of the column.
        known: its known values, sorted.
        edges: of the bins of the population stability index.
        shares: of its values in each bin, the unknown ones last.
        missing: share of unknown values.
        spread: standard deviation of the known values.
        memory: see `memory`.
    """

    name: str
    known: Floats
    edges: Floats
    shares: Floats
    missing: float
    spread: float
    memory: float

    @classmethod
    def of(cls, name: str, values: Floats) -> Reference:
        """Work it out for values in time order, NaN where unknown."""
        known = values[np.isfinite(values)]
        edges = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(known) else np.empty(0)
        return cls(
            name=name,
            known=np.sort(known),
            edges=edges,
            shares=_shares(values, edges),
            missing=_missing(values),
            spread=float(known.std()) if len(known) else 0.0,
            memory=memory(known),
        )

    def stability_index(self, current: Floats) -> float:
        """Return the population stability index of values now, NaN counted as a bin of its own."""
        now = _shares(current, self.edges)
        return float(((now - self.shares) * np.log(now / self.shares)).sum())

    def compared(self, current: Floats) -> FeatureDrift:
        """Measure how far values now have moved; whether they drifted rests on all columns, see `judged`.

        Args:
            current: values in time order, NaN where unknown.
        """
        from scipy.stats import kstwobign, wasserstein_distance

        now = current[np.isfinite(current)]
        psi, change, n = self.stability_index(current), _missing(current) - self.missing, len(now)
        if min(len(self.known), n) < _LEAST:
            return FeatureDrift(self.name, psi, None, None, None, None, change, drifted=False, n=n)
        ks = _largest_gap(self.known, np.sort(now))
        # A week is too short to show its own memory.
        sizes = [effective_size(hours, self.memory) for hours in (len(self.known), n)]
        p_value = float(kstwobign.sf(np.sqrt(sizes[0] * sizes[1] / (sizes[0] + sizes[1])) * ks))
        distance = float(wasserstein_distance(self.known, now)) / self.spread if self.spread > 0 else None
        return FeatureDrift(self.name, psi, distance, ks, p_value, None, change, drifted=False, n=n)


def input_drift(reference: pl.DataFrame, current: pl.DataFrame, names: Sequence[str]) -> list[FeatureDrift]:
    """Compare columns now with their reference.

    Args:
        reference: rows in time order, one column a name; null where unknown.
        current: the same columns, in time order.
        names: columns to compare.

    Returns:
        One entry a column, in the order of `names`.
    """
    return judged([Reference.of(name, values_of(reference, name)).compared(values_of(current, name)) for name in names])


def values_of(frame: pl.DataFrame, name: str) -> Floats:
    """Return a column as numbers, NaN where it is null."""
    return frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()


def judged(found: Sequence[FeatureDrift]) -> list[FeatureDrift]:
    """Say of each of the columns measured whether it drifted, at `FALSE_DISCOVERIES` over all of them."""
    from scipy.stats import false_discovery_control

    p_values = [one.p_value for one in found if one.p_value is not None]
    q_values = iter(false_discovery_control(p_values) if p_values else [])
    verdicts = []
    for one in found:
        q = float(next(q_values)) if one.p_value is not None else None
        moved = q is not None and q <= FALSE_DISCOVERIES and one.psi >= PSI_BOUND
        verdicts.append(replace(one, q_value=q, drifted=moved or abs(one.missing_change) >= MISSING_BOUND))
    return verdicts


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


def lost_rows(hours: Mapping[str, int], *, n: int, day: date, version: int, cutoff: date) -> pl.DataFrame:
    """Return DRIFT_REPORT rows of lost inputs: each of them, and whether the promise that inputs are known is broken.

    Args:
        hours: of each lost input, the hours it was lost in, see `missingness.hours_lost`.
        n: hours looked at.
        day: last day of the stretch.
        version: registry version of the champion.
        cutoff: of the champion.
    """
    most = max(hours.values(), default=0)
    lines = [("input", name, "lost_hours", lost) for name, lost in hours.items()]
    records = [
        {
            "day": day,
            "kind": kind,
            "subject": subject,
            "measure": measure,
            "value": float(value),
            "bound": float(LEAST_GONE_HOURS),
            "alarm": value > LEAST_GONE_HOURS,
            "n": n,
            "model_version": version,
            "model_cutoff": cutoff,
        }
        for kind, subject, measure, value in [*lines, ("concept", INPUTS_KNOWN, "lost_hours", most)]
    ]
    return pl.DataFrame(records, schema=DRIFT_REPORT.columns).sort(DRIFT_REPORT.key)


def markdown(found: Sequence[FeatureDrift], most: int = 20) -> str:
    """Return the columns that moved most as a Markdown table."""
    ranked = sorted(found, key=lambda one: (not one.drifted, 1.0 if one.q_value is None else one.q_value, -one.psi))
    return markdown_rows(
        ("column", "drifted", "PSI", "Wasserstein (sd)", "KS", "q", "change of unknown"),
        (
            (
                one.name,
                "yes" if one.drifted else "no",
                f"{one.psi:.2f}",
                *map(_shown, (one.wasserstein, one.ks, one.q_value)),
                f"{one.missing_change:+.1%}",
            )
            for one in ranked[:most]
        ),
    )


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _missing(values: Floats) -> float:
    return float(1 - np.isfinite(values).mean()) if len(values) else 0.0


def _shares(values: Floats, edges: Floats) -> Floats:
    """Return the share of values in each bin, the unknown ones last; no bin is quite empty."""
    inside = values[np.isfinite(values)]
    counts = np.bincount(np.searchsorted(edges, inside, side="left"), minlength=len(edges) + 1)
    return np.maximum(np.append(counts, len(values) - len(inside)) / max(len(values), 1), _EMPTY_BIN)


def _largest_gap(one: Floats, other: Floats) -> float:
    """Return the largest distance between two empirical distribution functions.

    Between two values of `other` its function is level and that of `one` rises: the gap is largest at their ends.

    Args:
        one: sorted.
        other: sorted.
    """
    at, below = (np.searchsorted(one, other, side=side) / len(one) for side in ("right", "left"))
    own_at, own_below = (np.searchsorted(other, other, side=side) / len(other) for side in ("right", "left"))
    return float(max(np.abs(at - own_at).max(), np.abs(below - own_below).max()))


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
