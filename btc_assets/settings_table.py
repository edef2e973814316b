"""The README's table of settings, made from the settings themselves: `python -m btc_assets.settings_table`."""

from __future__ import annotations

import typing
from pathlib import Path

from pydantic import SecretStr

from btc_assets.settings import ENV_PREFIX, PROJECT_ROOT, Settings


def settings_table() -> str:
    """Return a Markdown table of every variable, its default and its meaning."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        lines.append(f"| `{ENV_PREFIX}{name.upper()}` | {_shown(field.default)} | {field.description} |")
    return "\n".join(lines)


def _shown(default: typing.Any) -> str:
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if default is None or default == "":
        return ""
    if isinstance(default, Path):
        return f"`{default.relative_to(PROJECT_ROOT)}`"
    return f"`{default}`"


if __name__ == "__main__":
    print(settings_table())
