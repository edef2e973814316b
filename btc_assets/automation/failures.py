"""Extract the reasons of a failed run as sentences; the stack trace remains in the run's event log."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

_PROJECT_PREFIX = "btc_assets."


def why_failed(events: Iterable[dg.DagsterEvent]) -> list[str]:
    """Return the reasons of a failed run, including the blocking checks that stopped it.

    Args:
        events: the events of the run.

    Returns:
        One sentence per check or step, in order and without duplicates; empty if the run recorded no reason.
    """
    reasons = []
    for event in events:
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if check.blocking and not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
                description = (check.description or "it gave no reason").rstrip(".")
                reasons.append(
                    f"the check {check.check_name} of {check.asset_key.to_user_string()} failed: {description}."
                )
        elif event.is_step_failure and (error := event.step_failure_data.error) is not None:
            if error.cls_name == "DagsterAssetCheckFailedError":
                continue  # its check gives the reason
            message = (error.cause or error).message.strip()
            reasons.append(message.partition(": ")[2] if message.startswith(_PROJECT_PREFIX) else message)
    return list(dict.fromkeys(reasons))
