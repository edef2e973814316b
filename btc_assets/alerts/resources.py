"""The alert desk as the sensors meet it: rules, outbox and channels of a deployment."""

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
        outbox: where alerts are kept.
    """

    def __init__(self, outbox: Outbox, config: Settings) -> None:
        self.outbox = outbox
        self._config = config

    @property
    def book(self) -> Rulebook:
        """The rules, read again for each tick; the ones that come with the project where the file cannot be read."""
        try:
            return read_rules(self._config.alert_rules)
        except RuleError as fault:
            return replace(read_rules(BUILT_IN), faults=(f"{fault}; until then the project's own rules count",))

    @property
    def channels(self) -> Mapping[str, Channel]:
        """The channels this deployment has."""
        return channels_of(self._config)

    def tell(self, findings: Sequence[Finding], book: Rulebook) -> list[str]:
        """Store findings for the channels that are there, the log at least; return the ids of the new alerts."""
        channels = self.channels
        routing = {
            severity: tuple(name for name in names if name in channels) or ("log",)
            for severity, names in book.routing.items()
        }
        return self.outbox.raise_alerts(findings, routing, datetime.now(tz=UTC))

    def deliver(self) -> Deliveries:
        """Try every delivery that is due."""
        return deliver(self.outbox, self.channels, lambda: datetime.now(tz=UTC))
