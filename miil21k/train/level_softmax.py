"""Cross-entropy of one softmax per level, with its gradient written in place: the kernel of semantic softmax.

For level k with logits z, target t and N_k classes, with the label smoothed by s:

    loss_k   = lse(z) - (1 - s) z_t - s mean(z)
    gradient = softmax(z) - (1 - s) [j = t] - s / N_k

The forward pass keeps one buffer as large as the logits, and the backward pass turns it into the gradient. One
softmax over the whole row serves all levels: P(level) is its mass inside the row, so softmax within the level is
the row's softmax divided by that mass. Where a level is so improbable that its mass could underflow, every level is
first shifted by its own maximum, which costs one more pass. On a CPU the need for it is looked up; elsewhere it is
always done, since looking would wait for the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miil21k.train.level_order import LevelTable

__all__ = ["level_cross_entropy"]

SMALLEST_MASS = 1e-20  # below it a level's softmax would lose digits to underflow
BLOCK_BYTES = 3 << 20  # rows per block on a CPU: the block stays in the second-level cache between passes


def level_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, levels: LevelTable, smoothing: float
) -> torch.Tensor:
    """Return [K], the cross-entropy of each level, summed over the rows that have a target and divided by B.

    logits: float32 or float64 [B, C], columns in the order `levels.head`. targets: int64 [B, K], columns in level
    order, -1 for none. Differentiable once; under torch.compile the same formula is left to the compiler.
    """
    if torch.compiler.is_compiling():
        return _composed(logits, targets, levels, smoothing)
    losses: torch.Tensor = _LevelCrossEntropy.apply(logits, targets, levels, smoothing)
    return losses


def _composed(logits: torch.Tensor, targets: torch.Tensor, levels: LevelTable, smoothing: float) -> torch.Tensor:
    z = logits if levels.head == "level" else logits.index_select(1, levels.order)
    losses = []
    for level, (start, stop) in enumerate(levels.bounds):
        log_probs = torch.log_softmax(z[:, start:stop], dim=1)
        target = targets[:, level]
        hit = log_probs.gather(1, (target - start).clamp(min=0)[:, None])[:, 0]
        loss = -(1 - smoothing) * hit - smoothing * log_probs.mean(dim=1)
        losses.append(torch.where(target >= 0, loss, 0.0).sum() / logits.shape[0])
    return torch.stack(losses)


class _Passes(NamedTuple):
    """probs: [B, C] in level order, unnormalised within a level. mass: [B, K], their sum. lse, mean: [B, K]."""

    probs: torch.Tensor
    mass: torch.Tensor
    lse: torch.Tensor
    mean: torch.Tensor


class _LevelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, targets: torch.Tensor, levels: LevelTable, smoothing: float
    ) -> torch.Tensor:
        passes = _level_passes(logits, levels)
        columns = targets.clamp(min=0)
        hit = logits.gather(1, columns if levels.head == "level" else levels.order[columns])
        loss = passes.lse - (1 - smoothing) * hit - smoothing * passes.mean
        ctx.save_for_backward(logits, targets, passes.mass)
        ctx.probs, ctx.levels, ctx.smoothing = passes.probs, levels, smoothing
        return torch.where(targets >= 0, loss, 0.0).sum(dim=0) / logits.shape[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_losses: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        logits, targets, mass = ctx.saved_tensors
        levels: LevelTable = ctx.levels
        # The buffer becomes the gradient. A second backward pass through the same graph computes it anew.
        probs, ctx.probs = ctx.probs, None
        if probs is None:
            passes = _level_passes(logits, levels)
            probs, mass = passes.probs, passes.mass
        share = torch.where(targets >= 0, grad_losses / logits.shape[0], 0.0)
        floor = share * (ctx.smoothing / levels.sizes.to(share.dtype))
        _scale_in_place(probs, share / mass, floor, levels)
        probs.scatter_add_(1, targets.clamp(min=0), (ctx.smoothing - 1) * share)
        if levels.head == "class":
            for rows in _row_blocks(probs):
                block = probs[rows]
                block.copy_(block.gather(1, levels.column.expand(len(block), -1)))
        return probs, None, None, None


def _scale_in_place(probs: torch.Tensor, scale: torch.Tensor, floor: torch.Tensor, levels: LevelTable) -> None:
    """Turn `probs` [B, C] into probs * scale - floor within each level (both [B, K]), and 0 outside of all."""
    end = levels.bounds[-1][1]
    for rows in _row_blocks(probs):
        block, factor, less = probs[rows], scale[rows], floor[rows]
        for level, (start, stop) in enumerate(levels.bounds):
            block[:, start:stop].mul_(factor[:, level : level + 1]).sub_(less[:, level : level + 1])
    if end < probs.shape[1]:
        probs[:, end:] = 0


def _level_passes(logits: torch.Tensor, levels: LevelTable) -> _Passes:
    probs = torch.empty_like(logits, memory_format=torch.contiguous_format)
    parts = [_block_passes(logits[rows], probs[rows], levels) for rows in _row_blocks(logits)]
    if len(parts) == 1:
        return _Passes(probs, *parts[0])
    mass, lse, mean = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return _Passes(probs, mass, lse, mean)


def _block_passes(
    logits: torch.Tensor, probs: torch.Tensor, levels: LevelTable
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Fill `probs` and return mass, lse and mean of every level, each [R, K]."""
    z = logits if levels.head == "level" else logits.gather(1, levels.order.expand(len(logits), -1))
    mean = _sums(z, levels) / levels.sizes.to(z.dtype)
    if z.device.type == "cpu":
        torch.softmax(z, dim=1, out=probs)
        mass = _sums(probs, levels)
        if float(mass.amin()) > SMALLEST_MASS:
            # log of the row's normaliser, read off its largest probability
            row = z.amax(dim=1, keepdim=True) - probs.amax(dim=1, keepdim=True).log()
            return mass, row + mass.log(), mean
    top = torch.stack([z[:, start:stop].amax(dim=1) for start, stop in levels.bounds], dim=1)
    shifted = torch.full_like(z, -torch.inf)
    for level, (start, stop) in enumerate(levels.bounds):
        torch.sub(z[:, start:stop], top[:, level : level + 1], out=shifted[:, start:stop])
    torch.softmax(shifted, dim=1, out=probs)
    mass = _sums(probs, levels)
    # the largest shifted logit is 0, so its probability is one over the row's normaliser
    return mass, top + (mass / probs.amax(dim=1, keepdim=True)).log(), mean


def _sums(values: torch.Tensor, levels: LevelTable) -> torch.Tensor:
    return torch.stack([values[:, start:stop].sum(dim=1) for start, stop in levels.bounds], dim=1)


def _row_blocks(values: torch.Tensor) -> Sequence[slice]:
    rows = len(values)
    step = max(1, BLOCK_BYTES // (values.shape[1] * values.element_size())) if values.device.type == "cpu" else rows
    return [slice(start, start + step) for start in range(0, rows, max(1, step))]
