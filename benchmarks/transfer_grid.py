"""How much a pretraining forgives: fine-tuning over a grid from semantic-softmax, single-label and drawn weights.

    python benchmarks/transfer_grid.py --cifar cifar10_images.zip
    python benchmarks/transfer_grid.py --report

timm's `test_resnet` learns CIFAR-10's blurred labels (see `semantic_softmax.py`: half of them are replaced by a random
ancestor) once with semantic softmax and once as single labels, from the same drawn weights, on the same images in the
same order. `miil21k transfer grid` then trains each of the two, and the drawn weights, on some images of Fashion-MNIST.
Norms keep their statistics there, so those of the drawn weights come from CIFAR-10's images too. Points that are in the
working folder are not trained again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from blurred_sets import FASHION, ImageSet, blur, load_cifar, load_fashion
from blurred_training import STATS, normalised, objective_of, train
from PIL import Image
from transfer_rows import Lines

from miil21k.train.state import save_weights
from miil21k.transfer.grid import falls, run_grid
from miil21k.transfer.options import GridOptions, TransferOptions
from miil21k.transfer.pictures import draw_grid
from miil21k.zoo.checkpoint_card import TrainedCard
from miil21k.zoo.schema import Preprocess

if TYPE_CHECKING:
    from torch import nn

HERE = Path(__file__).parent
OUT = HERE / "results" / "transfer_grid.jsonl"
SCHEMES = ("semantic", "single", "drawn")
ARCHITECTURE = "test_resnet"
POINT = ("model", "optimizer", "lr", "weight_decay")


def main() -> None:
    args = arguments()
    if not args.report:
        run(args)
    print(report(Lines(args.out, POINT), args.picture))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, help="zip of train/<class>/*.jpg and test/<class>/*.jpg")
    parser.add_argument("--fashion", type=Path, default=Path("/usr/share/datasets/fashion-mnist"), help="folder")
    parser.add_argument("--pretrain-images", type=int, default=6000)
    parser.add_argument("--pretrain-epochs", type=int, default=3)
    parser.add_argument("--images", nargs=2, type=int, default=[300, 500], help="to learn from, and to judge by")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--optimizers", nargs="+", default=["adam", "adamw", "sgd"])
    parser.add_argument("--lrs", nargs="+", type=float, default=[2e-4, 2e-3, 2e-2])
    parser.add_argument("--weight-decays", nargs="+", type=float, default=[1e-4])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "transfer_grid")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--picture", type=Path, default=HERE.parent / "docs" / "benchmarks_transfer_grid.png")
    parser.add_argument("--report", action="store_true", help="train nothing; print and draw what --out holds")
    args = parser.parse_args()
    if not args.report and args.cifar is None:
        parser.error("--cifar is needed to train")
    return args


def run(args: argparse.Namespace) -> None:
    cifar = None
    for scheme in SCHEMES:
        if not weights_of(args, scheme).exists():
            cifar = cifar or load_cifar(args.cifar, args.pretrain_images, 10)
            pretrain(args, cifar, scheme)
    data = fashion_folder(args)
    settings = TransferOptions(data=str(data), img_size=32, epochs=args.epochs, backend="torch", workers=0, threads=1)
    models = tuple(str(weights_of(args, scheme)) for scheme in SCHEMES)
    options = GridOptions(models, tuple(args.optimizers), tuple(args.lrs), tuple(args.weight_decays), settings)
    lines = Lines(args.out, POINT)
    rows = args.work / "grid" / "runs.jsonl"

    def say(_: str) -> None:
        """Take over what is new: a point is a line as soon as it is trained."""
        for line in rows.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            own = row | {"model": Path(row["model"]).stem}
            if not lines.has(**own):
                lines.add(**own)
                lines.start()

    run_grid(options, args.work / "grid", say=say, resume=True)


def weights_of(args: argparse.Namespace, scheme: str) -> Path:
    return args.work / f"{scheme}.safetensors"


def pretrain(args: argparse.Namespace, data: ImageSet, scheme: str) -> None:
    """Write the network as a checkpoint: trained by the scheme, or drawn."""
    torch.manual_seed(0)
    card = TrainedCard(
        ARCHITECTURE,
        {},
        "level_softmax" if scheme == "semantic" else "leaf_softmax",
        data.space,
        Preprocess((3, 32, 32), "bilinear", 1.0, "squash", *STATS, f"transfer_grid, {scheme}"),
        scheme,
        {},
    )
    network = card.build()
    if scheme == "drawn":
        fill_statistics(network, data)
    else:
        objective = objective_of(scheme, data.space.tree, None)
        labels = blur(data.space.tree, data.train_labels, 0.5, seed=21)
        train(network, objective, data.train_images, labels, args.pretrain_epochs, seed=0)
    weights_of(args, scheme).parent.mkdir(parents=True, exist_ok=True)
    save_weights(weights_of(args, scheme), network.state_dict(), card.to_metadata())


def fill_statistics(network: nn.Module, data: ImageSet) -> None:
    """Let batch norms see images once: drawn weights have no statistics."""
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(normalised(torch.from_numpy(data.train_images[::10])))
    for norm in norms:
        norm.momentum = 0.1


def fashion_folder(args: argparse.Namespace) -> Path:
    """Return a folder of train/<class>/ and test/<class>/ with the first images."""
    root = args.work / "fashion-{}-{}".format(*args.images)
    if root.exists():
        return root
    data = load_fashion(args.fashion, *args.images)
    part = root.with_name(f".{root.name}.part")
    names = [name.replace("/", " or ") for name in FASHION]
    for where, images, labels in (
        ("train", data.train_images, data.train_labels),
        ("test", data.test_images, data.test_labels),
    ):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = part / where / names[label] / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(path)
    part.rename(root)
    return root


def report(lines: Lines, picture: Path) -> str:
    """Return the table of falls; draw the heat map."""
    rows = sorted(lines, key=lambda row: SCHEMES.index(row["model"]))
    draw_grid(rows, picture)
    table = ["| weights | best point | its accuracy | median fall | worst fall | diverged |", "|---" * 6 + "|"]
    for row in falls(rows):
        point = "{optimizer}, {lr:g}, {weight_decay:g}".format(**row["point"])
        table.append(
            f"| {row['model']} | {point} | {row['best']:.1%} | {100 * row['median_fall']:.1f} points | "
            f"{100 * row['worst_fall']:.1f} points | {row['diverged']} |"
        )
    return "\n".join(table)


if __name__ == "__main__":
    main()
