"""Properties of the digest: it is equal exactly for equal content. The mutants must violate one of `LAWS`."""

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

from btc_assets import digest as digest_module
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
    """Return an exact representation of rows, with all NaNs equal."""
    return repr([[value.hex() if isinstance(value, float) else value for value in row] for row in rows])


def sliced(module: ModuleType, rows: list[tuple[Any, ...]], first: int, height: int) -> None:
    """A slice of a larger frame has the digest of its rows: Arrow keeps the other rows in memory."""
    assert module.digest(framed(rows).slice(first, height)) == module.digest(framed(rows[first : first + height]))


def concatenated(module: ModuleType, rows: list[tuple[Any, ...]], first: int, _height: int) -> None:
    """Chunks do not matter."""
    chunked = pl.concat([framed(rows[:first]), framed(rows[first:])], rechunk=False)
    assert module.digest(chunked) == module.digest(framed(rows))


def hidden_values(module: ModuleType, rows: list[tuple[Any, ...]], first: int, _height: int) -> None:
    """The hidden value of a null does not matter."""
    hidden = framed(rows).with_row_index("at").select(pl.when(pl.col("at") < first).then(pl.col(*SCHEMA)))
    plain = framed(rows[:first] + [(None,) * len(SCHEMA)] * (len(rows) - len(rows[:first])))
    assert module.digest(hidden) == module.digest(plain)


def block_by_block(module: ModuleType, rows: list[tuple[Any, ...]], first: int, height: int) -> None:
    """Blocks in one pass have the same digests as separate frames."""
    first = min(first, len(rows))
    height = min(height, len(rows) - first)
    heights = [first, height, len(rows) - first - height]
    blocks = [rows[:first], rows[first : first + height], rows[first + height :]]
    assert module.digests(framed(rows), heights) == [module.digest(framed(block)) for block in blocks]


def distinct_content(module: ModuleType, rows: list[tuple[Any, ...]], others: list[tuple[Any, ...]]) -> None:
    """Frames have equal digests exactly if their content is equal."""
    same = module.digest(framed(rows)) == module.digest(framed(others))
    assert same == (content(rows) == content(others))


def changed_value(module: ModuleType, rows: list[tuple[Any, ...]], row: int, column: int, value: Any) -> None:
    """A change of one value changes the digest."""
    if rows:
        changed = list(rows[row % len(rows)])
        changed[column] = value
        distinct_content(
            module, rows, [tuple(changed) if at == row % len(rows) else old for at, old in enumerate(rows)]
        )


_SPELLING = "\0\x7f\x77" + "\0" * 6 + "x" * (120 * 256 - 9)
"""Preceded by its length in bytes, this text equals the lengths of two texts: 120 and 0x777f."""
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
    """Blocks in one pass, also empty ones, have the same digests as separate frames."""
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
    results = module.digests(framed(rows), [2, 0, 4, 1])
    assert results == [module.digest(framed(block)) for block in (rows[:2], [], rows[2:6], rows[6:])]
    assert len(set(results)) == len(results)


def similar_contents(module: ModuleType) -> None:
    """Similar contents have different digests."""
    for name, first, second in APART:
        left, right = (pl.DataFrame(columns, strict=False) for columns in (first, second))
        if name == "no row and a null row":
            left, right = left.cast(pl.Float64), right.cast(pl.Float64)
        assert module.digest(left) != module.digest(right), name


def distinct_types(module: ModuleType) -> None:
    """The same number has different digests in types of another width, unit or zone."""
    ones = pl.Series("x", [1])
    times = [pl.Datetime("us"), pl.Datetime("ms"), pl.Datetime("us", "UTC"), pl.Datetime("us", "Asia/Seoul")]
    types = [pl.Int64, pl.Int32, pl.UInt8, pl.Float64, pl.Float32, pl.Duration("us"), pl.Duration("ms"), *times]
    assert len({module.digest(ones.cast(dtype).to_frame()) for dtype in types}) == len(types)


def one_nan(module: ModuleType) -> None:
    """All NaNs are equal."""
    assert module.digest(pl.DataFrame({"x": [OTHER_NAN]})) == module.digest(pl.DataFrame({"x": [float("nan")]}))


POSITION = st.integers(0, 5)
VALUE_SOMEWHERE = st.integers(0, len(VALUES) - 1).flatmap(lambda n: st.tuples(st.just(n), st.none() | VALUES[n]))
LAWS: dict[str, tuple[Callable[..., None], tuple[st.SearchStrategy[Any], ...]]] = {
    "a slice has the digest of its rows": (sliced, (ROWS, POSITION, POSITION)),
    "chunks do not matter": (concatenated, (ROWS, POSITION, POSITION)),
    "the hidden value of a null does not matter": (hidden_values, (ROWS, POSITION, POSITION)),
    "blocks in one pass equal separate frames": (block_by_block, (ROWS, POSITION, POSITION)),
    "equal digests mean equal content": (distinct_content, (ROWS, ROWS)),
    "a value changes the digest": (
        lambda module, rows, row, other: changed_value(module, rows, row, *other),
        (ROWS, POSITION, VALUE_SOMEWHERE),
    ),
    "fixed blocks equal separate frames": (fixed_blocks, ()),
    "similar contents differ": (similar_contents, ()),
    "types differ": (distinct_types, ()),
    "all NaNs are equal": (one_nan, ()),
}


def check_law(law: str, module: ModuleType, cases: int) -> None:
    """Check a law on a module; raise if it is violated."""
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
def test_the_digest_satisfies_its_laws(law: str) -> None:
    check_law(law, digest_module, cases=40)


def test_the_digest_of_a_fixed_frame_is_stable() -> None:
    """Stored digests identify content for years: a change of this value needs a line in the changelog."""
    frame = framed([(1.5, -2, "é", True, datetime(2024, 1, 1, tzinfo=UTC), date(2024, 1, 2), float("nan"), None)])
    assert digest_module.digest(frame) == "0a9c4801148eaa508d2109d4752f072790bf4fb415d96ee6cf0477a9d91b8558"


def test_many_days_are_hashed_in_one_pass() -> None:
    """The digests of two years of days take less than 0.25 s, 0.01 s per month."""
    import time

    bars = random_walk_bars(730 * 24)
    started = time.process_time()
    results = digest_module.digests(bars, [24] * 730)
    assert time.process_time() - started < 0.25
    assert results[700] == digest_module.digest(bars.slice(700 * 24, 24))


def test_an_unsupported_column_is_refused() -> None:
    with pytest.raises(TypeError, match=r"column 'parts' is List\(Int64\), which has no canonical form"):
        digest_module.digest(pl.DataFrame({"parts": [[1, 2]]}))


def test_blocks_of_another_height_are_refused() -> None:
    with pytest.raises(ValueError, match="expected blocks of 3 rows in total, the height of the frame, got 2"):
        digest_module.digests(pl.DataFrame({"x": [1, 2, 3]}), [1, 1])


SOURCE = inspect.getsource(digest_module)
BUGS = (
    ("nulls are not marked", "frame.select(pl.all().is_null().cast(pl.UInt8))", "frame.select(pl.lit(0))"),
    ("NaNs are not unified", "    values[np.isnan(values)] = np.nan\n", ""),
    ("minus zero is zero", "= np.nan\n", "= np.nan\n    values = values + 0.0\n"),
    ("NaN is zero", "= np.nan", "= 0"),
    ("floats are rounded", '.astype("<f8")\n', '.astype("<f4").astype("<f8")\n'),
    ("integers pass through floats", '.astype("<i8", copy=False)', '.astype("<f8").astype("<i8")'),
    ("text lengths are left out", 'np.stack(lengths, axis=1).astype("<i8") if lengths else ', ""),
    ("texts are left out", "block.update(content[offsets[first] : offsets[end]])", "pass"),
    ("texts start a row early", "content[offsets[first] :", "content[offsets[max(first - 1, 0)] :"),
    ("texts of the whole frame", "content[offsets[first] : offsets[end]]", "content"),
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
    ("integers are left out", "frame.select(_INTEGERS.", "frame.clear().select(_INTEGERS."),
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


def rewrite_module(passage: str, replacement: str) -> ModuleType:
    """Return the module with one passage of its source replaced."""
    assert SOURCE.count(passage) == 1, f"expected the passage once in the source: {passage}"
    module = ModuleType(digest_module.__name__)
    exec(compile(SOURCE.replace(passage, replacement), "<rewrite_module>", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize(("passage", "replacement"), [bug[1:] for bug in BUGS], ids=[bug[0] for bug in BUGS])
def test_a_planted_bug_violates_a_law(passage: str, replacement: str) -> None:
    module = rewrite_module(passage, replacement)
    for law in reversed(LAWS):  # the cheap ones first
        try:
            check_law(law, module, cases=30)
        except Exception:
            return
    pytest.fail("no law is violated")


@pytest.mark.parametrize(
    ("passage", "replacement"), [rewrite[1:] for rewrite in CLEAN], ids=[rewrite[0] for rewrite in CLEAN]
)
def test_an_equivalent_rewrite_satisfies_every_law(passage: str, replacement: str) -> None:
    module = rewrite_module(passage, replacement)
    for law in LAWS:
        check_law(law, module, cases=10)
