"""All settings of the project: one typed, frozen object read from `BTC_*` variables or `.env`.

No other module reads the environment, except for the usual proxy variables (`btc_assets.proxies`), so this file is the
complete list of settings. An invalid value fails when the settings are loaded, with a message that names its variable.
"""

from __future__ import annotations

import codecs
import os
import re
import tempfile
from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Annotated, Literal, Self, get_args
from urllib.parse import urlsplit

from dotenv import dotenv_values
from dotenv.parser import Original, parse_stream
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from btc_assets.paths import rooted, sqlite_url

PACKAGE = Path(__file__).resolve().parent
"""Folder of this package, with the files that it reads at run time."""
PROJECT_ROOT = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else Path.cwd()
"""Base of relative paths in settings, of `.env` and of `data`: the checkout or, for an installed wheel, the working
directory."""
DAGSTER_HOME = PACKAGE / "home"
"""Folder of `dagster.yaml`; nothing is written there."""

ENV_PREFIX = "BTC_"

MarketSourceName = Literal["sample", "files", "binance", "coinbase", "kraken", "auto"]
NewsSourceName = Literal["sample", "rss", "hacker_news", "reddit", "gdelt", "cryptopanic", "cryptocompare", "files"]
FeatureSetName = Literal["streamlined", "comprehensive", "extended", "intrahour", "complete"]

SAMPLE_START = date(2017, 10, 1)
"""First UTC day of the embedded sample."""
SAMPLE_END = date(2019, 10, 1)
"""Day after the last whole UTC day of the embedded sample."""


_REQUIRED_BY_FILES = {
    "market_files": "a file or a glob",
    "history_start": "the first UTC day of the files",
    "history_end": "the day after their last",
}
"""Settings that the source `files` requires: its history is closed and its end cannot be inferred."""


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


class SettingsError(ValueError):
    """A `BTC_*` variable has an invalid value."""


class Settings(BaseSettings):
    """The settings of one deployment. They are frozen: change the environment and restart."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=PROJECT_ROOT / ".env",
        env_file_encoding="utf-8-sig",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    # --- storage -----------------------------------------------------------------------------
    data_dir: Path = Field(
        default=PROJECT_ROOT / "data",
        description="Folder of the lake, the MLflow store, the Optuna studies, the published bundle, and of Dagster's "
        "runs, events and logs.",
    )
    lake_url: str = Field(
        default="",
        description="Root of the Parquet lake, a path or an object-store URL. Empty: `<data_dir>/lake`.",
    )
    mlflow_tracking_uri: str = Field(
        default="",
        description="MLflow tracking and registry. Empty: SQLite at `<data_dir>/mlflow/mlflow.db`.",
    )

    # --- the market --------------------------------------------------------------------------
    market_source: MarketSourceName = Field(
        default="sample",
        description="Source of the bars: sample, files, binance, coinbase, kraken, or auto "
        "(binance, coinbase, kraken in that order with failover).",
    )
    market_files: str = Field(
        default="",
        description="For `files`: path or glob of Parquet, CSV or JSON files, also zipped, with hourly bars.",
    )
    quarter_files: str = Field(
        default="",
        description="For `files`: path or glob of Parquet, CSV or JSON files, also zipped, with 15-minute bars of "
        "the same hours. Empty: none, and features of quarter bars are unknown.",
    )
    history_start: date | None = Field(
        default=None,
        description="First UTC day of every asset. Default 2024-01-01; for `sample` 2017-10-01.",
    )
    history_end: date | None = Field(
        default=None,
        description="Day after the last UTC day of a closed history (replays); empty means the grid "
        "grows with the clock. For `sample` 2019-10-01.",
    )
    binance_symbol: str = Field(default="BTCUSDT", pattern=r"^[A-Z0-9]{5,20}$", description="Binance symbol.")
    coinbase_product: str = Field(
        default="BTC-USD", pattern=r"^[A-Z0-9]{2,10}-[A-Z0-9]{2,10}$", description="Coinbase product."
    )
    kraken_pair: str = Field(default="XXBTZUSD", pattern=r"^[A-Z0-9]{5,20}$", description="Kraken pair.")
    binance_url: str = Field(default="https://api.binance.com", description="Base URL of Binance's REST API.")
    binance_archive_url: str = Field(
        default="https://data.binance.vision", description="Base URL of Binance's kline zip archive."
    )
    coinbase_url: str = Field(
        default="https://api.exchange.coinbase.com", description="Base URL of Coinbase Exchange's REST API."
    )
    kraken_url: str = Field(default="https://api.kraken.com", description="Base URL of Kraken's REST API.")
    http_timeout_s: float = Field(default=20.0, gt=0, le=300, description="Timeout of a request, seconds.")
    http_attempts: int = Field(default=4, ge=1, le=10, description="Attempts per request, including the first.")
    http_max_wait_s: float = Field(
        default=60.0, ge=0, le=900, description="Longest wait between two attempts, also for Retry-After, seconds."
    )
    http_requests_per_second: float = Field(default=5.0, gt=0, le=100, description="Client-side rate limit per venue.")

    # --- further streams -----------------------------------------------------------------------
    context: str = Field(
        default="",
        pattern=r"^[a-z_]*(,[a-z_]+)*$",
        description="Further streams that are fetched and used in features, separated by commas: funding, basis, "
        "dvol, fear_greed. Empty: none.",
    )
    context_files: Annotated[dict[str, str], NoDecode] = Field(
        default={},
        description="Streams of `BTC_CONTEXT` that are read from files: name=path pairs separated by commas, each a "
        "path or glob of Parquet, CSV or JSON files, also zipped. The others are fetched from their services.",
    )
    context_urls: Annotated[dict[str, str], NoDecode] = Field(
        default={},
        description="Base URLs of streams that replace those of their services: name=URL pairs separated by commas.",
    )

    # --- the news ----------------------------------------------------------------------------
    news_sources: str | None = Field(
        default=None,
        description="Sources of articles and posts, separated by commas: sample, rss, hacker_news, reddit, gdelt, "
        "cryptopanic, cryptocompare, files; or none. Default rss,hacker_news,reddit; for `sample` bars sample, for "
        "`files` none.",
    )
    news_feeds: Path = Field(default=PACKAGE / "news" / "feeds.toml", description="For `rss`: the feed catalogue.")
    news_files: str = Field(
        default="", description="For `files`: path or glob of Parquet, CSV or JSON files, also zipped, with articles."
    )
    social_files: str = Field(
        default="", description="For `files`: path or glob of Parquet, CSV or JSON files, also zipped, with posts."
    )
    news_files_lag_minutes: int = Field(
        default=60,
        ge=0,
        le=10_080,
        description="For `files`: minutes from publication to availability of texts without a first-seen time.",
    )
    hacker_news_url: str = Field(
        default="https://hn.algolia.com", description="Base URL of the Hacker News search API."
    )
    reddit_url: str = Field(
        default="https://www.reddit.com", description="Base URL of Reddit's public listings and feeds."
    )
    reddit_channels: str = Field(
        default="Bitcoin,CryptoCurrency",
        pattern=r"^[A-Za-z0-9_]{2,21}(,[A-Za-z0-9_]{2,21})*$",
        description="For `reddit`: subreddits, separated by commas.",
    )
    gdelt_url: str = Field(default="https://api.gdeltproject.org", description="Base URL of GDELT's DOC API.")
    cryptopanic_url: str = Field(default="https://cryptopanic.com", description="Base URL of CryptoPanic's API.")
    cryptopanic_token: SecretStr = Field(default=SecretStr(""), description="Key of `cryptopanic`.")
    cryptocompare_url: str = Field(
        default="https://min-api.cryptocompare.com", description="Base URL of CryptoCompare's API."
    )
    cryptocompare_key: SecretStr = Field(default=SecretStr(""), description="Key of `cryptocompare`.")
    sentiment_scorer: Literal["vader", "transformer", "ensemble"] = Field(
        default="vader", description="The scorer whose scores features use."
    )
    sentiment_model: str = Field(
        default="ElKulako/cryptobert",
        description="For `transformer` and `ensemble`: a Hugging Face model, with `@revision` to pin it, or a local "
        "folder; safetensors only.",
    )
    sentiment_runtime: Literal["torch", "onnx"] = Field(
        default="onnx", description="Runtime of the transformer; `onnx` gives the same scores faster."
    )
    labelled_sentiment: str = Field(
        default="",
        description="Path or glob of labelled texts (columns text, label, dataset) for the evaluation of scorers.",
    )

    # --- features and learning ---------------------------------------------------------------
    feature_set: FeatureSetName = Field(default="extended", description="Feature set of the models.")
    families: str = Field(
        default="xgboost,ridge_logistic",
        pattern=r"^\w+([.\w]*:\w+)?(,\w+([.\w]*:\w+)?)*$",
        description="Model families that are trained, separated by commas: xgboost, lightgbm, random_forest, "
        "extra_trees, gradient_boosting, ridge_logistic, naive_bayes, linear_svm, lstm_attention, transformer, "
        "persistence, climatology, or the place of one of your own, mypackage.module:FAMILY.",
    )
    train_days: int | None = Field(
        default=None,
        ge=60,
        le=3650,
        description="Longest training window of a member, days. Default 2191 (six years); for `sample` 365.",
    )
    ensemble_weights: Literal["equal", "learnt", "regime", "experts"] = Field(
        default="equal",
        description="Weights of the ensemble's members: equal, learnt on out-of-fold forecasts, learnt for each "
        "tercile of volatility (regime), or by prediction with expert advice (experts).",
    )
    cv_folds: int = Field(default=3, ge=2, le=20, description="Walk-forward folds inside the training window.")
    cv_test_days: int = Field(default=28, ge=7, le=365, description="Test days of each fold.")
    tune_trials: int = Field(
        default=8,
        ge=0,
        le=500,
        description="Optuna trials per family and horizon of a tuned cutoff; 0 keeps the default parameters. For "
        "`sample` 2.",
    )
    tune_every_days: int = Field(
        default=91,
        ge=0,
        le=3650,
        description="Re-tune when the last tuned cutoff is this many days old; before that its parameters are reused.",
    )
    seed: int = Field(default=7, ge=0, le=2**31 - 1, description="Seed of every random choice.")
    train_threads: int = Field(default=2, ge=1, le=64, description="Parallel model fits, one thread each.")
    gate_margin_nats: float = Field(
        default=0.0005,
        ge=0,
        le=0.1,
        description="Minimum improvement of a changed recipe's 60 min log-loss over the champion's, nats.",
    )
    gate_tolerance_nats: float = Field(
        default=0.0005,
        ge=0,
        le=0.1,
        description="Maximum increase of the 60 min log-loss by a refresh (same recipe, newer window), nats.",
    )
    gate_significance: float = Field(
        default=0.05,
        gt=0,
        le=0.5,
        description="Largest one-sided p-value at which a recipe counts as better, or a refresh as worse.",
    )
    gate_new_inputs: bool = Field(
        default=False,
        description="Allow the promotion of a candidate with other inputs than the champion's; callers of /predict "
        "must then send the new inputs.",
    )
    shadow_hours: int = Field(
        default=312,
        ge=24,
        le=8760,
        description="Realised hours a challenger spends in shadow before it is promoted or dismissed.",
    )

    # --- evaluation --------------------------------------------------------------------------
    fee_bps: float = Field(default=5.0, ge=0, le=100, description="One-way trading cost of outcomes, basis points.")
    too_small_to_call: float = Field(
        default=0.001,
        ge=0,
        le=0.1,
        description="Absolute log return below which an outcome is too small to call, fraction.",
    )
    position_enter: float = Field(
        default=2.0,
        gt=0,
        le=10,
        description="|score| of a forecast from which the paper record enters a position, standard deviations.",
    )
    position_exit: float = Field(
        default=1.0,
        ge=0,
        le=10,
        description="Score on the other side from which it leaves the position, standard deviations.",
    )
    position_sizing: Literal["whole", "volatility", "confidence", "both"] = Field(
        default="whole",
        description="Size of a paper position: whole, smaller with an unusual volatility, larger with the score.",
    )
    report_days: int = Field(default=1095, ge=7, le=3650, description="Days of outcomes in the performance report.")

    # --- drift and retraining ------------------------------------------------------------------
    drift_days: int = Field(
        default=7, ge=2, le=90, description="Trailing days of features that are compared with the champion's window."
    )
    drift_share: float = Field(
        default=0.2, gt=0, le=1, description="Share of drifted features from which the drift report warns."
    )
    watch_days: int = Field(
        default=180, ge=14, le=1095, description="Trailing days of outcomes that are tested for broken promises."
    )
    mean_days_to_false_alarm: int = Field(
        default=1095,
        ge=30,
        le=36_500,
        description="Minimum mean time to a false alarm of each sequential test of the outcomes, days.",
    )
    retrain_cooldown_hours: int = Field(
        default=48,
        ge=0,
        le=8760,
        description="Hours after a training without further training for drift or degradation.",
    )
    retrain_budget_per_day: int = Field(
        default=1, ge=0, le=24, description="Maximum trainings per day for drift and degradation; 0 disables them."
    )

    # --- alerts ------------------------------------------------------------------------------
    alert_rules: Path = Field(
        default=PACKAGE / "alerts" / "rules.toml",
        description="Rules for alerts and their channels.",
    )
    alert_webhook_url: SecretStr = Field(
        default=SecretStr(""), description="Slack-compatible webhook of the channel `webhook`. Empty: channel off."
    )
    smtp_host: str = Field(default="", description="Mail server of the channel `email`. Empty: channel off.")
    smtp_port: int = Field(default=587, ge=1, le=65535, description="Port of the mail server.")
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="Encryption of the connection to the mail server."
    )
    smtp_user: str = Field(default="", description="User at the mail server; empty: no login.")
    smtp_password: SecretStr = Field(default=SecretStr(""), description="Password at the mail server.")
    alert_email_from: str = Field(default="btc_assets@localhost", description="Sender of alert mails.")
    alert_email_to: str = Field(default="", description="Receivers of alert mails, separated by commas.")

    # --- automation --------------------------------------------------------------------------
    refresh_cron: str = Field(
        default="0 * * * *",
        description="When the closed hour is forecast, a cron expression in UTC (every full hour).",
    )
    news_cron: str = Field(
        default="10-55/15 * * * *",
        description="When articles and posts are fetched, a cron expression in UTC (every 15 minutes, the last time "
        "five minutes before the full hour).",
    )

    # --- serving -----------------------------------------------------------------------------
    serve_host: Literal["127.0.0.1", "localhost", "::1", "0.0.0.0"] = Field(  # noqa: S104 - opt-in
        default="127.0.0.1", description="Listen address of the forecast server."
    )
    serve_port: int = Field(default=8000, ge=1, le=65535, description="Port of the forecast server.")
    dagster_port: int = Field(default=3000, ge=1, le=65535, description="Port of the Dagster UI under `make up`.")
    mlflow_port: int = Field(default=5000, ge=1, le=65535, description="Port of the MLflow UI under `make up`.")

    @field_validator(
        "binance_url",
        "binance_archive_url",
        "coinbase_url",
        "kraken_url",
        "hacker_news_url",
        "reddit_url",
        "gdelt_url",
        "cryptopanic_url",
        "cryptocompare_url",
    )
    @classmethod
    def _is_a_web_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            is_valid = (
                parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
            )
        except ValueError:
            is_valid = False
        if not is_valid or re.search(r"\s", url):
            raise ValueError("expected the address of a web service, such as https://api.example.com")
        return url

    @field_validator("context_files", "context_urls", mode="before")
    @classmethod
    def _are_pairs(cls, text: object) -> object:
        if not isinstance(text, str):
            return text
        parts = re.split(r"(?:^|,)([a-z_]+)=", text)
        if parts[0] or not all(parts[2::2]):
            raise ValueError("expected name=value pairs separated by commas, such as funding=data/funding.parquet")
        return dict(zip(parts[1::2], parts[2::2], strict=True))

    @field_validator("context_files")
    @classmethod
    def _are_rooted(cls, files: dict[str, str]) -> dict[str, str]:
        return {name: rooted(path, PROJECT_ROOT) for name, path in files.items()}

    @field_validator("context_urls")
    @classmethod
    def _are_web_addresses(cls, urls: dict[str, str]) -> dict[str, str]:
        return {name: cls._is_a_web_address(url) for name, url in urls.items()}

    @field_validator("data_dir", "news_feeds", "alert_rules")
    @classmethod
    def _is_a_rooted_path(cls, path: Path) -> Path:
        if _URL.match(str(path)):
            raise ValueError("expected a path on this machine, got a URL")
        return Path(rooted(str(path), PROJECT_ROOT))

    @field_validator("market_files", "quarter_files", "news_files", "social_files", "labelled_sentiment", "lake_url")
    @classmethod
    def _is_rooted_or_a_url(cls, location: str) -> str:
        return rooted(location, PROJECT_ROOT) if location and "://" not in location else location

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def _is_a_rooted_uri(cls, uri: str) -> str:
        if uri.startswith("sqlite:///"):
            return "sqlite:///" + rooted(uri.removeprefix("sqlite:///"), PROJECT_ROOT)
        return rooted(uri, PROJECT_ROOT) if uri.startswith(("~", ".")) else uri

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_source(cls, values: dict[str, object]) -> dict[str, object]:
        """Set the defaults that depend on the market source: the sample is short and closed, the others are open."""
        sample = values.get("market_source", "sample") == "sample"
        values = {name: value for name, value in values.items() if value is not None}
        if values.get("market_source") == "files":
            missing = [
                f"{ENV_PREFIX}{name.upper()} ({meaning})"
                for name, meaning in _REQUIRED_BY_FILES.items()
                if not values.get(name)
            ]
            if missing:
                raise ValueError(f"BTC_MARKET_SOURCE is 'files', which also needs {' and '.join(missing)}")
        values.setdefault("history_start", SAMPLE_START if sample else date(2024, 1, 1))
        values.setdefault("train_days", 365 if sample else 2191)
        values.setdefault("tune_trials", 2 if sample else 8)
        news = {"sample": "sample", "files": "none"}
        values.setdefault(
            "news_sources", news.get(str(values.get("market_source", "sample")), "rss,hacker_news,reddit")
        )
        if sample:
            values.setdefault("history_end", SAMPLE_END)
        return values

    @field_validator("news_sources")
    @classmethod
    def _are_news_sources(cls, names: str | None) -> str | None:
        known = get_args(NewsSourceName)
        parts = [] if names in (None, "none") else [part.strip() for part in names.split(",")]
        unknown = [part for part in parts if part not in known]
        if unknown:
            raise ValueError(f"unknown news source {unknown[0]!r}; expected {', '.join(known)}, or none")
        if len(set(parts)) < len(parts):
            raise ValueError("a source occurs twice")
        return names

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if bool(self.smtp_host) != bool(self.alert_email_to):
            raise ValueError("BTC_SMTP_HOST and BTC_ALERT_EMAIL_TO must be set together")
        if self.smtp_user and self.smtp_security == "none":
            raise ValueError("BTC_SMTP_USER needs an encrypted connection, but BTC_SMTP_SECURITY is none")
        if "files" in self.news and not (self.news_files or self.social_files):
            raise ValueError("BTC_NEWS_SOURCES has 'files', which also needs BTC_NEWS_FILES or BTC_SOCIAL_FILES")
        for name, secret in (("cryptopanic", self.cryptopanic_token), ("cryptocompare", self.cryptocompare_key)):
            if name in self.news and not secret.get_secret_value():
                variable = "BTC_CRYPTOPANIC_TOKEN" if name == "cryptopanic" else "BTC_CRYPTOCOMPARE_KEY"
                raise ValueError(f"BTC_NEWS_SOURCES has {name!r}, which needs a key in {variable}")
        for setting, names in (("CONTEXT_FILES", self.context_files), ("CONTEXT_URLS", self.context_urls)):
            if disabled := [name for name in names if name not in self.context_names]:
                raise ValueError(f"{ENV_PREFIX}{setting} has {disabled[0]!r}, which BTC_CONTEXT does not enable")
        if self.position_exit > self.position_enter:
            raise ValueError("BTC_POSITION_EXIT must not exceed BTC_POSITION_ENTER")
        if self.history_end is not None and self.history_end <= self.first_day:
            raise ValueError(f"BTC_HISTORY_END ({self.history_end}) must be after BTC_HISTORY_START ({self.first_day})")
        if self.cv_folds * self.cv_test_days > self.window_days // 2:
            raise ValueError(
                f"BTC_CV_FOLDS x BTC_CV_TEST_DAYS ({self.cv_folds * self.cv_test_days} days) must fit in the newer "
                f"half of BTC_TRAIN_DAYS ({self.window_days} days)"
            )
        return self

    # --- derived settings ----------------------------------------------------------------------
    @property
    def first_day(self) -> date:
        """First UTC day of the daily grid."""
        if self.history_start is None:
            raise SettingsError("BTC_HISTORY_START is empty")
        return self.history_start

    @property
    def window_days(self) -> int:
        """Length of the longest training window in days."""
        if self.train_days is None:
            raise SettingsError("BTC_TRAIN_DAYS is empty")
        return self.train_days

    @property
    def recent_days(self) -> int:
        """Days before a cutoff by which missing inputs and drift are judged: at most two years."""
        return min(self.window_days, 730)

    @property
    def source_grows(self) -> bool:
        """Whether the source of bars is a live market; files have an end."""
        return self.market_source not in ("files", "sample")

    @property
    def has_quarters(self) -> bool:
        """Whether the source of bars also has quarter bars; files have them if they are named."""
        return self.market_source != "files" or bool(self.quarter_files)

    @property
    def context_names(self) -> tuple[str, ...]:
        """Names of the enabled streams in addition to bars and texts."""
        return tuple(name for name in self.context.split(",") if name)

    @property
    def family_names(self) -> tuple[str, ...]:
        """Names or places of the model families that are trained, in the configured order."""
        return tuple(self.families.split(","))

    @property
    def news(self) -> tuple[str, ...]:
        """Names of the news sources, in the configured order."""
        if self.news_sources in (None, "none"):
            return ()
        return tuple(name.strip() for name in str(self.news_sources).split(","))

    @property
    def score_cache(self) -> Path:
        """File of the sentiment score cache."""
        return self.data_dir / "cache" / "sentiment.scores"

    @property
    def http_cache(self) -> Path:
        """SQLite file of the HTTP cache for conditional requests to feeds."""
        return self.data_dir / "cache" / "http.db"

    @property
    def outbox(self) -> Path:
        """SQLite file of all alerts and their deliveries."""
        return self.data_dir / "alerts" / "outbox.db"

    @property
    def lake_root(self) -> str:
        """Root of the Parquet lake: a path or an object-store URL, without a trailing slash."""
        return self.lake_url.rstrip("/") or str(self.data_dir / "lake")

    @property
    def tracking_uri(self) -> str:
        """MLflow tracking and registry URI."""
        return self.mlflow_tracking_uri or sqlite_url(self.data_dir / "mlflow" / "mlflow.db")

    @property
    def mlflow_artifacts(self) -> Path:
        """Folder of MLflow's artifacts with the embedded tracking store."""
        return self.data_dir / "mlflow" / "artifacts"

    @property
    def study_url(self) -> str:
        """SQLAlchemy URL of the Optuna studies."""
        return sqlite_url(self.data_dir / "optuna" / "studies.db")

    @property
    def serving_dir(self) -> Path:
        """Folder of the published bundle, which the forecast server watches."""
        return self.data_dir / "serving"

    def writable_dagster_dir(self) -> Path:
        """Return the folder of Dagster's runs, events, cursors and logs, creating it if it does not exist.

        Raises:
            SettingsError: it cannot be created or is not writable.
        """
        folder = self.data_dir / "dagster"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            raise SettingsError(
                f"The data folder {self.data_dir} is not writable ({error.strerror}): set BTC_DATA_DIR to a writable "
                "folder."
            ) from error

    def now(self) -> datetime:
        """Return the project's clock, UTC: the wall clock, or the end of a closed history."""
        wall = datetime.now(tz=UTC)
        if self.history_end is None:
            return wall
        return min(wall, datetime.combine(self.history_end, time(), tzinfo=UTC))


def read_settings() -> Settings:
    """Read the settings from the environment and `.env`.

    Raises:
        SettingsError: a variable is unknown or its value is invalid; the message names it.
    """
    _refuse_unknown(os.environ, "")
    file = Settings.model_config.get("env_file")
    if isinstance(file, str | Path):
        text = _text_of(Path(file))
        _refuse_unparsable(Path(file), text)
        _refuse_unknown(dotenv_values(stream=StringIO(text)), f" (in {file})")
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("; ".join(_sentence(fault) for fault in error.errors())) from error


def _text_of(file: Path) -> str:
    """Return the text of an environment file; empty if it does not exist.

    Raises:
        SettingsError: the file cannot be read as text; the message names the line.
    """
    try:
        body = file.read_bytes()
    except FileNotFoundError:
        return ""
    except IsADirectoryError:
        raise SettingsError(f"{file} is a folder; expected a file of lines such as BTC_MARKET_SOURCE=auto") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError(f"{file} cannot be read: {reason}; make it readable for this user, or remove it") from error
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        # Dagster reads this file as well, and only as UTF-8.
        raise SettingsError(f"{file}, line 1: it is UTF-16 text; save the file as UTF-8")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body[: error.start].count(b"\n") + 1
        raise SettingsError(f"{file}, line {line}: it is not UTF-8 text; save the file as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise SettingsError(f"{file}, line {line}: it has a NUL character, as UTF-16 text does; save the file as UTF-8")
    return text


def _refuse_unparsable(file: Path, text: str) -> None:
    """Refuse an invalid statement, which would otherwise be a setting without effect."""
    for binding in parse_stream(StringIO(text)):
        statement = binding.original.string
        if ENV_PREFIX in statement.upper() and (binding.error or binding.value is None) and not _is_comment(statement):
            name = re.findall(rf"{ENV_PREFIX}\w*", statement, re.IGNORECASE)[0]  # the rest may contain a secret
            raise SettingsError(
                f"{file}, line {_line_of(binding.original)}: expected NAME=value with balanced quotes for {name}"
            )


def _line_of(original: Original) -> int:
    """Return the line number of a statement, which includes the blank lines before it."""
    return original.line + original.string[: len(original.string) - len(original.string.lstrip())].count("\n")


def _is_comment(statement: str) -> bool:
    return all(not line.strip() or line.lstrip().startswith("#") for line in statement.splitlines())


def _refuse_unknown(names: Iterable[str], source: str) -> None:
    """Refuse a misspelt variable, which would otherwise be a setting without effect."""
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(name for name in names if name.upper().startswith(ENV_PREFIX) and name.upper() not in known)
    if unknown:
        raise SettingsError(f"{', '.join(unknown)}{source}: unknown setting; docs/settings.md lists all settings")


def _sentence(fault: object) -> str:
    """Convert one pydantic error to a sentence that names the variable."""
    assert isinstance(fault, dict)
    if not fault["loc"]:
        return str(fault["msg"]).removeprefix("Value error, ")
    name = ENV_PREFIX + str(fault["loc"][0]).upper()
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{name}={fault['input']!r}: {message}"


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return the settings of this process, which are read once."""
    return read_settings()
