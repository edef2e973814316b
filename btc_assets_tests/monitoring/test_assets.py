"""The monitoring assets and checks, materialised on a temporary lake."""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from btc_assets.alerts.outbox import Outbox
from btc_assets.champion.assets import shadow_report
from btc_assets.champion.tables import MODEL_HISTORY, SHADOW_REPORT
from btc_assets.clock import midnight
from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.forecasting import assets as forecasting
from btc_assets.forecasting import checks as forecasting_checks
from btc_assets.forecasting import positions
from btc_assets.forecasting.tables import FORECAST_OUTCOMES, FORECASTS, POSITIONS
from btc_assets.lake import Lake, by_day
from btc_assets.learning.registry import ModelRegistry
from btc_assets.learning.tables import TRAINED_MODEL, TRAINING_PROFILE
from btc_assets.market.quarter_bars import QUARTER_BARS
from btc_assets.market.tables import PRICES
from btc_assets.monitoring import assets as monitoring
from btc_assets.monitoring import checks as monitoring_checks
from btc_assets.monitoring.tables import PERFORMANCE_REPORT
from btc_assets.partitions import DAILY, key_of
from btc_assets.reads import lake_resources
from btc_assets.schema import Contract
from btc_assets.settings import settings
from btc_assets.vocabulary import CHALLENGER
from btc_assets_tests.monitoring.conftest import (
    DAYS,
    FEATURE,
    LinearModel,
    bars_of_the_history,
    features_of,
    history_rows,
    labels_of,
    profile_rows,
    shelf,
    trained_rows,
)

UPSTREAM = [
    dg.AssetSpec(contract.table.split("/"), partitions_def=DAILY)
    for contract in (
        *(PRICES, QUARTER_BARS, HOURLY_FEATURES, HOURLY_LABELS, TRAINED_MODEL, TRAINING_PROFILE, MODEL_HISTORY),
    )
]
FIRST, LAST = DAYS[2], DAYS[-1]


class ShelfRegistry(ModelRegistry):
    """A registry that holds the models of `shelf`."""

    def load(self, version: int) -> LinearModel:
        """Return a version."""
        return shelf().load(version)


def materialise(root: Path, first: date, last: date, names: tuple[str, ...]) -> dg.ExecuteInProcessResult:
    """Materialise assets over a range of days in one run, with their checks."""
    lake = Lake(root=str(root))
    keys = dg.AssetSelection.assets(*names)
    job = dg.define_asset_job("monitor", selection=keys, partitions_def=DAILY)
    definitions = dg.Definitions(
        assets=[*UPSTREAM, *forecasting.ASSETS, shadow_report, *monitoring.ASSETS],
        asset_checks=[*forecasting_checks.CHECKS, *monitoring_checks.CHECKS],
        jobs=[job],
        resources={
            **lake_resources(lake),
            "registry": ShelfRegistry(tracking_uri="sqlite://"),
            "outbox": Outbox(root / "outbox.db"),
        },
        executor=dg.in_process_executor,
    )
    tags = {"dagster/asset_partition_range_start": key_of(first), "dagster/asset_partition_range_end": key_of(last)}
    return definitions.resolve_job_def("monitor").execute_in_process(
        tags=tags if first != last else None, partition_key=key_of(first) if first == last else None
    )


def store(root: Path, contract: Contract, frame: pl.DataFrame) -> None:
    """Write every day of a table to the lake."""
    lake = Lake(root=str(root))
    for day, part in by_day(contract, frame, DAYS):
        lake.write(contract, day, part)


def read(root: Path, contract: Contract) -> pl.DataFrame:
    """Read a complete table of the lake."""
    return Lake(root=str(root)).scan(contract).collect().sort(contract.key)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a lake with everything upstream of monitoring."""
    folder = tmp_path_factory.mktemp("lake")
    bars = bars_of_the_history()
    store(folder, PRICES, bars)
    store(folder, HOURLY_FEATURES, features_of(bars))
    store(folder, HOURLY_LABELS, labels_of(bars))
    store(folder, MODEL_HISTORY, pl.concat([history_rows(DAYS[3], 1), history_rows(DAYS[7], 2, CHALLENGER)]))
    store(folder, TRAINED_MODEL, pl.concat([trained_rows(DAYS[3], 1), trained_rows(DAYS[7], 2)]))
    for day in (DAYS[3], DAYS[7]):
        Lake(root=str(folder)).write(TRAINING_PROFILE, day, profile_rows(day))
    return folder


@pytest.fixture(scope="module")
def run(root: Path) -> dg.ExecuteInProcessResult:
    """Materialise forecasts and outcomes of ten days in one run."""
    return materialise(root, FIRST, LAST, ("forecasting/forecasts", "forecasting/forecast_outcomes"))


def test_a_run_over_many_days_stores_tables_that_satisfy_their_contracts(
    root: Path, run: dg.ExecuteInProcessResult
) -> None:
    assert run.success
    assert FORECASTS.faults(read(root, FORECASTS)) == []
    assert FORECAST_OUTCOMES.faults(read(root, FORECAST_OUTCOMES)) == []
    assert read(root, FORECASTS)["open_time"].dt.date().n_unique() == 9
    end = LAST + timedelta(days=1)
    known = read(root, FORECASTS).filter(pl.col("target_time") <= pl.lit(end).cast(pl.Datetime("us", "UTC")))
    assert read(root, FORECAST_OUTCOMES).height == known.height


def test_every_check_passes(run: dg.ExecuteInProcessResult) -> None:
    checks = {check.check_name: check for check in run.get_asset_check_evaluations()}
    assert set(checks) == {
        "every_hour_is_forecast",
        "replay_gives_the_same",
        "every_model_has_a_profile",
        "no_input_is_missing",
        "every_known_label_is_judged",
        "intervals_hold",
    }
    assert all(check.passed for check in checks.values()), {name: check.description for name, check in checks.items()}


def test_a_record_of_positions_continues_the_partition_before(
    root: Path, run: dg.ExecuteInProcessResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run.success
    monkeypatch.setattr(positions, "MIN_SCORES", 24)
    shutil.copytree(root, tmp_path / "lake")
    name = ("forecasting/positions",)
    result = materialise(tmp_path / "lake", DAYS[3], LAST, name)
    assert all(check.passed for check in result.get_asset_check_evaluations())
    assert "buy-and-hold" in str(result.asset_materializations_for_node("forecasting__positions")[-1].metadata)
    at_once = read(tmp_path / "lake", POSITIONS)
    assert at_once["turnover"].sum() > 0
    shutil.rmtree(tmp_path / "lake" / POSITIONS.table / f"day={LAST}")
    again = materialise(tmp_path / "lake", LAST, LAST, name)
    assert all(check.passed for check in again.get_asset_check_evaluations())
    assert read(tmp_path / "lake", POSITIONS).equals(at_once)


def test_a_run_of_one_day_stores_the_same_rows_as_a_run_of_many(root: Path, run: dg.ExecuteInProcessResult) -> None:
    before = [read(root, contract) for contract in (FORECASTS, FORECAST_OUTCOMES)]
    assert materialise(root, DAYS[8], DAYS[8], ("forecasting/forecasts", "forecasting/forecast_outcomes")).success
    assert all(
        read(root, contract).equals(frame)
        for contract, frame in zip((FORECASTS, FORECAST_OUTCOMES), before, strict=True)
    )


def test_a_day_before_the_first_model_is_stored_empty_with_a_warning(root: Path) -> None:
    result = materialise(root, DAYS[2], DAYS[2], ("forecasting/forecasts",))
    metadata = result.asset_materializations_for_node("forecasting__forecasts")[-1].metadata
    assert metadata["days_without_a_champion"].value == 1
    assert "There is no model on this day yet" in metadata["newest"].value
    assert read(root, FORECASTS).filter(pl.col("open_time").dt.date() == DAYS[2]).is_empty()
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not checks["every_hour_is_forecast"].passed
    assert checks["every_hour_is_forecast"].severity == dg.AssetCheckSeverity.WARN
    assert "There is no champion on" in checks["every_hour_is_forecast"].description


def test_the_report_has_a_table_and_plots(root: Path, run: dg.ExecuteInProcessResult) -> None:
    result = materialise(root, LAST, LAST, ("monitoring/performance_report",))
    assert PERFORMANCE_REPORT.faults(read(root, PERFORMANCE_REPORT)) == []
    metadata = result.asset_materializations_for_node("monitoring__performance_report")[-1].metadata
    assert "| champion | 60 min | all |" in metadata["summary"].value
    for picture in ("equity", "reliability"):
        assert metadata[picture].value.startswith("![")
        assert "data:image/png;base64," in metadata[picture].value
        assert len(metadata[picture].value) < 60_000


def test_a_range_of_days_has_one_report_per_day(root: Path, run: dg.ExecuteInProcessResult) -> None:
    materialise(root, DAYS[9], LAST, ("monitoring/performance_report",))
    together = read(root, PERFORMANCE_REPORT)
    assert set(together["day"]) == set(DAYS[9:])
    materialise(root, DAYS[9], DAYS[9], ("monitoring/performance_report",))
    assert read(root, PERFORMANCE_REPORT).equals(together)


def test_a_challenger_is_decided_once_enough_hours_are_realised(
    root: Path, run: dg.ExecuteInProcessResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = materialise(root, DAYS[6], LAST, ("champion/shadow_report",))
    report = read(root, SHADOW_REPORT)
    assert SHADOW_REPORT.faults(report) == []
    assert set(report["day"]) == set(DAYS[7:]), "no challenger is in shadow before"
    assert set(report["decision"]) == {"wait"}, "312 hours are required"
    metadata = result.asset_materializations_for_node("champion__shadow_report")[-1].metadata
    assert metadata["challenger"].value == 2
    assert "data:image/png;base64," in metadata["picture"].value
    monkeypatch.setenv("BTC_SHADOW_HOURS", "60")
    settings.cache_clear()
    try:
        materialise(root, DAYS[6], LAST, ("champion/shadow_report",))
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    decided = read(root, SHADOW_REPORT).unique("day").sort("day")
    hours = read(root, SHADOW_REPORT).filter(pl.col("criterion") == "common_hours").sort("day")["value"]
    assert decided["decision"].to_list() == ["wait" if n < 60 else "dismiss" for n in hours]
    assert hours[0] < 60 <= hours[-1]


def test_checks_find_missing_and_changed_rows(root: Path, run: dg.ExecuteInProcessResult) -> None:
    lake = Lake(root=str(root))
    whole = lake.read(FORECASTS, LAST)
    outcomes = lake.read(FORECAST_OUTCOMES, LAST)
    selection = dg.AssetSelection.checks(*forecasting_checks.CHECKS, *monitoring_checks.CHECKS)
    try:
        lake.write(FORECASTS, LAST, whole[1:].with_columns(pl.col("p_up") * 0.999999))
        lake.write(FORECAST_OUTCOMES, LAST, outcomes[5:])
        definitions = dg.Definitions(
            assets=[*UPSTREAM, *forecasting.ASSETS, shadow_report, *monitoring.ASSETS],
            asset_checks=[*forecasting_checks.CHECKS, *monitoring_checks.CHECKS],
            jobs=[dg.define_asset_job("look", selection=selection)],
            resources={
                **lake_resources(lake),
                "registry": ShelfRegistry(tracking_uri="sqlite://"),
                "outbox": Outbox(root / "outbox.db"),
            },
            executor=dg.in_process_executor,
        )
        result = definitions.resolve_job_def("look").execute_in_process(raise_on_error=False)
        checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
        assert not checks["every_hour_is_forecast"].passed
        assert "1 forecasts" in checks["every_hour_is_forecast"].description
        assert not checks["replay_gives_the_same"].passed
        assert not checks["every_known_label_is_judged"].passed
        assert checks["every_known_label_is_judged"].metadata["missing"].value == 5
    finally:
        lake.write(FORECASTS, LAST, whole)
        lake.write(FORECAST_OUTCOMES, LAST, outcomes)


def test_an_outage_is_marked_and_replayed_for_any_range_of_days(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "lake")
    outage = midnight(DAYS[9]) + timedelta(hours=5)
    features = features_of(bars_of_the_history())
    gone = pl.when(pl.col("open_time") < outage).then(pl.col(FEATURE)).alias(FEATURE)
    store(tmp_path / "lake", HOURLY_FEATURES, features.with_columns(gone))
    result = materialise(tmp_path / "lake", DAYS[9], LAST, ("forecasting/forecasts",))
    made = read(tmp_path / "lake", FORECASTS).filter(pl.col("open_time") >= midnight(DAYS[9]))
    assert made["degraded"].to_list() == (made["open_time"] >= outage).to_list()
    assert set(made.filter("degraded")["missing_inputs"]) == {FEATURE}
    metadata = result.asset_materializations_for_node("forecasting__forecasts")[-1].metadata
    assert metadata["degraded_hours"].value == 24 * 3 - 5
    assert metadata["missing_inputs"].value == [FEATURE]
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert checks["replay_gives_the_same"].passed
    assert not checks["no_input_is_missing"].passed
    assert FEATURE in checks["no_input_is_missing"].description
    materialise(tmp_path / "lake", LAST, LAST, ("forecasting/forecasts",))
    assert read(tmp_path / "lake", FORECASTS).filter(pl.col("open_time") >= midnight(DAYS[9])).equals(made)


def test_a_check_names_a_model_without_a_profile(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "lake")
    shutil.rmtree(tmp_path / "lake" / TRAINING_PROFILE.table / f"day={DAYS[7]}")
    result = materialise(tmp_path / "lake", LAST, LAST, ("forecasting/forecasts",))
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not checks["every_model_has_a_profile"].passed
    assert f"materialise learning/training_profile of {DAYS[7]}." in checks["every_model_has_a_profile"].description


def test_every_asset_has_description_group_kinds_freshness_and_version() -> None:
    for asset in (*forecasting.ASSETS, *monitoring.ASSETS):
        spec = asset.get_asset_spec()
        assert len(spec.description or "") > 80
        assert spec.group_name == spec.key.path[0]
        assert spec.kinds
        assert spec.freshness_policy is not None
        assert spec.code_version


def test_the_feature_of_these_tests_exists() -> None:
    assert FEATURE in HOURLY_FEATURES.columns
