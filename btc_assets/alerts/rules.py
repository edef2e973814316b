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
BOUNDED = frozenset({"price_move", "volatility", "forecast_move", "drawdown", "stale_data", "drift"})
"""Kinds that count from a bound on."""
PLAIN = frozenset(
    {"failed_run", "freshness", "broken_promise", "degradation", "promotion", "rollback", "silent_source"}
)
"""Kinds that count whenever they happen."""
_NAME = re.compile(r"^[a-z][a-z0-9_]{0,59}$")


class RuleError(ValueError):
    """The file of rules holds something that is no rule; the message says where."""


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
    """Every rule, and the channels of each severity."""

    rules: tuple[Rule, ...]
    routing: Mapping[str, tuple[str, ...]]

    def of(self, kind: str) -> tuple[Rule, ...]:
        """Return the rules that watch a kind of thing."""
        return tuple(rule for rule in self.rules if rule.kind == kind)


def read_rules(path: Path) -> Rulebook:
    """Read a file of rules.

    Raises:
        RuleError: the file is absent, is not TOML, or holds something that is no rule.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RuleError(f"BTC_ALERT_RULES: {path} cannot be read: {error}") from error
    strangers = sorted(set(content) - {"rule", "routing"})
    if strangers:
        raise RuleError(f"{path}: {strangers[0]!r} is neither [[rule]] nor [routing]")
    rules = tuple(_rule(record, f"{path}, rule {number}") for number, record in enumerate(content.get("rule", []), 1))
    names = [rule.name for rule in rules]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RuleError(f"{path}: two rules are named {twice!r}")
    return Rulebook(rules, _routing(content.get("routing", {}), path))


def _rule(record: Mapping[str, Any], where: str) -> Rule:
    known = {"name", "kind", "severity", "bound", "quiet_hours"}
    if strangers := sorted(set(record) - known):
        raise RuleError(f"{where}: {strangers[0]!r} is not known; a rule has {', '.join(sorted(known))}")
    name, kind, severity = (str(record.get(field, "")) for field in ("name", "kind", "severity"))
    if not _NAME.match(name):
        raise RuleError(f"{where}: name is {name!r}; lower case letters, digits and _ are asked for")
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
            raise RuleError(f"{where}: {label} is {value!r}; a number of 0 or more is asked for")
    return Rule(name, kind, severity, timedelta(hours=quiet), None if bound is None else float(bound))


def _routing(content: Mapping[str, Any], path: Path) -> dict[str, tuple[str, ...]]:
    routing: dict[str, tuple[str, ...]] = {}
    for severity, channels in content.items():
        if severity not in SEVERITIES:
            raise RuleError(f"{path}, [routing]: {severity!r} is no severity; choose from {', '.join(SEVERITIES)}")
        if not isinstance(channels, list) or any(channel not in CHANNELS for channel in channels):
            raise RuleError(
                f"{path}, [routing]: {severity} = {channels!r}; a list of {', '.join(CHANNELS)} is asked for"
            )
        routing[severity] = tuple(dict.fromkeys(channels))
    return {severity: routing.get(severity, ("log",)) for severity in SEVERITIES}
