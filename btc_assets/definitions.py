"""The one `Definitions`: every asset, check, job, schedule, sensor and resource of the project."""

import warnings

import dagster as dg

# Backfill policies, data versions and per-partition metadata are stable in use here, and named beta by Dagster.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

from btc_assets.alerts.outbox import Outbox  # noqa: E402
from btc_assets.alerts.resources import AlertDesk  # noqa: E402
from btc_assets.automation import alerting, retraining, sensors  # noqa: E402 - the filters come before what they speak of
from btc_assets.automation.jobs import JOBS  # noqa: E402
from btc_assets.automation.schedules import SCHEDULES  # noqa: E402
from btc_assets.features import assets as features  # noqa: E402
from btc_assets.features import checks as features_checks  # noqa: E402
from btc_assets.lake import Lake  # noqa: E402
from btc_assets.learning import assets as learning  # noqa: E402
from btc_assets.learning.registry import ModelRegistry  # noqa: E402
from btc_assets.market import assets as market  # noqa: E402
from btc_assets.market import checks as market_checks  # noqa: E402
from btc_assets.market.resources import Market  # noqa: E402
from btc_assets.monitoring import assets as monitoring  # noqa: E402
from btc_assets.monitoring import checks as monitoring_checks  # noqa: E402
from btc_assets.news import assets as news  # noqa: E402
from btc_assets.news import checks as news_checks  # noqa: E402
from btc_assets.news.resources import News  # noqa: E402
from btc_assets.ownership import keep_apart  # noqa: E402
from btc_assets.serving import assets as serving  # noqa: E402
from btc_assets.settings import settings  # noqa: E402

keep_apart()
_OUTBOX = Outbox(settings().outbox)
_LAKE = Lake(root=settings().lake_root)

defs = dg.Definitions(
    assets=[
        *market.ASSETS,
        *news.ASSETS,
        *features.ASSETS,
        *learning.ASSETS,
        *monitoring.ASSETS,
        *serving.ASSETS,
    ],
    asset_checks=[*market_checks.CHECKS, *news_checks.CHECKS, *features_checks.CHECKS, *monitoring_checks.CHECKS],
    jobs=JOBS,
    schedules=SCHEDULES,
    sensors=[*sensors.SENSORS, *retraining.SENSORS, *alerting.SENSORS],
    resources={
        "lake": _LAKE,
        "io_manager": _LAKE,
        "market": Market.from_settings(settings()),
        "news": News.from_settings(settings()),
        "outbox": _OUTBOX,
        "alert_desk": AlertDesk(_OUTBOX, settings()),
        "registry": ModelRegistry(tracking_uri=settings().tracking_uri, artifacts=str(settings().mlflow_artifacts)),
    },
    executor=dg.in_process_executor,
)
