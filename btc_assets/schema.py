"""Table contracts: a schema checked by pandera, the partition day of each row, and a Dagster type.

A frame that violates its contract is never stored: Dagster checks the type before the IO manager writes. Times are UTC
with microseconds; prices are USD (or the venue's dollar coin), volumes are BTC, returns are natural-log fractions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

if TYPE_CHECKING:
    import pandera.polars as pa

UTC_TIME = pl.Datetime("us", "UTC")


class Column:
    """One column of a table.

    Attributes:
        dtype: polars type.
        checks: functions that create the pandera checks of its values.
        nullable: whether values may be null.
        description: meaning of the column, with its unit.
    """

    def __init__(
        self,
        dtype: type[pl.DataType] | pl.DataType,
        *checks: Callable[[], pa.Check],
        nullable: bool = False,
        about: str,
    ) -> None:
        self.dtype, self.checks, self.nullable, self.description = dtype, checks, nullable, about


@dataclass(frozen=True, eq=False)
class Schema:
    """Columns in order and checks between columns; a frame with other columns is invalid.

    The pandera schema is created at the first validation: pandera imports pandas, which takes half a second that
    loading the definitions does not need.
    """

    columns: dict[str, Column]
    row_checks: tuple[Callable[[], pa.Check], ...] = ()

    @cached_property
    def pandera(self) -> pa.DataFrameSchema:
        """The pandera schema."""
        import pandera.polars as pa

        return pa.DataFrameSchema(
            {
                name: pa.Column(
                    column.dtype,
                    checks=[make() for make in column.checks],
                    nullable=column.nullable,
                    description=column.description,
                )
                for name, column in self.columns.items()
            },
            checks=[make() for make in self.row_checks],
            strict=True,
            ordered=True,
        )


@dataclass(frozen=True)
class Contract:
    """The contract of a table.

    Attributes:
        table: asset key as a path, for example `market/prices`; also the folder in the lake.
        schema: columns and row checks; strict, so an unknown column is a fault.
        day: expression for the UTC day (pl.Date) of each row's partition.
        key: columns by which rows are sorted and unique.
        append_only: whether stored rows never change; storing a partition again only adds rows.
        unique_across_days: whether rows of different days have different keys; a row whose key is already stored under
            a later day is not stored again.
    """

    table: str
    schema: Schema
    day: pl.Expr
    key: tuple[str, ...]
    append_only: bool = False
    unique_across_days: bool = False

    @cached_property
    def asset_key(self) -> dg.AssetKey:
        """Key of the asset that produces the table."""
        return dg.AssetKey(self.table.split("/"))

    @cached_property
    def columns(self) -> pl.Schema:
        """Column names and polars types, in order."""
        return pl.Schema({name: column.dtype for name, column in self.schema.columns.items()})

    def empty(self) -> pl.DataFrame:
        """Return a frame with the contract's columns and no rows."""
        return pl.DataFrame(schema=self.columns)

    def faults(self, frame: pl.DataFrame) -> list[tuple[str, str]]:
        """Return every violation as (column, sentence); empty for a valid frame."""
        from pandera.errors import SchemaErrors

        faults: list[tuple[str, str]] = []
        try:
            self.schema.pandera.validate(frame, lazy=True)
        except SchemaErrors as errors:
            cases = errors.failure_cases.to_dicts()
            faults.extend((str(case["column"]), f"{case['check']}: {case['failure_case']}") for case in cases)
        if faults:
            return faults
        if frame.select(pl.struct(self.key).is_duplicated().any()).item():
            faults.append((", ".join(self.key), "two rows have the same key"))
        if not frame.equals(frame.sort(self.key)):
            faults.append((", ".join(self.key), "rows are not in key order"))
        return faults


CONTRACTS: dict[str, Contract] = {}
"""Every declared contract by table name."""


def declare(
    *,
    table: str,
    schema: Schema,
    day: pl.Expr,
    key: tuple[str, ...],
    append_only: bool = False,
    unique_across_days: bool = False,
) -> Contract:
    """Create the contract of a table and register it for the lake.

    Raises:
        ValueError: a table of this name is declared already.
    """
    if table in CONTRACTS:
        raise ValueError(f"the table {table} is declared twice")
    CONTRACTS[table] = Contract(table, schema, day, key, append_only, unique_across_days)
    return CONTRACTS[table]


def check(name: str, *arguments: object, **options: object) -> Callable[[], pa.Check]:
    """Return a function that creates one of pandera's built-in checks."""

    def make() -> pa.Check:
        import pandera.polars as pa

        return getattr(pa.Check, name)(*arguments, **options)

    return make


def column_check(name: str, expression_of: Callable[[str], pl.Expr]) -> Callable[[], pa.Check]:
    """Return a function that creates a check from an expression of the column's name."""

    def make() -> pa.Check:
        import pandera.polars as pa

        return pa.Check(lambda data: data.lazyframe.select(expression_of(data.key)), name=name)

    return make


def row_check(name: str, expression: pl.Expr) -> Callable[[], pa.Check]:
    """Return a function that creates a check between columns: an expression that is true for every row."""
    return column_check(name, lambda _: expression)


def schema(columns: dict[str, Column], *row_checks: Callable[[], pa.Check]) -> Schema:
    """Return a schema of columns and row checks."""
    return Schema(columns, row_checks)


FINITE = column_check("finite", lambda column: pl.col(column).is_finite() | pl.col(column).is_null())
ON_THE_HOUR = column_check("on the hour", lambda column: pl.col(column) == pl.col(column).dt.truncate("1h"))
PROBABILITY = (check("ge", 0), check("le", 1))


def dagster_type(contract: Contract) -> dg.DagsterType:
    """Create the Dagster type of a contract: an invalid frame fails the step before it is stored."""

    def check(_context: dg.TypeCheckContext, frame: object) -> dg.TypeCheck:
        if not isinstance(frame, pl.DataFrame):
            return dg.TypeCheck(
                success=False, description=f"{contract.table} must be a polars DataFrame, got {type(frame)}"
            )
        faults = contract.faults(frame)
        if not faults:
            return dg.TypeCheck(success=True)
        first = "; ".join(f"{column}: {fault}" for column, fault in faults[:5])
        table = dg.TableMetadataValue(
            records=[dg.TableRecord({"column": column, "fault": fault}) for column, fault in faults[:50]],
            schema=dg.TableSchema([dg.TableColumn("column"), dg.TableColumn("fault")]),
        )
        return dg.TypeCheck(
            success=False,
            description=f"{contract.table} violates its contract in {len(faults)} places: {first}",
            metadata={"faults": table},
        )

    return dg.DagsterType(
        name="".join(part.title() for part in contract.table.replace("/", "_").split("_")),
        type_check_fn=check,
        typing_type=pl.DataFrame,
        description=f"Rows of {contract.table}, keyed by {', '.join(contract.key)}.",
        metadata={"dagster/column_schema": column_schema(contract)},
    )


def column_schema(contract: Contract) -> dg.TableSchema:
    """Return the contract's columns for the Dagster UI."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=name,
                type=str(contract.columns[name]),
                description=column.description,
                constraints=dg.TableColumnConstraints(nullable=column.nullable, unique=contract.key == (name,)),
            )
            for name, column in contract.schema.columns.items()
        ]
    )
