"""Classifiers on frozen features, fitted in seconds: `PROBES` holds them by name.

Features are centred and divided by one number, so that a vector has length 1 on average: a strength then means the same
for every network and every number of images.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from miil21k.environment import need
from miil21k.errors import UsageError
from miil21k.text import brief, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = [
    "PROBES",
    "Classifier",
    "LinearClassifier",
    "NeighbourClassifier",
    "Probe",
    "knn_path",
    "logistic_path",
    "probe",
    "ridge_path",
]

UNSEEN = -1e4  # logit of a class without images: never the answer, and finite in half precision
# Both were right most often out of fold, on 30 training images of each of 90 classes of Caltech-101.
NEIGHBOURS = 10
VOTE_TEMPERATURE = 0.05  # of cosines; DINO (Caron et al. 2021) and InstDisc (Wu et al. 2018), unwhitened, take 0.07
LEAST_SHARE = 1e-6  # of the votes: what a class without a neighbour gets, so that its logarithm is finite


class Classifier(Protocol):
    """What a probe gives."""

    def logits(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 [n, C] for features [n, D]; their softmax are probabilities."""

    def cooled(self, temperature: float) -> Classifier:
        """Return the classifier with its logits divided by `temperature`."""


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """weight: float32 [C, D]. bias: float32 [C]. They are for features as they are, so a network can hold them."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    __repr__ = brief

    def logits(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 [n, C] for features [n, D]."""
        found: NDArray[np.float32] = values @ self.weight.T + self.bias
        return found

    def cooled(self, temperature: float) -> LinearClassifier:
        """Return the classifier with its logits divided by `temperature`; classes without images stay out."""
        unseen = self.bias == UNSEEN
        bias = np.where(unseen, np.float32(UNSEEN), self.bias / np.float32(temperature))
        return LinearClassifier(self.weight / np.float32(temperature), bias)


@dataclass(frozen=True, eq=False)
class NeighbourClassifier:
    """The logarithm of each class's share of the votes of the `neighbours` images nearest by the cosine.

    mean: float32 [D], what is taken from a vector first. axes: float32 [R, D], along which images of one class differ,
    each as long as the square root of the share that is taken from a vector along it; R is 0 where no class has two
    images. bank: float32 [n, D], the vectors so treated, of length 1. labels: int32 [n]. An image votes with
    exp(cosine / 0.05).
    """

    bank: NDArray[np.float32]
    labels: NDArray[np.int32]
    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    classes: int
    neighbours: int
    temperature: float = 1.0

    __repr__ = brief

    def logits(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 [n, C] for features [n, D]."""
        found = np.empty((len(values), self.classes), np.float32)
        for start in range(0, len(values), 1024):
            block = slice(start, start + 1024)
            cosines = _directions(_alike(values[block] - self.mean, self.axes)) @ self.bank.T
            nearest = np.argpartition(-cosines, self.neighbours - 1, axis=1)[:, : self.neighbours]
            votes = np.exp((np.take_along_axis(cosines, nearest, 1) - 1) / VOTE_TEMPERATURE)
            shares = np.zeros((len(cosines), self.classes), np.float32)
            np.add.at(shares, (np.arange(len(cosines))[:, None], self.labels[nearest]), votes)
            shares /= shares.sum(1, keepdims=True)
            found[block] = np.log(shares + LEAST_SHARE) / np.float32(self.temperature)
        return found

    def cooled(self, temperature: float) -> NeighbourClassifier:
        """Return the classifier with its logits divided by `temperature`."""
        warmth = self.temperature * temperature
        return replace(self, temperature=warmth)


class Probe(NamedTuple):
    """A kind of classifier.

    title: for people. strengths: to choose among, the strongest (most cautious) first. usual: the strength where no
    image can be spared to choose one. path: takes features float32 [n, D], labels int [n], the number of classes and
    strengths, and returns a classifier for each, at little more than the cost of one.
    """

    title: str
    strengths: tuple[float, ...]
    usual: float
    path: Callable[[NDArray[np.float32], NDArray[np.integer], int, Sequence[float]], list[Any]]

    def fit(
        self, values: NDArray[np.float32], labels: NDArray[np.integer], classes: int, strength: float | None = None
    ) -> Classifier:
        """Return the classifier of one strength, by default the usual one."""
        fitted: Classifier = self.path(values, labels, classes, [self.usual if strength is None else strength])[0]
        return fitted


def knn_path(
    values: NDArray[np.float32], labels: NDArray[np.integer], classes: int, strengths: Sequence[float]
) -> list[NeighbourClassifier]:
    """Return the votes of the ten nearest images, or of all where there are fewer.

    Nearness is measured where images of one class differ as much in every direction: their covariance, and `strength`
    times its mean variance in all directions, is whitened, so that a great one leaves plain cosines. Source: relevant
    component analysis, Bar-Hillel et al. 2005.
    """
    mean, own, neighbours = values.mean(0), labels.astype(np.int32), min(NEIGHBOURS, len(values))
    found = []
    for axes in _axes_within(values, labels, strengths):
        bank = _directions(_alike(values - mean, axes))
        found.append(NeighbourClassifier(bank, own, mean, axes, classes, neighbours))
    return found


def _axes_within(
    values: NDArray[np.float32], labels: NDArray[np.integer], strengths: Sequence[float]
) -> list[NDArray[np.float32]]:
    """Return the `axes` of a `NeighbourClassifier` of each strength: whitening, but for a factor no cosine sees."""
    places = np.unique(labels, return_inverse=True)[1]
    counts = np.bincount(places)
    means = np.zeros((len(counts), values.shape[1]))
    np.add.at(means, places, values)
    within = values - (means / counts[:, None])[places]
    of_rows = within.shape[0] <= within.shape[1]
    lengths, found = np.linalg.eigh(within @ within.T if of_rows else within.T @ within)
    seen = lengths > 1e-6 * max(float(lengths[-1]), 1e-12)
    lengths, found = lengths[seen], found[:, seen]
    axes = (within.T @ found / np.sqrt(lengths) if of_rows else found).T
    shortened: list[NDArray[np.float32]] = []
    for strength in strengths:
        least = strength * lengths.mean() if lengths.size else 0.0
        taken = 1 - np.sqrt(least / (lengths + least))
        shortened.append((axes * np.sqrt(taken)[:, None]).astype(np.float32))
    return shortened


def _alike(centred: NDArray[np.float32], axes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors without most of what tells images of one class apart."""
    found: NDArray[np.float32] = np.subtract(centred, (centred @ axes.T) @ axes, dtype=np.float32)
    return found


def ridge_path(
    values: NDArray[np.float32], labels: NDArray[np.integer], classes: int, strengths: Sequence[float]
) -> list[LinearClassifier]:
    """Return the closed-form ridge regressions of the classes, one-hot, with an intercept that is not penalised.

    strengths: of the penalty, in units of the mean square of a vector, which is one. One decomposition of the smaller
    matrix of inner products, n x n or D x D, serves all of them.
    """
    mean, scale, scaled = _scaled(values)
    target = np.eye(classes)[labels]
    average = target.mean(0)
    wide = scaled.astype(np.float64)
    of_rows = wide.shape[0] <= wide.shape[1]
    lengths, axes = np.linalg.eigh(wide @ wide.T if of_rows else wide.T @ wide)
    answers = axes.T @ (target - average if of_rows else wide.T @ (target - average))
    found = []
    for strength in strengths:
        solved = axes @ (answers / (np.maximum(lengths, 0) + strength)[:, None])
        weight = wide.T @ solved if of_rows else solved
        found.append(_folded(weight.T, average, mean, scale, labels))
    return found


def logistic_path(
    values: NDArray[np.float32], labels: NDArray[np.integer], classes: int, strengths: Sequence[float]
) -> list[LinearClassifier]:
    """Return scikit-learn's multinomial logistic regressions; strengths: of the penalty, its 1 / C.

    Each begins where the one before ended. Far fewer images than features are first turned into as many coordinates as
    there are images, which changes nothing but the time. Raises UsageError for images of a single class, MissingExtra
    without scikit-learn.
    """
    linear = need("sklearn.linear_model", "transfer", "Logistic regression", package="scikit-learn")
    mean, scale, scaled = _scaled(values)
    present = np.unique(labels)
    if present.size < 2:
        raise UsageError("A classifier needs images of at least two classes.")
    axes = None
    if 2 * len(scaled) < scaled.shape[1]:
        left, lengths, axes = np.linalg.svd(scaled, full_matrices=False)
        scaled = np.ascontiguousarray(left * lengths)
    model = linear.LogisticRegression(tol=3e-4, max_iter=300, warm_start=True)
    found = []
    for strength in strengths:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The number of unique classes")  # few images a class are what we have
            model.set_params(C=1 / strength).fit(scaled, labels)
        own, bias = model.coef_, model.intercept_
        if present.size == 2:  # one row, the log-odds of the second class
            own, bias = np.concatenate([-own, own]) / 2, np.concatenate([-bias, bias]) / 2
        weight, offset = np.zeros((classes, values.shape[1])), np.zeros(classes)
        weight[present], offset[present] = own if axes is None else own @ axes, bias
        found.append(_folded(weight, offset, mean, scale, labels))
    return found


def _scaled(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], np.float32, NDArray[np.float32]]:
    """Return the mean [D], what vectors are divided by, and the vectors so treated."""
    mean = values.mean(0)
    centred = values - mean
    scale = np.sqrt((centred**2).sum(1).mean())
    scale = np.float32(scale) if scale > 0 else np.float32(1)
    return mean, scale, centred / scale


def _folded(
    weight: NDArray[np.floating],
    bias: NDArray[np.floating],
    mean: NDArray[np.float32],
    scale: np.float32,
    labels: NDArray[np.integer],
) -> LinearClassifier:
    """Return the classifier of features as they are from one of scaled ones."""
    own = weight / scale
    offset = bias - own @ mean
    unseen = np.bincount(labels, minlength=len(offset)) == 0
    own[unseen], offset[unseen] = 0, UNSEEN
    return LinearClassifier(own.astype(np.float32), offset.astype(np.float32))


def _directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: NDArray[np.float32] = vectors / np.maximum(length, 1e-12)
    return found


PROBES: dict[str, Probe] = {
    "logistic": Probe("logistic regression", (10.0, 1.0, 0.1, 0.01), 10.0, logistic_path),
    "ridge": Probe("closed-form ridge", (10.0, 3.0, 1.0, 0.3, 0.1), 1.0, ridge_path),
    "knn": Probe("nearest neighbours", (3.0, 1.0, 0.3, 0.1, 0.03), 0.1, knn_path),
}


def probe(name: str) -> Probe:
    """Return the probe called `name`; raises UsageError with the nearest name."""
    if name not in PROBES:
        raise UsageError(f"No probe '{name}'.{did_you_mean(name, PROBES)} Probes: {', '.join(PROBES)}.")
    return PROBES[name]
