"""Graphs opened together yield bit for bit what each yields alone, and the one at fault is named."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from btc_assets.learning.export import booster_to_onnx
from btc_assets.learning.graph import GraphError, Graphs
from btc_assets_tests.serving.builders import tiny_graphs

WIDTH = 4
ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3.4e38, -3.4e38], dtype=np.float32)


@cache
def graphs() -> dict[str, bytes]:
    """Return tiny graphs and two large ones (from 81 trees ONNX Runtime sums in another way), all used to gaps."""
    import xgboost

    rng = np.random.default_rng(11)
    rows = rng.normal(size=(500, WIDTH)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.2] = np.nan
    target = np.nan_to_num(rows[:, 0]) + rng.normal(size=len(rows))
    size = {"n_estimators": 90, "max_depth": 3, "n_jobs": 1}
    rise = xgboost.XGBClassifier(**size).fit(rows, target > 0).get_booster()
    median = xgboost.XGBRegressor(objective="reg:quantileerror", quantile_alpha=0.5, **size).fit(rows, target)
    large = {"rise": booster_to_onnx(rise, WIDTH), "median": booster_to_onnx(median.get_booster(), WIDTH)}
    return large | tiny_graphs()


@cache
def together() -> Graphs:
    """Return all of `graphs`, opened."""
    return Graphs(graphs(), WIDTH)


@cache
def sessions() -> list[onnxruntime.InferenceSession]:
    """Return a session for each of `graphs`, opened by ONNX Runtime itself; two threads would sum in another order."""
    one_thread = onnxruntime.SessionOptions()
    one_thread.intra_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    return [onnxruntime.InferenceSession(graph, one_thread, providers) for graph in graphs().values()]


def apart(rows: np.ndarray) -> np.ndarray:
    """Return what each graph yields alone, a column each."""
    columns = [session.run(None, {session.get_inputs()[0].name: rows})[-1][:, -1] for session in sessions()]
    return np.column_stack(columns).astype(np.float64)


@pytest.mark.parametrize("n", [1, 2, 49, 50, 51, 1_000])
def test_any_rows_in_any_number_get_the_numbers_of_each_graph_alone(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(1 + 100 // n):
        rows = rng.normal(size=(n, WIDTH)).astype(np.float32)
        odd = rng.random(rows.shape) < 0.3
        rows[odd] = rng.choice(ODD, size=odd.sum())
        assert np.array_equal(together()(rows), apart(rows))


def computed(operator: str, *, version: int = 13, width: int = WIDTH) -> bytes:
    """Return a graph of ONNX's own operators: one of them over the largest of a row, parts named as in any other."""
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


def test_graphs_of_other_operators_join_those_of_trees() -> None:
    rows = np.full((2, WIDTH), 4.0, dtype=np.float32)
    mixed = Graphs({"trees": graphs()["rise"], "root": computed("Sqrt"), "negative": computed("Neg")}, WIDTH)
    assert mixed.names == ("trees", "root", "negative")
    assert mixed(rows)[:, 1:].tolist() == [[2.0, -4.0], [2.0, -4.0]]


def test_a_graph_that_yields_no_number_is_named() -> None:
    opened = Graphs({"root": computed("Sqrt"), "logarithm": computed("Log")}, WIDTH)
    with pytest.raises(GraphError, match=r"^logarithm yields a value that is not a number"):
        opened(np.zeros((1, WIDTH), dtype=np.float32))


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        (b"not a graph", "is not a graph ONNX Runtime can run"),
        (b"", "must take one float tensor of 4 columns"),
        (computed("Sqrt", width=WIDTH + 1), "must take one float tensor of 4 columns"),
        (computed("NoSuchOperator"), "is not a graph ONNX Runtime can run"),
        (computed("Sqrt", version=12), "needs version 12"),
    ],
)
def test_the_graph_at_fault_is_named(graph: bytes, sentence: str) -> None:
    with pytest.raises(GraphError, match=rf"^odd {sentence}"):
        Graphs({"even": computed("Neg"), "odd": graph, "last": graphs()["median"]}, WIDTH)


def test_a_graph_of_another_type_is_refused() -> None:
    model = onnx.ModelProto.FromString(computed("Neg"))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(GraphError, match=r"^odd must take one float tensor"):
        Graphs({"odd": model.SerializeToString()}, WIDTH)
