"""What a training step minimises: forward pass and loss in, a dict out. `OBJECTIVES` holds them by name.

An objective is a frozen value that the loop, and timm's through `miil21k.train.tasks`, call with the model, a batch and
how the batch was mixed:

    objective(model, images, labels, share) -> {"loss": ..., "output": logits, further parts, detached}

images: [B, 3, H, W], normalised for the student. labels: int64 [B], class indices. share: image i was mixed with image
B-1-i and keeps this share of itself; 1 means not mixed. Nothing here waits for the device. A new objective is a
subclass of `Objective` and a line in `OBJECTIVES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch

from miil21k.errors import LabelSpaceMismatch, UsageError
from miil21k.text import did_you_mean
from miil21k.train import losses
from miil21k.train.level_order import LevelTable, ancestor_table, level_table

if TYPE_CHECKING:
    from typing import Self

    from torch import nn

    from miil21k.decode.heads import HeadKind
    from miil21k.hierarchy.tree import Tree
    from miil21k.train.level_order import HeadOrder
    from miil21k.train.losses import Reduction
    from miil21k.train.recipe import Confidence, Recipe

__all__ = [
    "OBJECTIVES",
    "USI",
    "CrossEntropy",
    "Ingredients",
    "MultiLabel",
    "Objective",
    "SemanticKD",
    "SemanticSoftmax",
    "Teacher",
    "create_objective",
    "create_teacher",
    "find_objective",
]


class Ingredients(NamedTuple):
    """What an objective is made of; order: of the columns of the logits."""

    recipe: Recipe
    tree: Tree
    teacher: Teacher | None
    order: HeadOrder

    @property
    def levels(self) -> LevelTable:
        """The levels of the tree as the recipe counts them."""
        recipe = self.recipe
        return level_table(self.tree, deepest=recipe.deepest, max_weight=recipe.max_level_weight, head=self.order)

    @property
    def source(self) -> Teacher:
        """The teacher; raises UsageError without one."""
        if self.teacher is None:
            raise UsageError(f"The objective '{self.recipe.objective}' needs a teacher.")
        return self.teacher


@dataclass(frozen=True, eq=False)
class Objective(ABC):
    """What is minimised, and the three facts about it that decide which recipes and models it goes with."""

    head: ClassVar[HeadKind]  # what the logits mean that it trains
    needs_teacher: ClassVar[bool] = False
    may_mix: ClassVar[bool] = False  # whether mixup and cutmix are defined for it

    @classmethod
    @abstractmethod
    def from_recipe(cls, given: Ingredients) -> Self:
        """Return the objective with the numbers of the recipe, on the CPU."""

    @abstractmethod
    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, share: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """Return `loss`, a scalar with a graph, `output`, the logits [B, C], and the loss's parts, detached."""

    def to(self, device: torch.device | str) -> Self:
        """Return the objective with its tables and teacher on `device`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        movable = (LevelTable, Teacher, torch.Tensor)
        return replace(self, **{name: v.to(device) for name, v in values.items() if isinstance(v, movable)})


@dataclass(frozen=True, eq=False)
class SemanticSoftmax(Objective):
    """Semantic softmax; the parts are the losses of the levels, `level_00` and so on, before weighting."""

    head = "level_softmax"
    levels: LevelTable
    smoothing: float = 0.2

    @classmethod
    def from_recipe(cls, given: Ingredients) -> Self:
        """Return it with the levels of `tree`, for a head in either order."""
        return cls(given.levels, given.recipe.label_smoothing)

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, share: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """Return `loss`, `output` and the levels' losses."""
        _refuse_mixed(share, "semantic softmax")
        logits = model(images)
        per_level = losses.semantic_softmax_levels(logits, labels, self.levels, self.smoothing)
        loss = (per_level * self.levels.weights.to(per_level.dtype)).sum()
        parts = per_level.detach().unbind()
        names = (f"level_{depth:02d}" for depth in self.levels.depths)
        return {"loss": loss, "output": logits, **dict(zip(names, parts, strict=True))}


@dataclass(frozen=True, eq=False)
class CrossEntropy(Objective):
    """Single-label cross-entropy over all classes; mixed labels are weighted by their shares."""

    head = "leaf_softmax"
    may_mix = True
    smoothing: float = 0.2

    @classmethod
    def from_recipe(cls, given: Ingredients) -> Self:
        """Return it with the recipe's smoothing."""
        return cls(given.recipe.label_smoothing)

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, share: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """Return `loss` and `output`."""
        logits = model(images)
        return {"loss": _mixed_cross_entropy(logits, labels, share, self.smoothing), "output": logits}


@dataclass(frozen=True, eq=False)
class MultiLabel(Objective):
    """Independent binary losses with a label and all its ancestors positive.

    ancestors: int64 [C, L] from `ancestor_table`. kind: a name in `losses.MULTI_LABEL`.
    """

    head = "sigmoid"
    ancestors: torch.Tensor
    kind: str = "asymmetric"

    @classmethod
    def from_recipe(cls, given: Ingredients) -> Self:
        """Return it with the ancestors of `tree`."""
        return cls(ancestor_table(given.tree), given.recipe.multi_label_loss)

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, share: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """Return `loss` and `output`."""
        _refuse_mixed(share, "multi-label training")
        logits = model(images)
        return {"loss": losses.MULTI_LABEL[self.kind](logits, labels, self.ancestors), "output": logits}


@dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen model that sees the student's images, normalised anew.

    x_teacher = (x_student std_S + mean_S - mean_T) / std_T = x_student scale + shift, both [1, 3, 1, 1].
    head: the column order of its logits.
    """

    model: nn.Module
    scale: torch.Tensor
    shift: torch.Tensor
    head: HeadOrder = "class"

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the teacher's logits [B, C] for images that are normalised for the student."""
        logits: torch.Tensor = self.model(images * self.scale.to(images.dtype) + self.shift.to(images.dtype))
        return logits

    def to(self, device: torch.device | str) -> Teacher:
        """Return the teacher on `device`."""
        model = self.model.to(device)
        return replace(self, model=model, scale=self.scale.to(device), shift=self.shift.to(device))


def create_teacher(
    model: nn.Module,
    student_stats: tuple[tuple[float, ...], tuple[float, ...]],
    teacher_stats: tuple[tuple[float, ...], tuple[float, ...]],
    head: HeadOrder = "class",
) -> Teacher:
    """Return `model` as a teacher in eval mode, without gradients.

    student_stats, teacher_stats: (mean, std) per channel, for pixels in [0, 1]. Raises UsageError for a std of 0.
    """
    if not all(s > 0 for _, std in (student_stats, teacher_stats) for s in std):
        raise UsageError(f"Standard deviations must be above 0, not {student_stats[1]} and {teacher_stats[1]}.")
    (mean_s, std_s), (mean_t, std_t) = (
        [torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in stats]
        for stats in (student_stats, teacher_stats)
    )
    model.eval().requires_grad_(False)
    return Teacher(model, (std_s / std_t).float(), ((mean_s - mean_t) / std_t).float(), head)


@dataclass(frozen=True, eq=False)
class SemanticKD(Objective):
    """Semantic softmax plus `weight` times semantic distillation; parts `semantic` and `kd`."""

    head = "level_softmax"
    needs_teacher = True
    levels: LevelTable
    teacher: Teacher
    weight: float = 1.0
    smoothing: float = 0.2
    confidence: Confidence = "paper"
    reduction: Reduction = "batchmean"

    @classmethod
    def from_recipe(cls, given: Ingredients) -> Self:
        """Return it with the levels of `tree`, for a head in either order."""
        recipe = given.recipe
        return cls(given.levels, given.source, recipe.kd_weight, recipe.label_smoothing, recipe.kd_confidence)

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, share: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """Return `loss`, `output`, `semantic` and `kd` (before its weight)."""
        _refuse_mixed(share, "semantic distillation")
        logits = model(images)
        semantic = losses.semantic_softmax(logits, labels, self.levels, self.smoothing)
        kd = losses.semantic_kd(
            logits,
            self.teacher(images),
            labels,
            self.levels,
            confidence=self.confidence,
            reduction=self.reduction,
            teacher_head=self.teacher.head,
        )
        loss = semantic + self.weight * kd
        return {"loss": loss, "output": logits, "semantic": semantic.detach(), "kd": kd.detach()}


@dataclass(frozen=True, eq=False)
class USI(Objective):
    """Cross-entropy plus `weight` times KL(teacher || student), both at temperature 1; parts `ce` and `kl`.

    The teacher sees the same mixed images; it needs no mixed labels. Both models have the same class order.
    """

    head = "leaf_softmax"
    needs_teacher = True
    may_mix = True
    teacher: Teacher
    weight: float = 5.0
    smoothing: float = 0.0

    @classmethod
    def from_recipe(cls, given: Ingredients) -> Self:
        """Return it with the recipe's weight and smoothing."""
        return cls(given.source, given.recipe.kd_weight, given.recipe.label_smoothing)

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, share: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """Return `loss`, `output`, `ce` and `kl` (before its weight); LabelSpaceMismatch for heads of unlike width."""
        logits, taught = model(images), self.teacher(images)
        if logits.shape != taught.shape:
            raise LabelSpaceMismatch(
                f"The student has {logits.shape[1]} classes, the teacher {taught.shape[1]}: take a teacher of the "
                "student's label space."
            )
        ce = _mixed_cross_entropy(logits, labels, share, self.smoothing)
        kl = losses.teacher_kl(logits, taught)
        return {"loss": ce + self.weight * kl, "output": logits, "ce": ce.detach(), "kl": kl.detach()}


OBJECTIVES: dict[str, type[Objective]] = {
    "semantic_softmax": SemanticSoftmax,
    "cross_entropy": CrossEntropy,
    "multi_label": MultiLabel,
    "semantic_kd": SemanticKD,
    "usi": USI,
}


def find_objective(recipe: Recipe) -> type[Objective]:
    """Return the objective that `recipe` names; raises UsageError for an unknown name, or a recipe it cannot train."""
    name = recipe.objective
    if name not in OBJECTIVES:
        raise UsageError(f"No objective '{name}'.{did_you_mean(name, OBJECTIVES)} Objectives: {', '.join(OBJECTIVES)}.")
    kind = OBJECTIVES[name]
    if (recipe.mixup or recipe.cutmix) and not kind.may_mix:
        _refuse_mixed(0.0, f"the objective '{name}'")
    if kind.needs_teacher and not recipe.teacher:
        raise UsageError(f"The objective '{name}' needs a teacher: set it with --teacher NAME.")
    if recipe.teacher and not kind.needs_teacher:
        learning = ", ".join(key for key, other in OBJECTIVES.items() if other.needs_teacher)
        raise UsageError(f"The objective '{name}' learns from no teacher: leave it out, or choose one of {learning}.")
    return kind


def create_objective(
    recipe: Recipe, tree: Tree, teacher: Teacher | None = None, order: HeadOrder = "class"
) -> Objective:
    """Return the objective of `recipe` for a head of the label space `tree`; on the CPU until `to` moves it.

    order: of the model's rows (`level_order.head_order`); only level softmaxes take them level after level. Raises
    UsageError when recipe, teacher and head do not fit together.
    """
    kind = find_objective(recipe)
    if order == "level" and kind.head != "level_softmax":
        raise UsageError(
            f"The objective '{recipe.objective}' needs a head in class order; call from_level_order(head) first."
        )
    return kind.from_recipe(Ingredients(recipe, tree, teacher, order))


def _refuse_mixed(share: float, what: str) -> None:
    if share != 1:
        raise UsageError(f"Mixup and cutmix are not defined for {what}: set the recipe's mixup and cutmix to 0.")


def _mixed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, share: float, smoothing: float) -> torch.Tensor:
    loss = losses.cross_entropy(logits, labels, smoothing)
    return loss if share == 1 else share * loss + (1 - share) * losses.cross_entropy(logits, labels.flip(0), smoothing)
