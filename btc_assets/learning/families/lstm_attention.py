"""A long short-term memory over the hours of a sequence, whose states are pooled by attention.

The newest hour's state is also read alone: pooled over 24 hours, what only that hour says would be lost at the start.

Sources: S. Hochreiter, J. Schmidhuber (1997), Long short-term memory; Z. Lin et al. (2017), A structured self-attentive
sentence embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np

from btc_assets.learning.families.network import (
    Network,
    NetworkOutput,
    NetworkParameters,
    Weights,
    fit_network,
    lookback,
    uniform,
    zeros,
)
from btc_assets.learning.families.protocol import Family, Fit, Inputs, Vector

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class LstmParameters(NetworkParameters):
    """Parameters of one horizon's network.

    Attributes:
        units: units of the memory, in each direction.
        bidirectional: whether a second memory reads the sequence from its newest hour to its oldest.
    """

    units: int = 24
    bidirectional: bool = False


def _directions(parameters: LstmParameters) -> tuple[str, ...]:
    return ("forward", "backward") if parameters.bidirectional else ("forward",)


def initial(random: np.random.Generator, features: int, parameters: LstmParameters) -> Weights:
    """Return the weights at the start; the forget gates are open."""
    units = parameters.units
    weights: Weights = {"attention.bias": zeros(units), "attention.query": uniform(random, units, 1)}
    for direction in _directions(parameters):
        bias = zeros(4 * units)
        bias[units : 2 * units] = 1.0
        weights |= {
            f"{direction}.inputs": uniform(random, features, 4 * units),
            f"{direction}.recurrent": uniform(random, units, 4 * units),
            f"{direction}.bias": bias,
            f"{direction}.attention": uniform(random, units, units),
            f"{direction}.head": zeros(units, 1),
            f"{direction}.newest_head": zeros(units, 1),
        }
    return weights


def score(weights: Mapping[str, Any], hours: Any, drop: Callable[[Any], Any], parameters: LstmParameters) -> Any:
    """Return the log-odds of a rise, see `Network.score`."""
    directions, places = _directions(parameters), range(parameters.lookback)
    states = {
        direction: [drop(state) for state in _states(weights, direction, hours, parameters)] for direction in directions
    }
    attention = []
    for place in places:
        keys = [states[direction][place] @ weights[f"{direction}.attention"] for direction in directions]
        hidden = (reduce(add, keys) + weights["attention.bias"]).tanh()
        attention.append((hidden @ weights["attention.query"]).exp())
    total = reduce(add, attention)
    result = weights["head.bias"]
    for direction in directions:
        pooled = reduce(add, [attention[place] * states[direction][place] for place in places]) / total
        result = drop(pooled) @ weights[f"{direction}.head"] + result
        result = states[direction][-1] @ weights[f"{direction}.newest_head"] + result
    return result


def _states(weights: Mapping[str, Any], direction: str, hours: Any, parameters: LstmParameters) -> list[Any]:
    """Return the state after each hour, in the order of time, (n, units) each."""
    units, backward = parameters.units, direction == "backward"
    projected = hours @ weights[f"{direction}.inputs"] + weights[f"{direction}.bias"]
    states: list[Any] = []
    cell = None
    for step in range(parameters.lookback):
        gates = projected.select(1, parameters.lookback - 1 - step if backward else step)
        if states:
            gates = gates + states[-1] @ weights[f"{direction}.recurrent"]
        admit, forget, show = (gates.narrow(1, place * units, units).sigmoid() for place in range(3))
        candidate = admit * gates.narrow(1, 3 * units, units).tanh()
        cell = candidate if cell is None else forget * cell + candidate
        states.append(show * cell.tanh())
    return states[::-1] if backward else states


NETWORK = Network(LstmParameters, initial, score)


def fit_direction(
    inputs: Inputs, up: Vector, weights: Vector, parameters: LstmParameters, fit: Fit
) -> NetworkOutput[LstmParameters]:
    """Fit P(up), see `network.fit_network`."""
    return fit_network(NETWORK, inputs, up, weights, parameters, fit)


def read(content: bytes, width: int) -> NetworkOutput[LstmParameters]:
    """Read the output of `NetworkOutput.native`."""
    return NetworkOutput.read(NETWORK, content, width)


def suggest(trial: optuna.trial.BaseTrial, incumbent: LstmParameters) -> LstmParameters:
    """Suggest the size of the network and how strongly it is held back."""
    return replace(
        incumbent,
        units=trial.suggest_int("units", 8, 64, log=True),
        bidirectional=trial.suggest_categorical("bidirectional", [False, True]),
        dropout=trial.suggest_float("dropout", 0.0, 0.6),
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-3, 1.0, log=True),
    )


FAMILY = Family(
    name="lstm_attention",
    about="a long short-term memory over the last hours with attention; torch",
    parameters=LstmParameters,
    suggest=suggest,
    fit_direction=fit_direction,
    read=read,
    lookback=lookback,
    suffix="safetensors",
    exact_contributions=False,
    needs=("torch", "safetensors"),
    extra="deep",
)
