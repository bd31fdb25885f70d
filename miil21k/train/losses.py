"""Training losses as pure functions of logits and labels.

All are computed in float32 at least, also inside autocast, wait for no device, and have no graph break under
torch.compile. Labels are class indices, int64 [B]; a label outside 0..C-1 raises IndexError on a CPU and fails the
device's own assertion elsewhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)

from miil21k.errors import UsageError
from miil21k.train.level_softmax import level_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.train.level_order import HeadOrder, LevelTable
    from miil21k.train.recipe import Confidence

__all__ = [
    "MULTI_LABEL",
    "Reduction",
    "TopShares",
    "asymmetric",
    "cross_entropy",
    "multi_label_bce",
    "semantic_expectation",
    "semantic_kd",
    "semantic_softmax",
    "semantic_softmax_levels",
    "teacher_kl",
    "top_kl",
]

Reduction = Literal["batchmean", "sum"]


class TopShares(NamedTuple):
    """What is kept of a teacher's softmax: its largest shares and what the rest has together.

    classes: int64 [B, K], the most probable classes. shares: float32 [B, K]. rest: float32 [B]; they add up to 1.
    """

    classes: torch.Tensor
    shares: torch.Tensor
    rest: torch.Tensor


def semantic_softmax(
    logits: torch.Tensor,
    labels: torch.Tensor,
    levels: LevelTable,
    smoothing: float = 0.2,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the semantic softmax loss, a scalar: the sum over levels of W_k times the level's cross-entropy.

    logits: [B, C], columns in the order `levels.head`. smoothing: epsilon, spread over the N_k classes of the level.
    A label counts at every level that it reaches; each level's sum is divided by the whole batch.
    Raises UsageError for mixed labels, LabelSpaceMismatch for another width.
    Source: 'ImageNet-21K Pretraining for the Masses'; MIIL `semantic_loss.py`.
    """
    losses = semantic_softmax_levels(logits, labels, levels, smoothing, weights)
    return (losses * levels.weights.to(losses.dtype)).sum()


def semantic_softmax_levels(
    logits: torch.Tensor,
    labels: torch.Tensor,
    levels: LevelTable,
    smoothing: float = 0.2,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return [K], the cross-entropy of every level before weighting; arguments as in `semantic_softmax`."""
    levels.check(logits)
    return level_cross_entropy(_real(logits), levels.targets_of(labels), levels, smoothing, weights)


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.2, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean cross-entropy over all classes at once, a scalar.

    labels: class indices [B], or soft targets [B, C]. smoothing: epsilon, spread over all C classes, the target's own
    included. weights: [B], how much each image counts; the sum of what they cost is divided by B all the same.
    Source: MIIL `train_single_label.py`.
    """
    real = _real(logits)
    targets = labels.to(real.dtype) if labels.is_floating_point() else labels
    if weights is None:
        return F.cross_entropy(real, targets, label_smoothing=smoothing)
    return _mean(F.cross_entropy(real, targets, reduction="none", label_smoothing=smoothing), weights)


def multi_label_bce(
    logits: torch.Tensor, labels: torch.Tensor, ancestors: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return binary cross-entropy, summed over classes and averaged over the batch, a scalar.

    logits: [B, C]. labels: class indices [B], or multi-hot [B, C] of a floating type, positives 1. ancestors: int64
    [C, L] from `ancestor_table`; a label that is an index makes its ancestors positives too. weights: as in
    `cross_entropy`.
    """
    z = _real(logits)
    if _is_multi_hot(z, labels):
        return _mean((F.softplus(z) - z * labels).sum(dim=1), weights)
    positive = _positives(labels, ancestors)
    # -log(1 - p) is the loss of a negative, and z less of it that of a positive: no dense target is built
    return _mean(-F.logsigmoid(-z).sum(dim=1) - _once(z.gather(1, positive), positive).sum(dim=1), weights)


def asymmetric(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ancestors: torch.Tensor,
    gamma_neg: float = 4.0,
    gamma_pos: float = 0.0,
    margin: float = 0.05,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the asymmetric loss, summed over classes and averaged over the batch, a scalar.

    A positive costs -(1 - p)^gamma_pos log p, a negative -q^gamma_neg log(1 - q) with q = max(p - margin, 0).
    Other arguments as in `multi_label_bce`. Raises UsageError for a gamma between 0 and 1 (its gradient is unbounded)
    or a margin outside [0, 1). Source: Ridnik et al., 'Asymmetric Loss for Multi-Label Classification'.
    """
    if not all(gamma == 0 or gamma >= 1 for gamma in (gamma_neg, gamma_pos)) or not 0 <= margin < 1:
        raise UsageError(
            f"The asymmetric loss needs gammas of 0 or at least 1 and a margin in [0, 1), not gamma_neg {gamma_neg}, "
            f"gamma_pos {gamma_pos}, margin {margin}."
        )
    z = _real(logits)
    if _is_multi_hot(z, labels):
        each = labels * _positive(z, gamma_pos) + (1 - labels) * _negative(z, gamma_neg, margin)
        return _mean(each.sum(dim=1), weights)
    positive = _positives(labels, ancestors)
    hit = z.gather(1, positive)
    paid = _negative(hit, gamma_neg, margin)  # was counted as a negative in the sum over all classes
    more = _once(_positive(hit, gamma_pos) - paid, positive)
    return _mean(_negative(z, gamma_neg, margin).sum(dim=1) + more.sum(dim=1), weights)


MULTI_LABEL: dict[str, Callable[..., torch.Tensor]] = {
    "bce": multi_label_bce,
    "asymmetric": asymmetric,
}


def _mean(rows: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Return the sum of `rows` [B], each as often as its weight says, over B."""
    return rows.mean() if weights is None else (rows * weights.to(rows.dtype)).mean()


def _is_multi_hot(logits: torch.Tensor, labels: torch.Tensor) -> bool:
    return labels.is_floating_point() and labels.shape == logits.shape


def _positive(z: torch.Tensor, gamma: float) -> torch.Tensor:
    return -(torch.sigmoid(-z) ** gamma) * F.logsigmoid(z)


def _negative(z: torch.Tensor, gamma: float, margin: float) -> torch.Tensor:
    if not margin:
        return -(torch.sigmoid(z) ** gamma) * F.logsigmoid(-z)
    shifted = (torch.sigmoid(z) - margin).clamp(min=0)
    return -(shifted**gamma) * torch.log1p(-shifted)


def semantic_kd(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    levels: LevelTable,
    *,
    confidence: Confidence = "paper",
    reduction: Reduction = "batchmean",
    teacher_head: HeadOrder = "class",
) -> torch.Tensor:
    """Return the semantic distillation loss, a scalar.

    Per level, the squared distance between the student's and the teacher's probabilities, weighted by a confidence:
    the teacher's probability on its ceil(N_k / 20) most probable classes of the level (`code`), or 1 where the label
    reaches the level and that sum below it (`paper`). student: [B, C], columns in the order `levels.head`.
    teacher: [B, C], columns in the order `teacher_head`; gets no gradient. reduction: `batchmean` divides the sum over
    rows, levels and classes by B; the published helper has `sum`. Raises UsageError for another word.
    Source: 'ImageNet-21K Pretraining for the Masses', section on semantic KD; MIIL `semantics.py`.
    """
    _one_of("confidence", confidence, ("paper", "code"))
    _one_of("reduction", reduction, get_args(Reduction))
    levels.check(student)
    levels.check(teacher)
    ours = _in_levels(_real(student), levels, levels.head)
    theirs = _in_levels(_real(teacher).detach(), levels, teacher_head)
    reached = levels.targets_of(labels) >= 0
    total = ours.new_zeros(())
    for level, (start, stop) in enumerate(levels.bounds):
        wanted = torch.softmax(theirs[:, start:stop], dim=1)
        trust = wanted.topk(math.ceil((stop - start) / 20), dim=1, sorted=False).values.sum(dim=1)
        if confidence == "paper":
            trust = torch.where(reached[:, level], 1.0, trust)
        distance = (torch.softmax(ours[:, start:stop], dim=1) - wanted).square().sum(dim=1)
        total = total + (trust * distance).sum()
    return total / student.shape[0] if reduction == "batchmean" else total


def teacher_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return KL(teacher || student) of two softmaxes at temperature 1, averaged over the batch, a scalar.

    student, teacher: logits [B, C] in the same class order; the teacher gets no gradient.
    Source: 'Solving ImageNet' (USI), whose loss is cross_entropy + 5 teacher_kl.
    """
    ours = torch.log_softmax(_real(student), dim=1)
    theirs = torch.log_softmax(_real(teacher).detach(), dim=1)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def top_kl(student: torch.Tensor, taught: TopShares) -> torch.Tensor:
    """Return KL(teacher || student) over the classes of `taught` and one class for the rest, averaged over the batch.

    student: logits [B, C]. It is at most `teacher_kl`, which it equals where all classes are kept: what the student
    does within the rest costs nothing.
    """
    logits = _real(student)
    whole = torch.logsumexp(logits, dim=1)
    ours = logits.gather(1, taught.classes) - whole[:, None]
    divergence = (torch.xlogy(taught.shares, taught.shares) - taught.shares * ours).sum(dim=1)
    if taught.classes.shape[1] < logits.shape[1]:
        outside = torch.logsumexp(logits.scatter(1, taught.classes, -math.inf), dim=1) - whole
        divergence = divergence + torch.xlogy(taught.rest, taught.rest) - taught.rest * outside
    return divergence.mean()


def semantic_expectation(
    logits: torch.Tensor, taught: torch.Tensor, levels: LevelTable, columns: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the semantic softmax loss that a teacher expects, a scalar; no label is needed.

    Per level, the cross-entropy of the student's softmax with the teacher's shares of the level's classes, which add
    up to how far the level counts; weighted by W_k and averaged over the batch. logits: [B, C], columns in the order
    `levels.head`. With columns (int64 [T, K], the column of each of the teacher's T classes or of its ancestor at every
    level, in level order, -1 for none), taught holds probabilities [B, T] of classes of which one is right: a level
    counts as much as the teacher is sure that the class reaches it, and the loss is the mean of `semantic_softmax` over
    labels drawn from the teacher. Without, taught holds logits [B, C] of a level softmax in class order: a level counts
    by the teacher's probability on its ceil(N_k / 20) most probable classes, as in `semantic_kd`.
    """
    levels.check(logits)
    ours = _in_levels(_real(logits), levels, levels.head)
    theirs = _real(taught).detach()
    if columns is None:
        levels.check(theirs)
        theirs = _in_levels(theirs, levels, "class")
    total = ours.new_zeros(())
    for level, (start, stop) in enumerate(levels.bounds):
        if columns is None:
            wanted = torch.softmax(theirs[:, start:stop], dim=1)
            trust = wanted.topk(math.ceil((stop - start) / 20), dim=1, sorted=False).values.sum(dim=1)
            wanted = trust[:, None] * wanted
        else:
            # What belongs to no class of the level goes into one more column, which is left out.
            place = torch.where(columns[:, level] >= 0, columns[:, level] - start, stop - start)
            wanted = theirs.new_zeros(theirs.shape[0], stop - start + 1).index_add_(1, place, theirs)[:, :-1]
        paid = -(wanted * torch.log_softmax(ours[:, start:stop], dim=1)).sum(dim=1).mean()
        total = total + levels.weights[level].to(paid.dtype) * paid
    return total


def _real(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _one_of(name: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise UsageError(f"{name} must be {' or '.join(known)}, not '{word}'.")


def _in_levels(logits: torch.Tensor, levels: LevelTable, head: HeadOrder) -> torch.Tensor:
    _one_of("The order of a head", head, ("level", "class"))
    return logits if head == "level" else logits.index_select(1, levels.order)


def _positives(labels: torch.Tensor, ancestors: torch.Tensor) -> torch.Tensor:
    """Return int64 [B, L], the positive classes of each label, padded with the label itself."""
    if labels.ndim != 1 or labels.is_floating_point():
        raise UsageError(
            "The multi-label losses take class indices of shape [batch], or multi-hot labels as wide as the logits, "
            f"not {labels.dtype} {list(labels.shape)}."
        )
    return torch.cat([ancestors.index_select(0, labels), labels[:, None]], dim=1)


def _once(values: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Zero the padding of `values` [B, L + 1], so that every positive counts once."""
    padding = positive == positive[:, -1:]
    padding[:, -1] = False
    return torch.where(padding, 0.0, values)
