"""Mixup and cutmix: as timm draws them, a ratio for each batch, or as BiT does, one for all batches of an update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["Mixing", "Mixture"]


class Dice(Protocol):
    """What draws: NumPy's global generator (the module `np.random`), or one of its own."""

    def random(self) -> float:
        """Return a number in [0, 1)."""

    def beta(self, a: float, b: float) -> float:
        """Return a number of that Beta distribution."""


class Mixture(NamedTuple):
    """How batches are mixed: share is what an image keeps of itself, 1 for no mixing; cutmix: by a box."""

    share: float = 1.0
    cutmix: bool = False


@dataclass(frozen=True)
class Mixing:
    """Draws mixup (`mixup` > 0), cutmix (`cutmix` > 0) or one of both, with probability `prob`.

    mixup, cutmix: the parameter of the symmetric Beta distribution of the ratio. switch: share of cutmix when both
    are on. Called with a batch, it mixes it with itself reversed, as timm does, by draws from NumPy's global generator,
    which the training loop seeds for every update.
    """

    mixup: float
    cutmix: float
    prob: float
    switch: float

    def draw(self, source: Dice) -> Mixture:
        """Return how the next batch, or all batches of an update, are mixed."""
        if not (self.mixup or self.cutmix) or source.random() >= self.prob:
            return Mixture()
        cutmix = bool(self.cutmix) and (not self.mixup or source.random() < self.switch)
        alpha = self.cutmix if cutmix else self.mixup
        return Mixture(float(source.beta(alpha, alpha)), cutmix)

    def mix(self, images: torch.Tensor, other: torch.Tensor, drawn: Mixture) -> tuple[torch.Tensor, float]:
        """Return the mixed images [B, 3, H, W] and the share that each keeps; the image of `other` has the rest.

        other: [B, 3, H, W]. The box of cutmix is drawn anew, and cut at the border, which leaves images a little more.
        """
        from timm.data.mixup import cutmix_bbox_and_lam

        if drawn.share == 1:
            return images, 1.0
        if not drawn.cutmix:
            return images * drawn.share + other * (1 - drawn.share), drawn.share
        (top, bottom, left, right), share = cutmix_bbox_and_lam(images.shape, drawn.share, correct_lam=True)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        return mixed, float(share)

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Return the mixed images [B, 3, H, W] and the share that image i keeps; image B-1-i has the rest."""
        return self.mix(images, images.flip(0), self.draw(np.random))
