"""Articles and posts from the user's archives, with common column names and time formats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from btc_assets.archives import UnreadableError
from btc_assets.news.dates import Precision, read_time
from btc_assets.news.identity import canonical_url, outlet_of, plain_words, text_digest
from btc_assets.news.plain_text import plain_summary, plain_text, plain_title
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.news.taken_down import is_taken_down
from btc_assets.schema import UTC_TIME
from btc_assets.table_files import (
    FILE,
    LINE,
    TableFile,
    find_columns,
    matching_files,
    read_tables,
    unusable_file_refused,
)
from btc_assets.timestamps import iso_time, time_of

_TIMES = (
    "created_at", "created_utc", "created", "published", "publishedat", "datetime_utc", "date_time_utc",
    "timestamp_utc", "date_utc", "time_utc", "datetime", "date_time", "timestamp", "unix_timestamp", "date", "time",
)  # fmt: skip
_FIRST_SEEN = ("first_seen_at", "first_seen", "seen_at", "fetched_at", "collected_at", "ingested_at")
_NAMES: dict[Kind, dict[str, tuple[str, ...]]] = {
    "article": {
        "guid": ("article_id", "guid", "id", "_id", "uuid", "news_id"),
        "published_at": (
            "published_at", "published_on", "published_time", "published_date", "publish_date", "publish_time",
            "publication_date", "date_published", "pub_date", "pubdate", *_TIMES,
        ),
        "first_seen_at": _FIRST_SEEN,
        "precision": ("time_precision", "precision"),
        "outlet": (
            "outlet", "publisher", "domain", "source_domain", "source_name", "source", "news_source", "site", "website",
        ),
        "title": ("title", "headline", "headlines", "news_title"),
        "summary": ("summary", "description", "desc", "excerpt", "snippet", "body", "text", "content", "article_text"),
        "url": ("url", "link", "article_url", "news_url", "href"),
    },
    "post": {
        "guid": ("post_id", "id", "guid", "tweet_id", "status_id", "submission_id", "comment_id", "_id"),
        "published_at": ("posted_at", "published_at", "posted_on", "post_date", *_TIMES),
        "first_seen_at": _FIRST_SEEN,
        "precision": ("time_precision", "precision"),
        "outlet": ("platform", "network", "service"),
        "channel": ("channel", "subreddit", "list", "community", "forum"),
        "title": ("title",),
        "summary": ("text", "body", "selftext", "full_text", "content", "tweet", "message", "comment", "post"),
        "url": ("url", "permalink", "link"),
        "points": ("points", "score", "ups", "upvotes", "likes", "like_count", "favorite_count"),
        "comments": ("comments", "n_comments", "num_comments", "comment_count", "replies", "reply_count"),
        "is_repost": ("is_repost", "is_retweet", "retweet", "repost"),
    },
}  # fmt: skip
"""Accepted names of each column, lower case with `_` between words; the first one present is used."""
_REQUIRED_TEXT: dict[Kind, tuple[str, str]] = {
    "article": ("title (or headline) or summary (or description, text)", "neither title nor summary"),
    "post": ("text (or body, title)", "no text"),
}
_SETTINGS: dict[Kind, str] = {"article": "BTC_NEWS_FILES", "post": "BTC_SOCIAL_FILES"}
_TEXTS = ("guid", "outlet", "channel", "title", "summary", "url")
_COLUMNS: dict[str, pl.DataType] = {
    **dict.fromkeys((*_TEXTS, "precision"), pl.String()),
    "published_at": UTC_TIME,
    "first_seen_at": UTC_TIME,
    "points": pl.Int64(),
    "comments": pl.Int64(),
    "is_repost": pl.Boolean(),
}
MAX_BAD_SHARE = 0.01
"""Maximum share of unreadable rows that are left out; a truncated last line is always left out."""
_TIME_WITH_PRECISION = pl.Struct({"at": UTC_TIME, "precision": pl.String()})
_CLOCK_SKEW = timedelta(minutes=5)
_REPEAT_WINDOW = timedelta(hours=48)
"""Maximum time between an untitled and a titled text with the same words that count as the same article."""
_MARGIN = timedelta(days=1, minutes=1)
"""How much later than `published_at` plus lag a text with day or minute precision may become available."""
_PRECISIONS = ("second", "minute", "day", "none")
_PLAIN_ISO = (
    r"^\d{4}-\d{2}-\d{2}[ T](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?"
    r"(?: ?(?:Z|UTC|[+-](?:0\d|1[0-4]):?[0-5]\d))?$"
)
"""The most common spelling of a time with seconds, which polars parses a hundred times faster than `read_time`."""
_OUTLET_NAMES = ("name", "title", "domain", "id")
"""Accepted names in an object that describes an outlet; the first one present is used."""
_TRUE, _FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")
_DAY_US, _MINUTE_US = 86_400_000_000, 60_000_000
_PREVIEW_CHARACTERS = 60
_MAX_LIST_CHARACTERS = 300
_MAX_NAME_CHARACTERS = 100
"""Maximum number of characters of an outlet or a channel."""


class TextFiles:
    """Articles or posts from files on disk.

    Times are epochs (s, ms, µs, ns) or any spelling that `news.dates` parses; a time without a zone is UTC. If a file
    does not state the precision of its times, dates without a time and files with only midnights have day precision,
    and files with only whole minutes have minute precision. Votes and comments are used only if the file states when a
    text was first seen, because otherwise the time of the count is unknown.

    Attributes:
        name: name of the source, by default `news_files` or `social_files`.
        pattern: path or glob of files with one of `ENDINGS`.
    """

    live = False
    rhythm: timedelta | None = None

    def __init__(
        self,
        pattern: str,
        kind: Kind,
        lag: timedelta,
        name: str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(tz=UTC),
    ) -> None:
        self.name = name or ("news_files" if kind == "article" else "social_files")
        self.kinds: tuple[Kind, ...] = (kind,)
        self.lag = lag
        self.pattern = pattern
        self._kind = kind
        self._clock = clock

    def fetch(self, first: datetime, last: datetime, now: datetime) -> Delivery:  # noqa: ARG002 - see `live`
        """Return the texts that may have become available in the span; see `TextSource.fetch`.

        An article without title and address is left out as a repeat if a titled article with the same words was
        published within 48 hours of it. Otherwise the summary becomes the title of an untitled article.

        Raises:
            SourceRefusedError: no file matches.
            SourceMalformedError: a file is invalid.
        """
        start = first - self.lag - _MARGIN
        rows: list[dict[str, Any]] = []
        faults: list[str] = []
        for path in matching_files(_SETTINGS[self._kind], self.pattern, f"{self._kind}s"):
            table, notes = read_span(path, self._kind, start - _REPEAT_WINDOW, last + _REPEAT_WINDOW, self._clock())
            rows.extend(table.iter_rows(named=True))
            faults.extend(notes)
        repeats = _repeats(rows) if self._kind == "article" else frozenset()
        items: list[Item] = []
        left_out: dict[tuple[str, str], list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            seen = row["first_seen_at"]
            if index in repeats or not (first <= seen < last if seen else start <= row["published_at"] < last):
                continue
            item = self._item(row)
            if item is None:
                left_out[row[FILE], f"have {_REQUIRED_TEXT[self._kind][1]}"].append(row[LINE])
            elif is_taken_down(item.title, item.summary):
                left_out[row[FILE], "were taken down"].append(row[LINE])
            else:
                items.append(item)
        faults.extend(_left_out(file, len(numbers), reason, numbers[0]) for (file, reason), numbers in left_out.items())
        return Delivery(items, faults)

    def _item(self, row: Mapping[str, Any]) -> Item | None:
        """Convert one row to an item; None if it has no text."""
        title, summary = plain_title(row["title"] or ""), plain_summary(row["summary"] or "")
        if self._kind == "article" and not title:
            title, summary = plain_title(summary), ""
        if not title and not summary:
            return None
        seen: datetime | None = row["first_seen_at"]
        published: datetime | None = row["published_at"]
        precision: Precision = row["precision"] if published is not None else "none"
        url = row["url"] if row["url"] and canonical_url(row["url"]) else ""
        stated = plain_text(row["outlet"] or "", _MAX_NAME_CHARACTERS).lower().removeprefix("www.")
        outlet = (outlet_of(url) if self._kind == "article" else "") or stated
        return Item(
            kind=self._kind,
            source=self.name,
            guid=row["guid"] or text_digest(outlet, title, summary, str(published or seen)),
            url=url,
            title=title,
            summary=summary,
            published_at=published,
            precision=precision,
            outlet=outlet,
            first_seen_at=seen,
            channel=plain_text(row["channel"] or "", _MAX_NAME_CHARACTERS),
            points=row["points"] if seen is not None else None,
            comments=row["comments"] if seen is not None else None,
            is_repost=bool(row["is_repost"]) or (self._kind == "post" and summary.startswith("RT @")),
        )


def _repeats(rows: list[dict[str, Any]]) -> frozenset[int]:
    """Return the indices of articles without title and address that repeat the words of a titled article."""
    titled: dict[str, list[datetime]] = defaultdict(list)
    untitled: list[tuple[int, str, datetime]] = []
    for index, row in enumerate(rows):
        at = row["published_at"] or row["first_seen_at"]
        words = plain_words(row["summary"] or "")
        if words and row["title"]:
            titled[words].append(at)
        elif words and not row["url"]:
            untitled.append((index, words, at))
    return frozenset(
        index for index, words, at in untitled if any(abs(at - other) <= _REPEAT_WINDOW for other in titled[words])
    )


def read_span(path: Path, kind: Kind, start: datetime, end: datetime, wall: datetime) -> tuple[pl.DataFrame, list[str]]:
    """Read the rows of one file whose time is in a span; only the times of other rows are read.

    Args:
        path: a table file.
        kind: article or post.
        start: start of the span, UTC, by first_seen_at if a row has it, otherwise by published_at.
        end: end of the span, UTC, exclusive.
        wall: the current time, UTC.

    Returns:
        `FILE`, `LINE`, guid, published_at, first_seen_at, precision, outlet, channel, title, summary, url,
        points, comments and is_repost, null if the file does not have them; and sentences about rows of the whole file
        that are unreadable, undated or dated in the future.

    Raises:
        SourceMalformedError: the file is invalid; the message has the file, what was expected and what came.
    """
    frames, faults = [], list[str]()
    with unusable_file_refused(path.name, _remedy(kind)):
        for table in read_tables(path, lambda names: None if _missing_columns(kind, names) else names):
            faults += [f"{table.name}: {fault}" for fault in [*table.notes, *_invalid_lines(table)]]
            frame, left_out = _read_span(table, kind, start, end, wall)
            frames.append(frame)
            faults += left_out
    return pl.concat(frames), faults


def _invalid_lines(table: TableFile) -> list[str]:
    """Return a sentence about the lines that were left out.

    Raises:
        UnreadableError: there are more of them than MAX_BAD_SHARE allows.
    """
    if not table.bad:
        return []
    line, problem = table.bad[0]
    bad, good = len(table.bad), table.rows.select(pl.len()).collect().item()
    if good > 0 and bad == 1 and line == table.last:
        return [f"its last line, {line}, is truncated and was left out: it {problem}"]
    if bad > MAX_BAD_SHARE * (good + bad):
        count = f" ({bad} of {good + bad} lines are invalid)" if bad > 1 else ""
        raise UnreadableError(f"{table.name}, line {line} {problem}{count}")
    return [f"{bad} of {good + bad} lines cannot be read and were left out; the first, line {line}, {problem}"]


def _read_span(
    table: TableFile, kind: Kind, start: datetime, end: datetime, wall: datetime
) -> tuple[pl.DataFrame, list[str]]:
    schema = table.rows.collect_schema()
    column_names = _column_names(table.name, kind, schema)
    types = {name: schema[column] for name, column in column_names.items()}
    rows = table.rows.select(FILE, LINE, *(pl.col(column).alias(name) for name, column in column_names.items()))
    read: dict[str, pl.Expr] = {}
    for name, dtype in types.items():
        reader = _READERS[name][0](pl.col(name), dtype)
        if reader is None:
            problem = f"expected {_READERS[name][1]} in column {column_names[name]!r}, got {_type_name(dtype)}"
            raise UnreadableError(f"{table.name}: {problem}")
        read[name] = reader
    at = pl.coalesce(read[name] for name in ("first_seen_at", "published_at") if name in read)
    facts = _facts(rows, types, read, at, wall)
    file, faults = f"{table.name}, {table.word}", list[str]()
    bad = pl.any_horizontal(_unreadable(name, types[name], read[name]) for name in read)
    for name in read:
        if not (number := facts.get(f"unread {name}")):
            continue
        expected = f"expected {_READERS[name][1]} in column {column_names[name]!r}"
        value = rows.filter(pl.col(LINE) == number).select(name).collect().item()
        if facts["bad"] > MAX_BAD_SHARE * facts["rows"]:
            raise UnreadableError(f"{table.name}: {expected}, got {_preview(value)} in {table.word} {number}")
        faults.append(
            f"{_left_out(file, facts[f'bad {name}'], 'cannot be read', number)}: {expected}, got {_preview(value)}"
        )
    if facts["undated"]:
        faults.append(_left_out(file, facts["undated"], "have no time", facts["first undated"]))
    if facts["future"]:
        faults.append(
            f"{table.name}: {facts['future']} rows are dated after {wall:%Y-%m-%d %H:%M} UTC and are not available "
            f"before that, the first is {table.word} {facts['first future']}; check whether their times are UTC"
        )
    usual: Precision = "day" if facts["days"] else "minute" if facts["minutes"] else "second"
    columns = read | {"precision": _precision(types, read, usual)}
    selected = [columns.get(name, pl.lit(None, dtype)).cast(dtype).alias(name) for name, dtype in _COLUMNS.items()]
    return rows.filter((at >= start) & (at < end) & ~bad).select(FILE, LINE, *selected).collect(), faults


def _facts(
    rows: pl.LazyFrame, types: Mapping[str, pl.DataType], read: Mapping[str, pl.Expr], at: pl.Expr, wall: datetime
) -> dict[str, Any]:
    """Return statistics of all rows of a file.

    Returns:
        `unread <column>` and `bad <column>`: the first row with an unreadable value and the number of such rows; the
        number of `rows`, and of rows that are `bad` in any column, undated or in the future, and the first of the
        latter two; whether every time is a midnight (days) or a whole minute (minutes).
    """
    row = pl.col(LINE)
    unread = {name: _unreadable(name, types[name], reader) for name, reader in read.items() if name not in _TEXTS}
    undated = at.is_null() & ~pl.any_horizontal(*unread.values(), pl.lit(value=False))
    future = at > wall + _CLOCK_SKEW
    micros = read["published_at"].dt.epoch("us") if "published_at" in read else pl.lit(1)
    facts = rows.select(
        *(row.filter(fault).min().alias(f"unread {name}") for name, fault in unread.items()),
        *(fault.sum().alias(f"bad {name}") for name, fault in unread.items()),
        pl.any_horizontal(*unread.values(), pl.lit(value=False)).sum().alias("bad"),
        pl.len().alias("rows"),
        undated.sum().alias("undated"),
        row.filter(undated).min().alias("first undated"),
        future.sum().alias("future"),
        row.filter(future).min().alias("first future"),
        (micros % _DAY_US == 0).all().alias("days"),
        (micros % _MINUTE_US == 0).all().alias("minutes"),
    )
    return facts.collect().row(0, named=True)


def _unreadable(name: str, dtype: pl.DataType, reader: pl.Expr) -> pl.Expr:
    """Return whether a value is present and unreadable; texts are always readable."""
    if name in _TEXTS:
        return pl.lit(value=False)
    return reader.is_null() & _is_present(pl.col(name), dtype)


def _type_name(dtype: pl.DataType) -> str:
    """Return a readable name of a column's type."""
    if isinstance(dtype, pl.List):
        return "lists"
    if isinstance(dtype, pl.Struct):
        return f"objects with {', '.join(field.name for field in dtype.fields)}"[:_PREVIEW_CHARACTERS]
    if dtype.is_numeric():
        return "numbers"
    return "true and false" if isinstance(dtype, pl.Boolean) else "times" if dtype.is_temporal() else "bytes"


def _column_names(file: str, kind: Kind, schema: pl.Schema) -> dict[str, str]:
    """Return the file's name of each column.

    Raises:
        UnreadableError: a required column is missing.
    """
    names = [name for name in schema.names() if name not in (FILE, LINE)]
    if missing := _missing_columns(kind, names):
        raise UnreadableError(
            f"{file}: found no column for {' and '.join(missing)}; got "
            f"{plain_text(', '.join(names), _MAX_LIST_CHARACTERS) or 'none'}"
        )
    column_names = find_columns(names, _NAMES[kind])
    if "first_seen_at" not in column_names:  # the time of the vote count is unknown
        column_names = {name: column for name, column in column_names.items() if name not in ("points", "comments")}
    return column_names


def _missing_columns(kind: Kind, names: Sequence[str]) -> list[str]:
    """Return descriptions of the required columns that are missing."""
    column_names = find_columns(names, _NAMES[kind]).keys()
    missing = []
    if not {"published_at", "first_seen_at"} & column_names:
        missing.append("published_at (or posted_at, created_at, timestamp, date)")
    if not {"title", "summary"} & column_names:
        missing.append(_REQUIRED_TEXT[kind][0])
    return missing


def _is_present(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Return whether a value is present: not null, blank or NaN."""
    if dtype == pl.String:
        return (column.str.strip_chars() != "").fill_null(value=False)
    return column.is_not_nan().fill_null(value=False) if dtype.is_float() else column.is_not_null()


def _text(column: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    """Parse text; blank is null. None if the type cannot be text."""
    if dtype == pl.String:
        return pl.when(column.str.strip_chars() != "").then(column.str.strip_chars())
    if dtype.is_integer() or isinstance(dtype, (pl.Categorical, pl.Enum, pl.Null)):
        return column.cast(pl.String)
    return None


def _outlet(column: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    """Parse the name of an outlet, a text or an object of a service: `{"id": ..., "name": ...}`."""
    if isinstance(dtype, pl.Struct):
        kinds = pl.Schema(dtype)
        names = [_text(column.struct.field(name), kinds[name]) for name in _OUTLET_NAMES if name in kinds]
        readable = [name for name in names if name is not None]
        return pl.coalesce(readable) if readable else None
    text = _text(column, dtype)
    if text is None or dtype != pl.String:
        return text
    in_object = pl.coalesce(text.str.json_path_match(f"$.{name}") for name in _OUTLET_NAMES)
    return pl.when(text.str.starts_with("{")).then(in_object).otherwise(text)


def _time(column: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    """Parse times as UTC; null for an unreadable time, None if the type cannot be a time."""

    def parse(text: pl.Expr) -> pl.Expr:
        other = _other_spellings(text).struct.field("at")
        return pl.when(text.str.contains(_PLAIN_ISO)).then(iso_time(text)).otherwise(other)

    return time_of(column, dtype, parse)


def _other_spellings(text: pl.Expr) -> pl.Expr:
    """Return `at` and `precision` of times that are neither numbers nor plain ISO 8601; null for other values."""
    rest = pl.when(~text.str.contains(_PLAIN_ISO) & text.cast(pl.Float64, strict=False).is_null()).then(text)

    def read(texts: pl.Series) -> pl.Series:
        parsed = {text: read_time(text) for text in texts.unique().drop_nulls()}
        times = [parsed[text] if text is not None else None for text in texts]
        return pl.Series(
            texts.name,
            [None if time is None else {"at": time.at, "precision": time.precision} for time in times],
            _TIME_WITH_PRECISION,
        )

    return rest.map_batches(read, return_dtype=_TIME_WITH_PRECISION, is_elementwise=True)


def _integer(column: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    """Parse numbers, rounded down; null for an unreadable number, None if the type cannot be a number."""
    if dtype.is_numeric() or isinstance(dtype, (pl.String, pl.Null)):
        number = column.cast(pl.Float64, strict=False)
        return pl.when(number.is_finite()).then(number.floor()).cast(pl.Int64, strict=False)
    return None


def _boolean(column: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    """Parse booleans; null for an unreadable value, None if the type cannot be a boolean."""
    if isinstance(dtype, (pl.Boolean, pl.Null)):
        return column.cast(pl.Boolean)
    if dtype.is_numeric():
        return column.cast(pl.Float64).replace_strict({1.0: True, 0.0: False}, default=None, return_dtype=pl.Boolean)
    if isinstance(dtype, pl.String):
        text = column.str.strip_chars().str.to_lowercase()
        return pl.when(text.is_in(_TRUE)).then(True).when(text.is_in(_FALSE)).then(False)
    return None


def _stated_precision(column: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    """Parse a stated precision; null for an unknown word, None if the type cannot be text."""
    if isinstance(dtype, pl.Null):
        return column.cast(pl.String)
    if not isinstance(dtype, (pl.String, pl.Categorical, pl.Enum)):
        return None
    text = column.cast(pl.String).str.strip_chars().str.to_lowercase()
    return pl.when(text.is_in(_PRECISIONS)).then(text)


def _precision(types: Mapping[str, pl.DataType], read: Mapping[str, pl.Expr], usual: Precision) -> pl.Expr:
    """Return the precision of `published_at`: as stated, as written, or as inferred from all times of the file."""
    if "published_at" not in read:
        return pl.lit("none")
    inferred: pl.Expr = pl.lit(usual)
    if isinstance(types["published_at"], pl.Date):
        inferred = pl.lit("day")
    elif isinstance(types["published_at"], pl.String):
        written = _other_spellings(pl.col("published_at").str.strip_chars()).struct.field("precision")
        minute = "minute" if usual == "second" else usual
        inferred = (
            pl.when(written == "day").then(pl.lit("day"))
            .when(written == "minute").then(pl.lit(minute))
            .otherwise(inferred)
        )  # fmt: skip
    return pl.coalesce(read["precision"], inferred) if "precision" in read else inferred


_Reader = Callable[[pl.Expr, pl.DataType], pl.Expr | None]
_A_TIME = "a time (an epoch in s, ms, µs or ns, or YYYY-MM-DD HH:MM:SS in UTC)"
_READERS: dict[str, tuple[_Reader, str]] = {
    **dict.fromkeys(_TEXTS, (_text, "text")),
    "outlet": (_outlet, "text, or an object with a name"),
    "published_at": (_time, _A_TIME),
    "first_seen_at": (_time, _A_TIME),
    "precision": (_stated_precision, f"one of {', '.join(_PRECISIONS)}"),
    "points": (_integer, "a number"),
    "comments": (_integer, "a number"),
    "is_repost": (_boolean, "true or false"),
}
"""The parser of each column, and a description of its expected values."""


def _left_out(file: str, count: int, reason: str, first: int) -> str:
    name, _, word = file.rpartition(", ")
    return f"{name}: {count} rows {reason} and were left out, the first is {word} {first}"


def _remedy(kind: Kind) -> str:
    return f"Correct the file or set {_SETTINGS[kind]} to another file."


def _preview(value: object) -> str:
    return repr(value)[:_PREVIEW_CHARACTERS]
