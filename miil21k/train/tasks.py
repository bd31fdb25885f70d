"""Semantic training as tasks of timm, for timm's own training script and for loops built on `timm.task`.

    task = SemanticSoftmaxTask(model, level_table(tree))
    task(images, labels)["loss"].backward()

A task takes (input [B, 3, H, W], target int64 [B]) and returns `loss`, `output` and the parts of the loss. DDP,
compile, EMA and checkpoints are those of timm's `ClassificationTask` and `LogitDistillationTask`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from timm.task import ClassificationTask, LogitDistillationTask
from torch import nn

from miil21k.train import losses

if TYPE_CHECKING:
    from timm.task import DistillationTeacher

    from miil21k.train.level_order import LevelTable
    from miil21k.train.losses import Confidence, Reduction

__all__ = ["SemanticKDTask", "SemanticSoftmaxLoss", "SemanticSoftmaxTask"]


class SemanticSoftmaxLoss(nn.Module):
    """The semantic softmax loss as a criterion whose tables move with the module; they are not saved."""

    def __init__(self, levels: LevelTable, smoothing: float = 0.2) -> None:
        super().__init__()
        self.smoothing = smoothing
        self._levels = levels
        for name, tensor in levels.tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    @property
    def levels(self) -> LevelTable:
        """The levels, with their tables where the module is."""
        return self._levels.with_tensors(dict(self.named_buffers(recurse=False)))

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits [B, C] for class indices [B]."""
        return losses.semantic_softmax(logits, target, self.levels, self.smoothing)


class SemanticSoftmaxTask(ClassificationTask):  # type: ignore[misc]
    """timm's classification task with the semantic softmax loss. Mixup and soft targets are refused."""

    def __init__(
        self,
        model: nn.Module,
        levels: LevelTable,
        smoothing: float = 0.2,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> None:
        criterion = SemanticSoftmaxLoss(levels, smoothing)
        super().__init__(model, criterion=criterion, device=device, dtype=dtype, verbose=verbose)


class SemanticKDTask(LogitDistillationTask):  # type: ignore[misc]
    """timm's logit distillation with semantic softmax and semantic distillation in the place of its losses.

    The teacher sees the student's images, normalised for itself; its logits are in class order. Returns `task_loss` and
    `kd_loss` (before its weight) besides `loss` and `output`. confidence, reduction: see `losses.semantic_kd`.
    """

    def __init__(  # noqa: PLR0913 (timm's, and what semantic distillation adds)
        self,
        student_model: nn.Module,
        teacher_model: str | nn.Module | DistillationTeacher,
        levels: LevelTable,
        *,
        smoothing: float = 0.2,
        distill_loss_weight: float = 1.0,
        task_loss_weight: float = 1.0,
        confidence: Confidence = "paper",
        reduction: Reduction = "batchmean",
        teacher_pretrained_path: str | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__(
            student_model,
            teacher_model,
            criterion=SemanticSoftmaxLoss(levels, smoothing),
            teacher_pretrained_path=teacher_pretrained_path,
            distill_loss_weight=distill_loss_weight,
            task_loss_weight=task_loss_weight,
            device=device,
            dtype=dtype,
            verbose=verbose,
        )
        self.confidence, self.reduction = confidence, reduction

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:  # noqa: A002 (timm's name)
        """Return `loss`, `output` and the two parts, for images [B, 3, H, W] and class indices [B]."""
        logits = self.trainable_module(input)
        task_loss = self.criterion(logits, target)
        with torch.no_grad():
            taught = self.teacher(self.teacher.normalize_input(input, self.student_mean, self.student_std))
        kd_loss = losses.semantic_kd(
            logits,
            taught,
            target,
            self.criterion.levels,
            confidence=self.confidence,
            reduction=self.reduction,
        )
        loss = self.task_loss_weight * task_loss + self.distill_loss_weight * kd_loss
        return {"loss": loss, "output": logits, "task_loss": task_loss.detach(), "kd_loss": kd_loss.detach()}
