"""The reasons of one forecast in plain words: its strongest contributions, and a sentence with values and units.

Contributions are in log-odds, which add up. Points are percentage points of P(up): every log-odd of a forecast counts
for the same number of points, that of the line from the base to the forecast, so points add up too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from btc_assets.learning.forecast_model import log_odds, probability
from btc_assets.vocabulary import display

NAMED = 5
"""Number of contributions that are listed on each side."""
IN_SENTENCE = 2
"""Number of contributions that the sentence names on each side."""

_NAMED_INPUTS = 8
_SAME = 1e-9  # log-odds between base and forecast below which the slope of P(up) gives the points
_SCALES = {
    "fraction": (100, " %"),
    "log fraction": (100, " %"),
    "log fraction an hour": (100, " % an hour"),
    "percent": (1, " %"),
    "USD": (1, " USD"),
    "standard deviations": (1, " standard deviations"),
    "hours": (1, " hours"),
    "minutes": (1, " minutes"),
    "articles": (1, " articles"),
    "posts": (1, " posts"),
    "hour, UTC": (1, ":00 UTC"),
}
"""Factor and suffix with which a unit is written; a value of another unit is written as it is."""
_RELATION = re.compile(r"^(?P<what>.+?) over (?P<reference>.+), less 1$")
_LENGTH = re.compile(r", (\d+ bars)$")


@dataclass(frozen=True)
class Reason:
    """The contribution of one input.

    Attributes:
        feature: name of the input.
        value: its value; None if unknown.
        unit: unit of the value.
        contribution: log-odds.
        points: percentage points of P(up).
    """

    feature: str
    value: float | None
    unit: str
    contribution: float
    points: float


@dataclass(frozen=True)
class Reasons:
    """The reasons of a forecast of P(up).

    `base`, the contributions of `raises` and `lowers`, `others` and `unexplained` add up to the log-odds of `p_up`.

    Attributes:
        p_up: the forecast.
        base: log-odds without any contribution.
        raises: strongest contributions above 0, the strongest first.
        lowers: strongest contributions below 0, the strongest first.
        others: sum of all other contributions, log-odds.
        unexplained: log-odds that are not attributed to an input.
        sentence: the reasons in words.
    """

    p_up: float
    base: float
    raises: tuple[Reason, ...]
    lowers: tuple[Reason, ...]
    others: float
    unexplained: float
    sentence: str


def reasons_of(
    features: Sequence[Mapping[str, str]],
    values: Sequence[float],
    contributions: np.ndarray,
    *,
    p_up: float,
    base: float,
    unexplained: float,
    horizon: int,
    unexplained_by: str = "members without contributions",
) -> Reasons:
    """Return the reasons of one forecast.

    Args:
        features: `name`, `about` and `unit` of each of the f inputs.
        values: values of the inputs, (f,), NaN if unknown.
        contributions: contributions of the inputs, log-odds, (f,).
        p_up: the forecast.
        base: log-odds without any contribution.
        unexplained: log-odds that are not attributed to an input.
        horizon: minutes ahead.
        unexplained_by: what has these log-odds, in the plural.
    """
    per_log_odd = _points_per_log_odd(p_up, base)
    order = np.argsort(-np.abs(contributions), kind="stable")
    sides = [[i for i in order if sign * contributions[i] > 0][:NAMED] for sign in (1, -1)]
    raises, lowers = (
        tuple(
            Reason(
                features[i]["name"],
                None if math.isnan(values[i]) else float(values[i]),
                str(features[i].get("unit", "")),
                float(contributions[i]),
                float(contributions[i] * per_log_odd),
            )
            for i in side
        )
        for side in sides
    )
    rest = np.ones(len(contributions), dtype=np.bool_)
    rest[[*sides[0], *sides[1]]] = False
    others = float(contributions[rest].sum())
    phrases = [[phrase(features[i], values[i]) for i in side[:IN_SENTENCE]] for side in sides]
    amounts = [sum(one.points for one in side[:IN_SENTENCE]) for side in (raises, lowers)]
    start = 100 * float(probability(np.array(base)))
    other = float(contributions.sum()) * per_log_odd - sum(amounts)
    parts = [
        (amount, f"{' and '.join(words)} {_moves(amount, several=len(words) > 1)}")
        for words, amount in zip(phrases, amounts, strict=True)
        if words
    ]
    sentence = ", ".join(
        (
            *(text for _, text in sorted(parts, key=lambda part: -abs(part[0]))),
            f"all other inputs {_moves(other, several=True)}",
            *([f"{unexplained_by} {_moves(unexplained * per_log_odd, several=True)}"] * bool(unexplained)),
        )
    )
    return Reasons(
        p_up,
        base,
        raises,
        lowers,
        others,
        unexplained,
        f"P(up) over {display(horizon)} is {100 * p_up:.1f} %, from a base of {start:.1f} %: {sentence}.",
    )


def base_rate_reasons(p_up: float, missing: Sequence[str], horizon: int) -> Reasons:
    """Return the reasons of a forecast that is the base rate, as too many inputs are missing to use the model.

    Args:
        p_up: the share of rises in the training window.
        missing: names of the missing inputs.
        horizon: minutes ahead.
    """
    sentence = (
        f"P(up) over {display(horizon)} is {100 * p_up:.1f} %, the share of rises in the training window, as too many "
        f"inputs are missing to use the model: {listed(missing)}."
    )
    return Reasons(p_up, float(log_odds(np.array(p_up))), (), (), 0.0, 0.0, sentence)


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many others there are."""
    others = f" and {len(names) - _NAMED_INPUTS} others" if len(names) > _NAMED_INPUTS else ""
    return ", ".join(names[:_NAMED_INPUTS]) + others


def phrase(feature: Mapping[str, str], value: float) -> str:
    """Return an input and its value in words, for example "close 1.2 % above its simple moving average of 50 bars".

    Args:
        feature: `name`, `about` and `unit` of the input.
        value: its value, NaN if unknown.
    """
    about, unit = feature.get("about") or feature["name"], feature.get("unit", "")
    about = _LENGTH.sub(r" (\1)", about.split(": ")[0].split("; ")[0])
    if math.isnan(value):
        return f"unknown {about}"
    factor, suffix = _SCALES.get(unit, (1, ""))
    relation = _RELATION.match(about)
    if relation and unit == "fraction":
        side = "above" if value >= 0 else "below"
        return f"{relation['what']} {_number(abs(factor * value))}{suffix} {side} {relation['reference']}"
    if unit == "0 or 1":
        return f"{about} ({'yes' if value else 'no'})"
    return f"{about} at {_number(factor * value)}{suffix}"


def _points_per_log_odd(p_up: float, base: float) -> float:
    """Return the percentage points of P(up) for one log-odd."""
    change = float(log_odds(np.array(p_up))) - base
    if abs(change) < _SAME:
        return 100 * p_up * (1 - p_up)
    return 100 * (p_up - float(probability(np.array(base)))) / change


def _moves(points: float, *, several: bool) -> str:
    verb = ("raise" if points >= 0 else "lower") + ("" if several else "s")
    return f"{verb} it by {abs(points):.1f} points"


def _number(value: float) -> str:
    """Return a number with three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    digits = min(max(2 - math.floor(math.log10(abs(value))), 0), 6)
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
