"""What the champion's assets decide from what is served, and with which fits."""

from datetime import date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from btc_assets.champion import assets as champion
from btc_assets.champion.history import HistoryError
from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.clock import midnight
from btc_assets.learning.families.protocol import Fit
from btc_assets.learning.families.xgboost import FAMILY, XgboostParameters
from btc_assets.learning.natives import native_name
from btc_assets.published import UnreadableBundleError
from btc_assets.vocabulary import PRIMARY

CUTOFF = date(2018, 5, 28)
NEXT = date(2018, 6, 4)


class Live:
    """Settings of a deployment that runs, at noon of a day."""

    history_end: date | None = None
    seed = 7
    serving_dir = Path("nowhere")

    def now(self) -> datetime:
        return midnight(NEXT) + timedelta(hours=12)


def history_row(version: int, event: str, hour: int) -> pl.DataFrame:
    at = midnight(NEXT) + timedelta(hours=hour)
    row = dict.fromkeys(MODEL_HISTORY.columns) | {"effective_from": at, "recorded_at": at, "role": "champion"}
    row |= {"event": event, "model_version": version, "model_cutoff": CUTOFF, "model_digest": "d"}
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
