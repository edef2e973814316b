"""Web addresses are normalised to RFC 3986; invalid addresses are rejected."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from btc_assets.news.addresses import web_address
from btc_assets.news.identity import article_id, canonical_url

no_deadline = settings(deadline=None)
RFC_3986 = re.compile(r"^https?://[A-Za-z0-9.\[\]:_-]+(?:[A-Za-z0-9._~:/?#@!$&()*+,;=-]|%[0-9A-Fa-f]{2})*$")
PATHS = st.text(st.sampled_from("ab/?#=&;:@!$'()*+,[]{}|\\^`\"<> %20%2fäß比é\u00a0\u2028\n.~"), max_size=30)


@pytest.mark.parametrize(
    ("link", "address"),
    [
        ("https://www.coindesk.com/markets/robot?a=1&b=2#top", "https://www.coindesk.com/markets/robot?a=1&b=2#top"),
        ("http://127.0.0.1:8080/feed", "http://127.0.0.1:8080/feed"),
        ("https://[::1]:8080/x", "https://[::1]:8080/x"),
        ("HTTPS://EXAMPLE.COM./X", "https://example.com/X"),
        ("https://e.example/it's", "https://e.example/it%27s"),
        ("https://e.example/a|b?c|d#e|f", "https://e.example/a%7Cb?c%7Cd#e%7Cf"),
        ("https://e.example/a b", "https://e.example/a%20b"),
        ("https://e.example/{id}^`x`", "https://e.example/%7Bid%7D%5E%60x%60"),
        ('https://e.example/"onclick=<b>', "https://e.example/%22onclick=%3Cb%3E"),
        ("https://e.example/a\\b", "https://e.example/a%5Cb"),
        ("https://e.example/[1]", "https://e.example/%5B1%5D"),
        ("https://e.example/100%", "https://e.example/100%25"),
        ("https://e.example/100%25/a%7cb%20c", "https://e.example/100%25/a%7cb%20c"),
        ("https://e.example/%e9?q=%zz", "https://e.example/%e9?q=%25zz"),
        ("https://пример.example/статья", "https://xn--e1afmkfd.example/%D1%81%D1%82%D0%B0%D1%82%D1%8C%D1%8F"),
        ("https://BÜCHER.example/é?ü=ö", "https://xn--bcher-kva.example/%C3%A9?%C3%BC=%C3%B6"),
        ("https://straße.example/", "https://xn--strae-oqa.example/"),
        ("https://i❤.example/", "https://xn--i-7iq.example/"),
        ("https://e.example/a-long-\n    headline", "https://e.example/a-long-headline"),
        ("https://e.examplehttps://f.example/a", "https://f.example/a"),
    ],
)
def test_an_address_is_normalised_to_rfc_3986(link: str, address: str) -> None:
    assert web_address(f" {link}\n") == address


@pytest.mark.parametrize(
    "text",
    [
        "", "example.com", "/relative", "//example.com/x", "javascript:alert(1)", "data:text/html,x", "jAvascript:0",
        "ftp://example.com", "file:///etc/passwd", "https://", "https:///x", "https://user:secret@example.com/",
        "https://a.example@b.example/", "https://example.com/\x00", "javascript:alert('https://e.example')",
        "https://example.com/\u202ecod", "https://example.com/\u200b", "https://[::1", "https://example.com:99999/",
        "https://..", "https://exa mple.com", "https://example.com\\@evil.example", "https://example.com/\ud800",
        "https://example.com\\.evil.example/", "https://exam|ple.com/", "https://[fe80::1%25eth0]/", "https://[x]/",
        "mailto:a@b.example", "https://-/", "https://example.com/" + "x" * 2048, "https://example.com/" + "比" * 300,
    ],
)  # fmt: skip
def test_an_invalid_address_is_rejected(text: str) -> None:
    assert web_address(text) == ""


@no_deadline
@given(PATHS)
@example("%")
@example("%%41")
def test_normalisation_is_idempotent_and_keeps_the_path(path: str) -> None:
    link = f"https://e.example/{path}"
    address = web_address(link)
    assert RFC_3986.match(address), address
    assert web_address(address) == address
    assume("\n" not in path)
    assert unquote(urlsplit(address).path) == unquote(urlsplit(link.rstrip()).path)


@no_deadline
@given(PATHS, st.sampled_from(["e.example", "www.bücher.example", "STRAßE.example:443", "e.examplehttps://f.example"]))
def test_normalisation_keeps_the_article_id(path: str, host: str) -> None:
    link = f"https://{host}/{path}"
    address = web_address(link)
    assert canonical_url(address) == canonical_url(link) != ""
    assert article_id(address, "feed", "1") == article_id(link, "feed", "1")


@no_deadline
@given(st.text(st.characters(), max_size=200))
def test_no_text_raises(text: str) -> None:
    for candidate in (text, f"https://{text}", f"https://example.com/{text}", f"https://example.com:{text}"):
        address = web_address(candidate)
        assert address == "" or RFC_3986.match(address)
