"""Roll back to an earlier champion, through the job that the UI launches."""

import getpass
import os
import sys
from datetime import UTC, date, datetime

import dagster as dg

from btc_assets.automation.failures import why_failed
from btc_assets.champion.history import holder
from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.forecasting.tables import FORECASTS
from btc_assets.lake import Lake
from btc_assets.partitions import key_of
from btc_assets.settings import Settings
from btc_assets.vocabulary import CHAMPION


def rollback(config: Settings, to: int | None, reason: str) -> int:
    """Roll back to an earlier champion on the newest day with forecasts, and return the exit status.

    Args:
        config: the settings of the deployment.
        to: registry version of a former champion; None is the previous champion.
        reason: why; recorded in the history.
    """
    from btc_assets.champion.assets import rollback_config
    from btc_assets.definitions import defs
    from btc_assets.published import live_manifest

    lake = Lake(root=config.lake_root)
    day = newest_day_forecast(lake, config.now())
    if day is None:
        print("No forecast is stored yet, so there is nothing to roll back.", file=sys.stderr)
        return 2
    past = lake.scan(MODEL_HISTORY).collect()
    change = rollback_config(past, to=to or 0, reason=reason, actor=acting_user())
    with dg.DagsterInstance.get() as instance:
        result = defs.resolve_job_def("rollback_champion").execute_in_process(
            instance=instance,
            partition_key=key_of(day),
            run_config=change | {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
    if not result.success:
        print("\n".join(why_failed(result.all_events)) or "The rollback failed.", file=sys.stderr, flush=True)
        return 1
    champion = holder(lake.scan(MODEL_HISTORY).collect(), CHAMPION, datetime.max.replace(tzinfo=UTC))
    live = live_manifest(config.serving_dir)
    if champion is None or live is None or live.get("model_version") != champion.version:
        print("The change is recorded, but its forecast is not served yet; repeat the command.", file=sys.stderr)
        return 1
    print(f"Champion is version {champion.version}, trained to {champion.cutoff}; its newest forecast is published.")
    return 0


def newest_day_forecast(lake: Lake, now: datetime) -> date | None:
    """Return the newest day up to now with a champion's forecasts, or None."""
    for day in reversed([day for day in lake.days(FORECASTS) if day <= now.date()]):
        forecasts = lake.read(FORECASTS, day)
        if forecasts is not None and CHAMPION in forecasts["role"]:
            return day
    return None


def acting_user() -> str:
    """Return the name of the user that runs this process, or `uid N` where the system has no name for it."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # no entry in the passwd file, as in many containers
        name = ""
    return name if name.isprintable() and 0 < len(name) <= 100 else f"uid {os.getuid()}"
