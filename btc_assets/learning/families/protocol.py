"""The interface of a model family: its parameters, how it is fitted, and what a fitted output can do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import optuna

Inputs = npt.NDArray[np.float32]
"""Rows, (n, lookback * f): the features of `lookback` hours next to each other, oldest first; NaN means missing."""
Vector = npt.NDArray[np.float64]
Curve = Callable[[str, int, float], None]
"""Receives a training curve: the name of the loss, the step (round or epoch, from 0) and the value."""
LOG_LOSS = "log_loss"
"""Name of the curve of P(up) over the training rows, nats."""
VALIDATION_LOG_LOSS = "validation_log_loss"
"""Name of the curve of P(up) over the training rows on which fitting stops, nats."""

PARITY_TOLERANCE = 1e-5
"""Maximum |ONNX - library| of a graph, as probability or scaled return, if the family does not state another."""


@dataclass(frozen=True)
class Parameters:
    """Parameters of one horizon's fits; a family adds its own as fields with defaults, in JSON types.

    Attributes:
        half_life_days: age at which the weight of an hour is half that of the newest one.
    """

    half_life_days: float = 365.0

    def to_json(self) -> str:
        """Return the parameters as a JSON object with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the output of `to_json`.

        Raises:
            ValueError: a name is unknown.
        """
        stored = json.loads(text)
        unknown = set(stored) - {entry.name for entry in fields(cls)}
        if unknown:
            raise ValueError(f"{cls.__name__} has no parameters {sorted(unknown)}: tune this cutoff again")
        return cls(**stored)


P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True)
class Fit:
    """The circumstances of fits on the same rows. Not thread-safe: every thread has its own.

    Attributes:
        names: the f features of a row, in column order.
        seed: seed of the fit; the same seed, rows and threads give the same model.
        threads: threads of one fit.
        curve: receives the training curve of families that are fitted in steps; None: none is computed.
        prepared: what a family keeps between fits on the same rows, such as binned rows. `dataclasses.replace` with
            another seed shares it.
    """

    names: tuple[str, ...]
    seed: int = 0
    threads: int = 1
    curve: Curve | None = None
    prepared: dict[str, Any] = field(default_factory=dict)

    def draw(self, name: str, values: Iterable[float]) -> None:
        """Pass a training curve on, one value a step; the values are not computed if nothing receives them."""
        if self.curve is not None:
            for step, value in enumerate(values):
                self.curve(name, step, float(value))


class FittedOutput(Protocol):
    """One fitted output: P(up), one quantile or the size.

    Its *score* is the log-odds of P(up), or the value itself of other outputs.
    """

    @property
    def trees(self) -> int:
        """Number of trees, 0 if it has none."""
        ...

    @property
    def base(self) -> float:
        """Score without any contribution."""
        ...

    def predict(self, inputs: Inputs) -> Vector:
        """Return the library's output, (n,)."""
        ...

    def contributions(self, inputs: Inputs) -> Vector | None:
        """Return the SHAP values of every row, (n, lookback * f); with `base` they add up to the score.

        None if the family has no such values.
        """
        ...

    def onnx(self) -> bytes:
        """Return the ONNX graph: float32 input (n, lookback * f) with NaN as missing, see `graph.Graphs`."""
        ...

    def native(self) -> bytes:
        """Return the output in a portable format that `Family.read` reads; never a pickle."""
        ...


DirectionFit = Callable[[Inputs, Vector, Vector, P, Fit], FittedOutput]
QuantilesFit = Callable[[Inputs, Vector, Vector, P, Fit], Mapping[str, FittedOutput]]


def _one_row(_: Parameters) -> int:
    return 1


@dataclass(frozen=True)
class Family(Generic[P]):
    """A kind of model. `CONTRIBUTING.md` says how to add one.

    Attributes:
        name: its name in `BTC_FAMILIES`, tables and documents.
        about: one sentence.
        parameters: its parameters; all have defaults.
        suggest: (trial, incumbent) -> the parameters of a trial of an Optuna study.
        fit_direction: (inputs, up, weights, parameters, fit) -> P(up). `up` (n,) is 1.0 where the return was positive,
            `weights` (n,) are row weights, in units of an independent outcome of the newest hour: penalties and minimum
            leaves are in these units too.
        read: (native file, number of input columns) -> the output, the inverse of `FittedOutput.native`.
        fit_quantiles: like `fit_direction` on scaled returns (log return over the volatility of the row, see
            `forecast_model.row_scale`) -> one output per name in `vocabulary.QUANTILE_NAMES`; None if it has none,
            and of families with a lookback above 1.
        fit_size: like `fit_direction` on a real target -> its conditional mean; None if it has none.
        lookback: number of hours in one row of the inputs, for its parameters.
        suffix: file name suffix of the native format.
        parity_tolerance: maximum |ONNX - library| of its graphs.
        stochastic: whether a fit depends on the seed.
        exact_contributions: whether contributions are Shapley values of the score, not an approximation.
        needs: modules it imports that the base install lacks.
        extra: the extra of this project that brings them.
    """

    name: str
    about: str
    parameters: type[P]
    suggest: Callable[[optuna.trial.BaseTrial, P], P]
    fit_direction: DirectionFit[P]
    read: Callable[[bytes, int], FittedOutput]
    fit_quantiles: QuantilesFit[P] | None = None
    fit_size: DirectionFit[P] | None = None
    lookback: Callable[[P], int] = _one_row
    suffix: str = "json"
    parity_tolerance: float = PARITY_TOLERANCE
    stochastic: bool = True
    exact_contributions: bool = True
    needs: tuple[str, ...] = ()
    extra: str = ""
