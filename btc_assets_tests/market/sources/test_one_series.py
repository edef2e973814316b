"""Bars that are not one hourly series of one instrument are refused with file and line; outages are accepted."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from btc_assets.clock import HOUR
from btc_assets.market.sources.files import FileSource
from btc_assets.market.sources.instrument import Instrument, instrument_of
from btc_assets.market.tables import PRICES
from btc_assets.transport import SourceMalformedError
from btc_assets_tests.conftest import random_walk_bars

CLOSES = ("open_time", "open", "high", "low", "close", "volume", "close_time")
START = datetime(2018, 1, 1, tzinfo=UTC)
NOW = datetime(2019, 1, 1, tzinfo=UTC)
HOURS = random_walk_bars(24 * 20, start=START)
Read = Callable[..., pl.DataFrame]
PLAIN = ("open_time", "open", "high", "low", "close", "volume")


def of_span(span: str, bars: pl.DataFrame = HOURS) -> pl.DataFrame:
    """Return bars of another span, made of hours."""
    return bars.group_by_dynamic("open_time", every=span).agg(
        pl.col("open").first(), pl.col("high").max(), pl.col("low").min(), pl.col("close").last(),
        pl.col("volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume").sum(),
    )  # fmt: skip


def text(bars: pl.DataFrame, columns: Sequence[str] = PLAIN, **options: object) -> bytes:
    target = io.BytesIO()
    bars.select(columns).write_csv(target, datetime_format="%Y-%m-%d %H:%M:%S", **options)  # type: ignore[call-overload]
    return target.getvalue()


def klines(bars: pl.DataFrame, span: timedelta) -> bytes:
    """Return bars as an archive of Binance holds them."""
    rows = bars.select(
        pl.col("open_time").dt.epoch("ms"), *PLAIN[1:],
        (pl.col("open_time") + span).dt.epoch("ms").sub(1).alias("close_time"),
        "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume", ignore=pl.lit(0),
    )  # fmt: skip
    return text(rows, rows.columns, include_header=False)


def zipped(name: str, content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(name, content)
    return target.getvalue()


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return a function that writes files and reads them as one history."""

    def reader(**files: bytes) -> pl.DataFrame:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
        return FileSource(str(tmp_path / "**"), clock=lambda: NOW).fetch(START, NOW, NOW)

    return reader


def between(first: int, last: int, bars: pl.DataFrame = HOURS) -> pl.DataFrame:
    """Return the bars of days, the last one left out."""
    days = pl.col("open_time") - START
    return bars.filter((days >= timedelta(days=first)) & (days < timedelta(days=last)))


# --- spans -------------------------------------------------------------------------------------------
LEAKS = {
    "a daily kline zip beside hourly ones": (
        {
            "BTCUSDT-1h-2018-01-01.zip": zipped("BTCUSDT-1h-2018-01-01.csv", klines(between(0, 1), HOUR)),
            "BTCUSDT-1d-2018-01-02.zip": zipped(
                "BTCUSDT-1d-2018-01-02.csv", klines(between(1, 2, of_span("1d")), timedelta(days=1))
            ),
        },
        r"BTCUSDT-1d-2018-01-02.csv, line 1: expected a bar of the hour from 2018-01-02 00:00 UTC, got one that closes",
    ),
    "days, then hours, in one file": (
        {"bars.csv": text(pl.concat([between(0, 10, of_span("1d")).select(PLAIN), between(10, 20).select(PLAIN)]))},
        "bars.csv, line 2: .* but it and the 10 bars after it follow each other every 1 day",
    ),
    "hours, then days, in one file": (
        {"bars.csv": text(pl.concat([between(0, 10).select(PLAIN), between(10, 20, of_span("1d")).select(PLAIN)]))},
        "bars.csv, line 242: .* every 1 day",
    ),
    "days beside their own hours": (
        {"bars.csv": text(pl.concat([of_span("1d").select(PLAIN), HOURS.select(PLAIN)]))},
        "bars.csv, line 2: .* every 1 day",
    ),
    "days in one file, hours in another": (
        {"a.csv": text(between(0, 3, of_span("1d"))), "b.csv": text(between(3, 20))},
        "a.csv, line 2: .* the usual step between the file's times is 1 day",
    ),
    "four days, each in a file": (
        {f"{n}.csv": text(between(n, n + 1, of_span("1d"))) for n in range(4)} | {"b.csv": text(between(4, 20))},
        "0.csv, line 2: .* it and the 4 bars after it follow each other every 1 day",
    ),
    "one day among hours": (
        {"bars.csv": text(pl.concat([between(0, 5), between(5, 6, of_span("1d")), between(6, 20)], how="diagonal"))},
        r"bars.csv, line 122: .* times the volume of an hour that closes where the next bar opens, 1 day later",
    ),
    "one day beside its own hours": (
        {"a.csv": text(HOURS), "b.csv": text(between(5, 6, of_span("1d")))},
        "b.csv, line 2: .* got one with the prices of the 24 hours from it",
    ),
    "twice four hours": (
        {"bars.csv": text(pl.concat([HOURS[:48], of_span("4h", HOURS[48:56]), HOURS[56:]], how="diagonal"))},
        "bars.csv, line 50: .* closes where the next bar opens, 4 hours later",
    ),
    "a day at the end": (
        {"bars.csv": text(pl.concat([between(0, 19), between(19, 20, of_span("1d"))], how="diagonal"))},
        "bars.csv, line 458: .* times the volume of an hour and nothing after it",
    ),
    "one week": (
        {"bars.csv": text(pl.concat([between(0, 7), between(7, 14, of_span("1w")), between(14, 20)], how="diagonal"))},
        "bars.csv, line 170: .* closes where the next bar opens, 7 days later",
    ),
    "four hours, several times": (
        {"bars.csv": text(pl.concat([between(0, 5), between(5, 6, of_span("4h")), between(6, 20)], how="diagonal"))},
        "bars.csv, line 122: .* it and the 6 bars after it follow each other every 4 hours",
    ),
    "two hours": ({"bars.csv": text(of_span("2h"))}, "bars.csv, line 2: .* the usual step .* is 2 hours"),
    "a month": ({"bars-1mo.csv": text(of_span("1mo"))}, "but the file's name says '1mo'"),
    "a single day that only its name reveals": (
        {"a.csv": text(between(0, 10)), "Binance_BTCUSDT_d.csv": text(between(10, 11, of_span("1d")))},
        "Binance_BTCUSDT_d.csv, line 2: .* but the file's name says 'd'",
    ),
    "a single day of Kraken": (
        {"a.csv": text(between(0, 10)), "XBTUSD_1440.csv": text(between(10, 11, of_span("1d")))},
        "XBTUSD_1440.csv, line 2: .* but the file's name says '1440'",
    ),
    "half hours": (
        {"bars.csv": text(HOURS.upsample("open_time", every="30m").fill_null(strategy="forward"))},
        "bars.csv, line 3: expected a bar that opens on the hour, got 2018-01-01 00:30:00",
    ),
    "one minute among hours": (
        {"a.csv": text(HOURS), "b.csv": text(HOURS[:1].with_columns(pl.col("open_time") + timedelta(minutes=1)))},
        "b.csv, line 2: expected a bar that opens on the hour",
    ),
    "quarters of hours, one an hour": (
        {"BTCUSDT-2018.csv": klines(HOURS, timedelta(minutes=15))},
        "BTCUSDT-2018.csv, line 1: expected a bar of the hour .* got one that closes at 00:14:59",
    ),
    "a day that only its close time reveals": (
        {"bars.csv": text(HOURS.with_columns(close_time=pl.when(pl.int_range(pl.len()) == 50)
            .then(pl.col("open_time") + timedelta(days=1)).otherwise(pl.col("open_time") + HOUR)), CLOSES)},
        "bars.csv, line 52: .* got one that closes at 2018-01-04 02:00",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEAKS)
def test_a_bar_that_is_not_of_an_hour_is_refused_with_its_file_and_line(case: str, read: Read) -> None:
    files, sentence = LEAKS[case]
    with pytest.raises(SourceMalformedError, match=sentence):
        read(**files)


def without(hours: Sequence[int]) -> pl.DataFrame:
    return HOURS.with_row_index("n").filter(~pl.col("n").is_in(list(hours))).drop("n")


@pytest.mark.parametrize(
    "missing",
    [
        range(25, 48), range(24, 48), range(48, 24 * 10), [5, 7, 9, 11, 13], [30, 31, 32, 34, 35, 36],
        [n for day in (2, 3, 4) for n in range(24 * day + 1, 24 * day + 24)][:46],
    ],
    ids=["to midnight", "a day", "a week", "every other hour", "around one bar", "two days but for their midnight"],
)  # fmt: skip
def test_gaps_are_no_longer_bars(missing: Sequence[int], read: Read) -> None:
    assert read(**{"bars.csv": text(without(missing))}).height == HOURS.height - len(missing)


def test_a_thin_history_is_still_one_of_hours(read: Read) -> None:
    bars = random_walk_bars(24 * 365, start=START)
    thin = bars.filter(pl.Series(np.random.default_rng(3).random(bars.height) > 0.3))
    assert read(**{"bars.csv": text(thin)}).height == thin.height


def test_files_of_an_hour_each_are_read_whole(read: Read) -> None:
    assert read(**{f"{n}.csv": text(HOURS[n : n + 1]) for n in range(12)}).height == 12


def test_outage_bars_with_a_cut_close_time_are_bars(read: Read) -> None:
    cut = HOURS.with_columns(
        close_time=pl.col("open_time") + pl.when(pl.int_range(pl.len()) == 7).then(timedelta(minutes=9)).otherwise(HOUR)
    )
    assert read(**{"bars.csv": text(cut, CLOSES)}).height == HOURS.height


def test_real_outages_are_no_longer_bars(shared_data: Path, tmp_path: Path) -> None:
    bars = pl.read_parquet(shared_data / "market" / "btcusdt_spot_1h.parquet")
    bars.write_parquet(tmp_path / "bars.parquet")
    found = FileSource(str(tmp_path / "bars.parquet")).fetch(
        bars["open_time"][0], bars["open_time"][-1] + HOUR, datetime.now(UTC)
    )
    assert found.height == bars.height


# --- instruments -------------------------------------------------------------------------------------
OTHER = HOURS.with_columns(pl.col("open", "high", "low", "close") / 15)


@pytest.mark.parametrize(
    ("files", "both"),
    [
        ({"BTCUSDT-1h-2018.csv": HOURS, "ETHUSDT-1h-2018.csv": OTHER}, ("BTCUSDT", "ETHUSDT")),
        ({"bitcoin.csv": HOURS, "ethereum.csv": OTHER}, ("bitcoin", "ethereum")),
        ({"BTC/2018.csv": HOURS, "ETH/2018.csv": OTHER}, ("BTC", "ETH")),
        ({"btc_usd.csv": HOURS, "btc_eur.csv": OTHER}, ("btc_usd", "btc_eur")),
        ({"BTCUSDT.csv": HOURS, "BTCUSDT_PERP.csv": HOURS}, ("BTCUSDT.csv", "BTCUSDT_PERP.csv")),
        ({"a.csv": HOURS.with_columns(Symbol=pl.lit("BTCUSDT")), "b.csv": OTHER.with_columns(Symbol=pl.lit("ETHUSDT"))},
         ("BTCUSDT", "ETHUSDT")),
        ({"a.csv": HOURS.with_columns(ticker=pl.lit("BTC-USD")), "ETHUSD.csv": OTHER}, ("BTC-USD", "ETHUSD")),
        ({"a.csv": HOURS.with_columns(pair=pl.when(pl.col("open_time").dt.hour() < 12).then(pl.lit("BTC/EUR"))
            .otherwise(pl.lit("BTC/USD")))}, ("BTC/EUR", "BTC/USD")),
        ({f"{n}.csv": HOURS.with_columns(asset=pl.lit(n * 2)) for n in "ab"}, ("aa", "bb")),
    ],
)  # fmt: skip
def test_two_instruments_are_refused_by_both_their_names(
    files: dict[str, pl.DataFrame], both: Sequence[str], read: Read
) -> None:
    extra = ("Symbol", "ticker", "pair", "asset")
    contents = {
        name: text(frame, [*PLAIN, *(column for column in extra if column in frame.columns)])
        for name, frame in files.items()
    }
    with pytest.raises(SourceMalformedError) as error:
        read(**contents)
    assert "expected bars of one instrument" in str(error.value).lower()
    for name in both:
        assert name in str(error.value)


@pytest.mark.parametrize("second", [between(10, 20, OTHER), OTHER, OTHER[:5]], ids=["after", "beside", "a few"])
def test_two_price_levels_that_nothing_names_are_refused(second: pl.DataFrame, read: Read) -> None:
    with pytest.raises(SourceMalformedError, match=r"[ab].csv, line \d+ and [ab].csv, line \d+: .* two instruments"):
        read(**{"a.csv": text(between(0, 10)), "b.csv": text(second)})


def test_the_price_in_another_currency_is_refused(read: Read) -> None:
    euros = HOURS.with_columns(pl.col("open", "high", "low", "close") / 1.08)
    with pytest.raises(SourceMalformedError, match="two instruments or currencies"):
        read(**{"a.csv": text(HOURS), "b.csv": text(euros)})


def test_spellings_of_one_instrument_are_one(read: Read) -> None:
    names = ("BTCUSDT-1h.csv", "BTC-USD.csv", "XBTUSD_60.csv", "btc.csv", "more.csv", "Coinbase_BTCUSDC_1h.csv")
    days = len(names)
    found = read(**{name: text(between(n, n + 1)) for n, name in enumerate(names)})
    assert found.height == 24 * days
    assert set(PRICES.columns) <= set(found.columns)


@pytest.mark.parametrize(
    ("name", "instrument"),
    [
        *((name, Instrument("BTC", "USD")) for name in (
            "BTCUSDT", "btcusdt-1h-2018-01.csv", "BTC-USD", "BTC/USDT:USDT", "XBTUSD_60.csv", "XXBTZUSD", "tBTCUSD",
            "Bitstamp_BTCUSD_1h", "btc_usdc", "BTCFDUSD")),
        ("bitcoin.csv", Instrument("BTC")), ("BTCEUR", Instrument("BTC", "EUR")), ("ETHBTC", Instrument("ETH", "BTC")),
        ("BTCUSD_PERP", Instrument("BTC", "USD", perpetual=True)), ("WLDUSDT-1h", Instrument("WLD", "USD")),
        *((name, None) for name in ("bars.csv", "2018-01.csv", "history_usd.csv", "btc_eth.csv", "usd.csv", "")),
    ],
)  # fmt: skip
def test_an_instrument_is_recognized_by_its_name(name: str, instrument: Instrument | None) -> None:
    assert instrument_of(name) == instrument
