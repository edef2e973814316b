"""Channels, against a real local webhook and a real local mail server."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr

from btc_assets.alerts import channels
from btc_assets.alerts.channels import DeliveryError, channels_of
from btc_assets.alerts.outbox import PENDING, Alert
from btc_assets.settings import Settings

HOSTILE = "source <script>alert(1)</script>\r\nBcc: everyone@example.com\x1b[31m & co"


def alert(message: str = "the price fell by 12 %") -> Alert:
    at = datetime(2024, 5, 1, 12, tzinfo=UTC)
    return Alert("ab" * 16, at, "fall", "drawdown", "high", "x", message, 0.12, 0.1, "webhook", PENDING, 0, None, "")


def config(**values: Any) -> Settings:
    return Settings.model_construct(**{name: field.default for name, field in Settings.model_fields.items()} | values)


def mailing(port: int) -> Settings:
    return config(smtp_host="127.0.0.1", smtp_port=port, smtp_security="none", alert_email_to="quant@example.com")


def test_the_webhook_is_told_in_one_line_without_markup(webhook: tuple[str, list[dict[str, str]], list[int]]) -> None:
    url, told, _ = webhook
    channels.to_webhook(alert(HOSTILE), config(alert_webhook_url=SecretStr(url)))
    [message] = told
    first = message["text"].split("\n")[0]
    assert first.startswith("[HIGH] fall: source &lt;script&gt;")
    assert "\x1b" not in message["text"]
    assert "&amp; co" in first


@pytest.mark.parametrize("status", [400, 404, 429, 500, 302])
def test_a_webhook_that_refuses_is_a_delivery_error_that_keeps_the_address_secret(
    webhook: tuple[str, list[dict[str, str]], list[int]], status: int
) -> None:
    url, _, statuses = webhook
    statuses.append(status)
    with pytest.raises(DeliveryError, match=str(status)) as error:
        channels.to_webhook(alert(), config(alert_webhook_url=SecretStr(url)))
    assert "T0PS3CRET" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_webhook_that_is_not_there_is_a_delivery_error() -> None:
    with pytest.raises(DeliveryError, match="did not answer") as error:
        channels.to_webhook(alert(), config(alert_webhook_url=SecretStr("http://127.0.0.1:9/T0PS3CRET")))
    assert "T0PS3CRET" not in repr(error.value)


def test_a_mail_cannot_be_given_further_headers_by_what_it_says(mail_server: tuple[int, list[str], list[str]]) -> None:
    port, mails, _ = mail_server
    channels.to_email(alert(HOSTILE), mailing(port))
    [mail] = mails
    head = mail.split("\r\n\r\n")[0]
    assert "To: quant@example.com" in head
    assert "\r\nBcc:" not in head
    assert f"Message-ID: <{'ab' * 16}@btc-assets.invalid>" in head
    assert "rule: fall" in mail


def test_a_mail_server_that_refuses_or_is_not_there_is_a_delivery_error(
    mail_server: tuple[int, list[str], list[str]],
) -> None:
    port, mails, refusals = mail_server
    refusals.append("550 no such user")
    with pytest.raises(DeliveryError):
        channels.to_email(alert(), mailing(port))
    assert mails == []
    with pytest.raises(DeliveryError):
        channels.to_email(alert(), mailing(9))


def test_a_password_is_not_sent_over_an_open_connection(mail_server: tuple[int, list[str], list[str]]) -> None:
    port, mails, _ = mail_server
    asked = mailing(port).model_copy(
        update={"smtp_security": "starttls", "smtp_user": "quant", "smtp_password": SecretStr("hunter2")}
    )
    with pytest.raises(DeliveryError):  # the local server offers no TLS
        channels.to_email(alert(), asked)
    assert mails == []


def test_the_log_says_it_at_its_level(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="btc_assets.alerts"):
        channels.to_log(alert(HOSTILE))
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "\n" not in record.getMessage()


def test_a_deployment_has_the_channels_its_settings_give() -> None:
    assert set(channels_of(config())) == {"log"}
    everything = config(alert_webhook_url=SecretStr("http://127.0.0.1:1/x"), smtp_host="localhost")
    assert set(channels_of(everything)) == {"log", "webhook", "email"}
