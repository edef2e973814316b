"""SQL over the lake: every stored table as a DuckDB view, for reports and ad-hoc queries."""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING

from btc_assets.lake import PART, Lake
from btc_assets.schema import CONTRACTS

if TYPE_CHECKING:
    import duckdb


def add_lake_views(connection: duckdb.DuckDBPyConnection, lake: Lake) -> list[str]:
    """Add a view for each stored table, named like its asset: `market.prices`, `forecasting.forecasts`, ...

    The views read the Parquet files when a query runs; nothing is copied or locked.

    Args:
        connection: the connection; its time zone is set to UTC.
        lake: holds the tables.

    Returns:
        The names of the views.
    """
    connection.execute("SET TimeZone = 'UTC'")
    names = []
    for contract in CONTRACTS.values():
        if not lake.days(contract):
            continue
        domain, table = contract.table.split("/")
        # The lake's path is literal, also if it contains glob characters.
        files = f"{glob.escape(lake.root)}/{contract.table}/day=*/{PART}".replace("'", "''")
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {domain}")
        connection.execute(
            f"CREATE OR REPLACE VIEW {domain}.{table} AS "  # noqa: S608 - names are contracts', the path is quoted
            f"SELECT * FROM read_parquet('{files}', hive_partitioning = false)"
        )
        names.append(f"{domain}.{table}")
    return names
