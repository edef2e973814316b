from __future__ import annotations

import re
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from btc_assets.settings import ENV_PREFIX, PROJECT_ROOT, Settings, SettingsError, read_settings
from btc_assets.settings_table import settings_page


@pytest.fixture(autouse=True)
def no_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore a developer's `.env` in these tests."""
    monkeypatch.setitem(Settings.model_config, "env_file", None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BTC_MARKET_SOURCE", "bitstamp"),
        ("BTC_TRAIN_DAYS", "two years"),
        ("BTC_TRAIN_DAYS", "3"),
        ("BTC_HISTORY_START", "2024-13-01"),
        ("BTC_FEE_BPS", "-1"),
        ("BTC_SERVE_HOST", "8.8.8.8"),
        ("BTC_BINANCE_SYMBOL", "btc/usdt"),
        ("BTC_BINANCE_URL", "api.binance.com"),
        ("BTC_BINANCE_ARCHIVE_URL", "ftp://data.binance.vision"),
        ("BTC_COINBASE_URL", "https://"),
        ("BTC_KRAKEN_URL", "https://api.kraken.com:port"),
    ],
)
def test_an_invalid_value_is_reported_with_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        read_settings()


def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BTC_MARKET_SORCE", "binance")
    with pytest.raises(SettingsError, match="BTC_MARKET_SORCE: unknown setting"):
        read_settings()


def test_a_misspelt_variable_in_the_env_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    monkeypatch.setitem(Settings.model_config, "env_file", file)
    file.write_text("# BTC_NOTHING=1\nOTHER_TOOL=1\nBTC_TRAIN_DAYS=400\n")
    assert read_settings().window_days == 400
    file.write_text("BTC_TRAIN_DAYS=400\nBTC_TRIAN_DAYS=400\n")
    with pytest.raises(SettingsError, match=r"BTC_TRIAN_DAYS.*unknown setting"):
        read_settings()


FILES = {
    "BTC_MARKET_FILES": "bars.csv",
    "BTC_HISTORY_START": "2018-01-01",
    "BTC_HISTORY_END": "2020-01-01",
}


@pytest.mark.parametrize("name", FILES)
def test_files_without_path_or_period_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("BTC_MARKET_SOURCE", "files")
    for variable, value in FILES.items():
        monkeypatch.setenv(variable, value)
    assert read_settings().history_end == date(2020, 1, 1)
    monkeypatch.delenv(name)
    with pytest.raises(SettingsError, match=f"which also needs {name}"):
        read_settings()


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("lake", str(PROJECT_ROOT / "lake")),
        ("/somewhere/lake/", "/somewhere/lake"),
        ("s3://bucket/lake/", "s3://bucket/lake"),
        ("", str(PROJECT_ROOT / "data" / "lake")),
    ],
)
def test_a_relative_lake_is_relative_to_the_project(url: str, root: str) -> None:
    assert Settings(lake_url=url).lake_root == root


def test_folds_longer_than_their_window_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BTC_CV_FOLDS", "20")
    with pytest.raises(SettingsError, match=r"BTC_CV_FOLDS.*BTC_TRAIN_DAYS"):
        read_settings()


def test_an_empty_variable_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BTC_TRAIN_DAYS", "")
    assert read_settings().window_days == 365


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().serve_port = 1  # type: ignore[misc]


def test_a_closed_history_stops_the_clock() -> None:
    assert Settings(market_source="sample").now() == datetime(2019, 10, 1, tzinfo=UTC)


def test_an_open_history_follows_the_clock() -> None:
    assert abs((Settings(market_source="binance").now() - datetime.now(tz=UTC)).total_seconds()) < 60


def test_a_relative_data_folder_is_relative_to_the_project() -> None:
    assert Settings(data_dir=Path("elsewhere")).serving_dir == PROJECT_ROOT / "elsewhere" / "serving"


def test_the_page_of_settings_documents_every_setting() -> None:
    page = (PROJECT_ROOT / "docs" / "settings.md").read_text()
    assert page == settings_page(), "run `.venv/bin/python -m btc_assets.settings_table > docs/settings.md`"


def test_the_example_environment_has_only_known_settings() -> None:
    names = set(re.findall(r"^#?\s*(BTC_[A-Z_]+)=", (PROJECT_ROOT / ".env.example").read_text(), re.MULTILINE))
    assert names
    assert names <= {ENV_PREFIX + name.upper() for name in Settings.model_fields}


def test_the_first_day_depends_on_the_source() -> None:
    assert Settings(market_source="sample").first_day == date(2017, 10, 1)
    assert Settings(market_source="kraken").first_day == date(2024, 1, 1)


# --- the file .env -------------------------------------------------------------------------------------
ENV_FILE = "# Zürich\r\nexport BTC_SEED='11'\r\n\r\nBTC_KRAKEN_PAIR=\"XBTEUR\" # a comment\r\nOTHER=é\r\n"


@pytest.fixture
def env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("BTC_SEED", "BTC_KRAKEN_PAIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    return tmp_path / ".env"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_common_env_files_are_read(encoding: str, env_file: Path) -> None:
    for content in (ENV_FILE, ENV_FILE.partition("\n")[2]):
        env_file.write_bytes(content.encode(encoding))
        config = read_settings()
        assert (config.seed, config.kraken_pair) == (11, "XBTEUR")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"BTC_SEED=11\n# Z\xfcrich\n", "line 2: it is not UTF-8 text; save the file as UTF-8"),
        ("BTC_SEED=11\n".encode("utf-16"), "line 1: it is UTF-16 text; save the file as UTF-8"),
        ("BTC_SEED=11\n".encode("utf-16-le"), "line 1: it has a NUL character"),
        (b"A=1\nBTC_SEED=1\x001\n", "line 2: it has a NUL character"),
        (b"A=1\n\nBTC_SEED 11\n", "line 3: expected NAME=value"),
        (b"A=1\nBTC_SEED\n", "line 2: expected NAME=value"),
        (b"A=1\nBTC_SEED='11\n", "line 2: expected NAME=value"),
    ],
)
def test_an_invalid_env_file_is_reported_with_its_line(content: bytes, sentence: str, env_file: Path) -> None:
    env_file.write_bytes(content)
    with pytest.raises(SettingsError) as error:
        read_settings()
    assert str(error.value).startswith(f"{env_file}, {sentence}")


@pytest.mark.parametrize("line", ['BTC_SMTP_PASSWORD="hunter2', "export BTC_SMTP_PASSWORD hunter2", "BTC_KEY: hunter2"])
def test_an_error_in_an_env_file_shows_no_secret(line: str, env_file: Path) -> None:
    env_file.write_text(line)
    with pytest.raises(SettingsError, match=r"line 1: expected NAME=value.* for BTC_") as error:
        read_settings()
    assert "hu" not in str(error.value).removeprefix(str(env_file))


def test_comments_and_lines_of_other_programs_are_ignored(env_file: Path) -> None:
    env_file.write_text("# BTC_SEED\nsome words of another program\n\n  # BTC_SEED='5\nBTC_SEED=11\n")
    assert read_settings().seed == 11


def test_an_unreadable_env_file_is_reported(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file.mkdir()
    with pytest.raises(SettingsError, match="is a folder; expected a file"):
        read_settings()
    env_file.rmdir()
    assert read_settings().seed == 7

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(SettingsError, match="cannot be read: Permission denied; make it readable"):
        read_settings()
