"""A reader of the serving folder always finds a complete bundle, even if a publisher is killed."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from btc_assets.learning.forecast_model import ForecastModel
from btc_assets.published import live_manifest
from btc_assets.serving.publish import KEPT_BUNDLES, PublishError, prune, publish
from btc_assets_tests.serving.builders import MADE_AT, publish_small, published_frames, write_model

HOUR = timedelta(hours=1)


@pytest.fixture
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for models."""
    return tmp_path_factory.mktemp("models")


def bundles(serving_dir: Path) -> set[str]:
    """Return the names in the bundles folder, including hidden ones."""
    return {entry.name for entry in (serving_dir / "bundles").iterdir()}


def test_a_published_bundle_is_complete(tmp_path: Path, models: Path) -> None:
    publication = publish_small(tmp_path, models)
    assert publication.live
    assert (tmp_path / "current").read_text().strip() == publication.bundle_id
    folder = tmp_path / "bundles" / publication.bundle_id
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["bundle_id"] == publication.bundle_id
    assert ForecastModel.load(folder / "model").digest == manifest["model_digest"]
    with duckdb.connect(str(folder / "serving.duckdb"), read_only=True) as connection:
        for table, rows in manifest["tables"].items():
            assert connection.sql(f"SELECT count(*) FROM {table}").fetchall() == [(rows,)]
        stored = connection.sql("SELECT * FROM forecasts").pl()
    expected = published_frames(manifest["model_digest"], version=7)["forecasts"]
    in_utc = pl.selectors.datetime(time_zone="*").dt.convert_time_zone("UTC")
    assert stored.with_columns(in_utc).equals(expected)


def test_publishing_the_same_contents_again_changes_nothing(tmp_path: Path, models: Path) -> None:
    first = publish_small(tmp_path, models)
    database = tmp_path / "bundles" / first.bundle_id / "serving.duckdb"
    before = database.stat()
    second = publish_small(tmp_path, models)
    assert second.bundle_id == first.bundle_id
    assert second.sentence == "Already live."
    assert (database.stat().st_ino, database.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_time_of_the_first_publication_is_kept_and_does_not_change_the_id(tmp_path: Path, models: Path) -> None:
    started = datetime.now(tz=UTC)
    first = publish_small(tmp_path, models)
    other = publish_small(tmp_path, models, made_at=MADE_AT + HOUR)
    again = publish_small(tmp_path, models, allow_older=True)
    assert first.published_at is not None
    assert other.published_at is not None
    assert started <= first.published_at < other.published_at
    assert (again.bundle_id, again.published_at) == (first.bundle_id, first.published_at)
    live = live_manifest(tmp_path)
    assert live is not None
    assert datetime.fromisoformat(live["published_at"]) == first.published_at
    elsewhere = publish_small(tmp_path / "elsewhere", models)
    assert elsewhere.bundle_id == first.bundle_id
    assert elsewhere.published_at != first.published_at


def test_an_older_forecast_replaces_a_newer_one_only_with_allow_older(tmp_path: Path, models: Path) -> None:
    newer = publish_small(tmp_path, models, made_at=MADE_AT)
    older = publish_small(tmp_path, models, made_at=MADE_AT - HOUR)
    assert not older.live
    assert "allow_older" in older.sentence
    assert (tmp_path / "current").read_text().strip() == newer.bundle_id
    rolled_back = publish_small(tmp_path, models, made_at=MADE_AT - HOUR, allow_older=True)
    assert rolled_back.live
    assert (tmp_path / "current").read_text().strip() == rolled_back.bundle_id == older.bundle_id


def test_the_most_recent_bundles_and_the_live_one_are_kept(tmp_path: Path, models: Path) -> None:
    ids = [publish_small(tmp_path, models, made_at=MADE_AT + n * HOUR).bundle_id for n in range(6)]
    assert bundles(tmp_path) == set(ids[-KEPT_BUNDLES:])
    back = publish_small(tmp_path, models, made_at=MADE_AT + 3 * HOUR, allow_older=True)
    assert back.bundle_id == ids[3]
    prune(tmp_path, kept=1)
    assert bundles(tmp_path) == {ids[3]}
    prune(tmp_path, kept=0)
    assert bundles(tmp_path) == {ids[3]}


def test_a_damaged_bundle_of_the_same_id_is_rebuilt(tmp_path: Path, models: Path) -> None:
    bundle_id = publish_small(tmp_path, models).bundle_id
    graph = tmp_path / "bundles" / bundle_id / "model" / "flow.p_up_60m.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    assert publish_small(tmp_path, models).bundle_id == bundle_id
    ForecastModel.load(graph.parent)
    assert bundles(tmp_path) == {bundle_id}


def test_a_damaged_live_pointer_does_not_stop_publishing(tmp_path: Path, models: Path) -> None:
    for content in ("", "../../etc", "0123456789abcdef\n"):
        (tmp_path / "current").write_text(content)
        assert live_manifest(tmp_path) is None
    assert publish_small(tmp_path, models).live


def test_a_model_that_did_not_make_the_forecasts_is_refused(tmp_path: Path, models: Path) -> None:
    publish_small(tmp_path, models)
    before = (tmp_path / "current").read_text()
    digest = write_model(models / "other", seed=8)
    manifest = {"made_at": MADE_AT.isoformat(), "model_digest": "0" * 64}
    with pytest.raises(PublishError, match="publish the model that made them"):
        publish(tmp_path, manifest=manifest, model_folder=models / "other", tables={})
    (models / "other" / "intervals.q50_60m.onnx").write_bytes(b"")
    with pytest.raises(PublishError, match=r"q50_60m\.onnx was changed"):
        publish(tmp_path, manifest={**manifest, "model_digest": digest}, model_folder=models / "other", tables={})
    assert (tmp_path / "current").read_text() == before


@pytest.mark.parametrize("made_at", [None, "yesterday", "2019-06-03T12:00:00"])
def test_made_at_must_be_a_time_with_an_offset(tmp_path: Path, models: Path, made_at: str | None) -> None:
    with pytest.raises(PublishError, match="made_at"):
        publish(tmp_path, manifest={"made_at": made_at}, model_folder=models, tables={})


def test_concurrent_publishers_leave_complete_bundles(tmp_path: Path, models: Path) -> None:
    for seed in (7, 8):
        write_model(models / f"model-{seed}", seed=seed)
    faults: list[Exception] = []

    def run(seed: int) -> None:
        try:
            for _ in range(5):
                publish_small(tmp_path, models, seed=seed)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (7, 8, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    manifest = live_manifest(tmp_path)
    assert manifest is not None
    assert ForecastModel.load(tmp_path / "bundles" / manifest["bundle_id"] / "model").digest == manifest["model_digest"]
    assert len(bundles(tmp_path)) == 2
