"""Bars from the user's own files, with common column names and time formats."""

from __future__ import annotations

import itertools
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from btc_assets.archives import MAX_BYTES, UnreadableError
from btc_assets.clock import HALF_HOUR, HOUR, QUARTER
from btc_assets.market.bars import first_fault
from btc_assets.market.sources.answer import closed_between, valid_bars, wall_clock
from btc_assets.market.sources.instrument import Instrument, instrument_of
from btc_assets.market.sources.one_series import place, series_fault, span_fault
from btc_assets.market.tables import PRICES
from btc_assets.schema import UTC_TIME
from btc_assets.table_files import (
    FILE,
    LINE,
    find_columns,
    matching_files,
    normalised_names,
    read_content,
    unusable_file_refused,
)
from btc_assets.timestamps import RARE_FORMATS, epoch_time, iso_time, time_of
from btc_assets.transport import SourceMalformedError

_NAMES: dict[str, tuple[str, ...]] = {
    "open_time": (
        "open_time", "opentime", "open_timestamp", "candle_date_time_utc", "timestamp", "unix_timestamp", "unix",
        "time", "datetime", "date_time", "date_utc", "time_utc", "datetime_utc", "timestamp_utc", "utc_time",
        "gmt_time", "time_period_start", "period_start", "window_start", "start_time", "date", "ts", "mts", "t",
    ),
    "open": ("open", "open_price", "o", "opening_price"),
    "high": ("high", "high_price", "h", "max"),
    "low": ("low", "low_price", "l", "min"),
    "close": ("close", "close_price", "c", "closing_price", "trade_price"),
    "volume": ("volume", "base_volume", "volume_btc", "base_asset_volume", "volume_base", "volumefrom", "vol", "v"),
    "quote_volume": (
        "quote_volume", "quote_asset_volume", "quotevolume", "volume_quote", "volume_usd", "volume_usdt",
        "volume_currency", "volumeto", "qav",
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
    "close_time": ("close_time", "closetime", "close_timestamp", "time_period_end", "period_end", "end_time"),
}  # fmt: skip
"""Accepted names of each column, lower case with `_` between words; the first one present is used."""
_NEEDED = ("open_time", "open", "high", "low", "close", "volume")
_INSTRUMENTS = (
    "symbol", "pair", "ticker", "instrument", "market", "tic", "product_id", "product", "instrument_id",
    "instrument_name", "asset", "coin", "currency", "base_currency", "base_asset",
)  # fmt: skip
"""Names of columns that hold the instrument."""
KLINE_COLUMNS = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades",
    "taker_buy_volume", "taker_buy_quote_volume", "ignore",
)  # fmt: skip
"""Columns of a Binance kline file, which has no header."""
_HEADERLESS = {
    len(KLINE_COLUMNS): KLINE_COLUMNS,
    7: ("open_time", "open", "high", "low", "close", "volume", "trades"),
    6: ("open_time", "open", "high", "low", "close", "volume"),
}
"""Columns of files without a header, by their number: Binance's, Kraken's, and the minimum."""
_NOTHING = ("", "nan", "null", "none", "na", "n/a", "-")
"""Spellings of a missing number, in lower case."""
INSTRUMENT = "instrument named"
"""Column with the instrument as a symbol column or the file name spells it."""
_PRICES = ("open", "high", "low", "close")
_PRICES_IN_A_HEADER = 3
"""A line with this many names of prices is a header."""
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)*|\.\d+)([eE][+-]?\d+)?")
_DECORATION = r"[\s\x{00a0}\x{202f}'_$€£₿]"
"""Characters in a number that carry no meaning."""
_DECIMAL_COMMA = r"^[+-]?([\d.]*,(\d{0,2}|\d{4,})|0,\d+|[\d.]+\.\d{3},\d*|[1-9]\d{3,},\d+|\d{1,3}(\.\d{3}){2,})$"
_DECIMAL_POINT = r"^[+-]?([\d,]*\.(\d{0,2}|\d{4,})|0\.\d+|[\d,]+,\d{3}\.\d*|[1-9]\d{3,}\.\d+|\d{1,3}(,\d{3}){2,})$"
"""Unambiguous numbers: 1,5 and 0,125 and 1.234,5 and 1.234.567, or the same with a decimal point."""
_GROUPED = r"^[+-]?\d{1,3}(T\d{3})+(D\d*)?$"
"""A number with thousands separators, T and the decimal sign, D."""
_SHOWN = 300
_SETTING = "BTC_MARKET_FILES"
_NAMES_OF_STEPS = {HOUR: "hourly", HALF_HOUR: "30-minute", QUARTER: "15-minute"}

_parsed: dict[tuple[str, timedelta], tuple[tuple[int, int], pl.DataFrame]] = {}
_judged: dict[tuple[tuple[str, timedelta, int, int], ...], None] = {}


class FileSource:
    """Source of bars from files on disk.

    Attributes:
        venue: venue of each row.
        pattern: path or glob of files with one of `ENDINGS`; times without a zone are UTC.
        step: length of a bar.
    """

    def __init__(
        self,
        pattern: str,
        venue: str = "files",
        clock: Callable[[], datetime] = wall_clock,
        *,
        step: timedelta = HOUR,
        setting: str = _SETTING,
    ) -> None:
        """Store where the files are; nothing is read yet.

        Args:
            pattern: see the attribute.
            venue: see the attribute.
            clock: the wall clock, UTC; bars that open later are refused.
            step: length of a bar.
            setting: environment variable that names the files, for messages.
        """
        self.step = step
        self._setting = setting
        self.venue = venue
        self.venues: tuple[str, ...] = (venue,)
        self.pattern = pattern
        self._clock = clock

    def fetch(self, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
        """Return the closed bars of the span; see `MarketSource.fetch`. A bar in two files is returned twice.

        Raises:
            SourceRefusedError: there is no file, or a file cannot be read.
            SourceMalformedError: a file cannot be parsed, holds bars from the future or of another length, or
                the files hold more than one instrument.
        """
        wall = self._clock()
        paths = matching_files(self._setting, self.pattern, f"{_NAMES_OF_STEPS[self.step]} bars")
        frames = [self._bars(path, wall) for path in paths]
        stamps = tuple((*key, *_parsed[key][0]) for key in ((str(path), self.step) for path in paths))
        if stamps not in _judged:  # judges all files, not only the requested span
            _judge(paths, frames, self.step, self._setting)
            _judged[stamps] = None
        spans = [closed_between(frame, first, last, now, self.step).drop(FILE, LINE, INSTRUMENT) for frame in frames]
        return pl.concat(spans, how="diagonal").with_columns(pl.lit(self.venue).alias("venue"))

    def _bars(self, path: Path, wall: datetime) -> pl.DataFrame:
        """Return one file's bars; a file is parsed again only if its modification time or size changed."""
        remedy = _remedy(self._setting)
        with unusable_file_refused(str(path), remedy):
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            known = _parsed.get((str(path), self.step))
            if known is None or known[0] != stamp:
                known = (stamp, read_table(path.name, path.read_bytes(), remedy, step=self.step))
        _parsed[str(path), self.step] = known
        return valid_bars(path.name, known[1], wall, remedy, self.step)


def _remedy(setting: str) -> str:
    return f"Correct the file or point {setting} at another."


def _judge(paths: Sequence[Path], frames: Sequence[pl.DataFrame], step: timedelta, setting: str) -> None:
    """Refuse files that are not one series of bars of one instrument."""
    whole = pl.concat(frames, how="diagonal")
    root = os.path.commonpath([path.parent for path in paths])
    named: dict[Instrument, str] = {}
    for path, frame in zip(paths, frames, strict=True):
        folders = path.parent.relative_to(root).parts
        from_folders = next((match for folder in reversed(folders) if (match := instrument_of(folder))), None)
        for name, file, line in (
            frame.unique(INSTRUMENT, keep="first", maintain_order=True).select(INSTRUMENT, FILE, LINE).rows()
        ):
            instrument = instrument_of(name, symbol=True) if name else from_folders
            if instrument is not None:
                named.setdefault(instrument, f"{name or path.parent.name} ({file} {line})")
    for one, other in itertools.combinations(named, 2):
        if one.differs(other):
            raise SourceMalformedError(
                f"Expected bars of one instrument, got {named[one]} and {named[other]}. Point "
                f"{setting} at the files of one."
            )
    if fault := series_fault(whole, step):
        raise SourceMalformedError(f"{fault}. {_remedy(setting)}")


def read_table(
    name: str, content: bytes, remedy: str = "", limit: int = MAX_BYTES, step: timedelta = HOUR
) -> pl.DataFrame:
    """Read one file of bars.

    Args:
        name: file name, see `read_content`.
        content: bytes of the file; of a zip, every member that is a table is read.
        remedy: sentence that says what to do about an unusable file; default: correct the file.
        limit: largest unpacked size, bytes.
        step: length of a bar.

    Returns:
        PRICES columns (venue empty), `close_time` if the file has it, `FILE`, `LINE` and `INSTRUMENT`.

    Raises:
        SourceMalformedError: the message names the file, what was expected and what it holds.
    """
    remedy = remedy or _remedy(_SETTING)
    with unusable_file_refused(name, remedy):
        frames = [as_bars(table.complete(), table.name) for table in read_content(name, content, _names, limit)]
    for frame in frames:
        if fault := span_fault(frame, step) or _invalid_bar(frame, step):
            raise SourceMalformedError(f"{fault}. {remedy}")
    return pl.concat(frames, how="diagonal")


def _invalid_bar(frame: pl.DataFrame, step: timedelta) -> str | None:
    """Return the first invalid bar, with its line."""
    if first_fault(frame, step) is None:
        return None
    row = bisect_left(range(frame.height), True, key=lambda last: first_fault(frame[: last + 1], step) is not None)
    return f"{place(frame.row(row, named=True))}: {first_fault(frame[row], step)}"


def _names(cells: Sequence[str]) -> Sequence[str] | None:
    """Return the column names if a line is a header of bars or a first row without one; None if it is neither."""
    if len({"open", "high", "low", "close"} & set(find_columns(cells, _NAMES))) >= _PRICES_IN_A_HEADER:
        return cells
    stamps = pl.DataFrame({"cell": cells[:1]}).select(epoch_time(pl.col("cell")).fill_null(iso_time(pl.col("cell"))))
    numbers = sum(bool(_NUMBER.fullmatch(cell)) for cell in cells[1:])
    if len(cells) > 1 and numbers == len(cells) - 1 and stamps.item() is not None:
        return _HEADERLESS.get(len(cells))
    return None


def as_bars(table: pl.DataFrame, name: str) -> pl.DataFrame:
    """Convert a table with common column names and types into bars.

    Args:
        table: any columns; times as epochs (s, ms, µs, ns), ISO strings or datetimes, UTC if without a zone; the
            origin of each row in `FILE` and `LINE`.
        name: file name, for messages.

    Returns:
        PRICES columns (venue empty), `close_time` if the table has it, `FILE`, `LINE` and `INSTRUMENT`. Rows without
        any price are left out.

    Raises:
        UnreadableError: a column is missing, a value cannot be parsed, or the rows are of several instruments.
    """
    chosen = find_columns(table.columns, _NAMES)
    if missing := [wanted for wanted in _NEEDED if wanted not in chosen]:
        columns = ", ".join(column for column in table.columns if column not in (FILE, LINE))
        raise UnreadableError(
            f"{name}: found no column for {', '.join(missing)}; expected a header with names like open_time (or "
            f"timestamp, date), open, high, low, close, volume, got {columns[:_SHOWN] or 'none'}"
        )
    numbers = _numbers(table, {wanted: called for wanted, called in chosen.items() if not wanted.endswith("_time")})
    times = [_times(table, called, wanted) for wanted, called in chosen.items() if wanted.endswith("_time")]
    types = {column: dtype for column, dtype in PRICES.columns.items() if column != "venue"}
    absent = [pl.lit(None, dtype).alias(column) for column, dtype in types.items() if column not in chosen]
    bars = table.select(FILE, LINE, _instrument(table, name).alias(INSTRUMENT)).with_columns(*numbers, *times, *absent)
    return bars.select(
        *(pl.col(column).cast(dtype) for column, dtype in types.items()),
        pl.lit("").alias("venue"), FILE, LINE, INSTRUMENT, *(["close_time"] if "close_time" in chosen else []),
    ).filter(~pl.all_horizontal(pl.col("open", "high", "low", "close").is_null()))  # fmt: skip


def _instrument(table: pl.DataFrame, name: str) -> pl.Series:
    """Return the instrument of each row from a symbol column, else from the file name; empty if neither names one."""
    words = normalised_names(table.columns)
    called = next((words[word] for word in _INSTRUMENTS if word in words), None)
    if called is None:
        named = next((part for part in reversed(name.split("/")) if instrument_of(part)), "")
        return pl.repeat(named, table.height, dtype=pl.String, eager=True)
    symbols = table.get_column(called).cast(pl.String).fill_null("").str.strip_chars()
    firsts = {symbol: symbols.index_of(symbol) for symbol in symbols.unique(maintain_order=True) if symbol}
    known = {symbol: instrument_of(symbol, symbol=True) for symbol in firsts}
    for one, other in itertools.combinations(known, 2):
        if (a := known[one]) and (b := known[other]) and a.differs(b):
            row = table.row(firsts[other], named=True)
            raise UnreadableError(
                f"{place(row)}: expected bars of one instrument, got {other} after {one} in column {called!r}"
            )
    return symbols


def _numbers(table: pl.DataFrame, chosen: dict[str, str]) -> list[pl.Series]:
    """Parse the numeric columns; all text of a table is assumed to use one decimal sign."""
    texts = {
        wanted: table.get_column(called).str.replace_all(_DECORATION, "").alias(wanted)
        for wanted, called in chosen.items()
        if table.schema[called] == pl.String
    }
    texts = {wanted: text.set(text.str.to_lowercase().is_in(_NOTHING), None) for wanted, text in texts.items()}
    read = {wanted: text.cast(pl.Float64, strict=False) for wanted, text in texts.items()}
    if any(read[wanted].null_count() > texts[wanted].null_count() for wanted in texts):
        rewritten = _with_points(pl.concat([text.rename("text") for text in texts.values()]))
        parts = (rewritten.slice(part * table.height, table.height) for part in range(len(texts)))
        read = {wanted: part.alias(wanted) for wanted, part in zip(texts, parts, strict=True)}
    read |= {
        wanted: table.get_column(called).cast(pl.Float64, strict=False).fill_nan(None).alias(wanted)
        for wanted, called in chosen.items()
        if wanted not in texts and (table.schema[called].is_numeric() or table.schema[called] == pl.Null)
    }
    if unsupported := [wanted for wanted in chosen if wanted not in read]:
        called = chosen[unsupported[0]]
        raise UnreadableError(f"{table[FILE][0]}s: column {called!r} holds {table.schema[called]}, expected numbers")
    no_bar = pl.DataFrame([read[price] for price in _PRICES]).select(pl.all_horizontal(pl.all().is_null())).to_series()
    for wanted, values in read.items():
        filled = texts[wanted].is_not_null() if wanted in texts else values.is_not_null()
        unread = values.is_null() & (filled | ~no_bar if wanted in _NEEDED else filled)
        if unread.any():
            row = table.row(unread.arg_max() or 0, named=True)
            raise UnreadableError(
                f"{place(row)}: expected a number in column {chosen[wanted]!r}, got {_shown(row[chosen[wanted]])}"
            )
    return [read[wanted] for wanted in chosen]


def _with_points(texts: pl.Series) -> pl.Series:
    """Parse numbers with thousands separators or decimal commas; null if the style is unclear.

    `1,234.5` and `1.234,5` show the style; `1,234` alone does not. If no number of the table shows the style, numbers
    with a comma are null.
    """
    commas = texts.str.contains(_DECIMAL_COMMA).any()
    points = texts.str.contains(_DECIMAL_POINT).any()
    if commas == points:
        return texts.cast(pl.Float64, strict=False)
    thousands, decimal = (".", ",") if commas else (",", ".")
    grouped = texts.str.contains(_GROUPED.replace("T", re.escape(thousands)).replace("D", re.escape(decimal)))
    plain = pl.select(
        pl.when(grouped).then(texts.str.replace_all(thousands, "", literal=True))
        .when(~texts.str.contains(thousands, literal=True)).then(texts)
    ).to_series()  # fmt: skip
    return plain.str.replace(decimal, ".", literal=True).cast(pl.Float64, strict=False)


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)


def _times(table: pl.DataFrame, called: str, wanted: str) -> pl.Series:
    """Parse a column of times as UTC; `close_time` may be blank."""
    column = table.get_column(called)
    time = pl.col(called)
    read = time_of(time, column.dtype, iso_time)
    if read is None:
        raise UnreadableError(f"{table[FILE][0]}s: column {called!r} holds {column.dtype}, expected times")
    times = table.select(read).to_series().alias(wanted)
    if column.dtype == pl.String and times.has_nulls():
        times = times.fill_null(table.select(iso_time(time, RARE_FORMATS).cast(UTC_TIME)).to_series())
    blank = column.str.strip_chars().is_in(_NOTHING) if column.dtype == pl.String else column.is_null()
    unread = times.is_null() if wanted == "open_time" else times.is_null() & ~blank
    if unread.any():
        row = table.row(unread.arg_max() or 0, named=True)
        raise UnreadableError(
            f"{place(row)}: expected a time in column {called!r} (an epoch in s, ms, µs or ns, or YYYY-MM-DD HH:MM:SS "
            f"in UTC), got {_shown(row[called])}"
        )
    return times
