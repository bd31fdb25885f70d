"""What hedged answers on concepts are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from miil21k.decode.concept_reading import right_concepts
from miil21k.hierarchy.nouns import wordnet_nouns
from miil21k.metrics.sums import Sums, check_weights, count, ratio, total

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.hierarchy.concepts import Concepts

__all__ = ["ConceptAccuracy", "right_for"]


class ConceptAccuracy(Sums):
    """What answers on concepts are worth, under the names that `NodeAccuracy` has for answers on the tree.

    `answered`: there is an answer. `correct`: it is right, or there is none. `correct_of_answered`: the share of
    answers that are right. `right_bits`: what the right answers say, log2(classes / classes below), per sample.
    """

    def __init__(self) -> None:
        counts = {name: np.zeros(1, np.int64) for name in ("samples", "answered", "right")}
        super().__init__(**counts, bits=np.zeros(1, np.float64))

    def update(
        self,
        answered: NDArray[np.bool_],
        right: NDArray[np.bool_],
        bits: NDArray[np.float64],
        weights: NDArray[np.floating] | None = None,
    ) -> None:
        """Add a batch, [B] each: whether there is an answer, whether it is right, what it says, how much it counts."""
        right = answered & right
        weights = check_weights(weights, len(answered))
        self.add("samples", count(len(answered), weights))
        self.add("answered", total(answered, weights))
        self.add("right", total(right, weights))
        self.add("bits", total(np.where(right, bits, 0.0), weights))

    def compute(self) -> dict[str, float]:
        """Return the shares and the mean; NaN where nothing was counted."""
        samples, answered, right, bits = (self[name][0] for name in ("samples", "answered", "right", "bits"))
        return {
            "answered": ratio(answered, samples),
            "correct": ratio(samples - answered + right, samples),
            "correct_of_answered": ratio(right, answered),
            "right_bits": ratio(bits, samples),
        }


def right_for(graph: Concepts, wnid: str) -> NDArray[np.bool_]:
    """Return bool [K], the concepts that are right for a label: it, what holds it, what it holds; of any noun."""
    if wnid in graph.index_of:
        return right_concepts(graph, graph.index_of[wnid])
    right, todo = np.zeros(len(graph), bool), [wnid]
    while todo:
        hypernyms = wordnet_nouns().hypernym_text(todo.pop())
        todo += hypernyms.split() if hypernyms != "-" else []
        right[[graph.index_of[one] for one in todo if one in graph.index_of]] = True
    return right
