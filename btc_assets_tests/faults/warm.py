"""Imported by the forge alone: what the first run of a process would have to make, made once for all children."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import polars as pl

from btc_assets.definitions import defs
from btc_assets.monitoring import drift

INSTANCE = dg.DagsterInstance.ephemeral()
JOB = defs.resolve_implicit_global_asset_job_def()


def _write_page(reference: pl.DataFrame, current: pl.DataFrame, names: Sequence[str], path: Path) -> None:
    path.write_text(", ".join(names))


# Evidently takes 5 s of CPU for a page that no test of a fault reads; test_drift_report.py reads a real one.
drift.write_evidently = _write_page

# A child would walk all that is imported here in each full collection, and so copy the memory it shares.
gc.set_threshold(50_000, 20, 20)
gc.collect()
gc.freeze()
