"""The contracts of the champion's tables: verdicts, history, shadow reports."""

import polars as pl

from btc_assets.columns import CUTOFF, MODEL_DIGEST
from btc_assets.schema import UTC_TIME, Column, check, declare, schema
from btc_assets.vocabulary import HELD_ROLES, HISTORY_EVENTS, VERDICT_KINDS

MODEL_VERDICT = declare(
    table="champion/model_verdict",
    schema=schema(
        {
            "cutoff": CUTOFF,
            "criterion": Column(pl.String, about="criterion for the candidate"),
            "value": Column(
                pl.Float64, nullable=True, about="value of the candidate; null if it could not be measured"
            ),
            "champion_value": Column(
                pl.Float64, nullable=True, about="value of the champion on the same hours; null: none, or not measured"
            ),
            "bound": Column(pl.Float64, nullable=True, about="of the value; null: for information"),
            "passed": Column(pl.Boolean, about="whether it holds"),
            "reason": Column(pl.String, about="what is measured, and why a bound that is broken does not count"),
            "decision": Column(pl.String, check("isin", ["promoted", "kept", "refused"]), about="of the whole verdict"),
            "kind": Column(pl.String, check("isin", VERDICT_KINDS), about="which rule decides"),
            "recipe_changes": Column(pl.String, about="what differs from the champion's recipe; empty: nothing"),
            "candidate_version": Column(pl.Int64, about="registry version of the candidate"),
            "candidate_digest": MODEL_DIGEST,
            "champion_version": Column(
                pl.Int64, nullable=True, about="registry version of the champion it was compared with; null: none yet"
            ),
            "champion_cutoff": Column(pl.Date, nullable=True, about="its cutoff"),
            "champion_digest": Column(pl.String, nullable=True, about="its digest"),
        },
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "criterion"),
)

MODEL_HISTORY = declare(
    table="champion/model_history",
    schema=schema(
        {
            "effective_from": Column(UTC_TIME, about="first hour (open_time) for which it is effective"),
            "recorded_at": Column(UTC_TIME, about="when it was recorded; of two for one hour the later is effective"),
            "role": Column(pl.String, check("isin", HELD_ROLES), about="role whose model changes"),
            "event": Column(pl.String, check("isin", HISTORY_EVENTS), about="kind of change"),
            "model_version": Column(pl.Int64, nullable=True, about="registry version that holds the role; null: none"),
            "model_cutoff": Column(pl.Date, nullable=True, about="its cutoff"),
            "model_digest": Column(pl.String, nullable=True, about="its digest"),
            "reason": Column(pl.String, about="reason, a sentence"),
            "actor": Column(pl.String, about="model_verdict, shadow_report, or the name of a user"),
            "verdict_cutoff": Column(pl.Date, nullable=True, about="cutoff whose verdict decided; null: not a verdict"),
        },
    ),
    day=pl.col("effective_from").dt.date(),
    key=("effective_from", "recorded_at", "role"),
    append_only=True,
)

SHADOW_REPORT = declare(
    table="champion/shadow_report",
    schema=schema(
        {
            "day": Column(pl.Date, about="last day of the hours compared"),
            "criterion": Column(pl.String, about="criterion for the challenger"),
            "value": Column(
                pl.Float64, nullable=True, about="value of the challenger; null if it could not be measured"
            ),
            "champion_value": Column(pl.Float64, nullable=True, about="of the champion on the same hours"),
            "bound": Column(pl.Float64, nullable=True, about="of the value; null: for information"),
            "passed": Column(pl.Boolean, about="whether it holds"),
            "reason": Column(pl.String, about="what is measured, and why a bound that is broken does not count"),
            "decision": Column(
                pl.String, check("isin", ["wait", "promote", "dismiss"]), about="of the whole comparison"
            ),
            "challenger_version": Column(pl.Int64, about="registry version in shadow"),
            "challenger_cutoff": CUTOFF,
            "challenger_digest": MODEL_DIGEST,
            "champion_version": Column(pl.Int64, about="registry version of the champion of the newest hour"),
        },
    ),
    day=pl.col("day"),
    key=("day", "criterion"),
)
