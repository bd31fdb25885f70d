"""Logits for every image of a view, batch by batch; decoding and counting run while the next batch is prepared."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.data.loader import evaluation_loader
from miil21k.data.transforms import normalise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from miil21k.backends.base import Backend
    from miil21k.data.loader import Unreadable
    from miil21k.validate.views import View
    from miil21k.zoo.schema import Preprocess

__all__ = ["Inference", "Scored"]


class Scored(NamedTuple):
    """One batch: logits float32 [B, C] in the view's space, labels int32 [B], indices int64 [B] into its images."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int32]
    indices: NDArray[np.int64]


@dataclass
class Inference:
    """Runs a backend over a view. Afterwards `unreadable` lists what was left out, and the seconds where they went."""

    backend: Backend
    preprocess: Preprocess
    view: View
    batch_size: int = 32
    workers: int = 0
    unreadable: list[Unreadable] = field(default_factory=list)
    forward_seconds: float = 0.0
    waiting_seconds: float = 0.0

    def __iter__(self) -> Iterator[Scored]:
        loader = evaluation_loader(self.view.images, self.preprocess, self.batch_size, self.workers)
        began = time.perf_counter()
        for batch in loader:
            self.unreadable.extend(batch.unreadable)
            self.waiting_seconds += time.perf_counter() - began
            if batch.labels.numel():
                began = time.perf_counter()
                pixels = batch.images.numpy().transpose(0, 2, 3, 1)
                images = pixels if self.backend.normalises else normalise(pixels, self.preprocess)
                logits = self.backend.run(images).logits
                self.forward_seconds += time.perf_counter() - began
                if self.view.columns is not None:
                    logits = logits[:, self.view.columns]
                yield Scored(logits, batch.labels.numpy().astype(np.int32), batch.indices.numpy())
            began = time.perf_counter()
