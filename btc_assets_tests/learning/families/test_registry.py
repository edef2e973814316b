"""Families are found by name or by place, and errors say what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from btc_assets.learning.families import registry, xgboost
from btc_assets.learning.families.registry import FAMILIES, FamilyError, chosen, family
from btc_assets.settings import Settings, SettingsError

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


def test_the_families_of_a_deployment_are_those_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BTC_FAMILIES", f"ridge_logistic,{HERE}:OWN")
    names = Settings().family_names
    assert list(chosen(names)) == ["ridge_logistic", f"{HERE}:OWN"]
    assert chosen(names)[f"{HERE}:OWN"] is OWN


def test_a_deployment_trains_boosted_trees_and_a_linear_model_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BTC_FAMILIES", raising=False)
    assert list(chosen(Settings().family_names)) == ["xgboost", "ridge_logistic"]


@pytest.mark.parametrize(
    ("names", "message"),
    [(("xgboost", "xgboots"), "BTC_FAMILIES: there is no model family 'xgboots'"), (("xgboost",) * 2, "xgboost twice")],
)
def test_an_unusable_choice_names_the_setting(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        chosen(names)


@pytest.mark.parametrize("text", ["xgboost,", "xgboost lightgbm", "mypackage.module", ":FAMILY", "a:b:c"])
def test_a_choice_of_another_form_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BTC_FAMILIES", text)
    with pytest.raises(ValueError, match="families"):
        Settings()
