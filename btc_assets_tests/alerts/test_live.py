"""End-to-end test of alerts: `dagster dev`, a webhook, a mail server and two conditions to report."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import httpx
import polars as pl
import pytest

from btc_assets.lake import Lake, by_day
from btc_assets.market.tables import PRICES
from btc_assets.partitions import key_of
from btc_assets.processes import free_port, running, wait_for_port
from btc_assets.settings import PROJECT_ROOT
from btc_assets_tests.conftest import WATCHDOG_S, random_walk_bars, wait_until
from btc_assets_tests.market.conftest import Exchange

LOOPBACK = "127.0.0.1"
LAUNCH = """
mutation launch($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) { __typename ... on LaunchRunSuccess { run { runId } } }
}
"""


def store_flat_bars(lake: Lake) -> None:
    """Store 31 days of synthetic bars with a nearly constant close up to the newest closed hour."""
    this_hour = datetime.now(tz=UTC).replace(minute=0, second=0, microsecond=0)
    start = this_hour.replace(hour=0) - timedelta(days=31)
    bars = random_walk_bars(int((this_hour - start) / timedelta(hours=1)), start=start)
    flat = bars.with_columns(pl.lit(10_000.0).alias("close") + pl.int_range(pl.len()).mod(7))
    days = flat["open_time"].dt.date().unique().sort().to_list()
    for day, part in by_day(PRICES, flat, days):
        lake.write(PRICES, day, part)


def lower_newest_close(lake: Lake) -> float:
    """Lower the close of the newest stored bar by 12 %; return the time of the write, seconds since the epoch."""
    day = lake.days(PRICES)[-1]
    bars = lake.read(PRICES, day)
    assert bars is not None
    newest = pl.col("open_time") == pl.col("open_time").max()
    fallen = pl.when(newest).then(8_800.0).otherwise("close").alias("close")
    lake.write(PRICES, day, bars.with_columns(fallen))
    return time.time()


def launch(ui: int, job: str, partition: str) -> str:
    """Launch a job for one partition through GraphQL, as the UI does; return the run id."""
    selector = {"repositoryLocationName": "btc_assets", "repositoryName": "__repository__", "jobName": job}
    tags = [{"key": "dagster/partition", "value": partition}]
    request = {
        "query": LAUNCH,
        "variables": {"parameters": {"selector": selector, "executionMetadata": {"tags": tags}}},
    }
    response = httpx.post(f"http://{LOOPBACK}:{ui}/graphql", json=request, timeout=WATCHDOG_S).raise_for_status().json()
    assert response["data"]["launchRun"]["__typename"] == "LaunchRunSuccess", json.dumps(response)
    return str(response["data"]["launchRun"]["run"]["runId"])


def end_time(storage: Path, run_id: str) -> float:
    """Return the end time of a failed run, seconds since the epoch."""
    with dg.DagsterInstance.local_temp(str(storage)) as instance:
        record = instance.get_run_record_by_id(run_id)
    assert record is not None
    assert record.dagster_run.status == dg.DagsterRunStatus.FAILURE
    assert record.end_time is not None
    return record.end_time


@pytest.mark.live
def test_a_fall_and_a_failed_run_reach_webhook_and_mail(
    tmp_path: Path,
    webhook: tuple[str, list[dict[str, str]], list[int]],
    mail_server: tuple[int, list[str], list[str]],
) -> None:
    (url, messages, _), (smtp_port, mails, _) = webhook, mail_server
    lake = Lake(root=str(tmp_path / "data" / "lake"))
    store_flat_bars(lake)
    exchange = Exchange()  # has no bars: every run that fetches bars fails
    ui, log = free_port(LOOPBACK, 0), tmp_path / "dagster_dev.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BTC_")} | {
        "DAGSTER_HOME": str(PROJECT_ROOT),
        "DAGSTER_GRPC_TIMEOUT_SECONDS": str(int(WATCHDOG_S)),  # Dagster's minute is too short on a busy machine
        "BTC_DATA_DIR": str(tmp_path / "data"),
        "BTC_MARKET_SOURCE": "binance",
        "BTC_BINANCE_URL": exchange.url,
        "BTC_BINANCE_ARCHIVE_URL": exchange.url,
        "BTC_HTTP_ATTEMPTS": "1",
        "BTC_NEWS_SOURCES": "none",
        "BTC_HISTORY_START": key_of(lake.days(PRICES)[0]),
        "BTC_REFRESH_CRON": "0 0 1 1 *",
        "BTC_ALERT_WEBHOOK_URL": url,
        "BTC_SMTP_HOST": LOOPBACK,
        "BTC_SMTP_PORT": str(smtp_port),
        "BTC_SMTP_SECURITY": "none",
        "BTC_ALERT_EMAIL_TO": "quant@example.com",
    }
    dagster = Path(sys.executable).parent / "dagster"
    command = [str(dagster), "dev", "-w", str(PROJECT_ROOT / "workspace.yaml"), "-p", str(ui)]
    with log.open("wb") as output, running(command, environment=environment, log=output.fileno()) as dev:

        def delivered(rule: str) -> bool:
            posted = any(message["text"].startswith(f"[HIGH] {rule}: ") for message in messages)
            return posted and any(f"rule: {rule}" in mail for mail in mails)

        wait_for_port(dev, LOOPBACK, ui, seconds=WATCHDOG_S)
        wait_until((tmp_path / "data" / "alerts" / "outbox.db").exists, log, dev)  # the sensors run
        assert not messages
        stored_at = lower_newest_close(lake)
        run_id = launch(ui, "refresh_prices", key_of(lake.days(PRICES)[-1]))
        wait_until(lambda: delivered("drawdown"), log, dev)
        fall_s = time.time() - stored_at
        wait_until(lambda: delivered("failed_run"), log, dev)
        failed_s = time.time() - end_time(tmp_path / "data" / "dagster", run_id)
    exchange.close()
    print(f"stored to delivered: {fall_s:.0f} s; failed to delivered: {failed_s:.0f} s")
    texts = [message["text"] for message in messages]
    assert any("[MEDIUM] price_move_24h: the price moved -12" in text for text in texts)
    assert any(f"(run {run_id})" in text for text in texts)
    assert all("rule: price_move_24h" not in mail for mail in mails)  # medium alerts go to the webhook only
