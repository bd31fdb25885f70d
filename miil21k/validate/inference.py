"""Logits for every image of a view, batch by batch; no torch unless the backend is torch."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from miil21k.data.crops import read_crops
from miil21k.data.threads import in_order
from miil21k.data.transforms import decode_edge, normalise
from miil21k.runtime.options import threads_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from miil21k.data.crops import Unreadable
    from miil21k.data.datasets import LabelledImages
    from miil21k.runtime.base import Backend
    from miil21k.validate.options import MeasureOptions
    from miil21k.validate.views import View
    from miil21k.zoo.schema import Preprocess

__all__ = ["Inference", "Scored"]


class Scored(NamedTuple):
    """One batch: logits float32 [B, C] of the head's space, labels int32 [B] of the view's, indices int64 [B]."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int32]
    indices: NDArray[np.int64]


@dataclass
class Inference:
    """Runs a backend over a view, in order. Afterwards `unreadable` lists what was left out.

    options: how images are read, by a resizer that is decided on, and by how many workers, which each read, crop and
    run batches, so that reading and inference overlap. forward_seconds: spent in the network, summed over threads.
    """

    backend: Backend
    preprocess: Preprocess
    view: View
    options: MeasureOptions
    unreadable: list[Unreadable] = field(default_factory=list)
    forward_seconds: float = 0.0

    def __iter__(self) -> Iterator[Scored]:
        options = self.options
        images = self.view.images.read_as(exif=options.exif, max_pixels=options.max_pixels)
        if options.decode == "reduced":
            images = images.decoded_near(decode_edge(self.preprocess))
        size, workers = options.batch_size, options.workers
        batches = (range(start, min(start + size, len(images))) for start in range(0, len(images), size))
        with self.backend.threads(threads_of(options), max(1, workers)):
            for scored, unreadable, seconds in in_order(
                lambda batch: self._score(images, batch), batches, workers, "miil21k-validate"
            ):
                self.unreadable.extend(unreadable)
                self.forward_seconds += seconds
                if scored is not None:
                    yield scored

    def _score(self, images: LabelledImages, batch: range) -> tuple[Scored | None, tuple[Unreadable, ...], float]:
        """Return the logits of one batch, None when none of it can be read, what cannot, and seconds in the network."""
        read = read_crops(images, batch, self.preprocess, self.options.resizer)
        if not read.labels.size:
            return None, read.unreadable, 0.0
        pixels = read.crops if self.backend.normalises else normalise(read.crops, self.preprocess)
        began = time.perf_counter()
        logits = self.backend.run(pixels).logits
        seconds = time.perf_counter() - began
        return Scored(logits, read.labels, read.indices), read.unreadable, seconds
