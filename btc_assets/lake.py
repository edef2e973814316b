"""The lake: one Parquet file a table and day, written atomically and read lazily.

    <root>/<domain>/<table>/day=YYYY-MM-DD/part.parquet

The root is a folder or an object-store URL. A local write goes to a temporary name and is moved into
place, so a reader sees the old partition or the new one and a killed process leaves nothing behind
that anyone reads.
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

_DAY_FOLDER = re.compile(r"^day=(\d{4}-\d{2}-\d{2})$")
PART = "part.parquet"
REPLACES = "replaces_stored_rows"
"""Metadata of an output of an append-only table that replaces its partitions; only a replay of history does."""
LONGEST_WRITE_S = 600.0
"""A temporary file this old has no writer any more; a write takes milliseconds."""


class LakeError(RuntimeError):
    """A partition cannot be written or read as asked."""


def by_day(contract: Contract, frame: pl.DataFrame, days: Sequence[date]) -> Iterator[tuple[date, pl.DataFrame]]:
    """Split a frame into one frame a day, empty ones included, in the order of `days`.

    Raises:
        LakeError: a row belongs to a day that was not requested.
    """
    ordered, heights = _ordered_by_day(contract, frame, days)
    first = 0
    for day, height in zip(days, heights, strict=True):
        yield day, ordered.slice(first, height)
        first += height


def _ordered_by_day(contract: Contract, frame: pl.DataFrame, days: Sequence[date]) -> tuple[pl.DataFrame, list[int]]:
    """Return a frame's rows in the order of `days`, each day's as they stood, and how many each day has.

    Raises:
        LakeError: a row belongs to a day that was not requested.
    """
    place = {day: number for number, day in enumerate(days)}
    marked = frame.with_columns(contract.day.alias("_day"))
    found = dict(marked.group_by("_day").len().iter_rows())
    strangers = sorted(found.keys() - place.keys())
    if strangers:
        raise LakeError(
            f"{contract.table}: {sum(found[day] for day in strangers)} rows belong to {strangers[0]}"
            f"{' and later' if len(strangers) > 1 else ''}, which this run does not materialise"
        )
    by_place = pl.col("_day").replace_strict(place, return_dtype=pl.Int64) if place else pl.col("_day")
    ordered = marked.sort(by_place, maintain_order=True).drop("_day")
    return ordered, [found.get(day, 0) for day in days]


class Reader(Protocol):
    """What reads tables: the lake, and the declared reads of an asset's step."""

    def days(self, contract: Contract, first: date | None = None, last: date | None = None) -> list[date]:
        """Return the days stored of a table with `first` <= day <= `last`, in order."""
        ...

    def scan(self, contract: Contract, first: date | None = None, last: date | None = None) -> pl.LazyFrame:
        """Scan the stored partitions with `first` <= day <= `last`."""
        ...

    def scan_days(self, contract: Contract, days: Sequence[date]) -> pl.LazyFrame:
        """Scan exactly these days, those stored at least, in order."""
        ...


class Lake(dg.ConfigurableIOManager):
    """Stores every table of the project: IO manager of every asset, and the reader of checks, sensors and jobs.

    An asset is handed `reads.Tables` instead.

    Attributes:
        root: folder or object-store URL, without a trailing slash.
    """

    root: str

    # --- reading -------------------------------------------------------------------------------
    def days(self, contract: Contract, first: date | None = None, last: date | None = None) -> list[date]:
        """Return the days stored of a table with `first` <= day <= `last`, in order.

        A folder whose writer died before its file is no day. In a folder on this machine a span with both ends costs
        what it is long, whatever else is stored.
        """
        folder = UPath(self.root) / contract.table
        if not _is_local(folder):
            found = (part.parent.name for part in folder.glob(f"day=*/{PART}")) if folder.exists() else iter(())
            names = {name for name in found if _DAY_FOLDER.match(name)}
        elif first is not None and last is not None:
            span = (first + timedelta(days=n) for n in range((last - first).days + 1))
            names = {f"day={key_of(day)}" for day in span}
        else:
            names = {name for name in os.listdir(str(folder)) if _DAY_FOLDER.match(name)} if folder.exists() else set()
        if _is_local(folder):
            names = {name for name in names if os.path.exists(f"{folder}/{name}/{PART}")}
        days = sorted(date.fromisoformat(name.removeprefix("day=")) for name in names)
        return [day for day in days if (first is None or first <= day) and (last is None or day <= last)]

    def scan(self, contract: Contract, first: date | None = None, last: date | None = None) -> pl.LazyFrame:
        """Scan the stored partitions with `first` <= day <= `last`; days not stored are simply absent."""
        return self.scan_days(contract, self.days(contract, first, last))

    def scan_days(self, contract: Contract, days: Sequence[date]) -> pl.LazyFrame:
        """Scan exactly these days, those stored at least, in order.

        A partition's bytes are taken whole, now: a scan by name reads a file in several steps, and one that is
        replaced between two of them would be read half old, half new.
        """
        parts = [content for day in days if (content := self._content(contract, day)) is not None]
        return _scan(contract, parts) if parts else contract.empty().lazy()

    def read(self, contract: Contract, day: date) -> pl.DataFrame | None:
        """Return one stored partition, or None."""
        content = self._content(contract, day)
        return None if content is None else _scan(contract, [content]).collect()

    def columns(self, contract: Contract, day: date) -> list[str]:
        """Return the columns one partition was stored with, which an older version may have had fewer of."""
        content = self._content(contract, day)
        return [] if content is None else list(pl.read_parquet_schema(io.BytesIO(content)))

    def fingerprint(self, contract: Contract, day: date) -> str:
        """Return the SHA-256 of a stored partition's bytes, or an empty string if it is not stored."""
        content = self._content(contract, day)
        return "" if content is None else hashlib.sha256(content).hexdigest()

    def _content(self, contract: Contract, day: date) -> bytes | None:
        try:
            return self._path(contract, day).read_bytes()
        except FileNotFoundError:
            return None

    # --- writing -------------------------------------------------------------------------------
    def write(self, contract: Contract, day: date, frame: pl.DataFrame) -> None:
        """Store one partition, whole or not at all."""
        target = self._path(contract, day)
        content = io.BytesIO()
        frame.write_parquet(content, compression="zstd")
        if not _is_local(target):
            # An object store shows an object once it is complete; closing a stream halfway would complete it.
            target.write_bytes(content.getvalue())
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{PART}.{uuid.uuid4().hex}"
        try:
            temporary.write_bytes(content.getvalue())
            os.replace(str(temporary), str(target))
        finally:
            temporary.unlink(missing_ok=True)
        _sweep(target.parent)

    def append(self, contract: Contract, day: date, rows: pl.DataFrame) -> None:
        """Add rows to a partition; those that are stored stay as they are, whoever else adds at the same time.

        Writers on one machine wait for each other; an object store has no such lock.
        """
        with self.locked(contract):
            stored = self.read(contract, day)
            whole = rows if stored is None else pl.concat([stored, rows]).unique(contract.key, keep="first")
            self.write(contract, day, whole.sort(contract.key))

    @contextlib.contextmanager
    def locked(self, contract: Contract) -> Iterator[None]:
        """Lock a table whose partitions are read, merged and written back, until the block ends.

        Other runs wait, whatever started them; a process that dies releases the lock. An asset yields its output inside
        the block, and continues after it is written. An object store has no such lock: there only the tags of the jobs
        keep runs apart.
        """
        folder = UPath(self.root) / contract.table
        if not _is_local(folder):
            yield
            return
        folder.mkdir(parents=True, exist_ok=True)
        with open(str(folder / ".lock"), "ab") as handle:
            # A lock of the process and not of the file: a step that failed in this process cannot block the next one.
            fcntl.lockf(handle, fcntl.LOCK_EX)
            yield

    def _path(self, contract: Contract, day: date) -> UPath:
        return UPath(self.root) / contract.table / f"day={key_of(day)}" / PART

    # --- the IO manager ------------------------------------------------------------------------
    def handle_output(self, context: dg.OutputContext, obj: pl.DataFrame) -> None:
        """Write each partition of the run that made `obj`.

        An append-only table is added to, unless the output says `REPLACES`.
        """
        contract = contract_of(context.asset_key)
        replaced = bool((context.output_metadata or {}).get(REPLACES))
        store = self.append if contract.append_only and not replaced else self.write
        for day, part in by_day(contract, obj, [day_of(key) for key in context.asset_partition_keys]):
            store(contract, day, part)

    def load_input(self, context: dg.InputContext) -> pl.LazyFrame:
        """Scan the partitions an asset's mapping asks for; days not stored are absent, never filled."""
        contract = contract_of(context.asset_key)
        days = [day_of(key) for key in context.asset_partition_keys] if context.has_asset_partitions else []
        return self.scan_days(contract, days)


def _scan(contract: Contract, parts: list[bytes]) -> pl.LazyFrame:
    """Scan Parquet files as a contract's columns.

    A column that came later, with a version or a stream, is unknown in what was stored before; one of a stream that is
    off is left out.
    """
    return pl.scan_parquet(
        parts, schema=contract.columns, missing_columns="insert", extra_columns="ignore", hive_partitioning=False
    )


def _is_local(path: UPath) -> bool:
    return path.protocol in ("", "file")


def _sweep(folder: UPath) -> None:
    """Remove what writers that were killed left in a partition's folder."""
    for leftover in folder.glob(f".{PART}.*"):
        with contextlib.suppress(FileNotFoundError):  # swept by another writer meanwhile
            if time.time() - leftover.stat().st_mtime > LONGEST_WRITE_S:
                leftover.unlink(missing_ok=True)


def contract_of(key: dg.AssetKey) -> Contract:
    """Return the contract of an asset's table.

    Raises:
        LakeError: the asset has none.
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
    """Wrap an asset's frame for the lake: content hash as data version, and what a person wants to see.

    The output is that of the contract's asset; `replaces` lets it replace the rows of an append-only table.

    Each partition's materialisation carries its own rows and digest, so that a run over many days tells them apart.
    What describes the whole run is carried by its last partition, the one that is shown first: in each of thousands
    it would be most of the event log.
    """
    keys = context.partition_keys
    ordered, heights = _ordered_by_day(contract, frame, [day_of(key) for key in keys])
    contents = digests(ordered, heights)
    shown: dict[str, dict[str, Any]] = {
        key: {"partition_rows": height, "partition_digest": content}
        for key, height, content in zip(keys, heights, contents, strict=True)
    }
    times = frame.select(pl.col(contract.key[0]).min().alias("first"), pl.col(contract.key[0]).max().alias("last"))
    shown[keys[-1]] |= {
        "dagster/row_count": frame.height,
        "dagster/column_schema": column_schema(contract),
        "first": str(times["first"][0]),
        "last": str(times["last"][0]),
        "nulls": {name: count for name, count in frame.null_count().row(0, named=True).items() if count},
        **(metadata or {}),
    }
    _add_partition_metadata(context, contract.asset_key, shown)
    version = contents[0] if len(contents) == 1 else hashlib.sha256("".join(contents).encode()).hexdigest()
    return dg.Output(
        frame,
        output_name=context.assets_def.get_output_name_for_asset_key(contract.asset_key),
        metadata={REPLACES: True} if replaces else None,
        data_version=dg.DataVersion(version),
    )


def _add_partition_metadata(
    context: dg.AssetExecutionContext, asset: dg.AssetKey, shown: Mapping[str, Mapping[str, Any]]
) -> None:
    """Add the metadata of every partition at once.

    `context.add_asset_metadata` does it one by one, and each time lists the partitions of the run and copies what it
    holds: a minute for eight years of days.
    """
    step = context.get_step_execution_context()
    held = dict(step._metadata_accumulator.per_output_metadata)  # noqa: SLF001 - there is no public way to add many
    for key, metadata in shown.items():
        held[AssetMetadataHandle(asset_key=asset, partition_key=key)] = metadata
    step._metadata_accumulator = OutputMetadataAccumulator(per_output_metadata=held)  # noqa: SLF001
