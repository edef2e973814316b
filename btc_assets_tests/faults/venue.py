"""An exchange on a real local socket that lives by its own clock, and the project's hourly refresh against it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import polars as pl
import pytest

from btc_assets.automation import schedules
from btc_assets.automation.schedules import hourly_refresh
from btc_assets.lake import Lake
from btc_assets.market.assets import prices
from btc_assets.market.resources import Market
from btc_assets.market.sources.binance import BinanceSource
from btc_assets.market.tables import PRICES
from btc_assets.reads import lake_resources
from btc_assets.settings import Settings
from btc_assets_tests.conftest import random_walk_bars
from btc_assets_tests.market.conftest import Answer, Exchange, transport

START = datetime(2019, 5, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Venue:
    """Binance's klines; it tells what has happened by its own clock, the hour that is not over yet included.

    Attributes:
        now: its clock, which is right.
        down: whether it answers 503.
        stuck_at: newest hour it tells, where it has stopped to go on.
    """

    def __init__(self, exchange: Exchange, now: datetime) -> None:
        self.now, self.down, self.stuck_at = now, False, datetime.max.replace(tzinfo=UTC)
        self.exchange = exchange
        self._bars = random_walk_bars(100 * 24, start=START)
        exchange.respond = self.answer

    def answer(self, path: str, query: dict[str, str]) -> Answer:
        if path != "/api/v3/klines":
            return Answer(status=404)
        if self.down:
            return Answer(status=503)
        opens = pl.col("open_time").dt.epoch("ms")
        known = self._bars.filter(
            (opens >= int(query["startTime"]))
            & (opens <= int(query["endTime"]))
            & (pl.col("open_time") <= min(self.now, self.stuck_at))
        )
        return Answer([self._kline(bar) for bar in known.head(int(query["limit"])).iter_rows(named=True)])

    def _kline(self, bar: dict[str, object]) -> list[object]:
        opened = bar["open_time"]
        assert isinstance(opened, datetime)
        at = int(opened.timestamp() * 1000)
        whole = opened + HOUR <= self.now
        told = bar if whole else bar | {"close": bar["open"], "volume": 1.0, "trades": 1}
        prices = [str(told[name]) for name in ("open", "high", "low", "close", "volume")]
        flow = [str(told["quote_volume"]), told["trades"], *(str(told[f"taker_buy_{n}volume"]) for n in ("", "quote_"))]
        return [at, *prices, at + 3_599_999, *flow, "0"]


class Refresher:
    """The schedule `hourly_refresh` and what it asks for, run for real, on a clock of their own.

    Attributes:
        now: the project's clock.
        lake: where the bars go.
        instance: that remembers the runs.
    """

    def __init__(self, venue: Venue, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
        self.venue, self.lake, self.now = venue, lake, venue.now
        self.instance = dg.DagsterInstance.ephemeral()
        live = Settings(market_source="binance", history_start=START.date())
        monkeypatch.setattr(schedules, "settings", lambda: live)
        monkeypatch.setattr(Settings, "now", lambda _: self.now)
        monkeypatch.setattr(dg.ScheduleEvaluationContext, "instance", self.instance)

    def asked(self) -> dg.RunRequest | dg.SkipReason:
        """Evaluate the schedule's tick of this moment."""
        return hourly_refresh(
            dg.build_schedule_context(scheduled_execution_time=self.now, resources={"lake": self.lake})
        )

    def tick(self) -> bool:
        """Run what the tick of this moment asks for; say whether it succeeded."""
        request = self.asked()
        assert isinstance(request, dg.RunRequest)
        return self.run(request.partition_key, request.tags)

    def run(self, key: str | None, tags: dict[str, str]) -> bool:
        """Run the real asset over a day or a range of days."""
        api = transport(self.venue.exchange, attempts=1)
        source = BinanceSource(api, api, "BTCUSDT", clock=lambda: self.now)
        return dg.materialize(
            [prices],
            partition_key=key,
            tags={name: value for name, value in tags.items() if name.startswith("dagster/asset_partition")},
            resources={**lake_resources(self.lake), "market": Market(source, lambda: self.now)},
            instance=self.instance,
            raise_on_error=False,
        ).success

    def hour_later(self, hours: int = 1) -> None:
        """Let time pass, for the project and the exchange alike."""
        self.now += hours * HOUR
        self.venue.now += hours * HOUR

    def bars(self, day: date) -> pl.DataFrame:
        """Return the stored bars of a day; none where it is not stored."""
        frame = self.lake.read(PRICES, day)
        return PRICES.empty() if frame is None else frame
