"""Properties of every service's source, for any response."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from btc_assets.news.addresses import web_address
from btc_assets.news.plain_text import SUMMARY_CHARACTERS, TITLE_CHARACTERS, plain_text
from btc_assets.news.sources.answer import Entry, EntryError, drop_repeats, parse_items, parse_time, preview, redact
from btc_assets.news.sources.protocol import Delivery, Item
from btc_assets.transport import SourceError, SourceMalformedError, SourceRefusedError, SourceUnavailableError
from btc_assets_tests.market.conftest import Answer, Exchange
from btc_assets_tests.news.sources.services import (
    DAY,
    NEXT,
    NOW,
    SECRET,
    SERVICES,
    Service,
    reset,
    run_server,
    transport,
)

MINUTE = timedelta(minutes=1)
KEYED = [service for service in SERVICES if service.name.startswith("crypto")]
every_service = pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"


@pytest.fixture(scope="module")
def module_server() -> Iterator[Exchange]:
    with run_server() as server:
        yield server


@pytest.fixture
def server(module_server: Exchange) -> Exchange:
    return reset(module_server)


@pytest.fixture
def slow_server() -> Iterator[Exchange]:
    """Run a server for one test, so that its late requests do not reach the next test."""
    with run_server() as server:
        yield server


def fetch(service: Service, server: Exchange, *script: Answer, **limits: float) -> Delivery:
    """Fetch from a service that sends these answers and then empty ones."""
    server.script = list(script)
    server.respond = lambda path, query: Answer(service.answer([]))
    return service.source(transport(server, **limits)).fetch(DAY, NEXT, NOW)


def stated_time(item: Item) -> datetime | None:
    """Return the publication time or, for GDELT, the first-seen time."""
    return item.first_seen_at or item.published_at


# --- good answers ----------------------------------------------------------------------------------
@every_service
def test_an_answer_becomes_items(service: Service, server: Exchange) -> None:
    delivery = fetch(service, server, Answer(service.answer(service.entries(3))))
    assert delivery.faults == []
    assert len(delivery.items) == 3
    lag = timedelta(minutes=15) if service.name == "gdelt" else timedelta(0)
    for number, item in enumerate(delivery.items):
        assert item.source == service.name
        assert item.title.startswith("Bitcoin")
        assert item.title.endswith(str(number))
        assert item.summary == (f"Text & more {number}" if service.body else "")
        assert stated_time(item) == NOW - (number + 1) * MINUTE + lag
        assert item.guid
        assert item.outlet
        assert web_address(item.url) == item.url
    assert delivery.items[0].kind in service.source(transport(server)).kinds


@every_service
def test_an_empty_answer_is_not_an_error(service: Service, server: Exchange) -> None:
    assert fetch(service, server, Answer(service.answer([]))) == Delivery([])


@every_service
def test_a_repeated_text_is_delivered_once(service: Service, server: Exchange) -> None:
    entries = service.entries(3)
    delivery = fetch(service, server, Answer(service.answer([*entries, entries[1]])))
    assert [item.guid for item in delivery.items] == list(dict.fromkeys(item.guid for item in delivery.items))
    assert len(delivery.items) == 3


@every_service
def test_a_future_span_needs_no_request(service: Service, server: Exchange) -> None:
    server.respond = lambda path, query: Answer(service.answer([]))
    source = service.source(transport(server))
    assert source.fetch(NEXT + timedelta(days=5), NEXT + timedelta(days=6), NOW) == Delivery([])
    if service.name not in ("reddit", "cryptopanic"):  # these always list their latest entries
        assert server.requests == []


# --- faults of the service -------------------------------------------------------------------------
@every_service
def test_a_temporary_failure_is_retried(service: Service, server: Exchange) -> None:
    busy, broken = Answer(status=429, headers={"Retry-After": "0.02"}), Answer(status=503)
    delivery = fetch(service, server, busy, broken, Answer(service.answer(service.entries(2))))
    assert len(delivery.items) == 2


@every_service
def test_a_long_retry_after_is_an_error(service: Service, server: Exchange) -> None:
    with pytest.raises(SourceUnavailableError, match=r"HTTP 429, .* 3600 s"):
        fetch(service, server, Answer(status=429, headers={"Retry-After": "3600"}))
    assert len(server.requests) == 1


@every_service
def test_a_lasting_failure_is_reported(service: Service, server: Exchange) -> None:
    with pytest.raises(SourceUnavailableError, match=r"HTTP 503, .* gave up after 3 attempts"):
        fetch(service, server, *[Answer(status=503)] * 3)


@every_service
@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_contains_the_remedy(status: int, service: Service, server: Exchange) -> None:
    with pytest.raises(SourceRefusedError, match=f"HTTP {status}, .*check BTC_SOMETHING"):
        fetch(service, server, Answer(status=status), Answer(status=status))


@every_service
def test_a_web_page_is_refused(service: Service, server: Exchange) -> None:
    page = Answer(HTML, headers={"Content-Type": "text/html"})
    with pytest.raises(SourceMalformedError, match=r"page"):
        fetch(service, server, page, page)
    assert len(server.requests) <= 2


@every_service
@pytest.mark.parametrize("cut", [1, 200])
def test_a_truncated_answer_is_refused(cut: int, service: Service, server: Exchange) -> None:
    half = Answer(json.dumps(service.answer(service.entries(3))).encode()[:-cut])
    with pytest.raises(SourceMalformedError, match=r"not JSON|not an RSS or Atom"):
        fetch(service, server, half, half)


@every_service
@pytest.mark.parametrize(
    "body", [{"status": "ok"}, {"hits": {}, "data": [], "articles": 5, "results": "x", "Data": {}}]
)
def test_an_answer_of_another_shape_is_refused(body: Any, service: Service, server: Exchange) -> None:
    with pytest.raises(
        SourceMalformedError, match=f"{service.name}.*(expected a list of entries|not an RSS or Atom feed)"
    ):
        fetch(service, server, Answer(body), Answer(body))


@every_service
@pytest.mark.parametrize(
    "body", [b"[]", b"null", b'"sorry"', b"7", b"", b'{"a":' * 100_000], ids=lambda body: str(body[:8])
)
def test_an_answer_that_is_not_an_object_is_refused(body: bytes, service: Service, server: Exchange) -> None:
    with pytest.raises(SourceError):
        fetch(service, server, *[Answer(body)] * 3)


# --- faults of single entries ----------------------------------------------------------------------
UNREADABLE = (None, "", " \u200b\u202e ", "<script>1</script>", 7, ["Bitcoin"], {"a": "b"}, True)


@every_service
def test_an_entry_without_a_title_is_left_out(service: Service, server: Exchange) -> None:
    entries = service.entries(len(UNREADABLE) + 2)
    for entry, title in zip(entries[1:], UNREADABLE, strict=False):
        entry["title"] = title
    delivery = fetch(service, server, Answer(service.answer(entries)))
    assert [item.title[-1] for item in delivery.items] == ["0", "9"]
    unreadable, not_text = delivery.faults
    assert unreadable.startswith(f"{service.name}: 4 of 10 entries have no readable title and were left out")
    assert unreadable.endswith("the first is entry 2: None.")
    assert not_text.startswith(f"{service.name}: 4 of 10 entries have a title that is not text ")
    assert not_text.endswith("the first is entry 6: 7.")


INVALID_IDS = (None, "", [], {}, True, "x" * 300, "x" * 3_000)


@pytest.mark.parametrize(
    "service", [service for service in SERVICES if service.name != "cryptopanic"], ids=lambda service: service.name
)
def test_an_entry_without_a_valid_id_is_left_out(service: Service, server: Exchange) -> None:
    entries = service.entries(len(INVALID_IDS) + 3)
    for entry, name in zip(entries[1:], INVALID_IDS, strict=False):
        entry |= {service.id: name, "guid": None}
    del entries[-2][service.id]
    entries[-2]["guid"] = None
    delivery = fetch(service, server, Answer(service.answer(entries)))
    assert [item.title[-1] for item in delivery.items] == ["0", "9"]
    assert len(delivery.faults) == 1
    assert f"{service.name}: 8 of 10 entries have " in delivery.faults[0]
    assert delivery.faults[0].endswith(" and were left out, the first is entry 2: None.")


@every_service
def test_an_entry_that_is_not_an_object_is_left_out(service: Service, server: Exchange) -> None:
    broken = [None, 7, "text", ["x"], [[]]]
    entries = service.entries(3)
    delivery = fetch(service, server, Answer(service.answer([entries[0], *broken, *entries[1:]])))
    assert len(delivery.items) == 3
    assert delivery.faults == [
        f"{service.name}: 5 of 8 entries are not objects and were left out, the first is entry 2: None."
    ]


@every_service
def test_a_text_of_another_type_is_left_out(service: Service, server: Exchange) -> None:
    if not service.body:
        pytest.skip("it has only titles")
    entries = service.entries(2)
    entries[0][service.body] = {"html": "<b>"}
    delivery = fetch(service, server, Answer(service.answer(entries)))
    assert len(delivery.items) == 1
    assert f"have a {service.body} that is not text " in delivery.faults[0]
    assert "entry 1: an object with 'html'" in delivery.faults[0]


@every_service
def test_many_invalid_entries_give_one_message(service: Service, server: Exchange) -> None:
    entries = [entry | {"title": None} for entry in service.entries(90)]
    delivery = fetch(service, server, Answer(service.answer(entries)))
    assert len(delivery.faults) == 1
    assert delivery.faults[0].startswith(f"{service.name}: 90 of 90 entries have no readable title")


UNDATED = (
    None, "", "soon", "2026-13-45T99:00:00Z", -1, 0, 10**30, -(10**30), 1e308, True, [], {}, "20261301T000000Z",
)  # fmt: skip


@every_service
def test_a_text_with_an_unreadable_date_is_kept_without_a_date(service: Service, server: Exchange) -> None:
    entries = service.entries(len(UNDATED) + 2)
    for entry, value in zip(entries[1:], UNDATED, strict=False):
        entry[service.time] = value
    delivery = fetch(service, server, Answer(service.answer(entries)))
    assert delivery.faults == []
    assert [stated_time(item) is None for item in delivery.items] == [False, *[True] * len(UNDATED), False]
    assert {item.precision for item in delivery.items[1:-1]} == {"none"}


@every_service
def test_a_date_in_the_future_counts_as_missing(service: Service, server: Exchange) -> None:
    entries = service.entries(4)
    entries[0][service.time] = service.format_time(NOW + timedelta(days=400))
    entries[1][service.time] = service.format_time(NOW + timedelta(minutes=6))
    entries[2][service.time] = service.format_time(NOW + timedelta(minutes=4))
    items = fetch(service, server, Answer(service.answer(entries))).items
    assert [stated_time(item) is None for item in items] == [True, True, False, False], "clocks may differ by 5 minutes"


@every_service
def test_hostile_text_becomes_plain_text(service: Service, server: Exchange) -> None:
    hostile = [
        "<img src=x onerror=alert(1)>Bitcoin <b>falls</b> &lt;script&gt;alert(2)&lt;/script&gt;",
        "Bitcoin \u202egnitirw\u202c \u0007\u0000\u200b rises\ufeff",
        "Bitcoin " + "A" * 1_000_000,
        "Bitcoin &amp;amp;lt;b&amp;amp;gt; " * 2_000,
        "Bitcoin \ud800 alone",
        "'; DROP TABLE articles; -- Bitcoin",
    ]
    entries = [
        entry | {"title": text} | ({service.body: text} if service.body else {})
        for entry, text in zip(service.entries(len(hostile)), hostile, strict=True)
    ]
    delivery = fetch(service, server, Answer(service.answer(entries)))
    assert len(delivery.items) == len(hostile)
    for item in delivery.items:
        assert "Bitcoin" in item.title
        assert len(item.title) <= TITLE_CHARACTERS
        assert len(item.summary) <= SUMMARY_CHARACTERS
        assert plain_text(item.title, TITLE_CHARACTERS) == item.title, "already plain"
        assert plain_text(item.summary) == item.summary
        assert "<" not in item.title + item.summary
    assert delivery.items[5].title == "'; DROP TABLE articles; -- Bitcoin"


@every_service
def test_an_invalid_address_is_not_delivered(service: Service, server: Exchange) -> None:
    urls = ["javascript:alert(1)", "file:///etc/passwd", "https://user:pw@bank.example/", "//x", "x" * 5_000, 7, None]
    entries = [
        entry | {"url": url, "original_url": url, "permalink": url, "guid": "a-name"}
        for entry, url in zip(service.entries(len(urls)), urls, strict=True)
    ]
    delivery = fetch(service, server, Answer(service.answer(entries)))
    assert all(not item.url or web_address(item.url) == item.url for item in delivery.items)
    assert len(delivery.items) == (0 if service.name == "gdelt" else len(urls)), (
        "the address is the only id of its articles"
    )


# --- keys ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("service", KEYED, ids=lambda service: service.name)
@pytest.mark.parametrize(
    "answers",
    [
        [Answer(status=401)],
        [Answer(status=403)],
        [Answer(status=404)],
        [Answer(status=302, headers={"Location": f"/login?key={SECRET}"})],
        [Answer(status=429, headers={"Retry-After": "3600"})],
        [Answer(status=503)] * 3,
        [Answer(f"Invalid token {SECRET}".encode())],
        [Answer({"info": f"Token {SECRET} not found", SECRET: 1})],
        [Answer({"Response": "Error", "Message": f"{SECRET} is not a key"})],
        [Answer({"Response": "Error", "Message": f"{SECRET} is over its rate limit"})],
        [Answer(b"{}", cut=True)] * 3,
        [Answer({}, delay_s=0.6)] * 3,
    ],
    ids=str,
)
def test_errors_and_logs_do_not_contain_the_key(
    answers: list[Answer], service: Service, slow_server: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    server = slow_server
    caplog.set_level(logging.INFO)
    with pytest.raises(SourceError) as error:
        fetch(service, server, *answers, timeout_s=0.3)
    assert error.value.__suppress_context__
    assert error.value.__cause__ is None
    assert SECRET not in str(error.value) + caplog.text
    assert service.name == "cryptopanic" or server.headers[0]["Authorization"] == f"Apikey {SECRET}"
    assert service.name == "cryptocompare" or server.requests[0][1]["auth_token"] == SECRET


@pytest.mark.parametrize("service", KEYED, ids=lambda service: service.name)
def test_messages_about_entries_do_not_contain_the_key(
    service: Service, server: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    entries = [{"title": SECRET, service.id: []}, {"title": {SECRET: 1}, service.id: 5}, SECRET]
    delivery = fetch(service, server, Answer(service.answer(entries)))
    assert len(delivery.faults) >= 1
    assert SECRET not in "".join(delivery.faults) + caplog.text


def test_every_spelling_of_a_key_is_redacted() -> None:
    assert redact("a k/e+y= and k%2Fe%2By%3D", "k/e+y=") == "a *** and ***"
    assert redact("nothing to hide", "") == "nothing to hide"


# --- laws ------------------------------------------------------------------------------------------
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@every_service
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_entry_becomes_an_item_or_a_message(service: Service, data: st.DataObject) -> None:
    complete = service.entry(1, NOW - MINUTE)
    entries = [
        data.draw(
            st.one_of(
                JSON, st.fixed_dictionaries({}, optional=dict.fromkeys(complete, JSON)).map(lambda x: complete | x)
            )
        )
        for _ in range(3)
    ]
    source: Any = service.source(None)  # type: ignore[arg-type]
    read = {
        "hacker_news": lambda entry: source._item(entry, NEXT, NOW),
        "reddit": lambda entry: source._item(entry, "Bitcoin", NEXT, NOW),
    }.get(service.name, getattr(source, "_item", None))
    items, faults = parse_items(service.name, entries, NOW, read)
    left_out = sum(int(fault.split()[1]) for fault in faults)
    assert len(items) + left_out <= 3
    assert service.name == "reddit" or len(items) + left_out == 3, (
        "only Reddit's pinned posts are left out without a message"
    )
    for item in items:
        assert item.title
        assert item.guid
        assert item.published_at is None or item.published_at.tzinfo is UTC
        assert not item.url or web_address(item.url)


@settings(deadline=None)
@given(st.datetimes(datetime(1973, 4, 1), datetime(2200, 1, 1)))
def test_every_format_of_a_time_is_parsed(at: datetime) -> None:
    at = at.replace(microsecond=0, tzinfo=UTC)
    seconds = int(at.timestamp())
    spellings = [seconds, float(seconds), str(seconds), seconds * 1_000, f"{seconds}000", seconds * 10**6]
    for value in [*spellings, seconds * 10**9, at.isoformat(), at.astimezone(None).isoformat()]:
        written = parse_time(value)
        assert written is not None, value
        assert (written.at, written.precision) == (at, "second"), value


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(JSON)
def test_any_json_value_is_a_time_or_none(value: Any) -> None:
    written = parse_time(value)
    assert written is None or written.at.tzinfo is UTC


def test_a_written_time_without_a_zone_is_none() -> None:
    assert parse_time("2026-11-21T12:00:00") is None
    entry = Entry({"at": "Sat, 21 Nov 2026 08:00:00 GMT-2", "day": "2026-11-20Z", "ahead": "2036-11-21T12:00Z"}, NOW)
    assert entry.time("at") == (datetime(2026, 11, 21, 10, tzinfo=UTC), "second")
    assert entry.time("day") == (datetime(2026, 11, 20, tzinfo=UTC), "day")
    assert entry.time("ahead") == entry.time("absent") == (None, "none")


def test_a_preview_is_short_and_printable() -> None:
    assert preview("a\u202eb\x1b[31m" + "x" * 1_000)[:20] == "'a\\u202eb\\x1b[31mxxx"
    assert len(preview("x" * 1_000)) == 60
    assert preview({"k" * 100: 1, 2: 3}) == f"an object with {'k' * 20!r}, '2'"
    assert preview([1, 2]) == "a list of 2"


def test_entries_without_an_id_are_not_repeats() -> None:
    assert drop_repeats([{"id": 1}, {}, "x", {"id": 1}, {"id": []}, {"id": []}], "id") == [
        {"id": 1}, {}, "x", {"id": []}, {"id": []},
    ]  # fmt: skip


def test_an_entry_reports_an_invalid_value() -> None:
    entry = Entry({"n": 1, "t": "x", "big": 10**400, "inf": float("inf"), "f": 3.9}, NOW)
    with pytest.raises(EntryError, match="entries have a n that is not text: 1"):
        entry.text("n")
    assert entry.text("absent") == ""
    assert [entry.count(name) for name in ("n", "t", "big", "inf", "f", "absent")] == [1, None, None, None, 3, None]
