"""The assets of the news domain, materialised on a temporary lake with fake sources."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from btc_assets.digest import digest
from btc_assets.lake import Lake
from btc_assets.news import assets as news_assets
from btc_assets.news.assets import ASSETS
from btc_assets.news.checks import CHECKS
from btc_assets.news.resources import News
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.news.tables import ARTICLES, POSTS, SENTIMENT_SCORES
from btc_assets.partitions import key_of
from btc_assets.reads import lake_resources
from btc_assets.schema import Contract
from btc_assets.settings import Settings
from btc_assets.transport import SourceUnavailableError

DAY = date(2018, 5, 5)
NOW = datetime(2018, 5, 5, 12, tzinfo=UTC)


@dataclass
class FakeSource:
    """A source that delivers the items of the test, or fails."""

    name: str
    kinds: tuple[Kind, ...] = ("article",)
    live: bool = True
    lag: timedelta = timedelta()
    rhythm: timedelta | None = timedelta(hours=6)
    items: list[Item] = field(default_factory=list)
    broken: str = ""

    def fetch(self, first: datetime, last: datetime, now: datetime) -> Delivery:
        """Deliver all items, or fail."""
        assert first < last
        assert now.tzinfo is UTC
        if self.broken:
            raise SourceUnavailableError(self.broken)
        return Delivery(self.items)


def item(number: int, *, source: str = "a source", kind: Kind = "article", title: str = "") -> Item:
    words = ("gains", "falls", "halts", "wins", "drops", "climbs", "sinks", "holds", "waits", "soars")
    return Item(
        kind=kind,
        source=source,
        guid=str(number),
        url=f"https://source.example/{number}",
        title=title or f"Bitcoin {words[number % 10]} as event number {number} of {words[(number // 10) % 10]} unfolds",
        summary="",
        published_at=NOW - timedelta(minutes=number % 600),
        precision="second",
        outlet="source.example",
    )


class Deployment:
    """A lake, a clock and sources for in-process runs."""

    def __init__(self, root: Path) -> None:
        self.lake = Lake(root=str(root))
        self.now = NOW
        self.sources: list[FakeSource] = []

    def run(self, *names: str, day: date = DAY, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
        definitions = dg.Definitions(
            assets=ASSETS,
            asset_checks=CHECKS,
            jobs=[dg.define_asset_job("gather", dg.AssetSelection.assets(*(["news", name] for name in names)))],
            resources={
                **lake_resources(self.lake),
                "news": News(lambda: tuple(self.sources), lambda: self.now),
            },
            executor=dg.in_process_executor,
        )
        return definitions.resolve_job_def("gather").execute_in_process(
            partition_key=key_of(day), raise_on_error=raise_on_error
        )

    def rows(self, contract: Contract) -> pl.DataFrame:
        return self.lake.scan(contract).collect()


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    config = Settings(data_dir=tmp_path / "data")
    monkeypatch.setattr(news_assets, "settings", lambda: config)
    return Deployment(tmp_path / "lake")


def metadata(result: dg.ExecuteInProcessResult, name: str) -> dict[str, object]:
    [event] = result.asset_materializations_for_node(f"news__{name}")
    return {key: value.value for key, value in event.metadata.items()}


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    evaluations = result.get_asset_check_evaluations()
    return {f"{check.asset_key.path[-1]}/{check.check_name}": check.passed for check in evaluations}


def test_texts_are_stored_under_the_day_they_were_seen_and_scored(deployment: Deployment) -> None:
    both: tuple[Kind, ...] = ("article", "post")
    deployment.sources = [
        FakeSource("a source", both, items=[*map(item, range(5)), *(item(i, kind="post") for i in range(10, 13))])
    ]
    result = deployment.run("articles", "posts", "sentiment_scores")
    assert deployment.rows(ARTICLES)["available_at"].unique().to_list() == [NOW]
    assert (deployment.rows(ARTICLES).height, deployment.rows(POSTS).height) == (5, 3)
    scores = deployment.rows(SENTIMENT_SCORES)
    assert scores.filter("is_primary").height == 8
    assert set(scores["kind"]) == {"article", "post"}
    assert checks(result)["sentiment_scores/every_text_is_scored"]
    assert "a source" in str(metadata(result, "articles")["sources"])


def test_a_repeated_delivery_changes_nothing(deployment: Deployment) -> None:
    source = FakeSource("a source", items=[item(i) for i in range(20)])
    deployment.sources = [source]
    deployment.run("articles")
    before = digest(deployment.rows(ARTICLES))
    deployment.now = NOW + timedelta(minutes=15)
    again = deployment.run("articles")
    assert digest(deployment.rows(ARTICLES)) == before
    assert (metadata(again, "articles")["new"], metadata(again, "articles")["duplicate"]) == (0, 20)


def test_an_article_of_yesterday_is_not_stored_again_today(deployment: Deployment) -> None:
    deployment.sources = [FakeSource("a source", items=[item(1)])]
    deployment.run("articles")
    deployment.now = NOW + timedelta(days=1)
    deployment.sources[0].items = [item(1), item(2)]
    deployment.run("articles", day=DAY + timedelta(days=1))
    assert deployment.lake.read(ARTICLES, DAY + timedelta(days=1)).height == 1
    assert deployment.rows(ARTICLES).height == 2


def test_an_article_of_today_is_not_stored_again_under_an_earlier_day(deployment: Deployment) -> None:
    """An archive that is added later states an earlier time of the same article."""
    deployment.sources = [FakeSource("a source", items=[item(1)])]
    deployment.run("articles")
    archived = [replace(item(number), published_at=NOW - timedelta(days=1)) for number in (1, 2)]
    deployment.sources = [FakeSource("an archive", live=False, items=archived)]
    for _ in range(2):
        result = deployment.run("articles", day=DAY - timedelta(days=1))
        assert metadata(result, "articles")["rows_stored_under_later_days"] == 1
        assert deployment.lake.read(ARTICLES, DAY - timedelta(days=1)).height == 1
        assert deployment.rows(ARTICLES)["article_id"].n_unique() == deployment.rows(ARTICLES).height == 2


def test_an_edit_is_a_revision_and_is_not_scored(deployment: Deployment) -> None:
    deployment.sources = [FakeSource("a source", items=[item(1)])]
    deployment.run("articles", "sentiment_scores")
    deployment.now = NOW + timedelta(hours=1)
    deployment.sources[0].items = [replace(item(1), title="Bitcoin crashes, the worst disaster ever")]
    deployment.run("articles", "sentiment_scores")
    stored = deployment.rows(ARTICLES).sort("revision")
    assert stored["revision"].to_list() == [0, 1]
    assert stored["available_at"].to_list() == [NOW, NOW + timedelta(hours=1)]
    assert deployment.rows(SENTIMENT_SCORES).filter("is_primary").height == 1


def test_a_failing_source_is_reported_and_stops_no_other(deployment: Deployment) -> None:
    deployment.sources = [
        FakeSource("broken | source", broken="no answer within 20 s"),
        FakeSource("a source", items=[item(1)]),
    ]
    result = deployment.run("articles")
    materialized = metadata(result, "articles")
    assert deployment.rows(ARTICLES).height == 1
    assert materialized["sources_failed"] == 1
    assert "no answer within 20 s" in str(materialized["sources"])
    assert set(materialized["silent_sources"]) == {"broken | source"}
    assert not checks(result)["articles/sources_responding"]


def test_if_every_source_fails_the_stored_day_is_unchanged(deployment: Deployment) -> None:
    deployment.sources = [FakeSource("a source", items=[item(1)])]
    deployment.run("articles")
    before = digest(deployment.rows(ARTICLES))
    deployment.sources = [FakeSource("a source", broken="HTTP 503"), FakeSource("another", broken="HTTP 429")]
    result = deployment.run("articles", raise_on_error=False)
    assert not result.success
    assert "HTTP 429" in str(result.get_step_failure_events()[0].step_failure_data.error)
    assert digest(deployment.rows(ARTICLES)) == before


def test_a_source_silent_beyond_its_rhythm_is_a_warning(deployment: Deployment) -> None:
    deployment.sources = [FakeSource("a source", items=[item(1)])]
    assert checks(deployment.run("articles"))["articles/sources_responding"]
    deployment.now = NOW + timedelta(hours=7)
    result = deployment.run("articles")
    assert not checks(result)["articles/sources_responding"]
    assert "has delivered nothing new since 2018-05-05 12:00 UTC" in str(metadata(result, "articles")["silent_sources"])


def test_without_a_source_nothing_is_stored(deployment: Deployment) -> None:
    result = deployment.run("articles", "posts")
    assert result.success
    assert deployment.lake.days(ARTICLES) == []


def test_an_unscored_text_fails_the_check(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment.sources = [FakeSource("a source", items=[item(1), item(2)])]
    score_items = news_assets.score_items
    monkeypatch.setattr(news_assets, "score_items", lambda *arguments: score_items(*arguments).head(1))
    result = deployment.run("articles", "sentiment_scores", raise_on_error=False)
    assert not checks(result)["sentiment_scores/every_text_is_scored"]


def test_a_thousand_articles_are_filed_and_scored(deployment: Deployment) -> None:
    deployment.sources = [FakeSource("a source", items=[item(i) for i in range(1000)])]
    deployment.run("articles", "sentiment_scores")
    assert deployment.rows(ARTICLES).height == 1000
    assert deployment.rows(SENTIMENT_SCORES).filter("is_primary")["item_id"].n_unique() == 1000


def test_the_benchmark_without_labelled_texts_names_the_setting(deployment: Deployment) -> None:
    result = deployment.run("sentiment_benchmark", raise_on_error=False)
    assert "BTC_LABELLED_SENTIMENT" in str(result.get_step_failure_events()[0].step_failure_data.error)
