"""What a prepared data set depends on: every option that changes a byte of it, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from miil21k.data.options import MAX_PIXELS
from miil21k.errors import UsageError
from miil21k.prepare.geometry import LONGEST_SIDE

__all__ = ["Codec", "DatasetFormat", "ManifestFormat", "PrepareOptions", "Resize", "ResizeMode"]

ResizeMode = Literal["squish", "short-edge", "keep"]
Resize = Literal["antialiased", "published"]
DatasetFormat = Literal["folders", "webdataset"]
Codec = Literal["simplejpeg", "pillow"]
ManifestFormat = Literal["csv", "parquet"]
PUBLISHED_SIZE = {"squish": 224, "short-edge": 256, "keep": 0}
JPEG_QUALITY = 95  # OpenCV's default, which the published script takes


@dataclass(frozen=True)
class PrepareOptions:
    """How a source becomes a data set; the defaults are ImageNet-21K-P as published, but antialiased.

    min_images: a class is kept when it has strictly more. val_per_class: so many images of every kept class, the
    first by bytewise file name, become validation. size: pixels of both sides (squish) or of the short one; None is
    the published 224 or 256. An image whose longer side is below `size` is copied byte for byte. mode `keep` copies
    everything. resize: `antialiased` (triangle filter over all source pixels) or `published` (bilinear between the
    four nearest, which aliases). codec: `simplejpeg` (with cykooz-resizer, or with OpenCV for `published`) or
    `pillow`; their bytes differ. manifest: the file format of the list of all images.
    shard_size: images per shard; seed: their order (webdataset). max_pixels: a larger image is a failure.
    Raises UsageError for a value outside its range.
    """

    min_images: int = 500
    val_per_class: int = 50
    mode: ResizeMode = "squish"
    size: int | None = None
    resize: Resize = "antialiased"
    format: DatasetFormat = "folders"
    codec: Codec = "pillow"
    manifest: ManifestFormat = "csv"
    quality: int = JPEG_QUALITY
    shard_size: int = 5000
    seed: int = 0
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        choices = {
            "mode": ResizeMode,
            "resize": Resize,
            "format": DatasetFormat,
            "codec": Codec,
            "manifest": ManifestFormat,
        }
        for name, kinds in choices.items():
            if getattr(self, name) not in get_args(kinds):
                raise UsageError(f"No {name} '{getattr(self, name)}': choose one of {', '.join(get_args(kinds))}.")
        bounds = {"min_images": 0, "val_per_class": 0, "shard_size": 1, "seed": 0, "max_pixels": 1, "quality": 1}
        for name, lowest in bounds.items():
            if getattr(self, name) < lowest:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be {lowest} or more.")
        if self.quality > 100:
            raise UsageError(f"quality is {self.quality}, but must be 100 or less.")
        if self.size is not None and not 1 <= self.size <= LONGEST_SIDE:
            raise UsageError(f"size is {self.size}, but must be from 1 to {LONGEST_SIDE:,}.")
        if self.min_images < self.val_per_class:
            raise UsageError(
                f"A class of {self.min_images + 1} images would be kept, and {self.val_per_class} of them taken for "
                "validation: let min_images be val_per_class or more, so that every kept class can be trained."
            )

    @property
    def target_size(self) -> int:
        """Pixels that resized images get; 0 for mode `keep`."""
        return PUBLISHED_SIZE[self.mode] if self.size is None or self.mode == "keep" else self.size

    @property
    def max_bytes(self) -> int:
        """A larger file is not read: `max_pixels` take less, with 16 bits in four channels and much beside them."""
        return 8 * self.max_pixels + (1 << 24)
