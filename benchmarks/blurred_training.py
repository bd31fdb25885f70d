"""One small network, trained by each scheme on the same blurred labels, and what its features are worth elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import nn

from miil21k.train.distillation import SemanticKD
from miil21k.train.level_order import ancestor_table, level_table
from miil21k.train.objective import create_teacher
from miil21k.train.objectives import CrossEntropy, MultiLabel, SemanticSoftmax

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from miil21k.decode.heads import HeadKind
    from miil21k.hierarchy.tree import Tree
    from miil21k.train.objective import Objective

STATS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SMOOTHING = 0.2  # as published, for semantic softmax and for single-label training


@dataclass(frozen=True)
class Scheme:
    """A way to train: what the logits mean afterwards, and the weight of distillation (0: no teacher)."""

    title: str
    head: HeadKind
    kd_weight: float = 0.0


SCHEMES = {
    "single": Scheme("single-label", "leaf_softmax"),
    "multi_bce": Scheme("multi-label, BCE", "sigmoid"),
    "multi_asymmetric": Scheme("multi-label, ASL", "sigmoid"),
    "semantic": Scheme("semantic softmax", "level_softmax"),
    "semantic_kd": Scheme("semantic softmax + KD, weight 1", "level_softmax", 1.0),
    "semantic_kd10": Scheme("semantic softmax + KD, weight 10", "level_softmax", 10.0),
}


class Network(nn.Module):
    """Four convolutions and a linear head, `width` channels in the first and 8 `width` features; bfloat16 inside."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(3, width, stride=2),
            *_block(width, 2 * width),
            nn.MaxPool2d(2),
            *_block(2 * width, 4 * width),
            nn.MaxPool2d(2),
            *_block(4 * width, 8 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(8 * width, num_classes)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return float32 [B, 8 width]."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.features(images.contiguous(memory_format=torch.channels_last)).float()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(images))


def _block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def objective_of(name: str, tree: Tree, teacher: nn.Module | None) -> Objective:
    """Return the objective of a scheme. Every level is trained: the deepest one of CIFAR-10 holds deer and horse."""
    scheme = SCHEMES[name]
    if name == "single":
        return CrossEntropy(SMOOTHING)
    if name.startswith("multi_"):
        return MultiLabel(ancestor_table(tree), name.removeprefix("multi_"))
    levels = level_table(tree, deepest="keep")
    if not scheme.kd_weight:
        return SemanticSoftmax(levels, SMOOTHING)
    if teacher is None:
        raise ValueError(f"{name} needs a teacher")
    return SemanticKD(levels, create_teacher(teacher, STATS, STATS), scheme.kd_weight, SMOOTHING)


def train(
    network: Network, objective: Objective, images: NDArray[np.uint8], labels: NDArray[np.int64], epochs: int, seed: int
) -> None:
    """Train in place: AdamW, one learning-rate cycle, flips and shifts, batches of 256 in an order set by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    pixels, targets, batch = torch.from_numpy(images), torch.from_numpy(labels), min(256, len(images))
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    network.train()
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for rows in order.split(batch):
            if len(rows) < batch:
                continue
            loss = objective(network, augmented(normalised(pixels[rows]), generator), targets[rows])["loss"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """Return float32 images of uint8 ones, with the one mean and deviation of `STATS`."""
    return (pixels.float() / 255 - STATS[0][0]) / STATS[1][0]


def augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the batch with every other image mirrored, by chance, and all moved by up to three pixels."""
    flipped = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
    y, x = torch.randint(0, 7, (2,), generator=generator).tolist()
    size = images.shape[-1]
    return F.pad(images, (3, 3, 3, 3), mode="replicate")[..., y : y + size, x : x + size]


@torch.no_grad()
def outputs(network: Network, images: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (features [n, F], logits [n, C]), float32, in eval mode."""
    network.eval()
    features = torch.cat([network.embed(normalised(part)) for part in torch.from_numpy(images).split(500)])
    return features, network.head(features)


def linear_probe(
    features: tuple[torch.Tensor, torch.Tensor], labels: tuple[NDArray[np.int64], NDArray[np.int64]], decay: float
) -> float:
    """Return the test accuracy of a linear classifier on standardised features; arguments are (train, test).

    decay: of the squared weights. Full-batch L-BFGS, so the answer depends on no seed.
    """
    mean, deviation = features[0].mean(0), features[0].std(0) + 1e-3
    known, unseen = ((part - mean) / deviation for part in features)
    targets, truth = (torch.from_numpy(part) for part in labels)
    classifier = nn.Linear(known.shape[1], int(targets.max()) + 1)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    optimizer = torch.optim.LBFGS(classifier.parameters(), max_iter=80, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(classifier(known), targets) + decay * classifier.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return float((classifier(unseen).argmax(1) == truth).double().mean())
