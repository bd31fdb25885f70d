from __future__ import annotations

import numpy as np
import pytest
from forests import Case, cases, named
from hypothesis import given
from reference import subtree

from miil21k.decode.restriction import pools_of, restrict, viable
from miil21k.errors import UsageError
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.tree import Tree

# animal > dog > (husky, pug); animal > cat; plant > tree. "animal" is no class.
TREE = Tree.from_parents(
    ["dog", "cat", "husky", "pug", "plant", "tree", "animal"],
    ["animal", "animal", "dog", "dog", None, "plant", None],
    num_classes=6,
)
GRAPH = concepts_of(named(TREE))


def _indices(text: str) -> list[int]:
    return [TREE.index(wnid) for wnid in text.split()]


def _names(mask: np.ndarray) -> list[str]:
    return [TREE.wnids[i] for i in np.flatnonzero(mask)]


def test_under_keeps_what_is_below_a_concept_that_need_not_be_a_class() -> None:
    assert _names(restrict(GRAPH, under=_indices("dog"))) == ["dog", "husky", "pug"]
    assert _names(restrict(GRAPH, under=_indices("animal"))) == ["dog", "cat", "husky", "pug"]
    assert _names(restrict(GRAPH, under=_indices("cat plant"))) == ["cat", "plant", "tree"]


def test_classes_keeps_the_listed_ones_and_all_below_and_exclude_drops_whole_concepts() -> None:
    assert _names(restrict(GRAPH, classes=_indices("pug cat"))) == ["cat", "pug"]
    assert _names(restrict(GRAPH, classes=_indices("pug dog"))) == ["dog", "husky", "pug"]
    assert _names(restrict(GRAPH, exclude=_indices("dog"))) == ["cat", "plant", "tree"]


@pytest.mark.parametrize(("wnid", "count"), [("n01861778", 218), ("n04524313", 67), ("n02083346", 130)])
def test_a_concept_counts_everything_below_it_wherever_the_tree_keeps_it(wnid: str, count: int) -> None:
    graph = concepts_of(load_label_space("in1k"))
    concept = graph.index_of[wnid]  # mammal, vehicle, canine
    assert restrict(graph, under=[concept]).sum() == count
    assert restrict(graph, exclude=[concept]).sum() == 1000 - count


def test_a_class_belongs_to_the_nearest_pooled_concept() -> None:
    pools = pools_of(GRAPH, _indices("animal dog pug"), np.ones(6, bool))
    assert pools is not None
    assert [TREE.wnids[n] for n in pools.concepts] == ["dog", "pug", "animal"]
    members = [[TREE.wnids[c] for c in part] for part in np.split(pools.members, pools.starts[1:])]
    assert members == [["dog", "husky"], ["pug"], ["cat"]]
    assert [TREE.wnids[n] for n in np.flatnonzero(pools.closed)] == ["cat", "husky"]
    assert pools_of(GRAPH, _indices("cat pug"), np.ones(6, bool)) is None
    only = pools_of(GRAPH, _indices("dog plant"), np.arange(6) == TREE.index("tree"))
    assert only is not None
    assert [TREE.wnids[n] for n in only.concepts] == ["plant"]


def test_a_concept_pools_what_the_tree_keeps_elsewhere() -> None:
    graph = concepts_of(load_label_space("in1k"))
    mammal, dog, tabby = (graph.index_of[wnid] for wnid in ("n01861778", "n02084071", "n02123045"))
    pools = pools_of(graph, [mammal, dog], np.ones(1000, bool))
    assert pools is not None
    members = dict(zip(pools.concepts.tolist(), np.split(pools.members, pools.starts[1:]), strict=True))
    assert (members[mammal].size, members[dog].size) == (218 - graph.num_below[dog], graph.num_below[dog])
    assert tabby in members[mammal]
    assert pools.closed[tabby]


def test_all_conditions_must_hold() -> None:
    kept = restrict(GRAPH, under=_indices("animal"), classes=_indices("cat dog"), exclude=_indices("husky"))
    assert _names(kept) == ["dog", "cat", "pug"]
    assert _names(restrict(GRAPH)) == list(TREE.wnids[:6])


def test_a_restriction_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^No class is left by this restriction; widen the subtree or the lists\.$"):
        restrict(GRAPH, under=_indices("dog"), classes=_indices("cat"))
    with pytest.raises(UsageError, match=r"^No class is left by this restriction; widen the subtree or the lists\.$"):
        restrict(GRAPH, classes=[])


@given(cases())
def test_a_node_is_viable_where_something_at_or_below_it_is_allowed(case: Case) -> None:
    found = viable(case.tree, case.allowed)
    for node in range(case.tree.num_nodes):
        below = [v for v in subtree(case.tree, node) if v < case.tree.num_classes]
        assert found[node] == any(case.allowed[v] for v in below)
