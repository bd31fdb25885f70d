"""TResNet's blurs pad with reflected edges; the same network with zeros there, and what that changes."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.layers import BlurPool2d

from miil21k.data.images import load_image
from miil21k.data.transforms import crop_image, normalise
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from miil21k.decode.decoder import Decoder
    from miil21k.runtime.loading import Loaded

__all__ = ["padding_difference", "with_zero_padding"]

_NOISE = 4


def with_zero_padding(loaded: Loaded) -> Loaded:
    """Return a copy that pads with zeros wherever `loaded` reflects edges; its name says so.

    It is another network with the same weights: its answers differ (`padding_difference`).
    Raises UsageError when nothing is reflected.
    """
    model = copy.deepcopy(loaded.model)
    blurs = [module for module in model.modules() if isinstance(module, BlurPool2d) and module.pad_mode == "reflect"]
    if not blurs:
        raise UsageError(f"'{loaded.name}' reflects no edges: export it without --padding.")
    for blur in blurs:
        blur.pad_mode = "constant"
    return dataclasses.replace(loaded, model=model, name=f"{loaded.name} (zero padding)")


def padding_difference(
    original: Loaded, variant: Loaded, decoder: Decoder, photos: Sequence[Path]
) -> dict[str, dict[str, Any]]:
    """Return how the answers of `variant` differ from those of `original`, on noise and on photographs.

    For each: images, how many; logits, the largest difference relative to their range; same_top1, same_path and
    same_hedge, in how many images the best class, the whole path and the hedged node are the same.
    """
    _, height, width = original.preprocess.input_size
    noise = np.random.default_rng(0).integers(0, 256, (_NOISE, height, width, 3), np.uint8)
    kinds = {"noise": noise}
    if photos:
        kinds["photographs"] = np.stack([crop_image(load_image(photo), original.preprocess) for photo in photos])
    found = {}
    for kind, crops in kinds.items():
        pixels = torch.from_numpy(normalise(crops, original.preprocess))
        logits = [_logits(loaded.model, pixels) for loaded in (original, variant)]
        ours, theirs = (decoder.read(x) for x in logits)
        found[kind] = {
            "images": len(crops),
            "logits": float(np.abs(logits[1] - logits[0]).max() / max(float(np.ptp(logits[0])), 1e-30)),
            "same_top1": int((ours.classes.argmax(axis=1) == theirs.classes.argmax(axis=1)).sum()),
            "same_path": int((ours.path.nodes == theirs.path.nodes).all(axis=1).sum()),
            "same_hedge": int((ours.hedged.node == theirs.hedged.node).sum()),
        }
    return found


def _logits(model: nn.Module, pixels: torch.Tensor) -> NDArray[np.float32]:
    model.eval()
    with torch.inference_mode():
        return np.concatenate([model(pixels[i : i + 8]).numpy() for i in range(0, len(pixels), 8)])
