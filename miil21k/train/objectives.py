"""What a training step minimises: forward passes and losses in, a dict of losses out.

An objective is a frozen value that the loop calls with the model, a batch and how the batch was mixed:

    objective(model, images, labels, share) -> {"loss": ..., further parts, detached}

images: [B, 3, H, W], normalised for the student. labels: int64 [B], class indices. share: image i was mixed with image
B-1-i and keeps this share of itself; 1 means not mixed. An objective for which mixed labels are not defined refuses
them. Nothing here waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch

from miil21k.errors import LabelSpaceMismatch, UsageError
from miil21k.train import losses
from miil21k.train.level_order import ancestor_table, level_table

if TYPE_CHECKING:
    from torch import nn

    from miil21k.hierarchy.tree import Tree
    from miil21k.train.level_order import HeadOrder, LevelTable
    from miil21k.train.losses import Confidence, Reduction
    from miil21k.train.recipe import Recipe

__all__ = [
    "USI",
    "CrossEntropy",
    "MultiLabel",
    "Objective",
    "SemanticKD",
    "SemanticSoftmax",
    "Teacher",
    "create_objective",
    "create_teacher",
]


class Objective(Protocol):
    """See the module's text; `to` returns the objective with its tables and teacher on a device."""

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, share: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """Return `loss`, with a graph, and its parts, detached; all scalars."""

    def to(self, device: torch.device | str) -> Objective:
        """Return the objective for models on `device`."""


@dataclass(frozen=True, eq=False)
class SemanticSoftmax:
    """Semantic softmax; the parts are the losses of the levels, `level_00` and so on, before weighting."""

    levels: LevelTable
    smoothing: float = 0.2

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, share: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """Return `loss` and the levels'."""
        _refuse_mixed(share, "semantic softmax")
        per_level = losses.semantic_softmax_levels(model(images), labels, self.levels, self.smoothing)
        loss = (per_level * self.levels.weights.to(per_level.dtype)).sum()
        parts = per_level.detach().unbind()
        return {"loss": loss} | {f"level_{d:02d}": part for d, part in zip(self.levels.depths, parts, strict=True)}

    def to(self, device: torch.device | str) -> SemanticSoftmax:
        """Return the objective with its table on `device`."""
        return replace(self, levels=self.levels.to(device))


@dataclass(frozen=True)
class CrossEntropy:
    """Single-label cross-entropy over all classes; mixed labels are weighted by their shares."""

    smoothing: float = 0.2

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, share: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """Return `loss`."""
        return {"loss": _mixed_cross_entropy(model(images), labels, share, self.smoothing)}

    def to(self, device: torch.device | str) -> CrossEntropy:  # noqa: ARG002 (has nothing to move)
        """Return the objective itself."""
        return self


@dataclass(frozen=True, eq=False)
class MultiLabel:
    """Independent binary losses with a label and all its ancestors positive.

    ancestors: int64 [C, L] from `ancestor_table`. kind: `bce` or `asymmetric`; the gammas and the margin are those
    of the asymmetric loss.
    """

    ancestors: torch.Tensor
    kind: str = "asymmetric"
    gamma_neg: float = 4.0
    gamma_pos: float = 0.0
    margin: float = 0.05

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, share: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """Return `loss`."""
        _refuse_mixed(share, "multi-label training")
        logits = model(images)
        if self.kind == "bce":
            return {"loss": losses.multi_label_bce(logits, labels, self.ancestors)}
        return {"loss": losses.asymmetric(logits, labels, self.ancestors, self.gamma_neg, self.gamma_pos, self.margin)}

    def to(self, device: torch.device | str) -> MultiLabel:
        """Return the objective with its table on `device`."""
        return replace(self, ancestors=self.ancestors.to(device))


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
class SemanticKD:
    """Semantic softmax plus `weight` times semantic distillation; parts `semantic` and `kd`."""

    levels: LevelTable
    teacher: Teacher
    weight: float = 1.0
    smoothing: float = 0.2
    confidence: Confidence = "paper"
    reduction: Reduction = "batchmean"

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, share: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """Return `loss`, `semantic` and `kd` (before its weight)."""
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
        return {"loss": semantic + self.weight * kd, "semantic": semantic.detach(), "kd": kd.detach()}

    def to(self, device: torch.device | str) -> SemanticKD:
        """Return the objective with its table and teacher on `device`."""
        return replace(self, levels=self.levels.to(device), teacher=self.teacher.to(device))


@dataclass(frozen=True, eq=False)
class USI:
    """Cross-entropy plus `weight` times KL(teacher || student), both at temperature 1; parts `ce` and `kl`.

    The teacher sees the same mixed images; it needs no mixed labels. Both models have the same class order.
    """

    teacher: Teacher
    weight: float = 5.0
    smoothing: float = 0.0

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, share: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """Return `loss`, `ce` and `kl` (before its weight). Raises LabelSpaceMismatch for heads of unlike width."""
        logits, taught = model(images), self.teacher(images)
        if logits.shape != taught.shape:
            raise LabelSpaceMismatch(
                f"The student has {logits.shape[1]} classes, the teacher {taught.shape[1]}: take a teacher of the "
                "student's label space."
            )
        ce = _mixed_cross_entropy(logits, labels, share, self.smoothing)
        kl = losses.teacher_kl(logits, taught)
        return {"loss": ce + self.weight * kl, "ce": ce.detach(), "kl": kl.detach()}

    def to(self, device: torch.device | str) -> USI:
        """Return the objective with its teacher on `device`."""
        return replace(self, teacher=self.teacher.to(device))


def create_objective(
    recipe: Recipe, tree: Tree, teacher: Teacher | None = None, head: HeadOrder = "class"
) -> Objective:
    """Return the objective of `recipe` for a head of the label space `tree`; on the CPU until `to` moves it.

    teacher: needed by `semantic_kd` and `usi`. head: the order of the model's rows (`level_order.head_order`); the flat
    objectives need class order. Raises UsageError when recipe, teacher and head do not fit together.
    """
    name = recipe.objective
    if name in ("semantic_kd", "usi") and teacher is None:
        raise UsageError(f"The objective '{name}' needs a teacher.")
    if head == "level" and not name.startswith("semantic"):
        raise UsageError(f"The objective '{name}' needs a head in class order; call from_level_order(head) first.")
    if name == "cross_entropy":
        return CrossEntropy(recipe.label_smoothing)
    if name == "multi_label":
        return MultiLabel(ancestor_table(tree), recipe.multi_label_loss)
    if name == "usi" and teacher is not None:
        return USI(teacher, recipe.kd_weight, recipe.label_smoothing)
    levels = level_table(tree, deepest=recipe.deepest, max_weight=recipe.max_level_weight, head=head)
    if teacher is not None and name == "semantic_kd":
        return SemanticKD(levels, teacher, recipe.kd_weight, recipe.label_smoothing, recipe.kd_confidence)
    return SemanticSoftmax(levels, recipe.label_smoothing)


def _refuse_mixed(share: float, what: str) -> None:
    if share != 1:
        raise UsageError(f"Mixup and cutmix are not defined for {what}: set the recipe's mixup and cutmix to 0.")


def _mixed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, share: float, smoothing: float) -> torch.Tensor:
    loss = losses.cross_entropy(logits, labels, smoothing)
    return loss if share == 1 else share * loss + (1 - share) * losses.cross_entropy(logits, labels.flip(0), smoothing)
