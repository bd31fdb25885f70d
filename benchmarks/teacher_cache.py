"""What a teacher cache saves, and what keeping the largest shares alone costs in loss.

    python benchmarks/teacher_cache.py caltech/train --teacher embedded --label-space in1k
    python benchmarks/teacher_cache.py caltech/train --teacher runs/teacher/best.safetensors --model resnet10t

DATA is trained on by USI without labels, so that its folders may be of any classes; the student is `--model`. First
part: CPU seconds of the same run without a cache, with an empty one and with the filled one, and the bytes on disk.
Second part, for a student with random weights and for the one just trained (or `--student`), over `--images` mixed
images: the mean divergence from the teacher over all classes, that over the K largest and the rest, and the cosine
between the gradients of both with respect to the logits. Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from miil21k.data.datasets import open_source, unlabelled_images
from miil21k.data.loader import EpochSampler, training_loader
from miil21k.errors import Miil21kError
from miil21k.train import losses
from miil21k.train.job import augmentation_of
from miil21k.train.launch import train_model
from miil21k.train.mixing import Mixing
from miil21k.train.options import TrainRequest
from miil21k.train.recipes import RECIPES
from miil21k.train.step import normalised
from miil21k.train.teacher_memory import bytes_of_image, shorten
from miil21k.train.teachers import open_teacher
from miil21k.zoo.checkpoint_card import load_trained


def main() -> int:
    args = arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            measure(args, Path(folder))
    except Miil21kError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="pictures, in folders of any names")
    parser.add_argument("--teacher", default="embedded")
    parser.add_argument("--label-space", default=None, help="where the teacher's is not to be the student's")
    parser.add_argument("--model", default="resnet10t")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--teacher-size", type=int, default=128)
    parser.add_argument("--top-k", type=int, nargs="+", default=[1, 5, 10, 20, 50, 100])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--student", type=Path, help="a trained checkpoint for the second part, instead of that run's")
    return parser.parse_args()


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Print both parts."""
    recipe = replace(
        RECIPES["usi"], teacher=args.teacher, teacher_image_size=args.teacher_size, label_weight=0.0, repeats=1,
        epochs=args.epochs, batch_size=args.batch, image_size=args.size, precision="bf16", pretrained=False,
        warmup_epochs=0, cooldown_epochs=0,
    )  # fmt: skip
    request = TrainRequest(
        args.data, args.model, "usi", recipe, folder / "none", workers=0, device="cpu", label_space=args.label_space
    )
    print(f"{args.model}, {args.epochs} epochs of {args.size} pixels; {args.teacher} sees {args.teacher_size}\n")
    print("| teacher's answers | CPU s of the run | MB on disk |\n|---|---|---|")
    for name in ("none", "asked", "remembered"):
        cache = None if name == "none" else str(folder / "cache")
        began = time.process_time()
        train_model(replace(request, folder=folder / name, teacher_cache=cache, teacher_cache_top_k=50))
        taken = time.process_time() - began
        held = sum(path.stat().st_size for path in (folder / "cache").glob("*.safetensors")) / 1e6
        print(f"| {name} | {taken:.1f} | {held:.2f} |", flush=True)
    print("\n| student | K | bytes an image | divergence | over K and the rest | cosine of the gradients |")
    print("|---|---|---|---|---|---|")
    trained, card = load_trained(args.student or folder / "none" / "last.safetensors")
    opened = open_teacher(recipe)
    assert opened is not None
    teacher = opened.teach(recipe, card.space, card.preprocess, "leaf_softmax")
    images = unlabelled_images(open_source(args.data), card.space)
    loader = training_loader(
        images, augmentation_of(recipe, card.preprocess), EpochSampler(len(images), args.batch, 1), 0
    )
    students = {"random": card.build().eval(), "trained": trained}
    mixing, taught, said = Mixing(0.8, 1.0, 1.0, 0.5), [], {name: [] for name in students}
    with torch.no_grad():
        for batch in loader:
            mixed, _ = mixing(normalised(batch.images, card.preprocess))
            taught.append(teacher(mixed))
            for name, student in students.items():
                said[name].append(student(mixed))
            if len(taught) * args.batch >= args.images:
                break
    answers = torch.cat(taught)
    for name, outputs in said.items():
        logits = torch.cat(outputs).requires_grad_()
        whole = losses.teacher_kl(logits, answers)
        (exact,) = torch.autograd.grad(whole, logits)
        for top_k in sorted({min(k, answers.shape[1]) for k in args.top_k}):
            part = losses.top_kl(logits, shorten(answers, top_k))
            (found,) = torch.autograd.grad(part, logits)
            cosine = torch.cosine_similarity(exact.flatten(), found.flatten(), dim=0)
            print(f"| {name} | {top_k} | {bytes_of_image([top_k])} | {whole:.3f} | {part:.3f} | {cosine:.4f} |")


if __name__ == "__main__":
    sys.exit(main())
