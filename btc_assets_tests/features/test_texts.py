"""Texts by the hour, and every feature made of them against plain arithmetic."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.features.catalog import FEATURES, GAP_SLACK_HOURS, JOINED_GROUPS, WARMUP_DAYS
from btc_assets.features.engine import compute_features, features_between
from btc_assets.features.inputs import inputs_of
from btc_assets.features.tables import HOURLY_FEATURES
from btc_assets.laws.laws import availability, future_poisoning
from btc_assets.market.synthetic import stressed
from btc_assets.news.hourly import ARTICLE, NEGATIVE_BELOW, POST, days_gathered, with_scores
from btc_assets.news.streams import ARTICLE_STREAM, POST_STREAM
from btc_assets.streams import Inputs, Rows, every_hour
from btc_assets_tests.conftest import random_walk_bars
from btc_assets_tests.features.synthetic import Text, Texts, by_hour, filtered, random_texts, tables_of, texts_of

START = datetime(2018, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
HOURS = 50 * 24
TEXT_FEATURES = {feature.name: feature for feature in FEATURES if feature.group in ("sentiment", "social")}


def hours_from(start: datetime, count: int) -> pl.Series:
    """Return hours one after the other."""
    return pl.datetime_range(start, start + (count - 1) * HOUR, "1h", time_unit="us", eager=True).alias("open_time")


def at_hour(texts: Texts, hour: datetime = START) -> dict[str, object]:
    """Return what the texts of one hour add up to."""
    return by_hour(texts, hours_from(hour, 1)).row(0, named=True)


# --- the hour of a text ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "hour"),
    [
        (START, START),
        (START + MICROSECOND, START),
        (START + HOUR - MICROSECOND, START),
        (START + HOUR, START + HOUR),
        (START + 24 * HOUR - MICROSECOND, START + 23 * HOUR),
        (START + 24 * HOUR, START + 24 * HOUR),
    ],
)
def test_a_text_counts_for_the_hour_its_availability_lies_in(at: datetime, hour: datetime) -> None:
    hourly = by_hour(texts_of([Text(at)]), hours_from(START, 25)).filter(pl.col("article_count") > 0)
    assert hourly["open_time"].to_list() == [hour]
    assert hour.date() == at.date()  # its partition is one the hour's day reads


def test_a_text_is_not_used_in_an_earlier_row() -> None:
    for minutes in (0, 30, 59, 60, 61, 120):
        at = START + timedelta(minutes=minutes)
        made = compute_features(inputs_of(random_walk_bars(4, start=START), texts_of([Text(at)])))
        used = made.filter(pl.col("sentiment_count") > 0)
        assert used["available_at"].min() >= at  # type: ignore[operator]


def test_the_time_of_publication_does_not_matter() -> None:
    at = START + 90 * timedelta(minutes=1)
    hours = hours_from(START - 5 * HOUR, 12)
    for published in (None, START - 3 * HOUR, START + 5 * HOUR):
        hourly = by_hour(texts_of([Text(at, published_at=published)]), hours)
        assert hourly.equals(by_hour(texts_of([Text(at)]), hours))


def test_only_the_first_text_counts_and_edits_change_nothing() -> None:
    first = Text(START, 0.4, "one.example", number=1)
    edit = replace(first, at=START + 2 * HOUR, revision=1, outlet="other.example", story=7)
    hours = hours_from(START, 5)
    assert by_hour(texts_of([first, edit], [first, edit]), hours).equals(by_hour(texts_of([first], [first]), hours))


def test_the_primary_score_is_the_one_read() -> None:
    articles, _, scores = (table.lazy() for table in tables_of([Text(START, 0.4)], []))
    other = scores.with_columns(pl.lit("another").alias("scorer"), is_primary=False, score=pl.lit(-0.9))
    for both in (pl.concat([scores, other]), pl.concat([other, scores])):
        assert with_scores(ARTICLE)(articles, both)["score"].to_list() == [0.4]


def test_a_score_belongs_to_its_kind() -> None:
    """An article and a post of one id."""
    articles, posts, scores = tables_of([Text(START, 0.4)], [Text(START, -0.8)])
    posts = posts.with_columns(post_id=pl.lit(articles["article_id"][0]))
    scores = scores.with_columns(item_id=pl.lit(articles["article_id"][0]))
    for kind, rows, score in ((ARTICLE, articles, 0.4), (POST, posts, -0.8)):
        assert with_scores(kind)(rows.lazy(), scores.lazy())["score"].to_list() == [score]


# --- what an hour adds up to -------------------------------------------------------------------


def test_an_hour_equals_a_manual_computation() -> None:
    items = [
        Text(START, 0.5, "one.example", number=1),
        Text(START + timedelta(minutes=10), -0.25, "one.example", number=2, story=1),
        Text(START + timedelta(minutes=20), 0.75, "two.example", number=3),
        Text(START + timedelta(minutes=50), None, "three.example", number=4),
    ]
    hour = at_hour(texts_of(items, items[:2]))
    assert hour == {
        "open_time": START,
        "article_count": 4.0,
        "article_scored": 3.0,
        "article_score_sum": 1.0,
        "article_score_squares": 0.25 + 0.0625 + 0.5625,
        "article_negative": 1.0,
        "article_first": 3.0,
        "article_outlets": 2.0,
        "article_outlet_sum": 0.125 + 0.75,
        "article_high": 0.75,
        "article_low": -0.25,
        "article_last_at": START + timedelta(minutes=50),
        "post_count": 2.0,
        "post_scored": 2.0,
        "post_score_sum": 0.25,
        "post_score_squares": 0.3125,
        "post_negative": 1.0,
        "post_first": 1.0,
        "post_high": 0.5,
        "post_low": -0.25,
        "post_last_at": START + timedelta(minutes=10),
    }


def test_a_gathered_hour_without_texts_has_zero_counts_and_null_means() -> None:
    hour = at_hour(texts_of(article_days=[START.date()]))
    assert hour["article_count"] == hour["article_scored"] == hour["article_outlets"] == 0.0
    assert [hour["article_high"], hour["article_low"], hour["article_last_at"]] == [None, None, None]
    made = compute_features(inputs_of(random_walk_bars(2, start=START), texts_of(article_days=[START.date()])))
    assert made["sentiment_count"].to_list() == [0.0, 0.0]
    assert made.select("sentiment_mean", "sentiment_extreme", "sentiment_change_1h").null_count().row(0) == (2, 2, 2)


def test_a_day_that_was_not_gathered_is_null_and_never_zero() -> None:
    """Articles were gathered on the second day alone, posts never."""
    items = [Text(START + 25 * HOUR)]
    hourly = by_hour(texts_of(items), hours_from(START, 72))
    known = hourly.filter(pl.col("article_count").is_not_null())
    assert known["open_time"].dt.date().unique().to_list() == [date(2018, 1, 2)]
    assert known.height == 24
    assert hourly["post_count"].null_count() == 72


def test_streams_that_were_not_gathered_equal_absent_streams() -> None:
    bars = random_walk_bars(HOURS, start=START)
    assert compute_features(inputs_of(bars, texts_of())).equals(compute_features(inputs_of(bars)))
    assert compute_features(inputs_of(bars)).select(*TEXT_FEATURES).null_count().row(0) == (HOURS,) * len(TEXT_FEATURES)


def test_unscored_texts_count_but_have_no_score() -> None:
    hour = compute_features(inputs_of(random_walk_bars(1, start=START), texts_of([Text(START, None)]))).row(
        0, named=True
    )
    assert hour["sentiment_count"] == 1.0
    assert hour["sentiment_mean"] is hour["sentiment_extreme"] is None


# --- the join, for any texts -------------------------------------------------------------------

_MINUTES = st.integers(0, 72 * 60)
_TEXT = st.builds(
    lambda minutes, exact, score, outlet, story: (minutes, exact, score, outlet, story),
    _MINUTES,
    st.booleans(),
    st.one_of(st.none(), st.floats(-1, 1)),
    st.integers(0, 2),
    st.integers(0, 30),
)


def written(drawn: list[tuple[int, bool, float | None, int, int]]) -> list[Text]:
    """Return the texts drawn; half of them fall on a whole minute."""
    return [
        Text(
            START + timedelta(minutes=minutes) + (timedelta(0) if exact else 7 * MICROSECOND),
            score,
            f"{outlet}.example",
            number,
            story if story < number else None,
        )
        for number, (minutes, exact, score, outlet, story) in enumerate(drawn)
    ]


@settings(max_examples=30, deadline=None)
@given(
    drawn=st.lists(_TEXT, max_size=30),
    gathered=st.sets(st.integers(0, 3)),
    edited=st.sets(st.integers(0, 29)),
    cut=st.integers(0, 71),
    seed=st.integers(0, 99),
)
def test_the_join_equals_a_manual_computation_for_any_texts(
    drawn: list[tuple[int, bool, float | None, int, int]], gathered: set[int], edited: set[int], cut: int, seed: int
) -> None:
    items = written(drawn)
    edits = [
        replace(items[n], at=items[n].at + 5 * HOUR, revision=1, outlet="edit")
        for n in sorted(edited)
        if n < len(items)
    ]
    days = {(START + timedelta(days=n)).date() for n in gathered}
    hours = hours_from(START, 74)
    texts = texts_of([*items, *edits], article_days=days)
    whole = by_hour(texts, hours)

    for hour, row in zip(hours, whole.iter_rows(named=True), strict=True):
        own = [one for one in items if hour <= one.at < hour + HOUR]
        scores = [one.score for one in own if one.score is not None]
        if hour.date() not in days:
            assert {value for name, value in row.items() if name != "open_time"} == {None}
            continue
        assert row["article_count"] == len(own)
        assert row["article_scored"] == len(scores)
        assert row["article_score_sum"] == pytest.approx(math.fsum(scores), abs=1e-12)
        assert row["article_score_squares"] == pytest.approx(math.fsum(s * s for s in scores), abs=1e-12)
        assert row["article_negative"] == sum(s < NEGATIVE_BELOW for s in scores)
        assert row["article_first"] == sum(one.is_first for one in own)
        assert row["article_outlets"] == len({one.outlet for one in own if one.score is not None})
        assert row["article_high"] == max(scores, default=None)
        assert row["article_low"] == min(scores, default=None)
        assert row["article_last_at"] == max((one.at for one in own), default=None)

    mixed = texts_of([*edits, *items][::-1], article_days=days)[ARTICLE_STREAM]
    mixed = replace(mixed, frame=mixed.frame.sample(fraction=1, shuffle=True, seed=seed))
    assert by_hour({**texts, ARTICLE_STREAM: mixed}, hours).equals(whole)
    known = by_hour(Inputs(texts).until(START + (cut + 1) * HOUR).rows, hours)
    assert known.head(cut + 1).equals(whole.head(cut + 1))


def test_hours_that_were_not_requested_are_left_out() -> None:
    items = [Text(START + n * HOUR, number=n) for n in range(9)]
    hourly = by_hour(texts_of(items), hours_from(START + 3 * HOUR, 2))
    assert hourly["article_count"].to_list() == [1.0, 1.0]


def test_every_hour_lies_between_the_first_bar_and_the_last_one_gaps_included() -> None:
    bars = random_walk_bars(30, start=START).filter(~pl.int_range(pl.len()).is_between(4, 20))
    assert every_hour(bars).equals(hours_from(START, 30))
    assert every_hour(bars.head(0)).is_empty()


# --- what was known when -----------------------------------------------------------------------


def test_until_and_between_go_by_availability_and_take_the_days_along() -> None:
    items = [Text(START + n * 12 * HOUR, number=n, published_at=START) for n in range(6)]
    texts = texts_of(items, items)
    until = Inputs(texts).until(START + 24 * HOUR).rows
    assert [until[stream].frame.height for stream in texts] == [3, 3]
    assert until[ARTICLE_STREAM].days == {date(2018, 1, 1), date(2018, 1, 2)}
    between = Inputs(texts).between(START + 12 * HOUR, START + 24 * HOUR).rows
    assert between[ARTICLE_STREAM].frame["available_at"].to_list() == [START + 12 * HOUR]
    assert between[POST_STREAM].days == {date(2018, 1, 1)}


# --- every feature by hand ---------------------------------------------------------------------


class TextHand:
    """Each feature by plain arithmetic on the texts up to the end of an hour; None where it is not known."""

    def __init__(self, texts: Texts, bars: pl.DataFrame) -> None:
        """Sort texts into hours, one by one."""
        self.first = bars["open_time"][0]
        self.items: dict[str, dict[datetime, list[Text]]] = {"article": defaultdict(list), "post": defaultdict(list)}
        articles, posts = (texts[stream].frame.filter(revision=0) for stream in (ARTICLE_STREAM, POST_STREAM))
        for row in articles.iter_rows(named=True):
            story = None if row["article_id"] == row["story_id"] else -1
            self._file("article", row["available_at"], row["score"], row["outlet"], story)
        for row in posts.iter_rows(named=True):
            story = -1 if row["is_repost"] else None
            self._file("post", row["available_at"], row["score"], row["platform"], story)
        self.days = {
            kind: texts[stream].days or () for kind, stream in (("article", ARTICLE_STREAM), ("post", POST_STREAM))
        }
        regime = compute_features(inputs_of(bars), features=[f for f in FEATURES if f.name == "volatility_regime"])
        self.regime = dict(regime.select("open_time", "volatility_regime").iter_rows())

    def _file(self, kind: str, at: datetime, score: float | None, outlet: str, story: int | None) -> None:
        hour = at.replace(minute=0, second=0, microsecond=0)
        self.items[kind][hour].append(Text(at, score, outlet, story=story))

    def known(self, kind: str, hour: datetime) -> bool:
        """Return whether an hour was gathered."""
        return hour.date() in self.days[kind]

    def window(self, kind: str, hour: datetime, hours: int) -> list[tuple[int, list[Text]]] | None:
        """Return (hours ago, texts) of the known hours of a window, None when more than a quarter is not known."""
        known = [
            (back, self.items[kind][hour - back * HOUR])
            for back in range(hours)
            if self.known(kind, hour - back * HOUR)
        ]
        return known if len(known) >= math.ceil(0.75 * hours) else None

    def scores(self, kind: str, hour: datetime, hours: int) -> list[float]:
        """Return the scores of a window."""
        return [
            one.score for _, items in self.window(kind, hour, hours) or [] for one in items if one.score is not None
        ]

    def mean(self, kind: str, hour: datetime) -> float | None:
        """Return the mean score of an hour."""
        scores = self.scores(kind, hour, 1)
        return float(np.mean(scores)) if scores else None

    def count(self, kind: str, hour: datetime, hours: int = 1) -> float | None:
        """Return the number of texts of a window every hour of which is known."""
        window = self.window(kind, hour, hours)
        return float(sum(len(items) for _, items in window)) if window is not None and len(window) == hours else None

    def change(self, kind: str, hour: datetime) -> float | None:
        """Return the mean score less that of the hour before."""
        now, before = self.mean(kind, hour), self.mean(kind, hour - HOUR)
        return None if now is None or before is None else now - before

    def extreme(self, kind: str, hour: datetime) -> float | None:
        """Return the score furthest from zero, the negative one of two."""
        return min(self.scores(kind, hour, 1), key=lambda score: (-abs(score), score), default=None)

    def decayed(self, kind: str, hour: datetime, half_life: int) -> float | None:
        """Return the mean score, weights halved every half-life, of seven of them."""
        weighted = [
            (0.5 ** (back / half_life), one.score)
            for back, items in self.window(kind, hour, 7 * half_life) or []
            for one in items
            if one.score is not None
        ]
        return sum(w * s for w, s in weighted) / sum(w for w, _ in weighted) if weighted else None

    def dispersion(self, kind: str, hour: datetime) -> float | None:
        """Return the standard deviation of the scores of a day."""
        scores = self.scores(kind, hour, 24)
        return float(np.std(scores, ddof=1)) if len(scores) > 1 else None

    def negative_share(self, kind: str, hour: datetime) -> float | None:
        """Return the share of negative scores of a day."""
        scores = self.scores(kind, hour, 24)
        return sum(score < NEGATIVE_BELOW for score in scores) / len(scores) if scores else None

    def novelty(self, kind: str, hour: datetime) -> float | None:
        """Return the share of a day's texts that are the first of their story."""
        texts = [one for _, items in self.window(kind, hour, 24) or [] for one in items]
        return sum(one.is_first for one in texts) / len(texts) if texts else None

    def outlet_mean(self, kind: str, hour: datetime) -> float | None:
        """Return the mean over outlets and hours of a day of each one's mean score."""
        means = []
        for _, items in self.window(kind, hour, 24) or []:
            for outlet in {one.outlet for one in items}:
                scores = [one.score for one in items if one.outlet == outlet and one.score is not None]
                means += [float(np.mean(scores))] if scores else []
        return float(np.mean(means)) if means else None

    def in_its_regime(self, kind: str, hour: datetime) -> float | None:
        """Return decayed sentiment times the rank of volatility."""
        mood, regime = self.decayed(kind, hour, 6), self.regime[hour]
        return None if mood is None or regime is None else mood * regime

    def surprise(self, kind: str, hour: datetime) -> float | None:
        """Return the log of the count, one added, over that of this hour of the last four weeks."""
        now = self.count(kind, hour)
        weeks = [self.count(kind, hour - week * 168 * HOUR) for week in range(1, 5)]
        before = [count for count in weeks if count is not None]
        return math.log((1 + now) / (1 + np.mean(before))) if now is not None and len(before) >= 3 else None

    def since(self, kind: str, hour: datetime) -> float | None:
        """Return the hours since the newest text, at most a week; None where it may lie in an unknown hour."""
        for back in range(168):
            then = hour - back * HOUR
            if not self.known(kind, then):
                return None
            if self.items[kind][then]:
                newest = max(one.at for one in self.items[kind][then])
                return min(168.0, (hour + HOUR - newest) / HOUR)
        return 168.0


BY_HAND: dict[str, Callable[[TextHand, datetime], float | None]] = {
    "sentiment_mean": lambda h, t: h.mean("article", t),
    "sentiment_count": lambda h, t: h.count("article", t),
    "sentiment_change_1h": lambda h, t: h.change("article", t),
    "sentiment_extreme": lambda h, t: h.extreme("article", t),
    **{f"sentiment_decay_{n}h": partial(lambda h, t, n: h.decayed("article", t, n), n=n) for n in (1, 6, 24)},
    "sentiment_dispersion_24h": lambda h, t: h.dispersion("article", t),
    "sentiment_negative_share_24h": lambda h, t: h.negative_share("article", t),
    "sentiment_outlet_mean_24h": lambda h, t: h.outlet_mean("article", t),
    "sentiment_volatility_regime": lambda h, t: h.in_its_regime("article", t),
    "news_count_24h": lambda h, t: h.count("article", t, 24),
    "news_novelty_24h": lambda h, t: h.novelty("article", t),
    "news_volume_surprise": lambda h, t: h.surprise("article", t),
    "hours_since_news": lambda h, t: h.since("article", t),
    "social_volume": lambda h, t: h.count("post", t),
    "social_sentiment": lambda h, t: h.mean("post", t),
    **{f"social_decay_{n}h": partial(lambda h, t, n: h.decayed("post", t, n), n=n) for n in (6, 24)},
    "social_dispersion_24h": lambda h, t: h.dispersion("post", t),
    "social_negative_share_24h": lambda h, t: h.negative_share("post", t),
    "social_originality_24h": lambda h, t: h.novelty("post", t),
    "social_volume_surprise": lambda h, t: h.surprise("post", t),
    "hours_since_post": lambda h, t: h.since("post", t),
}


@pytest.fixture(scope="module")
def rough() -> pl.DataFrame:
    """Return 50 days of bars with holes."""
    return stressed(random_walk_bars(HOURS, start=START))


@pytest.fixture(scope="module")
def texts(rough: pl.DataFrame) -> Texts:
    """Return texts with a gap, days that were not gathered, and few texts at the end."""
    made = random_texts(rough, seed=4)
    rare = pl.col("available_at").dt.hour().is_in([3, 16]) | (pl.col("available_at") < START + timedelta(days=34))
    return filtered(made, rare)


@pytest.fixture(scope="module")
def made(rough: pl.DataFrame, texts: Texts) -> pl.DataFrame:
    """Return all features of the two."""
    return compute_features(inputs_of(rough, texts))


def test_every_text_feature_has_an_oracle() -> None:
    assert set(BY_HAND) == set(TEXT_FEATURES)


@pytest.mark.parametrize("name", BY_HAND)
def test_a_text_feature_equals_arithmetic_by_hand(
    name: str, rough: pl.DataFrame, texts: Texts, made: pl.DataFrame
) -> None:
    """Across the gap in texts, the days that were not gathered, the gaps of the bars and the rare texts."""
    hand, feature = TextHand(texts, rough), TEXT_FEATURES[name]
    warm = START + (feature.warmup_hours + GAP_SLACK_HOURS) * HOUR if feature.warmup_hours else START
    rows = [*range(30), *range(22 * 24, rough.height, 3)]
    times = [made["open_time"][row] for row in rows]
    expected = [BY_HAND[name](hand, t) if t >= warm else None for t in times]
    found = [made[name][row] for row in rows]
    assert [value is None for value in found] == [value is None for value in expected]
    known = [(f, e) for f, e in zip(found, expected, strict=True) if e is not None]
    assert len(known) > 50
    assert len({round(value, 9) for value, _ in known}) > 3
    np.testing.assert_allclose([f for f, _ in known], [e for _, e in known], rtol=1e-9, atol=1e-11)


def test_the_oracle_covers_the_hard_cases(made: pl.DataFrame) -> None:
    """Unknown and known, silence and speech are all among the rows compared."""
    late = made.filter(pl.col("open_time") >= START + timedelta(days=22))
    assert late["sentiment_count"].null_count() == late["social_volume"].null_count() == 24
    assert late.filter(pl.col("sentiment_count") == 0)["sentiment_mean"].null_count() > 100
    assert late["hours_since_news"].max() > 20  # type: ignore[operator]
    assert late["hours_since_news"].null_count() > 24
    assert late["sentiment_decay_1h"].null_count() > 50


# --- windows are hours, values are values ------------------------------------------------------


def test_a_gap_of_the_bars_does_not_shift_the_windows_of_texts(texts: Texts) -> None:
    whole = random_walk_bars(HOURS, start=START)
    holed = whole.filter(~pl.int_range(pl.len()).is_between(HOURS - 300, HOURS - 260))
    of_texts = [f for f in TEXT_FEATURES.values() if f.name != "sentiment_volatility_regime"]
    made = compute_features(inputs_of(holed, texts), of_texts)
    expected = compute_features(inputs_of(whole, texts), of_texts).join(
        made, on="open_time", how="semi", maintain_order="left"
    )
    assert made.equals(expected)


def test_a_subset_of_features_is_the_same_columns(rough: pl.DataFrame, texts: Texts, made: pl.DataFrame) -> None:
    for names in (["sentiment_volatility_regime"], ["social_volume", "rsi", "sentiment_decay_6h"], ["rsi"]):
        some = compute_features(inputs_of(rough, texts), [f for name in names for f in FEATURES if f.name == name])
        assert some.equals(made.select("open_time", "available_at", *names))


def test_texts_change_no_feature_of_the_bars(rough: pl.DataFrame, made: pl.DataFrame) -> None:
    of_bars = [feature.name for feature in FEATURES if feature.group not in JOINED_GROUPS]
    assert made.select("open_time", "available_at", *of_bars).equals(
        compute_features(inputs_of(rough)).select("open_time", "available_at", *of_bars)
    )


def test_a_span_with_texts_is_the_same_rows_of_the_whole_from_its_own_window(
    rough: pl.DataFrame, texts: Texts, made: pl.DataFrame
) -> None:
    first = START + timedelta(days=WARMUP_DAYS + 2)
    window = first - timedelta(days=WARMUP_DAYS)
    for days in (1, 3):
        last = first + timedelta(days=days)
        bars = rough.filter(pl.col("open_time").is_between(window, last, closed="left"))
        span = features_between(inputs_of(bars, texts).between(window, last), first, last)
        expected = made.filter(pl.col("open_time").is_between(first, last, closed="left"))
        assert span.select("open_time", *TEXT_FEATURES).equals(expected.select("open_time", *TEXT_FEATURES))


@pytest.mark.parametrize("kind", ["one", "alike", "silent", "extreme", "burst", "no bar"])
def test_no_texts_give_a_nan_or_an_infinity(kind: str) -> None:
    bars = random_walk_bars(HOURS, start=START)
    score = {"alike": 0.1, "extreme": -1.0}.get(kind, 0.7)
    every = {"one": HOURS, "silent": HOURS + 1}.get(kind, 5)
    items = [Text(START + n * HOUR, score, number=n) for n in range(0, HOURS, every)]
    if kind == "silent":
        items = []
    if kind == "burst":
        items += [Text(START + (HOURS - 9) * HOUR, math.sin(n), number=HOURS + n) for n in range(500)]
    days = {(START + n * HOUR).date() for n in range(HOURS)}
    made = compute_features(inputs_of(bars.head(0) if kind == "no bar" else bars, texts_of(items, items, days, days)))
    assert HOURLY_FEATURES.faults(made) == []
    for name in TEXT_FEATURES:
        assert made[name].is_nan().sum() == made[name].is_infinite().sum() == 0, name


def test_equal_scores_have_no_dispersion() -> None:
    days = {(START + n * HOUR).date() for n in range(240)}
    items = [Text(START + n * HOUR, 0.1, number=n) for n in range(240)]
    made = compute_features(inputs_of(random_walk_bars(240, start=START), texts_of(items, article_days=days)))
    assert made["sentiment_dispersion_24h"].drop_nulls().unique().to_list() == [0.0]


def test_hours_without_texts_are_not_neutral() -> None:
    """Articles for nine days, then two weeks of gathering in vain."""
    hours = 24 * 23
    days = {(START + n * HOUR).date() for n in range(hours)}
    items = [Text(START + n * HOUR, 0.6, number=n) for n in range(24 * 9)]
    newest = compute_features(inputs_of(random_walk_bars(hours, start=START), texts_of(items, article_days=days))).row(
        -1, named=True
    )
    assert newest["sentiment_count"] == newest["news_count_24h"] == 0.0
    assert newest["hours_since_news"] == 168.0
    assert {newest[name] for name in TEXT_FEATURES if name.startswith("sentiment_") and name != "sentiment_count"} == {
        None
    }
    assert newest["news_novelty_24h"] is None


def test_real_news_give_every_feature_of_articles(shared_data: object) -> None:
    """The dense window of real news, scored by nothing better than the length of the title."""
    from pathlib import Path

    assert isinstance(shared_data, Path)
    first, last = datetime(2025, 5, 5, tzinfo=UTC), datetime(2025, 7, 31, tzinfo=UTC)
    news = (
        pl.scan_parquet(shared_data / "text" / "news.parquet")
        .filter(pl.col("first_seen_at").is_between(first, last))
        .select(
            article_id="article_id",
            revision=pl.lit(0, pl.Int64),
            story_id="article_id",
            outlet=pl.col("source").fill_null("unknown"),
            published_at=pl.col("published_at").dt.cast_time_unit("us"),
            available_at=pl.col("first_seen_at").dt.cast_time_unit("us"),
            score=pl.col("title").fill_null("").str.len_chars().cast(pl.Float64) % 21 / 10 - 1,
        )
        .collect()
    )
    days = news["available_at"].dt.date().unique().to_list()
    inputs = inputs_of(random_walk_bars(80 * 24, start=first), {ARTICLE_STREAM: Rows(news, frozenset(days))})
    made = compute_features(inputs).tail(30 * 24)
    for name, feature in TEXT_FEATURES.items():
        if feature.group == "sentiment":
            assert made[name].null_count() < 0.2 * made.height, name
    assert made["sentiment_count"].sum() > 3_000
    for law in (availability, future_poisoning):
        assert law(compute_features, inputs, [inputs.clock["open_time"][-50]]).passed


def test_a_stored_day_counts_as_gathered_if_the_week_before_it_has_a_text() -> None:
    first = date(2018, 5, 1)
    stored = [first + timedelta(days=n) for n in range(20)]
    spoken = pl.DataFrame({"available_at": [datetime(2018, 5, 5, 12, tzinfo=UTC)]})
    assert days_gathered(stored, spoken) == {date(2018, 5, day) for day in range(6, 13)}
    assert days_gathered(stored, spoken.clear()) == frozenset()
    assert days_gathered([], spoken) == frozenset()
