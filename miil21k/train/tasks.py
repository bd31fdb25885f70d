"""Our objectives as tasks of timm, for timm's own training script and for loops built on `timm.task`.

    task = ObjectiveTask(model, SemanticSoftmax(level_table(tree)))
    task(images, labels)["loss"].backward()

DDP, compile, EMA and checkpoints are those of timm's `ClassificationTask`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timm.task import ClassificationTask

if TYPE_CHECKING:
    import torch
    from torch import nn

    from miil21k.train.objective import Objective

__all__ = ["ObjectiveTask"]


class ObjectiveTask(ClassificationTask):  # type: ignore[misc]
    """timm's task that trains `model` with an objective of `miil21k.train.objectives`.

    The tables and the teacher of the objective follow the task to its device; neither is part of its checkpoint, and
    the teacher stays in eval mode. Soft targets are refused where the objective takes class indices.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__(model, criterion=objective, device=device, dtype=dtype, verbose=verbose)
        self.criterion = objective.to(self.device)

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> ObjectiveTask:
        super()._apply(fn, *args, **kwargs)
        self.criterion = self.criterion.to(self.device)
        return self

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:  # noqa: A002 (timm's name)
        """Return `loss`, `output` and the parts of the loss, for images [B, 3, H, W] and class indices [B]."""
        result: dict[str, torch.Tensor] = self.criterion(self.trainable_module, input, target)
        return result
