"""Why a run failed, in sentences that say what to do; the stack trace stays with the run."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

_OURS = "btc_assets."


def why_failed(events: Iterable[dg.DagsterEvent]) -> list[str]:
    """Return the reasons of a failed run, the blocking checks that stopped it among them.

    Args:
        events: of the run.

    Returns:
        One sentence a check or step, in order and once; empty where the run recorded no reason.
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
            reasons.append(message.partition(": ")[2] if message.startswith(_OURS) else message)
    return list(dict.fromkeys(reasons))
