"""Draw the asset graph with each asset's kinds and state: `.venv/bin/python docs/img/build_lineage.py`.

The state is that of the data folder (`BTC_DATA_DIR`); the picture in the README shows the one that `make demo` makes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import matplotlib.pyplot as plt
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from dagster._core.storage.partition_status_cache import AssetPartitionStatus
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from btc_assets.definitions import defs
from btc_assets.settings import DAGSTER_HOME

OUT = Path(__file__).with_name("lineage.png")
ROWS = (
    ("news", "market"),
    ("features",),
    ("learning",),
    ("champion", "forecasting"),
    ("monitoring", "alerts", "serving"),
)
"""Groups beside each other, row under row."""
COLORS = {
    "market": "#2563eb", "news": "#0891b2", "features": "#059669", "learning": "#7c3aed", "champion": "#c026d3",
    "forecasting": "#ea580c", "monitoring": "#ca8a04", "alerts": "#dc2626", "serving": "#475569",
}  # fmt: skip
GOOD, WARNED, BAD, NONE = "#16a34a", "#f59e0b", "#dc2626", "#94a3b8"
CARD_W, CARD_H, GAP_X, GAP_Y, PAD, TITLE, BETWEEN = 184, 70, 30, 16, 14, 26, 40
"""Sizes in pixels."""


@dataclass(frozen=True)
class Card:
    """What is drawn of an asset.

    Attributes:
        group: of the asset.
        kinds: of the asset.
        made: partitions that are materialised, or 1 of an asset without partitions.
        failed: partitions whose newest run failed.
        checks: color of each check that has run.
        parents: assets that it is made of.
    """

    group: str
    kinds: tuple[str, ...]
    made: int
    failed: int
    checks: tuple[str, ...]
    parents: frozenset[dg.AssetKey]

    @property
    def state(self) -> tuple[str, str]:
        """Color and words of the state."""
        if not self.made and not self.failed:
            return NONE, "not materialized"
        words = f"{self.made:,} partition{'s' * (self.made != 1)}"
        if self.checks:
            words += f" · {self.checks.count(GOOD)}/{len(self.checks)} checks"
        worst = BAD if self.failed or BAD in self.checks else WARNED if WARNED in self.checks else GOOD
        return worst, words


def cards(instance: dg.DagsterInstance) -> dict[dg.AssetKey, Card]:
    """Return the card of every asset."""
    graph = defs.resolve_asset_graph()
    ran = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(graph.asset_check_keys))
    found = {}
    for key in graph.toposorted_asset_keys:
        node = graph.get(key)
        definition = node.partitions_def
        states: Mapping[str, AssetPartitionStatus | None] = {}
        if definition is not None:
            states = instance.get_status_by_partition(key, definition.get_partition_keys(), definition) or {}
        elif instance.get_latest_materialization_event(key):
            states = {"": AssetPartitionStatus.MATERIALIZED}
        found[key] = Card(
            group=node.group_name,
            kinds=tuple(sorted(node.kinds)),
            made=sum(state == AssetPartitionStatus.MATERIALIZED for state in states.values()),
            failed=sum(state == AssetPartitionStatus.FAILED for state in states.values()),
            checks=tuple(color_of(record) for check, record in ran.items() if check.asset_key == key),
            parents=frozenset(node.parent_keys - {key}),
        )
    return found


def color_of(record: AssetCheckExecutionRecord) -> str:
    """Return the color of what a check found."""
    if record.status == AssetCheckExecutionRecordStatus.SUCCEEDED:
        return GOOD
    event = record.event
    found = event.dagster_event.asset_check_evaluation_data if event and event.dagster_event else None
    return WARNED if found and found.severity == dg.AssetCheckSeverity.WARN else BAD


def columns(group: str, all_cards: Mapping[dg.AssetKey, Card]) -> list[list[dg.AssetKey]]:
    """Return a group's assets in columns, each to the right of what it is made of in the same group."""
    depth: dict[dg.AssetKey, int] = {}
    for key, card in all_cards.items():
        if card.group == group:
            depth[key] = max((depth[parent] + 1 for parent in card.parents if parent in depth), default=0)
    if not any(depth.values()):
        return [[key] for key in depth]
    return [[key for key in depth if depth[key] == n] for n in range(max(depth.values()) + 1)]


def draw(all_cards: Mapping[dg.AssetKey, Card]) -> None:
    """Draw the picture into `OUT`."""
    corners: dict[dg.AssetKey, tuple[float, float]] = {}
    rows: dict[dg.AssetKey, int] = {}
    panels: list[tuple[str, float, float, float, float]] = []
    sizes = {group: size_of(columns(group, all_cards)) for row in ROWS for group in row}
    width = max(sum(sizes[group][0] + BETWEEN for group in row) - BETWEEN for row in ROWS)
    top = 0.0
    for number, row in enumerate(ROWS):
        left = (width - sum(sizes[group][0] + BETWEEN for group in row) + BETWEEN) / 2
        for group in row:
            panels.append((group, left, top, *sizes[group]))
            grid = columns(group, all_cards)
            tallest = max(len(column) for column in grid)
            for n, column in enumerate(grid):
                shift = (tallest - len(column)) * (CARD_H + GAP_Y) / 2
                for m, key in enumerate(column):
                    rows[key] = number
                    corners[key] = (
                        left + PAD + n * (CARD_W + GAP_X),
                        top + TITLE + PAD + shift + m * (CARD_H + GAP_Y),
                    )
            left += sizes[group][0] + BETWEEN
        top += max(sizes[group][1] for group in row) + BETWEEN
    height = top - BETWEEN
    plt.rcParams["font.family"] = "DejaVu Sans"
    figure = plt.figure(figsize=((width + 20) / 100, (height + 20) / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-10, width + 10)
    axes.set_ylim(height + 10, -10)
    axes.axis("off")
    for panel in panels:
        draw_panel(axes, *panel)
    for key, card in all_cards.items():
        for parent in card.parents:
            down = rows[parent] < rows[key]
            draw_edge(axes, corners[parent], corners[key], COLORS[all_cards[parent].group], down=down)
    for key, card in all_cards.items():
        draw_card(axes, *corners[key], key.path[-1], card)
    figure.savefig(OUT, dpi=100, facecolor="white", pil_kwargs={"optimize": True})


def size_of(grid: list[list[dg.AssetKey]]) -> tuple[float, float]:
    """Return width and height of the panel of a group."""
    tallest = max(len(column) for column in grid)
    return (
        len(grid) * (CARD_W + GAP_X) - GAP_X + 2 * PAD,
        tallest * (CARD_H + GAP_Y) - GAP_Y + 2 * PAD + TITLE,
    )


def draw_panel(axes: Axes, group: str, x: float, y: float, w: float, h: float) -> None:
    """Draw the panel of a group."""
    box = FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0,rounding_size=10", fc=COLORS[group] + "14", ec="none")
    axes.add_patch(box)
    axes.text(x + PAD, y + 20, group, color=COLORS[group], fontsize=11, fontweight="bold")


def draw_edge(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str, *, down: bool) -> None:
    """Draw an edge from the foot of a card to the head of one in a later row, else from its side to the next side."""
    if down:
        (x0, y0), (x1, y1) = (start[0] + CARD_W / 2, start[1] + CARD_H), (end[0] + CARD_W / 2, end[1])
        bend = max(30.0, (y1 - y0) / 2)
        points = [(x0, y0), (x0, y0 + bend), (x1, y1 - bend), (x1, y1)]
    elif end[0] > start[0]:
        (x0, y0), (x1, y1) = (start[0] + CARD_W, start[1] + CARD_H / 2), (end[0], end[1] + CARD_H / 2)
        bend = (x1 - x0) / 2
        points = [(x0, y0), (x0 + bend, y0), (x1 - bend, y1), (x1, y1)]
    else:  # back to an earlier group of the row, below the cards
        (x0, y0), (x1, y1) = (start[0] + CARD_W / 2, start[1] + CARD_H), (end[0] + CARD_W / 2, end[1] + CARD_H)
        points = [(x0, y0), (x0, y0 + 50), (x1, y1 + 50), (x1, y1)]
    curve = Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
    axes.add_patch(PathPatch(curve, fc="none", ec=color, lw=1.1, alpha=0.45))


def draw_card(axes: Axes, x: float, y: float, name: str, card: Card) -> None:
    """Draw an asset: its name, its state and its kinds."""
    color, words = card.state
    box = FancyBboxPatch((x, y), CARD_W, CARD_H, boxstyle="round,pad=0,rounding_size=7", fc="white", lw=1.4)
    box.set_edgecolor(COLORS[card.group])
    axes.add_patch(box)
    axes.text(x + 10, y + 20, name, fontsize=9.5, fontweight="bold", color="#0f172a")
    axes.add_patch(Circle((x + 15, y + 35), 4.5, fc=color, ec="none"))
    axes.text(x + 25, y + 39, words, fontsize=7, color="#334155")
    left = x + 10
    for kind in card.kinds:
        w = 8 + 5.6 * len(kind)
        chip = FancyBboxPatch((left, y + 48), w, 15, boxstyle="round,pad=0,rounding_size=6", fc="#e2e8f0", ec="none")
        axes.add_patch(chip)
        axes.text(left + w / 2, y + 59, kind, fontsize=6.8, color="#1e293b", ha="center")
        left += w + 5


if __name__ == "__main__":
    os.environ.setdefault("DAGSTER_HOME", str(DAGSTER_HOME))
    with dg.DagsterInstance.get() as stored:
        draw(cards(stored))
