"""The evaluation transform as ONNX operators: uint8 images of any one size -> what the network reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.data.transforms import resize_edge
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from miil21k.export.onnx.graph import GraphWriter
    from miil21k.zoo.schema import Preprocess

__all__ = ["CROP_INPUT", "crops", "write_crop", "write_normalisation"]

CROP_INPUT = "crop"
_MODES = {"bilinear": "linear", "bicubic": "cubic"}
_PILLOW_CUBIC = -0.5  # Pillow's bicubic coefficient; ONNX has -0.75 unless told


def crops(preprocess: Preprocess) -> bool:
    """Return whether the transform does more than resize to the input size, so that crops need to be told apart."""
    return not (preprocess.crop_mode == "squash" and preprocess.crop_pct == 1)


def write_crop(graph: GraphWriter, images: str, preprocess: Preprocess) -> str:
    """Return the name of uint8 [B, 3, H, W], the resized and cropped `images`, uint8 [B, height, width, 3].

    Rows are filtered first, then columns, each rounded to 8 bits, by the weights of Pillow. Where `crops` says so the
    graph reads the bool input `crop`: when false, the images are taken to be crops already.
    Raises UsageError for a crop_pct above 1, whose border Pillow fills with black.
    """
    size = preprocess.input_size[1:]
    if preprocess.crop_pct > 1:
        raise UsageError(f"crop_pct {preprocess.crop_pct} leaves a border around the image: export with at most 1.")
    full = _resized(graph, images, preprocess)
    if crops(preprocess):
        graph.named(CROP_INPUT, True, np.bool_)
        full = graph.add("Where", CROP_INPUT, full, graph.constant(size, np.int64))
    batch = graph.add("Shape", images, start=0, end=1)
    sizes = graph.add("Concat", batch, graph.constant([3], np.int64), full, axis=0)
    mode = _MODES[preprocess.interpolation]
    planes = graph.add("Transpose", images, perm=[0, 3, 1, 2])
    # exclude_outside: weights that fall outside the image are dropped and the rest rescaled, as Pillow does.
    filters: dict[str, Any] = {"antialias": 1, "exclude_outside": 1, "cubic_coeff_a": _PILLOW_CUBIC}
    resized = graph.add("Resize", planes, "", "", sizes, mode=mode, **filters)
    if not crops(preprocess):
        return resized
    wanted = graph.constant(size, np.int64)
    surplus = graph.add("Cast", graph.add("Sub", full, wanted), to=1)
    half = graph.add("Mul", surplus, graph.constant(0.5, np.float32))
    start = graph.add("Cast", graph.add("Round", half), to=7)  # both round halves to even
    return graph.add("Slice", resized, start, graph.add("Add", start, wanted), graph.constant([2, 3], np.int64))


def _resized(graph: GraphWriter, images: str, preprocess: Preprocess) -> str:
    """Return the name of int64 [2], (height, width) after the resize."""
    edge = resize_edge(preprocess)
    _, height, width = preprocess.input_size
    if preprocess.crop_mode == "squash":
        return graph.constant([edge, int(width / preprocess.crop_pct)], np.int64)
    if height != width:
        raise UsageError(f"A centre crop is square, not {(height, width)}; use crop_mode 'squash'.")
    own = graph.add("Shape", images, start=1, end=3)
    shorter = graph.add("ReduceMin", own, keepdims=1)
    return graph.add("Div", graph.add("Mul", own, graph.constant(edge, np.int64)), shorter)


def write_normalisation(graph: GraphWriter, crop: str, preprocess: Preprocess, output: str) -> None:
    """Write float32 [B, 3, H, W] to `output`, in the same two float32 steps as `miil21k.data.transforms.normalise`."""
    mean, std = np.asarray(preprocess.mean, np.float64), np.asarray(preprocess.std, np.float64)
    scale = graph.constant((1 / (255 * std)).astype(np.float32).reshape(1, 3, 1, 1), np.float32)
    pixels = graph.add("Cast", crop, to=1)
    if not mean.any():
        graph.add("Mul", pixels, scale, output=output)
        return
    shift = graph.constant((mean / std).astype(np.float32).reshape(1, 3, 1, 1), np.float32)
    graph.add("Sub", graph.add("Mul", pixels, scale), shift, output=output)
