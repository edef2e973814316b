"""Bars from the user's own Parquet, CSV or zip files, with the column names and time stamps people use."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl

from btc_assets.clock import HOUR
from btc_assets.contracts import PRICES, UTC_TIME
from btc_assets.market.sources.answer import closed_between, lawful, wall_clock
from btc_assets.paths import matching
from btc_assets.transport import SourceMalformedError, SourceRefusedError

_NAMES: dict[str, tuple[str, ...]] = {
    "open_time": (
        "open_time", "opentime", "open_timestamp", "candle_date_time_utc", "timestamp", "unix_timestamp", "unix",
        "time", "datetime", "date_time", "date_utc", "time_utc", "datetime_utc", "timestamp_utc", "date", "ts", "t",
    ),
    "open": ("open", "open_price", "o", "opening_price"),
    "high": ("high", "high_price", "h", "max"),
    "low": ("low", "low_price", "l", "min"),
    "close": ("close", "close_price", "c", "closing_price", "trade_price"),
    "volume": ("volume", "base_volume", "volume_btc", "base_asset_volume", "volume_base", "vol", "v"),
    "quote_volume": (
        "quote_volume", "quote_asset_volume", "quotevolume", "volume_quote", "volume_usd", "volume_usdt", "qav",
    ),
    "trades": (
        "trades", "count", "number_of_trades", "num_trades", "trade_count", "tradecount", "trades_count", "n_trades",
    ),
    "taker_buy_volume": (
        "taker_buy_volume", "taker_buy_base", "taker_buy_base_volume", "taker_buy_base_asset_volume",
        "taker_base_vol", "tb_base_av", "taker_buy_base_vol",
    ),
    "taker_buy_quote_volume": (
        "taker_buy_quote_volume", "taker_buy_quote", "taker_buy_quote_asset_volume", "taker_quote_vol",
        "tb_quote_av", "taker_buy_quote_vol",
    ),
    "close_time": ("close_time", "closetime", "close_timestamp"),
}  # fmt: skip
"""Names a column may go by, lower case with `_` between words; the first one present is taken."""
_NEEDED = ("open_time", "open", "high", "low", "close", "volume")
_INSTRUMENTS = ("symbol", "pair", "ticker", "instrument", "market", "tic")
KLINE_COLUMNS = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades",
    "taker_buy_volume", "taker_buy_quote_volume", "ignore",
)  # fmt: skip
"""Columns of a Binance kline file, which carries no header."""
_REMEDY = "Correct the file or point BTC_MARKET_FILES at another."
_SUFFIXES = (".parquet", ".csv", ".csv.gz", ".zip")
_EPOCHS = ((1e8, 1e11, 1_000_000), (1e11, 1e14, 1_000), (1e14, 1e17, 1))
"""Bounds of an epoch in s, ms and µs, and how many microseconds one unit has; nanoseconds are larger still."""
_OFFSET = r"([+-])(\d{2}):?(\d{2})$"
_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y/%m/%d %H:%M:%S%.f", "%Y/%m/%d %H:%M")

_parsed: dict[str, tuple[tuple[int, int], pl.DataFrame]] = {}


class FileSource:
    """Bars of files on disk.

    Attributes:
        venue: the venue written on each row.
        pattern: path or glob of `.parquet`, `.csv`, `.csv.gz` or `.zip` files; times without a zone are UTC.
    """

    def __init__(self, pattern: str, venue: str = "files", clock: Callable[[], datetime] = wall_clock) -> None:
        self.venue = venue
        self.venues: tuple[str, ...] = (venue,)
        self.pattern = pattern
        self._clock = clock

    def fetch(self, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
        """Return the closed bars of the span; see `MarketSource.fetch`. Hours that two files hold come twice.

        Raises:
            SourceRefusedError: no file is there.
            SourceMalformedError: a file cannot be understood, or holds bars from the future.
        """
        wall = self._clock()
        frames = [self._bars(path, wall) for path in self._paths()]
        spans = [closed_between(frame, first, last, now) for frame in frames]
        return pl.concat(spans, how="diagonal")

    def _paths(self) -> list[Path]:
        paths = matching(self.pattern, _SUFFIXES)
        if not paths:
            raise SourceRefusedError(
                f"BTC_MARKET_FILES={self.pattern!r} names no {', '.join(_SUFFIXES)} file; give the path or glob of "
                f"files with hourly bars."
            )
        return paths

    def _bars(self, path: Path, wall: datetime) -> pl.DataFrame:
        """Return one file's bars; a file is read again only when its time or size changed."""
        stat = path.stat()
        stamp = (stat.st_mtime_ns, stat.st_size)
        key = str(path.resolve())
        known = _parsed.get(key)
        if known is None or known[0] != stamp:
            frame = lawful(path.name, read_table(path.name, path.read_bytes()), wall, remedy=_REMEDY)
            _parsed[key] = known = (stamp, frame)
        return known[1].with_columns(pl.lit(self.venue).alias("venue"))


def read_table(name: str, content: bytes) -> pl.DataFrame:
    """Read one file of hourly bars.

    Args:
        name: of the file; its ending tells Parquet, CSV and zip apart.
        content: its bytes; in a zip every Parquet or CSV member counts.

    Returns:
        PRICES columns (venue empty), and `close_time` where the file has it.

    Raises:
        SourceMalformedError: the sentence names the file, what was expected and what came.
    """
    try:
        frames = [(part, as_bars(table, part)) for part, table in _tables(name, content)]
    except (pl.exceptions.PolarsError, zipfile.BadZipFile, UnicodeDecodeError, EOFError) as error:
        raise SourceMalformedError(f"{name} cannot be read: {error}. {_REMEDY}") from error
    if not frames:
        raise SourceMalformedError(f"{name} holds no .csv or .parquet file. {_REMEDY}")
    joined = pl.concat([frame for _, frame in frames], how="diagonal")
    steps = joined.get_column("open_time").unique().sort().diff().drop_nulls()
    usual = steps.mode().min() if steps.len() else HOUR
    if joined.get_column("open_time").dt.minute().eq(0).all() and usual != HOUR:
        raise SourceMalformedError(
            f"{name}: expected hourly bars, but the usual step between its times is {usual!s}. {_REMEDY}"
        )
    return joined


def _tables(name: str, content: bytes) -> list[tuple[str, pl.DataFrame]]:
    lower = name.lower()
    if lower.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [m for m in archive.namelist() if m.lower().endswith((".csv", ".parquet"))]
            return [table for m in members for table in _tables(m, archive.read(m))]
    if lower.endswith(".parquet"):
        return [(name, pl.read_parquet(content))]
    return [(name, _csv(content))]


def _csv(content: bytes) -> pl.DataFrame:
    """Read a CSV as text; a first line of numbers is a row of a Binance kline file, which has no header."""
    table = pl.read_csv(content, infer_schema=False)
    if re.fullmatch(r"\d{9,20}", table.columns[0]) and table.width == len(KLINE_COLUMNS):
        table = pl.read_csv(content, infer_schema=False, has_header=False, new_columns=list(KLINE_COLUMNS))
    return table


def as_bars(table: pl.DataFrame, name: str) -> pl.DataFrame:
    """Turn a table with the names and types people use into bars.

    Args:
        table: any columns; times as epochs (s, ms, µs, ns), ISO strings or datetimes, without a zone UTC.
        name: of the file, for messages.

    Returns:
        PRICES columns (venue empty), and `close_time` where the table has it.

    Raises:
        SourceMalformedError: a column is missing, or a value cannot be read.
    """
    plain = {re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_"): column for column in reversed(table.columns)}
    plain = {key.removeprefix("btc_"): column for key, column in plain.items()}
    chosen = {
        wanted: plain[next(alias for alias in aliases if alias in plain)]
        for wanted, aliases in _NAMES.items()
        if any(alias in plain for alias in aliases)
    }
    if missing := [wanted for wanted in _NEEDED if wanted not in chosen]:
        raise SourceMalformedError(
            f"{name}: found no column for {', '.join(missing)}; expected names like open_time (or timestamp, date), "
            f"open, high, low, close, volume, got {', '.join(table.columns) or 'none'}. {_REMEDY}"
        )
    for instrument in _INSTRUMENTS:
        if instrument in plain and table.get_column(plain[instrument]).n_unique() > 1:
            some = ", ".join(str(value) for value in table.get_column(plain[instrument]).unique().sort()[:3])
            raise SourceMalformedError(
                f"{name}: expected bars of one instrument, but the column {plain[instrument]!r} holds {some}. {_REMEDY}"
            )
    taken = table.select(pl.col(column).alias(wanted) for wanted, column in chosen.items())
    read = [
        _times(taken.get_column(wanted), name, chosen[wanted])
        if wanted.endswith("_time")
        else _numbers(taken.get_column(wanted), name, chosen[wanted], needed=wanted in _NEEDED)
        for wanted in chosen
    ]
    frame = pl.DataFrame(read)
    types = {column: dtype for column, dtype in PRICES.columns.items() if column != "venue"}
    absent = [pl.lit(None, dtype).alias(column) for column, dtype in types.items() if column not in chosen]
    return frame.with_columns(*absent, pl.lit("").alias("venue")).select(
        *(pl.col(column).cast(dtype) for column, dtype in types.items()),
        "venue",
        *(["close_time"] if "close_time" in chosen else []),
    )


def _numbers(column: pl.Series, name: str, called: str, *, needed: bool) -> pl.Series:
    text = column.str.strip_chars() if column.dtype == pl.String else column
    if text.dtype == pl.String and not needed:
        text = text.replace("", None)
    read = text.cast(pl.Float64, strict=False)
    unread = read.is_null() if needed else read.is_null() & text.is_not_null()
    if unread.any():
        row = unread.arg_max() or 0
        raise SourceMalformedError(
            f"{name}: expected a number in column {called!r}, got {_shown(column[row])} in row {row + 1}. {_REMEDY}"
        )
    return read


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)


def _times(column: pl.Series, name: str, called: str) -> pl.Series:
    frame = pl.DataFrame({"time": column})
    time = pl.col("time")
    if isinstance(column.dtype, pl.Datetime):
        zoned = column.dtype.time_zone is not None
        read = time.dt.convert_time_zone("UTC") if zoned else time.dt.replace_time_zone("UTC")
    elif column.dtype == pl.Date:
        read = time.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    elif column.dtype.is_numeric():
        read = epoch_time(time)
    elif column.dtype == pl.String:
        epoch = time.str.strip_chars().cast(pl.Float64, strict=False)
        read = pl.when(epoch.is_not_null()).then(epoch_time(time.str.strip_chars())).otherwise(iso_time(time))
    else:
        raise SourceMalformedError(f"{name}: column {called!r} holds {column.dtype}, expected times. {_REMEDY}")
    times = frame.select(read.cast(UTC_TIME)).to_series().alias(column.name)
    if times.has_nulls():
        row = times.is_null().arg_max() or 0
        raise SourceMalformedError(
            f"{name}: expected a time in column {called!r} (an epoch in s, ms, µs or ns, or YYYY-MM-DD HH:MM:SS in "
            f"UTC), got {_shown(column[row])} in row {row + 1}. {_REMEDY}"
        )
    return times


def epoch_time(time: pl.Expr) -> pl.Expr:
    """Read epochs, each by its size: 1e9 is seconds, 1e12 milliseconds, 1e15 microseconds, 1e18 nanoseconds."""
    value = time.cast(pl.Float64, strict=False)
    exact = pl.coalesce(time.cast(pl.Int64, strict=False), value.cast(pl.Int64, strict=False))
    micros = pl.coalesce(
        *(pl.when((value >= low) & (value < high)).then(exact * scale) for low, high, scale in _EPOCHS),
        pl.when((value >= 1e17) & (value < 1e20)).then(exact // 1_000),
    )
    return pl.from_epoch(micros, time_unit="us").dt.replace_time_zone("UTC")


def iso_time(time: pl.Expr) -> pl.Expr:
    """Read ISO 8601 and its common variants; an offset is honoured, without one it is UTC."""
    text = time.str.strip_chars().str.replace(r"(?i)( UTC|Z)$", "").str.replace("T", " ", literal=True)
    # An offset can only follow a clock time: the end of a bare date looks like one.
    timed = text.str.contains(":")
    groups = [pl.when(timed).then(text.str.extract(_OFFSET, group)) for group in (1, 2, 3)]
    minutes = groups[1].cast(pl.Int64) * 60 + groups[2].cast(pl.Int64)
    ahead = pl.when(groups[0] == "-").then(-minutes).otherwise(minutes).fill_null(0)
    bare = pl.when(timed).then(text.str.replace(r"\s*" + _OFFSET, "")).otherwise(pl.concat_str(text, pl.lit(" 00:00")))
    read = pl.coalesce(bare.str.to_datetime(form, time_unit="us", strict=False) for form in _FORMATS)
    return (read - pl.duration(minutes=ahead)).dt.replace_time_zone("UTC")
