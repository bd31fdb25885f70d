"""Does a pool without labels pretrain a student better with a hierarchy, without one, or not at all?

    python benchmarks/semantic_pool.py caltech/pool caltech/train caltech/test --work work

The teacher (`embedded`, 1,000 classes) sees the pool in `--teacher-size` pixels. The student learns from it by

    nothing     random weights
    flat        USI without labels: the teacher's softmax over its classes
    hierarchy   `semantic_unlabelled`: the teacher's shares of every level of WordNet's tree

with the same batches, so the teacher is asked once. Then the student is trained on `--labelled` images of each of
`--classes` classes with the recipe `finetune`, and tested on all test images of them. A seed draws the order and the
new head. Each finished run is a line of `--rows` at once and is not run again; hours are CPU hours of one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from small_sets import shrink
from usi import read_rows, top1

from miil21k.errors import Miil21kError
from miil21k.train.launch import train_model
from miil21k.train.options import TrainRequest
from miil21k.train.recipes import RECIPES

HERE = Path(__file__).parent
STARTS = {"nothing": "", "flat": "usi", "hierarchy": "semantic_unlabelled"}


def main() -> int:
    args = arguments()
    torch.set_num_threads(1)
    try:
        if not args.report:
            run(args)
        print(report(read_rows(args.rows)), end="")
    except Miil21kError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path, nargs="?", help="folder of pictures")
    parser.add_argument("train", type=Path, nargs="?", help="class folders")
    parser.add_argument("test", type=Path, nargs="?", help="class folders")
    parser.add_argument("--work", type=Path, default=Path("semantic_pool"))
    parser.add_argument("--model", default="resnet10t")
    parser.add_argument("--teacher", default="embedded")
    parser.add_argument("--classes", type=int, default=30)
    parser.add_argument("--pool-images", type=int, default=0, help="of the pool; 0: all")
    parser.add_argument("--labelled", type=int, default=10, help="images of a class")
    parser.add_argument("--pool-epochs", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20, help="on labelled images")
    parser.add_argument("--batch", type=int, default=64, help="of the pool; half of it on labelled images")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--teacher-size", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=Path, default=HERE / "results" / "semantic_pool.jsonl")
    parser.add_argument("--report", action="store_true", help="train nothing; print what --rows holds")
    args = parser.parse_args()
    if not args.report and args.test is None:
        parser.error("POOL, TRAIN and TEST are needed to train")
    return args


def run(args: argparse.Namespace) -> None:
    """Train what `--rows` lacks."""
    side = args.teacher_size
    args.work.mkdir(parents=True, exist_ok=True)
    pool = shrink(args.pool, args.work / f"pool-{side}-{args.pool_images}", side, args.pool_images)
    train = shrink(args.train, args.work / f"train-{side}-{args.labelled}", side, args.labelled, args.classes)
    test = shrink(args.test, args.work / f"test-{side}", side, 0, args.classes)
    setting = {
        name: getattr(args, name)
        for name in (
            "model",
            "classes",
            "labelled",
            "pool_images",
            "pool_epochs",
            "epochs",
            "batch",
            "size",
            "teacher_size",
        )
    }
    rows = read_rows(args.rows)
    for start, objective in STARTS.items():
        pretrained = args.work / f"{start}-{args.pool_epochs}" / "last_ema.safetensors"
        key = {**setting, "start": start}
        if objective and not pretrained.exists():
            recipe = replace(
                RECIPES["usi"], objective=objective, teacher=args.teacher, teacher_image_size=side, repeats=1,
                label_weight=1.0 if objective == "semantic_unlabelled" else 0.0, kd_weight=1.0, epochs=args.pool_epochs,
                batch_size=args.batch, image_size=args.size, precision="bf16", pretrained=False, warmup_epochs=1,
                cooldown_epochs=0,
            )  # fmt: skip
            request = TrainRequest(
                str(pool), args.model, start, recipe, pretrained.parent, workers=0, device="cpu",
                teacher_cache=str(args.work / f"cache-{args.pool_epochs}"), teacher_cache_top_k=1000,
            )  # fmt: skip
            add(args.rows, rows, {**key, "seed": None, "hours": hours_of(request)})
        for seed in args.seeds:
            if any({**key, "seed": seed}.items() <= row.items() for row in rows):
                continue
            recipe = replace(
                RECIPES["finetune"], epochs=args.epochs, batch_size=args.batch // 2, lr=1e-3, image_size=args.size,
                policy="", random_erase=0.0, precision="bf16", pretrained=False, warmup_epochs=1, seed=seed,
                schedule_step="update",
            )  # fmt: skip
            model = str(pretrained) if objective else args.model
            folder = args.work / f"{start}-{args.pool_epochs}-{args.epochs}-{seed}"
            request = TrainRequest(str(train), model, "finetune", recipe, folder, workers=0, device="cpu")
            hours = hours_of(request)
            found = top1(folder / "last.safetensors", str(test))
            add(args.rows, rows, {**key, "seed": seed, "top1": found, "hours": hours})


def hours_of(request: TrainRequest) -> float:
    """Train, and return the CPU hours that it took."""
    began = time.process_time()
    train_model(request, overwrite=True)
    return round((time.process_time() - began) / 3600, 5)


def add(path: Path, rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    """Add a row to the file and to `rows`."""
    rows.append(row)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), file=sys.stderr, flush=True)


def report(rows: list[dict[str, Any]]) -> str:
    """Return the table as Markdown; the interval is that of a t-distribution over seeds where there are three."""
    lines = ["| start | setting | top-1 of the seeds | mean | minutes on the pool |", "|---|---|---|---|---|"]
    seen = list(
        dict.fromkeys(json.dumps({k: v for k, v in row.items() if k not in ("seed", "top1", "hours")}) for row in rows)
    )
    for text in seen:
        key = json.loads(text)
        of = [row for row in rows if key.items() <= row.items()]
        values = [100 * row["top1"] for row in of if "top1" in row]
        spent = sum(60 * row["hours"] for row in of if row["seed"] is None)
        if values:
            mean = f"{statistics.mean(values):.1f}"
            if len(values) == 3:
                mean += f" ± {4.303 * statistics.stdev(values) / math.sqrt(3):.1f}"
            setting = f"{key['classes']} classes x {key['labelled']}, {key['pool_epochs']} + {key['epochs']} epochs"
            listed = ", ".join(f"{value:.1f}" for value in values)
            lines.append(f"| {key['start']} | {setting} | {listed} | {mean} | {spent:.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
