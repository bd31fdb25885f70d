"""From logits to the probability of every node and of every class, for the three kinds of head."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.decode import tree_passes
from miil21k.decode.heads import HEAD_KINDS
from miil21k.decode.logits import check_allowed, check_shape, finite_blocks, inverse_temperature
from miil21k.decode.restriction import viable
from miil21k.decode.rules import rule_named
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from miil21k.decode.heads import HeadKind
    from miil21k.decode.tree_passes import Block, FamilyOrder
    from miil21k.hierarchy.tree import Tree

__all__ = ["Probabilities", "class_probabilities", "node_probabilities", "probabilities"]

BLOCK_VALUES = 1 << 18  # node values per block of rows: 1 MiB of float32 stays in the cache between passes


class Probabilities(NamedTuple):
    """What a batch of logits says about the tree.

    nodes: float32 [B, N], P(the answer is this node or lies below it); parent >= child, in [0, 1].
    classes: float32 [B, C], P(the answer is exactly this class); exactly 0 for a class not allowed.
    """

    nodes: NDArray[np.float32]
    classes: NDArray[np.float32]


def probabilities(
    tree: Tree,
    logits: ArrayLike,
    head: HeadKind,
    *,
    allowed: ArrayLike | None = None,
    temperature: ArrayLike | None = None,
    rule: str | None = None,
) -> Probabilities:
    """Return P(node) of every node and P(exactly this class) of every class.

    logits: [B, C] finite, any real dtype; computed in float32. B may be 0.
    allowed: bool [C], the classes that may be the answer. All probabilities are renormalised over them;
    a node with no allowed class at or below it gets exactly 0, while an ancestor of an allowed class
    stays a step of the path even if it may not be the answer itself.
    temperature: logits are divided by it; one number, or one per depth [L] (not for leaf_softmax).
    rule: how the levels of a level_softmax head become one tree, a name of `RULES`, None for the default; ignored
    by the other heads.

    - leaf_softmax: P(class) is a softmax over all classes, P(node) the sum over its subtree.
    - sigmoid: P(class) is the sigmoid of its logit, P(node) the maximum over its subtree.
    - level_softmax: q is one softmax per depth, and the rule makes P(node) of it. Roots: P = q. P(class) is
      P(node) less its children's sum, at least 0 ("exclusive", Valmadre 2022).

    Raises LogitsError (shape, NaN, infinite) and UsageError (head, mask, temperature, rule, or a
    level_softmax head on a tree whose inner nodes are not all classes and so have no logit).
    """
    reader = _BlockReader(tree, head, rule, check_allowed(tree, allowed), temperature)
    given = check_shape(logits, tree.num_classes)
    nodes = np.empty((len(given), tree.num_nodes), np.float32)
    classes = np.empty(given.shape, np.float32)
    for rows, part in finite_blocks(given, tree.num_classes, BLOCK_VALUES):
        block, own = reader.read(part, own=True)
        np.take(block, reader.order.column, axis=1, out=nodes[rows], mode="clip")
        np.take(own, reader.order.column[: tree.num_classes], axis=1, out=classes[rows], mode="clip")
    if reader.allowed is not None:
        classes[:, ~reader.allowed] = 0
    return Probabilities(nodes, classes)


def node_probabilities(
    tree: Tree,
    logits: ArrayLike,
    head: HeadKind,
    *,
    allowed: ArrayLike | None = None,
    temperature: ArrayLike | None = None,
    rule: str | None = None,
    dtype: type[np.floating] = np.float32,
) -> NDArray[Any]:
    """Return [B, N], P(node); arguments and errors of `probabilities`, whose first part this is.

    dtype: float32, or float64 where probabilities below 1e-38 matter.
    """
    reader = _BlockReader(tree, head, rule, check_allowed(tree, allowed), temperature)
    given = check_shape(logits, tree.num_classes)
    nodes = np.empty((len(given), tree.num_nodes), dtype)
    for rows, part in finite_blocks(given, tree.num_classes, BLOCK_VALUES):
        block, _ = reader.read(part.astype(dtype, copy=False), own=False)
        np.take(block, reader.order.column, axis=1, out=nodes[rows], mode="clip")
    return nodes


def class_probabilities(
    tree: Tree,
    logits: ArrayLike,
    head: HeadKind,
    *,
    allowed: ArrayLike | None = None,
    temperature: ArrayLike | None = None,
    rule: str | None = None,
) -> NDArray[np.float32]:
    """Return float32 [B, C], P(exactly this class); the second part of `probabilities`.

    Heads whose classes speak for themselves alone, all but level_softmax, need no node for it.
    """
    if head == "level_softmax":
        return probabilities(tree, logits, head, allowed=allowed, temperature=temperature, rule=rule).classes
    reader = _BlockReader(tree, head, rule, check_allowed(tree, allowed), temperature)
    given = check_shape(logits, tree.num_classes)
    classes = np.empty(given.shape, np.float32)
    for rows, part in finite_blocks(given, tree.num_classes, BLOCK_VALUES):
        reader.exact(part).take(reader.order.column[: tree.num_classes], axis=1, out=classes[rows], mode="clip")
    if reader.allowed is not None:
        classes[:, ~reader.allowed] = 0
    return classes


class _BlockReader:
    """Reads blocks of logits of one head on one tree; columns are in family order."""

    def __init__(
        self,
        tree: Tree,
        head: HeadKind,
        rule: str | None,
        allowed: NDArray[np.bool_] | None,
        temperature: ArrayLike | None,
    ) -> None:
        _check(tree, head, temperature)
        self.head, self.rule, self.allowed = head, rule_named(rule), allowed
        self.order: FamilyOrder = tree_passes.family_order(tree)
        self.scale = inverse_temperature(temperature, tree.max_depth + 1)
        self.source, self.silent = _columns(
            tree, head == "level_softmax", None if allowed is None else allowed.tobytes()
        )

    def read(self, logits: NDArray[np.floating], own: bool) -> tuple[Block, Block]:
        """Return P(node) and, if `own`, P(exactly this node), both [R, N]; the first one twice otherwise."""
        match self.head:
            case "level_softmax":
                block = self._heard(logits)
                self.rule(block, self.order, self.scale)
                return block, tree_passes.exclusive(block, self.order) if own else block
            case "leaf_softmax":
                block = self.exact(logits)
                exact = block.copy() if own else block
                tree_passes.sum_up(block, self.order)
                np.minimum(block, 1, out=block)
                return block, exact
            case "sigmoid":
                block = self.exact(logits)
                exact = block.copy() if own else block
                tree_passes.max_up(block, self.order)
                return block, exact

    def exact(self, logits: NDArray[np.floating]) -> Block:
        """Return P(exactly this node), [R, N], of a leaf_softmax or sigmoid head."""
        block = self._heard(logits)
        match self.head:
            case "leaf_softmax":
                tree_passes.softmax(block, self.scale[0])
            case "sigmoid":
                tree_passes.sigmoid(block, self.order, self.scale)
            case "level_softmax":
                raise UsageError("The classes of a level_softmax head have no probability without their nodes.")
        return block

    def _heard(self, logits: NDArray[np.floating]) -> Block:
        block = logits.take(self.source, axis=1)
        if self.silent.size:
            block[:, self.silent] = -np.inf
        return block


@lru_cache(maxsize=64)
def _columns(tree: Tree, inner_speak: bool, allowed: bytes | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the logit that each column reads, int64 [N], and the columns that are masked, int64.

    allowed: the bytes of a bool [C], a key that a stream of batches meets again and again. inner_speak: the
    logit of an inner class speaks for everything below it, so one allowed class below lets it speak.
    """
    nodes = tree_passes.family_order(tree).nodes
    heard = np.arange(tree.num_nodes) < tree.num_classes
    if allowed is not None:
        mask = np.frombuffer(allowed, np.bool_)
        heard[: tree.num_classes] = mask
        if inner_speak:
            heard = viable(tree, mask)
    return np.where(nodes < tree.num_classes, nodes, 0), np.flatnonzero(~heard[nodes])


def _check(tree: Tree, head: HeadKind, temperature: ArrayLike | None) -> None:
    if head not in HEAD_KINDS:
        raise UsageError(f"No head kind '{head}'; the kinds are {', '.join(HEAD_KINDS)}.")
    if head == "leaf_softmax" and np.ndim(temperature if temperature is not None else 1.0):
        raise UsageError("A leaf_softmax head has one softmax and takes one temperature, not one per level.")
    if head == "level_softmax" and tree.num_nodes > tree.num_classes:
        raise UsageError(
            f"A level_softmax head needs a logit for every node, but {tree.num_nodes - tree.num_classes} of the "
            f"{tree.num_nodes} nodes of this tree are no classes (the first is '{tree.wnids[tree.num_classes]}'); "
            "decode it as leaf_softmax."
        )
