"""What automation brings to the graph: jobs, schedules and sensors."""

from collections.abc import Callable

import dagster as dg

from btc_assets.automation import alerting, retraining, sensors
from btc_assets.automation.jobs import JOBS
from btc_assets.automation.schedules import SCHEDULES
from btc_assets.automation.walk_forward import walk_forward_job


def automation(whole: Callable[[], dg.Definitions]) -> dg.Definitions:
    """Return the jobs, schedules and sensors.

    Args:
        whole: gives the definitions of the project when a walk-forward runs; it launches the jobs in them.
    """
    return dg.Definitions(
        jobs=[*JOBS, walk_forward_job(whole)],
        schedules=SCHEDULES,
        sensors=[*sensors.SENSORS, *retraining.SENSORS, *alerting.SENSORS],
    )
