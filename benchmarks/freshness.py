"""From the close of a bar at the exchange to the forecast over HTTP, under `dagster dev`.

    python -m benchmarks.freshness [--refreshes 20] [--late 0.5]

A local exchange responds like Binance, including the open hour, and publishes each bar with a delay after its close.
The project runs as in a live deployment: `dagster dev` with all schedules and sensors, the forecast server, and a
champion trained on the sample. Its clock is replaced (`benchmarks.minute_hours`): an hour lasts a minute, the shortest
interval of a cron expression. The benchmark measures the real time from the close of a bar to the first response of
`/v1/forecast` based on it, polled ten times a second, and the user and system CPU of all processes of `dagster dev` and
of the server, during the refreshes and at rest.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import polars as pl

from benchmarks.minute_clock import FROZEN_AT, STARTS_AT, clock
from benchmarks.predict import process_tree
from btc_assets.market.sources.sample import SAMPLE
from btc_assets.market.synthetic import quarters_of
from btc_assets.processes import free_port, running, wait_for_port
from btc_assets.settings import PROJECT_ROOT

LOOPBACK = "127.0.0.1"
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
HISTORY_UNTIL = datetime(2019, 9, 4, 3, tzinfo=UTC)
"""Time of the clock during the setup; twenty hours later it is still the same day."""
HISTORY = timedelta(days=290)
"""Fetched history: a training window and the warm-up of its features."""
SET_UP_MINUTES = 3
"""Minutes from the start of the processes to the start of the clock."""
TIMEOUT_S = 180.0
"""Seconds after which a refresh counts as missed."""
REFRESHES = 20
_STEPS_MS = {"1h": 3_600_000, "15m": 900_000}
"""Lengths of the exchange's bars."""


@dataclass(frozen=True)
class Freshness:
    """The measurements.

    Attributes:
        seconds: time from close to response per refresh; `TIMEOUT_S` without a response.
        cpu_s: CPU of all processes in the minute of a refresh, including the load at rest.
        at_rest_s: CPU of all processes in a minute without a refresh.
    """

    seconds: tuple[float, ...]
    cpu_s: float
    at_rest_s: float

    @property
    def median(self) -> float:
        """Median time from close to response, seconds."""
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """95th percentile of the time from close to response, seconds (the 19th of 20)."""
        ordered = sorted(self.seconds)
        return ordered[max(0, -(-len(ordered) * 95 // 100) - 1)]


class Exchange:
    """A local server of Binance klines that uses the benchmark's clock.

    Attributes:
        url: address of the server.
        starts_at: when the clock starts to run; None while it is frozen.
    """

    def __init__(self, bars: pl.DataFrame, late: timedelta) -> None:
        """Publish each bar with a delay of `late` after its close."""
        self.starts_at: datetime | None = None
        self._late = late
        hours = bars.with_columns(
            quote_volume=pl.col("volume") * pl.col("close"),
            trades=(pl.col("volume") * 10).cast(pl.Int64),
            taker_buy_volume=pl.col("volume") / 2,
            venue=pl.lit("local"),
        )
        self._bars = {
            interval: {_ms(bar["open_time"]): bar for bar in frame.iter_rows(named=True)}
            for interval, frame in (("1h", hours), ("15m", quarters_of(hours, seed=0)))
        }
        exchange = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                is_klines = url.path == "/api/v3/klines"
                body = json.dumps(exchange.klines(dict(parse_qsl(url.query)))).encode() if is_klines else b""
                self.send_response(200 if is_klines else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Close the server."""
        self.server.shutdown()
        self.server.server_close()

    def klines(self, query: dict[str, str]) -> list[list[Any]]:
        """Return the requested rows that have opened; the open hour has partial values."""
        now = _ms(clock(datetime.now(tz=UTC) - self._late, HISTORY_UNTIL, self.starts_at))
        first, last = int(query["startTime"]), min(int(query["endTime"]), now)
        bars, step = self._bars[query["interval"]], _STEPS_MS[query["interval"]]
        times = [at for at in range(-(-first // step) * step, last + 1, step) if at in bars]
        return [self._kline(bars[at], at + step, closed=at + step <= now) for at in times[: int(query["limit"])]]

    def _kline(self, bar: dict[str, Any], end: int, *, closed: bool) -> list[Any]:
        prices = [bar[name] for name in ("open", "high", "low", "close")] if closed else [bar["open"]] * 4
        volume = bar["volume"] if closed else bar["volume"] / 2
        quote = volume * prices[3]
        flow = [str(quote), int(volume * 10), str(volume / 2), str(quote / 2)]
        return [_ms(bar["open_time"]), *map(str, prices), str(volume), end - 1, *flow, "0"]


def run(refreshes: int, late_s: float, set_up: timedelta, folder: Path) -> Freshness:
    """Set up a deployment in a folder and measure a number of refreshes.

    Args:
        refreshes: number of hours to measure.
        late_s: delay of the exchange after a bar's close, seconds.
        set_up: time for `dagster dev` and the server to start before the clock starts.
        folder: working folder.
    """
    _say("start an exchange and train a champion on the sample")
    exchange = Exchange(pl.read_parquet(SAMPLE), timedelta(seconds=late_s))
    port, ui = free_port(LOOPBACK, 0), free_port(LOOPBACK, 0)
    environment = deployment(folder, exchange.url, port)
    train(folder, environment)
    _say("start dagster dev and the forecast server; then measure a minute at rest")
    begin = _next_minute() + set_up
    minutes = ",".join(str((begin + n * MINUTE).minute) for n in range(1, refreshes + 1))
    environment |= {STARTS_AT: begin.isoformat(), "BTC_REFRESH_CRON": f"{minutes} * * * *"}
    exchange.starts_at = begin
    dagster = [
        *(str(Path(sys.executable).parent / "dagster"), "dev", "-m", "benchmarks.minute_hours"),
        *("-d", str(PROJECT_ROOT), "-h", LOOPBACK, "-p", str(ui), "--log-level", "warning"),
    ]
    try:
        with (
            (folder / "dagster.log").open("wb") as dagster_log,
            (folder / "serve.log").open("wb") as serve_log,
            running([sys.executable, "-m", "serve"], environment=environment, log=serve_log.fileno()) as server,
            running(dagster, environment=environment, log=dagster_log.fileno()) as dev,
        ):
            for process, its_port in ((server, port), (dev, ui)):
                wait_for_port(process, LOOPBACK, its_port, seconds=(set_up - MINUTE).total_seconds())
            return _measure(refreshes, begin, port, [dev.pid, server.pid])
    finally:
        exchange.close()


def _measure(refreshes: int, begin: datetime, port: int, roots: Sequence[int]) -> Freshness:
    """Measure the minute before the first hour, then each refresh."""
    _sleep_until(begin - MINUTE / 2)
    resting = cpu_seconds(roots)
    _sleep_until(begin)
    working = cpu_seconds(roots)
    at_rest_s = 2 * (working - resting)
    seconds: list[float] = []
    for n in range(1, refreshes + 1):
        made_at, close = HISTORY_UNTIL + n * HOUR, begin + n * MINUTE
        seconds.append(_seconds_to_response(port, made_at, close))
        _say(f"{n:2d}: the forecast made at {made_at:%H:%M} is served {seconds[-1]:.1f} s after its bar closed")
    _sleep_until(begin + (refreshes + 1) * MINUTE)
    spent = cpu_seconds(roots) - working - at_rest_s  # the first minute had no refresh
    return Freshness(tuple(seconds), spent / refreshes, at_rest_s)


def _seconds_to_response(port: int, made_at: datetime, close: datetime) -> float:
    """Return the seconds from the close of a bar to the first response based on it or a later bar."""
    _sleep_until(close)
    while (late := (datetime.now(tz=UTC) - close).total_seconds()) < TIMEOUT_S:
        with contextlib.suppress(OSError, urllib.error.URLError, ValueError, KeyError):
            with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/v1/forecast", timeout=5) as response:
                forecast = json.load(response)
            if datetime.fromisoformat(forecast["made_at"]) >= made_at:
                return (datetime.now(tz=UTC) - close).total_seconds()
        time.sleep(0.1)
    return late


# --- the deployment -------------------------------------------------------------------------------
def deployment(folder: Path, exchange_url: str, port: int) -> dict[str, str]:
    """Return the environment variables of a temporary deployment."""
    return {
        FROZEN_AT: HISTORY_UNTIL.isoformat(),
        "DAGSTER_HOME": str(PROJECT_ROOT),
        "BTC_DATA_DIR": str(folder / "data"),
        "BTC_MARKET_SOURCE": "binance",
        "BTC_BINANCE_URL": exchange_url,
        "BTC_BINANCE_ARCHIVE_URL": exchange_url,
        "BTC_HISTORY_START": (HISTORY_UNTIL - HISTORY).date().isoformat(),
        "BTC_NEWS_SOURCES": "none",
        "BTC_FEATURE_SET": "streamlined",
        "BTC_TRAIN_DAYS": "240",
        "BTC_CV_FOLDS": "2",
        "BTC_CV_TEST_DAYS": "28",
        "BTC_TUNE_TRIALS": "0",
        "BTC_SERVE_PORT": str(port),
    }


def train(folder: Path, environment: dict[str, str]) -> None:
    """Train a champion two days before the clock's day and forecast the next day; cached in the folder."""
    trained, data = folder / "trained", Path(environment["BTC_DATA_DIR"])
    if not trained.exists():
        shutil.rmtree(data, ignore_errors=True)
        _walk(folder, environment)
        os.rename(data, trained)
    shutil.rmtree(data, ignore_errors=True)
    shutil.copytree(trained, data)


def _walk(folder: Path, environment: dict[str, str]) -> None:
    days = [(HISTORY_UNTIL - timedelta(days=n)).date().isoformat() for n in (2, 1)]
    command = "import sys, benchmarks.minute_hours; from btc_assets.cli.main import main; sys.exit(main(sys.argv[1:]))"
    with (folder / "train.log").open("wb") as log:
        process = subprocess.run(
            [sys.executable, "-c", command, "walk-forward", "--from", days[0], "--to", days[1]],
            env={**os.environ, **environment},
            cwd=PROJECT_ROOT,
            stdout=log,
            stderr=log,
            timeout=900,
            check=False,
        )
    if process.returncode:
        raise RuntimeError(f"training the champion failed: {(folder / 'train.log').read_text()[-2000:]}")


def cpu_seconds(roots: Sequence[int]) -> float:
    """Return the user and system CPU of processes and all their descendants, including ended ones, seconds."""
    ticks = 0
    for root in roots:
        for pid in process_tree(root):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _next_minute() -> datetime:
    return datetime.now(tz=UTC).replace(second=0, microsecond=0) + MINUTE


def _sleep_until(moment: datetime) -> None:
    time.sleep(max(0.0, (moment - datetime.now(tz=UTC)).total_seconds()))


def _say(what: str) -> None:
    print(f"==> {what}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the results; a folder given by `--folder` is kept."""
    description, _, notes = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.freshness",
        description=description,
        epilog=notes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--refreshes", type=int, default=REFRESHES, choices=range(1, 51), metavar="1-50")
    parser.add_argument(
        "--late", type=float, default=0.5, help="seconds from a bar's close to its publication by the exchange"
    )
    parser.add_argument(
        "--set-up",
        type=int,
        default=SET_UP_MINUTES,
        choices=range(2, 31),
        metavar="2-30",
        help="minutes for dagster dev to start; use more on a busy machine",
    )
    parser.add_argument("--folder", type=Path, help="working folder; it is kept and the champion is reused")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        measured = run(options.refreshes, options.late, timedelta(minutes=options.set_up), folder.resolve())
    print(
        f"close to response over {len(measured.seconds)} refreshes: median {measured.median:.1f} s, "
        f"p95 {measured.p95:.1f} s, max {max(measured.seconds):.1f} s\n"
        f"CPU of all processes: {measured.cpu_s:.1f} s in a minute with a refresh, "
        f"{measured.at_rest_s:.1f} s in one without"
    )


if __name__ == "__main__":
    main()
