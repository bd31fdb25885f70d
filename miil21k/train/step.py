"""One optimizer update: batches in, gradients of the mean loss over all images of all processes, weights changed."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from miil21k.data.augment import mix_seed, seeded
from miil21k.errors import Miil21kError, UsageError
from miil21k.train.mixing import Mixing, Mixture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miil21k.data.loader import Batch
    from miil21k.train.objective import Objective
    from miil21k.train.processes import Processes
    from miil21k.train.recipe import Recipe
    from miil21k.train.state import Trained
    from miil21k.train.teacher_memory import TeacherMemory
    from miil21k.zoo.schema import Preprocess

__all__ = ["PRECISION", "LossTally", "UpdateStep", "normalised"]

PRECISION = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}


def normalised(images: torch.Tensor, preprocess: Preprocess, channels_last: bool = False) -> torch.Tensor:
    """Return uint8 images [B, 3, H, W] as float32, (x / 255 - mean) / std, on their device."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    pixels = images.to(torch.float32, memory_format=layout)
    mean = torch.tensor(preprocess.mean).mul_(255).view(1, 3, 1, 1).to(images.device, non_blocking=True)
    scale = torch.tensor(preprocess.std).mul_(255).reciprocal_().view(1, 3, 1, 1).to(images.device, non_blocking=True)
    return pixels.sub_(mean).mul_(scale)


@dataclass
class LossTally:
    """Sums losses on the device, so that no update waits for it; `collect` brings the sums to the host.

    Remembers the first update whose loss was not finite.
    """

    device: torch.device
    _loss: torch.Tensor = field(init=False)
    _images: int = field(init=False, default=0)
    _bad: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._loss = torch.zeros((), device=self.device)
        self._bad = torch.full((), -1, dtype=torch.int64, device=self.device)
        self._images = 0

    def add(self, loss: torch.Tensor, images: int, update: int) -> None:
        """Add the mean `loss` of `images` images, seen in update number `update`."""
        loss = loss.detach().float()
        bad = ~torch.isfinite(loss) & (self._bad < 0)
        self._bad = torch.where(bad, torch.full_like(self._bad, update), self._bad)
        self._loss = self._loss + loss * images
        self._images += images

    def mean(self) -> float:
        """Return the mean loss of this process since the last `collect`, which it waits for; nan without images."""
        return float(self._loss) / self._images if self._images else math.nan

    def collect(self, processes: Processes) -> tuple[float, int]:
        """Return (sum of losses, number of images) over all processes since the last call.

        Raises Miil21kError naming the update at which a loss was NaN or infinite, in every process alike.
        """
        bad = [first for first in processes.gather(int(self._bad)) if first >= 0]
        if bad:
            raise Miil21kError(
                f"The loss became NaN or infinite at update {min(bad)}; nothing was saved after it. "
                "Start again, with --overwrite where something was saved before, and a lower --lr, a clip_grad, or "
                "--precision bf16 or fp32."
            )
        loss, images = processes.sum([float(self._loss), self._images])
        self._clear()
        return loss, int(images)


class UpdateStep:
    """Makes optimizer updates of a model with an objective; calling it makes one.

    frozen: modules that stay in eval mode. memory: of the objective's teacher. The gradient is that of the mean loss
    over every image of the update, whatever the share of each batch and process, also when unreadable images made some
    batches smaller. A batch that is left with one image is skipped where batch norm is trained. Raises UsageError when
    every batch would be.
    """

    def __init__(
        self,
        trained: Trained,
        objective: Objective,
        recipe: Recipe,
        preprocess: Preprocess,
        processes: Processes,
        frozen: tuple[nn.Module, ...] = (),
        memory: TeacherMemory | None = None,
    ) -> None:
        self.trained, self.objective, self.recipe = trained, objective, recipe
        self.processes, self.frozen, self.memory = processes, frozen, memory
        self.device = next(trained.model.parameters()).device
        self.tally = LossTally(self.device)
        self.smallest = self._smallest_batch()
        self.parameters = [p for p in trained.model.parameters() if p.requires_grad]
        self.mixing = Mixing(recipe.mixup, recipe.cutmix, recipe.mixup_prob, recipe.mixup_switch)
        self.preprocess = preprocess
        self.erase = self._random_erasing()
        self.model = self._wrap()

    def _random_erasing(self) -> nn.Module | None:
        if not self.recipe.random_erase:
            return None
        from timm.data.random_erasing import RandomErasing

        erasing: nn.Module = RandomErasing(self.recipe.random_erase, mode="pixel", device=self.device)
        return erasing

    def _smallest_batch(self) -> int:
        """Return how many images a batch needs: two where batch norm is trained, which has no spread over one."""
        asleep = {module for part in self.frozen for module in part.modules()}
        norms = [m for m in self.trained.model.modules() if isinstance(m, _BatchNorm) and m not in asleep]
        alone = not (self.recipe.sync_bn and self.processes.world > 1)
        if norms and alone and self.recipe.batch_size < 2:
            raise UsageError(
                "Batch norm needs at least two images in a batch: raise --batch-size, freeze the backbone, or choose a "
                "model without batch norm."
            )
        return 2 if norms and alone else 1

    def _wrap(self) -> nn.Module:
        model = self.trained.model
        if self.recipe.compile:
            model = torch.compile(model)  # type: ignore[assignment]
        if self.processes.world > 1:
            model = DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None)
        return model

    def train_mode(self) -> None:
        """Put the model into training mode, its frozen parts into eval mode."""
        self.trained.model.train()
        for module in self.frozen:
            module.eval()

    def __call__(self, batches: Sequence[Batch], epoch: int, update: int) -> None:
        """Make update number `update` (from 0) from the `batches` that this process has for it."""
        weights = self._shares([len(batch.labels) for batch in batches])
        numbered = zip(range(len(batches)), batches, weights, strict=True)
        used = [(part, batch, weight) for part, batch, weight in numbered if weight > 0]
        if not used:
            return
        drawn = None
        if self.recipe.mixup_draw == "update":  # the same in every process
            drawn = self.mixing.draw(np.random.default_rng(mix_seed(self.recipe.seed, epoch, update, 3)))
        seed = mix_seed(self.recipe.seed, epoch, update, self.processes.rank, 2)
        with seeded(seed):
            if self.device.type == "cuda":
                torch.cuda.manual_seed(seed)
            for part, batch, weight in used:
                if self.memory is not None:
                    self.memory.at(epoch, update, part, batch.indices)
                with nullcontext() if part == used[-1][0] else self._no_sync():
                    self._backward(batch, weight, update, drawn)
            self._apply(update)

    def _shares(self, counts: list[int]) -> list[float]:
        """Return what to multiply each batch's mean loss by; 0 for a batch that is too small in some process."""
        world = self.processes.world
        totals, empty = counts, [count < self.smallest for count in counts]
        if world > 1:
            sums = torch.tensor([*counts, *empty], dtype=torch.int64)
            dist.all_reduce(sums)
            totals, empty = sums[: len(counts)].tolist(), sums[len(counts) :].tolist()
        total = sum(images for images, none in zip(totals, empty, strict=True) if not none)
        return [0.0 if none else count * world / total for count, none in zip(counts, empty, strict=True)]

    def _no_sync(self) -> AbstractContextManager[Any]:
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) else nullcontext()

    def _backward(self, batch: Batch, weight: float, update: int, drawn: Mixture | None) -> None:
        images = normalised(batch.images.to(self.device, non_blocking=True), self.preprocess, self.recipe.channels_last)
        labels = batch.labels.to(self.device, non_blocking=True)
        objective = self.objective
        if batch.weights is not None:
            objective = replace(objective, weights=batch.weights.to(self.device, non_blocking=True))
        if self.erase is not None:
            images = self.erase(images)
        partners: tuple[torch.Tensor, ...] = ()
        if drawn is None:
            images, share = self.mixing(images)
        else:
            order = torch.randperm(len(labels)).to(self.device)
            images, share = self.mixing.mix(images, images[order], drawn)
            partners = (order,)
        dtype = PRECISION[self.recipe.precision]
        with torch.autocast(self.device.type, dtype) if dtype else nullcontext():
            loss = objective(self.model, images, labels, share, *partners)["loss"]
        self.tally.add(loss, len(labels), update)
        scaled = loss * weight
        (self.trained.scaler.scale(scaled) if self.trained.scaler else scaled).backward()  # type: ignore[no-untyped-call]

    def _apply(self, update: int) -> None:
        optimizer, scaler = self.trained.optimizer, self.trained.scaler
        if self.recipe.clip_grad:
            if scaler:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_grad)
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if self.trained.ema is not None:
            self.trained.ema.update(self.trained.model, step=update)
