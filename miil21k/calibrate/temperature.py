"""Temperatures of least negative log-likelihood, with a little doubt in the labels.

One label in n + 2 is held to be another class, the one that the model finds likeliest next (after Platt 1999,
'Probabilistic Outputs for Support Vector Machines'). Without it, few samples that are all right make every answer
certain; with it, an answer is as sure as (n + 1) / (n + 2). Thousands of samples are not moved by it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from miil21k.decode.logits import check_logits

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from miil21k.decode.heads import HeadKind
    from miil21k.hierarchy.tree import Tree

__all__ = ["doubt_of", "fit_softmax", "fit_temperatures", "minimize", "row_blocks"]

COLDEST, HOTTEST = 0.05, 20.0
FEWEST = 30  # labels below which a level has no temperature of its own
BLOCK_VALUES = 1 << 22


def fit_temperatures(
    tree: Tree,
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    head: HeadKind,
    *,
    allowed: NDArray[np.bool_] | None = None,
) -> tuple[float, ...]:
    """Return the temperatures in [0.05, 20] of least negative log-likelihood, in doubt of one label in n + 2.

    level_softmax: one per depth, from the samples whose label reaches it; a depth with fewer than 30 labels or one
    class takes that of the nearest depth above, the first one 1. leaf_softmax: one, for the probability of the label's
    subtree. sigmoid: one, with a label and its ancestors positive. allowed: bool [C], the classes whose logits count
    (`Decoder.heard`); others take no part, nor do samples with such a label.
    """
    checked = check_logits(logits, tree.num_classes)
    mask = np.ones(tree.num_classes, bool) if allowed is None else np.asarray(allowed, bool)
    classes = np.asarray(labels, np.int64)
    if head == "level_softmax":
        return _level_temperatures(tree, checked, classes, mask)
    if head == "leaf_softmax":
        return (_fit_leaf(tree, checked, classes, mask),)
    positive = np.zeros((len(classes), tree.num_nodes), bool)
    chain = tree.level_target[classes]
    rows, columns = np.nonzero(chain >= 0)
    positive[rows, chain[rows, columns]] = True
    positive = positive[:, : tree.num_classes][:, mask]
    values = checked[:, mask]
    return (minimize(lambda beta: _binary_loss(values, positive, beta)),)


def _level_temperatures(
    tree: Tree, logits: NDArray[np.float32], labels: NDArray[np.int64], mask: NDArray[np.bool_]
) -> tuple[float, ...]:
    found: list[float] = []
    for level in tree.levels:
        classes = level.nodes[level.nodes < tree.num_classes]
        classes = classes[mask[classes]]
        target = tree.level_target[labels, level.depth]
        rows = np.flatnonzero(np.isin(target, classes))
        if rows.size < FEWEST or classes.size < 2:
            found.append(found[-1] if found else 1.0)
            continue
        values = logits[np.ix_(rows, classes)]
        found.append(fit_softmax(values, np.searchsorted(classes, target[rows])))
    return tuple(found)


def doubt_of(samples: int) -> float:
    """Return which share of the answers of so many samples is held to be otherwise."""
    return 1 / (samples + 2)


def fit_softmax(
    values: NDArray[np.float32], labels: NDArray[np.integer], coldest: float = COLDEST, hottest: float = HOTTEST
) -> float:
    """Return the temperature of logits [n, C] whose labels, int [n], are places among the C; at least two of them."""
    at = np.arange(len(values))[:, None], np.asarray(labels)[:, None]
    others = values.copy()
    others[at] = -np.inf
    doubt = doubt_of(len(values))
    target = float(((1 - doubt) * values[at][:, 0] + doubt * others.max(axis=1)).mean(dtype=np.float64))
    return minimize(lambda beta: float(_logsumexp(values, beta).mean()) - beta * target, coldest, hottest)


def _fit_leaf(tree: Tree, logits: NDArray[np.float32], labels: NDArray[np.int64], mask: NDArray[np.bool_]) -> float:
    heard = np.flatnonzero(mask)
    subtrees = []
    for label in np.unique(labels):
        below = tree.descendants(int(label))
        below = below[below < tree.num_classes]
        below = below[mask[below]]
        if 0 < below.size < heard.size:  # a subtree of everything is certain at any temperature
            subtrees.append((np.flatnonzero(labels == label), below))
    if not subtrees:
        return 1.0
    rows = np.concatenate([rows for rows, _ in subtrees])
    values = logits[np.ix_(rows, heard)]
    inside = [logits[np.ix_(rows, below)] for rows, below in subtrees]
    outside = sum(
        float(logits[np.ix_(rows, np.setdiff1d(heard, below))].max(axis=1).sum(dtype=np.float64))
        for rows, below in subtrees
    )
    doubt = doubt_of(rows.size)

    def loss(beta: float) -> float:
        own = sum(float(_logsumexp(part, beta).sum()) for part in inside)
        return (float(_logsumexp(values, beta).sum()) - (1 - doubt) * own - doubt * beta * outside) / rows.size

    return minimize(loss)


def _binary_loss(values: NDArray[np.float32], positive: NDArray[np.bool_], beta: float) -> float:
    yes = int(positive.sum())
    for_yes, for_no = 1 - doubt_of(yes), doubt_of(positive.size - yes)
    total = 0.0
    for rows in row_blocks(np.arange(len(values)), values.shape[1]):
        z = beta * values[rows]
        hits, everything = float(z[positive[rows]].sum(dtype=np.float64)), float(z.sum(dtype=np.float64))
        total += float(np.logaddexp(0, z).sum(dtype=np.float64)) - for_yes * hits - for_no * (everything - hits)
    return total / max(1, len(values))


def _logsumexp(values: NDArray[np.float32], beta: float) -> NDArray[np.float64]:
    """Return float64 [R], log sum exp(beta values) of each row."""
    result = np.empty(len(values))
    for rows in row_blocks(np.arange(len(values)), values.shape[1]):
        z = values[rows] * np.float32(beta)
        top = z.max(axis=1, keepdims=True)
        result[rows] = np.log(np.exp(z - top).sum(axis=1, dtype=np.float64)) + top[:, 0]
    return result


def minimize(loss: Callable[[float], float], coldest: float = COLDEST, hottest: float = HOTTEST) -> float:
    """Return the temperature 1 / beta of least `loss(beta)`, by golden sections of log beta, to 4 digits."""
    shrink = (math.sqrt(5) - 1) / 2
    low, high = -math.log(hottest), -math.log(coldest)
    left, right = high - shrink * (high - low), low + shrink * (high - low)
    at_left, at_right = loss(math.exp(left)), loss(math.exp(right))
    while high - low > 1e-5:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - shrink * (high - low)
            at_left = loss(math.exp(left))
        else:
            low, left, at_left = left, right, at_right
            right = low + shrink * (high - low)
            at_right = loss(math.exp(right))
    return float(f"{math.exp(-(low + high) / 2):.6g}")


def row_blocks(rows: NDArray[np.int64], width: int) -> list[NDArray[np.int64]]:
    """Return `rows` in parts of at most about four million values of `width` each."""
    return np.array_split(rows, max(1, -(-rows.size * width // BLOCK_VALUES)))
