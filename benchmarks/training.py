"""What training and validation cost beside the network: our step against timm's, waiting for data, metrics.

    python benchmarks/training.py [--steps 15] [--threads N] [--workers 1] [--only step|data|validation] [--quick]

Prints Markdown; the data part needs scikit-image. What is compared takes turns within one process, on the same batches
and from the same weights, after a step of each that does not count. CPU time is that of all threads; a busy machine
disturbs it least. Weights are random: speed does not depend on them. timm's step is restated from its `train.py`,
which its package does not carry, without mixup and with `nn.CrossEntropyLoss`; pixels are normalised as by its
prefetching loader.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import timm
import torch
from predict import photographs
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ModelEmaV3
from torch import nn

from miil21k.data.loader import Batch
from miil21k.decode.decoder import Decoder
from miil21k.environment import available_cpus
from miil21k.hierarchy.load import load_label_space
from miil21k.runtime.torch_backend import TorchBackend
from miil21k.train.launch import train_model
from miil21k.train.level_order import level_table, to_level_order
from miil21k.train.objectives import create_objective
from miil21k.train.optimization import Schedule, create_optimizer
from miil21k.train.options import TrainRequest
from miil21k.train.processes import Processes
from miil21k.train.recipes import RECIPES
from miil21k.train.state import Trained
from miil21k.train.step import UpdateStep
from miil21k.validate.inference import Scored
from miil21k.validate.score import Scorecard
from miil21k.zoo.schema import Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.train.loop import Report
    from miil21k.train.recipe import Recipe

ARCH = "mobilenetv3_large_100"
SPACE = "winter21"
UPDATES_PER_EPOCH = 1000
CLASSES = ("n02084071", "n02121620", "n02958343", "n07929519")  # dog, cat, car, coffee
PREPROCESS = Preprocess((3, 224, 224), "bilinear", 1.0, "squash", (0.0,) * 3, (1.0,) * 3, "benchmark")


class Taken(NamedTuple):
    """Seconds of one call, by the clock and of all threads."""

    wall: float
    cpu: float


def take_turns(calls: dict[str, Callable[[int], object]], rounds: int) -> dict[str, list[Taken]]:
    """Return what every round of each call took; each is called with the number of the round, first to warm up."""
    names = list(calls)
    taken: dict[str, list[Taken]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            wall, cpu = time.perf_counter(), time.process_time()
            calls[name](number)
            taken[name].append(Taken(time.perf_counter() - wall, time.process_time() - cpu))
    return {name: rows[1:] for name, rows in taken.items()}


def ratios(of: list[Taken], to: list[Taken]) -> str:
    """Return three cells: the ratios of the least wall and CPU times, and the median of the rounds' CPU ratios."""
    wall = min(t.wall for t in of) / min(t.wall for t in to)
    cpu = min(t.cpu for t in of) / min(t.cpu for t in to)
    median = statistics.median(a.cpu / b.cpu for a, b in zip(of, to, strict=True))
    return f"{wall:.3f} | {cpu:.3f} | {median:.3f}"


def least(taken: list[Taken]) -> str:
    """Return two cells: the least wall and CPU time in ms."""
    return f"{min(t.wall for t in taken) * 1e3:.1f} | {min(t.cpu for t in taken) * 1e3:.1f}"


class TimmStep:
    """The body of timm's `train_one_epoch` for one batch, with cross-entropy."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.model, self.loss_fn = model.train(), nn.CrossEntropyLoss()
        self.optimizer = create_optimizer_v2(
            model, opt=recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum
        )
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            sched=recipe.schedule,
            num_epochs=recipe.epochs,
            step_on_epochs=False,
            updates_per_epoch=UPDATES_PER_EPOCH,
        )
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay) if recipe.ema_decay else None
        self.mean = torch.tensor([x * 255 for x in PREPROCESS.mean]).view(1, 3, 1, 1)
        self.std = torch.tensor([x * 255 for x in PREPROCESS.std]).view(1, 3, 1, 1)
        self.losses = AverageMeter()
        self.updates = 0

    def __call__(self, batch: Batch) -> None:
        images = batch.images.float().sub_(self.mean).div_(self.std)
        loss = self.loss_fn(self.model(images), batch.labels)
        loss.backward()
        self.optimizer.step()
        self.losses.update(loss.item(), len(images))
        self.updates += 1
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.model, step=self.updates)
        self.scheduler.step_update(num_updates=self.updates, metric=self.losses.avg)


class OurStep:
    """What our loop does for one batch: the schedule and the update."""

    def __init__(self, model: nn.Module, recipe: Recipe, space: LabelSpace) -> None:
        head = "class"
        if recipe.objective == "semantic_softmax":
            to_level_order(model.get_classifier(), level_table(space.tree, deepest=recipe.deepest))
            head = "level"
        ema = ModelEmaV3(model, decay=recipe.ema_decay) if recipe.ema_decay else None
        trained = Trained(model, create_optimizer(model, recipe), ema)
        self.schedule = Schedule(trained.optimizer, recipe, UPDATES_PER_EPOCH)
        objective = create_objective(recipe, space.tree, order=head)
        self.step = UpdateStep(trained, objective, recipe, PREPROCESS, Processes())
        self.step.train_mode()
        self.updates = 0

    def __call__(self, batch: Batch) -> None:
        self.schedule.set(self.updates)
        self.step([batch], 0, self.updates)
        self.updates += 1


def network(space: LabelSpace) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(ARCH, num_classes=space.num_classes)


def compare_steps(space: LabelSpace, batch_size: int, steps: int, ema: float) -> None:
    recipe = replace(RECIPES["miil_semantic"], precision="fp32", schedule="cosine", ema_decay=ema)
    plain = replace(recipe, objective="cross_entropy", label_smoothing=0.0)
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(4):
        images = torch.randint(0, 256, (batch_size, 3, 224, 224), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, space.num_classes, (batch_size,), generator=generator)
        batches.append(Batch(images, labels, labels, ()))
    model = network(space)
    contestants = {
        "timm, cross-entropy": TimmStep(copy.deepcopy(model), recipe),
        "ours, cross-entropy": OurStep(copy.deepcopy(model), plain, space),
        "ours, semantic softmax": OurStep(copy.deepcopy(model), recipe, space),
    }
    calls = {
        name: (lambda number, step=step: step(batches[number % len(batches)])) for name, step in contestants.items()
    }
    taken = take_turns(calls, steps)
    print(f"\n### Training step: {ARCH}, {space.num_classes} classes, batch {batch_size}, best of {steps}\n")
    print("| step | wall ms | CPU ms | wall / timm | CPU / timm | CPU / timm, median of rounds | ceiling |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, rows in taken.items():
        ceiling = "1.03" if "semantic" in name else ""
        print(f"| {name} | {least(rows)} | {ratios(rows, taken['timm, cross-entropy'])} | {ceiling} |")


def measure_waiting(batch_size: int, workers: int, updates: int) -> None:
    """Train for two epochs on photographs in class folders and print what the loop says about the second one."""
    recipe = replace(RECIPES["miil_semantic"], precision="fp32", epochs=2, batch_size=batch_size, pretrained=False)
    print(f"\n### Waiting for data: {updates} updates of {batch_size} photographs in the second epoch\n")
    print("| loader workers | images per second | share of time spent waiting | ceiling |\n|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "train"
        photographs(folder, updates * batch_size)
        for number, path in enumerate(sorted(folder.iterdir())):
            of_class = folder / CLASSES[number % len(CLASSES)]
            of_class.mkdir(exist_ok=True)
            path.rename(of_class / path.name)
        for count in sorted({0, workers}):
            last = _second_epoch(folder, Path(scratch) / f"run{count}", recipe, count)
            print(f"| {count} | {last.rate:.0f} | {last.waiting:.1%} | |")


def _second_epoch(data: Path, folder: Path, recipe: Recipe, workers: int) -> Report:
    reports: list[Report] = []
    request = TrainRequest(
        data=str(data),
        model=ARCH,
        recipe_name="miil_semantic",
        recipe=recipe,
        folder=folder,
        label_space=SPACE,
        partial=True,
        device="cpu",
        workers=workers,
    )
    train_model(request, reports.append, lambda _line: None)
    return reports[-1]


def compare_validation(space: LabelSpace, batch_size: int, rounds: int) -> None:
    """Print what all metrics of a validation cost as a share of the forward passes that they judge."""
    backend = TorchBackend(network(space), space.num_classes, device="cpu")
    rng = np.random.default_rng(0)
    images = rng.random((batch_size, 3, 224, 224), np.float32)
    labels = rng.integers(0, space.num_classes, batch_size).astype(np.int32)
    logits = 2 * rng.standard_normal((batch_size, space.num_classes), np.float32)
    for row, label in enumerate(labels.tolist()):
        logits[row, list(space.tree.path(label))] += 8  # an answer worth judging; the weights here are random
    scored = Scored(logits, labels, np.arange(batch_size))
    cards = {head: Scorecard(Decoder(space, head)) for head in ("level_softmax", "leaf_softmax")}
    calls = {head: (lambda _number, card=card: card.update(scored)) for head, card in cards.items()}
    taken = take_turns({"forward": lambda _number: backend.run(images), **calls}, rounds)
    print(f"\n### Validation: metrics against forward passes, batch {batch_size}, best of {rounds}\n")
    print("| work | wall ms | CPU ms | wall / forward | CPU / forward | CPU / forward, median of rounds | ceiling |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    print(f"| forward pass | {least(taken['forward'])} | | | | |")
    for head in cards:
        print(f"| metrics, {head} | {least(taken[head])} | {ratios(taken[head], taken['forward'])} | 0.05 |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15, help="rounds of every comparison")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--workers", type=int, default=1, help="loader processes, beside none")
    parser.add_argument("--updates", type=int, default=12, help="length of the epoch whose waiting is measured")
    parser.add_argument("--ema", type=float, default=0.0, help="decay of averaged weights, for timm and for us")
    parser.add_argument("--only", choices=["step", "data", "validation"])
    parser.add_argument("--quick", action="store_true", help="3 rounds, batches of 16, 6 updates")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.batch, args.updates = 3, 16, 6
    torch.set_num_threads(args.threads)
    space = load_label_space(SPACE)
    print(f"torch {torch.__version__}, timm {timm.__version__}, {args.threads} threads, CPU")
    if args.only in (None, "step"):
        compare_steps(space, args.batch, args.steps, args.ema)
    if args.only in (None, "data"):
        measure_waiting(args.batch, args.workers, args.updates)
    if args.only in (None, "validation"):
        compare_validation(space, args.batch, args.steps)


if __name__ == "__main__":
    main()
