"""Which nodes of a network suffer most from 8 bits, measured on images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from miil21k.export.onnx.network import OUTPUTS, PIXELS
from miil21k.export.onnx.proof import open_session
from miil21k.export.quantize.agreement import BEST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

__all__ = ["network_logits", "sensitivities", "with_activation"]

BATCH = 8


def network_logits(network: ModelProto, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 [N, C], the logits of a network alone for `pixels`, float32 [N, 3, H, W]."""
    session = open_session(network.SerializeToString())
    parts = [
        session.run([OUTPUTS[0]], {PIXELS: np.ascontiguousarray(pixels[start : start + BATCH])})[0]
        for start in range(0, len(pixels), BATCH)
    ]
    return np.concatenate(parts)


def sensitivities(
    network: ModelProto,
    names: Sequence[str],
    quantise_only: Callable[[Sequence[str]], ModelProto],
    pixels: NDArray[np.float32],
    done: Callable[[int], None] = lambda _: None,
) -> dict[str, float]:
    """Return the noise that each node alone brings into the best logits when it is quantised.

    names: nodes of `network`. quantise_only: returns the network with only these nodes quantised. pixels: float32
    [N, 3, H, W]. The noise is the root mean square error of the differences between the five best logits of an image
    and their mean, which decide what is best, relative to the standard deviation of all logits; it is infinite where
    they are not finite. done: told after each node.
    """
    exact = network_logits(network, pixels)
    best = np.argsort(-exact, axis=1, kind="stable")[:, :BEST]
    spread = max(float(exact.std()), 1e-30)
    found = {}
    for name in names:
        apart = network_logits(quantise_only(with_activation(network, name)), pixels) - exact
        among = np.take_along_axis(apart, best, axis=1).astype(np.float64)
        noise = float(np.sqrt(np.square(among - among.mean(axis=1, keepdims=True)).mean())) / spread
        found[name] = noise if np.isfinite(noise) else float("inf")
        done(1)
    return found


def with_activation(network: ModelProto, name: str) -> list[str]:
    """Return the node and the clipping activation that alone reads it: they share one rounding."""
    output = next(node.output[0] for node in network.graph.node if node.name == name)
    readers = [node for node in network.graph.node if output in node.input]
    clips = len(readers) == 1 and readers[0].op_type in ("Clip", "Relu")
    return [name, readers[0].name] if clips else [name]
