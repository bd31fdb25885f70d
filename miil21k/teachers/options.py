"""How images are selected: one frozen value with every option and its default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from miil21k.errors import UsageError
from miil21k.options import check, described, option, option_again
from miil21k.predict.options import AnswerOptions, RunOptions
from miil21k.runtime.options import ComputeOptions, ModelOptions
from miil21k.train.options import TrainRequest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["LEAST_CONCEPT", "STEPS", "On", "SelectOptions", "SemisupOptions", "Training"]

On = Literal["classes", "concepts"]
LEAST_CONCEPT = 0.01  # what a concept needs to be listed at all: most of some 13,000 are far below


@described
@dataclass(frozen=True)
class SelectOptions:
    """Which images are selected for which classes, and where they go."""

    per_class: int = option(
        16_000,
        "images per class, the best by score (K; the paper: 16,000 of YFCC100M, 64,000 of IG-1B)",
        flags="--per-class -K",
        metavar="K",
        least=1,
    )
    per_image: int = option(
        10,
        "classes for which an image may stand, its best ones (P; the paper: 10)",
        flags="--per-image -P",
        metavar="P",
        least=1,
    )
    on: On = option(
        "classes",
        "what an image stands for: classes, scored by P(exactly this class), or concepts, the most informative ones of "
        "those that are probable enough, scored by P(this class or one below it)",
        choices=get_args(On),
    )
    threshold: float = option(
        0.0,
        "least score of an image for a class (concepts: at least 0.01)",
        flags="--threshold --conf",
        metavar="P",
        least=0,
        most=1,
    )
    under: Sequence[str] | str | None = option_again(
        AnswerOptions, "under", None, "only classes at or below this concept, repeatable"
    )
    classes: Sequence[str] | str | None = option_again(AnswerOptions, "classes", None)
    exclude: Sequence[str] | str | None = option_again(AnswerOptions, "exclude", None)
    rule: str | None = option_again(AnswerOptions, "rule", None)
    calibration: str | Path | None = option_again(AnswerOptions, "calibration", None)
    include_removed_labels: bool = option_again(AnswerOptions, "include_removed_labels", False)
    memory: float = option(
        2.0, "GB of memory, about, for what is selected so far; what is more goes to disk", metavar="GB", above=0
    )
    output: str | Path = option("selected.parquet", "the list: .parquet or .csv", flags="-o --output", metavar="FILE")
    held_out: str | Path | None = option(
        None,
        "class folders, shards or a list that must not be trained on: warn of those that were selected",
        metavar="DIR",
    )
    shards: str | Path | None = option(
        None,
        "also copy the selected images into tar shards there, shuffled: for training at scale; paths start here",
        metavar="DIR",
    )
    shard_size: int = option(10_000, "images per shard", metavar="N", least=1)
    recursive: bool = option_again(RunOptions, "recursive", False)
    resume: bool = option(False, "go on with FILE after an interruption", one_of="existing")
    overwrite: bool = option(False, "replace FILE", one_of="existing")
    engine: Literal["local", "ray"] | None = option_again(RunOptions, "engine", None)
    address: str | None = option_again(RunOptions, "address", None)

    def __post_init__(self) -> None:
        check(self)
        if self.on == "concepts" and (self.under is not None or self.exclude is not None):
            raise UsageError("Concepts are chosen by --classes: leave --under and --exclude out, or select on classes.")


Training = Literal["auto", "always", "never"]
STEPS = ("teacher", "pretrain", "finetune")  # that train


@described
@dataclass(frozen=True)
class SemisupOptions:
    """How a student is trained from few labels and a pool without any, in four steps."""

    val: str | None = option_again(
        TrainRequest, "val", None, "images to evaluate on after every epoch; none of the pool may be among them"
    )
    split: str | None = option_again(TrainRequest, "split", None, "which part of the labelled data to train on")
    root: str | Path | None = option_again(TrainRequest, "root", None)
    label_space: str | None = option_again(TrainRequest, "label_space", None)
    recursive: bool = option(False, "also the subfolders of the pool", flags="-r --recursive")
    train_teacher: Training = option(
        "auto",
        "train the teacher on the labelled data first: auto does so unless it answers in their classes; never takes "
        "the concepts of its own space that are called like them",
        choices=get_args(Training),
    )
    per_class: int = option_again(SelectOptions, "per_class", 16_000)
    per_image: int = option_again(SelectOptions, "per_image", 10)
    threshold: float = option_again(SelectOptions, "threshold", 0.0)
    on: On = option_again(SelectOptions, "on", "classes")
    memory: float = option_again(SelectOptions, "memory", 2.0)
    teacher_recipe: str = option("finetune", "how the teacher is trained: a recipe, or a recipe.json", metavar="NAME")
    pretrain_recipe: str = option("ssl_pretrain", "how the student is trained on pseudo-labels", metavar="NAME")
    finetune_recipe: str = option("ssl_finetune", "how the student is trained on true labels", metavar="NAME")
    passes: float = option(
        60.0,
        "how often pretraining sees each row of the selection, unless its recipe is told steps or epochs (the paper, "
        "recalled: a billion images of 16 million rows)",
        metavar="N",
        above=0,
    )
    batch_size: int = option(
        256,
        "images per update of both trainings of the student; the rates of ssl_pretrain and ssl_finetune follow it",
        flags="-b --batch-size",
        metavar="N",
        least=1,
    )
    changes: Sequence[str] = option(
        (),
        "change a field of the recipes, or of one step's: pretrain.lr=0.1; the steps are teacher, pretrain, finetune; "
        "repeatable",
        flags="--set",
        metavar="[STEP.]FIELD=VALUE",
        repeats=True,
    )
    device: str = option_again(ComputeOptions, "device", "auto")
    workers: int = option_again(TrainRequest, "workers", 4)
    cache_dir: str | Path | None = option_again(ModelOptions, "cache_dir", None)
    offline: bool | None = option_again(ModelOptions, "offline", None)
    overwrite: bool = option(False, "do a step that was done otherwise, and what follows from it, anew")

    def __post_init__(self) -> None:
        check(self)
