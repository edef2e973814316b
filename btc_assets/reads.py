"""Restrict the reads of an asset to the tables and days that its step declares, and its own partitions in the run.

Assets get `Tables`, never the lake. `Tables.of(context)` resolves the edges of the step once, by the partition mappings
of the lineage, and refuses every other table and day. So a step cannot read more of the lake than the lineage shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl

from btc_assets.lake import Lake, LakeError
from btc_assets.partitions import DAILY, is_everything
from btc_assets.schema import Contract

_DAY = timedelta(days=1)

Days = tuple[date, date]
"""A span of days, both ends included."""


class UndeclaredReadError(LakeError):
    """An asset reads a table or a day that its step does not declare."""


class Tables:
    """The tables of the lake for an asset: readable through its declared edges only.

    It writes nothing: the output of an asset is written by the IO manager.
    """

    def __init__(self, lake: Lake) -> None:
        """Wrap the lake that holds the tables."""
        self._lake = lake

    def of(self, context: dg.AssetExecutionContext) -> DeclaredReads:
        """Return the declared reads of the step of this context."""
        return DeclaredReads(
            asset=" and ".join(sorted(key.to_user_string() for key in context.selected_asset_keys)),
            declared=declared_days(context),
            _lake=self._lake,
        )

    def locked(self, contract: Contract) -> AbstractContextManager[None]:
        """Lock a table until the block ends, see `Lake.locked`."""
        return self._lake.locked(contract)


@dataclass(frozen=True)
class DeclaredReads:
    """The reads of one step.

    Days before the start of the deployment's history are absent, except through an edge to all earlier partitions: if
    the start of the history is moved to a later day, its champion and its known texts stay.

    Attributes:
        asset: names of the step's assets, for messages.
        declared: the readable days of each table, in order.
    """

    asset: str
    declared: Mapping[str, Sequence[Days]]
    _lake: Lake

    def days(self, contract: Contract, first: date | None = None, last: date | None = None) -> list[date]:
        """Return the stored declared days with `first` <= day <= `last`, in order; without a bound all of them.

        Raises:
            UndeclaredReadError: the table, or a day of a bounded span, is not declared.
        """
        spans = self._spans(contract)
        if first is not None or last is not None:
            self._require_declared(contract, first or spans[0][0], last or spans[-1][1])
        stored = self._lake.days(contract, first, last or spans[-1][1])
        return [day for day in stored if any(span_first <= day <= span_last for span_first, span_last in spans)]

    def scan(self, contract: Contract, first: date | None = None, last: date | None = None) -> pl.LazyFrame:
        """Scan the declared days that are stored, with `first` <= day <= `last`; without a bound: all declared days.

        Raises:
            UndeclaredReadError: the table, or a day of a bounded span, is not declared.
        """
        return self._lake.scan_days(contract, self.days(contract, first, last))

    def scan_days(self, contract: Contract, days: Sequence[date]) -> pl.LazyFrame:
        """Scan exactly these days, those stored at least, in order.

        Raises:
            UndeclaredReadError: the table or one of the days is not declared.
        """
        return self._lake.scan_days(contract, [day for day in days if self._is_declared(contract, day)])

    def read(self, contract: Contract, day: date) -> pl.DataFrame | None:
        """Return one stored partition, or None.

        Raises:
            UndeclaredReadError: the table or the day is not declared.
        """
        return self._lake.read(contract, day) if self._is_declared(contract, day) else None

    def _spans(self, contract: Contract, first: date | None = None) -> Sequence[Days]:
        spans = self.declared.get(contract.table, ())
        if not spans:
            raise UndeclaredReadError(self._refusal(contract, str(first or "any day")))
        return spans

    def _is_declared(self, contract: Contract, day: date) -> bool:
        """Return whether a day may be read; refuse an undeclared day of the history, a day before it is absent."""
        self._require_declared(contract, day, day)
        return any(span_first <= day <= span_last for span_first, span_last in self._spans(contract))

    def _require_declared(self, contract: Contract, first: date, last: date) -> None:
        """Refuse a span with a day of the history that is not declared."""
        spans = self._spans(contract, first)
        day = max(first, min(DAILY.start.date(), spans[0][0]))
        for span_first, span_last in spans:
            day = span_last + _DAY if span_first <= day <= span_last else day
        if day <= last:
            raise UndeclaredReadError(self._refusal(contract, str(day)))

    def _refusal(self, contract: Contract, days: str) -> str:
        spans = self.declared.get(contract.table, ())
        named = ", ".join(_span_name(first, last) for first, last in spans)
        return (
            f"{self.asset} reads {contract.table} of {days}, which it does not declare "
            f"(declared of this table: {named or 'nothing'}); add the dependency and its mapping to the asset"
        )


def _span_name(first: date, last: date) -> str:
    if first == date.min:
        return f"everything to {last}"
    return f"{first} to {last}" if first != last else str(first)


def declared_days(context: dg.AssetExecutionContext) -> dict[str, Sequence[Days]]:
    """Return the readable days of each table: the partitions of the run and those that the step's edges map them to."""
    window = context.partition_time_window
    run_partitions = DAILY.get_partition_subset_in_time_window(window)
    now = datetime.now(tz=UTC)
    subsets: dict[str, Any] = {}
    from_the_beginning = set()
    for key in context.selected_asset_keys:
        table = key.to_user_string()
        subsets[table] = subsets[table] | run_partitions if table in subsets else run_partitions
        for dep in context.assets_def.get_asset_spec(key).deps:
            mapping = dep.partition_mapping or dg.TimeWindowPartitionMapping()
            mapped = mapping.get_upstream_mapped_partitions_result_for_partitions(
                run_partitions, DAILY, DAILY, current_time=now
            ).partitions_subset
            upstream = dep.asset_key.to_user_string()
            subsets[upstream] = subsets[upstream] | mapped if upstream in subsets else mapped
            if is_everything(mapping):
                from_the_beginning.add(upstream)
    first = window.start.date()
    return {table: _spans_of(subset, first, table in from_the_beginning) for table, subset in subsets.items()}


def _spans_of(subset: Any, first: date, from_the_beginning: bool) -> list[Days]:
    parts = sorted(subset.included_time_windows, key=lambda part: part.start)
    spans = [(part.start.date(), part.end.date() - _DAY) for part in parts]
    # An edge from the first day of the history maps to no day: it is declared, and empty.
    spans = spans or [(first, first - _DAY)]
    return [(date.min, spans[0][1]), *spans[1:]] if from_the_beginning else spans


def lake_resources(lake: Lake) -> dict[str, Any]:
    """Return the resources of a lake: `tables` for assets, `lake` for checks, sensors and jobs."""
    return {"io_manager": lake, "lake": lake, "tables": Tables(lake)}
