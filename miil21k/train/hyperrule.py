"""BiT-HyperRule: hyper-parameters for fine-tuning from nothing but the number of images and their size."""

from __future__ import annotations

from typing import Literal, get_args

from miil21k.errors import UsageError
from miil21k.train.recipe import Recipe

__all__ = ["Variant", "bit_hyperrule"]

Variant = Literal["repository", "paper"]
SMALL, LARGE = 20_000, 500_000  # images: fewer are few, and from the second on they are many
LITTLE = 96 * 96  # pixels: smaller pictures are enlarged to less
BATCH = 512
# Variant -> the parts of the run after which the rate drops to a tenth, for few images and for more.
_DROPS = {"repository": ((0.4, 0.6, 0.8), (0.3, 0.6, 0.9)), "paper": ((0.3, 0.6, 0.9), (0.3, 0.6, 0.9))}
# Variant -> resize and crop of pictures that are not little.
_SIZES = {"repository": (512, 480), "paper": (448, 384)}
_WARMUP = {"repository": (100, 500), "paper": (0, 0)}  # updates, for few images and for more


def bit_hyperrule(
    images: int,
    height: int,
    width: int,
    *,
    variant: Variant = "repository",
    flip: bool = True,
    crop: bool = True,
) -> Recipe:
    """Return the recipe that BiT uses for a training set of `images` pictures of this size.

    height, width: of the pictures as they are, in pixels. variant: the numbers of the published code (`repository`), or
    those that the paper prints; the paper's ResNet-152x4 takes those of the repository in size. flip, crop: off where
    mirroring or cutting changes the label (orientation, location, counting). The batch of 512 is one process's: split
    it by `accumulate` where memory is short, or take 128 with lr 0.001, the repository's way out.
    Raises UsageError for a set without images, a picture without pixels, or another variant.
    Source: Kolesnikov et al. 2020, section 3.3; google-research/big_transfer, `bit_hyperrule.py`. Its SGD is plain
    momentum, not Nesterov, without weight decay; the head starts from zeros; evaluation squashes to the crop size. One
    mixup share is drawn per update, which the batches of `accumulate` have in common, and pairs by a permutation.
    """
    if variant not in get_args(Variant):
        raise UsageError(f"No variant '{variant}' of BiT-HyperRule; choose {' or '.join(get_args(Variant))}.")
    if images < 1 or min(height, width) < 1:
        raise UsageError(f"BiT-HyperRule needs images with pixels, not {images} of {width} x {height}.")
    few = images < SMALL
    steps = 500 if few else 10_000 if images < LARGE else 20_000
    resize, edge = (160, 128) if height * width < LITTLE else _SIZES[variant]
    return Recipe(
        "cross_entropy",
        source=f"BiT-HyperRule ({variant}): {images:,} images of {width} x {height}",
        expected="stated for BiT's own weights alone",
        steps=steps,
        warmup_steps=_WARMUP[variant][not few],
        warmup_lr=0.0,
        # A drop acts after its step: the rate of step 200 is still the old one.
        milestones=tuple(round(share * steps) + 1 for share in _DROPS[variant][not few]),
        schedule="multistep",
        decay_rate=0.1,
        optimizer="momentum",
        lr=0.003,
        momentum=0.9,
        weight_decay=0.0,
        batch_size=BATCH,
        sampling="replacement" if images < BATCH else "shuffle",
        zero_head=True,
        image_size=edge,
        crop="resized" if crop else "squash",
        resize=resize if crop else 0,
        hflip=0.5 if flip else 0.0,
        policy="",
        cutout=0.0,
        mixup=0.0 if few else 0.1,
        mixup_draw="update",
    )
