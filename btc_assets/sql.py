"""SQL over the lake: every stored table as a DuckDB view, for reports and for questions nobody foresaw."""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING

from btc_assets.lake import PART, Lake
from btc_assets.schema import CONTRACTS

if TYPE_CHECKING:
    import duckdb


def add_lake_views(connection: duckdb.DuckDBPyConnection, lake: Lake) -> list[str]:
    """Add a view for each stored table, named as its asset: `market.prices`, `forecasting.forecasts`, ...

    The views read the Parquet files as they are when a query runs; nothing is copied or locked.

    Args:
        connection: where to add them; UTC becomes its time zone.
        lake: whose tables they show.

    Returns:
        The names of the views.
    """
    connection.execute("SET TimeZone = 'UTC'")
    names = []
    for contract in CONTRACTS.values():
        if not lake.days(contract):
            continue
        domain, table = contract.table.split("/")
        # What the lake's folder is called is no pattern, whatever it holds.
        files = f"{glob.escape(lake.root)}/{contract.table}/day=*/{PART}".replace("'", "''")
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {domain}")
        connection.execute(
            f"CREATE OR REPLACE VIEW {domain}.{table} AS "  # noqa: S608 - names are contracts', the path is quoted
            f"SELECT * FROM read_parquet('{files}', hive_partitioning = false)"
        )
        names.append(f"{domain}.{table}")
    return names
