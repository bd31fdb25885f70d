"""The layers that take 8 bits are the fastest choice whose noise stays within a budget."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from miil21k.export.onnx.graph import IR_VERSION, OPSET
from miil21k.export.quantize.assignment import EIGHT, MOVE, _cheapest, fastest_within, share_of_time, works

if TYPE_CHECKING:
    from collections.abc import Sequence


def seconds(eights: Sequence[bool], work: Sequence[tuple[int, int]]) -> float:
    """Return the time that a choice is held to take, written as plainly as it can be."""
    total, before = 0.0, False
    for eight, (multiplications, values) in zip(eights, work, strict=True):
        total += multiplications * (EIGHT if eight else 1)
        total += MOVE * values if eight != before else 0
        before = eight
    return total


layers = st.lists(
    st.tuples(st.floats(0, 1), st.integers(1, 10**6), st.integers(1, 10**4)),
    min_size=1,
    max_size=8,
)


@hypothesis.settings(max_examples=100, deadline=None)
@given(layers, st.floats(1, 1e7))
def test_the_cheapest_choice_is_the_best_of_all(found: list[tuple[float, int, int]], worth: float) -> None:
    price, work = np.array([worth * noise for noise, *_ in found]), [(most, values) for _, most, values in found]
    chosen = _cheapest(price, work)
    costs = {
        eights: seconds(eights, work) + price[list(eights)].sum()
        for eights in product((False, True), repeat=len(found))
    }
    assert costs[tuple(at in chosen for at in range(len(found)))] == pytest.approx(min(costs.values()))


@hypothesis.settings(max_examples=50, deadline=None)
@given(layers, st.floats(0, 3), st.floats(0, 1))
def test_noise_stays_within_the_budget_and_a_smaller_one_is_no_faster(
    found: list[tuple[float, int, int]], budget: float, share: float
) -> None:
    noise = {str(at): item[0] for at, item in enumerate(found)}
    work = {str(at): item[1:] for at, item in enumerate(found)}
    times = []
    assert share_of_time([], work) == 1
    for most in (budget, share * budget):
        eight = fastest_within(noise, work, most)
        assert eight == [name for name in noise if name in eight]
        assert sum(noise[name] ** 2 for name in eight) <= most**2
        times.append(seconds([name in eight for name in noise], list(work.values())))
        in_float = sum(most for most, _ in work.values())
        assert share_of_time(eight, work) == pytest.approx(times[-1] / in_float)
    assert times[0] <= times[1] * (1 + 1e-9)


def test_a_ruined_layer_stays_float_and_a_short_run_is_not_worth_two_changes() -> None:
    work = {"a": (10**8, 10**5), "b": (10**6, 10**6), "c": (10**8, 10**5)}
    noise = dict.fromkeys(work, 0.01)
    assert fastest_within(noise, work, 1.0) == ["a", "b", "c"]
    assert fastest_within(noise | {"a": float("inf")}, work, 1.0) == ["c"]
    assert fastest_within(noise, work, 0.0) == []


def test_work_is_counted_as_it_is_in_papers() -> None:
    rng = np.random.default_rng(0)
    fixed = {"w0": rng.standard_normal((8, 3, 3, 3)), "w1": rng.standard_normal((8, 1, 3, 3)), "head": np.ones((10, 8))}
    nodes = [
        helper.make_node("Conv", ["pixels", "w0"], ["c0"], "whole", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Conv", ["c0", "w1"], ["c1"], "by_channel", group=8, pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c1"], ["mean"], "mean"),
        helper.make_node("Flatten", ["mean"], ["embedding"], "flat"),
        helper.make_node("Gemm", ["embedding", "head"], ["logits"], "last", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in fixed.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    network = onnx.shape_inference.infer_shapes(model)
    assert works(network, ["whole", "by_channel", "last"]) == {
        "whole": (216 * 64, 3 * 256),
        "by_channel": (72 * 64, 8 * 64),
        "last": (80, 8),
    }
