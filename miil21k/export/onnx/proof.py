"""Run an exported file against torch, Pillow and the NumPy decoding, and say how far they are apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from miil21k.data.transforms import crop_image, normalise
from miil21k.environment import silence_telemetry
from miil21k.errors import ExportError
from miil21k.export.onnx.images import CROP_INPUT
from miil21k.export.onnx.model import IMAGES, image_model
from miil21k.export.onnx.network import PIXELS
from miil21k.export.onnx.samples import batches
from miil21k.runtime.onnx_backend import EXACT_PRODUCTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnxruntime import InferenceSession
    from torch import nn

    from miil21k.decode.decoded import Decoded
    from miil21k.decode.decoder import Decoder
    from miil21k.zoo.schema import Preprocess

__all__ = ["BOUNDS", "Bounds", "Proof", "Runner", "prove"]

silence_telemetry()


@dataclass(frozen=True)
class Bounds:
    """What an export must keep to.

    logits, embedding: largest difference to torch from equal pixels, relative to the range of torch's.
    probabilities: largest difference to the NumPy decoding of the graph's own logits, whose path, hedged node and
    top-k must be the same. grey_levels: largest difference to Pillow filtering rows, then columns.
    tie: from equal pixels two answers may differ where torch finds them this near in probability, relatively;
    photo_tie: the same for photographs through the resize of the graph instead of Pillow's.
    """

    logits: float = 1e-4
    embedding: float = 1e-3
    probabilities: float = 1e-5
    grey_levels: int = 1
    tie: float = 1e-3
    photo_tie: float = 0.05


BOUNDS = Bounds()


@dataclass
class Proof:
    """The measurements of one export: one row per batch, the worst of each, and what exceeds its bound."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def check(self, row: dict[str, Any], key: str, bound: float) -> None:
        """Note a failure when a measurement exceeds its bound."""
        if not row[key] <= bound:  # also for NaN
            self.failures.append(
                f"{key} is {row[key]:.3g} on {row['images']} in a batch of {row['batch']}, over {bound:g}"
            )

    def worst(self) -> dict[str, float]:
        """Return the largest value of each measurement."""
        keys = dict.fromkeys(key for row in self.rows for key in row if key not in ("images", "batch", "size"))
        return {key: max(row[key] for row in self.rows if key in row) for key in keys}


class Runner(NamedTuple):
    """An export that can be run: the names of what it reads, and a function from these values to outputs by name."""

    inputs: frozenset[str]
    run: Callable[[dict[str, Any]], dict[str, Any]]


def prove(
    export: Path | Runner,
    model: nn.Module,
    preprocess: Preprocess,
    decoder: Decoder,
    photos: Sequence[Path],
    *,
    topk: int | None = None,
) -> Proof:
    """Return the proof of an export against `model`, a torch network in evaluation mode, whose logits `decoder` reads.

    export: an ONNX file, which is run on ONNX Runtime's CPU provider, or what runs another export. photos: image
    files. topk: how many classes a graph of the form `full` lists; None for one that answers with logits. Noise and
    photographs are run in batches of 1, 2 and 7. Raises ExportError when it cannot be run at all.
    """
    runner = export if isinstance(export, Runner) else _session_runner(open_session(export))
    prover = _Prover(runner, model, preprocess, decoder, topk)
    proof = Proof()
    for kind, images in batches(photos):
        row = {"images": kind, "batch": len(images), "size": list(images.shape[1:3])}
        logits = prover.equal_pixels(row, images)
        proof.check(row, "logits", BOUNDS.logits)
        proof.check(row, "embedding", BOUNDS.embedding)
        proof.check(row, "answers_apart", 0)
        if topk is not None:
            prover.whole_graph(row, images, logits)
            proof.check(row, "decoded_differently", 0)
            proof.check(row, "probabilities", BOUNDS.probabilities)
            proof.check(row, "grey_levels", BOUNDS.grey_levels)
            if kind != "noise":
                proof.check(row, "photo_answers_apart", 0)
        proof.rows.append(row)
    return proof


def open_session(model: Path | bytes) -> InferenceSession:
    """Return a session on the CPU; raises ExportError with ONNX Runtime's reason when it refuses the model."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(*EXACT_PRODUCTS)
    try:
        content = model if isinstance(model, bytes) else str(model)
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        raise ExportError(f"ONNX Runtime {ort.__version__} cannot open the export: {error}") from None


def _session_runner(session: InferenceSession) -> Runner:
    outputs = [value.name for value in session.get_outputs()]
    inputs = [*session.get_inputs(), *session.get_overridable_initializers()]
    return Runner(
        frozenset(value.name for value in inputs),
        lambda feed: dict(zip(outputs, session.run(outputs, feed), strict=True)),
    )


class _Prover:
    def __init__(
        self, runner: Runner, model: nn.Module, preprocess: Preprocess, decoder: Decoder, topk: int | None
    ) -> None:
        self.runner = runner
        self.model, self.preprocess, self.decoder, self.topk = model, preprocess, decoder, topk
        self.resize = open_session(image_model(preprocess).SerializeToString()) if IMAGES in runner.inputs else None

    def run(self, images: NDArray[np.uint8], *, cropped: bool) -> dict[str, Any]:
        """Return the outputs of the graph by name; `cropped` says that the images are crops already."""
        if IMAGES not in self.runner.inputs:
            feed: dict[str, Any] = {PIXELS: normalise(images, self.preprocess)}
        else:
            feed = {IMAGES: images}
            if CROP_INPUT in self.runner.inputs:
                feed[CROP_INPUT] = np.array(not cropped)
        return self.runner.run(feed)

    def crops(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.stack([crop_image(Image.fromarray(image), self.preprocess) for image in images])

    def torch_run(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits and embedding; where the batch is one image, the logits are those of a whole forward pass."""
        import torch

        with torch.inference_mode():
            model: Any = self.model
            pixels = torch.from_numpy(normalise(crops, self.preprocess))
            features = model.forward_features(pixels)
            embedding = model.forward_head(features, pre_logits=True)
            # The graph is made of forward_head too: that it says what the model says is seen on batches of one.
            logits = model(pixels) if len(crops) == 1 else model.forward_head(features)
            return logits.numpy(), embedding.numpy()

    def equal_pixels(self, row: dict[str, Any], images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Measure the network alone: the same crops to torch and to the graph. Returns the logits of torch."""
        crops = self.crops(images)
        logits, embedding = self.torch_run(crops)
        found = self.run(crops, cropped=True)
        row["logits"] = _relative(found["logits"], logits)
        row["embedding"] = _relative(found["embedding"], embedding)
        apart, tied = _apart(self.decoder.read(logits), self.decoder.read(found["logits"]), BOUNDS.tie)
        row["answers_apart"], row["answers_tied"] = apart, tied
        return logits

    def whole_graph(self, row: dict[str, Any], images: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        """Measure images to answers: the decoding of equal logits, the resize, and all of it together.

        logits: what torch finds in the images that Pillow crops.
        """
        found = self.run(images, cropped=False)
        own = self.decoder.read(found["logits"])
        assert self.topk is not None
        row["decoded_differently"], row["probabilities"] = _differences(found, own, self.topk)
        assert self.resize is not None
        resized = self.resize.run(None, {IMAGES: images})[0].transpose(0, 2, 3, 1).astype(int)
        rows_first = np.stack([_rows_first(Image.fromarray(image), self.preprocess) for image in images])
        crops = self.crops(images)
        row["grey_levels"] = int(np.abs(resized - rows_first).max())
        row["grey_levels_of_pillow"] = int(np.abs(resized - crops).max())
        row["mean_grey_levels_of_pillow"] = float(np.abs(resized - crops).mean())
        row["photo_logits" if row["images"] != "noise" else "noise_logits"] = _relative(found["logits"], logits)
        apart, tied = _apart(self.decoder.read(logits), own, BOUNDS.photo_tie)
        if row["images"] != "noise":
            row["photo_answers_apart"], row["photo_answers_tied"] = apart, tied


def _rows_first(image: Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Return the crop with the rows filtered first, which Pillow did in all versions before 13."""
    from miil21k.data.transforms import resized_size

    width, height = resized_size(image.size, preprocess)
    methods = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    method = methods[preprocess.interpolation]
    whole = image.resize((width, image.height), method).resize((width, height), method)
    return crop_image(whole, preprocess)


def _relative(found: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    """Return the largest difference relative to the range of the exact values."""
    return float(np.abs(found - exact).max() / max(float(np.ptp(exact)), 1e-30))


def _differences(found: dict[str, Any], own: Decoded, topk: int) -> tuple[int, float]:
    """Return how many answers of the graph NumPy decodes differently from equal logits, and how far P is apart.

    The answer on concepts is one of many: another that is as sure but for rounding does not count.
    """
    top, stop = own.topk(topk), found["hedge_node"]
    same = (found["path"] == own.path.nodes).all(axis=1) & (stop == own.hedged.node)
    other = ~same
    if own.decoder.reading == "concepts":
        rivals = [_concept_rivals(own, at, node) for at, node in enumerate(stop.tolist())]
        other &= [not pairs or any(abs(a - b) > BOUNDS.probabilities for a, b in pairs) for pairs in rivals]
    apart = [found["topk_prob"] - top.probs, found["asked"] - own.asked if own.decoder.asked else np.zeros(1)]
    apart += [found["bins"] - own.bins] if own.decoder.bins is not None else []
    apart += [(found["path_prob"] - own.path.probs)[same], (found["hedge_prob"] - own.hedged.prob)[same]]
    return int(other.sum()) + _misranked(found, own.classes, top.probs), max(
        float(np.abs(part).max(initial=0)) for part in apart
    )


def _misranked(found: dict[str, Any], classes: NDArray[np.float32], best: NDArray[np.float32]) -> int:
    """Count the top-k places whose class has another probability than the class that belongs there."""
    index = found["topk_index"]
    probs = np.where(index >= 0, np.take_along_axis(classes, np.maximum(index, 0), axis=1), 0)
    return int((np.abs(probs - best) > BOUNDS.probabilities).sum())


def _apart(exact: Decoded, found: Decoded, tie: float) -> tuple[int, int]:
    """Return how many rows answer differently (path, hedged node or best class), and how many only by a tie."""
    apart = tied = 0
    level = exact.decoder.level
    assert level is not None
    best, best_found = exact.topk(1).classes, found.topk(1).classes
    for row in range(len(exact)):
        doubts = [_rivals(exact.classes[row], best[row], best_found[row])]
        if exact.decoder.reading == "concepts":
            doubts.append(_concept_rivals(exact, row, int(found.hedged.node[row])))
        else:
            doubts.append(_rivals(exact.nodes[row], exact.path.nodes[row], found.path.nodes[row]))
        if not any(doubts) and exact.hedged.node[row] != found.hedged.node[row]:
            steps = exact.path.probs[row]
            doubts.append([(level, float(steps[np.argmin(np.abs(steps - level))]))])
        pairs = [pair for doubt in doubts for pair in doubt]
        decided = any(abs(a - b) > tie * max(a, b) for a, b in pairs)
        apart += bool(pairs) and decided
        tied += bool(pairs) and not decided
    return apart, tied


def _rivals(
    probs: NDArray[np.float32], first: NDArray[np.int32], second: NDArray[np.int32]
) -> list[tuple[float, float]]:
    """Return the probabilities of the two nodes where two answers first part; none where they are the same."""
    at = np.flatnonzero(first != second)
    if not at.size:
        return []
    nodes = first[at[0]], second[at[0]]
    return [tuple(float(probs[node]) if node >= 0 else 0.0 for node in nodes)]  # type: ignore[list-item]


def _concept_rivals(exact: Decoded, row: int, other: int) -> list[tuple[float, float]]:
    """Return the two probabilities that decide between the concept of a row and `other`; none where they are the same.

    The level and P of the one that says more, or P of both where they say as much.
    """
    own, level = int(exact.hedged.node[row]), exact.decoder.level
    if own == other:
        return []
    bits, probs = exact.decoder.answer_vocabulary.bits, exact.concepts[row]
    said = [bits[one] if one >= 0 else -np.inf for one in (own, other)]
    if said[0] == said[1]:
        return [(float(probs[own]), float(probs[other]))]
    assert level is not None
    return [(float(probs[own if said[0] > said[1] else other]), level)]
