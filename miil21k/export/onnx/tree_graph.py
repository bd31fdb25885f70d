"""A graph that walks a tree, whole batches at a time: constant tables of columns, and operators over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from miil21k.decode.restriction import viable
from miil21k.decode.tree_passes import family_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from miil21k.export.onnx.graph import GraphWriter
    from miil21k.hierarchy.tree import Tree

__all__ = ["Groups", "TreeGraph", "Walk", "groups_by_size", "walk_tables"]


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of columns, in buckets of about one size.

    tables: one int32 [G_i, 2^i] per bucket that is not empty; rows are padded with `fill`, the column after the last.
    order: int64 [G], which of the given groups each row of the stacked tables is.
    """

    tables: tuple[NDArray[np.int32], ...]
    order: NDArray[np.int64]
    fill: int


def groups_by_size(members: Sequence[NDArray[np.int64]], fill: int) -> Groups:
    """Return the groups in buckets of 1, 2, 3-4, 5-8, ... members; no group may be empty."""
    sizes = [group.size for group in members]
    widths = np.ceil(np.log2(sizes)).astype(int)
    tables, order = [], []
    for width in np.unique(widths):
        chosen = np.flatnonzero(widths == width)
        table = np.full((chosen.size, 2**width), fill, np.int32)
        for row, group in enumerate(chosen.tolist()):
            table[row, : sizes[group]] = members[group]
        tables.append(table)
        order.append(chosen)
    return Groups(tuple(tables), np.concatenate(order), fill)


@dataclass(frozen=True, eq=False)
class Walk:
    """The nodes that can be answered, level by level, siblings side by side and ascending.

    nodes: int64 [V], the node in each column. starts: int64 [L + 1], where each depth begins among the columns.
    parent: int64 [V], the column of each node's parent; -1 for roots. depth: int64 [V].
    families: all groups of siblings below a parent (the tables hold columns). family_of: int64 [V + 1], which
    row of the stacked tables holds the children of a column; F, one past the last row, where there are none.
    parents: int64 [F], the column of each family's parent, V for the roots, which are a family too.
    own_family: int64 [V], the row that holds the column itself. roots: the row that holds the roots.
    """

    nodes: NDArray[np.int64]
    starts: NDArray[np.int64]
    parent: NDArray[np.int64]
    depth: NDArray[np.int64]
    families: Groups
    family_of: NDArray[np.int64]
    parents: NDArray[np.int64]
    own_family: NDArray[np.int64]

    @property
    def size(self) -> int:
        """V, the number of columns."""
        return self.nodes.size

    @property
    def num_families(self) -> int:
        """F, the number of groups of siblings, the roots among them."""
        return self.parents.size

    @property
    def roots(self) -> int:
        """The row of the stacked tables that holds the roots."""
        return int(self.family_of[self.size])

    def column_of(self, num_nodes: int) -> NDArray[np.int64]:
        """Return int64 [N], the column of each node; -1 for a node that cannot be answered."""
        column = np.full(num_nodes, -1, np.int64)
        column[self.nodes] = np.arange(self.size)
        return column


def walk_tables(tree: Tree, allowed: NDArray[np.bool_]) -> Walk:
    """Return the tables for the nodes that are, or lie above, a class of `allowed`, bool [C]."""
    order = family_order(tree).nodes
    nodes = order[viable(tree, allowed)[order]]
    column = np.full(tree.num_nodes + 1, -1, np.int64)  # the last entry, which index -1 reads, is "no parent"
    column[nodes] = np.arange(nodes.size)
    parent, depth = column[tree.parent[nodes]], tree.depth[nodes].astype(np.int64)
    # Siblings are side by side, so a family ends where the parent changes.
    cuts = np.flatnonzero(np.diff(parent, prepend=-2))
    members = np.split(np.arange(nodes.size), cuts[1:])
    families = groups_by_size(members, fill=nodes.size)
    above = np.where(parent[cuts] < 0, nodes.size, parent[cuts])[families.order]
    family_of = np.full(nodes.size + 1, above.size, np.int64)
    family_of[above] = np.arange(above.size)
    own_family = family_of[np.where(parent < 0, nodes.size, parent)]
    starts = np.searchsorted(depth, np.arange(tree.max_depth + 2))
    return Walk(nodes, starts, parent, depth, families, family_of, above, own_family)


class TreeGraph:
    """Writes operators over values in walk order, float32 [B, V]; every piece returns the name of its output.

    graph: takes the operators. walk: the order. scale: float32 [L], 1 / T of each depth.
    """

    def __init__(self, graph: GraphWriter, walk: Walk, scale: NDArray[np.float32]) -> None:
        self.graph, self.walk, self.scale = graph, walk, scale

    def ints(self, values: ArrayLike) -> str:
        """Return an int64 constant."""
        return self.graph.constant(values, np.int64)

    def floats(self, values: ArrayLike) -> str:
        """Return a float32 constant."""
        return self.graph.constant(values, np.float32)

    def columns(self, values: str, indices: ArrayLike) -> str:
        """Return these columns of `values`."""
        return self.graph.add("Gather", values, self.graph.constant(indices, np.int32), axis=1)

    def padded(self, values: str, fill: float | int, dtype: type[np.generic] = np.float32) -> str:
        """Append one column of `fill`."""
        return self.graph.add("Pad", values, self.ints([0, 0, 0, 1]), self.graph.constant(fill, dtype))

    def reduce(self, kind: str, values: str, groups: Groups, fill: float) -> str:
        """Return [B, G], one reduction per group in the order of the stacked tables."""
        graph, axis = self.graph, self.ints([2])
        values = self.padded(values, fill)
        parts = [graph.add(kind, self.columns(values, table), axis, keepdims=0) for table in groups.tables]
        return parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=1)

    def folded(self, kind: str, values: str, members: Sequence[NDArray[np.int64]], fill: int) -> str:
        """Return [B, len(members)], one reduction per group of columns, in order; what is filled up counts as 0.

        fill: the number of columns of `values`.
        """
        groups = groups_by_size(members, fill)
        return self.columns(self.reduce(kind, values, groups, 0), np.argsort(groups.order))

    def generations(self, values: str) -> list[str]:
        """Return the columns of each depth that has some."""
        sizes = np.diff(self.walk.starts)
        sizes = sizes[sizes > 0]
        return (
            [values]
            if sizes.size == 1
            else self.graph.split("Split", values, self.ints(sizes), outputs=sizes.size, axis=1)
        )

    def joined(self, parts: list[str]) -> str:
        """Return the parts side by side."""
        return parts[0] if len(parts) == 1 else self.graph.add("Concat", *parts, axis=1)

    def times(self, values: str, factors: NDArray[np.float32]) -> str:
        """Return `values` times `factors`, themselves where all factors are 1."""
        return values if (factors == 1).all() else self.graph.add("Mul", values, self.floats(factors))
