"""The hypernym forest of a label space, as one immutable value over arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.errors import TreeError, UnknownClass
from miil21k.text import near_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = ["Family", "Level", "Tree"]


class Level(NamedTuple):
    """All nodes of one depth: `nodes` int32 [K], ascending node indices."""

    depth: int
    nodes: NDArray[np.int32]


class Family(NamedTuple):
    """Children grouped by parent for one depth (a level-contiguous, sibling-contiguous order).

    nodes: int32 [K], all nodes of this depth, siblings side by side.
    starts: int32 [F], where each group of siblings begins in `nodes` (feeds `np.add.reduceat`).
    parents: int32 [F], the parent of each group; `[-1]` for the roots.
    group: int32 [K], the group each of `nodes` belongs to.
    """

    nodes: NDArray[np.int32]
    starts: NDArray[np.int32]
    parents: NDArray[np.int32]
    group: NDArray[np.int32]


@dataclass(frozen=True, eq=False, repr=False)
class Tree:
    """Hypernym forest over N nodes, of which the first C are the classes.

    Node index == class index == logit index for every class; never renumber. Nodes C..N-1, if any, are
    ancestors that are no classes themselves (the inner nodes above ImageNet-1K, or folders of a user's
    own hierarchy). Index order is not topological: a parent may have a larger index than its child.

    wnids: N unique node keys. names: N display names, NOT unique. parent: int32 [N], -1 marks a root;
    stored read-only. num_classes: C, 1 <= C <= N.

    Raises TreeError when keys repeat, a parent is out of range or the parents form a cycle.
    """

    wnids: tuple[str, ...]
    names: tuple[str, ...]
    parent: NDArray[np.int32]
    num_classes: int

    def __post_init__(self) -> None:
        parent = np.array(self.parent, dtype=np.int32)
        parent.setflags(write=False)
        object.__setattr__(self, "parent", parent)
        n = len(self.wnids)
        if not n or len(self.names) != n or parent.shape != (n,):
            raise TreeError(
                f"A tree needs one name and one parent per node: {n} wnids, {len(self.names)} names, "
                f"parents of shape {parent.shape}."
            )
        if not 1 <= self.num_classes <= n:
            raise TreeError(f"num_classes must lie in 1..{n}, not {self.num_classes}.")
        if len(set(self.wnids)) != n:
            seen: set[str] = set()
            twice = next(w for w in self.wnids if w in seen or seen.add(w))  # type: ignore[func-returns-value]
            raise TreeError(f"Node '{twice}' stands twice in the tree; every wnid must be unique.")
        if parent.min() < -1 or parent.max() >= n:
            bad = int(np.flatnonzero((parent < -1) | (parent >= n))[0])
            raise TreeError(f"The parent of '{self.wnids[bad]}' is {int(parent[bad])}, outside -1..{n - 1}.")
        _ = self.depth  # refuses cycles

    def __repr__(self) -> str:
        return f"Tree({self.num_classes} classes, {self.num_nodes} nodes, {len(self.roots)} roots)"

    @cached_property
    def index_of(self) -> dict[str, int]:
        """Map each wnid to its node index."""
        return {wnid: index for index, wnid in enumerate(self.wnids)}

    def index(self, wnid: str) -> int:
        """Return the node index of `wnid`; raises UnknownClass with near matches."""
        try:
            return self.index_of[wnid]
        except KeyError:
            near = near_names(wnid, self.wnids, alike=0.8)
            hint = f" Near: {', '.join(repr(w) for w in near)}." if near else ""
            raise UnknownClass(f"No node '{wnid}' in this tree of {self.num_classes} classes.{hint}") from None

    def indices(self, wnids: Iterable[str]) -> NDArray[np.int32]:
        """Return int32 [len(wnids)] node indices; raises UnknownClass for the first unknown one."""
        return np.fromiter((self.index(w) for w in wnids), dtype=np.int32)

    @property
    def num_nodes(self) -> int:
        """N, classes and inner nodes together."""
        return len(self.wnids)

    @cached_property
    def depth(self) -> NDArray[np.int32]:
        """int32 [N], 0 for roots, parent's depth + 1 otherwise. Raises TreeError on a cycle."""
        depth = np.zeros(self.num_nodes, np.int32)
        ancestor = self.parent.copy()
        alive = np.flatnonzero(ancestor >= 0)
        rounds = 0
        while alive.size:
            rounds += 1
            if rounds > self.num_nodes:
                knot = " -> ".join(self.wnids[i] for i in self._cycle_from(int(alive[0])))
                raise TreeError(f"The parents form a cycle: {knot}.")
            depth[alive] += 1
            ancestor[alive] = self.parent[ancestor[alive]]
            alive = alive[ancestor[alive] >= 0]
        depth.setflags(write=False)
        return depth

    def _cycle_from(self, node: int) -> list[int]:
        chain = [node]
        while chain.count(chain[-1]) < 2:
            chain.append(int(self.parent[chain[-1]]))
        return chain[chain.index(chain[-1]) :]

    @property
    def max_depth(self) -> int:
        """Depth of the deepest node; the tree has max_depth + 1 levels."""
        return int(self.depth.max())

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """One `Level` per depth 0..max_depth."""
        order = np.argsort(self.depth, kind="stable").astype(np.int32)
        cuts = np.cumsum(np.bincount(self.depth))[:-1]
        return tuple(Level(d, nodes) for d, nodes in enumerate(np.split(order, cuts)))

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """One `Family` per depth: the nodes of the depth with siblings side by side."""
        found = []
        for level in self.levels:
            nodes = level.nodes[np.argsort(self.parent[level.nodes], kind="stable")]
            firsts, starts, counts = np.unique(self.parent[nodes], return_index=True, return_counts=True)
            group = np.repeat(np.arange(firsts.size, dtype=np.int32), counts)
            found.append(Family(nodes, starts.astype(np.int32), firsts.astype(np.int32), group))
        return tuple(found)

    @cached_property
    def level_target(self) -> NDArray[np.int32]:
        """int32 [N, L]: the ancestor-or-self of node n at depth l, as a node index; -1 below n's own depth.

        One gather turns labels into the targets of every level (`tree.level_target[labels]`).
        """
        target = np.full((self.num_nodes, self.max_depth + 1), -1, np.int32)
        node = np.arange(self.num_nodes, dtype=np.int32)
        current = node.copy()
        depth = self.depth.copy()
        while node.size:
            target[node, depth] = current
            current = self.parent[current]
            depth -= 1
            alive = current >= 0
            node, current, depth = node[alive], current[alive], depth[alive]
        target.setflags(write=False)
        return target

    @cached_property
    def num_children(self) -> NDArray[np.int32]:
        """int32 [N], direct children of each node."""
        return np.bincount(self.parent[self.parent >= 0], minlength=self.num_nodes).astype(np.int32)

    @cached_property
    def roots(self) -> NDArray[np.int32]:
        """int32, the nodes without a parent, ascending."""
        return np.flatnonzero(self.parent < 0).astype(np.int32)

    @cached_property
    def leaves(self) -> NDArray[np.int32]:
        """int32, the nodes without children, ascending."""
        return np.flatnonzero(self.num_children == 0).astype(np.int32)

    @cached_property
    def _child_order(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        order = np.argsort(self.parent, kind="stable").astype(np.int32)
        return order, np.searchsorted(self.parent[order], np.arange(self.num_nodes + 1))

    def children(self, node: int) -> NDArray[np.int32]:
        """Return int32, the direct children of `node`, ascending."""
        order, start = self._child_order
        return order[start[node] : start[node + 1]]

    def path(self, node: int) -> tuple[int, ...]:
        """Return the node indices from the root down to `node`, both included."""
        chain = self.level_target[node]
        return tuple(int(i) for i in chain[chain >= 0])

    def descendants(self, node: int) -> NDArray[np.int32]:
        """Return int32, `node` and everything below it, ascending."""
        at = int(self.depth[node])
        return np.flatnonzero(self.level_target[:, at] == node).astype(np.int32)

    def lca(self, a: NDArray[np.int32], b: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return int32, the lowest common ancestor of each pair; -1 where they share none.

        a, b: node indices, broadcast against each other. Node is its own ancestor.
        """
        left, right = np.broadcast_arrays(self.level_target[a], self.level_target[b])
        same = (left == right) & (left >= 0)
        count = same.sum(-1)  # equal levels form a prefix
        found = np.take_along_axis(left, np.maximum(count - 1, 0)[..., None], -1)[..., 0]
        return np.where(count > 0, found, -1).astype(np.int32)

    @cached_property
    def canonical(self) -> str:
        """The text that `sha256` hashes: one `wnid parent_wnid` line per node, `-` for a root.

        Classes come first, in index order; inner nodes that are no classes follow after an empty line.
        """
        named = (*self.wnids, "-")  # the parent of a root is -1, the last
        lines = list(map(" ".join, zip(self.wnids, [named[p] for p in self.parent.tolist()], strict=True)))
        if self.num_nodes > self.num_classes:
            lines.insert(self.num_classes, "")
        return "\n".join(lines) + "\n"

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 of `canonical`; two trees with the same digest decode alike."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()

    @classmethod
    def from_parents(
        cls,
        wnids: Sequence[str],
        parents: Sequence[str | None],
        names: Sequence[str] | None = None,
        num_classes: int = 0,
    ) -> Tree:
        """Build a tree from parallel lists of keys and parent keys (None marks a root).

        num_classes: how many of the first nodes are classes; 0 means all. Raises TreeError for a parent
        that is no node.
        """
        index = {w: i for i, w in enumerate(wnids)}
        try:
            parent = np.array([-1 if p is None else index[p] for p in parents], dtype=np.int32)
        except KeyError as error:
            child = wnids[list(parents).index(error.args[0])]
            raise TreeError(f"The parent '{error.args[0]}' of '{child}' is no node of the tree.") from None
        return cls(tuple(wnids), tuple(names or wnids), parent, num_classes or len(wnids))
