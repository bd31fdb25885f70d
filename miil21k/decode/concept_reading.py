"""The answer read on concepts: the most informative one that is sure enough, and the way down to it in words.

A concept says log2(C / n) bits, with n of the C classes at or below it. Of concepts with one set of classes a single
one speaks: the class, else the lowest in the graph. An answer at a higher level need not contain the one at a lower:
the surest concept of 40 classes may leave out the surest of 3. So an answer may be wrong at one level, right at a
higher one and wrong again above it; `reading_scores` is what a guarantee can rest on then.

Probabilities are float32 [B, K], those of `decode.concepts.concept_probabilities`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.decode.path import SLACK, Hedged, Paths
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.hierarchy.concepts import Concepts

__all__ = [
    "TACIT",
    "ConceptAnswers",
    "Vocabulary",
    "concept_paths",
    "hedge_concepts",
    "information",
    "next_below",
    "read_concepts",
    "reading_scores",
    "right_answers",
    "right_concepts",
    "vocabulary",
]

BLOCK_VALUES = 1 << 20  # concept values per block of rows

# Steps that no path shows, since they tell a reader nothing: the abstract top of WordNet, and terms of taxonomy.
# They may still be the answer, where nothing below them is sure enough.
TACIT = {
    "n00001740": "entity",
    "n00001930": "physical entity",
    "n00002137": "abstraction",
    "n00002452": "thing",
    "n00002684": "object",
    "n00003553": "whole",
    "n00004258": "living thing",
    "n00004475": "organism",
    "n00007347": "causal agent",
    "n00019613": "substance",
    "n00020090": "substance",
    "n00020827": "matter",
    "n00023100": "psychological feature",
    "n00024264": "attribute",
    "n00031264": "group",
    "n00031921": "relation",
    "n01466257": "chordate",
    "n01473806": "aquatic vertebrate",
    "n01525720": "oscine",
    "n01661818": "diapsid",
    "n01886756": "placental",
    "n02528163": "teleost fish",
    "n02552171": "spiny-finned fish",
    "n03575240": "instrumentality",
    "n11552386": "spermatophyte",
    "n11665372": "angiosperm",
    "n11675842": "reproductive structure",
    "n13083586": "vascular plant",
    "n13087625": "plant organ",
    "n13809207": "part",
}


class Vocabulary(NamedTuple):
    """The concepts that may answer, and the way up from each.

    bits: float64 [K], what each concept says. order: int64 [S], those that may answer, most informative first, of
    equals the lowest index. starts: int64 [G], where in `order` another number of classes begins. above: int32 [K], the
    next step of a path above each concept; -1 for none. steps: the most that a path has.
    """

    bits: NDArray[np.float64]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    above: NDArray[np.int32]
    steps: int


class ConceptAnswers(NamedTuple):
    """One answer per row. concept: int32 [B], -1 for none. prob: float32 [B], its P (0 for none)."""

    concept: NDArray[np.int32]
    prob: NDArray[np.float32]


def information(concepts: Concepts, existing: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Return float64 [K], log2(classes / classes at or below the concept): 0 for the root, infinity for none below.

    existing: bool [C], the classes that count; None for all.
    """
    size = concepts.num_below if existing is None else concepts.count(existing)
    with np.errstate(divide="ignore"):
        found: NDArray[np.float64] = np.log2(concepts.num_classes if existing is None else existing.sum()) - np.log2(
            size.astype(np.float64)
        )
    return found


def vocabulary(
    concepts: Concepts,
    *,
    min_bits: float = 1.0,
    existing: NDArray[np.bool_] | None = None,
    hidden: NDArray[np.bool_] | None = None,
) -> Vocabulary:
    """Return which of the K concepts of C classes may answer, and the steps of paths.

    min_bits: what an answer must say; one that says less is none. existing: bool [C], the classes that have mass; the
    sets of classes are those of them. hidden: bool [K], concepts that are never shown, neither as answer nor as a step.
    Raises UsageError for `min_bits` below 0.
    """
    if not min_bits >= 0:
        raise UsageError(f"An answer says 0 bits or more; min_bits={min_bits} asks for less.")
    size = concepts.num_below if existing is None else concepts.count(existing)
    bits = information(concepts, existing)
    shown = size > 0 if hidden is None else (size > 0) & ~hidden
    spoken = _speakers(concepts, shown, existing)
    answers = spoken[bits[spoken] >= min_bits - SLACK]
    order = answers[np.lexsort((answers, size[answers]))]
    starts = np.flatnonzero(np.diff(size[order], prepend=-1))
    above = _steps_above(concepts, size, shown)
    steps, reached = 0, np.arange(len(concepts))
    while reached.size:
        steps, reached = steps + 1, np.unique(above[reached])
        reached = reached[reached >= 0]
    return Vocabulary(bits, order, starts, above, steps)


def _speakers(concepts: Concepts, shown: NDArray[np.bool_], existing: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """Return int64, ascending: one concept for each set of classes among those shown.

    Sets are told apart by the sum of one random 64-bit number per class.
    """
    draws = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, concepts.num_classes, np.int64)
    sets = concepts.totals(draws if existing is None else np.where(existing, draws, 0))
    candidates = np.flatnonzero(shown)
    best_first = candidates[np.lexsort((candidates, -concepts.depth[candidates], candidates >= concepts.num_classes))]
    _, first = np.unique(sets[best_first], return_index=True)
    return np.sort(best_first[first])


def _steps_above(concepts: Concepts, size: NDArray[np.int32], shown: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return int32 [K], the next step of a path above each concept, if that concept is a step of it; -1 for none.

    The way up goes to the parent with the fewest classes below, of equals to that of the lowest offset; it passes over
    what is not shown, what is tacit, and what has the classes of the step before.
    """
    rank = np.empty(len(concepts), np.int64)
    rank[np.argsort(np.array(concepts.wnids))] = np.arange(len(concepts))
    child, parent = concepts.child, concepts.parent
    edges = np.lexsort((rank[parent], size[parent], child))
    child, parent = child[edges], parent[edges]
    first = np.flatnonzero(np.diff(child, prepend=-1))
    up = np.full(len(concepts), -1, np.int32)
    up[child[first]] = parent[first]
    told = shown.copy()
    told[[concepts.index_of[wnid] for wnid in TACIT if wnid in concepts.index_of]] = False
    above = up.copy()
    while True:
        over = np.flatnonzero((above >= 0) & (~told[above] | (size[above] == size)))
        if not over.size:
            return above
        above[over] = up[above[over]]


def read_concepts(words: Vocabulary, probabilities: NDArray[np.float32], level: float) -> ConceptAnswers:
    """Return the most informative concept of each row with P >= level; of equally informative ones the most probable.

    probabilities: float32 [B, K]. Concepts of the same P and as many classes are decided by index. Raises UsageError
    for a level outside (0, 1] or probabilities of another shape.
    """
    if not 0 < level <= 1:
        raise UsageError(f"A hedge level lies above 0 and up to 1, not {level}.")
    _check(words, probabilities)
    concept = np.full(len(probabilities), -1, np.int32)
    if not words.order.size:
        return ConceptAnswers(concept, np.zeros(len(probabilities), np.float32))
    ends = np.append(words.starts[1:], words.order.size)
    for rows in _blocks(probabilities):
        ordered = probabilities[rows].take(words.order, axis=1)
        sure = (ordered >= level - SLACK) & (ordered > 0)
        first = sure.argmax(axis=1)
        group = np.searchsorted(words.starts, first, side="right") - 1
        answered = sure.any(axis=1)
        for one in np.unique(group[answered]).tolist():
            at = np.flatnonzero(answered & (group == one))
            start, end = words.starts[one], ends[one]
            concept[rows.start + at] = words.order[start + ordered[at, start:end].argmax(axis=1)]
    prob = np.where(concept >= 0, probabilities[np.arange(len(concept)), concept], 0).astype(np.float32)
    return ConceptAnswers(concept, prob)


def concept_paths(words: Vocabulary, probabilities: NDArray[np.float32], answers: NDArray[np.int32]) -> Paths:
    """Return one chain of hypernyms down to each answer, with P of every step; empty for an answer of -1.

    answers: int32 [B], concepts. The answer is always the last step, whatever it is; the chain above it leaves out what
    tells nothing, see `vocabulary`. `nodes` of the result holds concepts, and L is `words.steps`.
    """
    _check(words, probabilities)
    steps = [answers.astype(np.int32)]
    while len(steps) < words.steps:
        steps.append(np.where(steps[-1] >= 0, words.above[steps[-1]], -1).astype(np.int32))
    upward = np.stack(steps, axis=1)
    length = (upward >= 0).sum(axis=1, dtype=np.int32)
    at = length[:, None] - 1 - np.arange(upward.shape[1])
    nodes = np.where(at >= 0, np.take_along_axis(upward, np.maximum(at, 0), axis=1), -1).astype(np.int32)
    probs = np.where(nodes >= 0, probabilities[np.arange(len(nodes))[:, None], nodes], 0).astype(np.float32)
    return Paths(nodes, probs, length)


def hedge_concepts(concepts: Concepts, words: Vocabulary, probabilities: NDArray[np.float32], level: float) -> Hedged:
    """Return the answer of each row at a hedge level, the chain down to it, and what competes below.

    The fields hold concepts. paths: the chains to the answers, of which `length` is all. refused: the most probable
    concept directly below the answer, runner_up: the next one; of no answer, those that say enough. Arguments and
    errors as for `read_concepts`.
    """
    found = read_concepts(words, probabilities, level)
    paths = concept_paths(words, probabilities, found.concept)
    rivals = np.full((2, len(found.concept)), -1, np.int32)
    rival_probs = np.zeros((2, len(found.concept)), np.float32)
    below = {one: next_below(concepts, words, one) for one in np.unique(found.concept).tolist()}
    for row, one in enumerate(found.concept.tolist()):
        probs = probabilities[row, below[one]]
        best = np.argsort(-probs, kind="stable")[:2]
        best = best[probs[best] > 0]
        rivals[: best.size, row], rival_probs[: best.size, row] = below[one][best], probs[best]
    return Hedged(found.concept, found.prob, paths.length, rivals[0], rival_probs[0], rivals[1], rival_probs[1], paths)


def next_below(concepts: Concepts, words: Vocabulary, concept: int) -> NDArray[np.int32]:
    """Return int32, ascending: the nearest concepts below `concept` that may answer; of -1, the highest that may."""
    spoken = np.zeros(len(concepts), bool)
    spoken[words.order] = True
    seen: set[int] = set()
    found = []
    roots = np.flatnonzero(concepts.depth == 0)
    todo = (roots if concept < 0 else concepts.children(concept)).tolist()
    while todo:
        one = todo.pop()
        if one not in seen:
            seen.add(one)
            if spoken[one]:
                found.append(one)
            else:
                todo += concepts.children(one).tolist()
    return np.array(sorted(found), np.int32)


def right_concepts(concepts: Concepts, label: int) -> NDArray[np.bool_]:
    """Return bool [K], the answers that are right for a picture of `label`: it, what holds it, what it holds.

    That is: whose classes include those of the label, or are among them. label: a concept.
    """
    own = np.zeros(concepts.num_classes, bool)
    own[concepts.classes(label)] = True
    shared = concepts.count(own)
    right: NDArray[np.bool_] = (shared == own.sum()) | (shared == concepts.num_below)
    return right


def right_answers(concepts: Concepts, answers: NDArray[np.integer], labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return bool [B], whether each answer is right for its label (both concepts); no answer (-1) is never wrong."""
    fine = answers < 0
    for label in np.unique(labels[~fine]).tolist():
        at = np.flatnonzero(~fine & (labels == label))
        fine[at] = right_concepts(concepts, label)[answers[at]]
    return fine


def reading_scores(
    concepts: Concepts, words: Vocabulary, probabilities: NDArray[np.float32], labels: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return float64 [B], the largest P among the wrong answers that each row would give at any level; 0 for none.

    At every level above it the answer is right, or none is given: what split conformal prediction asks of a score
    where correctness is not monotone in the level. labels: int [B], concepts. probabilities: float32 [B, K].
    """
    _check(words, probabilities)
    scores = np.zeros(len(probabilities))
    if not words.order.size:
        return scores
    group_of = np.repeat(np.arange(words.starts.size), np.diff(np.append(words.starts, words.order.size)))
    known, which = np.unique(labels, return_inverse=True)
    right = [np.packbits(right_concepts(concepts, label)[words.order]) for label in known.tolist()]
    for rows in _blocks(probabilities):
        ordered = probabilities[rows].take(words.order, axis=1)
        best = np.maximum.reduceat(ordered, words.starts, axis=1)
        more = np.maximum.accumulate(best, axis=1)
        given = best > 0
        given[:, 1:] &= best[:, 1:] > more[:, :-1]  # nothing more informative is as sure
        at = np.flatnonzero(np.where(given, best, np.inf)[:, group_of] == ordered)
        row, column = np.divmod(at, ordered.shape[1])
        first = np.flatnonzero(np.diff(row * words.starts.size + group_of[column], prepend=-1))
        row, column = row[first], column[first]
        fine = np.stack([right[one] for one in which[rows].tolist()])
        wrong = ~np.unpackbits(fine, axis=1, count=ordered.shape[1]).astype(bool)[row, column]
        np.maximum.at(scores, rows.start + row[wrong], ordered[row[wrong], column[wrong]])
    return scores


def _blocks(probabilities: NDArray[np.float32]) -> list[slice]:
    step = max(1, BLOCK_VALUES // max(1, probabilities.shape[1]))
    return [slice(first, first + step) for first in range(0, len(probabilities), step)]


def _check(words: Vocabulary, probabilities: NDArray[np.float32]) -> None:
    if probabilities.ndim != 2 or probabilities.shape[1] != words.bits.size:
        raise UsageError(
            f"Concept probabilities must have the shape [batch, {words.bits.size}], not {list(probabilities.shape)}."
        )
