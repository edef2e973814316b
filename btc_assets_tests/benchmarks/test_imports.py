"""Benchmarks are part of the project, not of its tests."""

from __future__ import annotations

import ast

from btc_assets.settings import PROJECT_ROOT


def test_benchmarks_import_nothing_from_tests() -> None:
    imported = set()
    for path in (PROJECT_ROOT / "benchmarks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported.add(str(node.module))
            elif isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
    assert not [name for name in imported if name.startswith("btc_assets_tests")]
