"""The outbox loses no alert and repeats none within its quiet period."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from btc_assets.alerts.channels import DeliveryError
from btc_assets.alerts.deliver import NOT_CONFIGURED, deliver
from btc_assets.alerts.outbox import DELIVERED, MAX_TRIES, PENDING, UNDELIVERABLE, Alert, Finding, Outbox
from btc_assets.alerts.rules import Rule

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
RULE = Rule("fall", "drawdown", "high", timedelta(hours=6), 0.1)
ROUTING = {"high": ("log", "webhook")}


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "alerts" / "outbox.db")


def raise_alert(outbox: Outbox, at: datetime = NOW, subject: str = "drawdown") -> list[str]:
    return outbox.raise_alerts([Finding(RULE, subject, "it fell", 0.2)], ROUTING, at)


def test_a_subject_is_reported_once_within_its_quiet_period(outbox: Outbox) -> None:
    assert len(raise_alert(outbox)) == 1
    assert raise_alert(outbox) == []
    assert raise_alert(outbox, NOW + timedelta(hours=5, minutes=59)) == []
    assert len(raise_alert(outbox, NOW, "another subject")) == 1
    assert len(raise_alert(outbox, NOW + timedelta(hours=6))) == 1


def test_an_alert_is_delivered_once_to_each_channel(outbox: Outbox) -> None:
    raise_alert(outbox)
    delivered: list[tuple[str, str]] = []
    channels = {name: lambda alert: delivered.append((alert.channel, alert.message)) for name in ("log", "webhook")}
    for minutes in range(3):
        deliver(outbox, channels, lambda minutes=minutes: NOW + timedelta(minutes=minutes))
    assert sorted(delivered) == [("log", "it fell"), ("webhook", "it fell")]
    assert outbox.undelivered() == []


def test_a_failing_channel_is_retried_with_backoff_until_the_alert_is_undeliverable(outbox: Outbox) -> None:
    raise_alert(outbox)
    attempted_at: list[datetime] = []
    clock = NOW

    def down(_alert: Alert) -> None:
        attempted_at.append(clock)
        raise DeliveryError("no answer")

    for _ in range(300):
        deliver(outbox, {"log": lambda _: None, "webhook": down}, lambda: clock)  # noqa: B023 - called at once
        clock += timedelta(minutes=5)
    waits = [later - earlier for earlier, later in pairwise(attempted_at)]
    assert len(attempted_at) == MAX_TRIES
    assert waits == sorted(waits)
    [kept] = outbox.undelivered()
    assert (kept.state, kept.channel, kept.fault, kept.tries) == (UNDELIVERABLE, "webhook", "no answer", MAX_TRIES)
    assert kept.settled_at is not None


def test_a_channel_that_fails_is_not_used_again_in_the_same_round(outbox: Outbox) -> None:
    for number in range(5):
        raise_alert(outbox, subject=f"subject {number}")
    attempts = []

    def down(alert: Alert) -> None:
        attempts.append(alert.alert_id)
        raise DeliveryError("no answer")

    delivered = deliver(outbox, {"log": lambda _: None, "webhook": down}, lambda: NOW)
    assert len(attempts) == 1
    assert (delivered.delivered, delivered.failed) == (5, 5)


def test_an_alert_for_an_unconfigured_channel_stays_pending(outbox: Outbox) -> None:
    raise_alert(outbox)
    deliver(outbox, {"log": lambda _: None}, lambda: NOW)
    [pending] = outbox.undelivered()
    assert (pending.state, pending.fault) == (PENDING, NOT_CONFIGURED)
    delivered: list[str] = []
    later = NOW + timedelta(minutes=5)
    deliver(outbox, {"webhook": lambda alert: delivered.append(alert.message)}, lambda: later)
    assert delivered == ["it fell"]


@pytest.mark.parametrize(
    "error", [UnicodeEncodeError("ascii", "s3cret-é", 7, 8, "ordinal not in range"), KeyError("s3cret"), TypeError()]
)
def test_an_unexpected_channel_error_affects_only_its_delivery(outbox: Outbox, error: Exception) -> None:
    raise_alert(outbox)
    delivered: list[str] = []

    def broken(_alert: Alert) -> None:
        raise error

    channels = {"webhook": broken, "log": lambda alert: delivered.append(alert.message)}
    for minute in range(2):
        deliver(outbox, channels, lambda minute=minute: NOW + timedelta(minutes=minute))
    assert delivered == ["it fell"]
    [pending] = outbox.undelivered()
    assert (pending.channel, pending.state, pending.tries) == ("webhook", PENDING, 2)
    assert type(error).__name__ in pending.fault
    assert "s3cret" not in pending.fault


def test_a_lone_surrogate_in_a_message_is_stored_and_delivered(outbox: Outbox) -> None:
    [name] = outbox.raise_alerts([Finding(RULE, "feed \ud83d", "it fell \ud83d")], ROUTING, NOW)
    delivered: list[str] = []
    deliver(outbox, {name: lambda alert: delivered.append(alert.message) for name in ("log", "webhook")}, lambda: NOW)
    assert delivered == ["it fell ?"] * 2
    assert outbox.raise_alerts([Finding(RULE, "feed \ud83d", "it fell")], ROUTING, NOW) == [], name


def test_a_process_killed_during_a_delivery_loses_no_alert(outbox: Outbox, tmp_path: Path) -> None:
    raise_alert(outbox)
    program = f"""
import os, signal, pathlib
from datetime import UTC, datetime
from btc_assets.alerts.deliver import deliver
from btc_assets.alerts.outbox import Outbox
def die(_): os.kill(os.getpid(), signal.SIGKILL)
deliver(Outbox(pathlib.Path({str(tmp_path / "alerts" / "outbox.db")!r})), {{"log": lambda _: None, "webhook": die}},
        lambda: datetime({NOW.year}, {NOW.month}, {NOW.day}, {NOW.hour}, tzinfo=UTC))
"""
    process = subprocess.run([sys.executable, "-c", program], check=False, env=os.environ)
    assert process.returncode == -signal.SIGKILL
    states = {alert.channel: alert.state for alert in outbox.between(NOW, NOW + timedelta(hours=1))}
    assert states == {"log": DELIVERED, "webhook": PENDING}


def test_alerts_are_selected_by_the_time_they_were_raised(outbox: Outbox) -> None:
    raise_alert(outbox)
    raise_alert(outbox, NOW + timedelta(days=1))
    alerts = outbox.between(NOW, NOW + timedelta(hours=1))
    assert [(alert.raised_at, alert.value, alert.bound, alert.settled_at) for alert in alerts] == [
        (NOW, 0.2, 0.1, None)
    ] * 2
