"""Few-shot accuracy of our probes against a ridge that sees the test images, and a transfer against scikit-learn.

    python benchmarks/transfer.py shots caltech101 -o results/transfer     # caltech101/{train,test}/<class>/
    python benchmarks/transfer.py five caltech101 --classes n02219486 n02007558 -o results/transfer

`shots`: k images of each class, five random subsets, medians; the strengths of our probes are chosen out of fold. The
peer is a plain closed-form ridge on the same features of the same subsets, its strength chosen on the test images, so
that it is flattered. `five`: `miil21k transfer` on 20 images of each named class, judged on their test images, against
what people write in its place: torch and timm from the same weights for the features, scikit-learn's
LogisticRegressionCV on them; both as a process of its own, timed as a whole.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from miil21k.data.datasets import label_images, open_source
from miil21k.environment import available_cpus, installed_versions
from miil21k.hierarchy.load import load_own
from miil21k.metrics.shares import wilson_interval
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


def five(data: Path, output: Path, model: str, classes: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for part, most in (("train", 20), ("test", None)):
            for name in classes:
                (root / "five" / part / name).mkdir(parents=True)
                for path in sorted((data / part / name).iterdir())[:most]:
                    shutil.copy(path, root / "five" / part / name / path.name)
        ours = [
            sys.executable,
            "-m",
            "miil21k",
            "transfer",
            str(root / "five"),
            "-o",
            str(root / "ours"),
            "-m",
            model,
            "-q",
        ]
        rows = {}
        for name, words in (
            ("miil21k transfer, whole", [*ours]),
            ("miil21k transfer --method probe", [*ours, "--method", "probe", "--overwrite"]),
            ("torch features and scikit-learn", [sys.executable, __file__, "peer", str(root / "five"), "-m", model]),
        ):
            began, used = time.monotonic(), os.times()
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            after = os.times()
            cpu = after.children_user + after.children_system - used.children_user - used.children_system
            if "transfer" in words:
                report = json.loads((root / "ours" / "report.json").read_text())
                right, count, how = report["accuracy"], report["num_test"], report["method"]
            else:
                right, count = json.loads(done.stdout)
                how = "logistic regression"
            low, high = wilson_interval(right, count)
            rows[name] = {
                "accuracy": right,
                "low": float(low),
                "high": float(high),
                "test": count,
                "method": how,
                "seconds": time.monotonic() - began,
                "cpu_seconds": cpu,
            }
    lines = ["| way | accuracy (95 % band) | chosen | seconds | CPU seconds |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {row['accuracy']:.1%} ({row['low']:.1%} to {min(1, row['high']):.1%}) of {row['test']} | "
        f"{row['method']} | {row['seconds']:.0f} | {row['cpu_seconds']:.0f} |"
        for name, row in rows.items()
    ]
    write(output / "transfer_five", {"classes": classes, "rows": rows}, lines)


def peer(data: Path, model: str) -> None:
    """Do what people write: a timm network in torch, its own transform, LogisticRegressionCV."""
    import timm
    import torch
    from PIL import Image
    from sklearn.linear_model import LogisticRegressionCV

    import miil21k

    network = miil21k.create_model(model, pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=network))
    names = sorted(path.name for path in (data / "train").iterdir())
    found = {}
    with torch.inference_mode():
        for part in ("train", "test"):
            paths = [
                (path, label) for label, name in enumerate(names) for path in sorted((data / part / name).iterdir())
            ]
            rows = [
                network(
                    torch.stack([transform(Image.open(path).convert("RGB")) for path, _ in paths[start : start + 16]])
                )
                for start in range(0, len(paths), 16)
            ]
            found[part] = torch.cat(rows).numpy(), np.array([label for _, label in paths])
    classifier = LogisticRegressionCV(cv=5, max_iter=1000).fit(*found["train"])
    print(json.dumps([float(classifier.score(*found["test"])), len(found["test"][1])]))


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
    parser.add_argument("part", choices=["shots", "five", "peer"])
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("results"))
    parser.add_argument("-m", "--model", default="embedded")
    parser.add_argument("--classes", nargs="+", default=[])
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if args.part == "shots":
        shots(args.data, args.output, args.model)
    elif args.part == "five":
        five(args.data, args.output, args.model, args.classes)
    else:
        peer(args.data, args.model)


if __name__ == "__main__":
    main()
