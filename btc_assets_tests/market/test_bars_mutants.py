"""Planted bugs in the code of hourly bars: the laws of `test_bars` must catch each, and let clean rewrites pass."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import ModuleType

import pytest
from hypothesis import Phase

from btc_assets.market import bars
from btc_assets_tests.market.test_bars import LAWS

pytestmark = pytest.mark.slow

SOURCE = inspect.getsource(bars)
CASES_OF_A_BUG = 400
"""Cases a law has to catch a bug; it stops at the first that does."""
CASES_OF_A_CONTROL = 12


@dataclass(frozen=True)
class Rewrite:
    """`btc_assets.market.bars` with one passage written differently.

    Attributes:
        name: of the bug, or of the clean rewrite.
        passage: what is replaced; it occurs exactly once in the source.
        instead: its replacement.
        caught_by: the law that catches it; "" for a clean rewrite.
    """

    name: str
    passage: str
    instead: str
    caught_by: str = ""

    def of(self, source: str) -> str:
        """Return the source as rewritten."""
        assert source.count(self.passage) == 1, f"{self.name}: its passage is no longer in bars.py once: {self.passage}"
        return source.replace(self.passage, self.instead)


ONCE = "a cleaned history has each hour once and in order"
WHOLE = "a kept bar is whole and of one venue"
MOST = "the most complete bar of an hour is kept"
COUNTED = "duplicates and conflicts are counted"
ORDER = "the order of rows does not matter"
AGAIN = "cleaning twice is cleaning once"
BROKEN = "an invalid bar is never used"
EVERY_HOUR = "gaps and bars together are every hour"
ENDS = "a gap is as long as its ends are apart"
FRESH = "a fresh bar wins unless its venue is less preferred"
ADDS_UP = "the counts of a merge add up"
SAME_ANSWER = "merging the same answer again changes nothing"
RESTATED = "a restatement is an hour that both frames hold with different values"
OFFSET = "a shifted history is recognised by its offset"
HANDFUL = "a handful of bars proves no shift"
HALF = "a history that half agrees at another offset is not shifted"
ALL_PRICES = "bars equal in all prices but one are not the same"
THIS_ZONE = "a restated history of this zone is not shifted"

_SORTED = 'ordered = bars.sort([*rank, *(name for name in PRICES.columns if name not in rank)]).drop("complete")'
_KEPT = 'kept = ordered.unique("open_time", keep="last", maintain_order=True)'
_JOINED = 'frame=pl.concat([kept, taken]).sort("open_time"),'
_FILLED = '.pipe(lambda f: f if f.is_empty() else f.upsample("open_time", every="1h").select(pl.all().forward_fill()))'
_CHANGED = 'pl.any_horizontal(pl.col(c).ne_missing(pl.col(f"{c}_new")) for c in old.columns if c != "open_time")'
_AGREE = 'pl.all_horizontal(pl.col(p) == pl.col(f"{p}_") for p in _PRICES)'
_APART = '(pl.col("open_time").diff() != step)'
_HOURS = 'pl.datetime_range(first, last, step, closed="left", time_unit="us", eager=True)'

BUGS = (
    # clean: which bar of an hour
    Rewrite("the incomplete bar wins", "(pl.col(\"close_time\") - pl.col(\"open_time\") >= step - _ROUNDING)",
            "(pl.col(\"close_time\") - pl.col(\"open_time\") < step - _ROUNDING)", MOST),
    Rewrite("completeness is ignored", 'if "close_time" in frame.columns:', "if False:", MOST),
    Rewrite("trades decide before completeness", '["open_time", "complete", "trades", "volume"]',
            '["open_time", "trades", "complete", "volume"]', MOST),
    Rewrite("a bar that does not say when it closed is cut short", ".fill_null(value=True)\n    else:",
            ".fill_null(value=False)\n    else:", MOST),
    Rewrite("the full hour is one second too long", "timedelta(seconds=1)", "timedelta(seconds=0)", MOST),
    Rewrite("fewer trades win", _KEPT, _KEPT.replace("last", "first"), MOST),
    Rewrite("volume does not decide", '["open_time", "complete", "trades", "volume"]',
            '["open_time", "complete", "trades"]', MOST),
    Rewrite("the last row wins", _SORTED, 'ordered = bars.sort("open_time", maintain_order=True).drop("complete")',
            ORDER),
    Rewrite("ties are decided by row order", _SORTED, 'ordered = bars.sort(rank, maintain_order=True).drop("complete")',
            ORDER),
    # clean: what is kept
    Rewrite("venues are mixed inside an hour", _KEPT,
            'kept = ordered.group_by("open_time", maintain_order=True).agg(pl.all().exclude("venue").last(),'
            ' pl.col("venue").first()).select(ordered.columns)', WHOLE),
    Rewrite("volumes of both rows are added", _KEPT,
            'kept = ordered.group_by("open_time", maintain_order=True).agg(pl.all().exclude("volume").last(),'
            ' pl.col("volume").sum()).select(ordered.columns)', WHOLE),
    Rewrite("an unknown value is taken from the other row", _KEPT,
            'kept = ordered.with_columns(pl.all().forward_fill().over("open_time")).unique("open_time", keep="last",'
            " maintain_order=True)", WHOLE),
    Rewrite("an hour is kept twice where venues differ", _KEPT,
            'kept = ordered.unique(["open_time", "venue"], keep="last", maintain_order=True)', ONCE),
    Rewrite("only equal rows are dropped", _KEPT, "kept = ordered.unique(maintain_order=True)", ONCE),
    Rewrite("rows are left out of order", _KEPT, f"{_KEPT}[::-1]", ONCE),
    Rewrite("gaps are filled with the bar before", _KEPT,
            f"{_KEPT}{_FILLED}", ONCE),
    Rewrite("hours without trades are dropped", _KEPT, f'{_KEPT}.filter(pl.col("volume") > 0)', ONCE),
    # clean: what is counted
    Rewrite("duplicates are counted by hour", "duplicates=ordered.height - kept.height",
            'duplicates=ordered.filter(pl.col("open_time").is_duplicated())["open_time"].n_unique()', COUNTED),
    Rewrite("the kept bar counts as a duplicate", "duplicates=ordered.height - kept.height",
            'duplicates=int(ordered["open_time"].is_duplicated().sum())', COUNTED),
    Rewrite("equal copies are a conflict", "differing = ordered.unique()", "differing = ordered", COUNTED),
    Rewrite("a conflicting hour is counted for each of its rows",
            'conflicts=differing.get_column("open_time").n_unique()', "conflicts=differing.height", COUNTED),
    Rewrite("duplicates are left in", "if kept.height == ordered.height:", "if True:\n        kept = ordered", AGAIN),
    # laws of a bar
    Rewrite("NaN is accepted", "pl.col(n).is_null() | ~pl.col(n).is_finite(), n)",
            "pl.col(n).is_null() | pl.col(n).is_infinite(), n)", BROKEN),
    Rewrite("infinity is accepted", "pl.col(n).is_null() | ~pl.col(n).is_finite(), n)",
            "pl.col(n).is_null() | pl.col(n).is_nan(), n)", BROKEN),
    Rewrite("an absent number is accepted", "pl.col(n).is_null() | ~pl.col(n).is_finite(), n)",
            "~pl.col(n).is_finite(), n)", BROKEN),
    Rewrite("a price of zero is accepted", "pl.col(n) <= 0, n) for n in _PRICES", "pl.col(n) < 0, n) for n in _PRICES",
            BROKEN),
    Rewrite("a volume of zero is refused", 'pl.col("volume") < 0', 'pl.col("volume") <= 0', BROKEN),
    Rewrite("negative order flow is accepted", "(~value.is_finite() | (value < 0))", "(~value.is_finite())", BROKEN),
    Rewrite("order flow may be NaN", "(~value.is_finite() | (value < 0))", "(value < 0)", BROKEN),
    Rewrite("order flow must be known", ".fill_null(value=False)", ".fill_null(value=True)", BROKEN),
    Rewrite("half past is an hour", 'time.dt.truncate(step)', 'time.dt.truncate("30m")', BROKEN),
    Rewrite("a bar without a time is accepted", "time.is_null() | (time != time.dt", "(time != time.dt", BROKEN),
    Rewrite("the high need not be the highest", 'pl.col("high") < pl.max_horizontal(*_PRICES)',
            'pl.col("high") < pl.col("low")', BROKEN),
    Rewrite("the low is compared with the close alone", 'pl.col("low") > pl.min_horizontal(*_PRICES)',
            'pl.col("low") > pl.col("close")', BROKEN),
    Rewrite("invalid bars are cleaned anyway", "if fault := first_fault(frame, step):", "if fault := None:", BROKEN),
    Rewrite("one invalid bar among valid ones is accepted", "pl.any_horizontal(broken.any() for",
            "pl.any_horizontal(broken.all() for", BROKEN),
    # gaps
    Rewrite("a gap is one hour too long", "pl.len().cast(pl.Int64)", "(pl.len() + 1).cast(pl.Int64)", EVERY_HOUR),
    Rewrite("a gap is one hour too short", "pl.len().cast(pl.Int64)", "(pl.len() - 1).cast(pl.Int64)", EVERY_HOUR),
    Rewrite("the hour at the end of the span counts", _HOURS, _HOURS.replace('"left"', '"both"'), EVERY_HOUR),
    Rewrite("a gap at the beginning is missed", _HOURS, _HOURS.replace('"left"', '"none"'), EVERY_HOUR),
    Rewrite("a gap after the last bar is missed", "missing = expected.join(", "missing = expected.filter("
            'pl.col("open_time") <= (frame["open_time"].max() or first)).join(', EVERY_HOUR),
    Rewrite("a gap before the first bar is missed", "missing = expected.join(", "missing = expected.filter("
            'pl.col("open_time") >= (frame["open_time"].min() or first)).join(', EVERY_HOUR),
    Rewrite("the hours present are reported", 'on="open_time", how="anti").sort("open_time")\n    begins',
            'on="open_time", how="semi").sort("open_time")\n    begins', EVERY_HOUR),
    Rewrite("all gaps are one", _APART, _APART.replace("!=", "<"), EVERY_HOUR),
    Rewrite("gaps with one bar between them are one", _APART, _APART.replace("!=", "> 2 *"), EVERY_HOUR),
    Rewrite("every missing hour is a gap", _APART, _APART.replace("!=", ">="), ENDS),
    Rewrite("a gap ends with the next bar", 'pl.col("open_time").last().alias("last_missing")',
            '(pl.col("open_time").last() + HOUR).alias("last_missing")', ENDS),
    Rewrite("a gap begins with the bar before", 'pl.col("open_time").first().alias("first_missing")',
            '(pl.col("open_time").first() - HOUR).alias("first_missing")', EVERY_HOUR),
    Rewrite("gaps come in any order", '.drop("gap")\n    )', '.drop("gap").reverse()\n    )', EVERY_HOUR),
    # merge
    Rewrite("the older restatement wins", 'taken = fresh.join(worse, on="open_time", how="anti")',
            'taken = fresh.join(stored, on="open_time", how="anti")', FRESH),
    Rewrite("a failover undoes the better venue", '.filter(pl.col("rank") > pl.col("stored_rank"))',
            ".filter(pl.lit(value=False))", FRESH),
    Rewrite("an equally good venue cannot restate", 'pl.col("rank") > pl.col("stored_rank")',
            'pl.col("rank") >= pl.col("stored_rank")', FRESH),
    Rewrite("the less preferred venue wins", 'pl.col("rank") > pl.col("stored_rank")',
            'pl.col("rank") < pl.col("stored_rank")', FRESH),
    Rewrite("an unlisted venue is the best", "default=len(venues)", "default=-1", FRESH),
    Rewrite("a shorter answer loses what is stored", 'kept = stored.join(taken, on="open_time", how="anti")',
            "kept = stored.clear()", FRESH),
    Rewrite("an hour both have is stored twice", 'kept = stored.join(taken, on="open_time", how="anti")',
            "kept = stored", FRESH),
    Rewrite("an hour is stored once a venue", 'kept = stored.join(taken, on="open_time", how="anti")',
            'kept = stored.join(taken, on=["open_time", "venue"], how="anti")', FRESH),
    Rewrite("what is merged is left out of order", _JOINED, "frame=pl.concat([kept, taken]),", FRESH),
    Rewrite("gaps are filled by the merge", _JOINED, f"{_JOINED[:-1]}{_FILLED},", FRESH),
    Rewrite("an unknown value keeps the stored one", _JOINED, 'frame=pl.concat([stored, taken]).with_columns('
            'pl.all().forward_fill().over("open_time")).unique("open_time", keep="last").sort("open_time"),', FRESH),
    Rewrite("hours fetched again count as added", 'added=taken.join(stored, on="open_time", how="anti").height',
            "added=taken.height", ADDS_UP),
    Rewrite("everything stored counts as kept", "kept=kept.height", "kept=stored.height", ADDS_UP),
    Rewrite("what the merge refused counts as restated", "restated=restated(stored, taken)",
            "restated=restated(stored, fresh)", ADDS_UP),
    Rewrite("volumes of both fetches are added", _JOINED, 'frame=pl.concat([stored, taken]).group_by("open_time").agg('
            'pl.all().exclude("volume").last(), pl.col("volume").sum()).select(stored.columns).sort("open_time"),',
            SAME_ANSWER),
    # restatement
    Rewrite("a value that becomes known is ignored", _CHANGED, _CHANGED.replace(".ne_missing(", ".ne("), RESTATED),
    Rewrite("order flow is not compared", _CHANGED, _CHANGED.replace('old.columns if c != "open_time"', "_NUMBERS"),
            RESTATED),
    Rewrite("a changed venue is ignored", _CHANGED,
            _CHANGED.replace('!= "open_time"', 'not in ("open_time", "venue")'), RESTATED),
    Rewrite("everything must change", _CHANGED, _CHANGED.replace("any_", "all_"), RESTATED),
    Rewrite("restatements come in any order", '.sort("open_time")["open_time"].to_list()',
            '.sort("open_time", descending=True)["open_time"].to_list()', RESTATED),
    Rewrite("an hour in one frame only is a restatement", 'old.join(new, on="open_time", how="inner", suffix="_new")',
            'old.join(new, on="open_time", how="left", suffix="_new")', RESTATED),
    # time zones
    Rewrite("later is called earlier", 'pl.col("open_time") - timedelta(hours=hours)',
            'pl.col("open_time") + timedelta(hours=hours)', OFFSET),
    Rewrite("only zones to the east are tried", "for hours in (size, -size):", "for hours in (size,):", OFFSET),
    Rewrite("far zones are ignored", "range(1, _MAX_ZONE_OFFSET_HOURS + 1)", "range(1, _MAX_ZONE_OFFSET_HOURS)",
            OFFSET),
    Rewrite("one equal bar too many is needed", "same >= _MIN_EQUAL_BARS", "same > _MIN_EQUAL_BARS", OFFSET),
    Rewrite("one equal bar is enough", "_MIN_EQUAL_BARS = 6", "_MIN_EQUAL_BARS = 1", HANDFUL),
    Rewrite("a tenth of the bars is enough", "same > shared * 9 // 10", "same > shared // 10", HALF),
    Rewrite("half the bars are enough", "_MIN_EQUAL_BARS and same > shared * 9 // 10",
            "4 and same >= shared // 2", HALF),
    Rewrite("only closes are compared", _AGREE, _AGREE.replace("in _PRICES", 'in ("close",)'), ALL_PRICES),
    Rewrite("one equal price is an equal bar", _AGREE,
            _AGREE.replace("all_", "any_").replace("in _PRICES", 'in ("open", "high", "close")'), ALL_PRICES),
    Rewrite("a constant market is shifted", "if shared == 0 or same > shared // 10:",
            "if shared == 0:", THIS_ZONE),
)  # fmt: skip

CONTROLS = (
    Rewrite("the best bar comes first", f"{_SORTED}\n    {_KEPT}", f"{_SORTED}\n    kept = ordered.group_by("
            '"open_time", maintain_order=True).last().select(ordered.columns)'),
    Rewrite("the broken rule is searched for at once", "if not frame.lazy()", "if False and not frame.lazy()"),
    Rewrite("the length of a gap follows from its ends", "pl.len().cast(pl.Int64)",
            '((pl.col("open_time").last() - pl.col("open_time").first()).dt.total_hours() + 1)'),
    Rewrite("the fetched bar replaces the stored one", _JOINED, 'frame=pl.concat([stored, taken]).unique('
            '"open_time", keep="last", maintain_order=True).sort("open_time"),'),
    Rewrite("far zones come first", "range(1, _MAX_ZONE_OFFSET_HOURS + 1)", "range(_MAX_ZONE_OFFSET_HOURS, 0, -1)"),
)  # fmt: skip


def rewritten(*rewrites: Rewrite) -> ModuleType:
    """Return the module with these rewrites, each of a passage of its own."""
    source = SOURCE
    for rewrite in rewrites:
        source = rewrite.of(source)
    module = ModuleType(bars.__name__)
    exec(compile(source, f"<{rewrites[0].name}>", "exec"), module.__dict__)
    return module


def caught(code: ModuleType, law: str, cases: int) -> bool:
    """Return whether a law refuses a rewritten module; the first case that breaks it is enough."""
    try:
        LAWS[law].judge(code, cases=cases, phases=(Phase.generate,))
    except (AssertionError, code.BarsError):
        return True
    return False


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Rewrite) -> None:
    assert caught(rewritten(bug), bug.caught_by, CASES_OF_A_BUG)


def test_clean_rewrites_pass_every_law() -> None:
    code = rewritten(*CONTROLS)
    assert [law for law in LAWS if caught(code, law, CASES_OF_A_CONTROL)] == []


def test_every_law_catches_something() -> None:
    assert {bug.caught_by for bug in BUGS} == set(LAWS)
