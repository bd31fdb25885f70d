"""A model on a division of the data: features to learn from and to be judged by, and what a method makes of them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.train.job import digest_of
from miil21k.transfer.dataset import taken
from miil21k.transfer.features import Extractor
from miil21k.transfer.job import PART, Job
from miil21k.transfer.methods import method
from miil21k.transfer.probes import PROBES
from miil21k.transfer.split import hold_out, near_copies, same_bytes
from miil21k.transfer.strength import fit_probe

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from miil21k.benchmark.contestants import Contestant
    from miil21k.runtime.resolve import Make
    from miil21k.transfer.dataset import TransferData
    from miil21k.transfer.features import Features
    from miil21k.transfer.options import TransferOptions

__all__ = ["Bench", "facts_of"]


def _silent(_: object) -> None:
    return None


def facts_of(settings: TransferOptions, data: TransferData) -> dict[str, Any]:
    """Return what rows that may be compared have in common: the images, their division and their size."""
    return {
        "images": digest_of(data.images),
        "test": None if data.test is None else digest_of(data.test),
        "seed": settings.seed,
        "holdout": settings.holdout,
        "img_size": settings.img_size,
    }


@dataclass(frozen=True, eq=False)
class Bench:
    """One model on one division of the data: the features to draw from and those to be judged by.

    groups: int64 [n], the same for images of the pool that are copies of each other. share: of the images that are
    learnt from, what a search judges its trials on.
    """

    data: TransferData
    settings: TransferOptions
    folder: Path
    extractor: Extractor
    pool: Features
    judged: Features
    groups: NDArray[np.int64]
    share: float = PART

    @classmethod
    def of(
        cls,
        contestant: Contestant,
        settings: TransferOptions,
        data: TransferData,
        folder: Path,
        make: Make | None,
        *,
        share: float = PART,
    ) -> Bench:
        """Return the bench of a contestant; its features are computed, or taken from the shelf in `folder`.

        Images are held out by their bytes alone, without a test part: which pictures are nearly the same depends on
        the model, and all models are judged on the same ones.
        """
        settings = replace(settings, model=contestant.model, checkpoint=contestant.checkpoint, output=folder)
        extractor = Extractor(contestant.model, settings, images=len(data.images), make=make)
        shelf = folder / "features"
        features = extractor.features(data.images, shelf=shelf)
        groups = near_copies(features.values, features.digests)
        if data.test is not None:
            judged = extractor.features(data.test, shelf=shelf)
            return cls(data, settings, folder, extractor, features, judged, groups, share)
        out = hold_out(features.labels, settings.holdout, settings.seed, same_bytes(features.digests))
        return cls(data, settings, folder, extractor, features.take(~out), features.take(out), groups[~out], share)

    def answers(
        self, name: str, chosen: NDArray[np.int64], run: str, seed: int, judged: Features | None = None
    ) -> tuple[NDArray[np.float32], float | None]:
        """Return the logits of the images to be judged by, float32 [m, C], and the strength where a probe chose one.

        name: a probe (`PROBES`) or a method that trains (`METHODS`). chosen: which of the pool are learnt from. run:
        names the training in `folder`, which is gone when it is judged. judged: others of the pool, in the place of
        the images to be judged by.
        """
        few, groups = self.pool.take(chosen), self.groups[chosen]
        target = self.judged if judged is None else judged
        if name in PROBES:
            classes = self.data.space.num_classes
            fitted = fit_probe(PROBES[name], few.values, few.labels, classes, seed=seed, groups=groups)
            return fitted.classifier.logits(target.values), fitted.strength
        job = self.job(chosen, run, seed)
        learnt = method(name).run(job, name)
        source = self.data.images if self.data.test is None or judged is not None else self.data.test
        logits = learnt.logits(taken(source, target.indices), target, job.options)
        shutil.rmtree(job.folder, ignore_errors=True)  # what hundreds of runs leave would fill the disk
        return logits, None

    def job(self, chosen: NDArray[np.int64], run: str, seed: int) -> Job:
        """Return the job of learning from these images of the pool, in a folder of its own."""
        at = self.folder / "training" / f"{self.extractor.weights[:8]}-{run}"
        few = self.pool.take(chosen)
        options = replace(self.settings, seed=seed, output=at)
        images, groups = taken(self.data.images, few.indices), self.groups[chosen]
        return Job(options, self.data.space, images, few, groups, self.extractor, at, _silent, _silent, self.share)

    @property
    def everything(self) -> NDArray[np.int64]:
        """All places of the pool."""
        return np.arange(len(self.pool))
