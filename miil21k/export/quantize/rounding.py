"""Round weights to 8 bits so that the errors of a filter cancel instead of adding up.

Rounding each weight to its nearest step leaves every filter with a sum of errors, which acts on whatever its inputs
have in common: after a ReLU that is most of the signal. As in SQuant (Guo et al., ICLR 2022), a few weights of each
filter are rounded the other way, those that were nearest to a tie, until the sum of its errors is below half a step:
first in each kernel, then in each output channel. No images are needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from onnx import NodeProto

__all__ = ["cancelling", "with_cancelling_weights"]

STEPS = 127  # on either side of zero


def with_cancelling_weights(network: ModelProto, names: Sequence[str]) -> ModelProto:
    """Return a copy of `network` whose nodes of these names have weights on the int8 grid of their output channels.

    A quantiser with one scale per output channel, symmetric about zero, finds the same grid and changes nothing more.
    """
    copied = ModelProto()
    copied.CopyFrom(network)
    wanted = set(names)
    layers = [node for node in copied.graph.node if node.name in wanted and node.op_type in ("Conv", "Gemm", "MatMul")]
    nodes = {tensor: node for node in layers for tensor in node.input[:2]}
    for tensor in copied.graph.initializer:
        node = nodes.get(tensor.name)
        if node is None or (node.op_type != "Conv" and len(tensor.dims) != 2):
            continue
        weights = numpy_helper.to_array(tensor)
        by_output = weights if _output_first(node) else weights.T
        rounded = cancelling(by_output)
        found = rounded if _output_first(node) else rounded.T
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(found), tensor.name))
    return copied


def _output_first(node: NodeProto) -> bool:
    return node.op_type == "Conv" or any(item.name == "transB" and item.i for item in node.attribute)


def cancelling(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `weights`, float32 [outputs, ...], each a whole number of steps of its output's largest weight / 127.

    No weight moves by more than one step; the errors of an output sum to half a step at most, as long as enough
    of its weights may move: the largest, which set the step, stay.
    """
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    step = np.abs(flat).max(axis=1, keepdims=True, initial=0) / STEPS
    exact = np.divide(flat, step, out=np.zeros_like(flat), where=step > 0)
    rounded = np.rint(exact)
    kernel = int(np.prod(weights.shape[2:]))
    if kernel > 1:
        _cancel(rounded.reshape(-1, kernel), exact.reshape(-1, kernel))
    _cancel(rounded, exact)
    return np.asarray((rounded * step).astype(np.float32).reshape(weights.shape))


def _cancel(rounded: NDArray[np.float64], exact: NDArray[np.float64]) -> None:
    """Change `rounded`, [rows, K], by single steps until each row sums to what `exact` sums to, within half a step."""
    errors = rounded - exact
    surplus = np.rint(errors.sum(axis=1))
    for row in np.flatnonzero(surplus):
        direction = np.sign(surplus[row])
        gain = np.where(np.abs(rounded[row]) < STEPS, errors[row] * direction, -np.inf)
        moved = np.argsort(-gain, kind="stable")[: int(abs(surplus[row]))]
        rounded[row, moved[gain[moved] > 0]] -= direction
