"""HEAD answers as GET does, without the body, on every route and for every error; over a real server."""

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
OTHERS = [
    "/schema", "/schema/openapi.json", "/nothing/here", "/", "/v1/forecasts?limit=3", "/v1/forecasts?limit=x",
    "/v1/forecasts?from=yesterday",
]  # fmt: skip


def test_there_are_routes_to_ask() -> None:
    assert {"/health", "/ready", "/v1/forecast", "/v1/model", "/v1/forecasts", "/metrics"} <= set(PATHS)


@pytest.mark.parametrize("path", [*PATHS, *OTHERS])
def test_head_has_the_status_and_headers_of_get_and_no_body(server: Server, path: str) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        got = client.get(path)
        headed = client.head(path)
    volatile = {"date", "content-length"} if path in ("/metrics", "/v1/forecast") else {"date"}
    assert headed.status_code == got.status_code
    assert {n: v for n, v in headed.headers.items() if n not in volatile} == {
        n: v for n, v in got.headers.items() if n not in volatile
    }
    assert int(headed.headers["content-length"]) > 0, "it tells how long the body would be"
    assert headed.content == b""


def test_a_connection_stays_open_after_head(server: Server) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        for _ in range(3):
            assert client.head("/v1/model").status_code == 200
            assert client.get("/v1/model").json()["features"]


def test_head_is_counted_under_its_route_and_its_own_method(tmp_path: Path) -> None:
    with TestClient(create_app(tmp_path), raise_server_exceptions=False) as client:
        for path in ("/health", "/v1/forecast", "/nothing"):
            assert client.head(path).content == b""
        counted = named(scrape(client), "btc_http_requests_total")
    assert counted[("HEAD", "/health", "200")] == 1
    assert counted[("HEAD", "/v1/forecast", "503")] == 1
    assert counted[("HEAD", "unmatched", "404")] == 1


def test_other_methods_answer_as_before(server: Server) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        assert client.options("/health").status_code == client.options("/v1/predict").status_code == 204
        assert client.delete("/health").status_code == 405
        assert client.head("/v1/predict").status_code == client.get("/v1/predict").status_code == 405
