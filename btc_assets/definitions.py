"""The one `Definitions`: what every domain brings to the graph, merged."""

import warnings

import dagster as dg

# Backfill policies, data versions and per-partition metadata are stable in use here, and named beta by Dagster.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

# ruff: noqa: E402 - the filters come before what they are for
from btc_assets.alerts import definitions as alerts
from btc_assets.automation.definitions import automation
from btc_assets.champion import definitions as champion
from btc_assets.features import definitions as features
from btc_assets.forecasting import definitions as forecasting
from btc_assets.lake import Lake
from btc_assets.laws import definitions as laws
from btc_assets.learning import definitions as learning
from btc_assets.market import definitions as market
from btc_assets.monitoring import definitions as monitoring
from btc_assets.news import definitions as news
from btc_assets.ownership import claim_instance
from btc_assets.reads import lake_resources
from btc_assets.serving import definitions as serving
from btc_assets.settings import settings

claim_instance()
# Modules, not their `Definitions`: Dagster refuses to load a module that holds more than one.
DOMAINS = (market, news, features, laws, learning, champion, forecasting, monitoring, alerts, serving)

defs: dg.Definitions = dg.Definitions.merge(
    *(domain.DEFINITIONS for domain in DOMAINS),
    automation(lambda: defs),
    dg.Definitions(resources=lake_resources(Lake(root=settings().lake_root)), executor=dg.in_process_executor),
)
