"""The graph decides as the NumPy decoding does, for every head, rule, mask and label space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from forests import Case, cases
from graphs import DecodingGraph
from hypothesis import given, settings
from hypothesis import strategies as st

from miil21k.decode.path import decode_path, hedge
from miil21k.decode.probabilities import probabilities
from miil21k.decode.restriction import restrict
from miil21k.decode.topk import topk_classes
from miil21k.export.onnx.decoding import Decoding
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import removed_classes

if TYPE_CHECKING:
    from miil21k.hierarchy.tree import Tree

RULES = ("coherent", "min", "sibling", "product")
ROUNDING = 2e-6


def assert_decides_alike(fixed: Decoding, logits: np.ndarray, levels: tuple[float, ...], ties: bool = False) -> None:
    """Compare the graph with NumPy; with `ties`, answers may differ where probabilities are equal to rounding."""
    tree, run = fixed.tree, DecodingGraph(fixed)
    found = probabilities(
        tree, logits, fixed.head, allowed=fixed.allowed, temperature=fixed.temperature, rule=fixed.rule
    )
    paths = decode_path(tree, found.nodes, removed=fixed.hidden)
    top = topk_classes(found.classes, min(fixed.topk, int(fixed.allowed.sum())))
    for level in levels:
        stop = hedge(tree, found.nodes, level, removed=fixed.hidden)
        answers = run(logits, level)
        for row in range(len(logits)):
            if ties and tied(found.nodes[row], paths.nodes[row], answers["path"][row]):
                continue
            assert answers["path"][row].tolist() == paths.nodes[row].tolist()
            near = np.abs(paths.probs[row] - level + 1e-6).min() < 1e-6
            assert near or answers["hedge_node"][row] == stop.node[row]
            assert near or abs(answers["hedge_prob"][row] - stop.prob[row]) < ROUNDING
            assert np.abs(answers["path_prob"][row] - paths.probs[row]).max() < ROUNDING
    assert np.abs(answers["topk_prob"] - top.probs).max() < ROUNDING
    for row, listed in enumerate(answers["topk_index"]):
        theirs = np.where(listed >= 0, found.classes[row][np.maximum(listed, 0)], 0)
        assert np.abs(theirs - top.probs[row]).max() < ROUNDING  # the same class, or one of the same probability
        assert fixed.allowed[listed[listed >= 0]].all()
    assert (np.diff(answers["path_prob"], axis=1) <= 0).all()


def tied(probs: np.ndarray, first: np.ndarray, second: np.ndarray) -> bool:
    at = np.flatnonzero(first != second)
    if not at.size:
        return False
    ours, theirs = (float(probs[nodes[at[0]]]) if nodes[at[0]] >= 0 else 0.0 for nodes in (first, second))
    return abs(ours - theirs) < ROUNDING


def logits_for(space: str, head: str, batch: int = 5) -> np.ndarray:
    rng = np.random.default_rng(len(space) + len(head))
    spread = np.array([1, 2, 4, 6, 8])[:batch, None]
    values = rng.standard_normal((batch, load_label_space(space).num_classes)) * spread
    return (values - (8 if head == "sigmoid" else 0)).astype(np.float32)


def settings_of(space: str, head: str, rule: str = "coherent", masked: bool = True, **more: Any) -> Decoding:
    tree = load_label_space(space).tree
    removed = removed_classes(load_label_space(space))
    hidden = removed if masked and removed.any() else None
    values = {"allowed": restrict(tree, removed=hidden), "hidden": hidden, "temperature": None, "topk": 5, "hedge": 0.9}
    return Decoding(tree, head, rule, **{**values, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("space", ["fall11", "winter21", "goog21k", "in1k"])
@pytest.mark.parametrize("head", ["level_softmax", "leaf_softmax", "sigmoid"])
def test_every_space_and_head_gives_the_paths_of_numpy(space: str, head: str) -> None:
    tree = load_label_space(space).tree
    if head == "level_softmax" and tree.num_nodes > tree.num_classes:
        pytest.skip("the nodes above ImageNet-1K have no logits, so no such head exists")
    assert_decides_alike(settings_of(space, head), logits_for(space, head), (0.05, 0.3, 0.9))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("temperature", [None, "levels"])
def test_every_rule_and_temperature_gives_the_paths_of_numpy(rule: str, temperature: str | None) -> None:
    depths = load_label_space("fall11").tree.max_depth + 1
    values = None if temperature is None else np.linspace(0.6, 1.7, depths)
    assert_decides_alike(
        settings_of("fall11", "level_softmax", rule, temperature=values), logits_for("fall11", ""), (0.4,)
    )


@pytest.mark.parametrize("head", ["leaf_softmax", "sigmoid"])
def test_one_temperature_divides_the_logits_of_the_other_heads(head: str) -> None:
    assert_decides_alike(settings_of("in1k", head, temperature=2.5), logits_for("in1k", head), (0.4,))


def test_withdrawn_classes_are_answered_only_when_they_were_asked_for() -> None:
    removed = removed_classes(load_label_space("fall11"))
    logits = logits_for("fall11", "", 3)
    logits[:, np.flatnonzero(removed)[::7]] += 30
    masked = DecodingGraph(settings_of("fall11", "leaf_softmax"))(logits)
    assert not removed[masked["topk_index"]].any()
    assert not removed[masked["path"][masked["path"] >= 0]].any()
    included = settings_of("fall11", "leaf_softmax", masked=False)
    assert removed[DecodingGraph(included)(logits)["topk_index"]].all()
    assert_decides_alike(included, logits, (0.9,))
    assert_decides_alike(settings_of("fall11", "leaf_softmax"), logits, (0.9,))


def test_a_path_goes_through_a_withdrawn_class_and_leaves_it_out(zoo_tree: Tree) -> None:
    dog = zoo_tree.index("dog")
    hidden = np.arange(zoo_tree.num_classes) == dog
    logits = np.array([[5, 9, 0, 1, 0, 0, 0]], np.float32)
    fixed = Decoding(zoo_tree, "leaf_softmax", "coherent", ~hidden, hidden, None, 3, 0.5)
    answer = DecodingGraph(fixed)(logits)
    assert [zoo_tree.wnids[node] for node in answer["path"][0] if node >= 0] == ["animal", "husky"]
    assert_decides_alike(fixed, logits, (0.5, 0.99))


@settings(max_examples=30)
@given(cases(), st.sampled_from(["leaf_softmax", "sigmoid"]), st.floats(0.05, 1))
def test_any_forest_and_mask_is_walked_as_numpy_walks_it(case: Case, head: str, level: float) -> None:
    if len(case.logits):
        fixed = Decoding(case.tree, head, "coherent", case.allowed, None, None, 4, 0.9)  # type: ignore[arg-type]
        assert_decides_alike(fixed, case.logits, (level,), ties=True)


@settings(max_examples=30)
@given(cases(only_classes=True), st.sampled_from(RULES), st.floats(0.05, 1))
def test_any_forest_of_levels_is_walked_as_numpy_walks_it(case: Case, rule: str, level: float) -> None:
    if len(case.logits):
        fixed = Decoding(case.tree, "level_softmax", rule, case.allowed, ~case.allowed, None, 4, 0.9)  # type: ignore[arg-type]
        assert_decides_alike(fixed, case.logits, (level,), ties=True)


def test_nothing_is_answered_below_the_wanted_certainty() -> None:
    run = DecodingGraph(settings_of("in1k", "leaf_softmax", hedge=1.0))
    flat = np.zeros((2, 1000), np.float32)
    answer = run(flat)
    assert answer["hedge_node"].tolist() == [-1, -1]
    assert answer["hedge_prob"].tolist() == [0, 0]
    assert run(flat, 0.01)["hedge_node"].min() >= 0
