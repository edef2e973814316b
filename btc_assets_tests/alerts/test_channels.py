"""Channels, against a real local webhook and a real local mail server."""

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


@contextmanager
def answering(reply: bytes, *, stays: bool = False) -> Iterator[int]:
    """A local server that sends something to every client, and hangs up unless it stays; yields its port."""

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
def test_a_webhook_that_answers_nonsense_is_a_delivery_error(reply: bytes) -> None:
    with answering(reply) as port, pytest.raises(DeliveryError, match="did not answer"):
        channels.to_webhook(alert(), config(alert_webhook_url=SecretStr(f"http://127.0.0.1:{port}/T0PS3CRET")))


def test_a_webhook_s_endless_answer_is_not_waited_for() -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nx") as port:
        channels.to_webhook(alert(), config(alert_webhook_url=SecretStr(f"http://127.0.0.1:{port}/x")))


@pytest.mark.parametrize(
    "url",
    [
        "hooks.example/T0PS3CRET", "ftp://hooks.example/T0PS3CRET", "http://[::1/T0PS3CRET", "http:///T0PS3CRET",
        "https://hooks.invalid/T0PS3CRET", "http://127.0.0.1:99999/T0PS3CRET", "T0PS3CRET\n", "http://\udc80/T0PS3CRET",
        "https://127.0.0.1:9/T0PS3CRET", "http://exämple..invalid/T0PS3CRET",
    ],
)  # fmt: skip
def test_a_webhook_that_cannot_be_asked_is_a_delivery_error_that_keeps_its_secret(url: str) -> None:
    with pytest.raises(DeliveryError) as error:
        channels.to_webhook(alert(), config(alert_webhook_url=SecretStr(url)))
    assert "T0PS3CRET" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_webhook_behind_an_unusable_proxy_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://quant:hunter2@127.0.0.1:9")
    for name in ("HTTP_PROXY", "http_proxy", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DeliveryError, match="ALL_PROXY names a SOCKS proxy") as error:
        channels.to_webhook(alert(), config(alert_webhook_url=SecretStr("http://hooks.invalid/x")))
    assert "hunter2" not in str(error.value)


def test_a_webhook_over_tls_that_speaks_plain_is_a_delivery_error(
    webhook: tuple[str, list[dict[str, str]], list[int]],
) -> None:
    url, told, _ = webhook
    with pytest.raises(DeliveryError, match="did not answer"):
        channels.to_webhook(alert(), config(alert_webhook_url=SecretStr(url.replace("http:", "https:"))))
    assert told == []


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"alert_email_to": "quant@example.com\nBcc: all@example.com"},
            "BTC_ALERT_EMAIL_TO is no list of mail addresses",
        ),
        ({"alert_email_to": "nobody"}, "BTC_ALERT_EMAIL_TO is no list"),
        ({"alert_email_to": "a@b.example, ,@"}, "BTC_ALERT_EMAIL_TO is no list"),
        ({"alert_email_from": "desk\r@example.com"}, "BTC_ALERT_EMAIL_FROM is no list"),
        ({"alert_email_from": "\udc80@example.com"}, "."),
        ({"alert_email_to": "qüant@example.com"}, "did not take it"),
        ({"alert_email_to": "quant@exämple.com"}, "did not take it"),
        ({"smtp_host": "mail..invalid"}, "."),
        ({"smtp_host": "mäil.invalid"}, "."),
        ({"smtp_host": "mail\x00.invalid"}, "."),
        ({"smtp_security": "tls"}, "did not take it"),
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
def test_a_login_outside_ascii_is_a_delivery_error_that_keeps_the_password(which: dict[str, Any]) -> None:
    hello = b"220 local\r\n250-local\r\n250 AUTH PLAIN LOGIN\r\n"
    login = {"smtp_user": "quant", "smtp_password": SecretStr("hunter2")} | which
    with answering(hello) as port, pytest.raises(DeliveryError, match="only ASCII can log in") as error:
        channels.to_email(alert(), mailing(port).model_copy(update=login))
    assert "nter2" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    "reply", [b"", b"220 local\r\n", b"220 local\r\n250 ok\r\n250 ok\r\n", b"HTTP/1.1 400 no\r\n\r\n"]
)
def test_a_mail_server_that_hangs_up_is_a_delivery_error(reply: bytes) -> None:
    with answering(reply) as port, pytest.raises(DeliveryError, match="did not take it"):
        channels.to_email(alert(), mailing(port))


def test_a_mail_server_that_takes_the_mail_and_says_no_goodbye_is_not_sent_again() -> None:
    reply = b"220 local\r\n" + b"250 ok\r\n" * 3 + b"354 go\r\n250 taken\r\n500 what?\r\n"
    with answering(reply, stays=True) as port:
        channels.to_email(alert(), mailing(port))


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
