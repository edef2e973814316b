"""One GET: bounded in tries, waits, size and rate."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from btc_assets.market.sources.protocol import SourceMalformedError, SourceUnavailableError
from btc_assets.market.sources.transport import Limits, Transport
from btc_assets_tests.market.conftest import Answer, Exchange, transport


@pytest.mark.parametrize("status", [418, 429, 503])
def test_retry_after_is_waited_for(status: int, exchange: Exchange) -> None:
    exchange.script = [Answer(status=status, headers={"Retry-After": "0.3"}), Answer({"ok": 1})]
    start = time.monotonic()
    assert transport(exchange, max_wait_s=2.0).json("/x", {}) == {"ok": 1}
    assert time.monotonic() - start >= 0.3


def test_retry_after_may_be_a_date(exchange: Exchange) -> None:
    at = format_datetime(datetime.now(tz=UTC) + timedelta(hours=2), usegmt=True)
    exchange.script = [Answer(status=429, headers={"Retry-After": at})]
    with pytest.raises(SourceUnavailableError, match=r"come back in 7\d\d\d s"):
        transport(exchange).json("/x", {})


def test_a_retry_after_nobody_can_read_falls_back_to_our_own_wait(exchange: Exchange) -> None:
    exchange.script = [Answer(status=429, headers={"Retry-After": "soon"}), Answer([1])]
    assert transport(exchange).json("/x", {}) == [1]


def test_tries_are_counted(exchange: Exchange) -> None:
    exchange.respond = lambda path, query: Answer(status=500)
    with pytest.raises(SourceUnavailableError, match="given up after 2 tries"):
        transport(exchange, attempts=2).json("/x", {})
    assert len(exchange.requests) == 2


def test_a_refusal_is_not_tried_again(exchange: Exchange) -> None:
    exchange.respond = lambda path, query: Answer(status=404)
    assert transport(exchange).content_if_found("/x") is None
    assert len(exchange.requests) == 1


def test_an_answer_without_end_is_given_up(exchange: Exchange) -> None:
    exchange.script = [Answer(b"[" + b"1," * 5000)]
    with pytest.raises(SourceMalformedError, match="larger than 1000 bytes"):
        transport(exchange, body_bytes=1000).json("/x", {})


def test_the_rate_is_kept(exchange: Exchange) -> None:
    exchange.respond = lambda path, query: Answer([])
    limited = transport(exchange, requests_per_second=20.0)
    start = time.monotonic()
    for _ in range(5):
        limited.json("/x", {})
    assert time.monotonic() - start >= 4 / 20


def test_nobody_there_is_unavailable() -> None:
    nobody = Transport("http://127.0.0.1:9", Limits(attempts=2, max_wait_s=0.01, requests_per_second=1000))
    with pytest.raises(SourceUnavailableError, match="the connection failed"):
        nobody.json("/x", {})


def test_credentials_reach_the_gateway_and_no_message(exchange: Exchange, caplog: pytest.LogCaptureFixture) -> None:
    exchange.script = [Answer([]), Answer(status=500)]
    caplog.set_level("DEBUG")
    secret = Transport(
        exchange.url.replace("http://", "http://reader:s3cret@"), Limits(attempts=1, requests_per_second=1000)
    )
    secret.json("/x", {})
    assert exchange.headers[0]["Authorization"].startswith("Basic ")
    with pytest.raises(SourceUnavailableError) as error:
        secret.json("/x", {})
    assert "s3cret" not in str(error.value) + caplog.text
