"""A disk without a free byte: a clear error, what was stored stays readable, and all goes on when there is room.

Each test's child mounts a tmpfs of its own in its own mount namespace and fills it; where that is not allowed, a limit
on the size of files stands in for it. The first line of what is printed says which.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from btc_assets_tests.faults import tasks
from btc_assets_tests.faults.conftest import Forge

pytestmark = pytest.mark.slow


def outcome(forge: Forge, tmp_path: Path, task: Callable[..., None], *arguments: object) -> str:
    told = tmp_path / "told"
    forge.succeed(task, tmp_path / "disk", *arguments, told)
    print(f"\n{told.read_text()}")
    return told.read_text()


def test_a_run_that_finds_the_lakes_disk_full_fails_and_leaves_the_old_day(
    made_project: Path, tmp_path: Path, forge: Forge
) -> None:
    """Shown by digests before, on a full disk and after.

    A real refresh of a day of which half is stored, and a write of a day that is not: both fail with the system's
    sentence, the stored day keeps its digest and the days their names. After space is freed the same refresh gives
    the digest of the undisturbed project, and no temporary file is left.
    """
    said = outcome(forge, tmp_path, tasks.lake_on_a_full_disk, made_project)
    assert "OSError" in said


def test_a_publisher_that_finds_the_disk_full_leaves_the_live_bundle(tmp_path: Path, forge: Forge) -> None:
    """Shown by the pointer and the digests of the live model.

    Publishing fails with a sentence; the pointer names the bundle from before, whose every graph has its digest.
    After space is freed the next publication is live and whole, and nothing unfinished is left.
    """
    outcome(forge, tmp_path, tasks.bundle_on_a_full_disk, tmp_path / "models")


def test_an_outbox_on_a_full_disk_keeps_every_alert_and_takes_none_by_halves(tmp_path: Path, forge: Forge) -> None:
    """Shown by the alerts that are due.

    Raising twenty long alerts fails with SQLite's sentence; those from before are all there, and none of the new
    ones. After space is freed the same twenty are raised, and all forty are due.
    """
    outcome(forge, tmp_path, tasks.outbox_on_a_full_disk)


def test_scores_are_given_though_their_cache_finds_no_room(tmp_path: Path, forge: Forge) -> None:
    """Shown by the scores and by the rows of the cache.

    With a full disk the scores equal those of the scorer without a cache and a warning says why nothing is kept;
    the 400 scores kept before stay, and after space is freed the others are kept as well. The cache is not taken
    for damaged.
    """
    outcome(forge, tmp_path, tasks.scores_on_a_full_disk)
