"""The paths that settings name: where they start, which files a pattern means, and their database URLs."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

_SQLITE = "sqlite:///"


def rooted(path: str, root: Path) -> str:
    """Return a path or glob as an absolute one: `~` is the home folder, a relative one starts at `root`.

    Raises:
        ValueError: there is no such home folder.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError(f"{path.split('/', maxsplit=1)[0]} is no home folder here; write the path out")
    return str(root / expanded)


def matching(pattern: str, endings: Sequence[str] = ("",)) -> list[Path]:
    """Return the files that an absolute path or glob means, in order.

    A part of the pattern that exists under its own name means that name, whatever `[`, `*` or `?` it holds; `**` is any
    depth of folders. Hidden files are left out unless the pattern names them.

    Args:
        pattern: absolute path or glob.
        endings: those a file's name may have, in lower case.
    """
    parts = Path(pattern).parts
    places = [Path(parts[0])]
    for part in parts[1:]:
        places = [place for parent in places for place in _children(parent, part)]
    files = (place for place in dict.fromkeys(places) if place.name.lower().endswith(tuple(endings)))
    return sorted(file for file in files if file.is_file())


def _children(parent: Path, part: str) -> list[Path]:
    if os.path.exists(parent / part):
        return [parent / part]
    below = [parent / name for name in glob.glob(part, root_dir=parent, recursive=True)]
    return [parent, *below] if part == "**" else below


def sqlite_url(path: Path) -> str:
    """Return the SQLAlchemy URL of a SQLite file; `?` would start its query, and `%20` be a blank."""
    return _SQLITE + re.sub("%(?=[0-9A-Fa-f]{2})", "%25", str(path)).replace("?", "%3F")


def make_database_folder(url: str) -> None:
    """Make the folder of the SQLite file that a SQLAlchemy URL names; any other URL has none."""
    if url.startswith(_SQLITE):
        Path(unquote(url.removeprefix(_SQLITE).partition("?")[0])).parent.mkdir(parents=True, exist_ok=True)
