"""Hedge levels with a finite-sample guarantee, from labelled logits.

For a sample drawn like those that the level was fitted on, the hedged answer is correct (an ancestor of the label, the
label, below it, or no answer) with at least the wanted probability, averaged over the draw of the fitting samples. It
holds for any model and any number of samples (split conformal prediction). How many samples get an answer at all, and
how many of the answers are right, it does not say: both were counted on the fitting samples.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from miil21k.calibrate.record import Calibration, mask_digest
from miil21k.calibrate.temperature import fit_temperatures, row_blocks
from miil21k.decode.concept_reading import read_concepts, reading_scores, right_answers
from miil21k.decode.path import SLACK
from miil21k.errors import UsageError
from miil21k.hierarchy.concepts import concepts_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from miil21k.decode.decoder import Decoder
    from miil21k.decode.path import Paths
    from miil21k.hierarchy.tree import Tree

__all__ = [
    "calibrate",
    "conformal_threshold",
    "coverage_band",
    "first_wrong",
    "hedge_scores",
    "outcome",
    "require_accuracies",
    "thresholds_of",
]

ACCURACIES = (0.8, 0.9, 0.95, 0.99)
STEP = 2e-6  # twice what decode.hedge forgives: the least by which a level must exceed a probability to refuse it


def calibrate(
    decoder: Decoder,
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    accuracies: Sequence[float] = ACCURACIES,
    model: str = "",
    weights: str = "",
    seed: int = 0,
) -> Calibration:
    """Return the calibration of a decoder that has none, from labelled logits; its `hedge` plays no part.

    logits: [n, C] of the head. labels: int [n], node indices of `decoder.space.tree`. Half of the samples, drawn with
    `seed`, fit the temperatures; the other half fits one hedge level per accuracy, so that the guarantee stays exact.
    So twice: for answers on the tree, and for those on concepts that say at least `min_bits` of the decoder. An
    accuracy that so few samples, or this model, cannot guarantee is left out. Raises UsageError for fewer than four
    samples or an accuracy outside (0, 1), LogitsError for logits that cannot be decoded.
    """
    require_accuracies(accuracies, len(labels))
    space, head, allowed = decoder.space, decoder.head, decoder.allowed
    _check_labels(space.tree, logits, labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    first, second = np.array_split(order, 2)
    temperature = fit_temperatures(
        space.tree, decoder.project(logits[first]), labels[first], head, allowed=decoder.heard
    )
    fitted = replace(decoder, temperature=temperature if head == "level_softmax" else temperature[0], hedge=None)
    concepts = concepts_of(space)
    scores, on_concepts, surest = np.empty(second.size), np.empty(second.size), np.empty(second.size)
    done = 0
    for rows in row_blocks(second, len(concepts)):
        found, to = fitted.read(logits[rows]), slice(done, done + rows.size)
        scores[to] = hedge_scores(space.tree, found.path, labels[rows])
        on_concepts[to] = reading_scores(concepts, fitted.answer_vocabulary, found.concepts_given, labels[rows])
        surest[to] = _surest(fitted, found.path)
        done += rows.size
    thresholds, concept_thresholds = thresholds_of(scores, accuracies), thresholds_of(on_concepts, accuracies)
    return Calibration(
        label_space=space.name,
        sha256=space.sha256,
        model=model,
        weights=weights,
        head=head,
        rule=decoder.tree_rule if head == "level_softmax" else "",
        allowed=mask_digest(allowed),
        temperature=temperature,
        thresholds=thresholds,
        samples=(first.size, second.size),
        outcomes=tuple(outcome(accuracy, level, scores, surest) for accuracy, level in thresholds),
        concepts=concepts.sha256,
        concept_thresholds=concept_thresholds,
        concept_outcomes=_concept_outcomes(fitted, logits[second], labels[second], concept_thresholds),
        min_bits=decoder.min_bits,
    )


def require_accuracies(accuracies: Sequence[float], samples: int) -> None:
    """Raise UsageError for an accuracy outside (0, 1), or fewer than four samples."""
    if not all(0 < accuracy < 1 for accuracy in accuracies):
        raise UsageError(f"Accuracies lie between 0 and 1, not {', '.join(map(str, accuracies))}.")
    if samples < 4:
        raise UsageError(f"Calibration needs at least four labelled samples, not {samples}.")


def thresholds_of(scores: NDArray[np.float64], accuracies: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Return (accuracy, hedge level) for each accuracy that these scores can guarantee, ascending."""
    levels = ((float(accuracy), conformal_threshold(scores, accuracy)) for accuracy in sorted(set(accuracies)))
    return tuple((accuracy, level) for accuracy, level in levels if level <= 1)


def _surest(decoder: Decoder, path: Paths) -> NDArray[np.float32]:
    """Return float32 [B], the largest P on each whole chain of a node that says enough to be an answer; 0 for none."""
    enough = (path.nodes >= 0) & (decoder.node_bits[path.nodes] >= decoder.min_bits - SLACK)
    surest: NDArray[np.float32] = np.where(enough, path.probs, np.float32(0)).max(axis=1)
    return surest


def outcome(
    accuracy: float, level: float, scores: NDArray[np.float64], surest: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Return the accuracy, which share of samples is answered at the level, and which of these answers are right.

    scores: float64 [n], of `hedge_scores`. surest: float [n], the largest probability that could be an answer.
    """
    answered = surest >= level - SLACK
    right = answered & (scores < level - SLACK)
    return accuracy, float(answered.mean()), float(right.sum() / answered.sum()) if answered.any() else 1.0


def _concept_outcomes(
    decoder: Decoder,
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    thresholds: tuple[tuple[float, float], ...],
) -> tuple[tuple[float, float, float], ...]:
    """Read once more, at each threshold: a score above one may belong to another answer than that which is given."""
    concepts = concepts_of(decoder.space)
    answered, right = np.zeros(len(thresholds), np.int64), np.zeros(len(thresholds), np.int64)
    for rows in row_blocks(np.arange(len(labels)), len(concepts)):
        probabilities = decoder.read(logits[rows]).concepts_given
        for at, (_, level) in enumerate(thresholds):
            given = read_concepts(decoder.answer_vocabulary, probabilities, level).concept
            fine = right_answers(concepts, given, labels[rows])
            answered[at] += (given >= 0).sum()
            right[at] += ((given >= 0) & fine).sum()
    return tuple(
        (accuracy, float(count / len(labels)), float(hits / count) if count else 1.0)
        for (accuracy, _), count, hits in zip(thresholds, answered, right, strict=True)
    )


def hedge_scores(tree: Tree, paths: Paths, labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return float64 [B], the probability of the first wrong node on each chain; 0 if none is wrong.

    A hedged answer is correct exactly when the hedge level refuses that node. paths: B whole chains of `decode_path`.
    A node is right when it is the label, above it or below it. Source: Goren et al. 2024, 'climbing'.
    """
    truth = tree.level_target[labels]
    depth = tree.depth[labels][:, None]
    own = np.where(paths.nodes >= 0, paths.nodes, 0)
    # Right at or above the label's depth: the label's ancestor there. Below: the node passes through the label.
    above = own == np.where(truth >= 0, truth, -2)
    through = np.take_along_axis(tree.level_target[own], depth[:, None, :].repeat(own.shape[1], 1), 2)[..., 0]
    below = through == np.asarray(labels)[:, None]
    wrong = (paths.nodes >= 0) & ~(above | below)
    return first_wrong(paths, wrong)


def first_wrong(paths: Paths, wrong: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return float64 [B], the probability of the first node of each chain that is `wrong`, bool [B, L]; 0 for none."""
    first = wrong.argmax(1)
    score = np.where(wrong.any(1), paths.probs[np.arange(len(first)), first], 0.0)
    return score.astype(np.float64)


def conformal_threshold(scores: NDArray[np.float64], accuracy: float) -> float:
    """Return the hedge level that refuses all but the share 1 - accuracy of `scores`; infinity when none can.

    It lies just above the ceil((n + 1) accuracy)-th smallest score, so that a new sample's score is below it with
    probability at least `accuracy`, whatever the distribution. With too few samples for that rank there is none.
    """
    rank = _rank(scores.size, accuracy)
    if rank > scores.size:
        return math.inf
    level = float(np.partition(scores, rank - 1)[rank - 1]) + STEP
    return level if level <= 1 else math.inf


def coverage_band(count: int, accuracy: float, share: float = 0.9) -> tuple[float, float]:
    """Return between which values the share of correct answers lies in `share` of all draws of `count` samples.

    The wanted share is met on average over the draws; that of one draw follows a beta distribution of the parameters
    k and count + 1 - k, with k the rank of the threshold (Vovk 2012, 'Conditional validity of inductive conformal
    predictors'). accuracy: one that `count` samples can guarantee.
    """
    hits = np.arange(_rank(count, accuracy), count + 1)
    ways = np.array([math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in hits.tolist()])

    def quantile(wanted: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            # The beta distribution below x is the binomial one of x from k on.
            below = np.exp(ways + hits * math.log(middle) + (count - hits) * math.log1p(-middle)).sum()
            low, high = (low, middle) if below > wanted else (middle, high)
        return (low + high) / 2

    return quantile((1 - share) / 2), quantile((1 + share) / 2)


def _rank(count: int, accuracy: float) -> int:
    return math.ceil((count + 1) * accuracy - 1e-9)


def _check_labels(tree: Tree, logits: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
    given = np.asarray(labels)
    if given.ndim != 1 or given.dtype.kind not in "iu" or len(given) != len(logits):
        raise UsageError(f"Expected {len(logits)} integer labels, not {given.dtype} {list(given.shape)}.")
    if given.min() < 0 or given.max() >= tree.num_nodes:
        raise UsageError(f"Labels must lie in 0..{tree.num_nodes - 1}, not {given.min()}..{given.max()}.")
