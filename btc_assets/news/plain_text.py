"""Convert untrusted text to plain text: no markup, control, bidi or invisible characters, NFC, bounded length.

Pure functions that accept any string and never raise. The result is safe to display as text. It is still untrusted:
escape it as usual in HTML, SQL and paths.
"""

from __future__ import annotations

import re
import unicodedata

TITLE_CHARACTERS = 500
"""Maximum length of a title."""
SUMMARY_CHARACTERS = 2_000
"""Maximum length of a summary."""
ELLIPSIS = "…"

_MAX_MARKUP_CHARACTERS = 32_000
"""Characters of markup that are parsed: the relevant text comes first, and hostile tags can multiply."""
_MAX_PASSES = 6
"""Maximum levels of escaped markup that are unescaped."""
_HIDDEN_ELEMENTS = (
    "script", "style", "template", "noscript", "iframe", "noframes", "noembed", "object", "svg", "math", "head",
)  # fmt: skip
"""Elements whose content is not shown as text."""
_INLINE = (
    "a", "abbr", "b", "bdi", "bdo", "big", "cite", "code", "del", "dfn", "em", "font", "i", "ins", "kbd", "mark",
    "nobr", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr",
)  # fmt: skip
"""Elements that do not separate words; all others do."""
_INLINE_TAG = re.compile(
    rf"""</?+(?:{"|".join(_INLINE)})(?=[\s/>])(?:=\s*+"[^"]*+(?:"|$)|=\s*+'[^']*+(?:'|$)|[^>])*+(?:>|$)""",
    re.IGNORECASE,
)
"""Tags of inline elements. They are removed before parsing, because a parser reopens in the next paragraph those that
a paragraph left open: 32,000 characters of them grew to 2.4 GB in 18 s. The pattern reads each character once."""
_DROPPED_CATEGORIES = ("Cc", "Cf", "Co", "Cs")
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and marks without a visible glyph."""


def plain_text(text: str, limit: int = SUMMARY_CHARACTERS) -> str:
    """Convert a text, possibly HTML, to plain text.

    HTML is replaced by its text, also when it is escaped several times; words of different blocks stay separate.
    Control, bidirectional, zero-width and private-use characters are removed, whitespace collapses to single spaces,
    the Unicode form is NFC. A text that is too long ends in an ellipsis.

    Args:
        text: any string; only the first 32,000 characters are read.
        limit: maximum number of characters returned, 1 or more.

    Returns:
        The plain text; the conversion is idempotent.
    """
    is_cut = len(text) > _MAX_MARKUP_CHARACTERS
    plain = _clean(text[:_MAX_MARKUP_CHARACTERS])
    for _ in range(_MAX_PASSES):
        before = plain
        plain = _clean(_text_of(before))
        if plain == before:
            break
    else:
        plain = _clean(plain.replace("&", " ").replace("<", " "))
    if len(plain) <= limit and not is_cut:
        return plain
    start = plain[: limit - 1].rstrip()
    return f"{start}{ELLIPSIS}" if start else ""


def plain_title(text: str) -> str:
    """Convert a title to plain text of at most 500 characters; see `plain_text`."""
    return plain_text(text, TITLE_CHARACTERS)


def plain_summary(text: str) -> str:
    """Convert a summary or the body of a post to plain text of at most 2,000 characters; see `plain_text`."""
    return plain_text(text, SUMMARY_CHARACTERS)


def _text_of(markup: str) -> str:
    """Return the text of HTML with entities resolved."""
    if "<" not in markup and "&" not in markup:
        return markup
    from selectolax.lexbor import LexborHTMLParser

    page = LexborHTMLParser(_INLINE_TAG.sub("", markup))
    page.strip_tags(list(_HIDDEN_ELEMENTS))
    # A trailing "</" is text here but would become a tag if anything followed it.
    return page.root.text(separator=" ").removesuffix("</") if page.root is not None else ""


def _clean(text: str) -> str:
    """Remove invisible characters, normalise to NFC and collapse whitespace."""
    plain = " ".join(text.split())
    if not plain.isprintable() or not _INVISIBLE.isdisjoint(plain):
        plain = " ".join("".join(character for character in plain if not _is_invisible(character)).split())
    return " ".join(unicodedata.normalize("NFC", plain).split())


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in _DROPPED_CATEGORIES or character in _INVISIBLE
