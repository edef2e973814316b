"""SQL sees what the lake holds."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import duckdb
import polars as pl

from btc_assets.lake import Lake, by_day
from btc_assets.market.tables import PRICES
from btc_assets.sql import add_lake_views
from btc_assets_tests.conftest import random_walk_bars

DAYS = [date(2018, 1, 1), date(2018, 1, 2)]


def filled(root: Path) -> Lake:
    lake = Lake(root=str(root))
    for day, part in by_day(PRICES, random_walk_bars(48), DAYS):
        lake.write(PRICES, day, part)
    return lake


def test_a_stored_table_is_a_view_named_as_its_asset(tmp_path: Path) -> None:
    with duckdb.connect() as connection:
        assert add_lake_views(connection, filled(tmp_path)) == ["market.prices"]
        found = connection.sql("SELECT * FROM market.prices ORDER BY open_time").pl()
    assert found.with_columns(pl.col("open_time").dt.convert_time_zone("UTC")).equals(random_walk_bars(48))


def test_a_partition_written_later_is_seen_without_a_new_view(tmp_path: Path) -> None:
    lake = filled(tmp_path)
    with duckdb.connect() as connection:
        add_lake_views(connection, lake)
        lake.write(PRICES, DAYS[1], PRICES.empty())
        assert connection.sql("SELECT count(*) FROM market.prices").fetchall() == [(24,)]


def test_a_quote_in_the_path_is_a_path_and_not_sql(tmp_path: Path) -> None:
    with duckdb.connect() as connection:
        add_lake_views(connection, filled(tmp_path / "it's; DROP TABLE x"))
        assert connection.sql("SELECT count(*) FROM market.prices").fetchall() == [(48,)]
