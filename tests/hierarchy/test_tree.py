"""The tree value: a drawn forest, random forests against a slow reference, and what it refuses."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import reference_tree as slow
from forests import forests
from hypothesis import given

from miil21k.errors import TreeError, UnknownClass
from miil21k.hierarchy.tree import Tree


def test_a_path_runs_from_the_root_to_the_node(zoo_tree: Tree) -> None:
    assert [zoo_tree.names[n] for n in zoo_tree.path(4)] == ["animal", "feline", "cat"]


def test_dog_and_cat_meet_at_animal_and_strangers_nowhere(zoo_tree: Tree) -> None:
    found = zoo_tree.lca(np.array([0, 0, 0, 1]), np.array([4, 2, 5, 0]))
    assert found.tolist() == [3, 1, -1, 1]


def test_lca_broadcasts_a_table(zoo_tree: Tree) -> None:
    every = np.arange(9)
    table = zoo_tree.lca(every[:, None], every[None, :])
    assert table.shape == (9, 9)
    assert np.array_equal(table, table.T)
    assert np.array_equal(np.diag(table), every)


def test_canonical_text_sets_inner_nodes_apart(zoo_tree: Tree) -> None:
    text = (
        "husky dog\ndog animal\npug dog\nanimal -\ncat feline\ncar vehicle\nboat vehicle\n\nfeline animal\nvehicle -\n"
    )
    assert zoo_tree.canonical == text
    assert zoo_tree.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_counts_of_the_drawn_tree(zoo_tree: Tree) -> None:
    assert zoo_tree.depth.tolist() == [2, 1, 2, 0, 2, 1, 1, 1, 0]
    assert zoo_tree.roots.tolist() == [3, 8]
    assert zoo_tree.leaves.tolist() == [0, 2, 4, 5, 6]
    assert zoo_tree.children(3).tolist() == [1, 7]
    assert zoo_tree.children(0).tolist() == []
    assert zoo_tree.max_depth == 2


@given(forests())
def test_depth_paths_and_level_targets_equal_the_slow_reference(tree: Tree) -> None:
    assert tree.level_target.tolist() == slow.level_target(tree)
    for node in range(tree.num_nodes):
        assert list(tree.path(node)) == slow.path(tree, node)
        assert tree.depth[node] == len(slow.path(tree, node)) - 1


@given(forests())
def test_lca_and_descendants_equal_the_slow_reference(tree: Tree) -> None:
    every = np.arange(tree.num_nodes)
    table = tree.lca(every[:, None], every[None, :])
    for a in every:
        assert tree.descendants(a).tolist() == slow.descendants(tree, a)
        assert table[a].tolist() == [slow.lca(tree, a, b) for b in every]


@given(forests())
def test_families_hold_each_node_once_beside_its_siblings(tree: Tree) -> None:
    assert sorted(np.concatenate([f.nodes for f in tree.families]).tolist()) == list(range(tree.num_nodes))
    for depth, family in enumerate(tree.families):
        ends = [*family.starts[1:].tolist(), len(family.nodes)]
        groups = {
            int(parent): family.nodes[start:end].tolist()
            for parent, start, end in zip(family.parents, family.starts, ends, strict=True)
        }
        assert groups == slow.siblings(tree, depth)
        assert np.array_equal(family.parents[family.group], tree.parent[family.nodes])


@given(forests())
def test_levels_children_and_roots_agree_with_the_parents(tree: Tree) -> None:
    for level in tree.levels:
        assert level.nodes.tolist() == np.flatnonzero(tree.depth == level.depth).tolist()
    for node in range(tree.num_nodes):
        assert tree.children(node).tolist() == np.flatnonzero(tree.parent == node).tolist()
        assert tree.num_children[node] == len(tree.children(node))
    assert tree.roots.tolist() == np.flatnonzero(tree.parent == -1).tolist()


def test_the_tree_is_immutable_and_apart_from_its_source() -> None:
    parent = np.array([-1, 0])
    tree = Tree(("a", "b"), ("a", "b"), parent, 2)
    parent[1] = -1
    assert tree.parent.tolist() == [-1, 0]
    for array in (tree.parent, tree.depth, tree.level_target):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize(
    ("wnids", "parent", "classes", "message"),
    [
        (("a", "b", "c"), [1, 2, 0], 3, "cycle: a -> b -> c -> a"),
        (("r", "a", "b"), [-1, 2, 1], 3, "cycle: a -> b -> a"),
        (("a",), [0], 1, "cycle: a -> a"),
        (("a", "b", "a"), [-1, 0, 0], 3, "Node 'a' stands twice"),
        (("a", "b"), [-1, 2], 2, "parent of 'b' is 2, outside -1..1"),
        (("a", "b"), [-2, 0], 2, "parent of 'a' is -2"),
        (("a", "b"), [-1], 2, "one parent per node"),
        (("a", "b"), [-1, 0], 3, "num_classes must lie in 1..2, not 3"),
        ((), [], 0, "one parent per node"),
    ],
)
def test_what_is_no_forest_is_refused_by_name(wnids: tuple[str, ...], parent: list[int], classes: int, message: str):
    with pytest.raises(TreeError, match=message):
        Tree(wnids, wnids, np.array(parent, np.int32), classes)


def test_an_unknown_key_brings_near_matches(zoo_tree: Tree) -> None:
    with pytest.raises(UnknownClass, match=r"No node 'felline' .* Near: 'feline'"):
        zoo_tree.indices(["cat", "felline"])
    with pytest.raises(TreeError, match="The parent 'x' of 'b' is no node"):
        Tree.from_parents(["a", "b"], [None, "x"])


def test_indices_are_of_four_bytes(zoo_tree: Tree) -> None:
    family, level = zoo_tree.families[1], zoo_tree.levels[1]
    found = {
        "parent": zoo_tree.parent, "depth": zoo_tree.depth, "level": level.nodes, "nodes": family.nodes,
        "starts": family.starts, "parents": family.parents, "group": family.group, "roots": zoo_tree.roots,
        "target": zoo_tree.level_target, "children": zoo_tree.children(3), "number": zoo_tree.num_children,
        "leaves": zoo_tree.leaves, "below": zoo_tree.descendants(3), "indices": zoo_tree.indices(["cat"]),
        "lca": zoo_tree.lca(np.array([0]), np.array([4])),
    }  # fmt: skip
    assert {name: str(array.dtype) for name, array in found.items()} == dict.fromkeys(found, "int32")


def test_messages_about_what_is_no_tree_are_whole_sentences() -> None:
    refused = {
        (("a", "b"), ("a",), (-1, 0), 2): (
            "A tree needs one name and one parent per node: 2 wnids, 1 names, parents of shape (2,)."
        ),
        (("a",), ("a",), (-1,), 0): "num_classes must lie in 1..1, not 0.",
        (("a", "b"), ("a", "b"), (-1, -1), 3): "num_classes must lie in 1..2, not 3.",
        (("a", "a"), ("a", "b"), (-1, 0), 2): "Node 'a' stands twice in the tree; every wnid must be unique.",
        (("a", "b"), ("a", "b"), (-1, 2), 2): "The parent of 'b' is 2, outside -1..1.",
        (("a", "b"), ("a", "b"), (-2, 0), 2): "The parent of 'a' is -2, outside -1..1.",
        (("a", "b"), ("a", "b"), (1, 0), 2): "The parents form a cycle: a -> b -> a.",
    }
    for (wnids, names, parent, classes), message in refused.items():
        with pytest.raises(TreeError) as caught:
            Tree(wnids, names, np.array(parent), classes)
        assert str(caught.value) == message


def test_a_key_that_nothing_is_like_has_no_hint(zoo_tree: Tree) -> None:
    for key, hint in (("qqqqq", ""), ("felline", " Near: 'feline'."), ("boot", "")):
        with pytest.raises(UnknownClass) as caught:
            zoo_tree.index(key)
        assert str(caught.value) == f"No node '{key}' in this tree of 7 classes.{hint}"
    with pytest.raises(TreeError) as refused:
        Tree.from_parents(["a", "b"], [None, "x"])
    assert str(refused.value) == "The parent 'x' of 'b' is no node of the tree."
