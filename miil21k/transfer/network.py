"""Networks with the user's classes: a probe's head folded into the backbone, fine-tuned ones, and their logits."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from miil21k.data.threads import in_order
from miil21k.data.transforms import normalise
from miil21k.environment import available_cpus
from miil21k.errors import UsageError
from miil21k.runtime.loading import load_model
from miil21k.runtime.options import LoadOptions
from miil21k.runtime.torch_backend import choose_device
from miil21k.train.job import create_network
from miil21k.train.launch import train_model
from miil21k.train.options import TrainRequest
from miil21k.train.recipe import Recipe
from miil21k.train.state import LAST, save_weights
from miil21k.transfer.features import Extractor, FeatureOptions
from miil21k.transfer.probes import LEAST_SHARE, VOTE_TEMPERATURE, LinearClassifier, NeighbourClassifier

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from miil21k.data.datasets import LabelledImages
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.runtime.loading import Loaded
    from miil21k.train.loop import Report
    from miil21k.transfer.options import TransferOptions
    from miil21k.zoo.checkpoint_card import TrainedCard

__all__ = ["fine_tune", "network_logits", "read_network", "training_rate", "write_probe"]

# Of logits, relative to their range: folding a classifier moves them by rounding.
TOLERANCE = {"fp32": 2e-3, "fp16": 2e-2, "bf16": 5e-2, "int8": 0.2}


def write_probe(
    path: Path, classifier: LinearClassifier, options: TransferOptions, space: LabelSpace, extractor: Extractor
) -> None:
    """Write the network whose head is `classifier` as a checkpoint that says what it is.

    Raises UsageError for a network whose classifier is not one linear layer behind its features.
    """
    model, card = _built(options, space, extractor)
    head = model.get_classifier()  # type: ignore[operator]
    if not isinstance(head, (nn.Linear, nn.Conv2d)) or head.bias is None:
        raise UsageError(f"The head of '{extractor.name}' is no linear layer, so that no probe fits into it.")
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(classifier.weight).reshape(head.weight.shape))
        head.bias.copy_(torch.from_numpy(classifier.bias))
    _require_equal(model, classifier, extractor)
    save_weights(path, model.state_dict(), card.to_metadata())


def _built(options: TransferOptions, space: LabelSpace, extractor: Extractor) -> tuple[nn.Module, TrainedCard]:
    """Return the pretrained network with a new head, and a card that reads images as the features were read."""
    pre = extractor.preprocess
    recipe = Recipe(
        "cross_entropy",
        source="a linear head on frozen features",
        crop="random",  # which leaves the evaluation its centre crop
        image_size=pre.input_size[1],
        interpolation=pre.interpolation,
        eval_crop_pct=pre.crop_pct,
        seed=options.seed,
    )
    request = TrainRequest(
        options.data,
        options.model,
        "probe",
        recipe,
        _folder(options),
        checkpoint=options.checkpoint,
        revision=options.revision,
        cache_dir=options.cache_dir,
        offline=options.offline,
    )
    model, card, _ = create_network(request, space)
    return model.eval(), replace(card, preprocess=pre._replace(source=f"features of {extractor.name}"))


def _folder(options: TransferOptions) -> Path:
    assert options.output is not None
    return options.output


def _require_equal(model: nn.Module, classifier: LinearClassifier, extractor: Extractor) -> None:
    """Raise UsageError unless the network computes what the classifier does on noise."""
    size = extractor.preprocess.input_size
    crops = np.random.default_rng(0).integers(0, 256, (2, *size[1:], 3), np.uint8)
    expected = classifier.logits(extractor.embed(crops))
    with torch.inference_mode():
        found = model(torch.from_numpy(normalise(crops, extractor.preprocess))).numpy()
    seen = expected > expected.min() if np.ptp(classifier.bias) > 1e3 else np.ones_like(expected, np.bool_)
    off = float(np.abs(found - expected)[seen].max() / max(float(np.ptp(expected[seen])), 1e-6))
    if off > TOLERANCE[extractor.backend.dtype]:
        raise UsageError(
            f"A probe does not fit into the head of '{extractor.name}': its logits differ by {off:.1%} of their range, "
            "since the network does more with its features than one linear layer. Use --method finetune."
        )


def fine_tune(  # noqa: PLR0913 - what is trained, how, from where and to where, and who is told
    images: LabelledImages,
    recipe: Recipe,
    start: str,
    folder: Path,
    options: TransferOptions,
    *,
    name: str = "finetune",
    val: LabelledImages | None = None,
    report: Callable[[Report], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Train on `images` by `recipe` from `start`, a model's name or a checkpoint; return the checkpoint it ends with.

    A run that is in `folder` is gone on with, so that one which is finished costs nothing. val: judged on after each
    epoch. Raises what `train_model` does.
    """
    own = start == options.model
    cpus = available_cpus()
    request = TrainRequest(
        options.data,
        start,
        name,
        recipe,
        folder,
        checkpoint=options.checkpoint if own else None,
        revision=options.revision if own else None,
        cache_dir=options.cache_dir,
        offline=options.offline,
        device=options.device,
        workers=0 if cpus <= 2 else min(cpus - 1, 8),
        log_every=5,
        checkpoint_every=20,
        images=images,
        val_images=val,
    )
    train_model(request, report or _nothing, say or _nothing, resume=True)
    return folder / LAST


def _nothing(_: object) -> None:
    return None


def training_rate(options: TransferOptions, space: LabelSpace, extractor: Extractor, size: int, batch: int) -> float:
    """Return how many images of this size a training step gets through in a second here, from two steps on noise."""
    model, _ = _built(options, space, extractor)
    device = choose_device(options.device)
    model.to(device).train()
    images = torch.randn(batch, 3, size, size, device=device)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        model(images).square().mean().backward()
        float(next(model.parameters()).grad.sum())  # type: ignore[union-attr] # waits for the device
        seconds.append(time.perf_counter() - began)
    return batch / min(seconds)


def read_network(path: Path, options: TransferOptions) -> Loaded:
    """Return the network of a checkpoint of ours."""
    return load_model(str(path), LoadOptions(device=options.device))


def network_logits(path: Path, images: LabelledImages, options: TransferOptions) -> NDArray[np.float32]:
    """Return float32 [n, C], the logits of a checkpoint for images that can all be read."""
    runner = Extractor(str(path), FeatureOptions(device=options.device, batch_size=options.batch_size))
    size = options.batch_size or 16
    batches = [range(start, min(start + size, len(images))) for start in range(0, len(images), size)]

    def run(rows: range) -> NDArray[np.float32]:
        crops = [runner.crop(images.source.read(int(images.rows[i])), images.name(i)) for i in rows]
        return runner.logits(np.stack(crops))

    with runner.backend.threads(available_cpus()):
        return np.concatenate(list(in_order(run, batches, 0, "miil21k-transfer")))


class Votes(nn.Module):
    """A `NeighbourClassifier` as the head of a network: features [B, D] -> logits [B, C]."""

    def __init__(self, classifier: NeighbourClassifier) -> None:
        super().__init__()
        self.neighbours, self.temperature = classifier.neighbours, classifier.temperature
        self.sharpness, self.least = 1 / VOTE_TEMPERATURE, LEAST_SHARE
        self.register_buffer("mean", torch.from_numpy(classifier.mean))
        self.register_buffer("axes", torch.from_numpy(classifier.axes) if len(classifier.axes) else None)
        self.register_buffer("bank", torch.from_numpy(classifier.bank))
        self.register_buffer("classes", torch.eye(classifier.classes)[torch.from_numpy(classifier.labels).long()])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logarithms of the shares of the votes."""
        centred = features - self.mean  # type: ignore[operator]
        alike = centred if self.axes is None else centred - (centred @ self.axes.T) @ self.axes  # type: ignore[operator]
        cosines = nn.functional.normalize(alike, dim=1) @ self.bank.T  # type: ignore[operator]
        least = cosines.topk(self.neighbours, dim=1).values[:, -1:]
        votes = torch.where(cosines >= least, ((cosines - 1) * self.sharpness).exp(), torch.zeros_like(cosines))
        shares = (votes @ self.classes) / votes.sum(1, keepdim=True)  # type: ignore[operator]
        return (shares + self.least).log() / self.temperature


def with_votes(
    classifier: NeighbourClassifier, options: TransferOptions, space: LabelSpace, extractor: Extractor
) -> Any:
    """Return the pretrained network with a head that lets the nearest images vote, and its card."""
    model, card = _built(options, space, extractor)
    name = str(model.pretrained_cfg["classifier"])  # type: ignore[index]
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, Votes(classifier))
    return model, card
