"""Joined graphs give bit-identical outputs, and errors name the invalid graph."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from btc_assets.learning.families.xgboost import Booster
from btc_assets.learning.graph import GraphError, Graphs
from btc_assets_tests.serving.builders import tiny_graphs

WIDTH = 4
ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3.4e38, -3.4e38], dtype=np.float32)


@cache
def graphs() -> dict[str, bytes]:
    """Return tiny graphs and two large ones (from 81 trees on, ONNX Runtime sums differently), with missing values."""
    import xgboost

    rng = np.random.default_rng(11)
    rows = rng.normal(size=(500, WIDTH)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.2] = np.nan
    target = np.nan_to_num(rows[:, 0]) + rng.normal(size=len(rows))
    size = {"n_estimators": 90, "max_depth": 3, "n_jobs": 1}
    rise = xgboost.XGBClassifier(**size).fit(rows, target > 0).get_booster()
    median = xgboost.XGBRegressor(objective="reg:quantileerror", quantile_alpha=0.5, **size).fit(rows, target)
    large = {"rise": Booster(rise, WIDTH).onnx(), "median": Booster(median.get_booster(), WIDTH).onnx()}
    return large | tiny_graphs()


@cache
def inputs() -> dict[str, list[int]]:
    """Return the columns that each of `graphs` reads: all, or fewer, in an order of their own."""
    own = {"plain": [3, 0, 1], "size": [2]}
    return {name: own.get(name.partition(".")[0], [0, 1, 2, 3]) for name in graphs()}


@cache
def joined() -> Graphs:
    """Return all of `graphs`, joined."""
    return Graphs(graphs(), WIDTH, inputs())


@cache
def sessions() -> list[onnxruntime.InferenceSession]:
    """Return an ONNX Runtime session for each of `graphs`, with one thread, as two would sum in another order."""
    one_thread = onnxruntime.SessionOptions()
    one_thread.intra_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    return [onnxruntime.InferenceSession(graph, one_thread, providers) for graph in graphs().values()]


def separate_outputs(rows: np.ndarray) -> np.ndarray:
    """Return the output of each graph alone, one column per graph."""
    columns = [
        session.run(None, {session.get_inputs()[0].name: rows[:, own]})[-1][:, -1]
        for session, own in zip(sessions(), inputs().values(), strict=True)
    ]
    return np.column_stack(columns).astype(np.float64)


@pytest.mark.parametrize("n", [1, 2, 49, 50, 51, 1_000])
def test_joined_graphs_give_the_outputs_of_the_separate_graphs(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(1 + 100 // n):
        rows = rng.normal(size=(n, WIDTH)).astype(np.float32)
        odd = rng.random(rows.shape) < 0.3
        rows[odd] = rng.choice(ODD, size=odd.sum())
        assert np.array_equal(joined()(rows), separate_outputs(rows))


def operator_graph(operator: str, *, version: int = 13, width: int = WIDTH) -> bytes:
    """Return a graph that applies a standard ONNX operator to the maximum of a row."""
    nodes = [
        helper.make_node("ReduceMax", ["inputs"], ["variable"], axes=[1]),
        helper.make_node(operator, ["variable"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "computed",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 1])],
    )
    imports = [helper.make_opsetid("", version)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


def test_graphs_of_standard_operators_can_be_joined_with_tree_graphs() -> None:
    rows = np.full((2, WIDTH), 4.0, dtype=np.float32)
    mixed = Graphs(
        {"trees": graphs()["rise"], "root": operator_graph("Sqrt"), "negative": operator_graph("Neg")}, WIDTH
    )
    assert mixed.names == ("trees", "root", "negative")
    assert mixed(rows)[:, 1:].tolist() == [[2.0, -4.0], [2.0, -4.0]]


def test_a_graph_with_a_non_finite_output_is_named() -> None:
    opened = Graphs({"root": operator_graph("Sqrt"), "logarithm": operator_graph("Log")}, WIDTH)
    with pytest.raises(GraphError, match=r"^logarithm returns a value that is not finite"):
        opened(np.zeros((1, WIDTH), dtype=np.float32))


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        (b"not a graph", "is not a graph ONNX Runtime can run"),
        (b"", "must take one float tensor of 4 columns"),
        (operator_graph("Sqrt", width=WIDTH + 1), "must take one float tensor of 4 columns"),
        (operator_graph("NoSuchOperator"), "is not a graph ONNX Runtime can run"),
        (operator_graph("Sqrt", version=12), "needs version 12"),
    ],
)
def test_an_invalid_graph_is_named(graph: bytes, sentence: str) -> None:
    with pytest.raises(GraphError, match=rf"^odd {sentence}"):
        Graphs({"even": operator_graph("Neg"), "odd": graph, "last": graphs()["median"]}, WIDTH)


def test_a_graph_of_another_type_is_refused() -> None:
    model = onnx.ModelProto.FromString(operator_graph("Neg"))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(GraphError, match=r"^odd must take one float tensor"):
        Graphs({"odd": model.SerializeToString()}, WIDTH)
