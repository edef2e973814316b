"""The one `Definitions`: every asset, check, job, schedule, sensor and resource of the project."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import dagster as dg
from dagster_duckdb import DuckDBResource

warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

from btc_assets.automation.jobs import JOBS  # noqa: E402 - the filters above speak of these imports
from btc_assets.automation.schedules import SCHEDULES  # noqa: E402
from btc_assets.automation.sensors import SENSORS  # noqa: E402
from btc_assets.lake import Lake  # noqa: E402
from btc_assets.learning.registry import ModelRegistry  # noqa: E402
from btc_assets.market.resources import Market  # noqa: E402
from btc_assets.settings import settings  # noqa: E402


def _present(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


DOMAINS = ("market", "features", "learning", "monitoring", "serving")
ASSETS = [a for d in DOMAINS if (m := _present(f"btc_assets.{d}.assets")) for a in m.ASSETS]
CHECKS = [a for d in DOMAINS if (m := _present(f"btc_assets.{d}.checks")) for a in m.CHECKS]

_LAKE = Lake(root=settings().lake_root)

defs = dg.Definitions(
    assets=ASSETS,
    asset_checks=CHECKS,
    jobs=JOBS,
    schedules=SCHEDULES,
    sensors=SENSORS,
    resources={
        "lake": _LAKE,
        "io_manager": _LAKE,
        "duckdb": DuckDBResource(database=":memory:"),
        "market": Market.from_settings(settings()),
        "registry": ModelRegistry(tracking_uri=settings().tracking_uri, artifacts=str(settings().mlflow_artifacts)),
    },
    executor=dg.in_process_executor,
)
