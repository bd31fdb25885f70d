"""Cross-entropy of one softmax per level, with its gradient written in place: the kernel of semantic softmax.

For level k with logits z, target t and N_k classes, with the label smoothed by s:

    loss_k   = lse(z) - (1 - s) z_t - s mean(z)
    gradient = softmax(z) - (1 - s) [j = t] - s / N_k

The forward pass keeps one buffer as large as the logits, and the backward pass turns it into the gradient. One
softmax over the whole row serves all levels: P(level) is its mass inside the row, so softmax within the level is
the row's softmax divided by that mass. Where a level or a target is so improbable that it could underflow, every level
is first shifted by its own maximum, which costs two more passes. On a CPU the need for it is looked up; elsewhere it
is always done, since looking would wait for the device.

Logits in class order are permuted block by block, and so is the gradient at the end: a gather inside rows that lie in
a cache costs less than sums over scattered columns.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from miil21k.train.level_order import LevelTable

__all__ = ["level_cross_entropy"]

SMALLEST = 1e-25  # probabilities below it are on the way to underflow
BLOCK_BYTES = {"level": 12 << 20, "class": 3 << 20}  # rows per block on a CPU: what is written stays in a cache


def level_cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    levels: LevelTable,
    smoothing: float,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return [K], the cross-entropy of each level, summed over the rows that have a target and divided by B.

    logits: float32 or float64 [B, C], columns in the order `levels.head`. targets: int64 [B, K], columns in level
    order, -1 for none. weights: [B], how much each row counts. Differentiable once; under torch.compile the same
    formula is left to the compiler.
    """
    counts = (targets >= 0).to(logits.dtype)
    if weights is not None:
        counts = counts * weights.to(logits.dtype)[:, None]
    if torch.compiler.is_compiling():
        return _composed(logits, targets, levels, smoothing, counts)
    losses: torch.Tensor = _LevelCrossEntropy.apply(logits, targets, levels, smoothing, counts)
    return losses


def _composed(
    logits: torch.Tensor, targets: torch.Tensor, levels: LevelTable, smoothing: float, counts: torch.Tensor
) -> torch.Tensor:
    z = logits if levels.head == "level" else logits.index_select(1, levels.order)
    losses = []
    for level, (start, stop) in enumerate(levels.bounds):
        log_probs = torch.log_softmax(z[:, start:stop], dim=1)
        target = targets[:, level]
        hit = log_probs.gather(1, (target - start).clamp(min=0)[:, None])[:, 0]
        loss = -(1 - smoothing) * hit - smoothing * log_probs.mean(dim=1)
        losses.append(torch.where(target >= 0, loss * counts[:, level], 0.0).sum() / logits.shape[0])
    return torch.stack(losses)


class _LevelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        targets: torch.Tensor,
        levels: LevelTable,
        smoothing: float,
        counts: torch.Tensor,
    ) -> torch.Tensor:
        with _without_autocast(logits.device.type):
            probs, mass, losses = _passes(logits, targets, levels, smoothing)
        ctx.save_for_backward(logits, targets, mass, counts)
        ctx.probs, ctx.levels, ctx.smoothing = probs, levels, smoothing
        return torch.where(targets >= 0, losses * counts, 0.0).sum(dim=0) / logits.shape[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_losses: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        logits, targets, mass, counts = ctx.saved_tensors
        levels: LevelTable = ctx.levels
        share = counts * (grad_losses / logits.shape[0])
        with _without_autocast(logits.device.type):
            # The buffer becomes the gradient. A second backward pass through the same graph computes it anew.
            grad, ctx.probs = ctx.probs, None
            if grad is None:
                grad, mass, _ = _passes(logits, targets, levels, ctx.smoothing)
            floor = share * (ctx.smoothing / levels.sizes.to(share.dtype))
            missed = (ctx.smoothing - 1) * share
            for rows in _row_blocks(grad, levels):
                part = grad[rows]
                _scale_in_place(part, share[rows] / mass[rows], floor[rows], levels)
                part.scatter_add_(1, targets[rows].clamp(min=0), missed[rows])
                if levels.head == "class":
                    part.copy_(_permuted(part, levels.column))
        return grad, None, None, None, None


def _without_autocast(device: str) -> AbstractContextManager[None]:
    # Sums by matrix product must keep their precision.
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _passes(
    logits: torch.Tensor, targets: torch.Tensor, levels: LevelTable, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return probs [B, C], unnormalised within a level; mass [B, K], their sum per level; losses [B, K].

    The columns of probs stand in level order. A loss is garbage where there is no target.
    """
    probs = torch.empty_like(logits, memory_format=torch.contiguous_format)
    parts = [
        _block(logits[rows], targets[rows], probs[rows], levels, smoothing) for rows in _row_blocks(logits, levels)
    ]
    mass, losses = parts[0] if len(parts) == 1 else (torch.cat(found) for found in zip(*parts, strict=True))
    return probs, mass, losses


def _block(
    z: torch.Tensor, targets: torch.Tensor, probs: torch.Tensor, levels: LevelTable, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    if levels.head == "class":
        z = _permuted(z, levels.order)
    columns = targets.clamp(min=0)
    hit = z.gather(1, columns)
    found = _fast(z, targets, columns, probs, levels) if z.device.type == "cpu" else None
    if found is None:
        lse, mass = _exact(z, probs, levels)
        found = lse - hit, mass
    surprise, mass = found
    mean = _sums(z, levels) / levels.sizes.to(z.dtype)
    return mass, surprise + smoothing * (hit - mean)


def _fast(
    z: torch.Tensor, targets: torch.Tensor, columns: torch.Tensor, probs: torch.Tensor, levels: LevelTable
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Fill `probs` and return lse - z_t and the mass of every level, or None if anything may have underflown."""
    torch.softmax(z, dim=1, out=probs)
    mass = _sums(probs, levels)
    hit = torch.where(targets >= 0, probs.gather(1, columns), 1.0)
    if not float(torch.minimum(mass, hit).amin()) > SMALLEST:
        return None
    return (mass / hit).log_(), mass


def _exact(z: torch.Tensor, probs: torch.Tensor, levels: LevelTable) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill `probs` and return the logsumexp and the mass of every level, exact whatever the logits."""
    top = torch.stack([part.amax(dim=1) for part in _parts(z, levels)], dim=1)
    shifted = torch.full_like(z, -torch.inf)
    for into, part, least in zip(_parts(shifted, levels), _parts(z, levels), torch.split(top, 1, dim=1), strict=True):
        torch.sub(part, least, out=into)
    torch.softmax(shifted, dim=1, out=probs)
    mass = _sums(probs, levels)
    # the largest shifted logit is 0, so its probability is one over the row's normaliser
    return top + (mass / probs.amax(dim=1, keepdim=True)).log(), mass


def _permuted(values: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return the columns of `values` [R, C] in another order."""
    if values.device.type == "cpu":
        values.sum()  # reads the rows in order, which brings them into the cache; the gather alone would wait for each
    return values.index_select(1, columns)


def _parts(values: torch.Tensor, levels: LevelTable) -> tuple[torch.Tensor, ...]:
    """Return views of the columns of each level; `values` [R, C] in level order."""
    return torch.split(values, levels.widths, dim=1)[: len(levels.bounds)]


def _sums(values: torch.Tensor, levels: LevelTable) -> torch.Tensor:
    """Return [R, K], the sum of `values` [R, C] over each level."""
    return torch.stack([part.sum(dim=1) for part in _parts(values, levels)], dim=1)


def _scale_in_place(probs: torch.Tensor, scale: torch.Tensor, floor: torch.Tensor, levels: LevelTable) -> None:
    """Turn `probs` [R, C] into probs * scale - floor within each level (both [R, K]), and 0 outside of all."""
    for part, factor, less in zip(
        _parts(probs, levels), torch.split(scale, 1, dim=1), torch.split(floor, 1, dim=1), strict=True
    ):
        part.mul_(factor).sub_(less)
    probs[:, levels.bounds[-1][1] :] = 0


def _row_blocks(values: torch.Tensor, levels: LevelTable) -> list[slice]:
    rows = len(values)
    if values.device.type != "cpu":
        return [slice(0, rows)]
    step = max(1, BLOCK_BYTES[levels.head] // (values.shape[1] * values.element_size()))
    return [slice(start, start + step) for start in range(0, rows, step)]
