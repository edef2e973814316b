"""Placeholders of texts that an author, a moderator or a platform took down."""

from __future__ import annotations

import re

from btc_assets.news.plain_text import plain_text

_PLACEHOLDER = re.compile(r"^\\?\[\s*(?:deleted|removed)(?:\s+by\b[^\[\]]{1,120})?\s*\\?\]\.?$", re.IGNORECASE)
"""`[deleted]`, `[ Removed by Reddit ]`, `[deleted by user]` and the like; Markdown may escape the brackets."""


def is_taken_down(*texts: str) -> bool:
    """Return whether one of a post's or an article's texts, its title or its body, only says that it was taken down."""
    return any(_PLACEHOLDER.match(plain_text(text)) for text in texts if "[" in text[:200] or "&" in text[:200])
