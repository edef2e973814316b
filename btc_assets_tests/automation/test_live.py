"""End-to-end test with Dagster's daemon, the forecast server, a local exchange and a local feed."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import polars as pl
import pytest

from btc_assets.automation.walk_forward import WALK_TAG
from btc_assets.lake import Lake
from btc_assets.news.tables import SENTIMENT_SCORES
from btc_assets.processes import free_port, running, wait_for_port
from btc_assets.settings import PROJECT_ROOT
from btc_assets_tests.conftest import WATCHDOG_S, random_walk_bars, wait_until
from btc_assets_tests.market.conftest import Answer, Exchange

LOOPBACK = "127.0.0.1"
HOUR = timedelta(hours=1)
HISTORY_DAYS = 75


class Venue:
    """A local server of Binance klines with bars up to a given hour."""

    def __init__(self, newest: datetime, history_days: int = HISTORY_DAYS) -> None:
        self.newest = newest
        self.headlines: list[str] = []
        start = (newest - timedelta(days=history_days)).replace(hour=0)
        self.bars = random_walk_bars(int((newest + 48 * HOUR - start) / HOUR), start=start)
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
    """Return the environment of a small deployment in temporary folders that uses the venue."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BTC_")}
    chosen = {
        "DAGSTER_HOME": str(PROJECT_ROOT),
        "BTC_DATA_DIR": str(root / "data"),
        "BTC_MARKET_SOURCE": "binance",
        "BTC_BINANCE_URL": venue.exchange.url,
        "BTC_BINANCE_ARCHIVE_URL": venue.exchange.url,
        "BTC_HTTP_REQUESTS_PER_SECOND": "50",
        "BTC_HISTORY_START": str(venue.bars["open_time"][0].date() + timedelta(days=2)),
        "BTC_TRAIN_DAYS": "60",
        "BTC_CV_FOLDS": "2",
        "BTC_CV_TEST_DAYS": "7",
        "BTC_TUNE_TRIALS": "0",
        "BTC_FEATURE_SET": "streamlined",
        "BTC_REFRESH_CRON": "* * * * *",
    }
    return kept | chosen | settings


@pytest.mark.live
def test_a_new_hour_reaches_the_endpoint_automatically(tmp_path: Path) -> None:
    this_hour = datetime.now(tz=UTC).replace(minute=0, second=0, microsecond=0)
    today = this_hour.replace(hour=0)
    available_until = (
        today if this_hour > today else today - timedelta(days=1)
    )  # the exchange has whole days up to this hour
    venue = Venue(newest=available_until - HOUR)
    feeds = tmp_path / "feeds.toml"
    feeds.write_text(
        f'[[feed]]\nname = "desk"\nurl = "{venue.exchange.url}/feed.xml"\noutlet = "desk.example"\nrhythm_hours = 24\n'
    )
    port = free_port(LOOPBACK, 0)
    environment = deployment_of(
        tmp_path,
        venue,
        BTC_NEWS_SOURCES="rss",
        BTC_NEWS_FEEDS=str(feeds),
        BTC_NEWS_CRON="* * * * *",
        BTC_SERVE_PORT=str(port),
    )
    last = (available_until - HOUR).date()
    walk = ["walk-forward", "--from", str(last - timedelta(days=1)), "--to", str(last)]
    trained = subprocess.run(
        [sys.executable, "-m", "btc_assets", *walk],
        env=environment,
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
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
        venue.newest += timedelta(days=2)  # the exchange publishes newer bars; the rest is automatic
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
