"""Which classes may be the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from miil21k.hierarchy.tree import Tree

__all__ = ["Pools", "pools_of", "restrict", "viable"]


def restrict(
    tree: Tree,
    *,
    under: Sequence[str] | str | None = None,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    withdrawn: ArrayLike | None = None,
) -> NDArray[np.bool_]:
    """Return bool [C], the classes that may be the answer; every condition given must hold.

    under: one wnid or several; the class is one of them or below one. classes: so for these; a decoder also pools what
    lies below each. exclude: the class is neither listed nor below a listed one. withdrawn: bool [C], True for classes
    that are never answered. Probabilities computed with the result are renormalised over what remains.
    Raises UnknownClass for a wnid that is no node, UsageError when no class is left.
    """
    keep = np.ones(tree.num_nodes, bool)
    if under is not None:
        keep &= _below(tree, [under] if isinstance(under, str) else under)
    if classes is not None:
        keep &= _below(tree, classes)
    if exclude is not None:
        keep &= ~_below(tree, exclude)
    allowed = keep[: tree.num_classes]
    if withdrawn is not None:
        mask = np.asarray(withdrawn)
        if mask.shape != allowed.shape or mask.dtype != np.bool_:
            raise UsageError(
                f"The withdrawn classes must be a bool array of shape [{tree.num_classes}], "
                f"not {mask.dtype} {list(mask.shape)}."
            )
        allowed = allowed & ~mask
    if not allowed.any():
        raise UsageError("No class is left by this restriction; widen the subtree or the lists.")
    return allowed


class Pools(NamedTuple):
    """Nodes that are answered as one, with everything below them.

    nodes: int64 [K], ascending. members: int64 [M], the classes that belong to them, those of each node side by side;
    a class belongs to the nearest of `nodes` at or above it. starts: int64 [K], where those of each node begin.
    closed: bool [N], the nodes below them, which are no answers.
    """

    nodes: NDArray[np.int64]
    members: NDArray[np.int64]
    starts: NDArray[np.int64]
    closed: NDArray[np.bool_]


def pools_of(tree: Tree, nodes: Sequence[int], allowed: NDArray[np.bool_]) -> Pools | None:
    """Return what belongs to each of `nodes`, node indices; None where nothing lies below any of them.

    allowed: bool [C], the classes that may be the answer. A node without one of its own is left out.
    """
    chosen = np.unique(np.asarray(nodes, np.int64))
    owner = np.full(tree.num_nodes, -1, np.int64)
    owner[chosen] = chosen
    for level in tree.levels[1:]:
        heirs = level.nodes[owner[level.nodes] < 0]
        owner[heirs] = owner[tree.parent[heirs]]
    classes = np.flatnonzero(allowed & (owner[: tree.num_classes] >= 0))
    members = classes[np.argsort(owner[classes], kind="stable")]
    if np.array_equal(owner[members], members):
        return None
    found, starts = np.unique(owner[members], return_index=True)
    leads_to = np.zeros(tree.num_nodes, bool)
    leads_to[chosen] = True
    for level in reversed(tree.levels[1:]):
        leads_to[tree.parent[level.nodes[leads_to[level.nodes]]]] = True
    return Pools(found, members, starts.astype(np.int64), (owner >= 0) & ~leads_to)


def _below(tree: Tree, wnids: Sequence[str]) -> NDArray[np.bool_]:
    """Return bool [N], True for each of `wnids` and everything below them."""
    chosen = np.zeros(tree.num_nodes + 1, bool)  # the last entry answers for the -1 of `level_target`
    chosen[tree.indices(wnids)] = True
    return np.asarray(chosen[tree.level_target].any(axis=1))


def viable(tree: Tree, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return bool [N], True where a node or something below it is a class of `allowed`, bool [C]."""
    alive = np.zeros(tree.num_nodes, bool)
    alive[: tree.num_classes] = allowed
    for level in reversed(tree.levels[1:]):
        alive[tree.parent[level.nodes[alive[level.nodes]]]] = True
    return alive
