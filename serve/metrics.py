"""`/metrics` for Prometheus: requests as they are answered, and what the loaded bundle says.

Each app has a registry of its own. Every label is bounded: a route is the template of a route there is, never a path
somebody asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from serve.state import State, Watcher

UNMATCHED = "unmatched"
"""Route of a request that no route answers: 404 and 405."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper edges of the latencies; one row is predicted in half a millisecond, a thousand in tens of them."""


class Metrics:
    """Everything one app tells Prometheus."""

    def __init__(self, watcher: Watcher, clock: Callable[[], datetime]) -> None:
        """Measure an app that answers from what `watcher` holds; `clock` is what ages are measured by."""
        disable_created_metrics()  # a second series for each of ours, which nobody asks for
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "btc_http_requests_total",
            "Requests answered, by method, route template and status; status 'none': the client left before an answer.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._durations = Histogram(
            "btc_http_request_duration_seconds",
            "Time from a request's arrival to the last byte of its answer, by route template.",
            ["route"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._series: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        self._registry.register(_BundleCollector(watcher, clock))
        ProcessCollector(registry=self._registry)

    def page(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics as they are now and their content type, in the format that `accept` asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def measured(self, app: ASGIApp) -> ASGIApp:
        """Wrap an ASGI app so that each request is counted and timed."""

        async def measure(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP:
                await app(scope, receive, send)
                return
            status, began = "none", time.perf_counter()

            async def noting(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = str(message["status"])
                await send(message)

            try:
                await app(scope, receive, noting)
            finally:
                # The router leaves its template in the scope, and nothing where no route answers.
                self._note(scope["method"], scope.get("path_template", UNMATCHED), status, time.perf_counter() - began)

        return measure

    def _note(self, method: str, route: str, status: str, seconds: float) -> None:
        key = (method if method in METHODS else "other", route, status)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = (self._requests.labels(*key), self._durations.labels(route))
        series[0].inc()
        series[1].observe(seconds)


class _BundleCollector(Collector):
    """What is loaded, and how old it is at the time of the scrape."""

    def __init__(self, watcher: Watcher, clock: Callable[[], datetime]) -> None:
        self._watcher, self._clock = watcher, clock

    def collect(self) -> Iterator[Metric]:
        """Yield the families of the bundle loaded now."""
        state = self._watcher.state
        yield GaugeMetricFamily("btc_bundle_loaded", "1 once a published bundle is served, else 0.", state is not None)
        yield GaugeMetricFamily(
            "btc_bundle_fault",
            "1 while the bundle published last cannot be served or there is none, else 0; GET /ready says why.",
            self._watcher.fault is not None,
        )
        if state is not None:
            yield from self._of(state)

    def _of(self, state: State) -> Iterator[Metric]:
        now = self._clock()
        trained = datetime.combine(state.model.cutoff, datetime.min.time(), UTC)
        yield GaugeMetricFamily("btc_model_version", "Registry version of the model served.", state.model_version)
        yield GaugeMetricFamily(
            "btc_model_age_seconds",
            "Time since the cutoff of the model served; nothing after its cutoff was known to it.",
            (now - trained).total_seconds(),
        )
        yield GaugeMetricFamily(
            "btc_data_age_seconds",
            "Time since the newest published forecast was made, which is when its last bar closed.",
            (now - state.made_at).total_seconds(),
        )
        if state.published_at is not None:
            yield GaugeMetricFamily(
                "btc_publication_delay_seconds",
                "Time from the close of the newest forecast's last bar to the publication of that forecast.",
                (state.published_at - state.made_at).total_seconds(),
            )
        yield from state.figures
