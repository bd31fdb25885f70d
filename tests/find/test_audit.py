"""Labels in doubt, from probabilities out of fold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from miil21k.errors import UsageError
from miil21k.find.audit import audit, tree_distance
from miil21k.hierarchy.spaces import LabelSpace

if TYPE_CHECKING:
    from miil21k.hierarchy.tree import Tree

pytest.importorskip("cleanlab")


@pytest.fixture
def space(zoo_tree: Tree) -> LabelSpace:
    return LabelSpace("zoo", zoo_tree, zoo_tree.names, ("",) * 9)


def test_wrong_labels_come_first_with_their_distance_in_the_tree(space: LabelSpace) -> None:
    """Husky, pug and car, ten each; a husky labelled car, and one that may be a pug."""
    labels = np.repeat([0, 2, 5], 10)
    probabilities = np.full((30, 7), 0.01)
    probabilities[np.arange(30), labels] = 0.94
    probabilities[25] = [0.94, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01]
    probabilities[3] = [0.40, 0.01, 0.55, 0.01, 0.01, 0.01, 0.01]
    probabilities[7] = np.nan  # the only one of its class, say
    found = audit(probabilities, labels, space)
    assert [(doubt.row, doubt.label, doubt.suggested) for doubt in found] == [(25, 5, 0), (3, 0, 2)]
    assert found[0].mislabelled
    assert found[0].distance == 5  # husky, dog, animal, the node above all, vehicle, car
    assert found[1].distance == 2
    assert found[0].quality < found[1].quality < 0.5


def test_edges_between_nodes_are_counted_through_the_node_above_all_roots(zoo_tree: Tree) -> None:
    assert tree_distance(zoo_tree, np.array([0, 0, 4, 3, 5]), np.array([0, 2, 0, 8, 6])).tolist() == [0, 2, 4, 2, 2]


def test_probabilities_of_another_shape_are_refused(space: LabelSpace) -> None:
    with pytest.raises(UsageError, match=r"Expected probabilities \[2, 7\], not \[2, 6\]"):
        audit(np.ones((2, 6)), np.array([0, 1]), space)
