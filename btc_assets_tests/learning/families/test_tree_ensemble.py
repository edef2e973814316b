"""Trees as arrays: values at thresholds, missing values and exact contributions."""

from __future__ import annotations

from itertools import combinations
from math import factorial

import numpy as np
import pytest

from btc_assets.learning.families.tree_ensemble import Tree, TreeEnsemble, leaf, rounded_down
from btc_assets.learning.forecast_model import log_odds


def stump(threshold: float, *, missing_left: bool = True) -> Tree:
    """Return a tree that gives 1 up to a threshold of column 0 and else 2."""
    return Tree(
        feature=np.array([0, -1, -1]),
        threshold=rounded_down([threshold, 0.0, 0.0]),
        missing_left=np.array([missing_left, False, False]),
        left=np.array([1, -1, -1]),
        right=np.array([2, -1, -1]),
        value=np.array([0.0, 1.0, 2.0]),
        cover=np.array([10.0, 7.0, 3.0]),
    )


def deep() -> Tree:
    """Return a tree of two splits, on columns 0 and 1."""
    return Tree(
        feature=np.array([0, 1, -1, -1, -1]),
        threshold=rounded_down([0.0, 1.0, 0.0, 0.0, 0.0]),
        missing_left=np.array([True, False, False, False, False]),
        left=np.array([1, 2, -1, -1, -1]),
        right=np.array([4, 3, -1, -1, -1]),
        value=np.array([0.0, 0.0, 0.1, 0.3, 0.45]),
        cover=np.array([10.0, 6.0, 2.0, 4.0, 4.0]),
    )


def rows(*values: tuple[float, float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize("step", range(-3, 4))
def test_a_value_next_to_a_threshold_goes_to_the_side_it_has_in_float64(step: int) -> None:
    value = np.float32(0.1)
    for _ in range(abs(step)):
        value = np.nextafter(value, np.float32(np.sign(step)))
    threshold = 0.1  # between two float32 values, nearer to the upper one
    ensemble = TreeEnsemble((stump(threshold),), 0.0, "value", 2)
    assert ensemble.predict(rows((value, 0.0))) == [1.0 if float(value) <= threshold else 2.0]


def test_a_threshold_beyond_float32_has_every_value_on_its_left() -> None:
    assert np.isfinite(rounded_down([1e300, -1e300])).all()
    assert TreeEnsemble((stump(1e300),), 0.0, "value", 2).predict(rows((3e38, 0.0))) == [1.0]


@pytest.mark.parametrize(("missing_left", "expected"), [(True, 1.0), (False, 2.0)])
def test_a_missing_value_goes_to_the_side_of_its_node(missing_left: bool, expected: float) -> None:
    ensemble = TreeEnsemble((stump(0.0, missing_left=missing_left),), 0.0, "value", 2)
    assert ensemble.predict(rows((np.nan, 0.0))) == [expected]


@pytest.mark.parametrize("sign", [-1, 1])
def test_log_odds_of_one_sign_only_become_a_probability(sign: int) -> None:
    ensemble = TreeEnsemble((leaf(sign * 0.4), leaf(sign * 0.3)), sign * 0.1, "log_odds", 2)
    assert ensemble.predict(rows((0.0, 0.0))) == pytest.approx([1 / (1 + np.exp(-sign * 0.8))], abs=1e-6)


def expected_value(tree: Tree, row: np.ndarray, known: set[int], node: int = 0) -> float:
    """Return the value of a row of which only some columns are known; others take both sides, by their cover."""
    if tree.feature[node] < 0:
        return float(tree.value[node])
    left, right = tree.left[node], tree.right[node]
    if int(tree.feature[node]) in known:
        return expected_value(tree, row, known, left if row[tree.feature[node]] <= tree.threshold[node] else right)
    share = tree.cover[left] / tree.cover[node]
    return share * expected_value(tree, row, known, left) + (1 - share) * expected_value(tree, row, known, right)


def shapley(tree: Tree, row: np.ndarray, column: int, width: int) -> float:
    others = [other for other in range(width) if other != column]
    return sum(
        factorial(size)
        * factorial(width - size - 1)
        / factorial(width)
        * (expected_value(tree, row, {*group, column}) - expected_value(tree, row, set(group)))
        for size in range(width)
        for group in combinations(others, size)
    )


def test_contributions_are_shapley_values() -> None:
    inputs, start = rows((-1.0, 0.5), (-1.0, 2.0), (1.0, 0.5)), 0.2
    ensemble = TreeEnsemble((deep(), stump(-2.0)), start, "value", 2)
    expected = [[sum(shapley(tree, row, i, 2) for tree in ensemble.members) for i in range(2)] for row in inputs]
    assert ensemble.contributions(inputs) == pytest.approx(np.array(expected))
    assert ensemble.base == pytest.approx(start + sum(expected_value(t, inputs[0], set()) for t in ensemble.members))


def test_contributions_to_a_probability_keep_their_proportions_and_add_up_in_log_odds() -> None:
    inputs = rows((-1.0, 0.5), (-1.0, 2.0), (1.0, 0.5))
    plain = TreeEnsemble((deep(),), 0.0, "value", 2).contributions(inputs)
    ensemble = TreeEnsemble((deep(),), 0.0, "probability", 2)
    values = ensemble.contributions(inputs)
    assert values / values.sum(axis=1, keepdims=True) == pytest.approx(plain / plain.sum(axis=1, keepdims=True))
    assert ensemble.base + values.sum(axis=1) == pytest.approx(log_odds(ensemble.predict(inputs)), abs=1e-6)


def test_an_ensemble_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="expected an output of 3 columns, got one of 2"):
        TreeEnsemble.read(TreeEnsemble((leaf(0.0),), 0.0, "value", 2).native(), 3)
