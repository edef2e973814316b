"""Laws of hourly bars: properties of every history, as functions of the tested module; and claims about single bars.

The laws take the tested module as an argument, so that `test_bars_mutants` can apply them to versions with a planted
bug.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from btc_assets.market import bars as real
from btc_assets.market.bars import BarsError, clean, find_gaps, merge, restated, zone_shift
from btc_assets.market.sources.files import FileSource
from btc_assets.market.tables import PRICES
from btc_assets_tests.market.conftest import DAY, bars, hours

HOUR = timedelta(hours=1)
CLOSES = st.sampled_from([99.5, 100.0, 100.5])
VENUES = ("binance", "kraken")
Row = dict[str, Any]


@dataclass(frozen=True)
class Law:
    """A property of all bars.

    Attributes:
        name: the claim.
        given: strategies of its cases.
        holds: asserts it for a module and a case.
        cases: number of cases.
    """

    name: str
    given: tuple[st.SearchStrategy[Any], ...]
    holds: Callable[..., None]
    cases: int

    def judge(self, code: ModuleType, *, cases: int, phases: tuple[Phase, ...] = tuple(Phase)) -> None:
        """Try the law on a number of cases, the same in every run.

        Raises:
            AssertionError: it does not hold.
        """

        @settings(
            max_examples=cases,
            phases=phases,
            deadline=None,
            derandomize=True,
            database=None,
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.tuples(*self.given))
        def tried(case: tuple[Any, ...]) -> None:
            self.holds(code, *case)

        tried()


LAWS: dict[str, Law] = {}


def law(*strategies: st.SearchStrategy[Any], cases: int = 40) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a law, under its name, with the strategies of its cases."""

    def enter(holds: Callable[..., None]) -> Callable[..., None]:
        name = holds.__name__.replace("_", " ")
        LAWS[name] = Law(name, strategies, holds, cases)
        return holds

    return enter


# --- strategies ------------------------------------------------------------------------------------
_ROWS = st.tuples(
    CLOSES,
    st.sampled_from([0.0, 1.0, 2.0]),
    st.sampled_from([None, 150.0]),
    st.sampled_from([None, 1, 2]),
    st.sampled_from(VENUES),
    st.sampled_from([None, timedelta(minutes=20), HOUR - timedelta(milliseconds=1)]),
)
"""Values of a bar: close, volume, quote volume, trades, venue, and the time from its open to its close_time."""


def _frame(places: list[int], rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    known = zip(*rows, strict=True) if rows else [[]] * 6
    close, volume, quote_volume, trades, venue, lasted = (list(column) for column in known)
    opens = [DAY + n * HOUR for n in places]
    flat = {"open": 100.0, "high": 101.0, "low": 99.0, "taker_buy_volume": None, "taker_buy_quote_volume": None}
    rows = {"open_time": opens, "close": close, "volume": volume, "quote_volume": quote_volume, "trades": trades}
    ends = [None if length is None else at + length for at, length in zip(opens, lasted, strict=True)]
    values = rows | {"venue": venue, "close_time": ends} | {name: [value] * len(opens) for name, value in flat.items()}
    return pl.DataFrame(values, schema_overrides={**PRICES.columns, "close_time": PRICES.columns["open_time"]})


@st.composite
def deliveries(draw: st.DrawFn) -> pl.DataFrame:
    """Bars of some hours in any order, some repeated, some truncated."""
    rows = draw(st.lists(st.tuples(st.integers(0, 4), _ROWS), max_size=8))
    frame = _frame([place for place, _ in rows], [row for _, row in rows])
    return frame if draw(st.booleans()) else frame.select(list(PRICES.columns))


@st.composite
def two_answers(draw: st.DrawFn) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Stored and fetched bars, each hour at most once in each: equal, one value different, all different, or absent."""
    stored, fresh = [], []
    who = st.sampled_from(["both alike", "one value differs", "all may differ", "stored", "fresh", "neither"])
    for place, (rows, row, other, value) in enumerate(
        draw(st.lists(st.tuples(who, _ROWS, _ROWS, st.integers(0, 4)), max_size=10))
    ):
        if rows in ("both alike", "one value differs", "all may differ", "stored"):
            stored.append((place, row))
        if rows == "one value differs":
            fresh.append((place, (*row[:value], other[value], *row[value + 1 :])))
        elif rows in ("both alike", "all may differ", "fresh"):
            fresh.append((place, row if rows == "both alike" else other))
    old, new = (_frame([n for n, _ in bars_], [row for _, row in bars_]) for bars_ in (stored, fresh))
    return old.select(list(PRICES.columns)), new.select(list(PRICES.columns))


def _rows(frame: pl.DataFrame) -> list[Row]:
    return frame.rows(named=True)


def _values(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in PRICES.columns)


def _by_hour(frame: pl.DataFrame) -> dict[datetime, list[Row]]:
    found: dict[datetime, list[Row]] = {}
    for row in _rows(frame):
        found.setdefault(row["open_time"], []).append(row)
    return found


def _completeness(row: Row) -> tuple[bool, float, float]:
    """Sort key of the bars of an hour: whether the bar is complete, its trades, its volume."""
    end = row.get("close_time")
    trades = -1 if row["trades"] is None else row["trades"]
    return end is None or end - row["open_time"] >= timedelta(seconds=3599), trades, row["volume"]


# --- clean -----------------------------------------------------------------------------------------
@law(deliveries())
def cleaning_twice_is_cleaning_once(code: ModuleType, frame: pl.DataFrame) -> None:
    once = code.clean(frame)
    again = code.clean(once.frame)
    assert again.frame.equals(once.frame)
    assert (again.duplicates, again.conflicts) == (0, 0)


@law(deliveries(), st.integers(0, 2**16))
def the_order_of_rows_does_not_matter(code: ModuleType, frame: pl.DataFrame, seed: int) -> None:
    places = list(range(frame.height))
    Random(seed).shuffle(places)
    one, other = code.clean(frame), code.clean(frame[places])
    assert other.frame.equals(one.frame)
    assert (other.duplicates, other.conflicts) == (one.duplicates, one.conflicts)


@law(deliveries())
def a_cleaned_history_has_each_hour_once_and_in_order(code: ModuleType, frame: pl.DataFrame) -> None:
    cleaned = code.clean(frame).frame
    assert cleaned["open_time"].to_list() == sorted(set(frame["open_time"]))
    assert list(cleaned.schema.items()) == list(PRICES.columns.items())


@law(deliveries())
def a_kept_bar_is_whole_and_of_one_venue(code: ModuleType, frame: pl.DataFrame) -> None:
    rows = {_values(row) for row in _rows(frame)}
    assert all(_values(row) in rows for row in _rows(code.clean(frame).frame))


@law(deliveries())
def the_most_complete_bar_of_an_hour_is_kept(code: ModuleType, frame: pl.DataFrame) -> None:
    rivals = _by_hour(frame)
    for row in _rows(code.clean(frame).frame):
        best = max(_completeness(rival) for rival in rivals[row["open_time"]])
        assert _values(row) in {_values(r) for r in rivals[row["open_time"]] if _completeness(r) == best}


@law(deliveries())
def duplicates_and_conflicts_are_counted(code: ModuleType, frame: pl.DataFrame) -> None:
    cleaned, rivals = code.clean(frame), _by_hour(frame)
    assert cleaned.duplicates == frame.height - len(rivals)
    assert cleaned.conflicts == sum(len({_values(row) for row in rows}) > 1 for rows in rivals.values())


_NUMBERS = ("open", "high", "low", "close", "volume")
_FLOW = ("quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")


def _sound(row: Row) -> bool:
    """Return whether a bar is valid, without polars."""
    numbers = [row[name] for name in _NUMBERS]
    if any(value is None or not math.isfinite(value) for value in numbers):
        return False
    flow = [row[name] for name in _FLOW if row[name] is not None]
    return (
        row["open_time"] is not None
        and row["open_time"].timestamp() % 3600 == 0
        and min(numbers[:4]) > 0
        and row["volume"] >= 0
        and all(math.isfinite(value) and value >= 0 for value in flow)
        and row["low"] == min(numbers[:4])
        and row["high"] == max(numbers[:4])
    )


_ODD = [None, math.nan, math.inf, -math.inf, -1.0, -1e-9, 0.0, 1e-9, 98.9, 99.0, 99.9, 100.0, 100.1, 101.0, 101.1]
_ODD_VALUES: dict[str, list[Any]] = {
    **dict.fromkeys((*_NUMBERS, *_FLOW), _ODD),
    "open_time": [None, DAY + timedelta(minutes=30), DAY + timedelta(microseconds=1), DAY + 9 * HOUR],
    "trades": [None, -1, 0, 3],
}
PERHAPS_BROKEN = [(column, value) for column, values in _ODD_VALUES.items() for value in values]
"""Columns and values, valid or not, that replace one value of a bar."""


@law(st.integers(0, len(PERHAPS_BROKEN) - 1), cases=len(PERHAPS_BROKEN))
def an_invalid_bar_is_never_used(code: ModuleType, number: int) -> None:
    rows = _rows(bars(hours(DAY, 3), quote_volume=150.0, trades=7, taker_buy_volume=4.0))
    column, value = PERHAPS_BROKEN[number]
    rows[number % 3] |= {column: value}
    frame = pl.DataFrame(rows, schema=PRICES.columns)
    broken = [row for row in rows if not _sound(row)]
    fault = code.first_fault(frame)
    assert (fault is None) == (not broken)
    assert _refusal(code, frame) == (None if fault is None else f"Bars cannot be used: {fault}.")
    if broken:
        assert fault.endswith(f" at {broken[0]['open_time']}")


def _refusal(code: ModuleType, frame: pl.DataFrame) -> str | None:
    try:
        code.clean(frame)
    except code.BarsError as error:
        return str(error)
    return None


# --- gaps ------------------------------------------------------------------------------------------
@law(st.sets(st.integers(-6, 30)), st.integers(0, 24), st.integers(0, 12))
def gaps_and_bars_together_are_every_hour(code: ModuleType, present: set[int], first: int, length: int) -> None:
    gaps = code.find_gaps(bars([DAY + n * HOUR for n in present]), DAY + first * HOUR, DAY + (first + length) * HOUR)
    rows = [start + n * HOUR for start, _, count in gaps.iter_rows() for n in range(count)]
    assert rows == [DAY + n * HOUR for n in range(first, first + length) if n not in present]


@law(st.sets(st.integers(0, 30)))
def a_gap_is_as_long_as_its_ends_are_apart(code: ModuleType, present: set[int]) -> None:
    gaps = code.find_gaps(bars([DAY + n * HOUR for n in present]), DAY, DAY + 24 * HOUR)
    assert all(count == (end - start) // HOUR + 1 for start, end, count in gaps.iter_rows())
    for (_, end, _), (start, _, _) in zip(gaps.iter_rows(), gaps[1:].iter_rows(), strict=False):
        assert start - end > HOUR, "adjacent gaps are one gap"


# --- merge and restatement -------------------------------------------------------------------------
def _rank(venue: str, preferred: tuple[str, ...]) -> int:
    return preferred.index(venue) if venue in preferred else len(preferred)


preferences = st.sampled_from([(), ("binance", "kraken"), ("kraken", "binance"), ("kraken",)])


@law(two_answers(), preferences)
def a_fresh_bar_wins_unless_its_venue_is_less_preferred(
    code: ModuleType, answers: tuple[pl.DataFrame, pl.DataFrame], venues: tuple[str, ...]
) -> None:
    stored, fresh = answers
    joined = {row["open_time"]: row for row in _rows(stored)}
    for row in _rows(fresh):
        old = joined.get(row["open_time"])
        if old is None or _rank(row["venue"], venues) <= _rank(old["venue"], venues):
            joined[row["open_time"]] = row
    merged = code.merge(stored, fresh, venues).frame
    assert [_values(row) for row in _rows(merged)] == [_values(joined[hour]) for hour in sorted(joined)]


@law(two_answers(), preferences)
def the_counts_of_a_merge_add_up(
    code: ModuleType, answers: tuple[pl.DataFrame, pl.DataFrame], venues: tuple[str, ...]
) -> None:
    stored, fresh = answers
    merged = code.merge(stored, fresh, venues)
    had, came = set(stored["open_time"]), set(fresh["open_time"])
    old, new = ({row["open_time"]: row for row in _rows(frame)} for frame in (stored, merged.frame))
    worse = [h for h in had & came if _rank(_by_hour(fresh)[h][0]["venue"], venues) > _rank(old[h]["venue"], venues)]
    assert merged.added == len(came - had)
    assert merged.kept == len(had - came) + len(worse)
    assert merged.restated == sorted(hour for hour in had if _values(old[hour]) != _values(new[hour]))


@law(two_answers(), preferences)
def merging_the_same_answer_again_changes_nothing(
    code: ModuleType, answers: tuple[pl.DataFrame, pl.DataFrame], venues: tuple[str, ...]
) -> None:
    stored, fresh = answers
    once = code.merge(stored, fresh, venues)
    again = code.merge(once.frame, fresh, venues)
    assert again.frame.equals(once.frame)
    assert (again.added, again.restated) == (0, [])


@law(two_answers())
def a_restatement_is_an_hour_that_both_frames_hold_with_different_values(
    code: ModuleType, answers: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    old, new = answers
    before, after = _by_hour(old), _by_hour(new)
    changed = [h for h in before.keys() & after.keys() if _values(before[h][0]) != _values(after[h][0])]
    assert code.restated(old, new) == sorted(changed)


# --- time zones ------------------------------------------------------------------------------------
def _walk(count: int, seed: int = 0) -> pl.DataFrame:
    """Bars none of which repeats another."""
    steps = Random(seed)
    closes = [100.0 + 0.01 * n + steps.choice([0.0, 0.003]) for n in range(count)]
    return bars(hours(DAY, count), open=[100.0, *closes[:-1]], close=closes, high=[c + 0.5 for c in closes], low=99.0)


def _stamped(frame: pl.DataFrame, shift: int) -> pl.DataFrame:
    return frame.with_columns(pl.col("open_time") + timedelta(hours=shift))


ZONES = st.sampled_from([-14, 14]) | st.integers(-14, 14)


@law(ZONES, st.integers(6, 30), st.integers(0, 9))
def a_shifted_history_is_recognised_by_its_offset(code: ModuleType, shift: int, count: int, seed: int) -> None:
    stored = _walk(60, seed)
    assert code.zone_shift(stored, _stamped(stored[20 : 20 + count], shift)) == shift


@law(st.integers(1, 14), st.integers(0, 5), st.integers(0, 9))
def a_handful_of_bars_proves_no_shift(code: ModuleType, shift: int, count: int, seed: int) -> None:
    stored = _walk(60, seed)
    assert code.zone_shift(stored, _stamped(stored[20 : 20 + count], shift)) == 0


@law(ZONES, st.integers(8, 30), st.integers(0, 9))
def a_history_that_half_agrees_at_another_offset_is_not_shifted(
    code: ModuleType, shift: int, count: int, seed: int
) -> None:
    stored = _walk(60, seed)
    part = stored[20 : 20 + count]
    half = pl.int_range(pl.len()) % 2 == 0
    restated_half = part.with_columns(pl.when(half).then(pl.col("close") + 0.2).otherwise(pl.col("close")))
    assert code.zone_shift(stored, _stamped(restated_half, shift)) == 0


@law(st.sampled_from(["open", "high", "low", "close"]), ZONES, st.integers(0, 9))
def bars_equal_in_all_prices_but_one_are_not_the_same(code: ModuleType, price: str, shift: int, seed: int) -> None:
    stored = _walk(60, seed)
    other = stored[20:40].with_columns(pl.col(price) + (0.2 if price == "high" else -0.1))
    assert code.zone_shift(stored, _stamped(other, shift)) == 0


@law(st.integers(0, 9), st.booleans(), st.sets(st.integers(1, 29), max_size=24))
def a_restated_history_of_this_zone_is_not_shifted(code: ModuleType, seed: int, still: bool, changed: set[int]) -> None:
    stored = bars(hours(DAY, 30)) if still else _walk(30, seed)
    places = pl.int_range(pl.len()).is_in(sorted(changed))
    fresh = stored.with_columns(pl.when(places).then(pl.col("close") + 0.2).otherwise(pl.col("close")))
    assert code.zone_shift(stored, fresh) == 0


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_it_holds_that(law: Law) -> None:
    law.judge(real, cases=law.cases)


# --- single bars -----------------------------------------------------------------------------------
def test_a_complete_bar_wins_over_a_truncated_one_with_more_trades() -> None:
    frame = bars([DAY, DAY], close=[100.5, 99.5], trades=[10, 99])
    ends = pl.Series("close_time", [DAY + HOUR - timedelta(milliseconds=1), DAY + timedelta(minutes=20)])
    assert clean(frame.with_columns(ends)).frame["close"].to_list() == [100.5]


def test_among_complete_bars_more_trades_win_then_more_volume() -> None:
    frame = bars([DAY] * 3, close=[99.5, 100.0, 100.5], trades=[5, 7, 7], volume=[9.0, 1.0, 2.0])
    cleaned = clean(frame)
    assert cleaned.frame["close"].to_list() == [100.5]
    assert (cleaned.duplicates, cleaned.conflicts) == (2, 1)


def test_equal_copies_are_duplicates_and_no_conflict() -> None:
    cleaned = clean(bars([DAY, DAY]))
    assert (cleaned.duplicates, cleaned.conflicts) == (1, 0)


def test_a_cleaned_history_keeps_the_contract_of_prices() -> None:
    frame = bars([DAY, DAY, DAY + 2 * HOUR], trades=[None, 7, 1])
    assert PRICES.faults(clean(frame.with_columns(close_time=pl.lit(DAY + HOUR))).frame) == []


def test_an_outage_bar_with_an_early_close_time_is_kept_when_it_is_the_only_one() -> None:
    frame = bars([DAY]).with_columns(close_time=pl.lit(DAY + timedelta(minutes=5)))
    assert clean(frame).frame.height == 1


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("close", float("nan"), "expected close to be a finite number, got nan"),
        ("open", None, "expected open to be a finite number, got None"),
        ("low", -1.0, "expected low above zero, got -1.0"),
        ("volume", -0.5, "expected volume not below zero, got -0.5"),
        ("high", 100.0, None),
        ("high", 99.9, "expected high to be the highest price of the bar, got 99.9"),
        ("low", 100.2, "expected low to be the lowest price of the bar, got 100.2"),
        ("quote_volume", float("inf"), "expected quote_volume to be absent, or finite and not below zero, got inf"),
        ("trades", -1, "expected trades to be absent, or finite and not below zero, got -1"),
    ],
)
def test_an_invalid_bar_is_named(column: str, value: float, sentence: str | None) -> None:
    frame = bars([DAY, DAY + HOUR], **{column: [bars([DAY])[column][0], value]})
    if sentence is None:
        assert clean(frame).frame.height == 2
        return
    with pytest.raises(BarsError, match=sentence.replace(".", r"\.")) as error:
        clean(frame)
    assert "2018-05-05 01:00" in str(error.value)


def test_a_bar_off_the_hour_is_refused() -> None:
    with pytest.raises(BarsError, match="opens on the hour, got one at 2018-05-05 00:30"):
        clean(bars([DAY + timedelta(minutes=30)]))


# --- single gaps -----------------------------------------------------------------------------------
def test_a_whole_history_has_no_gap() -> None:
    assert find_gaps(bars(hours(DAY, 48)), DAY, DAY + 48 * HOUR).is_empty()


def test_the_real_history_misses_128_hours_in_28_gaps(shared_data: Path) -> None:
    source = FileSource(str(shared_data / "market" / "btcusdt_spot_1h.parquet"))
    first, last = datetime(2017, 8, 17, 4, tzinfo=UTC), datetime(2025, 8, 1, tzinfo=UTC)
    cleaned = clean(source.fetch(first, last, last))
    gaps = find_gaps(cleaned.frame, first, last)
    assert (cleaned.frame.height, cleaned.duplicates) == (69_612, 0)
    assert (gaps["bars"].sum(), gaps.height, gaps["bars"].max()) == (128, 28, 33)
    assert gaps.filter(bars=33)["first_missing"].item() == datetime(2018, 2, 8, 1, tzinfo=UTC)


# --- single merges ---------------------------------------------------------------------------------
def test_a_restated_bar_replaces_the_stored_one() -> None:
    stored, fresh = bars(hours(DAY, 3), trades=[1, 2, 3]), bars(hours(DAY, 3), trades=[1, 9, 3])
    merged = merge(stored, fresh, ("binance",))
    assert merged.frame["trades"].to_list() == [1, 9, 3]
    assert merged.restated == [DAY + HOUR]


def test_a_value_that_becomes_known_is_a_restatement() -> None:
    assert restated(bars([DAY]), bars([DAY], trades=[5])) == [DAY]


def test_a_failover_does_not_replace_the_preferred_venue_but_the_return_does() -> None:
    binance, kraken = bars([DAY], venue="binance"), bars([DAY], venue="kraken", close=100.5)
    venues = ("binance", "coinbase", "kraken")
    assert merge(binance, kraken, venues).frame["venue"].to_list() == ["binance"]
    assert merge(binance, kraken, venues).kept == 1
    assert merge(kraken, binance, venues).frame["venue"].to_list() == ["binance"]


def test_a_change_of_source_replaces_the_bars_of_the_previous_source() -> None:
    merged = merge(bars([DAY], venue="bitfinex"), bars([DAY], venue="kraken"), ("kraken",))
    assert merged.frame["venue"].to_list() == ["kraken"]
    assert merged.restated == [DAY]


# --- single zones ----------------------------------------------------------------------------------
@pytest.mark.parametrize("shift", [9, -5, 1, 14])
def test_a_shifted_history_is_recognised_by_its_offset(shift: int) -> None:
    stored = _walk(24)
    assert zone_shift(stored, _stamped(stored, shift)) == shift


@pytest.mark.parametrize("fresh", [_walk(24), _walk(3), bars([]), _walk(24).with_columns(pl.col("close") + 0.5)])
def test_equal_restated_and_unknown_bars_are_not_shifted(fresh: pl.DataFrame) -> None:
    assert zone_shift(_walk(24), fresh) == 0
    assert zone_shift(bars([]), fresh) == 0
