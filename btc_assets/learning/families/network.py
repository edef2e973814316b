"""Networks on sequences of hours: fitting with early stopping, prediction, graph, storage and contributions.

A network is a function of weights and of scaled hours, (n, lookback, f), oldest first; see `Network`. Columns are
scaled by `linear.Scaling`, with the same constants for every hour of a sequence, and a missing value becomes 0. The
function is run by torch, in float32 to fit and in float64 to forecast, and written as a graph by `traced`. In float64
neither the size of a batch nor the place of a row in it changes a forecast.

The newest tenth of the rows, after a purge, decides when fitting stops and which epoch's weights are kept. Epoch 0 is
the base rate: if no epoch improves on it, that is the forecast.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt

from btc_assets.learning.families.linear import Scaling, base_rate, one_class
from btc_assets.learning.families.protocol import LOG_LOSS, VALIDATION_LOG_LOSS, Fit, Inputs, Parameters, Vector
from btc_assets.learning.families.traced import Traced
from btc_assets.learning.forecast_model import log_odds
from btc_assets.vocabulary import HORIZONS, hours_spanned

if TYPE_CHECKING:
    import torch

VALIDATION_SHARE = 0.1
"""Share of the rows, the newest, on which fitting stops."""
PURGE_ROWS = hours_spanned(max(HORIZONS)) + 1
"""Rows left out before them, whose labels may be known only after their start."""
CHUNK = 512
"""Rows at a time outside of fitting."""
PATH_POINTS = 16
"""Points of the integral of a contribution."""

Weights = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class NetworkParameters(Parameters):
    """Parameters of every network.

    Attributes:
        lookback: hours of a sequence.
        dropout: share of units that are dropped while fitting and by `NetworkOutput.uncertainty`.
        learning_rate: step size of AdamW.
        weight_decay: its decay of weights.
        batch_rows: rows of a step.
        max_epochs: maximum number of passes over the rows.
        patience: epochs without improvement after which fitting stops.
    """

    lookback: int = 24
    dropout: float = 0.3
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    batch_rows: int = 256
    max_epochs: int = 20
    patience: int = 3


P = TypeVar("P", bound=NetworkParameters)


@dataclass(frozen=True)
class Network(Generic[P]):
    """The definition of a network.

    Attributes:
        parameters: type of its parameters.
        initial: (random numbers, f, parameters) -> the weights at the start, by name; `head` and what else reads the
            last layer are 0, so that the score is that of `head.bias`, (1,), which `fit_network` sets.
        score: (weights, hours (n, lookback, f), dropout, parameters) -> log-odds of a rise, (n, 1). Tensors are those
            of torch or of `traced`, dropout is a function of a tensor.
    """

    parameters: type[P]
    initial: Callable[[np.random.Generator, int, P], Weights]
    score: Callable[[Mapping[str, Any], Any, Callable[[Any], Any], P], Any]


@dataclass(frozen=True, eq=False)
class NetworkOutput(Generic[P]):
    """A fitted P(up).

    Attributes:
        network: its definition.
        parameters: its parameters.
        scaling: scaling of the columns of an hour.
        weights: weights by name.
    """

    network: Network[P]
    parameters: P
    scaling: Scaling
    weights: Weights

    @classmethod
    def read(cls, network: Network[P], content: bytes, width: int) -> Self:
        """Read the output of `native`.

        Raises:
            ValueError: it has another number of columns.
        """
        from safetensors.numpy import load

        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        parameters = network.parameters.from_json(header["__metadata__"]["parameters"])
        arrays = load(content)
        scaling = Scaling(**{name: arrays.pop(f"scaling.{name}") for name in ("low", "high", "mean", "spread")})
        if (own := parameters.lookback * len(scaling.mean)) != width:
            raise ValueError(f"expected an output of {width} columns, got one of {own}")
        return cls(network, parameters, scaling, arrays)

    @property
    def trees(self) -> int:
        """Number of trees: none."""
        return 0

    @property
    def base(self) -> float:
        """Score of a sequence in which every column has its mean."""
        return float(self._scores(np.zeros((1, self.parameters.lookback, len(self.scaling.mean)))).item())

    def predict(self, inputs: Inputs) -> Vector:
        """Return P(up), (n,)."""
        return _sigmoid(np.concatenate([self._scores(hours) for hours in self._chunks(inputs)]))

    def uncertainty(self, inputs: Inputs, samples: int, seed: int) -> Vector:
        """Return the standard deviation of P(up) over random dropouts, (n,).

        Source: Y. Gal, Z. Ghahramani (2016), Dropout as a Bayesian approximation.

        Args:
            inputs: rows, (n, lookback * f).
            samples: number of dropouts.
            seed: seed of the dropouts.
        """
        import torch

        drop = _dropout(self.parameters.dropout, torch.Generator().manual_seed(seed))
        spreads = []
        for hours in self._chunks(inputs):
            p_up = [_sigmoid(self._scores(hours, drop)) for _ in range(samples)]
            spreads.append(np.std(p_up, axis=0))
        return np.concatenate(spreads)

    def contributions(self, inputs: Inputs) -> Vector:
        """Return approximate SHAP values, (n, lookback * f): integrated gradients from the mean of every column.

        What numerical integration leaves is shared out by size, so that they add up to the score.

        Source: M. Sundararajan, A. Taly, Q. Yan (2017), Axiomatic attribution for deep networks.
        """
        return np.concatenate([self._integrated_gradients(hours) for hours in self._chunks(inputs)])

    def _integrated_gradients(self, hours: Vector) -> Vector:
        import torch

        weights, end = self._tensors(), torch.from_numpy(hours)
        gradient = torch.zeros_like(end)
        points, shares = np.polynomial.legendre.leggauss(PATH_POINTS)
        for point, share in zip((points + 1) / 2, shares / 2, strict=True):
            at = (end * point).requires_grad_()
            total = self.network.score(weights, at, _keep, self.parameters).sum()
            gradient += share * torch.autograd.grad(total, at)[0]
        values = (end * gradient).numpy().reshape(len(hours), -1)
        sizes = np.abs(values) + np.finfo(np.float64).tiny
        rest = self._scores(hours) - self.base - values.sum(axis=1)
        return np.asarray(values + sizes * (rest / sizes.sum(axis=1))[:, None])

    def onnx(self) -> bytes:
        """Return the ONNX graph with input `inputs`."""
        shape = (-1, self.parameters.lookback, len(self.scaling.mean))
        hours = Traced.inputs().reshape(*shape).standardised(**vars(self.scaling))
        weights = {name: hours.trace.constant(value) for name, value in sorted(self.weights.items())}
        p_up = self.network.score(weights, hours, _keep, self.parameters).sigmoid()
        return bytes(p_up.trace.graph(shape[1] * shape[2]))

    def native(self) -> bytes:
        """Return weights and scaling as safetensors, with the parameters in its JSON header."""
        from safetensors.numpy import save

        arrays = {f"scaling.{name}": value for name, value in asdict(self.scaling).items()} | self.weights
        return bytes(save(arrays, {"parameters": self.parameters.to_json()}))

    def _chunks(self, inputs: Inputs) -> Iterator[Vector]:
        for start in range(0, len(inputs), CHUNK):
            yield _scaled(self.scaling, inputs[start : start + CHUNK], self.parameters.lookback)

    def _tensors(self) -> dict[str, torch.Tensor]:
        import torch

        torch.set_num_threads(1)
        return {name: torch.from_numpy(value).double() for name, value in self.weights.items()}

    def _scores(self, hours: Vector, drop: Callable[[Any], Any] | None = None) -> Vector:
        import torch

        with torch.no_grad():
            score = self.network.score(self._tensors(), torch.from_numpy(hours), drop or _keep, self.parameters)
        return np.asarray(score.numpy()[:, 0])


def fit_network(
    network: Network[P], inputs: Inputs, up: Vector, weights: Vector, parameters: P, fit: Fit
) -> NetworkOutput[P]:
    """Fit P(up) by logistic loss with AdamW; the weights are those of the epoch with the least validation loss."""
    import torch

    features = inputs.shape[1] // parameters.lookback
    scaling = Scaling.of(inputs[:, -features:])
    random = np.random.default_rng(fit.seed)
    best = network.initial(random, features, parameters)
    best["head.bias"] = log_odds(np.array([base_rate(up, weights)])).astype(np.float32)
    first = len(up) - round(len(up) * VALIDATION_SHARE)
    train = first - PURGE_ROWS
    if one_class(up) or train < 1:
        return NetworkOutput(network, parameters, scaling, best)
    torch.set_num_threads(fit.threads)
    drop = _dropout(parameters.dropout, torch.Generator().manual_seed(fit.seed))
    hours = torch.empty((len(inputs), parameters.lookback, features))
    for start in range(0, len(inputs), CHUNK):
        part = slice(start, start + CHUNK)
        hours[part] = torch.from_numpy(_scaled(scaling, inputs[part], parameters.lookback))
    rose, share = (torch.from_numpy(values.astype(np.float32))[:, None] for values in (up, weights / weights.mean()))
    tensors = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in best.items()}
    optimiser = torch.optim.AdamW(
        list(tensors.values()), lr=parameters.learning_rate, weight_decay=parameters.weight_decay
    )

    def loss(rows: Any, dropout: Callable[[Any], Any]) -> torch.Tensor:
        """Return the sum of the weighted losses of some rows."""
        score = network.score(tensors, hours[rows], dropout, parameters)
        return torch.nn.functional.binary_cross_entropy_with_logits(
            score, rose[rows], weight=share[rows], reduction="sum"
        )

    def validation_loss() -> float:
        with torch.no_grad():
            parts = [slice(start, start + CHUNK) for start in range(first, len(up), CHUNK)]
            return float(sum(loss(part, _keep) for part in parts) / share[first:].sum())

    least, waited = validation_loss(), 0
    curve, validation_curve = list[float](), list[float]()
    for _ in range(parameters.max_epochs):
        total = 0.0
        for batch in np.array_split(random.permutation(train), -(-train // parameters.batch_rows)):
            batch_loss = loss(torch.from_numpy(batch), drop)
            optimiser.zero_grad()
            (batch_loss / len(batch)).backward()
            optimiser.step()
            total += float(batch_loss.detach())
        curve.append(total / float(share[:train].sum()))
        validation_curve.append(validation_loss())
        waited += 1
        if validation_curve[-1] < least:
            least, waited = validation_curve[-1], 0
            best = {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}
        if waited >= parameters.patience:
            break
    fit.draw(LOG_LOSS, curve)
    fit.draw(VALIDATION_LOG_LOSS, validation_curve)
    return NetworkOutput(network, parameters, scaling, best)


def uniform(random: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    """Return random weights of a layer, (..., inputs, outputs), whose outputs vary as much as its inputs.

    Source: X. Glorot, Y. Bengio (2010), Understanding the difficulty of training deep feedforward neural networks.
    """
    limit = np.sqrt(6 / (shape[-2] + shape[-1]))
    return random.uniform(-limit, limit, shape).astype(np.float32)


def zeros(*shape: int) -> npt.NDArray[np.float32]:
    """Return weights of 0."""
    return np.zeros(shape, dtype=np.float32)


def lookback(parameters: NetworkParameters) -> int:
    """Return the hours of a sequence."""
    return parameters.lookback


def _scaled(scaling: Scaling, inputs: Inputs, hours: int) -> Vector:
    """Return rows as scaled sequences, (n, hours, f)."""
    features = len(scaling.mean)
    return scaling(inputs.reshape(-1, features)).reshape(-1, hours, features)


def _keep(values: Any) -> Any:
    return values


def _dropout(rate: float, generator: torch.Generator) -> Callable[[Any], Any]:
    """Return dropout with random numbers of its own: torch's are shared by the threads of a process."""
    import torch

    def drop(values: torch.Tensor) -> torch.Tensor:
        return values * torch.empty_like(values).bernoulli_(1 - rate, generator=generator) / (1 - rate)

    return drop


def _sigmoid(score: Vector) -> Vector:
    return np.asarray(1 / (1 + np.exp(-score)))
