"""A walk-forward that is killed and started again ends with the lake and the registry of one that was not."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest

from btc_assets.champion.tables import MODEL_HISTORY, MODEL_VERDICT
from btc_assets.digest import digest
from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.forecasting.tables import FORECAST_OUTCOMES, FORECASTS
from btc_assets.learning.tables import CV_FOLDS, MODEL_EXPLANATION, TRAINED_MODEL
from btc_assets.market.tables import PRICES
from btc_assets.monitoring.tables import PERFORMANCE_REPORT
from btc_assets.schema import CONTRACTS, Contract
from btc_assets.serving.tables import SERVING_BUNDLE
from btc_assets_tests.faults import tasks
from btc_assets_tests.faults.conftest import Forge

FIRST_CUTOFF = ("walk-forward", "--from", "2019-08-05", "--to", "2019-08-06", "--every", "2")
BOTH_CUTOFFS = ("walk-forward", "--from", "2019-08-05", "--to", "2019-08-08", "--every", "2")
SECOND = date(2019, 8, 7)
KILLS = [
    (TRAINED_MODEL, SECOND),  # the model is in the registry, and not in the lake
    (FORECASTS, SECOND + timedelta(days=1)),  # the day before is stored, and nobody told Dagster
]
MADE = (
    *(PRICES, HOURLY_FEATURES, HOURLY_LABELS, CV_FOLDS, TRAINED_MODEL, MODEL_EXPLANATION, MODEL_VERDICT),
    *(FORECASTS, FORECAST_OUTCOMES, PERFORMANCE_REPORT, SERVING_BUNDLE),
)


def stored(data: Path) -> dict[tuple[str, date], str]:
    """Return the digest of every partition."""
    lake = tasks.lake_of(data)
    days = [(contract, day) for contract in CONTRACTS.values() for day in lake.days(contract)]
    return {(contract.table, day): content(data, contract, day) for contract, day in days}


def content(data: Path, contract: Contract, day: date) -> str:
    """Return the digest of a partition, less the moment at which something was recorded or published."""
    moment = {MODEL_HISTORY.table: "recorded_at", SERVING_BUNDLE.table: "published_at"}.get(contract.table)
    lake = tasks.lake_of(data)
    if moment is None:
        return lake.fingerprint(contract, day)
    frame = lake.read(contract, day)
    assert frame is not None
    return digest(frame.drop(moment))


def registered(data: Path) -> list[tuple[object, ...]]:
    """Return every registered version with its digest, and what each alias points to."""
    queries = (
        "select version, value from model_version_tags where key = 'digest' order by 1, 2",
        "select alias, version from registered_model_aliases order by 1",
    )
    with sqlite3.connect(data / "mlflow" / "mlflow.db") as connection:
        return [row for query in queries for row in connection.execute(query)]


@pytest.mark.slow
def test_a_walk_killed_again_and_again_ends_with_the_lake_of_one_that_was_not(
    forge: Forge, tmp_path: Path, empty_registry: Callable[[Path], None]
) -> None:
    """Both walks go on from the same first cutoff, in the same place: MLflow stores absolute paths."""
    data, first = tmp_path / "data", tmp_path / "first"
    empty_registry(data / "mlflow" / "mlflow.db")
    forge.succeed(tasks.command, data, *FIRST_CUTOFF)
    shutil.copytree(data, first)
    forge.succeed(tasks.command, data, *BOTH_CUTOFFS)
    expected, expected_registry = stored(data), registered(data)
    assert {table for table, _ in expected} >= {contract.table for contract in MADE}
    assert {alias for alias, _ in expected_registry if isinstance(alias, str)} >= {"champion"}

    shutil.rmtree(data)
    first.rename(data)
    for contract, day in KILLS:
        status = forge.run(tasks.command_and_die, data, contract.table, day, *BOTH_CUTOFFS)
        assert status == -signal.SIGKILL, forge.log
        assert tasks.lake_of(data).read(contract, day) is None
    forge.succeed(tasks.command, data, *BOTH_CUTOFFS)
    assert "cutoff 2019-08-05 (1/2): already trained" in forge.log
    assert stored(data) == expected
    assert registered(data) == expected_registry
