"""Past forecasts are selected by the time they were made and have outcomes; invalid ranges are refused."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from btc_assets_tests.serve.conftest import Server
from serve.store import Store, StoreError


@pytest.fixture(scope="module")
def made_at(client: httpx.Client) -> datetime:
    """Return when the newest forecast was made."""
    return datetime.fromisoformat(client.get("/v1/forecast").json()["made_at"])


def test_the_default_range_is_the_last_week_oldest_first(client: httpx.Client, made_at: datetime) -> None:
    response = client.get("/v1/forecasts").json()
    assert response["total"] == len(response["forecasts"]) == 48 * 3
    assert response["next_offset"] is None
    times = [(row["made_at"], row["horizon_minutes"]) for row in response["forecasts"]]
    assert times == sorted(times)
    assert datetime.fromisoformat(times[-1][0]) == made_at


def test_a_forecast_has_an_outcome_once_its_window_has_closed(client: httpx.Client, made_at: datetime) -> None:
    for row in client.get("/v1/forecasts").json()["forecasts"]:
        assert (row["outcome"] is not None) == (datetime.fromisoformat(row["target_time"]) <= made_at)


def test_a_range_includes_its_start_and_excludes_its_end(client: httpx.Client, made_at: datetime) -> None:
    span = {"from": (made_at - timedelta(hours=5)).isoformat(), "to": (made_at - timedelta(hours=3)).isoformat()}
    times = {
        datetime.fromisoformat(row["made_at"]) for row in client.get("/v1/forecasts", params=span).json()["forecasts"]
    }
    assert times == {made_at - timedelta(hours=5), made_at - timedelta(hours=4)}


def test_a_time_with_an_offset_equals_the_same_time_in_utc(client: httpx.Client, made_at: datetime) -> None:
    utc = client.get("/v1/forecasts", params={"from": made_at.isoformat()}).json()
    with_offset = (made_at + timedelta(hours=2)).replace(tzinfo=None).isoformat() + "+02:00"
    assert client.get(f"/v1/forecasts?from={with_offset}").json()["forecasts"] == utc["forecasts"], "an unescaped plus"
    assert client.get("/v1/forecasts", params={"from": with_offset}).json()["forecasts"] == utc["forecasts"]


def test_pages_have_no_gap_and_no_overlap(client: httpx.Client) -> None:
    whole = client.get("/v1/forecasts").json()["forecasts"]
    paged, offset = [], 0
    while offset is not None:
        page = client.get("/v1/forecasts", params={"limit": 50, "offset": offset}).json()
        assert len(page["forecasts"]) <= 50
        paged += page["forecasts"]
        offset = page["next_offset"]
    assert paged == whole


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=yesterday", "from"),
        ("to=2025-13-01T00:00:00Z", "to"),
        ("from=2025-01-01", "from"),
        ("from=2025-01-01T00:00:00", "from"),
        ("from=", "from"),
        ("from=2025-01-01T00:00:00Z'; DROP TABLE forecasts; --", "from"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=many", "limit"),
        ("offset=-1", "offset"),
        ("form=2025-01-01T00:00:00Z", "form"),
    ],
)
def test_an_invalid_range_is_refused_with_its_parameter(client: httpx.Client, query: str, field: str) -> None:
    response = client.get(f"/v1/forecasts?{query}")
    assert response.status_code == 400
    assert response.json()["field"] == field
    assert response.json()["error"].endswith(".")


def test_a_reversed_range_is_a_conflict_and_an_empty_one_is_empty(client: httpx.Client) -> None:
    reversed_ = client.get("/v1/forecasts?from=2025-01-02T00:00:00Z&to=2025-01-01T00:00:00Z")
    assert (reversed_.status_code, reversed_.json()["field"]) == (409, "from")
    for empty in ("from=2025-01-02T00:00:00Z&to=2025-01-02T00:00:00Z", "from=2999-01-01T00:00:00Z"):
        assert client.get(f"/v1/forecasts?{empty}").json()["forecasts"] == []


def test_the_first_and_last_representable_times_are_valid(client: httpx.Client) -> None:
    for query in ("to=0001-01-01T00:00:00%2B14:00", "from=9999-12-31T23:59:59-14:00&to=9999-12-31T23:59:59-14:00"):
        assert client.get(f"/v1/forecasts?{query}").json()["forecasts"] == []


def test_the_published_database_cannot_be_written_through_the_store(server: Server) -> None:
    bundle_id = (server.serving_dir / "current").read_text().strip()
    store = Store(server.serving_dir / "bundles" / bundle_id / "serving.duckdb")
    with pytest.raises(StoreError, match="read-only"):
        store._query("DELETE FROM forecasts", {})


def test_a_missing_or_damaged_database_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "absent.duckdb")
    (tmp_path / "damaged.duckdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "damaged.duckdb")
