"""The user's own files: column names, time formats and defects found in practice."""

from __future__ import annotations

import io
import os
import zipfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from btc_assets.market.bars import clean
from btc_assets.market.sources import files
from btc_assets.market.sources.files import FileSource, read_table
from btc_assets.market.tables import PRICES
from btc_assets.transport import SourceMalformedError, SourceRefusedError
from btc_assets_tests.market.conftest import DAY, hours, kline

HOUR = timedelta(hours=1)
NOW = datetime(2019, 1, 1, tzinfo=UTC)
EPOCH = int(DAY.timestamp())


def csv(header: str, *rows: str) -> bytes:
    return "\n".join([header, *rows]).encode()


def source(pattern: Path, now: datetime = NOW) -> FileSource:
    return FileSource(str(pattern), clock=lambda: now)


def fetch(path: Path, now: datetime = NOW) -> pl.DataFrame:
    return source(path, now).fetch(DAY, DAY + 48 * HOUR, now)


@pytest.mark.parametrize(
    "stamp",
    [
        f"{EPOCH}", f"{EPOCH}.0", f"{EPOCH}000", f"{EPOCH}000000", f"{EPOCH}000000000", "2018-05-05 00:00:00",
        "2018-05-05T00:00:00Z", "2018-05-05 00:00", "2018/05/05 00:00:00", "2018-05-05T00:00:00.000000",
        "2018-05-05 00:00:00 UTC", "2018-05-05 00:00:00+00:00", "2018-05-05T09:00:00+09:00", "2018-05-04 19:30:00-0430",
        "2018-05-05",
    ],
)  # fmt: skip
def test_every_common_stamp_is_the_same_hour(stamp: str) -> None:
    frame = read_table("x.csv", csv("timestamp,open,high,low,close,volume", f"{stamp},100,101,99,100,1"))
    assert frame["open_time"].to_list() == [DAY]


@pytest.mark.parametrize(
    "header",
    [
        "open_time,open,high,low,close,volume",
        "Timestamp,Open,High,Low,Close,Volume",
        "Unix,open,high,low,close,Volume BTC",
        "Date,BTC.open,BTC.high,BTC.low,BTC.close,BTC.volume",
        "Open time,Open Price,High Price,Low Price,Close Price,Base Volume",
        "t,o,h,l,c,v",
    ],
)
def test_every_common_header_is_understood(header: str) -> None:
    frame = read_table("x.csv", csv(header, f"{EPOCH},100,101,99,100.5,1.5"))
    assert frame.select(list(PRICES.columns)).row(0, named=True) | {"venue": "x"} == {
        "open_time": DAY, "open": 100.0, "high": 101.0, "low": 99.0, "close": 100.5, "volume": 1.5,
        "quote_volume": None, "trades": None, "taker_buy_volume": None, "taker_buy_quote_volume": None, "venue": "x",
    }  # fmt: skip


def test_order_flow_is_kept_where_it_is_and_null_where_it_is_empty() -> None:
    header = (
        "open_time,open,high,low,close,volume,quote_asset_volume,Number of trades,taker_buy_base_asset_volume,"
        "taker_buy_quote_asset_volume"
    )
    frame = read_table("x.csv", csv(header, f"{EPOCH},100,101,99,100,1,100,7,0.5,50", f"{EPOCH + 3600},1,1,1,1,1,,,,"))
    assert frame["trades"].to_list() == [7, None]
    assert frame["taker_buy_quote_volume"].to_list() == [50.0, None]
    assert frame["quote_volume"].to_list() == [100.0, None]


def test_a_kline_file_has_no_header() -> None:
    lines = "\n".join(",".join(map(str, kline(at))) for at in hours(DAY, 3)).encode()
    frame = read_table("BTCUSDT-1h-2018-05.csv", lines)
    assert frame["open_time"].to_list() == hours(DAY, 3)
    assert frame["taker_buy_volume"].to_list() == [5.25] * 3


@pytest.mark.parametrize("kind", [pl.Datetime("ms", "UTC"), pl.Datetime("ns"), pl.Datetime("us", "Asia/Seoul")])
def test_parquet_times_of_any_unit_and_zone(kind: pl.Datetime, tmp_path: Path) -> None:
    frame = pl.DataFrame({"time": hours(DAY, 3)}).with_columns(
        pl.col("time").dt.convert_time_zone(kind.time_zone or "UTC")
    )
    if kind.time_zone is None:
        frame = frame.with_columns(pl.col("time").dt.replace_time_zone(None))
    frame = frame.with_columns(pl.col("time").cast(kind), open=100, high=101, low=99, close=100, volume=1)
    frame.write_parquet(tmp_path / "x.parquet")
    assert fetch(tmp_path / "x.parquet")["open_time"].to_list() == hours(DAY, 3)


def test_a_zip_and_a_glob_are_read_whole(tmp_path: Path) -> None:
    header = "timestamp,open,high,low,close,volume"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one.csv", csv(header, f"{EPOCH},100,101,99,100,1"))
        archive.writestr("two.csv", csv(header, f"{EPOCH + 3600},100,101,99,100,1"))
        archive.writestr("readme.txt", "hello")
    (tmp_path / "b.csv").write_bytes(csv(header, f"{EPOCH + 7200},100,101,99,100,1"))
    frame = fetch(tmp_path / "*")
    assert sorted(frame["open_time"]) == hours(DAY, 3)
    assert set(frame["venue"]) == {"files"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            csv("when,open,high,low,close,volume", "1,1,1,1,1,1"),
            "found no column for open_time; expected a header with names like",
        ),
        (csv("timestamp,price", "1525478400,1"), "found no column for open, high, low, close, volume"),
        (csv("datetime_kst,open,high,low,close,volume", "2018-05-05 00:00:00,1,1,1,1,1"), "no column for open_time"),
        (
            csv("timestamp,open,high,low,close,volume", "yesterday,1,1,1,1,1"),
            "x.csv, line 2: expected a time in column 'timestamp' (an epoch",
        ),
        (csv("timestamp,open,high,low,close,volume", "12345,1,1,1,1,1"), "got '12345'"),
        (
            csv("timestamp,open,high,low,close,volume", f"{EPOCH},1,1,1,1,1", f"{EPOCH},1,1,1,,1"),
            "x.csv, line 3: expected a number in column 'close', got nothing",
        ),
        (csv("timestamp,open,high,low,close,volume", f"{EPOCH},abc,1,1,1,1"), "expected a number in column 'open'"),
        (
            csv("timestamp,open,high,low,close,volume", f"{EPOCH},nan,1,1,1,1"),
            "expected a number in column 'open', got 'nan'",
        ),
        (csv("timestamp,open,high,low,close,volume", f"{EPOCH},-1,1,1,1,1"), "expected open above zero, got -1.0"),
        (csv("timestamp,open,high,low,close,volume", f"{EPOCH + 60},1,1,1,1,1"), "opens on the hour"),
        (csv("timestamp,open,high,low,close,volume", "2020-01-01 00:00:00,1,1,1,1,1"), "a bar from the future"),
        (
            csv("date,open,high,low,close,volume", *(f"2018-05-0{day},1,1,1,1,1" for day in (1, 2, 3))),
            "line 2: expected a bar of the hour from 2018-05-01 00:00 UTC, but the usual step",
        ),
        (
            csv("timestamp,symbol,open,high,low,close,volume", f"{EPOCH},BTC,1,1,1,1,1", f"{EPOCH},ETH,1,1,1,1,1"),
            "line 3: expected bars of one instrument, got ETH after BTC in column 'symbol'",
        ),
        (b"", "x.csv is empty"),
        (b"<html>\n<body>\nsorry</body>\n</html>", "found no column"),
    ],
)
def test_an_unusable_file_is_refused_with_an_explanation(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(SourceMalformedError) as error:
        fetch(tmp_path / "x.csv")
    assert sentence in str(error.value)
    assert "x.csv" in str(error.value)


@pytest.mark.parametrize("name", ["x.parquet", "x.zip"])
def test_a_damaged_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PAR1 or PK, but not really")
    with pytest.raises(SourceMalformedError, match="is not a valid"):
        fetch(tmp_path / name)


def test_a_zip_without_bars_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(SourceMalformedError, match=r"has no \.parquet or \.csv"):
        fetch(tmp_path / "x.zip")


def test_a_missing_file_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SourceRefusedError, match=r"BTC_MARKET_FILES='.*' matches no \.parquet"):
        fetch(tmp_path / "*.csv")


def test_a_dump_with_times_ahead_is_from_the_future(tmp_path: Path) -> None:
    now = DAY + 24 * HOUR
    rows = (f"{at + 9 * HOUR:%Y-%m-%d %H:%M:%S},100,101,99,100,1" for at in hours(DAY, 24))
    (tmp_path / "kst.csv").write_bytes(csv("date,open,high,low,close,volume", *rows))
    with pytest.raises(SourceMalformedError, match=r"kst.csv returned a bar from the future.*KST is 9 hours ahead"):
        fetch(tmp_path / "kst.csv", now)


def test_yearly_dumps_that_overlap_are_cleaned_and_their_conflicts_counted(tmp_path: Path) -> None:
    def dump(name: str, times: list[datetime], changed: dict[datetime, int]) -> None:
        rows = []
        for at in times:
            row: list[Any] = kline(at)
            row[8] = changed.get(at, row[8])
            rows.append(",".join(map(str, row)))
        (tmp_path / name).write_bytes("\n".join(rows).encode())

    every = hours(DAY, 48)
    dump("2018a.csv", every[:40], {})
    dump("2018b.csv", every[8:], {every[10]: 41, every[20]: 43})
    cleaned = clean(fetch(tmp_path / "*.csv"))
    assert cleaned.frame["open_time"].to_list() == every
    assert (cleaned.duplicates, cleaned.conflicts) == (32, 2)
    assert cleaned.frame["trades"][10] == 42, "more trades win"
    assert cleaned.frame["trades"][20] == 43


def test_a_complete_bar_replaces_a_truncated_one(tmp_path: Path) -> None:
    short, whole = kline(DAY), kline(DAY, 100.5)
    short[6], short[8] = short[0] + 600_000, 999
    (tmp_path / "x.csv").write_bytes("\n".join(",".join(map(str, row)) for row in (whole, short)).encode())
    assert clean(fetch(tmp_path / "x.csv")).frame["close"].to_list() == [100.5]


def test_a_file_is_read_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = "timestamp,open,high,low,close,volume"
    path = tmp_path / "x.csv"
    path.write_bytes(csv(header, f"{EPOCH},100,101,99,100,1"))
    reads: list[str] = []

    def counted(name: str, content: bytes, *args: Any, **options: Any) -> pl.DataFrame:
        reads.append(name)
        return read_table(name, content, *args, **options)

    monkeypatch.setattr(files, "read_table", counted)
    for _ in range(3):
        assert fetch(path).height == 1
    assert len(reads) == 1
    path.write_bytes(csv(header, f"{EPOCH},100,101,99,100,1", f"{EPOCH + 3600},100,101,99,100,1"))
    os.utime(path, ns=(1, 1))
    assert fetch(path).height == 2
    assert len(reads) == 2


def test_the_embedded_sample_is_what_its_readme_says() -> None:
    import hashlib

    from btc_assets.market.sources.sample import HALF_HOURS, SAMPLE, sample_source

    first, last = datetime(2017, 10, 1, tzinfo=UTC), datetime(2019, 10, 1, tzinfo=UTC)
    frame = clean(sample_source().fetch(first, last, last)).frame
    assert frame.height == 17_505
    assert (frame["open_time"][0], frame["open_time"][-1]) == (first, last - HOUR)
    assert PRICES.faults(frame) == []
    assert set(frame["venue"]) == {"bitfinex"}
    readme = SAMPLE.with_name("README.md").read_text()
    for path in (SAMPLE, HALF_HOURS):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in readme
    assert frame.filter(PRICES.day == date(2018, 5, 5)).height == 24


def test_the_sample_script_makes_whole_hours_only() -> None:
    import runpy

    from btc_assets.market.sources.sample import SAMPLE

    script = runpy.run_path(str(SAMPLE.with_name("build_sample.py")))
    halves = pl.read_csv(
        io.StringIO(
            "Date,BTC.open,BTC.close,BTC.high,BTC.low,BTC.volume\n"
            "2018-01-01 00:00:00,10,11,12,9,1\n2018-01-01 00:30:00,11,13,14,8,2\n2018-01-01 01:30:00,13,13,13,13,1\n"
        )
    )
    assert script["hourly"](script["half_hourly"](halves)).rows() == [
        (datetime(2018, 1, 1, tzinfo=UTC), 10, 14, 8, 13, 3.0)
    ]


# --- variants of files -------------------------------------------------------------------------------
HEADER = "timestamp,open,high,low,close,volume"
ROWS = [f"{at:%Y-%m-%d %H:%M:%S},43125.5,43200.25,43000,{43100 + n}.75,1.5" for n, at in enumerate(hours(DAY, 4))]
EUROPEAN = [";".join(cell.replace(".", ",") for cell in row.split(",")) for row in ROWS]
KLINES = [",".join(map(str, kline(at))) for at in hours(DAY, 4)]
MICROS = [",".join([row.split(",")[0] + "000", *row.split(",")[1:6], row.split(",")[6] + "999", *row.split(",")[7:]])
          for row in KLINES]  # fmt: skip
SPELLINGS = {
    "a URL above, as CryptoDataDownload writes": csv("https://www.CryptoDataDownload.com", HEADER, *ROWS),
    "several lines above": csv("Bitcoin, hourly", "", "# made by hand", "sep=,", HEADER, *ROWS),
    "newest first, as CryptoDataDownload writes": csv(
        "https://www.CryptoDataDownload.com", "Unix,Date,Symbol,Open,High,Low,Close,Volume BTC,Volume USDT,tradecount",
        *(f"{EPOCH + 3600 * n}{'000' * (n % 2)},2018,BTC/USDT{ROWS[n][19:]},6,7" for n in (3, 2, 1, 0)),
    ),
    "semicolons and decimal commas": csv(HEADER.replace(",", ";"), *EUROPEAN),
    "semicolons and decimal points": csv(HEADER.replace(",", ";"), *(row.replace(",", ";") for row in ROWS)),
    "tabs": csv(HEADER.replace(",", "\t"), *(row.replace(",", "\t") for row in ROWS)),
    "German days and thousands": csv(
        "Datum;Date;Open;High;Low;Close;Volume",
        *(f"x;05.05.2018 0{n}:00;43.125,5;43.200,25;43.000;43.10{n},75;1,5" for n in range(4)),
    ),
    "thousands in quotes": csv(
        HEADER, *(f'2018-05-05 0{n}:00,"43,125.5","$43,200.25","43,000","43,10{n}.75",1.5' for n in range(4))
    ),
    "offsets of hours alone": csv(HEADER, *(row.replace(",", "+00,", 1) for row in ROWS)),
    "quotes around everything": csv(*(",".join(f'"{cell}"' for cell in row.split(",")) for row in (HEADER, *ROWS))),
    "blank lines at the end": csv(HEADER, *ROWS, "", "  ", ",,,,,", "\x1a"),
    "blank lines between": csv(HEADER, ROWS[0], "", *ROWS[1:]),
    "a separator at the end of each line": csv(HEADER, *(row + "," for row in ROWS)),
    "a separator at the end of the header too": csv(HEADER + ",", *(row + "," for row in ROWS)),
    "a UTF-8 mark": "\ufeff".encode() + csv(HEADER, *ROWS),
    "UTF-16": csv(HEADER, *ROWS).decode().encode("utf-16"),
    "Latin-1 in a line above": csv("Börse", HEADER, *ROWS).decode().encode("latin-1"),
    "lines of Windows": csv(HEADER, *ROWS).replace(b"\n", b"\r\n"),
    "lines of an old Mac": csv(HEADER, *ROWS).replace(b"\n", b"\r"),
    "more columns": csv("id," + HEADER + ",note", *(f"7,{row},fine" for row in ROWS)),
    "capitals": csv(HEADER.upper(), *ROWS),
    "words run together": csv("openTime,openPrice,highPrice,lowPrice,closePrice,baseVolume", *ROWS),
    "another order of columns": csv(
        "volume,close,low,high,open,date", *(",".join(reversed(row.split(","))) for row in ROWS)
    ),
    "blanks around values": csv(HEADER.replace(",", " , "), *(row.replace(",", " , ") for row in ROWS)),
    "no header, of Kraken": csv(*(f"{EPOCH + 3600 * n}{ROWS[n][19:]},9" for n in range(4))),
    "hours without a price": csv(HEADER, *ROWS, "2018-05-05 04:00:00,NaN,NaN,NaN,NaN,NaN", "2018-05-05 05:00:00,,,,,"),
    "Dukascopy's times": csv(
        "Gmt time" + HEADER[9:], *(f"05.05.2018 0{n}:00:00.000 GMT+0000{ROWS[n][19:]}" for n in range(4))
    ),
    "AM and PM": csv(HEADER, *(f"2018-05-05 {(n or 12):02}-AM{ROWS[n][19:]}" for n in range(4))),
}  # fmt: skip


@pytest.mark.parametrize("case", SPELLINGS)
def test_every_common_file_is_read(case: str) -> None:
    frame = read_table("x.csv", SPELLINGS[case]).sort("open_time")
    assert frame["open_time"].to_list() == hours(DAY, 4)
    assert frame["open"].to_list() == [43125.5] * 4
    assert frame["high"].to_list() == [43200.25] * 4
    assert frame["low"].to_list() == [43000.0] * 4
    assert frame["close"].to_list() == [43100.75, 43101.75, 43102.75, 43103.75]
    assert frame["volume"].to_list() == [1.5] * 4


@pytest.mark.parametrize("lines", [KLINES, MICROS, [row.replace(",", ";") for row in KLINES]])
def test_klines_without_a_header_in_any_unit_are_read(lines: list[str]) -> None:
    frame = read_table("x.csv", csv(*lines))
    assert frame["open_time"].to_list() == hours(DAY, 4)
    assert frame["trades"].to_list() == [42] * 4


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (csv(HEADER, *ROWS, ROWS[0][:30]), "x.csv, line 6 has 3 values, but the header has 6; it may be truncated"),
        (csv(HEADER, *(row.replace(".", ",") for row in ROWS)), "x.csv, line 2 has 10 values, but"),
        (csv(HEADER, "", ROWS[0], "", "2018-05-05 02:00,1,1,1,one,1"), "x.csv, line 5: expected a number in column"),
        (csv("a line above", HEADER, *ROWS, "05/06/2018,1,1,1,1,1"), "x.csv, line 7: expected a time in column"),
        (csv(HEADER.replace(",", ";"), "2018-05-05;43,125;43,200;43,000;43,100;1"), "x.csv, line 2: expected a numb"),
        (csv(HEADER.replace(",", ";"), "2018-05-05;43,1;43.2;43,0;43,1;1"), "x.csv, line 2: expected a numb"),
        (csv(HEADER, *ROWS, ROWS[0].replace("43000", "43120")), "x.csv, line 6: expected low to be the lowest"),
        (csv(HEADER, *ROWS[:3], ROWS[3].replace("43125.5", "nan")), "x.csv, line 5: expected a number"),
        (csv(HEADER, 'a,"b,c'), "x.csv"),
        (csv("1525478400,1,2,3", "1525478400,1,2,3"), "x.csv: found no column for open_time"),
        (b"PAR1" + bytes(40) + b"PAR1", "x.csv is not a valid Parquet file"),
        (bytes(200), "x.csv is not text"),
        (b" \n\n", "x.csv is empty"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_line_in_words_of_the_project(content: bytes, sentence: str) -> None:
    with pytest.raises(SourceMalformedError) as error:
        read_table("x.csv", content)
    assert str(error.value).startswith(sentence)
    assert str(error.value).endswith("Correct the file or point BTC_MARKET_FILES at another.")
    assert not any(word in str(error.value).lower() for word in ("polars", "schema", "parser", "dtype", "utf8", "str "))


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.csv").write_bytes(csv(HEADER, *ROWS))

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(SourceRefusedError, match=r"x.csv cannot be read: Permission denied; make it readable"):
        fetch(tmp_path / "x.csv")
