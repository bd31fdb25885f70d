"""Objectives that learn from a teacher: with labels, beside them, or on images that have none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from miil21k.errors import LabelSpaceMismatch
from miil21k.train import losses
from miil21k.train.objective import Objective, Teacher, mixed_cross_entropy, refuse_mixed

if TYPE_CHECKING:
    from typing import Self

    from torch import nn

    from miil21k.train.level_order import LevelTable
    from miil21k.train.losses import Reduction
    from miil21k.train.objective import Ingredients
    from miil21k.train.recipe import Confidence, Recipe

__all__ = ["USI", "SemanticKD", "SemanticUnlabelled"]


@dataclass(frozen=True, eq=False)
class SemanticKD(Objective):
    """`label_weight` times semantic softmax plus `weight` times semantic distillation; parts `semantic` and `kd`."""

    head = "level_softmax"
    needs_teacher = True
    weighs_labels = True
    levels: LevelTable
    teacher: Teacher
    weight: float = 1.0
    smoothing: float = 0.2
    confidence: Confidence = "paper"
    reduction: Reduction = "batchmean"
    label_weight: float = 1.0

    @classmethod
    def from_recipe(cls, given: Ingredients) -> Self:
        """Return it with the levels of `tree`, for a head in either order."""
        recipe = given.recipe
        return cls(
            given.levels,
            given.source,
            recipe.kd_weight,
            recipe.label_smoothing,
            recipe.kd_confidence,
            label_weight=recipe.label_weight,
        )

    def __call__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        share: float = 1.0,
        partners: torch.Tensor | None = None,  # noqa: ARG002
    ) -> dict[str, torch.Tensor]:
        """Return `loss`, `output`, `semantic` and `kd` (before its weight)."""
        refuse_mixed(share, "semantic distillation")
        logits = model(images)
        semantic = losses.semantic_softmax(logits, labels, self.levels, self.smoothing)
        kd = losses.semantic_kd(
            logits,
            self.teacher.of_levels(images, self.levels),
            labels,
            self.levels,
            confidence=self.confidence,
            reduction=self.reduction,
            teacher_head=self.teacher.head,
        )
        loss = self.label_weight * semantic + self.weight * kd
        return {"loss": loss, "output": logits, "semantic": semantic.detach(), "kd": kd.detach()}


@dataclass(frozen=True, eq=False)
class USI(Objective):
    """`label_weight` times cross-entropy plus `weight` times KL(teacher || student) at temperature 1; `ce` and `kl`.

    The teacher sees the same mixed images; it needs no mixed labels. Both models have the same class order. With a
    label_weight of 0 the labels are not looked at, and there is no part `ce`.
    """

    head = "leaf_softmax"
    needs_teacher = True
    weighs_labels = True
    may_mix = True
    teacher: Teacher
    weight: float = 5.0
    smoothing: float = 0.0
    label_weight: float = 1.0

    @classmethod
    def learns_from_labels(cls, recipe: Recipe) -> bool:
        """Return whether the recipe has cross-entropy beside the distillation."""
        return recipe.label_weight > 0

    @classmethod
    def from_recipe(cls, given: Ingredients) -> Self:
        """Return it with the recipe's weights and smoothing."""
        recipe = given.recipe
        return cls(given.source, recipe.kd_weight, recipe.label_smoothing, recipe.label_weight)

    def __call__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        share: float = 1.0,
        partners: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return `loss`, `output`, `ce` and `kl` (before their weights).

        Raises LabelSpaceMismatch for heads of unlike width.
        """
        logits = model(images)
        if self.teacher.memory is not None:
            (top,) = self.teacher.remembered(images, self.teacher.memory)
            kl = losses.top_kl(logits, top)
        else:
            taught = self.teacher(images)
            if logits.shape != taught.shape:
                raise LabelSpaceMismatch(
                    f"The student has {logits.shape[1]} classes, the teacher {taught.shape[1]}: take a teacher of the "
                    "student's label space."
                )
            kl = losses.teacher_kl(logits, taught)
        if not self.label_weight:
            return {"loss": self.weight * kl, "output": logits, "kl": kl.detach()}
        ce = mixed_cross_entropy(logits, labels, share, self.smoothing, partners=partners)
        loss = self.label_weight * ce + self.weight * kl
        return {"loss": loss, "output": logits, "ce": ce.detach(), "kl": kl.detach()}


@dataclass(frozen=True, eq=False)
class SemanticUnlabelled(Objective):
    """`weight` times the semantic softmax loss that the teacher expects; images need no labels.

    columns: int64 [T, K] for a teacher with one softmax over its T classes (see `losses.semantic_expectation`), None
    for one with a softmax per level.
    """

    head = "level_softmax"
    needs_teacher = True
    may_mix = True
    teachers = ("level_softmax", "leaf_softmax")
    levels: LevelTable
    teacher: Teacher
    columns: torch.Tensor | None = None
    weight: float = 1.0

    @classmethod
    def learns_from_labels(cls, recipe: Recipe) -> bool:  # noqa: ARG003
        """Return False."""
        return False

    @classmethod
    def from_recipe(cls, given: Ingredients) -> Self:
        """Return it with the levels of `tree`; LabelSpaceMismatch when a class of the teacher is no node there."""
        levels, teacher, tree = given.levels, given.source, given.tree
        if teacher.kind == "level_softmax":
            return cls(levels, teacher, None, given.recipe.kd_weight)
        wnids = tree.wnids if teacher.wnids is None else teacher.wnids
        lacking = [wnid for wnid in wnids if wnid not in tree.index_of]
        if lacking:
            raise LabelSpaceMismatch(
                f"{len(lacking)} of the teacher's {len(wnids)} classes are no nodes of the student's label space "
                f"({', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''}): leave --label-space out, so that "
                "the student answers in the teacher's."
            )
        nodes = torch.tensor([tree.index_of[wnid] for wnid in wnids])
        return cls(levels, teacher, levels.targets.index_select(0, nodes), given.recipe.kd_weight)

    def __call__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,  # noqa: ARG002
        share: float = 1.0,  # noqa: ARG002
        partners: torch.Tensor | None = None,  # noqa: ARG002
    ) -> dict[str, torch.Tensor]:
        """Return `loss`, `output` and `semantic` (before its weight)."""
        logits = model(images)
        if self.columns is None:
            taught = self.teacher.of_levels(images, self.levels)
        elif self.teacher.memory is None:
            taught = torch.softmax(self.teacher(images).float(), dim=1)
        else:  # the rest belongs to no class, so that it counts at no level
            (top,) = self.teacher.remembered(images, self.teacher.memory)
            taught = top.shares.new_zeros(len(images), len(self.columns)).scatter(1, top.classes, top.shares)
        semantic = losses.semantic_expectation(logits, taught, self.levels, self.columns)
        return {"loss": self.weight * semantic, "output": logits, "semantic": semantic.detach()}
