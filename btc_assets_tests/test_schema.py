from __future__ import annotations

import dagster as dg
import polars as pl
import pytest

from btc_assets.market.tables import PRICES
from btc_assets.schema import CONTRACTS, Contract, dagster_type


def check(contract: Contract, frame: object) -> dg.TypeCheck:
    return dg.check_dagster_type(dagster_type(contract), frame)


def test_valid_bars_pass(bars: pl.DataFrame) -> None:
    assert PRICES.faults(bars) == []
    assert check(PRICES, bars).success


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
def test_an_empty_partition_satisfies_every_contract(contract: Contract) -> None:
    assert contract.faults(contract.empty()) == []


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
def test_every_column_has_a_description(contract: Contract) -> None:
    assert all(column.description for column in contract.schema.columns.values())


VIOLATIONS = {
    "a negative price": (pl.col("low") * -1).alias("low"),
    "a price that is not a number": pl.lit(float("nan")).alias("close"),
    "an infinite volume": pl.lit(float("inf")).alias("volume"),
    "a high below the close": (pl.col("low") * 0.5).alias("high"),
    "a bar off the hour": pl.col("open_time").dt.offset_by("7m"),
    "a naive time": pl.col("open_time").dt.replace_time_zone(None),
    "a text price": pl.col("close").cast(pl.String),
    "a missing venue": pl.lit(None, dtype=pl.String).alias("venue"),
    "an unknown column": pl.lit(1).alias("guess"),
}


@pytest.mark.parametrize("broken", VIOLATIONS.values(), ids=VIOLATIONS)
def test_invalid_bars_have_faults(bars: pl.DataFrame, broken: pl.Expr) -> None:
    frame = bars.with_columns(broken)
    assert PRICES.faults(frame)
    assert not check(PRICES, frame).success


def test_two_bars_of_one_hour_are_a_fault(bars: pl.DataFrame) -> None:
    assert ("open_time", "two rows have the same key") in PRICES.faults(pl.concat([bars, bars]).sort("open_time"))


def test_bars_out_of_order_are_a_fault(bars: pl.DataFrame) -> None:
    assert PRICES.faults(bars.reverse()) == [("open_time", "rows are not in key order")]


def test_a_missing_column_is_a_fault(bars: pl.DataFrame) -> None:
    assert PRICES.faults(bars.drop("trades"))


def test_a_type_failure_has_a_description_and_a_table(bars: pl.DataFrame) -> None:
    result = check(PRICES, bars.with_columns(VIOLATIONS["a negative price"]))
    assert "market/prices violates its contract" in (result.description or "")
    assert "faults" in result.metadata


def test_a_value_that_is_not_a_frame_is_refused() -> None:
    assert not check(PRICES, {"close": 1}).success
