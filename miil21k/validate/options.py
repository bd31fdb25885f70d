"""How a model is measured: which network, what computes it, how images are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from miil21k.data.options import ReadingOptions
from miil21k.options import described, option_again
from miil21k.runtime.options import ComputeOptions, LoadOptions

if TYPE_CHECKING:
    from miil21k.data.resizers import ResizerName

__all__ = ["MeasureOptions"]


@described
@dataclass(frozen=True)
class MeasureOptions(ReadingOptions, LoadOptions):
    """How a model is measured: which network, what computes it, how images are read.

    label_space is that of the images, when it is not the head's.
    """

    batch_size: int = option_again(ComputeOptions, "batch_size", 32, "images per forward pass")
    workers: int = option_again(
        ComputeOptions, "workers", 2, "threads that each read, decode and run batches; 0 does all in the calling one"
    )
    resizer: ResizerName = option_again(
        ReadingOptions,
        "resizer",
        "pillow",
        "what resizes: pillow, as published, or cykooz: faster, a grey level or two from it",
    )
