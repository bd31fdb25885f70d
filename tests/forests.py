"""Hypothesis strategies: random forests, logits and masks that fit them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from miil21k.hierarchy.spaces import LabelSpace
from miil21k.hierarchy.tree import Tree

WITHDRAWN_WNID = "n09621232"  # native, a class of fall11 that ImageNet withdrew


class Case(NamedTuple):
    """A forest with logits [B, C] and a mask bool [C] that allows at least one class."""

    tree: Tree
    logits: np.ndarray
    allowed: np.ndarray


@st.composite
def forests(draw: st.DrawFn, max_nodes: int = 12, only_classes: bool = False) -> Tree:
    """Draw a forest whose index order is not topological; nodes C..N-1 are no classes unless `only_classes`."""
    n = draw(st.integers(1, max_nodes))
    order = draw(st.permutations(range(n)))
    parent = np.full(n, -1)
    for place, node in enumerate(order):
        above = draw(st.integers(-1, place - 1))
        parent[node] = order[above] if above >= 0 else -1
    num_classes = n if only_classes else draw(st.integers(1, n))
    return Tree(tuple(f"w{i}" for i in range(n)), tuple(f"name {i}" for i in range(n)), parent, num_classes)


@st.composite
def cases(draw: st.DrawFn, only_classes: bool = False) -> Case:
    """Draw a forest, up to three rows of logits with many ties, and a mask."""
    tree = draw(forests(only_classes=only_classes))
    shape = (draw(st.integers(0, 3)), tree.num_classes)
    values = st.one_of(st.integers(-3, 3).map(float), st.floats(-15, 15, width=32))
    logits = draw(hnp.arrays(np.float32, shape, elements=values))
    allowed = draw(hnp.arrays(np.bool_, tree.num_classes))
    allowed[draw(st.integers(0, tree.num_classes - 1))] = True
    return Case(tree, logits, allowed)


def named(tree: Tree, name: str = "drawn") -> LabelSpace:
    """A label space of `tree`, without glosses."""
    return LabelSpace(name, tree, tree.names, [""] * tree.num_nodes)


def with_withdrawn(tree: Tree, wnid: str) -> LabelSpace:
    """The same tree as a space that is called fall11, in which `wnid` is a class that ImageNet withdrew."""
    wnids = tuple(WITHDRAWN_WNID if key == wnid else key for key in tree.wnids)
    return named(Tree(wnids, tree.names, tree.parent, tree.num_classes), "fall11")
