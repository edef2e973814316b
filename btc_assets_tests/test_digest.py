"""The laws of the digest: equal content, equal digest; other content, another one. `LAWS` is also what mutants face."""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from types import ModuleType
from typing import Any

import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from btc_assets import digest as own
from btc_assets_tests.conftest import random_walk_bars

SCHEMA = {
    "x": pl.Float64,
    "n": pl.Int64,
    "s": pl.String,
    "b": pl.Boolean,
    "t": pl.Datetime("us", "UTC"),
    "d": pl.Date,
    "y": pl.Float64,
    "u": pl.String,
}
FLOATS = st.sampled_from([0.0, -0.0, 1.0, float("nan"), float("inf")]) | st.floats()
TEXTS = st.sampled_from(["", "a", "ab", "b", "\x00", "é"]) | st.text(max_size=3)
TIMES = st.integers(0, 3).map(lambda n: datetime(2024, 1, 1, tzinfo=UTC) + timedelta(microseconds=n))
DAYS = st.integers(0, 3).map(lambda n: date(1970, 1, 1) + timedelta(days=n))
VALUES = (FLOATS, st.integers(-(2**63), 2**63 - 1) | st.just(0), TEXTS, st.booleans(), TIMES, DAYS, FLOATS, TEXTS)
ROWS = st.lists(st.tuples(*(st.none() | value for value in VALUES)), max_size=4)
OTHER_NAN = struct.unpack("<d", struct.pack("<Q", 0xFFF8_0000_0000_0001))[0]


def framed(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def content(rows: list[tuple[Any, ...]]) -> str:
    """Spell rows out bit by bit, NaNs as one."""
    return repr([[value.hex() if isinstance(value, float) else value for value in row] for row in rows])


def cut_from_more(module: ModuleType, rows: list[tuple[Any, ...]], first: int, height: int) -> None:
    """A cut of a larger frame has the digest of those rows alone: Arrow leaves the others around it."""
    assert module.digest(framed(rows).slice(first, height)) == module.digest(framed(rows[first : first + height]))


def put_together(module: ModuleType, rows: list[tuple[Any, ...]], first: int, _height: int) -> None:
    """Chunks do not matter."""
    chunked = pl.concat([framed(rows[:first]), framed(rows[first:])], rechunk=False)
    assert module.digest(chunked) == module.digest(framed(rows))


def under_nulls(module: ModuleType, rows: list[tuple[Any, ...]], first: int, _height: int) -> None:
    """What lies under a null does not matter."""
    hidden = framed(rows).with_row_index("at").select(pl.when(pl.col("at") < first).then(pl.col(*SCHEMA)))
    plain = framed(rows[:first] + [(None,) * len(SCHEMA)] * (len(rows) - len(rows[:first])))
    assert module.digest(hidden) == module.digest(plain)


def block_by_block(module: ModuleType, rows: list[tuple[Any, ...]], first: int, height: int) -> None:
    """Blocks in one pass have the digests they have one by one."""
    first = min(first, len(rows))
    height = min(height, len(rows) - first)
    heights = [first, height, len(rows) - first - height]
    blocks = [rows[:first], rows[first : first + height], rows[first + height :]]
    assert module.digests(framed(rows), heights) == [module.digest(framed(block)) for block in blocks]


def told_apart(module: ModuleType, rows: list[tuple[Any, ...]], others: list[tuple[Any, ...]]) -> None:
    """Frames have one digest exactly when they have one content."""
    same = module.digest(framed(rows)) == module.digest(framed(others))
    assert same == (content(rows) == content(others))


def a_value_apart(module: ModuleType, rows: list[tuple[Any, ...]], row: int, column: int, value: Any) -> None:
    """Frames that differ in one value at most have one digest exactly when they do not."""
    if rows:
        changed = list(rows[row % len(rows)])
        changed[column] = value
        told_apart(module, rows, [tuple(changed) if at == row % len(rows) else old for at, old in enumerate(rows)])


_SPELLING = "\0\x7f\x77" + "\0" * 6 + "x" * (120 * 256 - 9)
"""After its length in bytes this looks like the lengths of two texts: 120, its own less a byte, and 0x777f."""
APART = (
    ("null and zero", {"x": [None, 0.0]}, {"x": [0.0, None]}),
    ("null and the empty text", {"s": ["", None]}, {"s": [None, ""]}),
    ("null and false", {"b": [None]}, {"b": [False]}),
    ("null and NaN", {"x": [None, 1.0]}, {"x": [float("nan"), 1.0]}),
    ("NaN and zero", {"x": [float("nan")]}, {"x": [0.0]}),
    ("the last bit of a float", {"x": [0.3]}, {"x": [0.1 + 0.2]}),
    ("zero and minus zero", {"x": [0.0]}, {"x": [-0.0]}),
    ("texts of one length", {"s": ["ab"]}, {"s": ["ba"]}),
    ("a text that spells another row", {"s": [_SPELLING]}, {"s": [_SPELLING[9:129], _SPELLING[129:]]}),
    ("text boundaries", {"s": ["ab", "c"]}, {"s": ["a", "bc"]}),
    ("text boundaries between columns", {"s": ["ab"], "u": ["c"]}, {"s": ["a"], "u": ["bc"]}),
    ("names", {"x": [1.0]}, {"y": [1.0]}),
    ("the order of columns", {"x": [1.0], "y": [1.0]}, {"y": [1.0], "x": [1.0]}),
    ("the order of columns of two kinds", {"x": [1.0], "n": [1]}, {"n": [1], "x": [1.0]}),
    ("the order of rows", {"x": [1.0, 2.0]}, {"x": [2.0, 1.0]}),
    ("types", {"x": [1]}, {"x": [1.0]}),
    ("no row and a null row", {"x": []}, {"x": [None]}),
    ("booleans and numbers", {"x": [True]}, {"x": [1]}),
    ("the place of a value", {"x": [1.0, 2.0], "y": [3.0, 4.0]}, {"x": [1.0, 3.0], "y": [2.0, 4.0]}),
    ("integers beyond the floats", {"n": [2**53]}, {"n": [2**53 + 1]}),
)


def fixed_blocks(module: ModuleType) -> None:
    """Blocks in one pass have the digests they have one by one, the empty ones too."""
    rows = [
        (
            float(n),
            2**60 + n,
            "ab" * n,
            n % 2 == 0,
            datetime(2024, 1, 1 + n, tzinfo=UTC),
            date(2024, 1, 1 + n),
            -0.5,
            None,
        )
        for n in range(7)
    ]
    found = module.digests(framed(rows), [2, 0, 4, 1])
    assert found == [module.digest(framed(block)) for block in (rows[:2], [], rows[2:6], rows[6:])]
    assert len(set(found)) == len(found)


def pairs_apart(module: ModuleType) -> None:
    """Content that is easily taken for another has another digest."""
    for what, one, other in APART:
        left, right = (pl.DataFrame(columns, strict=False) for columns in (one, other))
        if what == "no row and a null row":
            left, right = left.cast(pl.Float64), right.cast(pl.Float64)
        assert module.digest(left) != module.digest(right), what


def types_apart(module: ModuleType) -> None:
    """The same number is another content as a time of another unit or zone, or of another width."""
    ones = pl.Series("x", [1])
    times = [pl.Datetime("us"), pl.Datetime("ms"), pl.Datetime("us", "UTC"), pl.Datetime("us", "Asia/Seoul")]
    types = [pl.Int64, pl.Int32, pl.UInt8, pl.Float64, pl.Float32, pl.Duration("us"), pl.Duration("ms"), *times]
    assert len({module.digest(ones.cast(dtype).to_frame()) for dtype in types}) == len(types)


def one_nan(module: ModuleType) -> None:
    """Every NaN is the same."""
    assert module.digest(pl.DataFrame({"x": [OTHER_NAN]})) == module.digest(pl.DataFrame({"x": [float("nan")]}))


PLACE = st.integers(0, 5)
VALUE_SOMEWHERE = st.integers(0, len(VALUES) - 1).flatmap(lambda n: st.tuples(st.just(n), st.none() | VALUES[n]))
LAWS: dict[str, tuple[Callable[..., None], tuple[st.SearchStrategy[Any], ...]]] = {
    "a cut has the digest of its rows": (cut_from_more, (ROWS, PLACE, PLACE)),
    "chunks do not matter": (put_together, (ROWS, PLACE, PLACE)),
    "what lies under a null does not matter": (under_nulls, (ROWS, PLACE, PLACE)),
    "blocks in one pass are as one by one": (block_by_block, (ROWS, PLACE, PLACE)),
    "one digest is one content": (told_apart, (ROWS, ROWS)),
    "a value changes the digest": (
        lambda module, rows, row, other: a_value_apart(module, rows, row, *other),
        (ROWS, PLACE, VALUE_SOMEWHERE),
    ),
    "blocks of a frame are as one by one": (fixed_blocks, ()),
    "look-alikes differ": (pairs_apart, ()),
    "types differ": (types_apart, ()),
    "every NaN is one": (one_nan, ()),
}


def hold(law: str, module: ModuleType, cases: int) -> None:
    """Hold a module against a law; raises where it breaks."""
    check, arguments = LAWS[law]
    if not arguments:
        check(module)
        return

    @settings(max_examples=cases, deadline=None, database=None, derandomize=True, phases=(Phase.generate,))
    @given(st.tuples(*arguments))
    def holds(drawn: tuple[Any, ...]) -> None:
        check(module, *drawn)

    holds()


@pytest.mark.parametrize("law", LAWS)
def test_the_digest_keeps_its_laws(law: str) -> None:
    hold(law, own, cases=40)


def test_the_digest_is_the_same_on_every_machine_and_version() -> None:
    """What is stored names content for years: this value changes only with a line in the changelog."""
    frame = framed([(1.5, -2, "é", True, datetime(2024, 1, 1, tzinfo=UTC), date(2024, 1, 2), float("nan"), None)])
    assert own.digest(frame) == "0a9c4801148eaa508d2109d4752f072790bf4fb415d96ee6cf0477a9d91b8558"


def test_many_days_are_one_pass() -> None:
    """The digests of two years of days cost less than a hundredth of a second a month."""
    import time

    bars = random_walk_bars(730 * 24)
    began = time.process_time()
    found = own.digests(bars, [24] * 730)
    assert time.process_time() - began < 0.25
    assert found[700] == own.digest(bars.slice(700 * 24, 24))


def test_a_column_without_a_canonical_form_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"column 'parts' is List\(Int64\), which has no canonical form"):
        own.digest(pl.DataFrame({"parts": [[1, 2]]}))


def test_blocks_that_are_not_the_whole_frame_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks of 2 rows in all cannot be cut from a frame of 3"):
        own.digests(pl.DataFrame({"x": [1, 2, 3]}), [1, 1])


SOURCE = inspect.getsource(own)
BUGS = (
    ("nulls are not marked", "frame.select(pl.all().is_null().cast(pl.UInt8))", "frame.select(pl.lit(0))"),
    ("NaNs stay as they are", "    values[np.isnan(values)] = np.nan\n", ""),
    ("minus zero is zero", "= np.nan\n", "= np.nan\n    values = values + 0.0\n"),
    ("NaN is zero", "= np.nan", "= 0"),
    ("floats are rounded", '.astype("<f8")\n', '.astype("<f4").astype("<f8")\n'),
    ("whole numbers pass through floats", '.astype("<i8", copy=False)', '.astype("<f8").astype("<i8")'),
    ("text lengths are left out", 'np.stack(lengths, axis=1).astype("<i8") if lengths else ', ""),
    ("texts are left out", "whole.update(content[until[first] : until[end]])", "pass"),
    ("texts begin a row early", "content[until[first] :", "content[until[max(first - 1, 0)] :"),
    ("texts of the whole frame", "content[until[first] : until[end]]", "content"),
    ("text lengths in characters", "len_bytes", "len_chars"),
    ("names are left out", "[name, *_type_of(dtype)]", "_type_of(dtype)"),
    ("types are left out", "[name, *_type_of(dtype)]", "[name]"),
    ("units are left out", '("time_unit", "time_zone")', '("time_zone",)'),
    ("zones are left out", '("time_unit", "time_zone")', '("time_unit",)'),
    ("heights are left out", '(b"%d rows of %b" % (end - first, header))', "(header)"),
    ("columns in the order of their names", "in frame.schema.items()]).e", "in sorted(frame.schema.items())]).e"),
    ("blocks restart", "part[first:end]", "part[: end - first]"),
    ("a row too many", "part[first:end]", "part[first : end + 1]"),
    ("a row is left out", "part[first:end]", "part[first + 1 : end]"),
    ("floats are left out", "        _floats(frame.select(_FLOATS)),\n", ""),
    ("whole numbers are left out", "frame.select(_WHOLE.", "frame.clear().select(_WHOLE."),
    ("under nulls", "cast(pl.Int64).fill_null(0)", "cast(pl.Int64).fill_null(strategy='forward').fill_null(0)"),
    ("columns one by one", "part[first:end].tobytes()", "np.sort(part[first:end]).tobytes()"),
)
CLEAN = (
    ("no copy of a block", "part[first:end].tobytes()", "np.ascontiguousarray(part[first:end])"),
    (
        "lengths counted in one go",
        "np.concatenate([[0], np.cumsum(length, dtype=np.int64)])",
        "[0, *accumulate(map(int, length))]",
    ),
)


def rewritten(passage: str, instead: str) -> ModuleType:
    """Return the module with one passage written differently."""
    assert SOURCE.count(passage) == 1, f"not once in the source: {passage}"
    module = ModuleType(own.__name__)
    exec(compile(SOURCE.replace(passage, instead), "<rewritten>", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize(("passage", "instead"), [bug[1:] for bug in BUGS], ids=[bug[0] for bug in BUGS])
def test_a_planted_bug_breaks_a_law(passage: str, instead: str) -> None:
    module = rewritten(passage, instead)
    for law in reversed(LAWS):  # those that cost nothing first
        try:
            hold(law, module, cases=30)
        except Exception:
            return
    pytest.fail("no law is broken")


@pytest.mark.parametrize(("passage", "instead"), [one[1:] for one in CLEAN], ids=[one[0] for one in CLEAN])
def test_a_clean_rewrite_keeps_every_law(passage: str, instead: str) -> None:
    module = rewritten(passage, instead)
    for law in LAWS:
        hold(law, module, cases=10)
