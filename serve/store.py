"""Read the published `serving.duckdb` read-only, with bound parameters and times in UTC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# Times are read as integers: DuckDB would convert TIMESTAMPTZ to the local time zone.
_NEWEST = """
    SELECT epoch_us(open_time) AS open_time, horizon_minutes, epoch_us(made_at) AS made_at,
           epoch_us(target_time) AS target_time, model_version, model_cutoff, model_digest, close,
           p_up, q05, q25, q50, q75, q95, sigma, expected_return_bps, abstained, degraded, missing_inputs,
           missing_weight, fallback
    FROM forecasts f
    WHERE role = 'champion' AND made_at = (SELECT max(made_at) FROM forecasts WHERE role = 'champion')
    ORDER BY horizon_minutes
"""
_RANGE = """
    SELECT epoch_us(f.open_time) AS open_time, f.horizon_minutes, epoch_us(f.made_at) AS made_at,
           epoch_us(f.target_time) AS target_time, f.model_version, f.model_cutoff, f.close,
           f.p_up, f.q05, f.q25, f.q50, f.q75, f.q95, f.sigma, f.expected_return_bps,
           f.abstained, f.degraded,
           f.missing_inputs, f.missing_weight, f.fallback,
           epoch_us(o.known_at) AS known_at, o.log_return, o.outcome, o.net_return_bps
    FROM forecasts f LEFT JOIN forecast_outcomes o USING (open_time, horizon_minutes, role)
    WHERE f.role = 'champion' AND f.made_at >= make_timestamptz($first) AND f.made_at < make_timestamptz($last)
    ORDER BY f.made_at, f.horizon_minutes
    LIMIT $limit OFFSET $offset
"""
# The forecast may have been made again after it was explained: then the explanation is not of this forecast.
_EXPLANATION = """
    SELECT f.horizon_minutes, f.model_version, f.model_cutoff, f.model_digest,
           e.p_up, e.base, e.raises, e.lowers, e.others, e.unexplained, e.approximate, e.sentence
    FROM explanations e JOIN forecasts f USING (open_time, horizon_minutes, model_version, model_digest, p_up)
    WHERE f.role = 'champion' AND f.made_at = make_timestamptz($made_at)
    ORDER BY f.horizon_minutes
"""
_COUNT = """
    SELECT count(*) FROM forecasts
    WHERE role = 'champion' AND made_at >= make_timestamptz($first) AND made_at < make_timestamptz($last)
"""
# As in the performance report: a P(up) of 0.5 forecasts "not up", and P(up) is clipped to [1e-15, 1 - 1e-15].
_REALISED = """
    SELECT role, horizon_minutes, count(*) AS outcomes,
           avg(CAST((p_up > 0.5) = (log_return > 0) AS INTEGER)) AS accuracy,
           avg(-ln(CASE WHEN log_return > 0 THEN p ELSE 1 - p END)) AS log_loss
    FROM (SELECT *, least(greatest(p_up, 1e-15), 1 - 1e-15) AS p FROM forecast_outcomes)
    WHERE known_at > make_timestamptz($since) AND log_return IS NOT NULL
    GROUP BY role, horizon_minutes
    ORDER BY role, horizon_minutes
"""
_DRIFT = """
    SELECT day, kind, subject, bool_or(alarm) AS alarm
    FROM drift_report
    WHERE day = (SELECT max(day) FROM drift_report)
    GROUP BY day, kind, subject
    ORDER BY kind, subject
"""
_ALERTS = "SELECT alert_id, severity, state FROM alerts"
_TABLES = "SELECT table_name FROM duckdb_tables()"
_TIMES = frozenset({"open_time", "made_at", "target_time", "known_at"})


class StoreError(RuntimeError):
    """The published database cannot be read or lacks required tables or columns."""


class Store:
    """A published database. Thread-safe: each query uses its own cursor."""

    def __init__(self, path: Path) -> None:
        """Open the database for reading.

        Raises:
            StoreError: the database is missing or damaged.
        """
        self._path = path
        try:
            self._connection = duckdb.connect(
                str(path), config={"access_mode": "READ_ONLY", "threads": 1, "enable_external_access": False}
            )
        except duckdb.Error as error:
            raise StoreError(f"{path} cannot be opened: {error}") from error

    def newest(self) -> list[dict[str, Any]]:
        """Return the champion's newest forecast, one row per horizon; empty without a forecast."""
        return self._rows(_NEWEST, {})

    def count(self, first: datetime, last: datetime) -> int:
        """Count the champion's forecasts made in [first, last)."""
        return int(self._query(_COUNT, {"first": micros(first), "last": micros(last)})[1][0][0])

    def forecasts(self, first: datetime, last: datetime, *, limit: int, offset: int) -> list[dict[str, Any]]:
        """Return the champion's forecasts made in [first, last) with their outcomes, oldest first.

        Columns of the outcome (`known_at`, `log_return`, `outcome`, `net_return_bps`) are None until known.
        """
        bounds = {"first": micros(first), "last": micros(last), "limit": limit, "offset": offset}
        return self._rows(_RANGE, bounds)

    def explanation(self, made_at: datetime) -> list[dict[str, Any]]:
        """Return the explanation of the champion's forecast made at a time, one row per horizon; empty without one."""
        if "explanations" not in self.tables():
            return []
        return self._rows(_EXPLANATION, {"made_at": micros(made_at)})

    def tables(self) -> frozenset[str]:
        """Return the table names; databases published by older versions have fewer tables."""
        return frozenset(row["table_name"] for row in self._rows(_TABLES, {}))

    def realised(self, since: datetime) -> list[dict[str, Any]]:
        """Return the realised metrics of each role and horizon over the outcomes known after `since`.

        Columns: `role`, `horizon_minutes`, `outcomes` (count), `accuracy` (fraction), `log_loss` (nats).
        """
        return self._rows(_REALISED, {"since": micros(since)})

    def drift(self) -> list[dict[str, Any]]:
        """Return the alarm of each input and promise in the newest report: `day`, `kind`, `subject`, `alarm`."""
        return self._rows(_DRIFT, {})

    def alerts(self) -> list[dict[str, Any]]:
        """Return every published delivery of an alert: `alert_id`, `severity`, `state`."""
        return self._rows(_ALERTS, {})

    def _rows(self, sql: str, parameters: dict[str, int]) -> list[dict[str, Any]]:
        names, rows = self._query(sql, parameters)
        return [
            {name: _instant(value) if name in _TIMES else value for name, value in zip(names, row, strict=True)}
            for row in rows
        ]

    def _query(self, sql: str, parameters: dict[str, int]) -> tuple[list[str], Sequence[tuple[Any, ...]]]:
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                names = [column[0] for column in cursor.description or ()]
                return names, cursor.fetchall()
        except duckdb.Error as error:
            raise StoreError(f"query on {self._path} failed: {error}") from error


def micros(instant: datetime) -> int:
    """Convert an aware time to microseconds since 1970 UTC."""
    return (instant - EPOCH) // _MICROSECOND


def _instant(value: int | date | None) -> datetime | None:
    return None if value is None else EPOCH + value * _MICROSECOND  # type: ignore[operator]
