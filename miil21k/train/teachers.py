"""A teacher for distillation: a model of the zoo or of an earlier run, answering in the student's label space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from miil21k.errors import LabelSpaceMismatch, UsageError
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import projection, require_same
from miil21k.train.objectives import create_teacher, find_objective
from miil21k.zoo.checkpoint_card import load_trained

if TYPE_CHECKING:
    from os import PathLike

    from miil21k.decode.heads import HeadKind
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.train.objectives import Teacher
    from miil21k.train.recipe import Recipe
    from miil21k.zoo.schema import Preprocess

__all__ = ["load_teacher"]


class _Selected(nn.Module):
    """A model whose logits are a selection of another model's: exact, and no parameter more."""

    def __init__(self, model: nn.Module, columns: torch.Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(images)
        return logits.index_select(1, self.get_buffer("columns"))


def load_teacher(
    recipe: Recipe,
    space: LabelSpace,
    student: Preprocess,
    head: HeadKind,
    *,
    cache_dir: str | PathLike[str] | None = None,
    offline: bool | None = None,
) -> Teacher | None:
    """Return the recipe's teacher on the CPU, None when its objective needs none.

    cache_dir, offline: as for `create_model`.

    The teacher's logits are selected for the classes of `space` where its own has them all. Raises
    LabelSpaceMismatch when it lacks some or has another tree, UsageError when its head is of another kind.
    """
    if not find_objective(recipe).needs_teacher:
        return None
    model, own, kind, preprocess = _load(recipe, cache_dir, offline)
    if kind != head:
        raise UsageError(
            f"The teacher '{recipe.teacher}' has a head of kind {kind}, the objective '{recipe.objective}' distils one "
            f"of kind {head}: choose another teacher."
        )
    if own.wnids == space.wnids:
        require_same(own, space, "student")
    else:
        model = _Selected(model, torch.from_numpy(projection(own, space)).long())
    return create_teacher(model, (student.mean, student.std), (preprocess.mean, preprocess.std))


def _load(
    recipe: Recipe, cache_dir: str | PathLike[str] | None, offline: bool | None
) -> tuple[nn.Module, LabelSpace, HeadKind, Preprocess]:
    name, path = recipe.teacher, Path(recipe.teacher)
    named = load_label_space(recipe.teacher_label_space) if recipe.teacher_label_space else None
    if path.suffix == ".safetensors":
        model, card = load_trained(path)
        return model, _space(name, named, card.space), card.head, card.preprocess
    from miil21k.zoo.names import trained_weights
    from miil21k.zoo.registry import create_model

    weights = trained_weights(name, cache_dir=cache_dir, offline=offline)
    space = _space(name, named, load_label_space(weights.label_space) if weights.label_space else None)
    model = create_model(name, pretrained=True, cache_dir=cache_dir, offline=offline)
    if weights.num_classes != space.num_classes:
        raise LabelSpaceMismatch(
            f"The teacher '{name}' has {weights.num_classes:,} classes, and the label space '{space.name}' "
            f"{space.num_classes:,}: name the one in which it answers."
        )
    return model, space, weights.head, weights.preprocess


def _space(name: str, named: LabelSpace | None, known: LabelSpace | None) -> LabelSpace:
    """Return the label space of a teacher: the known one, else the one that the recipe names."""
    if known is None:
        if named is None:
            raise LabelSpaceMismatch(
                f"The label space of '{name}' was never published: say --teacher-label-space, or choose another "
                "teacher."
            )
        return named
    if named is not None and named.sha256 != known.sha256:
        raise LabelSpaceMismatch(
            f"The teacher '{name}' answers in '{known.name}', not in '{named.name}': leave --teacher-label-space out."
        )
    return known
