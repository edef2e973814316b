"""End-to-end test with Dagster's daemon, the forecast server, a local exchange and a local feed."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import polars as pl
import pytest

from btc_assets.automation.walk_forward import WALK_TAG
from btc_assets.clock import midnight
from btc_assets.lake import Lake
from btc_assets.market.tables import PRICES
from btc_assets.news.tables import SENTIMENT_SCORES
from btc_assets.processes import free_port, running, wait_for_port
from btc_assets.settings import PROJECT_ROOT
from btc_assets_tests.conftest import WATCHDOG_S, random_walk_bars, wait_until
from btc_assets_tests.market.conftest import Answer, Exchange

LOOPBACK = "127.0.0.1"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
FORECAST_DAYS = 20
"""Days with forecasts, enough for significant degradation."""
HISTORY_DAYS = FORECAST_DAYS + 64
PATHS_OF_MLFLOW = (
    *(("experiments", "artifact_location"), ("runs", "artifact_uri")),
    *(("model_versions", "source"), ("model_versions", "storage_location")),
)
"""Where MLflow stores absolute paths: table and column."""


class Venue:
    """A local server of Binance klines, and of a feed.

    Attributes:
        newest: opening hour of the newest bar that it serves.
        headlines: titles in the feed.
    """

    def __init__(self, until: datetime) -> None:
        """Have bars from `HISTORY_DAYS` days before a midnight, the same ones for the same midnight."""
        self.newest = until - HOUR
        self.headlines: list[str] = []
        self.bars = random_walk_bars((HISTORY_DAYS + 3) * 24, start=until - HISTORY_DAYS * DAY)
        self.exchange = Exchange()
        self.exchange.respond = self.answer

    def answer(self, path: str, query: dict[str, str]) -> Answer:
        if path == "/feed.xml":
            entries = "".join(
                f"<item><title>{title}</title><link>https://desk.example/{number}</link>"
                f"<pubDate>{format_datetime(datetime.now(tz=UTC))}</pubDate></item>"
                for number, title in enumerate(self.headlines)
            )
            return Answer(f'<rss version="2.0"><channel><title>desk</title>{entries}</channel></rss>'.encode())
        if path != "/api/v3/klines":
            return Answer(status=404)  # no archive
        opens = pl.col("open_time").dt.epoch("ms")
        bars = self.bars.filter(
            (pl.col("open_time") <= self.newest) & (opens >= int(query["startTime"])) & (opens <= int(query["endTime"]))
        )
        return Answer([_kline(bar) for bar in bars.head(int(query["limit"])).iter_rows(named=True)])


def _kline(bar: dict[str, object]) -> list[object]:
    opened = bar["open_time"]
    assert isinstance(opened, datetime)
    at = int(opened.timestamp() * 1000)
    prices = [str(bar[name]) for name in ("open", "high", "low", "close", "volume")]
    flow = [str(bar["quote_volume"]), bar["trades"], str(bar["taker_buy_volume"]), str(bar["taker_buy_quote_volume"])]
    return [at, *prices, at + 3_599_999, *flow, "0"]


def deployment_of(root: Path, venue: Venue, **settings: str) -> dict[str, str]:
    """Return the environment of a small deployment in temporary folders that uses the venue and its feed."""
    feeds = root / "feeds.toml"
    feeds.write_text(
        f'[[feed]]\nname = "desk"\nurl = "{venue.exchange.url}/feed.xml"\noutlet = "desk.example"\nrhythm_hours = 24\n'
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BTC_")}
    chosen = {
        "DAGSTER_HOME": str(PROJECT_ROOT),
        "DAGSTER_GRPC_TIMEOUT_SECONDS": str(int(WATCHDOG_S)),  # Dagster's minute is too short on a busy machine
        "BTC_DATA_DIR": str(root / "data"),
        "BTC_MARKET_SOURCE": "binance",
        "BTC_BINANCE_URL": venue.exchange.url,
        "BTC_BINANCE_ARCHIVE_URL": venue.exchange.url,
        "BTC_HTTP_REQUESTS_PER_SECOND": "50",
        "BTC_NEWS_SOURCES": "rss",
        "BTC_NEWS_FEEDS": str(feeds),
        "BTC_HISTORY_START": str(venue.bars["open_time"][0].date() + timedelta(days=2)),
        "BTC_TRAIN_DAYS": "60",
        "BTC_CV_FOLDS": "2",
        "BTC_CV_TEST_DAYS": "7",
        "BTC_TUNE_TRIALS": "0",
        "BTC_FEATURE_SET": "streamlined",
        "BTC_REFRESH_CRON": "* * * * *",
    }
    return kept | chosen | settings


def walked_deployment(
    root: Path, made_once: Callable[[str, Callable[[Path], None]], Path], empty_registry: Callable[[Path], None]
) -> datetime:
    """Put a copy of a deployment into a folder: one model, and forecasts of `FORECAST_DAYS` whole days before now.

    It is walked once for all tests. Returns the midnight up to which it has bars.
    """

    def walk(folder: Path) -> None:
        this_hour = datetime.now(tz=UTC).replace(minute=0, second=0, microsecond=0)
        today = this_hour.replace(hour=0)
        venue = Venue(today if this_hour > today else today - DAY)  # an hour is left to forecast
        empty_registry(folder / "data" / "mlflow" / "mlflow.db")
        first, last = (venue.newest + HOUR - FORECAST_DAYS * DAY).date(), venue.newest.date()
        days = ["--from", str(first), "--to", str(last), "--every", "60"]
        done = subprocess.run(
            [sys.executable, "-m", "btc_assets", "walk-forward", *days],
            env=deployment_of(folder, venue),
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        venue.exchange.close()

    walked = made_once("walked_deployment", walk)
    shutil.copytree(walked / "data", root / "data")
    with contextlib.closing(sqlite3.connect(root / "data" / "mlflow" / "mlflow.db")) as mlflow, mlflow:
        for table, column in PATHS_OF_MLFLOW:
            mlflow.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(walked), str(root)))
    return midnight(Lake(root=str(root / "data" / "lake")).days(PRICES)[-1]) + DAY


@pytest.mark.live
def test_a_new_hour_reaches_the_endpoint_automatically(
    tmp_path: Path,
    made_once: Callable[[str, Callable[[Path], None]], Path],
    empty_registry: Callable[[Path], None],
) -> None:
    available_until = walked_deployment(tmp_path, made_once, empty_registry)
    this_hour = datetime.now(tz=UTC).replace(minute=0, second=0, microsecond=0)
    venue = Venue(available_until)
    port = free_port(LOOPBACK, 0)
    environment = deployment_of(tmp_path, venue, BTC_NEWS_CRON="* * * * *", BTC_SERVE_PORT=str(port))
    daemon = [str(Path(sys.executable).parent / "dagster-daemon"), "run", "-w", str(PROJECT_ROOT / "workspace.yaml")]
    daemon_log = tmp_path / "daemon.log"
    with (
        (tmp_path / "serve.log").open("wb") as serve_output,
        daemon_log.open("wb") as output,
        running([sys.executable, "-m", "serve"], environment=environment, log=serve_output.fileno()) as server,
        running(daemon, environment=environment, log=output.fileno()) as dagster,
    ):
        wait_for_port(server, LOOPBACK, port, seconds=WATCHDOG_S)

        def forecast_time(name: str) -> datetime:
            answer = httpx.get(f"http://{LOOPBACK}:{port}/v1/forecast", timeout=WATCHDOG_S)
            return datetime.fromisoformat(answer.raise_for_status().json()[name])

        def made_at() -> datetime:
            return forecast_time("made_at")

        assert made_at() == available_until
        venue.newest += 2 * DAY  # the exchange publishes newer bars; the rest is automatic
        published, started = time.monotonic(), datetime.now(tz=UTC)
        venue.headlines.append("Bitcoin soars to a record as funds rejoice")
        lake = Lake(root=str(tmp_path / "data" / "lake"))

        def scored() -> bool:
            return lake.scan(SENTIMENT_SCORES).filter(pl.col("score") > 0).collect().height > 0

        wait_until(scored, daemon_log, dagster)
        print(f"published to scored: {time.monotonic() - published:.0f} s")
        wait_until(lambda: made_at() >= this_hour, daemon_log, dagster, server)
        assert forecast_time("published_at") >= started
        with contextlib.closing(sqlite3.connect(tmp_path / "data" / "dagster" / "history" / "runs.db")) as runs:
            walked = f"SELECT run_id FROM run_tags WHERE key = '{WALK_TAG}'"
            jobs = {name for (name,) in runs.execute(f"SELECT pipeline_name FROM runs WHERE run_id NOT IN ({walked})")}
        assert "refresh_forecast" in jobs
        assert jobs.isdisjoint({"forecast_days", "publish_bundle"}), "one run builds everything, without the sensors"
    venue.exchange.close()
