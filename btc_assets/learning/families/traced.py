"""Write the ONNX graph of a function of tensors by running the function on stand-ins that record its operations.

A `Traced` has the operators and methods of a torch tensor that the networks use, by the same names and with the same
meaning, so one definition of a network serves for training and for its graph. Values are float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from btc_assets.learning.families.protocol import Vector
from btc_assets.learning.graph import OPSET


@dataclass
class Trace:
    """The operations recorded so far."""

    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def constant(self, value: Any) -> Traced:
        """Return a stand-in of a number or an array."""
        return Traced(self, self._stored(np.asarray(value, dtype=np.float64)))

    def _stored(self, value: np.ndarray) -> str:
        name = f"constant{len(self.constants)}"
        self.constants[name] = value
        return name

    def record(self, operator: str, *inputs: Any, integers: tuple[Any, ...] = (), **attributes: Any) -> Traced:
        """Record an operation and return a stand-in of its result.

        Args:
            operator: name of the ONNX operator.
            inputs: stand-ins, numbers or names of tensors.
            integers: further inputs, of integers.
            attributes: of the operator.
        """
        from onnx import helper

        names = [value if isinstance(value, str) else self._named(value) for value in inputs]
        names += [self._stored(np.array(value, dtype=np.int64)) for value in integers]
        result = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [result], **attributes))
        return Traced(self, result)

    def _named(self, value: Any) -> str:
        return value.name if isinstance(value, Traced) else self.constant(value).name

    def graph(self, width: int) -> bytes:
        """Return the graph with float32 input `inputs` (n, width) and float32 output (n, 1), the last result."""
        from onnx import TensorProto, helper, numpy_helper

        last = self.nodes[-1].output[0]
        graph = helper.make_graph(
            [*self.nodes, helper.make_node("Cast", [last], ["output"], to=TensorProto.FLOAT)],
            "network",
            [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, width])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, [None, 1])],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        return bytes(model.SerializeToString(deterministic=True))


@dataclass(frozen=True)
class Traced:
    """Stand-in of a tensor.

    Attributes:
        trace: where operations are recorded.
        name: name of the tensor in the graph.
    """

    trace: Trace
    name: str

    @classmethod
    def inputs(cls) -> Traced:
        """Start a graph: return a stand-in of its inputs as float64, (n, width)."""
        from onnx import TensorProto

        return Trace().record("Cast", "inputs", to=TensorProto.DOUBLE)

    def standardised(self, low: Vector, high: Vector, mean: Vector, spread: Vector) -> Traced:
        """Return the last axis as `linear.Scaling` scales it: winsorised, standardised, a missing value as 0."""
        record = self.trace.record
        known = record("Where", record("IsNaN", self), mean, self)
        return (record("Min", record("Max", known, low), high) - mean) / spread

    def __add__(self, other: Any) -> Traced:
        return self.trace.record("Add", self, other)

    def __sub__(self, other: Any) -> Traced:
        return self.trace.record("Sub", self, other)

    def __mul__(self, other: Any) -> Traced:
        return self.trace.record("Mul", self, other)

    def __truediv__(self, other: Any) -> Traced:
        return self.trace.record("Div", self, other)

    def __matmul__(self, other: Any) -> Traced:
        return self.trace.record("MatMul", self, other)

    def sigmoid(self) -> Traced:
        """Return the logistic function of each value."""
        return self.trace.record("Sigmoid", self)

    def tanh(self) -> Traced:
        """Return the hyperbolic tangent of each value."""
        return self.trace.record("Tanh", self)

    def relu(self) -> Traced:
        """Return each value, 0 where it is negative."""
        return self.trace.record("Relu", self)

    def exp(self) -> Traced:
        """Return e to the power of each value."""
        return self.trace.record("Exp", self)

    def sqrt(self) -> Traced:
        """Return the square root of each value."""
        return self.trace.record("Sqrt", self)

    def softmax(self, axis: int) -> Traced:
        """Return the values as positive shares that add up to 1 along an axis."""
        return self.trace.record("Softmax", self, axis=axis)

    def mean(self, axis: int, *, keepdim: bool) -> Traced:
        """Return the mean along an axis."""
        return self.trace.record("ReduceMean", self, axes=[axis], keepdims=int(keepdim))

    def permute(self, *axes: int) -> Traced:
        """Return the values with their axes in another order."""
        return self.trace.record("Transpose", self, perm=list(axes))

    def reshape(self, *shape: int) -> Traced:
        """Return the values in another shape."""
        return self.trace.record("Reshape", self, integers=(shape,))

    def select(self, axis: int, index: int) -> Traced:
        """Return the values at one place of an axis, without the axis."""
        return self.trace.record("Gather", self, integers=(index,), axis=axis)

    def narrow(self, axis: int, start: int, length: int) -> Traced:
        """Return the values at consecutive places of an axis."""
        return self.trace.record("Slice", self, integers=([start], [start + length], [axis]))
