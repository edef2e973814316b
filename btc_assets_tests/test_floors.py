"""Imports go down the floors that docs/architecture.md lists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from btc_assets.settings import PACKAGE, PROJECT_ROOT


def floors() -> list[str]:
    """Return the domains of the page, the highest first."""
    page = (PROJECT_ROOT / "docs" / "architecture.md").read_text()
    table = page.partition("| floor |")[2].partition("\n\n")[0]
    return [
        name for cell in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    ]


def imported(path: Path) -> set[str]:
    """Return the modules of the package that a file imports anywhere, without those for the type checker alone."""
    tree = ast.parse(path.read_text())
    unseen = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in set(ast.walk(tree)) - unseen:
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
    return {name for name in names if name.startswith("btc_assets.")}


def test_every_domain_has_a_floor() -> None:
    domains = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert domains <= set(floors())


def test_imports_go_down() -> None:
    order = floors()
    upward = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in PACKAGE.rglob("*.py")
        if (here := path.relative_to(PACKAGE).parts[0].removesuffix(".py")) in order
        for name in imported(path)
        if (there := name.split(".")[1]) in order and order.index(there) < order.index(here)
    ]
    assert upward == []
