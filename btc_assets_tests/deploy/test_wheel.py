"""The contents of the wheel, and its use without a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from btc_assets.settings import PROJECT_ROOT

pytestmark = pytest.mark.slow

READ_AT_RUN_TIME = {".toml", ".csv", ".yaml", ".parquet", ".jsonl"}
"""Extensions of data files in the packages."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, as setuptools writes to its source folder."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for package in ("btc_assets", "serve", "btc_assets_tests", "benchmarks"):
        shutil.copytree(PROJECT_ROOT / package, source / package, ignore=leave)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT_ROOT / file, source)
    pip("wheel", str(source), "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder))
    [made] = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    folder = wheel.parent / "installed"
    pip("install", "--no-deps", "--no-index", "--target", str(folder), str(wheel))
    return folder


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_has_the_two_packages_without_tests_and_benchmarks(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"btc_assets", "serve"}


def test_the_wheel_has_every_module_and_every_data_file(wheel: Path) -> None:
    wanted = {
        str(path.relative_to(PROJECT_ROOT))
        for package in ("btc_assets", "serve")
        for path in (PROJECT_ROOT / package).rglob("*")
        if path.suffix in READ_AT_RUN_TIME or (path.suffix == ".py" and path.parent.name != "sample")
    }
    assert wanted <= set(ZipFile(wheel).namelist())


def command(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the console script from a folder outside the checkout."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(installed),
        "BTC_DATA_DIR": str(folder / "data"),
    }
    return subprocess.run(
        [sys.executable, str(installed / "bin" / "btc-assets"), *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_console_script_runs_outside_a_checkout(installed: Path, tmp_path: Path) -> None:
    shown = command(installed, tmp_path, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "{demo,up,walk-forward,compare,train,rollback,fit-ensemble,sql}" in shown.stdout
    process = command(installed, tmp_path, "sql", "SELECT 1 AS one")
    assert process.returncode == 0, process.stderr
    assert "one" in process.stdout


def test_an_installed_project_materialises_the_sample_and_writes_only_to_its_data_folder(
    installed: Path, tmp_path: Path
) -> None:
    code = """
import dagster as dg
from btc_assets.cli.main import DAGSTER_HOME
from btc_assets.definitions import defs
import btc_assets
print(btc_assets.__file__)
with dg.DagsterInstance.from_config(str(DAGSTER_HOME)) as instance:
    prices = defs.resolve_assets_def(dg.AssetKey(["market", "prices"]))
    dg.materialize([prices], partition_key="2019-09-30", instance=instance)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(installed), "BTC_DATA_DIR": str(tmp_path / "data")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(str(installed))
    assert list((tmp_path / "data" / "lake" / "market" / "prices").glob("day=2019-09-30/*.parquet"))
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
