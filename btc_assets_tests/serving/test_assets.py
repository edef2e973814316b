"""The bundle asset publishes the champion's newest forecast as of its day and no later data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import duckdb
import polars as pl
import pytest

from btc_assets.alerts.tables import ALERTS
from btc_assets.automation.spans import Span
from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.forecasting.tables import FORECAST_OUTCOMES, FORECASTS
from btc_assets.lake import Lake
from btc_assets.learning.tables import TRAINING_PROFILE
from btc_assets.market.tables import PRICES
from btc_assets.monitoring.tables import DRIFT_REPORT
from btc_assets.partitions import DAILY, key_of
from btc_assets.published import live_manifest
from btc_assets.reads import lake_resources
from btc_assets.schema import Contract
from btc_assets.serving import assets as serving
from btc_assets.serving.tables import SERVING_BUNDLE
from btc_assets.settings import Settings
from btc_assets.vocabulary import HORIZONS
from btc_assets_tests.serving.builders import (
    MEMBERS,
    alert_frame,
    drift_frame,
    forecast_frame,
    outcome_frame,
    published_frames,
    write_model,
    write_natives,
)

DAY = date(2019, 6, 3)
LAST = datetime(2019, 6, 4, tzinfo=UTC)
"""When the last forecast of the day is made: at the close of its last hour."""


class Folders(dg.ConfigurableResource):
    """Model folders of a registry, by version."""

    root: str

    def folder(self, version: int) -> Path:
        """Return the folder of a version."""
        return Path(self.root) / f"model-{version}"

    def native(self, version: int) -> Path:
        """Return the folder of the members of a version, which the other tests do without."""
        return Path(self.root) / f"native-{version}"

    def set_aliases(self, wanted: Mapping[str, int | None]) -> None:
        """Record the champion and the live bundle at this time."""
        live = Path(self.root).parent / "serving" / "current"
        line = f"{wanted['champion']} {live.read_text().strip() if live.exists() else 'nothing'}\n"
        with (Path(self.root) / "aliases").open("a") as aliases:
            aliases.write(line)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Return an empty lake."""
    return Lake(root=str(tmp_path / "lake"))


@pytest.fixture
def digest(tmp_path: Path) -> str:
    """Return the digest of registry version 1."""
    return write_model(tmp_path / "models" / "model-1")


@pytest.fixture(autouse=True)
def serving_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Publish to a temporary serving folder and return it."""
    config = Settings(data_dir=tmp_path, _env_file=None)
    monkeypatch.setattr(serving, "settings", lambda: config)
    return tmp_path / "serving"


def store(lake: Lake, contract: Contract, frame: pl.DataFrame) -> None:
    """Write the rows of a frame to their partitions."""
    for key, part in frame.with_columns(contract.day.alias("_day")).partition_by("_day", as_dict=True).items():
        lake.write(contract, key[0], part.drop("_day"))


def fill(lake: Lake, digest: str, *, last: datetime = LAST) -> None:
    """Store three days of forecasts, outcomes and prices up to `last`."""
    forecasts = forecast_frame(digest, made_at=last, hours=72)
    store(lake, FORECASTS, forecasts)
    store(lake, FORECAST_OUTCOMES, outcome_frame(forecasts, now=last))
    store(lake, PRICES, published_frames(digest, made_at=last)["prices"])


def materialise(
    lake: Lake,
    models: Path,
    day: date,
    *,
    first: date | None = None,
    allow_older: bool = False,
    raise_on_error: bool = True,
) -> dg.ExecuteInProcessResult:
    """Materialise the bundle of one day, or of the days since `first` in one run."""
    return dg.materialize(
        [serving.bundle, *(dg.AssetSpec(key, partitions_def=DAILY) for key in serving.bundle.dependency_keys)],
        selection=[serving.bundle],
        partition_key=key_of(day) if first is None else None,
        tags={} if first is None else Span(first, day).tags,
        resources={**lake_resources(lake), "registry": Folders(root=str(models))},
        run_config={"ops": {"serving__bundle": {"config": {"allow_older": allow_older}}}},
        raise_on_error=raise_on_error,
    )


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    """Return the values of the materialisation's metadata."""
    (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def test_the_newest_forecast_of_the_day_is_published(
    lake: Lake, digest: str, serving_dir: Path, tmp_path: Path
) -> None:
    fill(lake, digest)
    result = materialise(lake, tmp_path / "models", DAY)
    row = lake.read(SERVING_BUNDLE, DAY).to_dicts()[0]
    live = live_manifest(serving_dir)
    assert live is not None
    assert row["bundle_id"] == live["bundle_id"] == (serving_dir / "current").read_text().strip()
    assert (row["made_at"], row["model_version"], row["model_digest"]) == (LAST, 1, digest)
    assert metadata(result)["live"] is True
    assert "| 24 h | 2019-06-05 00:00 |" in str(metadata(result)["forecast"])


def test_what_explains_a_row_is_published(lake: Lake, digest: str, serving_dir: Path, tmp_path: Path) -> None:
    fill(lake, digest)
    write_natives(tmp_path / "models" / "native-1")
    profile = {"cutoff": date(2018, 1, 1), "horizon_minutes": 60, "feature": "rsi", "median": 51.0}
    columns = TRAINING_PROFILE.columns
    lake.write(TRAINING_PROFILE, date(2018, 1, 1), pl.DataFrame([dict.fromkeys(columns) | profile], schema=columns))
    materialise(lake, tmp_path / "models", DAY)
    live = live_manifest(serving_dir)
    assert live is not None
    assert live["medians"] == {"rsi": 51.0}
    native = serving_dir / "bundles" / live["bundle_id"] / "native"
    assert {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in native.iterdir()} == live["natives"]
    assert len(live["natives"]) == len(MEMBERS) * len(HORIZONS)


def test_a_run_over_several_days_publishes_the_newest_only(
    lake: Lake, digest: str, serving_dir: Path, tmp_path: Path
) -> None:
    fill(lake, digest)
    before = DAY - timedelta(days=1)
    materialise(lake, tmp_path / "models", before)
    kept = lake.read(SERVING_BUNDLE, before)
    assert materialise(lake, tmp_path / "models", DAY, first=DAY - timedelta(days=2)).success
    assert lake.read(SERVING_BUNDLE, before).equals(kept)
    row = lake.read(SERVING_BUNDLE, DAY).row(0, named=True)
    live = live_manifest(serving_dir)
    assert live is not None
    assert (row["bundle_id"], row["published_at"].isoformat()) == (live["bundle_id"], live["published_at"])


def test_no_data_after_the_day_is_published(lake: Lake, digest: str, serving_dir: Path, tmp_path: Path) -> None:
    fill(lake, digest, last=LAST + timedelta(days=1))
    materialise(lake, tmp_path / "models", DAY)
    database = serving_dir / "bundles" / (serving_dir / "current").read_text().strip() / "serving.duckdb"
    with duckdb.connect(str(database), read_only=True) as connection:
        for table, column in (("forecasts", "open_time"), ("prices", "open_time"), ("forecast_outcomes", "known_at")):
            newest = connection.sql(f"SELECT epoch_us(max({column})) FROM {table}").fetchall()[0][0]
            assert newest <= LAST.timestamp() * 1e6


def test_the_aliases_are_set_before_the_pointer(lake: Lake, digest: str, serving_dir: Path, tmp_path: Path) -> None:
    fill(lake, digest)
    make_champion(lake, 1)
    materialise(lake, tmp_path / "models", DAY)
    materialise(lake, tmp_path / "models", DAY)
    live = (serving_dir / "current").read_text().strip()
    assert (tmp_path / "models" / "aliases").read_text().splitlines() == ["1 nothing", f"1 {live}"]


def test_a_champion_without_a_forecast_gets_no_alias(lake: Lake, digest: str, tmp_path: Path) -> None:
    fill(lake, digest)
    make_champion(lake, 2)
    assert materialise(lake, tmp_path / "models", DAY).success
    assert not (tmp_path / "models" / "aliases").exists()


def make_champion(lake: Lake, version: int) -> None:
    """Record a version as champion in the history."""
    at = datetime(2019, 6, 1, tzinfo=UTC)
    row = dict.fromkeys(MODEL_HISTORY.columns) | {
        "effective_from": at,
        "recorded_at": at,
        "role": "champion",
        "event": "promoted",
        "model_version": version,
        "model_cutoff": at.date(),
        "model_digest": "d",
    }
    lake.write(MODEL_HISTORY, at.date(), pl.DataFrame([row], schema=MODEL_HISTORY.columns))


def test_the_newest_drift_report_and_a_week_of_alerts_without_texts_are_published(lake: Lake) -> None:
    for back in (-1, 0, 2, 5, 6, 7):
        day = DAY - timedelta(days=back)
        store(lake, ALERTS, alert_frame(datetime(day.year, day.month, day.day, 9, tzinfo=UTC)))
    for back in (-1, 1, 3):
        store(lake, DRIFT_REPORT, drift_frame(DAY - timedelta(days=back)))
    tables = serving.published_tables(lake, DAY)
    assert tables["drift_report"].equals(drift_frame(DAY - timedelta(days=1)))
    days = {DAY - timedelta(days=back) for back in (0, 2, 5, 6)}
    assert set(tables["alerts"]["raised_at"].dt.date()) == days
    assert tables["alerts"].height == 3 * len(days)
    assert tables["alerts"].columns == published_frames("0" * 64)["alerts"].columns
    assert {"message", "subject", "fault"}.isdisjoint(tables["alerts"].columns)
    assert tables["alerts"].schema == ALERTS.empty().select(tables["alerts"].columns).schema


def test_a_lake_without_reports_and_alerts_publishes_empty_tables(lake: Lake) -> None:
    tables = serving.published_tables(lake, DAY)
    assert {name: frame.height for name, frame in tables.items()} == dict.fromkeys(tables, 0)
    assert tables["drift_report"].columns == DRIFT_REPORT.empty().columns


def test_materialising_twice_gives_the_same_bundle(lake: Lake, digest: str, tmp_path: Path) -> None:
    fill(lake, digest)
    first = metadata(materialise(lake, tmp_path / "models", DAY))
    again = metadata(materialise(lake, tmp_path / "models", DAY))
    assert again["what_happened"] == "Already live."
    assert again["bundle"] == first["bundle"]


def test_an_earlier_day_does_not_replace_a_later_one(
    lake: Lake, digest: str, serving_dir: Path, tmp_path: Path
) -> None:
    fill(lake, digest)
    materialise(lake, tmp_path / "models", DAY)
    live = (serving_dir / "current").read_text()
    refused = metadata(materialise(lake, tmp_path / "models", DAY - timedelta(days=1)))
    assert refused["live"] is False
    assert (serving_dir / "current").read_text() == live
    assert metadata(materialise(lake, tmp_path / "models", DAY - timedelta(days=1), allow_older=True))["live"] is True
    assert (serving_dir / "current").read_text() != live


def test_without_a_champion_forecast_the_step_fails_with_a_message(
    lake: Lake, tmp_path: Path, serving_dir: Path
) -> None:
    result = materialise(lake, tmp_path / "models", DAY, raise_on_error=False)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "There is no champion forecast for 2019-06-03" in failure.step_failure_data.user_failure_data.description
    assert not serving_dir.exists()


def test_forecasts_are_not_published_if_the_registry_changed_their_model(
    lake: Lake, digest: str, serving_dir: Path, tmp_path: Path
) -> None:
    fill(lake, digest)
    (tmp_path / "models" / "model-1" / "intervals.q50_60m.onnx").write_bytes(b"")
    assert not materialise(lake, tmp_path / "models", DAY, raise_on_error=False).success
    assert not (serving_dir / "current").exists()


def test_the_bundle_depends_on_earlier_partitions_only() -> None:
    for spec in serving.bundle.specs:
        for dependency in spec.deps:
            mapping = dependency.partition_mapping
            assert isinstance(mapping, dg.TimeWindowPartitionMapping)
            assert mapping.start_offset < 0
            assert mapping.end_offset <= 0
