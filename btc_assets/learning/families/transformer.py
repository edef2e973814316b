"""A transformer encoder over the hours of a sequence; the newest hour's vector gives P(up).

Layers normalise their inputs, which trains without a warm-up. Every hour sees every other: all are past.

Sources: A. Vaswani et al. (2017), Attention is all you need; R. Xiong et al. (2020), On layer normalization in the
transformer architecture.
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

EPSILON = 1e-5
"""Added to the variance of a vector that is normalised."""


@dataclass(frozen=True)
class TransformerParameters(NetworkParameters):
    """Parameters of one horizon's network.

    Attributes:
        layers: number of layers.
        heads: attention heads of a layer.
        head_width: width of a head; the vector of an hour has `heads * head_width` numbers.
    """

    layers: int = 2
    heads: int = 2
    head_width: int = 16


def initial(random: np.random.Generator, features: int, parameters: TransformerParameters) -> Weights:
    """Return the weights at the start."""
    width, head_width = parameters.heads * parameters.head_width, parameters.head_width
    weights: Weights = {
        "embedding": uniform(random, features, width),
        "position": (0.1 * random.normal(size=(parameters.lookback, width))).astype(np.float32),
        "head": zeros(width, 1),
    }
    for layer in range(parameters.layers):
        for head in range(parameters.heads):
            part = f"{layer}.{head}"
            weights |= {f"{part}.{name}": uniform(random, width, head_width) for name in ("query", "key", "value")}
            weights[f"{part}.output"] = uniform(random, head_width, width)
        weights |= {
            f"{layer}.wide": uniform(random, width, 2 * width),
            f"{layer}.wide_bias": zeros(2 * width),
            f"{layer}.narrow": uniform(random, 2 * width, width),
            f"{layer}.narrow_bias": zeros(width),
        }
    return weights


def score(weights: Mapping[str, Any], hours: Any, drop: Callable[[Any], Any], parameters: TransformerParameters) -> Any:
    """Return the log-odds of a rise, see `Network.score`."""
    values = hours @ weights["embedding"] + weights["position"]
    for layer in range(parameters.layers):
        normal = _normalised(values)
        heads = [_attended(weights, f"{layer}.{head}", normal, parameters) for head in range(parameters.heads)]
        values = values + drop(reduce(add, heads))
        wide = (_normalised(values) @ weights[f"{layer}.wide"] + weights[f"{layer}.wide_bias"]).relu()
        values = values + drop(wide @ weights[f"{layer}.narrow"] + weights[f"{layer}.narrow_bias"])
    newest = _normalised(values.select(1, parameters.lookback - 1))
    return drop(newest) @ weights["head"] + weights["head.bias"]


def _attended(weights: Mapping[str, Any], part: str, hours: Any, parameters: TransformerParameters) -> Any:
    """Return what one head adds to every hour, (n, lookback, width)."""
    query, key, value = (hours @ weights[f"{part}.{name}"] for name in ("query", "key", "value"))
    attention = (query @ key.permute(0, 2, 1) / parameters.head_width**0.5).softmax(-1)
    return attention @ value @ weights[f"{part}.output"]


def _normalised(values: Any) -> Any:
    """Return vectors with mean 0 and variance 1 along the last axis."""
    centred = values - values.mean(-1, keepdim=True)
    return centred / ((centred * centred).mean(-1, keepdim=True) + EPSILON).sqrt()


NETWORK = Network(TransformerParameters, initial, score)


def fit_direction(
    inputs: Inputs, up: Vector, weights: Vector, parameters: TransformerParameters, fit: Fit
) -> NetworkOutput[TransformerParameters]:
    """Fit P(up), see `network.fit_network`."""
    return fit_network(NETWORK, inputs, up, weights, parameters, fit)


def read(content: bytes, width: int) -> NetworkOutput[TransformerParameters]:
    """Read the output of `NetworkOutput.native`."""
    return NetworkOutput.read(NETWORK, content, width)


def suggest(trial: optuna.trial.BaseTrial, incumbent: TransformerParameters) -> TransformerParameters:
    """Suggest the size of the network and how strongly it is held back."""
    return replace(
        incumbent,
        layers=trial.suggest_int("layers", 1, 3),
        head_width=trial.suggest_int("head_width", 4, 32, log=True),
        dropout=trial.suggest_float("dropout", 0.0, 0.6),
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-3, 1.0, log=True),
    )


FAMILY = Family(
    name="transformer",
    about="a transformer encoder over the last hours; torch",
    parameters=TransformerParameters,
    suggest=suggest,
    fit_direction=fit_direction,
    read=read,
    lookback=lookback,
    suffix="safetensors",
    exact_contributions=False,
    needs=("torch", "safetensors"),
    extra="deep",
)
