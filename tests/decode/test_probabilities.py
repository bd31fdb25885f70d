import numpy as np
import pytest
from forests import Case, cases, forests
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    children,
    class_softmax,
    exclusive_classes,
    leaf_softmax_nodes,
    level_softmax_nodes,
    sigmoid,
    sigmoid_nodes,
    subtree,
)

from miil21k.decode.probabilities import (
    BLOCK_VALUES,
    Probabilities,
    class_probabilities,
    node_probabilities,
    probabilities,
)
from miil21k.errors import LogitsError, UsageError
from miil21k.hierarchy.tree import Tree

RULES = ("coherent", "min", "sibling", "product")
# animal > (dog > (husky, pug), cat); plant > oak
TREE = Tree.from_parents(
    ["husky", "animal", "cat", "dog", "plant", "pug", "oak"],
    ["dog", None, "animal", "animal", None, "dog", "plant"],
)
HUSKY, ANIMAL, CAT, DOG, PLANT, PUG, OAK = range(7)
ODDS = np.array([[3.0, 4.0, 2.0, 6.0, 1.0, 1.0, 4.0]])
LOGITS = np.log(ODDS)


def _every_reading(case: Case) -> list[Probabilities]:
    found = [probabilities(case.tree, case.logits, head, allowed=case.allowed) for head in ("leaf_softmax", "sigmoid")]
    if case.tree.num_nodes == case.tree.num_classes:
        found += [
            probabilities(case.tree, case.logits, "level_softmax", allowed=case.allowed, rule=rule) for rule in RULES
        ]
    return found


def test_leaf_softmax_sums_each_subtree_with_the_private_mass_of_inner_classes() -> None:
    found = probabilities(TREE, LOGITS, "leaf_softmax")
    np.testing.assert_allclose(found.classes * 21, ODDS, rtol=1e-6)
    np.testing.assert_allclose(found.nodes * 21, [[3, 16, 2, 10, 5, 1, 4]], rtol=1e-6)


def test_sigmoid_takes_the_maximum_of_each_subtree() -> None:
    found = probabilities(TREE, LOGITS, "sigmoid")
    np.testing.assert_allclose(found.classes, ODDS / (1 + ODDS), rtol=1e-6)
    np.testing.assert_allclose(found.nodes, [[3 / 4, 6 / 7, 2 / 3, 6 / 7, 4 / 5, 1 / 2, 4 / 5]], rtol=1e-6)


@pytest.mark.parametrize(
    ("rule", "dog", "husky"),
    # Level softmax: animal 4/5; dog 1/2 and cat 1/6, so 2/3 under animal; husky 3/4 of all under dog.
    [("coherent", 1 / 2, 3 / 8), ("min", 1 / 2, 1 / 2), ("sibling", 3 / 5, 9 / 20), ("product", 2 / 5, 3 / 10)],
)
def test_rules_of_a_level_softmax_head(rule: str, dog: float, husky: float) -> None:
    nodes = node_probabilities(TREE, LOGITS, "level_softmax", rule=rule)[0]
    np.testing.assert_allclose(nodes[[ANIMAL, PLANT, DOG, HUSKY]], [4 / 5, 1 / 5, dog, husky], rtol=1e-6)


def test_a_level_softmax_class_keeps_what_its_children_leave() -> None:
    classes = class_probabilities(TREE, LOGITS, "level_softmax", rule="coherent")[0]
    # animal 4/5 - 1/2 - 1/6; dog and its breeds 1/2 each; plant 1/5 less oak's 1/5 * (1/3) / (1/3)
    np.testing.assert_allclose(classes[[ANIMAL, DOG, HUSKY, PLANT]], [2 / 15, 0, 3 / 8, 0], atol=1e-6)


def test_coherent_keeps_the_published_probabilities_where_the_levels_agree() -> None:
    # The levels agree: q(children) sum to q(parent) in every family.
    tree = Tree.from_parents(["a", "b", "a1", "a2", "b1"], [None, None, "a", "a", "b"])
    q = np.array([[0.8, 0.2, 0.5, 0.3, 0.2]])
    nodes = node_probabilities(tree, np.log(q), "level_softmax", rule="coherent")
    np.testing.assert_allclose(nodes, q, rtol=1e-6)


@given(cases())
def test_leaf_softmax_and_sigmoid_equal_the_slow_reference(case: Case) -> None:
    leaf = probabilities(case.tree, case.logits, "leaf_softmax", allowed=case.allowed, temperature=2.0)
    heat = np.linspace(0.5, 2.0, case.tree.max_depth + 1)
    sig = probabilities(case.tree, case.logits, "sigmoid", allowed=case.allowed, temperature=heat)
    for row, logits in enumerate(case.logits.tolist()):
        own = class_softmax(logits, case.allowed, temperature=2.0)
        np.testing.assert_allclose(leaf.classes[row], own, atol=1e-6)
        np.testing.assert_allclose(leaf.nodes[row], leaf_softmax_nodes(case.tree, own), atol=1e-6)
        warm = [z / heat[case.tree.depth[c]] for c, z in enumerate(logits)]
        own = [sigmoid(z) if ok else 0.0 for z, ok in zip(warm, case.allowed, strict=True)]
        np.testing.assert_allclose(sig.classes[row], own, atol=1e-6)
        np.testing.assert_allclose(sig.nodes[row], sigmoid_nodes(case.tree, own), atol=1e-6)


@given(cases(only_classes=True), st.sampled_from(RULES), st.booleans())
def test_level_softmax_equals_the_slow_reference(case: Case, rule: str, cooled: bool) -> None:
    temperature = np.linspace(0.5, 2.0, case.tree.max_depth + 1) if cooled else np.ones(case.tree.max_depth + 1)
    found = probabilities(
        case.tree, case.logits, "level_softmax", allowed=case.allowed, temperature=temperature, rule=rule
    )
    for row, logits in enumerate(case.logits.tolist()):
        nodes = level_softmax_nodes(case.tree, logits, case.allowed, temperature, rule)
        np.testing.assert_allclose(found.nodes[row], nodes, atol=1e-6)
        np.testing.assert_allclose(found.classes[row], exclusive_classes(case.tree, nodes, case.allowed), atol=1e-6)


@given(st.booleans().flatmap(lambda flag: cases(only_classes=flag)))
def test_probabilities_lie_in_0_1_and_never_grow_downward(case: Case) -> None:
    below = case.tree.parent >= 0
    for found in _every_reading(case):
        assert found.nodes.dtype == found.classes.dtype == np.float32
        assert ((found.nodes >= 0) & (found.nodes <= 1)).all()
        assert ((found.classes >= 0) & (found.classes <= 1)).all()
        assert (found.nodes[:, case.tree.parent[below]] >= found.nodes[:, below]).all()


@given(st.booleans().flatmap(lambda flag: cases(only_classes=flag)))
def test_masked_classes_get_exactly_0(case: Case) -> None:
    alive = [
        any(v < len(case.allowed) and case.allowed[v] for v in subtree(case.tree, n))
        for n in range(case.tree.num_nodes)
    ]
    for found in _every_reading(case):
        assert (found.classes[:, ~case.allowed] == 0).all()
        assert (found.nodes[:, ~np.array(alive)] == 0).all()


@given(cases())
def test_children_of_a_leaf_softmax_node_sum_to_the_node_less_itself(case: Case) -> None:
    nodes, classes = probabilities(case.tree, case.logits, "leaf_softmax", allowed=case.allowed)
    for node in range(case.tree.num_nodes):
        own = classes[:, node] if node < case.tree.num_classes else 0
        np.testing.assert_allclose(nodes[:, children(case.tree, node)].sum(1), nodes[:, node] - own, atol=1e-6)


@given(cases(only_classes=True), st.sampled_from(["coherent", "sibling", "product"]))
def test_children_of_a_level_softmax_node_never_sum_above_it(case: Case, rule: str) -> None:
    nodes = node_probabilities(case.tree, case.logits, "level_softmax", allowed=case.allowed, rule=rule)
    for node in range(case.tree.num_nodes):
        assert (nodes[:, children(case.tree, node)].sum(1) <= nodes[:, node] + 1e-6).all()


@given(cases())
def test_restricted_leaf_probabilities_are_renormalised(case: Case) -> None:
    whole = class_probabilities(case.tree, case.logits, "leaf_softmax")
    part = class_probabilities(case.tree, case.logits, "leaf_softmax", allowed=case.allowed)
    np.testing.assert_allclose(part.sum(1), 1, atol=1e-5)
    kept = whole[:, case.allowed]
    np.testing.assert_allclose(part[:, case.allowed], kept / kept.sum(1, keepdims=True), rtol=1e-3, atol=1e-6)


def test_an_ancestor_that_may_not_be_the_answer_stays_a_step() -> None:
    allowed = np.zeros(7, bool)
    allowed[[HUSKY, PUG]] = True
    for head in ("leaf_softmax", "level_softmax"):
        nodes, classes = probabilities(TREE, LOGITS, head, allowed=allowed)
        np.testing.assert_allclose(nodes[0, [ANIMAL, DOG, HUSKY, PUG]], [1, 1, 3 / 4, 1 / 4], rtol=1e-6)
        assert classes[0, [ANIMAL, CAT, DOG, PLANT]].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("head", ["leaf_softmax", "sigmoid", "level_softmax"])
@pytest.mark.parametrize("size", [1e4, 3e38])
def test_extreme_logits_stay_finite(head: str, size: float) -> None:
    for rule in RULES:
        found = probabilities(TREE, np.where(np.eye(7), size, -size), head, temperature=0.1, rule=rule)
        assert np.isfinite(found.nodes).all()
        assert np.isfinite(found.classes).all()
        assert found.nodes[PLANT, PLANT] == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_are_accepted(dtype: type) -> None:
    found = node_probabilities(TREE, LOGITS.astype(dtype), "leaf_softmax")
    np.testing.assert_allclose(found * 21, [[3, 16, 2, 10, 5, 1, 4]], rtol=2e-3)


def test_an_empty_batch_gives_empty_probabilities() -> None:
    found = probabilities(TREE, np.empty((0, 7)), "level_softmax")
    assert found.nodes.shape == found.classes.shape == (0, 7)


def test_a_batch_of_several_blocks_equals_its_rows_one_by_one() -> None:
    n = 3000
    tree = Tree(tuple(map(str, range(n))), tuple(map(str, range(n))), np.arange(n) // 50 - 1, n)
    rows = BLOCK_VALUES // n
    logits = np.random.default_rng(0).normal(size=(2 * rows + 1, n)).astype(np.float32)
    whole = probabilities(tree, logits, "level_softmax")
    for row in (0, rows - 1, rows, 2 * rows):
        single = probabilities(tree, logits[row : row + 1], "level_softmax")
        assert np.array_equal(whole.nodes[row], single.nodes[0])
        assert np.array_equal(whole.classes[row], single.classes[0])


@given(forests())
def test_one_part_alone_equals_the_part_of_both(tree: Tree) -> None:
    logits = np.linspace(-2, 2, 2 * tree.num_classes).reshape(2, -1)
    both = probabilities(tree, logits, "sigmoid")
    assert np.array_equal(both.nodes, node_probabilities(tree, logits, "sigmoid"))
    assert np.array_equal(both.classes, class_probabilities(tree, logits, "sigmoid"))


def test_nonsense_is_refused() -> None:
    with pytest.raises(LogitsError, match="Row 0"):
        node_probabilities(TREE, np.full((1, 7), np.inf), "sigmoid")
    with pytest.raises(
        UsageError, match=r"^No head kind 'softmax'; the kinds are level_softmax, leaf_softmax, sigmoid\.$"
    ):
        node_probabilities(TREE, LOGITS, "softmax")
    with pytest.raises(UsageError, match="No rule 'best'"):
        node_probabilities(TREE, LOGITS, "level_softmax", rule="best")
    with pytest.raises(
        UsageError, match=r"^A leaf_softmax head has one softmax and takes one temperature, not one per level\.$"
    ):
        node_probabilities(TREE, LOGITS, "leaf_softmax", temperature=[1.0, 1.0, 1.0])


NEEDS = (
    r"^A level_softmax head needs a logit for every node, but 1 of the 3 nodes of this tree are no classes "
    r"\(the first is 'folder'\); decode it as leaf_softmax\.$"
)


def test_a_level_softmax_head_needs_every_node_to_be_a_class() -> None:
    tree = Tree.from_parents(["a", "b", "folder"], ["folder", "folder", None], num_classes=2)
    with pytest.raises(UsageError, match=NEEDS):
        node_probabilities(tree, np.zeros((1, 2)), "level_softmax")
