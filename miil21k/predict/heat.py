"""Where the evidence for a concept is: a map over what the network saw of an image.

A head that is linear over average-pooled features needs no library for it. With features F [D, h, w], weights W [C, D]
and logits z = W mean(F) + b, the map is heat[i, j] = g . (W F[:, i, j]), where g [C] is the gradient of log P(concept)
by the logits. Its mean is g . (W mean(F)): the gradient times the pooled features, shared out over the places they came
from (class activation maps, Zhou 2016, for the logarithm of a sum of classes). Above 0: speaks for the concept.
"""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from miil21k.data.transforms import normalise, seen_box
from miil21k.decode.concepts import class_masses
from miil21k.decode.decoded import concept_graph
from miil21k.errors import ImageError, UsageError
from miil21k.predict.prediction import PixelBox
from miil21k.runtime.torch_backend import TorchBackend

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.data.images import ImageInput
    from miil21k.decode.decoder import Decoder
    from miil21k.predict.predictor import Predictor
    from miil21k.runtime.torch_backend import FeatureMap

__all__ = ["AGAINST", "FOR", "Heat", "HeatMaps", "evidence", "painted", "require_maps"]

FOR, AGAINST = "#e8371c", "#2456d6"  # colours of what speaks for the concept, and of what speaks against it
_OPAQUE = 0.72  # the strongest evidence; the image shows through
_FINE = 8  # pixels of a painted map for each value

STEP = 0.125  # the farthest that a logit is moved where the derivative is taken numerically
TINY = np.finfo(np.float64).tiny


class Heat(NamedTuple):
    """Where the evidence for one concept is.

    values: float32 [h, w], over the crop that the network saw, in nats of log P. wnid, name: of the concept.
    probability: its P. box: the crop in the upright image, larger than it where the network saw a border.
    """

    values: NDArray[np.float32]
    wnid: str
    name: str
    probability: float
    box: PixelBox

    @property
    def image(self) -> str:
        """The painted map as the URL of a PNG, to be laid over the box."""
        png = io.BytesIO()
        Image.fromarray(painted(self.values)).save(png, "PNG")
        return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


class HeatMaps:
    """Shows for one image after another where the evidence for a concept is.

    predictor: whose network answers. concept: a noun, a wnid or a synset name. decoder: reads the logits, that of the
    predictor where left out. note: which of several meanings of the noun was taken, None where it has one. Raises
    UnknownClass for what names no concept, UsageError for an export; `require_maps` finds the others without a map.
    """

    def __init__(self, predictor: Predictor, concept: str, decoder: Decoder | None = None) -> None:
        self._predictor, self._backend = predictor, _with_features(predictor)
        self._decoder = replace(decoder or predictor.decoder, asked=()).asking(concept)
        question = self._decoder.asked[0]
        graph = concept_graph(self._decoder.space)
        self._wnid, self._name = graph.wnids[question.concept], graph.name(question.concept)
        self.note = question.note(graph)
        self._below = graph.classes(question.concept)

    def of(self, image: ImageInput) -> Heat:
        """Return the map of an image; raises ImageError when it cannot be read."""
        seen = self._predictor.look(image)
        if isinstance(seen, str):
            raise ImageError(seen)
        return self.over(seen.crop, seen.size)

    def over(self, crop: NDArray[np.uint8], size: tuple[int, int]) -> Heat:
        """Return the map over a crop, uint8 [H, W, 3], of an image of `size`, (width, height)."""
        preprocess = self._predictor.preprocess
        found = self._backend.feature_map(normalise(crop[None], preprocess))
        flat = evidence(self._decoder, found.logits, _contributions(found), self._below)
        values: NDArray[np.float32] = flat.reshape(found.features.shape[1:]).astype(np.float32)
        probability = float(self._decoder.read(found.logits[None]).asked[0, 0])
        box = PixelBox(*map(round, seen_box(size, preprocess)))
        return Heat(values, self._wnid, self._name, probability, box)


def require_maps(predictor: Predictor) -> None:
    """Raise UsageError, before any image is read, for a network that has no such map.

    That is an export, or one whose head is not linear over average-pooled features.
    """
    grey = np.zeros((1, *predictor.preprocess.input_size), np.float32)
    _with_features(predictor).feature_map(grey)


def _with_features(predictor: Predictor) -> TorchBackend:
    if not isinstance(predictor.backend, TorchBackend):
        raise UsageError(
            "An export keeps no feature map, so nothing can show where the evidence is: "
            "name the model that it was made from, with --backend torch."
        )
    return predictor.backend


def painted(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a map [h, w] in colours to be laid over the image, RGBA, uint8 [8 h, 8 w, 4].

    Red speaks for the concept, blue against it; the strongest value is the most opaque.
    """
    strength = values / max(float(np.abs(values).max()), float(np.finfo(np.float32).tiny))
    rows, columns = strength.shape
    across, down = (np.clip((np.arange(_FINE * n) + 0.5) / _FINE - 0.5, 0, n - 1) for n in (columns, rows))
    # Interpolated before it is coloured: between for and against lies nothing, not violet.
    wide = np.stack([np.interp(across, np.arange(columns), row) for row in strength])
    fine = np.stack([np.interp(down, np.arange(rows), column) for column in wide.T], axis=1)
    speaks_for, speaks_against = (np.frombuffer(bytes.fromhex(colour[1:]), np.uint8) for colour in (FOR, AGAINST))
    colours = np.where(fine[..., None] > 0, speaks_for, speaks_against)
    opacity = np.round(255 * _OPAQUE * np.abs(fine[..., None])).astype(np.uint8)
    return np.concatenate([colours, opacity], axis=2)


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
