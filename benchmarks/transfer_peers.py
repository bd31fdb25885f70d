"""`miil21k transfer` against what people do in its place with the same weights and the same pictures.

    python benchmarks/transfer_peers.py caltech101          # caltech101/{train,test}/<class>/
    python benchmarks/transfer_peers.py --report

Two tasks: five classes of 20 images at 224 pixels, and all classes with 10 each at 64 pixels. Ways: the command,
whole; frozen features in torch with timm's transform and scikit-learn's LogisticRegressionCV
as it comes; fine-tuning as timm's train script does it (its loader with the augmentation it has by default, AdamW, a
cosine with warm-up, labels smoothed by 0.1, batches of 32), for so few epochs that its time is of the same order, at
two learning rates of which the better one on the test images counts, which flatters it. Each way is a process of its
own, timed as a whole by what its processor did. A row is added to the results as it is done; a second call goes on
where the first one stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import timm
import torch
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from transfer_rows import Lines

import miil21k
from miil21k.metrics.shares import wilson_interval

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

HERE = Path(__file__).parent
OUT = HERE / "results" / "transfer_peers.jsonl"
FIELDS = ("task", "way")
FIVE = ("n02007558", "n02219486", "n02317335", "n03452741", "n04254680")
RATES = (3e-4, 1e-3)
BATCH = 32


class Task(NamedTuple):
    """classes: folders, none of them for all. images: of each class to learn from. size: pixels. epochs: of timm."""

    classes: tuple[str, ...]
    images: int
    size: int
    epochs: int


TASKS = {"5 classes of 20": Task(FIVE, 20, 224, 5), "90 classes of 10": Task((), 10, 64, 5)}


def main() -> None:
    args = arguments()
    if args.peer is not None:
        peer = with_sklearn if args.peer == "sklearn" else with_timm
        print(json.dumps(peer(args)))
        return
    lines = Lines(args.out, FIELDS)
    if not args.report:
        run(args, lines)
    print(report(lines))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of train/<class>/ and test/<class>/")
    parser.add_argument("-m", "--model", default="embedded")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "transfer_peers")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--report", action="store_true", help="measure nothing; print what --out holds")
    parser.add_argument("--peer", choices=["sklearn", "timm"], help="be one of the peers, in DATA as it is")
    parser.add_argument("--size", type=int, default=224, help="pixels, of a peer")
    parser.add_argument("--epochs", type=int, default=5, help="of a peer")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="of timm's fine-tuning")
    parser.add_argument("--lr", type=float, default=RATES[0], help="of a peer")
    args = parser.parse_args()
    if not args.report and args.data is None:
        parser.error("the folder of the images is needed")
    return args


def run(args: argparse.Namespace, lines: Lines) -> None:
    for name, task in TASKS.items():
        data = small(args.data, args.work / name.replace(" ", "-"), task)
        ours = [sys.executable, "-m", "miil21k", "transfer", str(data), "-m", args.model, "-q", "--overwrite"]
        ours += ["--img-size", str(task.size)]
        peer = [sys.executable, __file__, str(data), "-m", args.model, "--size", str(task.size)]
        ways = {
            "miil21k transfer": ours,
            "torch features, LogisticRegressionCV": [*peer, "--peer", "sklearn"],
        }
        for rate in args.rates:
            trained = [*peer, "--peer", "timm", "--epochs", str(task.epochs), "--lr", str(rate)]
            ways[f"timm, {task.epochs} epochs at {rate:g}"] = trained
        for way, words in ways.items():
            if not lines.has(task=name, way=way):
                measure(lines, name, way, words)


def small(data: Path, target: Path, task: Task) -> Path:
    """Return a folder with the first images of each class of the task to learn from, and all to be judged by."""
    if target.exists():
        return target
    part = target.with_name(f".{target.name}.part")
    classes = task.classes or sorted(path.name for path in (data / "train").iterdir())
    for where, most in (("train", task.images), ("test", None)):
        for name in classes:
            (part / where / name).mkdir(parents=True, exist_ok=True)
            for path in sorted((data / where / name).iterdir())[:most]:
                shutil.copy(path, part / where / name / path.name)
    part.rename(target)
    return target


def measure(lines: Lines, task: str, way: str, words: list[str]) -> None:
    """Add the row of a way: a process, what it cost, and what it says of itself."""
    lines.start()
    with tempfile.TemporaryDirectory() as scratch:
        ours = "transfer" in words
        output = Path(scratch) / "ours"
        done = subprocess.run(
            [*words, "-o", str(output)] if ours else words, check=True, stdout=subprocess.PIPE, text=True
        )
        if ours:
            found = json.loads((output / "report.json").read_text(encoding="utf-8"))
            row = {"right": found["accuracy"], "test": found["num_test"], "method": found["method"]}
        else:
            row = json.loads(done.stdout)
    lines.add(task=task, way=way, load=round(os.getloadavg()[0], 1), **row)


def network_of(args: argparse.Namespace, classes: int) -> tuple[nn.Module, dict[str, Any]]:
    """Return the weights under a new head, without one for 0 classes, and how timm reads images for them."""
    network = miil21k.create_model(args.model, pretrained=True, num_classes=classes)
    config = timm.data.resolve_data_config({"input_size": (3, args.size, args.size)}, model=network)
    return network, config


def loader_of(
    args: argparse.Namespace, part: str, config: dict[str, Any], *, training: bool = False
) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    dataset = timm.data.create_dataset("", root=str(args.data / part), is_training=training)
    settings = {key: config[key] for key in ("mean", "std", "crop_pct", "interpolation")}
    found: Iterable[tuple[torch.Tensor, torch.Tensor]] = timm.data.create_loader(
        dataset,
        config["input_size"],
        BATCH,
        is_training=training,
        num_workers=0,
        persistent_workers=False,
        use_prefetcher=False,
        device=torch.device("cpu"),
        **settings,
    )
    return found


def with_sklearn(args: argparse.Namespace) -> dict[str, Any]:
    """Return the accuracy of scikit-learn's classifier on features that torch computes."""
    from sklearn.linear_model import LogisticRegressionCV  # of the extra `transfer`

    network, config = network_of(args, 0)
    network.eval()
    found = {}
    with torch.inference_mode():
        for part in ("train", "test"):
            batches = [(network(images), labels) for images, labels in loader_of(args, part, config)]
            found[part] = [torch.cat(column).numpy() for column in zip(*batches, strict=True)]
    classifier = LogisticRegressionCV(cv=5, max_iter=1000).fit(*found["train"])
    return {"right": float(classifier.score(*found["test"])), "test": len(found["test"][1]), "method": "features"}


def with_timm(args: argparse.Namespace) -> dict[str, Any]:
    """Return the accuracy of a network that was fine-tuned as timm's train script does it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - timm's transforms draw from it
    classes = sum(path.is_dir() for path in (args.data / "train").iterdir())
    network, config = network_of(args, classes)
    batches = loader_of(args, "train", config, training=True)
    updates = len(batches)  # type: ignore[arg-type]
    optimizer = create_optimizer_v2(network, opt="adamw", lr=args.lr, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=args.epochs,
        warmup_epochs=1,
        warmup_lr=1e-6,
        step_on_epochs=False,
        updates_per_epoch=updates,
    )
    criterion, done = LabelSmoothingCrossEntropy(0.1), 0
    network.train()
    for _ in range(epochs):
        for images, labels in batches:
            loss = criterion(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            scheduler.step_update(num_updates=done)
    network.eval()
    with torch.inference_mode():
        hits = [network(images).argmax(1) == labels for images, labels in loader_of(args, "test", config)]
    right = torch.cat(hits)
    return {"right": float(right.float().mean()), "test": len(right), "method": f"{done} updates"}


def report(lines: Lines) -> str:
    """Return a table of each task."""
    found = []
    for task in dict.fromkeys(row["task"] for row in lines):
        found += ["", f"| {task} | accuracy (95 % band) | processor seconds |", "|---|---|---:|"]
        for row in lines:
            if row["task"] == task:
                low, high = wilson_interval(row["right"], row["test"])
                band = f"{100 * row['right']:.1f} ({100 * low:.1f} to {min(100, 100 * high):.1f})"
                found.append(f"| {row['way']}: {row['method']} | {band} | {row['cpu_seconds']:.0f} |")
    return "\n".join(found[1:])


if __name__ == "__main__":
    main()
