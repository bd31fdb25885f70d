"""How the levels of a level_softmax head become one tree: a table of rules, open for more.

A rule turns a block of logits into P(node), in place; `docs/decoding.md` has the formulas. To add one: a function and
a line of `RULES`, and its ONNX form under the same key in `miil21k/export/onnx/rules.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from miil21k.decode import tree_passes
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from miil21k.decode.tree_passes import Block, FamilyOrder

    Rule: TypeAlias = Callable[[Block, FamilyOrder, NDArray[np.float32]], None]

__all__ = ["DEFAULT_RULE", "RULES", "rule_named"]

DEFAULT_RULE = "coherent"


def coherent(block: Block, order: FamilyOrder, scale: NDArray[np.float32]) -> None:
    """P(v) = P(parent) q(v) / max(q(parent), sum of q over v and its siblings); equals q where the levels agree."""
    tree_passes.softmax_levels(block, order, scale)
    tree_passes.divide_by_family(block, order)
    tree_passes.multiply_down(block, order)


def minimum(block: Block, order: FamilyOrder, scale: NDArray[np.float32]) -> None:
    """P(v) = min(P(parent), q(v)); siblings may sum above their parent."""
    tree_passes.softmax_levels(block, order, scale)
    tree_passes.minimum_down(block, order)


def sibling(block: Block, order: FamilyOrder, scale: NDArray[np.float32]) -> None:
    """P(v) = P(parent) times a softmax over v and its siblings; no mass stays at an inner class."""
    tree_passes.softmax_siblings(block, order, scale)
    tree_passes.multiply_down(block, order)


def product(block: Block, order: FamilyOrder, scale: NDArray[np.float32]) -> None:
    """P(v) = P(parent) q(v)."""
    tree_passes.softmax_levels(block, order, scale)
    tree_passes.multiply_down(block, order)


# name -> (block of logits, float32 [R, N], columns in family order; that order; 1 / T of each depth) -> P(node) there
RULES: dict[str, Rule] = {"coherent": coherent, "min": minimum, "sibling": sibling, "product": product}


def rule_named(name: str | None) -> Rule:
    """Return the rule of that name, the default for None; raises UsageError, with the names, for an unknown one."""
    try:
        return RULES[DEFAULT_RULE if name is None else name]
    except KeyError:
        raise UsageError(f"No rule '{name}'; the rules are {', '.join(RULES)}.") from None
