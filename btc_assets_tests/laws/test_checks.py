"""The asset checks of the feature tables."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from btc_assets.features import checks as features_checks
from btc_assets.features.assets import ASSETS, hourly_features
from btc_assets.features.catalog import FEATURES, WARMUP_DAYS
from btc_assets.features.checks import unknown_shares
from btc_assets.features.engine import compute_features
from btc_assets.features.inputs import inputs_of
from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.lake import Lake, by_day
from btc_assets.laws import checks
from btc_assets.laws.checks import feature_differences
from btc_assets.laws.laws import AVAILABILITY, POISONING, PREFIX, feature_failures, largest_change
from btc_assets.market.tables import PRICES
from btc_assets.news.tables import ARTICLES, POSTS, SENTIMENT_SCORES
from btc_assets.partitions import DAILY, key_of
from btc_assets.reads import lake_resources
from btc_assets.streams import Inputs
from btc_assets_tests.conftest import random_walk_bars
from btc_assets_tests.features.synthetic import Texts, filtered, random_texts, store

pytestmark = pytest.mark.slow

START = datetime(2018, 1, 1, tzinfo=UTC)
DAYS = [START.date() + timedelta(days=n) for n in range(WARMUP_DAYS + 4)]
LAST = DAYS[-1]
Evaluations = dict[str, dg.AssetCheckEvaluation]

CHECKS = [*features_checks.CHECKS, *checks.CHECKS]
UPSTREAM = ("market/prices", "market/quarter_bars", "news/articles", "news/posts", "news/sentiment_scores")


def job_of(lake: Lake, selection: dg.AssetSelection) -> dg.JobDefinition:
    """Return a job of the feature assets and checks on a lake."""
    definitions = dg.Definitions(
        assets=[*(dg.AssetSpec(key.split("/"), partitions_def=DAILY) for key in UPSTREAM), *ASSETS],
        asset_checks=CHECKS,
        jobs=[dg.define_asset_job("some", selection=selection)],
        resources={**lake_resources(lake)},
        executor=dg.in_process_executor,
    )
    return definitions.resolve_job_def("some")


def run(lake: Lake, first: date, last: date) -> Evaluations:
    """Materialise features and labels of a range of days with their checks."""
    job = job_of(lake, dg.AssetSelection.groups("features"))
    tags = {"dagster/asset_partition_range_start": key_of(first), "dagster/asset_partition_range_end": key_of(last)}
    return {one.check_name: one for one in job.execute_in_process(tags=tags).get_asset_check_evaluations()}


def features_alone(lake: Lake, first: date, last: date) -> None:
    """Materialise the features of a range of days, without checks."""
    job = job_of(lake, dg.AssetSelection.assets(hourly_features).without_checks())
    tags = {"dagster/asset_partition_range_start": key_of(first), "dagster/asset_partition_range_end": key_of(last)}
    assert job.execute_in_process(tags=tags).success


def check_alone(lake: Lake, name: str) -> dg.AssetCheckEvaluation:
    """Run one check on the lake."""
    check = next(one for one in CHECKS if one.check_key.name == name)
    (evaluation,) = job_of(lake, dg.AssetSelection.checks(check)).execute_in_process().get_asset_check_evaluations()
    return evaluation


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Return a lake of prices without order flow, as Bitfinex has them."""
    new_lake = Lake(root=str(tmp_path_factory.mktemp("lake")))
    bars = random_walk_bars(24 * len(DAYS), start=START, flow=False)
    for day, part in by_day(PRICES, bars, DAYS):
        new_lake.write(PRICES, day, part)
    return new_lake


@pytest.fixture(scope="module")
def evaluations(lake: Lake) -> Evaluations:
    """Return the evaluations of a run over the newest days."""
    return run(lake, DAYS[-3], LAST)


def test_every_check_passes_on_a_leak_free_run(evaluations: Evaluations) -> None:
    assert {name: one.passed for name, one in evaluations.items()} == {
        "causality": True,
        "values_known": True,
        "labels_from_their_own_bars": True,
    }


def test_a_row_with_a_later_bar_is_detected(lake: Lake, evaluations: Evaluations, tmp_path: Path) -> None:
    """The same table with one feature shifted one hour ahead."""
    assert evaluations["causality"].passed
    stored = lake.read(HOURLY_FEATURES, LAST)
    assert stored is not None
    other = Lake(root=str(tmp_path))
    for day in DAYS:
        bars = lake.read(PRICES, day)
        assert bars is not None
        other.write(PRICES, day, bars)
    other.write(HOURLY_FEATURES, LAST, stored.with_columns(pl.col("returns_1h").shift(-1)))
    broken = check_alone(other, "causality")
    assert not broken.passed
    assert broken.description is not None
    assert "returns_1h" in broken.description


def test_the_check_tests_the_engine_by_the_laws(evaluations: Evaluations) -> None:
    assert evaluations["causality"].metadata["laws_tested"].value is True
    assert "obeys the laws" in str(evaluations["causality"].description)


def test_a_broken_law_is_named_even_if_the_stored_rows_are_correct(
    lake: Lake, evaluations: Evaluations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The laws test an engine that reads the next bar in place of the project's own."""
    assert evaluations["causality"].passed

    def early(inputs: Inputs) -> pl.DataFrame:
        return compute_features(inputs).with_columns(pl.col("returns_1h").shift(-1))

    monkeypatch.setattr(checks, "feature_failures", lambda inputs: feature_failures(inputs, early))
    broken = check_alone(lake, "causality")
    assert not broken.passed
    assert broken.severity is dg.AssetCheckSeverity.ERROR
    assert PREFIX in str(broken.description)
    assert POISONING in str(broken.description)


def test_a_history_too_short_for_the_laws_is_reported_and_passes(tmp_path: Path) -> None:
    other = Lake(root=str(tmp_path))
    bars = random_walk_bars(48, start=START)
    for day, part in by_day(PRICES, bars, DAYS[:2]):
        other.write(PRICES, day, part)
    other.write(HOURLY_FEATURES, DAYS[1], compute_features(inputs_of(bars)).tail(24))
    evaluation = check_alone(other, "causality")
    assert evaluation.passed
    assert "too few earlier bars" in str(evaluation.description)


def test_bars_that_arrived_after_the_features_are_accepted() -> None:
    bars = random_walk_bars(24 * len(DAYS), start=START)
    stored = compute_features(inputs_of(bars)).filter(pl.col("open_time").dt.date() == LAST)
    assert feature_differences(inputs_of(bars), stored.head(9), LAST) == []


def test_a_row_whose_bar_is_missing_is_detected() -> None:
    bars = random_walk_bars(24 * len(DAYS), start=START)
    stored = compute_features(inputs_of(bars)).filter(pl.col("open_time").dt.date() == LAST)
    assert (
        feature_differences(inputs_of(bars.filter(pl.col("open_time") != stored["open_time"][4])), stored, LAST) != []
    )


def test_a_label_that_differs_from_its_bars_is_detected(lake: Lake, evaluations: Evaluations, tmp_path: Path) -> None:
    assert evaluations["labels_from_their_own_bars"].passed
    other = Lake(root=str(tmp_path))
    for day in DAYS[-4:]:
        bars = lake.read(PRICES, day)
        assert bars is not None
        other.write(PRICES, day, bars)
    labels = lake.read(HOURLY_LABELS, LAST)
    assert labels is not None
    other.write(HOURLY_LABELS, LAST, labels.with_columns(pl.col("log_return") * 1.001))
    assert not check_alone(other, "labels_from_their_own_bars").passed


def test_a_mostly_unknown_day_is_a_warning(tmp_path: Path) -> None:
    other = Lake(root=str(tmp_path))
    first = compute_features(inputs_of(random_walk_bars(24, start=START)))
    other.write(HOURLY_FEATURES, DAYS[0], first)
    evaluation = check_alone(other, "values_known")
    assert not evaluation.passed
    assert evaluation.severity is dg.AssetCheckSeverity.WARN


def test_unknown_order_flow_and_texts_do_not_count() -> None:
    bars = random_walk_bars(24 * len(DAYS), start=START, flow=False)
    newest = compute_features(inputs_of(bars)).tail(24)
    assert unknown_shares(newest) == {}
    for group in ("flow", "sentiment", "social"):
        assert any(newest[feature.name].null_count() for feature in FEATURES if feature.group == group)


# --- with texts --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts() -> Texts:
    """Return articles and posts of all days but a few."""
    return random_texts(random_walk_bars(24 * len(DAYS), start=START), seed=8)


@pytest.fixture(scope="module")
def text_lake(lake: Lake, texts: Texts, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Return a lake of the same prices, with texts."""
    new_lake = Lake(root=str(tmp_path_factory.mktemp("text_lake")))
    for day in DAYS:
        bars = lake.read(PRICES, day)
        assert bars is not None
        new_lake.write(PRICES, day, bars)
    store(new_lake, texts)
    return new_lake


@pytest.fixture(scope="module")
def text_evaluations(text_lake: Lake) -> Evaluations:
    """Return the evaluations of a run over the newest days, whose texts were gathered."""
    return run(text_lake, DAYS[-3], LAST)


def test_every_check_passes_on_a_run_with_texts(text_evaluations: Evaluations) -> None:
    assert [name for name, one in text_evaluations.items() if not one.passed] == []
    assert text_evaluations["causality"].metadata["texts_tested"].value is True
    assert "bars and articles and posts" in str(text_evaluations["causality"].description)


def test_the_asset_stores_what_the_engine_computes_from_the_lake(
    text_lake: Lake, text_evaluations: Evaluations, texts: Texts
) -> None:
    """Partitions of articles, posts or scores that were never materialised are accepted."""
    assert text_evaluations["causality"].passed
    new_lake = compute_features(inputs_of(random_walk_bars(24 * len(DAYS), start=START, flow=False), texts))
    for day in DAYS[-3:]:
        stored = text_lake.read(HOURLY_FEATURES, day)
        assert stored is not None
        assert largest_change(new_lake.filter(pl.col("open_time").dt.date() == day), stored) == ""
        assert stored["sentiment_count"].null_count() == 0


def test_a_single_day_equals_the_day_of_a_longer_run(text_lake: Lake, text_evaluations: Evaluations) -> None:
    assert text_evaluations["causality"].passed
    before = text_lake.read(HOURLY_FEATURES, LAST)
    features_alone(text_lake, LAST, LAST)
    again = text_lake.read(HOURLY_FEATURES, LAST)
    assert before is not None
    assert again is not None
    of_texts = [feature.name for feature in FEATURES if feature.group in ("sentiment", "social")]
    assert again.select(of_texts).equals(before.select(of_texts))


def test_a_day_that_was_not_gathered_is_null_and_a_day_without_texts_is_zero(
    text_lake: Lake, text_evaluations: Evaluations, tmp_path: Path, texts: Texts
) -> None:
    assert text_evaluations["causality"].passed
    other = Lake(root=str(tmp_path))
    for day in DAYS:
        bars = text_lake.read(PRICES, day)
        assert bars is not None
        other.write(PRICES, day, bars)
    store(other, filtered(texts, pl.col("available_at").dt.date() < DAYS[-2], without=LAST))
    features_alone(other, DAYS[-2], LAST)
    silent, unknown = other.read(HOURLY_FEATURES, DAYS[-2]), other.read(HOURLY_FEATURES, LAST)
    assert silent is not None
    assert unknown is not None
    assert silent["sentiment_count"].to_list() == silent["social_volume"].to_list() == [0.0] * 24
    assert silent["sentiment_mean"].null_count() == 24
    assert unknown["sentiment_count"].null_count() == unknown["hours_since_news"].null_count() == 24


def test_a_row_with_a_later_text_is_detected(
    text_lake: Lake, text_evaluations: Evaluations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same table with the articles of the next hour."""
    assert text_evaluations["causality"].passed
    stored = text_lake.read(HOURLY_FEATURES, LAST)
    assert stored is not None
    other = Lake(root=str(tmp_path))
    for contract in (PRICES, ARTICLES, POSTS, SENTIMENT_SCORES):
        for day in text_lake.days(contract):
            part = text_lake.read(contract, day)
            assert part is not None
            other.write(contract, day, part)
    other.write(HOURLY_FEATURES, LAST, stored.with_columns(pl.col("sentiment_count").shift(-1)))
    monkeypatch.setattr(checks, "feature_failures", lambda *_: [])
    broken = check_alone(other, "causality")
    assert not broken.passed
    assert "sentiment_count" in str(broken.description)


def test_a_join_that_looks_ahead_is_named(
    text_lake: Lake, text_evaluations: Evaluations, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert text_evaluations["causality"].passed
    monkeypatch.setattr(
        "btc_assets.news.hourly.HOUR_OF_TEXT", pl.col("available_at").dt.offset_by("-1h").dt.truncate("1h")
    )
    broken = check_alone(text_lake, "causality")
    assert not broken.passed
    assert AVAILABILITY in str(broken.description)


def test_texts_that_arrived_after_the_features_are_accepted(texts: Texts) -> None:
    bars = random_walk_bars(24 * len(DAYS), start=START)
    stored = compute_features(inputs_of(bars, texts)).filter(pl.col("open_time").dt.date() == LAST)
    assert feature_differences(inputs_of(bars, texts), stored.head(9), LAST) == []
    assert feature_differences(inputs_of(bars), stored, LAST) != []


@pytest.mark.parametrize("name", [check.check_key.name for check in CHECKS])
def test_an_empty_lake_is_a_warning(name: str, tmp_path: Path) -> None:
    evaluation = check_alone(Lake(root=str(tmp_path)), name)
    assert not evaluation.passed
    assert evaluation.severity is dg.AssetCheckSeverity.WARN
    assert "stored yet" in str(evaluation.description)


def test_a_future_is_synthesised_where_there_is_none() -> None:
    bars = random_walk_bars(24 * 5, start=START).head(96)
    end = START + timedelta(days=4)
    new_lake = inputs_of(bars).poisoned(end)["x1e6"].clock
    assert new_lake.head(96).equals(bars)
    assert new_lake.tail(48)["close"].min() > 1e8  # type: ignore[operator]
    assert new_lake["open_time"].to_list() == [START + n * timedelta(hours=1) for n in range(96 + 48)]
