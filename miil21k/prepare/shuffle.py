"""A random order of N things that needs no list of N things."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["shuffled"]

_ROUNDS = 6


def shuffled(positions: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Return which of `count` things stand at `positions` of the order that `seed` gives; int64, same shape.

    A bijection of 0 .. count - 1: a Feistel network on the next even number of bits, walked again from values that
    fall outside (at most 4 times as many).
    """
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    keys = np.random.default_rng([seed, count]).integers(0, 1 << 62, _ROUNDS, dtype=np.uint64)
    values = positions.astype(np.uint64)
    outside = np.ones(values.shape, bool)
    while outside.any():
        values[outside] = _encrypt(values[outside], keys, np.uint64(half))
        outside = values >= count
    return values.astype(np.int64)


def _encrypt(values: NDArray[np.uint64], keys: NDArray[np.uint64], half: np.uint64) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return well scattered bits (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
