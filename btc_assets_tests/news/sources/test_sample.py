"""The embedded texts are what their README says: synthetic, and said to be so."""

from __future__ import annotations

import hashlib
import runpy
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlsplit

import polars as pl
import pytest

from btc_assets.news.gather import CONTRACTS, Known, fetch_all, file_items
from btc_assets.news.sources.protocol import Kind
from btc_assets.news.sources.sample import ARTICLES_FILE, NAME, POSTS_FILE, SampleSource
from btc_assets.news.tables import ARTICLES, POSTS

FIRST, LAST = datetime(2019, 7, 1, tzinfo=UTC), datetime(2019, 10, 1, tzinfo=UTC)
DAYS = [FIRST.date() + timedelta(days=n) for n in range((LAST - FIRST).days)]
SILENT = {date(2019, 7, 18), date(2019, 8, 18), date(2019, 9, 8)}
RESERVED = (".example", "example.com", "example.net", "example.org")


def filed(kind: Kind) -> pl.DataFrame:
    gathered = fetch_all([SampleSource()], FIRST, LAST, LAST, 1)
    assert gathered[0].fault == ""
    assert gathered[0].delivery is not None
    assert gathered[0].delivery.faults == []
    return file_items(gathered, kind, CONTRACTS[kind].empty(), Known.none(), DAYS, LAST).frame


@pytest.fixture(scope="module")
def articles() -> pl.DataFrame:
    return filed("article")


@pytest.fixture(scope="module")
def posts() -> pl.DataFrame:
    return filed("post")


def test_every_text_says_that_it_is_synthetic(articles: pl.DataFrame, posts: pl.DataFrame) -> None:
    assert set(articles["source"]) == set(posts["source"]) == {NAME} == {"synthetic_sample"}
    hosts = {urlsplit(url).hostname or "" for url in articles["url"]} | set(posts["platform"])
    assert all(host.endswith(RESERVED) for host in hosts)


def test_all_of_them_are_filed_within_the_sample(articles: pl.DataFrame, posts: pl.DataFrame) -> None:
    assert ARTICLES.faults(articles) == POSTS.faults(posts) == []
    assert (articles.height, posts.height) == (316, 148)
    assert articles.height == len(ARTICLES_FILE.read_text().splitlines())
    assert posts.height == len(POSTS_FILE.read_text().splitlines())


def test_an_article_is_available_ten_minutes_after_it_was_published(articles: pl.DataFrame) -> None:
    lag = articles.select(pl.col("available_at") - pl.col("published_at")).to_series()
    assert set(lag) == {timedelta(minutes=10)}


def test_some_stories_are_retold_and_some_posts_repeated(articles: pl.DataFrame, posts: pl.DataFrame) -> None:
    stories = articles.group_by("story_id").agg(pl.len(), pl.col("outlet").n_unique().alias("outlets"))
    assert 40 < stories.filter(pl.col("outlets") > 1).height < 100
    assert articles["outlet"].n_unique() == 10
    assert 5 < posts["is_repost"].sum() < 40


def test_most_hours_and_three_days_have_no_text(articles: pl.DataFrame, posts: pl.DataFrame) -> None:
    published = pl.concat([articles.select("published_at"), posts.select("published_at")]).to_series()
    assert set(DAYS) - set(published.dt.date()) == SILENT
    assert 250 < published.dt.truncate("1h").n_unique() < len(DAYS) * 12


def test_the_script_makes_the_same_files_from_no_price() -> None:
    script = ARTICLES_FILE.with_name("build_headlines.py")
    built = runpy.run_path(str(script))["build"]()
    readme = ARTICLES_FILE.with_name("README.md").read_text(encoding="utf-8")
    for path in (ARTICLES_FILE, POSTS_FILE):
        assert built[path] == path.read_bytes()
        assert hashlib.sha256(path.read_bytes()).hexdigest() in readme
    assert "are not news" in readme
    assert "parquet" not in script.read_text(encoding="utf-8")


def test_its_wordings_lean_both_ways_and_neither() -> None:
    news = runpy.run_path(str(ARTICLES_FILE.with_name("build_headlines.py")))["NEWS"]
    leanings = [leaning for leaning, _, _ in news]
    assert min(leanings.count(leaning) for leaning in ("positive", "neutral", "negative")) >= 10
