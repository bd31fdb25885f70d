"""Weights on the 8-bit grid whose errors cancel within each filter."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from miil21k.export.quantize.rounding import STEPS, cancelling, with_cancelling_weights


@settings(max_examples=80, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=st.floats(-3, 3, width=32)))
def test_each_weight_is_a_whole_number_of_steps_and_moves_by_less_than_one_and_a_half(weights: np.ndarray) -> None:
    step = np.abs(weights).max(axis=1, keepdims=True).astype(np.float64) / STEPS
    found = cancelling(weights)
    units = np.divide(found, step, out=np.zeros(weights.shape), where=step > 1e-30)
    assert np.abs(units - np.rint(units)).max() < 1e-3
    assert np.abs(units).max() <= STEPS + 1e-3
    assert (np.abs(found - weights) <= 1.001 * step + 1e-30).all()


def test_the_errors_of_a_filter_sum_to_half_a_step_at_most() -> None:
    weights = np.random.default_rng(0).standard_normal((16, 24, 3, 3)).astype(np.float32)
    step = np.abs(weights).reshape(16, -1).max(axis=1) / STEPS
    plain = np.rint(weights / step.reshape(-1, 1, 1, 1)) * step.reshape(-1, 1, 1, 1)
    nearest = np.abs((plain - weights).reshape(16, -1).sum(axis=1)) / step
    ours = np.abs((cancelling(weights) - weights).reshape(16, -1).sum(axis=1)) / step
    assert nearest.max() > 5
    assert ours.max() <= 0.501


def test_the_largest_weight_stays_and_a_filter_of_zeros_too() -> None:
    weights = np.array([[1.0, 0.3, 0.3, 0.3], [0, 0, 0, 0]], np.float32)
    found = cancelling(weights)
    assert found[0, 0] == 1
    assert not found[1].any()


def test_only_the_named_layers_change_and_products_go_by_columns() -> None:
    rng = np.random.default_rng(1)
    named = {name: rng.standard_normal((6, 5)).astype(np.float32) for name in ("a", "b")}
    nodes = [helper.make_node("MatMul", ["x", "a"], ["y"], "first"), helper.make_node("MatMul", ["x", "b"], ["z"], "2")]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 5]) for name in "yz"],
        [numpy_helper.from_array(values, name) for name, values in named.items()],
    )
    found = with_cancelling_weights(helper.make_model(graph), ["first"])
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
    assert np.array_equal(after["b"], named["b"])
    assert np.array_equal(after["a"], cancelling(named["a"].T).T)
    assert not np.array_equal(after["a"], named["a"])
