"""Families are found by name or by place, and errors say what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from btc_assets.learning.families import registry, xgboost
from btc_assets.learning.families.registry import FAMILIES, FamilyError, family

OWN = replace(xgboost.FAMILY, name="own")
INCOMPLETE = replace(xgboost.FAMILY, needs=("a_library_nobody_has",), extra="deep")
HERE = __name__


@pytest.mark.parametrize("name", FAMILIES)
def test_a_registered_family_has_its_name(name: str) -> None:
    assert family(name).name == name


def test_a_family_of_another_package_is_found_by_its_place() -> None:
    assert family(f"{HERE}:OWN") is OWN


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("random_woods", r"no model family 'random_woods'; known are xgboost"),
        ("no_such_package.module:FAMILY", "cannot be imported: No module named 'no_such_package'"),
        (f"{HERE}:HERE", f"{HERE}:HERE is not a Family"),
        (f"{HERE}:ABSENT", f"{HERE}:ABSENT is not a Family"),
        (f"{HERE}:INCOMPLETE", r"needs a_library_nobody_has: install the extra, pip install 'btc_assets\[deep\]'"),
    ],
)
def test_what_is_not_a_usable_family_is_refused_with_a_remedy(name: str, message: str) -> None:
    with pytest.raises(FamilyError, match=message):
        family(name)


def test_no_family_is_imported_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.FAMILIES, "broken", "no_such_package:FAMILY")
    assert family("xgboost") is xgboost.FAMILY
