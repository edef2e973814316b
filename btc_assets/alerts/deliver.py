"""Deliver the pending alerts of the outbox to their channels; failed deliveries stay pending."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from btc_assets.alerts.channels import Channel, DeliveryError
from btc_assets.alerts.outbox import Outbox

NOT_CONFIGURED = "this deployment does not configure the channel"


@dataclass(frozen=True)
class Deliveries:
    """The number of successful and failed attempts of one delivery round."""

    delivered: int
    failed: int

    def __str__(self) -> str:
        return f"{self.delivered} delivered, {self.failed} failed"


def deliver(outbox: Outbox, channels: Mapping[str, Channel], now: Callable[[], datetime]) -> Deliveries:
    """Attempt every due delivery once.

    A channel that fails is not used again in the same round, so a channel that hangs delays the others only once.

    Args:
        outbox: the stored alerts.
        channels: channels by name. An alert for a channel that is not configured stays pending.
        now: the clock, UTC.
    """
    delivered = failed = 0
    failed_channels: dict[str, str] = {}
    for alert in outbox.due(now()):
        channel = channels.get(alert.channel)
        fault = NOT_CONFIGURED if channel is None else failed_channels.get(alert.channel, "")
        if channel is not None and not fault:
            try:
                channel(alert)
            except DeliveryError as error:
                fault = failed_channels[alert.channel] = str(error)
            except Exception as error:  # noqa: BLE001 - affects this channel only; its message may contain a secret
                fault = failed_channels[alert.channel] = (
                    f"the channel {alert.channel} failed unexpectedly ({type(error).__name__})"
                )
        if fault:
            outbox.record_failure(alert, fault, now())
            failed += 1
        else:
            outbox.record_delivery(alert, now())
            delivered += 1
    return Deliveries(delivered, failed)
