"""How strongly a probe is held back, chosen by cross-validation on the training images alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from miil21k.calibrate.temperature import fit_softmax
from miil21k.text import brief
from miil21k.transfer.split import fold_numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.transfer.probes import Classifier, Probe

__all__ = ["Fitted", "best_temperature", "fit_probe", "log_softmax"]

COLDEST, HOTTEST = 1e-3, 1e3  # the logits of a ridge lie between 0 and 1
FOLDS = 5
ENOUGH = 500  # answers out of fold: fewer images are divided several times
MOST_REPEATS = 5


@dataclass(frozen=True, eq=False)
class Fitted:
    """A probe whose strength was chosen.

    classifier: fitted on all images at the chosen strength, its logits divided by `temperature`, which makes those out
    of fold most likely. strength: the chosen one. scores: (strength, accuracy out of fold) of each; empty where no
    image could be spared. out_of_fold: float32 [n, C], log-probabilities of each image from classifiers that did not
    see it; nan for an image that is the only one of its class.
    """

    classifier: Classifier
    strength: float
    temperature: float
    scores: tuple[tuple[float, float], ...]
    out_of_fold: NDArray[np.float32]

    __repr__ = brief


def fit_probe(
    probe: Probe,
    values: NDArray[np.float32],
    labels: NDArray[np.integer],
    classes: int,
    *,
    seed: int = 0,
    groups: NDArray[np.integer] | None = None,
) -> Fitted:
    """Return the probe fitted with the strength whose answers out of fold are right most often.

    values: features float32 [n, D]. labels: int [n] in 0..classes - 1. groups: int [n], copies of a picture, which stay
    in one fold. Of equally good strengths the one whose answers are likelier wins. Images are divided into five folds,
    fewer than 500 of them up to five times. Where every class has a single image, the `usual` strength is taken.
    """
    repeats = min(MOST_REPEATS, max(1, round(ENOUGH / len(labels))))
    folds = [fold_numbers(labels, FOLDS, seed + repeat, groups) for repeat in range(repeats)]
    judged = np.flatnonzero(folds[0] >= 0)
    if not judged.size:
        nothing = np.full((len(labels), classes), np.nan, np.float32)
        return Fitted(probe.fit(values, labels, classes), probe.usual, 1.0, (), nothing)
    short = _fewer_coordinates(values)
    logits = np.mean([_out_of_fold(probe, short, labels, classes, fold) for fold in folds], axis=0)
    found = []
    for strength, answers in zip(probe.strengths, logits, strict=True):
        temperature = best_temperature(answers[judged], labels[judged])
        likely = log_softmax(answers / temperature)
        right = float((answers[judged].argmax(1) == labels[judged]).mean())
        likelihood = float(likely[judged, labels[judged]].mean())
        found.append((right, likelihood, strength, temperature, likely))
    _, _, strength, temperature, likely = max(found, key=lambda one: one[:2])
    likely[folds[0] < 0] = np.nan
    classifier = probe.fit(values, labels, classes, strength).cooled(temperature)
    scores = tuple((strength, right) for right, _, strength, _, _ in found)
    return Fitted(classifier, strength, temperature, scores, likely.astype(np.float32))


def _fewer_coordinates(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the same vectors in as many coordinates as there are vectors: all lengths and angles stay."""
    if len(values) >= values.shape[1]:
        return values
    left, lengths, _ = np.linalg.svd(values, full_matrices=False)
    return np.ascontiguousarray(left * lengths)


def _out_of_fold(
    probe: Probe, values: NDArray[np.float32], labels: NDArray[np.integer], classes: int, fold: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return float32 [S, n, C], for each strength the logits of each image by a classifier of the other folds.

    0 for what no fold holds.
    """
    logits = np.zeros((len(probe.strengths), len(labels), classes), np.float32)
    for number in range(FOLDS):
        out = fold == number
        if out.any():
            fitted = probe.path(values[~out], labels[~out], classes, probe.strengths)
            logits[:, out] = [classifier.logits(values[out]) for classifier in fitted]
    return logits


def best_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return by what to divide logits [n, C] so that the labels are most likely, between 1/1000 and 1000.

    Some doubt is left in the labels (see `calibrate.temperature`): few images, all of them right, make no answer
    certain.
    """
    return fit_softmax(np.asarray(logits, np.float32), labels, COLDEST, HOTTEST)


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return float64, log-probabilities over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted.astype(np.float64)).sum(-1, keepdims=True))
    return found
