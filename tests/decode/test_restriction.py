import numpy as np
import pytest
from forests import Case, cases
from hypothesis import given
from reference import subtree

from miil21k.decode.restriction import pools_of, restrict, viable
from miil21k.errors import UnknownClass, UsageError
from miil21k.hierarchy.tree import Tree

# animal > dog > (husky, pug); animal > cat; plant > tree. "animal" is no class.
TREE = Tree.from_parents(
    ["dog", "cat", "husky", "pug", "plant", "tree", "animal"],
    ["animal", "animal", "dog", "dog", None, "plant", None],
    num_classes=6,
)


def _names(mask: np.ndarray) -> list[str]:
    return [TREE.wnids[i] for i in np.flatnonzero(mask)]


def test_under_keeps_the_subtree_of_a_node_that_need_not_be_a_class() -> None:
    assert _names(restrict(TREE, under="dog")) == ["dog", "husky", "pug"]
    assert _names(restrict(TREE, under="animal")) == ["dog", "cat", "husky", "pug"]
    assert _names(restrict(TREE, under=["cat", "plant"])) == ["cat", "plant", "tree"]


def test_classes_keeps_the_listed_ones_and_all_below_and_exclude_drops_whole_subtrees() -> None:
    assert _names(restrict(TREE, classes=["pug", "cat"])) == ["cat", "pug"]
    assert _names(restrict(TREE, classes=["pug", "dog"])) == ["dog", "husky", "pug"]
    assert _names(restrict(TREE, exclude=["dog"])) == ["cat", "plant", "tree"]


def test_a_class_belongs_to_the_nearest_pooled_node() -> None:
    pools = pools_of(TREE, [TREE.index(w) for w in ("animal", "dog", "pug")], np.ones(6, bool))
    assert pools is not None
    assert [TREE.wnids[n] for n in pools.nodes] == ["dog", "pug", "animal"]
    members = [[TREE.wnids[c] for c in part] for part in np.split(pools.members, pools.starts[1:])]
    assert members == [["dog", "husky"], ["pug"], ["cat"]]
    assert [TREE.wnids[n] for n in np.flatnonzero(pools.closed)] == ["cat", "husky"]
    assert pools_of(TREE, [TREE.index("cat"), TREE.index("pug")], np.ones(6, bool)) is None
    only = pools_of(TREE, [TREE.index("dog"), TREE.index("plant")], np.arange(6) == TREE.index("tree"))
    assert only is not None
    assert [TREE.wnids[n] for n in only.nodes] == ["plant"]


def test_all_conditions_must_hold() -> None:
    withdrawn = np.zeros(6, bool)
    withdrawn[TREE.index("pug")] = True
    assert _names(restrict(TREE, under="animal", exclude=["husky"], withdrawn=withdrawn)) == ["dog", "cat"]
    assert _names(restrict(TREE)) == list(TREE.wnids[:6])


def test_a_restriction_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="No class is left"):
        restrict(TREE, under="dog", classes=["cat"])
    with pytest.raises(UsageError, match="No class is left"):
        restrict(TREE, classes=[])


def test_an_unknown_wnid_and_a_wrong_mask_are_refused() -> None:
    with pytest.raises(UnknownClass, match="'dgo'"):
        restrict(TREE, under="dgo")
    with pytest.raises(UsageError, match=r"bool array of shape \[6\], not bool \[7\]"):
        restrict(TREE, withdrawn=np.zeros(7, bool))


@given(cases())
def test_a_node_is_viable_where_something_at_or_below_it_is_allowed(case: Case) -> None:
    found = viable(case.tree, case.allowed)
    for node in range(case.tree.num_nodes):
        below = [v for v in subtree(case.tree, node) if v < case.tree.num_classes]
        assert found[node] == any(case.allowed[v] for v in below)
