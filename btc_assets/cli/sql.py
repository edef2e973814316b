"""SQL queries over the lake."""

import sys

import polars as pl

from btc_assets.lake import Lake
from btc_assets.settings import Settings


def sql(config: Settings, query: str) -> int:
    """Print the result of one query over the lake, and return the exit status."""
    import duckdb
    from dagster_duckdb import DuckDBResource

    import btc_assets.definitions  # noqa: F401 - registers the contracts of every table
    from btc_assets.sql import add_lake_views

    with DuckDBResource(database=":memory:").get_connection() as connection:
        views = add_lake_views(connection, Lake(root=config.lake_root))
        try:
            rows = connection.sql(query)
        except duckdb.Error as error:
            print(
                f"{error}\nThe views are: {', '.join(sorted(views)) or 'none yet; materialise an asset first'}",
                file=sys.stderr,
            )
            return 2
        if rows is not None:
            with pl.Config(tbl_rows=100, tbl_cols=30, tbl_width_chars=200):
                print(rows.pl())
    return 0
