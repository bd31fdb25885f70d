"""Few-shot curves of a trained and a drawn network: a probe on frozen features, and fine-tuning by BiT-HyperRule.

    python benchmarks/transfer_shots.py caltech101          # caltech101/{train,test}/<class>/
    python benchmarks/transfer_shots.py --report

k images of each class are drawn at random, the same ones for every way to learn; all are judged on the same test
images. Deviations, for a machine without a GPU: every third class, pictures of 64 pixels, and `--updates` updates of
`--batch` images: the rule keeps its learning rate, its milestones move, and a fine-tuning from the probe on has as many
epochs as that. A row is added to the results as it is done; a second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import timm
import torch
from transfer_rows import Lines, cut_rule, subset

from miil21k.benchmark.contestants import Contestant
from miil21k.transfer.bench import Bench
from miil21k.transfer.dataset import open_data
from miil21k.transfer.job import finetune_recipe, start_of
from miil21k.transfer.network import fine_tune, network_logits
from miil21k.transfer.options import TransferOptions
from miil21k.transfer.pictures import draw_shots
from miil21k.transfer.probes import PROBES
from miil21k.transfer.split import balanced_subset
from miil21k.transfer.strength import fit_probe

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).parent
OUT = HERE / "results" / "transfer_training.jsonl"
FIELDS = ("weights", "method", "shots", "seed")
PROBE, RULE, FROM_PROBE = "probe", "BiT-HyperRule", "fine-tuning from the probe"


def main() -> None:
    args = arguments()
    if not args.report:
        run(args)
    print(report(Lines(args.out, FIELDS), args.picture))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of train/<class>/ and test/<class>/")
    parser.add_argument("--shots", type=int, nargs="+", default=[10, 25, 5, 1], help="images per class")
    parser.add_argument("--probe-seeds", type=int, default=5, help="subsets that the probe learns from")
    parser.add_argument("--seeds", type=int, default=1, help="of them, how many the networks are trained on")
    parser.add_argument("--weights", nargs="+", default=["pretrained", "random"], choices=["pretrained", "random"])
    parser.add_argument("--methods", nargs="+", default=[RULE, FROM_PROBE], choices=[RULE, FROM_PROBE])
    parser.add_argument("--classes", type=int, default=30)
    parser.add_argument("--test", type=int, default=20, help="images of each class to judge by")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr-scale", type=float, default=1.0, help="over the rule's rate for 512 images")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "transfer_shots")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--picture", type=Path, default=HERE.parent / "docs" / "benchmarks_transfer_training.png")
    parser.add_argument("--report", action="store_true", help="train nothing; print and draw what --out holds")
    args = parser.parse_args()
    if not args.report and args.data is None:
        parser.error("the folder of the images is needed to train")
    return args


def run(args: argparse.Namespace) -> None:
    data = subset(
        args.data, args.work / f"{args.classes}-{args.size}", args.size * 9 // 8, args.classes, test=args.test
    )
    options = TransferOptions(
        data=str(data), img_size=args.size, backend="torch", rule_batch=args.batch, workers=0, threads=1
    )
    opened = open_data(options)
    lines = Lines(args.out, FIELDS)
    benches = {}
    for weights in args.weights:
        checkpoint = None if weights == "pretrained" else drawn(args.work / "random.pth")
        contestant = Contestant("embedded", "embedded", checkpoint)
        benches[weights] = Bench.of(contestant, options, opened, args.work / weights, None)
    for weights, bench in benches.items():
        for shots in args.shots:
            for seed in range(args.probe_seeds):
                if lines.has(weights=weights, method=PROBE, shots=shots, seed=seed):
                    continue
                lines.start()
                few = bench.pool.take(balanced_subset(bench.pool.labels, shots, seed))
                fitted = fit_probe(PROBES["logistic"], few.values, few.labels, opened.space.num_classes, seed=seed)
                right = fitted.classifier.logits(bench.judged.values).argmax(1) == bench.judged.labels
                add(lines, right, weights, PROBE, shots, seed)
    for seed, (weights, bench), shots in product(range(args.seeds), benches.items(), args.shots):
        for method in args.methods if weights == "pretrained" else (RULE,):
            named = f"{method}, {args.updates} updates"
            if not lines.has(weights=weights, method=named, shots=shots, seed=seed):
                lines.start()
                right = trained(args, bench, weights, method, shots, seed)
                add(lines, right, weights, named, shots, seed)


def drawn(path: Path) -> Path:
    """Write the weights of the architecture as it is drawn."""
    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(timm.create_model("efficientnet_lite0", num_classes=1000).state_dict(), path)
    return path


def trained(
    args: argparse.Namespace, bench: Bench, weights: str, method: str, shots: int, seed: int
) -> NDArray[np.bool_]:
    """Return which of the test images a network is right on that was trained on this subset."""
    with tempfile.TemporaryDirectory() as scratch:
        job = bench.job(balanced_subset(bench.pool.labels, shots, seed), f"{weights}-{shots}-{seed}", seed)
        job = replace(job, folder=Path(scratch))
        start = bench.settings.model
        if method == RULE:
            recipe = cut_rule(job, args.updates)
            recipe = replace(recipe, lr=args.lr_scale * recipe.lr)
        else:
            recipe = finetune_recipe(job, max(1, round(args.updates * args.batch / len(job.images))))
            start = start_of(job, "start")
        # Drawn weights have no statistics worth keeping.
        recipe = replace(recipe, keep_norms=weights == "pretrained", precision="fp32")
        path = fine_tune(job.images, recipe, start, Path(scratch) / "run", job.options)
        assert bench.data.test is not None
        right: NDArray[np.bool_] = (
            network_logits(path, bench.data.test, job.options).argmax(1) == bench.data.test.labels
        )
    return right


def add(lines: Lines, right: NDArray[np.bool_], weights: str, method: str, shots: int, seed: int) -> None:
    accuracy = float(right.mean())
    lines.add(weights=weights, method=method, shots=shots, seed=seed, accuracy=accuracy, judged=len(right))


def report(lines: Lines, picture: Path) -> str:
    """Return the table of medians; draw the curves."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in lines:
        found.setdefault(f"{row['weights']}, {row['method']}", {}).setdefault(row["shots"], []).append(row["accuracy"])
    curves = {
        name: [(k, float(np.median(one)), min(one), max(one)) for k, one in sorted(points.items())]
        for name, points in found.items()
    }
    draw_shots(curves, picture)
    shots = sorted({k for points in found.values() for k in points})
    table = ["| weights, method | " + " | ".join(f"{k} a class" for k in shots) + " |", "|---" * (len(shots) + 1) + "|"]
    for name, points in found.items():
        cells = [f"{100 * np.median(points[k]):.1f} % ({len(points[k])})" if k in points else "" for k in shots]
        table.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(table)


if __name__ == "__main__":
    main()
