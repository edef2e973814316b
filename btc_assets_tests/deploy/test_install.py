"""The packages of the environment and the messages of its installation."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from btc_assets.settings import PROJECT_ROOT

SCRIPT = PROJECT_ROOT / "deploy" / "install.py"
PROJECT = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def install() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=]", requirement, maxsplit=1)[0].lower()


def test_every_required_package_is_pinned() -> None:
    pinned = {line.partition("==")[0] for line in (PROJECT_ROOT / "constraints.txt").read_text().splitlines()}
    required = [
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["dev"],
        *PROJECT["optional-dependencies"]["text"],
    ]
    assert {name_of(requirement) for requirement in required} <= pinned


def test_the_demo_needs_no_tests_linters_and_transformers(install: dict[str, Any]) -> None:
    base = {name_of(requirement) for requirement in PROJECT["dependencies"]}
    assert not base & {"torch", "transformers", "pytest", "ruff", "mypy", "hypothesis"}
    assert install["EXTRAS"]["base"] == ""


@pytest.mark.parametrize(
    ("target", "what"),
    [("setup", "base"), ("demo", "base"), ("up", "base"), ("test", "all"), ("quick", "all"), ("lint", "all")],
)
def test_a_target_installs_what_it_needs(target: str, what: str) -> None:
    fresh = ["make", "--dry-run", "--always-make", "PYTHON=python3.11", target]
    printed = subprocess.run(fresh, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"deploy/install\.py (\w+)", printed) == [what]


def test_the_imported_packages_are_compiled(install: dict[str, Any]) -> None:
    named = {name.partition(".")[0] for name in install["modules"]()}
    assert {"polars", "xgboost", "mlflow", "shap", "dagster_webserver"} <= named
    assert not named & {"os", "btc_assets", "serve", "pytest"}


def test_progress_messages_name_the_step_and_the_packages(install: dict[str, Any]) -> None:
    output = (
        "Collecting polars==2\n  Downloading p.whl\nRequirement already satisfied: numpy in x\nCollecting dagster>=1\n"
    )
    assert install["progress"](output, 0, 12.3) == "look up and download: 3 packages so far, 12 s"
    output += "Installing collected packages: toposort, polars, dagster\n"
    assert install["progress"](output, 2, 61.0) == "unpack: 2 of 3 new packages, 61 s"


def test_a_failure_shows_the_output_of_pip_and_is_not_marked_as_installed(
    install: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / ".installed").touch()
    inside = install["main"].__globals__
    monkeypatch.setitem(inside, "ROOT", tmp_path)  # without a project, so that pip fails
    monkeypatch.setitem(inside, "VENV", venv)
    monkeypatch.setitem(inside, "LOG", venv / "install.log")
    monkeypatch.setitem(inside, "STAMPS", {"base": [venv / ".installed"]})
    monkeypatch.setitem(inside, "site_packages", lambda _: venv)
    assert inside["main"]("base") == 1
    printed = capsys.readouterr().err
    assert "constraints.txt" in printed
    assert f"its complete output is in {venv}/install.log" in printed
    assert not (venv / ".installed").exists()
