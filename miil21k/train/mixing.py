"""Mixup and cutmix of a batch with itself reversed, with one ratio per batch, as timm draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["Mixing"]


@dataclass(frozen=True)
class Mixing:
    """Draws mixup (`mixup` > 0), cutmix (`cutmix` > 0) or one of both, with probability `prob` per batch.

    mixup, cutmix: the parameter of the symmetric Beta distribution of the ratio. switch: share of cutmix when both
    are on. The draws come from NumPy's global generator, which the training loop seeds for every update.
    """

    mixup: float
    cutmix: float
    prob: float
    switch: float

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Return the mixed images [B, 3, H, W] and the share that image i keeps; image B-1-i has the rest."""
        from timm.data.mixup import cutmix_bbox_and_lam

        draw = np.random
        if not (self.mixup or self.cutmix) or draw.rand() >= self.prob:
            return images, 1.0
        use_cutmix = bool(self.cutmix) and (not self.mixup or draw.rand() < self.switch)
        alpha = self.cutmix if use_cutmix else self.mixup
        share = float(draw.beta(alpha, alpha))
        other = images.flip(0)
        if not use_cutmix:
            return images * share + other * (1 - share), share
        (top, bottom, left, right), share = cutmix_bbox_and_lam(images.shape, share, correct_lam=True)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        return mixed, float(share)
