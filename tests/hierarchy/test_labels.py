from __future__ import annotations

import numpy as np
import pytest
from shapes import shape_space

from miil21k.errors import UnknownClass
from miil21k.hierarchy.labels import find_label
from miil21k.hierarchy.load import load_label_space

IN1K = load_label_space("in1k")


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


@pytest.mark.parametrize(
    ("text", "wnid", "name", "node", "right"),
    [
        ("okapi", "n02439398", "okapi", 1175, [1001, 1007, 1068, 1072, 1169, 1173, 1175]),  # no concept of the space
        ("okapi.n.01", "n02439398", "okapi", 1175, [1001, 1007, 1068, 1072, 1169, 1173, 1175]),
        ("cups#", None, None, None, None),
        ("n03147509", "n03147509", "cup", 1478, [1004, 1270, 1478]),
        ("board", "n02856463", "board", 1004, [781, 1004]),  # a concept, but no node of the tree
        ("Musteline_Mammal", "n02441326", "musteline mammal", 1105, [*range(356, 363), 1001, 1007, 1068, 1072, 1105]),
        ("bank", "n04139859", "savings bank", 1441, None),
        ("jaguar", "n02128925", "jaguar", 290, None),
    ],
)
def test_a_label_is_its_node_and_all_the_nodes_that_are_right(
    text: str, wnid: str | None, name: str | None, node: int | None, right: list[int] | None
) -> None:
    found = find_label(load_label_space("in1k"), text)
    if wnid is None:
        assert found is None
        return
    assert found is not None
    assert (found.wnid, found.name, found.node) == (wnid, name, node)
    assert (None if found.right is None else found.right.tolist()) == right
    assert found.right is None or found.right.dtype == np.int32


def test_which_of_several_meanings_was_taken_is_said_of_nodes_and_of_other_concepts() -> None:
    notes = {text: label.note for text in ("cat", "toy", "jaguar", "n02121620") if (label := find_label(IN1K, text))}
    assert notes == {
        "cat": (
            "'cat' is read as cat (n02121620: feline mammal usually having thick soft fur and no ability to roar: "
            "domestic cats; wildcats); not as big cat (n02127808: any of several large cats typically able to roar and "
            "living in the wild). A wnid says which."
        ),
        "toy": (
            "'toy' is read as plaything (n03964744: an artifact designed to be played with); not as toy dog "
            "(n02085374: any of several breeds of very small dogs kept purely as pets). A wnid says which."
        ),
        "jaguar": None,
        "n02121620": None,
    }


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
    with pytest.raises(UnknownClass) as caught:
        find_label(space, "mercury")
    assert str(caught.value) == (
        "'mercury' has 4 meanings: n14645346, n09562704, n09351408, n05014308. Name one by its wnid."
    )
    assert find_label(space, "frobnicator") is None
    assert find_label(space, "unicorn") is None  # a noun of which no hypernym is a node


def test_a_hierarchy_of_other_keys_takes_its_own_nodes_and_no_nouns() -> None:
    space = shape_space()
    inner = find_label(space, "warm")
    assert inner is not None
    assert inner.node == space.tree.index("warm")
    assert find_label(space, "okapi") is None
