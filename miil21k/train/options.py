"""What is trained on what: a frozen value, whose options the command line shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from miil21k.data.options import SourceOptions
from miil21k.options import check, described, option, option_again
from miil21k.runtime.options import ComputeOptions, ModelOptions

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.data.datasets import LabelledImages
    from miil21k.train.recipe import Recipe

__all__ = ["TrainRequest"]


@described
@dataclass(frozen=True)
class TrainRequest:
    """What is trained on what, by which recipe, and where the run goes.

    data: class folders, shards or a list. model: a name of the zoo or of timm, or a checkpoint of an earlier run.
    recipe_name: what the recipe is called in messages and in the checkpoint. folder: of the run. shard_cache: where
    indices of shards are kept.
    """

    data: str
    model: str
    recipe_name: str
    recipe: Recipe
    folder: Path
    val: str | None = option(
        None,
        "images to evaluate on after every epoch, which decides about best.safetensors (default: the part val of DATA "
        "where it has parts)",
        metavar="DATA",
    )
    split: str | None = option_again(
        SourceOptions,
        "split",
        None,
        "which part of DATA to train on: a split of a list, or a folder (default: train where it has parts)",
    )
    root: str | Path | None = option_again(SourceOptions, "root", None)
    checkpoint: str | Path | None = option_again(
        ModelOptions, "checkpoint", None, "weights to start from, in any published layout"
    )
    label_space: str | None = option_again(
        ModelOptions, "label_space", None, "fall11, winter21, goog21k, in1k or a file (default: from the folders)"
    )
    revision: str | None = option_again(ModelOptions, "revision", None)
    cache_dir: str | Path | None = option_again(ModelOptions, "cache_dir", None)
    offline: bool | None = option_again(ModelOptions, "offline", None)
    model_kwargs: tuple[str, ...] | None = option(
        None,
        "what timm's constructor of the architecture takes (embed_dim=96 depth=6), for a network that starts from "
        "random weights; repeatable",
        metavar="NAME=VALUE",
        repeats=True,
    )
    partial: bool = option(False, "accept classes without images")
    device: str = option_again(ComputeOptions, "device", "auto")
    workers: int = option(
        4, "processes that read and augment images; 0: none but this", flags="-j --workers", metavar="N", least=0
    )
    log_every: int = option(50, "updates between log rows", metavar="N", least=1)
    checkpoint_every: int = option(1000, "updates between state files; 0: epochs only", metavar="N", least=0)
    teacher_cache: str | None = option(
        None, "keep what the teacher says in this folder, and reuse it for the same batches", metavar="DIR"
    )
    teacher_cache_top_k: int = option(
        50, "classes kept of each of its answers, beside the mass of the rest", metavar="K", least=1
    )
    teacher_cache_size: float = option(
        10.0, "GB that the cache may take; what does not fit is computed every time", metavar="GB", above=0
    )
    shard_cache: Path | None = None
    images: LabelledImages | None = None
    val_images: LabelledImages | None = None

    def __post_init__(self) -> None:
        check(self)
