import numpy as np
import pytest
from forests import Case, cases
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import chain, top_classes

from miil21k.decode.decoder import Decoder
from miil21k.decode.probabilities import probabilities
from miil21k.decode.topk import MOST_PASSES, topk_classes, topk_paths
from miil21k.errors import UsageError
from miil21k.hierarchy.spaces import LabelSpace
from miil21k.hierarchy.tree import Tree

PROBS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 3), st.integers(1, 12)),
    elements=st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0]),
)


@given(PROBS, st.integers(1, 14))
def test_it_equals_a_full_sort_with_ties_by_index(probs: np.ndarray, k: int) -> None:
    found = topk_classes(probs, k)
    assert found.classes.shape == (len(probs), min(k, probs.shape[1]))
    for row in range(len(probs)):
        best = top_classes(probs[row].tolist(), k)
        rest = found.classes.shape[1] - len(best)
        assert found.classes[row].tolist() == best + [-1] * rest
        assert found.probs[row].tolist() == probs[row, best].tolist() + [0] * rest


def test_many_classes_with_a_tie_across_the_border() -> None:
    probs = np.full((2, 5000), 1e-4, np.float32)
    probs[0, 4999] = 0.5
    assert topk_classes(probs, 3).classes.tolist() == [[4999, 0, 1], [0, 1, 2]]


@given(cases(), st.integers(1, 5))
def test_the_path_of_each_class_ends_in_it(case: Case, k: int) -> None:
    found = probabilities(case.tree, case.logits, "leaf_softmax", allowed=case.allowed)
    top, paths = topk_paths(case.tree, found, k)
    listed = top.classes[top.classes >= 0]
    assert case.allowed[listed].all()
    for row in range(len(case.logits)):
        for place, node in enumerate(top.classes[row].tolist()):
            steps = chain(case.tree, node)
            assert paths.nodes[row, place, : len(steps)].tolist() == steps
            assert paths.length[row, place] == len(steps)
            np.testing.assert_array_equal(paths.probs[row, place, : len(steps)], found.nodes[row, steps])


def test_nonsense_is_refused() -> None:
    with pytest.raises(UsageError, match="k must be at least 1, not 0"):
        topk_classes(np.ones((1, 3), np.float32), 0)
    with pytest.raises(UsageError, match="not \\[3\\]"):
        topk_classes(np.ones(3, np.float32))


def test_few_and_many_are_the_same_order() -> None:
    values = np.random.default_rng(0).integers(1, 90, (7, 2 * MOST_PASSES)).astype(np.float32)  # full of equals
    many = topk_classes(values, 2 * MOST_PASSES)
    few = topk_classes(values, MOST_PASSES)
    assert np.array_equal(many.classes[:, :MOST_PASSES], few.classes)
    assert np.array_equal(few.classes, np.argsort(-values, axis=1, kind="stable")[:, :MOST_PASSES])
    assert np.array_equal(many.probs, -np.sort(-values, axis=1))


def test_five_are_listed_unless_told_otherwise() -> None:
    values = np.random.default_rng(1).random((2, 9)).astype(np.float32)
    found = topk_classes(values)
    assert np.array_equal(found.classes, np.argsort(-values, axis=1)[:, :5])
    assert (found.classes.dtype, found.probs.dtype) == (np.int32, np.float32)


def test_the_chains_leave_out_what_is_withdrawn(zoo_tree: Tree) -> None:
    logits = np.array([[5, 0, 4, 0, 3, 2, 1]], np.float32)
    withdrawn = np.arange(7) == zoo_tree.index("dog")
    found = probabilities(zoo_tree, logits, "leaf_softmax", allowed=~withdrawn)
    top, paths = topk_paths(zoo_tree, found, withdrawn=withdrawn)
    assert top.classes.tolist() == [[zoo_tree.index(name) for name in ("husky", "pug", "cat", "car", "boat")]]
    assert [zoo_tree.wnids[n] for n in paths.nodes[0, 0] if n >= 0] == ["animal", "husky"]
    assert topk_paths(zoo_tree, found)[1].length.tolist() == [[3, 3, 3, 2, 2]]


def test_five_classes_are_listed_unless_another_number_is_asked_for() -> None:
    probs = np.linspace(0.1, 0.8, 8, dtype=np.float32)[None]
    assert topk_classes(probs).classes.tolist() == [[7, 6, 5, 4, 3]]
    tree = Tree.from_parents([f"n{number}" for number in range(8)], [None] * 8)
    decoded = Decoder(LabelSpace("flat", tree, tree.names, ("",) * 8), "leaf_softmax").read(np.log(probs))
    assert decoded.topk().classes.tolist() == [[7, 6, 5, 4, 3]]
    top, paths = topk_paths(tree, decoded.probabilities)
    assert top.classes.tolist() == [[7, 6, 5, 4, 3]]
    assert paths.nodes.shape == (1, 5, 1)
