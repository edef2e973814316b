"""What the champion's assets decide from what is served, and with which fits."""

from datetime import date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from btc_assets.champion import assets as champion
from btc_assets.champion.assets import history_config, rollback_config, shadow_config
from btc_assets.champion.history import CurrentRoles, HistoryError, ModelChoice, ShadowDecision, current_roles
from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.clock import midnight
from btc_assets.lake import Lake
from btc_assets.learning.families.protocol import Fit
from btc_assets.learning.families.xgboost import FAMILY, XgboostParameters
from btc_assets.learning.natives import native_name
from btc_assets.learning.registry import ModelRegistry
from btc_assets.partitions import DAILY, key_of
from btc_assets.published import UnreadableBundleError
from btc_assets.reads import lake_resources
from btc_assets.settings import Settings
from btc_assets.vocabulary import CHALLENGER, CHAMPION, PRIMARY

CUTOFF = date(2018, 5, 28)
NEXT = date(2018, 6, 4)


class Live:
    """Settings of a deployment that runs, at noon of a day."""

    history_end: date | None = None
    seed = 7
    serving_dir = Path("nowhere")

    def now(self) -> datetime:
        return midnight(NEXT) + timedelta(hours=12)


def history_row(
    version: int, event: str, hour: int = 0, *, day: date = NEXT, role: str = CHAMPION, actor: str = "model_verdict"
) -> pl.DataFrame:
    at = midnight(day) + timedelta(hours=hour)
    row = {
        "effective_from": at,
        "recorded_at": at,
        "role": role,
        "event": event,
        "model_version": version,
        "model_cutoff": CUTOFF,
        "model_digest": f"{version:064x}",
        "reason": "because",
        "actor": actor,
        "verdict_cutoff": day,
    }
    return pl.DataFrame([row], schema=MODEL_HISTORY.columns)


@pytest.mark.parametrize(
    ("newest", "served", "expected"),
    [("rolled_back", 2, 1), ("rolled_back", 1, None), ("promoted", 2, None), ("rolled_back", None, None)],
    ids=["killed before it was served", "served", "a promotion waits", "nothing is served"],
)
def test_a_rollback_that_is_not_served_yet_is_finished_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, newest: str, served: int | None, expected: int | None
) -> None:
    """A repeated rollback returns to the same version at any hour."""
    rows = pl.concat([history_row(1, "promoted", 0), history_row(2, "promoted", 1), history_row(1, newest, 2)])
    monkeypatch.setattr(champion, "settings", Live)
    monkeypatch.setattr(champion, "live_manifest", lambda _: served and {"model_version": served})
    assert champion._unserved_rollback(rows) == expected


def test_only_days_without_served_forecasts_since_are_decided_as_at_their_first_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served: list[datetime | None] = [None]
    monkeypatch.setattr(champion, "settings", Live)
    monkeypatch.setattr(champion, "newest_served_hour", lambda _: served[0])
    yesterday = NEXT - timedelta(days=1)
    assert champion.is_replay(yesterday)
    assert not champion.is_replay(NEXT), "today is decided from the newest hour on"
    served[0] = midnight(yesterday) + timedelta(hours=5)
    assert not champion.is_replay(yesterday)
    assert not champion.is_replay(CUTOFF)
    monkeypatch.setattr(Live, "history_end", NEXT)
    assert champion.is_replay(yesterday), "a closed history is always a replay"


def test_no_past_day_is_decided_while_the_served_bundle_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(champion, "settings", Live)
    monkeypatch.setattr(Live, "serving_dir", tmp_path)
    assert champion.is_replay(CUTOFF), "nothing is published"
    (tmp_path / "current").write_text("")
    with pytest.raises(UnreadableBundleError, match="publish the newest day again"):
        champion.is_replay(CUTOFF)


def test_a_rollback_is_refused_only_of_a_day_before_the_newest_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """A champion whose forecasts cannot be published must give way on the day it came with."""
    monkeypatch.setattr(champion, "settings", Live)
    monkeypatch.setattr(champion, "newest_served_hour", lambda _: midnight(CUTOFF) + timedelta(hours=23))
    champion._refuse_served_past(NEXT)
    champion._refuse_served_past(CUTOFF)
    with pytest.raises(HistoryError, match=r"roll back on 2018-05-28, .* not on 2018-05-27"):
        champion._refuse_served_past(CUTOFF - timedelta(days=1))


def test_a_change_is_effective_from_the_newest_served_hour_of_its_day(monkeypatch: pytest.MonkeyPatch) -> None:
    served = midnight(NEXT) + timedelta(hours=9)
    monkeypatch.setattr(champion, "settings", Live)
    monkeypatch.setattr(champion, "newest_served_hour", lambda _: served)
    assert champion.effective_hour(NEXT, replayed=False) == served
    assert champion.effective_hour(NEXT, replayed=True) == midnight(NEXT)
    later = NEXT + timedelta(days=1)
    assert champion.effective_hour(later, replayed=False) == midnight(later), "nothing of its day is served yet"


def test_a_champion_with_some_of_the_paired_fits_is_judged_by_the_one_that_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seed of the deployment has moved by one since it was trained."""

    class Natives:
        def native(self, version: int) -> Path:
            return tmp_path

        def load(self, version: int) -> SimpleNamespace:
            return SimpleNamespace(document={"members": [{"name": "flow", "family": "xgboost", "features": [0]}]})

    inputs = np.arange(40, dtype=np.float32)[:, None]
    up = (inputs[:, 0] > 20).astype(np.float64)
    booster = FAMILY.fit_direction(inputs, up, np.ones(40), XgboostParameters(rounds=1), Fit(("x",)))
    for seed in range(7, 11):
        (tmp_path / native_name("flow", PRIMARY, FAMILY, seed)).write_bytes(booster.native())
    monkeypatch.setattr(champion, "settings", Live)
    assert champion._fits_of(Natives(), 1) == []  # type: ignore[arg-type]


# --- changes of the history -------------------------------------------------------------------------
class FeaturelessModels(ModelRegistry):
    """A registry whose models read no feature."""

    def load(self, version: int) -> Any:
        """Return a version."""
        return SimpleNamespace(features=())


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Return the lake of a deployment that serves nothing; version 1 is its first champion, from CUTOFF on."""
    config = Settings(data_dir=tmp_path)
    monkeypatch.setattr(champion, "settings", lambda: config)
    lake = Lake(root=config.lake_root)
    lake.write(MODEL_HISTORY, CUTOFF, history_row(1, "promoted", day=CUTOFF))
    return lake


def change_history(lake: Lake, day: date, run_config: dict[str, Any]) -> dg.ExecuteInProcessResult:
    """Materialise the history of a day with a change."""
    upstream = {dep.asset_key for dep in champion.decisions.get_asset_spec(MODEL_HISTORY.asset_key).deps}
    return dg.materialize(
        [
            champion.decisions,
            *(dg.AssetSpec(key, partitions_def=DAILY) for key in upstream - champion.decisions.keys),
        ],
        selection=dg.AssetSelection.assets(MODEL_HISTORY.asset_key),
        partition_key=key_of(day),
        run_config=run_config,
        resources={**lake_resources(lake), "registry": FeaturelessModels(tracking_uri="sqlite://")},
        raise_on_error=False,
    )


def refusal(result: dg.ExecuteInProcessResult) -> str:
    [failure] = result.get_step_failure_events()
    return str(failure.step_failure_data.user_failure_data)


def test_a_rollback_is_recorded_once(lake: Lake) -> None:
    """Roll back from version 2 to version 1 repeatedly."""
    promoted = history_row(2, "promoted")
    lake.write(MODEL_HISTORY, NEXT, promoted)
    config = rollback_config(promoted, reason="it forecasts\n nonsense", actor="ann")
    for _ in range(2):
        assert change_history(lake, NEXT, config).success
    history = lake.scan(MODEL_HISTORY).collect()
    assert MODEL_HISTORY.faults(history) == []
    assert history["event"].to_list() == ["promoted", "promoted", "rolled_back"]
    assert history.row(-1, named=True)["reason"] == "it forecasts nonsense"
    assert current_roles(history) == CurrentRoles(1, None, None)


SINCE = midnight(CUTOFF).isoformat()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event": "rollback"}, "the run config has no champion_since"),
        ({"event": "rollback", "champion_since": SINCE}, "version 1 was the first champion"),
        ({"event": "rollback", "champion_since": SINCE, "to": 99}, "version 99 was never champion"),
        ({"event": "shadow"}, "the run config has no decision of a shadow report"),
        ({"event": "verdict"}, "the event verdict makes champion/model_history and champion/model_verdict"),
    ],
)
def test_an_impossible_change_fails_with_a_message_and_records_nothing(
    lake: Lake, change: dict[str, Any], message: str
) -> None:
    before = lake.fingerprint(MODEL_HISTORY, CUTOFF)
    assert message in refusal(change_history(lake, CUTOFF, history_config(**change)))
    assert lake.fingerprint(MODEL_HISTORY, CUTOFF) == before


def test_a_shadow_is_settled_by_the_decision_that_the_run_is_given(lake: Lake) -> None:
    entered = CUTOFF + timedelta(days=1)
    lake.write(MODEL_HISTORY, entered, history_row(2, "entered_shadow", day=entered, role=CHALLENGER))
    challenger = ModelChoice(2, CUTOFF, f"{2:064x}")
    config = shadow_config("shadow", ShadowDecision("dismiss", challenger, "by yesterday: no better"))
    assert change_history(lake, NEXT, config).success
    settled = lake.scan(MODEL_HISTORY, NEXT, NEXT).select("role", "event", "reason").collect()
    assert settled.rows() == [(CHALLENGER, "left_shadow", "by yesterday: no better")]


def test_a_replay_drops_the_decisions_of_the_day_and_keeps_what_a_person_did(lake: Lake) -> None:
    person = history_row(1, "rolled_back", hour=1, actor="ann")
    lake.write(MODEL_HISTORY, NEXT, pl.concat([history_row(2, "promoted"), person]))
    assert change_history(lake, NEXT, shadow_config("replay", None)).success
    assert lake.scan(MODEL_HISTORY, NEXT, NEXT).collect().equals(person)


def test_nobody_rolls_back_behind_a_later_change(lake: Lake) -> None:
    later = history_row(2, "promoted")
    lake.write(MODEL_HISTORY, NEXT, later)
    result = change_history(lake, CUTOFF, rollback_config(later, to=1))
    assert "the champion changes at 2018-06-04" in refusal(result)
