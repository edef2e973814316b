"""Two runs of one asset and day at once: both end well, and neither loses what the other stored."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from btc_assets.digest import digest
from btc_assets.lake import PART
from btc_assets.schema import CONTRACTS
from btc_assets_tests.faults import tasks
from btc_assets_tests.faults.conftest import Forge

pytestmark = pytest.mark.slow

FIRST, SECOND = range(14), range(10, 24)
"""What the sources of the two runs give: each has something that the other has not."""


@pytest.mark.parametrize("table", ["market/prices", "news/articles", "news/posts"])
def test_of_two_runs_that_merge_into_one_day_none_loses_what_the_other_stored(
    table: str, tmp_path: Path, forge: Forge
) -> None:
    """Shown by the digest of a lake where one run came after the other.

    Without the tag of its job, as the button Materialize starts it, a run is held up when it is about to write what it
    has read and merged; a second one starts and comes to its end, or to where it waits. Then the first goes on. The day
    holds all that either source gave, with the digest of a lake where the second ran after the first.
    """
    signs, data, calm = tmp_path / "signs", tmp_path / "data", tmp_path / "calm"
    signs.mkdir()
    first = forge.start(tasks.refresh, data, table, signs, "first", FIRST, True)
    tasks.wait_for(signs / "first writes")
    second = forge.start(tasks.refresh, data, table, signs, "second", SECOND, False)
    while second.is_alive() and not (signs / "second waits").exists():
        time.sleep(0.005)
    (signs / "go on").touch()
    assert [forge.end(first), forge.end(second)] == [0, 0], forge.log

    for who, numbers in (("first", FIRST), ("second", SECOND)):
        forge.succeed(tasks.refresh, calm, table, signs, who, numbers, False)
    contract = CONTRACTS[table]
    stored = tasks.lake_of(data).read(contract, tasks.DAY)
    assert stored.height == len({*FIRST, *SECOND})
    assert digest(stored) == digest(tasks.lake_of(calm).read(contract, tasks.DAY))


@pytest.mark.parametrize("table", ["features/hourly_features", "learning/trained_model", "serving/bundle"])
def test_of_two_runs_that_make_one_day_whole_one_is_stored_and_both_end_well(
    table: str, made_project: Path, tmp_path: Path, forge: Forge
) -> None:
    """Shown by the digest of the undisturbed project.

    Two real runs of one asset and day are held until both have written their temporary file; then both move it into
    place. Both end well, the day has the digest of the undisturbed project, and nothing is left beside it.
    """
    data = tmp_path / "data"
    shutil.copytree(made_project, data)
    runs = [
        forge.start(tasks.make_together, data, table, tmp_path, who, other)
        for who, other in (("one", "two"), ("two", "one"))
    ]
    assert [forge.end(run) for run in runs] == [0, 0], forge.log
    contract, day = CONTRACTS[table], tasks.day_made(table)
    expected = digest(tasks.lake_of(made_project).read(contract, day))
    assert digest(tasks.lake_of(data).read(contract, day)) == expected
    assert [path.name for path in (data / "lake" / table / f"day={day}").iterdir()] == [PART]
