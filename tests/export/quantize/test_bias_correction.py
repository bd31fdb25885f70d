"""What rounded weights lose on average is in the biases afterwards."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from miil21k.export.onnx.graph import IR_VERSION, OPSET
from miil21k.export.onnx.proof import open_session
from miil21k.export.quantize.bias_correction import mean_losses, with_corrected_biases
from miil21k.export.quantize.rounding import with_cancelling_weights

NAMES = ["first", "second", "last"]
OUTPUTS = {"logits": [4], "embedding": [6], "c0": [6, 4, 4], "c1": [6, 4, 4]}


def network(rng: np.random.Generator, biases: bool) -> onnx.ModelProto:
    """Two convolutions, the second one by channels and padded, and a classifier."""
    fixed = {
        "w0": rng.standard_normal((6, 3, 3, 3)),
        "w1": rng.standard_normal((6, 1, 3, 3)),
        "w2": rng.standard_normal((4, 6)),
        "b": rng.standard_normal(6),
        "b2": rng.standard_normal(4),
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "w0", "b"], ["c0"], "first", strides=[2, 2]),
        helper.make_node("Relu", ["c0"], ["r0"], "relu"),
        helper.make_node(
            "Conv", ["r0", "w1", *(["b"] if biases else [])], ["c1"], "second", group=6, pads=[1, 1, 1, 1]
        ),
        helper.make_node("ReduceMean", ["c1", "axes"], ["embedding"], "mean", keepdims=0),
        helper.make_node("Gemm", ["embedding", "w2", *(["b2"] if biases else [])], ["logits"], "last", transB=1),
    ]
    declare = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [declare("pixels", TensorProto.FLOAT, ["batch", 3, 9, 9])],
        [declare(name, TensorProto.FLOAT, ["batch", *rest]) for name, rest in OUTPUTS.items()],
        [
            numpy_helper.from_array(v if v.dtype == np.int64 else v.astype(np.float32), name)
            for name, v in fixed.items()
            if biases or name != "b2"
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def run(model: onnx.ModelProto, pixels: np.ndarray, *names: str) -> list[np.ndarray]:
    return open_session(model.SerializeToString()).run(list(names), {"pixels": pixels})


def coarse(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """Return `model` with the weights of these layers rounded to halves, which loses more than 8 bits do."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    rounded = {node.input[1] for node in copied.graph.node if node.name in names}
    for tensor in copied.graph.initializer:
        if tensor.name in rounded:
            tensor.CopyFrom(numpy_helper.from_array(np.round(2 * numpy_helper.to_array(tensor)) / 2, tensor.name))
    return copied


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(1, 5))
def test_a_corrected_layer_has_the_mean_of_the_exact_one(seed: int, biases: bool, batch: int) -> None:
    rng = np.random.default_rng(seed)
    model = network(rng, biases)
    pixels = rng.standard_normal((5, 3, 9, 9)).astype(np.float32) + 0.5
    losses = mean_losses(model, coarse(model, NAMES), NAMES, (pixels[at : at + batch] for at in range(0, 5, batch)))
    assert list(losses) == NAMES
    outputs = {"first": "c0", "second": "c1", "last": "logits"}
    exact = run(model, pixels, *outputs.values())
    for at, (name, output) in enumerate(outputs.items()):
        plain = coarse(model, [name])  # this layer alone: what it reads is exact
        (before,), (after,) = (run(m, pixels, output) for m in (plain, with_corrected_biases(plain, losses, [name])))
        axes = tuple(axis for axis in range(exact[at].ndim) if axis != 1)
        lost, left = (np.abs((exact[at] - found).mean(axis=axes)) for found in (before, after))
        assert left.max() < 1e-4
        assert lost.max() > 10 * left.max()


def test_only_the_named_layers_change_and_a_shared_bias_is_not_shared_anymore() -> None:
    rng = np.random.default_rng(3)
    model = network(rng, True)
    pixels = rng.standard_normal((4, 3, 9, 9)).astype(np.float32) + 0.5
    losses = mean_losses(model, coarse(model, NAMES), NAMES, [pixels])
    found = with_corrected_biases(model, losses, ["second"])
    onnx.checker.check_model(found)
    before, after = run(model, pixels, "c0", "c1"), run(found, pixels, "c0", "c1")
    assert np.array_equal(before[0], after[0])
    shift = (after[1] - before[1]).mean(axis=(0, 2, 3))
    assert shift == pytest.approx(losses["second"], abs=1e-5)
    assert np.abs(shift).max() > 0.01
    assert [node.input[2] for node in found.graph.node if node.op_type == "Conv"] == ["b", "second/corrected_bias"]


def test_nothing_is_lost_where_nothing_was_rounded() -> None:
    rng = np.random.default_rng(4)
    model, pixels = network(rng, True), rng.standard_normal((2, 3, 9, 9)).astype(np.float32)
    losses = mean_losses(model, with_cancelling_weights(model, ["second"]), NAMES, [pixels])
    assert not losses["first"].any()
    assert not losses["last"].any()
    assert losses["second"].any()
    assert mean_losses(model, model, ["relu"], [pixels]) == {}
