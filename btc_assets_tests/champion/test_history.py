"""The history of roles: who holds a role, since when and why; rows are never removed."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.champion.history import (
    CurrentRoles,
    HistoryError,
    ModelChoice,
    after_rollback,
    after_shadow,
    after_verdict,
    current_roles,
    holder,
    holders,
    is_recorded,
    newest_change,
    recording_time,
    rollback_line,
    shadow_decision,
)
from btc_assets.champion.tables import MODEL_HISTORY, MODEL_VERDICT, SHADOW_REPORT
from btc_assets.clock import midnight
from btc_assets.vocabulary import CHALLENGER, CHAMPION

START = date(2024, 1, 1)
EMPTY = MODEL_HISTORY.empty()
FAR = datetime(2100, 1, 1, tzinfo=UTC)


def week(n: int) -> date:
    return START + timedelta(weeks=n)


def model(n: int) -> ModelChoice:
    """Return the model of the n-th week; its version is n + 1."""
    return ModelChoice(n + 1, week(n), f"{n:064x}")


def verdict(n: int, decision: str, *, against: int | None = None) -> pl.DataFrame:
    """Return a verdict about another recipe; `refreshed` promotes a refresh and `stale` keeps one out."""
    kind = {"refreshed": "refresh", "stale": "refresh"}.get(decision, "changed_recipe")
    decision = {"refreshed": "promoted", "stale": "kept"}.get(decision, decision)
    row = dict.fromkeys(MODEL_VERDICT.columns) | {
        "cutoff": week(n),
        "criterion": "log_loss",
        "passed": decision == "promoted",
        "reason": "because",
        "decision": decision,
        "kind": kind,
        "recipe_changes": "",
        "candidate_version": model(n).version,
        "candidate_digest": model(n).digest,
        "champion_version": against,
    }
    return pl.DataFrame([row], schema=MODEL_VERDICT.columns)


def judged(history: pl.DataFrame, n: int, decision: str, *, recorded: int = 0) -> pl.DataFrame:
    """Return the history with what a week's verdict adds."""
    at = midnight(week(n))
    before = holder(history.filter(pl.col("verdict_cutoff").ne_missing(week(n))), CHAMPION, at)
    candidate_verdict = verdict(n, decision, against=before.version if before else None)
    rows = after_verdict(history, candidate_verdict, effective_from=at, recorded_at=at + timedelta(hours=1 + recorded))
    return pl.concat([history, rows])


def walked(*decisions: str) -> pl.DataFrame:
    history = EMPTY
    for n, decision in enumerate(decisions):
        history = judged(history, n, decision)
    return history


def report(n: int, decision: str, day: date) -> pl.DataFrame:
    row = dict.fromkeys(SHADOW_REPORT.columns) | {
        "day": day,
        "criterion": "better_p_value",
        "passed": decision == "promote",
        "reason": "because",
        "decision": decision,
        "challenger_version": model(n).version,
        "challenger_cutoff": model(n).cutoff,
        "challenger_digest": model(n).digest,
        "champion_version": 1,
    }
    return pl.DataFrame([row], schema=SHADOW_REPORT.columns)


def rolled_back(history: pl.DataFrame, at: datetime, to: int | None = None) -> pl.DataFrame:
    since = newest_change(history) or at
    rows = after_rollback(
        history, champion_since=since, to=to, effective_from=at, recorded_at=at, reason="wrong", actor="a person"
    )
    return pl.concat([history, rows])


def test_a_promotion_is_effective_from_its_hour_on() -> None:
    history = walked("promoted", "promoted")
    assert MODEL_HISTORY.faults(history) == []
    second = midnight(week(1))
    assert holder(history, CHAMPION, midnight(START) - timedelta(hours=1)) is None
    assert holder(history, CHAMPION, second - timedelta(hours=1)) == model(0)
    assert holder(history, CHAMPION, second) == model(1)


def test_a_champion_keeps_its_role_until_a_change() -> None:
    assert holder(walked("promoted"), CHAMPION, FAR) == model(0)


def test_a_refused_candidate_gets_no_role() -> None:
    assert current_roles(walked("refused")) == CurrentRoles(None, None, None)
    assert current_roles(walked("promoted", "refused")) == CurrentRoles(1, None, None)


def test_one_candidate_at_a_time_is_in_shadow() -> None:
    history = walked("promoted", "kept", "kept")
    assert current_roles(history) == CurrentRoles(1, None, 2)
    assert holder(history, CHALLENGER, midnight(week(1)) - timedelta(hours=1)) is None


def test_a_promotion_of_another_recipe_ends_the_shadow() -> None:
    assert current_roles(walked("promoted", "kept", "promoted")) == CurrentRoles(3, 1, None)


def test_a_refresh_of_the_champion_leaves_its_challenger_in_shadow() -> None:
    assert current_roles(walked("promoted", "kept", "refreshed")) == CurrentRoles(3, 1, 2)


def test_a_refresh_that_is_worse_does_not_wait_in_shadow() -> None:
    assert current_roles(walked("promoted", "stale")) == CurrentRoles(1, None, None)


@pytest.mark.parametrize("decision", ["promoted", "kept"])
def test_a_verdict_about_the_champion_itself_adds_nothing(decision: str) -> None:
    """Its cutoff was never judged: a user made it champion."""
    rows = walked("promoted").with_columns(verdict_cutoff=None, actor=pl.lit("a person"))
    assert after_verdict(
        rows, verdict(0, decision, against=1), effective_from=midnight(week(1)), recorded_at=FAR
    ).is_empty()


@pytest.mark.parametrize("decision", ["promoted", "kept", "refused"])
def test_the_same_verdict_again_adds_nothing(decision: str) -> None:
    history = walked("promoted", decision)
    assert judged(history, 1, decision, recorded=5).equals(history)


def test_a_different_verdict_adds_a_row_and_keeps_the_old_one() -> None:
    history = walked("promoted", "promoted", "kept")
    again = judged(history, 1, "kept", recorded=500)
    assert again.head(history.height).equals(history)
    assert holder(again, CHAMPION, midnight(week(1))) == model(0)
    assert rollback_line(again) == [model(0)]
    assert again["event"].to_list().count("withdrawn") == 1


def test_judging_a_cutoff_again_keeps_later_changes() -> None:
    history = walked("promoted", "promoted", "promoted")
    again = judged(history, 1, "kept", recorded=500)
    assert holder(again, CHAMPION, FAR) == model(2)


@pytest.mark.parametrize("decision", ["promoted", "kept"])
def test_a_verdict_against_a_former_champion_is_refused(decision: str) -> None:
    """A rollback happens while a candidate is compared with the previous champion."""
    at = midnight(week(3))
    history = rolled_back(walked("promoted", "promoted"), at)
    late = verdict(3, decision, against=2)
    with pytest.raises(HistoryError, match="compared with version 2, but the champion is version 1: judge it again"):
        after_verdict(history, late, effective_from=at, recorded_at=at + timedelta(minutes=5))
    assert not is_recorded(history, late)


def test_a_verdict_is_recorded_once_its_rows_are_stored() -> None:
    history = walked("promoted")
    candidate_verdict = verdict(1, "promoted", against=1)
    assert not is_recorded(history, candidate_verdict)
    assert is_recorded(judged(history, 1, "promoted"), candidate_verdict)
    assert is_recorded(history, verdict(1, "refused", against=1))


def test_a_different_verdict_on_the_same_day_changes_no_served_hour() -> None:
    history, evening = walked("promoted", "kept"), midnight(week(1)) + timedelta(hours=17)
    rows = after_verdict(history, verdict(1, "promoted", against=1), effective_from=evening, recorded_at=evening)
    assert set(rows["effective_from"]) == {evening}
    after = pl.concat([history, rows])
    assert holder(after, CHAMPION, evening - timedelta(hours=1)) == model(0)
    assert holder(after, CHAMPION, evening) == model(1)


def test_a_later_row_is_effective_even_if_the_clock_was_set_back() -> None:
    history = walked("promoted", "promoted")
    at = midnight(week(1))
    back = recording_time(history, at - timedelta(days=3))
    assert back > history["recorded_at"].max()
    rows = after_rollback(
        history, champion_since=at, to=None, effective_from=at, recorded_at=back, reason="wrong", actor="a person"
    )
    assert current_roles(pl.concat([history, rows])).champion == 1
    assert recording_time(EMPTY, at) == at


def test_a_rollback_goes_to_the_previous_champion_and_then_further_back() -> None:
    history = walked("promoted", "promoted", "promoted")
    now = midnight(week(3))
    once = rolled_back(history, now)
    assert current_roles(once) == CurrentRoles(2, 1, None)
    twice = rolled_back(once, now + timedelta(hours=5))
    assert current_roles(twice) == CurrentRoles(1, None, None)
    assert twice["event"].to_list() == ["promoted"] * 3 + ["rolled_back"] * 2
    assert twice["actor"].to_list()[-1] == "a person"
    assert holder(twice, CHAMPION, now) == model(1)
    assert holder(twice, CHAMPION, now - timedelta(hours=1)) == model(2)


def test_a_repeated_rollback_adds_nothing() -> None:
    now = midnight(week(3))
    history = rolled_back(walked("promoted", "promoted", "promoted"), now)
    assert rolled_back(history, now).equals(history), "the same hour: the same rollback"
    assert rolled_back(history, now + timedelta(hours=1), to=2).equals(history), "it is champion already"
    assert current_roles(rolled_back(history, now, to=1)) == CurrentRoles(1, None, None)


def test_a_rollback_ends_the_shadow() -> None:
    history = rolled_back(walked("promoted", "promoted", "kept"), midnight(week(3)))
    assert current_roles(history) == CurrentRoles(1, None, None)


def test_after_a_rollback_the_next_promotion_counts() -> None:
    history = rolled_back(walked("promoted", "promoted"), midnight(week(1)) + timedelta(hours=9))
    assert current_roles(judged(history, 2, "promoted")) == CurrentRoles(3, 1, None)


@pytest.mark.parametrize(
    ("history", "at", "to", "message"),
    [
        (EMPTY, midnight(week(1)), None, "there was never a champion"),
        (walked("promoted"), midnight(week(1)), None, "version 1 was the first champion"),
        (walked("promoted", "kept"), midnight(week(2)), 2, "version 2 was never champion; former champions: 1"),
        (walked("promoted", "promoted"), midnight(START), None, "the champion changes at"),
    ],
    ids=["no champion", "the first", "never champion", "later change"],
)
def test_an_impossible_rollback_is_refused_with_a_reason(
    history: pl.DataFrame, at: datetime, to: int | None, message: str
) -> None:
    with pytest.raises(HistoryError, match=message):
        rolled_back(history, at, to)


@pytest.mark.parametrize(
    ("decision", "roles"),
    [
        ("wait", CurrentRoles(1, None, 2)),
        ("dismiss", CurrentRoles(1, None, None)),
        ("promote", CurrentRoles(2, 1, None)),
    ],
)
def test_a_shadow_report_decides_once(decision: str, roles: CurrentRoles) -> None:
    history, day = walked("promoted", "kept"), week(3) - timedelta(days=1)
    at, decided = midnight(week(3)), shadow_decision(report(1, decision, day))
    for _ in range(2):
        rows = after_shadow(history, decided, effective_from=at, recorded_at=at)
        history = pl.concat([history, rows])
        assert current_roles(history) == roles
    assert MODEL_HISTORY.faults(history.sort(MODEL_HISTORY.key)) == []


def test_a_report_on_another_challenger_decides_nothing() -> None:
    history = walked("promoted", "kept")
    late = shadow_decision(report(5, "promote", week(3)))
    at = midnight(week(3))
    assert after_shadow(history, late, effective_from=at, recorded_at=at).is_empty()
    assert shadow_decision(SHADOW_REPORT.empty()) is None
    assert after_shadow(history, None, effective_from=at, recorded_at=at).is_empty()


decisions = st.lists(st.sampled_from(["promoted", "kept", "refused", "rollback"]), min_size=1, max_size=12)


@settings(deadline=None, max_examples=20)
@given(decisions)
def test_added_rows_change_no_earlier_hour(taken: list[str]) -> None:
    history = EMPTY
    for n, decision in enumerate(taken):
        before, now = history, midnight(week(n))
        if decision == "rollback":
            if len(rollback_line(history)) < 2:
                continue
            history = rolled_back(history, now)
        else:
            history = judged(history, n, decision)
        assert history.head(before.height).equals(before)
        past = pl.datetime_range(midnight(START), now - timedelta(hours=1), "12h", eager=True, time_unit="us")
        for role in (CHAMPION, CHALLENGER):
            assert holders(history, role, past).equals(holders(before, role, past))
    hours = pl.datetime_range(midnight(START), midnight(week(13)), "40h", eager=True, time_unit="us")
    for role in (CHAMPION, CHALLENGER):
        at_once = {row["open_time"]: row["model_version"] for row in holders(history, role, hours).to_dicts()}
        one_by_one = {hour: held.version for hour in hours if (held := holder(history, role, hour))}
        assert at_once == one_by_one
    roles = current_roles(history)
    newest = holder(history, CHAMPION, FAR)
    assert roles.champion == (newest.version if newest else None)
    assert roles.champion is None or roles.champion != roles.previous
