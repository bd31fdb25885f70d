"""Training augmentation: PIL image in, uint8 array out, every random draw decided by the seed that is passed in.

The published pipeline of MIIL (squash, CutoutPIL, RandAugment) is restated here; everything else is timm's.
A seed per image makes an epoch the same for any number of loader workers, and lets a killed run continue exactly.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

__all__ = ["Augmentation", "cutout", "miil_rand_augment", "mix_seed", "seeded"]

_GREY = (128, 128, 128)
_CUTOUT_FILL = (125, 122, 113)
_BINS = 10
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def mix_seed(*parts: int) -> int:
    """Return a 63-bit seed that depends on every one of `parts` (non-negative integers) and on their order."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch (CPU) inside the block, and put them back after it.

    timm's transforms draw from the global generators; this is how their draws become a function of `seed`.
    """
    import torch

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 (timm draws from it)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def cutout(image: Image.Image, side: float, rng: random.Random) -> Image.Image:
    """Return `image` with one box of `side` times its sides filled with one random colour.

    The centre is uniform over the pixels and the box is clipped at the borders (MIIL's CutoutPIL).
    """
    width, height = image.size
    x, y = rng.randrange(width), rng.randrange(height)
    half_w, half_h = int(side * width / 2), int(side * height / 2)
    box = (max(0, x - half_w), max(0, y - half_h), min(width, x + half_w), min(height, y + half_h))
    image = image.copy()
    colour = (rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255))
    ImageDraw.Draw(image).rectangle(box, fill=colour)
    return image


def miil_rand_augment(image: Image.Image, rng: random.Random) -> Image.Image:
    """Return `image` after two draws of (operation, magnitude), each applied with probability 0.5.

    Fifteen operations, magnitudes 1..9 of 10: the RandAugment of MIIL's pipeline (the package randaugment 1.0.2),
    which is not the N/M form of the paper. No operation, one or two are applied; one on average.
    """
    for _ in range(2):
        operation = rng.choice(_OPERATIONS)
        magnitude = rng.randrange(1, _BINS) / (_BINS - 1)
        if rng.random() < 0.5:
            image = operation(image, magnitude, rng)
    return image


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC, fillcolor=_GREY
    )


def _sign(rng: random.Random) -> int:
    return rng.choice((-1, 1))


def _shear_x(image: Image.Image, m: float, rng: random.Random) -> Image.Image:
    return _affine(image, (1, 0.3 * m * _sign(rng), 0, 0, 1, 0))


def _shear_y(image: Image.Image, m: float, rng: random.Random) -> Image.Image:
    return _affine(image, (1, 0, 0, 0.3 * m * _sign(rng), 1, 0))


def _translate_x(image: Image.Image, m: float, rng: random.Random) -> Image.Image:
    return _affine(image, (1, 0, 150 / 331 * m * image.width * _sign(rng), 0, 1, 0))


def _translate_y(image: Image.Image, m: float, rng: random.Random) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, 150 / 331 * m * image.height * _sign(rng)))


def _rotate(image: Image.Image, m: float, rng: random.Random) -> Image.Image:  # noqa: ARG001 (always one way)
    return image.rotate(30 * m, fillcolor=_GREY)


def _enhance(kind: Callable[[Image.Image], Any]) -> Callable[[Image.Image, float, random.Random], Image.Image]:
    def operation(image: Image.Image, m: float, rng: random.Random) -> Image.Image:
        changed: Image.Image = kind(image).enhance(1 + 0.9 * m * _sign(rng))
        return changed

    return operation


def _posterize(image: Image.Image, m: float, rng: random.Random) -> Image.Image:  # noqa: ARG001
    return ImageOps.posterize(image, round(8 - 4 * m))


def _solarize(image: Image.Image, m: float, rng: random.Random) -> Image.Image:  # noqa: ARG001
    return ImageOps.solarize(image, round(256 * (1 - m)))


def _small_cutout(image: Image.Image, m: float, rng: random.Random) -> Image.Image:
    half = 20 * m / 2
    x, y = rng.random() * image.width, rng.random() * image.height
    box = (max(0, x - half), max(0, y - half), min(image.width, x + half), min(image.height, y + half))
    image = image.copy()
    ImageDraw.Draw(image).rectangle(box, fill=_CUTOUT_FILL)
    return image


def _plain(change: Callable[[Image.Image], Image.Image]) -> Callable[[Image.Image, float, random.Random], Image.Image]:
    return lambda image, _m, _rng: change(image)


_OPERATIONS: tuple[Callable[[Image.Image, float, random.Random], Image.Image], ...] = (
    _plain(ImageOps.invert),
    _plain(ImageOps.autocontrast),
    _plain(ImageOps.equalize),
    _enhance(ImageEnhance.Sharpness),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Brightness),
    _small_cutout,
    _posterize,
    _solarize,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
    _rotate,
)


def _operations(stage: Any) -> Iterator[Any]:
    """Yield timm's operations in a stage: those of RandAugment and AugMix, or of the pairs of AutoAugment."""
    for transform in stage.transforms:
        yield from getattr(transform, "ops", ())
        for several in getattr(transform, "policy", ()):
            yield from several


def _at_least_one_bit(bits: Callable[[float, Any], tuple[int]], level: float, hparams: Any) -> tuple[int]:
    """Return timm's bits to keep, but never 0: Pillow 12 paints that picture black, Pillow 13 refuses it."""
    return (max(1, *bits(level, hparams)),)


@dataclass(frozen=True)
class Augmentation:
    """Turns a PIL image and a seed into uint8 [3, size, size].

    size: side of the square in pixels. mean: of the model's preprocessing, in [0, 1]; timm's geometric operations
    fill with it. The other fields are those of `miil21k.train.recipe.Recipe`. Random erasing, mixup and cutmix act
    on whole batches and belong to the training step.
    """

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    crop: Literal["squash", "random", "resized"] = "squash"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.0
    color_jitter: float = 0.0
    policy: str = "miil"
    cutout: float = 0.5
    resize: int = 0

    @cached_property
    def _stages(self) -> tuple[Callable[[Image.Image], Image.Image], Callable[[Image.Image], Image.Image]]:
        """timm's two stages: random crop and flip; policy and colour jitter."""
        from timm.data import create_transform

        crop, colour, _ = create_transform(
            self.size,
            is_training=True,
            separate=True,
            use_prefetcher=True,
            scale=self.scale,
            ratio=self.ratio,
            hflip=self.hflip,
            color_jitter=self.color_jitter or None,
            auto_augment=None if self.policy in ("", "miil") else self.policy,
            interpolation=self.interpolation,
            mean=self.mean,
        )
        for operation in _operations(colour):
            if operation.name.startswith("Posterize"):
                operation.level_fn = partial(_at_least_one_bit, operation.level_fn)
        return crop, colour

    def check(self) -> None:
        """Raise UsageError when timm does not know the policy, before any image is read."""
        try:
            _ = self._stages
        except (AssertionError, KeyError, ValueError, TypeError) as error:
            raise UsageError(
                f"'{self.policy}' is no augmentation policy ({error}): use miil, v0, original, a string like "
                "rand-m7-mstd0.5-inc1, or nothing."
            ) from None

    def __call__(
        self, image: Image.Image, seed: int, box: tuple[float, float, float, float] | None = None
    ) -> NDArray[np.uint8]:
        """Return the augmented image as uint8 [3, size, size]; equal arguments give equal arrays.

        box: of a `Picture` that was decoded at a fraction, for the crop `squash`.
        """
        rng = random.Random(seed)  # noqa: S311 (augmentation, no secret)
        if self.crop == "random":
            with seeded(rng.getrandbits(63)):
                image = self._stages[0](image)
        else:
            side = self.resize or self.size
            image = image.resize((side, side), _FILTERS[self.interpolation], box)
            if side > self.size:
                left, top = (rng.randint(0, side - self.size) for _ in range(2))
                image = image.crop((left, top, left + self.size, top + self.size))
            if rng.random() < self.hflip:
                image = ImageOps.mirror(image)
        if self.cutout:
            image = cutout(image, self.cutout, rng)
        if self.policy == "miil":
            image = miil_rand_augment(image, rng)
        if self.color_jitter or self.policy not in ("", "miil"):
            with seeded(rng.getrandbits(63)):
                image = self._stages[1](image)
        return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))
