"""One chain through the tree, and where to stop on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.decode.tree_passes import family_order
from miil21k.errors import LogitsError, UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from miil21k.hierarchy.tree import Tree

__all__ = ["Hedged", "Paths", "decode_path", "hedge", "paths_to"]

SLACK = 1e-6  # a float32 sum that is 1 on paper may be this much less


class Paths(NamedTuple):
    """One chain per row; L = tree.max_depth + 1.

    nodes: int32 [..., L], root first, padded with -1. probs: float32 [..., L], P(node), never growing along
    the chain; 0 in the padding. length: int32 [...], nodes on the chain.
    """

    nodes: NDArray[np.int32]
    probs: NDArray[np.float32]
    length: NDArray[np.int32]


class Hedged(NamedTuple):
    """Where each chain stops at a wanted certainty, and why.

    node: int32 [B], the deepest node of the chain with P >= level; -1 when not even the root is that sure.
    prob: float32 [B], its probability (0 for -1). length: int32 [B], how many nodes of the chain are accepted.
    refused: int32 [B], the next node of the chain, the best branch that was not sure enough; -1 when the
    whole chain was accepted. refused_prob: float32 [B].
    runner_up: int32 [B], the most probable sibling of `refused`; -1 when there is none. runner_up_prob: float32 [B].
    paths: the whole chain.
    """

    node: NDArray[np.int32]
    prob: NDArray[np.float32]
    length: NDArray[np.int32]
    refused: NDArray[np.int32]
    refused_prob: NDArray[np.float32]
    runner_up: NDArray[np.int32]
    runner_up_prob: NDArray[np.float32]
    paths: Paths


def decode_path(
    tree: Tree,
    node_prob: NDArray[np.float32],
    *,
    under: int | None = None,
    max_depth: int | None = None,
    withdrawn: ArrayLike | None = None,
) -> Paths:
    """Return one chain per row: from the most probable root to the most probable child, as far as it goes.

    node_prob: [B, N] from `node_probabilities`. A step needs P > 0; ties go to the lowest node index.
    under: start below this node; its ancestors open the chain, and a row where it has P = 0 gets no chain.
    Nothing is renormalised here; pass the mask of `restrict` to `node_probabilities` for that.
    max_depth: the deepest depth to go to (0: roots only).
    withdrawn: bool [C], classes that must never be shown; the walk goes through them, the chain leaves them out.
    Raises UsageError (shape, under, max_depth, withdrawn) and LogitsError (NaN among the probabilities).
    """
    _check_shape(tree, node_prob)
    withdrawn_nodes = _withdrawn_nodes(tree, withdrawn)
    last = _last_depth(tree, under, max_depth)
    batch, levels = len(node_prob), tree.max_depth + 1
    nodes = np.full((batch, levels), -1, np.int32)
    rows, current, depth = np.arange(batch), np.full(batch, -1, np.int64), 0
    if under is not None:
        start = tree.path(under)
        rows = np.flatnonzero(node_prob[:, under] > 0)
        current, depth = np.full(rows.size, under, np.int64), len(start)
        nodes[rows, :depth] = start
    for at in range(depth, last + 1):
        child, prob = _best_child(tree, node_prob, rows, current)
        go = prob > 0
        rows, current = rows[go], child[go]
        nodes[rows, at] = current
    if withdrawn_nodes is not None:
        nodes = _left_out(nodes, withdrawn_nodes)
    return _with_probs(nodes, node_prob)


def hedge(
    tree: Tree,
    node_prob: NDArray[np.float32],
    level: float = 0.9,
    *,
    under: int | None = None,
    max_depth: int | None = None,
    withdrawn: ArrayLike | None = None,
) -> Hedged:
    """Return the deepest node of each chain of `decode_path` that has P >= level, and what competes below it.

    level: in (0, 1]. A higher level gives the same node or an ancestor of it. At level > 0.5, where siblings
    exclude each other (every head and rule but `sigmoid` and `min`), no node outside the chain is that sure;
    at lower levels another branch may reach `level` too, and the answer is still the one on the chain.
    P is only as good as its calibration. The other arguments and errors are those of `decode_path`;
    a level outside (0, 1] raises UsageError.
    """
    if not 0 < level <= 1:
        raise UsageError(f"A hedge level lies above 0 and up to 1, not {level}.")
    paths = decode_path(tree, node_prob, under=under, max_depth=max_depth, withdrawn=withdrawn)
    sure = (paths.nodes >= 0) & (paths.probs >= level - SLACK)
    length = sure.sum(axis=1, dtype=np.int32)  # probabilities never grow, so these are the first ones
    node, prob = _at(paths, length - 1)
    refused, refused_prob = _at(paths, np.where(length < paths.length, length, -1))
    rival = np.full(len(node), -1, np.int32)
    rival_prob = np.zeros(len(node), np.float32)
    open_rows = np.flatnonzero(refused >= 0)
    parent = tree.parent[refused[open_rows]].astype(np.int64)
    found, found_prob = _best_child(
        tree, node_prob, open_rows, parent, refused[open_rows], _withdrawn_nodes(tree, withdrawn)
    )
    real = found_prob > 0
    rival[open_rows[real]], rival_prob[open_rows[real]] = found[real], found_prob[real]
    return Hedged(node, prob, length, refused, refused_prob, rival, rival_prob, paths)


def paths_to(
    tree: Tree, node_prob: NDArray[np.float32], nodes: NDArray[np.int32], *, withdrawn: ArrayLike | None = None
) -> Paths:
    """Return the chain from the root to each of `nodes`, with P of every step.

    nodes: int [B] or [B, k], node indices, -1 for none (an empty chain). node_prob: [B, N]. withdrawn: bool [C],
    classes to leave out of the chains. Raises UsageError for other shapes.
    """
    _check_shape(tree, node_prob)
    if nodes.shape[:1] != node_prob.shape[:1] or nodes.ndim > 2:
        raise UsageError(f"Expected nodes of shape [{len(node_prob)}] or [{len(node_prob)}, k], not {nodes.shape}.")
    chains = np.where((nodes >= 0)[..., None], tree.level_target[nodes], -1)
    withdrawn_nodes = _withdrawn_nodes(tree, withdrawn)
    if withdrawn_nodes is not None:
        chains = _left_out(chains, withdrawn_nodes)
    return _with_probs(chains, node_prob)


def _best_child(
    tree: Tree,
    node_prob: NDArray[np.float32],
    rows: NDArray[np.int64],
    parents: NDArray[np.int64],
    skip: NDArray[np.int32] | None = None,
    withdrawn_nodes: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the most probable child of `parents[i]` in row `rows[i]` of `node_prob`, and its probability.

    A parent of -1 has the roots as children. skip: one child per row that does not count; withdrawn_nodes: bool [N],
    nodes that do not count. Where no child counts the answer is -1 with probability 0.
    """
    order = family_order(tree)
    child, prob = np.full(rows.size, -1, np.int64), np.zeros(rows.size, np.float32)
    have = np.flatnonzero(order.num_children[parents])
    if not have.size:
        return child, prob
    counts = order.num_children[parents[have]]
    starts = np.cumsum(counts) - counts
    owner = np.repeat(np.arange(have.size), counts)
    kids = order.nodes[np.arange(owner.size) - starts[owner] + order.first_child[parents[have]][owner]]
    values = node_prob[rows[have][owner], kids]
    if skip is not None:
        values[kids == skip[have][owner]] = 0
    if withdrawn_nodes is not None:
        values[withdrawn_nodes[kids]] = 0
    best = np.maximum.reduceat(values, starts)
    if np.isnan(best).any():
        row = int(rows[have][np.isnan(best)][0])
        raise LogitsError(f"Row {row} of the node probabilities holds NaN; decode them from finite logits.")
    hits = np.flatnonzero(values == best[owner])
    firsts = hits[np.diff(owner[hits], prepend=-1) > 0]
    prob[have] = best
    child[have] = np.where(best > 0, kids[firsts], -1)
    return child, prob


def _left_out(chains: NDArray[np.int32], withdrawn_nodes: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return `chains` [..., L] without withdrawn nodes, closed up to the left and padded with -1."""
    kept = np.where((chains >= 0) & ~withdrawn_nodes[chains], chains, -1)
    order = np.argsort(kept < 0, axis=-1, kind="stable")
    return np.take_along_axis(kept, order, axis=-1)


def _with_probs(nodes: NDArray[np.int32], node_prob: NDArray[np.float32]) -> Paths:
    rows = np.arange(len(nodes)).reshape(-1, *[1] * (nodes.ndim - 1))
    probs = np.where(nodes >= 0, node_prob[rows, nodes], 0).astype(np.float32)
    return Paths(nodes, probs, (nodes >= 0).sum(axis=-1, dtype=np.int32))


def _at(paths: Paths, step: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return node and probability at `step` of each chain; -1 and 0 where `step` is -1."""
    rows = np.arange(len(step))
    node = np.where(step >= 0, paths.nodes[rows, step], -1).astype(np.int32)
    return node, np.where(step >= 0, paths.probs[rows, step], 0).astype(np.float32)


def _withdrawn_nodes(tree: Tree, withdrawn: ArrayLike | None) -> NDArray[np.bool_] | None:
    if withdrawn is None:
        return None
    mask = np.asarray(withdrawn)
    if mask.shape != (tree.num_classes,) or mask.dtype != np.bool_:
        raise UsageError(
            f"The withdrawn classes must be a bool array of shape [{tree.num_classes}], not {mask.dtype} {mask.shape}."
        )
    return np.append(mask, np.zeros(tree.num_nodes - tree.num_classes, bool))


def _last_depth(tree: Tree, under: int | None, max_depth: int | None) -> int:
    if under is not None and not 0 <= under < tree.num_nodes:
        raise UsageError(f"under must be a node index in 0..{tree.num_nodes - 1}, not {under}.")
    first = 0 if under is None else int(tree.depth[under])
    if max_depth is None:
        return tree.max_depth
    if max_depth < first:
        where = "the roots" if under is None else f"'{tree.wnids[under]}'"
        raise UsageError(f"max_depth {max_depth} lies above {where}, at depth {first}.")
    return min(max_depth, tree.max_depth)


def _check_shape(tree: Tree, node_prob: NDArray[np.float32]) -> None:
    if node_prob.ndim != 2 or node_prob.shape[1] != tree.num_nodes:
        raise UsageError(
            f"Node probabilities must have the shape [batch, {tree.num_nodes}], not {list(node_prob.shape)}."
        )
