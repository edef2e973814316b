"""The machinery of table contracts: a schema that pandera checks, the rule that gives a row its day, a Dagster type.

A frame that breaks its contract is never stored: Dagster checks the type before the IO manager writes.
Times are UTC with microseconds; prices are USD (or the venue's dollar coin), volumes are BTC,
returns are natural-log fractions.
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
        checks: how to make the pandera checks of its values.
        nullable: whether a value may be unknown.
        description: what it holds, with its unit.
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
    """Columns in order and the laws between them; a frame with other columns breaks it.

    The pandera schema is made when a frame is first held against it: pandera brings pandas, half a second that
    loading the graph can do without.
    """

    columns: dict[str, Column]
    laws: tuple[Callable[[], pa.Check], ...] = ()

    @cached_property
    def pandera(self) -> pa.DataFrameSchema:
        """The schema as pandera validates it."""
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
            checks=[make() for make in self.laws],
            strict=True,
            ordered=True,
        )


@dataclass(frozen=True)
class Contract:
    """What one table promises.

    Attributes:
        table: asset key as a path, for example `market/prices`; also the folder in the lake.
        schema: its columns and laws; strict, so an unknown column is a fault.
        day: expression that gives each row the UTC day (pl.Date) of the partition it belongs to.
        key: columns that name a row; sorted by and unique on.
        append_only: whether a row, once stored, stays as it is; storing a partition again only adds rows to it.
    """

    table: str
    schema: Schema
    day: pl.Expr
    key: tuple[str, ...]
    append_only: bool = False

    @cached_property
    def asset_key(self) -> dg.AssetKey:
        """Key of the asset that makes the table."""
        return dg.AssetKey(self.table.split("/"))

    @cached_property
    def columns(self) -> pl.Schema:
        """Column names and polars types, in order."""
        return pl.Schema({name: column.dtype for name, column in self.schema.columns.items()})

    def empty(self) -> pl.DataFrame:
        """Return a frame with no rows and the contract's columns."""
        return pl.DataFrame(schema=self.columns)

    def faults(self, frame: pl.DataFrame) -> list[tuple[str, str]]:
        """Return every broken promise as (column, sentence); an empty list is a pass."""
        from pandera.errors import SchemaErrors

        found: list[tuple[str, str]] = []
        try:
            self.schema.pandera.validate(frame, lazy=True)
        except SchemaErrors as errors:
            cases = errors.failure_cases.to_dicts()
            found.extend((str(case["column"]), f"{case['check']}: {case['failure_case']}") for case in cases)
        if found:
            return found
        if frame.select(pl.struct(self.key).is_duplicated().any()).item():
            found.append((", ".join(self.key), "two rows have the same key"))
        if not frame.equals(frame.sort(self.key)):
            found.append((", ".join(self.key), "rows are not in key order"))
        return found


CONTRACTS: dict[str, Contract] = {}
"""Every declared table by its name."""


def declare(*, table: str, schema: Schema, day: pl.Expr, key: tuple[str, ...], append_only: bool = False) -> Contract:
    """Declare a table of the project: its contract is made and the lake knows it.

    Raises:
        ValueError: a table of this name is already declared.
    """
    if table in CONTRACTS:
        raise ValueError(f"the table {table} is declared twice")
    CONTRACTS[table] = Contract(table, schema, day, key, append_only)
    return CONTRACTS[table]


def check(name: str, *arguments: object, **options: object) -> Callable[[], pa.Check]:
    """Return how to make one of pandera's own checks."""

    def make() -> pa.Check:
        import pandera.polars as pa

        return getattr(pa.Check, name)(*arguments, **options)

    return make


def column_check(name: str, holds: Callable[[str], pl.Expr]) -> Callable[[], pa.Check]:
    """Return how to make a check of a column by an expression; it is given the column's name."""

    def make() -> pa.Check:
        import pandera.polars as pa

        return pa.Check(lambda data: data.lazyframe.select(holds(data.key)), name=name)

    return make


def law(name: str, expression: pl.Expr) -> Callable[[], pa.Check]:
    """Return how to make a law between columns: an expression that holds for every row."""
    return column_check(name, lambda _: expression)


def schema(columns: dict[str, Column], *laws: Callable[[], pa.Check]) -> Schema:
    """Return a schema of these columns and laws."""
    return Schema(columns, laws)


FINITE = column_check("finite", lambda column: pl.col(column).is_finite() | pl.col(column).is_null())
ON_THE_HOUR = column_check("on the hour", lambda column: pl.col(column) == pl.col(column).dt.truncate("1h"))
PROBABILITY = (check("ge", 0), check("le", 1))


def dagster_type(contract: Contract) -> dg.DagsterType:
    """Turn a contract into a Dagster type: a frame that breaks it fails the step before it is stored."""

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
            description=f"{contract.table} breaks its contract in {len(faults)} places: {first}",
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
    """Return the contract's columns as the Dagster UI shows them."""
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
