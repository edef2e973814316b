"""What the children of the fault tests do: real runs of the project's assets, and where they die.

A child is forked from a process that has everything imported (see `conftest.Forge`); nothing here may compute at
import, as the threads of a computation would not survive the fork.
"""

import contextlib
import ctypes
import fcntl
import importlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
from upath import UPath

from btc_assets import definitions
from btc_assets.alerts import definitions as alerts_definitions
from btc_assets.alerts.outbox import Finding, Outbox
from btc_assets.alerts.rules import Rule
from btc_assets.champion.history import CurrentRoles
from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.cli.main import main
from btc_assets.definitions import defs
from btc_assets.digest import digest
from btc_assets.forecasting.tables import FORECASTS
from btc_assets.lake import Lake
from btc_assets.learning import definitions as learning_definitions
from btc_assets.learning.forecast_model import DOCUMENT, ForecastModel, save_model
from btc_assets.learning.registry import EXPERIMENT, MODEL_FOLDER, MODEL_NAME, ModelRegistry
from btc_assets.market import definitions as market_definitions
from btc_assets.market.resources import Market
from btc_assets.news import definitions as news_definitions
from btc_assets.news.resources import News
from btc_assets.news.sentiment.cache import CachedScorer
from btc_assets.news.sentiment.vader import VaderScorer
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.partitions import key_of
from btc_assets.published import live_manifest
from btc_assets.reads import lake_resources
from btc_assets.schema import CONTRACTS, Contract
from btc_assets.serving import publish
from btc_assets.settings import Settings, settings
from btc_assets_tests.conftest import WATCHDOG_S, random_walk_bars
from btc_assets_tests.serving.builders import MADE_AT, publish_small

FIRST_DAY, FIRST_FEATURES = date(2019, 5, 1), date(2019, 6, 6)
CUTOFF, DAY = date(2019, 8, 5), date(2019, 8, 6)
"""The one model of the small project, and the day that everything else is made for."""
LABELLED = "labelled.csv"
SMALL = {
    "BTC_HISTORY_START": FIRST_DAY.isoformat(),
    "BTC_TRAIN_DAYS": "60",
    "BTC_CV_FOLDS": "2",
    "BTC_CV_TEST_DAYS": "10",  # the intervals of the newest fold are conformalised on the older one: 240 hours
    "BTC_TUNE_TRIALS": "0",
    "BTC_FEATURE_SET": "streamlined",
}
"""The smallest settings a project can have, on the embedded sample."""
RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")

BEFORE_FILE, MID_FILE, BEFORE_RENAME, AFTER_RENAME = "before the file", "within it", "before the rename", "after it"
POINTS = (BEFORE_FILE, MID_FILE, BEFORE_RENAME, AFTER_RENAME)
"""Where a writer of the lake may die."""


# --- a deployment ------------------------------------------------------------------------------------
def settle(data: Path) -> Settings:
    """Point this process's settings at a data folder."""
    os.environ["BTC_DATA_DIR"] = str(data)
    os.environ["BTC_LABELLED_SENTIMENT"] = str(data / LABELLED)
    settings.cache_clear()
    return settings()


def lake_of(data: Path) -> Lake:
    return Lake(root=str(data / "lake"))


def registry_of(data: Path) -> ModelRegistry:
    config = Settings(data_dir=data)
    return ModelRegistry(tracking_uri=config.tracking_uri, artifacts=str(config.mlflow_artifacts))


def resources_of(data: Path) -> dict[str, Any]:
    """The resources the project's assets ask for, over one data folder."""
    config = settle(data)
    lake = lake_of(data)
    return {
        **lake_resources(lake),
        "market": Market.from_settings(config),
        "news": News.from_settings(config),
        "outbox": Outbox(config.outbox),
        "registry": registry_of(data),
    }


def made(data: Path, keys: Sequence[dg.AssetKey], first: date, last: date, **resources: Any) -> None:
    """Materialise real assets for a span of days, in one run."""
    span = {} if first == last else dict(zip(RANGE, map(key_of, (first, last)), strict=True))
    dg.materialize(
        list(defs.assets or ()),
        selection=list(keys),
        partition_key=key_of(first) if first == last else None,
        tags=span,
        resources=resources_of(data) | resources,
        instance=_instance(),
    )


def _instance() -> dg.DagsterInstance:
    from btc_assets_tests.faults.warm import INSTANCE

    return INSTANCE


def keys_in_order() -> list[dg.AssetKey]:
    """Every asset of the project, parents first."""
    return list(defs.resolve_asset_graph().toposorted_asset_keys)


def step_of(table: str) -> list[dg.AssetKey]:
    """The assets of the step that makes a table."""
    return sorted(defs.resolve_asset_graph().get(CONTRACTS[table].asset_key).assets_def.keys)


def day_made(table: str) -> date:
    """The day of the small project on which a table is made."""
    return CUTOFF if table.startswith(("learning/", "champion/model_")) else DAY


def prepare(data: Path) -> None:
    """Make every asset of the small project, undisturbed."""
    config = settle(data)
    data.mkdir(parents=True, exist_ok=True)
    words = {"positive": "bitcoin soars, a great win", "negative": "bitcoin crashes, a disaster", "neutral": "a block"}
    rows = [f'"{text} {n}",{label},small' for n in range(12) for label, text in words.items()]
    (data / LABELLED).write_text("\n".join(["text,label,dataset", *rows]))
    at = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC)
    rule = Rule("fall", "drawdown", "high", timedelta(hours=6), 0.1)
    Outbox(config.outbox).raise_alerts([Finding(rule, "drawdown", "it fell", 0.2)], {"high": ("log",)}, at)
    ordered = [key for key in keys_in_order() if key.to_user_string() in CONTRACTS]

    def named(*tables: str) -> list[dg.AssetKey]:
        return [key for key in ordered if key.to_user_string() in tables]

    features = named("features/hourly_features", "features/hourly_labels")
    made(data, named("market/prices"), FIRST_DAY, DAY)
    made(data, named("news/articles", "news/posts", "news/sentiment_scores"), CUTOFF, CUTOFF)
    made(data, features, FIRST_FEATURES, CUTOFF)
    learning = [key for key in ordered if key.path[0] == "learning" or key.path[1].startswith("model_")]
    made(data, learning, CUTOFF, CUTOFF)
    made(data, named("forecasting/forecasts"), CUTOFF, CUTOFF)
    # The day alone, as the killed runs make it: sums over a longer history round their last digits otherwise.
    made(data, [key for key in ordered if key not in learning], DAY, DAY)


# --- runs that die -----------------------------------------------------------------------------------
def die() -> None:
    """Die as a process does whose machine lost its power, or that the kernel needed the memory of."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_writing(point: str, table: str, day: date) -> None:
    """Let this process die at a point of writing one partition."""
    folder = f"/{table}/day={key_of(day)}/"
    paths = type(UPath(os.sep))
    write_bytes, replace = paths.write_bytes, os.replace

    def write(path: UPath, content: bytes) -> int:
        if folder in str(path) and point == BEFORE_FILE:
            die()
        if folder in str(path) and point == MID_FILE:
            write_bytes(path, content[: len(content) // 2])
            die()
        return write_bytes(path, content)

    def rename(source: str, target: str) -> None:
        if folder in str(target) and point == BEFORE_RENAME:
            die()
        replace(source, target)
        if folder in str(target) and point == AFTER_RENAME:
            die()

    paths.write_bytes, os.replace = write, rename  # type: ignore[method-assign,assignment]


def make_and_die(data: Path, table: str, point: str) -> None:
    """Make a table's day for real, and die while it is written."""
    die_writing(point, table, day_made(table))
    make(data, [table])


def write_and_die(data: Path, table: str, whole: Path, point: str) -> None:
    """Write a stored frame into the lake, and die meanwhile."""
    day = day_made(table)
    die_writing(point, table, day)
    lake_of(data).write(CONTRACTS[table], day, pl.read_parquet(whole))


def make(data: Path, tables: Sequence[str]) -> None:
    """Make the day of each table for real, in one run for all tables of a day."""
    for day in sorted(set(map(day_made, tables))):
        made(data, sorted({key for table in tables if day_made(table) == day for key in step_of(table)}), day, day)


# --- commands that die -------------------------------------------------------------------------------
def command(data: Path, *arguments: str) -> None:
    """Run a command of the project on a data folder and the embedded sample without news; end with its status."""
    os.environ["BTC_NEWS_SOURCES"] = "none"
    settle(data)
    bound = (alerts_definitions, learning_definitions, market_definitions, news_definitions, definitions)
    for module in bound:  # they hold the resources of the settings at import
        importlib.reload(module)
    sys.exit(main(arguments))


def command_and_die(data: Path, table: str, day: date, *arguments: str) -> None:
    """Run a command of the project, and die at the moment it would store a table's day."""
    write = Lake.write

    def die_or_write(lake: Lake, contract: Contract, at: date, frame: pl.DataFrame) -> None:
        if (contract.table, at) == (table, day):
            die()
        write(lake, contract, at, frame)

    Lake.write = die_or_write  # type: ignore[method-assign]
    command(data, *arguments)


ROLLBACK_STEPS = {
    "before the history": (Lake, "append", MODEL_HISTORY.table),
    "before the forecasts": (Lake, "write", FORECASTS.table),
    "before the aliases": (ModelRegistry, "set_aliases", ""),
    "before the pointer": (publish, "_set_pointer", ""),
}
"""Where a rollback may die, in the order it comes there: a function, and the table it must be called for."""


def rollback_and_die(data: Path, step: str, *arguments: str) -> None:
    """Roll back, and die at a step if one is named."""
    if step:
        owner, name, table = ROLLBACK_STEPS[step]
        original = getattr(owner, name)

        def die_or_go_on(*given: Any, **options: Any) -> Any:
            if not table or given[1].table == table:
                die()
            return original(*given, **options)

        setattr(owner, name, die_or_go_on)
    command(data, "rollback", *arguments)


# --- two runs at once --------------------------------------------------------------------------------
def wait_for(path: Path) -> None:
    """Wait until another process has made a file."""
    until = time.monotonic() + WATCHDOG_S
    while not path.exists():
        if time.monotonic() > until:
            raise TimeoutError(f"{path.name} did not come")
        time.sleep(0.005)


class Numbered:
    """Gives numbered bars, articles and posts."""

    name, venue = "desk", "desk"
    kinds = ("article", "post")
    venues: tuple[str, ...] = ()
    live, lag, rhythm = False, timedelta(), None

    def __init__(self, numbers: range) -> None:
        self._numbers = numbers


class NumberedMarket(Numbered):
    def fetch(self, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
        return random_walk_bars(24, start=first)[self._numbers.start : self._numbers.stop]


class NumberedDesk(Numbered):
    def fetch(self, first: datetime, last: datetime, now: datetime) -> Delivery:
        return Delivery([item for n in self._numbers for item in (self._item(n, "article"), self._item(n, "post"))])

    def _item(self, number: int, kind: Kind) -> Item:
        at = datetime(DAY.year, DAY.month, DAY.day, number % 24, tzinfo=UTC)
        words = f"Word{number} of thing{number * 7} and matter{number * 13} came"
        return Item(
            kind=kind,
            source=self.name,
            guid=str(number),
            url=f"https://desk.example/{number}",
            title=words,
            summary=words,
            published_at=at,
            precision="second",
            outlet="desk.example",
        )


def refresh(data: Path, table: str, signs: Path, who: str, numbers: range, held: bool) -> None:
    """Run an asset that reads its day, merges and writes back; tell when it waits for its turn, and when it writes.

    One that is held up writes when it is told to go on.
    """
    lock, store = fcntl.lockf, Lake.write

    def write(lake: Lake, contract: Contract, day: date, frame: pl.DataFrame) -> None:
        (signs / f"{who} writes").touch()
        if held:
            wait_for(signs / "go on")
        store(lake, contract, day, frame)

    def told(handle: Any, how: int) -> None:
        (signs / f"{who} waits").touch()
        lock(handle, how)

    fcntl.lockf, Lake.write = told, write  # type: ignore[assignment,method-assign]
    desk = NumberedDesk(numbers)
    made(
        data,
        [dg.AssetKey(table.split("/"))],
        DAY,
        DAY,
        market=Market(NumberedMarket(numbers), lambda: datetime(2019, 8, 8, tzinfo=UTC)),
        news=News(lambda: (desk,), lambda: datetime(2019, 8, 8, tzinfo=UTC)),
    )


def make_together(data: Path, table: str, signs: Path, who: str, other: str) -> None:
    """Make a table's day for real, and move it into place only when another run is about to do the same."""
    folder, replace = f"/{table}/day={key_of(day_made(table))}/", os.replace

    def rename(source: str, target: str) -> None:
        if folder in str(target):
            (signs / f"{who} is there").touch()
            wait_for(signs / f"{other} is there")
        replace(source, target)

    os.replace = rename  # type: ignore[assignment]
    make(data, [table])


# --- MLflow's database -------------------------------------------------------------------------------
SECOND_CUTOFF = "2019-08-07"


def store_at(database: Path, **options: float) -> ModelRegistry:
    """The registry over one SQLite file; `timeout` is how many seconds it waits for another process."""
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return ModelRegistry(tracking_uri=f"sqlite:///{database}{'?' if query else ''}{query}")


def log_second_model(database: Path, told: Path) -> None:
    """Log a second model's folder to MLflow, ready to be registered, and tell its run and digest."""
    registry = store_at(database)
    client, folder = registry.client, told.parent / "second"
    first = registry.folder(1)
    document = {**json.loads((first / DOCUMENT).read_bytes()), "cutoff": SECOND_CUTOFF}
    del document["digest"]
    graphs = {path.name: path.read_bytes() for path in first.glob("*.onnx")}
    model_digest = save_model(folder, document, graphs)
    run = client.create_run(client.get_experiment_by_name(EXPERIMENT).experiment_id)
    client.log_artifacts(run.info.run_id, str(folder), MODEL_FOLDER)
    client.set_terminated(run.info.run_id)
    told.write_text(json.dumps({"run_id": run.info.run_id, "digest": model_digest}))


def promote(registry: ModelRegistry, second: dict[str, str]) -> int:
    """Register the second model and make it the champion, as a training that ends in a promotion does."""
    version = registry.register(second["run_id"], second["digest"], SECOND_CUTOFF)
    registry.set_aliases(CurrentRoles(champion=version, previous=1, challenger=None).aliases())
    return version


def promote_and_die(database: Path, second: dict[str, str], step: int, count: Path) -> None:
    """Promote the second model and die before a write or commit of MLflow's database; tell how many there are."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    registry = store_at(database)
    assert registry.alias("champion") == 1
    steps, written = 0, False

    def at_step() -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            die()

    def at_write(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal written
        if statement.split(None, 1)[0] in ("INSERT", "UPDATE", "DELETE"):
            written = True
            at_step()

    def at_commit(_connection: Any) -> None:
        nonlocal written
        if written:
            at_step()
        written = False

    event.listen(Engine, "before_cursor_execute", at_write)
    event.listen(Engine, "commit", at_commit)
    promote(registry, second)
    count.write_text(str(steps))


def promote_after_all(databases: Sequence[Path], second: dict[str, str]) -> None:
    """Look at what each killed process left, then promote the second model as the next run does."""
    for database in databases:
        registry = store_at(database)
        versions = registry.client.search_model_versions(f"name = '{MODEL_NAME}'")
        for version in versions:  # whole, or not there
            assert registry.load(int(version.version)).digest == version.tags["digest"], database
        known = registry.version_of(second["digest"])
        assert known in (None, 2), database
        standing = [registry.alias(name) for name in ("champion", "previous", "challenger")]
        assert standing[0] in (1, known), (database, standing)
        assert promote(registry, second) == 2, database
        assert [registry.alias(name) for name in ("champion", "previous", "challenger")] == [2, 1, None], database
        assert registry.load(2).digest == second["digest"]


def promote_while_locked(database: Path, second: dict[str, str], begun: Path, timeout: float) -> None:
    """Promote the second model, and tell when MLflow's database is asked."""
    registry = store_at(database, timeout=timeout)
    _ = registry.client
    begun.touch()
    promote(registry, second)


# --- a full disk -------------------------------------------------------------------------------------
class Disk:
    """A disk of a few megabytes that can be filled to its last byte.

    A tmpfs in this process's own mount namespace; where mounting is not allowed, a limit on the size of files, which
    stops writes in the same places, with another error number.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._ballast = folder, folder / "ballast"
        self.kind = "tmpfs" if self._mounted() else "limit on the size of files"

    def _mounted(self) -> bool:
        libc = ctypes.CDLL(None, use_errno=True)
        new_namespace, private, recursive = 0x00020000, 1 << 18, 1 << 14
        if libc.unshare(new_namespace) or libc.mount(None, b"/", None, recursive | private, None):
            return False
        return not libc.mount(b"none", str(self.folder).encode(), b"tmpfs", 0, b"size=24m")

    def fill(self) -> None:
        """Leave no byte free."""
        if self.kind != "tmpfs":
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            return
        with self._ballast.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(4096))

    def free(self) -> None:
        """Give the space back."""
        if self.kind != "tmpfs":
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            return
        self._ballast.unlink()


FULL = r"No space left on device|File too large|disk is full|disk I/O error|unable to open database file"
"""How the errors of a full disk are worded, by the system, by SQLite and by DuckDB."""


def refused(act: Callable[[], object]) -> str:
    """Do what must fail on a full disk, and return the error's sentence."""
    try:
        act()
    except Exception as error:  # of whatever kind, it must say what is wrong
        said = f"{type(error).__name__}: {error}"
        assert re.search(FULL, said), said
        return said
    raise AssertionError("a full disk was not noticed")


def lake_on_a_full_disk(folder: Path, made_project: Path, told: Path) -> None:
    """Refresh a day of bars for real while the disk of the lake is full, and again when it is not."""
    disk = Disk(folder)
    shutil.copytree(made_project / "lake" / "market", folder / "lake" / "market")
    lake, prices = lake_of(folder), CONTRACTS["market/prices"]
    whole = lake.read(prices, DAY)
    old = whole.head(12)
    lake.write(prices, DAY, old)
    days = lake.days(prices)
    disk.fill()
    said = refused(lambda: make(folder, ["market/prices"]))
    refused(lambda: lake.write(prices, DAY + timedelta(days=1), whole))
    assert digest(lake.read(prices, DAY)) == digest(old)
    assert lake.days(prices) == days
    disk.free()
    make(folder, ["market/prices"])
    assert digest(lake.read(prices, DAY)) == digest(whole)
    assert [path.name for path in (folder / "lake" / "market" / "prices" / f"day={DAY}").iterdir()] == ["part.parquet"]
    told.write_text(f"{disk.kind}: {said}")


def bundle_on_a_full_disk(folder: Path, models: Path, told: Path) -> None:
    """Publish while the disk of the published folder is full, and again when it is not."""
    disk = Disk(folder)
    serving = folder / "serving"
    serving.mkdir()
    first = publish_small(serving, models)
    later = MADE_AT + timedelta(hours=1)
    disk.fill()
    said = refused(lambda: publish_small(serving, models, made_at=later))
    assert live_manifest(serving)["bundle_id"] == first.bundle_id
    ForecastModel.load(serving / "bundles" / first.bundle_id / "model")
    disk.free()
    second = publish_small(serving, models, made_at=later)
    assert live_manifest(serving)["bundle_id"] == second.bundle_id
    ForecastModel.load(serving / "bundles" / second.bundle_id / "model")
    assert {path.name for path in (serving / "bundles").iterdir()} == {first.bundle_id, second.bundle_id}
    told.write_text(f"{disk.kind}: {said}")


def outbox_on_a_full_disk(folder: Path, told: Path) -> None:
    """Raise alerts, and deliver one, while the disk of the outbox is full, and again when it is not."""
    disk = Disk(folder)
    outbox, at = Outbox(folder / "alerts" / "outbox.db"), datetime(2024, 5, 1, 12, tzinfo=UTC)
    rule = Rule("fall", "drawdown", "high", timedelta(hours=6), 0.1)

    def raised(number: int) -> list[str]:
        long = [
            Finding(rule, f"{number}/{n}", "it fell " * 400, 0.2) for n in range(20)
        ]  # more than a page has room for
        return outbox.raise_alerts(long, {"high": ("log",)}, at)

    first = raised(1)
    disk.fill()
    said = refused(lambda: raised(2))
    disk.free()  # SQLite reads a log that another process may be writing, for which it needs a little room
    assert {alert.alert_id for alert in outbox.due(at)} == set(first)
    disk.fill()
    refused(lambda: raised(2))
    disk.free()
    assert set(raised(2)) == {alert.alert_id for alert in outbox.due(at)} - set(first)
    assert len(outbox.due(at)) == 40
    told.write_text(f"{disk.kind}: {said}")


def scores_on_a_full_disk(folder: Path, told: Path) -> None:
    """Score texts while the disk of the score cache is full, and again when it is not."""
    disk = Disk(folder)
    texts = [[f"bitcoin soars {batch} {n}" for n in range(400)] for batch in range(2)]
    scorer = CachedScorer(VaderScorer(), folder / "cache" / "sentiment.scores")
    plain = [scorer.scorer.score(batch).probabilities.tolist() for batch in texts]

    assert scorer.score(texts[0]).probabilities.tolist() == plain[0]
    disk.fill()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert scorer.score(texts[1]).probabilities.tolist() == plain[1]
        assert scorer.score(texts[0]).probabilities.tolist() == plain[0]
    assert any(re.search(FULL, str(one.message)) for one in said), [str(one.message) for one in said]
    disk.free()
    assert scorer.score(texts[1]).probabilities.tolist() == plain[1]
    size = scorer.path.stat().st_size
    assert [scorer.score(batch).probabilities.tolist() for batch in texts] == plain
    assert scorer.path.stat().st_size == size, "every text is stored now"
    told.write_text(f"{disk.kind}: {said[0].message}")


# --- the server --------------------------------------------------------------------------------------
def publish_hour(serving: Path, models: Path, hour: int) -> None:
    """Publish the forecast of an hour."""
    publish_small(serving, models, made_at=MADE_AT + timedelta(hours=hour))


def publish_hour_and_die(serving: Path, models: Path, hour: int, last_step: int) -> None:
    """Publish the forecast of an hour, and die at its n-th step that touches the disk, if it has as many."""
    steps = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == last_step:
                die()
            return function(*arguments, **options)

        return step

    for name in ("rename", "replace", "utime", "mkdir", "fsync"):
        setattr(os, name, counted(getattr(os, name)))
    Path.write_text = counted(Path.write_text)  # type: ignore[method-assign]
    shutil.copytree = counted(shutil.copytree)
    publish._write_database = counted(publish._write_database)
    publish_hour(serving, models, hour)
