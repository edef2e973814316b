"""The laws hold for the project, and each law detects planted bugs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from btc_assets.features import intrahour
from btc_assets.features.catalog import FEATURES, WARMUP_DAYS
from btc_assets.features.engine import compute_features
from btc_assets.features.inputs import inputs_of
from btc_assets.features.labels import compute_labels
from btc_assets.lake import Lake, by_day
from btc_assets.laws import laws, report
from btc_assets.laws.laws import (
    AVAILABILITY,
    FITTED_STATE,
    LABELS,
    PLACEBO,
    POISONING,
    PREFIX,
    PURGE,
    TOO_FEW_BARS,
    WARM_UP,
    Engine,
    LawResult,
    availability,
    cuts,
    feature_failures,
    fitted_state,
    future_poisoning,
    hours_to_cut,
    labels_law,
    placebo,
    poisons,
    prefix_invariance,
    purge_law,
    warm_up,
)
from btc_assets.laws.mutants import SUBJECTS, MutationResult, mutation_score
from btc_assets.market.quarter_bars import QUARTER_STREAM
from btc_assets.market.streams import CONTEXT
from btc_assets.market.synthetic import random_walk, stressed
from btc_assets.market.tables import PRICES
from btc_assets.news.hourly import ARTICLE, POST, Kind, first_texts
from btc_assets.news.streams import ARTICLE_STREAM, POST_STREAM
from btc_assets.news.tables import ARTICLES, POSTS, SENTIMENT_SCORES
from btc_assets.streams import Feature, Inputs, every_hour
from btc_assets_tests.features.synthetic import Text, Texts, filled_in, random_texts, scores_of, store, texts_of

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
CAUGHT_BY = {
    "shift(-1)": PREFIX,
    "label leak": PREFIX,
    "backward fill": PREFIX,
    "interpolation": PREFIX,
    "centred window": POISONING,
    "global z-score": PREFIX,
    "rank over all": POISONING,
    "forward as-of join": PREFIX,
    "day not finished": POISONING,
    "available one hour early": AVAILABILITY,
    "warm-up too short": WARM_UP,
    "scaler fitted on all": FITTED_STATE,
    "fit without purge": FITTED_STATE,
    "purge one hour short": FITTED_STATE,
    "fit of nothing": FITTED_STATE,
    "label known too early": LABELS,
    "label one bar too long": LABELS,
    "fold without purge": PURGE,
    "answer among the inputs": PLACEBO,
    "published_at for available_at": AVAILABILITY,
    "text of the next hour": POISONING,
    "edited text": AVAILABILITY,
    "text of the whole day": AVAILABILITY,
    "count of texts to come": AVAILABILITY,
    "scores normalised over all": POISONING,
    "silence filled by the next text": POISONING,
    "outlet mean over all time": AVAILABILITY,
    "repeats of a story to come": POISONING,
    "sentiment never forgotten": WARM_UP,
    "quarter that opens at the hour's end": AVAILABILITY,
    "VWAP over the coming quarter": AVAILABILITY,
    "past mean with the coming hour": AVAILABILITY,
    **{
        f"{stream.name}: {leak}": law
        for stream in CONTEXT
        for leak, law in (
            ("the next row", AVAILABILITY),
            ("normalised over all", POISONING),
            ("unknown filled by the next", AVAILABILITY),
            ("mean with hours to come", POISONING),
        )
    },
}


_OF_TEXTS = [feature for feature in FEATURES if feature.group in ("sentiment", "social")]


def _text_features(inputs: Inputs) -> pl.DataFrame:
    """Return the features of texts only; those of bars do not depend on texts, see `test_texts.py`."""
    return compute_features(inputs, _OF_TEXTS)


def _intrahour_features(inputs: Inputs) -> pl.DataFrame:
    """Return the features of quarter bars."""
    return compute_features(inputs, intrahour.FEATURES)


def _with_quarters(bars: pl.DataFrame) -> Inputs:
    """Return hourly bars and quarters that know nothing of them."""
    return inputs_of(bars, {QUARTER_STREAM: QUARTER_STREAM.synthetic(every_hour(bars), 5)})


@pytest.fixture(scope="module")
def walk() -> pl.DataFrame:
    """Return 60 days of a random walk."""
    return random_walk(60 * 24, seed=2)


@pytest.fixture(scope="module")
def rough(walk: pl.DataFrame) -> pl.DataFrame:
    """Return the walk with gaps, an hour without trades and unknown order flow."""
    return stressed(walk)


@pytest.fixture(scope="module")
def texts(walk: pl.DataFrame) -> Texts:
    """Return synthetic articles and posts of the walk's hours."""
    return random_texts(walk, seed=3)


@pytest.fixture(scope="module")
def score() -> dict[str, MutationResult]:
    """Return the result of every planted bug and control."""
    return {mutant.name: mutant for mutant in mutation_score()}


# --- the project obeys the laws ----------------------------------------------------------------


@pytest.mark.parametrize("law", [prefix_invariance, future_poisoning, availability])
def test_features_of_roughened_bars_obey(law: Callable[[Engine, Inputs], LawResult], rough: pl.DataFrame) -> None:
    result = law(compute_features, inputs_of(rough))
    assert result.passed, result.detail


def test_a_day_from_its_own_window_equals_the_day_from_all_bars(walk: pl.DataFrame, rough: pl.DataFrame) -> None:
    for bars in (walk, rough):
        result = warm_up(compute_features, inputs_of(bars), days=3, starts=3)
        assert result.passed, result.detail
        assert result.worst is not None
        assert result.worst <= 1e-9


def test_features_obey_with_texts_ahead_of_the_bars(rough: pl.DataFrame, texts: Texts) -> None:
    """The bars end at the cut, the texts do not."""
    result = prefix_invariance(compute_features, inputs_of(rough, texts), hours_to_cut(rough, random=1)[-3:])
    assert result.passed, result.detail


@pytest.mark.parametrize("law", [prefix_invariance, future_poisoning, availability, warm_up])
def test_features_of_texts_obey(law: Callable[[Engine, Inputs], LawResult], rough: pl.DataFrame, texts: Texts) -> None:
    result = law(_text_features, inputs_of(rough, texts))
    assert result.passed, result.detail


@pytest.mark.parametrize("law", [prefix_invariance, future_poisoning, availability])
def test_features_inside_the_hour_obey(
    law: Callable[[Engine, Inputs, list[datetime]], LawResult], walk: pl.DataFrame
) -> None:
    inputs = _with_quarters(walk).stressed()
    ends = cuts(inputs, random=0)[-2:]
    result = law(_intrahour_features, inputs, [end + HOUR for end in ends] if law is availability else ends)
    assert result.passed, result.detail


def test_a_day_inside_the_hour_from_its_own_window_equals_the_whole(walk: pl.DataFrame) -> None:
    result = warm_up(_intrahour_features, _with_quarters(walk), starts=1)
    assert result.passed, result.detail
    assert result.worst is not None
    assert result.worst <= 1e-9


def test_a_week_of_days_with_texts_from_their_own_windows_equals_the_whole(walk: pl.DataFrame, texts: Texts) -> None:
    result = warm_up(_text_features, inputs_of(walk, texts), days=7, starts=3)
    assert result.passed, result.detail
    assert result.worst is not None
    assert result.worst <= 1e-9


def test_labels_obey(walk: pl.DataFrame, rough: pl.DataFrame) -> None:
    for bars in (walk, rough):
        assert labels_law(compute_labels, bars).passed


def test_rows_and_fits_of_a_cutoff_end_before_it(walk: pl.DataFrame) -> None:
    names = ("returns_1h", "rsi", "realised_volatility_24h")
    cutoff = walk["open_time"][-1].replace(hour=0)
    rows = report._trial_rows(inputs_of(walk), names)
    for result in (
        fitted_state(report._rows_of_a_cutoff(inputs_of(walk), names), walk, cutoff, HOUR),
        fitted_state(report._trial_fit(names), rows, cutoff, 25 * HOUR),
    ):
        assert result.passed, result.detail


def test_forecasts_do_not_change_when_the_future_does(walk: pl.DataFrame) -> None:
    names = ("returns_1h", "rsi", "realised_volatility_24h")
    inputs = inputs_of(walk)
    result = future_poisoning(report._trial_forecasts(inputs, names), inputs, cuts(inputs, random=1)[-2:])
    assert result.passed, result.detail


def test_the_learner_cannot_predict_a_random_walk() -> None:
    made = random_walk(4_000, seed=6)
    inputs = compute_features(inputs_of(made)).drop("open_time", "available_at").fill_null(float("nan")).to_numpy()
    up = (np.diff(made["close"].to_numpy()) > 0) * 1.0
    result = placebo(report._boosting, inputs[:-1], up)
    assert result.passed, result.detail


# --- the laws detect planted bugs --------------------------------------------------------------


def test_every_planted_bug_has_a_test() -> None:
    assert {subject.name for subject in SUBJECTS if subject.planted} == set(CAUGHT_BY)


@pytest.mark.parametrize("name", CAUGHT_BY)
def test_a_planted_bug_is_caught(name: str, score: dict[str, MutationResult]) -> None:
    assert CAUGHT_BY[name] in score[name].caught_by
    assert score[name].as_expected


@pytest.mark.parametrize("name", [subject.name for subject in SUBJECTS if not subject.planted])
def test_a_clean_control_passes_every_law(name: str, score: dict[str, MutationResult]) -> None:
    assert score[name].caught_by == ()
    assert score[name].as_expected


def _feature(expression: pl.Expr, warmup_hours: int = 0) -> Feature:
    return Feature("planted", "price", "USD", "a planted bug", warmup_hours, expression)


@pytest.mark.parametrize(
    ("expression", "warmup_hours", "law"),
    [
        (pl.col("close").shift(-1), 0, PREFIX),
        (pl.col("close").rolling_mean(3, center=True), 0, POISONING),
        (pl.col("close") - pl.col("close").mean(), 0, PREFIX),
        (pl.col("taker_buy_volume").backward_fill(), 0, PREFIX),
        (pl.col("close").ewm_mean(span=2_000, adjust=False), 24, WARM_UP),
    ],
)
def test_one_bad_declaration_among_the_real_ones_is_named(
    expression: pl.Expr, warmup_hours: int, law: str, walk: pl.DataFrame
) -> None:
    declared = (*FEATURES[:3], _feature(expression, warmup_hours))
    assert law in feature_failures(inputs_of(walk), lambda inputs: compute_features(inputs, declared))


@pytest.mark.parametrize(
    ("expression", "warmup_hours", "law"),
    [
        (pl.col("article_count").shift(-1), 0, AVAILABILITY),
        (pl.col("article_score_sum") - pl.col("article_score_sum").mean(), 0, POISONING),
        (pl.col("article_high").rolling_max(3, center=True), 0, POISONING),
        (pl.col("post_count").fill_null(0).ewm_mean(half_life=500), 24, WARM_UP),
    ],
)
def test_one_bad_declaration_over_texts_among_the_real_ones_is_named(
    expression: pl.Expr, warmup_hours: int, law: str, walk: pl.DataFrame, texts: Texts
) -> None:
    planted = Feature("planted", "sentiment", "texts", "a planted bug", warmup_hours, expression, ("articles", "posts"))
    declared = (*FEATURES[:3], *_OF_TEXTS[-3:], planted)
    assert law in feature_failures(inputs_of(walk, texts), lambda inputs: compute_features(inputs, declared))


@pytest.mark.parametrize(
    "hour",
    [
        pl.col("available_at").dt.offset_by("-1h").dt.truncate("1h"),
        pl.col("available_at").dt.offset_by("-30m").dt.truncate("1h"),
        pl.col("available_at").dt.truncate("1d"),
    ],
    ids=["an hour early", "half an hour early", "the day"],
)
def test_a_bug_in_the_projects_own_join_is_caught(
    hour: pl.Expr, walk: pl.DataFrame, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("btc_assets.news.hourly.HOUR_OF_TEXT", hour)
    assert {AVAILABILITY, POISONING} <= set(feature_failures(inputs_of(walk, texts), _text_features))


def test_the_full_hour_belongs_to_the_hour_that_begins(walk: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it belonged to the previous hour, a text of midnight would be in a partition that its day does not read."""
    inputs = inputs_of(walk, texts_of([Text(at, number=n) for n, at in enumerate(walk["open_time"].gather_every(12))]))
    assert warm_up(_text_features, inputs, days=2).passed
    closed = pl.col("available_at").dt.offset_by("-1us").dt.truncate("1h")
    monkeypatch.setattr("btc_assets.news.hourly.HOUR_OF_TEXT", closed)
    assert not warm_up(_text_features, inputs, days=2).passed


def test_edits_in_the_projects_own_join_are_caught(
    walk: pl.DataFrame, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest text of an article is scored as if it had been the first."""

    def edited(kind: Kind, frame: pl.DataFrame) -> pl.DataFrame:
        latest = frame.sort("revision").unique(kind.item_id, keep="last").with_columns(revision=pl.lit(0))
        return first_texts(kind, latest)

    monkeypatch.setattr("btc_assets.news.hourly.first_texts", edited)
    assert {AVAILABILITY, POISONING} <= set(feature_failures(inputs_of(walk, texts), _text_features))


def test_the_gates_run_passes_on_the_real_engine(walk: pl.DataFrame, texts: Texts) -> None:
    newest = walk.tail((WARMUP_DAYS + 3) * 24)
    assert feature_failures(inputs_of(newest.sample(fraction=1.0, shuffle=True, seed=1))) == []
    assert feature_failures(inputs_of(newest, texts)) == []


@pytest.mark.parametrize("hours", [0, 1, 500, WARMUP_DAYS * 24])
def test_too_few_bars_is_a_named_failure(hours: int, walk: pl.DataFrame) -> None:
    assert feature_failures(inputs_of(walk.head(hours))) == [TOO_FEW_BARS]


def test_a_result_names_the_column_and_the_hour(walk: pl.DataFrame) -> None:
    cut = walk["open_time"][700]
    declared = [_feature(pl.col("close").shift(-1))]
    result = prefix_invariance(lambda inputs: compute_features(inputs, declared), inputs_of(walk), [cut])
    assert not result.passed
    assert "planted" in result.detail
    assert f"{cut:%Y-%m-%d %H:%M}" in result.detail


# --- parts of the laws -------------------------------------------------------------------------


def test_cuts_lie_at_a_midnight_a_gap_an_unknown_value_and_the_last_bar(rough: pl.DataFrame) -> None:
    where = hours_to_cut(rough)
    times = rough["open_time"]
    after = rough.with_columns(
        gap=pl.col("open_time").diff().shift(-1) > pl.duration(hours=1),
        known_next=pl.col("trades").is_null() & pl.col("trades").shift(-1).is_not_null(),
    ).filter(pl.col("open_time").is_in(where))
    assert times[-2] in where
    assert any(cut.hour == 23 for cut in where)
    assert after["gap"].any()
    assert after["known_next"].any()
    assert max(where) < times[-1]


def test_poison_changes_neither_the_past_nor_the_hours(walk: pl.DataFrame) -> None:
    cut = walk["open_time"][900]
    for name, poisoned in poisons(walk, cut).items():
        assert poisoned.schema == walk.schema, name
        assert poisoned["open_time"].equals(walk["open_time"]), name
        assert poisoned.head(901).equals(walk.head(901)), name
        assert not poisoned.tail(-901).equals(walk.tail(-901)), name


def test_cuts_lie_before_the_tempting_texts(walk: pl.DataFrame, texts: Texts) -> None:
    where = cuts(inputs_of(walk, texts), random=2)
    assert set(hours_to_cut(walk, random=2)) <= set(where) <= set(walk["open_time"][:-1])
    articles = texts[ARTICLE_STREAM]
    newer = articles.frame.filter(pl.col("available_at") > walk["open_time"][walk.height // 2])
    late = newer.filter((pl.col("available_at") - pl.col("published_at")) > timedelta(days=2))
    assert any(row["published_at"] <= cut < row["available_at"] for cut in where for row in late.to_dicts())
    edit = newer.filter(pl.col("revision") > 0)["available_at"].max()
    assert isinstance(edit, datetime)
    assert any(HOUR <= edit - cut < 2 * HOUR for cut in where)
    assert any(cut.hour == 23 and cut.date() not in (articles.days or ()) for cut in where)


def test_poison_of_texts_does_not_change_known_texts(walk: pl.DataFrame, texts: Texts) -> None:
    moment = walk["open_time"][900]
    inputs = Inputs(texts)
    known, poisoned = inputs.until(moment), inputs.poisoned(moment)
    for name, other in poisoned.items():
        until = other.until(moment)
        for stream in texts:
            assert until.rows[stream].frame.equals(known.rows[stream].frame), name
            assert until.rows[stream].days == known.rows[stream].days, name
    heights = [poisoned[name].rows[ARTICLE_STREAM].frame.height for name in ("unseen", "absurd")]
    assert heights[0] < texts[ARTICLE_STREAM].frame.height < heights[1]
    assert poisoned["edited"].rows[ARTICLE_STREAM].frame.filter(pl.col("revision") > 1).height > 50
    invented = poisoned["absurd"].rows[ARTICLE_STREAM].frame.filter(pl.col("available_at") > moment)
    assert invented["score"].unique().to_list() == [1.0]
    assert invented.filter(pl.col("published_at") < moment).height > 50


def test_a_future_is_synthesised_where_there_is_none(walk: pl.DataFrame, texts: Texts) -> None:
    moment = walk["open_time"][24 * 40]
    known = Inputs(texts).until(moment)
    absurd = known.poisoned(moment)["absurd"]
    for stream in texts:
        assert (absurd.rows[stream].days or frozenset()) - (known.rows[stream].days or frozenset())
        assert absurd.rows[stream].frame.filter(pl.col("available_at") > moment).height > 20


def test_random_texts_are_rows_of_the_news_tables_and_tempting(walk: pl.DataFrame, texts: Texts) -> None:
    articles = texts[ARTICLE_STREAM]
    assert articles.frame.columns == [*ARTICLE.columns, "score"]
    assert texts[POST_STREAM].frame.columns == [*POST.columns, "score"]
    tables = ((ARTICLES, articles.frame), (POSTS, texts[POST_STREAM].frame), (SENTIMENT_SCORES, scores_of(texts)))
    for contract, frame in tables:
        assert contract.faults(filled_in(contract, frame)) == []
    assert set(articles.frame["available_at"].dt.date()) <= (articles.days or frozenset())
    at = articles.frame["available_at"]
    assert at.is_between(walk["open_time"][0], walk["open_time"][-1] + HOUR).mean() > 0.99  # type: ignore[operator]
    assert (at == at.dt.truncate("1h")).any()
    assert (at - articles.frame["published_at"]).max() > 24 * HOUR  # type: ignore[operator]
    assert articles.frame.filter(pl.col("revision") == 0)["score"].null_count() > 0


def test_a_random_walk_is_a_frame_of_prices() -> None:
    assert PRICES.faults(random_walk(100, seed=1)) == []


def test_a_fold_whose_last_label_is_known_at_the_start_is_allowed_and_one_hour_more_is_not() -> None:
    start = datetime(2020, 1, 5, tzinfo=UTC)
    fold = {"horizon_minutes": 1440, "test_start": start, "train_end": start - 25 * HOUR, "purge_hours": 25}
    assert purge_law(pl.DataFrame([fold])).passed
    assert not purge_law(pl.DataFrame([fold | {"train_end": start - 24 * HOUR, "purge_hours": 24}])).passed


def test_a_learner_with_a_constant_score_fails_the_placebo() -> None:
    rng = np.random.default_rng(1)
    result = placebo(lambda _x, _y, test: np.full(len(test), 0.5), rng.normal(size=(500, 2)), rng.integers(0, 2, 500))
    assert not result.passed
    assert "the same score" in result.detail


def test_the_placebo_is_fair_to_slow_features() -> None:
    """A score that follows the level of a random walk; ranked within the test span it would fall below 0.5."""
    z = []
    for seed in range(60):
        close = np.log(random_walk(2_000, seed=seed)["close"].to_numpy())
        up = (np.diff(close) > 0) * 1.0
        result = placebo(lambda _x, _y, test: test[:, 0], close[:-1, None], up)
        width = float(result.detail.split("± ")[1])
        z.append((float(result.detail.split()[1]) - 0.5) / width * laws.PLACEBO_Z)
    assert abs(np.mean(z)) < 3 / np.sqrt(len(z))
    assert 0.7 < np.std(z) < 1.3


# --- real bars and the command - ----------------------------------------------------------------


@pytest.fixture(scope="module")
def gappy(shared_data: Path) -> pl.DataFrame:
    """Return real bars around the outage of 2018-02-08, 33 hours long."""
    first = datetime(2018, 1, 1, tzinfo=UTC)
    return (
        pl.read_parquet(shared_data / "market" / "btcusdt_spot_1h.parquet")
        .with_columns(pl.lit("binance").alias("venue"))
        .select(list(PRICES.columns))
        .cast(PRICES.columns)  # type: ignore[arg-type]
        .filter(pl.col("open_time").is_between(first, first + timedelta(days=60), closed="left"))
    )


def test_the_laws_hold_across_a_real_outage(gappy: pl.DataFrame) -> None:
    assert gappy["open_time"].diff().max() > 24 * HOUR  # type: ignore[operator]
    inputs = inputs_of(gappy)
    at = cuts(inputs, random=1)
    for result in (
        prefix_invariance(compute_features, inputs, at),
        future_poisoning(compute_features, inputs, at[:2]),
        warm_up(compute_features, inputs, days=12, starts=1),
        labels_law(compute_labels, gappy),
    ):
        assert result.passed, result.detail


def _lake_of(bars: pl.DataFrame, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(root=str(folder))
    for day, part in by_day(PRICES, bars, bars["open_time"].dt.date().unique().sort().to_list()):
        lake.write(PRICES, day, part)
    monkeypatch.setattr("btc_assets.settings.settings", lambda: type("Some", (), {"lake_root": str(folder)}))


def test_the_command_reports_and_returns_0_on_leak_free_bars(
    walk: pl.DataFrame,
    score: dict[str, MutationResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _lake_of(walk, tmp_path, monkeypatch)
    monkeypatch.setattr(report, "_PLACEBO_HOURS", 3_000)
    monkeypatch.setattr("btc_assets.laws.mutants.mutation_score", lambda: tuple(score.values()))
    assert report.main() == 0
    printed = capsys.readouterr().out
    assert "BROKEN" not in printed
    assert "1,440 rows of bars\n" in printed
    assert f"mutation score {len(CAUGHT_BY)} of {len(CAUGHT_BY)}" in printed
    assert "Every law holds" in printed


def test_the_command_tests_texts_if_the_lake_has_them(
    walk: pl.DataFrame,
    texts: Texts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _lake_of(walk, tmp_path, monkeypatch)
    store(Lake(root=str(tmp_path)), texts)
    monkeypatch.setattr(report, "_trials", lambda inputs: report._trials_of_features(inputs, inputs.stressed()))
    monkeypatch.setattr(laws, "cuts", lambda inputs, **_: hours_to_cut(inputs.clock, random=0)[-2:])
    monkeypatch.setattr("btc_assets.laws.mutants.mutation_score", tuple)
    assert report.main() == 0
    assert f"{texts[POST_STREAM].frame.height:,} rows of posts" in capsys.readouterr().out


def test_the_command_returns_1_if_a_law_is_broken(
    walk: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _lake_of(walk, tmp_path, monkeypatch)
    broken = LawResult(PREFIX, False, "planted changes by 1e-3")
    monkeypatch.setattr(report, "_trials", lambda *_: [("features", lambda: broken)])
    monkeypatch.setattr("btc_assets.laws.mutants.mutation_score", tuple)
    assert report.main() == 1
    assert "BROKEN" in capsys.readouterr().out


def test_the_command_returns_2_if_there_are_too_few_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("btc_assets.settings.settings", lambda: type("Some", (), {"lake_root": str(tmp_path)}))
    assert report.main() == 2
    assert "0 days of market/prices" in capsys.readouterr().out
