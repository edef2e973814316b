"""Hourly Bitcoin forecasts from the command line; `btc-assets COMMAND --help` explains one command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import date

from btc_assets.settings import DAGSTER_HOME, PROJECT_ROOT, Settings, SettingsError, read_settings
from btc_assets.vocabulary import EVERY_HORIZON, PRIMARY


def parser() -> argparse.ArgumentParser:
    """Return the argument parser with every command."""
    top = argparse.ArgumentParser(prog="btc-assets", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="run the whole graph on the embedded sample and request the forecast over HTTP")
    commands.add_parser("up", help="run Dagster, the forecast server and the MLflow UI until Ctrl-C")
    walk = commands.add_parser("walk-forward", help="replay a period: train, judge and forecast cutoff by cutoff")
    walk.add_argument(
        "--from", dest="start", type=date.fromisoformat, help="first cutoff (default: first Monday with a full window)"
    )
    walk.add_argument(
        "--to", dest="end", type=date.fromisoformat, help="last day to forecast (default: the last closed day)"
    )
    walk.add_argument("--every", dest="every_days", type=int, default=7, help="days between cutoffs (%(default)s)")
    walk.add_argument("--again", action="store_true", help="recompute everything, including what is already stored")
    compare = commands.add_parser(
        "compare", help="compare model families over a period: same hours, folds and seed; resumes where it was stopped"
    )
    compare.add_argument(
        "--families", required=True, help="names of families, separated by commas; one's own as mypackage.module:FAMILY"
    )
    compare.add_argument("--from", dest="start", type=date.fromisoformat, required=True, help="first cutoff")
    compare.add_argument("--to", dest="end", type=date.fromisoformat, required=True, help="last day to forecast")
    compare.add_argument("--every", dest="every_days", type=int, default=28, help="days between cutoffs (%(default)s)")
    compare.add_argument(
        "--window-days", type=int, default=730, help="days of training before each cutoff (%(default)s)"
    )
    compare.add_argument(
        "--horizon-minutes", type=int, choices=EVERY_HORIZON, default=PRIMARY, help="minutes ahead (%(default)s)"
    )
    compare.add_argument(
        "--files", type=os.path.abspath, help="path or glob of files of bars (default: the tables of the lake)"
    )
    compare.add_argument("--again", action="store_true", help="recompute everything, including what is already stored")
    train = commands.add_parser("train", help="train and judge one cutoff, forecast its day and publish")
    train.add_argument("--cutoff", type=date.fromisoformat, help="cutoff day (default: the newest Monday)")
    back = commands.add_parser("rollback", help="go back to an earlier champion and serve its forecast")
    back.add_argument("--to", type=int, help="registry version of a former champion (default: the previous champion)")
    back.add_argument("--reason", default="", help="why; recorded in champion/model_history")
    commands.add_parser(
        "fit-ensemble", help="fit the scorer `ensemble` on the labelled texts of BTC_LABELLED_SENTIMENT"
    )
    sql = commands.add_parser("sql", help="query the lake: every table is a view, such as forecasting.forecasts")
    sql.add_argument("query", help="one SELECT in DuckDB's SQL")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    chosen = parser().parse_args(arguments)
    try:
        config = read_settings()
        os.environ.setdefault("DAGSTER_HOME", str(DAGSTER_HOME))
        os.chdir(PROJECT_ROOT)
        return _run(chosen, config)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2


def _run(chosen: argparse.Namespace, config: Settings) -> int:
    """Run one command; read-only commands need no writable data folder."""
    if chosen.command == "sql":
        from btc_assets.cli.sql import sql

        return sql(config, chosen.query)
    if chosen.command == "fit-ensemble":
        from btc_assets.cli.fit_ensemble import fit_on_labelled

        return fit_on_labelled(config)
    if chosen.command == "compare":
        from btc_assets.cli.compare import compare

        return compare(
            config,
            chosen.families.split(","),
            chosen.start,
            chosen.end,
            every_days=chosen.every_days,
            window_days=chosen.window_days,
            horizon=chosen.horizon_minutes,
            files=chosen.files,
            again=chosen.again,
        )
    from btc_assets.ownership import claim_instance

    config.writable_dagster_dir()
    claim_instance()
    if chosen.command == "up":
        from btc_assets.cli.up import up

        return up(config)
    if chosen.command == "demo":
        from btc_assets.cli.demo import demo

        return demo(config)
    if chosen.command == "rollback":
        from btc_assets.cli.rollback import rollback

        return rollback(config, chosen.to, chosen.reason)
    from btc_assets.cli.walk_forward import train, walk_forward

    if chosen.command == "train":
        return train(config, chosen.cutoff)
    return walk_forward(chosen.start, chosen.end, every_days=chosen.every_days, resume=not chosen.again)
