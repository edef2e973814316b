"""Runs, events, cursors and logs belong to one data folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import click
import dagster as dg
import pytest
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.dagster_run import DagsterRun

from btc_assets.ownership import keep_apart
from btc_assets.settings import PROJECT_ROOT, SettingsError, settings


@pytest.fixture
def live_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Let this process be that of a data folder, by name, and of a DAGSTER_HOME."""

    def choose(name: str, home: Path = PROJECT_ROOT) -> None:
        monkeypatch.setenv("BTC_DATA_DIR", str(tmp_path / name))
        monkeypatch.setenv("DAGSTER_HOME", str(home))
        settings.cache_clear()

    yield choose
    settings.cache_clear()


def start_a_run() -> None:
    with dg.DagsterInstance.get() as instance:
        instance.add_run(DagsterRun(job_name="job", run_id="00000000-0000-4000-8000-000000000000"))
        instance.report_runless_asset_event(dg.AssetMaterialization("bars"))
        instance.run_storage.set_cursor_values({"cursor": "17"})


def test_deployments_of_one_checkout_know_nothing_of_each_other(live_in: Callable[..., None]) -> None:
    live_in("demo")
    start_a_run()
    live_in("live")
    with dg.DagsterInstance.get() as instance:
        assert instance.get_runs_count() == 0
        assert instance.all_asset_keys() == []
        assert instance.run_storage.get_cursor_values({"cursor"}) == {}
        assert instance.get_latest_materialization_event(dg.AssetKey("bars")) is None
    live_in("demo")
    with dg.DagsterInstance.get() as instance:
        assert instance.get_runs_count() == 1
        assert list(instance.all_asset_keys()) == [dg.AssetKey("bars")]


def test_everything_dagster_keeps_lies_in_the_data_folder(live_in: Callable[..., None], tmp_path: Path) -> None:
    live_in("live")
    here = tmp_path / "live" / "dagster"
    with dg.DagsterInstance.get() as instance:
        assert Path(instance.event_log_storage._base_dir) == here / "history" / "runs"  # type: ignore[attr-defined]
        assert Path(instance.root_directory) == here / "artifacts"
        assert Path(instance.compute_log_manager._base_dir) == here / "logs"  # type: ignore[attr-defined]
        assert {at.name for at in here.rglob("*.db")} == {"runs.db", "index.db", "schedules.db"}
        assert not instance.nux_enabled


def test_a_home_of_the_users_own_with_this_configuration_does_the_same(
    live_in: Callable[..., None], tmp_path: Path
) -> None:
    (home := tmp_path / "home").mkdir()
    (home / "dagster.yaml").write_bytes((PROJECT_ROOT / "dagster.yaml").read_bytes())
    live_in("demo", home)
    start_a_run()
    live_in("live", home)
    keep_apart()
    with dg.DagsterInstance.get() as instance:
        assert instance.get_runs_count() == 0


def test_a_history_kept_elsewhere_is_refused_to_a_second_data_folder(
    live_in: Callable[..., None], tmp_path: Path
) -> None:
    (home := tmp_path / "home").mkdir()
    (home / "dagster.yaml").touch()
    live_in("demo", home)
    keep_apart()
    start_a_run()
    keep_apart()
    live_in("live", home)
    with pytest.raises(SettingsError, match=r"DAGSTER_HOME\) holds the runs of the data folder \S+/demo, but BTC_DATA"):
        keep_apart()


def test_a_history_without_runs_may_change_hands(live_in: Callable[..., None], tmp_path: Path) -> None:
    (home := tmp_path / "home").mkdir()
    (home / "dagster.yaml").touch()
    live_in("demo", home)
    keep_apart()
    live_in("live", home)
    keep_apart()
    start_a_run()
    live_in("demo", home)
    with pytest.raises(SettingsError, match="/live"):
        keep_apart()


def test_a_folder_that_cannot_be_written_is_named(live_in: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    live_in("file")
    with pytest.raises(click.ClickException, match=r"data folder \S+/file cannot be written .*: set BTC_DATA_DIR"):
        dg.DagsterInstance.get()


def test_a_wrong_setting_is_reported_as_dagster_reports_its_own(
    live_in: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    live_in("live")
    monkeypatch.setenv("BTC_SEEED", "7")
    settings.cache_clear()
    with pytest.raises(click.ClickException, match="BTC_SEEED: no such setting"):
        dg.DagsterInstance.get()


def test_without_a_home_dagster_dev_finds_the_data_folder_too(live_in: Callable[..., None], tmp_path: Path) -> None:
    live_in("live")
    start_a_run()
    (scratch := tmp_path / "scratch").mkdir()  # what `dagster dev` makes, and removes when it ends
    ref = InstanceRef.from_dir(str(scratch), config_dir=str(PROJECT_ROOT))
    with dg.DagsterInstance.from_ref(ref) as instance:
        assert instance.get_runs_count() == 1
    assert list(scratch.iterdir()) == []
