"""Contract of every stream of `BTC_CONTEXT`: its service, its files, its asset, its features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from btc_assets.clock import HOUR, midnight
from btc_assets.features.engine import compute_features
from btc_assets.features.inputs import CLOCK, synthetic_inputs
from btc_assets.lake import Lake
from btc_assets.laws.laws import Engine, LawResult, availability, future_poisoning, prefix_invariance, warm_up
from btc_assets.market.gathering import Sources, asset_of, check_of, valid_rows
from btc_assets.market.streams import CONTEXT, chosen
from btc_assets.partitions import DAILY, key_of
from btc_assets.reads import lake_resources
from btc_assets.settings import Settings, SettingsError
from btc_assets.streams import Inputs, Stream
from btc_assets.transport import SourceMalformedError, SourceRefusedError, SourceUnavailableError
from btc_assets_tests.market.conftest import DAY, Answer, Exchange

pytestmark = pytest.mark.slow

END = DAY + timedelta(days=2)
STREAMS = {stream.name: stream for stream in CONTEXT}


def epoch(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def span_of(query: dict[str, str], first: str, last: str) -> tuple[int, int]:
    return int(query[first]), int(query[last])


@dataclass(frozen=True)
class Case:
    """How a service answers.

    Attributes:
        path: path of its endpoint.
        respond: query and the times of all rows (ms) to an answer, in pages.
        real: file of the shared data.
        per_page: rows of a page; 0 where there is one.
    """

    path: str
    respond: Callable[[dict[str, str], list[int]], Any]
    real: str
    per_page: int


def _funding(query: dict[str, str], times: list[int]) -> Any:
    first, last = span_of(query, "startTime", "endTime")
    rows = [at for at in times if first <= at + 3 <= last][: int(query["limit"])]
    return [{"symbol": "BTCUSDT", "fundingTime": at + 3, "fundingRate": f"{at % 97 / 1e6}"} for at in rows]


def _perpetual(query: dict[str, str], times: list[int]) -> Any:
    first, last = span_of(query, "startTime", "endTime")
    rows = [at for at in times if first <= at <= last][: int(query["limit"])]
    return [[at, "1", "9", "1", str(100 + at % 97), "5.5", at + 1, "9", 3, "1", "1", "0"] for at in rows]


def _dvol(query: dict[str, str], times: list[int]) -> Any:
    first, last = span_of(query, "start_timestamp", "end_timestamp")
    rows = [at for at in times if first <= at <= last]
    earlier = rows[-1001] if len(rows) > 1000 else None
    return {"result": {"data": [[at, 1, 9, 1, 50 + at % 7] for at in rows[-1000:]], "continuation": earlier}}


def _fear_greed(query: dict[str, str], times: list[int]) -> Any:
    rows = [{"value": str(at // 86_400_000 % 90), "timestamp": str(at // 1000)} for at in times[::-1]]
    return {"name": "Fear and Greed Index", "data": rows[: int(query["limit"])], "metadata": {"error": None}}


CASES = {
    "funding": Case("/fapi/v1/fundingRate", _funding, "btcusdt_funding_8h", 1000),
    "basis": Case("/fapi/v1/klines", _perpetual, "btcusdt_perp_1h", 1500),
    "dvol": Case("/api/v2/public/get_volatility_index_data", _dvol, "btc_dvol_1h", 1000),
    "fear_greed": Case("/fng/", _fear_greed, "fear_greed_daily", 0),
}


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    """Return a fake service."""
    server = Exchange()
    yield server
    server.close()


@pytest.fixture(params=list(STREAMS))
def stream(request: pytest.FixtureRequest) -> Stream:
    """Return each stream."""
    return STREAMS[request.param]


def settings_of(stream: Stream, **others: Any) -> Settings:
    """Return settings that turn a stream on, quick to give up."""
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        context=stream.name,
        history_start=DAY.date(),
        history_end=END.date() + timedelta(days=400),
        **({"http_attempts": 2, "http_max_wait_s": 0, "http_requests_per_second": 100} | others),
    )


def times_of(stream: Stream, days: int, first: datetime = DAY) -> list[int]:
    """Return the times (ms) of the rows of some days."""
    return [epoch(first + n * stream.cadence) for n in range(int(timedelta(days=days) / stream.cadence))]


def answering(exchange: Exchange, stream: Stream, days: int, first: datetime = DAY) -> Sources:
    """Let the fake service hold rows of some days, and return the sources that request it."""
    case, times = CASES[stream.name], times_of(stream, days, first)
    exchange.respond = lambda path, query: Answer(case.respond(query, times) if path == case.path else b"", 200)
    return Sources(settings_of(stream, context_urls={stream.name: exchange.url}))


# --- the live source -------------------------------------------------------------------------------


def test_every_stream_has_its_fake_service() -> None:
    assert set(CASES) == set(STREAMS)


def test_a_service_returns_the_rows_of_the_requested_days(stream: Stream, exchange: Exchange) -> None:
    rows = answering(exchange, stream, 4).fetch(stream, DAY + timedelta(days=1), DAY + timedelta(days=3))
    assert stream.contract.faults(rows) == []
    assert rows.height == timedelta(days=2) / stream.cadence
    assert rows.select(stream.contract.day.unique().sort()).to_series().to_list() == [
        DAY.date() + timedelta(days=n) for n in (1, 2)
    ]


def test_a_long_span_is_read_page_by_page(stream: Stream, exchange: Exchange) -> None:
    days = 380 if stream.cadence > HOUR else 90
    rows = answering(exchange, stream, days).fetch(stream, DAY, DAY + timedelta(days=days))
    assert rows.height == timedelta(days=days) / stream.cadence
    pages = -(-rows.height // CASES[stream.name].per_page) if CASES[stream.name].per_page else 1
    assert pages <= len(exchange.requests) <= pages + 1


def test_a_busy_service_is_retried(stream: Stream, exchange: Exchange) -> None:
    sources = answering(exchange, stream, 2)
    exchange.script = [Answer(status=429, headers={"Retry-After": "0"})]
    assert sources.fetch(stream, DAY, END).height == timedelta(days=2) / stream.cadence


def test_a_service_that_stays_busy_is_an_error(stream: Stream, exchange: Exchange) -> None:
    sources = answering(exchange, stream, 2)
    exchange.script = [Answer(status=429)] * 4
    with pytest.raises(SourceUnavailableError, match="429"):
        sources.fetch(stream, DAY, END)


def test_a_refusal_says_what_to_do(stream: Stream, exchange: Exchange) -> None:
    sources = answering(exchange, stream, 2)
    exchange.script = [Answer(status=403)]
    with pytest.raises(SourceRefusedError, match="BTC_CONTEXT"):
        sources.fetch(stream, DAY, END)


@pytest.mark.parametrize(
    "body", [{}, {"code": -1121}, [], [[1]], [{"a": 1}], {"result": {"data": [[1, 2]]}}, b"<html>"]
)
def test_a_malformed_answer_is_an_error_or_no_rows(stream: Stream, exchange: Exchange, body: Any) -> None:
    sources = answering(exchange, stream, 2)
    exchange.script = [Answer(body)] * 2
    if body == [] and stream.name in ("funding", "basis"):
        assert sources.fetch(stream, DAY, END).is_empty()
        return
    with pytest.raises(SourceMalformedError):
        sources.fetch(stream, DAY, END)


def test_an_answer_cut_short_is_an_error(stream: Stream, exchange: Exchange) -> None:
    sources = answering(exchange, stream, 2)
    whole = exchange.respond
    exchange.respond = lambda path, query: replace(whole(path, query), cut=True)
    with pytest.raises(SourceUnavailableError):
        sources.fetch(stream, DAY, END)


def test_a_value_that_is_not_a_number_is_named(exchange: Exchange) -> None:
    stream = STREAMS["funding"]
    sources = answering(exchange, stream, 2)
    exchange.script = [Answer([{"fundingTime": epoch(DAY), "fundingRate": "NaN"}])]
    with pytest.raises(SourceMalformedError, match="funding_rate is 'NaN'"):
        sources.fetch(stream, DAY, END)


# --- what may be stored ----------------------------------------------------------------------------


def rows_of(stream: Stream, days: int = 2, first: datetime = DAY) -> pl.DataFrame:
    """Return rows of some days."""
    time = stream.contract.key[0]
    times = pl.Series(time, [first + n * stream.cadence for n in range(int(timedelta(days=days) / stream.cadence))])
    values = [pl.lit(40.0).alias(name) for name in stream.contract.columns if name != time]
    return times.to_frame().with_columns(*values).cast(stream.contract.columns)  # type: ignore[arg-type]


def test_a_row_is_not_taken_before_it_is_available(stream: Stream) -> None:
    rows = rows_of(stream)
    for now in (DAY + timedelta(minutes=n) for n in range(0, 1500, 30)):
        taken = valid_rows(stream, rows, DAY, END, now, END)
        assert taken.height == rows.filter(stream.available_at <= now).height


def test_equal_rows_count_once_and_conflicting_rows_are_an_error(stream: Stream) -> None:
    rows = rows_of(stream)
    assert valid_rows(stream, pl.concat([rows, rows]), DAY, END, END, END).equals(
        rows.filter(stream.available_at <= END)
    )
    other = rows.head(1).with_columns(pl.col(list(stream.contract.columns)[1]) + 1)
    with pytest.raises(SourceMalformedError, match="two with different values"):
        valid_rows(stream, pl.concat([rows, other]), DAY, END, END, END)


def test_a_row_from_the_future_is_an_error(stream: Stream) -> None:
    with pytest.raises(SourceMalformedError, match="after now"):
        valid_rows(stream, rows_of(stream, 6), DAY, END, END, DAY + timedelta(days=1))


def test_a_value_that_breaks_the_contract_is_an_error(stream: Stream) -> None:
    column = list(stream.contract.columns)[1]
    with pytest.raises(SourceMalformedError, match=column):
        valid_rows(stream, rows_of(stream).with_columns(pl.lit(float("inf")).alias(column)), DAY, END, END, END)


def test_a_row_counts_for_an_hour_that_has_not_closed_before_it_is_available(stream: Stream) -> None:
    hours = rows_of(stream).select(early=stream.available_at > stream.hour.dt.offset_by("1h"))
    assert not hours["early"].any()


# --- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "csv", "milliseconds"])
def test_files_give_the_same_rows_as_the_service_would(stream: Stream, tmp_path: Path, kind: str) -> None:
    rows = rows_of(stream, 3)
    time = stream.contract.key[0]
    if kind == "parquet":
        rows.rename({time: time.upper()}).write_parquet(tmp_path / "some.parquet")
    elif kind == "csv":
        rows.write_csv(tmp_path / "some.csv")
    else:
        epochs = pl.col(time).cast(pl.Datetime("us", "UTC")).dt.epoch("ms")
        rows.with_columns(epochs.alias(time)).write_csv(tmp_path / "some.csv")
    sources = Sources(settings_of(stream, context_files={stream.name: str(tmp_path / "some.*")}))
    assert sources.fetch(stream, DAY, END).equals(rows.filter(stream.contract.day < END.date()))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("a,b\n1,2\n", "found no column"),
        ("HEADER\n2018-05-05,x,x,x\n", "line 2"),
        (None, "no .parquet"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(stream: Stream, tmp_path: Path, text: str | None, sentence: str) -> None:
    if text is not None:
        columns = list(stream.contract.columns)
        text = text.replace("HEADER", ",".join(columns)).replace(",x,x,x", ",x" * (len(columns) - 1))
        (tmp_path / "some.csv").write_text(text)
    sources = Sources(settings_of(stream, context_files={stream.name: str(tmp_path / "some.csv")}))
    with pytest.raises((SourceMalformedError, SourceRefusedError), match=sentence) as error:
        sources.fetch(stream, DAY, END)
    assert "BTC_CONTEXT_FILES" in str(error.value)


def test_the_real_files_are_read_whole(stream: Stream, shared_data: Path) -> None:
    path = shared_data / "market" / f"{CASES[stream.name].real}.parquet"
    first = midnight(date(2023, 1, 1))
    config = settings_of(stream, context_files={stream.name: str(path)})
    config = config.model_copy(update={"history_end": date(2025, 8, 1)})
    rows = Sources(config).fetch(stream, first, midnight(date(2025, 8, 1)))
    assert stream.contract.faults(rows) == []
    assert rows.height > 0.995 * (date(2025, 7, 31) - date(2023, 1, 1)) / stream.cadence


# --- the asset -------------------------------------------------------------------------------------


def run(stream: Stream, lake: Lake, sources: Sources, days: int = 2) -> dg.ExecuteInProcessResult:
    """Materialise some days of a stream with its check."""
    asset = asset_of(stream)
    definitions = dg.Definitions(
        assets=[asset],
        asset_checks=[check_of(stream, asset)],
        jobs=[dg.define_asset_job("some", selection=dg.AssetSelection.assets(asset))],
        resources={**lake_resources(lake), "sources": sources},
        executor=dg.in_process_executor,
    )
    tags = {
        "dagster/asset_partition_range_start": key_of(DAY.date()),
        "dagster/asset_partition_range_end": key_of(DAY.date() + timedelta(days=days - 1)),
    }
    return definitions.resolve_job_def("some").execute_in_process(tags=tags, raise_on_error=False)


def stored(stream: Stream, lake: Lake) -> pl.DataFrame:
    return lake.scan(stream.contract).collect()


def test_a_run_stores_a_partition_a_day_and_passes_its_check(
    stream: Stream, exchange: Exchange, tmp_path: Path
) -> None:
    lake = Lake(root=str(tmp_path))
    result = run(stream, lake, answering(exchange, stream, 4), 3)
    assert result.success
    assert lake.days(stream.contract) == [DAY.date() + timedelta(days=n) for n in range(3)]
    assert stored(stream, lake).height == timedelta(days=3) / stream.cadence
    assert all(one.passed for one in result.get_asset_check_evaluations())


def test_a_shorter_answer_loses_nothing_and_a_restated_row_replaces(
    stream: Stream, exchange: Exchange, tmp_path: Path
) -> None:
    lake = Lake(root=str(tmp_path))
    run(stream, lake, answering(exchange, stream, 2))
    before = stored(stream, lake)
    rows = before.tail(1).with_columns(pl.col(before.columns[1]) + 1)
    rows.write_parquet(tmp_path / "some.parquet")
    sources = Sources(settings_of(stream, context_files={stream.name: str(tmp_path / "some.parquet")}))
    assert run(stream, lake, sources).success
    assert stored(stream, lake).equals(pl.concat([before.head(-1), rows]))


@pytest.mark.parametrize("fault", [Answer(b"<html>"), Answer(status=500), Answer({"code": 1})])
def test_a_failed_run_leaves_what_is_stored_as_it_is(
    stream: Stream, exchange: Exchange, tmp_path: Path, fault: Answer
) -> None:
    lake = Lake(root=str(tmp_path))
    sources = answering(exchange, stream, 2)
    run(stream, lake, sources)
    before = stored(stream, lake)
    exchange.script = [fault] * 9
    assert not run(stream, lake, sources).success
    assert stored(stream, lake).equals(before)


def test_days_without_a_single_row_are_an_error(stream: Stream, exchange: Exchange, tmp_path: Path) -> None:
    lake = Lake(root=str(tmp_path))
    assert not run(stream, lake, answering(exchange, stream, 2, DAY + timedelta(days=300)), 3).success
    assert lake.days(stream.contract) == []


def test_a_gap_stays_a_gap_and_is_a_warning(stream: Stream, exchange: Exchange, tmp_path: Path) -> None:
    lake = Lake(root=str(tmp_path))
    sources = answering(exchange, stream, 5)
    case, times = CASES[stream.name], times_of(stream, 5)
    del times[len(times) // 2]
    exchange.respond = lambda _path, query: Answer(case.respond(query, times))
    result = run(stream, lake, sources, 5)
    assert stored(stream, lake).height == len(times)
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert evaluation.severity is dg.AssetCheckSeverity.WARN
    assert "1 gaps" in str(evaluation.description)


def test_an_asset_has_what_every_asset_has(stream: Stream) -> None:
    asset = asset_of(stream)
    spec = next(iter(asset.specs))
    assert spec.partitions_def == DAILY
    assert spec.freshness_policy is not None
    assert len(spec.description or "") > 80
    assert (spec.group_name, spec.kinds) == ("market", {"polars", "parquet"})


# --- its features ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    """Return made-up rows of the bars and of every stream, 45 days of them."""
    hours = pl.datetime_range(DAY, DAY + timedelta(days=45) - HOUR, "1h", time_unit="us", eager=True)
    return synthetic_inputs(hours, 5, (CLOCK, *CONTEXT))


@pytest.mark.parametrize("law", [prefix_invariance, future_poisoning, availability, warm_up])
def test_its_features_keep_the_laws(law: Callable[[Engine, Inputs], LawResult], stream: Stream, inputs: Inputs) -> None:
    result = law(lambda some: compute_features(some, stream.features), inputs.stressed())
    assert result.passed, result.detail


def test_its_features_are_known_and_unknown_without_it(stream: Stream, inputs: Inputs) -> None:
    names = [feature.name for feature in stream.features]
    made = compute_features(inputs, stream.features).select(names).tail(20)
    assert made.null_count().sum_horizontal().item() == 0
    without = Inputs({other: rows for other, rows in inputs.rows.items() if other is not stream})
    assert compute_features(without, stream.features).select(names).null_count().row(0) == (45 * 24,) * len(names)


def test_features_by_hand() -> None:
    """An hour gets the newest row that was available when it began."""
    hours = pl.datetime_range(DAY, DAY + timedelta(days=20) - HOUR, "1h", time_unit="us", eager=True)
    some = synthetic_inputs(hours, 5, (CLOCK, *CONTEXT))
    features = [feature for stream in CONTEXT for feature in stream.features]
    at = DAY + timedelta(days=12, hours=13)
    row = compute_features(some, features).filter(open_time=at).row(0, named=True)

    def value(name: str, time: Any) -> float:
        stream = STREAMS[name]
        key, column = some.rows[stream].frame.columns[:2]
        return some.rows[stream].frame.filter(pl.col(key) == time)[column].item()

    def close(time: datetime) -> float:
        return some.clock.filter(open_time=time)["close"].item()

    day = timedelta(days=1)
    assert row["funding_rate"] == value("funding", at.replace(hour=8))
    change = value("funding", at.replace(hour=8)) - value("funding", at.replace(hour=8) - day)
    assert row["funding_rate_change_24h"] == pytest.approx(change)
    basis = [value("basis", time - HOUR) / close(time - HOUR) - 1 for time in (at, at - day)]
    assert row["basis"] == pytest.approx(basis[0])
    assert row["basis_change_24h"] == pytest.approx(basis[0] - basis[1])
    assert row["dvol"] == value("dvol", at - HOUR)
    assert row["fear_greed"] == value("fear_greed", at.date())
    assert row["fear_greed_change_168h"] == value("fear_greed", at.date()) - value("fear_greed", at.date() - 7 * day)


# --- the setting -----------------------------------------------------------------------------------


def test_an_unknown_stream_is_an_error_that_lists_the_streams() -> None:
    with pytest.raises(SettingsError, match="BTC_CONTEXT: 'fundng' is not a stream; choose from funding, basis"):
        chosen(["fundng"])


def test_streams_come_in_their_own_order() -> None:
    assert [stream.name for stream in chosen(["dvol", "funding"])] == ["funding", "dvol"]
