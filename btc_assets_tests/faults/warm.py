"""Imported by the forge alone: what the first run of a process would have to make, made once for all children."""

from __future__ import annotations

import dagster as dg

from btc_assets.definitions import defs

INSTANCE = dg.DagsterInstance.ephemeral()
JOB = defs.resolve_implicit_global_asset_job_def()
