"""Channels deliver to a local webhook and a local mail server."""

from __future__ import annotations

import logging
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


def test_a_webhook_message_is_one_line_without_markup(webhook: tuple[str, list[dict[str, str]], list[int]]) -> None:
    url, messages, _ = webhook
    channels.to_webhook(alert(HOSTILE), config(alert_webhook_url=SecretStr(url)))
    [payload] = messages
    first = payload["text"].split("\n")[0]
    assert first.startswith("[HIGH] fall: source &lt;script&gt;")
    assert "\x1b" not in payload["text"]
    assert "&amp; co" in first


@pytest.mark.parametrize("status", [400, 404, 429, 500, 302])
def test_a_webhook_error_status_is_a_delivery_error_without_the_secret_address(
    webhook: tuple[str, list[dict[str, str]], list[int]], status: int
) -> None:
    url, _, statuses = webhook
    statuses.append(status)
    with pytest.raises(DeliveryError, match=str(status)) as error:
        channels.to_webhook(alert(), config(alert_webhook_url=SecretStr(url)))
    assert "T0PS3CRET" not in str(error.value)
    assert error.value.__cause__ is None


def test_an_unreachable_webhook_is_a_delivery_error() -> None:
    with pytest.raises(DeliveryError, match="did not respond") as error:
        channels.to_webhook(alert(), config(alert_webhook_url=SecretStr("http://127.0.0.1:9/T0PS3CRET")))
    assert "T0PS3CRET" not in repr(error.value)


@contextmanager
def replying(reply: bytes, *, stays: bool = False) -> Iterator[int]:
    """Run a local server that replies to every client and then disconnects unless `stays`; yield its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(0.2)
            with suppress(OSError):
                self.request.recv(65536)
            with suppress(OSError):
                self.request.sendall(reply)
                self.request.settimeout(5)
                while stays and self.request.recv(65536):
                    continue

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize(
    "reply", [b"", b"\x00\xff garbage\r\n\r\n", b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"]
)
def test_a_malformed_webhook_response_is_a_delivery_error(reply: bytes) -> None:
    with replying(reply) as port, pytest.raises(DeliveryError, match="did not respond"):
        channels.to_webhook(alert(), config(alert_webhook_url=SecretStr(f"http://127.0.0.1:{port}/T0PS3CRET")))


def test_a_long_webhook_response_is_not_read() -> None:
    with replying(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nx") as port:
        channels.to_webhook(alert(), config(alert_webhook_url=SecretStr(f"http://127.0.0.1:{port}/x")))


@pytest.mark.parametrize(
    "url",
    [
        "hooks.example/T0PS3CRET", "ftp://hooks.example/T0PS3CRET", "http://[::1/T0PS3CRET", "http:///T0PS3CRET",
        "https://hooks.invalid/T0PS3CRET", "http://127.0.0.1:99999/T0PS3CRET", "T0PS3CRET\n", "http://\udc80/T0PS3CRET",
        "https://127.0.0.1:9/T0PS3CRET", "http://exämple..invalid/T0PS3CRET",
    ],
)  # fmt: skip
def test_an_invalid_webhook_address_is_a_delivery_error_without_the_secret_address(url: str) -> None:
    with pytest.raises(DeliveryError) as error:
        channels.to_webhook(alert(), config(alert_webhook_url=SecretStr(url)))
    assert "T0PS3CRET" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_delivery_error_names_an_unusable_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://quant:hunter2@127.0.0.1:9")
    for name in ("HTTP_PROXY", "http_proxy", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DeliveryError, match="ALL_PROXY is a SOCKS proxy") as error:
        channels.to_webhook(alert(), config(alert_webhook_url=SecretStr("http://hooks.invalid/x")))
    assert "hunter2" not in str(error.value)


def test_a_plain_http_server_at_an_https_address_is_a_delivery_error(
    webhook: tuple[str, list[dict[str, str]], list[int]],
) -> None:
    url, messages, _ = webhook
    with pytest.raises(DeliveryError, match="did not respond"):
        channels.to_webhook(alert(), config(alert_webhook_url=SecretStr(url.replace("http:", "https:"))))
    assert messages == []


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"alert_email_to": "quant@example.com\nBcc: all@example.com"},
            "BTC_ALERT_EMAIL_TO is not a list of mail addresses",
        ),
        ({"alert_email_to": "nobody"}, "BTC_ALERT_EMAIL_TO is not a list"),
        ({"alert_email_to": "a@b.example, ,@"}, "BTC_ALERT_EMAIL_TO is not a list"),
        ({"alert_email_from": "desk\r@example.com"}, "BTC_ALERT_EMAIL_FROM is not a list"),
        ({"alert_email_from": "\udc80@example.com"}, "."),
        ({"alert_email_to": "qüant@example.com"}, "did not accept"),
        ({"alert_email_to": "quant@exämple.com"}, "did not accept"),
        ({"smtp_host": "mail..invalid"}, "."),
        ({"smtp_host": "mäil.invalid"}, "."),
        ({"smtp_host": "mail\x00.invalid"}, "."),
        ({"smtp_security": "tls"}, "did not accept"),
    ],
)
def test_a_mail_that_cannot_be_sent_is_a_delivery_error(
    mail_server: tuple[int, list[str], list[str]], values: dict[str, Any], sentence: str
) -> None:
    port, mails, _ = mail_server
    with pytest.raises(DeliveryError, match=sentence):
        channels.to_email(alert(), mailing(port).model_copy(update=values))
    assert mails == []


@pytest.mark.parametrize("which", [{"smtp_password": SecretStr("hünter2")}, {"smtp_user": "quänt"}])
def test_a_non_ascii_login_is_a_delivery_error_without_the_password(which: dict[str, Any]) -> None:
    hello = b"220 local\r\n250-local\r\n250 AUTH PLAIN LOGIN\r\n"
    login = {"smtp_user": "quant", "smtp_password": SecretStr("hunter2")} | which
    with replying(hello) as port, pytest.raises(DeliveryError, match="use ASCII") as error:
        channels.to_email(alert(), mailing(port).model_copy(update=login))
    assert "nter2" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    "reply", [b"", b"220 local\r\n", b"220 local\r\n250 ok\r\n250 ok\r\n", b"HTTP/1.1 400 no\r\n\r\n"]
)
def test_a_mail_server_that_disconnects_is_a_delivery_error(reply: bytes) -> None:
    with replying(reply) as port, pytest.raises(DeliveryError, match="did not accept"):
        channels.to_email(alert(), mailing(port))


def test_a_mail_that_is_accepted_before_quit_fails_is_delivered() -> None:
    reply = b"220 local\r\n" + b"250 ok\r\n" * 3 + b"354 go\r\n250 taken\r\n500 what?\r\n"
    with replying(reply, stays=True) as port:
        channels.to_email(alert(), mailing(port))


def test_a_message_cannot_inject_mail_headers(mail_server: tuple[int, list[str], list[str]]) -> None:
    port, mails, _ = mail_server
    channels.to_email(alert(HOSTILE), mailing(port))
    [mail] = mails
    head = mail.split("\r\n\r\n")[0]
    assert "To: quant@example.com" in head
    assert "\r\nBcc:" not in head
    assert f"Message-ID: <{'ab' * 16}@btc-assets.invalid>" in head
    assert "rule: fall" in mail


def test_a_refused_recipient_or_unreachable_mail_server_is_a_delivery_error(
    mail_server: tuple[int, list[str], list[str]],
) -> None:
    port, mails, refusals = mail_server
    refusals.append("550 no such user")
    with pytest.raises(DeliveryError):
        channels.to_email(alert(), mailing(port))
    assert mails == []
    with pytest.raises(DeliveryError):
        channels.to_email(alert(), mailing(9))


def test_a_password_is_not_sent_over_an_unencrypted_connection(mail_server: tuple[int, list[str], list[str]]) -> None:
    port, mails, _ = mail_server
    config_with_login = mailing(port).model_copy(
        update={"smtp_security": "starttls", "smtp_user": "quant", "smtp_password": SecretStr("hunter2")}
    )
    with pytest.raises(DeliveryError):  # the local server offers no TLS
        channels.to_email(alert(), config_with_login)
    assert mails == []


def test_the_log_level_follows_the_severity(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="btc_assets.alerts"):
        channels.to_log(alert(HOSTILE))
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "\n" not in record.getMessage()


def test_the_settings_determine_the_channels() -> None:
    assert set(channels_of(config())) == {"log"}
    everything = config(alert_webhook_url=SecretStr("http://127.0.0.1:1/x"), smtp_host="localhost")
    assert set(channels_of(everything)) == {"log", "webhook", "email"}
