"""Find the user's table files and the columns in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from btc_assets.paths import matching
from btc_assets.transport import SourceRefusedError


def matching_files(setting: str, pattern: str, endings: Sequence[str], content: str) -> list[Path]:
    """Return the files that match a setting's path or glob, sorted.

    Raises:
        SourceRefusedError: no file matches.
    """
    paths = matching(pattern, endings)
    if not paths:
        raise SourceRefusedError(
            f"{setting}={pattern!r} matches no {', '.join(endings)} file; set it to a path or glob of files with "
            f"{content}."
        )
    return paths


def normalised_names(columns: Sequence[str]) -> dict[str, str]:
    """Return the columns by their normalised names: lower case, words separated by `_`; the first of duplicates."""
    words = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column): column for column in reversed(columns)}
    plain = {re.sub(r"[^a-z0-9]+", "_", word.lower()).strip("_"): column for word, column in words.items()}
    return {key.removeprefix("btc_"): column for key, column in plain.items()}


def find_columns(columns: Sequence[str], names: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Return the file's column for each requested column; missing columns are omitted.

    Args:
        columns: columns of the file.
        names: accepted `normalised_names` of each requested column; the first one present is used.
    """
    present = normalised_names(columns)
    matches = {
        requested: next((present[name] for name in accepted if name in present), None)
        for requested, accepted in names.items()
    }
    return {requested: column for requested, column in matches.items() if column is not None}
