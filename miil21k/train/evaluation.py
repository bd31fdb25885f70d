"""The few numbers that a run watches after every epoch, summed exactly over processes."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from miil21k.data.loader import evaluation_loader
from miil21k.errors import UsageError
from miil21k.metrics.accuracy import FlatAccuracy, SemanticAccuracy
from miil21k.metrics.average_precision import AveragePrecision
from miil21k.metrics.sums import count, total
from miil21k.train.level_order import head_order, level_table
from miil21k.train.step import PRECISION, normalised

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from miil21k.data.datasets import LabelledImages
    from miil21k.decode.heads import HeadKind
    from miil21k.decode.levels import Deepest
    from miil21k.hierarchy.tree import Tree
    from miil21k.metrics.sums import Sums
    from miil21k.train.level_order import HeadOrder, LevelTable
    from miil21k.train.processes import Processes
    from miil21k.train.recipe import Recipe
    from miil21k.zoo.schema import Preprocess

__all__ = ["Evaluation", "levels_of"]


def levels_of(tree: Tree, deepest: Deepest) -> LevelTable | None:
    """Return the levels that are trained and counted, None for a tree without a logit for every inner node."""
    try:
        return level_table(tree, deepest=deepest)
    except UsageError:
        return None


@dataclass(frozen=True)
class Evaluation:
    """Counts a model's hits on a validation set; every image counts once, however many processes share the work.

    `semantic_top1`: semantic accuracy over the levels of the recipe, micro over (image, level that its label reaches),
    for trees with a logit for every node. For a level_softmax head, whose logits compare within a level only,
    `own_level_top1`: the share of images whose class wins its own level. For other heads `top1` and `top5` (from six
    classes on): the class has the largest logit, or one of the five largest. For images of several labels `mAP` alone.
    All in [0, 1], images counted by their weights. `miil21k validate` gives every other metric.
    """

    images: LabelledImages
    head: HeadKind
    preprocess: Preprocess
    recipe: Recipe
    processes: Processes
    workers: int = 0

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the fractions for `model`, which must be in eval mode; UsageError when no image can be read."""
        device = next(model.parameters()).device
        order = head_order(model.get_classifier())  # type: ignore[operator]
        named = self.images.named
        counts = _Counts(self.images.space.tree, self.recipe.deepest, device, order) if named is None else _Ranks(named)
        dtype = PRECISION[self.recipe.precision]
        share = (self.processes.rank, self.processes.world)
        for batch in evaluation_loader(self.images, self.preprocess, self.recipe.batch_size, self.workers, share):
            if not len(batch.labels):
                continue
            weights = None if batch.weights is None else batch.weights.numpy()
            images = normalised(batch.images.to(device), self.preprocess, self.recipe.channels_last)
            with torch.inference_mode(), torch.autocast(device.type, dtype) if dtype else nullcontext():
                counts.add(model(images).float(), batch.labels, weights)
        return counts.fractions(self.head, self.processes)


class _Counts:
    """What `miil21k.metrics` counts, from answers and ranks that are taken on the device of the logits."""

    def __init__(self, tree: Tree, deepest: Deepest, device: torch.device, order: HeadOrder) -> None:
        levels = levels_of(tree, deepest)
        self.levels = levels.to(device) if levels is not None else None
        self.order = order
        self.semantic, self.flat = SemanticAccuracy(tree, deepest), FlatAccuracy(tree.num_classes)
        self.images, self.own = 0.0, 0.0  # images seen, and those whose class wins its own level

    def add(self, logits: torch.Tensor, on_host: torch.Tensor, weights: NDArray[np.float32] | None) -> None:
        """Add a batch; logits: float32 [B, C], columns in the head's order; on_host: the labels, int64 [B]."""
        labels = on_host.numpy()
        self.images += count(len(labels), weights)
        if self.levels is not None:
            z = logits if self.order == "level" else logits.index_select(1, self.levels.order)
            columns = [z[:, start:stop].argmax(1) + start for start, stop in self.levels.bounds]
            answers = self.levels.order[torch.stack(columns, dim=1)].cpu().numpy()
            self.semantic.update_answers(answers, labels, weights)
            self.own += float(total((answers == labels[:, None]).any(1), weights))  # a class stands in one level only
        if self.order == "class":
            own = on_host.to(logits.device)[:, None]
            hit = logits.gather(1, own)
            before = torch.arange(logits.shape[1], device=logits.device) < own
            better = ((logits > hit) | ((logits == hit) & before)).sum(1)
            self.flat.update_ranks(better.cpu().numpy(), labels, weights)

    def fractions(self, head: HeadKind, processes: Processes) -> dict[str, float]:
        """Return the fractions over the images of all processes; raises UsageError when there was none."""
        seen, own = processes.sum([self.images, self.own])
        if not seen:
            raise UsageError("None of the validation images can be read.")
        semantic, flat = _of_all(self.semantic, processes)["semantic_top1"], _of_all(self.flat, processes)
        found = {"semantic_top1": semantic} if self.levels is not None and not math.isnan(semantic) else {}
        if head == "level_softmax" and found:
            return {**found, "own_level_top1": own / seen}
        found["top1"] = flat["top1"]
        if self.flat.num_classes > 5:
            found["top5"] = flat["top5"]
        return found


class _Ranks:
    """Scores and targets of the labels `named`, from which their average precision follows."""

    def __init__(self, named: NDArray[np.int32]) -> None:
        self.named = named
        self.precision = AveragePrecision(named.size)

    def add(self, logits: torch.Tensor, on_host: torch.Tensor, weights: NDArray[np.float32] | None) -> None:
        """Add a batch; logits: float32 [B, C] in class order; on_host: multi-hot labels, float32 [B, C]."""
        self.precision.update(logits.cpu().numpy()[:, self.named], on_host.numpy()[:, self.named] > 0, weights)

    def fractions(self, head: HeadKind, processes: Processes) -> dict[str, float]:  # noqa: ARG002
        """Return `mAP` over the images of all processes; raises UsageError when there was none."""
        whole = AveragePrecision(self.named.size)
        for part in processes.gather(self.precision.state_dict()):
            share = AveragePrecision(self.named.size)
            share.load_state_dict(part)
            whole.merge(share)
        if not len(whole.state_dict()["weights"]):
            raise UsageError("None of the validation images can be read.")
        return {"mAP": whole.compute()["mAP"]}


def _of_all(metric: Sums, processes: Processes) -> dict[str, float]:
    parts = processes.gather(metric.state_dict())
    metric.load_state_dict({name: sum(part[name] for part in parts) for name in parts[0]})
    return metric.compute()
