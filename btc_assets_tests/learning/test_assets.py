"""A cutoff from bars to verdict, on a temporary lake and MLflow store."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from btc_assets.automation.walk_forward import JUDGED, TRAINED
from btc_assets.champion import assets as champion
from btc_assets.champion.gate import SEEDS
from btc_assets.champion.history import holder
from btc_assets.champion.tables import MODEL_HISTORY, MODEL_VERDICT
from btc_assets.clock import midnight
from btc_assets.features import assets as features
from btc_assets.features.engine import compute_features
from btc_assets.features.inputs import inputs_of
from btc_assets.features.labels import compute_labels
from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.lake import Lake, by_day
from btc_assets.learning import assets as learning
from btc_assets.learning import cutoff, state_assets
from btc_assets.learning.families import ridge_logistic
from btc_assets.learning.families.linear import LinearOutput
from btc_assets.learning.families.protocol import LOG_LOSS, Fit, Inputs, Vector
from btc_assets.learning.families.ridge_logistic import RidgeLogisticParameters
from btc_assets.learning.folds import matrix
from btc_assets.learning.natives import library_p_up, read_members
from btc_assets.learning.registry import EXPERIMENT, ModelRegistry
from btc_assets.learning.tables import (
    CV_FOLDS,
    FAMILY_COMPARISON,
    FEATURE_GROUP_STUDY,
    MARKET_REGIMES,
    TRAINED_MODEL,
    TUNED_PARAMETERS,
    VOLATILITY_MODEL,
)
from btc_assets.market import assets as market
from btc_assets.market.resources import Market
from btc_assets.market.synthetic import quarters_of
from btc_assets.market.tables import PRICES
from btc_assets.news import assets as news
from btc_assets.news.resources import News
from btc_assets.partitions import key_of
from btc_assets.reads import lake_resources
from btc_assets.schema import Contract
from btc_assets.settings import settings
from btc_assets.vocabulary import CHALLENGER, CHAMPION, EVERY_HORIZON, PRIMARY
from btc_assets_tests.conftest import random_walk_bars

FIRST = date(2018, 3, 20)
CUTOFF = date(2018, 5, 28)
NEXT = date(2018, 6, 4)
DAYS = [FIRST + timedelta(days=i) for i in range((NEXT - FIRST).days)]

pytestmark = pytest.mark.slow


def fit_pairs(
    inputs: Inputs, up: Vector, weights: Vector, parameters: RidgeLogisticParameters, fit: Fit
) -> LinearOutput:
    """Fit a line to two hours at once, with a training curve."""
    fit.draw(LOG_LOSS, [0.7, 0.6])
    return ridge_logistic.fit_direction(inputs, up, weights, parameters, fit)


PAIRS = replace(ridge_logistic.FAMILY, name="pairs", fit_direction=fit_pairs, lookback=lambda _: 2)


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Set a temporary data folder and the smallest useful window, folds, features and tuning."""
    root = tmp_path_factory.mktemp("deployment")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BTC_DATA_DIR", str(root))
        patch.setenv("BTC_FEATURE_SET", "streamlined")
        patch.setenv("BTC_TRAIN_DAYS", "60")
        patch.setenv("BTC_CV_FOLDS", "2")
        patch.setenv("BTC_CV_TEST_DAYS", "7")
        patch.setenv("BTC_TUNE_TRIALS", "2")
        patch.setenv("BTC_TRAIN_THREADS", "1")
        settings.cache_clear()
        yield root
    settings.cache_clear()


@pytest.fixture(scope="module")
def lake(data_folder: Path) -> Lake:
    """Return a lake of eleven weeks of synthetic bars, their features and labels."""
    lake = Lake(root=settings().lake_root)
    bars = random_walk_bars(24 * len(DAYS), start=midnight(FIRST))
    labels = compute_labels(bars, midnight(FIRST), midnight(NEXT), quarters=quarters_of(bars, seed=1))
    for contract, frame in (
        (PRICES, bars),
        (HOURLY_FEATURES, compute_features(inputs_of(bars))),
        (HOURLY_LABELS, labels),
    ):
        for day, part in by_day(contract, frame.filter(contract.day.is_in(DAYS)), DAYS):
            lake.write(contract, day, part)
    return lake


@pytest.fixture(scope="module")
def registry(data_folder: Path, empty_registry: Callable[[Path], None]) -> ModelRegistry:
    empty_registry(data_folder / "mlflow" / "mlflow.db")
    return ModelRegistry(tracking_uri=settings().tracking_uri, artifacts=str(settings().mlflow_artifacts))


STUDIES = dg.AssetSelection.assets(FEATURE_GROUP_STUDY.asset_key, FAMILY_COMPARISON.asset_key)
TRAINING = dg.AssetSelection.groups("learning", "champion") - STUDIES
TO_THE_MODEL = TRAINING & dg.AssetSelection.assets("learning/trained_model").upstream()


def train(
    lake: Lake,
    registry: ModelRegistry,
    cutoff: date,
    selection: dg.AssetSelection = TRAINING,
    run_config: dict[str, Any] | None = None,
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [
            *market.ASSETS,
            *news.ASSETS,
            *features.ASSETS,
            *learning.ASSETS,
            *state_assets.ASSETS,
            champion.decisions,
        ],
        selection=selection,
        partition_key=key_of(cutoff),
        run_config=run_config,
        resources={
            **lake_resources(lake),
            "registry": registry,
            "market": Market.from_settings(settings()),
            "news": News.from_settings(settings()),
        },
        raise_on_error=False,
    )


@pytest.fixture(scope="module")
def first(lake: Lake, registry: ModelRegistry) -> dg.ExecuteInProcessResult:
    result = train(lake, registry, CUTOFF)
    assert result.success
    return result


def table(lake: Lake, contract: Contract, day: date = CUTOFF) -> pl.DataFrame:
    frame = lake.read(contract, day)
    assert frame is not None
    return frame


@pytest.mark.usefixtures("data_folder")
def test_an_input_gone_at_the_cutoff_is_not_used_in_training_except_those_of_volatility() -> None:
    whole = compute_features(inputs_of(random_walk_bars(24 * len(DAYS), start=midnight(FIRST))))
    late = pl.col("open_time") >= midnight(CUTOFF) - timedelta(hours=30)
    gone = [pl.when(~late).then(pl.col(name)).alias(name) for name in ("volume_ratio", "log_variance_1h")]
    known = cutoff.training_inputs(whole, CUTOFF)
    assert "volume_ratio" in known
    assert cutoff.training_inputs(whole.with_columns(gone), CUTOFF) == tuple(
        name for name in known if name != "volume_ratio"
    )
    assert cutoff.training_inputs(whole.with_columns(gone), CUTOFF - timedelta(days=7)) == known


@pytest.mark.usefixtures("first")
def test_every_table_of_a_cutoff_satisfies_its_contract(lake: Lake) -> None:
    for contract in (*TRAINED, VOLATILITY_MODEL, MARKET_REGIMES, *JUDGED):
        frame = table(lake, contract)
        assert contract.faults(frame) == []
        assert frame.height > 0


@pytest.mark.usefixtures("first")
def test_the_first_valid_model_is_champion_and_can_be_loaded(lake: Lake, registry: ModelRegistry) -> None:
    verdict = table(lake, MODEL_VERDICT)
    assert verdict["passed"].all()
    assert set(verdict["decision"]) == {"promoted"}
    assert verdict["champion_version"].null_count() == verdict.height, "there was no champion to compare with"
    champion = holder(table(lake, MODEL_HISTORY), CHAMPION, midnight(CUTOFF))
    assert champion is not None
    bundle = registry.load(champion.version)
    assert bundle.digest == table(lake, TRAINED_MODEL)["model_digest"][0] == champion.digest
    assert bundle.horizons == EVERY_HORIZON


def test_every_mlflow_run_is_closed_and_has_its_tags(first: dg.ExecuteInProcessResult, registry: ModelRegistry) -> None:
    experiment = registry.client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = registry.client.search_runs([experiment.experiment_id], f"tags.dagster_run_id = '{first.run_id}'")
    assert {run.data.tags["asset"] for run in runs} == {
        "learning/tuned_parameters",
        "learning/trained_model",
        "learning/model_explanation",
        "champion/model_verdict",
    }
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.tags["partition"] == key_of(CUTOFF)
        assert len(run.data.tags["data_version.hourly_features"]) == 64
    trained = next(run for run in runs if run.data.tags["asset"] == "learning/trained_model")
    assert {"xgboost_2y.60m.rounds", "feature_set", "seed"} <= set(trained.data.params)
    assert {"60m.auc", "1440m.coverage_90", "ensemble_parity"} <= set(trained.data.metrics)
    curve = registry.client.get_metric_history(trained.info.run_id, "xgboost_2y.60m.log_loss")
    assert [point.step for point in curve] == list(range(int(trained.data.params["xgboost_2y.60m.rounds"])))
    files = {item.path for item in registry.client.list_artifacts(trained.info.run_id, "model")}
    assert {"model/model.json", "model/xgboost_2y.p_up_60m.onnx", "model/intervals.q95_1440m.onnx"} <= files


def test_retraining_a_cutoff_gives_the_same_model_and_version(
    first: dg.ExecuteInProcessResult, lake: Lake, registry: ModelRegistry
) -> None:
    """With the stored parameters; another test shows that tuning is reproducible."""
    before = table(lake, TRAINED_MODEL)
    assert train(lake, registry, CUTOFF, dg.AssetSelection.assets(TRAINED_MODEL.asset_key)).success
    assert table(lake, TRAINED_MODEL).equals(before)


@pytest.mark.usefixtures("first")
def test_bars_after_the_cutoff_do_not_change_its_model(lake: Lake, registry: ModelRegistry, tmp_path: Path) -> None:
    poisoned = Lake(root=str(tmp_path / "lake"))
    for contract in (PRICES, HOURLY_FEATURES, HOURLY_LABELS):
        for day in DAYS:
            frame = table(lake, contract, day)
            if day >= CUTOFF:
                numbers = [name for name, kind in frame.schema.items() if kind == pl.Float64]
                frame = frame.with_columns(pl.col(numbers) * 1e6)
            poisoned.write(contract, day, frame)
    assert train(poisoned, registry, CUTOFF, TO_THE_MODEL).success
    assert table(poisoned, TRAINED_MODEL).equals(table(lake, TRAINED_MODEL))


@pytest.mark.usefixtures("first")
def test_the_next_cutoff_reuses_parameters_and_is_compared_with_the_champion(
    lake: Lake, registry: ModelRegistry
) -> None:
    assert train(lake, registry, NEXT).success
    assert set(table(lake, TUNED_PARAMETERS, NEXT)["source"]) == {"reused"}
    verdict = table(lake, MODEL_VERDICT, NEXT)
    criteria = {row["criterion"]: row for row in verdict.iter_rows(named=True)}
    assert set(verdict["kind"]) == {"refresh"}, "the same parameters on a newer window"
    assert {"calibration", "coverage_90", "log_loss", "worse_p_value", "net_sharpe"} <= set(criteria)
    both = [criteria[name] for name in ("onnx_parity", "hours", "calibration", "coverage_90", "log_loss")]
    assert all(row["value"] is not None and row["champion_value"] is not None for row in both)
    champion, candidate = table(lake, MODEL_VERDICT)["candidate_version"][0], verdict["candidate_version"][0]
    assert set(verdict["champion_version"]) == {champion}
    history = pl.concat([table(lake, MODEL_HISTORY), table(lake, MODEL_HISTORY, NEXT)])
    current_champion, in_shadow = (holder(history, role, midnight(NEXT)) for role in (CHAMPION, CHALLENGER))
    assert current_champion is not None
    assert current_champion.version == (candidate if verdict["decision"][0] == "promoted" else champion)
    assert in_shadow is None


@pytest.mark.usefixtures("first")
def test_the_pairs_of_a_verdict_are_the_recipe_with_other_seeds(lake: Lake, registry: ModelRegistry) -> None:
    version = table(lake, TRAINED_MODEL)["model_version"][0]
    natives, model = registry.native(version), registry.load(version)
    inputs = matrix(table(lake, HOURLY_FEATURES), model.features)
    scale = model.predict(inputs)[PRIMARY].sigma

    def of_seed(seed: int | None) -> np.ndarray:
        return library_p_up(model.document, read_members(model, natives, PRIMARY, seed), inputs, scale, PRIMARY)

    p_up = model.predict(inputs)[PRIMARY].p_up
    assert of_seed(None) == pytest.approx(p_up, abs=1e-5)
    fits = [of_seed(seed) for seed in range(settings().seed + 1, settings().seed + SEEDS)]
    for number, fit in enumerate(fits):
        assert np.abs(fit - p_up).max() > 1e-3, "another seed gives another model"
        assert np.corrcoef(fit, p_up)[0, 1] > 0.3, "of the same recipe"
        assert all(np.abs(fit - other).max() > 1e-3 for other in fits[:number])


def test_a_cutoff_without_history_fails_with_a_remedy_and_stores_nothing(lake: Lake, registry: ModelRegistry) -> None:
    early = FIRST + timedelta(days=20)
    result = train(lake, registry, early)
    assert not result.success
    (failure, *_) = result.get_step_failure_events()
    error = failure.step_failure_data.error
    assert error is not None
    assert error.cause is not None
    assert "Materialise prices, features and labels" in error.cause.message
    assert lake.read(TRAINED_MODEL, early) is None


@pytest.mark.usefixtures("first")
def test_the_group_study_of_a_trained_cutoff_notes_omitted_groups(lake: Lake, registry: ModelRegistry) -> None:
    result = train(lake, registry, CUTOFF, dg.AssetSelection.assets(FEATURE_GROUP_STUDY.asset_key))
    assert result.success
    study = table(lake, FEATURE_GROUP_STUDY)
    assert FEATURE_GROUP_STUDY.faults(study) == []
    assert study["groups"].to_list() == ["price"], "no texts were gathered"
    assert study["seeds"].to_list() == [5]
    [event] = result.get_asset_materialization_events()
    assert event.materialization.metadata["verdicts"].value == {
        f"price against {study['against'][0]}": study["verdict"][0]
    }


@pytest.mark.usefixtures("first")
def test_the_family_comparison_of_a_trained_cutoff_has_every_pair(lake: Lake, registry: ModelRegistry) -> None:
    families = ["climatology", "naive_bayes", f"{__name__}:PAIRS"]
    result = train(
        lake,
        registry,
        CUTOFF,
        dg.AssetSelection.assets(FAMILY_COMPARISON.asset_key),
        run_config={"ops": {"learning__family_comparison": {"config": {"families": families}}}},
    )
    assert result.success
    comparison = table(lake, FAMILY_COMPARISON)
    assert FAMILY_COMPARISON.faults(comparison) == []
    assert comparison.height == 6, "three against the coin and three pairs"
    folds = table(lake, CV_FOLDS).filter(pl.col("horizon_minutes") == PRIMARY)
    assert comparison["n"].unique().to_list() == [folds["n_test"].sum()]
    (event,) = result.get_asset_materialization_events()
    run_id = str(event.materialization.metadata["mlflow_run"].value).rpartition("/")[2]
    curve = registry.client.get_metric_history(run_id, f"{__name__}:PAIRS.60m.fold_0.log_loss")
    assert [(point.step, point.value) for point in curve] == [(0, 0.7), (1, 0.6)]
