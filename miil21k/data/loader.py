"""Which image goes into which batch of which process, and the loaders that deliver the batches.

A training batch is a list of `Draw`s. The order of an epoch depends on (seed, epoch) alone and the augmentation of
an image on (seed, epoch, position), so neither the number of loader workers nor a resume changes what is seen, and
W processes with batch B see in every step what one process sees with batch W * B.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from miil21k.data.augment import mix_seed
from miil21k.data.crops import Unreadable, read_crop
from miil21k.data.transforms import decode_edge
from miil21k.errors import ImageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from miil21k.data.augment import Augmentation
    from miil21k.data.datasets import LabelledImages
    from miil21k.zoo.schema import Preprocess

__all__ = ["Batch", "Draw", "EpochSampler", "evaluation_loader", "training_loader"]


class Draw(NamedTuple):
    """One image to deliver: its place in the epoch (over all processes) and which one of the data set it is."""

    epoch: int
    position: int
    image: int


class Batch(NamedTuple):
    """images: uint8 [B, 3, H, W]. labels: int64 [B], or multi-hot float32 [B, C]. indices: int64 [B]. unreadable:
    images that are missing from it. weights: float32 [B], how much each counts, 1 on average over the data set.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    unreadable: tuple[Unreadable, ...]
    weights: torch.Tensor | None = None


class EpochSampler:
    """Batches of `Draw`s for process `rank` of `world`; iterating yields those of `epoch` from batch `start` on.

    Every process gets equally many batches; images that do not fill a batch of every process are left out of the
    epoch. repeats: every image is drawn that often, its copies side by side in the global order (repeated
    augmentation), while the length of the epoch stays. alone: every image is drawn by itself, from all of them, and an
    epoch has at least so many batches; 0: every image is drawn once. Raises UsageError when the images fill no batch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        repeats: int = 1,
        alone: int = 0,
    ) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world, self.repeats = rank, world, repeats
        self.epoch = 0
        self.start = 0
        self.alone = alone > 0
        self.num_batches = max(alone, size // (batch_size * world))
        if not self.num_batches:
            raise UsageError(
                f"{size} images do not fill one batch of {batch_size} on {world} process(es): lower --batch-size."
            )

    def __len__(self) -> int:
        return self.num_batches - self.start

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return int64, the image drawn at each position of `epoch`, over all processes."""
        generator = np.random.default_rng(mix_seed(self.seed, epoch))
        if self.alone:
            return generator.integers(0, self.size, self.num_batches * self.batch_size * self.world)
        order = generator.permutation(self.size)
        return np.repeat(order, self.repeats)[: self.size] if self.repeats > 1 else order

    def __iter__(self) -> Iterator[list[Draw]]:
        order = self.order(self.epoch)
        share = self.batch_size * self.world
        for batch in range(self.start, self.num_batches):
            # Neighbours go to different processes, so that copies of one image do.
            positions = range(batch * share + self.rank, (batch + 1) * share, self.world)
            yield [Draw(self.epoch, position, int(order[position])) for position in positions]


class _TrainingSet(Dataset["tuple[NDArray[np.uint8], int] | Unreadable"]):
    def __init__(self, images: LabelledImages, augmentation: Augmentation, seed: int) -> None:
        self.images, self.augmentation, self.seed = images, augmentation, seed

    def __getitem__(self, draw: Draw) -> tuple[NDArray[np.uint8], int] | Unreadable:
        try:
            picture = self.images.load(draw.image)
        except ImageError as error:
            return Unreadable(self.images.name(draw.image), str(error))
        array = self.augmentation(picture.image, mix_seed(self.seed, draw.epoch, draw.position, 1), picture.box)
        return array, draw.image


class _EvaluationSet(Dataset["tuple[NDArray[np.uint8], int] | Unreadable"]):
    def __init__(self, images: LabelledImages, preprocess: Preprocess) -> None:
        self.images, self.preprocess = images.decoded_near(decode_edge(preprocess)), preprocess

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int] | Unreadable:
        crop = read_crop(self.images, index, self.preprocess)
        if isinstance(crop, Unreadable):
            return crop
        return np.ascontiguousarray(crop.transpose(2, 0, 1)), index


class _Collate:
    """Makes a batch of samples, with the labels and weights of their images."""

    def __init__(self, images: LabelledImages) -> None:
        self.images = images
        weights = images.weights
        self.weights = None if weights is None else np.asarray(weights / weights.mean(dtype=np.float64), np.float32)

    def __call__(self, samples: list[tuple[NDArray[np.uint8], int] | Unreadable]) -> Batch:
        good = [sample for sample in samples if not isinstance(sample, Unreadable)]
        bad = tuple(sample for sample in samples if isinstance(sample, Unreadable))
        arrays = np.stack([array for array, _ in good]) if good else np.empty((0, 3, 1, 1), np.uint8)
        indices = [index for _, index in good]
        return Batch(
            torch.from_numpy(arrays),
            torch.from_numpy(self.images.targets(indices)),
            torch.tensor(indices, dtype=torch.int64),
            bad,
            None if self.weights is None else torch.from_numpy(self.weights[indices]),
        )


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)


def training_loader(
    images: LabelledImages, augmentation: Augmentation, sampler: EpochSampler, workers: int, pin_memory: bool = False
) -> DataLoader[Batch]:
    """Return a loader of augmented batches (uint8); set `sampler.epoch` and `sampler.start` before iterating it.

    An image that cannot be read is left out of its batch and listed in `Batch.unreadable`; nothing replaces it.
    """
    return DataLoader(
        _TrainingSet(images, augmentation, sampler.seed),  # type: ignore[arg-type]
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_Collate(images),
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread,
        generator=torch.Generator(),
    )


def evaluation_loader(
    images: LabelledImages,
    preprocess: Preprocess,
    batch_size: int,
    workers: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> DataLoader[Batch]:
    """Return a loader over every image once, in order; process `shard[0]` of `shard[1]` gets every shard[1]-th one.

    The batches are uint8, resized and cropped but not normalised. No image comes twice to make the shares equal.
    """
    rank, world = shard
    return DataLoader(
        _EvaluationSet(images, preprocess),  # type: ignore[arg-type]
        batch_size=batch_size,
        sampler=range(rank, len(images), world),
        num_workers=workers,
        collate_fn=_Collate(images),
        worker_init_fn=_one_thread,
        generator=torch.Generator(),
    )
