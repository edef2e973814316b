"""The generated results are complete and reproducible, and manually written text is preserved."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from benchmarks import results
from btc_assets.champion.tables import MODEL_HISTORY, MODEL_VERDICT
from btc_assets.forecasting.tables import FORECAST_OUTCOMES
from btc_assets.lake import Lake, by_day
from btc_assets.learning.tables import MODEL_EXPLANATION
from btc_assets.settings import Settings
from btc_assets_tests.monitoring.test_performance import OUTCOMES

CONFIG = Settings()
EXPLANATION = pl.DataFrame(
    {
        "cutoff": [date(2018, 10, 1)] * 3,
        "horizon_minutes": [60, 60, 240],
        "feature": ["trend", "noise", "trend"],
        "mean_abs_shap": [0.03, 0.01, 0.02],
        "rank": [1, 2, 1],
    },
    schema=dict(MODEL_EXPLANATION.columns),
)
RECENT = OUTCOMES.filter(pl.col("open_time").dt.date() >= date(2018, 12, 20))


@pytest.fixture(scope="module")
def generated() -> str:
    return results.results(RECENT, EXPLANATION, MODEL_VERDICT.empty(), MODEL_HISTORY.empty(), CONFIG)


def test_every_section_is_present(generated: str) -> None:
    for title in (
        "What was run",
        "Comparison with the reference",
        "calendar year",
        "size of move",
        "Probabilities",
        "Trading",
    ):
        assert title in generated
    assert "| champion | 60 min | 2019 |" in generated
    assert "| 1 | trend 75.0% | trend 100.0% | - |" in generated
    assert "the 12 distinct strategies" in generated
    assert "deflated Sharpe, 0 bp | deflated Sharpe, 5 bp" in generated
    assert "nan" not in generated.lower().split()


def test_champions_of_another_recipe_and_results_of_challengers_are_listed() -> None:
    at = RECENT["open_time"].min()
    changes = [("champion", "promoted", 1, "model_verdict"), ("challenger", "entered_shadow", 2, "model_verdict")]
    changes += [("champion", "promoted", 3, "model_verdict")]
    changes += [("challenger", "left_shadow", None, "shadow_report"), ("champion", "promoted", 2, "shadow_report")]
    rows = [
        dict.fromkeys(MODEL_HISTORY.columns)
        | {"effective_from": at + timedelta(hours=n), "recorded_at": at, "role": role, "event": event}
        | {"model_version": version, "actor": actor, "reason": "refresh promoted" if version == 3 else "shown better"}
        for n, (role, event, version, actor) in enumerate(changes)
    ]
    history = pl.DataFrame(rows, schema=MODEL_HISTORY.columns)
    text = results.results(RECENT, EXPLANATION, MODEL_VERDICT.empty(), history, CONFIG)
    assert "The champion changed 3 times; 1 changes are refreshes" in text
    assert "1 changed recipes that were valid but not shown to be better entered the shadow; 1 of them were" in text
    assert [line.split(" | ")[1:3] for line in text.splitlines() if line.endswith("shown better |")] == [
        ["1", "promoted"],
        ["2", "promoted"],
    ]


def test_every_row_has_as_many_cells_as_headings(generated: str) -> None:
    width = 0
    for line in generated.splitlines():
        if line.startswith("|---"):
            width = line.count("|")
        elif line.startswith("|") and width:
            assert line.count("|") == width, line
        else:
            width = 0


def test_the_reference_is_compared_on_its_own_hours_only(generated: str) -> None:
    assert "have none of its hours" in generated
    shift = date(2023, 1, 1) - date(2018, 12, 20)
    moved = RECENT.with_columns(pl.col("open_time", "known_at") + shift, pl.col("model_cutoff") + shift)
    text = results.results(moved, MODEL_EXPLANATION.empty(), MODEL_VERDICT.empty(), MODEL_HISTORY.empty(), CONFIG)
    inside = moved.filter(
        (pl.col("open_time").dt.date() >= date(2023, 1, 2))
        & (pl.col("role") == "champion")
        & (pl.col("horizon_minutes") == 60)
    )
    assert f"| n | 22,605 | {inside.height:,} | {inside.height:,} |" in text
    assert "| accuracy | 54.7% | " in text


def test_text_around_the_generated_part_is_preserved() -> None:
    once = results.with_generated_part("# Results\n\nBefore.\n", "old")
    again = results.with_generated_part(once + "\nAfter.\n", "new")
    assert "Before." in again
    assert "After." in again
    assert "new" in again
    assert "old" not in again
    assert results.with_generated_part(again, "new") == again


def test_the_command_writes_the_same_document_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Settings(data_dir=tmp_path)
    monkeypatch.setattr(results, "settings", lambda: config)
    out = tmp_path / "results.md"
    assert results.main(["--out", str(out)]) == 1
    assert "run the walk_forward job first" in capsys.readouterr().err
    lake = Lake(root=config.lake_root)
    last = RECENT["known_at"].max().date()
    week = RECENT.filter(pl.col("open_time").dt.date() >= last - timedelta(days=9))
    days = [last - timedelta(days=back) for back in range(12)]
    for day, part in by_day(FORECAST_OUTCOMES, week, days):
        lake.write(FORECAST_OUTCOMES, day, part)
    arguments = ["--out", str(out), "--first", str(last - timedelta(days=8))]
    texts = []
    for _ in range(2):
        assert results.main(arguments) == 0
        texts.append(out.read_text())
    assert texts[0] == texts[1]
    assert texts[0].startswith("# Results")
