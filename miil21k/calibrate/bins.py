"""A temperature, and hedge levels with a guarantee, for answers with a user's own labels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from miil21k.calibrate.guarantee import ACCURACIES, first_wrong, outcome, require_accuracies, thresholds_of
from miil21k.calibrate.record import Calibration, mask_digest
from miil21k.calibrate.temperature import doubt_of, minimize, row_blocks
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from miil21k.decode.decoder import Decoder
    from miil21k.hierarchy.bins import Bins

__all__ = ["calibrate_bins"]

LEAST = 1e-12  # what a probability counts as that is less: one sample shall not decide


def calibrate_bins(
    decoder: Decoder,
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    accuracies: Sequence[float] = ACCURACIES,
    model: str = "",
    weights: str = "",
    seed: int = 0,
) -> Calibration:
    """Return the calibration of the bins of a decoder that has none; its `hedge` plays no part.

    logits: [n, C] of the head. labels: int [n], which of the labels each sample is of. Half of the samples, drawn with
    `seed`, fit one temperature, for all depths where the head has several, of least negative log-likelihood of the
    labels; the other half fits one hedge level per accuracy, as `guarantee.calibrate` does for the tree. Raises
    UsageError for a decoder without bins, fewer than four samples, labels that are none, or an accuracy outside (0, 1).
    """
    bins = decoder.bins
    if bins is None:
        raise UsageError("This decoder has no bins: give it some with binned().")
    require_accuracies(accuracies, len(labels))
    if np.asarray(labels).min() < 0 or np.asarray(labels).max() >= len(bins):
        raise UsageError(f"Labels must lie in 0..{len(bins) - 1}, the places of {', '.join(bins.labels)}.")
    first, second = np.array_split(np.random.default_rng(seed).permutation(len(labels)), 2)
    temperature = _fit(decoder, bins, logits[first], labels[first])
    fitted = replace(decoder, temperature=temperature, hedge=None)
    scores, surest = np.empty(second.size), np.empty(second.size)
    done = 0
    for rows in row_blocks(second, logits.shape[1]):
        path, to = fitted.read(logits[rows]).bins_path, slice(done, done + rows.size)
        wrong = (path.nodes >= 0) & ~bins.right[labels[rows][:, None], path.nodes]
        scores[to], surest[to] = first_wrong(path, wrong), path.probs[:, 0]
        done += rows.size
    thresholds = thresholds_of(scores, accuracies)
    space, levels = decoder.space, decoder.head == "level_softmax"
    return Calibration(
        label_space=space.name,
        sha256=space.sha256,
        model=model,
        weights=weights,
        head=decoder.head,
        rule=decoder.tree_rule if levels else "",
        allowed=mask_digest(decoder.allowed),
        temperature=(temperature,) * (len(space.tree.levels) if levels else 1),
        thresholds=(),
        samples=(first.size, second.size),
        min_bits=decoder.min_bits,
        bins=bins.sha256,
        bin_thresholds=thresholds,
        bin_outcomes=tuple(outcome(accuracy, level, scores, surest) for accuracy, level in thresholds),
    )


def _fit(decoder: Decoder, bins: Bins, logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the temperature of least negative log-likelihood of the labels; for a sigmoid head, of yes or no.

    A little of it is of the contrary, as in `temperature`: few samples that are all right make no answer certain.
    """
    blocks = row_blocks(np.arange(len(labels)), logits.shape[1])
    positive = np.zeros((len(labels), len(bins)), bool)
    for label in np.unique(labels).tolist():
        positive[np.ix_(labels == label, bins.tree.path(label))] = True

    yes = int(positive.sum())
    binary = np.where(positive, 1 - doubt_of(yes), doubt_of(positive.size - yes))
    doubt = doubt_of(len(labels))

    def loss(beta: float) -> float:
        fixed, total = replace(decoder, temperature=1 / beta, hedge=None), 0.0
        for rows in blocks:
            found = fixed.read(logits[rows])
            if decoder.head == "sigmoid":
                total += _cross_entropy(found.bins, binary[rows])
            else:
                own = labels[rows]
                shared = np.where(bins.only_holds[own][:, None], found.bins, found.bins_alone)
                total += _cross_entropy(shared[np.arange(rows.size), own], 1 - doubt)
        return float(total / len(labels))

    return minimize(loss)


def _cross_entropy(shares: NDArray[np.floating], wanted: NDArray[np.float64] | float) -> float:
    """Return the sum over answers of yes or no; shares: probabilities of yes. wanted: what they should be."""
    yes, no = np.log(np.maximum(shares, LEAST)), np.log(np.maximum(1 - shares, LEAST))
    return -float((wanted * yes + (1 - np.asarray(wanted)) * no).sum(dtype=np.float64))
