"""Recognise placeholders of texts that an author, a moderator or a platform removed."""

from __future__ import annotations

import re

from btc_assets.news.plain_text import plain_text

_PLACEHOLDER = re.compile(r"^\\?\[\s*(?:deleted|removed)(?:\s+by\b[^\[\]]{1,120})?\s*\\?\]\.?$", re.IGNORECASE)
"""`[deleted]`, `[ Removed by Reddit ]`, `[deleted by user]` and similar; Markdown may escape the brackets."""


def is_taken_down(*texts: str) -> bool:
    """Return whether a title or body consists only of a removal placeholder."""
    return any(_PLACEHOLDER.match(plain_text(text)) for text in texts if "[" in text[:200] or "&" in text[:200])
