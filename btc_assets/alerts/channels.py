"""Delivery channels of alerts: the log, a Slack-compatible webhook and mail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.message import EmailMessage
from email.utils import format_datetime
from typing import TYPE_CHECKING

from btc_assets.alerts.outbox import Alert
from btc_assets.settings import Settings

if TYPE_CHECKING:
    import smtplib

TIMEOUT_S = 10.0
"""Seconds before a delivery attempt is abandoned; it is retried later."""
_LOG = logging.getLogger("btc_assets.alerts")
_LEVELS = {"info": logging.INFO, "medium": logging.WARNING, "high": logging.ERROR}
_LABELS = {"info": "INFO", "medium": "MEDIUM", "high": "HIGH"}

Channel = Callable[[Alert], None]
"""Delivers one alert, or raises DeliveryError."""


class DeliveryError(RuntimeError):
    """A delivery failed and can be retried later."""


def channels_of(config: Settings) -> Mapping[str, Channel]:
    """Return the configured channels: the log always, the others if their settings are given."""
    channels: dict[str, Channel] = {"log": to_log}
    if config.alert_webhook_url.get_secret_value():
        channels["webhook"] = lambda alert: to_webhook(alert, config)
    if config.smtp_host:
        channels["email"] = lambda alert: to_email(alert, config)
    return channels


def headline(alert: Alert) -> str:
    """Return an alert as one line of plain text."""
    return f"[{_LABELS[alert.severity]}] {alert.rule}: {_one_line(alert.message)}"


def to_log(alert: Alert) -> None:
    """Write an alert to the log."""
    _LOG.log(_LEVELS[alert.severity], "%s (%s)", headline(alert), alert.alert_id)


def to_webhook(alert: Alert, config: Settings) -> None:
    """Post an alert to a Slack-compatible webhook.

    Raises:
        DeliveryError: no response, or a status other than 2xx. The address is a secret and is not in the message.
    """
    import httpx

    from btc_assets.proxies import ProxiedTransport, RouteError

    text = headline(alert).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    body = {"text": f"{text}\n{alert.raised_at:%Y-%m-%d %H:%M:%S} UTC, {alert.alert_id}"}
    url = config.alert_webhook_url.get_secret_value().strip()
    try:
        # Streaming reads only the status: a body of any length is ignored.
        with (
            httpx.Client(transport=ProxiedTransport(), timeout=TIMEOUT_S, follow_redirects=False) as client,
            client.stream("POST", url, json=body) as response,
        ):
            status = response.status_code
    except RouteError as error:
        raise DeliveryError(str(error)) from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError) as error:
        raise DeliveryError(
            f"BTC_ALERT_WEBHOOK_URL is not a valid http or https address ({type(error).__name__})"
        ) from None
    except httpx.HTTPError as error:
        raise DeliveryError(f"the webhook did not respond ({type(error).__name__})") from None
    if 300 <= status < 400:
        raise DeliveryError(
            f"the webhook responded with HTTP {status}: it has moved; set BTC_ALERT_WEBHOOK_URL to its new address"
        )
    if not 200 <= status < 300:
        raise DeliveryError(f"the webhook responded with HTTP {status}")


def to_email(alert: Alert, config: Settings) -> None:
    """Send an alert by mail.

    Raises:
        DeliveryError: the mail server is unreachable, or it refuses the login or the mail.
    """
    import smtplib

    mail = _mail(alert, config)
    try:
        server = _connect(config)
        try:
            refused = server.send_message(mail)
        finally:
            with suppress(OSError):  # a failing QUIT does not change whether the mail was accepted
                server.quit()
            server.close()
    except (OSError, smtplib.SMTPException) as error:
        raise DeliveryError(f"the mail server did not accept the mail ({type(error).__name__})") from None
    except UnicodeError:
        raise DeliveryError(
            "BTC_SMTP_USER, BTC_SMTP_PASSWORD or BTC_SMTP_HOST contains a character that SMTP cannot send; use ASCII"
        ) from None
    if refused:
        _LOG.warning("the mail server refused %d of the recipients in BTC_ALERT_EMAIL_TO", len(refused))


def _mail(alert: Alert, config: Settings) -> EmailMessage:
    """Return an alert as a mail.

    Raises:
        DeliveryError: an address is not valid in a mail.
    """
    mail = EmailMessage()
    mail["Subject"] = headline(alert)[:200]
    for header, variable, value in (
        ("From", "BTC_ALERT_EMAIL_FROM", config.alert_email_from),
        ("To", "BTC_ALERT_EMAIL_TO", config.alert_email_to),
    ):
        try:
            mail[header] = value.strip()
            addresses = mail[header].addresses
        except (ValueError, IndexError, AttributeError):  # the parser fails like this on an invalid address
            addresses = ()
        if not addresses or any(not address.domain or not address.username for address in addresses):
            raise DeliveryError(f"{variable} is not a list of mail addresses such as desk@example.com")
    mail["Date"] = format_datetime(alert.raised_at)
    mail["Message-ID"] = f"<{alert.alert_id}@btc-assets.invalid>"  # mail clients show a mail that was sent twice once
    mail.set_content(
        f"{_one_line(alert.message)}\n\nrule: {alert.rule}\nseverity: {alert.severity}\n"
        f"about: {_one_line(alert.subject)}\nraised: {alert.raised_at:%Y-%m-%d %H:%M:%S} UTC\nid: {alert.alert_id}\n"
    )
    return mail


def _connect(config: Settings) -> smtplib.SMTP:
    """Connect to the mail server with the configured encryption and login."""
    import smtplib
    import ssl

    secure = ssl.create_default_context()
    if config.smtp_security == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(config.smtp_host, config.smtp_port, timeout=TIMEOUT_S, context=secure)
    else:
        server = smtplib.SMTP(config.smtp_host, config.smtp_port, timeout=TIMEOUT_S)
    try:
        if config.smtp_security == "starttls":
            server.starttls(context=secure)
        if config.smtp_user:
            server.login(config.smtp_user, config.smtp_password.get_secret_value())
    except BaseException:
        server.close()
        raise
    return server


def _one_line(text: str) -> str:
    """Return text on one line without control characters; parts of it may come from untrusted sources."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
