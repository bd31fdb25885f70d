"""Which layers take 8 bits: the fastest choice whose noise stays within a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

__all__ = ["fastest_within", "share_of_time", "works"]

# Times in multiplications in float, as ONNX Runtime took them for pointwise convolutions of batch 8 on a CPU with VNNI.
EIGHT = 0.35  # a multiplication in 8 bits
MOVE = 30  # to round or widen one value and lay it out anew
STEPS = 60  # of the bisection, which spans 60 orders of magnitude


def works(network: ModelProto, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return for each node (Conv, Gemm, MatMul) how many multiplications it takes and how many values it reads.

    Both are for one image and at least 1. names: of nodes of `network`, whose shapes inside must have been inferred; a
    length that is not known counts once.
    """
    graph = network.graph
    weights = {tensor.name: int(np.prod(tensor.dims, dtype=np.int64)) for tensor in graph.initializer}
    lengths = {
        value.name: [max(1, item.dim_value) for item in value.type.tensor_type.shape.dim][1:]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    wanted, found = set(names), {}
    for node in graph.node:
        if node.name not in wanted:
            continue
        outputs = lengths.get(node.output[0], [])
        places = outputs[1:] if node.op_type == "Conv" else outputs[:-1]  # where the same weights are used again
        constant = max(weights.get(name, 1) for name in node.input[:2])
        read = [lengths.get(name, []) for name in node.input[:2] if name not in weights]
        values = max((int(np.prod(shape, dtype=np.int64)) for shape in read), default=1)
        found[node.name] = max(1, constant) * int(np.prod(places, dtype=np.int64)), values
    return found


def fastest_within(noise: dict[str, float], work: dict[str, tuple[int, int]], budget: float) -> list[str]:
    """Return the layers that should take 8 bits, first to last, such that their noise is at most `budget`.

    noise: what each layer alone brings in, in the order in which they run, of which the squares add up; work: as
    `works` returns it. Layers are taken for a chain, where each change between float and 8 bits costs time. The choice
    is the best one for some price of noise, found by dynamic programming, and the price by bisection.
    """
    names = list(noise)
    power = np.nan_to_num(np.square([noise[name] for name in names]), posinf=1e30)
    best: list[int] = []
    low, high = -30.0, 30.0  # log10 of the multiplications that a unit of power is worth
    for _ in range(STEPS):
        middle = (low + high) / 2
        chosen = _cheapest(power * 10**middle, [work[name] for name in names])
        if power[chosen].sum() <= budget**2:
            best, high = chosen, middle
        else:
            low = middle
    return [names[at] for at in best]


def share_of_time(eight: Collection[str], work: dict[str, tuple[int, int]]) -> float:
    """Return the time that the layers of `work` take with those of `eight` in 8 bits, as a share of that in float."""
    total, before = 0.0, False
    for name, (multiplications, values) in work.items():
        now = name in eight
        total += multiplications * (EIGHT if now else 1) + (MOVE * values if now != before else 0)
        before = now
    return total / sum(multiplications for multiplications, _ in work.values())


def _cheapest(price: NDArray[np.float64], work: Sequence[tuple[int, int]]) -> list[int]:
    """Return the layers in 8 bits for which price and time together are least; ties stay float."""
    cost: list[float] = [0.0, np.inf]
    path: list[list[int]] = [[], []]  # of what was decided so far, its last tensor in float or in 8 bits
    for at, (multiplications, values) in enumerate(work):
        move = MOVE * values
        floats = 0 if cost[0] <= cost[1] + move else 1
        eights = 0 if cost[0] + move <= cost[1] else 1
        path = [path[floats], [*path[eights], at]]
        cost = [
            cost[floats] + (move if floats else 0) + multiplications,
            cost[eights] + (0 if eights else move) + EIGHT * multiplications + price[at],
        ]
    return path[int(cost[1] < cost[0])]
