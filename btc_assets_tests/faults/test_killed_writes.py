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
BESIDE_THE_LAKE = {"news/sentiment_scores", "learning/trained_model", "champion/model_verdict", "serving/bundle"}
"""Tables whose assets write elsewhere too: a cache, the registry, a run of MLflow, what is served."""


def rows_by_sql(lake: Lake, table: str) -> int:
    """Count a table's rows as a person does who asks in SQL; 0 where no day of it is stored."""
    with duckdb.connect() as connection:
        name = table.replace("/", ".")
        counted = f"SELECT count(*) FROM {name}" if name in add_lake_views(connection, lake) else "SELECT 0"
        return int(connection.execute(counted).fetchall()[0][0])


def content(contract: Contract, frame: pl.DataFrame | None) -> str:
    """Digest what a partition says; of a history, less the moment at which a run wrote it down."""
    assert frame is not None
    return digest(frame.drop("recorded_at") if contract.append_only else frame)


@pytest.mark.parametrize("table", CONTRACTS)
def test_a_run_killed_while_it_writes_leaves_the_old_day_or_the_new_one(
    table: str, made_project: Path, project: Path, forge: Forge
) -> None:
    """Each asset, killed at four points of a write; shown by digests, days, SQL and a second run.

    A run of each asset is killed with SIGKILL at four points of `Lake.write`: before the temporary file is there,
    within it, before the rename and after it: a run that stores the frame the real one made. Before the rename it is
    the real asset's, where that leaves something beside the lake. The day's digest, as the lake reads it, is then
    that of the old partition (half the rows), or of none where none was, until the rename, and after it the digest of
    a project that was not disturbed; the days named and the rows counted in SQL follow it. A real run that is not
    killed then makes the undisturbed digest, and takes away what the killed ones left.
    """
    contract, day = CONTRACTS[table], tasks.day_made(table)
    undisturbed, lake = tasks.lake_of(made_project), tasks.lake_of(project)
    whole = undisturbed.read(contract, day)
    assert whole is not None
    old = whole.head(whole.height // 2)
    file = Path(undisturbed.root) / table / f"day={day}" / PART
    folder = Path(lake.root) / table / f"day={day}"
    days = lake.days(contract)
    elsewhere = rows_by_sql(lake, table) - whole.height

    def killed_at(point: str, *, real: bool) -> None:
        status = (
            forge.run(tasks.make_and_die, project, table, point)
            if real
            else forge.run(tasks.store_and_die, project, table, file, point)
        )
        assert status == KILLED, f"the run did not come to the point {point!r}\n{forge.log}"

    (folder / PART).unlink()
    killed_at(tasks.MID_FILE, real=False)
    assert lake.read(contract, day) is None
    assert lake.days(contract) == [other for other in days if other != day]
    assert rows_by_sql(lake, table) == elsewhere

    lake.write(contract, day, old)
    for point, real in ((tasks.BEFORE_FILE, False), (tasks.BEFORE_RENAME, table in BESIDE_THE_LAKE)):
        killed_at(point, real=real)
        assert content(contract, lake.read(contract, day)) == content(contract, old)
        assert lake.days(contract) == days
        assert rows_by_sql(lake, table) == elsewhere + old.height

    killed_at(tasks.AFTER_RENAME, real=False)
    assert content(contract, lake.read(contract, day)) == content(contract, whole)

    lake.write(contract, day, old)
    leftovers = list(folder.glob(f".{PART}.*"))
    assert len(leftovers) == 2  # of the kills within the file and before the rename
    for leftover in leftovers:
        os.utime(leftover, (time.time() - LONGEST_WRITE_S - 1,) * 2)
    forge.succeed(tasks.make, project, table)
    assert content(contract, lake.read(contract, day)) == content(contract, whole)
    assert [path.name for path in folder.iterdir()] == [PART]
    assert lake.days(contract) == days
