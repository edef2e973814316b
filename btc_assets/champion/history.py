"""Who holds a role, and since when: the append-only history of promotions, rollbacks and shadows.

A row says that from an hour on a role is held by a model, or by nobody. Rows are only ever added; of two for the same
hour the one recorded later holds. Who forecast an hour is read from here alone, so a replay of a past hour finds the
model of that hour whatever has happened since.
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
"""Alias of the champion before; the other aliases are named as the roles."""
CHANGED_RECIPE = VERDICT_KINDS[-1]
VERDICT = "model_verdict"
"""The actor of what the gate decides."""
SHADOW = "shadow_report"
"""The actor of what the hours in shadow decide."""
_HELD = ("model_version", "model_cutoff", "model_digest")


class HistoryError(ValueError):
    """What is asked for cannot be done with the models that have stood."""


@dataclass(frozen=True)
class ModelChoice:
    """A registered model: its registry version, cutoff and digest."""

    version: int
    cutoff: date
    digest: str


@dataclass(frozen=True)
class ShadowDecision:
    """What the hours in shadow decide about a challenger.

    Attributes:
        decision: promote or dismiss.
        challenger: the model decided about.
        reason: a sentence.
    """

    decision: str
    challenger: ModelChoice
    reason: str


@dataclass(frozen=True)
class Standing:
    """Where the registry's aliases belong: registry versions, None where nobody stands."""

    champion: int | None
    previous: int | None
    challenger: int | None

    def aliases(self) -> dict[str, int | None]:
        """Return the registry version of each alias; the history is the record, aliases only show it."""
        return {CHAMPION: self.champion, PREVIOUS: self.previous, CHALLENGER: self.challenger}


# --- reading --------------------------------------------------------------------------------------
def holder(history: pl.DataFrame, role: str, at: datetime) -> ModelChoice | None:
    """Return who holds a role in the hour that opens at `at`, or None.

    Args:
        history: MODEL_HISTORY rows.
        role: champion or challenger.
        at: open_time, UTC.
    """
    return _held(_in_order(history, role).filter(pl.col("effective_from") <= at))


def holders(history: pl.DataFrame, role: str, hours: pl.Series) -> pl.DataFrame:
    """Return who holds a role in each hour: open_time, model_version, model_cutoff, model_digest.

    Args:
        history: MODEL_HISTORY rows.
        role: champion or challenger.
        hours: open_time, UTC; an hour in which nobody holds the role is left out.
    """
    changes = _in_order(history, role).unique("effective_from", keep="last").sort("effective_from")
    since = changes.select("effective_from", *_HELD)
    held = pl.DataFrame({"open_time": hours.sort()}).join_asof(since, left_on="open_time", right_on="effective_from")
    return held.drop_nulls("model_version").select("open_time", *_HELD)


def line_of_champions(history: pl.DataFrame) -> list[ModelChoice]:
    """Return the champions a rollback may go back through, the present one last.

    A promotion adds one, a rollback or a withdrawn promotion takes away those after the one it goes back to.
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


def standing(history: pl.DataFrame) -> Standing:
    """Return who stands after the whole history; the previous champion is the one a rollback goes back to."""
    line = line_of_champions(history)
    challenger = _held(_in_order(history, CHALLENGER))
    return Standing(
        champion=line[-1].version if line else None,
        previous=line[-2].version if len(line) > 1 else None,
        challenger=challenger.version if challenger else None,
    )


# --- adding ---------------------------------------------------------------------------------------
def after_verdict(
    history: pl.DataFrame, verdict: pl.DataFrame, *, effective_from: datetime, recorded_at: datetime
) -> pl.DataFrame:
    """Return the rows a verdict adds to the history; none when it changes nothing.

    A promotion makes the candidate champion. A changed recipe that is promoted ends whatever is in shadow; a refresh
    does not, as a challenger is compared with the champion's recipe. A changed recipe that is valid but not shown to be
    better enters the shadow if no model is in it. A cutoff judged again adds rows only where the verdict differs.

    Args:
        history: every MODEL_HISTORY row there is.
        verdict: MODEL_VERDICT rows of one cutoff.
        effective_from: first hour it holds for, UTC; never before what the same cutoff has changed already.
        recorded_at: now, UTC.

    Raises:
        HistoryError: another champion stands than the one the candidate was held against.
    """
    first = verdict.row(0, named=True)
    candidate = ModelChoice(first["candidate_version"], first["cutoff"], first["candidate_digest"])
    own = history.filter(pl.col("verdict_cutoff") == first["cutoff"])
    others = history.filter(pl.col("verdict_cutoff").ne_missing(first["cutoff"]))
    since = max(effective_from, own["effective_from"][0]) if own.height else effective_from
    before = holder(others, CHAMPION, since)
    promoted = first["decision"] == "promoted" and candidate != before
    said = own.filter(pl.col("role") == CHAMPION)
    rival, stands = first["champion_version"], before.version if before else None
    if not said.height and first["decision"] != "refused" and rival not in (stands, candidate.version):
        raise HistoryError(
            f"version {candidate.version} was held against version {rival}, but version {stands} stands: judge it again"
        )
    after = candidate if promoted else before
    rows: list[dict[str, Any]] = []
    if said.height and _held(_in_order(said, CHAMPION)) != after:
        event = "promoted" if promoted else "withdrawn"
        rows.append(_row(CHAMPION, event, after, _why(verdict)))
    elif not said.height and promoted:
        rows.append(_row(CHAMPION, "promoted", candidate, _why(verdict)))
    in_shadow = holder(history, CHALLENGER, since)
    changed_recipe = first["kind"] == CHANGED_RECIPE
    if promoted and in_shadow and changed_recipe:
        rows.append(_row(CHALLENGER, "left_shadow", None, f"version {candidate.version} was promoted"))
    waits = changed_recipe and first["decision"] == "kept" and before not in (None, candidate)
    if waits and in_shadow is None and own.filter(pl.col("role") == CHALLENGER).is_empty():
        rows.append(_row(CHALLENGER, "entered_shadow", candidate, _why(verdict)))
    return _rows(rows, since, recorded_at, VERDICT, first["cutoff"])


def is_written(history: pl.DataFrame, verdict: pl.DataFrame) -> bool:
    """Say whether what a verdict decides stands in the history.

    Args:
        history: every MODEL_HISTORY row there is.
        verdict: MODEL_VERDICT rows of one cutoff; no rows decide nothing.
    """
    if verdict.is_empty():
        return True
    at = midnight(verdict["cutoff"][0])
    try:
        return after_verdict(history, verdict, effective_from=at, recorded_at=at).is_empty()
    except HistoryError:
        return False


def moment(history: pl.DataFrame, now: datetime) -> datetime:
    """Return when a change is written down: now, or just after the newest row where the clock has been put back."""
    newest = history["recorded_at"].max()
    return max(now, newest + timedelta(microseconds=1)) if isinstance(newest, datetime) else now


def shadow_decision(report: pl.DataFrame) -> ShadowDecision | None:
    """Return what a shadow report decides; None where nobody is in shadow, or the challenger waits.

    Args:
        report: SHADOW_REPORT rows of one day, may be empty.
    """
    if report.is_empty() or report["decision"][0] == "wait":
        return None
    first = report.row(0, named=True)
    challenger = ModelChoice(first["challenger_version"], first["challenger_cutoff"], first["challenger_digest"])
    return ShadowDecision(first["decision"], challenger, f"by {first['day']}: {_why(report)}")


def after_shadow(
    history: pl.DataFrame, decided: ShadowDecision | None, *, effective_from: datetime, recorded_at: datetime
) -> pl.DataFrame:
    """Return the rows that the hours in shadow add: the challenger becomes champion, or leaves the shadow, or waits.

    Args:
        history: MODEL_HISTORY rows until now.
        decided: what the shadow report decides.
        effective_from: first hour it holds for, UTC.
        recorded_at: now, UTC.
    """
    if decided is None or holder(history, CHALLENGER, effective_from) != decided.challenger:
        return MODEL_HISTORY.empty()  # nothing is decided, or it was settled before
    rows = [_row(CHALLENGER, "left_shadow", None, decided.reason)]
    if decided.decision == "promote":
        rows.append(_row(CHAMPION, "promoted", decided.challenger, decided.reason))
    return _rows(rows, effective_from, recorded_at, SHADOW, None)


def after_rollback(
    history: pl.DataFrame, *, to: int | None, effective_from: datetime, recorded_at: datetime, reason: str, actor: str
) -> pl.DataFrame:
    """Return the rows a rollback adds; none when it is already written, so that one that was killed may be asked again.

    Args:
        history: every MODEL_HISTORY row there is.
        to: registry version of a champion of the past; None is the one before the present.
        effective_from: first hour it holds for, UTC.
        recorded_at: now, UTC.
        reason: why, for a person.
        actor: who asked.

    Raises:
        HistoryError: there is no such champion, or a later change is already recorded.
    """
    line = line_of_champions(history)
    if not line:
        raise HistoryError("nothing can be rolled back: no model has ever been champion")
    newest = _in_order(history, CHAMPION).row(-1, named=True)
    since = newest["effective_from"]
    if since > effective_from:
        raise HistoryError(f"the champion changes at {since}, after {effective_from}: roll back from then on")
    if to is None and newest["event"] == "rolled_back" and since == effective_from:
        return MODEL_HISTORY.empty()  # the same rollback, asked for again; further back is asked for by version
    known = {choice.version: choice for choice in _choices(_in_order(history, CHAMPION))}
    if to is None and len(line) < 2:
        raise HistoryError(
            f"version {line[-1].version} is the first champion there was; name another with --to: "
            f"{', '.join(map(str, sorted(known)))}"
        )
    target = known.get(line[-2].version if to is None else to)
    if target is None:
        raise HistoryError(f"version {to} was never champion; those that were: {', '.join(map(str, sorted(known)))}")
    if target.cutoff > effective_from.date():
        raise HistoryError(f"version {target.version} of cutoff {target.cutoff} may not forecast {effective_from}")
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
    """Return the decision in a sentence: every criterion passed, or those that did not."""
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
