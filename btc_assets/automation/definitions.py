"""The Dagster definitions of automation: jobs, schedules and sensors."""

from collections.abc import Callable

import dagster as dg

from btc_assets.automation import alerting, retraining, sensors
from btc_assets.automation.jobs import JOBS
from btc_assets.automation.schedules import SCHEDULES
from btc_assets.automation.walk_forward import walk_forward_job


def automation(project: Callable[[], dg.Definitions]) -> dg.Definitions:
    """Return the jobs, schedules and sensors.

    Args:
        project: returns the definitions of the project, whose jobs a walk-forward launches.
    """
    return dg.Definitions(
        jobs=[*JOBS, walk_forward_job(project)],
        schedules=SCHEDULES,
        sensors=[*sensors.SENSORS, *retraining.SENSORS, *alerting.SENSORS],
    )
