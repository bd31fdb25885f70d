"""The losses written as loops over samples, levels and classes, in plain Python floats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miil21k.hierarchy.tree import Tree


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    exps = [math.exp(v - top) for v in values]
    return [e / sum(exps) for e in exps]


def kept_levels(tree: Tree, deepest: str) -> list[int]:
    last = tree.max_depth if deepest == "published" else tree.max_depth + 1
    return [depth for depth in range(last) if (tree.depth == depth).sum() > 1]


def weight(tree: Tree, depth: int, clamp: float = 20.0) -> float:
    return min(clamp, tree.num_classes / sum(1 for d in tree.depth if d >= depth))


def level_loss(tree: Tree, logits: list[list[float]], labels: list[int], depth: int, eps: float) -> float:
    total = 0.0
    nodes = [n for n in range(tree.num_classes) if tree.depth[n] == depth]
    for row, label in zip(logits, labels, strict=True):
        path = tree.path(label)
        if len(path) <= depth:
            continue
        probs = softmax([row[n] for n in nodes])
        for node, p in zip(nodes, probs, strict=True):
            q = (1 - eps) * (node == path[depth]) + eps / len(nodes)
            total -= q * math.log(p)
    return total / len(labels)


def semantic_softmax(tree: Tree, logits: list[list[float]], labels: list[int], eps: float, deepest: str) -> float:
    return sum(weight(tree, d) * level_loss(tree, logits, labels, d, eps) for d in kept_levels(tree, deepest))


def semantic_kd(
    tree: Tree, student: list[list[float]], teacher: list[list[float]], labels: list[int], confidence: str
) -> float:
    total = 0.0
    for depth in kept_levels(tree, "published"):
        nodes = [n for n in range(tree.num_classes) if tree.depth[n] == depth]
        for s_row, t_row, label in zip(student, teacher, labels, strict=True):
            s, t = softmax([s_row[n] for n in nodes]), softmax([t_row[n] for n in nodes])
            trust = sum(sorted(t, reverse=True)[: math.ceil(len(nodes) / 20)])
            if confidence == "paper" and len(tree.path(label)) > depth:
                trust = 1.0
            total += trust * sum((a - b) ** 2 for a, b in zip(s, t, strict=True))
    return total


def binary(
    tree: Tree, logits: list[list[float]], labels: list[int], gamma_neg: float, gamma_pos: float, margin: float
) -> float:
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        positive = set(tree.path(label))
        for node, z in enumerate(row):
            p = 1 / (1 + math.exp(-z))
            if node in positive:
                total -= (1 - p) ** gamma_pos * math.log(p)
            else:
                q = max(p - margin, 0.0)
                rest = 1 - q if margin else 1 / (1 + math.exp(z))  # 1 - q would lose digits as q nears 1
                total -= q**gamma_neg * math.log(rest)
    return total / len(labels)
