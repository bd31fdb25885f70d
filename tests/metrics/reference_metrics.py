"""The metrics written as loops over samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miil21k.hierarchy.tree import Tree


def ancestors(tree: Tree, node: int) -> list[int]:
    """The node and its ancestors, root last; -1 stands for the virtual root above all."""
    chain = []
    while node >= 0:
        chain.append(node)
        node = int(tree.parent[node])
    return [*chain, -1]


def meeting(tree: Tree, a: int, b: int) -> int:
    above = ancestors(tree, b)
    return next(n for n in ancestors(tree, a) if n in above)


def leaves(tree: Tree, node: int) -> int:
    all_leaves = [n for n in range(tree.num_nodes) if n not in tree.parent.tolist()]
    return sum(1 for leaf in all_leaves if node in ancestors(tree, leaf))


def info(tree: Tree, node: int) -> float:
    return math.log2(leaves(tree, -1) / leaves(tree, node))


def height(tree: Tree, node: int) -> int:
    below = [ancestors(tree, n).index(node) for n in range(tree.num_nodes) if node in ancestors(tree, n)]
    return max(below)


def distance(tree: Tree, a: int, b: int) -> int:
    return 0 if a == b else height(tree, meeting(tree, a, b))


def shown(tree: Tree, node: int, label: int) -> int:
    """An answer below its label counts as the label."""
    return label if node >= 0 and label in ancestors(tree, node) else node


def semantic_pairs(tree: Tree, logits: list[list[float]], labels: list[int], last: int) -> list[tuple[int, bool]]:
    pairs = []
    for row, label in zip(logits, labels, strict=True):
        for depth, target in enumerate(tree.path(label)[: last + 1]):
            nodes = [n for n in range(tree.num_classes) if tree.depth[n] == depth]
            if len(nodes) > 1 and target < tree.num_classes:
                pairs.append((depth, max(nodes, key=lambda n: (row[n], -n)) == target))
    return pairs


def pareto(tree: Tree, probs: list[float]) -> list[tuple[int, float]]:
    order = sorted(range(tree.num_nodes), key=lambda n: (-probs[n], -round(info(tree, n), 9), n))
    kept, most = [(-1, 1.0)], 0.0
    for node in order:
        if probs[node] > 0 and info(tree, node) > most + 1e-9:
            kept.append((node, min(1.0, probs[node])))
            most = info(tree, node)
    return kept


def answer_at(steps: list[tuple[int, float]], threshold: float) -> int:
    return [node for node, prob in steps if node < 0 or prob >= threshold][-1]
