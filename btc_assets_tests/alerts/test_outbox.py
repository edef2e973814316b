"""The outbox: nothing is delivered twice too soon, and nothing is lost."""

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
from btc_assets.alerts.outbox import DELIVERED, PENDING, TRIES, UNDELIVERABLE, Alert, Finding, Outbox
from btc_assets.alerts.rules import Rule

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
RULE = Rule("fall", "drawdown", "high", timedelta(hours=6), 0.1)
ROUTING = {"high": ("log", "webhook")}


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "alerts" / "outbox.db")


def raised(outbox: Outbox, at: datetime = NOW, subject: str = "drawdown") -> list[str]:
    return outbox.raise_alerts([Finding(RULE, subject, "it fell", 0.2)], ROUTING, at)


def test_a_subject_is_told_once_within_its_quiet_period(outbox: Outbox) -> None:
    assert len(raised(outbox)) == 1
    assert raised(outbox) == []
    assert raised(outbox, NOW + timedelta(hours=5, minutes=59)) == []
    assert len(raised(outbox, NOW, "another subject")) == 1
    assert len(raised(outbox, NOW + timedelta(hours=6))) == 1


def test_an_alert_is_delivered_once_to_each_channel(outbox: Outbox) -> None:
    raised(outbox)
    delivered: list[tuple[str, str]] = []
    channels = {name: lambda alert: delivered.append((alert.channel, alert.message)) for name in ("log", "webhook")}
    for minutes in range(3):
        deliver(outbox, channels, lambda minutes=minutes: NOW + timedelta(minutes=minutes))
    assert sorted(delivered) == [("log", "it fell"), ("webhook", "it fell")]
    assert outbox.undelivered() == []


def test_a_channel_that_is_down_is_tried_again_with_growing_patience_and_then_kept(outbox: Outbox) -> None:
    raised(outbox)
    tried: list[datetime] = []
    clock = NOW

    def down(_alert: Alert) -> None:
        tried.append(clock)
        raise DeliveryError("no answer")

    for _ in range(300):
        deliver(outbox, {"log": lambda _: None, "webhook": down}, lambda: clock)  # noqa: B023 - called at once
        clock += timedelta(minutes=5)
    waits = [later - earlier for earlier, later in pairwise(tried)]
    assert len(tried) == TRIES
    assert waits == sorted(waits)
    [kept] = outbox.undelivered()
    assert (kept.state, kept.channel, kept.fault, kept.tries) == (UNDELIVERABLE, "webhook", "no answer", TRIES)
    assert kept.settled_at is not None


def test_a_channel_that_fails_is_not_asked_again_in_the_same_round(outbox: Outbox) -> None:
    for number in range(5):
        raised(outbox, subject=f"subject {number}")
    asked = []

    def down(alert: Alert) -> None:
        asked.append(alert.alert_id)
        raise DeliveryError("no answer")

    delivered = deliver(outbox, {"log": lambda _: None, "webhook": down}, lambda: NOW)
    assert len(asked) == 1
    assert (delivered.delivered, delivered.failed) == (5, 5)


def test_an_alert_for_a_channel_that_is_not_there_waits_for_it(outbox: Outbox) -> None:
    raised(outbox)
    deliver(outbox, {"log": lambda _: None}, lambda: NOW)
    [waiting] = outbox.undelivered()
    assert (waiting.state, waiting.fault) == (PENDING, NOT_CONFIGURED)
    delivered: list[str] = []
    later = NOW + timedelta(minutes=5)
    deliver(outbox, {"webhook": lambda alert: delivered.append(alert.message)}, lambda: later)
    assert delivered == ["it fell"]


@pytest.mark.parametrize(
    "error", [UnicodeEncodeError("ascii", "s3cret-é", 7, 8, "ordinal not in range"), KeyError("s3cret"), TypeError()]
)
def test_whatever_a_channel_raises_is_that_delivery_s_fault_alone(outbox: Outbox, error: Exception) -> None:
    raised(outbox)
    delivered: list[str] = []

    def broken(_alert: Alert) -> None:
        raise error

    channels = {"webhook": broken, "log": lambda alert: delivered.append(alert.message)}
    for minute in range(2):
        deliver(outbox, channels, lambda minute=minute: NOW + timedelta(minutes=minute))
    assert delivered == ["it fell"]
    [waiting] = outbox.undelivered()
    assert (waiting.channel, waiting.state, waiting.tries) == ("webhook", PENDING, 2)
    assert type(error).__name__ in waiting.fault
    assert "s3cret" not in waiting.fault


def test_half_a_character_in_a_message_is_stored_and_delivered(outbox: Outbox) -> None:
    [name] = outbox.raise_alerts([Finding(RULE, "feed \ud83d", "it fell \ud83d")], ROUTING, NOW)
    delivered: list[str] = []
    deliver(outbox, {name: lambda alert: delivered.append(alert.message) for name in ("log", "webhook")}, lambda: NOW)
    assert delivered == ["it fell ?"] * 2
    assert outbox.raise_alerts([Finding(RULE, "feed \ud83d", "it fell")], ROUTING, NOW) == [], name


def test_a_process_killed_while_it_delivers_loses_nothing(outbox: Outbox, tmp_path: Path) -> None:
    raised(outbox)
    program = f"""
import os, signal, pathlib
from datetime import UTC, datetime
from btc_assets.alerts.deliver import deliver
from btc_assets.alerts.outbox import Outbox
def die(_): os.kill(os.getpid(), signal.SIGKILL)
deliver(Outbox(pathlib.Path({str(tmp_path / "alerts" / "outbox.db")!r})), {{"log": lambda _: None, "webhook": die}},
        lambda: datetime({NOW.year}, {NOW.month}, {NOW.day}, {NOW.hour}, tzinfo=UTC))
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    states = {alert.channel: alert.state for alert in outbox.between(NOW, NOW + timedelta(hours=1))}
    assert states == {"log": DELIVERED, "webhook": PENDING}


def test_what_was_raised_is_read_back_by_time(outbox: Outbox) -> None:
    raised(outbox)
    raised(outbox, NOW + timedelta(days=1))
    found = outbox.between(NOW, NOW + timedelta(hours=1))
    assert [(alert.raised_at, alert.value, alert.bound, alert.settled_at) for alert in found] == [
        (NOW, 0.2, 0.1, None)
    ] * 2
