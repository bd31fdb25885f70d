"""The few numbers that a run watches after every epoch, counted on the device and summed exactly over processes."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from miil21k.data.loader import evaluation_loader
from miil21k.errors import UsageError
from miil21k.train.level_order import head_order, level_table
from miil21k.train.step import PRECISION, normalised

if TYPE_CHECKING:
    from torch import nn

    from miil21k.data.datasets import LabelledImages
    from miil21k.decode.levels import Deepest
    from miil21k.hierarchy.tree import Tree
    from miil21k.train.level_order import LevelTable
    from miil21k.train.processes import Processes
    from miil21k.train.recipe import Recipe
    from miil21k.zoo.schema import HeadKind, Preprocess

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
    classes on): the class has the largest logit, or one of the five largest. All in [0, 1]. `miil21k validate` gives
    every other metric.
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
        levels = levels_of(self.images.space.tree, self.recipe.deepest)
        levels = levels.to(device) if levels is not None else None
        in_levels = levels is not None and head_order(model.get_classifier()) == "level"  # type: ignore[operator]
        share = (self.processes.rank, self.processes.world)
        hits = torch.zeros(6, dtype=torch.int64, device=device)
        dtype = PRECISION[self.recipe.precision]
        for batch in evaluation_loader(self.images, self.preprocess, self.recipe.batch_size, self.workers, share):
            if not batch.labels.numel():
                continue
            images = normalised(batch.images.to(device), self.preprocess, self.recipe.channels_last)
            with torch.inference_mode(), torch.autocast(device.type, dtype) if dtype else nullcontext():
                logits = model(images).float()
            hits += _hits(logits, batch.labels.to(device), levels, in_levels)
        return self._fractions(hits)

    def _fractions(self, hits: torch.Tensor) -> dict[str, float]:
        seen, first, five, own, right, reached = self.processes.sum(hits.tolist())
        if not seen:
            raise UsageError("None of the validation images can be read.")
        found = {"semantic_top1": right / reached} if reached else {}
        if self.head == "level_softmax" and reached:
            return {**found, "own_level_top1": own / seen}
        found["top1"] = first / seen
        if self.images.space.num_classes > 5:
            found["top5"] = five / seen
        return found


def _hits(logits: torch.Tensor, labels: torch.Tensor, levels: LevelTable | None, in_levels: bool) -> torch.Tensor:
    """Return int64 [6]: images; hits of the first logit, of the first five, of the own level, of all levels; levels.

    in_levels: the columns of the logits stand in level order.
    """
    own = levels.column[labels] if levels is not None and in_levels else labels
    found = logits.topk(min(5, logits.shape[1]), dim=1).indices == own[:, None]
    counts = [torch.full_like(own[:1], labels.numel()).sum(), found[:, 0].sum(), found.any(1).sum()]
    right, reached, deepest = torch.zeros_like(counts[0]), torch.zeros_like(counts[0]), torch.zeros_like(found[:, 0])
    if levels is not None:
        z = logits if in_levels else logits.index_select(1, levels.order)
        targets = levels.targets[labels]
        for level, (start, stop) in enumerate(levels.bounds):
            target = targets[:, level]
            hit = z[:, start:stop].argmax(1) + start == target  # the target of an unreached level is -1
            deepest = torch.where(target >= 0, hit, deepest)
            right += hit.sum()
            reached += (target >= 0).sum()
    return torch.stack([*counts, deepest.sum(), right, reached])
