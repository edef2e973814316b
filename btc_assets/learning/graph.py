"""Join several ONNX graphs with the same input into one in memory, so that a prediction is one call.

On disk each graph is a separate file with its own digest. Joining copies nodes and computes nothing, so every column is
bit-identical to the output of its graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx
    import onnxruntime

_ROWS, _COLUMNS = "rows", "columns"
OPSET = 13
"""Version of the standard ONNX operators: of families that write their graphs, and of the joined graph."""
TREE_OPSET = 1
"""Version of the ONNX operators for trees, `ai.onnx.ml`, in every graph."""


class GraphError(ValueError):
    """A graph cannot be run, or its input or output is not as expected."""


class Graphs:
    """Several graphs as one function of rows. Immutable and thread-safe.

    Attributes:
        names: names of the graphs, in the order of the columns.
    """

    def __init__(
        self, graphs: Mapping[str, bytes], width: int, inputs: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        """Join and load graphs.

        Args:
            graphs: serialised ONNX graphs by name. Each takes one float32 tensor (n, f) and returns float32 (n, k)
                as `probabilities` or else as its last output; its last column is used, for two classes class 1.
            width: number of columns of the rows.
            inputs: positions of each graph's f inputs among the columns; by default all columns.

        Raises:
            GraphError: a graph cannot be run or has another signature; the message starts with its name.
        """
        self.names = tuple(graphs)
        positions = {name: tuple(range(width)) if inputs is None else tuple(inputs[name]) for name in graphs}
        joined = _join(graphs, width, positions)
        try:
            self._session = _session(joined)
        except Exception as error:  # onnxruntime's exceptions have no common base class
            if len(graphs) > 1:
                for name, graph in graphs.items():  # find the invalid graph
                    Graphs({name: graph}, width, {name: positions[name]})
            raise GraphError(f"{' with '.join(graphs)} is not a graph ONNX Runtime can run: {error}") from error

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return one column per graph, shape (n, graphs), float64.

        Args:
            rows: float32, shape (n, width), n > 0; NaN means missing.

        Raises:
            GraphError: a graph returns a value that is not finite; the message starts with its name.
        """
        columns: np.ndarray = self._session.run([_COLUMNS], {_ROWS: rows})[0]
        finite = np.isfinite(columns)
        if np.count_nonzero(finite) < finite.size:
            raise GraphError(f"{self.names[np.argwhere(~finite)[0][1]]} returns a value that is not finite")
        return columns


def _join(graphs: Mapping[str, bytes], width: int, inputs: Mapping[str, tuple[int, ...]]) -> bytes:
    """Return one graph whose output is the concatenated columns of all graphs.

    Graphs with the same inputs share one selection of columns; those that read every column share the rows.
    """
    from onnx import TensorProto, compose, helper

    versions: dict[str, int] = {}
    joined = helper.make_graph(
        [],
        "joined",
        [helper.make_tensor_value_info(_ROWS, TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info(_COLUMNS, TensorProto.DOUBLE, [None, len(graphs)])],
        [helper.make_tensor("last", TensorProto.INT64, [1], [-1])],
    )
    columns = []
    selected = {tuple(range(width)): _ROWS}
    for position, (name, content) in enumerate(graphs.items()):
        own = inputs[name]
        if own not in selected:
            selected[own] = f"inputs{len(selected)}"
            joined.initializer.append(
                helper.make_tensor(f"{selected[own]}_positions", TensorProto.INT64, [len(own)], own)
            )
            joined.node.append(
                helper.make_node("Gather", [_ROWS, f"{selected[own]}_positions"], [selected[own]], axis=1)
            )
        model, output = _parsed(name, content, len(own))
        for operators in model.opset_import:
            first = versions.setdefault(operators.domain, operators.version)
            if first != operators.version:
                raise GraphError(
                    f"{name} needs version {operators.version} of the operators {operators.domain or 'ai.onnx'}, "
                    f"earlier graphs version {first}; the graphs of a model must use the same version"
                )
        graph = compose.add_prefix_graph(model.graph, f"{position}/", inplace=True)
        joined.node.append(helper.make_node("Identity", [selected[own]], [graph.input[0].name]))
        joined.node.extend(graph.node)
        joined.initializer.extend(graph.initializer)
        column = graph.output[output]
        if _width(column) == 1:
            columns.append(column.name)
        else:
            joined.node.append(helper.make_node("Gather", [column.name, "last"], [f"{position}"], axis=1))
            columns.append(f"{position}")
    joined.node.append(helper.make_node("Concat", columns, ["all"], axis=1))
    joined.node.append(helper.make_node("Cast", ["all"], [_COLUMNS], to=TensorProto.DOUBLE))
    versions.setdefault("", OPSET)
    imports = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return helper.make_model(joined, opset_imports=imports, ir_version=8).SerializeToString()


def _parsed(name: str, content: bytes, width: int) -> tuple[onnx.ModelProto, int]:
    """Parse a graph; return its model and the position of its output."""
    import onnx

    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf's exceptions are untyped
        raise GraphError(f"{name} is not a graph ONNX Runtime can run: {error}") from error
    inputs = [(entry.type.tensor_type.elem_type, _width(entry)) for entry in model.graph.input]
    outputs = [entry.name for entry in model.graph.output]
    if inputs not in ([(onnx.TensorProto.FLOAT, width)], [(onnx.TensorProto.FLOAT, 0)]) or not outputs:
        raise GraphError(f"{name} must take one float tensor of {width} columns and return a tensor")
    return model, outputs.index("probabilities") if "probabilities" in outputs else len(outputs) - 1


def _width(tensor: onnx.ValueInfoProto) -> int:
    """Return the declared number of columns of a tensor, 0 if it is not declared."""
    shape = tensor.type.tensor_type.shape.dim
    return int(shape[-1].dim_value) if shape else 0


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    """Load a graph with one thread per call: the callers use threads, and OpenMP pools would compete with them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
