"""The user's own table files: which ones a setting means, and what their columns are called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from btc_assets.paths import matching
from btc_assets.transport import SourceRefusedError


def files_of(setting: str, pattern: str, endings: Sequence[str], what: str) -> list[Path]:
    """Return the files that a setting's path or glob means, in order.

    Raises:
        SourceRefusedError: there is none.
    """
    paths = matching(pattern, endings)
    if not paths:
        raise SourceRefusedError(
            f"{setting}={pattern!r} names no {', '.join(endings)} file; give the path or glob of files with {what}."
        )
    return paths


def plain_names(columns: Sequence[str]) -> dict[str, str]:
    """Return columns by their names in lower case, with `_` between words; the first of several alike."""
    words = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column): column for column in reversed(columns)}
    plain = {re.sub(r"[^a-z0-9]+", "_", word.lower()).strip("_"): column for word, column in words.items()}
    return {key.removeprefix("btc_"): column for key, column in plain.items()}


def columns_called(columns: Sequence[str], names: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Return what each wanted column is called among these; those that are not there are left out.

    Args:
        columns: of the file.
        names: by wanted column, the `plain_names` it may go by; the first one present is taken.
    """
    plain = plain_names(columns)
    found = {wanted: next((plain[name] for name in known if name in plain), None) for wanted, known in names.items()}
    return {wanted: column for wanted, column in found.items() if column is not None}
