"""The outbox: a SQLite file with every alert and the delivery state of each of its channels.

An alert is stored before its first delivery attempt, so neither a killed process nor a failing channel loses it. A
failed delivery is retried with exponential backoff; after the last attempt it is kept as undeliverable.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from btc_assets.alerts.rules import Rule

PENDING, DELIVERED, UNDELIVERABLE = "pending", "delivered", "undeliverable"
FIRST_WAIT = timedelta(seconds=15)
LONGEST_WAIT = timedelta(hours=1)
MAX_TRIES = 24
"""Delivery attempts before an alert is undeliverable: about a day."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS alert (
    alert_id TEXT PRIMARY KEY, raised_at TEXT NOT NULL, rule TEXT NOT NULL, kind TEXT NOT NULL, severity TEXT NOT NULL,
    subject TEXT NOT NULL, message TEXT NOT NULL, value REAL, bound REAL
) STRICT;
CREATE INDEX IF NOT EXISTS alert_told ON alert (rule, subject, raised_at);
CREATE TABLE IF NOT EXISTS delivery (
    alert_id TEXT NOT NULL REFERENCES alert, channel TEXT NOT NULL, state TEXT NOT NULL, tries INTEGER NOT NULL,
    next_try TEXT NOT NULL, settled_at TEXT, fault TEXT NOT NULL, PRIMARY KEY (alert_id, channel)
) STRICT;
"""
_SELECT = """
SELECT alert.alert_id, raised_at, rule, kind, severity, subject, message, value, bound, channel, state, tries,
    settled_at, fault
FROM alert JOIN delivery USING (alert_id)
"""


@dataclass(frozen=True)
class Finding:
    """A condition that a rule reports.

    Attributes:
        rule: the rule that applies.
        subject: what the finding is about. A rule reports a subject at most once in its quiet period.
        message: one sentence that describes the condition.
        value: the measured value in the unit of the rule's kind.
    """

    rule: Rule
    subject: str
    message: str
    value: float | None = None


@dataclass(frozen=True)
class Alert:
    """An alert in the outbox and the state of one of its deliveries."""

    alert_id: str
    raised_at: datetime
    rule: str
    kind: str
    severity: str
    subject: str
    message: str
    value: float | None
    bound: float | None
    channel: str
    state: str
    tries: int
    settled_at: datetime | None
    fault: str


class Outbox:
    """The stored alerts of a deployment."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.executescript(_SCHEMA)
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()

    def raise_alerts(
        self, findings: Iterable[Finding], routing: Mapping[str, tuple[str, ...]], now: datetime
    ) -> list[str]:
        """Store new findings as alerts; return the ids of the stored alerts.

        A finding is skipped if its rule reported the same subject within the quiet period. The quiet period covers the
        time on both sides of an alert: an alert in the future, stored before the clock was set back, silences its rule
        only around its own time.

        Args:
            findings: findings of the rules.
            routing: channels of each severity.
            now: current time, UTC.
        """
        stored = []
        with self._open() as connection:
            for finding in findings:
                rule, subject, message = finding.rule, _storable(finding.subject), _storable(finding.message)
                quiet = max(rule.quiet, timedelta(microseconds=1))
                previous = connection.execute(
                    "SELECT 1 FROM alert WHERE rule = ? AND subject = ? AND raised_at > ? AND raised_at < ?",
                    (rule.name, subject, _text(now - quiet), _text(now + quiet)),
                ).fetchone()
                if previous is not None:
                    continue
                identity = f"{rule.name}\n{subject}\n{now.isoformat()}"
                alert_id = hashlib.sha256(identity.encode()).hexdigest()[:32]
                connection.execute(
                    "INSERT OR IGNORE INTO alert VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        alert_id,
                        _text(now),
                        rule.name,
                        rule.kind,
                        rule.severity,
                        subject,
                        message,
                        finding.value,
                        rule.bound,
                    ),
                )
                connection.executemany(
                    "INSERT OR IGNORE INTO delivery VALUES (?, ?, ?, 0, ?, NULL, '')",
                    [(alert_id, channel, PENDING, _text(now)) for channel in routing[rule.severity]],
                )
                stored.append(alert_id)
        return stored

    def due(self, now: datetime) -> list[Alert]:
        """Return the deliveries to attempt now, oldest first.

        A next attempt further away than the longest wait was scheduled before the clock was set back; it is due too.
        """
        due = "delivery.state = ? AND (delivery.next_try <= ? OR delivery.next_try > ?)"
        return self._alerts(due, (PENDING, _text(now), _text(now + LONGEST_WAIT)))

    def between(self, first: datetime, last: datetime) -> list[Alert]:
        """Return the deliveries of the alerts raised in [`first`, `last`), ordered by time."""
        return self._alerts("alert.raised_at >= ? AND alert.raised_at < ?", (_text(first), _text(last)))

    def undelivered(self) -> list[Alert]:
        """Return the pending and undeliverable deliveries."""
        return self._alerts("delivery.state != ?", (DELIVERED,))

    def record_delivery(self, alert: Alert, now: datetime) -> None:
        """Record that an alert was delivered."""
        self._settle(alert, DELIVERED, "", now, now)

    def record_failure(self, alert: Alert, fault: str, now: datetime) -> None:
        """Record a failed attempt: schedule the next one, or mark the delivery undeliverable after the last one."""
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2**alert.tries)
        self._settle(alert, UNDELIVERABLE if alert.tries + 1 >= MAX_TRIES else PENDING, fault, now + wait, now)

    def _settle(self, alert: Alert, state: str, fault: str, next_try: datetime, now: datetime) -> None:
        settled = None if state == PENDING else _text(now)
        with self._open() as connection:
            connection.execute(
                "UPDATE delivery SET state = ?, tries = tries + 1, next_try = ?, settled_at = ?, fault = ? "
                "WHERE alert_id = ? AND channel = ? AND state = ?",
                (state, _text(next_try), settled, _storable(fault[:500]), alert.alert_id, alert.channel, PENDING),
            )

    def _alerts(self, condition: str, values: tuple[str, ...]) -> list[Alert]:
        query = f"{_SELECT} WHERE {condition} ORDER BY raised_at, alert.alert_id, channel"
        with self._open() as connection:
            connection.row_factory = sqlite3.Row
            rows = [dict(row) for row in connection.execute(query, values)]
        return [Alert(**{**row, **{name: _moment(row[name]) for name in ("raised_at", "settled_at")}}) for row in rows]


def _storable(text: str) -> str:
    """Replace lone surrogates, which SQLite cannot store, with `?`; names from outside may contain them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _text(moment: datetime) -> str:
    """Format a moment as text that sorts by time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
