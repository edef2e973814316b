"""Outside text made plain: no markup, no control, bidi or invisible characters, one Unicode form, bounded length.

Pure functions that take any string and never raise. What they return can be shown as text anywhere; it is still
outside text, so whoever writes HTML, SQL or a path escapes it as usual.
"""

from __future__ import annotations

import re
import unicodedata

TITLE_CHARACTERS = 500
"""Longest title."""
SUMMARY_CHARACTERS = 2_000
"""Longest summary."""
ELLIPSIS = "…"

_READ = 32_000
"""Characters of markup that are looked at: what counts stands at the start, and tags can be made to multiply."""
_PASSES = 6
"""Times text may turn out to be escaped markup again, each time with what it holds escaped once less."""
_UNREAD = (
    "script", "style", "template", "noscript", "iframe", "noframes", "noembed", "object", "svg", "math", "head",
)  # fmt: skip
"""Elements whose content is no text for a reader."""
_INLINE = (
    "a", "abbr", "b", "bdi", "bdo", "big", "cite", "code", "del", "dfn", "em", "font", "i", "ins", "kbd", "mark",
    "nobr", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr",
)  # fmt: skip
"""Elements that part no words; all others do."""
_INLINE_TAG = re.compile(
    rf"""</?+(?:{"|".join(_INLINE)})(?=[\s/>])(?:=\s*+"[^"]*+(?:"|$)|=\s*+'[^']*+(?:'|$)|[^>])*+(?:>|$)""",
    re.IGNORECASE,
)
"""Their tags. They go before the page is parsed, because a parser opens those that a paragraph left open again in the
next one: measured, 32,000 characters of them grew to 2.4 GB in 18 s. Each character is looked at once."""
_DROPPED_CATEGORIES = ("Cc", "Cf", "Co", "Cs")
_BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and marks that show as nothing."""


def plain_text(text: str, limit: int = SUMMARY_CHARACTERS) -> str:
    """Return a text without anything that is not for reading.

    HTML becomes its text, escaped HTML as well, however often it was escaped; words of different blocks stay apart.
    Control, bidirectional, zero-width and private characters are gone, white space is single blanks, the Unicode form
    is NFC. What is too long ends in an ellipsis.

    Args:
        text: anything; only its first 32,000 characters are read.
        limit: most characters returned, 1 or more.

    Returns:
        The plain text, which made plain again is itself.
    """
    cut = len(text) > _READ
    plain = _clean(text[:_READ])
    for _ in range(_PASSES):
        before = plain
        plain = _clean(_text_of(before))
        if plain == before:
            break
    else:
        plain = _clean(plain.replace("&", " ").replace("<", " "))
    if len(plain) <= limit and not cut:
        return plain
    start = plain[: limit - 1].rstrip()
    return f"{start}{ELLIPSIS}" if start else ""


def plain_title(text: str) -> str:
    """Return a title made plain, at most 500 characters; see `plain_text`."""
    return plain_text(text, TITLE_CHARACTERS)


def plain_summary(text: str) -> str:
    """Return a summary or the body of a post made plain, at most 2,000 characters; see `plain_text`."""
    return plain_text(text, SUMMARY_CHARACTERS)


def _text_of(markup: str) -> str:
    """Return the text of HTML, entities resolved."""
    if "<" not in markup and "&" not in markup:
        return markup
    from selectolax.lexbor import LexborHTMLParser

    page = LexborHTMLParser(_INLINE_TAG.sub("", markup))
    page.strip_tags(list(_UNREAD))
    # An opened end tag at the very end is text, but would be a tag in front of anything else.
    return page.root.text(separator=" ").removesuffix("</") if page.root is not None else ""


def _clean(text: str) -> str:
    """Drop what cannot be seen, compose what can, and leave single blanks."""
    plain = " ".join(text.split())
    if not plain.isprintable() or not _BLANKS.isdisjoint(plain):
        plain = " ".join("".join(character for character in plain if not _unseen(character)).split())
    return " ".join(unicodedata.normalize("NFC", plain).split())


def _unseen(character: str) -> bool:
    return unicodedata.category(character) in _DROPPED_CATEGORIES or character in _BLANKS
