"""Trees as arrays: what families without a portable format of their own are stored as, exported from and explained by.

A row goes left at a node if its value is at most the threshold; each node states the side of a missing value.
Thresholds are float32, rounded down, so that a float32 value compares with them as with a library's float64 threshold.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from btc_assets.learning.families.protocol import Inputs, Vector
from btc_assets.learning.forecast_model import log_odds
from btc_assets.learning.graph import TREE_OPSET, Graphs

Output = Literal["value", "log_odds", "probability"]
"""What the sum of the leaves is: the output itself, the log-odds of P(up), or P(up)."""


@dataclass(frozen=True, eq=False)
class Tree:
    """One tree; node 0 is its root.

    Attributes:
        feature: column that a node splits, -1 at a leaf, (nodes,).
        threshold: upper bound of the left side, (nodes,).
        missing_left: whether a missing value goes left, (nodes,).
        left: node of the left side, (nodes,).
        right: node of the right side, (nodes,).
        value: value of a leaf, (nodes,).
        cover: weight of the training rows that reach a node, (nodes,).
    """

    feature: npt.NDArray[np.int64]
    threshold: npt.NDArray[np.float32]
    missing_left: npt.NDArray[np.bool_]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    value: Vector
    cover: Vector


def rounded_down(threshold: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return the largest float32 values that are <= float64 thresholds."""
    largest = np.finfo(np.float32).max
    exact = np.clip(np.asarray(threshold, dtype=np.float64), -largest, largest)
    nearest = exact.astype(np.float32)
    with np.errstate(over="ignore"):  # below the smallest number lies an infinity, which is not used
        return np.where(nearest > exact, np.nextafter(nearest, np.float32(-np.inf)), nearest)


@dataclass(frozen=True, eq=False)
class TreeEnsemble:
    """A fitted sum of trees.

    Attributes:
        members: the trees.
        start: value of the sum without trees.
        output: what the sum is.
        width: number of columns of the inputs.
        library: the library's forecast of rows, which `onnx` is compared with; None for a stored ensemble, which
            forecasts with its graph.
    """

    members: tuple[Tree, ...]
    start: float
    output: Output
    width: int
    library: Callable[[Inputs], Vector] | None = None

    @classmethod
    def read(cls, content: bytes, width: int) -> Self:
        """Read the output of `native`.

        Raises:
            ValueError: it has another number of columns.
        """
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            columns, parts = int(stored["width"]), np.cumsum(stored["nodes"])[:-1]
            if columns != width:
                raise ValueError(f"expected an output of {width} columns, got one of {columns}")
            split = [np.split(stored[entry.name], parts) for entry in fields(Tree)]
            members = tuple(Tree(*arrays) for arrays in zip(*split, strict=True))
            output: Any = str(stored["output"])
            return cls(members, float(stored["start"]), output, width)

    @property
    def trees(self) -> int:
        """Number of trees."""
        return len(self.members)

    @cached_property
    def base(self) -> float:
        """Score of the mean sum over the training rows."""
        return float(self._score(self._mean)[0])

    @cached_property
    def _mean(self) -> Vector:
        """Mean sum over the training rows, (1,)."""
        leaves = [tree.feature < 0 for tree in self.members]
        means = [
            np.average(tree.value[at], weights=tree.cover[at]) for tree, at in zip(self.members, leaves, strict=True)
        ]
        return np.array([self.start + float(np.sum(means))])

    def predict(self, inputs: Inputs) -> Vector:
        """Return the output, (n,)."""
        return self._graph(inputs)[:, 0] if self.library is None else self.library(inputs)

    def contributions(self, inputs: Inputs) -> Vector:
        """Return the SHAP values, (n, width).

        Where the sum is a probability, they are its exact values, stretched in each row by one factor so that they add
        up in log-odds: an approximation.

        Source: S. Lundberg et al. (2020), From local explanations to global understanding with explainable AI for
        trees.
        """
        values = np.asarray(self._explainer.shap_values(inputs.astype(np.float64)), dtype=np.float64)
        if self.output != "probability":
            return values
        change = values.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            stretch = (self._score(self._mean + change) - self.base) / change
        return values * np.where(np.abs(change) > 1e-9, stretch, 0.0)[:, None]

    def _score(self, total: Vector) -> Vector:
        return log_odds(total) if self.output == "probability" else total

    @cached_property
    def _explainer(self) -> Any:
        import shap

        trees = [
            {
                "children_left": tree.left,
                "children_right": tree.right,
                "children_default": np.where(tree.missing_left, tree.left, tree.right),
                "features": tree.feature,
                "thresholds": tree.threshold.astype(np.float64),
                "values": tree.value[:, None],
                "node_sample_weight": tree.cover,
            }
            for tree in self.members
        ]
        return shap.TreeExplainer({"trees": trees, "base_offset": self.start})

    @cached_property
    def _graph(self) -> Graphs:
        return Graphs({"the stored ensemble": self.onnx()}, self.width)

    def onnx(self) -> bytes:
        """Return the ONNX graph with input `inputs`."""
        from onnx import TensorProto, helper

        members, classes = list(self.members), self.output == "log_odds"
        if classes:
            # A classifier whose leaves are all positive takes their sum for a probability: one leaf is below zero.
            members.append(leaf(-1e-30))
        sizes = [len(tree.feature) for tree in members]
        number = np.repeat(np.arange(len(members)), sizes)
        node = np.concatenate([np.arange(size) for size in sizes])
        joined = _joined(members)
        is_leaf = joined["feature"] < 0
        weights = {
            "treeids": number[is_leaf],
            "nodeids": node[is_leaf],
            "ids": np.zeros(is_leaf.sum(), dtype=np.int64),
            "weights": joined["value"][is_leaf].astype(np.float32),
        }
        prefix = "class" if classes else "target"
        attributes = {
            "nodes_treeids": number,
            "nodes_nodeids": node,
            "nodes_featureids": np.maximum(joined["feature"], 0),
            "nodes_modes": ["LEAF" if ends else "BRANCH_LEQ" for ends in is_leaf],
            "nodes_values": joined["threshold"],
            "nodes_truenodeids": np.maximum(joined["left"], 0),
            "nodes_falsenodeids": np.maximum(joined["right"], 0),
            "nodes_missing_value_tracks_true": joined["missing_left"].astype(np.int64),
            "base_values": [self.start],
            **{f"{prefix}_{name}": values for name, values in weights.items()},
        }
        plain = {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in attributes.items()}
        domain = "ai.onnx.ml"
        if classes:
            operator = helper.make_node(
                "TreeEnsembleClassifier",
                ["inputs"],
                ["label", "probabilities"],
                domain=domain,
                classlabels_int64s=[0, 1],
                post_transform="LOGISTIC",
                **plain,
            )
            outputs = [
                helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
                helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2]),
            ]
        else:
            operator = helper.make_node(
                "TreeEnsembleRegressor", ["inputs"], ["output"], domain=domain, n_targets=1, **plain
            )
            outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, [None, 1])]
        inputs = [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, self.width])]
        graph = helper.make_graph([operator], "trees", inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, TREE_OPSET)], ir_version=8)
        return model.SerializeToString(deterministic=True)

    def native(self) -> bytes:
        """Return the trees as NumPy arrays in a zip file (npz), which is read without pickle."""
        content = io.BytesIO()
        arrays: dict[str, Any] = {
            "nodes": [len(tree.feature) for tree in self.members],
            "start": self.start,
            "output": self.output,
            "width": self.width,
            **_joined(self.members),
        }
        np.savez(content, allow_pickle=False, **arrays)
        return content.getvalue()


def leaf(value: float) -> Tree:
    """Return a tree that is a single leaf."""
    nowhere, one = np.array([-1]), np.array([1.0])
    return Tree(nowhere, np.zeros(1, dtype=np.float32), np.array([False]), nowhere, nowhere, one * value, one)


def _joined(members: Sequence[Tree]) -> dict[str, np.ndarray]:
    """Return every field of the trees as one array."""
    return {entry.name: np.concatenate([getattr(tree, entry.name) for tree in members]) for entry in fields(Tree)}
