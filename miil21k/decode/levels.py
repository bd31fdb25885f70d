"""The published MIIL rule: one softmax and one answer per level, each level for itself."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from miil21k.decode.logits import check_allowed, check_shape, finite_blocks, inverse_temperature
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from miil21k.hierarchy.tree import Tree

__all__ = ["Deepest", "LevelOrder", "Levels", "decode_levels", "level_order", "levels_of_nodes"]

Deepest = Literal["published", "keep"]
BLOCK_VALUES = 1 << 19  # logits per block of rows: 2 MiB of float32 stay in the cache between passes
LOWEST = np.finfo(np.float32).min


class Levels(NamedTuple):
    """The answer of every level; column l is depth l of the tree.

    nodes: int32 [B, L], the most probable class of the level; -1 where the level is not decoded.
    probs: float32 [B, L], its probability in [0, 1]; 0 where nodes is -1.
    kept: bool [B, L], probs > threshold. Kept labels may lie on different branches.
    """

    nodes: NDArray[np.int32]
    probs: NDArray[np.float32]
    kept: NDArray[np.bool_]


class LevelOrder(NamedTuple):
    """The classes of the decoded levels in one row, level after level.

    classes: int64 [K], class indices, ascending within a level. depths: int64 [J], the depth of each level.
    starts, sizes: int64 [J], where each level begins in `classes` and how many classes it has.
    segment: int64 [K], the level (0..J-1) of each class.
    A head whose rows are stored as `weight[order.classes]` gives logits that need no gather.
    """

    classes: NDArray[np.int64]
    depths: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    segment: NDArray[np.int64]


@lru_cache(maxsize=32)
def level_order(tree: Tree, deepest: Deepest = "published") -> LevelOrder:
    """Return the level order of `tree`: every level with more than one class.

    deepest: "published" leaves out the deepest level whatever its size, as the MIIL code does; "keep"
    decodes it like any other. Nodes that are no classes have no logit and stand in no level.
    """
    if deepest not in ("published", "keep"):
        raise UsageError(f"deepest must be 'published' or 'keep', not '{deepest}'.")
    found = [(level.depth, level.nodes[level.nodes < tree.num_classes]) for level in tree.levels]
    if deepest == "published":
        found = found[: tree.max_depth]
    found = [(depth, classes) for depth, classes in found if classes.size > 1]
    sizes = np.array([classes.size for _, classes in found], np.int64)
    return LevelOrder(
        classes=np.concatenate([classes for _, classes in found] or [np.empty(0, np.int32)]).astype(np.int64),
        depths=np.array([depth for depth, _ in found], np.int64),
        starts=np.cumsum(sizes) - sizes,
        sizes=sizes,
        segment=np.repeat(np.arange(sizes.size), sizes),
    )


def decode_levels(
    tree: Tree,
    logits: ArrayLike,
    threshold: float = 0.5,
    *,
    allowed: ArrayLike | None = None,
    temperature: ArrayLike | None = None,
    deepest: Deepest = "published",
    in_level_order: bool = False,
) -> Levels:
    """Return, per level, the arg-max of a softmax over that level's classes, kept when p > threshold.

    logits: [B, C] finite; with `in_level_order`, [B, K] with columns `level_order(tree, deepest).classes`.
    allowed: bool [C]; other classes leave their level's softmax, so probabilities are over what remains.
    temperature: one number or one per depth [L]. Ties go to the lowest class index.
    Raises LogitsError (shape, NaN, infinite) and UsageError (mask, temperature, deepest).
    Source: MIIL `visualize_detector.py` and `semantics.py`, whose deepest level is never decoded.
    """
    order = level_order(tree, deepest)
    given = check_shape(logits, order.classes.size if in_level_order else tree.num_classes)
    mask = check_allowed(tree, allowed)
    masked = None if mask is None else np.flatnonzero(~mask[order.classes])
    scale = None if temperature is None else inverse_temperature(temperature, tree.max_depth + 1)[order.depths]

    batch, num_levels = len(given), tree.max_depth + 1
    nodes = np.full((batch, num_levels), -1, np.int32)
    probs = np.zeros((batch, num_levels), np.float32)
    for rows, part in finite_blocks(given, given.shape[1], BLOCK_VALUES):
        if not order.sizes.size:
            continue
        block = part.copy() if in_level_order else part.take(order.classes, axis=1, mode="clip")  # no second check
        if masked is not None:
            block[:, masked] = -np.inf
        best, prob = _decode_block(order, block, scale)
        nodes[rows, order.depths] = best
        probs[rows, order.depths] = prob
    return Levels(nodes, probs, probs > threshold)


def levels_of_nodes(
    tree: Tree, node_prob: NDArray[np.float32], threshold: float = 0.5, *, withdrawn: ArrayLike | None = None
) -> Levels:
    """Return, per level, the most probable node of that depth: what `decode_levels` is for one flat head.

    A softmax over the logits of one depth means nothing for a head that was trained with one softmax over all
    classes, or with sigmoids; P(node) does. node_prob: float32 [B, N] of `node_probabilities`.
    withdrawn: bool [C], classes that are never shown. Ties go to the lowest node index.
    """
    unseen = np.zeros(tree.num_nodes, bool)
    if withdrawn is not None:
        unseen[: tree.num_classes] = np.asarray(withdrawn, bool)
    nodes = np.full((len(node_prob), tree.max_depth + 1), -1, np.int32)
    probs = np.zeros(nodes.shape, np.float32)
    rows = np.arange(len(node_prob))
    for level in tree.levels:
        shown = level.nodes[~unseen[level.nodes]]
        if not shown.size:
            continue
        part = node_prob[:, shown]
        best = part.argmax(axis=1)
        probs[:, level.depth] = part[rows, best]
        nodes[:, level.depth] = np.where(probs[:, level.depth] > 0, shown[best], -1)
    return Levels(nodes, probs, probs > threshold)


def _decode_block(
    order: LevelOrder, block: NDArray[np.float32], scale: NDArray[np.float32] | None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the best class and its probability per level; overwrites `block`, float32 [R, K] in level order."""
    # A level whose classes are all masked has the maximum -inf: a finite stand-in keeps -inf - max from NaN.
    top = np.maximum(np.maximum.reduceat(block, order.starts, axis=1), LOWEST)
    with np.errstate(over="ignore"):
        block -= np.repeat(top, order.sizes, axis=1)
    row, at = np.divmod(np.flatnonzero(block == 0), block.shape[1])
    segment = row * order.sizes.size + order.segment[at]
    first = np.diff(segment, prepend=-1) > 0
    nodes = np.full(top.shape, -1, np.int32)
    nodes.ravel()[segment[first]] = order.classes[at[first]]
    if scale is not None:
        block *= np.repeat(scale, order.sizes)
    np.exp(block, out=block)
    total = np.add.reduceat(block, order.starts, axis=1)
    # The best class has exp(0) = 1 in the sum, so its softmax is 1 / sum; a sum below 1 is that of an empty level.
    return nodes, np.where(total >= 1, 1 / np.maximum(total, 1), 0).astype(np.float32)
