"""HEAD returns the status and headers of GET on every route and for every error, tested on a running server."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from litestar.testing import TestClient

from btc_assets_tests.serve.conftest import Server
from btc_assets_tests.serve.test_metrics import named, scrape
from serve.app import create_app
from serve.routes import ROUTES

PATHS = sorted(path for route in ROUTES for path in route.paths)
OTHER_PATHS = [
    "/schema", "/schema/openapi.json", "/nothing/here", "/", "/v1/forecasts?limit=3", "/v1/forecasts?limit=x",
    "/v1/forecasts?from=yesterday",
]  # fmt: skip


def test_the_tested_paths_include_the_routes() -> None:
    assert {"/health", "/ready", "/v1/forecast", "/v1/model", "/v1/forecasts", "/metrics"} <= set(PATHS)


@pytest.mark.parametrize("path", [*PATHS, *OTHER_PATHS])
def test_head_has_the_status_and_headers_of_get_and_no_body(server: Server, path: str) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        get = client.get(path)
        head = client.head(path)
    volatile = {"date", "content-length"} if path in ("/metrics", "/v1/forecast") else {"date"}
    assert head.status_code == get.status_code
    assert {n: v for n, v in head.headers.items() if n not in volatile} == {
        n: v for n, v in get.headers.items() if n not in volatile
    }
    assert int(head.headers["content-length"]) > 0, "the length of the body of GET"
    assert head.content == b""


def test_a_connection_stays_open_after_head(server: Server) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        for _ in range(3):
            assert client.head("/v1/model").status_code == 200
            assert client.get("/v1/model").json()["features"]


def test_head_requests_are_counted_by_route_and_method(tmp_path: Path) -> None:
    with TestClient(create_app(tmp_path), raise_server_exceptions=False) as client:
        for path in ("/health", "/v1/forecast", "/nothing"):
            assert client.head(path).content == b""
        requests = named(scrape(client), "btc_http_requests_total")
    assert requests[("HEAD", "/health", "200")] == 1
    assert requests[("HEAD", "/v1/forecast", "503")] == 1
    assert requests[("HEAD", "unmatched", "404")] == 1


def test_other_methods_are_unchanged(server: Server) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        assert client.options("/health").status_code == client.options("/v1/predict").status_code == 204
        assert client.delete("/health").status_code == 405
        assert client.head("/v1/predict").status_code == client.get("/v1/predict").status_code == 405
