"""Walk-forward and single training from the command line, through the job that the UI launches."""

import sys
from datetime import date

import dagster as dg
import polars as pl

from btc_assets.automation.failures import why_failed
from btc_assets.automation.spans import DAY
from btc_assets.lake import Lake
from btc_assets.monitoring.tables import PERFORMANCE_REPORT
from btc_assets.partitions import previous_monday
from btc_assets.settings import Settings

SINGLE_CUTOFF = 0
"""Value of `every_days` for a walk with a single cutoff."""


def walk_forward(start: date | None, end: date | None, *, every_days: int, resume: bool) -> int:
    """Replay a period and print the performance of its forecasts.

    Args:
        start: first cutoff; None is the first Monday with a full window.
        end: last day to forecast; None is the last day that has closed.
        every_days: days from one cutoff to the next.
        resume: skip what is already stored.

    Returns:
        The exit status: 0 on success.
    """
    from btc_assets.definitions import defs
    from btc_assets.monitoring.performance import markdown
    from btc_assets.settings import settings

    config = {
        "start": "" if start is None else start.isoformat(),
        "end": "" if end is None else end.isoformat(),
        "every_days": every_days,
        "resume": resume,
    }
    with dg.DagsterInstance.get() as instance:
        result = defs.resolve_job_def("walk_forward").execute_in_process(
            instance=instance,
            run_config={"ops": {"walk": {"config": config}}, "loggers": {"console": {"config": {}}}},
            raise_on_error=False,
        )
    if not result.success:
        print("\n".join(why_failed(result.all_events)) or "The walk-forward failed.", file=sys.stderr, flush=True)
        return 1
    lake = Lake(root=settings().lake_root)
    report_day = max(lake.days(PERFORMANCE_REPORT) if end is None else [end])
    report = lake.read(PERFORMANCE_REPORT, report_day)
    if report is not None:
        print(
            f"\nForecasts with known outcomes up to {report_day}:\n\n{markdown(_whole_period_and_years(report))}\n",
            flush=True,
        )
    return 0


def _whole_period_and_years(report: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the whole period, and of each calendar year if there are several."""
    years = report.filter(pl.col("period").str.contains(r"^\d{4}$"))["period"].unique()
    return report.filter(pl.col("period").is_in(["all", *(years if len(years) > 1 else [])]))


def train(config: Settings, cutoff: date | None) -> int:
    """Train and judge one cutoff, forecast from it to the newest closed day, and publish.

    Args:
        config: the settings of the deployment.
        cutoff: the cutoff day; None is the newest Monday.

    Returns:
        The exit status: 0 on success.
    """
    cutoff, end = days_of_one_cutoff(config, cutoff)
    return walk_forward(cutoff, end, every_days=SINGLE_CUTOFF, resume=True)


def days_of_one_cutoff(config: Settings, cutoff: date | None) -> tuple[date, date]:
    """Return the cutoff (None: the newest Monday) and the newest day to forecast from it.

    The newest day is the last closed day, or today if the cutoff is today.
    """
    now = config.now()
    today = now.date() if config.history_end is None else min(now.date(), config.history_end - DAY)
    closed = now.date() - DAY
    cutoff = cutoff or previous_monday(today)
    return cutoff, today if cutoff >= today else closed
