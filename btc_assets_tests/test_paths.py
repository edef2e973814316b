"""Paths and globs with special characters."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import duckdb
import polars as pl
import pytest

from btc_assets.lake import Lake
from btc_assets.market.sources.choose import source_of
from btc_assets.market.tables import PRICES
from btc_assets.news.sentiment.judge import read_labelled
from btc_assets.paths import make_database_folder, matching, rooted, sqlite_url
from btc_assets.settings import PROJECT_ROOT, Settings, SettingsError, read_settings
from btc_assets.sql import add_lake_views
from btc_assets_tests.conftest import random_walk_bars

SPECIAL_NAMES = [
    "a[1]",
    "[",
    "a]b",
    "s p",
    "st*r",
    "q?x",
    "%20",
    "100%",
    "h#sh",
    "größe",
    "it's",
    'dq"',
    "a::b",
    "~",
    "$HOME",
    "a&b",
]
"""Folder names from practice."""


@pytest.fixture(params=SPECIAL_NAMES)
def special_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a folder with special characters in its name, next to folders that this name matches as a pattern."""
    for sibling in ("a1", "star", "qqx", " ", "100", "h"):
        (tmp_path / sibling).mkdir()
        (tmp_path / sibling / "bars.csv").write_text("not this one")
    folder = tmp_path / str(request.param)
    folder.mkdir()
    return folder


def test_an_existing_folder_is_not_a_pattern(special_folder: Path) -> None:
    (special_folder / "bars.csv").touch()
    (special_folder / "more.csv").touch()
    assert matching(str(special_folder / "bars.csv")) == [special_folder / "bars.csv"]
    assert matching(str(special_folder / "*.csv")) == [special_folder / "bars.csv", special_folder / "more.csv"]


@pytest.mark.parametrize("name", ["bars[1].csv", "*.csv", "b?rs.csv"])
def test_an_existing_file_is_not_a_pattern(name: str, tmp_path: Path) -> None:
    for other in (name, "bars1.csv", "bars.csv"):
        (tmp_path / other).touch()
    assert matching(str(tmp_path / name)) == [tmp_path / name]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.csv", ["b1.csv", "b2.csv"]),
        ("b[12].CSV", []),
        ("b[!1].csv", ["b2.csv"]),
        ("**/*.csv", ["b1.csv", "b2.csv", "deep/er/b3.csv"]),
        ("**", ["b1.csv", "b2.csv", "deep/er/b3.csv"]),
        ("*/*/b3.csv", ["deep/er/b3.csv"]),
        (".*.csv", [".hidden.csv"]),
        ("b1.csv/x.csv", []),
        ("deep", []),
        ("missing/*.csv", []),
    ],
)
def test_a_pattern_matches_files(pattern: str, names: list[str], tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b1.csv", "b2.csv", "b4.txt", ".hidden.csv", "deep/er/b3.csv"):
        (tmp_path / name).touch()
    assert matching(str(tmp_path / pattern), (".csv",)) == [tmp_path / name for name in names]


def test_relative_and_home_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert rooted("bars/*.csv", tmp_path) == str(tmp_path / "bars" / "*.csv")
    assert rooted("/bars.csv", tmp_path) == "/bars.csv"
    assert rooted("~/bars.csv", tmp_path) == "/home/ada/bars.csv"
    with pytest.raises(ValueError, match="~nobody-here is not a home folder here; use an absolute path"):
        rooted("~nobody-here/bars.csv", tmp_path)


def test_every_path_setting_expands_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (
        "DATA_DIR", "LAKE_URL", "MARKET_FILES", "NEWS_FILES", "SOCIAL_FILES", "NEWS_FEEDS", "ALERT_RULES",
        "LABELLED_SENTIMENT", "MLFLOW_TRACKING_URI",
    )  # fmt: skip
    (tmp_path / ".env").write_text("".join(f"BTC_{name}=~/place\n" for name in names))
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    loaded = read_settings()
    assert {name: str(getattr(loaded, name.lower())) for name in names} == dict.fromkeys(names, "/home/ada/place")


def test_urls_are_not_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Settings(lake_url="s3://bucket/lake/", mlflow_tracking_uri="sqlite:///mlflow.db")
    assert config.lake_root == "s3://bucket/lake"
    assert config.tracking_uri == f"sqlite:///{PROJECT_ROOT}/mlflow.db"
    assert Settings(mlflow_tracking_uri="databricks").tracking_uri == "databricks"
    monkeypatch.setenv("BTC_DATA_DIR", "s3://bucket/data")
    with pytest.raises(SettingsError, match=r"BTC_DATA_DIR=.* expected a path on this machine, got a URL"):
        read_settings()


def test_settings_do_not_depend_on_the_working_directory(tmp_path: Path) -> None:
    script = "from btc_assets.settings import settings as s; print(s().market_files, s().data_dir)"
    environment = {
        "PYTHONPATH": str(PROJECT_ROOT), "BTC_MARKET_SOURCE": "files", "BTC_MARKET_FILES": "bars/*.csv",
        "BTC_HISTORY_START": "2018-01-01", "BTC_HISTORY_END": "2018-02-01", "BTC_DATA_DIR": "elsewhere",
    }  # fmt: skip
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == [str(PROJECT_ROOT / "bars" / "*.csv"), str(PROJECT_ROOT / "elsewhere")]


def test_the_lake_and_its_views_read_the_configured_folder(special_folder: Path) -> None:
    for root, hours in ((special_folder, 24), (special_folder.parent / "a1", 5), (special_folder.parent / "star", 5)):
        Lake(root=str(root)).write(PRICES, date(2018, 1, 1), random_walk_bars(hours))
    lake = Lake(root=str(special_folder))
    assert lake.days(PRICES) == [date(2018, 1, 1)]
    assert lake.scan(PRICES).collect().height == 24
    with duckdb.connect() as connection:
        add_lake_views(connection, lake)
        assert connection.sql("SELECT count(*) FROM market.prices").fetchall() == [(24,)]


def test_bars_are_read_from_the_configured_folder(special_folder: Path) -> None:
    bars = random_walk_bars(24)
    bars.write_csv((special_folder / "bars.csv").open("wb"))
    first, last = bars["open_time"][0], bars["open_time"][-1]
    source = source_of(
        Settings(
            market_source="files", market_files=str(special_folder / "*.csv"), history_start=first.date(),
            history_end=date(2018, 1, 2), data_dir=special_folder,
        )
    )  # fmt: skip
    assert source.fetch(first, last, last).height == 23


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_labelled_texts_are_read_from_the_configured_folder(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "a[1]"
    folder.mkdir()
    table = pl.DataFrame({"text": ["up"], "label": ["positive"], "dataset": ["mine"]})
    writer = {"csv": table.write_csv, "parquet": table.write_parquet, "jsonl": table.write_ndjson}[kind]
    writer(folder / f"texts.{kind}")
    assert read_labelled(str(folder / "*")).height == 1


def test_a_database_url_leads_to_its_folder(special_folder: Path) -> None:
    import sqlalchemy

    file = special_folder / "deep" / "studies.db"
    make_database_folder(sqlite_url(file))
    with sqlalchemy.create_engine(sqlite_url(file)).connect() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE x (a)"))
    assert file.is_file()
