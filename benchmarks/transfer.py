"""Few-shot accuracy of our probes against a ridge that sees the test images.

    python benchmarks/transfer.py caltech101 -o results     # caltech101/{train,test}/<class>/

k images of each class, five random subsets, medians; the strengths of our probes are chosen out of fold. The peer is a
plain closed-form ridge on the same features of the same subsets, its strength chosen on the test images, so that it is
flattered. The features are kept beside the results; rows in them are not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

import numpy as np

from miil21k.data.datasets import label_images, open_source
from miil21k.environment import available_cpus, installed_versions
from miil21k.hierarchy.load import load_own
from miil21k.transfer.features import Extractor, FeatureOptions
from miil21k.transfer.fewshot import FewShotOptions, few_shot
from miil21k.transfer.options import TransferOptions
from miil21k.transfer.pictures import draw_shots
from miil21k.transfer.probes import ridge_path
from miil21k.transfer.split import balanced_subset

SHOTS, SEEDS = (1, 5, 10, 30), 5
PROBES = ("logistic", "ridge", "knn")
STRENGTHS = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
FLATTERED = "ridge, strength chosen on the test images"


def shots(data: Path, output: Path, model: str) -> None:
    runs = output / "shots"
    settings = TransferOptions(data=str(data), img_size=224, backend="torch", resizer="pillow")
    options = FewShotOptions((model,), PROBES, SHOTS, SEEDS, settings)
    rows = few_shot(options, runs, say=lambda line: print(line, file=sys.stderr), resume=True)
    extractor = Extractor(model, FeatureOptions(img_size=224, backend="torch", resizer="pillow"))
    space = load_own(data / "train")
    train, test = (
        extractor.features(label_images(open_source(str(data / part)), space), shelf=runs / "features")
        for part in ("train", "test")
    )
    for count in SHOTS:
        best = []
        for seed in range(SEEDS):
            chosen = balanced_subset(train.labels, count, seed)
            fitted = ridge_path(train.values[chosen], train.labels[chosen], space.num_classes, STRENGTHS)
            best.append(max(float((one.logits(test.values).argmax(1) == test.labels).mean()) for one in fitted))
        rows.append(
            {
                "model": model,
                "method": FLATTERED,
                "shots": count,
                "median": float(np.median(best)),
                "lowest": min(best),
                "highest": max(best),
                "runs": SEEDS,
                "failed": 0,
            }
        )
    curves: dict[str, list[tuple[int, float, float, float]]] = {}
    for row in rows:
        point = (row["shots"], row["median"], row["lowest"], row["highest"])
        curves.setdefault(row["method"], []).append(point)
    seconds = {}
    for line in (runs / "runs.jsonl").read_text().splitlines():
        run = json.loads(line)
        seconds.setdefault((run["method"], run["shots"]), []).append(run["seconds"])
    median_seconds = [[*key, float(np.median(values))] for key, values in seconds.items()]
    draw_shots(curves, output / "transfer_shots.png")
    lines = ["| method | " + " | ".join(f"{count} a class" for count in SHOTS) + " |", "|---" * (len(SHOTS) + 1) + "|"]
    for name, points in curves.items():
        lines.append(
            f"| {name} | "
            + " | ".join(f"{100 * p[1]:.1f} ({100 * p[2]:.1f} to {100 * p[3]:.1f})" for p in points)
            + " |"
        )
    write(output / "transfer_shots", {"test_images": len(test), "rows": rows, "seconds": median_seconds}, lines)


def write(path: Path, content: dict[str, object], lines: list[str]) -> None:
    machine = {"cpus": available_cpus(), "platform": platform.platform(), "load": os.getloadavg()[0]}
    versions = installed_versions(("torch", "timm", "numpy", "scikit-learn", "cleanlab"))
    path.with_suffix(".json").write_text(
        json.dumps({**content, "machine": machine, "versions": versions}, indent=1) + "\n"
    )
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("results"))
    parser.add_argument("-m", "--model", default="embedded")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    shots(args.data, args.output, args.model)


if __name__ == "__main__":
    main()
