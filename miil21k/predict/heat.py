"""Where the evidence for a concept is: a map over what the network saw of an image.

A head that is linear over average-pooled features needs no library for it. With features F [D, h, w], weights W [C, D]
and logits z = W mean(F) + b, the map is heat[i, j] = g . (W F[:, i, j]), where g [C] is the gradient of log P(concept)
by the logits. Its mean is g . (W mean(F)): the gradient times the pooled features, shared out over the places they came
from (class activation maps, Zhou 2016, for the logarithm of a sum of classes). Above 0: speaks for the concept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.data.transforms import normalise, seen_box
from miil21k.decode.concepts import class_masses
from miil21k.decode.decoded import concept_graph
from miil21k.errors import ImageError, UsageError
from miil21k.runtime.torch_backend import TorchBackend

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.data.images import ImageInput
    from miil21k.decode.decoder import Decoder
    from miil21k.predict.predictor import Predictor
    from miil21k.runtime.torch_backend import FeatureMap

__all__ = ["Heat", "HeatMaps", "evidence"]

STEP = 0.125  # the farthest that a logit is moved where the derivative is taken numerically
TINY = np.finfo(np.float64).tiny


class Heat(NamedTuple):
    """Where the evidence for one concept is.

    values: float32 [h, w], over the crop that the network saw, in nats of log P. name: of the concept. probability: its
    P. box: (left, top, right, bottom), the crop as fractions of the image's width and height.
    """

    values: NDArray[np.float32]
    name: str
    probability: float
    box: tuple[float, float, float, float]


class HeatMaps:
    """Shows for one image after another where the evidence for a concept is.

    predictor: whose network answers. concept: a noun, a wnid or a synset name. note: which of several meanings of the
    noun was taken, None where it has one. Raises UnknownClass for what names no concept, UsageError for a network that
    has no such map: an export, or one whose head is not linear over average-pooled features.
    """

    def __init__(self, predictor: Predictor, concept: str) -> None:
        backend = predictor.backend
        if not isinstance(backend, TorchBackend):
            raise UsageError(
                "An export keeps no feature map, so nothing can show where the evidence is: "
                "name the model that it was made from, with --backend torch."
            )
        self._decoder = replace(predictor.decoder, asked=()).asking(concept)
        question = self._decoder.asked[0]
        graph = concept_graph(self._decoder.space)
        self._predictor, self._backend = predictor, backend
        self._name, self.note = graph.name(question.concept), question.note(graph)
        self._below = graph.classes(question.concept)
        height, width = predictor.preprocess.input_size[1:]
        self._features(np.zeros((height, width, 3), np.uint8))  # refused before any image is read

    def _features(self, crop: NDArray[np.uint8]) -> FeatureMap:
        return self._backend.feature_map(normalise(crop[None], self._predictor.preprocess))

    def of(self, image: ImageInput, size: tuple[int, int]) -> Heat:
        """Return the map of an image of `size`, (width, height); raises ImageError when it cannot be read."""
        values, probability = self.read(image)
        return Heat(values, self._name, probability, seen_box(size, self._predictor.preprocess))

    def read(self, image: ImageInput) -> tuple[NDArray[np.float32], float]:
        """Return the map, float32 [h, w], and P(concept); raises ImageError when the image cannot be read."""
        crop = self._predictor.crop(image)
        if isinstance(crop, str):
            raise ImageError(crop)
        found = self._features(crop)
        values = evidence(self._decoder, found.logits, _contributions(found), self._below)
        probability = float(self._decoder.read(found.logits[None]).asked[0, 0])
        return values.reshape(found.features.shape[1:]).astype(np.float32), probability


def _contributions(found: FeatureMap) -> NDArray[np.float32]:
    """Return float32 [h * w, C], what each place adds to the logits, times the number of places."""
    flat = found.features.reshape(len(found.features), -1)
    return np.asarray(flat.T @ found.weight.T)


def evidence(
    decoder: Decoder, logits: NDArray[np.floating], directions: NDArray[np.floating], below: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return float64 [R], the derivative of log P(concept) along each direction in the logits.

    logits: [C] of the head. directions: [R, C]. below: the classes of the answers at or below the concept. P is that of
    `Decoded.asked`. leaf_softmax: exact, the gradient is (q - p) / T with p = P(class) and q = P(class given the
    concept). sigmoid: exact, that of the most probable class below. level_softmax: central differences with one step of
    Richardson's extrapolation in float64, right to about four digits, whatever the rule.
    """
    z = decoder.project(logits[None])[0].astype(np.float64)
    along = decoder.project(directions).astype(np.float64)
    if decoder.viable is not None:
        below = below[decoder.viable[below]]
    match decoder.head:
        case "leaf_softmax":
            return np.asarray(along @ _softmax_gradient(decoder, z, below))
        case "sigmoid":
            return _sigmoid_evidence(decoder, z, along, below)
        case "level_softmax":
            return _numerical(decoder, z, along, below)


def _softmax_gradient(decoder: Decoder, z: NDArray[np.float64], below: NDArray[np.integer]) -> NDArray[np.float64]:
    temperature = 1.0 if decoder.temperatures is None else float(np.asarray(decoder.temperatures))
    scaled = z / temperature
    if decoder.viable is not None:
        scaled[~decoder.viable] = -np.inf
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    inside = np.zeros(len(z), bool)
    inside[below] = True
    q = np.exp(scaled[inside] - scaled[inside].max())  # apart from p, which may be too small for a quotient
    gradient: NDArray[np.float64] = -p
    gradient[inside] = q / q.sum() * p[~inside].sum()  # q - p without the cancellation where P is near 1
    gradient /= temperature
    return gradient


def _sigmoid_evidence(
    decoder: Decoder, z: NDArray[np.float64], along: NDArray[np.float64], below: NDArray[np.integer]
) -> NDArray[np.float64]:
    tree = decoder.space.tree
    given = 1.0 if decoder.temperatures is None else np.asarray(decoder.temperatures, np.float64)
    temperature = np.broadcast_to(given, (tree.max_depth + 1,))[tree.depth[below]]
    scaled = z[below] / temperature
    best = int(scaled.argmax())
    slope = 0.5 * (1 - np.tanh(scaled[best] / 2)) / temperature[best]  # 1 - sigmoid
    return np.asarray(along[:, below[best]] * slope)


def _numerical(
    decoder: Decoder, z: NDArray[np.float64], along: NDArray[np.float64], below: NDArray[np.integer]
) -> NDArray[np.float64]:
    step = STEP / np.maximum(np.abs(along).max(axis=1, keepdims=True), TINY)

    def slope(part: float) -> NDArray[np.float64]:
        moved = np.concatenate([z + part * step * along, z - part * step * along])
        masses = class_masses(
            decoder.space.tree,
            moved,
            decoder.head,
            withdrawn=decoder.withdrawn,
            temperature=decoder.temperatures,
            rule=decoder.tree_rule,
            dtype=np.float64,
        )
        log_p = np.log(np.maximum(masses[:, below].sum(axis=1), TINY))
        return np.asarray((log_p[: len(along)] - log_p[len(along) :]) / (2 * part * step[:, 0]))

    return (4 * slope(0.5) - slope(1)) / 3
