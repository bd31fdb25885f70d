"""Do pseudo-labels help? The findings of Yalniz et al. 2019 one by one, on small real images and small networks.

    python benchmarks/semisup.py --cifar10 cifar10_images.zip --caltech101 caltech101.zip --cache /tmp/semisup \
        --output benchmarks/results/semisup.jsonl --minutes 15

CIFAR-10 cut to 1,000 images a class: 20 or 100 a class with labels, the rest and the 2,931 of Caltech's `pool/`, which
are of no class of it, without. Caltech-101, 30 of its classes: 5 or 10 images a class with labels, the rest and `pool/`
without, whose pictures are of these classes, of the other 60, and of none. The student is four convolutions and a
linear head, 32 pixels. Its teacher is the same network twice as wide, the same network (self-training), or `embedded`,
which knows ImageNet-1K, with a ridge head fitted on the true labels: it sees 112 pixels, and stands for the teacher of
semi-weakly supervised training.

Selection is that of `miil21k select` (`ClassBests`), the schedules are those of `ssl_pretrain` (halvings) and
`ssl_finetune`; what is measured is accuracy on the test images after a given number of images seen, which is the same
for all: supervised alone sees as many as pretraining and fine-tuning together. Fine-tuning is done at
rates of 0.01 (`accuracy`), 0.001 (`tuned_slowly`) and 0.00003 (`tuned_by_batch`). A seed draws the labelled images, the
weights and the batches.

A row is written as a run ends; runs that have their row are not done again. Runs stop at --minutes of this process's
own time; the table is printed from all rows.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import statistics
import time
import zipfile
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from dots import draw_dots
from PIL import Image
from torch import nn

from miil21k.files import atomic
from miil21k.teachers.best import ClassBests
from miil21k.teachers.recipes import finetuning, pretraining
from miil21k.train.objectives import CrossEntropy
from miil21k.train.optimization import Schedule, create_optimizer
from miil21k.transfer.features import Extractor, FeatureOptions
from miil21k.transfer.probes import PROBES
from miil21k.transfer.strength import fit_probe, log_softmax

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from miil21k.train.recipe import Recipe

BATCH = 32
EDGE = 32
# Rates of fine-tuning; the first is the published one per image of a batch, as on ImageNet.
TUNED = {"tuned_by_batch": 0.00025 * BATCH / 256, "tuned_slowly": 0.001, "accuracy": 0.01}
# name: (data, labelled images a class)
TASKS = {
    "cifar10-20": ("cifar10", 20),
    "cifar10-100": ("cifar10", 100),
    "caltech101-5": ("caltech101", 5),
    "caltech101-10": ("caltech101", 10),
}
TITLES = {"cifar10": "CIFAR-10", "caltech101": "Caltech-101, 30 classes"}
STAGES = ("core", "wide", "sweep")
NARROW, WIDE = 16, 32
# run, its teacher, and what it is called in the picture
DRAWN = (
    ("both", "embedded", "K of each class"),
    ("plain top scores", "embedded", "plain top scores"),
    ("true labels mixed in", "embedded", "true labels mixed in"),
    ("both", WIDE, "wider teacher"),
    ("self-training", NARROW, "self-training"),
)
RUNS = ("supervised", "both", "self-training", "plain top scores", "true labels mixed in", "sweep")
KEY = ("task", "seed", "run", "student", "teacher", "per_class", "per_image", "seen", "batch")


class Network(nn.Module):
    """Four convolutions and a linear head, `width` channels in the first and 8 `width` features."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        widths = [3, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for place, (inputs, outputs) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2 if place == 0 else 1, 1, bias=False), nn.BatchNorm2d(outputs)]
            layers += [nn.ReLU(inplace=True), *([nn.MaxPool2d(2)] if place in (1, 2) else [])]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8 * width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images.contiguous(memory_format=torch.channels_last)))


class Images(NamedTuple):
    """pixels: uint8 [N, 3, H, W]. labels: int64 [N]; -1 for no class of the task. features: float32 [N, 1280]."""

    pixels: torch.Tensor
    labels: torch.Tensor
    features: torch.Tensor

    def taken(self, rows: Sequence[int] | NDArray[np.int64]) -> Images:
        at = torch.as_tensor(np.asarray(rows))
        return Images(*(part[at] for part in self))


class Task(NamedTuple):
    """pool: its labels are known to the benchmark alone, to say how many pseudo-labels are right."""

    classes: int
    labelled: Images
    pool: Images
    test: Images
    seen: int  # images that pretraining sees
    tuned: int  # images that fine-tuning sees


@dataclass(frozen=True)
class Run:
    """student: width of its first convolution. teacher: that of the teacher's, or `embedded`, or 0 for none.

    per_class None: no pool, true labels alone. plain: the best over all.
    """

    name: str
    student: int
    teacher: int | str = 0
    per_class: int | None = None
    per_image: int = 1
    plain: bool = False
    mixed: bool = False  # true labels among the pseudo-labels, which the paper advises against


def runs_of(task: str, stage: str) -> list[Run]:
    each = 300 if TASKS[task][0] == "cifar10" else 20
    both = Run("both", NARROW, "embedded", each)
    if stage == "core":
        return [
            Run("supervised", NARROW),
            both,
            replace(both, name="self-training", teacher=NARROW),
            replace(both, name="plain top scores", plain=True),
            replace(both, name="true labels mixed in", mixed=True),
        ]
    if stage == "wide":
        return [Run("supervised", WIDE), replace(both, teacher=WIDE)]
    sweep = [(each // 3, 1), (3 * each, 1), (each, 3), (each, 10), (3 * each, 10)]
    return [replace(both, name="sweep", per_class=k, per_image=p) for k, p in sweep]


def train(network: Network, images: Images, recipe: Recipe, updates: int, seed: int) -> None:
    """Train with shifts of an eighth and mirrors; batches are drawn with replacement."""
    optimizer = create_optimizer(network, recipe)
    schedule, objective = Schedule(optimizer, recipe, max(1, updates // recipe.epochs)), CrossEntropy(0.0)
    generator = torch.Generator().manual_seed(seed)
    edge = images.pixels.shape[-1]
    padded = torch.nn.functional.pad(images.pixels, [edge // 8] * 4)
    network.train()
    for update in range(updates):
        schedule.set(update)
        rows = torch.randint(len(images.labels), (BATCH,), generator=generator)
        left, top = torch.randint(edge // 4 + 1, (2,), generator=generator).tolist()
        batch = padded[rows, :, top : top + edge, left : left + edge]
        batch = torch.where((torch.rand(BATCH, generator=generator) < 0.5)[:, None, None, None], batch.flip(-1), batch)
        loss = objective(network, normalised(batch), images.labels[rows])["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float().div_(255).sub_(0.5).div_(0.25)


def probabilities(network: Network, images: Images) -> NDArray[np.float32]:
    network.eval()
    with torch.inference_mode():
        parts = [network(normalised(part)).softmax(1) for part in images.pixels.split(500)]
    return torch.cat(parts).numpy()


def accuracy(network: Network, images: Images) -> float:
    return float((probabilities(network, images).argmax(1) == images.labels.numpy()).mean())


def selected(task: Task, probs: NDArray[np.float32], run: Run, folder: Path) -> tuple[NDArray[np.int64], torch.Tensor]:
    """Return rows of the pool and their pseudo-labels."""
    assert run.per_class is not None
    if run.plain:  # as many rows, without a share for each class
        best, answers = probs.max(1), probs.argmax(1)
        rows = np.argsort(-best, kind="stable")[: run.per_class * task.classes]
        return rows, torch.from_numpy(answers[rows])
    bests = ClassBests(folder, run.per_class, 10**9)
    order = np.argsort(-probs, axis=1)[:, : run.per_image]
    for row, classes in enumerate(order.tolist()):
        bests.add(b"%d" % row, [str(place) for place in classes], probs[row, classes].tolist())
    bests.flush()
    pairs = [(int(name), int(best.wnid)) for best in bests.merged() for name in best.names]
    rows, labels = np.array(pairs).T
    return rows, torch.from_numpy(labels)


def supervised(task: Task, width: int, seed: int) -> Network:
    torch.manual_seed(seed)
    network = Network(width, task.classes)
    updates = (task.seen + task.tuned) // BATCH
    recipe = pretraining("ssl_pretrain", {"steps": updates, "lr": 0.05}, rows=BATCH, passes=1, batch=BATCH)
    train(network, task.labelled, recipe, updates, seed)
    return network


def answers_of(task: Task, teacher: int | str, seed: int, known: dict[int | str, Answers]) -> Answers:
    """Train a teacher on the true labels and let it answer the pool, unless it is known."""
    if teacher not in known:
        if teacher == "embedded":
            fitted = fit_probe(
                PROBES["ridge"], task.labelled.features.numpy(), task.labelled.labels.numpy(), task.classes
            )
            logits = fitted.classifier.logits
            right = (logits(task.test.features.numpy()).argmax(1) == task.test.labels.numpy()).mean()
            known[teacher] = Answers(np.exp(log_softmax(logits(task.pool.features.numpy()))), float(right))
        else:
            network = supervised(task, int(teacher), seed)
            known[teacher] = Answers(probabilities(network, task.pool), accuracy(network, task.test))
    return known[teacher]


def perform(task: Task, run: Run, seed: int, known: dict[int | str, Answers], scratch: Path) -> dict[str, float]:
    if run.per_class is None:
        return {"accuracy": answers_of(task, run.student, seed, known).accuracy}
    teacher = answers_of(task, run.teacher, seed, known)
    rows, labels = selected(task, teacher.pool, run, scratch / f"{time.time_ns()}")
    chosen = task.pool.taken(rows)
    truth, chosen = chosen.labels, chosen._replace(labels=labels)
    if run.mixed:
        chosen = Images(*(torch.cat(pair) for pair in zip(chosen, task.labelled, strict=True)))
    updates = task.seen // BATCH
    torch.manual_seed(seed + 1)
    student = Network(run.student, task.classes)
    recipe = pretraining("ssl_pretrain", {"steps": updates, "lr": 0.05}, rows=BATCH, passes=1, batch=BATCH)
    train(student, chosen, recipe, updates, seed)
    alone = accuracy(student, task.test)
    found = {}
    for name, rate in TUNED.items():
        tuned = copy.deepcopy(student)
        recipe = finetuning("ssl_finetune", {"epochs": 12, "lr": rate}, images=BATCH, batch=BATCH)
        train(tuned, task.labelled, recipe, task.tuned // BATCH, seed)
        found[name] = accuracy(tuned, task.test)
    return {
        "teacher_accuracy": teacher.accuracy,
        "pseudo_rows": len(rows),
        "right": float((labels == truth).float().mean()),
        "of_no_class": float((truth < 0).float().mean()),
        "classes_with_rows": len(labels.unique()),
        "pseudo_alone": alone,
        **found,
    }


class Answers(NamedTuple):
    """pool: probabilities float32 [N, C]. accuracy: on the test images."""

    pool: NDArray[np.float32]
    accuracy: float


def features_of(archive: zipfile.ZipFile, names: Sequence[str]) -> torch.Tensor:
    """Return what `embedded` makes of the pictures."""
    extractor = Extractor("embedded", FeatureOptions(img_size=112, backend="torch", device="cpu", threads=1))
    found = []
    with extractor.backend.threads(1, 1):
        for start in range(0, len(names), 64):
            part = names[start : start + 64]
            found.append(extractor.embed(np.stack([extractor.crop(archive.read(name), name) for name in part])))
    return torch.from_numpy(np.concatenate(found))


def read_images(archive: zipfile.ZipFile, names: Sequence[str], edge: int) -> torch.Tensor:
    pixels = np.empty((len(names), edge, edge, 3), np.uint8)
    for place, name in enumerate(names):
        with Image.open(io.BytesIO(archive.read(name))) as image:
            pixels[place] = image.convert("RGB").resize((edge, edge), Image.Resampling.BILINEAR, reducing_gap=2)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def folders(archive: zipfile.ZipFile, part: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(archive.namelist()):
        if name.startswith(f"{part}/") and name.count("/") == 2 and not name.endswith("/"):
            found.setdefault(name.split("/")[1], []).append(name)
    return found


def labelled_images(archive: zipfile.ZipFile, part: str, most: int, step: int) -> tuple[torch.Tensor, ...]:
    per_class = [names[:most] for _, names in sorted(folders(archive, part).items())][::step]
    names = [name for several in per_class for name in several]
    labels = np.repeat(np.arange(len(per_class)), [len(names) for names in per_class])
    return read_images(archive, names, EDGE), torch.from_numpy(labels), features_of(archive, names)


def unlabelled_images(archive: zipfile.ZipFile) -> tuple[torch.Tensor, ...]:
    names = sorted(one for one in archive.namelist() if one.startswith("pool/") and one.endswith(".jpg"))
    return read_images(archive, names, EDGE), torch.full((len(names),), -1), features_of(archive, names)


def cached(cache: Path, name: str, make: Callable[[], tuple[torch.Tensor, ...]]) -> Images:
    path = cache / f"{name}.pt"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with atomic(path) as part:
            torch.save(make(), part)
    return Images(*torch.load(path, weights_only=True))


def task_of(name: str, args: argparse.Namespace, seed: int) -> Task:
    data, few = TASKS[name]
    caltech = zipfile.ZipFile(args.caltech101)
    archive, most = (zipfile.ZipFile(args.cifar10), 1000) if data == "cifar10" else (caltech, 30)
    step = 1 if data == "cifar10" else 3
    train_set = cached(args.cache, f"{data}_train", lambda: labelled_images(archive, "train", most, step))
    test = cached(args.cache, f"{data}_test", lambda: labelled_images(archive, "test", 300, step))
    pool = cached(args.cache, "pool", lambda: unlabelled_images(caltech))
    shuffled = np.random.default_rng(seed).permutation(len(train_set.labels))
    labels = train_set.labels.numpy()[shuffled]
    known = np.concatenate([shuffled[labels == place][:few] for place in np.unique(labels)])
    rest = train_set.taken(np.setdiff1d(shuffled, known))
    everything = Images(*(torch.cat(pair) for pair in zip(rest, pool, strict=True)))
    return Task(int(labels.max()) + 1, train_set.taken(known), everything, test, args.seen, args.seen // 4)


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEY)


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def pending(args: argparse.Namespace, done: set[tuple[Any, ...]]) -> Iterator[tuple[str, int, Run, dict[str, Any]]]:
    """Yield what has no row; a sweep is of the first seed alone."""
    for stage in args.stages:
        for seed in args.seeds[:1] if stage == "sweep" else args.seeds:
            for name in args.tasks:
                for run in runs_of(name, stage):
                    row = {"task": name, "seed": seed, "run": run.name, "student": run.student, "teacher": run.teacher}
                    row |= {"per_class": run.per_class, "per_image": run.per_image, "seen": args.seen, "batch": BATCH}
                    if run.name in args.runs and key_of(row) not in done:
                        yield name, seed, run, row


def groups_of(rows: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Return the rows of each run, which differ in their seed alone."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (list(TASKS).index(row["task"]), -row["seen"])):
        found.setdefault(tuple(row[name] for name in KEY if name != "seed"), []).append(row)
    return found


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print means over seeds, with their range; a gain is over true labels alone with the same seed."""
    print("| data | seen | run | student | teacher | its accuracy | K, P | right | alone | slowly | accuracy | gains |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    alone = {(row["task"], row["seen"], row["student"], row["seed"]): row for row in rows if not row["per_class"]}
    for (task, name, student, teacher, per_class, per_image, seen, _), of in groups_of(rows).items():
        pairs = [(row, alone.get((task, seen, student, row["seed"]))) for row in of if row["per_class"]]
        gains = [f"{100 * (row['accuracy'] - base['accuracy']):+.1f}" for row, base in pairs if base is not None]
        chosen = f"{per_class}, {per_image}" if per_class else ""
        figures = [mean(of, column) for column in ("right", "pseudo_alone", "tuned_slowly", "accuracy")]
        who = [str(student), str(teacher or ""), mean(of, "teacher_accuracy")]
        cells = [task, f"{seen:,}", name, *who, chosen, *figures]
        print(f"| {' | '.join(cells)} | {' '.join(gains)} |")
    print(f"{sum(row['cpu_seconds'] for row in rows) / 3600:.3f} hours of one core in all")


def mean(rows: Sequence[dict[str, Any]], name: str) -> str:
    """Return the mean in per cent, with the range where there are several rows."""
    values = [100 * row[name] for row in rows if name in row]
    if not values:
        return ""
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the accuracy of runs of several seeds: of pseudo-labels alone, and after fine-tuning on true labels."""
    panels: dict[str, dict[str, list[float]]] = {}
    for (task, name, student, teacher, _, _, seen, _), of in groups_of(rows).items():
        if len(of) == 1 or student != NARROW or name == "sweep":
            continue
        data, few = TASKS[task]
        panel = panels.setdefault(f"{TITLES[data]}, {few} labels a class,\n{seen:,} images seen: accuracy, %", {})
        if name == "supervised":
            panel["true labels alone"] = [row["accuracy"] for row in of]
        for run, of_teacher, title in DRAWN:
            if (name, teacher) == (run, of_teacher):
                panel[title] = [row["pseudo_alone"] for row in of]
                panel[f"{title}, then true labels"] = [row["accuracy"] for row in of]
    draw_dots(panels, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True)
    parser.add_argument("--caltech101", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="decoded images, kept")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=RUNS, help="of these stages")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--seen", type=int, default=12_000, help="images that pretraining sees; fine-tuning sees a quarter of them"
    )
    parser.add_argument("--minutes", type=float, default=15, help="of this process's own time")
    parser.add_argument("--picture", type=Path, help="PNG to draw from all rows")
    args = parser.parse_args()
    torch.set_num_threads(1)
    at: tuple[str, int] | None = None
    known: dict[int | str, Answers] = {}
    for name, seed, run, row in pending(args, {key_of(row) for row in rows_in(args.output)}):
        if time.process_time() > 60 * args.minutes:
            break
        if at != (name, seed):
            at, task, known = (name, seed), task_of(name, args, seed), {}
        began = time.process_time()
        found = perform(task, run, seed, known, args.cache / "runs")
        row |= {**found, "precision": "fp32", "cpu_seconds": round(time.process_time() - began, 1)}
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with args.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{row} ({time.process_time() / 3600:.3f} hours)", flush=True)
    table(rows_in(args.output))
    if args.picture:
        draw(rows_in(args.output), args.picture)


if __name__ == "__main__":
    main()
