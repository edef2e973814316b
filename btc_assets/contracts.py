"""The contract of every table: a schema that pandera checks, the rule that gives a row its day, and a Dagster type.

A frame that breaks its contract is never stored: Dagster checks the type before the IO manager writes.
Times are UTC with microseconds; prices are USD (or the venue's dollar coin), volumes are BTC,
returns are natural-log fractions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from btc_assets.features.catalog import FEATURES
from btc_assets.learning.bundle import QUANTILE_NAMES as QUANTILE_COLUMNS
from btc_assets.learning.bundle import QUANTILES

if TYPE_CHECKING:
    import pandera.polars as pa

UTC_TIME = pl.Datetime("us", "UTC")
HORIZONS = (1, 4, 24)
"""Forecast horizons in hours; the first is the primary one."""
ROLES = ("champion", "newest", "challenger")
"""Whose forecast a row is: the gated champion's, the newest cutoff's own model, or the challenger's in shadow."""
REPORTED_ROLES = ROLES[:2]
"""Roles with a forecast for every hour, whose figures are reported; the challenger is held against the champion."""
HELD_ROLES = ("champion", "challenger")
"""Roles a model holds by decision, from one hour until the next decision."""
VERDICT_KINDS = ("first", "refresh", "changed_recipe")
"""What a candidate is beside the champion: the first model, the same recipe on a newer window, or another recipe."""
HISTORY_EVENTS = ("promoted", "rolled_back", "withdrawn", "entered_shadow", "left_shadow")
"""What changes who holds a role."""


class Column:
    """One column of a table.

    Attributes:
        dtype: polars type.
        checks: how to make the pandera checks of its values.
        nullable: whether a value may be unknown.
        description: what it holds, with its unit.
    """

    def __init__(
        self,
        dtype: type[pl.DataType] | pl.DataType,
        *checks: Callable[[], pa.Check],
        nullable: bool = False,
        about: str,
    ) -> None:
        self.dtype, self.checks, self.nullable, self.description = dtype, checks, nullable, about


@dataclass(frozen=True, eq=False)
class Schema:
    """Columns in order and the laws between them; a frame with other columns breaks it.

    The pandera schema is made when a frame is first held against it: pandera brings pandas, half a second that
    loading the graph can do without.
    """

    columns: dict[str, Column]
    laws: tuple[Callable[[], pa.Check], ...] = ()

    @cached_property
    def pandera(self) -> pa.DataFrameSchema:
        """The schema as pandera validates it."""
        import pandera.polars as pa

        return pa.DataFrameSchema(
            {
                name: pa.Column(
                    column.dtype,
                    checks=[make() for make in column.checks],
                    nullable=column.nullable,
                    description=column.description,
                )
                for name, column in self.columns.items()
            },
            checks=[make() for make in self.laws],
            strict=True,
            ordered=True,
        )


@dataclass(frozen=True)
class Contract:
    """What one table promises.

    Attributes:
        table: asset key as a path, for example `market/prices`; also the folder in the lake.
        schema: its columns and laws; strict, so an unknown column is a fault.
        day: expression that gives each row the UTC day (pl.Date) of the partition it belongs to.
        key: columns that name a row; sorted by and unique on.
        append_only: whether a row, once stored, stays as it is; storing a partition again only adds rows to it.
    """

    table: str
    schema: Schema
    day: pl.Expr
    key: tuple[str, ...]
    append_only: bool = False

    @cached_property
    def columns(self) -> pl.Schema:
        """Column names and polars types, in order."""
        return pl.Schema({name: column.dtype for name, column in self.schema.columns.items()})

    def empty(self) -> pl.DataFrame:
        """Return a frame with no rows and the contract's columns."""
        return pl.DataFrame(schema=self.columns)

    def faults(self, frame: pl.DataFrame) -> list[tuple[str, str]]:
        """Return every broken promise as (column, sentence); an empty list is a pass."""
        from pandera.errors import SchemaErrors

        found: list[tuple[str, str]] = []
        try:
            self.schema.pandera.validate(frame, lazy=True)
        except SchemaErrors as errors:
            cases = errors.failure_cases.to_dicts()
            found.extend((str(case["column"]), f"{case['check']}: {case['failure_case']}") for case in cases)
        if found:
            return found
        if frame.select(pl.struct(self.key).is_duplicated().any()).item():
            found.append((", ".join(self.key), "two rows have the same key"))
        if not frame.equals(frame.sort(self.key)):
            found.append((", ".join(self.key), "rows are not in key order"))
        return found


def _check(name: str, *arguments: object, **options: object) -> Callable[[], pa.Check]:
    """Return how to make one of pandera's own checks."""

    def make() -> pa.Check:
        import pandera.polars as pa

        return getattr(pa.Check, name)(*arguments, **options)

    return make


def _own_check(name: str, holds: Callable[[str], pl.Expr]) -> Callable[[], pa.Check]:
    """Return how to make a check of a column by an expression; it is given the column's name."""

    def make() -> pa.Check:
        import pandera.polars as pa

        return pa.Check(lambda data: data.lazyframe.select(holds(data.key)), name=name)

    return make


def _law(name: str, expression: pl.Expr) -> Callable[[], pa.Check]:
    return _own_check(name, lambda _: expression)


def _price(about: str) -> Column:
    return Column(pl.Float64, _check("gt", 0), _FINITE, about=about)


_FINITE = _own_check("finite", lambda column: pl.col(column).is_finite() | pl.col(column).is_null())
_ON_THE_HOUR = _own_check("on the hour", lambda column: pl.col(column) == pl.col(column).dt.truncate("1h"))
_PROBABILITY = (_check("ge", 0), _check("le", 1))
_DAY_IT_IS_KNOWN = (pl.col("known_at") - pl.duration(microseconds=1)).dt.date()


def _schema(columns: dict[str, Column], *laws: Callable[[], pa.Check]) -> Schema:
    return Schema(columns, laws)


_OPEN_TIME = Column(UTC_TIME, _ON_THE_HOUR, about="start of the hour, UTC")
_HORIZON = Column(pl.Int64, _check("isin", HORIZONS), about="hours ahead")
_CUTOFF = Column(pl.Date, about="cutoff day: only what was available at its 00:00 UTC was used")
_DIGEST = Column(
    pl.String, _check("str_matches", r"^[0-9a-f]{64}$"), about="SHA-256 of the model's graphs and model.json"
)
_QUANTILE_LAW = _law(
    "quantiles do not cross",
    pl.all_horizontal(pl.col(low) <= pl.col(high) for low, high in pairwise(QUANTILE_COLUMNS)),
)
_QUANTILES = {
    name: Column(pl.Float64, _FINITE, about=f"{q:.0%} quantile of the log return, fraction")
    for name, q in zip(QUANTILE_COLUMNS, QUANTILES, strict=True)
}

PRICES = Contract(
    table="market/prices",
    schema=_schema(
        {
            "open_time": _OPEN_TIME,
            "open": _price("first trade of the hour, USD"),
            "high": _price("highest trade, USD"),
            "low": _price("lowest trade, USD"),
            "close": _price("last trade, USD"),
            "volume": Column(pl.Float64, _check("ge", 0), _FINITE, about="traded, BTC"),
            "quote_volume": Column(pl.Float64, _check("ge", 0), nullable=True, about="traded, USD; null where unknown"),
            "trades": Column(pl.Int64, _check("ge", 0), nullable=True, about="number of trades; null where unknown"),
            "taker_buy_volume": Column(
                pl.Float64, _check("ge", 0), nullable=True, about="bought by takers, BTC; null where unknown"
            ),
            "taker_buy_quote_volume": Column(
                pl.Float64, _check("ge", 0), nullable=True, about="bought by takers, USD; null where unknown"
            ),
            "venue": Column(pl.String, _check("str_length", min_value=1), about="where the bar was traded"),
        },
        _law(
            "low <= open, close <= high",
            (pl.col("low") <= pl.min_horizontal("open", "close"))
            & (pl.col("high") >= pl.max_horizontal("open", "close")),
        ),
    ),
    day=pl.col("open_time").dt.date(),
    key=("open_time",),
)

_ITEM_ID = _check("str_matches", r"^[0-9a-f]{32}$")
_PRECISION = Column(
    pl.String,
    _check("isin", ["second", "minute", "day", "none"]),
    about="how exactly published_at is told; none where it is not told",
)
_AVAILABLE_AT = Column(UTC_TIME, about="when the project first saw it, or what its source declares for archives, UTC")
_TEXT_REVISION = Column(
    pl.Int64, _check("ge", 0), about="0 is the first text, the one features use; edits seen later count up"
)
_PUBLISHED_AT = Column(UTC_TIME, nullable=True, about="what the publisher says, UTC; never used to decide availability")

ARTICLES = Contract(
    table="news/articles",
    schema=_schema(
        {
            "article_id": Column(pl.String, _ITEM_ID, about="first 32 hex digits of the SHA-256 of the canonical URL"),
            "revision": _TEXT_REVISION,
            "story_id": Column(
                pl.String, _ITEM_ID, about="article_id of the first article with nearly this title within 48 hours"
            ),
            "source": Column(pl.String, _check("str_length", min_value=1), about="feed or service it came from"),
            "outlet": Column(pl.String, _check("str_length", min_value=1), about="who published it, a domain name"),
            "url": Column(pl.String, nullable=True, about="canonical URL; null where there is none"),
            "title": Column(pl.String, _check("str_length", min_value=1), about="title, plain text"),
            "summary": Column(pl.String, about="summary, plain text; may be empty"),
            "published_at": _PUBLISHED_AT,
            "precision": _PRECISION,
            "available_at": _AVAILABLE_AT,
        },
    ),
    day=pl.col("available_at").dt.date(),
    key=("article_id", "revision"),
)

POSTS = Contract(
    table="news/posts",
    schema=_schema(
        {
            "post_id": Column(pl.String, _ITEM_ID, about="first 32 hex digits of the SHA-256 of platform and id"),
            "revision": _TEXT_REVISION,
            "source": Column(pl.String, _check("str_length", min_value=1), about="service it came from"),
            "platform": Column(pl.String, _check("str_length", min_value=1), about="where it was posted"),
            "channel": Column(pl.String, about="subreddit, list or the like; may be empty"),
            "url": Column(pl.String, nullable=True, about="canonical URL; null where there is none"),
            "text": Column(pl.String, _check("str_length", min_value=1), about="title and body, plain text"),
            "published_at": _PUBLISHED_AT,
            "precision": _PRECISION,
            "available_at": _AVAILABLE_AT,
            "points": Column(pl.Int64, nullable=True, about="votes when first seen; null where unknown"),
            "comments": Column(pl.Int64, nullable=True, about="comments when first seen; null where unknown"),
            "is_repost": Column(pl.Boolean, about="whether it repeats another post, a retweet for example"),
        },
    ),
    day=pl.col("available_at").dt.date(),
    key=("post_id", "revision"),
)

SENTIMENT_SCORES = Contract(
    table="news/sentiment_scores",
    schema=_schema(
        {
            "kind": Column(pl.String, _check("isin", ["article", "post"]), about="what was scored"),
            "item_id": Column(pl.String, _ITEM_ID, about="article_id or post_id; its first text is scored"),
            "scorer": Column(pl.String, _check("str_length", min_value=1), about="name of the scorer"),
            "is_primary": Column(pl.Boolean, about="whether features read this row: one scorer of each text"),
            "scorer_version": Column(pl.String, about="version of the scorer's code and settings"),
            "weights_digest": Column(
                pl.String, _check("str_matches", r"^[0-9a-f]{64}$"), about="SHA-256 of the scorer's weights or lexicon"
            ),
            "text_digest": Column(
                pl.String, _check("str_matches", r"^[0-9a-f]{64}$"), about="SHA-256 of the text scored"
            ),
            "p_negative": Column(pl.Float64, *_PROBABILITY, about="share or probability of negative"),
            "p_neutral": Column(pl.Float64, *_PROBABILITY, about="share or probability of neutral"),
            "p_positive": Column(pl.Float64, *_PROBABILITY, about="share or probability of positive"),
            "score": Column(pl.Float64, _check("ge", -1), _check("le", 1), about="p_positive - p_negative"),
            "truncated": Column(pl.Boolean, about="whether the scorer read only the beginning of the text"),
            "available_at": Column(UTC_TIME, about="of the text, UTC"),
        },
        _law(
            "probabilities add up to one",
            (pl.col("p_negative") + pl.col("p_neutral") + pl.col("p_positive") - 1).abs() < 1e-6,
        ),
        _law(
            "score is p_positive - p_negative",
            (pl.col("score") - pl.col("p_positive") + pl.col("p_negative")).abs() < 1e-9,
        ),
    ),
    day=pl.col("available_at").dt.date(),
    key=("kind", "item_id", "scorer"),
)

SENTIMENT_BENCHMARK = Contract(
    table="news/sentiment_benchmark",
    schema=_schema(
        {
            "day": Column(pl.Date, about="day the benchmark was run for"),
            "dataset": Column(pl.String, about="labelled set"),
            "scorer": Column(pl.String, about="name of the scorer"),
            "weights_digest": Column(
                pl.String, _check("str_matches", r"^[0-9a-f]{64}$"), about="SHA-256 of the scorer's weights or lexicon"
            ),
            "metric": Column(pl.String, about="accuracy, macro_f1, recall of a class, or calibration_error"),
            "value": Column(pl.Float64, nullable=True, about="its value; null when it cannot be computed"),
            "lower": Column(pl.Float64, nullable=True, about="lower end of the 95 % interval"),
            "upper": Column(pl.Float64, nullable=True, about="upper end of the 95 % interval"),
            "n": Column(pl.Int64, _check("ge", 0), about="labelled texts it rests on"),
        },
    ),
    day=pl.col("day"),
    key=("day", "dataset", "scorer", "metric"),
)

HOURLY_FEATURES = Contract(
    table="features/hourly_features",
    schema=_schema(
        {
            "open_time": _OPEN_TIME,
            "available_at": Column(UTC_TIME, _ON_THE_HOUR, about="when the row could first be used: open_time + 1 h"),
            **{
                feature.name: Column(pl.Float64, _FINITE, nullable=True, about=f"{feature.about} [{feature.unit}]")
                for feature in FEATURES
            },
        },
        _law("available one hour after open_time", pl.col("available_at") == pl.col("open_time").dt.offset_by("1h")),
    ),
    day=pl.col("open_time").dt.date(),
    key=("open_time",),
)

HOURLY_LABELS = Contract(
    table="features/hourly_labels",
    schema=_schema(
        {
            "open_time": _OPEN_TIME,
            "horizon_hours": _HORIZON,
            "known_at": Column(
                UTC_TIME, _ON_THE_HOUR, about="when the label was first known: open_time + 1 h + horizon"
            ),
            "log_return": Column(
                pl.Float64, _FINITE, nullable=True, about="ln(close[t+h] / close[t]), fraction; null across gaps"
            ),
        },
        _law(
            "known when its window closes",
            pl.col("known_at") == pl.col("open_time") + pl.duration(hours=pl.col("horizon_hours") + 1),
        ),
    ),
    day=_DAY_IT_IS_KNOWN,
    key=("open_time", "horizon_hours"),
)

CV_FOLDS = Contract(
    table="learning/cv_folds",
    schema=_schema(
        {
            "cutoff": _CUTOFF,
            "horizon_hours": _HORIZON,
            "fold": Column(pl.Int64, _check("ge", 0), about="0 is the oldest"),
            "train_start": Column(UTC_TIME, about="first open_time trained on"),
            "train_end": Column(UTC_TIME, about="last open_time trained on; its label is known by test_start"),
            "test_start": Column(UTC_TIME, about="first open_time tested on"),
            "test_end": Column(UTC_TIME, about="last open_time tested on"),
            "purge_hours": Column(pl.Int64, _check("ge", 1), about="hours between the two, at least the horizon"),
            "n_train": Column(pl.Int64, _check("ge", 1), about="labelled rows trained on"),
            "n_test": Column(pl.Int64, _check("ge", 1), about="labelled rows tested on"),
        },
        _law("train ends before test starts", pl.col("train_end") < pl.col("test_start")),
        _law("purge covers the horizon", pl.col("purge_hours") >= pl.col("horizon_hours")),
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "horizon_hours", "fold"),
)

TUNED_PARAMETERS = Contract(
    table="learning/tuned_parameters",
    schema=_schema(
        {
            "cutoff": _CUTOFF,
            "horizon_hours": _HORIZON,
            "source": Column(pl.String, _check("isin", ["default", "tuned", "reused"]), about="how they came about"),
            "tuned_cutoff": Column(pl.Date, about="the cutoff whose study chose them"),
            "log_loss": Column(
                pl.Float64, _FINITE, nullable=True, about="mean over folds, nats; null when not measured"
            ),
            "incumbent_log_loss": Column(
                pl.Float64, _FINITE, nullable=True, about="of the parameters they had to beat, nats"
            ),
            "trials": Column(pl.Int64, _check("ge", 0), about="trials completed"),
            "pruned": Column(pl.Int64, _check("ge", 0), about="trials stopped early"),
            "parameters": Column(pl.String, about="JSON object, keys sorted"),
        },
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "horizon_hours"),
)

FOLD_FORECASTS = Contract(
    table="learning/fold_forecasts",
    schema=_schema(
        {
            "cutoff": _CUTOFF,
            "horizon_hours": _HORIZON,
            "fold": Column(pl.Int64, _check("ge", 0), about="fold the row was tested in"),
            "open_time": _OPEN_TIME,
            "log_return": Column(pl.Float64, _FINITE, about="what happened, fraction"),
            "p_up": Column(pl.Float64, *_PROBABILITY, about="probability of a rise, before calibration"),
            **_QUANTILES,
        },
        _QUANTILE_LAW,
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "horizon_hours", "open_time"),
)

TRAINED_MODEL = Contract(
    table="learning/trained_model",
    schema=_schema(
        {
            "cutoff": _CUTOFF,
            "horizon_hours": _HORIZON,
            "output": Column(pl.String, _check("isin", ["p_up", *QUANTILE_COLUMNS]), about="what the graph yields"),
            "model_version": Column(pl.Int64, _check("ge", 1), about="version in the MLflow registry"),
            "model_digest": _DIGEST,
            "graph_digest": Column(
                pl.String, _check("str_matches", r"^[0-9a-f]{64}$"), about="SHA-256 of the ONNX graph"
            ),
            "rows": Column(pl.Int64, _check("ge", 1), about="labelled rows trained on"),
            "trees": Column(pl.Int64, _check("ge", 1), about="trees in the graph"),
            "parity_error": Column(pl.Float64, _check("ge", 0), about="largest |ONNX - library| on the parity rows"),
        },
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "horizon_hours", "output"),
)

MODEL_EXPLANATION = Contract(
    table="learning/model_explanation",
    schema=_schema(
        {
            "cutoff": _CUTOFF,
            "horizon_hours": _HORIZON,
            "feature": Column(pl.String, about="feature name"),
            "mean_abs_shap": Column(pl.Float64, _check("ge", 0), about="mean |SHAP value| of P(up), log-odds"),
            "rank": Column(pl.Int64, _check("ge", 1), about="1 is the most important"),
        },
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "horizon_hours", "rank"),
)

TRAINING_PROFILE = Contract(
    table="learning/training_profile",
    schema=_schema(
        {
            "cutoff": _CUTOFF,
            "horizon_hours": _HORIZON,
            "feature": Column(pl.String, about="an input known in the training window"),
            "weight": Column(
                pl.Float64,
                *_PROBABILITY,
                nullable=True,
                about="share of the model's mean |SHAP value| of P(up); null where it was not learnt from",
            ),
            "missing_share": Column(pl.Float64, *_PROBABILITY, about="share of the window's hours without a value"),
            "longest_missing_hours": Column(
                pl.Int64, _check("ge", 0), about="longest run of hours without a value, once it was first known"
            ),
            "median": Column(pl.Float64, _FINITE, nullable=True, about="of its values; null where it had none"),
            "gone": Column(pl.Boolean, about="whether it was gone at the cutoff, so that it was not learnt from"),
            "base_rate": Column(pl.Float64, *_PROBABILITY, about="share of rises in the window, for the horizon"),
            **{
                name: Column(pl.Float64, _FINITE, about=f"{q:.0%} quantile of the return over the scale of its hour")
                for name, q in zip(QUANTILE_COLUMNS, QUANTILES, strict=True)
            },
            "rows": Column(pl.Int64, _check("ge", 1), about="labelled hours the base rate and the quantiles rest on"),
        },
        _QUANTILE_LAW,
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "horizon_hours", "feature"),
)

MODEL_VERDICT = Contract(
    table="learning/model_verdict",
    schema=_schema(
        {
            "cutoff": _CUTOFF,
            "criterion": Column(pl.String, about="what was asked of the candidate"),
            "value": Column(pl.Float64, nullable=True, about="of the candidate; null when it could not be measured"),
            "champion_value": Column(
                pl.Float64, nullable=True, about="of the champion on the same hours; null: none yet, or not measured"
            ),
            "bound": Column(pl.Float64, nullable=True, about="of the value; null: for information"),
            "passed": Column(pl.Boolean, about="whether it holds"),
            "reason": Column(pl.String, about="what is measured, and why a bound that is broken does not count"),
            "decision": Column(
                pl.String, _check("isin", ["promoted", "kept", "refused"]), about="of the whole verdict"
            ),
            "kind": Column(pl.String, _check("isin", VERDICT_KINDS), about="which rule decides"),
            "recipe_changes": Column(pl.String, about="what differs from the champion's recipe; empty: nothing"),
            "candidate_version": Column(pl.Int64, about="registry version of the candidate"),
            "candidate_digest": _DIGEST,
            "champion_version": Column(
                pl.Int64, nullable=True, about="registry version of the champion it was held against; null: none yet"
            ),
            "champion_cutoff": Column(pl.Date, nullable=True, about="its cutoff"),
            "champion_digest": Column(pl.String, nullable=True, about="its digest"),
        },
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "criterion"),
)

MODEL_HISTORY = Contract(
    table="learning/model_history",
    schema=_schema(
        {
            "effective_from": Column(UTC_TIME, about="first hour (open_time) it holds for"),
            "recorded_at": Column(UTC_TIME, about="when it was written down; of two for one hour the later holds"),
            "role": Column(pl.String, _check("isin", HELD_ROLES), about="the role that changes hands"),
            "event": Column(pl.String, _check("isin", HISTORY_EVENTS), about="what happened"),
            "model_version": Column(pl.Int64, nullable=True, about="registry version that holds the role; null: none"),
            "model_cutoff": Column(pl.Date, nullable=True, about="its cutoff"),
            "model_digest": Column(pl.String, nullable=True, about="its digest"),
            "reason": Column(pl.String, about="a sentence for a person"),
            "actor": Column(pl.String, about="who decided: model_verdict, shadow_report, or a person"),
            "verdict_cutoff": Column(pl.Date, nullable=True, about="cutoff whose verdict decided; null: not a verdict"),
        },
    ),
    day=pl.col("effective_from").dt.date(),
    key=("effective_from", "recorded_at", "role"),
    append_only=True,
)

FEATURE_GROUP_STUDY = Contract(
    table="learning/feature_group_study",
    schema=_schema(
        {
            "cutoff": _CUTOFF,
            "horizon_hours": _HORIZON,
            "groups": Column(pl.String, about="feature groups the models were given, joined by +"),
            "against": Column(pl.String, about="feature groups they are compared with"),
            "log_loss": Column(pl.Float64, _FINITE, about="mean over the same test hours and seeds, nats"),
            "log_loss_against": Column(pl.Float64, _FINITE, about="of the other models, nats"),
            "difference": Column(pl.Float64, _FINITE, about="log_loss - log_loss_against, nats; below 0 is better"),
            "lower": Column(pl.Float64, _FINITE, nullable=True, about="lower end of its 95 % interval, nats"),
            "upper": Column(pl.Float64, _FINITE, nullable=True, about="upper end of its 95 % interval, nats"),
            "accuracy": Column(pl.Float64, *_PROBABILITY, about="directional accuracy, fraction"),
            "auc": Column(pl.Float64, *_PROBABILITY, nullable=True, about="area under the ROC curve"),
            "t_p_value": Column(pl.Float64, nullable=True, about="paired t-test over folds and seeds, two-sided"),
            "dm_p_value": Column(pl.Float64, nullable=True, about="Diebold-Mariano over hours, two-sided"),
            "holm_p_value": Column(pl.Float64, nullable=True, about="dm_p_value after Holm's correction"),
            "cohens_d": Column(pl.Float64, nullable=True, about="effect size over folds and seeds, paired"),
            "verdict": Column(
                pl.String, _check("isin", ["helps", "hurts", "cannot tell"]), about="of the groups that differ"
            ),
            "n": Column(pl.Int64, _check("ge", 1), about="test hours"),
            "folds": Column(pl.Int64, _check("ge", 1), about="folds"),
            "seeds": Column(pl.Int64, _check("ge", 1), about="seeds"),
        },
    ),
    day=pl.col("cutoff"),
    key=("cutoff", "horizon_hours", "groups", "against"),
)

FORECASTS = Contract(
    table="monitoring/forecasts",
    schema=_schema(
        {
            "open_time": _OPEN_TIME,
            "horizon_hours": _HORIZON,
            "role": Column(pl.String, _check("isin", ROLES), about="whose forecast it is"),
            "made_at": Column(UTC_TIME, about="open_time + 1 h"),
            "target_time": Column(UTC_TIME, about="end of the window forecast: made_at + horizon"),
            "model_version": Column(pl.Int64, about="registry version"),
            "model_cutoff": _CUTOFF,
            "model_digest": _DIGEST,
            "close": _price("last close the forecast starts from, USD"),
            "p_up": Column(pl.Float64, *_PROBABILITY, about="calibrated probability of a rise"),
            **_QUANTILES,
            "degraded": Column(pl.Boolean, about="whether inputs are missing beyond what the model saw in training"),
            "missing_inputs": Column(pl.String, about="these inputs, joined by commas; empty where there are none"),
            "missing_weight": Column(
                pl.Float64, *_PROBABILITY, about="share of the model's mean |SHAP value| that they carry"
            ),
            "fallback": Column(
                pl.Boolean, about="whether base rate and volatility of the training window answer in place of the model"
            ),
        },
        _QUANTILE_LAW,
        _law("made one hour after open_time", pl.col("made_at") == pl.col("open_time").dt.offset_by("1h")),
        _law("degraded where inputs are named", pl.col("degraded") == (pl.col("missing_inputs") != "")),
        _law("only a degraded forecast falls back", pl.col("degraded") | ~pl.col("fallback")),
        _law("the model's cutoff is not after the hour", pl.col("model_cutoff") <= pl.col("open_time").dt.date()),
    ),
    day=pl.col("open_time").dt.date(),
    key=("open_time", "horizon_hours", "role"),
)

FORECAST_OUTCOMES = Contract(
    table="monitoring/forecast_outcomes",
    schema=_schema(
        {
            "open_time": _OPEN_TIME,
            "horizon_hours": _HORIZON,
            "role": Column(pl.String, _check("isin", ROLES), about="whose forecast it was"),
            "known_at": Column(UTC_TIME, about="when the outcome was known"),
            "model_version": Column(pl.Int64, about="registry version"),
            "model_cutoff": _CUTOFF,
            "p_up": Column(pl.Float64, *_PROBABILITY, about="calibrated probability of a rise"),
            **_QUANTILES,
            "log_return": Column(pl.Float64, _FINITE, about="what happened, fraction"),
            "outcome": Column(
                pl.String, _check("isin", ["correct", "incorrect", "too_small_to_call"]), about="of the direction"
            ),
            "signed_return_bps": Column(pl.Float64, _FINITE, about="return in the direction forecast, basis points"),
            "net_return_bps": Column(pl.Float64, _FINITE, about="the same after one round trip of costs, basis points"),
        },
        _QUANTILE_LAW,
    ),
    day=_DAY_IT_IS_KNOWN,
    key=("open_time", "horizon_hours", "role"),
)

PERFORMANCE_REPORT = Contract(
    table="monitoring/performance_report",
    schema=_schema(
        {
            "day": Column(pl.Date, about="last day reported on"),
            "role": Column(pl.String, _check("isin", ROLES), about="whose forecasts"),
            "horizon_hours": _HORIZON,
            "period": Column(pl.String, about="'all', a calendar year, or 'last_90_days'"),
            "metric": Column(pl.String, about="name of the metric"),
            "value": Column(pl.Float64, nullable=True, about="its value; null when it cannot be computed"),
            "lower": Column(pl.Float64, nullable=True, about="lower end of the 95 % interval"),
            "upper": Column(pl.Float64, nullable=True, about="upper end of the 95 % interval"),
            "n": Column(pl.Int64, _check("ge", 0), about="hours it rests on"),
        },
    ),
    day=pl.col("day"),
    key=("day", "role", "horizon_hours", "period", "metric"),
)

SHADOW_REPORT = Contract(
    table="monitoring/shadow_report",
    schema=_schema(
        {
            "day": Column(pl.Date, about="last day of the hours compared"),
            "criterion": Column(pl.String, about="what is asked of the challenger"),
            "value": Column(pl.Float64, nullable=True, about="of the challenger; null when it could not be measured"),
            "champion_value": Column(pl.Float64, nullable=True, about="of the champion on the same hours"),
            "bound": Column(pl.Float64, nullable=True, about="of the value; null: for information"),
            "passed": Column(pl.Boolean, about="whether it holds"),
            "reason": Column(pl.String, about="what is measured, and why a bound that is broken does not count"),
            "decision": Column(
                pl.String, _check("isin", ["wait", "promote", "dismiss"]), about="of the whole comparison"
            ),
            "challenger_version": Column(pl.Int64, about="registry version in shadow"),
            "challenger_cutoff": _CUTOFF,
            "challenger_digest": _DIGEST,
            "champion_version": Column(pl.Int64, about="registry version it is held against, of the newest hour"),
        },
    ),
    day=pl.col("day"),
    key=("day", "criterion"),
)

DRIFT_REPORT = Contract(
    table="monitoring/drift_report",
    schema=_schema(
        {
            "day": Column(pl.Date, about="last day of the stretch judged"),
            "kind": Column(
                pl.String,
                _check("isin", ["input", "concept"]),
                about="moved inputs, or forecasts that break their word",
            ),
            "subject": Column(pl.String, about="a feature, p_up, or the promise of the forecasts that is watched"),
            "measure": Column(pl.String, about="what was measured"),
            "value": Column(pl.Float64, _FINITE, nullable=True, about="its value; null when it cannot be computed"),
            "bound": Column(pl.Float64, nullable=True, about="where it counts; null where it only informs"),
            "alarm": Column(pl.Boolean, about="whether the subject counts as drifted, or the promise as broken"),
            "n": Column(pl.Int64, _check("ge", 0), about="hours it rests on"),
            "model_version": Column(pl.Int64, about="champion whose training window is the reference"),
            "model_cutoff": _CUTOFF,
        },
    ),
    day=pl.col("day"),
    key=("day", "kind", "subject", "measure"),
)

ALERTS = Contract(
    table="monitoring/alerts",
    schema=_schema(
        {
            "alert_id": Column(pl.String, _ITEM_ID, about="names the alert in every channel"),
            "channel": Column(pl.String, about="log, webhook or email"),
            "raised_at": Column(UTC_TIME, about="when it was raised, UTC"),
            "rule": Column(pl.String, about="the rule that raised it"),
            "kind": Column(pl.String, about="what the rule watches"),
            "severity": Column(pl.String, _check("isin", ["info", "medium", "high"]), about="how grave it is"),
            "subject": Column(pl.String, about="what it is about"),
            "message": Column(pl.String, about="a sentence for a person"),
            "value": Column(pl.Float64, nullable=True, about="the figure behind it, in the unit of its kind"),
            "bound": Column(pl.Float64, nullable=True, about="where the rule begins to count"),
            "state": Column(
                pl.String, _check("isin", ["pending", "delivered", "undeliverable"]), about="of this delivery"
            ),
            "tries": Column(pl.Int64, _check("ge", 0), about="deliveries tried"),
            "settled_at": Column(UTC_TIME, nullable=True, about="when it was delivered or given up, UTC"),
            "fault": Column(pl.String, about="why the last try failed; empty where it did not"),
        },
    ),
    day=pl.col("raised_at").dt.date(),
    key=("alert_id", "channel"),
)

SERVING_BUNDLE = Contract(
    table="serving/bundle",
    schema=_schema(
        {
            "day": Column(pl.Date, about="day whose newest forecast was published"),
            "bundle_id": Column(
                pl.String, _check("str_matches", r"^[0-9a-f]{16}$"), about="name of the published folder"
            ),
            "model_version": Column(pl.Int64, about="registry version served"),
            "model_cutoff": _CUTOFF,
            "model_digest": _DIGEST,
            "made_at": Column(UTC_TIME, about="when the newest forecast was made"),
            "published_at": Column(
                UTC_TIME, nullable=True, about="when the bundle was published; null where an older one never was"
            ),
            "forecasts": Column(pl.Int64, _check("ge", 1), about="forecast rows in serving.duckdb"),
            "outcomes": Column(pl.Int64, _check("ge", 0), about="outcome rows in serving.duckdb"),
        },
    ),
    day=pl.col("day"),
    key=("day",),
)


def dagster_type(contract: Contract) -> dg.DagsterType:
    """Turn a contract into a Dagster type: a frame that breaks it fails the step before it is stored."""

    def check(_context: dg.TypeCheckContext, frame: object) -> dg.TypeCheck:
        if not isinstance(frame, pl.DataFrame):
            return dg.TypeCheck(
                success=False, description=f"{contract.table} must be a polars DataFrame, got {type(frame)}"
            )
        faults = contract.faults(frame)
        if not faults:
            return dg.TypeCheck(success=True)
        first = "; ".join(f"{column}: {fault}" for column, fault in faults[:5])
        table = dg.TableMetadataValue(
            records=[dg.TableRecord({"column": column, "fault": fault}) for column, fault in faults[:50]],
            schema=dg.TableSchema([dg.TableColumn("column"), dg.TableColumn("fault")]),
        )
        return dg.TypeCheck(
            success=False,
            description=f"{contract.table} breaks its contract in {len(faults)} places: {first}",
            metadata={"faults": table},
        )

    return dg.DagsterType(
        name="".join(part.title() for part in contract.table.replace("/", "_").split("_")),
        type_check_fn=check,
        typing_type=pl.DataFrame,
        description=f"Rows of {contract.table}, keyed by {', '.join(contract.key)}.",
        metadata={"dagster/column_schema": column_schema(contract)},
    )


def column_schema(contract: Contract) -> dg.TableSchema:
    """Return the contract's columns as the Dagster UI shows them."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=name,
                type=str(contract.columns[name]),
                description=column.description,
                constraints=dg.TableColumnConstraints(nullable=column.nullable, unique=contract.key == (name,)),
            )
            for name, column in contract.schema.columns.items()
        ]
    )


CONTRACTS: dict[str, Contract] = {
    contract.table: contract
    for contract in (
        PRICES,
        ARTICLES,
        POSTS,
        SENTIMENT_SCORES,
        SENTIMENT_BENCHMARK,
        HOURLY_FEATURES,
        HOURLY_LABELS,
        CV_FOLDS,
        TUNED_PARAMETERS,
        FOLD_FORECASTS,
        TRAINED_MODEL,
        MODEL_EXPLANATION,
        TRAINING_PROFILE,
        MODEL_VERDICT,
        MODEL_HISTORY,
        FEATURE_GROUP_STUDY,
        FORECASTS,
        FORECAST_OUTCOMES,
        PERFORMANCE_REPORT,
        SHADOW_REPORT,
        DRIFT_REPORT,
        ALERTS,
        SERVING_BUNDLE,
    )
}
"""Every contract by its table."""
