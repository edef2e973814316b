"""Laws of hourly bars."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from btc_assets.contracts import PRICES
from btc_assets.market.bars import BarsError, clean, find_gaps, merge, restated, zone_shift
from btc_assets.market.sources.files import FileSource
from btc_assets_tests.market.conftest import DAY, bars, hours

HOUR = timedelta(hours=1)
CLOSES = st.sampled_from([99.5, 100.0, 100.5])


@st.composite
def histories(draw: st.DrawFn, *, twice: bool = False) -> pl.DataFrame:
    """Bars of some of the hours of two days; with `twice`, some of them more than once."""
    times = draw(st.lists(st.integers(0, 47), unique=not twice, max_size=40))
    return bars(
        [DAY + n * HOUR for n in times],
        close=[draw(CLOSES) for _ in times],
        volume=[draw(st.sampled_from([0.0, 1.0, 2.0])) for _ in times],
        trades=[draw(st.sampled_from([None, 1, 2])) for _ in times],
        venue=[draw(st.sampled_from(["binance", "kraken"])) for _ in times],
    )


# --- clean -----------------------------------------------------------------------------------------
@given(histories(twice=True))
def test_cleaning_twice_is_cleaning_once(frame: pl.DataFrame) -> None:
    once = clean(frame)
    again = clean(once.frame)
    assert again.frame.equals(once.frame)
    assert (again.duplicates, again.conflicts) == (0, 0)


@given(histories(twice=True), st.randoms(use_true_random=False))
def test_the_order_of_rows_decides_nothing(frame: pl.DataFrame, random: object) -> None:
    places = list(range(frame.height))
    random.shuffle(places)  # type: ignore[attr-defined]
    shuffled = clean(frame[places])
    assert shuffled.frame.equals(clean(frame).frame)
    assert shuffled == shuffled.__class__(shuffled.frame, clean(frame).duplicates, clean(frame).conflicts)


@given(histories(twice=True))
def test_a_cleaned_history_keeps_its_contract_and_every_hour(frame: pl.DataFrame) -> None:
    cleaned = clean(frame)
    assert PRICES.faults(cleaned.frame) == []
    assert set(cleaned.frame["open_time"]) == set(frame["open_time"])
    assert cleaned.duplicates == frame.height - cleaned.frame.height


def test_the_complete_bar_wins_over_a_longer_traded_one_that_was_cut_short() -> None:
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
def test_a_bar_that_breaks_a_law_is_named(column: str, value: float, sentence: str | None) -> None:
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


# --- gaps ------------------------------------------------------------------------------------------
@given(st.sets(st.integers(0, 60)))
def test_gaps_and_bars_together_are_every_hour(present: set[int]) -> None:
    gaps = find_gaps(bars([DAY + n * HOUR for n in sorted(present)]), DAY, DAY + 48 * HOUR)
    missing = {DAY + n * HOUR for n in range(48)} - {DAY + n * HOUR for n in present}
    told = {start + n * HOUR for start, _, count in gaps.iter_rows() for n in range(count)}
    assert told == missing
    for (_, end, _), (start, _, _) in zip(gaps.iter_rows(), gaps[1:].iter_rows(), strict=False):
        assert start - end > HOUR, "two gaps with nothing between them are one"


def test_a_whole_history_has_no_gap() -> None:
    assert find_gaps(bars(hours(DAY, 48)), DAY, DAY + 48 * HOUR).is_empty()


def test_the_real_history_misses_128_hours_in_28_gaps(shared_data: Path) -> None:
    source = FileSource(str(shared_data / "market" / "btcusdt_spot_1h.parquet"))
    first, last = datetime(2017, 8, 17, 4, tzinfo=UTC), datetime(2025, 8, 1, tzinfo=UTC)
    cleaned = clean(source.fetch(first, last, last))
    gaps = find_gaps(cleaned.frame, first, last)
    assert (cleaned.frame.height, cleaned.duplicates) == (69_612, 0)
    assert (gaps["hours"].sum(), gaps.height, gaps["hours"].max()) == (128, 28, 33)
    assert gaps.filter(hours=33)["first_missing"].item() == datetime(2018, 2, 8, 1, tzinfo=UTC)


# --- merge and restatement -------------------------------------------------------------------------
@given(histories(), histories())
def test_merging_never_loses_an_hour(stored: pl.DataFrame, fresh: pl.DataFrame) -> None:
    merged = merge(stored, fresh, ("binance", "kraken"))
    assert set(merged.frame["open_time"]) == set(stored["open_time"]) | set(fresh["open_time"])
    assert PRICES.faults(merged.frame) == []
    assert merged.added == len(set(fresh["open_time"]) - set(stored["open_time"]))
    assert merged.restated == restated(stored, merged.frame)


@given(histories(), histories())
def test_merging_the_same_answer_again_changes_nothing(stored: pl.DataFrame, fresh: pl.DataFrame) -> None:
    once = merge(stored, fresh, ("binance", "kraken"))
    again = merge(once.frame, fresh, ("binance", "kraken"))
    assert again.frame.equals(once.frame)
    assert again.restated == []


def test_a_restated_bar_takes_the_place_of_the_stored_one() -> None:
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


def test_a_change_of_source_replaces_the_bars_of_the_one_before() -> None:
    merged = merge(bars([DAY], venue="bitfinex"), bars([DAY], venue="kraken"), ("kraken",))
    assert merged.frame["venue"].to_list() == ["kraken"]
    assert merged.restated == [DAY]


# --- time zones ------------------------------------------------------------------------------------
def _walk(count: int) -> pl.DataFrame:
    opens = [100.0 + 0.01 * n for n in range(count)]
    return bars(hours(DAY, count), open=opens, close=[value + 0.01 for value in opens])


@pytest.mark.parametrize("shift", [9, -5, 1, 14])
def test_a_history_stamped_in_another_zone_is_told_by_its_offset(shift: int) -> None:
    stored = _walk(24)
    moved = stored.with_columns(pl.col("open_time") + timedelta(hours=shift))
    assert zone_shift(stored, moved) == shift


@pytest.mark.parametrize("fresh", [_walk(24), _walk(3), bars([]), _walk(24).with_columns(pl.col("close") + 0.5)])
def test_equal_restated_and_unknown_bars_are_accused_of_nothing(fresh: pl.DataFrame) -> None:
    assert zone_shift(_walk(24), fresh) == 0
    assert zone_shift(bars([]), fresh) == 0
