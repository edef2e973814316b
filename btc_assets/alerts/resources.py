"""The alert desk, a Dagster resource: rules, outbox and channels of a deployment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from btc_assets.alerts.channels import Channel, channels_of
from btc_assets.alerts.deliver import Deliveries, deliver
from btc_assets.alerts.outbox import Finding, Outbox
from btc_assets.alerts.rules import BUILT_IN, Rulebook, RuleError, read_rules
from btc_assets.settings import Settings


class AlertDesk:
    """The resource `alert_desk`.

    Attributes:
        outbox: the stored alerts.
    """

    def __init__(self, outbox: Outbox, config: Settings) -> None:
        self.outbox = outbox
        self._config = config

    @property
    def book(self) -> Rulebook:
        """The rules, read again on each access; the built-in rules if the file cannot be read."""
        try:
            return read_rules(self._config.alert_rules)
        except RuleError as fault:
            return replace(read_rules(BUILT_IN), faults=(f"{fault}; the built-in rules apply until it can be read",))

    @property
    def channels(self) -> Mapping[str, Channel]:
        """The channels that this deployment configures."""
        return channels_of(self._config)

    def raise_alerts(self, findings: Sequence[Finding], book: Rulebook) -> list[str]:
        """Store findings for the configured channels, at least the log; return the ids of the new alerts."""
        channels = self.channels
        routing = {
            severity: tuple(name for name in names if name in channels) or ("log",)
            for severity, names in book.routing.items()
        }
        return self.outbox.raise_alerts(findings, routing, datetime.now(tz=UTC))

    def deliver(self) -> Deliveries:
        """Attempt every due delivery once."""
        return deliver(self.outbox, self.channels, lambda: datetime.now(tz=UTC))
