"""The ONNX form of each rule of `miil21k.decode.rules`, under the same key.

A rule without a form here is refused at export, never replaced by another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from miil21k.decode.tree_passes import TINY
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.export.onnx.tree_graph import TreeGraph

    OnnxRule: TypeAlias = Callable[[TreeGraph, str], str]

__all__ = ["RULES", "fitted_families", "onnx_rule"]

LOWEST = float(np.finfo(np.float32).min)


def coherent(tree: TreeGraph, logits: str) -> str:
    """Write P(v) = P(parent) q(v) / max(q(parent), sum of q over v and its siblings)."""
    return multiplied_down(tree, divided_by_family(tree, softmax_levels(tree, logits)))


def minimum(tree: TreeGraph, logits: str) -> str:
    """Write P(v) = min(P(parent), q(v))."""
    return _combined_down(tree, softmax_levels(tree, logits), "Min")


def sibling(tree: TreeGraph, logits: str) -> str:
    """Write P(v) = P(parent) times a softmax over v and its siblings."""
    return multiplied_down(tree, softmax_siblings(tree, logits))


def product(tree: TreeGraph, logits: str) -> str:
    """Write P(v) = P(parent) q(v)."""
    return multiplied_down(tree, softmax_levels(tree, logits))


# name -> (tree, name of the logits in walk order, [B, V]) -> name of P(node), [B, V]
RULES: dict[str, OnnxRule] = {"coherent": coherent, "min": minimum, "sibling": sibling, "product": product}


def onnx_rule(name: str) -> OnnxRule:
    """Return the ONNX form of a rule; raises UsageError where it has none."""
    try:
        return RULES[name]
    except KeyError:
        raise UsageError(
            f"The rule '{name}' has no ONNX form, so it cannot be exported; these have one: {', '.join(RULES)}."
        ) from None


def softmax_levels(tree: TreeGraph, logits: str) -> str:
    """Write one softmax per depth."""
    parts = [
        tree.graph.add("Softmax", tree.times(part, tree.scale[depth : depth + 1]), axis=1)
        for depth, part in enumerate(tree.generations(logits))
    ]
    return tree.joined(parts)


def softmax_siblings(tree: TreeGraph, logits: str) -> str:
    """Write one softmax per group of siblings."""
    graph, walk = tree.graph, tree.walk
    top = tree.columns(tree.reduce("ReduceMax", logits, walk.families, LOWEST), walk.own_family)
    grown = graph.add("Exp", tree.times(graph.add("Sub", logits, top), tree.scale[walk.depth]))
    total = tree.columns(tree.reduce("ReduceSum", grown, walk.families, 0), walk.own_family)
    return graph.add("Div", grown, total)


def divided_by_family(tree: TreeGraph, levels: str) -> str:
    """Divide every value below the roots by the larger of its parent's value and its siblings' sum."""
    graph, walk = tree.graph, tree.walk
    total = tree.reduce("ReduceSum", levels, walk.families, 0)
    # The roots stay as they are: their sum is that of a softmax, and their row is set to 1.
    is_root = graph.constant(np.arange(walk.num_families) == walk.roots, np.bool_)
    total = graph.add("Where", is_root, tree.floats(1), total)
    total = graph.add("Max", total, tree.columns(tree.padded(levels, 1), walk.parents), tree.floats(TINY))
    return graph.add("Div", levels, tree.columns(total, walk.own_family))


def fitted_families(tree: TreeGraph, nodes: str) -> str:
    """Scale siblings that sum to more than their parent down to it, from the roots on."""
    graph, walk = tree.graph, tree.walk
    total = graph.add("Max", tree.reduce("ReduceSum", nodes, walk.families, 0), tree.floats(TINY))
    share = graph.add("Div", tree.columns(tree.padded(nodes, 1), walk.parents), total)
    is_root = graph.constant(np.arange(walk.num_families) == walk.roots, np.bool_)
    share = tree.columns(graph.add("Where", is_root, tree.floats(1), share), walk.own_family)
    return graph.add("Mul", nodes, _combined_down(tree, share, "Mul", most=1))


def multiplied_down(tree: TreeGraph, values: str) -> str:
    """Write the product of the values from the root down to each node."""
    return _combined_down(tree, values, "Mul")


def _combined_down(tree: TreeGraph, values: str, operator: str, most: float | None = None) -> str:
    """Combine each value with that of the parent, from the roots down, and cut it to `most`."""
    walk, parts = tree.walk, tree.generations(values)
    for depth in range(1, len(parts)):
        first, last = walk.starts[depth], walk.starts[depth + 1]
        above = tree.columns(parts[depth - 1], walk.parent[first:last] - walk.starts[depth - 1])
        parts[depth] = tree.graph.add(operator, parts[depth], above)
        if most is not None:
            parts[depth] = tree.graph.add("Min", parts[depth], tree.floats(most))
    return tree.joined(parts)
