import numpy as np
import pytest
from forests import Case, cases
from hypothesis import given
from reference import at_depth, published_levels

from miil21k.decode.levels import BLOCK_VALUES, decode_levels, level_order, levels_of_nodes
from miil21k.decode.probabilities import node_probabilities
from miil21k.errors import LogitsError, UsageError
from miil21k.hierarchy.tree import Tree

#      animal     plant
#     /      \      |
#   dog      cat   tree
#  /    \
# husky  pug
TREE = Tree.from_parents(
    ["pug", "animal", "plant", "dog", "cat", "tree", "husky"],
    ["dog", None, None, "animal", "animal", "plant", "dog"],
)
PUG, ANIMAL, PLANT, DOG, CAT, OAK, HUSKY = range(7)


def test_each_level_answers_for_itself_even_on_different_branches() -> None:
    logits = np.zeros((1, 7), np.float32)
    logits[0, [PLANT, DOG, HUSKY]] = 4.0
    found = decode_levels(TREE, logits, deepest="keep")
    assert found.nodes.tolist() == [[PLANT, DOG, HUSKY]]
    np.testing.assert_allclose(found.probs[0], [1 / (1 + np.exp(-4)), 1 / (1 + 2 * np.exp(-4)), 1 / (1 + np.exp(-4))])
    assert found.kept.all()


def test_the_published_rule_drops_the_deepest_level_whatever_its_size() -> None:
    found = decode_levels(TREE, np.eye(7, dtype=np.float32)[[HUSKY]] * 9)
    assert found.nodes[0, 2] == -1
    assert found.probs[0, 2] == 0
    assert not found.kept[0, 2]


def test_a_level_of_one_class_is_not_decoded() -> None:
    chain = Tree.from_parents(["a", "b", "c", "d"], [None, "a", "b", "b"])
    found = decode_levels(chain, np.zeros((1, 4)), deepest="keep")
    assert found.nodes.tolist() == [[-1, -1, 2]]
    assert decode_levels(chain, np.zeros((2, 4))).nodes.tolist() == [[-1, -1, -1]] * 2


def test_a_label_is_kept_only_above_the_threshold() -> None:
    even = np.zeros((1, 7), np.float32)
    assert decode_levels(TREE, even).probs[0, 0] == 0.5
    assert not decode_levels(TREE, even).kept[0, 0]
    assert decode_levels(TREE, even, threshold=0.49).kept[0, 0]


@given(cases())
def test_it_equals_a_loop_over_levels(case: Case) -> None:
    for deepest in ("published", "keep"):
        found = decode_levels(case.tree, case.logits, allowed=case.allowed, deepest=deepest)
        for row, logits in enumerate(case.logits.tolist()):
            slow = published_levels(case.tree, logits, case.allowed, drop_deepest=deepest == "published")
            assert found.nodes[row].tolist() == [node for node, _ in slow]
            np.testing.assert_allclose(found.probs[row], [p for _, p in slow], atol=1e-6)
        assert np.array_equal(found.kept, found.probs > 0.5)


@given(cases())
def test_logits_stored_in_level_order_give_the_same_answer(case: Case) -> None:
    order = level_order(case.tree)
    plain = decode_levels(case.tree, case.logits)
    stored = np.ascontiguousarray(case.logits[:, order.classes])
    before = stored.copy()
    for a, b in zip(plain, decode_levels(case.tree, stored, in_level_order=True), strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(stored, before), "the caller's logits were changed"


@given(cases())
def test_masked_classes_never_win_a_level(case: Case) -> None:
    nodes = decode_levels(case.tree, case.logits, allowed=case.allowed, deepest="keep").nodes
    assert case.allowed[nodes[nodes >= 0]].all()


def test_temperature_of_each_depth_divides_its_logits() -> None:
    logits = np.zeros((1, 7), np.float32)
    logits[0, [ANIMAL, CAT]] = 6.0
    found = decode_levels(TREE, logits, temperature=[2.0, 3.0, 1.0])
    np.testing.assert_allclose(found.probs[0, :2], [1 / (1 + np.exp(-3)), 1 / (1 + 2 * np.exp(-2))], rtol=1e-6)


def test_a_batch_of_several_blocks_equals_its_rows_one_by_one() -> None:
    n = 3000
    tree = Tree(tuple(map(str, range(n))), tuple(map(str, range(n))), np.arange(n) // 50 - 1, n)
    logits = np.random.default_rng(0).normal(size=(2 * (BLOCK_VALUES // n) + 1, n)).astype(np.float32)
    whole = decode_levels(tree, logits)
    for row in (0, BLOCK_VALUES // n - 1, BLOCK_VALUES // n, len(logits) - 1):
        single = decode_levels(tree, logits[row : row + 1])
        assert np.array_equal(whole.nodes[row], single.nodes[0])
        assert np.array_equal(whole.probs[row], single.probs[0])


def test_a_bad_row_of_a_later_block_is_named_by_its_place_in_the_batch() -> None:
    n = 3000
    tree = Tree(tuple(map(str, range(n))), tuple(map(str, range(n))), np.arange(n) // 50 - 1, n)
    logits = np.zeros((2 * (BLOCK_VALUES // n), n), np.float32)
    logits[BLOCK_VALUES // n + 3, 7] = np.nan
    with pytest.raises(LogitsError, match=rf"Row {BLOCK_VALUES // n + 3} .* nan at class 7 "):
        decode_levels(tree, logits)


def test_extreme_logits_stay_finite() -> None:
    logits = np.where(np.eye(7), 1e4, -1e4)
    found = decode_levels(TREE, logits, temperature=0.01)
    assert found.probs[ANIMAL, 0] == 1
    assert np.isfinite(found.probs).all()
    assert np.isfinite(decode_levels(TREE, np.where(np.eye(7), 3e38, -3e38)).probs).all()


def test_an_empty_batch_gives_empty_answers() -> None:
    assert decode_levels(TREE, np.empty((0, 7))).nodes.shape == (0, 3)


def test_nonsense_is_refused() -> None:
    with pytest.raises(LogitsError, match="Row 0"):
        decode_levels(TREE, np.full((1, 7), np.nan))
    with pytest.raises(UsageError, match=r"^deepest must be 'published' or 'keep', not 'miil'\.$"):
        decode_levels(TREE, np.zeros((1, 7)), deepest="miil")


@given(cases())
def test_a_flat_head_answers_each_level_with_its_most_probable_node(case: Case) -> None:
    nodes = node_probabilities(case.tree, case.logits, "leaf_softmax", allowed=case.allowed)
    found = levels_of_nodes(case.tree, nodes)
    for row, probs in enumerate(nodes.tolist()):
        for depth in range(case.tree.max_depth + 1):
            best = max(at_depth(case.tree, depth), key=lambda node: (probs[node], -node))
            assert found.nodes[row, depth] == (best if probs[best] > 0 else -1)
            assert found.probs[row, depth] == np.float32(probs[best])
            assert found.kept[row, depth] == (probs[best] > 0.5)


def test_a_removed_class_is_no_answer_of_its_level() -> None:
    nodes = np.zeros((1, 7), np.float32)
    nodes[0, [ANIMAL, DOG, CAT]] = 0.9, 0.6, 0.3
    withdrawn = np.arange(7) == DOG
    found = levels_of_nodes(TREE, nodes, withdrawn=withdrawn)
    assert found.nodes.tolist() == [[ANIMAL, CAT, -1]]
    assert (found.nodes.dtype, found.probs.dtype, found.kept.dtype) == (np.int32, np.float32, np.bool_)


def test_a_tree_without_a_choice_has_no_level_and_keeps_its_types() -> None:
    order = level_order(Tree.from_parents(["only"], [None]))
    assert {name: (len(part), str(part.dtype)) for name, part in order._asdict().items()} == dict.fromkeys(
        ("classes", "depths", "starts", "sizes", "segment"), (0, "int64")
    )
    found = decode_levels(Tree.from_parents(["only"], [None]), np.zeros((2, 1)))
    assert (found.nodes.tolist(), found.kept.tolist()) == ([[-1], [-1]], [[False], [False]])
