"""P(concept): how sure a head is that a picture shows a mammal, wherever the tree of levels keeps its mammals.

`masses` everywhere is float32 [B, C], P(exactly this class) as `class_masses` gives it: before anything is hidden, over
all classes that may exist. P(concept) is the sum of the masses of the classes at or below it along any edge; the
largest one for sigmoid heads, whose classes do not exclude each other.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.decode.probabilities import class_probabilities, node_probabilities, probabilities
from miil21k.decode.restriction import viable
from miil21k.decode.tree_passes import exclusive, family_order
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from miil21k.decode.heads import HeadKind
    from miil21k.decode.probabilities import Probabilities
    from miil21k.decode.tree_passes import Block, FamilyOrder
    from miil21k.hierarchy.concepts import Concepts
    from miil21k.hierarchy.tree import Tree

__all__ = ["asked_probabilities", "class_masses", "concept_probabilities", "level_masses"]

SURPLUS = 1e-6  # what classes may sum to above their roots before families are scaled down
BLOCK_VALUES = 1 << 18  # concept values per block of rows: 1 MiB of float32 stays in the cache between passes


def class_masses(
    tree: Tree,
    logits: ArrayLike,
    head: HeadKind,
    *,
    withdrawn: NDArray[np.bool_] | None = None,
    temperature: ArrayLike | None = None,
    rule: str | None = None,
    dtype: type[np.floating] = np.float32,
) -> NDArray[Any]:
    """Return [B, C], P(exactly this class) before any restriction; the rows of softmax heads sum to at most 1.

    withdrawn: bool [C], classes that are never shown. One without a class that is shown below it gets 0, as if the
    head had no such class; any other stays a step of paths and keeps its mass for the concepts above it.
    logits, temperature, rule and errors: those of `probabilities`. Where a rule lets children sum to more than their
    parent (`min`), each family is scaled down to it first. dtype: float32; float64 for level_softmax heads alone.
    """
    alive = None if withdrawn is None else viable(tree, ~withdrawn)[: tree.num_classes]
    if head != "level_softmax":
        return class_probabilities(tree, logits, head, allowed=alive, temperature=temperature)
    if dtype is not np.float32:
        nodes = node_probabilities(tree, logits, head, allowed=alive, temperature=temperature, rule=rule, dtype=dtype)
        return _fitted_masses(tree, nodes)
    return level_masses(tree, probabilities(tree, logits, head, allowed=alive, temperature=temperature, rule=rule))


def level_masses(tree: Tree, found: Probabilities) -> NDArray[np.float32]:
    """Return float32 [B, C], the masses of a level_softmax head from what it says about nodes and classes.

    They are the probabilities of the classes, but in rows where some children sum to more than their parent: there the
    classes, which are never less than 0, sum to more than the roots.
    """
    most = found.nodes[:, tree.roots].sum(axis=1) + SURPLUS
    rows = np.flatnonzero(found.classes.sum(axis=1) > most)
    if not rows.size:
        return found.classes
    masses = found.classes.copy()
    masses[rows] = _fitted_masses(tree, found.nodes[rows])
    return masses


def _fitted_masses(tree: Tree, nodes: NDArray[Any]) -> NDArray[Any]:
    order = family_order(tree)
    masses = np.empty((len(nodes), tree.num_classes), nodes.dtype)
    step = max(1, BLOCK_VALUES // tree.num_nodes)
    for first in range(0, len(nodes), step):
        block = nodes[first : first + step].take(order.nodes, axis=1)
        _fit_families(block, order)
        exclusive(block, order).take(order.column[: tree.num_classes], axis=1, out=masses[first : first + step])
    return masses


def _fit_families(block: Block, order: FamilyOrder) -> None:
    """Scale siblings that sum to more than their parent down to it, in place, from the roots on."""
    for generation in order.generations[1:]:
        family = block[:, generation.columns]
        total = np.maximum(np.add.reduceat(family, generation.starts, axis=1), np.finfo(block.dtype).tiny)
        family *= np.repeat(np.minimum(block[:, generation.parents] / total, 1), generation.sizes, axis=1)


class _Step(NamedTuple):
    """Groups of columns that are folded into one column each.

    sources: int64, columns, those of a group side by side. starts: int64, where groups begin. targets: int64, columns.
    """

    sources: NDArray[np.int64]
    starts: NDArray[np.int64]
    targets: NDArray[np.int64]


class _Passes(NamedTuple):
    """The passes over a block [R, K]: branches of the spanning tree upwards, what they miss, and rounding.

    child, parent: int64, the edges along which rounding may differ, deepest parents first.
    """

    branches: tuple[_Step, ...]
    missed: _Step
    child: NDArray[np.int64]
    parent: NDArray[np.int64]


@lru_cache(maxsize=8)
def _plan(concepts: Concepts) -> _Passes:
    branches = [
        _Step(family.nodes.astype(np.int64), family.starts.astype(np.int64), family.parents.astype(np.int64))
        for family in reversed(concepts.tree.families[1:])
    ]
    owners, starts, missed = (part.astype(np.int64) for part in concepts.cover)
    return _Passes(tuple(branches), _Step(missed, starts, owners), *_rounding(concepts))


def _rounding(concepts: Concepts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the edges along which two float32 sums of one set may differ: from concepts that the tree misses part of.

    A branch is summed from its children and so is no less than any of them. Deepest parents first.
    """
    affected = np.zeros(len(concepts), bool)
    affected[concepts.cover.owners] = True
    while True:
        above = concepts.parent[affected[concepts.child]]
        if affected[above].all():
            break
        affected[above] = True
    edges = np.flatnonzero(affected[concepts.child])
    child, parent = concepts.child[edges].astype(np.int64), concepts.parent[edges].astype(np.int64)
    order = np.lexsort((parent, -concepts.depth[parent]))
    return child[order], parent[order]


def _lift(block: NDArray[np.float32], child: NDArray[np.int64], parent: NDArray[np.int64]) -> None:
    """Raise parents that rounding left below a child, in place: a few edges of hundreds, in a few rows."""
    while True:
        below = block.take(parent, axis=1) < block.take(child, axis=1)
        if not below.any():
            return
        for edge in np.flatnonzero(below.any(axis=0)).tolist():
            upper = block[:, parent[edge]]
            np.maximum(upper, block[:, child[edge]], out=upper)


def concept_probabilities(
    concepts: Concepts, masses: NDArray[np.float32], head: HeadKind = "leaf_softmax"
) -> NDArray[np.float32]:
    """Return float32 [B, K], P of every concept: in [0, 1], and never less than that of a concept below it.

    concepts: K concepts of a label space of C classes. masses: float32 [B, C]. head: sigmoid heads take the maximum.
    Raises UsageError for masses of another shape.
    """
    _check(concepts, masses)
    plan, fold = _plan(concepts), np.maximum if head == "sigmoid" else np.add
    found = np.zeros((len(masses), len(concepts)), np.float32)
    step = max(1, BLOCK_VALUES // len(concepts))
    for first in range(0, len(masses), step):
        block = found[first : first + step]
        block[:, : concepts.num_classes] = masses[first : first + step]
        for part in plan.branches:
            _apply(fold, block, part)
        if plan.missed.targets.size:
            _apply(fold, block, plan.missed)
            if fold is np.add:
                _lift(block, plan.child, plan.parent)
        np.minimum(block, 1, out=block)
    return found


def _apply(fold: np.ufunc, block: NDArray[np.float32], step: _Step) -> None:
    """Fold each group of columns into its target, in place."""
    total = fold.reduceat(block.take(step.sources, axis=1), step.starts, axis=1)
    block[:, step.targets] = fold(block.take(step.targets, axis=1), total)


def asked_probabilities(
    concepts: Concepts, masses: NDArray[np.float32], asked: Sequence[int], head: HeadKind = "leaf_softmax"
) -> NDArray[np.float32]:
    """Return float32 [B, len(asked)], P of a few concepts (indices), without that of all others.

    The other arguments and errors are those of `concept_probabilities`, with which it agrees to 1e-6.
    """
    _check(concepts, masses)
    found = np.empty((len(masses), len(asked)), np.float32)
    for column, concept in enumerate(asked):
        below = masses.take(concepts.classes(concept), axis=1)
        found[:, column] = below.max(axis=1, initial=0) if head == "sigmoid" else below.sum(axis=1)
    return np.minimum(found, 1, out=found)


def _check(concepts: Concepts, masses: NDArray[np.float32]) -> None:
    if masses.ndim != 2 or masses.shape[1] != concepts.num_classes:
        raise UsageError(f"Class masses must have the shape [batch, {concepts.num_classes}], not {list(masses.shape)}.")
