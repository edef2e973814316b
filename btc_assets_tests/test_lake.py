import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.clock import midnight
from btc_assets.digest import digest
from btc_assets.lake import LONGEST_WRITE_S, PART, Lake, LakeError, by_day, contract_of, output_of
from btc_assets.market.tables import PRICES
from btc_assets.news.tables import POSTS
from btc_assets.partitions import daily_grid
from btc_assets.schema import Contract, dagster_type
from btc_assets.settings import Settings
from btc_assets_tests.conftest import WATCHDOG_S, random_walk_bars

DAY = date(2018, 1, 1)
GRID = daily_grid(Settings(market_source="sample"))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(root=str(tmp_path / "lake"))


def one_day(seed: int = 7) -> pl.DataFrame:
    return random_walk_bars(24, seed=seed)


def prices_asset(frame: pl.DataFrame) -> dg.AssetsDefinition:
    @dg.asset(
        key=["market", "prices"],
        partitions_def=GRID,
        dagster_type=dagster_type(PRICES),
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def prices(context: dg.AssetExecutionContext) -> dg.Output[pl.DataFrame]:
        return output_of(context, PRICES, frame)

    return prices


def materialise(lake: Lake, frame: pl.DataFrame, instance: dg.DagsterInstance, key: str = "2018-01-01") -> bool:
    result = dg.materialize(
        [prices_asset(frame)],
        resources={"io_manager": lake},
        partition_key=key,
        instance=instance,
        raise_on_error=False,
    )
    return result.success


def test_a_written_partition_is_read_back(lake: Lake) -> None:
    lake.write(PRICES, DAY, one_day())
    assert lake.days(PRICES) == [DAY]
    stored_frame = lake.read(PRICES, DAY)
    assert stored_frame is not None
    assert stored_frame.equals(one_day())


def test_a_day_not_stored_is_absent(lake: Lake) -> None:
    assert lake.read(PRICES, DAY) is None
    assert lake.days(PRICES) == []
    assert lake.scan(PRICES).collect().equals(PRICES.empty())
    assert lake.fingerprint(PRICES, DAY) == ""


def test_a_scan_holds_exactly_the_requested_days(lake: Lake) -> None:
    bars = random_walk_bars(96)
    days = [date(2018, 1, d) for d in (1, 2, 3, 4)]
    for day, part in by_day(PRICES, bars, days):
        lake.write(PRICES, day, part)
    assert lake.scan(PRICES, days[1], days[2]).collect().height == 48
    assert lake.scan_days(PRICES, [days[0], days[3], date(2019, 1, 1)]).collect().height == 48


def test_writing_the_same_twice_changes_nothing(lake: Lake) -> None:
    lake.write(PRICES, DAY, one_day())
    before = lake.fingerprint(PRICES, DAY)
    lake.write(PRICES, DAY, one_day())
    assert lake.fingerprint(PRICES, DAY) == before
    assert [path.name for path in (Path(lake.root) / "market/prices/day=2018-01-01").iterdir()] == [PART]


@pytest.mark.slow
def test_a_writer_killed_halfway_leaves_the_old_partition(lake: Lake, tmp_path: Path) -> None:
    lake.write(PRICES, DAY, one_day(1))
    script = f"""
import os, sys
import polars as pl
from btc_assets.market.tables import PRICES
from btc_assets.lake import Lake
from btc_assets.partitions import day_of
from btc_assets_tests.conftest import random_walk_bars
def never(source, target):
    print("half", flush=True)
    import time; time.sleep(60)
os.replace = never
Lake(root={lake.root!r}).write(PRICES, day_of("2018-01-01"), random_walk_bars(24, seed=2))
"""
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline().strip() == "half"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait(WATCHDOG_S)
    assert lake.scan(PRICES).collect().equals(one_day(1))
    folder = Path(lake.root) / "market/prices/day=2018-01-01"
    (leftover,) = folder.glob(f".{PART}.*")
    lake.write(PRICES, DAY, one_day(3))
    assert lake.scan(PRICES).collect().equals(one_day(3))
    assert leftover.exists()  # young enough to be the file of a writer at work
    os.utime(leftover, (time.time() - LONGEST_WRITE_S - 1,) * 2)
    lake.write(PRICES, DAY, one_day(3))
    assert [path.name for path in folder.iterdir()] == [PART]


def test_a_folder_without_a_file_does_not_count(lake: Lake) -> None:
    lake.write(PRICES, DAY, one_day())
    folder = Path(lake.root) / "market/prices/day=2018-01-02"
    folder.mkdir()
    (folder / f".{PART}.abc").write_bytes(b"half")
    assert lake.days(PRICES) == [DAY]


@pytest.mark.slow
def test_concurrent_readers_see_complete_partitions_only(lake: Lake) -> None:
    lake.write(PRICES, DAY, one_day(1))
    script = f"""
from btc_assets.market.tables import PRICES
from btc_assets.lake import Lake
from btc_assets.partitions import day_of
from btc_assets_tests.conftest import random_walk_bars
frames = [random_walk_bars(24, seed=s) for s in (1, 2)]
print("ready", flush=True)
while True:
    for frame in frames:
        Lake(root={lake.root!r}).write(PRICES, day_of("2018-01-01"), frame)
"""
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline().strip() == "ready"
        whole = {digest(one_day(1)), digest(one_day(2))}
        seen: list[str] = []
        while len(seen) < 100 or set(seen) != whole:
            frame = lake.read(PRICES, DAY)
            assert frame is not None
            seen.append(digest(frame))
            assert set(seen) <= whole
    finally:
        writer.kill()
        writer.wait(WATCHDOG_S)


def test_a_frame_that_breaks_its_contract_is_not_written(lake: Lake, instance: dg.DagsterInstance) -> None:
    assert materialise(lake, one_day(), instance)
    before = lake.fingerprint(PRICES, DAY)
    broken = one_day().with_columns(low=pl.col("low") * -1)
    assert not materialise(lake, broken, instance)
    assert lake.fingerprint(PRICES, DAY) == before


def test_rows_of_another_day_are_refused(lake: Lake, instance: dg.DagsterInstance) -> None:
    assert not materialise(lake, random_walk_bars(25), instance)
    assert lake.days(PRICES) == []
    with pytest.raises(LakeError, match=r"1 rows belong to 2018-01-02, which this run does not materialise"):
        list(by_day(PRICES, random_walk_bars(25), [DAY]))


def test_a_range_run_writes_one_partition_a_day_with_its_own_digest(lake: Lake, instance: dg.DagsterInstance) -> None:
    bars = random_walk_bars(72)
    tags = {"dagster/asset_partition_range_start": "2018-01-01", "dagster/asset_partition_range_end": "2018-01-03"}
    result = dg.materialize([prices_asset(bars)], resources={"io_manager": lake}, instance=instance, tags=tags)
    assert result.success
    assert lake.days(PRICES) == [date(2018, 1, d) for d in (1, 2, 3)]
    records = instance.fetch_materializations(dg.AssetKey(["market", "prices"]), limit=10).records
    shown = {
        record.partition_key: record.asset_materialization.metadata["partition_digest"].value
        for record in records
        if record.asset_materialization
    }
    expected = {str(day): digest(part) for day, part in by_day(PRICES, bars, [date(2018, 1, d) for d in (1, 2, 3)])}
    assert shown == expected


def store_posts(lake: Lake, days_of: dict[str, date], last: date) -> dg.ExecuteInProcessResult:
    """Materialise posts of these ids for the days from DAY to `last`."""
    rows = [
        dict.fromkeys(POSTS.columns) | {"post_id": name, "revision": 0, "available_at": midnight(day)}
        for name, day in days_of.items()
    ]

    @dg.asset(key=POSTS.asset_key, partitions_def=GRID, backfill_policy=dg.BackfillPolicy.single_run())
    def posts(context: dg.AssetExecutionContext) -> dg.Output[pl.DataFrame]:
        return output_of(context, POSTS, pl.DataFrame(rows, schema=POSTS.columns))

    tags = {"dagster/asset_partition_range_start": str(DAY), "dagster/asset_partition_range_end": str(last)}
    return dg.materialize([posts], resources={"io_manager": lake}, tags=tags)


def test_a_key_stored_under_a_later_day_is_not_stored_again(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    later, steps, write, locked = DAY + timedelta(days=1), list[str](), Lake.write, Lake.locked

    @contextmanager
    def noted_lock(lake: Lake, contract: Contract) -> Iterator[None]:
        with locked(lake, contract):
            steps.append("lock")
            yield
            steps.append("unlock")

    def noted_write(lake: Lake, contract: Contract, day: date, frame: pl.DataFrame) -> None:
        steps.append("write")
        write(lake, contract, day, frame)

    store_posts(lake, {"a": later}, later)
    with monkeypatch.context() as noted:
        noted.setattr(Lake, "locked", noted_lock)
        noted.setattr(Lake, "write", noted_write)
        result = store_posts(lake, {"a": DAY, "b": DAY, "c": DAY}, DAY)
    assert steps == ["lock", "write", "unlock"]
    assert lake.scan(POSTS).select("post_id", POSTS.day).collect().rows() == [("b", DAY), ("c", DAY), ("a", later)]
    [materialisation] = result.asset_materializations_for_node("news__posts")
    assert materialisation.metadata["rows_stored_under_later_days"].value == 1

    result = store_posts(lake, {"a": DAY, "b": DAY}, later)
    assert lake.scan(POSTS).select("post_id", POSTS.day).collect().rows() == [("a", DAY), ("b", DAY)], (
        "the run writes both days"
    )
    assert not any(
        "rows_stored_under_later_days" in one.metadata for one in result.asset_materializations_for_node("news__posts")
    )


def test_the_data_version_is_the_content(lake: Lake, instance: dg.DagsterInstance) -> None:
    versions = []
    for seed in (1, 1, 2):
        assert materialise(lake, one_day(seed), instance)
        event = instance.get_latest_materialization_event(dg.AssetKey(["market", "prices"]))
        assert event is not None
        assert event.asset_materialization is not None
        versions.append((event.asset_materialization.tags or {})["dagster/data_version"])
    assert versions[0] == versions[1] != versions[2]


def test_an_asset_without_a_contract_is_refused_by_name() -> None:
    with pytest.raises(LakeError, match="news/rumours has no contract"):
        contract_of(dg.AssetKey(["news", "rumours"]))


@given(st.integers(0, 200), st.integers(1, 10))
def test_splitting_by_day_neither_loses_nor_adds_rows(hours: int, seed: int) -> None:
    bars = random_walk_bars(max(hours, 1), seed=seed)
    days = [date(2018, 1, 1 + i) for i in range(9)]
    parts = list(by_day(PRICES, bars, days))
    assert pl.concat([part for _, part in parts]).equals(bars)
    assert all((part["open_time"].dt.date() == day).all() for day, part in parts)


def test_an_object_store_url_serves_as_the_root() -> None:
    lake = Lake(root="memory://lake")
    lake.write(PRICES, DAY, one_day())
    assert lake.days(PRICES) == [DAY]
    assert lake.scan(PRICES).collect().equals(one_day())


def test_an_object_that_cannot_be_serialised_leaves_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(root="memory://serialised")
    lake.write(PRICES, DAY, one_day(1))

    def half(frame: pl.DataFrame, sink: io.BytesIO, **_: object) -> None:
        sink.write(b"PAR1")
        raise OSError("the disk is full")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="disk is full"):
        broken.setattr(pl.DataFrame, "write_parquet", half)
        lake.write(PRICES, DAY, one_day(2))
    assert lake.scan(PRICES).collect().equals(one_day(1))


def test_times_come_back_in_utc(lake: Lake) -> None:
    lake.write(PRICES, DAY, one_day())
    assert lake.scan(PRICES).select(pl.col("open_time").min()).collect().item() == datetime(2018, 1, 1, tzinfo=UTC)


def test_a_column_of_a_disabled_stream_is_left_out(tmp_path: Path) -> None:
    lake, frame = Lake(root=str(tmp_path)), one_day()
    day = frame["open_time"][0].date()
    lake.write(PRICES, day, frame.with_columns(funding_rate=pl.lit(0.1)))
    assert lake.scan(PRICES).collect().equals(frame)
    assert lake.read(PRICES, day).equals(frame)  # type: ignore[union-attr]


def test_a_later_column_is_null_in_older_partitions(tmp_path: Path) -> None:
    lake = Lake(root=str(tmp_path))
    bars = random_walk_bars(48, start=datetime(2018, 1, 1, tzinfo=UTC))
    for day, part in by_day(PRICES, bars, [date(2018, 1, 1), date(2018, 1, 2)]):
        lake.write(PRICES, day, part.drop("trades") if day == date(2018, 1, 1) else part)
    found = lake.scan(PRICES).collect()
    assert found.columns == list(PRICES.columns)
    assert found["trades"].null_count() == 24
    assert lake.columns(PRICES, date(2018, 1, 1)) == [name for name in PRICES.columns if name != "trades"]
    assert lake.columns(PRICES, date(2018, 1, 3)) == []
    assert found.filter(PRICES.day == date(2018, 1, 2)).equals(bars.tail(24))


APPENDING = """
import sys
from datetime import UTC, date, datetime, timedelta
import polars as pl
from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.lake import Lake
root, writer = sys.argv[1], int(sys.argv[2])
print("ready", flush=True)
sys.stdin.read()
for n in range(15):
    at = datetime(2018, 1, 1, tzinfo=UTC) + timedelta(seconds=100 * writer + n)
    row = dict.fromkeys(MODEL_HISTORY.columns) | {"effective_from": at, "recorded_at": at, "role": "champion"}
    Lake(root=root).append(MODEL_HISTORY, DAY, pl.DataFrame([row], schema=MODEL_HISTORY.columns))
""".replace("DAY", "date(2018, 1, 1)")


@pytest.mark.slow
def test_concurrent_appends_lose_no_row(lake: Lake) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", APPENDING, lake.root, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for n in range(2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
    assert [writer.wait(WATCHDOG_S) for writer in writers] == [0, 0]
    stored = lake.read(MODEL_HISTORY, DAY)
    assert stored is not None
    assert stored.height == 30
    assert stored["effective_from"].is_sorted()


def test_appending_does_not_change_a_stored_row_of_the_same_key(lake: Lake) -> None:
    at = datetime(2018, 1, 1, tzinfo=UTC)
    row = dict.fromkeys(MODEL_HISTORY.columns) | {"effective_from": at, "recorded_at": at, "role": "champion"}
    first, other = (
        pl.DataFrame([row | {"reason": reason}], schema=MODEL_HISTORY.columns) for reason in ("why", "not so")
    )
    for frame in (first, other, MODEL_HISTORY.empty(), first):
        lake.append(MODEL_HISTORY, DAY, frame)
        assert lake.read(MODEL_HISTORY, DAY).equals(first)
