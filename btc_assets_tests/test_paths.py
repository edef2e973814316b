"""A path is what it is called, a glob what it matches, whatever the characters in either."""

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

ODD = [
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
"""Folder names seen in practice."""


@pytest.fixture(params=ODD)
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a folder with an odd name, beside those that its name would match as a pattern."""
    for sibling in ("a1", "star", "qqx", " ", "100", "h"):
        (tmp_path / sibling).mkdir()
        (tmp_path / sibling / "bars.csv").write_text("not this one")
    folder = tmp_path / str(request.param)
    folder.mkdir()
    return folder


def test_a_folder_that_exists_is_no_pattern(odd: Path) -> None:
    (odd / "bars.csv").touch()
    (odd / "more.csv").touch()
    assert matching(str(odd / "bars.csv")) == [odd / "bars.csv"]
    assert matching(str(odd / "*.csv")) == [odd / "bars.csv", odd / "more.csv"]


@pytest.mark.parametrize("name", ["bars[1].csv", "*.csv", "b?rs.csv"])
def test_a_file_that_exists_is_no_pattern(name: str, tmp_path: Path) -> None:
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
def test_a_pattern_means_the_files_it_matches(pattern: str, names: list[str], tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b1.csv", "b2.csv", "b4.txt", ".hidden.csv", "deep/er/b3.csv"):
        (tmp_path / name).touch()
    assert matching(str(tmp_path / pattern), (".csv",)) == [tmp_path / name for name in names]


def test_a_relative_path_starts_at_the_root_and_a_tilde_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert rooted("bars/*.csv", tmp_path) == str(tmp_path / "bars" / "*.csv")
    assert rooted("/bars.csv", tmp_path) == "/bars.csv"
    assert rooted("~/bars.csv", tmp_path) == "/home/ada/bars.csv"
    with pytest.raises(ValueError, match="~nobody-here is no home folder here; write the path out"):
        rooted("~nobody-here/bars.csv", tmp_path)


def test_every_path_setting_of_the_env_file_knows_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (
        "DATA_DIR", "LAKE_URL", "MARKET_FILES", "NEWS_FILES", "SOCIAL_FILES", "NEWS_FEEDS", "ALERT_RULES",
        "LABELLED_SENTIMENT", "MLFLOW_TRACKING_URI",
    )  # fmt: skip
    (tmp_path / ".env").write_text("".join(f"BTC_{name}=~/place\n" for name in names))
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    read = read_settings()
    assert {name: str(getattr(read, name.lower())) for name in names} == dict.fromkeys(names, "/home/ada/place")


def test_urls_are_no_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Settings(lake_url="s3://bucket/lake/", mlflow_tracking_uri="sqlite:///mlflow.db")
    assert chosen.lake_root == "s3://bucket/lake"
    assert chosen.tracking_uri == f"sqlite:///{PROJECT_ROOT}/mlflow.db"
    assert Settings(mlflow_tracking_uri="databricks").tracking_uri == "databricks"
    monkeypatch.setenv("BTC_DATA_DIR", "s3://bucket/data")
    with pytest.raises(SettingsError, match=r"BTC_DATA_DIR=.* a URL, where a path on this machine is expected"):
        read_settings()


def test_settings_are_the_same_seen_from_another_folder(tmp_path: Path) -> None:
    script = "from btc_assets.settings import settings as s; print(s().market_files, s().data_dir)"
    environment = {
        "PYTHONPATH": str(PROJECT_ROOT), "BTC_MARKET_SOURCE": "files", "BTC_MARKET_FILES": "bars/*.csv",
        "BTC_HISTORY_START": "2018-01-01", "BTC_HISTORY_END": "2018-02-01", "BTC_DATA_DIR": "elsewhere",
    }  # fmt: skip
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == [str(PROJECT_ROOT / "bars" / "*.csv"), str(PROJECT_ROOT / "elsewhere")]


def test_the_lake_and_its_views_are_in_the_configured_folder(odd: Path) -> None:
    for root, hours in ((odd, 24), (odd.parent / "a1", 5), (odd.parent / "star", 5)):
        Lake(root=str(root)).write(PRICES, date(2018, 1, 1), random_walk_bars(hours))
    lake = Lake(root=str(odd))
    assert lake.days(PRICES) == [date(2018, 1, 1)]
    assert lake.scan(PRICES).collect().height == 24
    with duckdb.connect() as connection:
        add_lake_views(connection, lake)
        assert connection.sql("SELECT count(*) FROM market.prices").fetchall() == [(24,)]


def test_bars_come_from_the_configured_folder(odd: Path) -> None:
    bars = random_walk_bars(24)
    bars.write_csv((odd / "bars.csv").open("wb"))
    first, last = bars["open_time"][0], bars["open_time"][-1]
    source = source_of(
        Settings(
            market_source="files", market_files=str(odd / "*.csv"), history_start=first.date(),
            history_end=date(2018, 1, 2), data_dir=odd,
        )
    )  # fmt: skip
    assert source.fetch(first, last, last).height == 23


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_labelled_texts_come_from_the_configured_folder(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "a[1]"
    folder.mkdir()
    table = pl.DataFrame({"text": ["up"], "label": ["positive"], "dataset": ["mine"]})
    writer = {"csv": table.write_csv, "parquet": table.write_parquet, "jsonl": table.write_ndjson}[kind]
    writer(folder / f"texts.{kind}")
    assert read_labelled(str(folder / "*")).height == 1


def test_a_database_is_in_the_folder_its_url_was_made_of(odd: Path) -> None:
    import sqlalchemy

    file = odd / "deep" / "studies.db"
    make_database_folder(sqlite_url(file))
    with sqlalchemy.create_engine(sqlite_url(file)).connect() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE x (a)"))
    assert file.is_file()
