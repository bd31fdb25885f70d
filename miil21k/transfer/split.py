"""Which images are held out, and in which order: stratified by class, the same for the same seed.

Pictures that are nearly the same (`near_copies`) go together, so that no copy of a training image is tested on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["balanced_subset", "copies_of", "fold_numbers", "hold_out", "near_copies", "same_bytes"]

NEAR = 0.95  # cosine of centred features from which two pictures count as copies of each other
BLOCK = 2048  # rows whose cosines are computed at a time


def hold_out(
    labels: NDArray[np.integer], share: float, seed: int, groups: NDArray[np.integer] | None = None
) -> NDArray[np.bool_]:
    """Return which images are held out, bool [n]: about `share` of each class, at least one, and never all.

    labels: int [n]. groups: int [n], images that go together; those that span classes are never held out. A class of a
    single image, or group, keeps it. Raises UsageError for a share that is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise UsageError(f"The share that is held out lies between 0 and 1, not {share}.")
    out = np.zeros(len(labels), np.bool_)
    for members, units in _units(labels, groups, seed):
        wanted = max(1, round(share * len(members)))
        taken = 0
        for unit in units[:-1]:
            if taken >= wanted:
                break
            out[unit] = True
            taken += len(unit)
    return out


def fold_numbers(
    labels: NDArray[np.integer], folds: int, seed: int, groups: NDArray[np.integer] | None = None
) -> NDArray[np.int64]:
    """Return the fold of each image, int64 [n], from 0 to folds - 1, each class spread evenly over them.

    -1 for what no fold may hold: the only image, or group, of its class, and groups that span classes.
    """
    found = np.full(len(labels), -1, np.int64)
    generator = np.random.default_rng([seed, 1])
    for _, units in _units(labels, groups, seed):
        if len(units) < 2:
            continue
        first = int(generator.integers(folds))
        for number, unit in enumerate(units):
            found[unit] = (first + number) % folds
    return found


def _units(
    labels: NDArray[np.integer], groups: NDArray[np.integer] | None, seed: int
) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.int64]]]]:
    """Yield for each class its images, and these in groups in random order."""
    own = np.arange(len(labels)) if groups is None else groups
    first = np.full(int(own.max(initial=-1)) + 1, -1, np.int64)
    spans = np.zeros(first.size, np.bool_)
    for group, label in zip(own.tolist(), labels.tolist(), strict=True):
        spans[group] |= first[group] not in (-1, label)
        first[group] = label
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        free = members[~spans[own[members]]]
        names = np.random.default_rng([seed, int(label)]).permutation(np.unique(own[free]))
        units = [free[own[free] == name] for name in names]
        yield members, units


def balanced_subset(labels: NDArray[np.integer], shots: int, seed: int) -> NDArray[np.int64]:
    """Return places of `shots` images of each class, all of a class that has fewer, sorted."""
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        generator = np.random.default_rng([seed, int(label)])
        chosen.append(generator.choice(members, min(shots, members.size), replace=False))
    return np.sort(np.concatenate(chosen))


def near_copies(
    values: NDArray[np.float32], digests: NDArray[np.uint8] | None = None, near: float = NEAR
) -> NDArray[np.int64]:
    """Return a number for each image, int64 [n], the same for those that are nearly the same picture.

    values: features float32 [n, D]. digests: uint8 [n, 32] of the bytes; equal ones are copies whatever the features.
    """
    parent = np.arange(len(values))

    def top(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = int(parent[place])
        return place

    vectors = _centred_directions(values, values)
    pairs = [
        _near_pairs(vectors[start : start + BLOCK], vectors, near, start) for start in range(0, len(values), BLOCK)
    ]
    if digests is not None:
        seen: dict[bytes, int] = {}
        same = [(seen.setdefault(row.tobytes(), place), place) for place, row in enumerate(digests)]
        pairs.append(np.array(same, np.int64).reshape(-1, 2))
    for one, other in np.concatenate(pairs).tolist() if pairs else ():
        first, second = sorted((top(one), top(other)))
        parent[second] = first
    return np.array([top(place) for place in range(len(values))], np.int64)


def same_bytes(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return a number for each image, int64 [n], the same for those whose digests, uint8 [n, 32], are equal."""
    _, found = np.unique(digests, axis=0, return_inverse=True)
    numbers: NDArray[np.int64] = found.reshape(-1).astype(np.int64)
    return numbers


def copies_of(values: NDArray[np.float32], others: NDArray[np.float32], near: float = NEAR) -> NDArray[np.int64]:
    """Return for each of `values` the place of the nearest of `others` if it is a copy, int64 [n]; else -1."""
    bank = _centred_directions(others, others)
    found = np.full(len(values), -1, np.int64)
    for start in range(0, len(values), BLOCK):
        cosines = _centred_directions(values[start : start + BLOCK], others) @ bank.T
        nearest = cosines.argmax(1)
        copies = cosines[np.arange(len(cosines)), nearest] >= near
        found[start : start + BLOCK] = np.where(copies, nearest, -1)
    return found


def _near_pairs(block: NDArray[np.float32], vectors: NDArray[np.float32], near: float, start: int) -> NDArray[np.int64]:
    rows, columns = np.nonzero(block @ vectors.T >= near)
    pairs = np.stack([rows + start, columns], 1)
    return pairs[pairs[:, 0] < pairs[:, 1]]


def _centred_directions(values: NDArray[np.float32], around: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = values - around.mean(0)
    found: NDArray[np.float32] = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return found
