"""`miil21k duplicates`: groups of pictures with the same bytes, the same look, or the same content."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.find.moves import FileStep
from miil21k.find.organize import sidecars_of
from miil21k.options import check, described, option

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from miil21k.find.store import Index

__all__ = ["KINDS_OF_LIKENESS", "DuplicateOptions", "Group", "find_duplicates", "plan_trash"]

_BLOCK = 2048  # rows that are compared with all others at a time


@described
@dataclass(frozen=True)
class DuplicateOptions:
    """What counts as a duplicate."""

    kinds: tuple[str, ...] = option(
        ("exact", "near"),
        "exact: the same bytes; near: the same look (perceptual hash); similar: the same content (embedding)",
        flags="--kind",
        metavar="KIND",
        choices=("exact", "near", "similar"),
        repeats=True,
    )
    max_distance: int = option(
        6, "near: at most so many of 64 bits of the hash differ", metavar="BITS", least=0, most=16
    )
    min_similarity: float = option(0.95, "similar: least cosine of embeddings", metavar="C", above=0, most=1)

    def __post_init__(self) -> None:
        for kind in self.kinds:
            check(_OneKind(kind))
        object.__setattr__(self, "kinds", tuple(kind for kind in KINDS_OF_LIKENESS if kind in self.kinds))


@dataclass(frozen=True)
class _OneKind:
    kind: str = option("exact", "", choices=("exact", "near", "similar"))


class Group(NamedTuple):
    """Pictures that are one. kind: why. numbers: their rows in the index, the one to keep first."""

    kind: str
    numbers: tuple[int, ...]


def _exact(index: Index, _: DuplicateOptions) -> NDArray[np.int64]:
    digests = index.columns("sha256")["sha256"].to_pylist()
    first: dict[str, int] = {}
    pairs = [(first.setdefault(digest, number), number) for number, digest in enumerate(digests) if digest]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 2)


def _near(index: Index, options: DuplicateOptions) -> NDArray[np.int64]:
    """Pairs whose hashes differ in few bits: of so many parts of the bits, one at least is then the same in both."""
    column = index.columns("phash")["phash"]
    valid = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    hashes = column.fill_null(0).to_numpy().astype(np.uint64)[valid]
    edges = np.linspace(0, 64, options.max_distance + 2).astype(int)
    found = [np.zeros((0, 2), np.int64)]
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(part, kind="stable")
        cuts = np.flatnonzero(np.diff(part[order])) + 1
        for members in np.split(order, cuts):
            found.extend(_close(hashes, members, options.max_distance))
    pairs = np.unique(np.concatenate(found), axis=0)
    return valid[pairs]


def _close(hashes: NDArray[np.uint64], members: NDArray[np.int64], most: int) -> list[NDArray[np.int64]]:
    pairs = []
    for first in range(0, len(members) - 1, _BLOCK):
        rows, columns = members[first : first + _BLOCK], members[first:]
        distance = np.bitwise_count(hashes[rows][:, None] ^ hashes[columns][None, :])
        left, right = np.nonzero(distance <= most)
        keep = left < right  # columns begin at the first of the rows
        pairs.append(np.sort(np.stack([rows[left[keep]], columns[right[keep]]], axis=1), axis=1))
    return pairs


def _similar(index: Index, options: DuplicateOptions) -> NDArray[np.int64]:
    numbers = np.flatnonzero(index.answered)
    vectors = index.embeddings(numbers)
    found = [np.zeros((0, 2), np.int64)]
    lengths = np.maximum(np.linalg.norm(vectors.astype(np.float32), axis=1), 1e-12)
    for first in range(0, len(numbers), _BLOCK):
        rows = vectors[first : first + _BLOCK].astype(np.float32) / lengths[first : first + _BLOCK, None]
        for second in range(first, len(numbers), _BLOCK):
            other = vectors[second : second + _BLOCK].astype(np.float32) / lengths[second : second + _BLOCK, None]
            left, right = np.nonzero(rows @ other.T >= options.min_similarity)
            pairs = np.stack([left + first, right + second], axis=1)
            found.append(pairs[pairs[:, 0] < pairs[:, 1]])
    return numbers[np.concatenate(found)]


KINDS_OF_LIKENESS: dict[str, Callable[[Index, DuplicateOptions], NDArray[np.int64]]] = {
    "exact": _exact,
    "near": _near,
    "similar": _similar,
}


def find_duplicates(index: Index, options: DuplicateOptions) -> list[Group]:
    """Return the groups, each picture in one: pictures that are linked by any pair of a kind, and not by a closer kind.

    A group's kind is the loosest that it took. The one to keep is the largest in pixels, then in bytes, then the oldest
    file, then the first in the index.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(index)
    labels = np.arange(count)
    kinds = np.full(count, "", dtype="U8")
    pairs = np.zeros((0, 2), np.int64)
    for kind in options.kinds:
        pairs = np.concatenate([pairs, KINDS_OF_LIKENESS[kind](index, options)])
        ones = np.ones(len(pairs), bool)
        _, found = connected_components(coo_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count)), False)
        sizes, before = np.bincount(found), np.bincount(labels)
        grown = (sizes[found] > 1) & (sizes[found] != before[labels])
        kinds[grown] = kind
        labels = found
    members: dict[int, list[int]] = {}
    for number, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(number)
    groups = [numbers for numbers in members.values() if len(numbers) > 1]
    best = _order(index)
    return [Group(str(kinds[numbers[0]]), tuple(sorted(numbers, key=best))) for numbers in groups]


def _order(index: Index) -> Callable[[int], tuple[Any, ...]]:
    table = index.columns("width", "height", "num_bytes", "modified_ns")
    width, height, size, when = (table[name].to_pylist() for name in ("width", "height", "num_bytes", "modified_ns"))

    def key(number: int) -> tuple[Any, ...]:
        pixels = (width[number] or 0) * (height[number] or 0)
        return -pixels, -(size[number] or 0), when[number] or 0, number

    return key


def plan_trash(index: Index, groups: list[Group], trash: Path) -> tuple[list[FileStep], list[str]]:
    """Return the steps that move all but the best of each group, with their sidecars, below `trash`, and who stays.

    Under `trash` a file keeps its whole path. What lies in a shard or on the web stays, and is named.
    """
    trash = Path(os.path.abspath(trash))
    steps, left = [], []
    going = [number for group in groups for number in group.numbers[1:]]
    for known in index.take(going, "input", "container", "num_bytes", "modified_ns"):
        source = known["input"]
        if known["container"] is not None or "://" in source:
            left.append(f"'{source}' is no file of its own: it stays.")
            continue
        steps.append(FileStep("move", source, _below(trash, source), known["num_bytes"], known["modified_ns"]))
        for sidecar, added in sidecars_of(source):
            stem = os.path.splitext(source)[0]
            shared = sidecar == stem + added and _has_sibling(source)
            if not shared and all(step.source != sidecar for step in steps):
                state = os.stat(sidecar)
                steps.append(FileStep("move", sidecar, _below(trash, sidecar), state.st_size, state.st_mtime_ns))
    return steps, left


def _has_sibling(picture: str) -> bool:
    """Return whether another file of this stem lies beside a picture: a RAW file, whose sidecar it is too."""
    path = Path(picture)
    return any(
        other.stem == path.stem and other.name != path.name and other.suffix.lower() != ".xmp"
        for other in path.parent.iterdir()
    )


def _below(trash: Path, path: str) -> str:
    drive, rest = os.path.splitdrive(path)
    return str(trash / _plain(drive) / rest.lstrip("/\\")) if drive else str(trash / rest.lstrip("/\\"))


def _plain(drive: str) -> str:
    return drive.strip(":\\/").replace("\\", "_").replace("/", "_")
