import numpy as np
import pytest
from forests import Case, cases
from hypothesis import given
from hypothesis import strategies as st
from reference import best_child, chain, children, greedy_path

from miil21k.decode.path import decode_path, hedge, paths_to
from miil21k.decode.probabilities import node_probabilities
from miil21k.errors import LogitsError, UsageError
from miil21k.hierarchy.tree import Tree

# animal > (dog > (husky, pug), cat); plant
TREE = Tree.from_parents(
    ["husky", "animal", "cat", "dog", "plant", "pug"], ["dog", None, "animal", "animal", None, "dog"]
)
HUSKY, ANIMAL, CAT, DOG, PLANT, PUG = range(6)
PROBS = np.array([[0.5, 0.95, 0.15, 0.8, 0.05, 0.3]], np.float32)


def _probs(case: Case) -> np.ndarray:
    return node_probabilities(case.tree, case.logits, "leaf_softmax", allowed=case.allowed)


def test_a_path_walks_from_the_best_root_to_the_best_child() -> None:
    found = decode_path(TREE, PROBS)
    assert found.nodes.tolist() == [[ANIMAL, DOG, HUSKY]]
    assert found.length.tolist() == [3]
    np.testing.assert_array_equal(found.probs, PROBS[:, [ANIMAL, DOG, HUSKY]])


def test_a_path_does_not_leave_the_best_root_for_a_better_grandchild() -> None:
    probs = np.array([[0.1, 0.6, 0.2, 0.3, 0.7, 0.1]], np.float32)
    assert decode_path(TREE, probs).nodes.tolist() == [[PLANT, -1, -1]]


@given(cases(), st.data())
def test_a_path_equals_the_slow_walk(case: Case, data: st.DataObject) -> None:
    probs = _probs(case)
    under = data.draw(st.one_of(st.none(), st.integers(0, case.tree.num_nodes - 1)))
    first = 0 if under is None else int(case.tree.depth[under])
    cut = data.draw(st.one_of(st.none(), st.integers(first, case.tree.max_depth)))
    withdrawn = data.draw(st.one_of(st.none(), st.just(~case.allowed)))
    found = decode_path(case.tree, probs, under=under, max_depth=cut, withdrawn=withdrawn)
    hidden = [] if withdrawn is None else np.flatnonzero(withdrawn).tolist()
    for row in range(len(probs)):
        slow = greedy_path(case.tree, probs[row], -1 if under is None else under, cut, hidden)
        assert found.nodes[row].tolist() == slow + [-1] * (found.nodes.shape[1] - len(slow))
        assert found.length[row] == len(slow)
        np.testing.assert_array_equal(found.probs[row, : len(slow)], probs[row, slow])


@given(cases())
def test_a_path_is_a_chain_whose_probabilities_never_grow(case: Case) -> None:
    for head in ("leaf_softmax", "sigmoid"):
        found = decode_path(case.tree, node_probabilities(case.tree, case.logits, head, allowed=case.allowed))
        for nodes, probs, length in zip(*found, strict=True):
            steps = nodes[:length].tolist()
            assert steps == chain(case.tree, steps[-1])
            assert (nodes[length:] == -1).all()
            assert (probs[length:] == 0).all()
            assert ((probs >= 0) & (probs <= 1)).all()
            assert (np.diff(probs[:length]) <= 0).all()


@given(cases())
def test_withdrawn_classes_never_stand_in_a_path_or_a_hedge(case: Case) -> None:
    withdrawn = np.flatnonzero(~case.allowed)
    probs = _probs(case)
    assert not np.isin(decode_path(case.tree, probs, withdrawn=~case.allowed).nodes, withdrawn).any()
    found = hedge(case.tree, probs, 0.6, withdrawn=~case.allowed)
    for shown in (found.node, found.refused, found.runner_up, found.paths.nodes):
        assert not np.isin(shown, withdrawn).any()


def test_a_removed_step_is_left_out_and_its_children_remain() -> None:
    withdrawn = np.zeros(6, bool)
    withdrawn[DOG] = True
    found = decode_path(TREE, PROBS, withdrawn=withdrawn)
    assert found.nodes.tolist() == [[ANIMAL, HUSKY, -1]]
    assert found.probs[0].tolist() == [*PROBS[0, [ANIMAL, HUSKY]].tolist(), 0]


def test_under_opens_the_chain_with_the_ancestors_even_of_an_unlikely_node() -> None:
    assert decode_path(TREE, PROBS, under=CAT).nodes.tolist() == [[ANIMAL, CAT, -1]]
    impossible = PROBS.copy()
    impossible[0, [DOG, HUSKY, PUG]] = 0
    found = decode_path(TREE, impossible, under=DOG)
    assert found.nodes.tolist() == [[-1, -1, -1]]
    assert found.length.tolist() == [0]


def test_max_depth_cuts_the_path() -> None:
    assert decode_path(TREE, PROBS, max_depth=0).nodes.tolist() == [[ANIMAL, -1, -1]]
    assert decode_path(TREE, PROBS, max_depth=1).nodes.tolist() == [[ANIMAL, DOG, -1]]
    with pytest.raises(UsageError, match="max_depth 0 lies above 'cat', at depth 1"):
        decode_path(TREE, PROBS, under=CAT, max_depth=0)
    with pytest.raises(UsageError, match="max_depth -1 lies above the roots"):
        decode_path(TREE, PROBS, max_depth=-1)


@pytest.mark.parametrize(
    ("level", "node", "refused", "runner_up"),
    [
        (1.0, -1, ANIMAL, PLANT),
        (0.9, ANIMAL, DOG, CAT),
        (0.8, DOG, HUSKY, PUG),
        (0.5, HUSKY, -1, -1),
        (0.01, HUSKY, -1, -1),
    ],
)
def test_hedge_stops_at_the_deepest_sure_node_and_names_what_competes(
    level: float, node: int, refused: int, runner_up: int
) -> None:
    found = hedge(TREE, PROBS, level)
    assert (found.node[0], found.refused[0], found.runner_up[0]) == (node, refused, runner_up)
    for at, prob in ((node, found.prob), (refused, found.refused_prob), (runner_up, found.runner_up_prob)):
        assert prob[0] == (PROBS[0, at] if at >= 0 else 0)
    assert found.paths.nodes.tolist() == [[ANIMAL, DOG, HUSKY]]


def test_hedge_has_no_runner_up_where_the_refused_step_has_no_sibling() -> None:
    tree = Tree.from_parents(["a", "b"], [None, "a"])
    found = hedge(tree, np.array([[1.0, 0.4]], np.float32))
    assert (found.node[0], found.refused[0], found.runner_up[0]) == (0, 1, -1)


@given(cases(), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_higher_level_gives_the_same_node_or_an_ancestor(case: Case, a: float, b: float) -> None:
    probs = _probs(case)
    low, high = hedge(case.tree, probs, min(a, b)).node, hedge(case.tree, probs, max(a, b)).node
    for bold, careful in zip(low.tolist(), high.tolist(), strict=True):
        assert careful == -1 or careful in chain(case.tree, bold)


@given(cases(), st.floats(0.01, 1))
def test_hedge_equals_the_slow_search(case: Case, level: float) -> None:
    probs = _probs(case)
    found = hedge(case.tree, probs, level)
    for row in range(len(probs)):
        path = greedy_path(case.tree, probs[row])
        sure = [v for v in path if probs[row, v] >= level - 1e-6]
        assert found.node[row] == (sure[-1] if sure else -1)
        assert found.length[row] == len(sure)
        refused = path[len(sure)] if len(sure) < len(path) else -1
        assert found.refused[row] == refused
        rival = -1 if refused < 0 else best_child(case.tree, probs[row], int(case.tree.parent[refused]), [refused])
        assert found.runner_up[row] == rival


@given(cases(), st.floats(0.501, 1))
def test_above_one_half_no_node_off_the_chain_is_sure(case: Case, level: float) -> None:
    probs = _probs(case)
    found = hedge(case.tree, probs, level)
    for row in range(len(probs)):
        sure = set(np.flatnonzero(probs[row] >= level).tolist())
        assert sure <= set(found.paths.nodes[row].tolist())


def test_a_certain_root_passes_level_1_despite_rounding() -> None:
    n = 5001
    tree = Tree(tuple(map(str, range(n))), tuple(map(str, range(n))), np.r_[-1, np.zeros(n - 1, int)], n)
    logits = np.random.default_rng(3).normal(size=(20, n))
    found = hedge(tree, node_probabilities(tree, logits, "leaf_softmax"), 1.0)
    assert found.node.tolist() == [0] * 20


def test_paths_to_gives_the_chain_of_each_node() -> None:
    found = paths_to(TREE, PROBS, np.array([[PUG, -1, CAT]]))
    assert found.nodes.tolist() == [[[ANIMAL, DOG, PUG], [-1, -1, -1], [ANIMAL, CAT, -1]]]
    assert found.length.tolist() == [[3, 0, 2]]
    np.testing.assert_array_equal(found.probs[0, 0], PROBS[0, [ANIMAL, DOG, PUG]])
    single = paths_to(TREE, PROBS, np.array([PUG]), withdrawn=np.arange(6) == DOG)
    assert single.nodes.tolist() == [[ANIMAL, PUG, -1]]


def test_an_empty_batch_gives_empty_answers() -> None:
    none = np.empty((0, 6), np.float32)
    assert decode_path(TREE, none).nodes.shape == (0, 3)
    assert hedge(TREE, none).runner_up.shape == (0,)


def test_nonsense_is_refused() -> None:
    with pytest.raises(LogitsError, match=r"Row 1 .* NaN"):
        decode_path(TREE, np.vstack([PROBS, np.full((1, 6), np.nan, np.float32)]))
    with pytest.raises(UsageError, match=r"\[batch, 6\], not \[1, 5\]"):
        decode_path(TREE, PROBS[:, :5])
    with pytest.raises(UsageError, match="not 0"):
        hedge(TREE, PROBS, 0)
    with pytest.raises(UsageError, match=r"not 1\.1"):
        hedge(TREE, PROBS, 1.1)
    with pytest.raises(UsageError, match=r"node index in 0\.\.5, not 6"):
        decode_path(TREE, PROBS, under=6)
    with pytest.raises(UsageError, match="bool array"):
        decode_path(TREE, PROBS, withdrawn=np.zeros(3, bool))
    with pytest.raises(UsageError, match="Expected nodes of shape"):
        paths_to(TREE, PROBS, np.array([1, 2]))


def test_ties_go_to_the_lowest_index() -> None:
    even = np.full((1, 6), 0.5, np.float32)
    assert decode_path(TREE, even).nodes.tolist() == [[ANIMAL, CAT, -1]]
    assert children(TREE, ANIMAL) == [CAT, DOG]


def test_the_parts_of_a_hedged_answer_have_the_types_that_are_promised(zoo_tree: Tree) -> None:
    logits = np.array([[5, 0, 4, 0, 3, 2, 1]], np.float32)
    found = hedge(zoo_tree, node_probabilities(zoo_tree, logits, "leaf_softmax"), 0.9)
    assert {found.refused_prob.dtype, found.runner_up_prob.dtype} == {np.dtype(np.float32)}
    assert {part.dtype for part in (found.node, found.length, found.refused, found.runner_up)} == {np.dtype(np.int32)}
    assert [zoo_tree.wnids[part[0]] for part in (found.node, found.refused, found.runner_up)] == [
        *("animal", "dog"),
        "feline",
    ]


def test_a_sibling_without_probability_is_no_runner_up(zoo_tree: Tree) -> None:
    logits = np.array([[2, 2, 0, 0, 1.5, 0, 0]], np.float32)
    allowed = np.isin(zoo_tree.wnids[:7], ["husky", "dog", "cat"])
    probs = node_probabilities(zoo_tree, logits, "leaf_softmax", allowed=allowed)
    found = hedge(zoo_tree, probs, 0.6)
    assert [zoo_tree.wnids[part[0]] for part in (found.node, found.refused)] == ["dog", "husky"]
    assert (found.runner_up.tolist(), found.runner_up_prob.tolist()) == ([-1], [0])
