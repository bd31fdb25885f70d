"""Fixtures that every room shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.tree import Tree

if TYPE_CHECKING:
    from miil21k.hierarchy.spaces import LabelSpace

# A busy machine is no failure: examples may take as long as they need.
settings.register_profile("miil21k", deadline=None)
settings.load_profile("miil21k")


@pytest.fixture
def zoo_tree() -> Tree:
    """Return nine nodes, seven of them classes (c), the index in brackets; two parents stand behind their children.

    animal c[3]                       vehicle [8]
    |-- dog c[1]                      |-- car c[5]
    |   |-- husky c[0]                `-- boat c[6]
    |   `-- pug c[2]
    `-- feline [7]
        `-- cat c[4]
    """
    names = ("husky", "dog", "pug", "animal", "cat", "car", "boat", "feline", "vehicle")
    parents = ("dog", "animal", "dog", None, "feline", "vehicle", "vehicle", "animal", None)
    return Tree.from_parents(names, parents, num_classes=7)


@pytest.fixture
def winter21() -> LabelSpace:
    """Return the shipped space of 10,450 classes."""
    return load_label_space("winter21")
