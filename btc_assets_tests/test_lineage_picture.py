"""The picture of the asset graph in the README has a place for every asset."""

from __future__ import annotations

import runpy

from btc_assets.definitions import defs
from btc_assets.settings import PROJECT_ROOT


def test_every_group_of_assets_has_a_row_and_a_color() -> None:
    picture = runpy.run_path(str(PROJECT_ROOT / "docs" / "img" / "build_lineage.py"))
    graph = defs.resolve_asset_graph()
    groups = {graph.get(key).group_name for key in graph.get_all_asset_keys()}
    assert {group for row in picture["ROWS"] for group in row} == groups
    assert set(picture["COLORS"]) == groups
