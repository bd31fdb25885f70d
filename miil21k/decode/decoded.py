"""What a decoder finds in a batch of logits: paths, classes, levels, concepts, each computed when it is asked for."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from miil21k.decode.levels import decode_levels, levels_of_nodes
from miil21k.decode.path import SLACK, decode_path, hedge
from miil21k.decode.probabilities import node_probabilities, probabilities
from miil21k.decode.topk import topk_classes
from miil21k.decode.tree_passes import TINY
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from miil21k.decode.decoder import Decoder
    from miil21k.decode.levels import Levels
    from miil21k.decode.path import Hedged, Paths
    from miil21k.decode.probabilities import Probabilities
    from miil21k.decode.topk import TopK
    from miil21k.hierarchy.concepts import Concepts
    from miil21k.hierarchy.spaces import LabelSpace

__all__ = ["READINGS", "Decoded", "Reading", "StopReason", "concept_graph"]

Reading = Literal["published", "concepts"]
READINGS: tuple[Reading, ...] = ("published", "concepts")
StopReason = Literal["leaf", "hedge", "depth", "restriction", "bits"]


def concept_graph(space: LabelSpace) -> Concepts:
    """Return the concepts of `space`. A path, a hedge and the best classes need none of them, nor their modules."""
    from miil21k.hierarchy.concepts import concepts_of

    return concepts_of(space)


class Decoded:
    """What a decoder finds in a batch. Each part is computed when it is first asked for, and kept.

    decoder: how it was read. logits: [B, C], of the classes of the answers.
    Every part raises LogitsError when logits are NaN or infinite.
    """

    _withdrawn: NDArray[np.float32]  # what `probabilities` takes from classes that are never shown; masses keep it

    def __init__(self, decoder: Decoder, logits: NDArray[Any]) -> None:
        self.decoder, self.logits = decoder, logits

    def __len__(self) -> int:
        return len(self.logits)

    def __repr__(self) -> str:
        return f"Decoded({len(self)} rows of {self.decoder!r})"

    @cached_property
    def probabilities(self) -> Probabilities:
        """P of every node and of every class, in one pass: ask for it first where both are wanted."""
        fixed = self.decoder
        if fixed.restriction is None:
            found = probabilities(
                fixed.space.tree,
                self.logits,
                fixed.head,
                allowed=fixed.heard,
                temperature=fixed.temperatures,
                rule=fixed.tree_rule,
            )
            if fixed.withdrawn is not None:
                self._withdrawn = found.classes[:, fixed.withdrawn]
                found.classes[:, fixed.withdrawn] = 0
            return found
        from miil21k.decode.conditional import conditional_probabilities

        found = conditional_probabilities(
            fixed.space.tree,
            self.logits,
            fixed.head,
            fixed.restriction.allowed,
            self.masses,
            withdrawn=fixed.withdrawn,
            temperature=fixed.temperatures,
            rule=fixed.tree_rule,
        )
        if fixed.pools is not None:  # no path goes below what is answered as one
            found.nodes[:, fixed.pools.closed] = 0
        return found

    @cached_property
    def nodes(self) -> NDArray[np.float32]:
        """float32 [B, N], P(the answer is this node or lies below it)."""
        fixed = self.decoder
        if "probabilities" in vars(self) or fixed.restriction is not None:
            return self.probabilities.nodes
        return node_probabilities(
            fixed.space.tree,
            self.logits,
            fixed.head,
            allowed=fixed.heard,
            temperature=fixed.temperatures,
            rule=fixed.tree_rule,
        )

    @property
    def classes(self) -> NDArray[np.float32]:
        """float32 [B, C], P(the answer is exactly this class)."""
        return self.probabilities.classes

    @cached_property
    def masses(self) -> NDArray[np.float32]:
        """float32 [B, C], P(exactly this class) before any restriction: what concepts are summed from."""
        from miil21k.decode.concepts import class_masses, level_masses

        fixed = self.decoder
        if fixed.restriction is None and (fixed.head == "level_softmax" or "probabilities" in vars(self)):
            found = self.probabilities
            if fixed.withdrawn is not None:
                found = found._replace(classes=found.classes.copy())
                found.classes[:, fixed.withdrawn] = self._withdrawn
            return level_masses(fixed.space.tree, found) if fixed.head == "level_softmax" else found.classes
        return class_masses(
            fixed.space.tree,
            self.logits,
            fixed.head,
            withdrawn=fixed.withdrawn,
            temperature=fixed.temperatures,
            rule=fixed.tree_rule,
        )

    @cached_property
    def concepts(self) -> NDArray[np.float32]:
        """float32 [B, K], P of every concept of the space (`concept_graph`), whatever the restriction."""
        from miil21k.decode.concepts import concept_probabilities

        return concept_probabilities(concept_graph(self.decoder.space), self.masses, self.decoder.head)

    @property
    def _masses_given(self) -> NDArray[np.float32]:
        """float32 [B, C], P(exactly this class), given the restriction."""
        fixed, given = self.decoder, self.given
        if fixed.restriction is None or given is None:
            return self.masses
        left = np.where(fixed.restriction.allowed, self.masses, np.float32(0))
        if fixed.head == "sigmoid":
            return left
        possible = given[:, None] > TINY
        return np.where(possible, left / np.where(possible, given[:, None], 1), self.classes)

    @cached_property
    def concepts_given(self) -> NDArray[np.float32]:
        """float32 [B, K], P of every concept, given the restriction."""
        from miil21k.decode.concepts import concept_probabilities

        fixed = self.decoder
        if fixed.restriction is None:
            return self.concepts
        return concept_probabilities(concept_graph(fixed.space), self._masses_given, fixed.head)

    @cached_property
    def bins_alone(self) -> NDArray[np.float32]:
        """float32 [B, L], P of each label of the user and none below it, given the restriction; UsageError without."""
        from miil21k.decode.bins import own_probabilities

        fixed = self.decoder
        if fixed.bins is None:
            raise UsageError("This decoder has no bins: give it some with binned().")
        return own_probabilities(fixed.bins, self._masses_given, fixed.head)

    @cached_property
    def bins(self) -> NDArray[np.float32]:
        """float32 [B, L], P of each label of the user, *other* last, given the restriction; UsageError without any."""
        from miil21k.decode.bins import bin_probabilities

        alone = self.bins_alone
        assert self.decoder.bins is not None
        return bin_probabilities(self.decoder.bins, alone, self.decoder.head)

    @cached_property
    def bins_path(self) -> Paths:
        """The answer among the bins: labels, the highest first, as far as they are sure enough; UsageError without."""
        fixed, probabilities = self.decoder, self.bins
        assert fixed.bins is not None
        if fixed.bins_level is None:
            return decode_path(fixed.bins.tree, probabilities)
        found = hedge(fixed.bins.tree, probabilities, fixed.bins_level)
        return found.paths._replace(length=found.length)

    def concept(self, concepts: Sequence[int]) -> NDArray[np.float32]:
        """Return float32 [B, len(concepts)], P of a few concepts (indices), without that of all others."""
        from miil21k.decode.concepts import asked_probabilities

        return asked_probabilities(concept_graph(self.decoder.space), self.masses, concepts, self.decoder.head)

    @cached_property
    def asked(self) -> NDArray[np.float32]:
        """float32 [B, Q], P of each concept that the decoder is asked for, whatever the restriction."""
        return self.concept([question.concept for question in self.decoder.asked])

    def likely_concepts(self, least: float) -> list[list[int]]:
        """Return the concepts (indices) of each row with P >= `least`, the most informative first.

        Of equally informative ones the most probable comes first; of those with the same classes below, one speaks
        (`decode.concept_reading.vocabulary`). Whatever the restriction; a withdrawn class is not among them.
        """
        words = self.decoder.vocabulary
        found = []
        for row in self.concepts:
            sure = words.order[(row[words.order] >= least - SLACK) & (row[words.order] > 0)]
            found.append(sure[np.lexsort((sure, -row[sure], -words.bits[sure]))].tolist())
        return found

    def topk(self, k: int = 5) -> TopK:
        """Return the k most probable classes, best first, and no more than may be the answer.

        Where concepts are answered as one with what lies below them, `classes` of the result holds the k best of these
        concepts, with the sum over their classes (sigmoid: the largest).
        """
        allowed, pools = self.decoder.allowed, self.decoder.pools
        if pools is not None:
            pool = np.maximum if self.decoder.head == "sigmoid" else np.add
            best = topk_classes(pool.reduceat(self.classes[:, pools.members], pools.starts, axis=1), k)
            return best._replace(classes=np.where(best.classes >= 0, pools.concepts[best.classes], -1).astype(np.int32))
        return topk_classes(self.classes, k if allowed is None else min(k, int(allowed.sum())))

    @cached_property
    def given(self) -> NDArray[np.float32] | None:
        """float32 [B], P(the restriction holds) before it was made: what all of the above is given; None without one.

        The sum of the masses of the classes that it leaves, the largest one for a sigmoid head.
        """
        restriction = self.decoder.restriction
        if restriction is None:
            return None
        left = self.masses[:, restriction.allowed]
        found = (
            left.max(axis=1) if self.decoder.head == "sigmoid" else np.minimum(left.sum(axis=1, dtype=np.float64), 1)
        )
        return np.asarray(found, np.float32)

    @cached_property
    def path(self) -> Paths:
        """The whole chain, however sure: from the best root to the best child, on concepts down to the answer.

        Read on concepts the nodes are concepts; without a hedge level the answer is the most probable class.
        """
        fixed = self.decoder
        if fixed.level is not None:
            return self.hedged.paths
        if fixed.reading == "concepts":
            from miil21k.decode.concept_reading import concept_paths

            return concept_paths(fixed.answer_vocabulary, self.concepts_given, self.topk(1).classes[:, 0])
        return decode_path(fixed.space.tree, self.nodes, max_depth=fixed.max_depth, withdrawn=fixed.withdrawn)

    @cached_property
    def hedged(self) -> Hedged:
        """The answer, and what competes below it; UsageError without a hedge level.

        One that says less than `min_bits` is none. Read on concepts, nodes are concepts: see `hedge_concepts`.
        """
        fixed = self.decoder
        if fixed.level is None:
            raise UsageError("This decoder has no hedge level: give it one with hedge=.")
        if fixed.reading == "concepts":
            from miil21k.decode.concept_reading import hedge_concepts

            return hedge_concepts(concept_graph(fixed.space), fixed.answer_vocabulary, self.concepts_given, fixed.level)
        found = hedge(fixed.space.tree, self.nodes, fixed.level, max_depth=fixed.max_depth, withdrawn=fixed.withdrawn)
        empty = self._says_little(found.node)
        return found._replace(
            node=np.where(empty, np.int32(-1), found.node),
            prob=np.where(empty, np.float32(0), found.prob),
            length=np.where(empty, np.int32(0), found.length),
        )

    def _says_little(self, answers: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return bool [B], the answers (-1 for none) that say less than an answer must."""
        fixed = self.decoder
        bits = fixed.answer_vocabulary.bits if fixed.reading == "concepts" else fixed.node_bits
        little: NDArray[np.bool_] = (answers >= 0) & (bits[answers] < fixed.min_bits - SLACK)
        return little

    @cached_property
    def length(self) -> NDArray[np.int32]:
        """int32 [B], how many nodes of `path` are the answer."""
        if self.decoder.level is not None:
            return self.hedged.length
        nodes, length = self.path.nodes, self.path.length
        last = np.where(length > 0, nodes[np.arange(len(nodes)), length - 1], -1)
        return np.where(self._says_little(last), np.int32(0), length)

    @cached_property
    def reasons(self) -> list[StopReason]:
        """Why each answer ends where it does.

        `leaf`: nothing lies below. `hedge`: the next step is not sure enough. `depth`: `max_depth` is reached.
        `restriction`: nothing below is allowed. `bits`: there is none, for what is sure enough says too little.
        """
        at = self.length - 1
        last = np.where(at >= 0, self.path.nodes[np.arange(len(at)), at], -1)
        return [self._reason(row, node) for row, node in enumerate(last.tolist())]

    def _reason(self, row: int, node: int) -> StopReason:
        fixed = self.decoder
        if node < 0 and self._something_sure[row]:
            return "bits"
        if fixed.level is not None and self.hedged.refused[row] >= 0:
            return "hedge"
        if node >= 0 and not self._open_below(node):
            return "leaf"
        if node >= 0 and fixed.max_depth is not None and fixed.space.tree.depth[node] >= fixed.max_depth:
            return "depth"
        return "restriction"

    @cached_property
    def _something_sure(self) -> NDArray[np.bool_]:
        """bool [B], whether anything at all, however little it says, is sure enough."""
        fixed = self.decoder
        probabilities = self.concepts_given if fixed.reading == "concepts" else self.nodes
        most = probabilities.max(axis=1)
        return np.asarray((most > 0) & (most >= (fixed.level or 0) - SLACK))

    def _open_below(self, node: int) -> bool:
        """Return whether something that may be shown lies below."""
        fixed = self.decoder
        if fixed.reading == "concepts":
            below = concept_graph(fixed.space).classes(node)
            return bool(np.any((below != node) if fixed.shown is None else (below != node) & fixed.shown[below]))
        return bool(fixed.open_children[node])

    @cached_property
    def levels(self) -> Levels:
        """The published rule, each level for itself; of other heads than level_softmax, the best node of each depth."""
        fixed = self.decoder
        tree = fixed.space.tree
        if fixed.head == "level_softmax":
            allowed = fixed.allowed
            if fixed.pools is not None and allowed is not None:
                allowed = allowed & ~fixed.pools.closed[: tree.num_classes]
            return decode_levels(tree, self.logits, allowed=allowed, temperature=fixed.temperatures)
        return levels_of_nodes(tree, self.nodes, withdrawn=fixed.withdrawn)
