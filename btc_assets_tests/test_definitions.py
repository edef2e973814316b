"""The graph as a whole: what every asset must have, and that no lineage reaches into the future."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache

import dagster as dg
import pytest
from dagster._core.workspace.autodiscovery import loadable_targets_from_loaded_module

from btc_assets import definitions
from btc_assets.champion.tables import MODEL_HISTORY, MODEL_VERDICT
from btc_assets.definitions import defs
from btc_assets.features.tables import HOURLY_FEATURES
from btc_assets.forecasting.tables import FORECASTS
from btc_assets.market.streams import CONTEXT
from btc_assets.partitions import DAILY, day_of, key_of
from btc_assets.schema import CONTRACTS
from btc_assets.settings import PROJECT_ROOT

GRAPH = defs.resolve_asset_graph()
KEYS = sorted(GRAPH.get_all_asset_keys())
NAMES = [key.to_user_string() for key in KEYS]
EXPECTED = {
    "market/prices",
    "market/quarter_bars",
    "news/articles",
    "news/posts",
    "news/sentiment_scores",
    "news/sentiment_benchmark",
    "features/hourly_features",
    "features/hourly_labels",
    "learning/cv_folds",
    "learning/tuned_parameters",
    "learning/fold_forecasts",
    "learning/ensemble",
    "learning/trained_model",
    "learning/model_explanation",
    "learning/training_profile",
    "learning/volatility_model",
    "learning/market_regimes",
    "champion/model_verdict",
    "champion/model_history",
    "learning/feature_group_study",
    "learning/family_comparison",
    "forecasting/forecasts",
    "forecasting/explanations",
    "forecasting/forecast_outcomes",
    "forecasting/positions",
    "monitoring/performance_report",
    "champion/shadow_report",
    "monitoring/drift_report",
    "alerts/alerts",
    "serving/bundle",
}
HEAVY = (
    *("torch", "transformers", "shap", "evidently", "mlflow", "xgboost", "sklearn", "optuna", "hmmlearn"),
    *("scipy", "statsmodels", "arch", "matplotlib", "onnxruntime", "onnx", "litestar", "pandas", "pandera", "duckdb"),
    *("feedparser", "hishel", "httpx", "selectolax", "datasketch", "vaderSentiment"),
)


def test_dagster_finds_one_definitions_where_the_workspace_points() -> None:
    [target] = loadable_targets_from_loaded_module(definitions)
    assert target.target_definition is defs


def test_the_graph_is_the_one_we_mean() -> None:
    assert set(NAMES) == EXPECTED


@pytest.mark.parametrize("key", KEYS, ids=NAMES)
def test_every_asset_is_partitioned_typed_fresh_and_described(key: dg.AssetKey) -> None:
    node = GRAPH.get(key)
    spec = node.to_asset_spec()
    assert node.partitions_def == DAILY
    assert spec.freshness_policy is not None
    assert len(node.description or "") > 80
    assert node.group_name == key.path[0]
    assert node.kinds
    assert node.code_version
    assert node.backfill_policy is not None
    definition = node.assets_def
    output = definition.op.output_dict[definition.get_output_name_for_asset_key(key)]
    assert output.dagster_type.typing_type.__name__ == "DataFrame"
    assert "dagster/column_schema" in output.dagster_type.metadata


@pytest.mark.parametrize("key", KEYS, ids=NAMES)
def test_every_asset_is_bounded_in_time_and_has_a_contract(key: dg.AssetKey) -> None:
    assert key.to_user_string() in CONTRACTS
    assert int(GRAPH.get(key).assets_def.op.tags["dagster/max_runtime"]) > 0


def test_every_contract_has_its_asset_but_those_of_streams_that_are_off() -> None:
    assert set(CONTRACTS) - {stream.contract.table for stream in CONTEXT} == set(NAMES)


@pytest.mark.slow
def test_streams_that_are_turned_on_join_the_graph_and_the_features() -> None:
    """In a process of their own: what is on is decided when the project is loaded."""
    code = (
        "import dagster as dg; from btc_assets.definitions import defs; dg.Definitions.validate_loadable(defs); "
        "from btc_assets.features.tables import HOURLY_FEATURES; graph = defs.resolve_asset_graph(); "
        "on = [key for key in graph.get_all_asset_keys() if key.path[0] == 'market']; "
        "features = graph.get(HOURLY_FEATURES.asset_key); "
        "print(len(on), len(set(on) & features.parent_keys), len(HOURLY_FEATURES.columns)); "
        "print(*[one.name for one in (*defs.jobs, *defs.schedules, *defs.sensors)])"
    )
    names = ",".join(stream.name for stream in CONTEXT)
    environment = {**os.environ, "BTC_CONTEXT": names}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT_ROOT, env=environment
    )
    columns = len(HOURLY_FEATURES.columns) + sum(len(stream.features) for stream in CONTEXT)
    counts, automation = found.stdout.splitlines()
    assert counts.split() == ["6", "6", str(columns)]
    for stream in CONTEXT:
        assert automation.split().count(f"gather_{stream.name}") == 2, "a job and a schedule"
        assert f"forecast_from_new_{stream.name}" in automation.split()


CHECKED = {
    "market/prices": {"hours_present", "ohlc_laws", "newest_bar_age"},
    "forecasting/forecasts": {"every_hour_is_forecast", "replay_gives_the_same"},
}


def checks_of(asset: str) -> dict[str, bool]:
    """Return whether each check of an asset is blocking."""
    found = (key for key in GRAPH.asset_check_keys if key.asset_key.to_user_string() == asset)
    return {key.name: GRAPH.get(key).blocking for key in found}


def test_bars_that_cannot_be_trusted_block() -> None:
    blocking = {name for name, blocks in checks_of("market/prices").items() if blocks}
    assert blocking == CHECKED["market/prices"]


@pytest.mark.parametrize("asset", CHECKED)
def test_prices_and_forecasts_are_checked(asset: str) -> None:
    assert set(checks_of(asset)) >= CHECKED[asset]


def test_runs_bound_their_time() -> None:
    names = {"refresh_prices", "build_features", "forecast_days", "report_performance"}
    names |= {"refresh_forecast", "train_cutoff", "publish_bundle", "walk_forward"}
    jobs = {name: defs.resolve_job_def(name) for name in names}
    assert all(int(job.run_tags["dagster/max_runtime"]) > 0 for job in jobs.values())


def test_steps_run_in_one_process() -> None:
    assert defs.executor is dg.in_process_executor


def test_schedules_and_sensors_are_the_ones_we_mean() -> None:
    assert {schedule.name for schedule in defs.schedules or ()} == {
        "hourly_refresh",
        "gather_news",
        "gather_late_quarter_bars",
        "weekly_training",
    }
    assert {sensor.name for sensor in defs.sensors or ()} == {
        "refresh_late_bars",
        "score_new_texts",
        "forecast_from_new_prices",
        "forecast_from_new_scores",
        "forecast_from_new_quarter_bars",
        "forecast_from_new_models",
        "settle_shadows",
        "retrain_on_drift",
        "retrain_on_degradation",
        "raise_alerts",
        "alert_on_failed_run",
        "publish_new_forecasts",
        "report_on_closed_days",
    }


@pytest.mark.slow
def test_loading_the_definitions_imports_nothing_heavy() -> None:
    code = f"import sys, btc_assets.definitions; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT_ROOT)
    assert found.stdout.split() == []


# --- no lineage reaches into the future --------------------------------------------------------------
SAMPLE_DAYS = (DAILY.get_partition_keys()[0], "2018-11-05", "2019-03-31", DAILY.get_partition_keys()[-1])


@cache
def parents(asset: dg.AssetKey, day: date) -> tuple[tuple[dg.AssetKey, date, date], ...]:
    """Return what a partition is made from: each parent with the first and last day mapped to."""
    found = []
    child = GRAPH.get(asset)
    for parent in child.parent_keys:
        mapping = child.partition_mappings.get(parent) or dg.TimeWindowPartitionMapping()
        result = mapping.get_upstream_mapped_partitions_result_for_partitions(
            DAILY.subset_with_partition_keys([key_of(day)]), DAILY, DAILY, current_time=datetime.now(tz=UTC)
        )
        days = [day_of(key) for key in result.partitions_subset.get_partition_keys()]
        if days:
            found.append((parent, min(days), max(days)))
    return tuple(found)


def ancestry(asset: dg.AssetKey, day: date) -> Iterator[tuple[dg.AssetKey, date]]:
    """Yield every ancestor of a partition with the newest of its days that is reached."""
    newest: dict[dg.AssetKey, date] = {}
    waiting = [(asset, day)]
    while waiting:
        for parent, _, last in parents(*waiting.pop()):
            # Offsets do not depend on the day, so the newest day of an ancestor reaches the newest of its own.
            if parent not in newest or newest[parent] < last:
                newest[parent] = last
                waiting.append((parent, last))
    yield from newest.items()


@pytest.mark.parametrize("day", SAMPLE_DAYS)
@pytest.mark.parametrize("key", KEYS, ids=NAMES)
def test_no_partition_rests_on_a_later_day(key: dg.AssetKey, day: str) -> None:
    for ancestor, newest in ancestry(key, day_of(day)):
        assert newest <= day_of(day), f"{key.to_user_string()}[{day}] rests on {ancestor.to_user_string()}[{newest}]"


@pytest.mark.parametrize("day", SAMPLE_DAYS)
@pytest.mark.parametrize(
    "key",
    [key for key in KEYS if key.path[0] == "learning" or key in (MODEL_VERDICT.asset_key, MODEL_HISTORY.asset_key)],
    ids=lambda key: key.path[1],
)
def test_no_model_rests_on_a_bar_that_closes_after_its_cutoff(key: dg.AssetKey, day: str) -> None:
    cutoff = datetime.combine(day_of(day), datetime.min.time(), tzinfo=UTC)
    reached = dict(ancestry(key, day_of(day)))
    for ancestor, newest in reached.items():
        if ancestor.path[0] in ("market", "features"):
            last_bar_opens = datetime.combine(newest, datetime.min.time(), tzinfo=UTC) + timedelta(hours=23)
            assert last_bar_opens + timedelta(hours=1) <= cutoff


@pytest.mark.parametrize("day", SAMPLE_DAYS[1:])
def test_a_model_looks_back_exactly_its_window(day: str) -> None:
    from btc_assets.settings import settings

    spans = {
        parent.path[1]: (first, last)
        for parent, first, last in parents(dg.AssetKey(["learning", "trained_model"]), day_of(day))
    }
    opens = max(settings().first_day, day_of(day) - timedelta(days=settings().window_days))
    for name in ("hourly_features", "hourly_labels"):
        assert spans[name] == (opens, day_of(day) - timedelta(days=1))


@pytest.mark.parametrize("day", SAMPLE_DAYS[1:])
def test_decisions_rest_on_all_that_was_decided_before(day: str) -> None:
    start, own, eve = DAILY.start.date(), day_of(day), day_of(day) - timedelta(days=1)
    assert (MODEL_HISTORY.asset_key, start, eve) in parents(MODEL_HISTORY.asset_key, own)
    assert (MODEL_HISTORY.asset_key, start, eve) in parents(MODEL_VERDICT.asset_key, own)
    assert (MODEL_HISTORY.asset_key, start, own) in parents(FORECASTS.asset_key, own)


def test_a_mapping_that_includes_the_cutoffs_own_day_would_be_caught() -> None:
    leaky = dg.TimeWindowPartitionMapping(start_offset=-365, end_offset=0, allow_nonexistent_upstream_partitions=True)
    result = leaky.get_upstream_mapped_partitions_result_for_partitions(
        DAILY.subset_with_partition_keys(["2019-03-04"]), DAILY, DAILY, current_time=datetime.now(tz=UTC)
    )
    newest = max(day_of(key) for key in result.partitions_subset.get_partition_keys())
    assert newest >= date(2019, 3, 4), "the planted leak is not seen by the measure the tests above use"
