"""Articles and posts from the user's own archives: Parquet, CSV or JSON Lines, with the names and stamps people use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from btc_assets.archives import UnreadableError
from btc_assets.news.dates import Precision, read_time
from btc_assets.news.identity import canonical_url, outlet_of, plain_words, text_digest
from btc_assets.news.plain_text import plain_summary, plain_text, plain_title
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.news.sources.rows import ENDINGS, MOST_BAD, read_rows
from btc_assets.news.taken_down import is_taken_down
from btc_assets.schema import UTC_TIME
from btc_assets.table_files import columns_called, files_of
from btc_assets.timestamps import iso_time, time_of
from btc_assets.transport import SourceMalformedError

_TIMES = (
    "created_at", "created_utc", "created", "published", "publishedat", "datetime_utc", "date_time_utc",
    "timestamp_utc", "date_utc", "time_utc", "datetime", "date_time", "timestamp", "unix_timestamp", "date", "time",
)  # fmt: skip
_SEEN = ("first_seen_at", "first_seen", "seen_at", "fetched_at", "collected_at", "ingested_at")
_NAMES: dict[Kind, dict[str, tuple[str, ...]]] = {
    "article": {
        "guid": ("article_id", "guid", "id", "_id", "uuid", "news_id"),
        "published_at": (
            "published_at", "published_on", "published_time", "published_date", "publish_date", "publish_time",
            "publication_date", "date_published", "pub_date", "pubdate", *_TIMES,
        ),
        "first_seen_at": _SEEN,
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
        "first_seen_at": _SEEN,
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
"""Names a column may go by, lower case with `_` between words; the first one present is taken."""
_WORDING: dict[Kind, tuple[str, str]] = {
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
_TOLD = pl.Struct({"at": UTC_TIME, "precision": pl.String()})
_SKEW = timedelta(minutes=5)
_REPEAT_WINDOW = timedelta(hours=48)
"""How far apart in time a text without a title and a titled one with the same words may be and be the same article."""
_MARGIN = timedelta(days=1, minutes=1)
"""How much later than `published_at` plus lag a text told to the day or the minute may become available."""
_PRECISIONS = ("second", "minute", "day", "none")
_PLAIN_ISO = (
    r"^\d{4}-\d{2}-\d{2}[ T](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?"
    r"(?: ?(?:Z|UTC|[+-](?:0\d|1[0-4]):?[0-5]\d))?$"
)
"""The spelling of a time to the second that nearly all archives have; polars reads it a hundred times faster."""
_OUTLET_NAMES = ("name", "title", "domain", "id")
"""Names in an object that describes an outlet, the first one present is taken."""
_TRUE, _FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")
_DAY_US, _MINUTE_US = 86_400_000_000, 60_000_000
_SHOWN = 60
_LONGEST_LIST = 300
_LONGEST_NAME = 100
"""Characters of an outlet or a channel."""


class TextFiles:
    """Articles or posts of files on disk.

    Times are epochs (s, ms, µs, ns) or any spelling of `news.dates`; one without a zone is UTC. Where a file does not
    tell how exact its times are, bare dates, and files whose every time is midnight, are exact to the day, files whose
    every time is a whole minute to the minute. Votes and comments are taken only where the file tells when a text was
    first seen: otherwise the time of the count is unknown.

    Attributes:
        name: of the source, `news_files` or `social_files` unless given.
        pattern: path or glob of `.parquet`, `.csv`, `.json`, `.jsonl` or `.ndjson` files, the latter four also with
            `.gz`.
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

        An article without title and address whose words are those of a titled one, published within 48 hours of it,
        is the same article and left out. One without a title and no such twin gets its summary for a title.

        Raises:
            SourceRefusedError: no file is there.
            SourceMalformedError: a file cannot be understood.
        """
        start = first - self.lag - _MARGIN
        rows: list[dict[str, Any]] = []
        faults: list[str] = []
        for path in files_of(_SETTINGS[self._kind], self.pattern, ENDINGS, f"{self._kind}s"):
            table, said = read_span(path, self._kind, start - _REPEAT_WINDOW, last + _REPEAT_WINDOW, self._clock())
            rows.extend(row | {"file": path.name} for row in table.iter_rows(named=True))
            faults.extend(said)
        repeats = _repeats(rows) if self._kind == "article" else frozenset()
        items: list[Item] = []
        left_out: dict[tuple[str, str], list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            seen = row["first_seen_at"]
            if place in repeats or not (first <= seen < last if seen else start <= row["published_at"] < last):
                continue
            item = self._item(row)
            if item is None:
                left_out[row["file"], f"have {_WORDING[self._kind][1]}"].append(row["row"])
            elif is_taken_down(item.title, item.summary):
                left_out[row["file"], "were taken down"].append(row["row"])
            else:
                items.append(item)
        faults.extend(_left_out(file, len(numbers), why, numbers[0]) for (file, why), numbers in left_out.items())
        return Delivery(items, faults)

    def _item(self, row: Mapping[str, Any]) -> Item | None:
        """Return one row as an item, None where it says nothing."""
        title, summary = plain_title(row["title"] or ""), plain_summary(row["summary"] or "")
        if self._kind == "article" and not title:
            title, summary = plain_title(summary), ""
        if not title and not summary:
            return None
        seen: datetime | None = row["first_seen_at"]
        published: datetime | None = row["published_at"]
        precision: Precision = row["precision"] if published is not None else "none"
        url = row["url"] if row["url"] and canonical_url(row["url"]) else ""
        told = plain_text(row["outlet"] or "", _LONGEST_NAME).lower().removeprefix("www.")
        outlet = (outlet_of(url) if self._kind == "article" else "") or told
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
            channel=plain_text(row["channel"] or "", _LONGEST_NAME),
            points=row["points"] if seen is not None else None,
            comments=row["comments"] if seen is not None else None,
            is_repost=bool(row["is_repost"]) or (self._kind == "post" and summary.startswith("RT @")),
        )


def _repeats(rows: list[dict[str, Any]]) -> frozenset[int]:
    """Return the places of articles without title and address that a titled one with the same words stands for."""
    titled: dict[str, list[datetime]] = defaultdict(list)
    bare: list[tuple[int, str, datetime]] = []
    for place, row in enumerate(rows):
        at = row["published_at"] or row["first_seen_at"]
        words = plain_words(row["summary"] or "")
        if words and row["title"]:
            titled[words].append(at)
        elif words and not row["url"]:
            bare.append((place, words, at))
    return frozenset(
        place for place, words, at in bare if any(abs(at - other) <= _REPEAT_WINDOW for other in titled[words])
    )


def read_span(path: Path, kind: Kind, start: datetime, end: datetime, wall: datetime) -> tuple[pl.DataFrame, list[str]]:
    """Read the rows of one file whose time is in a span; of the others only the times are read.

    Args:
        path: of a Parquet, CSV or JSON Lines file.
        kind: what it holds.
        start: start of the span, UTC, by first_seen_at where a row tells it, else by published_at.
        end: end of the span, UTC, exclusive.
        wall: the present moment, UTC.

    Returns:
        `row` (number, from 1), guid, published_at, first_seen_at, precision, outlet, channel, title, summary, url,
        points, comments and is_repost, null where the file does not tell; and a sentence about the rows of the whole
        file that tell no time, and one about those from the future.

    Raises:
        SourceMalformedError: the sentence names the file, what was expected and what came.
    """
    try:
        rows, faults = read_rows(path)
        found, left_out = _read_span(path, rows, kind, start, end, wall)
    except UnreadableError as error:
        raise SourceMalformedError(f"{error}. {_remedy(kind)}") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceMalformedError(
            f"{path.name} cannot be read: it is damaged or changed while it was read. {_remedy(kind)}"
        ) from error
    return found, [f"{path.name}: {fault}" for fault in faults] + left_out


def _read_span(
    path: Path, scan: pl.LazyFrame, kind: Kind, start: datetime, end: datetime, wall: datetime
) -> tuple[pl.DataFrame, list[str]]:
    schema = scan.collect_schema()
    called = _called(path.name, kind, schema)
    types = {name: schema[column] for name, column in called.items()}
    rows = scan.select(pl.col(column).alias(name) for name, column in called.items()).with_row_index("row", offset=1)
    read: dict[str, pl.Expr] = {}
    for name, dtype in types.items():
        reader = _READERS[name][0](pl.col(name), dtype)
        if reader is None:
            holds = f"column {called[name]!r} holds {_kind_of(dtype)}, expected {_READERS[name][1]}"
            raise SourceMalformedError(f"{path.name}: {holds}. {_remedy(kind)}")
        read[name] = reader
    at = pl.coalesce(read[name] for name in ("first_seen_at", "published_at") if name in read)
    facts = _facts(rows, types, read, at, wall)
    faults = []
    bad = pl.any_horizontal(_unreadable(name, types[name], read[name]) for name in read)
    for name in read:
        if not (place := facts.get(f"unread {name}")):
            continue
        expected = f"expected {_READERS[name][1]} in column {called[name]!r}"
        value = rows.filter(pl.col("row") == place).select(name).collect().item()
        if facts["bad"] > MOST_BAD * facts["rows"]:
            raise SourceMalformedError(f"{path.name}: {expected}, got {_shown(value)} in row {place}. {_remedy(kind)}")
        faults.append(
            f"{_left_out(path.name, facts[f'bad {name}'], 'cannot be read', place)}: {expected}, got {_shown(value)}"
        )
    if facts["undated"]:
        faults.append(_left_out(path.name, facts["undated"], "tell no time", facts["first undated"]))
    if facts["future"]:
        faults.append(
            f"{path.name}: {facts['future']} rows are dated after {wall:%Y-%m-%d %H:%M} UTC and are not available "
            f"before that, the first is row {facts['first future']}; are they stamped in another zone than UTC?"
        )
    usual: Precision = "day" if facts["days"] else "minute" if facts["minutes"] else "second"
    columns = read | {"precision": _precision(types, read, usual)}
    wanted = [columns.get(name, pl.lit(None, dtype)).cast(dtype).alias(name) for name, dtype in _COLUMNS.items()]
    return rows.filter((at >= start) & (at < end) & ~bad).select("row", *wanted).collect(), faults


def _facts(
    rows: pl.LazyFrame, types: Mapping[str, pl.DataType], read: Mapping[str, pl.Expr], at: pl.Expr, wall: datetime
) -> dict[str, Any]:
    """Return what must be known of all rows of a file before some are taken.

    Returns:
        `unread <column>` and `bad <column>`, the first row with a value that cannot be read and how many
        there are; how many rows there are, how many are `bad` in any column, undated and of the future, and the first
        of these; whether every time is a midnight (days), and a whole minute (minutes).
    """
    row = pl.col("row")
    unread = {name: _unreadable(name, types[name], reader) for name, reader in read.items() if name not in _TEXTS}
    undated = at.is_null() & ~pl.any_horizontal(*unread.values(), pl.lit(value=False))
    future = at > wall + _SKEW
    micros = read["published_at"].dt.epoch("us") if "published_at" in read else pl.lit(1)
    found = rows.select(
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
    return found.collect().row(0, named=True)


def _unreadable(name: str, dtype: pl.DataType, reader: pl.Expr) -> pl.Expr:
    """Return whether a value is there and cannot be read; texts always can."""
    if name in _TEXTS:
        return pl.lit(value=False)
    return reader.is_null() & _is_given(pl.col(name), dtype)


def _kind_of(dtype: pl.DataType) -> str:
    """Return what a column holds, in plain words."""
    if isinstance(dtype, pl.List):
        return "lists"
    if isinstance(dtype, pl.Struct):
        return f"objects with {', '.join(field.name for field in dtype.fields)}"[:_SHOWN]
    if dtype.is_numeric():
        return "numbers"
    return "true and false" if isinstance(dtype, pl.Boolean) else "times" if dtype.is_temporal() else "bytes"


def _called(file: str, kind: Kind, schema: pl.Schema) -> dict[str, str]:
    """Return how the file calls each column it has.

    Raises:
        SourceMalformedError: one that is needed is not there.
    """
    called = columns_called(schema.names(), _NAMES[kind])
    lacking = []
    if not {"published_at", "first_seen_at"} & set(called):
        lacking.append("published_at (or posted_at, created_at, timestamp, date)")
    if not {"title", "summary"} & set(called):
        lacking.append(_WORDING[kind][0])
    if lacking:
        raise SourceMalformedError(
            f"{file}: found no column for {' and '.join(lacking)}; got "
            f"{plain_text(', '.join(schema.names()), _LONGEST_LIST) or 'none'}. {_remedy(kind)}"
        )
    if "first_seen_at" not in called:  # when its votes were counted is unknown
        called = {name: column for name, column in called.items() if name not in ("points", "comments")}
    return called


def _is_given(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Return whether a value is given: a blank is not, nor is NaN."""
    if dtype == pl.String:
        return (column.str.strip_chars() != "").fill_null(value=False)
    return column.is_not_nan().fill_null(value=False) if dtype.is_float() else column.is_not_null()


def _text(column: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    """Read text; blank is null. None where the type holds none."""
    if dtype == pl.String:
        return pl.when(column.str.strip_chars() != "").then(column.str.strip_chars())
    if dtype.is_integer() or isinstance(dtype, (pl.Categorical, pl.Enum, pl.Null)):
        return column.cast(pl.String)
    return None


def _outlet(column: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    """Read the name of an outlet, also where it is an object, as services give it: `{"id": ..., "name": ...}`."""
    if isinstance(dtype, pl.Struct):
        kinds = pl.Schema(dtype)
        names = [_text(column.struct.field(name), kinds[name]) for name in _OUTLET_NAMES if name in kinds]
        known = [name for name in names if name is not None]
        return pl.coalesce(known) if known else None
    text = _text(column, dtype)
    if text is None or dtype != pl.String:
        return text
    in_object = pl.coalesce(text.str.json_path_match(f"$.{name}") for name in _OUTLET_NAMES)
    return pl.when(text.str.starts_with("{")).then(in_object).otherwise(text)


def _time(column: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    """Read times as UTC; null where one cannot be read, None where the type holds none."""

    def spelt(text: pl.Expr) -> pl.Expr:
        other = _spelt_otherwise(text).struct.field("at")
        return pl.when(text.str.contains(_PLAIN_ISO)).then(iso_time(text)).otherwise(other)

    return time_of(column, dtype, spelt)


def _spelt_otherwise(text: pl.Expr) -> pl.Expr:
    """Return `at` and `precision` of times that are neither numbers nor plain ISO 8601; null where there is none."""
    rest = pl.when(~text.str.contains(_PLAIN_ISO) & text.cast(pl.Float64, strict=False).is_null()).then(text)

    def read(texts: pl.Series) -> pl.Series:
        found = {text: read_time(text) for text in texts.unique().drop_nulls()}
        times = [found[text] if text is not None else None for text in texts]
        return pl.Series(
            texts.name,
            [None if time is None else {"at": time.at, "precision": time.precision} for time in times],
            _TOLD,
        )

    return rest.map_batches(read, return_dtype=_TOLD, is_elementwise=True)


def _whole(column: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    """Read numbers, rounded down; null where one cannot be read, None where the type holds none."""
    if dtype.is_numeric() or isinstance(dtype, (pl.String, pl.Null)):
        number = column.cast(pl.Float64, strict=False)
        return pl.when(number.is_finite()).then(number.floor()).cast(pl.Int64, strict=False)
    return None


def _flag(column: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    """Read yes and no; null where one cannot be read, None where the type holds none."""
    if isinstance(dtype, (pl.Boolean, pl.Null)):
        return column.cast(pl.Boolean)
    if dtype.is_numeric():
        return column.cast(pl.Float64).replace_strict({1.0: True, 0.0: False}, default=None, return_dtype=pl.Boolean)
    if isinstance(dtype, pl.String):
        told = column.str.strip_chars().str.to_lowercase()
        return pl.when(told.is_in(_TRUE)).then(True).when(told.is_in(_FALSE)).then(False)
    return None


def _told_precision(column: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    """Read how exact a time is; null where it is told in other words, None where the type holds no text."""
    if isinstance(dtype, pl.Null):
        return column.cast(pl.String)
    if not isinstance(dtype, (pl.String, pl.Categorical, pl.Enum)):
        return None
    told = column.cast(pl.String).str.strip_chars().str.to_lowercase()
    return pl.when(told.is_in(_PRECISIONS)).then(told)


def _precision(types: Mapping[str, pl.DataType], read: Mapping[str, pl.Expr], usual: Precision) -> pl.Expr:
    """Return how exact `published_at` is: as told, as written, or as all times of the file are."""
    if "published_at" not in read:
        return pl.lit("none")
    found: pl.Expr = pl.lit(usual)
    if isinstance(types["published_at"], pl.Date):
        found = pl.lit("day")
    elif isinstance(types["published_at"], pl.String):
        written = _spelt_otherwise(pl.col("published_at").str.strip_chars()).struct.field("precision")
        short = "minute" if usual == "second" else usual
        found = (
            pl.when(written == "day").then(pl.lit("day"))
            .when(written == "minute").then(pl.lit(short))
            .otherwise(found)
        )  # fmt: skip
    return pl.coalesce(read["precision"], found) if "precision" in read else found


_Reader = Callable[[pl.Expr, pl.DataType], pl.Expr | None]
_A_TIME = "a time (an epoch in s, ms, µs or ns, or YYYY-MM-DD HH:MM:SS in UTC)"
_READERS: dict[str, tuple[_Reader, str]] = {
    **dict.fromkeys(_TEXTS, (_text, "text")),
    "outlet": (_outlet, "text, or an object with a name"),
    "published_at": (_time, _A_TIME),
    "first_seen_at": (_time, _A_TIME),
    "precision": (_told_precision, f"one of {', '.join(_PRECISIONS)}"),
    "points": (_whole, "a number"),
    "comments": (_whole, "a number"),
    "is_repost": (_flag, "true or false"),
}
"""How each column is read, and what is expected in it."""


def _left_out(file: str, count: int, why: str, first: int) -> str:
    return f"{file}: {count} rows {why} and were left out, the first is row {first}"


def _remedy(kind: Kind) -> str:
    return f"Correct the file or point {_SETTINGS[kind]} at another."


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN]
