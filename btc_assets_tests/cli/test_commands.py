"""Commands, modules and files in the documents exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from btc_assets.cli.main import parser
from btc_assets.settings import PROJECT_ROOT

DOCUMENTS = [*sorted(PROJECT_ROOT.glob("*.md")), *sorted((PROJECT_ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_in_the_documents_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|\n)make ([a-z]+)", document.read_text(), re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_the_documents_is_understood(document: Path) -> None:
    for line in re.findall(r"python -m btc_assets ([^`\n#]+)", document.read_text()):
        parser().parse_args(shlex.split(line))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_module_the_documents_name_exists(document: Path) -> None:
    for module in re.findall(r"python -m ((?:btc_assets|benchmarks|serve)[\w.]*)", document.read_text()):
        path = PROJECT_ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_the_documents_link_to_or_name_exists(document: Path) -> None:
    text = document.read_text()
    linked = [document.parent / path for path in re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", text)]
    tested = [
        PROJECT_ROOT / path
        for paths in re.findall(r'^make test TESTS="?([^"\n]+)', text, re.MULTILINE)
        for path in paths.split()
    ]
    assert [str(path) for path in linked + tested if not path.exists()] == []


def test_make_alone_lists_the_targets() -> None:
    shown = subprocess.run(["make"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target}" in shown for target in ("setup", "demo", "test", "quick", "lint", "up", "bench"))


def test_ci_tests_lints_and_validates() -> None:
    script = (PROJECT_ROOT / ".ci" / "run").read_text()
    assert all(step in script for step in ("make test", "make lint", "definitions validate"))
