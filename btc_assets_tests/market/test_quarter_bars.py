"""Quarter bars: their venues and files, the asset, its checks, and the laws of the stream."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from btc_assets.automation.jobs import refresh_forecast
from btc_assets.clock import HOUR, QUARTER
from btc_assets.features.assets import hourly_features
from btc_assets.features.inputs import CLOCK, synthetic_inputs
from btc_assets.features.tables import HOURLY_FEATURES
from btc_assets.lake import Lake
from btc_assets.laws.laws import Engine, LawResult, availability, future_poisoning, prefix_invariance
from btc_assets.market.assets import prices, quarter_bars
from btc_assets.market.bars import clean
from btc_assets.market.checks import quarters_make_the_hour, quarters_present
from btc_assets.market.quarter_bars import (
    QUARTER_BARS,
    QUARTER_STREAM,
    as_quarter_bars,
    hours_that_differ,
    hours_without_quarters,
    whole_hours,
)
from btc_assets.market.resources import Market
from btc_assets.market.sources.choose import quarter_source_of
from btc_assets.market.sources.files import FileSource
from btc_assets.market.sources.protocol import MarketSource
from btc_assets.market.synthetic import quarters_of, random_walk
from btc_assets.market.tables import PRICES
from btc_assets.partitions import key_of
from btc_assets.reads import lake_resources
from btc_assets.settings import Settings
from btc_assets.streams import Inputs, every_hour
from btc_assets.transport import SourceMalformedError, SourceRefusedError, SourceUnavailableError
from btc_assets_tests.market.conftest import DAY, Answer, Exchange, candle, kline, kraken_row, ms

NEXT = DAY + timedelta(days=1)
NOW = DAY + timedelta(hours=6, minutes=7)
"""Six hours and no further quarter of the day have closed."""
HOURS = random_walk(24, seed=3, start=DAY)
QUARTERS = quarters_of(HOURS, seed=3)
TIMES = [DAY + n * QUARTER for n in range(4 * 6 + 1)]


def history(**values: Any) -> Settings:
    """Return settings of a history that ends with the day, quick to give up."""
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        history_start=DAY.date() - timedelta(days=1),
        history_end=NEXT.date(),
        **({"http_attempts": 2, "http_max_wait_s": 0, "http_requests_per_second": 100} | values),
    )


class Fixed:
    """A source of given bars, or one that fails."""

    venues: tuple[str, ...] = ("random walk",)

    def __init__(self, frame: pl.DataFrame | Exception, venue: str = "random walk", step: timedelta = QUARTER) -> None:
        self.frame, self.venue, self.step = frame, venue, step

    def fetch(self, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
        if isinstance(self.frame, Exception):
            raise self.frame
        return self.frame.filter(pl.col("open_time").is_between(first, min(last, now - self.step + HOUR / 60)))


def as_bars(quarters: pl.DataFrame) -> pl.DataFrame:
    """Return quarter bars with the columns of a source."""
    return quarters.with_columns(pl.lit(None, pl.Float64).alias("taker_buy_quote_volume")).select(list(PRICES.columns))


def store(lake: Lake, hours: pl.DataFrame = HOURS, quarters: pl.DataFrame | None = None) -> None:
    """Store hours of the day and, if given, its quarter bars."""
    lake.write(PRICES, DAY.date(), hours)
    if quarters is not None:
        lake.write(QUARTER_BARS, DAY.date(), quarters)


def run(
    lake: Lake, source: MarketSource | None, now: datetime = NEXT, *, required: bool = True, **market: Any
) -> dg.ExecuteInProcessResult:
    """Materialise the quarter bars of the day from a source."""
    closed = Market(Fixed(HOURS, step=HOUR), lambda: now, quarters=source, **market)
    return dg.materialize(
        [dg.AssetSpec(PRICES.asset_key, partitions_def=prices.partitions_def), quarter_bars],
        resources={**lake_resources(lake), "market": closed},
        partition_key=key_of(DAY.date()),
        run_config={"ops": {"market__quarter_bars": {"config": {"required": required}}}},
        selection=[quarter_bars],
        raise_on_error=False,
    )


def stored(lake: Lake) -> pl.DataFrame | None:
    return lake.read(QUARTER_BARS, DAY.date())


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    event = result.asset_materializations_for_node("market__quarter_bars")[-1]
    return {name: value.value for name, value in event.metadata.items()}


# --- venues ------------------------------------------------------------------------------------------
def venues(times: list[datetime], down: tuple[str, ...] = ()) -> Callable[[str, dict[str, str]], Answer]:
    """Return a server that plays the three venues with quarter bars at these times."""

    def respond(path: str, query: dict[str, str]) -> Answer:
        venue = {"api": "binance", "products": "coinbase", "0": "kraken"}[path.split("/")[1]]
        if venue in down:
            return Answer(status=451)
        if venue == "binance" and query["interval"] == "15m":
            first, last = int(query["startTime"]), int(query["endTime"])
            return Answer([kline(at) for at in times if first <= ms(at) <= last][: int(query["limit"])])
        if venue == "coinbase" and query["granularity"] == "900":
            start, end = (datetime.fromisoformat(query[name]) for name in ("start", "end"))
            found = [candle(at) for at in times if start <= at <= end]
            return Answer(found[::-1]) if len(found) <= 300 else Answer(status=400)
        if venue == "kraken" and query["interval"] == "15":
            since = int(query["since"])
            rows = [kraken_row(at) for at in times if at.timestamp() > since]
            return Answer({"error": [], "result": {"XXBTZUSD": rows, "last": 0}})
        return Answer(status=400)

    return respond


def live(exchange: Exchange, name: str) -> Settings:
    """Return settings of a venue whose server is the fake exchange."""
    urls = {f"{venue}_url": exchange.url for venue in ("binance", "coinbase", "kraken")}
    return history(market_source=name, news_sources="none", **urls)


@pytest.mark.parametrize("name", ["binance", "coinbase", "auto"])
def test_each_venue_is_requested_for_quarters_page_by_page(name: str, exchange: Exchange) -> None:
    times = [DAY + n * QUARTER for n in range(4 * 24 * 12)]  # more than a page of either venue
    exchange.respond = venues(times)
    source = quarter_source_of(live(exchange, name))
    assert source is not None
    frame = source.fetch(DAY, times[-1] + QUARTER, times[-1] + QUARTER)
    assert frame["open_time"].to_list() == times
    assert QUARTER_BARS.faults(as_quarter_bars(frame, source.step)) == []


def test_kraken_has_the_newest_180_hours_of_quarters(exchange: Exchange) -> None:
    now = datetime.now(tz=UTC).replace(minute=0, second=0, microsecond=0)
    times = [now - n * QUARTER for n in range(8, 0, -1)]
    exchange.respond = venues(times)
    source = quarter_source_of(live(exchange, "kraken"))
    assert source is not None
    assert source.fetch(times[0], now, now)["open_time"].to_list() == times
    with pytest.raises(SourceRefusedError, match="kraken serves only the newest 180 hours"):
        source.fetch(now - timedelta(days=8), now, now)


@pytest.mark.parametrize("name", ["binance", "coinbase"])
def test_a_quarter_that_is_still_open_is_left_out(name: str, exchange: Exchange) -> None:
    exchange.respond = venues(TIMES)
    source = quarter_source_of(live(exchange, name))
    assert source is not None
    assert source.fetch(DAY, NEXT, NOW)["open_time"].to_list() == TIMES[:-1]


def test_quarters_begin_with_the_venue_of_the_hours_and_fail_over_like_them(exchange: Exchange, lake: Lake) -> None:
    exchange.respond = venues(TIMES)
    market = Market.from_settings(live(exchange, "auto"))
    store(lake, HOURS.with_columns(pl.lit("coinbase").alias("venue")))
    assert run(lake, market.quarters, NOW).success
    frame = stored(lake)
    assert frame is not None
    assert set(frame["venue"]) == {"coinbase"}
    store(lake, HOURS.with_columns(pl.lit("binance").alias("venue")))
    exchange.respond = venues(TIMES, down=("binance",))
    assert run(lake, market.quarters, NOW).success, "coinbase takes over"


# --- files -------------------------------------------------------------------------------------------
def files(path: Path, **options: Any) -> FileSource:
    return FileSource(str(path), step=QUARTER, setting="BTC_QUARTER_FILES", **options)


def test_files_give_quarters_of_their_own_setting(tmp_path: Path) -> None:
    as_bars(QUARTERS).drop("venue").write_csv(tmp_path / "quarters.csv")
    config = history(
        market_source="files", market_files=str(tmp_path / "none"), quarter_files=str(tmp_path / "quarters.csv")
    )
    source = quarter_source_of(config)
    assert source is not None
    assert source.fetch(DAY, NEXT, NEXT)["open_time"].to_list() == QUARTERS["open_time"].to_list()
    assert quarter_source_of(history(market_source="files", market_files="x")) is None


@pytest.mark.parametrize(
    ("frame", "fault"),
    [
        (HOURS, "a bar of the 15 minutes from .* the usual step between the file's times is 1 hour"),
        (as_bars(QUARTERS).with_columns(pl.col("open_time").dt.offset_by("5m")), "a multiple of 15 minutes, got"),
        (
            as_bars(QUARTERS).with_columns(pl.col("open_time").dt.offset_by("1h").alias("close_time")),
            "a bar of the 15 minutes from .*, got one that closes at",
        ),
    ],
    ids=["hours", "off the quarter", "closes an hour later"],
)
def test_longer_bars_are_not_taken_for_quarters(frame: pl.DataFrame, fault: str, tmp_path: Path) -> None:
    frame.write_parquet(tmp_path / "bars.parquet")
    with pytest.raises(SourceMalformedError, match=fault) as error:
        files(tmp_path / "bars.parquet").fetch(DAY, NEXT, NEXT)
    assert "BTC_QUARTER_FILES" in str(error.value)


def test_real_quarters_make_the_real_hours_except_for_prices_of_2017(shared_data: Path) -> None:
    first, last = datetime(2017, 8, 17, tzinfo=UTC), datetime(2025, 8, 1, tzinfo=UTC)
    hours = FileSource(str(shared_data / "market" / "btcusdt_spot_1h.parquet")).fetch(first, last, last)
    source = files(shared_data / "market" / "btcusdt_spot_15m.parquet")
    fetched = clean(source.fetch(first, last, last), QUARTER)
    assert (fetched.frame.height, fetched.duplicates) == (278_395, 0)
    compared = hours_that_differ(as_quarter_bars(fetched.frame, QUARTER), hours)
    differs = compared.filter(pl.col("differs").list.len() > 0)
    counts = differs.explode("differs").group_by("differs").len().sort("differs").rows()
    assert counts == [("high", 33), ("low", 32), ("open", 316)]
    assert set(differs["open_time"].dt.year()) == {2017}
    assert compared.height == 69_585, "the others lack a quarter"


def test_the_half_hours_of_the_sample_make_its_hours() -> None:
    config = Settings(_env_file=None)  # type: ignore[call-arg]
    market = Market.from_settings(config)
    assert market.quarters is not None
    span = (datetime(2017, 10, 1, tzinfo=UTC), datetime(2019, 10, 1, tzinfo=UTC))
    hours = market.source.fetch(*span, span[1])
    halves = as_quarter_bars(market.quarters.fetch(*span, span[1]), market.quarters.step)
    assert QUARTER_BARS.faults(halves) == []
    assert set(halves["minutes"]) == {30}
    compared = hours_that_differ(halves, hours)
    assert compared.height == hours.height
    assert compared["differs"].list.len().max() == 0


# --- the asset ---------------------------------------------------------------------------------------
def test_the_asset_stores_the_closed_quarters_of_its_day(lake: Lake) -> None:
    store(lake)
    result = run(lake, Fixed(as_bars(QUARTERS)), NOW)
    frame = stored(lake)
    assert frame is not None
    assert frame.equals(QUARTERS.filter(pl.col("open_time") < NOW - QUARTER).select(list(QUARTER_BARS.columns)))
    assert metadata_of(result)["added"] == frame.height == 24


def test_making_it_again_changes_nothing_and_a_restatement_replaces_one_bar(lake: Lake) -> None:
    store(lake)
    source = Fixed(as_bars(QUARTERS))
    run(lake, source)
    before = lake.fingerprint(QUARTER_BARS, DAY.date())
    run(lake, source)
    assert lake.fingerprint(QUARTER_BARS, DAY.date()) == before
    changed = as_bars(QUARTERS).with_columns(
        pl.when(pl.int_range(pl.len()) == 5).then(1).otherwise(pl.col("trades")).alias("trades")
    )
    assert metadata_of(run(lake, Fixed(changed)))["restated"] == 1


def test_a_shorter_answer_keeps_what_is_stored(lake: Lake) -> None:
    store(lake, quarters=QUARTERS)
    run(lake, Fixed(as_bars(QUARTERS)[:10]))
    frame = stored(lake)
    assert frame is not None
    assert frame.height == QUARTERS.height


@pytest.mark.parametrize(
    "fault", [SourceUnavailableError("the venue is down"), SourceMalformedError("a price is missing")]
)
def test_a_failing_source_fails_its_own_run_but_not_that_of_the_forecast(fault: Exception, lake: Lake) -> None:
    store(lake, quarters=QUARTERS[:8])
    before = lake.fingerprint(QUARTER_BARS, DAY.date())
    assert not run(lake, Fixed(fault)).success
    result = run(lake, Fixed(QUARTERS), required=False, eager_quarters=[Fixed(fault)])
    assert result.success
    assert metadata_of(result)["not_fetched"] == str(fault)
    assert lake.fingerprint(QUARTER_BARS, DAY.date()) == before


def test_features_are_made_in_the_run_of_the_forecast_while_the_quarters_fail(lake: Lake) -> None:
    job = dg.Definitions(
        assets=[prices, quarter_bars, hourly_features],
        jobs=[dg.define_asset_job("hour", "*", config=refresh_forecast.config)],
        resources={
            **lake_resources(lake),
            "market": Market(
                Fixed(HOURS, step=HOUR), lambda: NEXT, eager_quarters=[Fixed(SourceUnavailableError("down"))]
            ),
        },
    ).resolve_job_def("hour")
    assert job.execute_in_process(partition_key=key_of(DAY.date())).success
    features = lake.read(HOURLY_FEATURES, DAY.date())
    assert features is not None
    assert features.height == HOURS.height


def test_the_run_of_the_forecast_requests_only_the_venue_of_the_newest_hour(lake: Lake) -> None:
    eager = [Fixed(SourceUnavailableError("not asked"), venue="first"), Fixed(as_bars(QUARTERS))]
    store(lake)
    result = run(lake, Fixed(SourceUnavailableError("not asked")), required=False, eager_quarters=eager)
    assert metadata_of(result)["bars"] == QUARTERS.height


def test_without_a_source_the_table_is_empty(lake: Lake) -> None:
    store(lake)
    assert run(lake, None).success
    frame = stored(lake)
    assert frame is not None
    assert frame.is_empty()


def test_quarters_of_another_time_zone_are_refused(lake: Lake) -> None:
    store(lake)
    shifted = as_bars(QUARTERS).with_columns(pl.col("open_time").dt.offset_by("-9h"))
    result = run(lake, Fixed(shifted))
    assert not result.success
    assert stored(lake) is None
    [failure] = result.get_step_failure_events()
    assert "make the stored hours 9 hours later" in str(failure.event_specific_data)


# --- checks ------------------------------------------------------------------------------------------
def check(lake: Lake, one: dg.AssetChecksDefinition, source: MarketSource | None = None) -> dg.AssetCheckEvaluation:
    market = Market(Fixed(HOURS, step=HOUR), lambda: NEXT, quarters=source)
    result = dg.Definitions(
        assets=[quarter_bars, prices],
        asset_checks=[one],
        jobs=[dg.define_asset_job("check", dg.AssetSelection.checks(one))],
        resources={**lake_resources(lake), "market": market},
    ).resolve_job_def("check").execute_in_process()  # fmt: skip
    [evaluation] = result.get_asset_check_evaluations()
    return evaluation


def edited(row: int, **values: float) -> pl.DataFrame:
    """Return the quarters with other values in a row."""
    here = pl.int_range(pl.len()) == row
    return QUARTERS.with_columns(
        pl.when(here).then(pl.lit(value)).otherwise(pl.col(name)).alias(name) for name, value in values.items()
    )


def test_quarters_that_make_every_hour_pass(lake: Lake) -> None:
    store(lake, quarters=QUARTERS)
    assert check(lake, quarters_make_the_hour).passed
    assert check(lake, quarters_present, Fixed(QUARTERS)).passed


@pytest.mark.parametrize(("column", "value"), [("high", 1e6), ("low", 1.0), ("volume", 1e6)])
def test_an_hour_that_its_quarters_do_not_make_is_named_in_a_warning(column: str, value: float, lake: Lake) -> None:
    store(lake, quarters=edited(4 * 7 + 2, **{column: value}))
    evaluation = check(lake, quarters_make_the_hour)
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert f"the first that differs is 2018-05-05 07:00 UTC ({column})" in (evaluation.description or "")
    assert evaluation.metadata[f"{column}_differs"].value == 1


def test_an_hour_without_one_of_its_quarters_is_named_in_a_warning(lake: Lake) -> None:
    store(lake, quarters=QUARTERS.filter(pl.int_range(pl.len()) != 4 * 9))
    evaluation = check(lake, quarters_present, Fixed(QUARTERS))
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "1 of 24 stored hours" in (evaluation.description or "")
    assert "the first 2018-05-05 09:00 UTC" in (evaluation.description or "")


def test_hours_of_another_venue_are_not_compared() -> None:
    other = HOURS.with_columns(pl.lit("elsewhere").alias("venue"))
    assert hours_that_differ(QUARTERS, other).is_empty()
    assert hours_without_quarters(QUARTERS, other).is_empty()


# --- synthetic quarters, and the laws ------------------------------------------------------------------
def test_synthetic_quarters_make_the_hours_they_are_split_from() -> None:
    assert QUARTER_BARS.faults(QUARTERS) == []
    assert whole_hours(QUARTERS).height == HOURS.height
    assert hours_that_differ(QUARTERS, HOURS)["differs"].list.len().max() == 0
    sums = QUARTERS.group_by(pl.col("open_time").dt.truncate("1h")).agg(pl.col("trades").sum()).sort("open_time")
    assert sums["trades"].to_list() == HOURS["trades"].to_list()


def test_a_quarter_may_be_used_when_it_has_closed() -> None:
    at = QUARTERS.select(QUARTER_STREAM.available_at).to_series()
    assert (at - QUARTERS["open_time"]).unique().to_list() == [QUARTER]
    halves = QUARTERS.with_columns(pl.lit(30, pl.Int64).alias("minutes"))
    assert (halves.select(QUARTER_STREAM.available_at).to_series() - halves["open_time"]).max() == 2 * QUARTER


def test_another_future_leaves_the_length_of_a_bar() -> None:
    rows = QUARTER_STREAM.synthetic(pl.Series(HOURS["open_time"]), 1)
    moment = DAY + timedelta(hours=12)
    for name, future in QUARTER_STREAM.futures(rows, QUARTER_STREAM.available_at, moment).items():
        assert set(future.frame["minutes"]) == {15}, name
        assert not future.frame.equals(rows.frame), name


@pytest.mark.parametrize("law", [prefix_invariance, future_poisoning, availability])
def test_the_join_of_stressed_quarters_obeys(law: Callable[[Engine, Inputs], LawResult]) -> None:
    hours = random_walk(12 * 24, seed=5, start=DAY)["open_time"]

    def joined(inputs: Inputs) -> pl.DataFrame:
        closed = pl.col("open_time").dt.offset_by("1h").alias("available_at")
        quarters = inputs.joined(["quarter_bars"], every_hour(inputs.clock))
        return inputs.clock.select("open_time", closed).join(quarters, on="open_time", how="left")

    result = law(joined, synthetic_inputs(hours, 5, (CLOCK, QUARTER_STREAM)).stressed())
    assert result.passed, result.detail
