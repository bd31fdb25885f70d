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
from miil21k.export.onnx.model import decoder_of
from miil21k.export.options import ExportOptions
from miil21k.hierarchy.load import load_label_space

if TYPE_CHECKING:
    from miil21k.hierarchy.tree import Tree

ROUNDING = 2e-6
LOOSE = 1e-5  # what a proof allows


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


def decoder_for(space: str, head: Any, **more: Any) -> Decoder:
    return Decoder(load_label_space(space), head, **{"min_bits": 0, **more})


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


def assert_reads_concepts_alike(decoder: Decoder, logits: np.ndarray, levels: tuple[float, ...]) -> None:
    """Compare the answer on concepts; another one may be given where it is as sure, but for rounding."""
    run = DecodingGraph(decoder)
    for level in levels:
        answers, found = run(logits, level), with_level(decoder, level).read(logits)
        assert answers["path"].shape == found.path.nodes.shape
        assert (np.diff(answers["path_prob"], axis=1) <= 0).all()
        for row, node in enumerate(answers["hedge_node"].tolist()):
            own, probs = int(found.hedged.node[row]), found.concepts[row]
            if node != own:
                sure = [abs(probs[one] - level + 1e-6) for one in (node, own) if one >= 0]
                assert min([*sure, abs(probs[node] - probs[own])]) < ROUNDING
                continue
            assert answers["path"][row].tolist() == found.path.nodes[row].tolist()
            assert np.abs(answers["path_prob"][row] - found.path.probs[row]).max() < LOOSE
            assert abs(answers["hedge_prob"][row] - found.hedged.prob[row]) < LOOSE
    if decoder.asked:
        np.testing.assert_allclose(answers["asked"], found.asked, atol=LOOSE)


@pytest.mark.parametrize("space", ["fall11", "in1k"])
@pytest.mark.parametrize("head", ["level_softmax", "leaf_softmax", "sigmoid"])
def test_concepts_and_questions_are_answered_as_numpy_does(space: str, head: str) -> None:
    shipped = load_label_space(space)
    if head == "level_softmax" and space == "in1k":
        pytest.skip("no such head exists")
    logits = logits_for(space, head)
    logits[0, shipped.tree.level_target[207][shipped.tree.level_target[207] >= 0][-1]] += 30
    decoder = decoder_for(space, head, reading="concepts", min_bits=1)
    decoder = decoder.asking(["bird", "musical instrument", "n02084071"])
    assert decoder.read(logits).hedged.node.max() >= 0
    assert_reads_concepts_alike(decoder, logits, (0.05, 0.3, 0.9))
    asked = DecodingGraph(decoder_for(space, head).asking("mammal"))(logits)
    np.testing.assert_allclose(asked["asked"], decoder.asking("mammal").read(logits).asked[:, 3:], atol=LOOSE)


@pytest.mark.parametrize("changes", [{"rule": "min"}, {"temperature": 0.7, "include_withdrawn": True}, {"min_bits": 6}])
def test_rules_temperatures_masks_and_floors_reach_the_concepts(changes: dict[str, Any]) -> None:
    decoder = Decoder(load_label_space("fall11"), "level_softmax", reading="concepts", **changes)
    assert_reads_concepts_alike(decoder.asking(["person", "dog"]), logits_for("fall11", ""), (0.1, 0.8))


@settings(max_examples=20)
@given(cases(only_classes=True), st.sampled_from(["leaf_softmax", "sigmoid", "min"]), st.floats(0.05, 1))
def test_any_forest_is_read_on_concepts_as_numpy_reads_it(case: Case, head: str, level: float) -> None:
    if not len(case.logits):
        return
    rule, head = (head, "level_softmax") if head == "min" else (None, head)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("miil21k.decode.decoder.withdrawn_classes", lambda _: ~case.allowed)
        decoder = Decoder(named(case.tree), head, rule=rule, min_bits=0, reading="concepts")  # type: ignore[arg-type]
        assert_reads_concepts_alike(decoder, case.logits, (level,))


def test_what_lies_on_a_withdrawn_worker_is_a_person_in_a_graph_too() -> None:
    tree = load_label_space("fall11").tree
    logits = np.zeros((1, tree.num_classes), np.float32)
    logits[0, tree.index("n09632518")] = 25
    person = tree.index("n00007846")
    for reading in ("published", "concepts"):
        found = DecodingGraph(decoder_for("fall11", "leaf_softmax", reading=reading).asking("person"))(logits)
        assert found["asked"][0, 0] > 0.9999
        assert found["hedge_node"][0] == person
        assert tree.index("n09632518") not in found["path"][0]


@pytest.mark.parametrize("reading", ["published", "concepts"])
def test_an_answer_that_says_too_little_is_none_in_a_graph(reading: str) -> None:
    tree = load_label_space("in1k").tree
    artifact = tree.descendants(tree.index("n00021939"))
    logits = np.zeros((2, 1000), np.float32)
    logits[0, 281] = 20  # tabby
    logits[1, artifact[artifact < 1000]] = 9  # something or other that was made
    least = DecodingGraph(decoder_for("in1k", "leaf_softmax", reading=reading))(logits)
    floor = DecodingGraph(decoder_for("in1k", "leaf_softmax", reading=reading, min_bits=3))(logits)
    assert least["hedge_node"].min() >= 0
    assert floor["hedge_node"].tolist() == [281, -1]
    assert floor["hedge_prob"][1] == 0
    assert (floor["path"][1] >= 0).any() == (reading == "published")  # the whole path, whatever it says
    if reading == "concepts":
        with pytest.raises(UsageError, match=r"No concept of 'in1k' says 12 bits: ask for less"):
            DecodingGraph(decoder_for("in1k", "leaf_softmax", reading=reading, min_bits=12))


def test_a_restricted_graph_answers_no_questions() -> None:
    decoder = decoder_for("in1k", "leaf_softmax").restricted(under="dog")
    DecodingGraph(decoder)
    with pytest.raises(UsageError, match="cannot hold the restriction"):
        DecodingGraph(decoder.asking("bird"))
