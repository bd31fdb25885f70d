"""Objectives by name: what a training step minimises.

A new one is a subclass of `miil21k.train.objective.Objective` and a line in `OBJECTIVES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from miil21k.errors import UsageError
from miil21k.text import did_you_mean
from miil21k.train import losses
from miil21k.train.distillation import USI, SemanticKD, SemanticUnlabelled
from miil21k.train.level_order import LevelTable, ancestor_table
from miil21k.train.objective import Ingredients, Objective, mixed_cross_entropy, refuse_mixed

if TYPE_CHECKING:
    from typing import Self

    import torch
    from torch import nn

    from miil21k.hierarchy.tree import Tree
    from miil21k.train.level_order import HeadOrder
    from miil21k.train.objective import Teacher
    from miil21k.train.recipe import Recipe

__all__ = ["OBJECTIVES", "CrossEntropy", "MultiLabel", "SemanticSoftmax", "create_objective", "find_objective"]


@dataclass(frozen=True, eq=False)
class SemanticSoftmax(Objective):
    """Semantic softmax; the parts are the losses of the levels, `level_00` and so on, before weighting."""

    head = "level_softmax"
    weighs_images = True
    levels: LevelTable
    smoothing: float = 0.2

    @classmethod
    def from_recipe(cls, given: Ingredients) -> Self:
        """Return it with the levels of `tree`, for a head in either order."""
        return cls(given.levels, given.recipe.label_smoothing)

    def __call__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        share: float = 1.0,
        partners: torch.Tensor | None = None,  # noqa: ARG002
    ) -> dict[str, torch.Tensor]:
        """Return `loss`, `output` and the levels' losses."""
        refuse_mixed(share, "semantic softmax")
        logits = model(images)
        per_level = losses.semantic_softmax_levels(logits, labels, self.levels, self.smoothing, self.weights)
        loss = (per_level * self.levels.weights.to(per_level.dtype)).sum()
        parts = per_level.detach().unbind()
        names = (f"level_{depth:02d}" for depth in self.levels.depths)
        return {"loss": loss, "output": logits, **dict(zip(names, parts, strict=True))}


@dataclass(frozen=True, eq=False)
class CrossEntropy(Objective):
    """Single-label cross-entropy over all classes; mixed labels are weighted by their shares."""

    head = "leaf_softmax"
    may_mix = True
    weighs_images = True
    smoothing: float = 0.2

    @classmethod
    def from_recipe(cls, given: Ingredients) -> Self:
        """Return it with the recipe's smoothing."""
        return cls(given.recipe.label_smoothing)

    def __call__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        share: float = 1.0,
        partners: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return `loss` and `output`."""
        logits = model(images)
        loss = mixed_cross_entropy(logits, labels, share, self.smoothing, self.weights, partners)
        return {"loss": loss, "output": logits}


@dataclass(frozen=True, eq=False)
class MultiLabel(Objective):
    """Independent binary losses; positive are a label and all its ancestors, or the several labels of an image.

    ancestors: int64 [C, L] from `ancestor_table`. kind: a name in `losses.MULTI_LABEL`.
    """

    head = "sigmoid"
    weighs_images = True
    takes_sets = True
    ancestors: torch.Tensor
    kind: str = "asymmetric"

    @classmethod
    def from_recipe(cls, given: Ingredients) -> Self:
        """Return it with the ancestors of `tree`."""
        return cls(ancestor_table(given.tree), given.recipe.multi_label_loss)

    def __call__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        share: float = 1.0,
        partners: torch.Tensor | None = None,  # noqa: ARG002
    ) -> dict[str, torch.Tensor]:
        """Return `loss` and `output`."""
        refuse_mixed(share, "multi-label training")
        logits = model(images)
        loss = losses.MULTI_LABEL[self.kind](logits, labels, self.ancestors, weights=self.weights)
        return {"loss": loss, "output": logits}


OBJECTIVES: dict[str, type[Objective]] = {
    "semantic_softmax": SemanticSoftmax,
    "cross_entropy": CrossEntropy,
    "multi_label": MultiLabel,
    "semantic_kd": SemanticKD,
    "semantic_unlabelled": SemanticUnlabelled,
    "usi": USI,
}


def find_objective(recipe: Recipe) -> type[Objective]:
    """Return the objective that `recipe` names; raises UsageError for an unknown name, or a recipe it cannot train."""
    name = recipe.objective
    if name not in OBJECTIVES:
        raise UsageError(f"No objective '{name}'.{did_you_mean(name, OBJECTIVES)} Objectives: {', '.join(OBJECTIVES)}.")
    kind = OBJECTIVES[name]
    if (recipe.mixup or recipe.cutmix) and not kind.may_mix:
        refuse_mixed(0.0, f"the objective '{name}'")
    if kind.needs_teacher and not recipe.teacher:
        raise UsageError(f"The objective '{name}' needs a teacher: set it with --teacher NAME.")
    if recipe.teacher and not kind.needs_teacher:
        learning = ", ".join(key for key, other in OBJECTIVES.items() if other.needs_teacher)
        raise UsageError(f"The objective '{name}' learns from no teacher: leave it out, or choose one of {learning}.")
    if recipe.label_weight != 1 and not kind.weighs_labels:
        raise UsageError(f"The objective '{name}' weighs no labels against a teacher: leave label_weight out.")
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
