"""A failed run says why in sentences: what its blocking checks found, and what its steps raised."""

from __future__ import annotations

import dagster as dg
import pytest

from btc_assets.automation.failures import why_failed
from btc_assets.transport import SourceRefusedError


@dg.asset
def bars() -> None:
    """Bars."""


@dg.asset(deps=[bars])
def features() -> None:
    """Features, which the check keeps from being made."""


def finding(severity: dg.AssetCheckSeverity) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=bars, name="hours_present", blocking=True)
    def hours_present() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            passed=False, severity=severity, description="3 hours are missing: fetch them again."
        )

    return hours_present


def reasons(*definitions: dg.AssetsDefinition | dg.AssetChecksDefinition) -> list[str]:
    result = dg.materialize(list(definitions), instance=dg.DagsterInstance.ephemeral(), raise_on_error=False)
    return why_failed(result.all_events)


def test_a_blocking_check_tells_what_it_found_and_not_that_it_failed() -> None:
    assert reasons(bars, features, finding(dg.AssetCheckSeverity.ERROR)) == [
        "the check hours_present of bars failed: 3 hours are missing: fetch them again."
    ]


def test_a_warning_is_no_reason() -> None:
    assert reasons(bars, features, finding(dg.AssetCheckSeverity.WARN)) == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SourceRefusedError("no file is there; name one."), "no file is there; name one."),
        (KeyError("a"), "KeyError: 'a'"),
    ],
)
def test_our_own_errors_are_sentences_and_others_keep_their_kind(error: Exception, reason: str) -> None:
    @dg.asset
    def prices() -> None:
        raise error

    assert reasons(prices) == [reason]
