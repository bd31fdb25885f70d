"""What is transferred to which classes, how, and where it goes: a frozen value that the command line shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from miil21k.benchmark.options import BenchmarkOptions
from miil21k.data.options import SourceOptions
from miil21k.errors import UsageError
from miil21k.options import Instead, check, described, option, option_again
from miil21k.runtime.options import ComputeOptions, ModelOptions
from miil21k.transfer.features import FeatureOptions

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["JUDGES", "METHOD_NAMES", "CompareOptions", "TransferOptions", "milliseconds"]

# In the order of `miil21k.transfer.methods.METHODS`, which says what each does.
METHOD_NAMES = ("probe", "knn", "finetune", "hyperrule", "search")
# What measures a model: the probes of `miil21k.transfer.probes.PROBES`, and methods that train.
JUDGES = ("logistic", "ridge", "knn", "finetune", "hyperrule")


@described
@dataclass(frozen=True)
class TransferOptions(FeatureOptions):
    """What is transferred to which classes, how, and where it goes.

    data: class folders of any names, or a list. output: the folder of all that comes out. model: a name of the zoo or
    of timm, or a checkpoint of an earlier run.
    """

    data: str = ""
    output: Path | None = None
    model: str = "embedded"
    method: str | None = option(
        None,
        "probe: logistic regression on frozen features; knn: nearest neighbours; finetune: some epochs from the probe "
        "on; hyperrule: BiT's rule, whole; search: trials of hyper-parameters (default: the best of probe and "
        "fine-tuning, by measurement)",
        choices=METHOD_NAMES,
    )
    test: str | None = option(
        None,
        "images that are only judged by (default: the part test or val of DATA, else a share of each class)",
        metavar="DATA",
    )
    holdout: float = option(
        0.2, "share of each class that is held out where there is no such part", metavar="S", above=0, below=1
    )
    label_space: str | None = option_again(
        ModelOptions,
        "label_space",
        None,
        "the hierarchy of the classes: a shipped space, a CSV of child and parent, a list (default: from folders or "
        "wnids)",
    )
    split: str | None = option_again(SourceOptions, "split", None)
    root: str | Path | None = option_again(SourceOptions, "root", None)
    budget: float = option(10.0, "minutes that fine-tuning may take where nobody asked for it", metavar="MIN", least=0)
    epochs: int | None = option(
        None, "of finetune and search (default: 30, fewer where the budget is short)", metavar="N", least=1
    )
    trials: int = option(10, "of search", metavar="N", least=1)
    flip: bool = option(
        True,
        "train on mirrored images too",
        flags=None,
        instead={"--no-flip": Instead(False, "never mirror: it changes the label")},
    )
    cut: bool = option(
        True,
        "train on parts of images",
        flags=None,
        instead={"--no-crop": Instead(False, "never cut: it changes the label")},
    )
    seed: int = option(0, "decides every random draw", metavar="N", least=0)
    device: str = option_again(ComputeOptions, "device", "auto")

    def __post_init__(self) -> None:
        check(self)


def milliseconds(text: str) -> float:
    """Return a time such as `50ms`, `0.05s` or `50` in milliseconds; raises UsageError for what is none."""
    number, factor = text.strip(), 1.0
    for unit, worth in (("ms", 1.0), ("s", 1000.0)):
        if number.endswith(unit):
            number, factor = number.removesuffix(unit), worth
            break
    try:
        return float(number) * factor
    except ValueError:
        raise UsageError(f"'{text}' is no time: write 50ms or 0.05s.") from None


@described
@dataclass(frozen=True)
class CompareOptions:
    """Which models are compared, and how.

    models: names, or NAME=FILE for weights in a file. speed: how latency is measured, in which runtimes and precisions.
    settings: the data, and how images are read and learnt from.
    """

    models: tuple[str, ...] = ("embedded",)
    budget: float | None = option(
        None, "what an image may take, at batch 1: 50ms, 0.05s", metavar="TIME", parse=milliseconds, above=0
    )
    method: str = option(
        "logistic", "what measures accuracy: a probe on features that are kept, or training", choices=JUDGES
    )
    speed: BenchmarkOptions = field(default_factory=BenchmarkOptions)
    settings: TransferOptions = field(default_factory=TransferOptions)

    def __post_init__(self) -> None:
        check(self)
