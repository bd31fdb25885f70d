"""What a method of transfer is given and gives, and by which recipes it trains."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.train.hyperrule import bit_hyperrule
from miil21k.train.recipe import Recipe
from miil21k.transfer.dataset import taken
from miil21k.transfer.network import network_logits, write_probe
from miil21k.transfer.probes import PROBES, Classifier, LinearClassifier
from miil21k.transfer.strength import Fitted, fit_probe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from miil21k.data.datasets import LabelledImages
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.train.loop import Report
    from miil21k.transfer.features import Extractor, Features
    from miil21k.transfer.options import TransferOptions

__all__ = [
    "PART",
    "Job",
    "Learnt",
    "epochs_of",
    "finetune_recipe",
    "fitted_probe",
    "hyperrule_recipe",
    "rule_seconds",
    "start_of",
]

PART = 0.25  # of the training images: what methods are compared on
EPOCHS = 30  # of finetune
BATCH = 32


@dataclass(frozen=True, eq=False)
class Job:
    """What every method is given.

    images, features: of the training images, row by row. groups: copies of a picture have the same number. folder: of
    the whole transfer. say: told in sentences; report: told where a training stands.
    """

    options: TransferOptions
    space: LabelSpace
    images: LabelledImages
    features: Features
    groups: NDArray[np.int64]
    extractor: Extractor
    folder: Path
    say: Callable[[str], None]
    report: Callable[[Report], None]
    share: float = PART

    def part(self, rows: NDArray[np.bool_]) -> Job:
        """Return the job of learning from these images alone."""
        return replace(
            self, images=taken(self.images, rows), features=self.features.take(rows), groups=self.groups[rows]
        )


@dataclass(frozen=True, eq=False)
class Learnt:
    """What a method gives: a classifier on frozen features, or the checkpoint of a whole network.

    details: what the report says about it.
    """

    classifier: Classifier | None = None
    checkpoint: Path | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def logits(self, images: LabelledImages, features: Features, options: TransferOptions) -> NDArray[np.float32]:
        """Return float32 [n, C] for images that can all be read, whose features these are."""
        if self.classifier is not None:
            return self.classifier.logits(features.values)
        assert self.checkpoint is not None
        return network_logits(self.checkpoint, images, options)


def fitted_probe(job: Job, name: str) -> Fitted:
    """Return the probe called `name`, its strength chosen on the images of the job."""
    found = job.features
    options = job.options
    return fit_probe(
        PROBES[name], found.values, found.labels, job.space.num_classes, seed=options.seed, groups=job.groups
    )


def finetune_recipe(job: Job, epochs: int, **changes: Any) -> Recipe:
    """Return how a network that already holds the probe is trained on: gently, with its head ahead of it.

    Beginning from the probe keeps the features from being distorted by a random head (Kumar et al. 2022, 'Fine-Tuning
    can Distort Pretrained Features').
    """
    pre = job.extractor.preprocess
    images = len(job.images)
    options = job.options
    every = len(np.unique(job.features.labels)) == job.space.num_classes
    settings: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": max(2, min(BATCH, images // 4)),
        "keep_norms": True,
        "label_smoothing": 0.1 if every else 0.0,  # a class without images has a logit far below all others
        "optimizer": "adamw",
        "lr": 1e-4,
        "weight_decay": 0.05,
        "layer_decay": 0.8,
        "schedule": "cosine",
        "warmup_epochs": epochs // 5,
        "warmup_lr": 1e-6,
        "image_size": pre.input_size[1],
        "interpolation": pre.interpolation,
        "eval_crop_pct": pre.crop_pct,
        "crop": "random",
        "scale": (0.35, 1.0) if options.cut else (0.999, 1.0),
        "hflip": 0.5 if options.flip else 0.0,
        "policy": "",
        "cutout": 0.0,
        "precision": "bf16",
        "seed": options.seed,
    }
    return Recipe("cross_entropy", source="miil21k transfer: from the probe on", **{**settings, **changes})


def epochs_of(job: Job) -> int:
    """Return the epochs of fine-tuning: those that were asked for, or the usual ones."""
    return job.options.epochs or EPOCHS


def start_of(job: Job, name: str) -> str:
    """Return the checkpoint that fine-tuning starts from: the network with the probe of the job's images."""
    path = job.folder / "runs" / name / "start.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        classifier = fitted_probe(job, "logistic").classifier
        assert isinstance(classifier, LinearClassifier)
        write_probe(path, classifier, job.options, job.space, job.extractor)
    return str(path)


def hyperrule_recipe(job: Job) -> Recipe:
    """Return BiT-HyperRule for the images of the job, its batches cut into passes of at most 32.

    BiT normalises by groups, which keeps no statistics: a network with batch norms keeps its own. An image size that
    the user names takes the place of the rule's. A smaller batch takes a learning rate that falls as its square root
    (Hoffer et al. 2017, 'Train longer, generalize better'): the updates stay as many, so that one in proportion to the
    batch would end long before the head has left its zeros.
    """
    options = job.options
    sizes = [job.images.load(row).size for row in range(0, len(job.images), max(1, len(job.images) // 16))]
    width, height = (round(float(np.median(edges))) for edges in zip(*sizes, strict=True))
    rule = bit_hyperrule(len(job.images), height, width, flip=options.flip, crop=options.cut)
    edge = options.img_size or rule.image_size
    passes = -(-options.rule_batch // BATCH)
    share = math.sqrt(options.rule_batch / rule.batch_size)
    cuts = [f"batches of {options.rule_batch}, rate x {share:.3g}"] if share < 1 else []
    cuts += [f"images of {edge} for {rule.image_size} pixels"] if edge != rule.image_size else []
    return replace(
        rule,
        source=f"{rule.source}{', cut: ' if cuts else ''}{'; '.join(cuts)}",
        image_size=edge,
        resize=round(rule.resize * edge / rule.image_size),
        batch_size=options.rule_batch // passes,
        accumulate=passes,
        lr=rule.lr * share,
        keep_norms=True,
        seed=options.seed,
        precision="bf16",
    )


def rule_seconds(job: Job, recipe: Recipe, rate: float) -> float:
    """Return how long the rule takes; rate: images a second of a training step at the size of the features."""
    edge = job.extractor.preprocess.input_size[1]
    images = recipe.steps * recipe.batch_size * recipe.accumulate
    return images / rate * (recipe.image_size / edge) ** 2
