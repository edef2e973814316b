"""Compare gate rules on a walked history: promotions, age of the champion and skill at 1 h.

    python -m benchmarks.gate [--first 2023-01-02] [--last 2025-07-31]

The lake and the registry of the `BTC_*` settings must contain the models of a walk-forward. Every verdict uses the
functions of `champion/model_verdict` and `champion/shadow_report` on the same rows for each rule; the causality laws
are assumed to pass. Forecasts are those of the champion under each rule.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from btc_assets.champion import gate
from btc_assets.champion.gate import Evidence, Verdict
from btc_assets.champion.recipe import recipe_changes
from btc_assets.clock import HOUR, midnight
from btc_assets.evaluation import metrics, significance
from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.lake import Lake
from btc_assets.learning import folds, training
from btc_assets.learning.families.protocol import FittedOutput
from btc_assets.learning.families.registry import family
from btc_assets.learning.forecast_model import ForecastModel
from btc_assets.learning.members import Member
from btc_assets.learning.natives import read_members
from btc_assets.learning.registry import ModelRegistry
from btc_assets.learning.tables import CV_FOLDS, FOLD_FORECASTS, TRAINED_MODEL
from btc_assets.learning.training import Trainee
from btc_assets.markdown import markdown_rows
from btc_assets.settings import Settings, settings
from btc_assets.vocabulary import PRIMARY

RULES = ("proof for all", "two rules", "two rules, re-tuned parameters count as a refresh", "each newest model")
"""`proof for all` treats every candidate as a changed recipe; `each newest model` promotes every candidate."""
HEADINGS = (
    "rule",
    "decisions",
    "age of the champion, days (mean, most)",
    "n",
    "accuracy",
    "log-loss skill",
    "log-loss against each newest model, 0.001 nats",
    "DM p",
)
DAY = timedelta(days=1)


@dataclass
class Candidate:
    """A trained cutoff: its model and the data of its verdict."""

    cutoff: date
    version: int
    parity_error: float
    bundle: ForecastModel
    others: list[dict[str, FittedOutput]]
    evidence: Evidence


@dataclass
class Walked:
    """A walked history and its candidates.

    Attributes:
        lake: the lake with its tables.
        registry: the registry with its models.
        config: settings of the deployment.
    """

    lake: Lake
    registry: ModelRegistry
    config: Settings
    candidates: list[Candidate] = field(default_factory=list)

    @cached_property
    def features(self) -> pl.DataFrame:
        """Every stored feature row, in time order."""
        return self.lake.scan(HOURLY_FEATURES).collect().sort("open_time")

    @cached_property
    def labels(self) -> pl.DataFrame:
        """Every stored label."""
        return self.lake.scan(HOURLY_LABELS).collect()

    def take(self, cutoff: date) -> None:
        """Load a trained cutoff and fit the seeds that its verdict compares."""
        trained = self.lake.read(TRAINED_MODEL, cutoff)
        forecasts, layout = self.lake.read(FOLD_FORECASTS, cutoff), self.lake.read(CV_FOLDS, cutoff)
        assert trained is not None
        assert forecasts is not None
        assert layout is not None
        version = int(trained["model_version"][0])
        bundle = self.registry.load(version)
        first = midnight(cutoff - timedelta(days=self.config.window_days))
        window = pl.col("open_time").is_between(first, midnight(cutoff), closed="left")
        rows = folds.labelled_rows(
            self.features.filter(window),
            self.labels.filter(window),
            cutoff=cutoff,
            horizon=PRIMARY,
            window_days=self.config.window_days,
            names=bundle.features,
        )
        newest = layout.filter(pl.col("horizon_minutes") == PRIMARY).sort("fold").row(-1, named=True)
        seeds = range(self.config.seed + 1, self.config.seed + gate.SEEDS)
        pairs = training.forecast_seeds(
            [_trainee(member, bundle) for member in bundle.document["members"]],
            *folds.split(rows, newest),
            cutoff=cutoff,
            seeds=seeds,
            threads=self.config.train_threads,
        )
        natives = self.registry.native(version)
        self.candidates.append(
            Candidate(
                cutoff,
                version,
                float(trained.select(pl.col("parity_error").max()).item()),
                bundle,
                [read_members(bundle, natives, PRIMARY, seed) for seed in seeds],
                gate.candidate_evidence(
                    forecasts,
                    bundle.members,
                    weights=bundle.document["weights"]["option"],
                    other_seeds=pairs,
                    seeds=len(seeds),
                ),
            )
        )

    def evidence(self, model: Candidate, first: date, last: date) -> Evidence:
        """Return a model's forecasts of the labelled hours of the days from `first` to `last`."""
        hours = pl.col("open_time").is_between(midnight(first), midnight(last + DAY), closed="left")
        known = self.labels.filter(hours & (pl.col("horizon_minutes") == PRIMARY)).drop_nulls("log_return")
        rows = self.features.filter(hours).join(known.select("open_time", "log_return"), on="open_time")
        forecast = model.bundle.predict(folds.matrix(rows, model.bundle.features))[PRIMARY]
        return Evidence(rows["open_time"], forecast.p_up, forecast.quantiles, rows["log_return"].to_numpy())

    def verdict(self, candidate: Candidate, champion: Candidate | None, rule: str) -> Verdict:
        """Return the verdict on a candidate compared with a champion under a rule."""
        rival, changes = None, list[str]()
        if champion is not None:
            window = pl.col("open_time") >= midnight(candidate.cutoff - timedelta(days=self.config.window_days))
            rival = gate.champion_evidence(
                champion.bundle, self.features.filter(window), candidate.evidence, champion.others
            )
            changes = _changes(candidate, champion, rule)
        return gate.judge(
            candidate.evidence,
            rival,
            parity_error=candidate.parity_error,
            causality_failures=[],
            recipe_changes=changes,
            margin_nats=self.config.gate_margin_nats,
            tolerance_nats=self.config.gate_tolerance_nats,
            significance=self.config.gate_significance,
            fee_bps=self.config.fee_bps,
        )


def _trainee(member: Mapping[str, Any], model: ForecastModel) -> Trainee:
    """Return a member of a stored model, ready to be fitted again."""
    of = family(member["family"])
    return Trainee(
        Member(member["name"], member["family"], member["inputs"], member["window_days"]),
        of,
        tuple(model.features[column] for column in member["features"]),
        {PRIMARY: of.parameters.from_json(member["parameters"][str(PRIMARY)])},
    )


def _changes(candidate: Candidate, champion: Candidate, rule: str) -> list[str]:
    if rule == "proof for all":
        return ["every candidate"]
    ours, theirs = candidate.bundle.document, champion.bundle.document
    if rule.endswith("count as a refresh"):
        parameters = {member["name"]: member["parameters"] for member in ours["members"]}
        theirs = theirs | {
            "members": [
                member | {"parameters": parameters.get(member["name"], member["parameters"])}
                for member in theirs["members"]
            ]
        }
    return recipe_changes(ours, theirs, horizon=PRIMARY)


@dataclass
class Outcome:
    """The result of one rule.

    Attributes:
        rule: name of the rule.
        counts: decisions by name.
        ages: age of the champion on each day, days.
        p_up: P(up) of the champion by hour.
        log_return: realised log return by hour.
    """

    rule: str
    counts: dict[str, int] = field(default_factory=dict)
    ages: list[int] = field(default_factory=list)
    p_up: list[np.ndarray] = field(default_factory=list)
    log_return: list[np.ndarray] = field(default_factory=list)

    def count(self, name: str) -> None:
        """Count a decision."""
        self.counts[name] = self.counts.get(name, 0) + 1

    @property
    def losses(self) -> significance.Floats:
        """Log-loss by hour, nats, (n,)."""
        return metrics.log_losses(np.concatenate(self.p_up), np.concatenate(self.log_return) > 0)


def follow(walked: Walked, rule: str, last: date) -> Outcome:
    """Apply a rule at every cutoff in order, including shadow decisions."""
    outcome = Outcome(rule)
    champions: list[tuple[date, Candidate]] = []  # start day and model
    challenger: tuple[date, Candidate] | None = None
    for place, candidate in enumerate(walked.candidates):
        cutoff = candidate.cutoff
        if challenger is not None:
            settled = _settle(walked, champions, challenger, cutoff)
            if settled:
                outcome.count(f"shadow {settled}")
                if settled == "promoted":
                    champions.append((cutoff, challenger[1]))
                challenger = None
        before = champions[-1][1] if champions else None
        if rule == "each newest model":
            champions.append((cutoff, candidate))
        else:
            verdict = walked.verdict(candidate, before, rule)
            outcome.count(f"{verdict.kind} {verdict.decision}")
            if verdict.decision == "promoted":
                champions.append((cutoff, candidate))
                challenger = None if verdict.kind == gate.CHANGED_RECIPE else challenger
            elif verdict.decision == "kept" and verdict.kind == gate.CHANGED_RECIPE and challenger is None:
                challenger = (cutoff, candidate)
        until = walked.candidates[place + 1].cutoff - DAY if place + 1 < len(walked.candidates) else last
        if champions:
            champion = champions[-1][1]
            served = walked.evidence(champion, cutoff, until)
            outcome.p_up.append(served.p_up)
            outcome.log_return.append(served.log_return)
            outcome.ages += [(cutoff - champion.cutoff).days + day for day in range((until - cutoff).days + 1)]
    return outcome


def _settle(
    walked: Walked, champions: Sequence[tuple[date, Candidate]], challenger: tuple[date, Candidate], cutoff: date
) -> str:
    """Decide about a challenger on its hours in shadow: promoted, dismissed, or an empty string while it waits."""
    since, model = challenger
    config = walked.config
    if (cutoff - since).days * 24 - 1 < config.shadow_hours:
        return ""
    ours = walked.evidence(model, since, cutoff - DAY)
    ours = ours.at(ours.open_time.filter(ours.open_time < midnight(cutoff) - HOUR))
    parts = []
    for (start, champion), (end, _) in zip(champions, [*champions[1:], (cutoff, model)], strict=True):
        if end > since:
            parts.append(walked.evidence(champion, max(start, since), end - DAY))
    served = Evidence(
        pl.concat([part.open_time for part in parts]),
        np.concatenate([part.p_up for part in parts]),
        np.concatenate([part.quantiles for part in parts]),
        np.concatenate([part.log_return for part in parts]),
    )
    criteria = [
        *gate.shown_better(
            ours,
            served,
            seeds=1,
            min_hours=config.shadow_hours,
            margin_nats=config.gate_margin_nats,
            significance=config.gate_significance,
            fee_bps=config.fee_bps,
        ),
        *gate.promises(ours, served),
    ]
    return "promoted" if all(criterion.passed for criterion in criteria) else "dismissed"


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a Markdown table; differences are relative to `each newest model`."""
    newest = next(outcome for outcome in outcomes if outcome.rule == "each newest model")
    rows = []
    for outcome in outcomes:
        p_up, log_return = np.concatenate(outcome.p_up), np.concatenate(outcome.log_return)
        skill = metrics.log_loss_skill(p_up, log_return)
        test = significance.diebold_mariano(outcome.losses, newest.losses)
        low, high = test.interval()
        against = (
            "" if outcome is newest else f"{_thousandths(test.value)} ({_thousandths(low)} to {_thousandths(high)})"
        )
        p_value = "" if outcome is newest else f"{test.p_value():.2g}"
        decisions = ", ".join(f"{count} {name}" for name, count in sorted(outcome.counts.items())) or "all promoted"
        ages, accuracy = f"{np.mean(outcome.ages):.0f}, {max(outcome.ages)}", metrics.accuracy(p_up, log_return).value
        rows.append(
            (outcome.rule, decisions, ages, f"{len(p_up):,}", f"{accuracy:.2%}", _span(skill), against, p_value)
        )
    return markdown_rows(HEADINGS, rows)


def _thousandths(value: float | None) -> str:
    return "-" if value is None else f"{1e3 * value:+.2f}"


def _span(estimate: metrics.Estimate) -> str:
    return f"{estimate.value:.2%} ({estimate.lower:.2%} to {estimate.upper:.2%})"


def run(first: date, last: date) -> str:
    """Apply every rule to the trained cutoffs of a period; return the table."""
    config = settings()
    lake = Lake(root=config.lake_root)
    registry = ModelRegistry(tracking_uri=config.tracking_uri, artifacts=str(config.mlflow_artifacts))
    walked = Walked(lake, registry, config)
    cutoffs = [day for day in lake.days(TRAINED_MODEL) if first <= day <= last]
    for number, cutoff in enumerate(cutoffs, start=1):
        start = time.monotonic()
        walked.take(cutoff)
        print(f"{cutoff} {number}/{len(cutoffs)} ({time.monotonic() - start:.1f} s)", file=sys.stderr, flush=True)
    outcomes = []
    for rule in RULES:
        outcomes.append(follow(walked, rule, last))
        print(rule, json.dumps(outcomes[-1].counts), file=sys.stderr, flush=True)
    return table(outcomes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the results of each rule."""
    description, _, notes = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=description, epilog=notes)
    parser.add_argument("--first", type=date.fromisoformat, default=date(2023, 1, 2), help="first cutoff")
    parser.add_argument("--last", type=date.fromisoformat, default=date(2025, 7, 31), help="last day forecast")
    options = parser.parse_args(arguments)
    print(run(options.first, options.last))


if __name__ == "__main__":
    main()
