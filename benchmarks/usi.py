"""One recipe for every backbone? USI against each family's usual recipe, on small pictures, from random weights.

    python benchmarks/usi.py caltech/train caltech/test --work work
    python benchmarks/usi.py cifar10/train cifar10/test --work cifar --name CIFAR-10 --most 500
    python benchmarks/usi.py --report --picture usi.png

Data: class folders, shrunk once to `--shrink` pixels, `--classes` of them. The teacher is `embedded`, fine-tuned on the
same images first; it sees the student's pictures in its own size. Every run has the same images, epochs, batch and
picture size; what differs is the recipe:

    usual   what timm and the papers of the family train it with (`FAMILIES`)
    usi     the recipe of that name, the same numbers for all: only epochs, batch and picture size are the command
            line's, and `repeats` is 1. The first family of a mean asks the teacher, the others reuse what it said
    kd      the same, without labels
    asked   `usi` once more, without reuse

With `--rates published` no learning rate is scaled to the batch. With `root` all are, USI's too: those of SGD in
proportion, those of AdamW and LAMB by the square root. With `linear` the usual ones are, in proportion, which leaves
AdamW and LAMB almost nothing in a short run of small batches.

Each finished run is a line of `--rows` at once, and is not run again. Hours are CPU hours of one thread. Top-1 is that
of the last epoch; the run keeps the average of the weights where it has one, and both are given.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from dots import draw_dots
from small_sets import shrink

from miil21k.data.datasets import label_images, open_source
from miil21k.errors import Miil21kError
from miil21k.train.evaluation import Evaluation
from miil21k.train.launch import train_model
from miil21k.train.options import TrainRequest
from miil21k.train.processes import Processes
from miil21k.train.recipe import Recipe
from miil21k.train.recipes import RECIPES
from miil21k.zoo.checkpoint_card import load_trained
from miil21k.zoo.timm_config import own_preprocess

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
RECIPE_NAMES = ("usual", "usi", "kd", "asked")
RATES = ("published", "root", "linear")
USI_BATCH = 1024  # 8 processes of 128
TITLES = {"usual": "its usual recipe", "usi": "USI", "kd": "USI without labels"}
SETTING = ("data", "cut", "precision", "epochs", "batch", "size", "rates")
DEIT = Recipe(
    "cross_entropy",
    label_smoothing=0.1,
    optimizer="adamw",
    lr=5e-4,  # at 512 images an update
    weight_decay=0.05,
    schedule="cosine",
    schedule_step="update",
    warmup_lr=1e-6,
    min_lr=1e-5,
    interpolation="bicubic",
    crop="random",
    hflip=0.5,
    policy="rand-m9-mstd0.5-inc1",
    cutout=0.0,
    random_erase=0.25,
    mixup=0.8,
    cutmix=1.0,
    eval_crop_pct=0.95,
)
# family: (what timm builds, its constructor's arguments, the usual recipe, the batch that its rate is for)
FAMILIES: dict[str, tuple[str, tuple[str, ...], Recipe, int]] = {
    "resnet": (  # Bag of Tricks: SGD with Nesterov's momentum, smoothing, mixup, no policy
        "resnet10t",
        ("channels=(32, 64, 128, 256)",),
        replace(DEIT, optimizer="sgd", lr=0.1, weight_decay=1e-4, policy="", random_erase=0.0, mixup=0.2, cutmix=0.0),
        256,
    ),
    "mobilenet": (  # mobilenetv3_small_050.lamb_in1k: LAMB and light augmentation, as in ResNet strikes back
        "mobilenetv3_small_050",
        (),
        replace(
            DEIT,
            optimizer="lamb",
            lr=5e-3,
            weight_decay=0.02,
            label_smoothing=0.0,
            policy="rand-m6-mstd0.5-inc1",
            random_erase=0.0,
            mixup=0.1,
        ),
        2048,
    ),
    "vit": (  # DeiT
        "deit_tiny_patch16_224",
        ("patch_size=8", "embed_dim=96", "depth=6", "num_heads=3"),
        DEIT,
        512,
    ),
    "resmlp": ("resmlp_12_224", (), replace(DEIT, optimizer="lamb", lr=5e-3, weight_decay=0.2), 2048),  # ResMLP
}


def main() -> int:
    args = arguments()
    torch.set_num_threads(1)
    try:
        if not args.report:
            run(args)
        print(report(read_rows(args.rows)), end="")
        if args.picture:
            draw(read_rows(args.rows), args.picture)
    except Miil21kError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, nargs="?", help="class folders")
    parser.add_argument("test", type=Path, nargs="?", help="class folders")
    parser.add_argument("--work", type=Path, default=Path("usi"), help="folder of runs (default: %(default)s)")
    parser.add_argument("--name", default="Caltech-101", help="what the data are called (default: %(default)s)")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--recipes", nargs="+", choices=RECIPE_NAMES, default=list(RECIPE_NAMES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rates", choices=RATES, default="published", help="(default: %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="side of the student's pictures (default: %(default)s)")
    parser.add_argument("--teacher-size", type=int, default=128, help="and of the teacher's (default: %(default)s)")
    parser.add_argument("--teacher-epochs", type=int, default=5)
    parser.add_argument("--teacher-head", action="store_true", help="train the teacher's head alone, which is quick")
    parser.add_argument("--shrink", type=int, default=128, help="shorter side of the data (default: %(default)s)")
    parser.add_argument("--most", type=int, default=0, help="images of a class; 0: all")
    parser.add_argument("--test-most", type=int, default=0, help="images of a class to test on; 0: as --most")
    parser.add_argument("--classes", type=int, default=0, help="classes; 0: all")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="(default: %(default)s)")
    parser.add_argument("--hours", type=float, default=8.0, help="stop before a run when so many are spent")
    parser.add_argument("--rows", type=Path, default=HERE / "results" / "usi.jsonl")
    parser.add_argument("--report", action="store_true", help="train nothing; print what --rows holds")
    parser.add_argument("--picture", type=Path, help="PNG to draw from rows of several seeds")
    args = parser.parse_args()
    if not args.report and args.test is None:
        parser.error("TRAIN and TEST are needed to train")
    return args


def run(args: argparse.Namespace) -> None:
    """Train what `--rows` lacks, the teacher first."""
    args.work.mkdir(parents=True, exist_ok=True)
    cut = f"{args.shrink}-{args.most}-{args.classes}-{args.test_most or args.most}"
    train, test = (
        str(shrink(source, args.work / f"{part}-{cut}", args.shrink, most, args.classes))
        for part, source, most in (("train", args.train, args.most), ("test", args.test, args.test_most or args.most))
    )
    setting = {"data": args.name, "cut": cut, "precision": args.precision}
    setting |= {"epochs": args.epochs, "batch": args.batch, "size": args.size, "rates": args.rates}
    rows = read_rows(args.rows)
    teacher = args.work / "teacher" / "last.safetensors"
    if not teacher.exists():
        recipe = replace(
            RECIPES["finetune"], epochs=args.teacher_epochs, batch_size=args.batch, lr=1e-3, policy="",
            random_erase=0.0, image_size=args.teacher_size, precision=args.precision, warmup_epochs=1,
            schedule_step="update",
        )  # fmt: skip
        if args.teacher_head:
            recipe = replace(recipe, freeze="backbone", lr=1e-2)
        request = TrainRequest(train, "embedded", "finetune", recipe, teacher.parent, workers=0, device="cpu")
        finish(args.rows, rows, {**setting, "family": "teacher", "recipe": "finetune", "seed": 42}, request, test)
    for family, name, seed in order(args):
        key = {**setting, "family": family, "recipe": name, "seed": seed}
        spent = sum(row["hours"] for row in rows)
        if any(key.items() <= row.items() for row in rows):
            continue
        if spent >= args.hours:
            print(f"{spent:.2f} hours are spent: stopping before {family}, {name}, seed {seed}", file=sys.stderr)
            return
        finish(args.rows, rows, key, request_of(args, key, train, str(teacher)), test)


def order(args: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Yield (family, recipe, seed), so that a table begun is a table of all families."""
    for seed in args.seeds:
        for name in args.recipes:
            for family in args.families:
                yield family, name, seed


def request_of(args: argparse.Namespace, key: dict[str, Any], train: str, teacher: str) -> TrainRequest:
    """Return what trains one student."""
    arch, words, usual, its_batch = FAMILIES[key["family"]]
    shared = {"epochs": args.epochs, "batch_size": args.batch, "image_size": args.size, "seed": key["seed"]}
    shared |= {"precision": args.precision, "pretrained": False, "warmup_epochs": 1, "cooldown_epochs": 0}
    if key["recipe"] == "usual":
        recipe = replace(scaled(usual, args, its_batch), **shared)
    else:
        usi = RECIPES["usi"] if args.rates == "linear" else scaled(RECIPES["usi"], args, USI_BATCH)
        recipe = replace(usi, teacher=teacher, teacher_image_size=args.teacher_size, repeats=1, **shared)
        if key["recipe"] == "kd":
            recipe = replace(recipe, label_weight=0.0)
    mean = "-".join(
        f"{value:.3f}" for value in own_preprocess(arch).mean
    )  # by which policies fill: see docs/training.md
    cache = str(args.work / f"answers-{key['seed']}-{args.epochs}-{mean}") if key["recipe"] in ("usi", "kd") else None
    folder = args.work / "-".join(str(part) for part in key.values())
    # The teacher's whole answer is kept, so that `usi` and `asked` differ by half precision alone.
    return TrainRequest(
        train,
        arch,
        key["recipe"],
        recipe,
        folder,
        model_kwargs=words or None,
        workers=0,
        device="cpu",
        teacher_cache=cache,
        teacher_cache_top_k=1000,
        label_space=train,
    )


def scaled(recipe: Recipe, args: argparse.Namespace, its_batch: int) -> Recipe:
    """Return the recipe with its learning rate for `--batch`, by the rule of `--rates`."""
    share = args.batch / its_batch
    by_root = args.rates == "root" and recipe.optimizer != "sgd"
    return recipe if args.rates == "published" else replace(recipe, lr=recipe.lr * (share**0.5 if by_root else share))


def finish(path: Path, rows: list[dict[str, Any]], key: dict[str, Any], request: TrainRequest, test: str) -> None:
    """Train, evaluate the weights and their average, and add the row."""
    said: list[str] = []
    began = time.process_time()
    train_model(request, say=said.append, overwrite=True)
    hours = (time.process_time() - began) / 3600
    found = {"top1": top1(request.folder / "last.safetensors", test)}
    averaged = request.folder / "last_ema.safetensors"
    if averaged.exists():
        found["ema_top1"] = top1(averaged, test)
    asked = [line for line in said if line.startswith("The teacher was asked")]
    row = {**key, **found, "hours": round(hours, 5), "teacher": asked[0].partition(";")[0] if asked else ""}
    rows.append(row)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), file=sys.stderr, flush=True)


def top1(checkpoint: Path, test: str) -> float:
    """Return the share of the test images whose class has the largest logit."""
    model, card = load_trained(checkpoint)
    images = label_images(open_source(test), card.space, partial=True)
    recipe = replace(RECIPES["usi"], precision="fp32", batch_size=64)
    return round(Evaluation(images, card.head, card.preprocess, recipe, Processes())(model)["top1"], 4)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of finished runs."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def report(rows: list[dict[str, Any]]) -> str:
    """Return the tables as Markdown: a line for each family, mean over seeds and their number."""
    lines = []
    settings = sorted({tuple(row[name] for name in SETTING) for row in rows})
    for setting in settings:
        here = [row for row in rows if tuple(row[name] for name in SETTING) == setting]
        teacher = next((row["top1"] for row in here if row["family"] == "teacher"), None)
        data, cut, precision, epochs, batch, size, rates = setting
        hours = sum(row["hours"] for row in here)
        run_as = f"{epochs} epochs, batch {batch}, {size} pixels, {precision}, {rates} rates"
        lines += [
            f"{data} ({cut}), {run_as}; teacher {teacher}; {hours:.3f} hours",
            "",
            "| family | recipe | top-1 | of the average | seeds | minutes a run |",
            "|---|---|---|---|---|---|",
        ]
        for family in FAMILIES:
            for name in RECIPE_NAMES:
                of = [row for row in here if (row["family"], row["recipe"]) == (family, name)]
                if of:
                    lines.append(
                        f"| {family} | {name} | {mean(of, 'top1')} | {mean(of, 'ema_top1')} | {len(of)} | "
                        f"{60 * statistics.mean(row['hours'] for row in of):.2f} |"
                    )
        lines.append("")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the top-1 of every run, a panel for each setting of several seeds."""
    panels: dict[str, dict[str, list[float]]] = {}
    students = [row for row in rows if row["family"] != "teacher"]
    repeated = {tuple(row[name] for name in SETTING) for row in students if row["seed"] != students[0]["seed"]}
    for row in students:
        if tuple(row[name] for name in SETTING) not in repeated:
            continue
        title = f"{row['data']}, {row['epochs']} epochs, {row['size']} pixels,\n{row['rates']} rates: top-1, %"
        panel = panels.setdefault(title, {})
        for family in FAMILIES:
            for recipe, title in TITLES.items():
                values = panel.setdefault(f"{family}, {title}", [])
                if (row["family"], row["recipe"]) == (family, recipe):
                    values.append(row["top1"])
    draw_dots(panels, path)


def mean(rows: list[dict[str, Any]], name: str) -> str:
    """Return the mean in per cent, with the range where there are several seeds."""
    values = [100 * row[name] for row in rows if name in row]
    if not values:
        return ""
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
