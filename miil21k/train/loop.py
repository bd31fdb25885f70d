"""The only training loop: epochs of updates, evaluation, checkpoints, and an exact way back after a kill."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from miil21k.data.loader import EpochSampler, training_loader
from miil21k.errors import UsageError
from miil21k.train.journal import Journal, read_unreadable
from miil21k.train.level_order import to_class_order
from miil21k.train.optimization import Schedule, batch_norms, create_optimizer, freeze
from miil21k.train.state import (
    AVERAGED,
    BEST,
    LAST,
    STATE,
    Trained,
    TrainProgress,
    load_state,
    save_state,
    save_weights,
)
from miil21k.train.step import UpdateStep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import nn

    from miil21k.data.augment import Augmentation
    from miil21k.data.datasets import LabelledImages
    from miil21k.data.loader import Batch
    from miil21k.train.objective import Objective
    from miil21k.train.processes import Processes
    from miil21k.train.recipe import Recipe
    from miil21k.train.teacher_memory import TeacherMemory
    from miil21k.zoo.schema import Preprocess

__all__ = ["Report", "Run", "TrainJob", "create_sampler"]


@dataclass(frozen=True)
class TrainJob:
    """Everything a run needs.

    model: on its device, with the head of the label space. images: the training set. evaluate: returns fractions by
    name (`semantic_top1`, `top1`, ...) for a model in eval mode, or None without a validation set; metric: the one
    that decides about `best`. metadata: what the checkpoints say about themselves. run_id: names the configuration
    in the state file. checkpoint_every: updates between state files, 0 for none (a validation always writes one).
    log_every: updates between rows of kind `step`. memory: of the objective's teacher, which is told which batch comes.
    """

    recipe: Recipe
    model: nn.Module
    objective: Objective
    images: LabelledImages
    augmentation: Augmentation
    preprocess: Preprocess
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None
    metric: str
    folder: Path
    processes: Processes
    metadata: Mapping[str, str]
    run_id: str
    workers: int = 0
    log_every: int = 50
    checkpoint_every: int = 1000
    memory: TeacherMemory | None = None


@dataclass(frozen=True)
class Report:
    """What the loop says while it works; metrics only at the end of an epoch.

    rate: images per second over all processes since the last report. eta: seconds left at this rate. waiting:
    share of the epoch so far that was spent waiting for data.
    """

    epoch: int
    epochs: int
    update: int
    updates: int
    loss: float
    lr: float
    rate: float
    eta: float
    waiting: float
    metrics: Mapping[str, float] | None = None


def create_sampler(recipe: Recipe, images: int, processes: Processes) -> EpochSampler:
    """Return the batches of a run over so many images; raises UsageError when they do not fill one update."""
    alone = 100 * recipe.accumulate if recipe.sampling == "replacement" else 0
    sampler = EpochSampler(
        images, recipe.batch_size, recipe.seed, processes.rank, processes.world, recipe.repeats, alone
    )
    if sampler.num_batches < recipe.accumulate:
        raise UsageError(
            f"{images} images give {sampler.num_batches} batches, fewer than accumulate={recipe.accumulate}: lower "
            "--batch-size or accumulate."
        )
    return sampler


class Run:
    """A run whose parts are all built and fit together: making one raises whatever can be wrong with the recipe."""

    def __init__(self, job: TrainJob, report: Callable[[Report], None]) -> None:
        recipe, processes = job.recipe, job.processes
        self.job, self.report = job, report
        self.sampler = create_sampler(recipe, len(job.images), processes)
        self.updates_per_epoch = self.sampler.num_batches // recipe.accumulate
        self.updates = recipe.updates(self.updates_per_epoch)
        self.epochs = math.ceil(self.updates / self.updates_per_epoch)
        self.stride = _epochs_between_validations(recipe, self.updates_per_epoch)
        frozen = freeze(job.model, recipe.freeze) if recipe.freeze else ()
        if recipe.keep_norms:
            frozen += batch_norms(job.model)
        self.trained = _make_trained(job.model, recipe)
        # The schedule writes initial rates into the optimizer's groups, which a state file then replaces by equal ones.
        self.schedule = Schedule(self.trained.optimizer, recipe, self.updates_per_epoch)
        self.step = UpdateStep(self.trained, job.objective, recipe, job.preprocess, processes, frozen, job.memory)
        self.loader = training_loader(
            job.images, job.augmentation, self.sampler, job.workers, pin_memory=self.step.device.type == "cuda"
        )
        self.state_path = job.folder / STATE
        self.progress = TrainProgress()
        self.journal: Journal | None = None
        self.unreadable: dict[str, str] = {}
        self._dropped = 0
        self._marked = (time.perf_counter(), 0)
        self._silent = True  # until the first report

    def to_the_end(self) -> TrainProgress:
        """Train from where the state file stands, or from the start, and return where it ended.

        Writes `last`, `best`, the state and the journal. Raises Miil21kError when a loss is NaN or infinite.
        """
        if self.state_path.exists():
            self.progress = load_state(self.state_path, self.trained, self.job.run_id)
        self.unreadable = read_unreadable(self.job.folder)
        self.journal = Journal(self.job.folder, self.progress.updates) if self.job.processes.is_main else None
        try:
            for epoch in range(self.progress.epoch, self.epochs):
                self._train_epoch(epoch)
                if self._validates(epoch):
                    self._end_epoch(epoch)
                else:
                    self._pass_epoch(epoch)
        finally:
            if self.job.memory is not None:
                self.job.memory.flush()
            if self.journal is not None:
                if self._dropped:
                    self.journal.write_unreadable(self.unreadable)
                self.journal.close()
        return self.progress

    def _validates(self, epoch: int) -> bool:
        """Return whether the end of this epoch validates and saves, as the last one does in any case."""
        return (epoch + 1) % self.stride == 0 or epoch + 1 == self.epochs

    def _pass_epoch(self, epoch: int) -> None:
        self.progress = replace(self.progress, epoch=epoch + 1, batch=0)
        every = self.job.checkpoint_every
        if every and self.progress.updates % every == 0:
            self._save_state()

    def _save_state(self) -> None:
        if self.job.processes.is_main:
            save_state(self.state_path, self.trained, self.progress, self.job.run_id)
        self.job.processes.wait()

    def _train_epoch(self, epoch: int) -> None:
        self.step.train_mode()
        batches = self._batches(epoch)
        while self.progress.updates < self.updates:
            began = time.perf_counter()
            group = list(islice(batches, self.job.recipe.accumulate))
            waited = time.perf_counter()
            if len(group) < self.job.recipe.accumulate:
                break
            self._note_unreadable(group)
            lr = self.schedule.set(self.progress.updates)
            self.step(group, epoch, self.progress.updates)
            self.progress.updates += 1
            self.progress.batch += len(group)
            self.progress.data_seconds += waited - began
            self.progress.step_seconds += time.perf_counter() - waited
            self._after_update(epoch, lr)

    def _batches(self, epoch: int) -> Iterator[Batch]:
        self.sampler.epoch, self.sampler.start = epoch, self.progress.batch
        self._marked = (time.perf_counter(), self.progress.batch)
        return iter(self.loader) if len(self.sampler) else iter(())

    def _note_unreadable(self, group: list[Batch]) -> None:
        for batch in group:
            self._dropped += len(batch.unreadable)
            self.unreadable.update((item.name, item.reason) for item in batch.unreadable)

    def _after_update(self, epoch: int, lr: float) -> None:
        done = self.progress.updates
        save = self.job.checkpoint_every and done % self.job.checkpoint_every == 0
        if not save and done % self.job.log_every:
            if self._silent:
                self._tell(epoch, self.step.tally.mean(), lr, logged=False)
            return
        loss = self._collect_loss()
        self._tell(epoch, loss, lr)
        if save and self.progress.batch < self.updates_per_epoch * self.job.recipe.accumulate:
            self._save_state()

    def _collect_loss(self) -> float:
        loss, images = self.step.tally.collect(self.job.processes)
        self.progress.loss_sum += loss
        self.progress.images += images
        dropped = int(self.job.processes.sum([self._dropped])[0])
        self.progress.unreadable += dropped
        self._dropped = 0
        if dropped:
            self._write_unreadable()
        return loss / images if images else math.nan

    def _write_unreadable(self) -> None:
        for share in self.job.processes.gather(self.unreadable):
            self.unreadable.update(share)
        if self.journal is not None:
            self.journal.write_unreadable(self.unreadable)

    def _tell(
        self, epoch: int, loss: float, lr: float, metrics: Mapping[str, float] | None = None, *, logged: bool = True
    ) -> None:
        self._silent = False
        recipe, progress = self.job.recipe, self.progress
        now, (before, batch) = time.perf_counter(), self._marked
        seen = (progress.batch - batch) * recipe.batch_size * self.job.processes.world
        rate = seen / max(now - before, 1e-9)
        total = self.updates
        images = recipe.batch_size * recipe.accumulate * self.job.processes.world
        eta = (total - progress.updates) * images / rate if rate else math.nan
        spent = progress.data_seconds + progress.step_seconds
        waiting = progress.data_seconds / spent if spent else 0.0
        if self.journal is not None and metrics is None and logged:
            row = {"update": progress.updates, "epoch": epoch + 1, "loss": loss, "lr": lr, "images_per_second": rate}
            self.journal.write("step", row)
        self.report(Report(epoch + 1, self.epochs, progress.updates, total, loss, lr, rate, eta, waiting, metrics))

    def _end_epoch(self, epoch: int) -> None:
        self._collect_loss()
        found = self._evaluate()
        self._write_epoch(epoch, found)
        self._save_weights(epoch, found)
        self.progress = replace(
            self.progress,
            epoch=epoch + 1,
            batch=0,
            loss_sum=0.0,
            images=0,
            unreadable=0,
            data_seconds=0.0,
            step_seconds=0.0,
        )
        self._save_state()

    def _evaluate(self) -> _Evaluated:
        model, ema = self.trained.model, self.trained.ema
        averaged = ema.module if ema is not None else None
        for module in filter(None, (model, averaged)):
            self.job.processes.share_buffers(module)
        if self.job.evaluate is None:
            return _Evaluated({}, math.nan, averaged or model)
        metrics = dict(self.job.evaluate(model.eval()))
        value = metrics[self.job.metric]
        if averaged is None:
            return _Evaluated(metrics, value, model)
        of_ema = self.job.evaluate(averaged)
        metrics |= {f"ema_{name}": number for name, number in of_ema.items()}
        if of_ema[self.job.metric] > value:
            return _Evaluated(metrics, of_ema[self.job.metric], averaged)
        return _Evaluated(metrics, value, model)

    def _write_epoch(self, epoch: int, found: _Evaluated) -> None:
        progress = self.progress
        loss = progress.loss_sum / progress.images if progress.images else math.nan
        lr = max(float(group["lr"]) for group in self.trained.optimizer.param_groups)
        self._tell(epoch, loss, lr, found.metrics)
        if self.journal is None:
            return
        spent = progress.data_seconds + progress.step_seconds
        row: dict[str, Any] = {"update": progress.updates, "epoch": epoch + 1, "loss": loss, "lr": lr}
        row |= {f"val_{name}": value for name, value in found.metrics.items()}
        row |= {"images": progress.images, "unreadable": progress.unreadable, "seconds": spent}
        row |= {"waiting_for_data": progress.data_seconds / spent if spent else 0.0}
        self.journal.write("epoch", row)

    def _save_weights(self, epoch: int, found: _Evaluated) -> None:
        job, progress = self.job, self.progress
        is_best = found.value > progress.best or (math.isnan(progress.best) and not math.isnan(found.value))
        if is_best:
            progress.best, progress.best_epoch = found.value, epoch + 1
        if not job.processes.is_main:
            return
        stamp = {**job.metadata, "epoch": str(epoch + 1), "update": str(progress.updates)}
        save_weights(job.folder / LAST, to_class_order(self.trained.model.state_dict()), stamp)
        if self.trained.ema is not None:
            averaged = to_class_order(self.trained.ema.module.state_dict())
            save_weights(job.folder / AVERAGED, averaged, stamp)
        if is_best:
            stamp = {**stamp, job.metric: str(found.value)}
            save_weights(job.folder / BEST, to_class_order(found.model.state_dict()), stamp)


def _epochs_between_validations(recipe: Recipe, per_epoch: int) -> int:
    """Return 1; more where `steps` count and an epoch is shorter than 100 updates and than a tenth of them.

    Few images make an epoch of one update, and to validate after each would take longer than the training.
    """
    return max(1, math.ceil(min(100, recipe.steps / 10) / per_epoch))


class _Evaluated(NamedTuple):
    """Metrics of an epoch (those of the averaged model begin with `ema_`); the deciding value, and whose it is."""

    metrics: dict[str, float]
    value: float
    model: nn.Module


def _make_trained(model: nn.Module, recipe: Recipe) -> Trained:
    ema = None
    if recipe.ema_decay:
        from timm.utils import ModelEmaV3

        ema = ModelEmaV3(model, decay=recipe.ema_decay)
    device = next(model.parameters()).device.type
    scaler = torch.amp.GradScaler(device) if recipe.precision == "fp16" else None
    return Trained(model, create_optimizer(model, recipe), ema, scaler)
