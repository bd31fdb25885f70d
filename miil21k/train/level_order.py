"""The levels of a tree as tensors, and heads whose rows are stored level after level.

A head in level order makes the semantic losses about as cheap as plain cross-entropy, since every level is then a
run of columns. The permutation is done once, on the rows of the head. A head in level order carries the buffer
`class_order` in its state dict, so its checkpoint cannot be taken for one in class order: a strict load refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn

from miil21k.decode.levels import level_order
from miil21k.errors import LabelSpaceMismatch, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from miil21k.decode.levels import Deepest
    from miil21k.hierarchy.tree import Tree

__all__ = [
    "HeadOrder",
    "LevelTable",
    "ancestor_table",
    "from_level_order",
    "head_order",
    "level_table",
    "to_class_order",
    "to_level_order",
]

HeadOrder = Literal["class", "level"]
BUFFER = "class_order"


@dataclass(frozen=True, eq=False)
class LevelTable:
    """What the semantic losses know about a tree of C classes; K levels are trained.

    depths: the depth of each level. bounds: its first column and the one after its last, in level order.
    order: int64 [C], the class of each column in level order: the K levels, then the classes of no trained level.
    column: int64 [C], the inverse. targets: int64 [C, K], the column of a label's ancestor-or-self at each level, -1
    below its own depth. sizes, weights: float64 [K] (float32 where a device has no float64), classes per level and W_k.
    head: the order of the columns of the logits that the losses are given.
    """

    depths: tuple[int, ...]
    bounds: tuple[tuple[int, int], ...]
    order: torch.Tensor
    column: torch.Tensor
    targets: torch.Tensor
    sizes: torch.Tensor
    weights: torch.Tensor
    head: HeadOrder = "class"

    @property
    def num_classes(self) -> int:
        """C, the width of the logits."""
        return self.order.numel()

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by name, for a module that registers them as buffers."""
        return {name: getattr(self, name) for name in ("order", "column", "targets", "sizes", "weights")}

    @cached_property
    def widths(self) -> list[int]:
        """The number of columns of each level, and last of what lies outside of all; in level order."""
        return [*(stop - start for start, stop in self.bounds), self.num_classes - self.bounds[-1][1]]

    def to(self, device: torch.device | str) -> LevelTable:
        """Return the table with its tensors on `device`."""
        device = torch.device(device)
        real = torch.float32 if device.type == "mps" else torch.float64
        return self.with_tensors(
            {name: t.to(device, real if t.dtype == torch.float64 else None) for name, t in self.tensors.items()}
        )

    def with_tensors(self, tensors: Mapping[str, torch.Tensor]) -> LevelTable:
        """Return the table with these in the place of its `tensors`."""
        order, column, targets, sizes, weights = (tensors[name] for name in self.tensors)
        return replace(self, order=order, column=column, targets=targets, sizes=sizes, weights=weights)

    def targets_of(self, labels: torch.Tensor) -> torch.Tensor:
        """Return int64 [B, K], the columns of the targets of `labels` (int64 [B]); one gather.

        Raises UsageError for labels that are no class indices (mixed labels have no semantic target).
        """
        if labels.ndim != 1 or labels.is_floating_point():
            raise UsageError(
                f"The semantic losses take class indices of shape [batch], not {labels.dtype} {list(labels.shape)}: "
                "turn mixup, cutmix and soft labels off, or train with cross_entropy."
            )
        return self.targets.index_select(0, labels)

    def check(self, logits: torch.Tensor) -> None:
        """Raise LabelSpaceMismatch unless `logits` are [B, C]."""
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise LabelSpaceMismatch(
                f"The levels are those of {self.num_classes} classes, the logits have the shape {list(logits.shape)}: "
                "give the model a head of this label space."
            )


def level_table(
    tree: Tree, *, deepest: Deepest = "published", max_weight: float = 20.0, head: HeadOrder = "class"
) -> LevelTable:
    """Return the levels of `tree` with their weights W_k = min(max_weight, C / number of classes at depth >= k).

    deepest: `published` drops the deepest level whatever its size, as the MIIL code does; `keep` keeps it. A level
    of one class is never trained: its softmax is constant. head: the column order of the logits to come.
    Raises UsageError when inner nodes are no classes, or when no level has two classes.
    Source: MIIL `semantic_loss.py`, `semantics.py`; levels are addressed by depth, not by position.
    """
    classes = tree.num_classes
    if tree.num_nodes > classes:
        raise UsageError(
            f"Semantic training needs a logit for every node, but {tree.num_nodes - classes} nodes of this tree are no "
            f"classes (the first is '{tree.wnids[classes]}'): make every node a class, or train with cross_entropy."
        )
    levels = level_order(tree, deepest)
    if not levels.starts.size:
        raise UsageError("No level of this tree has two classes to tell apart: train with cross_entropy.")
    rest = np.setdiff1d(np.arange(classes), levels.classes)
    order = np.concatenate([levels.classes, rest])
    column = np.empty_like(order)
    column[order] = np.arange(classes)
    depths = tuple(int(depth) for depth in levels.depths)
    ancestors = tree.level_target[:, depths]
    targets = np.where(ancestors >= 0, column[ancestors], -1)
    at_least = np.array([(tree.depth >= depth).sum() for depth in depths])
    cuts = [*levels.starts.tolist(), levels.classes.size]
    bounds = tuple(pairwise(cuts))
    return LevelTable(
        depths=depths,
        bounds=bounds,
        order=torch.from_numpy(order),
        column=torch.from_numpy(column),
        targets=torch.from_numpy(targets),
        sizes=torch.tensor([stop - start for start, stop in bounds], dtype=torch.float64),
        weights=torch.from_numpy(np.minimum(max_weight, classes / at_least)),
        head=head,
    )


def ancestor_table(tree: Tree) -> torch.Tensor:
    """Return int64 [C, L], every class with its ancestors that are classes; padded with the class itself."""
    own = np.arange(tree.num_classes)
    chain = tree.level_target[: tree.num_classes].astype(np.int64)
    is_class = (chain >= 0) & (chain < tree.num_classes)
    return torch.from_numpy(np.where(is_class, chain, own[:, None]))


def head_order(head: nn.Module) -> HeadOrder:
    """Return the order in which the rows of `head` stand."""
    return "level" if BUFFER in dict(head.named_buffers(recurse=False)) else "class"


def to_level_order(head: nn.Module, levels: LevelTable) -> None:
    """Store the rows of `head` in level order, in place, and note it in the buffer `class_order`.

    head: `nn.Linear` or a 1x1 convolution with C outputs, in class order. Do it before the optimizer is made: its
    moments follow the rows. Raises UsageError for a head already in level order, LabelSpaceMismatch for another width.
    """
    if head_order(head) == "level":
        raise UsageError("The head is in level order already; from_level_order(head) undoes it.")
    rows = _rows(head)
    if rows[0].shape[0] != levels.num_classes:
        raise LabelSpaceMismatch(
            f"The levels are those of {levels.num_classes} classes, the head has {rows[0].shape[0]} outputs."
        )
    _select(rows, levels.order)
    head.register_buffer(BUFFER, levels.order.clone().to(rows[0].device))


def from_level_order(head: nn.Module) -> None:
    """Put the rows of a head in level order back into class order, in place; leaves a head in class order alone."""
    if head_order(head) == "class":
        return
    _select(_rows(head), torch.argsort(head.get_buffer(BUFFER)))
    delattr(head, BUFFER)


def to_class_order(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a copy of a model's state dict in which a head in level order is in class order; the input is kept.

    What is returned loads into a plain model. Other entries are the same tensors.
    """
    found = {name: tensor for name, tensor in state_dict.items() if name.rpartition(".")[2] != BUFFER}
    for name in state_dict.keys() - found.keys():
        prefix = name.removesuffix(BUFFER)
        rows = torch.argsort(state_dict[name])
        for part in (f"{prefix}weight", f"{prefix}bias"):
            if part in found:
                found[part] = found[part].index_select(0, rows)
    return found


def _rows(head: nn.Module) -> list[torch.Tensor]:
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    if not isinstance(weight, torch.Tensor):
        raise UsageError(f"A head of type {type(head).__name__} has no weight with one row per class.")
    return [weight] if bias is None else [weight, bias]


@torch.no_grad()
def _select(rows: list[torch.Tensor], order: torch.Tensor) -> None:
    for tensor in rows:
        tensor.copy_(tensor.index_select(0, order.to(tensor.device)))
