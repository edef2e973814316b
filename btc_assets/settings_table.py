"""The page of settings, made from the settings themselves: `python -m btc_assets.settings_table > docs/settings.md`."""

from __future__ import annotations

import typing
from pathlib import Path

from pydantic import SecretStr

from btc_assets.markdown import markdown_rows
from btc_assets.settings import ENV_PREFIX, PROJECT_ROOT, Settings

HEAD = """# Settings

Environment variables, or lines of `.env`. A wrong value stops the start with a sentence that names its variable.
Relative paths start at the checkout, or, where the wheel is installed, at the working directory. Written by
`python -m btc_assets.settings_table`; do not edit.

"""


def settings_page() -> str:
    """Return the page: a Markdown table of every variable, its default and its meaning."""
    rows = (
        (f"`{ENV_PREFIX}{name.upper()}`", _shown(field.default), field.description)
        for name, field in Settings.model_fields.items()
    )
    return HEAD + markdown_rows(("variable", "default", "meaning"), rows) + "\n"


def _shown(default: typing.Any) -> str:
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if default in (None, "", {}):
        return ""
    if isinstance(default, Path):
        return f"`{default.relative_to(PROJECT_ROOT)}`"
    return f"`{default}`"


if __name__ == "__main__":
    print(settings_page(), end="")
