"""Which classes may be the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from miil21k.hierarchy.concepts import Concepts
    from miil21k.hierarchy.tree import Tree

__all__ = ["Pools", "pools_of", "restrict", "viable"]


def restrict(
    concepts: Concepts,
    *,
    under: Sequence[int] | None = None,
    classes: Sequence[int] | None = None,
    exclude: Sequence[int] | None = None,
) -> NDArray[np.bool_]:
    """Return bool [C], the classes that may be the answer; every condition given must hold.

    All are concepts, by index. under: the class lies at or below one of them. classes: so for these; a decoder also
    pools what lies below each. exclude: the class lies at or below none of them.
    Raises UsageError when no class is left.
    """
    allowed = np.ones(concepts.num_classes, bool)
    for wanted in (under, classes):
        if wanted is not None:
            allowed &= _below(concepts, wanted)
    if exclude is not None:
        allowed &= ~_below(concepts, exclude)
    if not allowed.any():
        raise UsageError("No class is left by this restriction; widen the subtree or the lists.")
    return allowed


def _below(concepts: Concepts, chosen: Sequence[int]) -> NDArray[np.bool_]:
    """Return bool [C], True for the classes at or below one of `chosen`."""
    found = np.zeros(concepts.num_classes, bool)
    for concept in chosen:
        found[concepts.classes(concept)] = True
    return found


class Pools(NamedTuple):
    """Concepts that are answered as one, with everything below them.

    concepts: int64 [P], ascending. members: int64 [M], the classes that belong to them, those of each side by side; a
    class belongs to the concept at or above it that has the fewest classes. starts: int64 [P], where those of each
    begin. closed: bool [N], the nodes of the tree below them, which are no steps of a path.
    """

    concepts: NDArray[np.int64]
    members: NDArray[np.int64]
    starts: NDArray[np.int64]
    closed: NDArray[np.bool_]


def pools_of(graph: Concepts, listed: Sequence[int], allowed: NDArray[np.bool_]) -> Pools | None:
    """Return what belongs to each concept of `listed`, indices; None where nothing lies below any of them.

    allowed: bool [C], the classes that may be the answer. A concept without one of its own is left out.
    """
    owner = np.full(graph.num_classes, -1, np.int64)
    for concept in sorted(set(listed), key=lambda one: (-graph.num_below[one], graph.depth[one], -one)):
        owner[graph.classes(concept)] = concept  # the last one is the nearest
    classes = np.flatnonzero(allowed & (owner >= 0))
    members = classes[np.argsort(owner[classes], kind="stable")]
    if np.array_equal(owner[members], members):
        return None
    found, starts = np.unique(owner[members], return_index=True)
    below, todo = np.zeros(len(graph), bool), list(listed)
    while todo:
        new = [child for child in graph.children(todo.pop()).tolist() if not below[child]]
        below[new] = True
        todo += new
    tree = graph.space.tree
    leads_to = np.zeros(tree.num_nodes, bool)
    leads_to[[concept for concept in listed if concept < tree.num_nodes]] = True
    for level in reversed(tree.levels[1:]):
        leads_to[tree.parent[level.nodes[leads_to[level.nodes]]]] = True
    return Pools(found, members, starts.astype(np.int64), below[: tree.num_nodes] & ~leads_to)


def viable(tree: Tree, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return bool [N], True where a node or something below it is a class of `allowed`, bool [C]."""
    alive = np.zeros(tree.num_nodes, bool)
    alive[: tree.num_classes] = allowed
    for level in reversed(tree.levels[1:]):
        alive[tree.parent[level.nodes[alive[level.nodes]]]] = True
    return alive
