"""Feeds as a source of articles, with valid and hostile documents."""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.news.addresses import web_address
from btc_assets.news.gather import fetch_all
from btc_assets.news.sources import feed_entries
from btc_assets.news.sources.feed_entries import Document, FeedError, decode, read, read_in_subprocess
from btc_assets.news.sources.protocol import Delivery, TextSource
from btc_assets.news.sources.rss import (
    Feed,
    FeedEntry,
    delivery_of,
    feed_limits,
    feeds_of,
    published_at,
    read_catalogue,
)
from btc_assets.settings import Settings, SettingsError
from btc_assets.transport import (
    Limits,
    SourceError,
    SourceMalformedError,
    SourceRefusedError,
    SourceUnavailableError,
)
from btc_assets_tests.news.conftest import FAST, NOW, Answer, WebServer, conditional, redirect, rss_feed, rss_item

no_deadline = settings(deadline=None)
TODAY = (NOW.replace(hour=0), NOW.replace(hour=0) + timedelta(days=1))
ENTRY = FeedEntry("news", "https://news.example/rss?key=s3cret", "news.example", timedelta(hours=6))


def feed_at(web: WebServer, path: str = "/rss", cache: Path | None = None, name: str = "news", **limits: Any) -> Feed:
    entry = FeedEntry(name, web.url + path, "news.example", timedelta(hours=6))
    return Feed(entry, Limits(**(FAST | {"redirects": 5, "body_bytes": 10_000_000} | limits)), cache)


def fetch(feed: Feed, first: datetime = TODAY[0], last: datetime = TODAY[1], now: datetime = NOW) -> Delivery:
    return feed.fetch(first, last, now)


def delivered(feed: str | bytes) -> Delivery:
    """Parse a document in this process and convert it to items."""
    body = feed.encode() if isinstance(feed, str) else feed
    return delivery_of(read(body, ENTRY.url), ENTRY, NOW)


# --- valid feeds -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "titles", "published", "summary"),
    [
        (
            "coindesk",
            ["Robot maker Unitree is going public.", "Swiss mega-bank UBS ramps up its Bitcoin exposure"],
            datetime(2026, 8, 15, 16, 0, tzinfo=UTC),
            "Hyperliquid traders value Unitree at nearly $38 billion.",
        ),
        (
            "cointelegraph",
            ["Tokenized stock holders more than double", "Here's what happened in crypto today"],
            datetime(2026, 8, 15, 17, 26, 43, tzinfo=UTC),
            "Tokenized equities reached 1.31 million holders over the past month.",
        ),
        (
            "marketwatch",
            ["Fed signals rate path amid inflation data"],
            datetime(2026, 8, 22, 20, 45, tzinfo=UTC),
            "The Federal Reserve weighed its next move as markets awaited fresh data.",
        ),
    ],
)
def test_real_feeds_are_read(
    name: str, titles: list[str], published: datetime, summary: str, web: WebServer, shared_data: Path
) -> None:
    web.pages["/rss"] = Answer((shared_data / "fixtures" / "rss" / f"invest_{name}.xml").read_bytes(), packed=True)
    delivery = fetch(feed_at(web), now=datetime(2026, 8, 22, 21, tzinfo=UTC))
    assert delivery.faults == []
    assert not delivery.unchanged
    assert all(item.title.startswith(title) for item, title in zip(delivery.items, titles, strict=True))
    first = delivery.items[0]
    assert (first.published_at, first.precision, first.summary) == (published, "second", summary)
    assert (first.kind, first.source, first.outlet) == ("article", "news", "news.example")
    assert first.url.startswith("https://")
    assert first.guid
    assert first.first_seen_at is None


def test_a_feed_is_a_source_of_text(web: WebServer) -> None:
    source: TextSource = feed_at(web)
    assert (source.name, source.kinds, source.live, source.rhythm) == ("news", ("article",), True, timedelta(hours=6))
    assert source.lag > timedelta(0)


def test_atom_is_read_with_its_relative_links() -> None:
    delivery = delivered(
        '<feed xmlns="http://www.w3.org/2005/Atom"><title>x</title>'
        '<entry><title type="html">Fed &amp;amp; &lt;i&gt;rates&lt;/i&gt;</title><id>urn:1</id>'
        '<link rel="self" href="/api/1"/><link rel="alternate" href="/a/1?x=1&amp;y=2"/>'
        "<published>2026-08-15T10:00:00+02:00</published><updated>2026-08-15T12:00:00Z</updated>"
        '<content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml"><p>He</p><p>message</p></div></content></entry>'
        '<entry><title>Only changed</title><id>urn:2</id><link href="https://b.example/2"/>'
        "<updated>2026-08-15T09:00Z</updated></entry></feed>"
    )
    one, two = delivery.items
    assert (one.title, one.url, one.guid) == ("Fed & rates", "https://news.example/a/1?x=1&y=2", "urn:1")
    assert (one.published_at, one.precision) == (datetime(2026, 8, 15, 8, tzinfo=UTC), "second")
    assert one.summary == "He message"
    assert (two.published_at, two.precision) == (datetime(2026, 8, 15, 9, tzinfo=UTC), "minute")


def test_a_feed_of_rdf_is_read() -> None:
    delivery = delivered(
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><channel rdf:about="https://ecb.example/"><title>x</title></channel>'
        '<item rdf:about="https://ecb.example/1"><title>Rates</title><link>https://ecb.example/1</link>'
        "<dc:date>2026-08-14</dc:date></item></rdf:RDF>"
    )
    assert [(item.title, item.published_at, item.precision) for item in delivery.items] == [
        ("Rates", datetime(2026, 8, 14, tzinfo=UTC), "day")
    ]


def test_malformed_references_are_read() -> None:
    """Bare ampersands and HTML entities break a strict parser and corrupt words in a lenient one."""
    delivery = delivered(
        "<rss version='2.0'><channel><item><title>AT&T&rsquo;s R&D, up&nbsp;3 %</title><link>https://a.example/?a=1&b=2"
        "</link></item><item><title><![CDATA[Q&A: 1 < 2]]></title><link><![CDATA[https://a.example/?c=1&d=2]]></link>"
        "</item></channel></rss>"
    )
    assert [item.title for item in delivery.items] == ["AT&T’s R&D, up 3 %", "Q&A: 1 < 2"]
    assert [item.url for item in delivery.items] == ["https://a.example/?a=1&b=2", "https://a.example/?c=1&d=2"]


def test_items_have_no_markup_and_invisible_characters() -> None:
    hostile = "<script>alert(1)</script><b>Bit\u200bcoin</b> \u202eup\u0007 &lt;img src=x onerror=alert(1)&gt;"
    item = delivered(rss_feed(rss_item(1, title=hostile, description=hostile, guid="\u202e" + "x" * 50))).items[0]
    assert item.title == item.summary == "Bitcoin up"
    assert item.guid == item.url, "an unprintable id is replaced by the address"


def test_long_values_are_truncated() -> None:
    item = delivered(rss_feed(rss_item(1, title="t" * 10_000, description="s" * 100_000, guid="g" * 10_000))).items[0]
    assert (len(item.title), len(item.summary)) == (500, 2_000)
    assert len(item.guid) <= 500


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", "data:text/html,x", "https://a@b.example/x", "https://b.example/\u202ex", None]
)
def test_an_entry_without_a_valid_link_is_left_out(link: str | None) -> None:
    delivery = delivered(rss_feed(rss_item(1), rss_item(2, link=link)))
    assert [item.guid for item in delivery.items] == ["id-1"]
    assert delivery.faults[0].startswith(
        "news: 1 of 2 entries have no valid link and were left out, the first is entry 2 ("
    )


@pytest.mark.parametrize("odd", ["'", "|", " ", "{id}", "^", "`", "\\", "é", "&quot;", "[1]"])
def test_a_link_with_odd_characters_is_kept(odd: str) -> None:
    delivery = delivered(rss_feed(rss_item(1, link=f"https://news.example/a{odd}b")))
    assert delivery.faults == []
    assert delivery.items[0].url.startswith("https://news.example/a")
    assert web_address(delivery.items[0].url) == delivery.items[0].url


def test_an_entry_with_a_long_link_is_left_out() -> None:
    [fault] = delivered(rss_feed(rss_item(1, link="https://news.example/" + "x" * 2_100))).faults
    assert "1 of 1 entries have a link of more than 2048 characters and were left out" in fault


def test_an_entry_without_a_title_is_left_out() -> None:
    delivery = delivered(rss_feed(rss_item(1, title=None), rss_item(2), rss_item(3, title="<img src='x'>")))
    assert [item.guid for item in delivery.items] == ["id-2"]
    assert delivery.faults == ["news: 2 of 3 entries have no title and were left out, the first is entry 1."]


def test_the_address_replaces_a_missing_id() -> None:
    assert delivered(rss_feed(rss_item(1, guid=None))).items[0].guid == "https://news.example/1"


def test_skipped_entries_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_entries, "MAX_ENTRIES", 2)
    delivery = delivered(rss_feed())
    assert len(delivery.items) == 2
    assert delivery.faults == ["news: the feed has too many entries; 1 were not read."]


def test_a_feed_without_entries_is_valid() -> None:
    assert delivered("<rss version='2.0'><channel><title>new</title></channel></rss>") == Delivery([])


# --- dates ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "at", "precision"),
    [
        ("Sat, 15 Aug 2026 06:00:05 -05:00", datetime(2026, 8, 15, 11, 0, 5, tzinfo=UTC), "second"),
        ("15 Aug 2026 4:00 PM", datetime(2026, 8, 15, 16, tzinfo=UTC), "minute"),
        ("  Sat,\n 15 Aug 2026  ", datetime(2026, 8, 15, tzinfo=UTC), "day"),
        ("15/08/2026 16:00", None, "none"),
    ],
)
def test_the_precision_of_a_date_follows_its_spelling(text: str, at: datetime | None, precision: str) -> None:
    assert published_at(text) == (at, precision)


def test_invalid_dates_are_reported() -> None:
    ahead = format_datetime(NOW + timedelta(minutes=61))
    delivery = delivered(
        rss_feed(
            rss_item(1, pubDate=ahead),
            rss_item(2, pubDate=format_datetime(NOW + timedelta(minutes=59))),
            rss_item(3, pubDate="soon"),
            rss_item(4, pubDate=None),
        )
    )
    assert [(item.published_at, item.precision) for item in delivery.items] == [
        (None, "none"),
        (NOW + timedelta(minutes=59), "second"),
        (None, "none"),
        (None, "none"),
    ]
    assert delivery.faults == [
        (
            "news: 1 of 4 entries have a date in the future, which counts as missing, the first is entry 1 "
            "(2026-08-15 19:01 UTC)."
        ),
        "news: 1 of 4 entries have an unreadable date, which counts as missing, the first is entry 3 ('soon').",
    ]


# --- encodings -------------------------------------------------------------------------------------------------
PRICE = "Bitcoin für 60.000 € – “Höchststand”"


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("UTF-8", "utf-8"), ("UTF-8", "utf-8-sig"), ("UTF-8", "windows-1252"), ("ISO-8859-1", "windows-1252"),
        ("ISO-8859-1", "utf-8"), ("us-ascii", "utf-8"), ("windows-1252", "windows-1252"), ("UTF-16", "utf-16"),
        ("UTF-8", "utf-16"), ("utf-16", "utf-16-le"), ("utf-32", "utf-32"), ("no-such-thing", "utf-8"),
        ("", "windows-1252"), ("", "utf-8"), ("utf-7", "utf-8"),
    ],
)  # fmt: skip
def test_a_wrong_declared_encoding_is_corrected(declared: str, encoding: str) -> None:
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else '<?xml version="1.0"?>'
    delivery = delivered(rss_feed(rss_item(1, title=PRICE), head=head).encode(encoding))
    assert [item.title for item in delivery.items] == [PRICE]


@pytest.mark.parametrize(
    ("encoding", "title"),
    [
        ("gb18030", "比特"), ("big5", "比特"), ("euc-kr", "비트코인"), ("shift_jis", "ビットコイン"),
        ("koi8-r", "Биткоин растёт"), ("windows-1251", "Биткоин растёт"), ("iso-8859-2", "Złoty łącznie"),
    ],
)  # fmt: skip
def test_declared_encodings_are_used(encoding: str, title: str) -> None:
    head = f'<?xml version="1.0" encoding="{encoding}"?>'
    assert delivered(rss_feed(rss_item(1, title=title), head=head).encode(encoding)).items[0].title == title


def test_one_broken_character_does_not_corrupt_the_others() -> None:
    body = rss_feed(rss_item(1, title=PRICE), rss_item(2, title="x§y")).encode().replace("§".encode(), b"\xa7")
    assert [item.title for item in delivered(body).items] == [PRICE, "x\ufffdy"]


def test_control_characters_are_removed() -> None:
    assert len(delivered(rss_feed(rss_item(1, title="a\x00b\x0bc"), rss_item(2))).items) == 2


@no_deadline
@given(st.binary(max_size=300))
def test_any_bytes_are_decoded(body: bytes) -> None:
    assert isinstance(decode(body), str)
    assert isinstance(decode(b'<?xml version="1.0" encoding="' + body), str)


# --- invalid and hostile documents ------------------------------------------------------------------------------
ENTITY_BOMB = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol">'
    + "".join(f'<!ENTITY lol{n} "{f"&lol{n - 1 if n > 1 else chr(0)};" * 10}">'.replace("\0", "") for n in range(1, 10))
    + "]>"
)
EXTERNAL = '<?xml version="1.0"?><!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32", "utf-16-be"])
@pytest.mark.parametrize(
    "head", [ENTITY_BOMB, EXTERNAL, EXTERNAL.replace("ENTITY", "ENTITY % ")], ids=["lol", "file", "%"]
)
def test_declared_entities_are_refused_before_anything_is_parsed(
    head: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import feedparser

    monkeypatch.setattr(feedparser, "parse", lambda *args, **kwargs: pytest.fail("it was parsed"))
    with pytest.raises(FeedError, match="it declares entities"):
        read(rss_feed(rss_item(1, title="&lol9;&x;"), head=head).encode(encoding), ENTRY.url)


def test_a_document_type_without_entities_is_accepted() -> None:
    head = (
        '<?xml version="1.0"?><!DOCTYPE rss PUBLIC "-//Netscape Communications//DTD RSS 0.91//EN" "http://a.example/x">'
    )
    assert len(delivered(rss_feed(head=head)).items) == 3


def test_a_document_is_never_opened_as_a_file_or_an_address(tmp_path: Path, web: WebServer) -> None:
    (tmp_path / "feed.xml").write_text(rss_feed())
    for body in (str(tmp_path / "feed.xml"), f"file://{tmp_path}/feed.xml", f"{web.url}/rss", "feed:x"):
        with pytest.raises(FeedError, match="not an RSS or Atom feed"):
            read(body.encode(), ENTRY.url)
    assert web.requests == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "it is empty"),
        (b" \n\t", "it is empty"),
        (b"\xef\xbb\xbf", "it is empty"),
        (
            b"<!DOCTYPE html><html><body><form>Please log in</form>",
            "it is an HTML page, it starts with '<!DOCTYPE html>",
        ),
        (b"<HTML><head><title>503</title>", "it is an HTML page"),
        (b'{"error": "rate limited"}', "it is not an RSS or Atom feed, it starts with"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "it is not an RSS or Atom feed"),
        (rss_feed().encode()[:100], "it is truncated before its first entry ends"),
        (b"<?xml version='1.0'?><rss version='2.0'><channel><title>x", "it is truncated"),
    ],
    ids=["empty", "blank", "mark", "login", "html", "json", "picture", "cut", "cut head"],
)
def test_an_invalid_feed_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(FeedError) as error:
        read(body, ENTRY.url)
    assert message in str(error.value)


def test_the_complete_entries_of_a_truncated_feed_are_used() -> None:
    complete = rss_feed(*[rss_item(number) for number in range(1, 6)])
    cut = complete[: complete.index("story number 4") + 3]
    delivery = delivered(cut)
    assert [item.guid for item in delivery.items] == ["id-1", "id-2", "id-3"]
    assert delivery.faults == ["news: the feed is truncated; its 3 complete entries are used."]


@no_deadline
@given(st.integers(0, 1500))
def test_a_truncated_entry_is_never_used(length: int) -> None:
    complete = rss_feed()
    full = {item.guid: item for item in delivered(complete).items}
    try:
        items = delivered(complete[:length]).items
    except FeedError:
        return
    assert all(item == full[item.guid] for item in items)


# --- fetching -----------------------------------------------------------------------------------------------------
def test_an_unchanged_feed_delivers_nothing(web: WebServer, tmp_path: Path) -> None:
    web.pages["/rss"] = conditional(Answer(rss_feed()), etag='"1"')
    cache = tmp_path / "http.db"
    assert len(fetch(feed_at(web, cache=cache)).items) == 3
    assert fetch(feed_at(web, cache=cache)) == Delivery([], unchanged=True)
    web.pages["/rss"] = conditional(Answer(rss_feed(rss_item(4))), etag='"2"')
    assert [item.guid for item in fetch(feed_at(web, cache=cache)).items] == ["id-4"]


def test_articles_fetched_for_other_days_are_delivered_again(web: WebServer, tmp_path: Path) -> None:
    """A run for yesterday files nothing under today; today's run must still receive the articles."""
    web.pages["/rss"] = conditional(Answer(rss_feed()), etag='"1"')
    feed = feed_at(web, cache=tmp_path / "http.db")
    assert len(fetch(feed, TODAY[0] - timedelta(days=1), TODAY[0]).items) == 3
    assert len(fetch(feed).items) == 3
    assert fetch(feed).unchanged


@pytest.mark.parametrize(
    "body", [b"<html>Please log in</html>", b"", rss_feed().encode()[:-200]], ids=["login", "empty", "cut"]
)
def test_an_unusable_page_is_never_reported_as_unchanged(body: bytes, web: WebServer, tmp_path: Path) -> None:
    web.pages["/rss"] = conditional(Answer(body), etag='"1"')
    messages = []
    for _ in range(2):
        try:
            delivery = fetch(feed_at(web, cache=tmp_path / "http.db"))
            messages.append(" ".join(delivery.faults))
            assert not delivery.unchanged
        except SourceMalformedError as error:
            messages.append(str(error))
    assert messages[0] == messages[1] != ""


@pytest.mark.parametrize(
    ("answer", "error_type", "message"),
    [
        (Answer(b"<!doctype html><html>login"), SourceMalformedError, "news: expected a feed at http://127.0.0.1:"),
        (Answer(b""), SourceMalformedError, "but it is empty. None of its articles was stored"),
        (Answer(rss_feed(head=ENTITY_BOMB)), SourceMalformedError, "it declares entities"),
        (Answer(rss_feed(), cut=True), SourceUnavailableError, "the connection failed or was cut"),
        (Answer(b"x" * 50_000_000), SourceMalformedError, "larger than 10000000 bytes"),
        (
            Answer(gzip.compress(b" " * 50_000_000, 1), headers={"Content-Encoding": "gzip"}),
            SourceMalformedError,
            "larger than 10000000 bytes",
        ),
        (redirect("/rss"), SourceRefusedError, "redirects in a loop"),
        (redirect("file:///etc/passwd"), SourceRefusedError, "redirects to an address that is not http or https"),
        (Answer(rss_feed(), drip_s=0.05), SourceUnavailableError, "the response is too slow"),
        (
            Answer(status=404),
            SourceRefusedError,
            "HTTP 404, not found; correct its address in the catalogue",
        ),
        (
            Answer(status=403),
            SourceRefusedError,
            "the service refuses the request; correct its address in the catalogue",
        ),
        (Answer(status=429, headers={"Retry-After": "900"}), SourceUnavailableError, "a retry after 900 s"),
    ],
    ids=["login", "empty", "laughs", "cut", "50 MB", "bomb", "circle", "file", "drips", "404", "403", "429"],
)
def test_a_failing_feed_is_an_error_and_stops_no_other(
    answer: Answer, error_type: type[SourceError], message: str, web: WebServer
) -> None:
    web.pages |= {"/bad": answer, "/rss": Answer(rss_feed())}
    if answer.status == 302 and answer.headers["Location"] == "/rss":
        answer.headers["Location"] = "/bad"
    bad = feed_at(
        web,
        "/bad",
        name="bad" if message[:5] != "news:" else "news",
        total_s=1.5 if answer.drip_s else 60.0,
        attempts=2,
    )
    with pytest.raises(error_type) as error:
        fetch(bad)
    assert message in str(error.value)
    assert "s3cret" not in str(error.value)
    results = fetch_all([bad, feed_at(web, name="good")], *TODAY, NOW, concurrency=2)
    assert results[0].delivery is None
    assert message.removesuffix(":") in results[0].fault
    assert results[1].delivery is not None
    assert len(results[1].delivery.items) == 3


def test_a_redirect_is_followed(web: WebServer) -> None:
    web.pages |= {"/old": redirect("/rss?page=1", 301), "/rss": Answer(rss_feed())}
    assert len(fetch(feed_at(web, "/old?key=1#top")).items) == 3
    assert web.requests == [("/old", {"key": "1"}), ("/rss", {"page": "1"})]


def test_a_blocked_parser_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process the 50 kB would block every thread for hours."""
    monkeypatch.setattr(feed_entries, "TIMEOUT_S", 2)
    body = rss_feed(rss_item(1) + "<item><author>" + "a." * 25_000 + "</author></item>")
    with pytest.raises(FeedError, match="parsing it takes longer than 2 s"):
        read_in_subprocess(body.encode(), ENTRY.url)


@pytest.mark.parametrize(
    ("statement", "outcome"), [("while True: pass", "killed"), ("bytes(600 * 2**20)", "MemoryError")]
)
def test_the_child_has_resource_limits(statement: str, outcome: str) -> None:
    setup = f"import runpy; child = runpy.run_path({feed_entries.__file__!r}); limit = child['_limit_resources']"
    code = f"{setup}; limit.__globals__.update(CPU_SECONDS=1, MEBIBYTES=500); limit()\n{statement}"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert outcome in ("killed" if child.returncode in (-signal.SIGKILL, -signal.SIGXCPU) else child.stderr)


def test_a_failing_parser_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise MemoryError('no more')")
    monkeypatch.setattr(feed_entries, "__file__", str(broken))
    with pytest.raises(FeedError, match=r"its parser failed \(limits: 20 s CPU, 1024 MiB\): .MemoryError: no more"):
        read_in_subprocess(b"<rss>", ENTRY.url)


def test_a_child_reads_the_same_as_this_process() -> None:
    body = rss_feed(rss_item(1, title=PRICE), rss_item(2, title="\U0001f680 &amp; <b>x</b>"))[:-6].encode()
    assert read_in_subprocess(body, ENTRY.url) == read(body, ENTRY.url)
    with pytest.raises(FeedError, match="it is empty"):
        read_in_subprocess(b"", ENTRY.url)


def test_a_thousand_articles_are_read_within_five_seconds(web: WebServer) -> None:
    items = [rss_item(number, description="<p>word</p> " * 40) for number in range(1000)]
    web.pages["/rss"] = Answer(rss_feed(*items), packed=True)
    start = time.process_time()
    assert len(fetch(feed_at(web)).items) == 1000
    assert time.process_time() - start < 5


# --- the catalogue ---------------------------------------------------------------------------------------------------
def test_the_default_catalogue_has_the_major_feeds() -> None:
    feeds = read_catalogue(Settings(_env_file=None).news_feeds)  # type: ignore[call-arg]
    assert len(feeds) >= 15
    outlets = {feed.outlet for feed in feeds}
    assert outlets >= {
        "coindesk.com", "cointelegraph.com", "decrypt.co", "theblock.co", "bitcoinmagazine.com", "bitcoinist.com",
        "newsbtc.com", "cryptoslate.com", "beincrypto.com", "u.today", "blockworks.co", "dlnews.com",
        "cryptopotato.com", "news.bitcoin.com", "federalreserve.gov",
    }  # fmt: skip
    assert all(feed.url.startswith("https://") for feed in feeds)
    assert all(timedelta(hours=1) <= feed.rhythm <= timedelta(days=14) for feed in feeds)


def test_building_the_sources_sends_no_request(tmp_path: Path) -> None:
    catalogue = Settings(_env_file=None).news_feeds  # type: ignore[call-arg]
    sources = feeds_of(catalogue, Limits(attempts=10, max_wait_s=900.0), tmp_path / "http.db")
    assert [source.name for source in sources] == [feed.name for feed in read_catalogue(catalogue)]
    assert not (tmp_path / "http.db").exists()
    limits = feed_limits(Limits(attempts=10, max_wait_s=900.0))
    assert (limits.attempts, limits.max_wait_s, limits.redirects, limits.body_bytes) == (3, 20.0, 5, 10 * 1024 * 1024)
    assert feed_limits(Limits(attempts=1, max_wait_s=0.0)).attempts == 1


VALID_FEED = '[[feed]]\nname = "a"\nurl = "https://a.example/rss"\noutlet = "a.example"\nrhythm_hours = 6\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no feed; expected one [[feed]] table"),
        ("[[feed]", "it cannot be read: "),
        ("feed = 3", "it has no feed"),
        ("feed = [3]", "feed 1 is 3; expected a [[feed]] table"),
        ("title = 'x'\n" + VALID_FEED, "'title' is unknown; expected only [[feed]] tables"),
        (
            VALID_FEED + "lang = 'en'\n",
            "feed 1 (a) has an unknown key 'lang'; expected name, url, outlet, rhythm_hours",
        ),
        (VALID_FEED.replace("outlet", "#"), "feed 1 (a) has no 'outlet'"),
        (VALID_FEED.replace('name = "a"', ""), "feed 1 has no 'name'"),
        (VALID_FEED.replace('"a"', '"A b"'), "feed 1 (A b) has the name 'A b'; expected"),
        (
            VALID_FEED.replace("https://a.example/rss", "ftp://a.example"),
            "has the url 'ftp://a.example'; expected an http",
        ),
        (VALID_FEED.replace("https://", "https://u:p@"), "without credentials"),
        (VALID_FEED.replace('"https://a.example/rss"', "7"), "has the url 7; expected"),
        (
            VALID_FEED.replace('"a.example"', '"https://a.example"'),
            "has the outlet 'https://a.example'; expected a domain",
        ),
        (VALID_FEED.replace("= 6", "= 0"), "has rhythm_hours 0; expected hours above 0"),
        (VALID_FEED.replace("= 6", "= true"), "has rhythm_hours True; expected hours"),
        (VALID_FEED.replace("= 6", "= inf"), "has rhythm_hours inf; expected hours"),
        (VALID_FEED.replace("= 6", "= nan"), "has rhythm_hours nan; expected hours"),
        (VALID_FEED + VALID_FEED.replace("/rss", "/rss2"), "feed 2 has the name 'a' of another feed"),
        (VALID_FEED + VALID_FEED.replace('"a"', '"b"'), "feed 2 (b) has the url of 'a'; remove one"),
    ],
)
def test_an_invalid_catalogue_reports_the_problem(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "feeds.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        read_catalogue(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "BTC_NEWS_FEEDS" in str(error.value)


def test_a_missing_catalogue_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"it cannot be read: .*No such file"):
        read_catalogue(tmp_path / "none.toml")


def test_documents_compare_by_value() -> None:
    assert Document([]) == Document([], is_complete=True, skipped=0)
