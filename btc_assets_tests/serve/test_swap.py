"""A new bundle replaces the current one under load without a failed request; a damaged one does not."""

from __future__ import annotations

import itertools
import shutil
import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from btc_assets_tests.conftest import WATCHDOG_S, wait_until
from btc_assets_tests.serve.conftest import Server, running_server
from btc_assets_tests.serving.builders import FEATURE_NAMES, MADE_AT, publish_small, write_model
from serve.state import RETRY_S, Watcher

ROW = dict.fromkeys(FEATURE_NAMES, 0.1)
SWAPS = 4
RESPONSES_PER_SWAP = 12
"""Responses to wait for after each swap, so that every thread sees the new bundle."""
SEEDS = (7, 8)


def send_requests(server: Server, stop: threading.Event, responses: list[tuple[str, int, str, int]]) -> None:
    """Request predictions, forecasts and history over one connection until `stop` is set."""
    with httpx.Client(base_url=server.url, timeout=WATCHDOG_S) as client:
        while not stop.is_set():
            predicted = client.post("/v1/predict", json=ROW)
            body = predicted.json()
            responses.append(("predict", predicted.status_code, body["model"]["digest"], body["model"]["version"]))
            forecast = client.get("/v1/forecast")
            body = forecast.json()
            responses.append(("forecast", forecast.status_code, body["model"]["digest"], body["model"]["version"]))
            past = client.get("/v1/forecasts", params={"limit": 30})
            responses.append(("forecasts", past.status_code, "", past.json()["forecasts"][0]["model_version"]))


@pytest.mark.slow
def test_no_request_fails_or_mixes_bundles_during_swaps(tmp_path: Path, models: Path) -> None:
    digests = {write_model(models / f"model-{seed}", seed=seed): seed for seed in SEEDS}
    (tmp_path / "serving").mkdir()
    publish_small(tmp_path / "serving", models)
    with running_server(tmp_path, models) as server:
        stop, responses = threading.Event(), []
        threads = [threading.Thread(target=send_requests, args=(server, stop, responses)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for n in range(1, SWAPS + 1):
                made_at = MADE_AT + timedelta(hours=n)
                server.wait_for(publish_small(server.serving_dir, models, seed=SEEDS[n % 2], made_at=made_at).bundle_id)
                enough = len(responses) + RESPONSES_PER_SWAP
                wait_until(lambda enough=enough: len(responses) >= enough, server.log)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert {status for _, status, _, _ in responses} == {200}
    assert {digests[digest] == version for what, _, digest, version in responses if what != "forecasts"} == {True}
    changes = sum(a != b for a, b in itertools.pairwise(responses))
    assert changes >= SWAPS
    print(f"\n{len(responses)} requests over {SWAPS} swaps, none failed")


def damage(serving_dir: Path, bundle_id: str, how: str) -> None:
    """Damage a bundle that is not loaded yet."""
    folder = serving_dir / "bundles" / bundle_id
    if how == "graph":
        graph = folder / "model" / "intervals.q05_1440m.onnx"
        graph.write_bytes(graph.read_bytes()[:-7])
    elif how == "database":
        (folder / "serving.duckdb").write_bytes(b"\0" * 4096)
    elif how == "no database":
        (folder / "serving.duckdb").unlink()
    elif how == "manifest":
        (folder / "manifest.json").write_text("{")
    elif how == "manifest of another model":
        (folder / "manifest.json").write_text('{"model_digest": "0"}')
    elif how == "model.json":
        (folder / "model" / "model.json").write_text("[1, 2]")
    else:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "how", ["graph", "database", "no database", "manifest", "manifest of another model", "model.json", "everything"]
)
def test_the_current_bundle_is_still_served_after_a_damaged_one(tmp_path: Path, models: Path, how: str) -> None:
    old = publish_small(tmp_path, models).bundle_id
    watcher = Watcher(tmp_path)
    watcher.check()
    kept = watcher.state
    assert kept is not None
    new = publish_small(tmp_path, models, seed=8, made_at=MADE_AT + timedelta(hours=1)).bundle_id
    damage(tmp_path, new, how)
    watcher.check()
    assert watcher.state is kept
    assert watcher.fault is not None
    assert new in watcher.fault
    assert f"Still serving {old}." in watcher.fault


@pytest.mark.parametrize("content", [b"", b"../../../etc/passwd", b"0123", b"\xff\xfe", b"0123456789abcdef"])
def test_the_current_bundle_is_still_served_after_an_invalid_pointer(
    tmp_path: Path, models: Path, content: bytes
) -> None:
    publish_small(tmp_path, models)
    watcher = Watcher(tmp_path)
    watcher.check()
    kept = watcher.state
    (tmp_path / "current").write_bytes(content)
    watcher.check()
    assert watcher.state is kept is not None
    assert watcher.fault is not None


def test_a_repaired_bundle_is_loaded_after_the_retry_delay(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("serve.state.time", SimpleNamespace(monotonic=lambda: now))
    bundle_id = publish_small(tmp_path, models).bundle_id
    damage(tmp_path, bundle_id, "graph")
    watcher = Watcher(tmp_path)
    watcher.check()
    assert watcher.state is None
    publish_small(tmp_path, models)
    watcher.check()
    assert watcher.state is None, "a refused bundle is not retried immediately"
    now += RETRY_S
    watcher.check()
    assert watcher.state is not None
    assert watcher.fault is None
