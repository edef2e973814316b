"""The walk-forward: what it plans, what it makes, and what it leaves alone when it is started again."""

import re
import shutil
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.automation import walk_forward
from btc_assets.automation.jobs import JOBS
from btc_assets.automation.walk_forward import (
    JUDGED,
    TRAINED,
    Leg,
    Span,
    Walk,
    WalkError,
    WalkForwardConfig,
    days_to_fetch,
    missing_days,
    period,
    plan,
)
from btc_assets.champion.tables import MODEL_HISTORY, SHADOW_REPORT
from btc_assets.cli import walk_forward as command
from btc_assets.cli.main import main
from btc_assets.features.catalog import WARMUP_DAYS
from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.lake import Lake, by_day, output_of
from btc_assets.market.quarter_bars import QUARTER_BARS
from btc_assets.market.tables import PRICES
from btc_assets.partitions import DAILY, day_of
from btc_assets.reads import lake_resources
from btc_assets.schema import CONTRACTS, Contract
from btc_assets.settings import PROJECT_ROOT, Settings
from btc_assets_tests.conftest import random_walk_bars

SAMPLE = Settings(market_source="sample")


@settings(deadline=None)
@given(st.dates(date(2018, 1, 1), date(2019, 1, 1)), st.integers(0, 300), st.integers(1, 60))
def test_every_day_is_forecast_once_and_never_before_its_cutoff(first: date, length: int, every: int) -> None:
    last = first + timedelta(days=length)
    legs = plan(first, last, every)
    days = [day for leg in legs for day in leg.days.days]
    assert days == [first + timedelta(days=i) for i in range(length + 1)]
    assert all(leg.cutoff == leg.days.first for leg in legs)


def test_an_empty_period_is_refused() -> None:
    with pytest.raises(WalkError, match="before its first cutoff"):
        plan(date(2018, 1, 2), date(2018, 1, 1), 7)


@pytest.mark.parametrize("cutoff", [None, date(2018, 10, 1), date(2019, 9, 30)])
def test_a_single_training_trains_exactly_one_cutoff(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cutoff: date | None
) -> None:
    walked: list[list[Leg]] = []
    monkeypatch.setattr(walk_forward.Walk, "run", lambda _, legs: walked.append(list(legs)))
    monkeypatch.setattr(dg.DagsterInstance, "get", dg.DagsterInstance.ephemeral)
    monkeypatch.setattr(Lake, "days", lambda *_: [date(2019, 9, 30)])
    monkeypatch.setattr(Lake, "read", lambda *_: None)
    assert command.train(SAMPLE, cutoff) == 0
    chosen = cutoff or date(2019, 9, 30)
    assert walked == [[Leg(chosen, Span(chosen, date(2019, 9, 30)))]]


def test_the_default_period_starts_on_the_first_monday_with_a_full_window() -> None:
    start, end = period(WalkForwardConfig(), SAMPLE)
    assert start.weekday() == 0
    assert timedelta(0) <= start - (SAMPLE.first_day + timedelta(days=SAMPLE.window_days)) < timedelta(days=7)
    assert end == date(2019, 9, 30)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (WalkForwardConfig(start="spring"), "dates like 2024-01-01"),
        (WalkForwardConfig(start="2017-10-01"), "no history before it"),
        (WalkForwardConfig(end="2019-10-01"), "BTC_HISTORY_END"),
    ],
)
def test_a_period_outside_the_history_is_refused_with_a_reason(config: WalkForwardConfig, expected: str) -> None:
    with pytest.raises(WalkError, match=expected):
        period(config, SAMPLE)


def test_a_partition_with_other_columns_counts_as_missing(tmp_path: Path) -> None:
    lake = Lake(root=str(tmp_path))
    days = [date(2018, 1, 1), date(2018, 1, 2), date(2018, 1, 3)]
    lake.write(PRICES, days[0], random_walk_bars(24))
    lake.write(PRICES, days[1], random_walk_bars(24).drop("venue"))
    assert missing_days(lake, PRICES, days) == days[1:]


def test_an_incomplete_day_is_fetched_again_if_it_is_the_newest(tmp_path: Path) -> None:
    lake = Lake(root=str(tmp_path))
    days = [date(2018, 1, d) for d in (1, 2, 3, 4)]
    for day, part in by_day(PRICES, random_walk_bars(60), days[:3]):
        lake.write(PRICES, day, part if day != days[0] else part.head(20))  # the first day has a gap at its end
    noon = datetime(2018, 1, 3, 12, 30, tzinfo=UTC)
    assert days_to_fetch(lake, days[:3], noon) == []  # all that has closed by then is stored
    assert days_to_fetch(lake, days[:3], noon + timedelta(hours=1)) == [days[2]]
    assert days_to_fetch(lake, days, noon + timedelta(days=2)) == days[2:]
    assert days_to_fetch(lake, days[:2], noon + timedelta(days=2)) == []


# --- a walk, over assets that cost nothing ---------------------------------------------------------
FIRST_CUTOFF, LAST_DAY = date(2018, 6, 4), date(2018, 6, 9)
LEGS = plan(FIRST_CUTOFF, LAST_DAY, 2)
STORED_UNTIL = date(2018, 6, 7)
"""The walk finds the data of the days before this one in the lake, and has to fetch and build the rest."""
Made = tuple[str, date]


SMALL = Settings(market_source="sample", train_days=60, cv_folds=2, cv_test_days=7, news_sources="none")


def _content(contract: Contract, days: Sequence[date]) -> pl.DataFrame:
    """Return bars for the table of bars and no rows otherwise: the content of tables does not matter to a walk."""
    if contract is not PRICES:
        return contract.empty()
    return random_walk_bars(24 * len(days), start=datetime.combine(days[0], time(), tzinfo=UTC))


@cache
def real_graph() -> AssetGraph:
    from btc_assets.definitions import defs

    return defs.resolve_asset_graph()


class Project:
    """The project's assets under their own names, in their own order and in its own jobs, over a lake of their own.

    Each stores something small, records that it ran, and fails on request.

    Attributes:
        made: every table and day that was stored, in order.
        failing: the table and day that cannot be made, if any.
    """

    def __init__(self, root: Path) -> None:
        self.lake = Lake(root=str(root))
        self.instance = dg.DagsterInstance.ephemeral()
        self.made: list[Made] = []
        self.failing: Made | None = None
        self.messages: list[str] = []
        self.settings = SMALL
        self.definitions = dg.Definitions(
            assets=[self._asset(contract) for contract in CONTRACTS.values() if real_graph().has(contract.asset_key)],
            jobs=JOBS,
            resources=lake_resources(self.lake),
            executor=dg.in_process_executor,
        )

    def _asset(self, contract: Contract) -> dg.AssetsDefinition:
        name, key = contract.table, contract.asset_key
        node = real_graph().get(key)

        @dg.asset(
            key=key,
            group_name=node.group_name,
            partitions_def=DAILY,
            backfill_policy=dg.BackfillPolicy.single_run(),
            config_schema=dg.Permissive(),
            deps=[
                dg.AssetDep(parent, partition_mapping=node.partition_mappings.get(parent))
                for parent in node.parent_keys
            ],
        )
        def made(context: dg.AssetExecutionContext) -> dg.Output[pl.DataFrame]:
            days = [day_of(day) for day in context.partition_keys]
            if self.failing is not None and self.failing[0] == name and self.failing[1] in days:
                raise ValueError(f"the sky fell on {name}")
            self.made.extend((name, day) for day in days)
            return output_of(context, contract, _content(contract, days))

        return made

    def walk(self, *, resume: bool = True) -> int:
        """Walk every leg; `made` and `messages` are reset."""
        self.made.clear()
        self.messages.clear()
        return Walk(
            instance=self.instance,
            definitions=self.definitions,
            lake=self.lake,
            settings=self.settings,
            walk_id="the walk",
            report=self.messages.append,
            resume=resume,
        ).run(LEGS)


LEARNING = {contract.table for contract in (*TRAINED, *JUDGED)}
REPORTS = ("monitoring/performance_report", SHADOW_REPORT.table, "forecasting/explanations", "serving/bundle")
ASKED_EACH_TIME = {(name, LAST_DAY) for name in REPORTS}


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a lake with the bars, features and labels of old."""
    root = tmp_path_factory.mktemp("history")
    needed = Span(FIRST_CUTOFF - timedelta(days=SMALL.window_days + WARMUP_DAYS), STORED_UNTIL - timedelta(days=1))
    for day in needed.days:
        for contract in (PRICES, QUARTER_BARS, HOURLY_FEATURES, HOURLY_LABELS):
            Lake(root=str(root)).write(contract, day, _content(contract, [day]))
    return root


def _project(lake: Path, folder: Path) -> Project:
    shutil.copytree(lake, folder / "lake")
    return Project(folder / "lake")


@pytest.fixture
def project(history: Path, tmp_path: Path) -> Project:
    return _project(history, tmp_path)


@pytest.fixture(scope="module")
def whole_walk(history: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project after a walk that nothing stopped; tests only read from it."""
    project = _project(history, tmp_path_factory.mktemp("whole_walk"))
    assert project.walk() == len(LEGS)
    return project


@pytest.fixture
def walked(whole_walk: Project, tmp_path: Path) -> Project:
    """Return a copy of that project, whose Dagster instance has the same runs."""
    copy = _project(Path(whole_walk.lake.root), tmp_path)
    for storage in ("run_storage", "event_log_storage"):
        source, target = (
            getattr(project.instance, storage)._held_conn.connection.driver_connection for project in (whole_walk, copy)
        )
        source.backup(target)
    return copy


@pytest.fixture(scope="module")
def uninterrupted(whole_walk: Project) -> list[Made]:
    """What a walk makes that nothing stops, in order."""
    return whole_walk.made


@pytest.mark.slow
def test_a_walk_makes_every_cutoff_and_every_day_once(uninterrupted: list[Made]) -> None:
    assert len(uninterrupted) == len(set(uninterrupted))
    assert {day for name, day in uninterrupted if name in LEARNING} == {leg.cutoff for leg in LEGS}
    for table in ("forecasting/forecasts", "forecasting/forecast_outcomes"):
        assert [day for name, day in uninterrupted if name == table] == [day for leg in LEGS for day in leg.days.days]


@pytest.mark.slow
def test_a_model_is_trained_before_its_days_are_forecast_and_after_the_days_before(uninterrupted: list[Made]) -> None:
    places = {made: place for place, made in enumerate(uninterrupted)}
    for leg, following in pairwise(LEGS):
        judged = places["champion/model_verdict", leg.cutoff]
        assert all(judged < places["forecasting/forecasts", day] for day in leg.days.days)
        next_judged = places["champion/model_verdict", following.cutoff]
        assert all(places["forecasting/forecast_outcomes", day] < next_judged for day in leg.days.days)


@pytest.mark.slow
def test_a_cutoff_judged_against_another_champion_is_judged_again(walked: Project) -> None:
    """A walk from an earlier day was killed: verdicts of the later walk depend on champions that were replaced."""
    day = FIRST_CUTOFF - timedelta(days=1)
    at = datetime.combine(day, time(), tzinfo=UTC)
    row = {"effective_from": at, "recorded_at": at, "role": "champion", "event": "promoted", "model_version": 5}
    row |= {"model_cutoff": day, "model_digest": "another"}
    frame = pl.DataFrame([dict.fromkeys(MODEL_HISTORY.columns) | row], schema=MODEL_HISTORY.columns)
    walked.lake.append(MODEL_HISTORY, day, frame)
    assert walked.walk() == 0, "a model does not depend on the verdicts before it"
    again = {(table, day) for table, day in walked.made if table in LEARNING}
    assert again == {(table.table, leg.cutoff) for table in JUDGED for leg in LEGS}


@pytest.mark.slow
def test_other_gate_settings_judge_again_without_training(walked: Project) -> None:
    walked.settings = SMALL.model_copy(update={"gate_significance": 0.01})
    assert walked.walk() == 0
    again = {(table, day) for table, day in walked.made if table in LEARNING}
    assert again == {(table.table, leg.cutoff) for table in JUDGED for leg in LEGS}


@pytest.mark.slow
def test_a_missing_table_of_a_trained_model_is_made_separately(project: Project) -> None:
    project.failing = ("learning/model_explanation", LEGS[0].cutoff)
    with pytest.raises(WalkError):
        project.walk()
    project.failing = None
    assert project.walk() == len(LEGS) - 1
    first = [table for table, day in project.made if table in LEARNING and day == LEGS[0].cutoff]
    unjudged = ["learning/model_explanation", "learning/training_profile"]  # the second depends on the first
    assert first == [*unjudged, *(table.table for table in JUDGED)]


@pytest.mark.slow
def test_a_finished_walk_repeats_only_reports_and_the_publication(walked: Project) -> None:
    assert walked.walk() == 0
    assert set(walked.made) == ASKED_EACH_TIME
    assert [messages.count("already") for messages in walked.messages if messages.startswith("cutoff")] == [3] * len(
        LEGS
    )


@pytest.mark.slow
def test_a_walk_without_resume_repeats_everything_but_the_fetch(walked: Project, uninterrupted: list[Made]) -> None:
    assert walked.walk(resume=False) == len(LEGS)
    again = set(walked.made)
    fetched = {"market/prices", "market/quarter_bars"}
    assert again >= {(name, day) for name, day in uninterrupted if name not in fetched}
    assert {name for name, _ in again} == {name for name, _ in uninterrupted} - fetched


@pytest.mark.parametrize(("flags", "resume"), [([], True), (["--again"], False)])
def test_the_command_resumes_unless_again_is_given(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], resume: bool
) -> None:
    received: dict[str, object] = {}
    monkeypatch.setattr(command, "walk_forward", lambda start, end, **options: received.update(options) or 0)
    monkeypatch.chdir(PROJECT_ROOT)
    monkeypatch.setenv("DAGSTER_HOME", str(PROJECT_ROOT))
    assert main(["walk-forward", *flags]) == 0
    assert received["resume"] is resume


def of_files(folder: Path, bars: pl.DataFrame) -> Settings:
    bars.write_parquet(folder / "bars.parquet")
    return Settings(
        market_source="files",
        market_files=str(folder / "*.parquet"),
        history_start=date(2018, 1, 1),
        history_end=date(2018, 4, 1),
        train_days=60,
        cv_folds=2,
        cv_test_days=7,
    )


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (pl.col("open_time").dt.date() != date(2018, 2, 3), "1 day has no bar at all, the first 2018-02-03: add files"),
        (
            pl.col("open_time").dt.date() < date(2018, 3, 20),
            "the files end on 2018-03-19, and 12 days have no bar at all",
        ),
        (
            pl.col("open_time").dt.date() > date(2018, 3, 10),
            "the files begin at 2018-03-11 00:00 UTC, which leaves no training data",
        ),
        (
            pl.col("open_time").dt.hour() == 0,
            "bars.parquet, row 1: expected a bar of the hour from 2018-01-01 00:00 UTC",
        ),
    ],
    ids=["a day", "the end", "the beginning", "days"],
)
def test_unusable_files_end_a_walk_before_anything_is_materialised(
    kept: pl.Expr, expected: str, tmp_path: Path
) -> None:
    chosen = of_files(tmp_path, random_walk_bars(90 * 24).filter(kept))
    nothing = dg.Definitions()  # a job that is looked for is none of these sentences
    lake = Lake(root=str(tmp_path / "lake"))
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(WalkError, match=expected):
        Walk(instance, nothing, lake, chosen, "walk", report=print).run(plan(date(2018, 3, 5), date(2018, 3, 31), 7))


@pytest.mark.slow
def test_a_changed_day_repeats_what_depends_on_it_and_nothing_earlier(walked: Project) -> None:
    changed = LEGS[1].days.first  # forecast by the second cutoff, learnt from by the third
    nulls = pl.DataFrame([dict.fromkeys(HOURLY_FEATURES.columns)], schema=HOURLY_FEATURES.columns)
    walked.lake.write(HOURLY_FEATURES, changed, nulls)
    assert walked.walk() == 1
    assert {day for name, day in walked.made if name in LEARNING} == {LEGS[2].cutoff}
    forecast = [day for name, day in walked.made if name == "forecasting/forecasts"]
    assert forecast == [*LEGS[1].days.days, *LEGS[2].days.days]


@pytest.mark.slow
def test_a_restated_hour_trains_again(walked: Project) -> None:
    nulls = pl.DataFrame([dict.fromkeys(HOURLY_LABELS.columns)], schema=HOURLY_LABELS.columns)
    walked.lake.write(HOURLY_LABELS, FIRST_CUTOFF - timedelta(days=SMALL.window_days), nulls)
    assert walked.walk() == len(LEGS), "a cutoff that is trained again is followed by all later cutoffs"
    walked.lake.write(HOURLY_LABELS, FIRST_CUTOFF - timedelta(days=SMALL.window_days + 1), nulls)
    assert walked.walk() == 0, "no window reaches back to that day"


STEPS = [
    ("features/hourly_features", STORED_UNTIL, "prepare_days"),
    *((name, LEGS[1].cutoff, "train_cutoff") for name in ("learning/trained_model", "champion/model_verdict")),
    ("forecasting/forecast_outcomes", LEGS[1].days.first, "forecast_days"),
    ("serving/bundle", LAST_DAY, "publish_bundle"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("table", "day", "job"), STEPS, ids=[table for table, _, _ in STEPS])
def test_a_failed_run_is_named_and_a_later_walk_makes_only_the_rest(
    project: Project, uninterrupted: list[Made], table: str, day: date, job: str
) -> None:
    project.failing = (table, day)
    with pytest.raises(WalkError) as failure:
        project.walk()
    sentence = re.fullmatch(rf"{job} of (\S+) failed: (.*) \(run [0-9a-f-]{{36}}\)", str(failure.value), re.DOTALL)
    assert sentence is not None, str(failure.value)
    span, reason = sentence.groups()
    days = [date.fromisoformat(end) for end in span.split("..")]
    assert days[0] <= day <= days[-1]
    assert f"the sky fell on {table}" in reason

    before = set(project.made)
    project.failing = None
    project.walk()
    assert before | set(project.made) == set(uninterrupted)
    assert (table, day) in project.made
    done = {(name, at) for name, at in before if name in LEARNING and at < day}
    assert not done & set(project.made), "a cutoff that was done is trained again"
