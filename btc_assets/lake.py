"""The lake: one Parquet file per table and day, written atomically and read lazily.

    <root>/<domain>/<table>/day=YYYY-MM-DD/part.parquet

The root is a folder or an object-store URL. A local write goes to a temporary file and is renamed, so a reader sees the
old partition or the new one, and a killed process leaves no partial partition.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, Protocol

import dagster as dg
import polars as pl
from dagster._core.execution.context.metadata_logging import AssetMetadataHandle, OutputMetadataAccumulator
from upath import UPath

from btc_assets.digest import digests
from btc_assets.partitions import day_of, key_of
from btc_assets.schema import CONTRACTS, Contract, column_schema

_DAY = timedelta(days=1)
_DAY_FOLDER = re.compile(r"^day=(\d{4}-\d{2}-\d{2})$")
PART = "part.parquet"
REPLACES = "replaces_stored_rows"
"""Metadata of an output of an append-only table that replaces its partitions; only a replay of history does."""
LEFT_OUT = "rows_stored_under_later_days"
"""Metadata of an output: number of its rows that were not stored, because a later day has their key."""
LONGEST_WRITE_S = 600.0
"""Age from which a temporary file has no writer any more, seconds; a write takes milliseconds."""


class LakeError(RuntimeError):
    """A partition cannot be written or read."""


def by_day(contract: Contract, frame: pl.DataFrame, days: Sequence[date]) -> Iterator[tuple[date, pl.DataFrame]]:
    """Split a frame into one frame per day, possibly empty, in the order of `days`.

    Raises:
        LakeError: a row belongs to a day that was not requested.
    """
    ordered, heights = _ordered_by_day(contract, frame, days)
    first = 0
    for day, height in zip(days, heights, strict=True):
        yield day, ordered.slice(first, height)
        first += height


def _ordered_by_day(contract: Contract, frame: pl.DataFrame, days: Sequence[date]) -> tuple[pl.DataFrame, list[int]]:
    """Return a frame's rows sorted by `days`, in their original order within a day, and the number of rows per day.

    Raises:
        LakeError: a row belongs to a day that was not requested.
    """
    positions = {day: number for number, day in enumerate(days)}
    marked = frame.with_columns(contract.day.alias("_day"))
    heights = dict(marked.group_by("_day").len().iter_rows())
    unexpected = sorted(heights.keys() - positions.keys())
    if unexpected:
        raise LakeError(
            f"{contract.table}: {sum(heights[day] for day in unexpected)} rows belong to {unexpected[0]}"
            f"{' and later' if len(unexpected) > 1 else ''}, which this run does not materialise"
        )
    position = pl.col("_day").replace_strict(positions, return_dtype=pl.Int64) if positions else pl.col("_day")
    ordered = marked.sort(position, maintain_order=True).drop("_day")
    return ordered, [heights.get(day, 0) for day in days]


class Reader(Protocol):
    """Interface of a reader of tables: the lake, or the declared reads of an asset's step."""

    def days(self, contract: Contract, first: date | None = None, last: date | None = None) -> list[date]:
        """Return the stored days of a table with `first` <= day <= `last`, in order."""
        ...

    def scan(self, contract: Contract, first: date | None = None, last: date | None = None) -> pl.LazyFrame:
        """Scan the stored partitions with `first` <= day <= `last`."""
        ...

    def scan_days(self, contract: Contract, days: Sequence[date]) -> pl.LazyFrame:
        """Scan exactly these days, those stored at least, in order."""
        ...


class Lake(dg.ConfigurableIOManager):
    """Storage of every table: IO manager of every asset, and the reader of checks, sensors and jobs.

    Assets get `reads.Tables` instead.

    Attributes:
        root: folder or object-store URL, without a trailing slash.
    """

    root: str

    # --- reading -------------------------------------------------------------------------------
    def days(self, contract: Contract, first: date | None = None, last: date | None = None) -> list[date]:
        """Return the stored days of a table with `first` <= day <= `last`, in order.

        A folder without a file, whose writer died, does not count. On a local disk, the cost of a span with both ends
        depends only on its length.
        """
        folder = UPath(self.root) / contract.table
        if not _is_local(folder):
            candidates = (part.parent.name for part in folder.glob(f"day=*/{PART}")) if folder.exists() else iter(())
            names = {name for name in candidates if _DAY_FOLDER.match(name)}
        elif first is not None and last is not None:
            span = (first + n * _DAY for n in range((last - first).days + 1))
            names = {f"day={key_of(day)}" for day in span}
        else:
            names = {name for name in os.listdir(str(folder)) if _DAY_FOLDER.match(name)} if folder.exists() else set()
        if _is_local(folder):
            names = {name for name in names if os.path.exists(f"{folder}/{name}/{PART}")}
        days = sorted(date.fromisoformat(name.removeprefix("day=")) for name in names)
        return [day for day in days if (first is None or first <= day) and (last is None or day <= last)]

    def scan(self, contract: Contract, first: date | None = None, last: date | None = None) -> pl.LazyFrame:
        """Scan the stored partitions with `first` <= day <= `last`; days that are not stored are absent."""
        return self.scan_days(contract, self.days(contract, first, last))

    def scan_days(self, contract: Contract, days: Sequence[date]) -> pl.LazyFrame:
        """Scan exactly these days, those stored at least, in order.

        Each partition is read into memory at once: a scan by path reads a file in several steps, and a file that is
        replaced in between would be read half old, half new.
        """
        parts = [digest for day in days if (digest := self._content(contract, day)) is not None]
        return _scan(contract, parts) if parts else contract.empty().lazy()

    def read(self, contract: Contract, day: date) -> pl.DataFrame | None:
        """Return one stored partition, or None."""
        digest = self._content(contract, day)
        return None if digest is None else _scan(contract, [digest]).collect()

    def columns(self, contract: Contract, day: date) -> list[str]:
        """Return the columns of a stored partition, which may differ from the present contract."""
        digest = self._content(contract, day)
        return [] if digest is None else list(pl.read_parquet_schema(io.BytesIO(digest)))

    def fingerprint(self, contract: Contract, day: date) -> str:
        """Return the SHA-256 of a stored partition's bytes, or an empty string if it is not stored."""
        digest = self._content(contract, day)
        return "" if digest is None else hashlib.sha256(digest).hexdigest()

    def _content(self, contract: Contract, day: date) -> bytes | None:
        try:
            return self._path(contract, day).read_bytes()
        except FileNotFoundError:
            return None

    # --- writing -------------------------------------------------------------------------------
    def write(self, contract: Contract, day: date, frame: pl.DataFrame) -> None:
        """Store one partition atomically."""
        target = self._path(contract, day)
        digest = io.BytesIO()
        frame.write_parquet(digest, compression="zstd")
        if not _is_local(target):
            # An object store shows an object when it is complete; closing a partial stream would complete it.
            target.write_bytes(digest.getvalue())
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{PART}.{uuid.uuid4().hex}"
        try:
            temporary.write_bytes(digest.getvalue())
            os.replace(str(temporary), str(target))
        finally:
            temporary.unlink(missing_ok=True)
        _sweep(target.parent)

    def append(self, contract: Contract, day: date, rows: pl.DataFrame) -> None:
        """Add rows to a partition without changing the stored rows, also with concurrent writers.

        Writers on one machine wait for each other; an object store has no such lock.
        """
        with self.locked(contract):
            stored = self.read(contract, day)
            whole = rows if stored is None else pl.concat([stored, rows]).unique(contract.key, keep="first")
            self.write(contract, day, whole.sort(contract.key))

    @contextlib.contextmanager
    def locked(self, contract: Contract) -> Iterator[None]:
        """Lock a table until the block ends, while its partitions are read, merged and written.

        Other runs wait; a process that dies releases the lock. An asset yields its output inside the block, so that it
        is written before the lock is released. An object store has no such lock: there only the tags of the jobs
        separate runs.
        """
        folder = UPath(self.root) / contract.table
        if not _is_local(folder):
            yield
            return
        folder.mkdir(parents=True, exist_ok=True)
        with open(str(folder / ".lock"), "ab") as handle:
            # lockf locks per process, not per handle: a failed step of this process cannot block the next one.
            fcntl.lockf(handle, fcntl.LOCK_EX)
            yield

    def _path(self, contract: Contract, day: date) -> UPath:
        return UPath(self.root) / contract.table / f"day={key_of(day)}" / PART

    # --- the IO manager ------------------------------------------------------------------------
    def handle_output(self, context: dg.OutputContext, obj: pl.DataFrame) -> None:
        """Write each partition of the run that produced `obj`.

        Rows are added to an append-only table, unless the output has the metadata `REPLACES`. Of a table that is
        unique across days, rows whose key is stored under a later day are left out, and the metadata state how many.
        """
        contract = contract_of(context.asset_key)
        days = [day_of(key) for key in context.asset_partition_keys]
        replaced = bool((context.output_metadata or {}).get(REPLACES))
        store = self.append if contract.append_only and not replaced else self.write
        with self.locked(contract) if contract.unique_across_days else contextlib.nullcontext():
            rows = self._without_later_keys(contract, obj, max(days)) if contract.unique_across_days else obj
            for day, part in by_day(contract, rows, days):
                store(contract, day, part)
        if rows.height < obj.height:
            context.add_output_metadata({LEFT_OUT: obj.height - rows.height})

    def _without_later_keys(self, contract: Contract, rows: pl.DataFrame, last: date) -> pl.DataFrame:
        """Return the rows whose key is not stored under a day after `last`.

        An asset finds the keys of earlier days through its own edge; Dagster allows no edge to later partitions.
        """
        later = self.scan(contract, last + _DAY).select(contract.key)
        return rows.lazy().join(later, on=contract.key, how="anti", maintain_order="left").collect()

    def load_input(self, context: dg.InputContext) -> pl.LazyFrame:
        """Scan the partitions that an asset's mapping selects; days that are not stored are absent."""
        contract = contract_of(context.asset_key)
        days = [day_of(key) for key in context.asset_partition_keys] if context.has_asset_partitions else []
        return self.scan_days(contract, days)


def _scan(contract: Contract, parts: list[bytes]) -> pl.LazyFrame:
    """Scan Parquet files as a contract's columns.

    A column that was added later, by a version or a stream, is null in older partitions; a column of a disabled stream
    is left out.
    """
    return pl.scan_parquet(
        parts, schema=contract.columns, missing_columns="insert", extra_columns="ignore", hive_partitioning=False
    )


def _is_local(path: UPath) -> bool:
    return path.protocol in ("", "file")


def _sweep(folder: UPath) -> None:
    """Remove the temporary files of killed writers from a partition's folder."""
    for leftover in folder.glob(f".{PART}.*"):
        with contextlib.suppress(FileNotFoundError):  # removed by another writer in the meantime
            if time.time() - leftover.stat().st_mtime > LONGEST_WRITE_S:
                leftover.unlink(missing_ok=True)


def contract_of(key: dg.AssetKey) -> Contract:
    """Return the contract of an asset's table.

    Raises:
        LakeError: the asset has no contract.
    """
    contract = CONTRACTS.get(key.to_user_string())
    if contract is None:
        raise LakeError(f"{key.to_user_string()} has no contract: declare its table")
    return contract


def output_of(
    context: dg.AssetExecutionContext,
    contract: Contract,
    frame: pl.DataFrame,
    metadata: Mapping[str, Any] | None = None,
    *,
    replaces: bool = False,
) -> dg.Output[pl.DataFrame]:
    """Return the output of a contract's asset: the frame, its content hash as data version, and metadata.

    Each partition's materialisation has its own row count and digest. Metadata of the whole run are attached to its
    last partition only, which the UI shows first: attached to each of thousands they would fill the event log.

    Args:
        context: of the step.
        contract: of the asset's table.
        frame: rows of every partition of the run.
        metadata: of the whole run, for the UI.
        replaces: whether the rows replace stored rows of an append-only table.
    """
    keys = context.partition_keys
    ordered, heights = _ordered_by_day(contract, frame, [day_of(key) for key in keys])
    digests_of = digests(ordered, heights)
    metadata_of: dict[str, dict[str, Any]] = {
        key: {"partition_rows": height, "partition_digest": digest}
        for key, height, digest in zip(keys, heights, digests_of, strict=True)
    }
    times = frame.select(pl.col(contract.key[0]).min().alias("first"), pl.col(contract.key[0]).max().alias("last"))
    metadata_of[keys[-1]] |= {
        "dagster/row_count": frame.height,
        "dagster/column_schema": column_schema(contract),
        "first": str(times["first"][0]),
        "last": str(times["last"][0]),
        "nulls": {name: count for name, count in frame.null_count().row(0, named=True).items() if count},
        **(metadata or {}),
    }
    _add_partition_metadata(context, contract.asset_key, metadata_of)
    version = digests_of[0] if len(digests_of) == 1 else hashlib.sha256("".join(digests_of).encode()).hexdigest()
    return dg.Output(
        frame,
        output_name=context.assets_def.get_output_name_for_asset_key(contract.asset_key),
        metadata={REPLACES: True} if replaces else None,
        data_version=dg.DataVersion(version),
    )


def _add_partition_metadata(
    context: dg.AssetExecutionContext, asset: dg.AssetKey, metadata_of: Mapping[str, Mapping[str, Any]]
) -> None:
    """Add the metadata of every partition at once.

    `context.add_asset_metadata` adds them one by one, and each time lists the partitions of the run and copies all
    metadata: a minute for eight years of days.
    """
    step = context.get_step_execution_context()
    accumulated = dict(step._metadata_accumulator.per_output_metadata)  # noqa: SLF001 - there is no public way to add many at once
    for key, metadata in metadata_of.items():
        accumulated[AssetMetadataHandle(asset_key=asset, partition_key=key)] = metadata
    step._metadata_accumulator = OutputMetadataAccumulator(per_output_metadata=accumulated)  # noqa: SLF001
