"""The Dagster definitions of alerts."""

import dagster as dg

from btc_assets.alerts.assets import ASSETS
from btc_assets.alerts.outbox import Outbox
from btc_assets.alerts.resources import AlertDesk
from btc_assets.settings import settings

_OUTBOX = Outbox(settings().outbox)

DEFINITIONS = dg.Definitions(assets=ASSETS, resources={"outbox": _OUTBOX, "alert_desk": AlertDesk(_OUTBOX, settings())})
