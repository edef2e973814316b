"""The one `Definitions`: what every domain brings to the graph, merged."""

import warnings

import dagster as dg

# Backfill policies, data versions and per-partition metadata are stable in use here, and named beta by Dagster.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

# ruff: noqa: E402 - the filters come before what they are for
from btc_assets.alerts.definitions import DEFINITIONS as ALERTS
from btc_assets.automation.definitions import automation
from btc_assets.champion.definitions import DEFINITIONS as CHAMPION
from btc_assets.features.definitions import DEFINITIONS as FEATURES
from btc_assets.forecasting.definitions import DEFINITIONS as FORECASTING
from btc_assets.lake import Lake
from btc_assets.laws.definitions import DEFINITIONS as LAWS
from btc_assets.learning.definitions import DEFINITIONS as LEARNING
from btc_assets.market.definitions import DEFINITIONS as MARKET
from btc_assets.monitoring.definitions import DEFINITIONS as MONITORING
from btc_assets.news.definitions import DEFINITIONS as NEWS
from btc_assets.ownership import keep_apart
from btc_assets.serving.definitions import DEFINITIONS as SERVING
from btc_assets.settings import settings

keep_apart()
_LAKE = Lake(root=settings().lake_root)
DOMAINS = (MARKET, NEWS, FEATURES, LAWS, LEARNING, CHAMPION, FORECASTING, MONITORING, ALERTS, SERVING)

defs: dg.Definitions = dg.Definitions.merge(
    *DOMAINS,
    automation(lambda: defs),
    dg.Definitions(resources={"lake": _LAKE, "io_manager": _LAKE}, executor=dg.in_process_executor),
)
