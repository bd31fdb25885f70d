"""Probabilities given a condition: P(c and condition) / P(condition), from what a head says without the condition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from miil21k.decode.concepts import BLOCK_VALUES, class_masses
from miil21k.decode.probabilities import Probabilities, probabilities
from miil21k.decode.restriction import viable
from miil21k.decode.tree_passes import family_order, sum_up

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from miil21k.decode.heads import HeadKind
    from miil21k.hierarchy.tree import Tree

__all__ = ["conditional_probabilities"]

FAINT = 1e-30  # a condition that is less probable is summed again in float64, whose numbers reach down to 1e-308


def conditional_probabilities(
    tree: Tree,
    logits: NDArray[np.float32],
    head: HeadKind,
    condition: NDArray[np.bool_],
    masses: NDArray[np.float32],
    *,
    withdrawn: NDArray[np.bool_] | None = None,
    temperature: ArrayLike | None = None,
    rule: str | None = None,
) -> Probabilities:
    """Return P(node) and P(exactly this class), given that the class is one of `condition`, bool [C].

    masses: float32 [B, C], `class_masses` of the same logits. The masses of the condition are divided by their sum, so
    P(c | condition) P(condition) = P(c). Softmax heads do so in their exponents, and no condition is too improbable.
    A sigmoid head is not renormalised: P(class) stays, P(node) is the largest one below it. Where a level_softmax head
    gives the condition no probability at all, even in float64, only its logits are heard. withdrawn: bool [C], classes
    that are never shown; one that is a step of other paths counts for what lies above it. The other arguments and
    errors are those of `probabilities`.
    """
    alive = condition if withdrawn is None else condition & viable(tree, ~withdrawn)[: tree.num_classes]

    def heard(rows: NDArray[np.float32]) -> Probabilities:
        return probabilities(tree, rows, head, allowed=alive, temperature=temperature, rule=rule)

    if head != "level_softmax":
        found = heard(logits)
    else:
        shares = np.where(condition, masses, np.float32(0))
        total = shares.sum(axis=1, dtype=np.float64)
        faint = np.flatnonzero(total < FAINT)
        shares /= np.maximum(total, FAINT).astype(np.float32)[:, None]
        if faint.size:
            exact = class_masses(
                tree, logits[faint], head, withdrawn=withdrawn, temperature=temperature, rule=rule, dtype=np.float64
            )
            exact[:, ~condition] = 0
            total = exact.sum(axis=1)
            shares[faint] = exact / np.where(total > 0, total, 1)[:, None]
            faint = faint[total == 0]
        found = Probabilities(_sums(tree, shares), shares)
        if faint.size:
            found.nodes[faint], found.classes[faint] = heard(logits[faint])
    if withdrawn is not None:
        found.classes[:, withdrawn] = 0
    return found


def _sums(tree: Tree, classes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 [B, N], for every node the sum over the classes at or below it."""
    order = family_order(tree)
    nodes = np.empty((len(classes), tree.num_nodes), np.float32)
    step = max(1, BLOCK_VALUES // tree.num_nodes)
    for first in range(0, len(classes), step):
        rows = classes[first : first + step]
        block = np.zeros((len(rows), tree.num_nodes), np.float32)
        block[:, order.column[: tree.num_classes]] = rows
        sum_up(block, order)
        np.minimum(block, 1, out=block).take(order.column, axis=1, out=nodes[first : first + step])
    return nodes
