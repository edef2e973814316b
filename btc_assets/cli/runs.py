"""The walk-forward, a single training and a rollback from the command line, through the jobs the UI launches."""

import getpass
import os
import sys
from datetime import UTC, date, datetime

import dagster as dg
import polars as pl

from btc_assets.automation.failures import why_failed
from btc_assets.automation.spans import DAY
from btc_assets.champion.history import holder
from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.forecasting.tables import FORECASTS
from btc_assets.lake import Lake
from btc_assets.monitoring.tables import PERFORMANCE_REPORT
from btc_assets.partitions import key_of, previous_monday
from btc_assets.settings import Settings
from btc_assets.vocabulary import CHAMPION

ONLY_ONE = 0
"""Days between cutoffs when there is one cutoff."""


def walk_forward(start: date | None, end: date | None, *, every_days: int, resume: bool) -> int:
    """Replay a period and print how good its forecasts were.

    Args:
        start: first cutoff; None is the first Monday with a full window.
        end: last day to forecast; None is the last day that has closed.
        every_days: from one cutoff to the next.
        resume: leave alone what is already there.

    Returns:
        The exit status: 0 when everything was made.
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
        _complain(result, "The walk-forward failed.")
        return 1
    lake = Lake(root=settings().lake_root)
    reported = max(lake.days(PERFORMANCE_REPORT) if end is None else [end])
    report = lake.read(PERFORMANCE_REPORT, reported)
    if report is not None:
        print(f"\nForecasts known by the end of {reported}:\n\n{markdown(_whole_and_by_year(report))}\n", flush=True)
    return 0


def _whole_and_by_year(report: pl.DataFrame) -> pl.DataFrame:
    """Return the rows about the whole period, and about each calendar year if there are several."""
    years = report.filter(pl.col("period").str.contains(r"^\d{4}$"))["period"].unique()
    return report.filter(pl.col("period").is_in(["all", *(years if len(years) > 1 else [])]))


def train(config: Settings, cutoff: date | None) -> int:
    """Train and judge one cutoff, forecast from it to the newest closed day, and publish.

    Args:
        config: the settings of the deployment.
        cutoff: the cutoff day; None is the newest Monday.

    Returns:
        The exit status: 0 when everything was made.
    """
    cutoff, end = days_of_one_cutoff(config, cutoff)
    return walk_forward(cutoff, end, every_days=ONLY_ONE, resume=True)


def rollback(config: Settings, to: int | None, reason: str) -> int:
    """Go back to an earlier champion, on the newest day with forecasts, and return the exit status.

    Args:
        config: the settings of the deployment.
        to: registry version of a champion of the past; None is the one before the present.
        reason: why, for the history.
    """
    from btc_assets.champion.assets import history_config
    from btc_assets.definitions import defs
    from btc_assets.published import live_manifest

    lake = Lake(root=config.lake_root)
    day = newest_day_forecast(lake, config.now())
    if day is None:
        print("Nothing is forecast yet, so there is nothing to roll back.", file=sys.stderr)
        return 2
    change = history_config(event="rollback", to=to or 0, reason=reason, actor=acting_user())
    with dg.DagsterInstance.get() as instance:
        result = defs.resolve_job_def("rollback_champion").execute_in_process(
            instance=instance,
            partition_key=key_of(day),
            run_config=change | {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
    if not result.success:
        _complain(result, "The rollback failed.")
        return 1
    stands = holder(lake.scan(MODEL_HISTORY).collect(), CHAMPION, datetime.max.replace(tzinfo=UTC))
    live = live_manifest(config.serving_dir)
    if stands is None or live is None or live.get("model_version") != stands.version:
        print("The change is written, but what is served has not followed it yet; ask again.", file=sys.stderr)
        return 1
    print(f"Champion is version {stands.version}, trained to {stands.cutoff}; its newest forecast is published.")
    return 0


def newest_day_forecast(lake: Lake, now: datetime) -> date | None:
    """Return the newest day, up to now, on which a champion has forecast, or None."""
    for day in reversed([day for day in lake.days(FORECASTS) if day <= now.date()]):
        made = lake.read(FORECASTS, day)
        if made is not None and CHAMPION in made["role"]:
            return day
    return None


def _complain(result: dg.ExecuteInProcessResult, otherwise: str) -> None:
    """Print why a run failed."""
    print("\n".join(why_failed(result.all_events)) or otherwise, file=sys.stderr, flush=True)


def days_of_one_cutoff(config: Settings, cutoff: date | None) -> tuple[date, date]:
    """Return a cutoff (None: the newest Monday) and the newest day to forecast from it.

    That is the newest closed day, or today when the cutoff is today.
    """
    now = config.now()
    today = now.date() if config.history_end is None else min(now.date(), config.history_end - DAY)
    closed = now.date() - DAY
    cutoff = cutoff or previous_monday(today)
    return cutoff, today if cutoff >= today else closed


def ask(config: Settings, query: str) -> int:
    """Answer a question in SQL about what is stored, and return the exit status."""
    import duckdb
    from dagster_duckdb import DuckDBResource

    from btc_assets.sql import add_lake_views

    with DuckDBResource(database=":memory:").get_connection() as connection:
        views = add_lake_views(connection, Lake(root=config.lake_root))
        try:
            answer = connection.sql(query)
        except duckdb.Error as error:
            print(
                f"{error}\nThe views are: {', '.join(views) or 'none yet; materialise something first'}",
                file=sys.stderr,
            )
            return 2
        if answer is not None:
            with pl.Config(tbl_rows=100, tbl_cols=30, tbl_width_chars=200):
                print(answer.pl())
    return 0


def acting_user() -> str:
    """Return who runs this process, for the history; by number where the system has no name for them."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # no line in the passwd file, as in many containers
        name = ""
    return name if name.isprintable() and 0 < len(name) <= 100 else f"uid {os.getuid()}"
