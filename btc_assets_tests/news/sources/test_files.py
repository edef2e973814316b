"""The user's archives of articles and posts: common column names, time formats and faults."""

from __future__ import annotations

import gzip
import json
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from btc_assets.news.gather import CONTRACTS, KnownTexts, fetch_all, file_items
from btc_assets.news.sources.files import TextFiles
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.news.tables import ARTICLES, POSTS
from btc_assets.transport import SourceMalformedError, SourceRefusedError

HOUR = timedelta(hours=1)
FIRST = datetime(2025, 5, 5, tzinfo=UTC)
LAST = FIRST + 48 * HOUR
STAMP = FIRST + timedelta(hours=10, minutes=20, seconds=30)
EPOCH = int(STAMP.timestamp())
WALL = datetime(2025, 8, 1, tzinfo=UTC)


def source(pattern: Path, kind: Kind = "article") -> TextFiles:
    return TextFiles(str(pattern), kind, HOUR, clock=lambda: WALL)


def fetch(pattern: Path, kind: Kind = "article", first: datetime = FIRST, last: datetime = LAST) -> Delivery:
    return source(pattern, kind).fetch(first, last, last)


def csv(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    return path


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def only(delivery: Delivery) -> Item:
    assert len(delivery.items) == 1, delivery.faults
    return delivery.items[0]


# --- names, stamps and formats -----------------------------------------------------------------------
@pytest.mark.parametrize(
    "header",
    [
        "article_id,published_at,source,title,summary,url",
        "Id,Date,Publisher,Headline,Description,Link",
        "GUID,created_at,Outlet,TITLE,Text,article url",
        "guid,pubDate,domain,title,content,href",
        "id,Published On,source_name,news_title,snippet,news_url",
        "uuid,timestamp,site,title,body,url",
    ],
)
def test_common_headers_of_articles_are_read(header: str, tmp_path: Path) -> None:
    path = csv(
        tmp_path / "x.csv", header, f"7,{EPOCH},The Desk,Miners return,They are back.,https://www.desk.example/a"
    )
    assert only(fetch(path)) == Item(
        kind="article",
        source="news_files",
        guid="7",
        url="https://www.desk.example/a",
        title="Miners return",
        summary="They are back.",
        published_at=STAMP,
        precision="second",
        outlet="desk.example",
    )


@pytest.mark.parametrize(
    "header",
    [
        "post_id,posted_at,platform,channel,text,url,is_retweet",
        "id,created_utc,Platform,Subreddit,selftext,permalink,retweet",
        "tweet_id,date,network,list,full_text,link,is_repost",
    ],
)
def test_common_headers_of_posts_are_read(header: str, tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", header, f"7,{EPOCH},Reddit,Bitcoin,Hold on,https://forum.example/7,True")
    assert only(fetch(path, "post")) == Item(
        kind="post",
        source="social_files",
        guid="7",
        url="https://forum.example/7",
        title="",
        summary="Hold on",
        published_at=STAMP,
        precision="second",
        outlet="reddit",
        channel="Bitcoin",
        is_repost=True,
    )


@pytest.mark.parametrize(
    "stamp",
    [
        f"{EPOCH}", f"{EPOCH}.0", f"{EPOCH}000", f"{EPOCH}000000", f"{EPOCH}000000000", "2025-05-05 10:20:30",
        "2025-05-05T10:20:30Z", "2025-05-05T10:20:30.000000", "2025-05-05 10:20:30 UTC", "2025-05-05T12:20:30+02:00",
        "2025/05/05 10:20:30", "Mon, 05 May 2025 10:20:30 GMT", "Mon, 05 May 2025 05:20:30 -0500",
        "Mon, 05 May 2025 05:20:30 -05:00", "Mon, 05 May 2025 12:20:30 GMT+2", "May 5, 2025 10:20:30 AM",
        "2025-05-05T06:20:30-04", "Mon May 05 10:20:30 +0000 2025",
    ],
)  # fmt: skip
def test_common_time_formats_are_read(stamp: str, tmp_path: Path) -> None:
    item = only(fetch(csv(tmp_path / "x.csv", "date,title", f'"{stamp}",Miners return')))
    assert (item.published_at, item.precision) == (STAMP, "second")


@pytest.mark.parametrize("kind", [pl.Datetime("ms", "UTC"), pl.Datetime("ns"), pl.Datetime("us", "Asia/Seoul")])
def test_parquet_times_of_any_unit_and_zone(kind: pl.Datetime, tmp_path: Path) -> None:
    times = pl.Series("date", [STAMP]).dt.convert_time_zone(kind.time_zone or "UTC")
    times = times if kind.time_zone else times.dt.replace_time_zone(None)
    pl.DataFrame({"date": times.cast(kind), "title": ["Miners return"]}).write_parquet(tmp_path / "x.parquet")
    assert only(fetch(tmp_path / "x.parquet")).published_at == STAMP


def test_all_formats_of_a_glob_are_read(tmp_path: Path) -> None:
    row = {"id": 1, "date": EPOCH, "title": "Miners return"}
    lines(tmp_path / "a.jsonl", row | {"id": 1, "other": {"nested": [1]}})
    (tmp_path / "b.ndjson.gz").write_bytes(gzip.compress(json.dumps(row | {"id": "2"}).encode()))
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(f"id,date,title\n3,{EPOCH},Miners return".encode()))
    pl.DataFrame([row | {"id": 4}]).write_parquet(tmp_path / "d.parquet")
    (tmp_path / "readme.txt").write_text("nothing")
    assert [item.guid for item in fetch(tmp_path / "*").items] == ["1", "2", "3", "4"]


def test_markup_and_invisible_characters_are_removed(tmp_path: Path) -> None:
    title, summary = "<b>Miners</b> &amp; banks\u202e\x00", "<script>alert(1)</script><p>They  are</p>back"
    row = {
        "date": EPOCH,
        "title": title,
        "summary": summary,
        "url": "javascript:alert(1)",
        "source": "<i>WWW.Desk.example",
    }
    item = only(fetch(lines(tmp_path / "x.jsonl", row)))
    assert (item.title, item.summary, item.url, item.outlet) == ("Miners & banks", "They are back", "", "desk.example")


# --- availability ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("stamps", "precision"),
    [
        (["2025-05-05", "2025-05-06 10:20:30"], "day"),
        (["2025-05-05 00:00:00", "2025-05-06 00:00:00"], "day"),
        (["2025-05-05 00:00:00", "2025-05-06 10:20:30"], "second"),
        (["2025-05-05 10:20", "2025-05-06 10:20:30"], "minute"),
        (["5 May 2025", "2025-05-06 10:20:30"], "day"),
        (["5 May 2025 10:20 GMT", "2025-05-06 10:20:30"], "minute"),
        (["2025-05-05T10:20:00Z", "2025-05-06T00:00:00Z"], "minute"),
        (["2025-05-05T10:20:00Z", "2025-05-06T00:00:01Z"], "second"),
    ],
)
def test_a_missing_precision_is_inferred(stamps: list[str], precision: str, tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", "id,date,title", *(f"{n},{at},Title {n}" for n, at in enumerate(stamps)))
    assert fetch(path).items[0].precision == precision


def test_a_stated_precision_is_used(tmp_path: Path) -> None:
    rows = [
        f"{n},2025-05-05T00:00:00Z,Title {n},{precision}" for n, precision in enumerate(["Day", "minute", "second", ""])
    ]
    path = csv(tmp_path / "x.csv", "id,date,title,time_precision", *rows)
    assert [item.precision for item in fetch(path).items] == ["day", "minute", "second", "day"]


def test_a_date_column_has_day_precision(tmp_path: Path) -> None:
    pl.DataFrame({"date": [date(2025, 5, 5)], "title": ["a"]}).write_parquet(tmp_path / "x.parquet")
    assert only(fetch(tmp_path / "x.parquet")).precision == "day"


def test_a_text_with_day_precision_is_filed_after_the_day(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", "date,title,url", "2025-05-05,Miners return,https://a.example/1")
    days = [date(2025, 5, 5), date(2025, 5, 6)]
    filed = file_items(
        fetch_all([source(path)], FIRST, LAST, LAST, 1), "article", ARTICLES.empty(), KnownTexts.empty(), days, LAST
    )
    assert filed.frame["available_at"].to_list() == [FIRST + 25 * HOUR]


def test_every_text_is_fetched_on_the_day_of_its_availability(tmp_path: Path) -> None:
    stamps = [f"{FIRST + n * 6 * HOUR:%Y-%m-%d %H:%M:%S}" for n in range(-7, 7)]
    rows = [f"{n},{at},{seen},Title {n * 7919},{precision}" for n, (at, seen, precision) in enumerate(
        (at, seen, precision)
        for at in stamps for seen in ("", "2025-05-05 20:00:00") for precision in ("day", "minute", "second")
    )]  # fmt: skip
    path = csv(tmp_path / "x.csv", "id,published_at,first_seen_at,title,time_precision", *rows)

    def filed(first: datetime, last: datetime) -> set[tuple[str, datetime]]:
        days = [first.date() + timedelta(days=n) for n in range((last - first).days)]
        results = fetch_all([source(path)], first, last, WALL, 1)
        frame = file_items(results, "article", ARTICLES.empty(), KnownTexts.empty(), days, WALL).frame
        return set(frame.select("article_id", "available_at").iter_rows())

    complete = filed(FIRST - 96 * HOUR, FIRST + 120 * HOUR)
    assert len(complete) == len(rows)
    assert set().union(*(filed(FIRST + n * 24 * HOUR, FIRST + (n + 1) * 24 * HOUR) for n in range(-4, 5))) == complete


def test_a_late_first_seen_time_determines_the_day(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", "published_at,first_seen_at,title", "2024-01-01 01:02:03,2025-05-05 10:20:30,Found")
    assert only(fetch(path)).first_seen_at == STAMP
    assert fetch(path, first=datetime(2024, 1, 1, tzinfo=UTC), last=FIRST).items == []


def test_only_the_requested_span_is_delivered(tmp_path: Path) -> None:
    rows = [f"{n},{FIRST + n * HOUR:%Y-%m-%d %H:%M:%S},Title {n}" for n in range(-100, 200)]
    delivery = fetch(csv(tmp_path / "x.csv", "id,date,title", *rows, "999,2025-05-05 00:00:01,exact"))
    published = [item.published_at for item in delivery.items if item.published_at]
    assert FIRST - 26 * HOUR < min(published) <= FIRST - HOUR
    assert max(published) == LAST - HOUR


def test_votes_are_used_only_with_a_first_seen_time(tmp_path: Path) -> None:
    row = {"id": "1", "created_utc": EPOCH, "text": "Hold on", "score": 12.0, "num_comments": "3"}
    assert only(fetch(lines(tmp_path / "a.jsonl", row), "post")).points is None
    assert only(fetch(lines(tmp_path / "c.jsonl", row | {"score": "+++"}), "post")).points is None
    seen = row | {"first_seen_at": EPOCH + 60}
    item = only(fetch(lines(tmp_path / "b.jsonl", seen), "post"))
    assert (item.points, item.comments) == (12, 3)


def test_nan_counts_as_missing(tmp_path: Path) -> None:
    nan = float("nan")
    rows = {
        "created_utc": [float(EPOCH), nan],
        "first_seen_at": [float(EPOCH)] * 2,
        "text": ["a", "b"],
        "score": [nan, 1],
    }
    pl.DataFrame(rows, strict=False).write_parquet(tmp_path / "odd [1].parquet")
    items = fetch(tmp_path / "odd *.parquet", "post").items
    assert [(item.published_at, item.points) for item in items] == [(STAMP, None), (None, 1)]


# --- texts without a title or a name -----------------------------------------------------------------
def test_an_untitled_repeat_of_a_titled_article_is_left_out(tmp_path: Path) -> None:
    rows = [
        {"date": EPOCH, "title": "Miners return", "summary": "They are back.", "url": "https://a.example/1"},
        {"date": EPOCH + 60, "title": None, "summary": "They are back"},
        {"date": EPOCH + 90, "title": "", "summary": "Nobody else said this."},
        {"date": EPOCH - 49 * 3600, "summary": "They are back."},
    ]
    for name, parts in {"one": [rows], "two": [rows[:1], rows[1:]]}.items():
        (tmp_path / name).mkdir()
        for n, part in enumerate(parts):
            lines(tmp_path / name / f"{n}.jsonl", *part)
        titles = [item.title for item in fetch(tmp_path / name / "*", first=FIRST - 96 * HOUR).items]
        assert titles == ["Miners return", "Nobody else said this.", "They are back."]
    titled_is_too_old = STAMP + timedelta(days=1, hours=1, minutes=1, seconds=30)
    assert [item.title for item in fetch(tmp_path / "one" / "*", first=titled_is_too_old).items] == [
        "Nobody else said this."
    ]


def test_empty_and_undated_rows_are_reported(tmp_path: Path) -> None:
    path = csv(
        tmp_path / "x.csv", "date,title,summary", f"{EPOCH},Miners return,", f"{EPOCH},,", ",Undated,", f"{EPOCH}, , "
    )
    delivery = fetch(path)
    assert only(delivery).title == "Miners return"
    assert delivery.faults == [
        "x.csv: 1 rows have no time and were left out, the first is line 4",
        "x.csv: 2 rows have neither title nor summary and were left out, the first is line 3",
    ]


def test_rows_from_the_future_are_reported(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", "date,title", f"{EPOCH},Miners return", "2025-08-01 09:00:00,Ahead of its time")
    faults = " ".join(fetch(path).faults)
    assert "x.csv: 1 rows are dated after 2025-08-01 00:00 UTC" in faults
    assert "line 3; check whether their times are UTC" in faults


def test_texts_without_an_id_have_a_stable_guid(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", "date,platform,text", f"{EPOCH},X,good", f"{EPOCH + 1},X,good", f"{EPOCH},X,bad")
    first, second = ([item.guid for item in fetch(path, "post").items] for _ in range(2))
    assert first == second
    assert len(set(first)) == 3


def test_a_retweet_is_a_repost_without_a_column(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", "date,text", f"{EPOCH},RT @someone: hold on", f"{EPOCH},hold on")
    assert [item.is_repost for item in fetch(path, "post").items] == [True, False]


# --- file formats --------------------------------------------------------------------------------------
ROW = {"id": "1", "date": EPOCH, "title": "Miners return"}
LINE = json.dumps(ROW)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", b"\xef\xbb\xbf" + LINE.encode()),
        ("x.jsonl", LINE.encode("utf-16")),
        ("x.jsonl", f"\n\n{LINE}\r\n\n \n".encode()),
        ("x.jsonl", json.dumps([ROW], indent=1).encode()),
        ("x.json", json.dumps([ROW]).encode()),
        ("x.json", LINE.encode()),
        ("x.json.gz", gzip.compress(json.dumps({"status": "ok", "totalResults": 1, "articles": [ROW]}).encode())),
        ("x.jsonl", json.dumps({"status": "ok", "articles": [ROW]}).encode()),
        ("x.json", json.dumps({"data": {"children": [{"kind": "t3", "data": ROW}]}}).encode()),
        ("x.csv", f"\ufeffid,date,title\n1,{EPOCH},Miners return\n".encode()),
        ("x.csv", f"id;date;title\r\n1;{EPOCH};Miners return\r\n\r\n\r\n".encode()),
        ("x.csv", f"id\tdate\ttitle\n\n1\t{EPOCH}\tMiners return\n\t\t\n".encode()),
        ("x.csv", f"id,date,title\n1,{EPOCH},Miners return\n".encode("utf-16")),
    ],
)
def test_common_file_formats_are_read(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    delivery = fetch(tmp_path / name)
    assert (only(delivery).guid, only(delivery).title, only(delivery).published_at) == ("1", "Miners return", STAMP)
    assert delivery.faults == []


@pytest.mark.parametrize(
    "rows",
    [
        [{"source": {"id": "cnn", "name": "CNN"}}],
        [{"source": {"id": None, "name": "CNN"}}, {"source": {"id": None, "name": "BBC"}}],
        [{"source": {"id": None, "name": "CNN"}}, {"source": "BBC"}, {"source": None}],
    ],
)
def test_an_outlet_may_be_an_object(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    assert [item.outlet for item in fetch(lines(tmp_path / "x.jsonl", *(ROW | row for row in rows))).items] == [
        name for row in rows if (name := {"CNN": "cnn", "BBC": "bbc", None: ""}[
            row["source"]["name"] if isinstance(row["source"], dict) else row["source"]
        ]) is not None
    ]  # fmt: skip


def test_a_response_of_newsapi_is_read(tmp_path: Path) -> None:
    article = {
        "source": {"id": None, "name": "The Desk"}, "author": None, "title": "Miners return", "description": "Back.",
        "url": "https://desk.example/a", "urlToImage": None, "publishedAt": "2025-05-05T10:20:30Z", "content": None,
    }  # fmt: skip
    removed = article | {
        "title": "[Removed]",
        "url": "https://removed.com",
        "source": {"id": None, "name": "[Removed]"},
    }
    answer = {"status": "ok", "totalResults": 2, "articles": [article, removed]}
    (tmp_path / "x.json").write_text(json.dumps(answer))
    delivery = fetch(tmp_path / "x.json")
    item = only(delivery)
    assert (item.title, item.url, item.published_at, item.outlet) == (
        "Miners return", "https://desk.example/a", STAMP, "desk.example",
    )  # fmt: skip
    assert delivery.faults == ["x.json: 1 rows were taken down and were left out, the first is row 2"]


@pytest.mark.parametrize(
    "text",
    ["[deleted]", "[removed]", " [Removed] ", "[ Removed by Reddit ]", "[deleted by user]", "\\[removed\\]",
     "[removed by moderator]", "&#91;deleted&#93;", "[ Removed by Reddit in response to a copyright notice. ]"],
)  # fmt: skip
def test_removed_posts_are_left_out_and_counted(text: str, tmp_path: Path) -> None:
    rows = [
        {"id": "1", "date": EPOCH, "title": "A title", "text": text},
        {"id": "2", "date": EPOCH, "title": text, "text": ""},
        {"id": "3", "date": EPOCH, "title": "", "text": f"Why was this {text}?"},
    ]
    delivery = fetch(lines(tmp_path / "x.jsonl", *rows), "post")
    assert only(delivery).guid == "3"
    assert delivery.faults == ["x.jsonl: 2 rows were taken down and were left out, the first is row 1"]


MANY_LINES = [json.dumps(ROW | {"id": str(n), "title": f"Title {n}"}) for n in range(300)]
MANY_ROWS = ["id,date,title", *(f"{n},{EPOCH},Title {n}" for n in range(300))]


@pytest.mark.parametrize(
    ("name", "good", "bad", "fault"),
    [
        (
            "x.jsonl",
            MANY_LINES,
            "not json",
            "1 of 301 lines cannot be read and were left out; the first, line 151, is not",
        ),
        ("x.jsonl", MANY_LINES, '{"id": 7, "date": ', 'line 151, is not a JSON object, it starts with \'{"id": 7'),
        ("x.jsonl", MANY_LINES, "[1, 2" * 40_000, "line 151, is not a JSON object"),
        ("x.csv", MANY_ROWS, f"7,{EPOCH},Well, well", "line 151, has 4 values, but the header has 3"),
        (
            "x.csv",
            MANY_ROWS,
            "7,yesterday,Well",
            "1 rows cannot be read and were left out, the first is line 151: expected",
        ),
    ],
)
def test_a_bad_line_among_many_is_left_out_and_reported(
    name: str, good: list[str], bad: str, fault: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("\n".join([*good[:150], bad, *good[150:]]))
    delivery = fetch(tmp_path / name)
    assert len(delivery.items) == 300
    assert len(delivery.faults) == 1
    assert fault in delivery.faults[0]
    assert delivery.faults[0].startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "good", "cut"), [("x.jsonl", MANY_LINES, '{"id": "7", "da'), ("x.csv", MANY_ROWS, '7,1,"Wel')]
)
def test_a_truncated_last_line_is_left_out(name: str, good: list[str], cut: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("\n".join([*good[:2], cut]))
    delivery = fetch(tmp_path / name)
    assert len(delivery.items) == (2 if name == "x.jsonl" else 1)
    assert "its last line, 3, is truncated and was left out" in delivery.faults[0]


def test_another_encoding_is_read_and_reported(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(f"date,title\n{EPOCH},Zürich café\n".encode("cp1252"))
    delivery = fetch(tmp_path / "x.csv")
    assert only(delivery).title == "Zürich café"
    assert delivery.faults == [
        "x.csv: it is not UTF-8 from line 2 on and was read as Windows-1252; save it as UTF-8 if letters are wrong"
    ]


# --- invalid files -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("when,title\n1,a", "found no column for published_at (or posted_at, created_at, timestamp, date)"),
        ("date_kst,title\n2025-05-05,a", "found no column for published_at"),
        ("date,words\n1,a", "found no column for title (or headline) or summary"),
        (f"date,title\n{EPOCH},a\nyesterday,b", "in column 'date', got 'yesterday' in line 3"),
        ("date,title\n20250505,a", "got '20250505' in line 2"),
        ("date,title\n05/06/2025 10:20,a", "got '05/06/2025 10:20' in line 2"),
        ("Date,title,first_seen\n2025-05-05,a,soon", "in column 'first_seen', got 'soon' in line 2"),
        ("date,title,precision\n2025-05-05,a,week", "expected one of second, minute, day, none in column 'precision'"),
        (f"date,title,url\n{EPOCH},Well, well,https://a.example", "line 2 has 4 values, but the header has 3"),
        (f'date,title\n{EPOCH},"a\n{EPOCH},b\n{EPOCH},c', "line 2 has an unbalanced quotation mark"),
        ("", "x.csv is empty"),
        ("<html>\n<body>\nsorry</body>\n</html>", "found no column"),
    ],
)
def test_an_invalid_file_is_refused(content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(SourceMalformedError) as error:
        fetch(tmp_path / "x.csv")
    assert sentence in str(error.value)
    assert "x.csv" in str(error.value)
    assert "BTC_NEWS_FILES" in str(error.value)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"date": EPOCH, "text": ["a", "b"]}, "expected text in column 'text', got lists"),
        ({"date": {"at": 1}, "text": "a"}, "expected a time"),
        ({"date": EPOCH, "text": "a", "is_retweet": "perhaps"}, "expected true or false in column 'is_retweet'"),
        ({"date": EPOCH, "first_seen_at": EPOCH, "text": "a", "score": "many"}, "expected a number in column 'score'"),
        ({"date": EPOCH, "text": 1.5}, "expected text in column 'text', got numbers"),
    ],
)
def test_columns_of_another_type_are_refused(row: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(SourceMalformedError) as error:
        fetch(lines(tmp_path / "x.jsonl", row), "post")
    assert sentence in str(error.value)
    assert "BTC_SOCIAL_FILES" in str(error.value)


@pytest.mark.parametrize("name", ["x.parquet", "x.csv.gz", "x.jsonl", "x.ndjson.gz"])
def test_a_damaged_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PAR1\x1f\x8b, but not really \xff\xfe")
    with pytest.raises(SourceMalformedError, match=rf"^{re.escape(name)}") as error:
        fetch(tmp_path / name)
    assert not re.search(r"[Pp]olars|ComputeError|panick|thrift", str(error.value)), "no message of a library"


def test_a_missing_file_is_reported_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(SourceRefusedError, match=r"BTC_NEWS_FILES='.*' matches no \.parquet"):
        fetch(tmp_path / "*.csv")
    with pytest.raises(SourceRefusedError, match=r"BTC_SOCIAL_FILES='.*' matches no \.parquet"):
        fetch(tmp_path / "*.csv", "post")


# --- real archives -----------------------------------------------------------------------------------
def filed_of(path: Path, kind: Kind, first: datetime, last: datetime) -> tuple[pl.DataFrame, Delivery]:
    results = fetch_all([source(path, kind)], first, last, last, 1)
    assert results[0].delivery is not None, results[0].fault
    days = [first.date() + timedelta(days=n) for n in range((last - first).days)]
    frame = file_items(results, kind, CONTRACTS[kind].empty(), KnownTexts.empty(), days, last).frame
    assert CONTRACTS[kind].faults(frame) == []
    return frame, results[0].delivery


def test_dense_real_news_is_filed_by_first_seen(shared_data: Path) -> None:
    first = datetime(2025, 7, 1, tzinfo=UTC)
    frame, delivery = filed_of(shared_data / "text" / "news.parquet", "article", first, first + 48 * HOUR)
    raw = pl.read_parquet(shared_data / "text" / "news.parquet").filter(
        pl.col("first_seen_at").is_between(first, first + 48 * HOUR, closed="left")
    )
    assert len(delivery.items) == raw.height > 500
    assert 0.97 < frame.height / raw.height < 1
    assert set(frame["available_at"]) == set(raw["first_seen_at"].cast(pl.Datetime("us", "UTC")))
    assert not any("utm_" in address for address in frame["url"])
    assert 0.9 < frame["story_id"].n_unique() / frame.height < 1


def test_untitled_repeats_in_real_news_are_left_out(shared_data: Path) -> None:
    path, first = shared_data / "text" / "news.parquet", datetime(2022, 5, 9, tzinfo=UTC)
    frame, delivery = filed_of(path, "article", first, first + 96 * HOUR)
    raw = pl.read_parquet(path).filter(pl.col("published_at").is_between(first - HOUR, first + 95 * HOUR))
    titled = raw.filter(pl.col("title").is_not_null())
    assert raw.height > 1.3 * titled.height, "the archive has many articles twice"
    assert titled.height * 0.98 < frame.height < titled.height * 1.1
    assert delivery.faults == []


def test_real_posts_are_read(shared_data: Path) -> None:
    first = datetime(2018, 4, 17, tzinfo=UTC)
    frame, _ = filed_of(shared_data / "text" / "social.parquet", "post", first, first + 24 * HOUR)
    assert frame.height > 1000
    assert 0.3 < frame["is_repost"].mean() < 0.7  # type: ignore[operator]
    assert frame["points"].null_count() == frame.height, "the time of the count is unknown"
    assert set(frame["platform"]) <= {"twitter", "reddit"}
    assert POSTS.faults(frame) == []
