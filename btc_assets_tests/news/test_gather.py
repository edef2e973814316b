"""Filing neither loses, duplicates nor changes texts; a failing source affects only its own texts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.lake import by_day
from btc_assets.news.gather import (
    CONTRACTS,
    MAX_REVISIONS,
    FetchResult,
    FilingResult,
    KnownTexts,
    SourceReport,
    available_at,
    fetch_all,
    file_items,
    silent_sources,
    source_table,
)
from btc_assets.news.identity import article_id, post_id, text_digest
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.news.tables import ARTICLES, POSTS
from btc_assets.transport import SourceRefusedError

HOUR = timedelta(hours=1)
DAY0 = datetime(2025, 5, 5, tzinfo=UTC)
DAYS = [date(2025, 5, 5) + timedelta(days=n) for n in range(3)]
NOW = DAY0 + 70 * HOUR
"""In the evening of the third day."""
LAG = HOUR


def item(number: int = 0, hours: float | None = 10, **changes: Any) -> Item:
    """An article published some hours after DAY0."""
    article = Item(
        kind="article",
        source="feed",
        guid=f"guid-{number}",
        url=f"https://example.com/{number}",
        title=f"Title number {number}",
        summary="",
        published_at=None if hours is None else DAY0 + hours * HOUR,
        precision="none" if hours is None else "second",
        outlet="example.com",
    )
    return replace(article, **changes)


def fetched(*items: Item, name: str = "feed", live: bool = False, lag: timedelta = LAG) -> FetchResult:
    return FetchResult(name, live, lag, Delivery(list(items)))


@dataclass
class Days:
    """A lake of one kind in memory, and the runs that fill it."""

    kind: Kind = "article"
    parts: dict[date, pl.DataFrame] = field(default_factory=dict)

    @property
    def rows(self) -> pl.DataFrame:
        contract = CONTRACTS[self.kind]
        return pl.concat([contract.empty(), *self.parts.values()]).sort(contract.key)

    def run(
        self,
        deliveries: Sequence[FetchResult],
        days: Sequence[date] = DAYS,
        now: datetime = NOW,
        write: Callable[[date], bool] = lambda day: True,
    ) -> FilingResult:
        """Materialise some days; `write` selects the partitions that are written before the run is killed.

        Rows are stored as the lake stores them: without those whose key is stored under a later day.
        """
        contract = CONTRACTS[self.kind]
        stored = pl.concat([contract.empty(), *(self.parts[day] for day in days if day in self.parts)]).sort(
            contract.key
        )
        later = contract.day > max(days)
        known = KnownTexts.look_up(self.kind, self.rows.lazy().filter(~later), deliveries, days)
        filed = file_items(deliveries, self.kind, stored, known, days, now)
        assert filed.frame.schema == contract.columns
        assert not filed.frame.select(pl.struct(contract.key).is_duplicated().any()).item()
        kept = filed.frame.join(self.rows.filter(later), on=contract.key, how="anti", maintain_order="left")
        for day, part in by_day(contract, kept, days):  # raises where a row belongs to another day
            if write(day):
                self.parts[day] = part
        for report in filed.reports:
            parts = (report.new, report.revised, report.duplicate, report.outside, report.left_out)
            assert report.fetched == sum(parts)
        return filed


# --- when a text is available ------------------------------------------------------------------------
def availability(text: Item, *, live: bool, days: Sequence[date] = DAYS, lag: timedelta = LAG) -> datetime | None:
    return available_at(text, live=live, lag=lag, days=days, now=NOW)


def test_a_text_of_a_live_source_is_available_now() -> None:
    for text in (item(hours=69), item(hours=None), item(hours=99_999), item(hours=-99)):
        assert availability(text, live=True, days=[DAYS[2]]) == NOW


def test_past_days_of_a_live_source_use_its_lag() -> None:
    assert availability(item(hours=10), live=True, days=DAYS[:2]) == DAY0 + 11 * HOUR
    assert availability(item(hours=None), live=True, days=DAYS[:2]) is None


def test_history_of_a_live_source_is_filed_under_earlier_requested_days() -> None:
    assert availability(item(hours=10), live=True) == DAY0 + 11 * HOUR
    assert availability(item(hours=-10), live=True) == NOW, "that day is not requested"
    assert availability(item(hours=47.5), live=True) == NOW, "with its lag it belongs to today"


def test_the_first_seen_time_of_an_archive_is_used() -> None:
    seen = DAY0 + 30 * HOUR
    assert availability(item(hours=10, first_seen_at=seen), live=False) == seen
    assert availability(item(hours=10), live=False) == DAY0 + 11 * HOUR


@pytest.mark.parametrize(
    ("precision", "available"),
    [
        ("second", DAY0 + 11.508333333333333 * HOUR),
        ("minute", DAY0 + timedelta(hours=11, minutes=31)),
        ("day", DAY0 + timedelta(hours=25)),
    ],
)
def test_a_text_is_not_available_before_it_can_have_been_published(precision: Any, available: datetime) -> None:
    published = DAY0 + timedelta(hours=10, minutes=30, seconds=30)
    assert availability(item(published_at=published, precision=precision), live=False) == available


def test_a_date_beyond_the_calendar_is_unknown() -> None:
    last = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
    for precision in ("second", "minute", "day"):
        assert availability(item(published_at=last, precision=precision), live=False) is None


# --- filing ------------------------------------------------------------------------------------------
def test_an_item_becomes_a_row() -> None:
    text = item(url="http://www.Example.com/1/?utm_source=x", summary="More.", hours=10)
    frame = Days().run([fetched(text)]).frame
    assert ARTICLES.faults(frame) == []
    assert frame.row(0, named=True) == {
        "article_id": article_id("https://example.com/1", "", ""),
        "revision": 0,
        "story_id": article_id("https://example.com/1", "", ""),
        "source": "feed",
        "outlet": "example.com",
        "url": "https://example.com/1",
        "title": "Title number 0",
        "summary": "More.",
        "published_at": DAY0 + 10 * HOUR,
        "precision": "second",
        "available_at": DAY0 + 11 * HOUR,
    }


def test_a_post_becomes_a_row() -> None:
    text = item(kind="post", outlet="Reddit", channel="Bitcoin", title="Look", summary="at this", points=3, comments=2)
    frame = Days("post").run([fetched(text)]).frame
    assert POSTS.faults(frame) == []
    assert frame.row(0, named=True) == {
        "post_id": post_id("reddit", "guid-0"),
        "revision": 0,
        "source": "feed",
        "platform": "reddit",
        "channel": "Bitcoin",
        "url": "https://example.com/0",
        "text": "Look\nat this",
        "published_at": DAY0 + 10 * HOUR,
        "precision": "second",
        "available_at": DAY0 + 11 * HOUR,
        "points": 3,
        "comments": 2,
        "is_repost": False,
    }


def test_a_title_repeated_in_the_body_is_stored_once() -> None:
    text = item(kind="post", title="Look", summary="Look at this")
    assert Days("post").run([fetched(text)]).frame["text"].to_list() == ["Look at this"]


def test_texts_of_the_other_kind_are_ignored() -> None:
    filed = Days().run([fetched(item(1), item(2, kind="post"))])
    assert filed.frame.height == 1
    assert filed.reports[0].fetched == 1


def test_texts_outside_the_requested_days_are_not_filed() -> None:
    outside = [item(1, hours=-2), item(2, hours=71.5), item(3, hours=None), item(4, hours=23.5)]
    filed = Days().run([fetched(*outside)], days=DAYS[:1])
    assert (filed.frame.height, filed.reports[0].outside) == (0, 4)
    assert Days().run([fetched(item(1, hours=69.5))]).frame.is_empty(), "available half an hour after now"


def test_an_invalid_item_is_reported_and_stops_no_other() -> None:
    broken = [
        item(1, title=" "), item(2, url="", guid=""), item(3, title="half \ud800 a character"), item(4, source=""),
    ]  # fmt: skip
    filed = Days().run([fetched(*broken, item(5))])
    assert (filed.frame.height, filed.reports[0].left_out) == (1, 4)
    notes = " ".join(filed.reports[0].notes)
    for reason in ("no title", "neither an address nor an id", "a lone surrogate", "source has no name"):
        assert reason in notes


def test_of_two_sources_the_earlier_text_is_filed() -> None:
    early, late = item(1, hours=10, source="a"), item(1, hours=12, source="b", title="Other words")
    filed = Days().run([fetched(late, name="b"), fetched(early, name="a")])
    assert filed.frame["source"].to_list() == ["a"]
    assert [report.duplicate for report in filed.reports] == [1, 0]


def test_of_two_seen_at_the_same_time_the_one_with_a_summary_is_filed() -> None:
    bare, full = item(1, hours=5, source="a"), item(1, hours=6, source="b", summary="And a summary.")
    deliveries = [fetched(bare, name="a", live=True), fetched(full, name="b", live=True)]
    assert Days().run(deliveries, days=DAYS[2:]).frame["source"].to_list() == ["b"]


def test_a_failed_source_affects_only_its_own_texts() -> None:
    failed = FetchResult("broken", live=True, lag=LAG, delivery=None, fault="broken is down; try later")
    filed = Days().run([failed, fetched(item(1))])
    assert filed.frame.height == 1
    assert filed.reports[0] == SourceReport("broken", fault="broken is down; try later")


def test_stored_rows_are_unchanged_when_every_source_fails() -> None:
    lake = Days()
    before = lake.run([fetched(item(1), item(2))]).frame
    down = FetchResult("feed", live=True, lag=LAG, delivery=None, fault="down")
    assert lake.run([down]).frame.equals(before)


def test_stories_continue_across_days_and_stay_fixed() -> None:
    lake = Days()
    title = "JPMorgan to allow clients to buy Bitcoin, Jamie Dimon says"
    lake.run([fetched(item(1, hours=10, title=title))], days=DAYS[:1])
    filed = lake.run([fetched(item(2, hours=30, title=f"{title} again", outlet="other.example"))], days=DAYS[1:])
    assert filed.frame["story_id"].to_list() == [article_id("https://example.com/1", "", "")]
    lake.run([fetched(item(3, hours=9, title=title, outlet="third.example"))], days=DAYS[:1])
    stories = dict(lake.rows.select("url", "story_id").iter_rows())
    assert stories["https://example.com/1"] == article_id("https://example.com/1", "", ""), "frozen when stored"
    assert stories["https://example.com/3"] == article_id("https://example.com/3", "", "")


def test_stories_continue_within_a_refiled_day() -> None:
    lake = Days()
    title = "JPMorgan to allow clients to buy Bitcoin, Jamie Dimon says"
    lake.run([fetched(item(1, hours=10, title=title))], days=DAYS[:1])
    lake.run([fetched(item(2, hours=11, title=f"{title} again", outlet="other.example"))], days=DAYS[:1])
    assert lake.rows["story_id"].n_unique() == 1


# --- edits -------------------------------------------------------------------------------------------
def deliver_edit(lake: Days, text: Item, *, now: datetime = NOW, live: bool = True) -> FilingResult:
    return lake.run([fetched(text, live=live)], days=[now.date()], now=now)


@pytest.fixture
def lake() -> Days:
    """One article, first seen live on the second day."""
    days = Days()
    deliver_edit(days, item(1), now=DAY0 + 30 * HOUR)
    return days


@pytest.mark.parametrize("change", [{"title": "New words"}, {"summary": "New words"}])
def test_an_edit_adds_a_revision_under_the_day_it_was_seen(lake: Days, change: dict[str, str]) -> None:
    first = lake.rows
    filed = deliver_edit(lake, item(1, **change))
    assert filed.reports[0].revised == 1
    assert lake.parts[DAYS[1]].equals(first), "the first text stays"
    row = lake.parts[DAYS[2]].row(0, named=True)
    assert (row["revision"], row["available_at"], row["story_id"]) == (1, NOW, first["story_id"][0])


def test_an_edit_in_history_is_filed_when_it_is_seen() -> None:
    at_once, in_order = Days(), Days()
    both = [fetched(item(1, hours=10), item(1, hours=12, title="New words"), live=True)]
    at_once.run(both)
    for day in DAYS:
        in_order.run(both, days=[day])
    assert at_once.rows["available_at"].to_list() == [DAY0 + 11 * HOUR, NOW]
    assert in_order.rows.equals(at_once.rows)


@pytest.mark.parametrize(
    "again",
    [
        item(1),
        item(1, hours=11, points=9, url="https://www.example.com/1?utm_source=x", guid="other"),
        item(1, title="Other words", source="other feed"),
    ],
)
def test_a_duplicate_without_an_edit_adds_nothing(lake: Days, again: Item) -> None:
    assert deliver_edit(lake, again).reports[0].duplicate == 1
    assert lake.rows.height == 1


def test_an_archive_adds_no_revision(lake: Days) -> None:
    assert deliver_edit(lake, item(1, hours=60, title="New words"), live=False).reports[0].duplicate == 1


def test_an_edit_and_its_reversal_are_filed_once(lake: Days) -> None:
    for n, title in enumerate(["New words", "New words", "Title number 1", "New words", "Newer words"]):
        deliver_edit(lake, item(1, title=title), now=NOW + n * timedelta(minutes=15))
    assert lake.rows["revision"].to_list() == [0, 1, 2]
    assert lake.rows["title"].to_list() == ["Title number 1", "New words", "Newer words"]


def test_the_number_of_revisions_is_bounded(lake: Days) -> None:
    for n in range(MAX_REVISIONS + 5):
        deliver_edit(lake, item(1, summary=f"read by {n}"), now=NOW + n * timedelta(minutes=1))
    assert lake.rows["revision"].max() == MAX_REVISIONS


def test_an_edited_post_adds_a_revision() -> None:
    lake = Days("post")
    deliver_edit(lake, item(1, kind="post"), now=DAY0 + 30 * HOUR)
    assert deliver_edit(lake, item(1, kind="post", points=99)).reports[0].duplicate == 1
    assert deliver_edit(lake, item(1, kind="post", summary="PS: thanks")).reports[0].revised == 1


# --- laws --------------------------------------------------------------------------------------------
TITLES = [
    "Bitcoin bank opens",
    "Bitcoin bank opens today",
    "Miners close",
    "Court rules on fund",
    "Court rules on funds",
]
ITEMS = st.builds(
    lambda number, hours, title, source, summary, seen: item(
        number,
        hours,
        title=title,
        source=source,
        summary=summary,
        outlet=f"{source}.example",
        first_seen_at=None if seen is None else DAY0 + seen * HOUR,
    ),
    st.integers(0, 6),
    st.one_of(st.none(), st.integers(-30, 75)),
    st.sampled_from(TITLES),
    st.sampled_from(["feed", "archive"]),
    st.sampled_from(["", "More"]),
    st.one_of(st.none(), st.integers(0, 69)),
)
BATCHES = st.lists(ITEMS, max_size=14)
no_deadline = settings(deadline=None, max_examples=40)


def deliveries_of(batch: Sequence[Item]) -> list[FetchResult]:
    """A live feed and an archive, each with its own items of the batch."""
    return [
        fetched(*(text for text in batch if text.source == "archive"), name="archive"),
        fetched(*(text for text in batch if text.source == "feed"), name="feed", live=True),
    ]


@no_deadline
@given(BATCHES, st.data(), st.integers(0, 600))
def test_a_repeated_delivery_adds_and_changes_no_row(batch: list[Item], data: st.DataObject, minutes: int) -> None:
    lake = Days()
    lake.run(deliveries_of(batch))
    before = lake.rows
    again = data.draw(st.lists(st.sampled_from(batch), max_size=20)) if batch else []
    later = NOW + timedelta(minutes=minutes)
    arrived = [text for text in again if text.source == "feed" or text.first_seen_at or text.published_at is None]
    days = data.draw(st.sampled_from([DAYS, DAYS[2:], [later.date()]]))
    filed = lake.run(deliveries_of(arrived), days=days, now=later)
    assert lake.rows.filter(pl.col("available_at") <= NOW).equals(before)
    late = {text.url for text in arrived if text.source == "archive"} | {""}
    assert set(lake.rows.filter(pl.col("available_at") > NOW)["url"]) <= late - set(before["url"])
    assert sum(report.revised for report in filed.reports) == 0


@no_deadline
@given(BATCHES, st.randoms(use_true_random=False))
def test_the_result_does_not_depend_on_the_order_of_delivery(batch: list[Item], random: Any) -> None:
    shuffled = list(batch)
    random.shuffle(shuffled)
    ordered, reordered = Days().run(deliveries_of(batch)), Days().run(deliveries_of(shuffled)[::-1])
    assert ordered.frame.equals(reordered.frame)
    assert {report.name: report for report in ordered.reports} == {report.name: report for report in reordered.reports}


@no_deadline
@given(BATCHES, BATCHES)
def test_two_partial_fetches_in_either_order_give_the_same_texts(first: list[Item], second: list[Item]) -> None:
    names = []
    for order in ((first, second), (second, first), (first + second,)):
        lake = Days()
        for batch in order:
            lake.run(deliveries_of(batch))
        names.append(set(lake.rows["article_id"]))
    assert names[0] == names[1] == names[2]


@no_deadline
@given(BATCHES, st.sets(st.sampled_from(DAYS)))
def test_the_next_run_completes_a_killed_run(batch: list[Item], written: set[date]) -> None:
    killed, whole = Days(), Days()
    killed.run(deliveries_of(batch), write=lambda day: day in written)
    killed.run(deliveries_of(batch))
    whole.run(deliveries_of(batch))
    assert killed.rows.equals(whole.rows)


@no_deadline
@given(BATCHES)
def test_filing_days_at_once_or_in_order_gives_the_same_rows(batch: list[Item]) -> None:
    batch = list({(text.source, text.guid): text for text in batch}.values())  # a delivery names a text once
    at_once, in_order = Days(), Days()
    at_once.run(deliveries_of(batch))
    for day in DAYS:
        in_order.run(deliveries_of(batch), days=[day])
    assert in_order.rows.equals(at_once.rows)


@no_deadline
@given(BATCHES, BATCHES)
def test_later_days_decide_whether_a_text_is_stored_again_and_not_what_is_stored(
    later: list[Item], batch: list[Item]
) -> None:
    alone, before_others = Days(), Days()
    before_others.run(deliveries_of(later), days=DAYS[1:])
    held = before_others.rows
    for lake in (alone, before_others):
        lake.run(deliveries_of(batch), days=DAYS[:1])
    assert before_others.parts[DAYS[0]].equals(alone.parts[DAYS[0]].join(held, on=ARTICLES.key, how="anti"))
    assert before_others.rows["article_id"].n_unique() == before_others.rows.filter(pl.col("revision") == 0).height


@no_deadline
@given(st.lists(ITEMS.map(lambda text: replace(text, kind="post")), max_size=14))
def test_posts_follow_the_same_rules(batch: list[Item]) -> None:
    lake = Days("post")
    lake.run(deliveries_of(batch))
    before = lake.rows
    lake.run(deliveries_of(batch[::-1]))
    assert lake.rows.equals(before)
    assert set(before["post_id"]) <= {post_id(f"{text.source}.example", text.guid) for text in batch}


def test_a_lost_first_text_is_refiled(lake: Days) -> None:
    deliver_edit(lake, item(1, title="New words"))
    first = lake.parts.pop(DAYS[1])
    filed = lake.run([fetched(item(1, hours=29))], days=DAYS[1:2])
    assert filed.reports[0].new == 1
    assert lake.rows["revision"].to_list() == [0, 1]
    assert lake.rows["story_id"].to_list() == [first["story_id"][0]] * 2


def test_a_mostly_repeated_delivery_adds_only_new_texts() -> None:
    lake = Days()
    every = [item(n, hours=n % 60, title=text_digest(str(n))[:20]) for n in range(590)]
    lake.run([fetched(*every[:500], live=True)], days=DAYS[2:], now=NOW)
    before = lake.rows
    filed = lake.run([fetched(*every[:89:-1], live=True)], days=DAYS[2:], now=NOW + HOUR)
    assert (filed.reports[0].new, filed.reports[0].duplicate) == (90, 410), "82 % were delivered before"
    assert lake.rows.filter(pl.col("available_at") == NOW).equals(before)
    assert ARTICLES.faults(lake.rows) == []


# --- fetching ----------------------------------------------------------------------------------------
@dataclass
class Source:
    """A source with a configurable answer."""

    name: str
    answer: Callable[[], Delivery]
    kinds: tuple[Kind, ...] = ("article",)
    live: bool = True
    lag: timedelta = LAG
    rhythm: timedelta | None = None

    def fetch(self, first: datetime, last: datetime, now: datetime) -> Delivery:
        return self.answer()


def refused() -> Delivery:
    raise SourceRefusedError("shut: HTTP 403; check the key")


def broken() -> Delivery:
    return Delivery([{}["nothing"]])


def slow() -> Delivery:
    time.sleep(0.3)
    return Delivery([item(1)])


def fetch_from(*sources: Source, concurrency: int = 8) -> list[FetchResult]:
    return fetch_all(sources, DAY0, DAY0 + 24 * HOUR, NOW, concurrency)


def test_a_slow_or_failing_source_stops_no_other() -> None:
    sources = [
        Source("shut", refused),
        Source("slow", slow),
        Source("odd", broken),
        Source("fine", lambda: Delivery([])),
    ]
    results = fetch_from(*sources)
    assert [result.name for result in results] == ["shut", "slow", "odd", "fine"]
    assert results[0].fault == "shut: HTTP 403; check the key"
    assert "odd could not process its response" in results[2].fault
    assert "KeyError" in results[2].fault
    assert [result.delivery is None for result in results] == [True, False, True, False]
    assert results[1].seconds >= 0.3 > results[3].seconds


def test_the_number_of_concurrent_fetches_is_bounded() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def counted() -> Delivery:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return Delivery([])

    fetch_from(*(Source(f"s{n}", counted) for n in range(12)), concurrency=3)
    assert most == 3


def test_a_stopped_run_starts_no_further_fetch() -> None:
    fetches: list[str] = []

    def stopped() -> Delivery:
        raise KeyboardInterrupt

    def noted() -> Delivery:
        fetches.append("fetch")
        time.sleep(0.05)
        return Delivery([])

    with pytest.raises(KeyboardInterrupt):
        fetch_from(Source("stopped", stopped), *(Source(f"s{n}", noted) for n in range(40)), concurrency=1)
    assert len(fetches) < 40


def test_no_sources_is_not_an_error() -> None:
    assert fetch_from() == []
    assert source_table([]) == "No source was fetched."


# --- reporting ---------------------------------------------------------------------------------------
def test_the_table_lists_the_outcome_of_each_source() -> None:
    lake = Days()
    lake.run([fetched(item(1))])
    filed = lake.run([fetched(item(1), item(2), item(3, hours=None), item(4, title=""))])
    row = source_table(filed.reports).splitlines()[2]
    assert row.startswith("| feed | 4 | 1 | 0 | 1 | 1 | 1 | 0.0 |")
    assert "no title" in row


def test_untrusted_text_is_escaped() -> None:
    hostile = "a|b\n\n# head <img src=x onerror=alert(1)> [x](javascript:y) `c` *d* \u202e\x07 \\"
    report = SourceReport(hostile, fault=hostile, notes=(hostile, "x" * 2000, *["more"] * 9))
    table = source_table([report])
    assert len(table.splitlines()) == 3
    row = table.splitlines()[2]
    assert row.replace("\\|", "").count("|") == 10
    for forbidden in ("<", ">", "\u202e", "\x07", "x" * 400):
        assert forbidden not in row
    assert row.count("\\[x\\](") == 3
    assert "… and 8 more" in row


def test_a_source_beyond_its_rhythm_is_silent() -> None:
    rows = Days().run([fetched(item(1, hours=10, source="a"), item(2, hours=50, source="b"))]).frame
    sources = [
        Source("a", refused, rhythm=12 * HOUR), Source("b", refused, rhythm=48 * HOUR),
        Source("never", refused, rhythm=HOUR), Source("archive", refused),
    ]  # fmt: skip
    silent = silent_sources(sources, rows.lazy(), NOW)
    assert [(source.name, source.newest) for source in silent] == [("a", DAY0 + 11 * HOUR), ("never", None)]
    assert silent_sources(sources[:2], rows.lazy(), DAY0 + 23 * HOUR) == []


@pytest.mark.parametrize("contract", [ARTICLES, POSTS])
def test_empty_tables_give_empty_known_texts(contract: Any) -> None:
    kind: Kind = "article" if contract is ARTICLES else "post"
    known = KnownTexts.look_up(kind, contract.empty().lazy(), [fetched(item(1))], DAYS)
    assert known.texts.equals(KnownTexts.empty().texts)
    assert known.titles.equals(KnownTexts.empty().titles)
