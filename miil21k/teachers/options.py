"""How images are selected: one frozen value with every option and its default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from miil21k.errors import UsageError
from miil21k.options import check, described, option, option_again
from miil21k.predict.options import AnswerOptions, RunOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["LEAST_CONCEPT", "On", "SelectOptions"]

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
    recursive: bool = option_again(RunOptions, "recursive", False)
    resume: bool = option(False, "go on with FILE after an interruption", one_of="existing")
    overwrite: bool = option(False, "replace FILE", one_of="existing")
    engine: Literal["local", "ray"] | None = option_again(RunOptions, "engine", None)
    address: str | None = option_again(RunOptions, "address", None)

    def __post_init__(self) -> None:
        check(self)
        if self.on == "concepts" and (self.under is not None or self.exclude is not None):
            raise UsageError("Concepts are chosen by --classes: leave --under and --exclude out, or select on classes.")
