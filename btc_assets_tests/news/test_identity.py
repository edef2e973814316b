"""One id per address, one story for similar titles."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, urlsplit

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from btc_assets.news.identity import (
    article_id,
    assign_stories,
    canonical_url,
    outlet_of,
    plain_words,
    post_id,
    text_digest,
)

START = datetime(2025, 5, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)

# --- canonical URLs --------------------------------------------------------------------------------
HOSTS = st.sampled_from(["example.com", "news.example.org", "xn--mnchen-3ya.example", "a-b.example.co.uk"])
SEGMENTS = st.text(st.characters(exclude_categories=["C"], exclude_characters="/"), min_size=1, max_size=12).filter(
    lambda segment: (
        segment.strip() == segment and segment not in (".", "..") and not segment.lower().endswith((".amp", ".amp.htm"))
    )
)
PATHS = st.lists(st.one_of(st.sampled_from(["2025", "05", "bitcoin-rises", "a.html"]), SEGMENTS), max_size=4).filter(
    lambda path: not any("amp" in segment.lower() or "%" in segment for segment in path)
)
NAMES = st.sampled_from(["p", "id", "page", "q", "ä", "x y"])
PARAMETERS = st.lists(st.tuples(NAMES, st.text(max_size=6)), max_size=3, unique_by=lambda pair: pair[0])
TRACKING = st.lists(
    st.tuples(
        st.sampled_from(
            (
                "utm_source", "utm_medium", "UTM_Campaign", "utm%5Fterm", "fbclid", "gclid", "mc_cid", "mc_eid", "ref",
                "mtm_campaign", "amp", "igshid", "feed_item_type", "sessionId", "_ga", "yclid",
            )
        ),
        st.sampled_from(["", "rss", "a%20b", "1", "https://t.example/x"]),
    ),
    max_size=4,
)  # fmt: skip


def url(host: str, path: list[str], parameters: list[tuple[str, str]] = [], scheme: str = "https") -> str:  # noqa: B006
    query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in parameters)
    return f"{scheme}://{host}/{'/'.join(quote(segment, safe='') for segment in path)}" + (f"?{query}" if query else "")


@given(
    st.one_of(st.text(), st.text().map(lambda rest: f"https://example.com/{rest}"), st.text().map("http://".__add__))
)
@example("https://a.example/%%34")
@example("https://a.example/x.amp.amp/amp/.amp")
@example("https://a.example//amp//..//%2e%2e/b")
@example("https://m.m.m.example.com")
@example("https://www.google.com/amp/s/www.google.com/amp/s/a.example/x")
@example("https://a.example?a=b?c&a=%62%3fc&&=&+=%20")
@example("https://ａ.example/ａ")
@example("https://a.example\\b")
def test_the_canonical_form_is_idempotent(text: str) -> None:
    once = canonical_url(text)
    assert canonical_url(once) == once
    assert once == "" or (once.startswith("https://") and once.isascii() and urlsplit(once).fragment == "")


@given(HOSTS, PATHS, PARAMETERS, TRACKING, st.text(st.characters(exclude_categories=["C"]), max_size=8), st.data())
def test_tracking_parameters_and_fragments_are_ignored(
    host: str,
    path: list[str],
    parameters: list[tuple[str, str]],
    tracking: list[tuple[str, str]],
    fragment: str,
    data: st.DataObject,
) -> None:
    plain = url(host, path, parameters)
    pairs = [f"{quote(n, safe='')}={quote(v, safe='')}" for n, v in parameters] + [f"{n}={v}" for n, v in tracking]
    mixed = data.draw(st.permutations(pairs))
    tracked = f"{plain.partition('?')[0]}?{'&'.join(mixed)}#{fragment}"
    assert canonical_url(tracked) == canonical_url(plain) != ""


@given(HOSTS, PATHS, PARAMETERS, st.sampled_from(["www.", "m.", "amp.", "mobile.", "WWW."]))
def test_variants_of_an_address_have_one_canonical_form(
    host: str, path: list[str], parameters: list[tuple[str, str]], prefix: str
) -> None:
    plain = canonical_url(url(host, path, parameters))
    head, _, query = url(host, path, parameters).partition("?")
    rest = f"?{query}" if query else ""
    variants = [
        head.replace("https://", "http://") + rest,
        head.replace(f"//{host}", f"//{prefix}{host.upper()}:443") + rest,
        head.replace("https://", "HTTP://reader:secret@").replace(f"@{host}", f"@{host}.:80") + rest,
        f"{head}/{rest}",
        f"{head}/amp/{rest}",
        head.replace(f"{host}/", f"{host}/amp/") + rest,
        f"{head}{rest}{'&' if rest else '?'}outputType=amp",
    ]
    assert {canonical_url(variant) for variant in variants} == {plain}


@given(HOSTS, PATHS, PATHS, PARAMETERS)
def test_a_different_path_is_a_different_address(
    host: str, path: list[str], other: list[str], parameters: list[tuple[str, str]]
) -> None:
    same = canonical_url(url(host, path, parameters)) == canonical_url(url(host, other, parameters))
    assert same == (path == other)


@given(HOSTS, PATHS, PARAMETERS, PARAMETERS)
def test_a_different_parameter_is_a_different_address(
    host: str, path: list[str], one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    same = canonical_url(url(host, path, one)) == canonical_url(url(host, path, other))
    assert same == (sorted(one) == sorted(other))


@pytest.mark.parametrize(
    ("given_url", "canonical"),
    [
        ("http://www.Example.com:80/News/a-b/?utm_source=rss&b=2&a=1#top", "https://example.com/News/a-b?a=1&b=2"),
        ("https://amp.example.com/amp/story/amp/?amp=1", "https://example.com/story"),
        ("https://example.com/story.amp.html", "https://example.com/story"),
        (
            "https://www-example-com.cdn.ampproject.org/c/s/www.example.com/story/amp?a=1",
            "https://example.com/story?a=1",
        ),
        ("https://www.google.com/amp/s/m.example.com/story", "https://example.com/story"),
        ("https://example.comhttps://example.com/story", "https://example.com/story"),
        ("//example.com/story", "https://example.com/story"),
        (" https://example.com/sto\nry\u200b ", "https://example.com/story"),
        ("https://münchen.example/ä b%7e%2f", "https://xn--mnchen-3ya.example/%C3%A4%20b~%2F"),
        ("https://example.com:8443/a/./b/../c//d", "https://example.com:8443/a/c/d"),
        ("https://example.com/?p=123", "https://example.com?p=123"),
        (
            "https://example.com/?redirect=https://other.example/x",
            "https://example.com?redirect=https://other.example/x",
        ),
        ("https://m.example/x", "https://m.example/x"),
        ("https://[::1]:80/a", "https://[::1]/a"),
    ],
)
def test_an_address_has_this_canonical_form(given_url: str, canonical: str) -> None:
    assert canonical_url(given_url) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "", "Telegram", "'polarity': 0.0", "javascript:alert(1)", "ftp://example.com/x", "mailto:a@example.com",
        "https://", "https:///x", "http://example.com:99999/", "http://[::1/", "https://exa mple.com/", "https://<b>/",
        "https://example.com/" + "x" * 3000, "data:text/html,x", "https://.../x", "https://a..example/x",
    ],
)  # fmt: skip
def test_an_invalid_address_has_no_canonical_form(text: str) -> None:
    assert canonical_url(text) == ""


def test_the_outlet_of_an_address_is_its_domain() -> None:
    assert outlet_of("https://www.example.com:8443/x") == "example.com"
    assert outlet_of("no address") == ""


# --- ids -------------------------------------------------------------------------------------------
def test_the_canonical_url_identifies_an_article() -> None:
    name = hashlib.sha256(b"https://example.com/story").hexdigest()[:32]
    assert article_id("http://www.example.com/story/?utm_source=x", "feed", "guid-1") == name
    assert article_id("https://example.com/story", "another feed", "") == name


def test_source_and_guid_identify_an_article_without_url() -> None:
    name = hashlib.sha256(b"feed\nguid-1").hexdigest()[:32]
    assert article_id("", "feed", "guid-1") == article_id("not an address", "feed", "guid-1") == name
    assert article_id("", "other feed", "guid-1") != name


def test_a_front_page_identifies_an_article_only_without_guid() -> None:
    front = "https://example.com/?utm_source=rss"
    assert article_id(front, "feed", "1") != article_id(front, "feed", "2")
    assert article_id(front, "feed", "") == article_id("https://example.com", "other", "")
    assert article_id("https://example.com/?p=1", "feed", "1") == article_id("https://example.com/?p=1", "feed", "2")


def test_a_text_without_address_and_id_is_refused() -> None:
    with pytest.raises(ValueError, match="neither an address nor an id"):
        article_id("", "feed", "")
    with pytest.raises(ValueError, match="no id"):
        post_id("reddit", "")


def test_platform_and_id_identify_a_post() -> None:
    assert post_id("Reddit", "abc") == post_id("reddit", "abc") != post_id("hacker_news", "abc")
    assert post_id("reddit", "abc") != post_id("reddit", "ABC")


@given(st.lists(st.text(), max_size=3), st.lists(st.text(), max_size=3))
def test_a_digest_distinguishes_the_parts_of_a_text(one: list[str], other: list[str]) -> None:
    assert (text_digest(*one) == text_digest(*other)) == (one == other)


# --- stories ---------------------------------------------------------------------------------------
def titled(*rows: tuple[str, str, float, str]) -> pl.DataFrame:
    """Articles as (id, outlet, hours after START, title), published when they became available."""
    at = [START + hours * HOUR for _, _, hours, _ in rows]
    return pl.DataFrame(
        {
            "article_id": [row[0] for row in rows],
            "outlet": [row[1] for row in rows],
            "title": [row[3] for row in rows],
            "available_at": pl.Series(at, dtype=pl.Datetime("us", "UTC")),
            "published_at": pl.Series(at, dtype=pl.Datetime("us", "UTC")),
        }
    )


def known(*rows: tuple[str, str, float, str], **stories: str) -> pl.DataFrame:
    """Stored articles, each in its own story unless `stories` names another."""
    frame = titled(*rows)
    return frame.with_columns(pl.Series("story_id", [stories.get(row[0], row[0]) for row in rows], pl.String))


NO_ARTICLES = known()
DIMON = (
    "JPMorgan To Allow Clients To Buy Bitcoin, Says Jamie Dimon",
    "JPMorgan to allow clients to buy Bitcoin, CEO Jamie Dimon says",
)


def test_a_similar_title_joins_the_story_of_the_first() -> None:
    new = titled(("b", "two.example", 1, DIMON[1]), ("a", "one.example", 0, DIMON[0]), ("c", "x.example", 2, "Rain"))
    assert assign_stories(new, NO_ARTICLES) == {"a": "a", "b": "a", "c": "c"}


def test_a_new_article_joins_a_stored_story() -> None:
    stored = known(("a", "one.example", 0, DIMON[0]))
    assert assign_stories(titled(("b", "two.example", 40, DIMON[1])), stored) == {"b": "a"}


def test_a_title_is_compared_only_with_the_first_of_a_story() -> None:
    stored = known(("a", "one.example", 0, DIMON[0]), ("b", "two.example", 40, DIMON[1]), b="a")
    late = titled(("c", "three.example", 60, DIMON[1]))
    assert assign_stories(late, stored) == {"c": "c"}, "60 hours after the first, though 20 after the second"


@pytest.mark.parametrize(("hours", "same"), [(48, True), (48.01, False)])
def test_a_story_accepts_articles_for_48_hours(hours: float, same: bool) -> None:
    new = titled(("a", "one.example", 0, DIMON[0]), ("b", "two.example", hours, DIMON[1]))
    assert (assign_stories(new, NO_ARTICLES)["b"] == "a") is same
    assert (assign_stories(new[1:], known(("a", "one.example", 0, DIMON[0])))["b"] == "a") is same


def test_no_article_joins_a_later_story() -> None:
    stored = known(("z", "one.example", 5, DIMON[0]))
    assert assign_stories(titled(("a", "two.example", 4.9, DIMON[1])), stored) == {"a": "a"}
    assert assign_stories(titled(("a", "two.example", 5, DIMON[1])), stored) == {"a": "z"}


def test_the_most_similar_then_the_earliest_story_is_chosen() -> None:
    stored = known(
        ("a", "one.example", 0, "Bitcoin fund of Lantern Capital opens to savers"),
        ("b", "two.example", 1, "Bitcoin fund of Lantern Capital opens to savers in May"),
        ("c", "six.example", 2, "Bitcoin fund of Lantern Capital opens to savers in May"),
    )
    joined = assign_stories(
        titled(("d", "new.example", 3, "Bitcoin fund of Lantern Capital opens to savers in May")), stored
    )
    assert joined == {"d": "b"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Bitcoin (BTC) Price Prediction for July 27", "Bitcoin (BTC) Price Prediction for July 28", False),
        ("Bitcoin Price Drop Below $114,000 Could Trigger $1.78 Billion Liquidations",
         "Bitcoin Price Drop Below $116,000 Could Trigger $677 Million Liquidations", False),
        ("Bank Names Bitcoin the Best Currency of 2025", "Bank names Bitcoin the best currency of 2025!", True),
        ("Crypto Fear Greed Index: Navigate Market Greed Wisely",
         "Crypto Fear and Greed Index: Navigate the Market Signal", False),
    ],
)  # fmt: skip
def test_recurring_columns_of_one_outlet_are_separate_stories(one: str, other: str, same: bool) -> None:
    new = titled(("a", "one.example", 0, one), ("b", "one.example", 1, other))
    assert (assign_stories(new, NO_ARTICLES)["b"] == "a") is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Strategy Adds 7,390 Bitcoin, Now Holds Over 576,000 BTC",
         "Strategy Adds 7,390 BTC, Now Holds Over 576K Bitcoin", True),
        ("Bitcoin Price Prediction for July 24", "Bitcoin Price Prediction for July 23", False),
        ("Bitcoin Price Prediction for July 24, 2025", "Bitcoin Price Prediction for July 23, 2025", False),
        ("Deutsche Bank to Launch Crypto Custody in 2026", "Deutsche Bank to launch crypto custody: report", True),
        ("SpaceX moves Bitcoin for first time in 3 years", "SpaceX moves Bitcoin for the first time", True),
    ],
)  # fmt: skip
def test_titles_of_two_outlets_with_numbers_share_one(one: str, other: str, same: bool) -> None:
    new = titled(("a", "one.example", 0, one), ("b", "two.example", 1, other))
    assert (assign_stories(new, NO_ARTICLES)["b"] == "a") is same


def test_titles_without_words_are_separate_stories() -> None:
    new = titled(("a", "one.example", 0, "🚀🚀"), ("b", "two.example", 0, "!!!"), ("c", "six.example", 1, "🚀🚀"))
    assert assign_stories(new, NO_ARTICLES) == {"a": "a", "b": "b", "c": "c"}


def test_words_are_normalised_in_case_punctuation_and_form() -> None:
    assert plain_words("  Musk’s “Ｆｉａｔ” is HOPELESS… (again)! ") == "musks fiat is hopeless again"


no_deadline = settings(deadline=None, max_examples=40)
WORDS = ["bitcoin", "falls", "rises", "bank", "opens", "closes", "fund", "miners", "7", "8", "vote", "court"]
ARTICLES = st.lists(
    st.tuples(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(" ".join),
        st.sampled_from(["one.example", "two.example", "six.example"]),
        st.integers(0, 80),
    ),
    max_size=25,
).map(lambda rows: titled(*((f"{place:032x}", row[1], row[2], row[0]) for place, row in enumerate(rows))))


@no_deadline
@given(ARTICLES, st.randoms(use_true_random=False))
def test_stories_do_not_depend_on_the_order_of_a_batch(new: pl.DataFrame, random: object) -> None:
    places = list(range(new.height))
    random.shuffle(places)  # type: ignore[attr-defined]
    assert assign_stories(new[places], NO_ARTICLES) == assign_stories(new, NO_ARTICLES)


@no_deadline
@given(ARTICLES)
def test_the_id_of_a_story_is_its_first_article(new: pl.DataFrame) -> None:
    stories = assign_stories(new, NO_ARTICLES)
    at = dict(new.select("article_id", "available_at").iter_rows())
    assert set(stories) == set(at)
    for name, story in stories.items():
        assert stories[story] == story
        assert timedelta(0) <= at[name] - at[story] <= 48 * HOUR


@no_deadline
@given(ARTICLES, st.integers(0, 80))
def test_two_batches_in_time_order_give_the_same_stories(new: pl.DataFrame, hour: int) -> None:
    early = pl.col("available_at") < START + hour * HOUR
    first, second = new.filter(early), new.filter(~early)
    stories = assign_stories(first, NO_ARTICLES)
    stored = first.with_columns(pl.Series("story_id", [stories[name] for name in first["article_id"]], pl.String))
    assert stories | assign_stories(second, stored) == assign_stories(new, NO_ARTICLES)


def test_a_thousand_new_titles_against_two_thousand_stored_take_seconds(shared_data: Path) -> None:
    news = (
        pl.read_parquet(shared_data / "text" / "news.parquet")
        .filter(pl.col("first_seen_at").is_not_null())
        .sort("first_seen_at", "article_id")
        .head(3000)
        .select(
            "article_id", "title", "published_at", pl.col("source").alias("outlet"),
            pl.col("first_seen_at").cast(pl.Datetime("us", "UTC")).alias("available_at"),
        )
    )  # fmt: skip
    old = news[:2000].with_columns(pl.col("article_id").alias("story_id"))
    assign_stories(news[:1], old[:1])
    started = time.process_time()
    stories = assign_stories(news[2000:], old)
    assert time.process_time() - started < 2
    assert len(stories) == 1000
    assert 5 < sum(name != story for name, story in stories.items()) < 100
