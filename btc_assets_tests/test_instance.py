"""Runs, events, cursors and logs belong to one data folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import click
import dagster as dg
import pytest
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.dagster_run import DagsterRun

from btc_assets.ownership import claim_instance
from btc_assets.settings import PROJECT_ROOT, SettingsError, settings


@pytest.fixture
def use_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Return a function that sets the data folder, by name, and DAGSTER_HOME of this process."""

    def choose(name: str, home: Path = PROJECT_ROOT) -> None:
        monkeypatch.setenv("BTC_DATA_DIR", str(tmp_path / name))
        monkeypatch.setenv("DAGSTER_HOME", str(home))
        settings.cache_clear()

    yield choose
    settings.cache_clear()


def store_run() -> None:
    with dg.DagsterInstance.get() as instance:
        instance.add_run(DagsterRun(job_name="job", run_id="00000000-0000-4000-8000-000000000000"))
        instance.report_runless_asset_event(dg.AssetMaterialization("bars"))
        instance.run_storage.set_cursor_values({"cursor": "17"})


def test_deployments_of_one_checkout_are_separate(use_data_folder: Callable[..., None]) -> None:
    use_data_folder("demo")
    store_run()
    use_data_folder("live")
    with dg.DagsterInstance.get() as instance:
        assert instance.get_runs_count() == 0
        assert instance.all_asset_keys() == []
        assert instance.run_storage.get_cursor_values({"cursor"}) == {}
        assert instance.get_latest_materialization_event(dg.AssetKey("bars")) is None
    use_data_folder("demo")
    with dg.DagsterInstance.get() as instance:
        assert instance.get_runs_count() == 1
        assert list(instance.all_asset_keys()) == [dg.AssetKey("bars")]


def test_all_dagster_files_are_in_the_data_folder(use_data_folder: Callable[..., None], tmp_path: Path) -> None:
    use_data_folder("live")
    folder = tmp_path / "live" / "dagster"
    with dg.DagsterInstance.get() as instance:
        assert Path(instance.event_log_storage._base_dir) == folder / "history" / "runs"  # type: ignore[attr-defined]
        assert Path(instance.root_directory) == folder / "artifacts"
        assert Path(instance.compute_log_manager._base_dir) == folder / "logs"  # type: ignore[attr-defined]
        assert {file.name for file in folder.rglob("*.db")} == {"runs.db", "index.db", "schedules.db"}
        assert not instance.nux_enabled


def test_a_custom_home_with_this_configuration_separates_deployments(
    use_data_folder: Callable[..., None], tmp_path: Path
) -> None:
    (home := tmp_path / "home").mkdir()
    (home / "dagster.yaml").write_bytes((PROJECT_ROOT / "dagster.yaml").read_bytes())
    use_data_folder("demo", home)
    store_run()
    use_data_folder("live", home)
    claim_instance()
    with dg.DagsterInstance.get() as instance:
        assert instance.get_runs_count() == 0


def test_a_history_of_another_data_folder_is_refused(use_data_folder: Callable[..., None], tmp_path: Path) -> None:
    (home := tmp_path / "home").mkdir()
    (home / "dagster.yaml").touch()
    use_data_folder("demo", home)
    claim_instance()
    store_run()
    claim_instance()
    use_data_folder("live", home)
    with pytest.raises(SettingsError, match=r"DAGSTER_HOME\) has the runs of the data folder \S+/demo, but BTC_DATA"):
        claim_instance()


def test_a_history_without_runs_can_change_its_owner(use_data_folder: Callable[..., None], tmp_path: Path) -> None:
    (home := tmp_path / "home").mkdir()
    (home / "dagster.yaml").touch()
    use_data_folder("demo", home)
    claim_instance()
    use_data_folder("live", home)
    claim_instance()
    store_run()
    use_data_folder("demo", home)
    with pytest.raises(SettingsError, match="/live"):
        claim_instance()


def test_a_folder_that_is_not_writable_is_reported(use_data_folder: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    use_data_folder("file")
    with pytest.raises(click.ClickException, match=r"data folder \S+/file is not writable .*: set BTC_DATA_DIR"):
        dg.DagsterInstance.get()


def test_an_invalid_setting_is_a_click_error(
    use_data_folder: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_data_folder("live")
    monkeypatch.setenv("BTC_SEEED", "7")
    settings.cache_clear()
    with pytest.raises(click.ClickException, match="BTC_SEEED: unknown setting"):
        dg.DagsterInstance.get()


def test_without_a_home_dagster_dev_uses_the_data_folder(use_data_folder: Callable[..., None], tmp_path: Path) -> None:
    use_data_folder("live")
    store_run()
    (scratch := tmp_path / "scratch").mkdir()  # the temporary folder of `dagster dev`
    ref = InstanceRef.from_dir(str(scratch), config_dir=str(PROJECT_ROOT))
    with dg.DagsterInstance.from_ref(ref) as instance:
        assert instance.get_runs_count() == 1
    assert list(scratch.iterdir()) == []
