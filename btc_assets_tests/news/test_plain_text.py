"""Any input becomes readable plain text without active content."""

from __future__ import annotations

import re
import time
import unicodedata
from html import escape

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from btc_assets.news import plain_text as module
from btc_assets.news.plain_text import (
    SUMMARY_CHARACTERS,
    TITLE_CHARACTERS,
    plain_summary,
    plain_text,
    plain_title,
)

no_deadline = settings(deadline=None)
MARKUP = re.compile(r"<[a-zA-Z/!?]|&(?:#\d|#x[0-9a-fA-F]|amp|lt|gt|quot|nbsp;)")
HOSTILE = st.sampled_from(
    [
        "<", ">", "&", ";", "/", "!", "?", "'", '"', "=", " ", "\n", "\x00", "\x1b[2J", "amp;", "&amp;", "&lt;", "&gt;",
        "&#60;", "&#x202e;", "&#8203", "&notin;", "&not", "<b>", "</b>", "<p>", "<br/>", "<script>", "</script>",
        "<style>", "<a href='x>y'>", "<!--", "-->", "<![CDATA[", "]]>", "<textarea>", "</textarea>", "<plaintext>",
        "<title>", "<template>", "<svg>", "<table>", "<frameset>", "<x", "</", "<!", "<?", "\u202e", "\u2066",
        "\u200b", "\u200d", "\ufeff", "\u00ad", "\u3164", "\u034f", "\u0338", "\u0301", "e", "\ud800",
        "\U000e0041", "\u2028", "\x85", "…", "Bitcoin", "$60,000", "比特币",
    ]
)  # fmt: skip
TEXTS = st.one_of(st.text(st.characters(), max_size=200), st.lists(HOSTILE, max_size=40).map("".join))


@no_deadline
@given(TEXTS)
@example("<<script>script>alert(1)</script>")
@example("&amp;amp;amp;amp;amp;amp;amp;amp;amp;lt;b&gt;")
@example("<\u0338b>")
def test_plain_text_has_no_markup_and_no_invisible_characters(text: str) -> None:
    plain = plain_text(text)
    assert not MARKUP.search(plain)
    assert all(unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") for character in plain)
    assert unicodedata.is_normalized("NFC", plain)
    assert plain == " ".join(plain.split())
    plain.encode()  # no lone surrogate


@no_deadline
@given(TEXTS, st.integers(1, 60))
def test_the_conversion_is_idempotent(text: str, limit: int) -> None:
    for plain in (plain_text(text), plain_text(text, limit)):
        assert plain_text(plain) == plain
        assert plain_text(plain, limit) == plain or len(plain) > limit


@no_deadline
@given(TEXTS, st.integers(1, 60))
def test_a_long_text_is_cut_with_an_ellipsis(text: str, limit: int) -> None:
    whole, plain = plain_text(text), plain_text(text, limit)
    assert len(plain) <= limit
    assert plain == whole or plain == "" or (plain.endswith("…") and whole.startswith(plain[:-1]))


@no_deadline
@given(TEXTS, st.integers(1, 30))
def test_a_partly_parsed_text_is_plain(text: str, read: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MAX_MARKUP_CHARACTERS", read)
        plain = plain_text(text)
    assert not MARKUP.search(plain)
    assert plain_text(plain) == plain


@no_deadline
@given(st.text(st.characters(categories=["L", "N", "P", "Sc", "Zs"]), max_size=120), st.integers(0, 4))
def test_repeatedly_escaped_text_is_unescaped(text: str, times: int) -> None:
    escaped = text
    for _ in range(times):
        escaped = escape(escaped)
    assert plain_text(escaped) == plain_text(text)


@no_deadline
@given(st.lists(st.from_regex(r"[A-Za-z0-9$%.,]{1,12}", fullmatch=True), max_size=30))
def test_plain_text_is_unchanged(words: list[str]) -> None:
    text = " ".join(words)
    assert plain_text(text) == text


@pytest.mark.parametrize(
    ("markup", "plain"),
    [
        ("<p>One</p><p>two<br>three</p>four", "One two three four"),
        ("<b>Bit</b>coin <a href='https://x.example/?a>b'>rises</a>", "Bitcoin rises"),
        ("<ul><li>a</li><li>b</li></ul>", "a b"),
        ("x<script>alert(1)</script>y<style>p{}</style>z", "x y z"),
        ("Fed &amp; ECB: AT&amp;T &#8211; &ldquo;up&rdquo; 3&nbsp;%", "Fed & ECB: AT&T – “up” 3 %"),
        ("AT&T, R&D and 1 < 2", "AT&T, R&D and 1 < 2"),
        ("a\u202etxt.exe\u200b", "atxt.exe"),
        ("e\u0301 and \ufb01", "\u00e9 and \ufb01"),
        ("line\r\n\tone\u2028two", "line one two"),
        ("<img src='x.png' onerror='alert(1)'>", ""),
        ("", ""),
    ],
)
def test_markup_becomes_its_visible_text(markup: str, plain: str) -> None:
    assert plain_text(markup) == plain


def test_titles_and_summaries_have_maximum_lengths() -> None:
    assert len(plain_title("word " * 1000)) <= TITLE_CHARACTERS == 500
    assert len(plain_summary("word " * 1000)) == SUMMARY_CHARACTERS == 2_000
    assert plain_title("x" * 501) == "x" * 499 + "…"
    assert plain_title("x" * 500) == "x" * 500


@pytest.mark.parametrize(
    "bomb",
    [
        "<p>" + "".join(f"<b a={n}>" for n in range(1777)) + "</p>" + "<p>x" * 4000,
        "<a '" * 100_000,
        '<a="' * 100_000,
        "&amp;" * 100_000,
        "<div>" * 100_000,
        "<ul><li>" * 50_000,
        "<!--" * 100_000,
        "x" * 10_000_000,
    ],
    ids=["multiplying", "quotes", "values", "escapes", "nested", "lists", "comments", "long"],
)
def test_hostile_markup_is_parsed_quickly(bomb: str) -> None:
    """If inline tags are not removed first, parsing the first input takes 2.4 GB and 18 s."""
    start = time.process_time()
    assert len(plain_text(bomb)) <= SUMMARY_CHARACTERS
    assert time.process_time() - start < 4.0
