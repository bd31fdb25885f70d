"""Concepts as ONNX operators: what is asked, and the answer read on concepts, from the masses of the classes.

The formulas are those of `miil21k.decode.concepts` and `miil21k.decode.concept_reading`. Each concept that may be
answered sums its own classes, from one table of columns: 0.3 MB for fall11, and no product of classes and concepts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from miil21k.decode.decoded import concept_graph
from miil21k.decode.path import SLACK
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from miil21k.decode.decoder import Decoder
    from miil21k.export.onnx.tree_graph import TreeGraph

__all__ = ["concept_masses", "read_concepts", "write_asked", "write_bins"]

_INT32, _INT64 = 6, 7  # of onnx.TensorProto


def concept_masses(graph: TreeGraph, decoder: Decoder, masses: str, concepts: Sequence[int]) -> str:
    """Return [B, len(concepts)], P of each: the sum, for a sigmoid head the maximum, over the classes at or below it.

    masses: [B, H], those of the classes whose logits count (`Decoder.heard`), in order.
    """
    return _pooled(graph, decoder, masses, [concept_graph(decoder.space).classes(concept) for concept in concepts])


def _pooled(graph: TreeGraph, decoder: Decoder, masses: str, sets: Sequence[NDArray[np.integer]]) -> str:
    """Return [B, len(sets)], the sum, for a sigmoid head the maximum, of the masses of each set of classes."""
    heard = np.ones(decoder.space.num_classes, bool) if decoder.heard is None else decoder.heard
    column, none = np.cumsum(heard) - 1, int(heard.sum())  # behind the last column stands a 0
    left = (classes[heard[classes]] for classes in sets)
    members = [column[classes] if classes.size else np.array([none]) for classes in left]
    best = decoder.head == "sigmoid"
    found = graph.folded("ReduceMax" if best else "ReduceSum", masses, members, fill=none)
    return found if best else graph.graph.add("Min", found, graph.floats(1))


def write_bins(graph: TreeGraph, decoder: Decoder, masses: str, output: str) -> None:
    """Write `output`, float32 [B, L]: P of each label of the user, *other* last; the decoder has bins."""
    bins = decoder.bins
    assert bins is not None
    held = (np.isin(bins.owner, bins.tree.descendants(label)) for label in range(len(bins)))
    pooled = _pooled(graph, decoder, masses, [np.flatnonzero(classes) for classes in held])
    graph.graph.add("Identity", pooled, output=output)


def write_asked(graph: TreeGraph, decoder: Decoder, masses: str, output: str) -> None:
    """Write `output`, float32 [B, Q]: P of each concept that the decoder is asked for."""
    asked = [question.concept for question in decoder.asked]
    graph.graph.add("Identity", concept_masses(graph, decoder, masses, asked), output=output)


def read_concepts(graph: TreeGraph, decoder: Decoder, masses: str, level: str) -> None:
    """Write `hedge_node` and `hedge_prob`, the answer, and `path` and `path_prob`, the chain of concepts down to it.

    The answer is the most informative concept with P >= level, of equally informative ones the most probable.
    level: name of a float32 scalar. Raises UsageError where no concept says as much as the decoder's `min_bits`.
    """
    write, words = graph.graph, decoder.answer_vocabulary
    if not words.order.size:
        raise UsageError(f"No concept of '{decoder.space.name}' says {decoder.min_bits:g} bits: ask for less.")
    spoken = words.order
    used = np.concatenate([spoken, np.setdiff1d(_chained(words.above, spoken), spoken)])
    none = used.size  # the column of no concept
    probs = concept_masses(graph, decoder, masses, used.tolist())
    ordered = probs if none == spoken.size else graph.columns(probs, np.arange(spoken.size))

    enough = write.add("GreaterOrEqual", ordered, write.add("Sub", level, graph.floats(SLACK)))
    sure = write.add("And", enough, write.add("Greater", ordered, graph.floats(0)))
    first = write.add("ArgMax", write.add("Cast", sure, to=_INT32), axis=1)  # they stand most informative first
    group = graph.ints(np.repeat(np.arange(words.starts.size), np.diff(np.append(words.starts, spoken.size))))
    alike = write.add("Equal", group, write.add("Gather", group, first))
    best = write.add("ArgMax", write.add("Where", alike, ordered, graph.floats(-1)), axis=1)
    answer = write.add("Where", write.add("GatherElements", sure, first, axis=1), best, graph.ints(none))

    column = np.full(len(words.above) + 1, none)  # the last entry, which -1 reads, is no concept
    column[used] = np.arange(none)
    above = graph.ints(np.append(column[words.above[used]], none))
    upward = [answer]
    extended = graph.padded(probs, 0)
    grown = [write.add("GatherElements", extended, answer, axis=1)]
    for _ in range(words.steps - 1):
        upward.append(write.add("Gather", above, upward[-1]))
        # Sums of more classes in another order may be less in the last bit: a step up never shrinks.
        grown.append(write.add("Max", write.add("GatherElements", extended, upward[-1], axis=1), grown[-1]))
    concept_of = write.constant(np.append(used, -1), np.int32)
    write.add("Squeeze", write.add("Gather", concept_of, answer), graph.ints([1]), output="hedge_node")
    write.add("Squeeze", grown[0], graph.ints([1]), output="hedge_prob")
    columns = _downward(graph, graph.joined(upward), graph.joined(grown), none, words.steps)
    write.add("Gather", concept_of, columns, output="path")


def _chained(above: NDArray[np.int32], concepts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return int64, ascending: the concepts on the ways up from `concepts`, these included."""
    found = np.zeros(above.size, bool)
    while concepts.size:
        found[concepts] = True
        concepts = np.unique(above[concepts])
        concepts = concepts[concepts >= 0]
        concepts = concepts[~found[concepts]]
    return np.flatnonzero(found)


def _downward(graph: TreeGraph, upward: str, probs: str, none: int, steps: int) -> str:
    """Write `path_prob`, and return the columns of the path: chains of so many steps that were walked up, turned round.

    Behind their end stands `none`, with a P of 0.
    """
    write = graph.graph
    real = write.add("Cast", write.add("Less", upward, graph.ints(none)), to=_INT64)
    length = write.add("ReduceSum", real, graph.ints([1]), keepdims=1)
    at = write.add("Sub", length, graph.ints(np.arange(1, steps + 1)))
    inside = write.add("GreaterOrEqual", at, graph.ints(0))
    at = write.add("Max", at, graph.ints(0))
    probs = write.add("GatherElements", probs, at, axis=1)
    write.add("Where", inside, probs, graph.floats(0), output="path_prob")
    return write.add("Where", inside, write.add("GatherElements", upward, at, axis=1), graph.ints(none))
