"""The graph decides as the NumPy decoding does, for every head, rule, mask and label space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from forests import Case, cases, named, with_withdrawn
from graphs import DecodingGraph
from hypothesis import given, settings
from hypothesis import strategies as st

from miil21k.decode import rules as numpy_rules
from miil21k.decode.decoder import Decoder
from miil21k.errors import UsageError
from miil21k.export.onnx import rules as onnx_rules
from miil21k.export.onnx.model import ExportOptions, decoder_of
from miil21k.hierarchy.load import load_label_space

if TYPE_CHECKING:
    from miil21k.hierarchy.tree import Tree

ROUNDING = 2e-6


def assert_decides_alike(
    decoder: Decoder, logits: np.ndarray, levels: tuple[float, ...], ties: bool = False, topk: int = 5
) -> None:
    """Compare the graph with NumPy; with `ties`, answers may differ where probabilities are equal to rounding."""
    run, found = DecodingGraph(decoder, topk), decoder.read(logits)
    paths, top = found.path, found.topk(topk)
    for level in levels:
        stop = with_level(decoder, level).read(logits).hedged
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
        assert decoder.allowed is None or decoder.allowed[listed[listed >= 0]].all()
    assert (np.diff(answers["path_prob"], axis=1) <= 0).all()


def with_level(decoder: Decoder, level: float) -> Decoder:
    from dataclasses import replace

    return replace(decoder, hedge=level)


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


def decoder_for(space: str, head: str, **more: Any) -> Decoder:
    return Decoder(load_label_space(space), head, min_bits=0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("space", ["fall11", "winter21", "goog21k", "in1k"])
@pytest.mark.parametrize("head", ["level_softmax", "leaf_softmax", "sigmoid"])
def test_every_space_and_head_gives_the_paths_of_numpy(space: str, head: str) -> None:
    tree = load_label_space(space).tree
    if head == "level_softmax" and tree.num_nodes > tree.num_classes:
        pytest.skip("the nodes above ImageNet-1K have no logits, so no such head exists")
    assert_decides_alike(decoder_for(space, head), logits_for(space, head), (0.05, 0.3, 0.9))


@pytest.mark.parametrize("rule", numpy_rules.RULES)
@pytest.mark.parametrize("temperature", [None, "levels"])
def test_every_rule_and_temperature_gives_the_paths_of_numpy(rule: str, temperature: str | None) -> None:
    depths = load_label_space("fall11").tree.max_depth + 1
    values = None if temperature is None else tuple(np.linspace(0.6, 1.7, depths))
    assert_decides_alike(
        decoder_for("fall11", "level_softmax", rule=rule, temperature=values), logits_for("fall11", ""), (0.4,)
    )


def test_every_rule_has_an_onnx_form_under_its_key() -> None:
    assert list(onnx_rules.RULES) == list(numpy_rules.RULES)


def test_a_rule_without_an_onnx_form_is_refused_at_export(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    monkeypatch.setitem(numpy_rules.RULES, "new", numpy_rules.product)
    loaded: Any = SimpleNamespace(space=load_label_space("winter21"), head="level_softmax")
    with pytest.raises(UsageError, match="The rule 'new' has no ONNX form, so it cannot be exported; these have one"):
        decoder_of(loaded, ExportOptions(rule="new"))
    assert decoder_of(loaded, ExportOptions(rule="new", form="tensor")).tree_rule == "new"  # decides nothing itself
    with pytest.raises(UsageError, match="has no ONNX form"):
        DecodingGraph(Decoder(loaded.space, "level_softmax", rule="new"))


@pytest.mark.parametrize("head", ["leaf_softmax", "sigmoid"])
def test_one_temperature_divides_the_logits_of_the_other_heads(head: str) -> None:
    assert_decides_alike(decoder_for("in1k", head, temperature=2.5), logits_for("in1k", head), (0.4,))


def test_withdrawn_classes_are_answered_only_when_they_were_asked_for() -> None:
    masked = decoder_for("fall11", "leaf_softmax")
    withdrawn = masked.withdrawn
    assert withdrawn is not None
    logits = logits_for("fall11", "", 3)
    logits[:, np.flatnonzero(withdrawn)[::7]] += 30
    answer = DecodingGraph(masked)(logits)
    assert not withdrawn[answer["topk_index"]].any()
    assert not withdrawn[answer["path"][answer["path"] >= 0]].any()
    included = decoder_for("fall11", "leaf_softmax", include_withdrawn=True)
    assert withdrawn[DecodingGraph(included)(logits)["topk_index"]].all()
    assert_decides_alike(included, logits, (0.9,))
    assert_decides_alike(masked, logits, (0.9,))


def test_a_path_goes_through_a_withdrawn_class_and_leaves_it_out(zoo_tree: Tree) -> None:
    logits = np.array([[5, 9, 0, 1, 0, 0, 0]], np.float32)
    decoder = Decoder(with_withdrawn(zoo_tree, "dog"), "leaf_softmax", hedge=0.5, min_bits=0)
    answer = DecodingGraph(decoder, 3)(logits)
    assert [zoo_tree.wnids[node] for node in answer["path"][0] if node >= 0] == ["animal", "husky"]
    assert_decides_alike(decoder, logits, (0.5, 0.99), topk=3)


@settings(max_examples=30)
@given(cases(), st.sampled_from(["leaf_softmax", "sigmoid"]), st.floats(0.05, 1))
def test_any_forest_and_mask_is_walked_as_numpy_walks_it(case: Case, head: str, level: float) -> None:
    if len(case.logits):
        decoder = Decoder(named(case.tree), head, min_bits=0).restricted_to(case.allowed, "a mask")  # type: ignore[arg-type]
        assert_decides_alike(decoder, case.logits, (level,), ties=True, topk=4)


@settings(max_examples=30)
@given(cases(only_classes=True), st.sampled_from(list(numpy_rules.RULES)), st.floats(0.05, 1))
def test_any_forest_of_levels_is_walked_as_numpy_walks_it(case: Case, rule: str, level: float) -> None:
    if len(case.logits):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("miil21k.decode.decoder.withdrawn_classes", lambda _: ~case.allowed)
            decoder = Decoder(named(case.tree), "level_softmax", rule=rule, min_bits=0)
            assert_decides_alike(decoder, case.logits, (level,), ties=True, topk=4)


@pytest.mark.parametrize(
    ("space", "head", "choice"),
    [
        ("winter21", "level_softmax", {"under": "dog"}),
        ("fall11", "leaf_softmax", {"under": "dog"}),
        ("in1k", "leaf_softmax", {"classes": "dog"}),
    ],
)
def test_a_restriction_that_a_graph_would_not_obey_is_refused(space: str, head: str, choice: dict[str, str]) -> None:
    decoder = decoder_for(space, head).restricted(**choice)
    with pytest.raises(UsageError, match=r"cannot hold the restriction \((under|one of) dog.*restrict the decoder"):
        DecodingGraph(decoder)


def test_nothing_is_answered_below_the_wanted_certainty() -> None:
    run = DecodingGraph(decoder_for("in1k", "leaf_softmax", hedge=1.0))
    flat = np.zeros((2, 1000), np.float32)
    answer = run(flat)
    assert answer["hedge_node"].tolist() == [-1, -1]
    assert answer["hedge_prob"].tolist() == [0, 0]
    assert run(flat, 0.01)["hedge_node"].min() >= 0
