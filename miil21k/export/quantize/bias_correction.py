"""Put what rounded weights lose on average back into the biases.

Rounding the weights of a layer moves the mean of each of its output channels, which every later layer then sees on all
images alike. As in Nagel et al. (ICCV 2019, "Data-free quantization through weight equalization and bias correction",
the form measured on images), the mean that is lost is added to the bias. Runtime and file size stay the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from miil21k.export.onnx.network import PIXELS
from miil21k.export.onnx.proof import open_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["mean_losses", "with_corrected_biases"]


def mean_losses(
    network: ModelProto, rounded: ModelProto, names: Sequence[str], batches: Iterable[NDArray[np.float32]]
) -> dict[str, NDArray[np.float64]]:
    """Return [outputs] per layer: the mean over `batches` of what it gives in `network`, less with `rounded` weights.

    names: layers of both, of which those with biases (Conv, Gemm) are measured. batches: float32 [B, 3, H, W], never
    empty. Each layer reads what it reads in `network`, so the means of one layer do not depend on other layers.
    """
    measuring, layers = _measuring(network, rounded, names)
    if not layers:
        return {}
    session = open_session(measuring.SerializeToString())
    sums = dict.fromkeys(layers, np.float64(0.0))
    images = 0
    for pixels in batches:
        means = session.run([_mean(name) for name in layers], {PIXELS: pixels})
        for name, mean in zip(layers, means, strict=True):
            sums[name] = sums[name] + mean.astype(np.float64) * len(pixels)
        images += len(pixels)
    return {name: np.asarray(total / images) for name, total in sums.items()}


def with_corrected_biases(
    network: ModelProto, losses: dict[str, NDArray[np.float64]], names: Sequence[str]
) -> ModelProto:
    """Return a copy of `network` with `losses`, as `mean_losses` returns them, added to the biases of these layers."""
    copied = ModelProto()
    copied.CopyFrom(network)
    values = {tensor.name: tensor for tensor in copied.graph.initializer}
    wanted = set(names)
    for node in copied.graph.node:
        if node.name not in losses or node.name not in wanted:
            continue
        loss = losses[node.name]
        bias = numpy_helper.to_array(values[node.input[2]]) if len(node.input) > 2 else np.zeros(len(loss), np.float32)
        corrected = f"{node.name}/corrected_bias"  # a new tensor: several layers may share the old one
        del node.input[2:]
        node.input.append(corrected)
        copied.graph.initializer.append(numpy_helper.from_array((bias + loss).astype(np.float32), corrected))
    read = {name for node in copied.graph.node for name in node.input}
    kept = [tensor for tensor in copied.graph.initializer if tensor.name in read]
    del copied.graph.initializer[:]
    copied.graph.initializer.extend(kept)
    return copied


def _mean(name: str) -> str:
    return f"{name}/mean_loss"


def _measuring(network: ModelProto, rounded: ModelProto, names: Sequence[str]) -> tuple[ModelProto, list[str]]:
    """Return `network` with a twin of each layer, whose weights are the differences and whose means are outputs."""
    copied = ModelProto()
    copied.CopyFrom(network)
    exact, other = ({tensor.name: tensor for tensor in model.graph.initializer} for model in (network, rounded))
    layers = list(_with_biases(network, names, exact.keys()))
    del copied.graph.output[:]
    for node in layers:
        weights = node.input[1]
        lost = numpy_helper.to_array(exact[weights]) - numpy_helper.to_array(other[weights])
        twin = NodeProto()
        twin.CopyFrom(node)
        twin.name = f"{node.name}/loss"
        del twin.input[1:], twin.output[:]
        twin.input.append(f"{node.name}/lost_weights")
        twin.output.append(twin.name)
        axes = [axis for axis in range(lost.ndim) if axis != 1]  # outputs are [B, channels, ...] with as many axes
        fixed = {twin.input[1]: lost, f"{node.name}/axes": np.array(axes, np.int64)}
        copied.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in fixed.items())
        mean = helper.make_node("ReduceMean", [twin.name, f"{node.name}/axes"], [_mean(node.name)], keepdims=0)
        copied.graph.node.extend([twin, mean])
        copied.graph.output.append(helper.make_tensor_value_info(_mean(node.name), TensorProto.FLOAT, None))
    return copied, [node.name for node in layers]


def _with_biases(network: ModelProto, names: Sequence[str], constants: Iterable[str]) -> Iterator[NodeProto]:
    wanted, known = set(names), set(constants)
    for node in network.graph.node:
        fixed = node.op_type in ("Conv", "Gemm") and known.issuperset(node.input[1:])
        if node.name in wanted and fixed and not any(item.name == "beta" and item.f != 1 for item in node.attribute):
            yield node
