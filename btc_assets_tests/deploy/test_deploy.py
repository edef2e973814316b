"""Rules and dashboard match the metrics of the server; with Prometheus installed, its tools check them too."""

from __future__ import annotations

import contextlib
import json
import re
import runpy
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from litestar.testing import TestClient
from prometheus_client.parser import text_string_to_metric_families

from btc_assets.alerts.rules import SEVERITIES
from btc_assets.processes import free_port
from btc_assets.settings import PROJECT_ROOT, Settings
from btc_assets_tests.conftest import WATCHDOG_S
from btc_assets_tests.serve.conftest import running_server, this_hour
from btc_assets_tests.serving.builders import FEATURE_NAMES, publish_small
from serve.app import create_app

DEPLOY = PROJECT_ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
GRAFANA = DEPLOY / "grafana"
LOOPBACK = "127.0.0.1"
OF_PROMETHEUS = {"up", "job", "instance", "le"}
"""Names and labels that Prometheus adds."""


def tool(name: str) -> str:
    """Return the path of a Prometheus program; skip the test if it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}, which is not installed (Debian: apt-get install prometheus)")
    return found


def promtool(*arguments: str, text: str | None = None) -> None:
    """Run promtool in the folder of the rules and require success."""
    answer = subprocess.run(
        [tool("promtool"), *arguments],
        cwd=PROMETHEUS,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, ""), answer.stdout + answer.stderr


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the metrics page of an app that has served requests from a complete bundle."""
    folder = tmp_path_factory.mktemp("published")
    publish_small(folder, folder / "models")
    with TestClient(create_app(folder)) as client:
        client.post("/v1/predict", json=dict.fromkeys(FEATURE_NAMES, 0.1))
        client.get("/nowhere")
        return client.get("/metrics").text


@pytest.fixture(scope="module")
def exposed(page: str) -> dict[str, set[str]]:
    """Return the labels of every exposed sample by name."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def rules() -> list[dict[str, Any]]:
    """Return every recording and alerting rule."""
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """Return the committed dashboard."""
    content: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "btc_assets.json").read_text())
    return content


def panels() -> list[dict[str, Any]]:
    """Return the panels that are not rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def dashboard_queries() -> list[str]:
    """Return every query of the dashboard, including those of its variables."""
    displayed = [target["expr"] for panel in panels() for target in panel["targets"]]
    return displayed + [v["query"]["query"] for v in dashboard()["templating"]["list"] if v["type"] == "query"]


def metrics_in(query: str) -> set[str]:
    """Return the metrics in a query: those of the project and the process, `up` and recorded metrics."""
    bare = re.sub(r'"[^"]*"', '""', query)
    return set(re.findall(r"\b(?:\w+:)*(?:btc|process)_\w+(?::\w+)*|\bup\b", bare))


def labels_in(query: str) -> Iterator[tuple[str, str]]:
    """Yield each metric of a query with the labels of its selector."""
    for name, selected in re.findall(r"([\w:]+)\{([^}]*)\}", query):
        for label in re.findall(r"(\w+)\s*=?[=~!]", selected):
            yield name, label


def test_the_names_in_a_query_are_found() -> None:
    query = 'sum by (le) (rate(btc_a_bucket{route!="btc_b"}[5m])) / a_b:btc_c:rate5m and up{job="x"} > ln(vector(2))'
    assert metrics_in(query) == {"btc_a_bucket", "a_b:btc_c:rate5m", "up"}
    assert set(labels_in(query)) == {("btc_a_bucket", "route"), ("up", "job")}


def test_every_queried_metric_is_exposed(exposed: dict[str, set[str]]) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for query in [rule["expr"] for rule in rules()] + dashboard_queries():
        names = metrics_in(query)
        assert names or query == "ln(vector(2))", query
        assert names <= exposed.keys() | recorded | OF_PROMETHEUS, query
        for name, label in labels_in(query):
            assert name in recorded or label in exposed.get(name, set()) | OF_PROMETHEUS, (query, label)


def test_every_metric_has_a_panel(exposed: dict[str, set[str]]) -> None:
    expressions = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    displayed = {name for query in dashboard_queries() for name in metrics_in(query)}
    displayed |= {name for recorded in displayed & expressions.keys() for name in metrics_in(expressions[recorded])}
    ours = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exposed if name.startswith("btc_")}
    assert ours <= {re.sub(r"_bucket$", "", name) for name in displayed}


def test_every_metric_is_documented(exposed: dict[str, set[str]]) -> None:
    explained = (PROJECT_ROOT / "docs" / "operations.md").read_text()
    ours = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exposed if name.startswith("btc_")}
    assert {name for name in ours if f"| `{name}` |" not in explained} == set()
    assert set(re.findall(r"\| `(btc_\w+)` \|", explained)) == ours


def test_the_scrape_target_is_the_default_address_of_the_server() -> None:
    (job,) = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    (targets,) = job["static_configs"]
    default = {name: field.default for name, field in Settings.model_fields.items()}
    assert targets["targets"] == [f"{default['serve_host']}:{default['serve_port']}"]
    assert all(job["job_name"] in rule["expr"] for rule in rules() if "up{" in rule["expr"])


def test_every_alert_is_unique_documented_and_tested() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    names = [rule["alert"] for rule in alerts]
    assert len(names) == len(set(names))
    for rule in alerts:
        assert rule["labels"]["severity"] in SEVERITIES
        assert all(rule["annotations"][text].endswith(".") for text in ("summary", "description"))
    tested = (PROMETHEUS / "rules_test.yml").read_text()
    assert [name for name in names if name not in tested] == []


def test_the_committed_dashboard_is_up_to_date() -> None:
    built = runpy.run_path(str(GRAFANA / "build_dashboard.py"))["dashboard"]()
    assert dashboard() == json.loads(json.dumps(built))


def test_every_panel_has_a_position_and_a_title() -> None:
    everything = dashboard()["panels"]
    ids = [panel["id"] for panel in everything]
    assert len(ids) == len(set(ids))
    titles = [panel["title"] for panel in everything]
    assert len(titles) == len(set(titles))
    places = [panel["gridPos"] for panel in everything]
    assert all(p["x"] >= 0 and p["w"] > 0 and p["h"] > 0 and p["x"] + p["w"] <= 24 for p in places)
    for a, b in combinations(places, 2):
        side_by_side = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert side_by_side or above, (a, b)
    for panel in panels():
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_every_query_goes_to_the_provisioned_datasource() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/btc_assets.yml").read_text())["datasources"]
    expected = {"type": source["type"], "uid": source["uid"]}
    variables = [v["datasource"] for v in dashboard()["templating"]["list"] if v["type"] == "query"]
    queried = [target["datasource"] for panel in panels() for target in panel["targets"]]
    assert [d for d in [*variables, *queried, *(panel["datasource"] for panel in panels())] if d != expected] == []
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/btc_assets.yml").read_text())["providers"]
    folder = provider["options"]["path"].replace("$GF_PATHS_PROVISIONING", str(GRAFANA / "provisioning"))
    assert [path.name for path in Path(folder).glob("*.json")] == ["btc_assets.json"]


# --- with Prometheus itself ------------------------------------------------------------------------
def test_promtool_accepts_rules_and_metrics(page: str) -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "metrics", text=page)


def test_the_rules_pass_their_promtool_tests() -> None:
    promtool("test", "rules", "rules_test.yml")


@contextlib.contextmanager
def running_prometheus(folder: Path, target: str) -> Iterator[str]:
    """Run Prometheus with `deploy/` and another target and scrape interval; yield its address."""
    program = tool("prometheus")
    config = (PROMETHEUS / "prometheus.yml").read_text().replace("127.0.0.1:8000", target).replace(": 15s", ": 1s")
    (folder / "prometheus.yml").write_text(config)
    shutil.copy(PROMETHEUS / "rules.yml", folder)
    address = f"{LOOPBACK}:{free_port(LOOPBACK, 19_090)}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(WATCHDOG_S)


def wait_for(url: str, query: str, values: set[float]) -> list[dict[str, Any]]:
    """Wait until a query returns these values; return its series."""
    give_up = time.monotonic() + WATCHDOG_S
    while True:
        series: list[dict[str, Any]] = []
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=WATCHDOG_S)
            series = answer.json()["data"]["result"] if answer.is_success else []
        if {float(one["value"][1]) for one in series} == values:
            return series
        assert time.monotonic() < give_up, f"{query}: {series}"
        time.sleep(0.05)


def test_prometheus_scrapes_a_running_server(tmp_path: Path) -> None:
    tool("prometheus")
    (tmp_path / "serving").mkdir()
    publish_small(tmp_path / "serving", tmp_path / "models", made_at=this_hour())
    with (
        running_server(tmp_path, tmp_path / "models") as server,
        running_prometheus(tmp_path, server.url.removeprefix("http://")) as url,
    ):
        wait_for(url, 'up{job="btc_assets"}', {1})
        p_up = {one["p_up"] for one in httpx.get(f"{server.url}/v1/forecast").json()["horizons"]}
        series = wait_for(url, "btc_forecast_up_probability", p_up)
        assert {entry["metric"]["horizon_minutes"] for entry in series} == {"60", "240", "1440"}
        (age,) = httpx.get(f"{url}/api/v1/query", params={"query": "btc_data_age_seconds"}).json()["data"]["result"]
        assert abs(float(age["value"][1]) - (datetime.now(tz=UTC) - this_hour()).total_seconds()) < 10
        wait_for(url, "job:btc_http_errors:ratio_rate5m", {0})
        groups = httpx.get(f"{url}/api/v1/rules").json()["data"]["groups"]
        health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
        assert len(health) == len(rules())
        assert set(health.values()) <= {"ok", "unknown"}, "unknown: not evaluated yet"
        # Prometheus accepts every query of the dashboard.
        for query in dashboard_queries():
            if not query.startswith("label_values"):
                queried = query.replace("$role", "champion").replace("$window", "90d")
                assert httpx.get(f"{url}/api/v1/query", params={"query": queried}).is_success, query
