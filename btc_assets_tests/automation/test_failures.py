"""The reasons of a failed run: the descriptions of its blocking checks and the errors of its steps."""

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
    """Features, which the failed check prevents."""


def failing_check(severity: dg.AssetCheckSeverity) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=bars, name="hours_present", blocking=True)
    def hours_present() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            passed=False, severity=severity, description="3 hours are missing: fetch them again."
        )

    return hours_present


def reasons(*definitions: dg.AssetsDefinition | dg.AssetChecksDefinition) -> list[str]:
    result = dg.materialize(list(definitions), instance=dg.DagsterInstance.ephemeral(), raise_on_error=False)
    return why_failed(result.all_events)


def test_the_reason_of_a_blocking_check_is_its_description() -> None:
    assert reasons(bars, features, failing_check(dg.AssetCheckSeverity.ERROR)) == [
        "the check hours_present of bars failed: 3 hours are missing: fetch them again."
    ]


def test_a_warning_is_not_a_reason() -> None:
    assert reasons(bars, features, failing_check(dg.AssetCheckSeverity.WARN)) == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SourceRefusedError("no file is there; name one."), "no file is there; name one."),
        (KeyError("a"), "KeyError: 'a'"),
    ],
)
def test_other_errors_keep_their_type_name(error: Exception, reason: str) -> None:
    @dg.asset
    def prices() -> None:
        raise error

    assert reasons(prices) == [reason]
