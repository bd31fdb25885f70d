from __future__ import annotations

import pytest
from shapes import shape_space

from miil21k.errors import UnknownClass
from miil21k.hierarchy.labels import find_label
from miil21k.hierarchy.load import load_label_space


def _right(text: str, *names: str) -> list[bool]:
    tree = load_label_space("in1k").tree
    found = find_label(load_label_space("in1k"), text)
    assert found is not None
    assert found.right is not None
    right = {tree.names[node] for node in found.right.tolist()}
    return [name in right for name in names]


def test_a_noun_that_has_no_class_is_told_by_the_nodes_above_it() -> None:
    space = load_label_space("in1k")
    found = find_label(space, "okapi")
    assert found is not None
    assert (found.wnid, space.tree.names[found.node]) == ("n02439398", "ruminant")
    assert _right("okapi", "ruminant", "ungulate", "mammal", "animal") == [True] * 4
    assert _right("okapi", "zebra", "impala", "bird") == [False] * 3
    by_wnid = find_label(space, "n02439398")
    assert by_wnid is not None
    assert (by_wnid.node, by_wnid.name) == (found.node, "okapi")


def test_every_hypernym_is_right_not_only_those_of_one_chain() -> None:
    cup = "n03147509"
    assert _right(cup, "container", "tableware", "artifact", "espresso maker") == [True, True, True, False]


def test_a_concept_that_is_no_node_has_right_answers_below_it() -> None:
    assert _right("musteline mammal", "otter", "weasel", "carnivore", "mammal", "lion") == [True] * 4 + [False]


@pytest.mark.parametrize(("text", "wnid"), [("dog", "n02084071"), ("dogs", "n02084071"), ("bird", "n01503061")])
def test_an_inner_node_is_a_label_by_any_of_its_names(text: str, wnid: str) -> None:
    space = load_label_space("in1k")
    found = find_label(space, text)
    assert found is not None
    assert (found.wnid, found.node, found.right) == (wnid, space.tree.index(wnid), None)
    assert found.node >= space.num_classes


def test_what_is_meant_is_said_or_asked_for() -> None:
    space = load_label_space("in1k")
    with pytest.raises(UnknownClass, match=r"'crane' has 2 meanings with classes of 'in1k'.*by its wnid"):
        find_label(space, "crane")
    assert find_label(space, "frobnicator") is None


def test_a_hierarchy_of_other_keys_takes_its_own_nodes_and_no_nouns() -> None:
    space = shape_space()
    inner = find_label(space, "warm")
    assert inner is not None
    assert inner.node == space.tree.index("warm")
    assert find_label(space, "okapi") is None
