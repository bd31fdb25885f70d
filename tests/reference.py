"""Slow, obvious reference implementations that the tests compare the package with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miil21k.hierarchy.tree import Tree


def softmax(values: Sequence[float]) -> list[float]:
    """Softmax in double precision; minus infinity counts as masked, and all-masked gives zeros."""
    top = max(values, default=-math.inf)
    if top == -math.inf:
        return [0.0 for _ in values]
    powers = [math.exp(v - top) for v in values]
    return [p / sum(powers) for p in powers]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def children(tree: Tree, node: int) -> list[int]:
    """The children of `node`, ascending; of -1, the roots."""
    return [v for v in range(tree.num_nodes) if tree.parent[v] == node]


def chain(tree: Tree, node: int) -> list[int]:
    """The nodes from the root down to `node`."""
    found: list[int] = []
    while node >= 0:
        found.insert(0, node)
        node = int(tree.parent[node])
    return found


def subtree(tree: Tree, node: int) -> list[int]:
    return [v for v in range(tree.num_nodes) if node in chain(tree, v)]


def at_depth(tree: Tree, depth: int) -> list[int]:
    return [v for v in range(tree.num_nodes) if len(chain(tree, v)) == depth + 1]


def class_softmax(logits: Sequence[float], allowed: Sequence[bool], temperature: float = 1.0) -> list[float]:
    """One softmax over the allowed classes."""
    return softmax([z / temperature if ok else -math.inf for z, ok in zip(logits, allowed, strict=True)])


def leaf_softmax_nodes(tree: Tree, own: Sequence[float]) -> list[float]:
    """P(node): the sum of the class probabilities in its subtree."""
    return [sum(own[v] for v in subtree(tree, node) if v < tree.num_classes) for node in range(tree.num_nodes)]


def sigmoid_nodes(tree: Tree, own: Sequence[float]) -> list[float]:
    """P(node): the largest class probability in its subtree."""
    below = [[own[v] for v in subtree(tree, node) if v < tree.num_classes] for node in range(tree.num_nodes)]
    return [max(values, default=0.0) for values in below]


def level_softmax_nodes(
    tree: Tree, logits: Sequence[float], allowed: Sequence[bool], temperature: Sequence[float], rule: str
) -> list[float]:
    """P(node) of a level_softmax head under one of the four rules, one node at a time."""
    alive = [any(allowed[v] for v in subtree(tree, node)) for node in range(tree.num_nodes)]
    depth = [len(chain(tree, v)) - 1 for v in range(tree.num_nodes)]
    score = [z / temperature[d] if a else -math.inf for z, d, a in zip(logits, depth, alive, strict=True)]
    q, among_siblings = [0.0] * tree.num_nodes, [0.0] * tree.num_nodes
    for node in range(tree.num_nodes):
        peers, siblings = at_depth(tree, depth[node]), children(tree, int(tree.parent[node]))
        q[node] = softmax([score[v] for v in peers])[peers.index(node)]
        among_siblings[node] = softmax([score[v] for v in siblings])[siblings.index(node)]

    def probability(node: int) -> float:
        parent = int(tree.parent[node])
        if parent < 0:
            return q[node]
        above = probability(parent)
        if rule == "min":
            return min(above, q[node])
        if rule == "sibling":
            return above * among_siblings[node]
        if rule == "product":
            return above * q[node]
        share = max(q[parent], sum(q[v] for v in children(tree, parent)))
        return above * q[node] / share if share else 0.0

    return [probability(node) for node in range(tree.num_nodes)]


def exclusive_classes(tree: Tree, nodes: Sequence[float], allowed: Sequence[bool]) -> list[float]:
    """P(exactly this class): its node probability less its children's, at least 0."""
    rest = [max(0.0, nodes[c] - sum(nodes[v] for v in children(tree, c))) for c in range(tree.num_classes)]
    return [r if ok else 0.0 for r, ok in zip(rest, allowed, strict=True)]


def published_levels(
    tree: Tree, logits: Sequence[float], allowed: Sequence[bool], drop_deepest: bool = True
) -> list[tuple[int, float]]:
    """(class, probability) per depth by the published rule; (-1, 0) for a depth it does not decode."""
    last = max(len(chain(tree, v)) for v in range(tree.num_nodes)) - 1
    answers = []
    for depth in range(last + 1):
        classes = [v for v in at_depth(tree, depth) if v < tree.num_classes]
        scores = [logits[v] if allowed[v] else -math.inf for v in classes]
        probs = softmax(scores)
        if len(classes) < 2 or not any(probs) or (drop_deepest and depth == last):
            answers.append((-1, 0.0))
            continue
        best = scores.index(max(scores))
        answers.append((classes[best], probs[best]))
    return answers


def best_child(tree: Tree, probs: Sequence[float], parent: int, hidden: Sequence[int] = ()) -> int:
    """The most probable child (lowest index among equals), or -1 where none has P > 0."""
    candidates = [v for v in children(tree, parent) if probs[v] > 0 and v not in hidden]
    return max(candidates, key=lambda v: (probs[v], -v), default=-1)


def greedy_path(
    tree: Tree, probs: Sequence[float], under: int = -1, max_depth: int | None = None, hidden: Sequence[int] = ()
) -> list[int]:
    """The chain from the best root to the best child each time, without hidden nodes."""
    found = chain(tree, under)
    if under >= 0 and probs[under] == 0:
        return []
    node = under
    while (node := best_child(tree, probs, node)) >= 0 and (max_depth is None or len(found) <= max_depth):
        found.append(node)
    return [v for v in found if v not in hidden]


def top_classes(probs: Sequence[float], k: int) -> list[int]:
    """The k most probable classes with P > 0, lowest index first among equals."""
    ranked = sorted(range(len(probs)), key=lambda c: (-probs[c], c))
    return [c for c in ranked if probs[c] > 0][:k]
