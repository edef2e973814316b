"""Alert rules as data: the watched quantity, its bound, the severity and the channels of each severity."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

SEVERITIES = ("info", "medium", "high")
CHANNELS = ("log", "webhook", "email")
BOUNDED = frozenset({"price_move", "volatility", "forecast_move", "missing_inputs", "drawdown", "stale_data", "drift"})
"""Kinds whose rules apply from a bound on."""
UNBOUNDED = frozenset(
    {"failed_run", "freshness", "broken_promise", "degradation", "promotion", "rollback", "silent_source"}
)
"""Kinds whose rules apply to every occurrence."""
BUILT_IN = Path(__file__).parent / "rules.toml"
"""The rules that come with the project."""
_NAME = re.compile(r"^[a-z][a-z0-9_]{0,59}$")


class RuleError(ValueError):
    """The rules file or one of its rules is invalid; the message says where and why."""


@dataclass(frozen=True)
class Rule:
    """One alert rule.

    Attributes:
        name: name of its alerts.
        kind: what is watched, one of `BOUNDED` or `UNBOUNDED`.
        severity: one of `SEVERITIES`.
        quiet: period in which the same subject is not reported again.
        bound: smallest value that is reported, in the unit of the kind; None for kinds without a bound.
    """

    name: str
    kind: str
    severity: str
    quiet: timedelta
    bound: float | None = None


@dataclass(frozen=True)
class Rulebook:
    """The usable rules and the channels of each severity.

    Attributes:
        rules: the valid rules.
        routing: channels of each severity.
        faults: one sentence for each invalid part of the file; the rest applies.
    """

    rules: tuple[Rule, ...]
    routing: Mapping[str, tuple[str, ...]]
    faults: tuple[str, ...] = ()

    def of(self, kind: str) -> tuple[Rule, ...]:
        """Return the rules of a kind."""
        return tuple(rule for rule in self.rules if rule.kind == kind)


def read_rules(path: Path) -> Rulebook:
    """Read a rules file; an invalid rule is left out and recorded in the rulebook's faults.

    Raises:
        RuleError: the file is missing or not TOML.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RuleError(f"BTC_ALERT_RULES: {path} cannot be read: {error}") from error
    faults = [
        f"{path}: {name!r} is neither [[rule]] nor [routing]" for name in sorted(set(content) - {"rule", "routing"})
    ]
    records = content.get("rule", [])
    if not isinstance(records, list):
        faults.append(f"{path}: 'rule' is {records!r}; expected one [[rule]] table for each rule")
        records = []
    rules: dict[str, Rule] = {}
    for number, record in enumerate(records, 1):
        try:
            rule = _rule(record, f"{path}, rule {number}")
        except RuleError as fault:
            faults.append(str(fault))
            continue
        if rule.name in rules:
            faults.append(f"{path}: two rules are named {rule.name!r}; the first one applies")
        rules.setdefault(rule.name, rule)
    routing, misrouted = _routing(content.get("routing", {}), path)
    return Rulebook(tuple(rules.values()), routing, (*faults, *misrouted))


def _rule(record: Any, where: str) -> Rule:
    if not isinstance(record, Mapping):
        raise RuleError(f"{where} is {record!r}; expected a [[rule]] table")
    known = {"name", "kind", "severity", "bound", "quiet_hours"}
    if unknown := sorted(set(record) - known):
        raise RuleError(f"{where}: unknown field {unknown[0]!r}; a rule has {', '.join(sorted(known))}")
    name, kind, severity = (str(record.get(field, "")) for field in ("name", "kind", "severity"))
    if not _NAME.match(name):
        raise RuleError(f"{where}: name is {name!r}; expected lower case letters, digits and _")
    if kind not in BOUNDED | UNBOUNDED:
        raise RuleError(f"{where}: kind is {kind!r}; expected one of {', '.join(sorted(BOUNDED | UNBOUNDED))}")
    if severity not in SEVERITIES:
        raise RuleError(f"{where}: severity is {severity!r}; expected one of {', '.join(SEVERITIES)}")
    bound, quiet = record.get("bound"), record.get("quiet_hours", 0)
    if (kind in BOUNDED) != (bound is not None):
        raise RuleError(f"{where}: kind {kind!r} {'needs a bound' if kind in BOUNDED else 'has no bound'}")
    for label, value in (("bound", bound), ("quiet_hours", quiet)):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6
        ):
            raise RuleError(f"{where}: {label} is {value!r}; expected a number >= 0")
    return Rule(name, kind, severity, timedelta(hours=quiet), None if bound is None else float(bound))


def _routing(content: Any, path: Path) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return the channels of each severity and the faults; a severity without a usable channel gets all channels."""
    if not isinstance(content, Mapping):
        return dict.fromkeys(SEVERITIES, CHANNELS), [f"{path}: 'routing' is {content!r}; expected a [routing] table"]
    routing: dict[str, tuple[str, ...]] = {}
    faults: list[str] = []
    for severity, channels in content.items():
        if severity not in SEVERITIES:
            faults.append(f"{path}, [routing]: unknown severity {severity!r}; expected one of {', '.join(SEVERITIES)}")
            continue
        usable = [name for name in CHANNELS if isinstance(channels, list) and name in channels]
        if not isinstance(channels, list) or any(channel not in CHANNELS for channel in channels):
            faults.append(
                f"{path}, [routing]: {severity} = {channels!r}; expected a list of {', '.join(CHANNELS)}; using "
                f"{', '.join(usable or CHANNELS)}"
            )
            usable = usable or list(CHANNELS)
        routing[severity] = tuple(usable)
    return {severity: routing.get(severity, ("log",)) for severity in SEVERITIES}, faults
