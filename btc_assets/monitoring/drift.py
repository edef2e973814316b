"""Detect drift of the inputs away from the champion's training window.

Hours are autocorrelated: 168 hours of a slow feature carry as much information as a few independent ones, and a test
that treats them as independent finds drift every week. The tests here use effective sample sizes and control the false
discovery rate over all features, and a feature counts as drifted only if the change is also large. Drifted inputs are a
reason to investigate, not to act: the quality of a forecast shows in its outcomes (`monitoring.degradation`).

Sources: Y. Benjamini, Y. Hochberg (1995), Controlling the false discovery rate; G. Zwiers, H. von Storch (1995), Taking
serial correlation into account in tests of the mean (effective sample size); population stability index as in credit
scoring, where 0.2 is the usual bound of a large change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.learning.missingness import MAX_LOST_HOURS
from btc_assets.markdown import markdown_rows
from btc_assets.monitoring.tables import DRIFT_REPORT

Floats = npt.NDArray[np.float64]

PSI_BOUND = 0.2
"""Population stability index from which a change counts as large."""
FALSE_DISCOVERIES = 0.05
"""Accepted false discovery rate among the drifted features."""
MISSING_BOUND = 0.1
"""Change of the share of unknown values from which a feature counts as drifted."""
INPUTS_KNOWN = "inputs_known"
"""The promise that no input is missing more than in the champion's training."""
_BINS = 10
_MIN_VALUES = 24
"""Minimum number of known values on each side of a comparison."""
_MIN_SHARE = 1e-4


@dataclass(frozen=True)
class FeatureDrift:
    """The drift of one column.

    Attributes:
        name: of the column.
        psi: population stability index over deciles of the reference, with unknown values as an extra bin.
        wasserstein: Wasserstein distance in standard deviations of the reference; None for too few values.
        ks: Kolmogorov-Smirnov statistic; None for too few values.
        p_value: p-value of `ks` at effective sample sizes.
        q_value: smallest false discovery rate at which the change is significant.
        missing_change: current share of unknown values minus that of the reference.
        drifted: whether the change is significant and large, or the share of unknown values changed.
        n: number of known current values.
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


def rank_autocorrelation(values: Floats) -> float:
    """Return the lag-1 rank autocorrelation, at least 0."""
    from scipy.stats import rankdata

    if len(values) < 3 or values.min() == values.max():
        return 0.0
    ranks = rankdata(values)
    return max(0.0, float(np.corrcoef(ranks[:-1], ranks[1:])[0, 1]))


def effective_size(hours: int, autocorrelation: float) -> float:
    """Return the effective sample size n (1 - r) / (1 + r) of autocorrelated hours.

    Args:
        hours: number of hours, n.
        autocorrelation: r, see `rank_autocorrelation`.
    """
    return max(1.0, hours * (1 - autocorrelation) / (1 + autocorrelation))


@dataclass(frozen=True)
class Reference:
    """The reference distribution of a column, precomputed for many comparisons.

    Attributes:
        name: of the column.
        known: known values, sorted.
        edges: bin edges of the population stability index.
        shares: share of values in each bin, unknown values last.
        missing: share of unknown values.
        spread: standard deviation of the known values.
        autocorrelation: see `rank_autocorrelation`.
    """

    name: str
    known: Floats
    edges: Floats
    shares: Floats
    missing: float
    spread: float
    autocorrelation: float

    @classmethod
    def of(cls, name: str, values: Floats) -> Reference:
        """Build the reference from values in time order, NaN where unknown."""
        known = values[np.isfinite(values)]
        edges = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(known) else np.empty(0)
        return cls(
            name=name,
            known=np.sort(known),
            edges=edges,
            shares=_shares(values, edges),
            missing=_missing(values),
            spread=float(known.std()) if len(known) else 0.0,
            autocorrelation=rank_autocorrelation(known),
        )

    def stability_index(self, current: Floats) -> float:
        """Return the population stability index of current values, with NaN as an extra bin."""
        now = _shares(current, self.edges)
        return float(((now - self.shares) * np.log(now / self.shares)).sum())

    def compare(self, current: Floats) -> FeatureDrift:
        """Measure the drift of current values; `flag_drifted` decides over all columns whether they drifted.

        Args:
            current: values in time order, NaN where unknown.
        """
        from scipy.stats import kstwobign, wasserstein_distance

        now = current[np.isfinite(current)]
        psi, change, n = self.stability_index(current), _missing(current) - self.missing, len(now)
        if min(len(self.known), n) < _MIN_VALUES:
            return FeatureDrift(self.name, psi, None, None, None, None, change, drifted=False, n=n)
        ks = _largest_gap(self.known, np.sort(now))
        # A week is too short to estimate its own autocorrelation.
        sizes = [effective_size(hours, self.autocorrelation) for hours in (len(self.known), n)]
        p_value = float(kstwobign.sf(np.sqrt(sizes[0] * sizes[1] / (sizes[0] + sizes[1])) * ks))
        distance = float(wasserstein_distance(self.known, now)) / self.spread if self.spread > 0 else None
        return FeatureDrift(self.name, psi, distance, ks, p_value, None, change, drifted=False, n=n)


def input_drift(reference: pl.DataFrame, current: pl.DataFrame, names: Sequence[str]) -> list[FeatureDrift]:
    """Compare current columns with their reference.

    Args:
        reference: rows in time order with a column per name; null where unknown.
        current: the same columns, in time order.
        names: columns to compare.

    Returns:
        One entry per column, in the order of `names`.
    """
    return flag_drifted(
        [Reference.of(name, values_of(reference, name)).compare(values_of(current, name)) for name in names]
    )


def values_of(frame: pl.DataFrame, name: str) -> Floats:
    """Return a column as floats, NaN where it is null."""
    return frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()


def flag_drifted(columns: Sequence[FeatureDrift]) -> list[FeatureDrift]:
    """Set `q_value` and `drifted` of each column, at a false discovery rate of `FALSE_DISCOVERIES` over all columns."""
    from scipy.stats import false_discovery_control

    p_values = [column.p_value for column in columns if column.p_value is not None]
    q_values = iter(false_discovery_control(p_values) if p_values else [])
    verdicts = []
    for column in columns:
        q = float(next(q_values)) if column.p_value is not None else None
        moved = q is not None and q <= FALSE_DISCOVERIES and column.psi >= PSI_BOUND
        verdicts.append(replace(column, q_value=q, drifted=moved or abs(column.missing_change) >= MISSING_BOUND))
    return verdicts


def drift_rows(columns: Sequence[FeatureDrift], *, day: date, version: int, cutoff: date) -> pl.DataFrame:
    """Return DRIFT_REPORT rows of the compared inputs.

    Args:
        columns: the compared columns.
        day: last day of the stretch.
        version: registry version of the champion.
        cutoff: of the champion.
    """
    records = [
        {
            "day": day,
            "kind": "input",
            "subject": column.name,
            "measure": measure,
            "value": value,
            "bound": bound,
            "alarm": column.drifted,
            "n": column.n,
            "model_version": version,
            "model_cutoff": cutoff,
        }
        for column in columns
        for measure, value, bound in (
            ("psi", column.psi, PSI_BOUND),
            ("wasserstein", column.wasserstein, None),
            ("ks", column.ks, None),
            ("ks_p_value", column.p_value, None),
            ("ks_q_value", column.q_value, FALSE_DISCOVERIES),
            ("missing_change", column.missing_change, MISSING_BOUND),
        )
    ]
    return pl.DataFrame(records, schema=DRIFT_REPORT.columns).sort(DRIFT_REPORT.key)


def lost_rows(hours: Mapping[str, int], *, n: int, day: date, version: int, cutoff: date) -> pl.DataFrame:
    """Return DRIFT_REPORT rows of lost inputs, one per input and one for the promise that inputs are known.

    Args:
        hours: hours in which each lost input was lost, see `missingness.hours_lost`.
        n: number of hours examined.
        day: last day of the stretch.
        version: registry version of the champion.
        cutoff: of the champion.
    """
    limit = max(hours.values(), default=0)
    lines = [("input", name, "lost_hours", lost) for name, lost in hours.items()]
    records = [
        {
            "day": day,
            "kind": kind,
            "subject": subject,
            "measure": measure,
            "value": float(value),
            "bound": float(MAX_LOST_HOURS),
            "alarm": value > MAX_LOST_HOURS,
            "n": n,
            "model_version": version,
            "model_cutoff": cutoff,
        }
        for kind, subject, measure, value in [*lines, ("concept", INPUTS_KNOWN, "lost_hours", limit)]
    ]
    return pl.DataFrame(records, schema=DRIFT_REPORT.columns).sort(DRIFT_REPORT.key)


def markdown(columns: Sequence[FeatureDrift], limit: int = 20) -> str:
    """Return the columns with the largest drift as a Markdown table."""
    ranked = sorted(
        columns, key=lambda column: (not column.drifted, 1.0 if column.q_value is None else column.q_value, -column.psi)
    )
    return markdown_rows(
        ("column", "drifted", "PSI", "Wasserstein (sd)", "KS", "q", "change of unknown"),
        (
            (
                column.name,
                "yes" if column.drifted else "no",
                f"{column.psi:.2f}",
                *map(_format, (column.wasserstein, column.ks, column.q_value)),
                f"{column.missing_change:+.1%}",
            )
            for column in ranked[:limit]
        ),
    )


def _format(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _missing(values: Floats) -> float:
    return float(1 - np.isfinite(values).mean()) if len(values) else 0.0


def _shares(values: Floats, edges: Floats) -> Floats:
    """Return the share of values in each bin, unknown values last; each share is at least `_MIN_SHARE`."""
    inside = values[np.isfinite(values)]
    counts = np.bincount(np.searchsorted(edges, inside, side="left"), minlength=len(edges) + 1)
    return np.maximum(np.append(counts, len(values) - len(inside)) / max(len(values), 1), _MIN_SHARE)


def _largest_gap(first: Floats, second: Floats) -> float:
    """Return the largest distance between two empirical distribution functions.

    Between two values of `second` its function is constant and that of `first` is non-decreasing, so the largest
    distance is at a value of `second`, from the left or the right.

    Args:
        first: sorted values.
        second: sorted values.
    """
    first_at, first_below = (np.searchsorted(first, second, side=side) / len(first) for side in ("right", "left"))
    second_at, second_below = (np.searchsorted(second, second, side=side) / len(second) for side in ("right", "left"))
    return float(max(np.abs(first_at - second_at).max(), np.abs(first_below - second_below).max()))


def write_evidently(reference: pl.DataFrame, current: pl.DataFrame, names: Sequence[str], path: Path) -> None:
    """Write Evidently's report of the same comparison as one HTML page.

    The report uses the population stability index at `PSI_BOUND`: Evidently's default, a normed Wasserstein distance of
    0.1, reports drift for many hourly columns that have not changed.

    Args:
        reference: rows in time order.
        current: rows in time order.
        names: columns to compare; Evidently cannot compare a column without known values, so it is left out.
        path: output file.
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
