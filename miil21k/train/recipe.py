"""A training recipe as a value. A change is a new value (`override`); nothing reads a recipe from anywhere else."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from miil21k.decode.levels import Deepest  # noqa: TC001 - the types of fields are read
from miil21k.errors import UsageError
from miil21k.text import brief, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["Recipe", "override", "unasked"]

MultiLabelLoss = Literal["bce", "asymmetric"]
Confidence = Literal["paper", "code"]
Tick = Literal["update", "epoch"]
Normalise = Literal["model", "none"]
Filter = Literal["bilinear", "bicubic"]
Crop = Literal["squash", "random", "resized"]
Precision = Literal["fp32", "fp16", "bf16"]
Sampling = Literal["shuffle", "replacement"]


@dataclass(frozen=True)
class Recipe:
    """Every number of a training run except where the images are.

    objective: what is minimised, a name in `miil21k.train.objectives.OBJECTIVES`, which says what goes with it.
    source, expected: where the numbers come from; what the source says they reach (not reproduced by us).
    pretrained: start from the weights that the model's name stands for, when it stands for any.
    batch_size: images per process and forward pass; one update sees batch_size * accumulate * processes images.
    steps: updates of the run, in the place of epochs; the warm-up is then warmup_steps, and milestones count updates.
    sampling: `shuffle` draws every image once an epoch; `replacement` draws each by itself, so that a data set may be
    smaller than a batch, and calls 100 updates an epoch where the images fill fewer.

    Objective: label_smoothing in [0, 1). max_level_weight: the clamp of the level weights. deepest: `keep` every
    level with more than one class, or drop the deepest as the `published` code does. multi_label_loss: `bce` or
    `asymmetric`. teacher: a zoo name or checkpoint; kd_weight: its coefficient. kd_confidence: `paper` or `code`.

    Optimizer: any name of timm's factory; lr is not rescaled by the batch size. layer_decay: lr factor per layer
    from the head down, 1 = off. clip_grad: largest gradient norm, 0 = off. freeze: comma-separated parameter
    prefixes, or `backbone` for everything but the head. zero_head: a new head starts from zeros.

    Schedule: `onecycle` (torch; pct_start, div_factor, final_div_factor) or a name of timm's factory
    (warmup_epochs from warmup_lr, then to min_lr, then cooldown_epochs). `step` multiplies the rate by decay_rate every
    decay_epochs, `multistep` at each of the milestones, in epochs. schedule_step: `update` or `epoch`.

    Augmentation: crop `squash` (resize to a square, aspect ignored), `resized` (to a square of side `resize`, then a
    random crop of it) or `random` (random resized crop, `scale`, `ratio`). policy: `miil` (the published pipeline's
    RandAugment), a timm policy string (`rand-m7-mstd0.5-inc1`, `v0`), or empty. cutout: side of the erased box as a
    fraction of the image side. repeats: copies of an image per epoch, in distributed runs only. image_size 0: what the
    model was built for. normalise: by the model's mean and std, or `none`: pixels in [0, 1] as they are. Evaluation
    squashes where training does not cut by area; else it cuts out the centre, eval_crop_pct of the side (0: the
    model's).

    ema_decay 0 = off. precision: `fp32`, `fp16` (with gradient scaling) or `bf16`.
    """

    objective: str
    source: str = "chosen on the command line"
    expected: str = "unknown"

    pretrained: bool = True
    epochs: int = 80
    steps: int = 0
    sampling: Sampling = "shuffle"
    batch_size: int = 64
    accumulate: int = 1
    seed: int = 42

    label_smoothing: float = 0.0
    max_level_weight: float = 20.0
    deepest: Deepest = "keep"
    multi_label_loss: MultiLabelLoss = "asymmetric"
    teacher: str = ""
    kd_weight: float = 1.0
    kd_confidence: Confidence = "paper"

    optimizer: str = "adam"
    lr: float = 3e-4
    momentum: float = 0.9
    weight_decay: float = 1e-4
    layer_decay: float = 1.0
    clip_grad: float = 0.0
    freeze: str = ""
    zero_head: bool = False

    schedule: str = "onecycle"
    schedule_step: Tick = "update"
    pct_start: float = 0.1
    div_factor: float = 20.0
    final_div_factor: float = 1e4
    warmup_epochs: int = 0
    warmup_steps: int = 0
    warmup_lr: float = 1e-5
    min_lr: float = 0.0
    cooldown_epochs: int = 0
    decay_epochs: int = 0
    decay_rate: float = 0.1
    milestones: tuple[int, ...] = ()

    image_size: int = 0
    normalise: Normalise = "model"
    interpolation: Filter = "bilinear"
    crop: Crop = "squash"
    resize: int = 0
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.0
    color_jitter: float = 0.0
    policy: str = "miil"
    cutout: float = 0.5
    random_erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch: float = 0.5
    repeats: int = 1
    eval_crop_pct: float = 0.0

    ema_decay: float = 0.0
    dropout: float = 0.0
    drop_path: float = 0.0
    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    sync_bn: bool = False

    __repr__ = brief

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "repeats"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in (
            "hflip",
            "random_erase",
            "mixup_prob",
            "mixup_switch",
            "dropout",
            "drop_path",
            "cutout",
            "pct_start",
        ):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "between 0 and 1")
        for name in ("label_smoothing", "ema_decay"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        for name in ("weight_decay", "clip_grad", "mixup", "cutmix", "min_lr", "kd_weight", "seed"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in (
            "warmup_epochs",
            "cooldown_epochs",
            "decay_epochs",
            "color_jitter",
            "eval_crop_pct",
            "max_level_weight",
        ):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("lr", "div_factor", "final_div_factor", "decay_rate"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        _require(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "in (0, 1]")
        for field, options in _literals().items():
            _require(getattr(self, field) in options, field, repr(getattr(self, field)), f"one of {', '.join(options)}")
        self._check_schedule()

    def _check_schedule(self) -> None:
        """Raise UsageError for a schedule that does not fit the run, or would leave the rate as it is."""
        length, unit = (self.steps, "update(s)") if self.steps else (self.epochs, "epoch(s)")
        warmup = "warmup_steps" if self.steps else "warmup_epochs"
        inside = f"less than the {length} {unit} of the run"
        if self.schedule != "onecycle":
            _require(getattr(self, warmup) < length, warmup, getattr(self, warmup), inside)
        longest = 0 if self.steps else length
        _require(self.cooldown_epochs <= longest, "cooldown_epochs", self.cooldown_epochs, f"at most {longest}")
        if self.schedule == "step":
            _require(0 < self.decay_epochs < length, "decay_epochs", self.decay_epochs, f"above 0 and {inside}")
        rising = all(a < b for a, b in pairwise((0, *self.milestones, length)))
        _require(rising, "milestones", self.milestones, f"in order, above 0 and {inside}")
        if bool(self.milestones) != (self.schedule == "multistep"):
            raise UsageError("The schedule 'multistep' and milestones go together: set both, or neither.")
        if (self.crop == "resized") != bool(self.resize):
            raise UsageError("The crop 'resized' and resize go together: set both, or neither.")

    def updates(self, per_epoch: int) -> int:
        """Return the updates of the run, where an epoch has `per_epoch` of them."""
        return self.steps or self.total_epochs * per_epoch

    @property
    def total_epochs(self) -> int:
        """Epochs that are run: the schedule and its cool-down."""
        return self.epochs + self.cooldown_epochs


def _require(holds: bool, field: str, value: object, rule: str) -> None:
    if not holds:
        raise UsageError(f"The recipe's {field} must be {rule}, not {value}.")


def _hints() -> dict[str, Any]:
    return typing.get_type_hints(Recipe)


def _literals() -> dict[str, tuple[str, ...]]:
    return {name: typing.get_args(hint) for name, hint in _hints().items() if typing.get_origin(hint) is Literal}


def override(recipe: Recipe, changes: Mapping[str, str]) -> Recipe:
    """Return `recipe` with fields set from text, as `--set lr=1e-3` gives them.

    Several numbers are written `0.5,1`; a switch is `true` or `false`. A warm-up and a cool-down that nobody asked for
    give way when `epochs` changes: each gets a fifth of them at most (`unasked` tells). Raises UsageError for an
    unknown field, naming the nearest one, and for a value that is not of the field's type.
    """
    known = [f.name for f in fields(recipe)]
    parsed: dict[str, Any] = {}
    for name, text in changes.items():
        if name not in known:
            hint = did_you_mean(name, known) or f" Fields: {', '.join(known)}."
            raise UsageError(f"A recipe has no field '{name}'.{hint}")
        parsed[name] = _parse(name, text)
    for name in ("warmup_epochs", "cooldown_epochs"):
        if "epochs" in parsed and name not in parsed:
            parsed[name] = min(getattr(recipe, name), parsed["epochs"] // 5)
    return dataclasses.replace(recipe, **parsed)


def unasked(before: Recipe, after: Recipe, asked: Collection[str]) -> str:
    """Return which fields differ though nobody asked for it, as words for a sentence; empty when none does."""
    names = [f.name for f in fields(before) if f.name not in asked]
    differ = [name for name in names if getattr(before, name) != getattr(after, name)]
    return " and ".join(f"{name} {getattr(after, name)} instead of {getattr(before, name)}" for name in differ)


def _parse(name: str, text: str) -> Any:
    kind = _hints()[name]
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind in (int, float):
            return kind(text)
        if typing.get_origin(kind) is tuple:
            each = typing.get_args(kind)
            words = [word for word in text.split(",") if word]
            if each[-1] is ...:
                return tuple(each[0](word) for word in words)
            return tuple(one(word) for one, word in zip(each, words, strict=True))
    except (KeyError, ValueError):
        several = "integers, 'a,b,...'," if name == "milestones" else "two numbers, 'a,b',"
        expected = {bool: "true or false", int: "an integer", float: "a number"}.get(kind, several)
        raise UsageError(f"The recipe's {name} takes {expected}, not '{text}'.") from None
    return text
