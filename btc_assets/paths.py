"""Paths in settings: absolute paths, files matching a pattern, and database URLs."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

_SQLITE = "sqlite:///"


def rooted(path: str, root: Path) -> str:
    """Make a path or glob absolute: `~` is the home folder, a relative path is relative to `root`.

    Raises:
        ValueError: the home folder does not exist.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError(f"{path.split('/', maxsplit=1)[0]} is not a home folder here; use an absolute path")
    return str(root / expanded)


def matching(pattern: str, endings: Sequence[str] = ("",)) -> list[Path]:
    """Return the files that match an absolute path or glob, sorted.

    A part of the pattern that exists literally, also with `[`, `*` or `?`, is taken literally; `**` matches any depth
    of folders. Hidden files are excluded unless the pattern names them.

    Args:
        pattern: absolute path or glob.
        endings: allowed endings of a file name, in lower case.
    """
    parts = Path(pattern).parts
    matches = [Path(parts[0])]
    for part in parts[1:]:
        matches = [child for parent in matches for child in _children(parent, part)]
    files = (path for path in dict.fromkeys(matches) if path.name.lower().endswith(tuple(endings)))
    return sorted(file for file in files if file.is_file())


def _children(parent: Path, part: str) -> list[Path]:
    if os.path.exists(parent / part):
        return [parent / part]
    matches = [parent / name for name in glob.glob(part, root_dir=parent, recursive=True)]
    return [parent, *matches] if part == "**" else matches


def sqlite_url(path: Path) -> str:
    """Return the SQLAlchemy URL of a SQLite file, with `?` and percent-escapes encoded."""
    return _SQLITE + re.sub("%(?=[0-9A-Fa-f]{2})", "%25", str(path)).replace("?", "%3F")


def make_database_folder(url: str) -> None:
    """Create the folder of the SQLite file in a SQLAlchemy URL; do nothing for any other URL."""
    if url.startswith(_SQLITE):
        Path(unquote(url.removeprefix(_SQLITE).partition("?")[0])).parent.mkdir(parents=True, exist_ok=True)
