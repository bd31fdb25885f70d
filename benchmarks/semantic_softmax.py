"""Train one small network by each pretraining scheme of ImageNet-21K-P on blurred labels, and compare.

    python benchmarks/semantic_softmax.py --cifar cifar10_images.zip
    python benchmarks/semantic_softmax.py --report

Data: CIFAR-10 from a zip of `train/<class>/*.jpg` and `test/<class>/*.jpg`, and Fashion-MNIST from the gzip files of
Debian's `dataset-fashion-mnist`. Both become label spaces of WordNet (see `blurred_sets.py`); half of the training
labels, the same ones in every run, are replaced by a random ancestor. A seed changes the initial weights and the order
of the images. The teacher of distillation is twice as wide and trains twice as long on the same labels, with semantic
softmax. Transfer is a linear probe on the features, on the other data set.

Every finished run is added to the JSON at once; a second call with the same settings goes on where the first one
stopped. `--report` prints the tables from it as Markdown and draws the pictures. Training runs in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from blurred_measures import accuracies, curves, guarantees
from blurred_report import draw, report
from blurred_sets import ImageSet, blur, load_cifar, load_fashion, with_inner_classes
from blurred_training import SCHEMES, Network, linear_probe, objective_of, outputs, train

from miil21k.errors import Miil21kError, UsageError
from miil21k.files import replace_file

HERE = Path(__file__).parent
TEACHER_SEED = 1000
PROBE_DECAY = 1e-3
INNER_SCHEMES = ("semantic",)  # with inner classes only the path probabilities are compared


def main() -> int:
    args = arguments()
    torch.set_num_threads(args.threads)
    try:
        if not args.report:
            run(args)
        results = json.loads(args.out.read_text())
        draw(results, args.pictures)
        print(report(results), end="")
    except Miil21kError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, help="zip of train/<class>/*.jpg and test/<class>/*.jpg")
    parser.add_argument("--fashion", type=Path, default=Path("/usr/share/datasets/fashion-mnist"), help="folder")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each scheme")
    parser.add_argument("--schemes", nargs="+", default=list(SCHEMES), choices=SCHEMES)
    parser.add_argument("--images", nargs=2, type=int, default=[20000, 10000], help="for training: CIFAR-10, Fashion")
    parser.add_argument("--test-images", type=int, default=10000, help="of each data set")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--width", type=int, default=16, help="channels of the first convolution")
    parser.add_argument("--blur", type=float, default=0.5, help="share of the labels replaced by an ancestor")
    parser.add_argument("--splits", type=int, default=50, help="of the test images, for the hedge guarantee")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "semantic_softmax.json")
    parser.add_argument("--pictures", type=Path, default=HERE.parent / "docs", help="folder")
    parser.add_argument("--report", action="store_true", help="train nothing; print and draw what --out holds")
    args = parser.parse_args()
    if not args.report and args.cifar is None:
        parser.error("--cifar is needed to train")
    return args


def run(args: argparse.Namespace) -> None:
    names = ("images", "test_images", "epochs", "width", "blur", "splits")
    settings = {name: getattr(args, name) for name in names}
    results = {"settings": settings, "runs": []}
    if args.out.exists():
        results = json.loads(args.out.read_text())
        if results["settings"] != settings:
            raise UsageError(f"{args.out} holds runs with other settings: name another file with --out.")
    bench = Bench(args, results)
    for seed in range(args.seeds):
        for index in range(len(bench.sets)):
            for scheme in args.schemes if index < 2 else INNER_SCHEMES:
                bench.add(index, scheme, seed)


class Bench:
    """The data, the teachers, and the results so far."""

    def __init__(self, args: argparse.Namespace, results: dict[str, Any]) -> None:
        self.args, self.results = args, results
        leaves = [
            load_cifar(args.cifar, args.images[0], args.test_images),
            load_fashion(args.fashion, args.images[1], args.test_images),
        ]
        self.sets: list[ImageSet] = [*leaves, *map(with_inner_classes, leaves)]
        self.labels = [blur(one.space.tree, one.train_labels, args.blur, seed=21) for one in self.sets]
        self.teachers: dict[int, Network] = {}
        args.out.parent.mkdir(parents=True, exist_ok=True)

    def add(self, index: int, scheme: str, seed: int) -> None:
        """Train and measure, unless the results hold this run."""
        if self.has(index, scheme, seed):
            return
        teacher = self.teacher(index) if SCHEMES[scheme].kd_weight else None
        start = time.process_time()
        network = self.trained(index, scheme, seed, self.args.width, self.args.epochs, teacher)
        self.record(index, scheme, seed, network, time.process_time() - start)

    def has(self, index: int, scheme: str, seed: int) -> bool:
        key = (self.sets[index].name, scheme, seed)
        return any((run["set"], run["scheme"], run["seed"]) == key for run in self.results["runs"])

    def teacher(self, index: int) -> Network:
        """Return the teacher; it is trained once per call of the script."""
        if index not in self.teachers:
            start = time.process_time()
            wide, long = 2 * self.args.width, 2 * self.args.epochs
            self.teachers[index] = self.trained(index, "semantic", TEACHER_SEED, wide, long, None)
            if not self.has(index, "teacher", TEACHER_SEED):
                seconds = time.process_time() - start
                self.record(index, "teacher", TEACHER_SEED, self.teachers[index], seconds)
        return self.teachers[index]

    def trained(self, index: int, scheme: str, seed: int, width: int, epochs: int, teacher: Network | None) -> Network:
        data = self.sets[index]
        torch.manual_seed(seed)
        network = Network(width, data.space.num_classes).to(memory_format=torch.channels_last)
        objective = objective_of(scheme, data.space.tree, teacher)
        train(network, objective, data.train_images, self.labels[index], epochs, seed)
        return network

    def record(self, index: int, scheme: str, seed: int, network: Network, seconds: float) -> None:
        """Measure, add the run to the results and write them."""
        data, other = self.sets[index], self.sets[1 - index % 2]
        head = SCHEMES[scheme].head if scheme in SCHEMES else "level_softmax"
        logits = outputs(network, data.test_images)[1].numpy()
        entry = {"set": data.name, "scheme": scheme, "head": head, "seed": seed, "cpu_seconds": round(seconds, 1)}
        entry |= accuracies(data.space.tree, logits, data.test_labels, head)
        entry["probe"] = linear_probe(
            (outputs(network, other.train_images)[0], outputs(network, other.test_images)[0]),
            (other.train_labels, other.test_labels),
            PROBE_DECAY,
        )
        entry["curves"] = curves(data.space.tree, logits, data.test_labels, head)
        entry["hedge"] = guarantees(data.space, logits, data.test_labels, head, self.args.splits)
        self.results["runs"].append(entry)
        replace_file(self.args.out, json.dumps(self.results, indent=None, separators=(",", ":")) + "\n")
        print(f"{data.name}, {scheme}, seed {seed}: leaf {entry['leaf']:.4f}, {seconds:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
