"""Bring what waits in the outbox to its channels; whatever fails stays there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from btc_assets.alerts.channels import Channel, DeliveryError
from btc_assets.alerts.outbox import Outbox

NOT_CONFIGURED = "this deployment has no such channel"


@dataclass(frozen=True)
class Deliveries:
    """What one round of deliveries came to."""

    delivered: int
    failed: int

    def __str__(self) -> str:
        return f"{self.delivered} delivered, {self.failed} failed"


def deliver(outbox: Outbox, channels: Mapping[str, Channel], now: Callable[[], datetime]) -> Deliveries:
    """Try every delivery that is due once.

    A channel that fails, in whatever way, is not tried again in the same round, so that one that hangs cannot keep the
    others waiting.

    Args:
        outbox: where the alerts are.
        channels: by name; an alert for a channel that is not there waits, as it may be set up later.
        now: the clock, UTC.
    """
    delivered = failed = 0
    down: dict[str, str] = {}
    for alert in outbox.due(now()):
        channel = channels.get(alert.channel)
        fault = NOT_CONFIGURED if channel is None else down.get(alert.channel, "")
        if channel is not None and not fault:
            try:
                channel(alert)
            except DeliveryError as error:
                fault = down[alert.channel] = str(error)
            except Exception as error:  # noqa: BLE001 - of this channel alone; its words may hold a secret
                fault = down[alert.channel] = f"the channel {alert.channel} broke on it ({type(error).__name__})"
        if fault:
            outbox.failed(alert, fault, now())
            failed += 1
        else:
            outbox.delivered(alert, now())
            delivered += 1
    return Deliveries(delivered, failed)
