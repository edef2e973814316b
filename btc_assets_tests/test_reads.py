"""An asset reads what it declares: the tables and days of its edges and its own partitions, and nothing else."""

import ast
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.clock import midnight
from btc_assets.definitions import defs
from btc_assets.features.tables import HOURLY_LABELS
from btc_assets.lake import Lake, by_day
from btc_assets.market.tables import PRICES
from btc_assets.news.tables import ARTICLES
from btc_assets.partitions import DAILY, days_before, everything_until, key_of
from btc_assets.reads import DeclaredReads, Tables, UndeclaredReadError, lake_resources
from btc_assets.settings import PROJECT_ROOT
from btc_assets_tests.conftest import random_walk_bars

FIRST = date(2018, 1, 1)
DAY = date(2018, 1, 10)
LAST = date(2018, 1, 14)
BEFORE = DAILY.start.date() - timedelta(days=1)
DAYS = [FIRST + timedelta(days=n) for n in range((LAST - FIRST).days + 1)]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Return a lake of two weeks of bars, of which the planted asset declares five days."""
    lake = Lake(root=str(tmp_path_factory.mktemp("lake")))
    for day, part in by_day(PRICES, random_walk_bars(24 * len(DAYS), start=midnight(FIRST)), DAYS):
        lake.write(PRICES, day, part)
    return lake


def run(
    lake: Lake, read: Callable[[DeclaredReads], object], *, first: date = DAY, last: date = DAY
) -> dg.ExecuteInProcessResult:
    """Materialise the labels of days up to `last`, from bars of four days before each and its own, and texts of two."""

    @dg.asset(
        key=HOURLY_LABELS.asset_key,
        partitions_def=DAILY,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[
            dg.AssetDep(PRICES.asset_key, partition_mapping=days_before(4, and_today=True)),
            dg.AssetDep(ARTICLES.asset_key, partition_mapping=days_before(2, and_today=False)),
            dg.AssetDep(HOURLY_LABELS.asset_key, partition_mapping=everything_until(and_today=False)),
        ],
    )
    def planted(context: dg.AssetExecutionContext, tables: dg.ResourceParam[Tables]) -> pl.DataFrame:
        read(tables.of(context))
        return HOURLY_LABELS.empty()

    tags = {"dagster/asset_partition_range_start": key_of(first), "dagster/asset_partition_range_end": key_of(last)}
    return dg.materialize(
        [planted, *(dg.AssetSpec(table.asset_key, partitions_def=DAILY) for table in (PRICES, ARTICLES))],
        selection=[planted],
        resources=lake_resources(lake),
        tags=tags,
        raise_on_error=False,
    )


def refusal(lake: Lake, read: Callable[[DeclaredReads], object]) -> str:
    """Return the message with which a planted read is refused."""
    result = run(lake, read)
    [failure] = result.get_step_failure_events()
    error = failure.step_failure_data.error
    assert error is not None
    assert error.cause is not None
    assert error.cause.cls_name == UndeclaredReadError.__name__
    return error.cause.message


PLANTED: dict[str, tuple[Callable[[DeclaredReads], object], str]] = {
    "a table that is not declared": (lambda reads: reads.scan(MODEL_HISTORY), "champion/model_history of any day"),
    "a partition of such a table": (
        lambda reads: reads.read(MODEL_HISTORY, DAY),
        "champion/model_history of 2018-01-10",
    ),
    "such a partition of before the history": (
        lambda reads: reads.read(MODEL_HISTORY, BEFORE),
        f"champion/model_history of {BEFORE}",
    ),
    "a later day": (lambda reads: reads.read(PRICES, DAY + timedelta(days=1)), "market/prices of 2018-01-11"),
    "a span that ends later": (
        lambda reads: reads.scan(PRICES, DAY, DAY + timedelta(days=1)),
        "market/prices of 2018-01-11",
    ),
    "a day before the declared window": (
        lambda reads: reads.scan_days(PRICES, [DAY - timedelta(days=5)]),
        "market/prices of 2018-01-05",
    ),
    "whether such a day is stored": (
        lambda reads: reads.days(PRICES, DAY - timedelta(days=5), DAY),
        "market/prices of 2018-01-05",
    ),
    "a later day of its own table": (
        lambda reads: reads.read(HOURLY_LABELS, DAY + timedelta(days=1)),
        "features/hourly_labels of 2018-01-11",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_an_undeclared_read_is_refused_with_asset_table_and_day(lake: Lake, planted: str) -> None:
    read, named = PLANTED[planted]
    message = refusal(lake, read)
    assert "features/hourly_labels" in message
    assert named in message


def test_a_declared_partition_can_be_read(lake: Lake) -> None:
    found: list[list[date]] = []
    declared = [DAY - timedelta(days=n) for n in (4, 3, 2, 1, 0)]
    assert run(lake, lambda reads: found.append(reads.days(PRICES))).success
    assert run(lake, lambda reads: found.append(reads.days(PRICES, declared[0], DAY))).success
    assert found == [declared, declared]


def test_only_rows_of_the_declared_days_are_read(lake: Lake) -> None:
    found: list[pl.DataFrame] = []
    assert run(lake, lambda reads: found.append(reads.scan(PRICES).collect())).success
    assert found[0].equals(lake.scan(PRICES, DAY - timedelta(days=4), DAY).collect())


def test_a_run_over_several_days_reads_what_each_of_them_declares(lake: Lake) -> None:
    found: list[list[date]] = []
    assert run(lake, lambda reads: found.append(reads.days(PRICES)), last=LAST).success
    assert found == [DAYS[5:]]


def test_days_before_the_history_are_absent_and_not_refused(tmp_path: Path) -> None:
    lake = Lake(root=str(tmp_path))
    lake.write(PRICES, BEFORE, PRICES.empty())
    reads = DeclaredReads("planted", {PRICES.table: [(DAILY.start.date(), DAY)]}, lake)
    assert reads.days(PRICES, BEFORE, DAY) == []
    assert reads.read(PRICES, BEFORE) is None


def test_an_edge_to_everything_reads_partitions_of_an_earlier_start_of_the_history(tmp_path: Path) -> None:
    lake, found = Lake(root=str(tmp_path)), list[list[date]]()
    lake.write(HOURLY_LABELS, BEFORE, HOURLY_LABELS.empty())
    assert run(lake, lambda reads: found.append(reads.days(HOURLY_LABELS))).success
    assert run(lake, lambda reads: found.append(reads.days(HOURLY_LABELS, BEFORE, BEFORE))).success
    assert found == [[BEFORE], [BEFORE]]


def test_an_edge_from_the_first_day_of_the_history_is_empty_and_not_refused(lake: Lake) -> None:
    start, found = DAILY.start.date(), list[list[date]]()
    assert run(lake, lambda reads: found.append(reads.days(ARTICLES)), first=start, last=start).success
    assert found == [[]]
    assert not run(lake, lambda reads: reads.read(ARTICLES, start), first=start, last=start).success


def test_the_runs_own_partition_can_be_read(lake: Lake) -> None:
    assert run(lake, lambda reads: reads.read(HOURLY_LABELS, DAY)).success


# --- no other way to read --------------------------------------------------------------------------
GRAPH = defs.resolve_asset_graph()
STEPS = {node.assets_def.op.name: node.assets_def for node in map(GRAPH.get, GRAPH.get_all_asset_keys())}
PACKAGE = PROJECT_ROOT / "btc_assets"


@pytest.mark.parametrize("step", sorted(STEPS))
def test_no_asset_gets_the_lake(step: str) -> None:
    """The IO manager is the lake; Dagster calls it with the partitions of declared edges and of the step's own."""
    handed = STEPS[step].op.required_resource_keys
    assert "lake" not in handed
    assert "io_manager" not in handed
    values = [defs.resources[key] for key in handed if defs.resources]
    assert not any(isinstance(value, Lake) for value in values)


def domains() -> Iterator[Path]:
    """Yield every module in which an asset is defined."""
    functions = (definition.op.compute_fn.decorated_fn for definition in STEPS.values())
    yield from sorted({Path(function.__code__.co_filename) for function in functions})


def test_every_asset_is_covered() -> None:
    domains_of_assets = {key.path[0] for key in GRAPH.get_all_asset_keys()}
    assert {path.relative_to(PACKAGE).parts[0] for path in domains()} == domains_of_assets


@pytest.mark.parametrize("module", domains(), ids=lambda path: path.parent.name)
def test_no_module_of_assets_uses_the_lake_or_looks_up_a_resource(module: Path) -> None:
    tree = ast.parse(module.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names.isdisjoint({"Lake", "UPath", "open"})
    reached = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert reached.isdisjoint({"resources", "io_manager", "lake_root", "scan_parquet", "read_parquet", "_lake"})


def functions_of_assets() -> Iterator[ast.FunctionDef]:
    """Yield every function that is decorated as an asset, whether or not its asset is on."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            decorators = [ast.unparse(one) for one in getattr(node, "decorator_list", [])]
            if isinstance(node, ast.FunctionDef) and any(
                one.startswith(("dg.asset(", "dg.multi_asset(")) for one in decorators
            ):
                yield node


@pytest.mark.parametrize("function", functions_of_assets(), ids=lambda node: node.name)
def test_no_function_of_an_asset_uses_the_lake(function: ast.FunctionDef) -> None:
    assert "Lake" not in {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
