"""A training recipe as a value. A change is a new value (`override`); nothing reads a recipe from anywhere else."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args

from miil21k.decode.levels import Deepest
from miil21k.errors import UsageError
from miil21k.options import check, described, option
from miil21k.text import did_you_mean

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
Draws = Literal["batch", "update"]


@described
@dataclass(frozen=True)
class Recipe:
    """Every number of a training run except where the images are; each field's line says what it is and may be.

    source, expected: where the numbers come from; what the source says they reach (not reproduced by us). lr is not
    rescaled by the batch size: one update sees batch_size * accumulate * processes images. Evaluation squashes where
    training does not cut by area; else it cuts out the centre.
    """

    objective: str = option(
        MISSING, "what is minimised, a name of `OBJECTIVES`, which says what goes with it", flags=None
    )
    source: str = option("chosen on the command line", "where the numbers come from", flags=None)
    expected: str = option("unknown", "what the source says they reach (not reproduced by us)", flags=None)

    pretrained: bool = option(True, "start from the weights that the model's name stands for", flags=None)
    epochs: int = option(80, "epochs of the schedule", metavar="N", least=1)
    steps: int = option(
        0,
        "updates of the run, in the place of epochs; the warm-up is then warmup_steps, and milestones count updates",
        flags=None,
        least=0,
    )
    sampling: Sampling = option(
        "shuffle",
        "draw every image once an epoch, or each by itself: a data set may then be smaller than a batch, and calls 100 "
        "updates an epoch where its images fill fewer",
        flags=None,
        choices=get_args(Sampling),
    )
    batch_size: int = option(64, "images per process and forward pass", flags="-b --batch-size", metavar="N", least=1)
    accumulate: int = option(1, "forward passes per update", flags=None, least=1)
    seed: int = option(42, "decides every random draw", metavar="N", least=0)

    label_smoothing: float = option(0.0, "label smoothing", metavar="S", least=0, below=1)
    max_level_weight: float = option(20.0, "clamp of the level weights", flags=None, least=0)
    deepest: Deepest = option(
        "keep",
        "keep every level with more than one class, or drop the deepest as the published code does",
        flags=None,
        choices=get_args(Deepest),
    )
    multi_label_loss: MultiLabelLoss = option(
        "asymmetric", "of the objective multi_label", flags=None, choices=get_args(MultiLabelLoss)
    )
    teacher: str = option("", "a model of the zoo, of timm or a checkpoint to distil from", metavar="NAME")
    teacher_label_space: str = option(
        "", "what it answers in, a name or a file, where nothing says so: for weights of timm", metavar="SPACE"
    )
    teacher_image_size: int = option(
        0,
        "side in pixels at which the teacher sees the images; 0: the student's, or the only one that its network takes",
        flags=None,
        least=0,
    )
    kd_weight: float = option(1.0, "coefficient of the distillation", flags=None, least=0)
    label_weight: float = option(
        1.0, "coefficient of the labels' own loss beside it; 0 in usi: they are not looked at", flags=None, least=0
    )
    kd_confidence: Confidence = option(
        "paper",
        "how sure the teacher is of a level, by the paper or its code",
        flags=None,
        choices=get_args(Confidence),
    )

    optimizer: str = option("adam", "a name of timm's factory: adam, adamw, sgd, lamb, ...", metavar="NAME")
    lr: float = option(3e-4, "peak learning rate; not rescaled by the batch size", metavar="X", above=0)
    momentum: float = option(0.9, "of optimizers that have one", flags=None)
    weight_decay: float = option(1e-4, "weight decay", metavar="X", least=0)
    layer_decay: float = option(1.0, "factor of lr per layer from the head down; 1: off", flags=None, above=0, most=1)
    clip_grad: float = option(0.0, "largest gradient norm; 0: off", flags=None, least=0)
    freeze: str = option("", "'backbone', or prefixes of parameter names, separated by commas", metavar="NAMES")
    keep_norms: bool = option(
        False, "batch norms keep the statistics they came with: small batches of few images have poor ones", flags=None
    )
    zero_head: bool = option(False, "a new head starts from zeros", flags=None)

    schedule: str = option(
        "onecycle",
        "onecycle (torch), or a name of timm's factory: cosine, step, multistep, ...",
        flags=None,
    )
    schedule_step: Tick = option("update", "when the rate changes", flags=None, choices=get_args(Tick))
    pct_start: float = option(0.1, "of onecycle: part of the run in which the rate rises", flags=None, least=0, most=1)
    div_factor: float = option(20.0, "of onecycle: lr over the first rate", flags=None, above=0)
    final_div_factor: float = option(1e4, "of onecycle: the first rate over the last", flags=None, above=0)
    warmup_epochs: int = option(0, "epochs in which the rate rises from warmup_lr to lr", flags=None, least=0)
    warmup_steps: int = option(0, "the same in updates, for a run of steps", flags=None, least=0)
    warmup_lr: float = option(1e-5, "the first rate of the warm-up", flags=None)
    min_lr: float = option(0.0, "the last rate", flags=None, least=0)
    cooldown_epochs: int = option(0, "epochs at min_lr behind the schedule", flags=None, least=0)
    decay_epochs: int = option(0, "of step: epochs between two falls", flags=None, least=0)
    decay_rate: float = option(0.1, "of step and multistep: what the rate is multiplied by", flags=None, above=0)
    milestones: tuple[int, ...] = option((), "of multistep: epochs, or updates of a run of steps", flags=None)

    image_size: int = option(0, "training and evaluation side in pixels; 0: what the model was built for", metavar="PX")
    normalise: Normalise = option(
        "model", "by the model's mean and std, or pixels in [0, 1] as they are", flags=None, choices=get_args(Normalise)
    )
    interpolation: Filter = option("bilinear", "how images are resized", flags=None, choices=get_args(Filter))
    crop: Crop = option(
        "squash",
        "resize to a square, aspect ignored (squash); to one of side resize, then a random window of it (resized); a "
        "random part of the area (random)",
        flags=None,
        choices=get_args(Crop),
    )
    resize: int = option(0, "of the crop resized: side of the square in pixels", flags=None, least=0)
    scale: tuple[float, float] = option((0.08, 1.0), "of the crop random: its part of the area", flags=None)
    ratio: tuple[float, float] = option((3 / 4, 4 / 3), "of the crop random: its aspect", flags=None)
    hflip: float = option(0.0, "probability of a mirrored image", flags=None, least=0, most=1)
    color_jitter: float = option(0.0, "how much colours vary", flags=None, least=0)
    policy: str = option(
        "miil",
        "miil (the published pipeline's RandAugment), a policy of timm (rand-m7-mstd0.5-inc1, v0), or empty",
        flags=None,
    )
    cutout: float = option(0.5, "side of the erased box, as a part of the image's side", flags=None, least=0, most=1)
    random_erase: float = option(0.0, "probability of timm's random erasing", flags=None, least=0, most=1)
    mixup: float = option(0.0, "alpha of mixup; 0: off", flags=None, least=0)
    cutmix: float = option(0.0, "alpha of cutmix; 0: off", flags=None, least=0)
    mixup_prob: float = option(1.0, "probability that a batch is mixed", flags=None, least=0, most=1)
    mixup_draw: Draws = option(
        "batch",
        "a ratio for each batch, which is mixed with itself reversed (timm), or for all batches of an update, each "
        "mixed with a permutation of itself (BiT)",
        flags=None,
        choices=get_args(Draws),
    )
    mixup_switch: float = option(0.5, "probability of cutmix where both are on", flags=None, least=0, most=1)
    repeats: int = option(
        1,
        "copies of an image, each augmented by itself; an epoch then shows so many times fewer images",
        flags=None,
        least=1,
    )
    eval_crop_pct: float = option(0.0, "part of the side that evaluation cuts out; 0: the model's", flags=None, least=0)

    ema_decay: float = option(0.0, "decay of the moving average of the weights; 0: off", flags=None, least=0, below=1)
    dropout: float = option(0.0, "dropout before the head", flags=None, least=0, most=1)
    drop_path: float = option(0.0, "stochastic depth", flags=None, least=0, most=1)
    precision: Precision = option("fp32", "of the forward pass; fp16 scales gradients", choices=get_args(Precision))
    channels_last: bool = option(False, "memory format of the network", flags=None)
    compile: bool = option(False, "torch.compile", flags=None)
    sync_bn: bool = option(False, "batch norm over all processes, on GPUs", flags=None)

    def __post_init__(self) -> None:
        check(self, of="The recipe's ")
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


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return `recipe` with fields set, from text as `--set lr=1e-3` gives it or from values.

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
        parsed[name] = _parse(name, text) if isinstance(text, str) else text
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
