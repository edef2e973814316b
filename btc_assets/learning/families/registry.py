"""The known model families, one line each, loaded when they are used."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

from btc_assets.learning.families.protocol import Family
from btc_assets.settings import ENV_PREFIX, SettingsError

FAMILIES = {
    "xgboost": "btc_assets.learning.families.xgboost:FAMILY",
    "lightgbm": "btc_assets.learning.families.lightgbm:FAMILY",
    "random_forest": "btc_assets.learning.families.random_forest:FAMILY",
    "extra_trees": "btc_assets.learning.families.extra_trees:FAMILY",
    "gradient_boosting": "btc_assets.learning.families.gradient_boosting:FAMILY",
    "ridge_logistic": "btc_assets.learning.families.ridge_logistic:FAMILY",
    "naive_bayes": "btc_assets.learning.families.naive_bayes:FAMILY",
    "linear_svm": "btc_assets.learning.families.linear_svm:FAMILY",
    "lstm_attention": "btc_assets.learning.families.lstm_attention:FAMILY",
    "transformer": "btc_assets.learning.families.transformer:FAMILY",
    "persistence": "btc_assets.learning.families.persistence:FAMILY",
    "climatology": "btc_assets.learning.families.climatology:FAMILY",
}
"""Where each family is, by name: module:ATTRIBUTE."""


class FamilyError(ValueError):
    """A family is unknown, cannot be imported or lacks an extra."""


def family(name: str) -> Family[Any]:
    """Return a family by its name, or any other by its place, `mypackage.module:FAMILY`.

    Raises:
        FamilyError: there is no such family, or a library it needs is not installed.
    """
    place = FAMILIES.get(name, name)
    module_name, separator, attribute = place.partition(":")
    if not separator:
        raise FamilyError(
            f"there is no model family {name!r}; known are {', '.join(FAMILIES)}, and any other is named by its place, "
            "such as mypackage.module:FAMILY"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise FamilyError(f"the model family {name} cannot be imported: {error}") from error
    found = getattr(module, attribute, None)
    if not isinstance(found, Family):
        raise FamilyError(f"the model family {name} cannot be loaded: {place} is not a Family")
    if missing := [needed for needed in found.needs if importlib.util.find_spec(needed) is None]:
        remedy = f": install the extra, pip install 'btc_assets[{found.extra}]'" if found.extra else ""
        raise FamilyError(f"the model family {name} needs {', '.join(missing)}{remedy}")
    return found


def installed() -> tuple[str, ...]:
    """Return the names of the known families whose libraries are installed."""
    usable = []
    for name in FAMILIES:
        try:
            usable.append(family(name).name)
        except FamilyError:
            continue
    return tuple(usable)


def chosen(names: Sequence[str]) -> dict[str, Family[Any]]:
    """Return the families that `BTC_FAMILIES` names, by these names and in their order.

    Raises:
        SettingsError: a family cannot be used, or is named twice.
    """
    if duplicated := [name for name in names if names.count(name) > 1]:
        raise SettingsError(f"{ENV_PREFIX}FAMILIES names {duplicated[0]} twice")
    try:
        return {name: family(name) for name in names}
    except FamilyError as error:
        raise SettingsError(f"{ENV_PREFIX}FAMILIES: {error}") from error
