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

__all__ = [
    "JUDGES",
    "METHOD_NAMES",
    "SUITE_METHODS",
    "CompareOptions",
    "GridOptions",
    "SuiteOptions",
    "TransferOptions",
    "milliseconds",
]

# In the order of `miil21k.transfer.methods.METHODS`, which says what each does.
METHOD_NAMES = ("probe", "knn", "finetune", "hyperrule", "search")
# What measures a model: the probes of `miil21k.transfer.probes.PROBES`, and methods that train.
JUDGES = ("logistic", "ridge", "knn", "finetune", "hyperrule")
SUITE_METHODS = (*JUDGES, "search")


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
    rule_batch: int = option(
        512,
        "images per update of hyperrule; with fewer the learning rate falls as their square root",
        metavar="N",
        least=1,
        most=512,
    )
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


@described
@dataclass(frozen=True)
class SuiteOptions:
    """Which models are measured on a suite, and how.

    models: names, or NAME=FILE for weights in a file. methods: of `SUITE_METHODS`; several are compared on the
    validation images. settings: how images are read and learnt from; what the suite says of a data set goes before.
    """

    models: tuple[str, ...] = ("embedded",)
    methods: tuple[str, ...] = ("logistic",)
    train: int = option(800, "images that methods learn from to be compared", metavar="N", least=1)
    val: int = option(200, "images that they are compared on; the chosen one learns from all", metavar="N", least=1)
    settings: TransferOptions = field(default_factory=TransferOptions)

    def __post_init__(self) -> None:
        check(self)
        for name in self.methods:
            if name not in SUITE_METHODS:
                raise UsageError(f"No method '{name}' of a suite. There are {', '.join(SUITE_METHODS)}.")


@dataclass(frozen=True)
class GridOptions:
    """Over which points which models are fine-tuned.

    models: names, NAME=FILE for weights in a file, `random` or NAME=random for drawn ones. optimizers, lrs,
    weight_decays: the grid; every combination is a point. settings: the data, the epochs, and how images are read.
    Raises UsageError for an empty grid and for rates that are not above 0.
    """

    models: tuple[str, ...] = ("embedded",)
    optimizers: tuple[str, ...] = ("adam", "adamw", "sgd")
    lrs: tuple[float, ...] = (1e-4, 2e-4, 4e-4, 1e-2)
    weight_decays: tuple[float, ...] = (1e-4, 1e-2)
    settings: TransferOptions = field(default_factory=TransferOptions)

    def __post_init__(self) -> None:
        if not (self.optimizers and self.lrs and self.weight_decays):
            raise UsageError("A grid needs an optimizer, a learning rate and a weight decay at least.")
        if min(self.lrs) <= 0 or min(self.weight_decays) < 0:
            raise UsageError("Learning rates are above 0, weight decays 0 or more.")
