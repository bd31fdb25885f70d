"""A block of node values with siblings side by side, and the passes up and down the tree over it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.hierarchy.tree import Tree

    Block = NDArray[np.floating]  # [R, N], columns in family order; float32, or float64 for what is very improbable

__all__ = [
    "FamilyOrder",
    "Generation",
    "divide_by_family",
    "exclusive",
    "family_order",
    "max_up",
    "minimum_down",
    "multiply_down",
    "sigmoid",
    "softmax",
    "softmax_levels",
    "softmax_siblings",
    "sum_up",
]

TINY = np.finfo(np.float32).tiny  # divides in place of an empty sum: 0 / TINY is 0, 0 / 0 is NaN
LOWEST = np.finfo(np.float32).min  # stands for the maximum of nothing: -inf - LOWEST is -inf, -inf + inf is NaN


class Generation(NamedTuple):
    """One depth of the family order.

    columns: its slice of the block. starts, sizes: int64 [F], where its families begin inside that slice and
    how many siblings each has. parents: int64 [F], the column of each family's parent (meaningless for roots).
    """

    columns: slice
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    parents: NDArray[np.int64]


class FamilyOrder(NamedTuple):
    """All nodes, depth by depth, siblings side by side.

    nodes: int64 [N], the node in each column. column: int64 [N], the column of each node.
    generations: one per depth, roots first.
    first_child, num_children: int64 [N + 1], the children of node v are `nodes[first_child[v]:][:num_children[v]]`;
    the last entry, which index -1 reads, stands for "no parent" and holds the roots.
    """

    nodes: NDArray[np.int64]
    column: NDArray[np.int64]
    first_child: NDArray[np.int64]
    num_children: NDArray[np.int64]
    generations: tuple[Generation, ...]


@lru_cache(maxsize=16)
def family_order(tree: Tree) -> FamilyOrder:
    """Return the family order of `tree`."""
    nodes = np.concatenate([family.nodes for family in tree.families]).astype(np.int64)
    column = np.empty_like(nodes)
    column[nodes] = np.arange(nodes.size)
    first_child = np.zeros(nodes.size + 1, np.int64)
    generations = []
    begin = 0
    for family in tree.families:
        end = begin + family.nodes.size
        first_child[family.parents] = begin + family.starts  # the parent of the roots is -1, the last entry
        generations.append(
            Generation(
                columns=slice(begin, end),
                starts=family.starts.astype(np.int64),
                sizes=np.diff(family.starts, append=family.nodes.size).astype(np.int64),
                parents=column[family.parents],
            )
        )
        begin = end
    num_children = np.append(tree.num_children, tree.roots.size).astype(np.int64)
    return FamilyOrder(nodes, column, first_child, num_children, tuple(generations))


def softmax_levels(block: Block, order: FamilyOrder, scale: NDArray[np.float32]) -> None:
    """Turn logits into one softmax per depth, in place; a depth where all is -inf becomes 0."""
    for generation, factor in zip(order.generations, scale, strict=True):
        level = block[:, generation.columns]
        softmax(level, factor)


def softmax(values: Block, factor: np.float32) -> None:
    """Turn each row into softmax(factor * row), in place; a row that is -inf throughout becomes 0."""
    with np.errstate(over="ignore"):
        values -= np.maximum(values.max(axis=1, keepdims=True), LOWEST)
    if factor != 1:
        values *= factor
    np.exp(values, out=values)
    values /= np.maximum(values.sum(axis=1, keepdims=True), TINY)


def sigmoid(block: Block, order: FamilyOrder, scale: NDArray[np.float32]) -> None:
    """Turn each logit into its sigmoid, in place; -inf becomes 0."""
    with np.errstate(over="ignore"):
        for generation, factor in zip(order.generations, scale, strict=True):
            block[:, generation.columns] *= -factor
        np.exp(block, out=block)
    block += 1
    np.reciprocal(block, out=block)


def softmax_siblings(block: Block, order: FamilyOrder, scale: NDArray[np.float32]) -> None:
    """Turn logits into one softmax per group of siblings, in place; a group where all is -inf becomes 0."""
    for generation, factor in zip(order.generations, scale, strict=True):
        family = block[:, generation.columns]
        top = np.maximum(np.maximum.reduceat(family, generation.starts, axis=1), LOWEST)
        with np.errstate(over="ignore"):
            family -= np.repeat(top, generation.sizes, axis=1)
        if factor != 1:
            family *= factor
        np.exp(family, out=family)
        total = np.add.reduceat(family, generation.starts, axis=1)
        family /= np.repeat(np.maximum(total, TINY), generation.sizes, axis=1)


def multiply_down(block: Block, order: FamilyOrder) -> None:
    """Turn each value in [0, 1] into the product of the values from the root down to it, in place."""
    for generation in order.generations[1:]:
        block[:, generation.columns] *= np.repeat(block[:, generation.parents], generation.sizes, axis=1)


def minimum_down(block: Block, order: FamilyOrder) -> None:
    """Turn each value into the smallest one from the root down to it, in place."""
    for generation in order.generations[1:]:
        level = block[:, generation.columns]
        np.minimum(level, np.repeat(block[:, generation.parents], generation.sizes, axis=1), out=level)


def divide_by_family(block: Block, order: FamilyOrder) -> None:
    """Divide every value below the roots by the larger of its parent's value and its siblings' sum, in place.

    The quotients lie in [0, 1] and those of one family sum to at most 1.
    """
    for generation in reversed(order.generations[1:]):  # upwards: each parent is read before it changes
        level = block[:, generation.columns]
        total = np.maximum(np.add.reduceat(level, generation.starts, axis=1), block[:, generation.parents])
        level /= np.repeat(np.maximum(total, np.finfo(block.dtype).tiny), generation.sizes, axis=1)


def sum_up(block: Block, order: FamilyOrder) -> None:
    """Turn each value into the sum over its subtree, in place."""
    for generation in reversed(order.generations[1:]):
        block[:, generation.parents] += np.add.reduceat(block[:, generation.columns], generation.starts, axis=1)


def max_up(block: Block, order: FamilyOrder) -> None:
    """Turn each value into the maximum over its subtree, in place."""
    for generation in reversed(order.generations[1:]):
        best = np.maximum.reduceat(block[:, generation.columns], generation.starts, axis=1)
        block[:, generation.parents] = np.maximum(block[:, generation.parents], best)


def exclusive(block: Block, order: FamilyOrder) -> Block:
    """Return float32 [R, N], each value less the sum of its children's, at least 0."""
    own = block.copy()
    for generation in order.generations[1:]:
        own[:, generation.parents] -= np.add.reduceat(block[:, generation.columns], generation.starts, axis=1)
    return np.maximum(own, 0, out=own)
