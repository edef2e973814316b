"""The embedded texts match their README: they are synthetic and marked as such."""

from __future__ import annotations

import hashlib
import runpy
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlsplit

import polars as pl
import pytest

from btc_assets.news.gather import CONTRACTS, KnownTexts, fetch_all, file_items
from btc_assets.news.sources.protocol import Kind
from btc_assets.news.sources.sample import ARTICLES_FILE, NAME, POSTS_FILE, SampleSource
from btc_assets.news.tables import ARTICLES, POSTS

FIRST, LAST = datetime(2019, 7, 1, tzinfo=UTC), datetime(2019, 10, 1, tzinfo=UTC)
DAYS = [FIRST.date() + timedelta(days=n) for n in range((LAST - FIRST).days)]
DAYS_WITHOUT_TEXT = {date(2019, 7, 18), date(2019, 8, 18), date(2019, 9, 8)}
RESERVED = (".example", "example.com", "example.net", "example.org")


def filed(kind: Kind) -> pl.DataFrame:
    results = fetch_all([SampleSource()], FIRST, LAST, LAST, 1)
    assert results[0].fault == ""
    assert results[0].delivery is not None
    assert results[0].delivery.faults == []
    return file_items(results, kind, CONTRACTS[kind].empty(), KnownTexts.empty(), DAYS, LAST).frame


@pytest.fixture(scope="module")
def articles() -> pl.DataFrame:
    return filed("article")


@pytest.fixture(scope="module")
def posts() -> pl.DataFrame:
    return filed("post")


def test_every_text_is_marked_as_synthetic(articles: pl.DataFrame, posts: pl.DataFrame) -> None:
    assert set(articles["source"]) == set(posts["source"]) == {NAME} == {"synthetic_sample"}
    hosts = {urlsplit(url).hostname or "" for url in articles["url"]} | set(posts["platform"])
    assert all(host.endswith(RESERVED) for host in hosts)


def test_all_texts_are_filed(articles: pl.DataFrame, posts: pl.DataFrame) -> None:
    assert ARTICLES.faults(articles) == POSTS.faults(posts) == []
    assert (articles.height, posts.height) == (316, 148)
    assert articles.height == len(ARTICLES_FILE.read_text().splitlines())
    assert posts.height == len(POSTS_FILE.read_text().splitlines())


def test_an_article_is_available_ten_minutes_after_publication(articles: pl.DataFrame) -> None:
    lag = articles.select(pl.col("available_at") - pl.col("published_at")).to_series()
    assert set(lag) == {timedelta(minutes=10)}


def test_some_stories_and_posts_are_repeated(articles: pl.DataFrame, posts: pl.DataFrame) -> None:
    stories = articles.group_by("story_id").agg(pl.len(), pl.col("outlet").n_unique().alias("outlets"))
    assert 40 < stories.filter(pl.col("outlets") > 1).height < 100
    assert articles["outlet"].n_unique() == 10
    assert 5 < posts["is_repost"].sum() < 40


def test_most_hours_and_three_days_have_no_text(articles: pl.DataFrame, posts: pl.DataFrame) -> None:
    published = pl.concat([articles.select("published_at"), posts.select("published_at")]).to_series()
    assert set(DAYS) - set(published.dt.date()) == DAYS_WITHOUT_TEXT
    assert 250 < published.dt.truncate("1h").n_unique() < len(DAYS) * 12


def test_the_script_builds_the_same_files_without_prices() -> None:
    script = ARTICLES_FILE.with_name("build_headlines.py")
    built = runpy.run_path(str(script))["build"]()
    readme = ARTICLES_FILE.with_name("README.md").read_text(encoding="utf-8")
    for path in (ARTICLES_FILE, POSTS_FILE):
        assert built[path] == path.read_bytes()
        assert hashlib.sha256(path.read_bytes()).hexdigest() in readme
    assert "are not news" in readme
    assert "parquet" not in script.read_text(encoding="utf-8")


def test_every_sentiment_class_occurs() -> None:
    news = runpy.run_path(str(ARTICLES_FILE.with_name("build_headlines.py")))["NEWS"]
    classes = [class_name for class_name, _, _ in news]
    assert min(classes.count(class_name) for class_name in ("positive", "neutral", "negative")) >= 10
