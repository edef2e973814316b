"""The append-only history of roles: promotions, rollbacks and shadows.

A row says that from an hour on a role is held by a model, or by no model. Rows are only added; of two rows for the same
hour the one recorded later is effective. The model of an hour is read from this history only, so a replay of a past
hour finds the model of that hour whatever happened later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import polars as pl

from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.clock import midnight
from btc_assets.vocabulary import CHALLENGER, CHAMPION, VERDICT_KINDS

PREVIOUS = "previous"
"""Alias of the previous champion; the other aliases are named like the roles."""
CHANGED_RECIPE = VERDICT_KINDS[-1]
VERDICT = "model_verdict"
"""Actor of a decision of the gate."""
SHADOW = "shadow_report"
"""Actor of a decision of the shadow report."""
_HELD = ("model_version", "model_cutoff", "model_digest")


class HistoryError(ValueError):
    """A change does not fit the history."""


@dataclass(frozen=True)
class ModelChoice:
    """A registered model: its registry version, cutoff and digest."""

    version: int
    cutoff: date
    digest: str


@dataclass(frozen=True)
class ShadowDecision:
    """Decision of a shadow report about a challenger.

    Attributes:
        decision: promote or dismiss.
        challenger: the model in shadow.
        reason: a sentence.
    """

    decision: str
    challenger: ModelChoice
    reason: str


@dataclass(frozen=True)
class CurrentRoles:
    """Registry versions of the present roles, None where no model holds a role."""

    champion: int | None
    previous: int | None
    challenger: int | None

    def aliases(self) -> dict[str, int | None]:
        """Return the registry version of each alias; the aliases only mirror the history."""
        return {CHAMPION: self.champion, PREVIOUS: self.previous, CHALLENGER: self.challenger}


# --- reading --------------------------------------------------------------------------------------
def holder(history: pl.DataFrame, role: str, at: datetime) -> ModelChoice | None:
    """Return the model that holds a role in the hour that opens at `at`, or None.

    Args:
        history: MODEL_HISTORY rows.
        role: champion or challenger.
        at: open_time, UTC.
    """
    return _held(_in_order(history, role).filter(pl.col("effective_from") <= at))


def holders(history: pl.DataFrame, role: str, hours: pl.Series) -> pl.DataFrame:
    """Return the model that holds a role in each hour: open_time, model_version, model_cutoff, model_digest.

    Args:
        history: MODEL_HISTORY rows.
        role: champion or challenger.
        hours: open_time, UTC; an hour in which no model holds the role is left out.
    """
    changes = _in_order(history, role).unique("effective_from", keep="last").sort("effective_from")
    since = changes.select("effective_from", *_HELD)
    held = pl.DataFrame({"open_time": hours.sort()}).join_asof(since, left_on="open_time", right_on="effective_from")
    return held.drop_nulls("model_version").select("open_time", *_HELD)


def rollback_line(history: pl.DataFrame) -> list[ModelChoice]:
    """Return the champions that a rollback can return to, the present champion last.

    A promotion adds a champion; a rollback or a withdrawn promotion removes those after the champion it returns to.
    """
    line: list[ModelChoice] = []
    for row in _in_order(history, CHAMPION).iter_rows(named=True):
        champion = _choice(row)
        if champion is None:
            line.clear()
        elif row["event"] == "promoted" or champion not in line:
            line.append(champion)
        else:
            del line[len(line) - line[::-1].index(champion) :]
    return line


def current_roles(history: pl.DataFrame) -> CurrentRoles:
    """Return the roles at the end of the history; the previous champion is the target of a rollback."""
    line = rollback_line(history)
    challenger = _held(_in_order(history, CHALLENGER))
    return CurrentRoles(
        champion=line[-1].version if line else None,
        previous=line[-2].version if len(line) > 1 else None,
        challenger=challenger.version if challenger else None,
    )


# --- adding ---------------------------------------------------------------------------------------
def after_verdict(
    history: pl.DataFrame, verdict: pl.DataFrame, *, effective_from: datetime, recorded_at: datetime
) -> pl.DataFrame:
    """Return the rows that a verdict adds to the history; none if it changes nothing.

    A promotion makes the candidate champion. The promotion of a changed recipe ends a shadow; that of a refresh does
    not, as a challenger is compared with the champion's recipe. A changed recipe that is valid but not shown to be
    better enters the shadow if no model is in it. Judging a cutoff again adds rows only where the verdict differs.

    Args:
        history: every MODEL_HISTORY row there is.
        verdict: MODEL_VERDICT rows of one cutoff.
        effective_from: first hour of the change, UTC; never before an earlier change by the same cutoff.
        recorded_at: now, UTC.

    Raises:
        HistoryError: the champion is not the one that the candidate was compared with.
    """
    first = verdict.row(0, named=True)
    candidate = ModelChoice(first["candidate_version"], first["cutoff"], first["candidate_digest"])
    own_rows = history.filter(pl.col("verdict_cutoff") == first["cutoff"])
    other_rows = history.filter(pl.col("verdict_cutoff").ne_missing(first["cutoff"]))
    since = max(effective_from, own_rows["effective_from"][0]) if own_rows.height else effective_from
    before = holder(other_rows, CHAMPION, since)
    promoted = first["decision"] == "promoted" and candidate != before
    champion_rows = own_rows.filter(pl.col("role") == CHAMPION)
    rival, champion_version = first["champion_version"], before.version if before else None
    if (
        not champion_rows.height
        and first["decision"] != "refused"
        and rival not in (champion_version, candidate.version)
    ):
        raise HistoryError(
            f"version {candidate.version} was compared with version {rival}, but the champion is version "
            f"{champion_version}: judge it again"
        )
    after = candidate if promoted else before
    rows: list[dict[str, Any]] = []
    if champion_rows.height and _held(_in_order(champion_rows, CHAMPION)) != after:
        event = "promoted" if promoted else "withdrawn"
        rows.append(_row(CHAMPION, event, after, _why(verdict)))
    elif not champion_rows.height and promoted:
        rows.append(_row(CHAMPION, "promoted", candidate, _why(verdict)))
    in_shadow = holder(history, CHALLENGER, since)
    changed_recipe = first["kind"] == CHANGED_RECIPE
    if promoted and in_shadow and changed_recipe:
        rows.append(_row(CHALLENGER, "left_shadow", None, f"version {candidate.version} was promoted"))
    waits = changed_recipe and first["decision"] == "kept" and before not in (None, candidate)
    if waits and in_shadow is None and own_rows.filter(pl.col("role") == CHALLENGER).is_empty():
        rows.append(_row(CHALLENGER, "entered_shadow", candidate, _why(verdict)))
    return _rows(rows, since, recorded_at, VERDICT, first["cutoff"])


def is_recorded(history: pl.DataFrame, verdict: pl.DataFrame) -> bool:
    """Return whether the decision of a verdict is recorded in the history.

    Args:
        history: every MODEL_HISTORY row there is.
        verdict: MODEL_VERDICT rows of one cutoff; may be empty.
    """
    if verdict.is_empty():
        return True
    at = midnight(verdict["cutoff"][0])
    try:
        return after_verdict(history, verdict, effective_from=at, recorded_at=at).is_empty()
    except HistoryError:
        return False


def recording_time(history: pl.DataFrame, now: datetime) -> datetime:
    """Return the recording time of a change: now, or just after the newest row if the clock was set back."""
    newest = history["recorded_at"].max()
    return max(now, newest + timedelta(microseconds=1)) if isinstance(newest, datetime) else now


def shadow_decision(report: pl.DataFrame) -> ShadowDecision | None:
    """Return the decision of a shadow report; None if no model is in shadow or the challenger waits.

    Args:
        report: SHADOW_REPORT rows of one day; may be empty.
    """
    if report.is_empty() or report["decision"][0] == "wait":
        return None
    first = report.row(0, named=True)
    challenger = ModelChoice(first["challenger_version"], first["challenger_cutoff"], first["challenger_digest"])
    return ShadowDecision(first["decision"], challenger, f"by {first['day']}: {_why(report)}")


def after_shadow(
    history: pl.DataFrame, decided: ShadowDecision | None, *, effective_from: datetime, recorded_at: datetime
) -> pl.DataFrame:
    """Return the rows that a shadow report adds: the challenger becomes champion, is dismissed, or waits.

    Args:
        history: MODEL_HISTORY rows until now.
        decided: the decision of the shadow report.
        effective_from: first hour it holds for, UTC.
        recorded_at: now, UTC.
    """
    if decided is None or holder(history, CHALLENGER, effective_from) != decided.challenger:
        return MODEL_HISTORY.empty()  # no decision, or it is recorded already
    rows = [_row(CHALLENGER, "left_shadow", None, decided.reason)]
    if decided.decision == "promote":
        rows.append(_row(CHAMPION, "promoted", decided.challenger, decided.reason))
    return _rows(rows, effective_from, recorded_at, SHADOW, None)


def newest_change(history: pl.DataFrame) -> datetime | None:
    """Return the first hour of the newest champion, UTC; None without a champion."""
    return history.filter(role=CHAMPION).select(pl.col("effective_from").max()).item()


def after_rollback(
    history: pl.DataFrame,
    *,
    champion_since: datetime,
    to: int | None,
    effective_from: datetime,
    recorded_at: datetime,
    reason: str,
    actor: str,
) -> pl.DataFrame:
    """Return the rows that a rollback adds; none if it is already recorded, so that a killed rollback can be repeated.

    Args:
        history: MODEL_HISTORY rows up to the day of the rollback.
        champion_since: `newest_change` of the complete history.
        to: registry version of a former champion; None: the previous champion.
        effective_from: first hour it holds for, UTC.
        recorded_at: now, UTC.
        reason: the reason, a sentence.
        actor: name of the user.

    Raises:
        HistoryError: there is no such champion, or a later change is already recorded.
    """
    line = rollback_line(history)
    if not line:
        raise HistoryError("there is nothing to roll back: there was never a champion")
    newest = _in_order(history, CHAMPION).row(-1, named=True)
    if champion_since > effective_from:
        raise HistoryError(f"the champion changes at {champion_since}, after {effective_from}: roll back from then on")
    if to is None and newest["event"] == "rolled_back" and newest["effective_from"] == effective_from:
        return MODEL_HISTORY.empty()  # the same rollback repeated; to go further back, a version is needed
    known = {choice.version: choice for choice in _choices(_in_order(history, CHAMPION))}
    if to is None and len(line) < 2:
        raise HistoryError(
            f"version {line[-1].version} was the first champion; name another with --to: "
            f"{', '.join(map(str, sorted(known)))}"
        )
    target = known.get(line[-2].version if to is None else to)
    if target is None:
        raise HistoryError(f"version {to} was never champion; former champions: {', '.join(map(str, sorted(known)))}")
    if target.cutoff > effective_from.date():
        raise HistoryError(f"version {target.version} of cutoff {target.cutoff} must not forecast {effective_from}")
    if target == line[-1]:
        return MODEL_HISTORY.empty()
    rows = [_row(CHAMPION, "rolled_back", target, reason)]
    if holder(history, CHALLENGER, effective_from):
        rows.append(_row(CHALLENGER, "left_shadow", None, f"rolled back to version {target.version}"))
    return _rows(rows, effective_from, recorded_at, actor, None)


# --- details --------------------------------------------------------------------------------------
def _in_order(history: pl.DataFrame, role: str) -> pl.DataFrame:
    return history.filter(pl.col("role") == role).sort("effective_from", "recorded_at")


def _held(rows: pl.DataFrame) -> ModelChoice | None:
    return _choice(rows.row(-1, named=True)) if rows.height else None


def _choice(row: dict[str, Any]) -> ModelChoice | None:
    return None if row["model_version"] is None else ModelChoice(*(row[name] for name in _HELD))


def _choices(rows: pl.DataFrame) -> list[ModelChoice]:
    return [choice for row in rows.iter_rows(named=True) if (choice := _choice(row))]


def _why(criteria: pl.DataFrame) -> str:
    """Return the decision as a sentence, with the criteria that did not pass."""
    failed = criteria.filter(~pl.col("passed"))
    kind = f"{criteria['kind'][0].replace('_', ' ')} " if "kind" in criteria.columns else ""
    if failed.is_empty():
        return f"{kind}{criteria['decision'][0]}: every criterion passed"
    return f"{kind}{criteria['decision'][0]}: not passed: {', '.join(failed['criterion'])}"


def _row(role: str, event: str, held: ModelChoice | None, reason: str) -> dict[str, Any]:
    values = (None, None, None) if held is None else (held.version, held.cutoff, held.digest)
    return {"role": role, "event": event, "reason": reason} | dict(zip(_HELD, values, strict=True))


def _rows(
    rows: Iterable[dict[str, Any]],
    effective_from: datetime,
    recorded_at: datetime,
    actor: str,
    verdict_cutoff: date | None,
) -> pl.DataFrame:
    common = {
        "effective_from": effective_from,
        "recorded_at": recorded_at,
        "actor": actor,
        "verdict_cutoff": verdict_cutoff,
    }
    return pl.DataFrame([row | common for row in rows], schema=MODEL_HISTORY.columns).sort(MODEL_HISTORY.key)
