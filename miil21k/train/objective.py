"""What an objective is, what it is made of, and the teacher that some learn from.

An objective is a frozen value that the loop, and timm's through `miil21k.train.tasks`, call with the model, a batch and
how the batch was mixed:

    objective(model, images, labels, share, partners) -> {"loss": ..., "output": logits, further parts, detached}

images: [B, 3, H, W], normalised for the student. labels: int64 [B], class indices, or where `takes_sets` multi-hot
float32 [B, C]. share: what an image keeps of itself; 1 means not mixed. partners: int64 [B], image i was mixed with
image partners[i]; without them, with image B-1-i. Nothing here waits for the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)

from miil21k.errors import UsageError
from miil21k.train import losses
from miil21k.train.level_order import LevelTable, level_table

if TYPE_CHECKING:
    from typing import Self

    from torch import nn

    from miil21k.decode.heads import HeadKind
    from miil21k.hierarchy.tree import Tree
    from miil21k.train.level_order import HeadOrder
    from miil21k.train.recipe import Recipe
    from miil21k.train.teacher_memory import TeacherMemory

__all__ = ["Ingredients", "Objective", "Teacher", "create_teacher", "mixed_cross_entropy", "refuse_mixed"]


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
    """What is minimised, and the facts about it that decide which recipes and models it goes with."""

    head: ClassVar[HeadKind]  # what the logits mean that it trains
    needs_teacher: ClassVar[bool] = False
    weighs_labels: ClassVar[bool] = False  # whether label_weight of the recipe says how much labels count beside it
    may_mix: ClassVar[bool] = False  # whether mixup and cutmix are defined for it
    weighs_images: ClassVar[bool] = False  # whether images may count by weights
    takes_sets: ClassVar[bool] = False  # whether an image may have any number of labels
    teachers: ClassVar[tuple[HeadKind, ...]] = ()  # kinds of head that may teach it; those of its own head when empty
    weights: torch.Tensor | None = field(default=None, kw_only=True)  # [B], how much each image of the batch counts

    @classmethod
    @abstractmethod
    def from_recipe(cls, given: Ingredients) -> Self:
        """Return the objective with the numbers of the recipe, on the CPU."""

    @classmethod
    def learns_from_labels(cls, recipe: Recipe) -> bool:  # noqa: ARG003 - most do whatever the recipe
        """Return whether the labels of the images decide anything; without, images need none."""
        return True

    @abstractmethod
    def __call__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        share: float = 1.0,
        partners: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return `loss`, a scalar with a graph, `output`, the logits [B, C], and the loss's parts, detached."""

    def to(self, device: torch.device | str) -> Self:
        """Return the objective with its tables and teacher on `device`."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        movable = (LevelTable, Teacher, torch.Tensor)
        moved: dict[str, Any] = {name: v.to(device) for name, v in values.items() if isinstance(v, movable)}
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen model that sees the student's images, normalised anew.

    x_teacher = (x_student std_S + mean_S - mean_T) / std_T = x_student scale + shift, both [1, 3, 1, 1].
    head: the column order of its logits. kind: what they mean. size: side to which images are resized for it
    (bilinear, with antialiasing); 0: it takes them as they are. wnids: its classes, column by column, where they are
    not the student's. memory: keeps what it said, so that it need not be asked again.
    """

    model: nn.Module
    scale: torch.Tensor
    shift: torch.Tensor
    head: HeadOrder = "class"
    kind: HeadKind = "leaf_softmax"
    size: int = 0
    wnids: tuple[str, ...] | None = None
    memory: TeacherMemory | None = None

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the teacher's logits [B, C] for images that are normalised for the student."""
        seen = images * self.scale.to(images.dtype) + self.shift.to(images.dtype)
        if self.size and tuple(seen.shape[2:]) != (self.size, self.size):
            seen = F.interpolate(seen, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        logits: torch.Tensor = self.model(seen)
        return logits

    def remembered(self, images: torch.Tensor, memory: TeacherMemory) -> tuple[losses.TopShares, ...]:
        """Return what `memory` keeps of each of the teacher's softmaxes; the teacher is asked where it must."""
        found = memory.recall(images.device)
        return memory.keep(self(images)) if found is None else found

    def of_levels(self, images: torch.Tensor, levels: LevelTable) -> torch.Tensor:
        """Return logits [B, C] whose softmaxes per level are the teacher's, as far as its memory keeps them."""
        if self.memory is None:
            return self(images)
        return self.memory.softmaxes.logits(self.remembered(images, self.memory), levels.num_classes)

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


def refuse_mixed(share: float, what: str) -> None:
    """Raise UsageError for a mixed batch, for which `what` is not defined."""
    if share != 1:
        raise UsageError(f"Mixup and cutmix are not defined for {what}: set the recipe's mixup and cutmix to 0.")


def mixed_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    share: float,
    smoothing: float,
    weights: torch.Tensor | None = None,
    partners: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the cross-entropy of a mixed batch, each label by its share; a scalar.

    partners: int64 [B], which image was mixed into each; without them, it is the batch reversed.
    """
    loss = losses.cross_entropy(logits, labels, smoothing, weights)
    if share == 1:
        return loss
    order = torch.arange(len(labels) - 1, -1, -1, device=labels.device) if partners is None else partners
    other = losses.cross_entropy(logits, labels[order], smoothing, None if weights is None else weights[order])
    return share * loss + (1 - share) * other
