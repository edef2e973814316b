"""The rules of alerting, as data: what is watched, from where it counts, how grave it is, and who is told."""

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
"""Kinds that count from a bound on."""
PLAIN = frozenset(
    {"failed_run", "freshness", "broken_promise", "degradation", "promotion", "rollback", "silent_source"}
)
"""Kinds that count whenever they happen."""
BUILT_IN = Path(__file__).parent / "rules.toml"
"""The rules that come with the project."""
_NAME = re.compile(r"^[a-z][a-z0-9_]{0,59}$")


class RuleError(ValueError):
    """The file of rules, or one of its rules, cannot be used; the message says where and why."""


@dataclass(frozen=True)
class Rule:
    """One thing worth telling.

    Attributes:
        name: of the alert.
        kind: what is watched, one of `BOUNDED` or `PLAIN`.
        severity: one of `SEVERITIES`.
        quiet: how long the same subject is not told again.
        bound: where it begins to count, in the unit of its kind; None for kinds without one.
    """

    name: str
    kind: str
    severity: str
    quiet: timedelta
    bound: float | None = None


@dataclass(frozen=True)
class Rulebook:
    """Every rule, and the channels of each severity.

    Attributes:
        rules: that can be used.
        routing: channels of each severity.
        faults: a sentence for each part of the file that cannot be used; the rest counts.
    """

    rules: tuple[Rule, ...]
    routing: Mapping[str, tuple[str, ...]]
    faults: tuple[str, ...] = ()

    def of(self, kind: str) -> tuple[Rule, ...]:
        """Return the rules that watch a kind of thing."""
        return tuple(rule for rule in self.rules if rule.kind == kind)


def read_rules(path: Path) -> Rulebook:
    """Read a file of rules; a rule that is none is left out and becomes one of the book's faults.

    Raises:
        RuleError: the file is absent or not TOML.
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
        faults.append(f"{path}: 'rule' is {records!r}; expected one [[rule]] table for each")
        records = []
    rules: dict[str, Rule] = {}
    for number, record in enumerate(records, 1):
        try:
            rule = _rule(record, f"{path}, rule {number}")
        except RuleError as fault:
            faults.append(str(fault))
            continue
        if rule.name in rules:
            faults.append(f"{path}: two rules are named {rule.name!r}; the first one counts")
        rules.setdefault(rule.name, rule)
    routing, misrouted = _routing(content.get("routing", {}), path)
    return Rulebook(tuple(rules.values()), routing, (*faults, *misrouted))


def _rule(record: Any, where: str) -> Rule:
    if not isinstance(record, Mapping):
        raise RuleError(f"{where} is {record!r}; expected a [[rule]] table")
    known = {"name", "kind", "severity", "bound", "quiet_hours"}
    if strangers := sorted(set(record) - known):
        raise RuleError(f"{where}: {strangers[0]!r} is not known; a rule has {', '.join(sorted(known))}")
    name, kind, severity = (str(record.get(field, "")) for field in ("name", "kind", "severity"))
    if not _NAME.match(name):
        raise RuleError(f"{where}: name is {name!r}; expected lower case letters, digits and _")
    if kind not in BOUNDED | PLAIN:
        raise RuleError(f"{where}: kind is {kind!r}; choose from {', '.join(sorted(BOUNDED | PLAIN))}")
    if severity not in SEVERITIES:
        raise RuleError(f"{where}: severity is {severity!r}; choose from {', '.join(SEVERITIES)}")
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
    """Return the channels of each severity, and what cannot be used; a severity without channels has them all."""
    if not isinstance(content, Mapping):
        return dict.fromkeys(SEVERITIES, CHANNELS), [f"{path}: 'routing' is {content!r}; expected a [routing] table"]
    routing: dict[str, tuple[str, ...]] = {}
    faults: list[str] = []
    for severity, channels in content.items():
        if severity not in SEVERITIES:
            faults.append(f"{path}, [routing]: {severity!r} is no severity; choose from {', '.join(SEVERITIES)}")
            continue
        usable = [name for name in CHANNELS if isinstance(channels, list) and name in channels]
        if not isinstance(channels, list) or any(channel not in CHANNELS for channel in channels):
            faults.append(
                f"{path}, [routing]: {severity} = {channels!r}; expected a list of {', '.join(CHANNELS)}; it goes to "
                f"{', '.join(usable or CHANNELS)}"
            )
            usable = usable or list(CHANNELS)
        routing[severity] = tuple(usable)
    return {severity: routing.get(severity, ("log",)) for severity in SEVERITIES}, faults
