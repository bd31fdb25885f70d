"""The decoding of `miil21k.decode` as ONNX operators: logits -> path, hedged node, top-k.

Only nodes that can be answered are in the graph, so masked classes need no infinities. The formulas are those of
`docs/decoding.md`; sums run in another order than in NumPy, so probabilities agree to float32 rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from miil21k.decode.families import TINY
from miil21k.decode.logits import inverse_temperature
from miil21k.decode.path import SLACK
from miil21k.export.onnx.tables import Groups, Walk, groups_by_size, walk_tables

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from miil21k.decode.logits import HeadKind
    from miil21k.decode.probabilities import Rule
    from miil21k.export.onnx.graph import GraphWriter
    from miil21k.hierarchy.tree import Tree

__all__ = ["DECODED", "HEDGE_INPUT", "Decoding", "write_decoding"]

HEDGE_INPUT = "hedge"
DECODED = ("topk_index", "topk_prob", "path", "path_prob", "hedge_node", "hedge_prob")
LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True, eq=False)
class Decoding:
    """What the graph decides by: arguments of `miil21k.decode`, fixed at export.

    allowed: bool [C], the classes that may be the answer. hidden: bool [C], classes that no path shows although
    something below them is allowed; None for none. temperature: one number, one per depth, or None. topk: how many
    classes. hedge: the default of the input of that name.
    """

    tree: Tree
    head: HeadKind
    rule: Rule
    allowed: NDArray[np.bool_]
    hidden: NDArray[np.bool_] | None
    temperature: ArrayLike | None
    topk: int
    hedge: float


def write_decoding(graph: GraphWriter, logits: str, decoding: Decoding) -> None:
    """Write the tensors named in `DECODED` from `logits`, float32 [B, C], and the input `hedge`, float32 scalar.

    With L depths and k = min(topk, allowed classes): topk_index int32 [B, k] and topk_prob float32 [B, k]; path int32
    [B, L], node indices root first, padded with -1, and path_prob float32 [B, L]; hedge_node int32 [B], -1 when not
    even the root is sure enough, and hedge_prob float32 [B].
    """
    _Writer(graph, decoding).write(logits)


class _Writer:
    def __init__(self, graph: GraphWriter, decoding: Decoding) -> None:
        self.graph = graph
        self.decoding = decoding
        self.tree = decoding.tree
        self.walk: Walk = walk_tables(self.tree, decoding.allowed)
        self.classes = np.flatnonzero(decoding.allowed)
        self.column_of = self.walk.column_of(self.tree.num_nodes)
        self.scale = inverse_temperature(decoding.temperature, self.tree.max_depth + 1)

    def write(self, logits: str) -> None:
        if self.decoding.head == "level_softmax":
            nodes = self.level_softmax(logits)
            own = self.exclusive(nodes)
        else:
            own = self.class_probabilities(logits)
            nodes = self.from_descendants(own)
        self.topk(own)
        path, probs = self.path(nodes)
        self.hedge(path, probs)

    # Small pieces.

    def ints(self, values: ArrayLike) -> str:
        return self.graph.constant(values, np.int64)

    def floats(self, values: ArrayLike) -> str:
        return self.graph.constant(values, np.float32)

    def columns(self, values: str, indices: ArrayLike) -> str:
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

    def generations(self, values: str) -> list[str]:
        sizes = np.diff(self.walk.starts)
        sizes = sizes[sizes > 0]
        return (
            [values]
            if sizes.size == 1
            else self.graph.split("Split", values, self.ints(sizes), outputs=sizes.size, axis=1)
        )

    def joined(self, parts: list[str]) -> str:
        return parts[0] if len(parts) == 1 else self.graph.add("Concat", *parts, axis=1)

    def times(self, values: str, factors: NDArray[np.float32]) -> str:
        return values if (factors == 1).all() else self.graph.add("Mul", values, self.floats(factors))

    # P(node) of the three heads.

    def level_softmax(self, logits: str) -> str:
        rule, walk = self.decoding.rule, self.walk
        heard = self.columns(logits, walk.nodes)
        levels = self.softmax_siblings(heard) if rule == "sibling" else self.softmax_levels(heard)
        if rule == "coherent":
            levels = self.divided(levels)
        combine = "Min" if rule == "min" else "Mul"
        parts = self.generations(levels)
        for depth in range(1, len(parts)):
            first, last = walk.starts[depth], walk.starts[depth + 1]
            above = self.columns(parts[depth - 1], walk.parent[first:last] - walk.starts[depth - 1])
            parts[depth] = self.graph.add(combine, parts[depth], above)
        return self.joined(parts)

    def softmax_levels(self, heard: str) -> str:
        parts = [
            self.graph.add("Softmax", self.times(part, self.scale[depth : depth + 1]), axis=1)
            for depth, part in enumerate(self.generations(heard))
        ]
        return self.joined(parts)

    def softmax_siblings(self, heard: str) -> str:
        graph, walk = self.graph, self.walk
        top = self.columns(self.reduce("ReduceMax", heard, walk.families, LOWEST), walk.own_family)
        shifted = self.times(graph.add("Sub", heard, top), self.scale[walk.depth])
        grown = graph.add("Exp", shifted)
        total = self.columns(self.reduce("ReduceSum", grown, walk.families, 0), walk.own_family)
        return graph.add("Div", grown, total)

    def divided(self, levels: str) -> str:
        """Divide every value below the roots by the larger of its parent's value and its siblings' sum."""
        graph, walk = self.graph, self.walk
        total = self.reduce("ReduceSum", levels, walk.families, 0)
        # The roots stay as they are: their sum is that of a softmax, and their row is set to 1.
        is_root = graph.constant(np.arange(walk.num_families) == walk.roots, np.bool_)
        total = graph.add("Where", is_root, self.floats(1), total)
        total = graph.add("Max", total, self.columns(self.padded(levels, 1), walk.parents), self.floats(TINY))
        return graph.add("Div", levels, self.columns(total, walk.own_family))

    def exclusive(self, nodes: str) -> str:
        """Return [B, A], P(exactly this class): P(node) less the sum of its children's, at least 0."""
        graph, walk = self.graph, self.walk
        columns = self.column_of[self.classes]
        below = self.padded(self.reduce("ReduceSum", nodes, walk.families, 0), 0)
        children = self.columns(below, walk.family_of[columns])
        return graph.add("Relu", graph.add("Sub", self.columns(nodes, columns), children))

    def class_probabilities(self, logits: str) -> str:
        """Return [B, A], the softmax or the sigmoids of the allowed classes."""
        graph = self.graph
        heard = logits if self.decoding.allowed.all() else self.columns(logits, self.classes)
        if self.decoding.head == "leaf_softmax":
            return graph.add("Softmax", self.times(heard, self.scale[:1]), axis=1)
        heard = self.times(heard, self.scale[self.tree.depth[self.classes]])
        grown = graph.add("Exp", graph.add("Neg", heard))
        return graph.add("Reciprocal", graph.add("Add", grown, self.floats(1)))

    def from_descendants(self, own: str) -> str:
        """Return [B, V], for every node the sum (leaf_softmax) or maximum (sigmoid) over the classes below it."""
        walk, tree = self.walk, self.tree
        chains = tree.level_target[self.classes]
        row, at = np.nonzero(chains >= 0)
        column = self.column_of[chains[row, at]]
        order = np.argsort(column, kind="stable")
        members = np.split(row[order], np.searchsorted(column[order], np.arange(1, walk.size)))
        groups = groups_by_size(members, fill=self.classes.size)
        summed = self.decoding.head == "leaf_softmax"
        stacked = self.reduce("ReduceSum" if summed else "ReduceMax", own, groups, 0)
        nodes = self.columns(stacked, np.argsort(groups.order))
        return self.graph.add("Min", nodes, self.floats(1)) if summed else nodes

    # The answers.

    def topk(self, own: str) -> None:
        graph = self.graph
        k = min(self.decoding.topk, self.classes.size)
        prob, at = graph.split("TopK", own, self.ints([k]), outputs=["topk_prob", "decode/topk_at"], axis=1)
        index = graph.add("Gather", graph.constant(self.classes, np.int32), at)
        none = graph.constant(-1, np.int32)
        graph.add("Where", graph.add("Greater", prob, self.floats(0)), index, none, output="topk_index")

    def path(self, nodes: str) -> tuple[str, str]:
        """Return the names of `path` and `path_prob`: from the best root to the best child, while there is one."""
        graph, walk = self.graph, self.walk
        best = self.best_children(nodes)
        extended = self.padded(nodes, 0)
        batch = graph.add("Concat", graph.add("Shape", nodes, start=0, end=1), self.ints([1]), axis=0)
        family = graph.add("Expand", self.ints([[walk.roots]]), batch)
        family_of = self.ints(np.append(walk.family_of[:-1], walk.num_families))  # column V, no node, has no children
        columns: list[str] = []
        probs: list[str] = []
        for _ in range(int(np.count_nonzero(np.diff(walk.starts)))):
            columns.append(graph.add("GatherElements", best, family, axis=1))
            prob = graph.add("GatherElements", extended, columns[-1], axis=1)
            # Sums of the same classes in another order may differ in the last bit: a step never grows.
            probs.append(graph.add("Min", prob, probs[-1]) if probs else prob)
            family = graph.add("Gather", family_of, columns[-1])
        return self.shown(self.level_count(columns, walk.size), self.level_count(probs, 0.0))

    def level_count(self, parts: list[str], fill: float | int) -> str:
        """Join one column per depth; depths that the restriction left empty are filled up."""
        joined = self.joined(parts)
        missing = self.tree.max_depth + 1 - len(parts)
        if not missing:
            return joined
        value = self.graph.constant(fill, np.float32 if isinstance(fill, float) else np.int64)
        return self.graph.add("Pad", joined, self.ints([0, 0, 0, missing]), value)

    def best_children(self, nodes: str) -> str:
        """Return int64 [B, F + 1], the column of the most probable member of each family, V where none has P > 0."""
        graph, walk = self.graph, self.walk
        extended = self.padded(nodes, 0)
        found = []
        for table in walk.families.tables:
            values = self.columns(extended, table)
            at = graph.add("ArgMax", values, axis=2, keepdims=0)  # the first of equals, which is the lowest index
            flat = graph.add("Add", at, self.ints(np.arange(len(table)) * table.shape[1]))
            column = graph.add("Gather", self.ints(table.ravel()), flat)
            some = graph.add("Greater", graph.add("ReduceMax", values, self.ints([2]), keepdims=0), self.floats(0))
            found.append(graph.add("Where", some, column, self.ints(walk.size)))
        return self.padded(self.joined(found), walk.size, np.int64)

    def shown(self, columns: str, probs: str) -> tuple[str, str]:
        """Write `path` and `path_prob`, without hidden nodes and closed up to the left."""
        graph, walk = self.graph, self.walk
        hidden = np.append(self.hidden_nodes()[walk.nodes], True)
        node_of = graph.constant(np.where(hidden, -1, np.append(walk.nodes, -1)), np.int32)
        if not hidden[:-1].any():
            graph.add("Identity", probs, output="path_prob")
            return graph.add("Gather", node_of, columns, output="path"), "path_prob"
        levels = self.tree.max_depth + 1
        kept = graph.add("Gather", self.ints(np.where(hidden, 0, 2 * levels)), columns)
        key = graph.add("Sub", kept, self.ints(np.arange(levels)))
        _, order = graph.split("TopK", key, self.ints([levels]), outputs=2, axis=1)
        prob_of = graph.add("Where", graph.add("Greater", kept, self.ints(0)), probs, self.floats(0))
        nodes = graph.add("Gather", node_of, columns)
        return (
            graph.add("GatherElements", nodes, order, output="path", axis=1),
            graph.add("GatherElements", prob_of, order, output="path_prob", axis=1),
        )

    def hidden_nodes(self) -> NDArray[np.bool_]:
        hidden = np.zeros(self.tree.num_nodes, bool)
        if self.decoding.hidden is not None:
            hidden[: self.tree.num_classes] = self.decoding.hidden
        return hidden

    def hedge(self, path: str, probs: str) -> None:
        """Write `hedge_node` and `hedge_prob`: the deepest step of the path that is as sure as the input `hedge`."""
        graph = self.graph
        graph.named(HEDGE_INPUT, self.decoding.hedge, np.float32)
        level = graph.add("Sub", HEDGE_INPUT, self.floats(SLACK))
        real = graph.add("Greater", path, graph.constant(-1, np.int32))
        sure = graph.add("And", real, graph.add("GreaterOrEqual", probs, level))
        # Probabilities never grow, so the sure steps are the first ones; column 0 of the shifted path is "none".
        length = graph.add("ReduceSum", graph.add("Cast", sure, to=7), self.ints([1]), keepdims=1)
        for values, fill, dtype, output in ((path, -1, np.int32, "hedge_node"), (probs, 0, np.float32, "hedge_prob")):
            shifted = graph.add("Pad", values, self.ints([0, 1, 0, 0]), graph.constant(fill, dtype))
            graph.add("Squeeze", graph.add("GatherElements", shifted, length, axis=1), self.ints([1]), output=output)
