"""Whatever asset is being written when its run is killed: readers see the old day or the new one, never half of one."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import duckdb
import polars as pl
import pytest

from btc_assets.digest import digest
from btc_assets.lake import LONGEST_WRITE_S, PART, Lake
from btc_assets.schema import CONTRACTS, Contract
from btc_assets.sql import add_lake_views
from btc_assets_tests.faults import tasks
from btc_assets_tests.faults.conftest import Forge

pytestmark = pytest.mark.slow

KILLED = -signal.SIGKILL
DAY_TABLE = "market/prices"
OF_ITS_OWN = {
    *("news/sentiment_scores", "learning/trained_model", "champion/model_verdict", "serving/bundle"),
    "champion/model_history",
}
"""Tables whose assets write elsewhere too, a cache, the registry, a run of MLflow, what is served; and one added to."""


def rows_by_sql(lake: Lake, table: str) -> int:
    """Count a table's rows as a person does who asks in SQL; 0 where no day of it is stored."""
    with duckdb.connect() as connection:
        name = table.replace("/", ".")
        counted = f"SELECT count(*) FROM {name}" if name in add_lake_views(connection, lake) else "SELECT 0"
        return int(connection.execute(counted).fetchall()[0][0])


def whole_day(made_project: Path, table: str) -> pl.DataFrame:
    """Return a table's day as the project has it that was not disturbed."""
    frame = tasks.lake_of(made_project).read(CONTRACTS[table], tasks.day_made(table))
    assert frame is not None
    return frame


def content(contract: Contract, frame: pl.DataFrame | None) -> str:
    """Digest what a partition says; of a history, less the moment at which a run wrote it down."""
    assert frame is not None
    return digest(frame.drop("recorded_at") if contract.append_only else frame)


def test_a_run_killed_while_it_writes_leaves_the_old_day_or_the_new_one(
    made_project: Path, project: Path, forge: Forge
) -> None:
    """An asset's real run, killed at four points of a write; shown by digests, days, SQL and a further run.

    The run is killed with SIGKILL before the temporary file is there, within it, before the rename and after it. The
    day's digest, as the lake reads it, is then that of the old partition (half the rows), or of none where none was,
    until the rename, and after it the digest of a project that was not disturbed; the days named and the rows counted
    in SQL follow it. A run that is not killed then makes the undisturbed digest, and removes what the killed ones left.
    """
    table = DAY_TABLE
    contract, day = CONTRACTS[table], tasks.day_made(table)
    lake, whole = tasks.lake_of(project), whole_day(made_project, table)
    old = whole.head(whole.height // 2)
    folder = Path(lake.root) / table / f"day={day}"
    days = lake.days(contract)
    elsewhere = rows_by_sql(lake, table) - whole.height

    def killed_at(point: str) -> None:
        assert forge.run(tasks.make_and_die, project, table, point) == KILLED, f"never {point!r}\n{forge.log}"

    (folder / PART).unlink()
    killed_at(tasks.MID_FILE)
    assert lake.read(contract, day) is None
    assert lake.days(contract) == [other for other in days if other != day]
    assert rows_by_sql(lake, table) == elsewhere

    lake.write(contract, day, old)
    for point in (tasks.BEFORE_FILE, tasks.BEFORE_RENAME):
        killed_at(point)
        assert content(contract, lake.read(contract, day)) == content(contract, old)
        assert lake.days(contract) == days
        assert rows_by_sql(lake, table) == elsewhere + old.height

    killed_at(tasks.AFTER_RENAME)
    assert content(contract, lake.read(contract, day)) == content(contract, whole)

    lake.write(contract, day, old)
    leftovers = list(folder.glob(f".{PART}.*"))
    assert len(leftovers) == 2  # of the kills within the file and before the rename
    for leftover in leftovers:
        os.utime(leftover, (time.time() - LONGEST_WRITE_S - 1,) * 2)
    forge.succeed(tasks.make, project, [table])
    assert content(contract, lake.read(contract, day)) == content(contract, whole)
    assert [path.name for path in folder.iterdir()] == [PART]
    assert lake.days(contract) == days


def test_the_next_run_completes_every_table_that_was_killed_before_the_rename(
    made_project: Path, project: Path, forge: Forge
) -> None:
    """Every table keeps its old day, and one run of all assets makes the digests of a project not disturbed.

    Children come first, so that an asset whose own run is killed reads whole inputs. The other tables are killed in
    the write alone, which is the same for all.
    """
    undisturbed, lake = tasks.lake_of(made_project), tasks.lake_of(project)
    tables = [key.to_user_string() for key in tasks.keys_in_order() if key.to_user_string() in CONTRACTS]
    for table in reversed(tables):
        contract, day = CONTRACTS[table], tasks.day_made(table)
        days, whole = lake.days(contract), whole_day(made_project, table)
        old = whole.head(whole.height // 2)
        lake.write(contract, day, old)
        if table in OF_ITS_OWN:
            status = forge.run(tasks.make_and_die, project, table, tasks.BEFORE_RENAME)
        else:
            file = Path(undisturbed.root) / table / f"day={day}" / PART
            status = forge.run(tasks.write_and_die, project, table, file, tasks.BEFORE_RENAME)
        assert status == KILLED, f"{table}\n{forge.log}"
        assert content(contract, lake.read(contract, day)) == content(contract, old), table
        assert lake.days(contract) == days, table
    forge.succeed(tasks.make, project, tables)
    for table in tables:
        stored, whole = lake.read(CONTRACTS[table], tasks.day_made(table)), whole_day(made_project, table)
        assert content(CONTRACTS[table], stored) == content(CONTRACTS[table], whole), table
