"""`/metrics` for Prometheus: HTTP requests and the metrics of the loaded bundle.

Each app has its own registry. Every label is bounded: the route label is the template of an existing route, never a
requested path.
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
"""Route label of requests without a matching route: 404 and 405."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Bucket edges of request durations, seconds; one row takes about 0.5 ms and a thousand rows tens of ms."""


class Metrics:
    """The Prometheus metrics of one app."""

    def __init__(self, watcher: Watcher, clock: Callable[[], datetime]) -> None:
        """Create the metrics of an app that serves the state of `watcher`; `clock` determines ages."""
        disable_created_metrics()  # avoid an extra series per counter
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "btc_http_requests_total",
            "Requests by method, route template and status; status 'none': the client disconnected first.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._durations = Histogram(
            "btc_http_request_duration_seconds",
            "Time from the arrival of a request to the last byte of its response, by route template.",
            ["route"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._series: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        self._registry.register(_BundleCollector(watcher, clock))
        ProcessCollector(registry=self._registry)

    def page(self, accept: str) -> tuple[bytes, str]:
        """Return the current metrics in the format of the `accept` header, and their content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Wrap an ASGI app to count and time each request."""

        async def measure(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP:
                await app(scope, receive, send)
                return
            status, start = "none", time.perf_counter()

            async def send_and_record(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = str(message["status"])
                await send(message)

            try:
                await app(scope, receive, send_and_record)
            finally:
                # The router sets the template in the scope of a matching route only.
                self._record(
                    scope["method"], scope.get("path_template", UNMATCHED), status, time.perf_counter() - start
                )

        return measure

    def _record(self, method: str, route: str, status: str, seconds: float) -> None:
        key = (method if method in METHODS else "other", route, status)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = (self._requests.labels(*key), self._durations.labels(route))
        series[0].inc()
        series[1].observe(seconds)


class _BundleCollector(Collector):
    """Collects the metrics of the loaded bundle, with ages at the time of the scrape."""

    def __init__(self, watcher: Watcher, clock: Callable[[], datetime]) -> None:
        self._watcher, self._clock = watcher, clock

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families of the loaded bundle."""
        state = self._watcher.state
        yield GaugeMetricFamily("btc_bundle_loaded", "1 once a published bundle is served, else 0.", state is not None)
        yield GaugeMetricFamily(
            "btc_bundle_fault",
            "1 while there is no bundle or the newest cannot be served, else 0; GET /ready has the reason.",
            self._watcher.fault is not None,
        )
        if state is not None:
            yield from self._of(state)

    def _of(self, state: State) -> Iterator[Metric]:
        now = self._clock()
        trained = datetime.combine(state.model.cutoff, datetime.min.time(), UTC)
        yield GaugeMetricFamily("btc_model_version", "Registry version of the served model.", state.model_version)
        yield GaugeMetricFamily(
            "btc_model_age_seconds",
            "Time since the cutoff of the served model; its training data ends at the cutoff.",
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
