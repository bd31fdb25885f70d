"""The decoding of `miil21k.decode` as ONNX operators: logits -> path, hedged node, top-k.

Only nodes that can be answered are in the graph, so masked classes need no infinities. The formulas are those of
`docs/decoding.md`; sums run in another order than in NumPy, so probabilities agree to float32 rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from miil21k.decode.decoded import concept_graph
from miil21k.decode.logits import inverse_temperature
from miil21k.decode.path import SLACK
from miil21k.errors import UsageError
from miil21k.export.onnx.concept_reading import concept_masses, read_concepts, write_asked, write_bins
from miil21k.export.onnx.rules import fitted_families, onnx_rule
from miil21k.export.onnx.tree_graph import TreeGraph, walk_tables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.decode.decoder import Decoder
    from miil21k.export.onnx.graph import GraphWriter

__all__ = ["ASKED", "BINS", "DECODED", "HEDGE_INPUT", "decoded_shapes", "write_concepts", "write_decoding"]

HEDGE_INPUT = "hedge"
DECODED = ("topk_index", "topk_prob", "path", "path_prob", "hedge_node", "hedge_prob")
ASKED, BINS = "asked", "bins"


def decoded_shapes(decoder: Decoder, topk: int) -> dict[str, list[int]]:
    """Return what `write_decoding` writes for the decoder: name -> shape without the batch."""
    allowed, on_tree = decoder.allowed, decoder.reading == "published"
    k = min(topk, decoder.space.num_classes if allowed is None else int(allowed.sum()))
    steps = decoder.space.tree.max_depth + 1 if on_tree else decoder.answer_vocabulary.steps
    shapes = dict(zip(DECODED, ([k], [k], [steps], [steps], [], []), strict=True))
    if decoder.asked:
        shapes[ASKED] = [len(decoder.asked)]
    if decoder.bins is not None:
        shapes[BINS] = [len(decoder.bins)]
    return shapes


def write_decoding(graph: GraphWriter, logits: str, decoder: Decoder, topk: int) -> None:
    """Write the tensors of `decoded_shapes` from `logits`, float32 [B, C], and the input `hedge`, float32 scalar.

    With k = min(topk, allowed classes): topk_index int32 [B, k] and topk_prob float32 [B, k]; path int32 [B, L], root
    first, padded with -1, and path_prob float32 [B, L]; hedge_node int32 [B], -1 where nothing that says the decoder's
    `min_bits` is sure enough, and hedge_prob float32 [B]. Read as published they hold nodes, and the path is whole,
    over the L depths; read on concepts they hold concepts, and the path ends at the answer. asked: float32 [B, Q], P of
    each question, where the decoder has some; bins: float32 [B, N], P of each label of its bins, *other* last. The
    default of `hedge` is the decoder's level.
    Raises UsageError for a rule without an ONNX form, for a restriction that masking logits does not obey, and where no
    concept says enough.
    """
    if decoder.restriction is not None and (
        decoder.head == "level_softmax"
        or decoder.withdrawn is not None
        or decoder.pools is not None
        or decoder.asked
        or decoder.bins is not None
        or decoder.reading == "concepts"
    ):
        raise UsageError(
            f"A graph cannot hold the restriction ({decoder.restriction.condition}) of this head: export without it, "
            "and restrict the decoder that reads the exported logits."
        )
    _Writer(graph, decoder, topk).write(logits)


def write_concepts(graph: GraphWriter, logits: str, decoder: Decoder, output: str) -> None:
    """Write `output`, float32 [B, K]: P of each of the K concepts of the decoder's space, in their order.

    logits: name of float32 [B, C]. What `write_decoding` writes for questions, for every concept at once.
    """
    writer = _Writer(graph, decoder, 1)
    every = range(len(concept_graph(decoder.space)))
    graph.add("Identity", concept_masses(writer, decoder, writer.masses(logits), every), output=output)


class _Writer(TreeGraph):
    def __init__(self, graph: GraphWriter, decoder: Decoder, topk: int) -> None:
        self.decoder, self.tree = decoder, decoder.space.tree
        every = np.ones(self.tree.num_classes, bool)
        heard = every if decoder.heard is None else decoder.heard
        super().__init__(
            graph,
            walk_tables(self.tree, heard),
            inverse_temperature(decoder.temperatures, self.tree.max_depth + 1),
        )
        self.classes = np.flatnonzero(heard)
        self.allowed = every if decoder.allowed is None else decoder.allowed
        self.k = decoded_shapes(decoder, topk)["topk_index"][0]
        self.column_of = self.walk.column_of(self.tree.num_nodes)

    def write(self, logits: str) -> None:
        """Write the outputs; nothing is written that none of them needs."""
        decoder, on_tree = self.decoder, self.decoder.reading == "published"
        masses = nodes = ""
        match decoder.head:
            case "level_softmax":
                nodes = onnx_rule(decoder.tree_rule)(self, self.columns(logits, self.walk.nodes))
                own = self.exclusive(nodes)
                if decoder.asked or decoder.bins is not None or not on_tree:
                    masses = self.exclusive(fitted_families(self, nodes))
            case "leaf_softmax":
                own = masses = self.masses(logits)
                if on_tree:
                    nodes = self.graph.add("Min", self.from_descendants(own, "ReduceSum"), self.floats(1))
            case "sigmoid":
                own = masses = self.masses(logits)
                if on_tree:
                    nodes = self.from_descendants(own, "ReduceMax")
        self.topk(own)
        assert decoder.level is not None
        level = self.graph.named(HEDGE_INPUT, decoder.level, np.float32)
        if on_tree:
            self.hedge(*self.path(nodes), level)
        else:
            read_concepts(self, decoder, masses, level)
        if decoder.asked:
            write_asked(self, decoder, masses, ASKED)
        if decoder.bins is not None:
            write_bins(self, decoder, masses, BINS)

    # From logits to probabilities.

    def masses(self, logits: str) -> str:
        """Return [B, H], P(exactly this class) before anything is hidden, which concepts sum."""
        match self.decoder.head:
            case "level_softmax":
                nodes = onnx_rule(self.decoder.tree_rule)(self, self.columns(logits, self.walk.nodes))
                return self.exclusive(fitted_families(self, nodes))
            case "leaf_softmax":
                return self.graph.add("Softmax", self.times(self.heard(logits), self.scale[:1]), axis=1)
            case "sigmoid":
                return self.sigmoids(self.heard(logits))

    def exclusive(self, nodes: str) -> str:
        """Return [B, H], P(exactly this class): P(node) less the sum of its children's, at least 0."""
        graph, walk = self.graph, self.walk
        columns = self.column_of[self.classes]
        below = self.padded(self.reduce("ReduceSum", nodes, walk.families, 0), 0)
        children = self.columns(below, walk.family_of[columns])
        return graph.add("Relu", graph.add("Sub", self.columns(nodes, columns), children))

    def heard(self, logits: str) -> str:
        """Return [B, H], the logits of the classes that count."""
        return logits if self.classes.size == self.tree.num_classes else self.columns(logits, self.classes)

    def sigmoids(self, heard: str) -> str:
        graph = self.graph
        grown = graph.add("Exp", graph.add("Neg", self.times(heard, self.scale[self.tree.depth[self.classes]])))
        return graph.add("Reciprocal", graph.add("Add", grown, self.floats(1)))

    def from_descendants(self, own: str, operator: str) -> str:
        """Return [B, V], for every node the sum or the maximum over the classes at or below it."""
        walk, tree = self.walk, self.tree
        chains = tree.level_target[self.classes]
        row, at = np.nonzero(chains >= 0)
        column = self.column_of[chains[row, at]]
        order = np.argsort(column, kind="stable")
        members = np.split(row[order], np.searchsorted(column[order], np.arange(1, walk.size)))
        return self.folded(operator, own, members, fill=self.classes.size)

    # The answers.

    def topk(self, own: str) -> None:
        graph, shown = self.graph, self.allowed[self.classes]
        own = own if shown.all() else self.columns(own, np.flatnonzero(shown))
        prob, at = graph.split("TopK", own, self.ints([self.k]), outputs=["topk_prob", "decode/topk_at"], axis=1)
        index = graph.add("Gather", graph.constant(self.classes[shown], np.int32), at)
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
        """Write `path` and `path_prob`, without withdrawn nodes and closed up to the left."""
        graph, walk = self.graph, self.walk
        left_out = np.append(self.withdrawn_nodes()[walk.nodes], True)
        node_of = graph.constant(np.where(left_out, -1, np.append(walk.nodes, -1)), np.int32)
        if not left_out[:-1].any():
            graph.add("Identity", probs, output="path_prob")
            return graph.add("Gather", node_of, columns, output="path"), "path_prob"
        levels = self.tree.max_depth + 1
        kept = graph.add("Gather", self.ints(np.where(left_out, 0, 2 * levels)), columns)
        key = graph.add("Sub", kept, self.ints(np.arange(levels)))
        _, order = graph.split("TopK", key, self.ints([levels]), outputs=2, axis=1)
        prob_of = graph.add("Where", graph.add("Greater", kept, self.ints(0)), probs, self.floats(0))
        nodes = graph.add("Gather", node_of, columns)
        return (
            graph.add("GatherElements", nodes, order, output="path", axis=1),
            graph.add("GatherElements", prob_of, order, output="path_prob", axis=1),
        )

    def withdrawn_nodes(self) -> NDArray[np.bool_]:
        found = np.zeros(self.tree.num_nodes, bool)
        if self.decoder.withdrawn is not None:
            found[: self.tree.num_classes] = self.decoder.withdrawn
        return found

    def hedge(self, path: str, probs: str, level: str) -> None:
        """Write `hedge_node` and `hedge_prob`: the deepest step of the path with P >= level, if it says enough."""
        graph = self.graph
        level = graph.add("Sub", level, self.floats(SLACK))
        real = graph.add("Greater", path, graph.constant(-1, np.int32))
        sure = graph.add("And", real, graph.add("GreaterOrEqual", probs, level))
        # Probabilities never grow, so the sure steps are the first ones; column 0 of the shifted path is "none".
        length = graph.add("ReduceSum", graph.add("Cast", sure, to=7), self.ints([1]), keepdims=1)
        found = []
        for values, fill, dtype in ((path, -1, np.int32), (probs, 0, np.float32)):
            shifted = graph.add("Pad", values, self.ints([0, 1, 0, 0]), graph.constant(fill, dtype))
            found.append(graph.add("Squeeze", graph.add("GatherElements", shifted, length, axis=1), self.ints([1])))
        node, prob = found
        enough = self.decoder.node_bits >= self.decoder.min_bits - SLACK
        if not enough[self.walk.nodes].all():
            says = graph.add("Gather", graph.constant(np.append(enough, False), np.bool_), node)  # -1 reads the last
            node = graph.add("Where", says, node, graph.constant(-1, np.int32))
            prob = graph.add("Where", says, prob, self.floats(0))
        graph.add("Identity", node, output="hedge_node")
        graph.add("Identity", prob, output="hedge_prob")
