"""What a prepared data set depends on: every option that changes a byte of it, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from miil21k.data.options import MAX_PIXELS, ReadingOptions
from miil21k.errors import UsageError
from miil21k.options import check, described, option, option_again
from miil21k.prepare.geometry import LONGEST_SIDE

__all__ = ["Codec", "DatasetFormat", "ManifestFormat", "PrepareOptions", "Resize", "ResizeMode"]

ResizeMode = Literal["squish", "short-edge", "keep"]
Resize = Literal["antialiased", "published"]
DatasetFormat = Literal["folders", "webdataset"]
Codec = Literal["auto", "simplejpeg", "pillow"]
ManifestFormat = Literal["csv", "parquet"]
PUBLISHED_SIZE = {"squish": 224, "short-edge": 256, "keep": 0}
JPEG_QUALITY = 95  # OpenCV's default, which the published script takes


@described
@dataclass(frozen=True)
class PrepareOptions:
    """How a source becomes a data set; the defaults are ImageNet-21K-P as published, but antialiased.

    Raises UsageError for a value outside its range.
    """

    min_images: int = option(500, "keep classes with strictly more images", metavar="N", least=0)
    val_per_class: int = option(
        50, "images of every kept class for validation, the first by bytewise file name", metavar="N", least=0
    )
    mode: ResizeMode = option(
        "squish",
        "squish: both sides become `size`; short-edge: the short one; keep: nothing changes",
        choices=get_args(ResizeMode),
    )
    size: int | None = option(
        None,
        "an image whose longer side is below it is copied byte for byte (default: 224 for squish, 256 for short-edge)",
        metavar="PIXELS",
        least=1,
        most=LONGEST_SIDE,
    )
    resize: Resize = option(
        "antialiased",
        "antialiased: a triangle filter over all source pixels; published: between the four nearest, which aliases",
        choices=get_args(Resize),
    )
    format: DatasetFormat = option("folders", "class folders, or tar shards", choices=get_args(DatasetFormat))
    manifest: ManifestFormat = option(
        "csv", "format of the list of all images; parquet needs pyarrow", choices=get_args(ManifestFormat)
    )
    shard_size: int = option(5000, "images per shard", metavar="N", least=1)
    seed: int = option(0, "of the order in shards", metavar="N", least=0)
    max_pixels: int = option_again(ReadingOptions, "max_pixels", MAX_PIXELS)
    codec: Codec = option(
        "auto",
        "what decodes, resizes and encodes, each to bytes of its own; auto: simplejpeg where the extra 'prepare' is "
        "installed",
        choices=get_args(Codec),
    )
    quality: int = option(JPEG_QUALITY, "of JPEGs; the published script takes 95", flags=None, least=1, most=100)

    def __post_init__(self) -> None:
        check(self)
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
