"""One value knows how logits are read; what it finds is what the functions of the room say, computed when asked for."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from forests import named, with_withdrawn

from miil21k.calibrate.record import Calibration, mask_digest
from miil21k.decode.concepts import class_masses, concept_probabilities
from miil21k.decode.conditional import conditional_probabilities
from miil21k.decode.decoder import Decoder
from miil21k.decode.levels import decode_levels, levels_of_nodes
from miil21k.decode.path import decode_path, hedge
from miil21k.decode.probabilities import probabilities
from miil21k.decode.restriction import restrict
from miil21k.errors import LabelSpaceMismatch, LogitsError, UnknownClass, UsageError
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import projection, withdrawn_classes

if TYPE_CHECKING:
    from miil21k.decode.decoded import Decoded
    from miil21k.hierarchy.tree import Tree

FALL11, WINTER21, IN1K = (load_label_space(name) for name in ("fall11", "winter21", "in1k"))
LOGITS = (3 * np.random.default_rng(0).standard_normal((4, 11221))).astype(np.float32)


def calibration_of(decoder: Decoder, **changes: Any) -> Calibration:
    made = Calibration(
        label_space=decoder.space.name,
        sha256=decoder.space.sha256,
        model="",
        weights="",
        head=decoder.head,
        rule="product" if decoder.head == "level_softmax" else "",
        allowed=mask_digest(decoder.allowed),
        temperature=(2.0,) * (decoder.space.tree.max_depth + 1 if decoder.head == "level_softmax" else 1),
        thresholds=((0.9, 0.4),),
        samples=(10, 10),
    )
    return replace(made, **changes)


@pytest.mark.parametrize("head", ["level_softmax", "leaf_softmax", "sigmoid"])
def test_what_is_found_is_what_the_functions_say(head: Any) -> None:
    decoder = Decoder(FALL11, head, hedge=0.3, max_depth=6).restricted(under="n00015388", exclude="domestic dog")
    tree, withdrawn = FALL11.tree, withdrawn_classes(FALL11)
    graph = concepts_of(FALL11)
    condition = restrict(graph, under=[graph.index_of["n00015388"]], exclude=[graph.index_of["n02084071"]])
    allowed = condition & ~withdrawn
    assert decoder.allowed is not None
    assert np.array_equal(decoder.allowed, allowed)
    found = decoder.read(LOGITS)
    exact = conditional_probabilities(tree, LOGITS, head, condition, found.masses, withdrawn=withdrawn)
    assert np.array_equal(found.nodes, exact.nodes)
    assert np.array_equal(found.classes, exact.classes)
    stop = hedge(tree, exact.nodes, 0.3, max_depth=6, withdrawn=withdrawn)
    assert np.array_equal(found.hedged.node, stop.node)
    assert np.array_equal(found.length, stop.length)
    assert np.array_equal(found.path.nodes, stop.paths.nodes)
    assert found.topk(3).classes[:, 0].tolist() == exact.classes.argmax(1).tolist()
    levels = (
        decode_levels(tree, LOGITS, allowed=allowed)
        if head == "level_softmax"
        else levels_of_nodes(tree, exact.nodes, withdrawn=withdrawn)
    )
    assert np.array_equal(found.levels.nodes, levels.nodes)


def test_without_a_hedge_level_the_answer_is_the_whole_path() -> None:
    found = Decoder(WINTER21, "leaf_softmax", hedge=None).read(LOGITS[:, :10450])
    assert np.array_equal(found.path.nodes, decode_path(WINTER21.tree, found.nodes).nodes)
    assert np.array_equal(found.length, found.path.length)
    with pytest.raises(UsageError, match=r"^This decoder has no hedge level: give it one with hedge=\.$"):
        _ = found.hedged


def test_nothing_is_computed_before_it_is_asked_for_and_the_best_class_pays_no_path() -> None:
    found = Decoder(FALL11, "leaf_softmax").read(LOGITS)
    assert set(vars(found)) == {"decoder", "logits"}
    found.topk(1)
    assert set(vars(found)) == {"decoder", "logits", "probabilities", "_withdrawn"}
    paths = Decoder(FALL11, "leaf_softmax").read(LOGITS)
    _ = paths.path
    assert "probabilities" not in vars(paths)  # P(node) alone


def test_why_an_answer_ends(zoo_tree: Tree) -> None:
    logits = np.array([[9, 0, 0, 0, 0, 0, 0], [2, 0, 2, 0, 0, 0, 0], [0, 0, 0, 9, 0, 0, 0]], np.float32)
    space = named(zoo_tree)
    assert Decoder(space, "leaf_softmax", min_bits=0).read(logits).reasons == ["leaf", "hedge", "hedge"]
    little = Decoder(space, "leaf_softmax").read(logits)
    assert (little.reasons, little.length.tolist()) == (["leaf", "hedge", "bits"], [3, 0, 0])
    assert little.hedged.node[2] == -1
    assert Decoder(space, "leaf_softmax", hedge=None, max_depth=1).read(logits).reasons == ["depth"] * 3
    only = Decoder(space, "leaf_softmax", hedge=None).restricted_to(np.arange(7) == zoo_tree.index("dog"), "dog")
    assert only.read(logits).reasons == ["restriction"] * 3
    surely = Decoder(space, "leaf_softmax", hedge=1.0).read(np.zeros((1, 7), np.float32))
    assert (surely.reasons, surely.length.tolist()) == (["hedge"], [0])


def test_a_head_answers_in_a_space_whose_classes_it_has() -> None:
    decoder = Decoder(FALL11, "sigmoid", answer_space=WINTER21)
    index = projection(FALL11, WINTER21)
    assert np.array_equal(decoder.project(LOGITS), LOGITS[:, index])
    assert np.array_equal(decoder.read(LOGITS).classes, Decoder(WINTER21, "sigmoid").read(LOGITS[:, index]).classes)
    with pytest.raises(LabelSpaceMismatch, match="A head of 'winter21' cannot answer in 'fall11'"):
        Decoder(WINTER21, "sigmoid", answer_space=FALL11)
    with pytest.raises(LogitsError, match=r"\[batch, 11221\]"):
        decoder.read(LOGITS[:, index])


def test_withdrawn_classes_are_masked_unless_they_are_asked_for(zoo_tree: Tree) -> None:
    space = with_withdrawn(zoo_tree, "dog")
    logits = np.array([[5, 9, 0, 1, 0, 0, 0]], np.float32)
    masked, included = (Decoder(space, "leaf_softmax", hedge=0.5, include_withdrawn=more) for more in (False, True))
    assert [zoo_tree.wnids[node] for node in masked.read(logits).path.nodes[0] if node >= 0] == ["animal", "husky"]
    assert included.read(logits).topk(1).classes.tolist() == [[zoo_tree.index("dog")]]
    assert masked.withdrawn_labels == "masked"
    assert included.withdrawn_labels == "included"
    assert Decoder(WINTER21, "sigmoid").withdrawn_labels == "none"


@pytest.mark.parametrize("head", ["level_softmax", "leaf_softmax", "sigmoid"])
def test_masses_are_the_same_whatever_was_computed_before(head: Any) -> None:
    for decoder in (Decoder(FALL11, head), Decoder(FALL11, head, include_withdrawn=True, temperature=1.5)):
        alone, behind, after = (decoder.read(LOGITS) for _ in range(3))
        _, _ = behind.nodes, after.probabilities
        assert np.array_equal(alone.masses, behind.masses)
        assert np.array_equal(alone.masses, after.masses)
        assert np.array_equal(decoder.read(LOGITS).classes, after.classes)  # not touched by the masses


@pytest.mark.parametrize("space", ["fall11", "goog21k"])
@pytest.mark.parametrize("head", ["leaf_softmax", "sigmoid"])
def test_what_is_shown_and_what_is_asked_are_one_truth(space: str, head: Any) -> None:
    """A withdrawn class with classes below it counts for what lies above, in P(node) as in P(concept)."""
    shipped = load_label_space(space)
    tree, withdrawn, concepts = shipped.tree, withdrawn_classes(shipped), concepts_of(shipped)
    logits = (3 * np.random.default_rng(0).standard_normal((2, tree.num_classes))).astype(np.float32)
    logits[0, tree.index("n09632518")] = 25  # worker: withdrawn, with classes below it
    found = Decoder(shipped, head).read(logits)
    assert np.array_equal(found.classes[:, ~withdrawn], found.masses[:, ~withdrawn])
    assert not found.classes[:, withdrawn].any()
    subtree = np.bincount(tree.level_target[: tree.num_classes][tree.level_target[: tree.num_classes] >= 0])
    same = np.flatnonzero(subtree == concepts.num_below[: tree.num_nodes])
    np.testing.assert_allclose(found.nodes[:, same], found.concepts[:, same], atol=1e-6)
    person = tree.index("n00007846")
    assert found.nodes[0, person] > 0.9999
    assert person in found.path.nodes[0, : found.length[0]]
    assert not withdrawn[found.path.nodes[0, : found.length[0]]].any()
    leaves = [one for one in found.topk(9).classes[1].tolist() if concepts.num_below[one] == 1]
    assert np.array_equal(found.concept(leaves)[1], found.classes[1, leaves])


def test_a_decoder_is_asked_each_question_once(zoo_tree: Tree) -> None:
    logits = np.random.default_rng(3).normal(size=(4, 7)).astype(np.float32)
    whole = Decoder(named(zoo_tree), "leaf_softmax")
    decoder = whole.asking(["dog", "animals", "dog"]).asking("dog")
    assert [question.text for question in decoder.asked] == ["dog", "animals"]
    found = decoder.read(logits)
    assert found.asked == pytest.approx(found.nodes[:, [zoo_tree.index("dog"), zoo_tree.index("animal")]], abs=1e-6)
    assert (whole.asking([]), whole.notes, decoder.notes) == (whole, (), ())
    with pytest.raises(UnknownClass, match="'hsky' is no concept"):
        whole.asking("hsky")


def test_the_most_informative_concept_is_listed_first_and_the_class_speaks_for_its_set() -> None:
    space = load_label_space("in1k")
    graph, logits = concepts_of(space), np.zeros((2, 1000), np.float32)
    tabby = graph.index_of["n02123045"]
    logits[0, tabby] = 30
    first, flat = Decoder(space, "leaf_softmax").read(logits).likely_concepts(0.9)
    assert first[0] == tabby
    sets = [graph.classes(one).tobytes() for one in first]
    assert len(set(sets)) == len(sets)
    assert {graph.classes(one).tobytes() for one in graph.ancestors(tabby)} <= set(sets)
    assert np.diff(graph.num_below[first]).min() >= 0
    assert [graph.name(one) for one in flat] == ["whole", "object", "physical entity", "entity"]
    space = load_label_space("fall11")
    withdrawn = concepts_of(space).index_of["n09632518"]
    logits = np.zeros((1, space.num_classes), np.float32)
    logits[0, withdrawn] = 30  # a worker, who is a person
    (listed,) = Decoder(space, "leaf_softmax").read(logits).likely_concepts(0.9)
    assert concepts_of(space).index_of["n00007846"] in listed
    assert withdrawn not in listed


def test_restrictions_add_up_and_leave_the_decoder_as_it_was(zoo_tree: Tree) -> None:
    whole = Decoder(named(zoo_tree), "leaf_softmax")
    fewer = whole.restricted(under="animal").restricted(exclude=["cat"])
    assert whole.allowed is None
    assert fewer.allowed is not None
    assert [zoo_tree.wnids[c] for c in np.flatnonzero(fewer.allowed)] == ["husky", "dog", "pug", "animal"]
    assert fewer.restriction is not None
    assert fewer.restriction.condition == "under animal, without cat"
    assert whole.restricted() is whole
    several = whole.restricted(under=["dog", "cat"], exclude=["pug", "husky"], classes=["dog", "boat"])
    assert several.restriction is not None
    assert several.restriction.condition == "under dog or cat, one of dog or boat, without pug or husky"
    with pytest.raises(UsageError, match=r"^No class is left by this restriction; widen the subtree or the lists\.$"):
        fewer.restricted(under="vehicle")
    with pytest.raises(UnknownClass, match="'hsky' is no concept"):
        fewer.restricted(classes="hsky")


@pytest.mark.parametrize("head", ["leaf_softmax", "sigmoid"])
def test_a_listed_node_is_answered_as_one_with_what_lies_below_it(zoo_tree: Tree, head: Any) -> None:
    logits = np.array([[3, 1, 3, 0, 2.5, 2, 0]], np.float32)
    whole = Decoder(named(zoo_tree), head, hedge=None).read(logits)
    found = Decoder(named(zoo_tree), head, hedge=None).restricted(classes=["dog", "cat", "boat"]).read(logits)
    dog, cat, boat = (zoo_tree.index(w) for w in ("dog", "cat", "boat"))
    top = found.topk(5)
    assert top.classes.tolist() == [[dog, cat, boat]]
    pooled = whole.nodes[0, [dog, cat, boat]]
    if head == "leaf_softmax":
        pooled = pooled / pooled.sum()
    assert top.probs[0] == pytest.approx(pooled, abs=1e-6)
    assert [zoo_tree.wnids[n] for n in found.path.nodes[0] if n >= 0] == ["animal", "dog"]
    assert found.reasons == ["restriction"]
    assert found.levels.nodes.tolist() == [[zoo_tree.index("animal"), dog, cat]]
    # A listed node below another one is its own; the upper one answers for the rest.
    nested = Decoder(named(zoo_tree), head, hedge=None).restricted(classes=["animal", "husky"]).read(logits)
    husky = zoo_tree.index("husky")
    assert set(nested.topk(5).classes[0].tolist()) == {husky, zoo_tree.index("animal")}
    assert [zoo_tree.wnids[n] for n in nested.path.nodes[0] if n >= 0] == ["animal", "dog", "husky"]


@pytest.mark.parametrize("head", ["leaf_softmax", "sigmoid", "level_softmax"])
def test_the_probability_of_the_condition_makes_conditional_ones_whole_again(head: Any) -> None:
    whole = Decoder(FALL11, head).read(LOGITS)
    assert whole.given is None
    found = Decoder(FALL11, head).restricted(under="n02084071").read(LOGITS)
    assert found.given is not None
    allowed = found.decoder.allowed
    assert allowed is not None
    masses = whole.masses[:, allowed]
    if head == "sigmoid":
        assert np.array_equal(found.given, masses.max(axis=1))
        return
    assert found.given == pytest.approx(masses.sum(axis=1), rel=1e-5)
    assert found.given.max() < 0.5
    assert found.classes[:, allowed] * found.given[:, None] == pytest.approx(masses, rel=1e-4)


@pytest.mark.parametrize("head", ["level_softmax", "leaf_softmax"])
def test_a_calibration_brings_temperatures_rule_and_level(head: Any) -> None:
    decoder = Decoder(FALL11, head)
    calibrated = decoder.calibrated(calibration_of(decoder))
    depths = FALL11.tree.max_depth + 1
    by_hand = Decoder(
        FALL11, head, rule="product", temperature=(2.0,) * depths if head == "level_softmax" else 2.0, hedge=0.4
    )
    assert (calibrated.level, calibrated.tree_rule == "product") == (0.4, head == "level_softmax")
    assert np.array_equal(calibrated.read(LOGITS).nodes, by_hand.read(LOGITS).nodes)
    assert np.array_equal(calibrated.read(LOGITS).hedged.node, by_hand.read(LOGITS).hedged.node)


def test_each_depth_has_the_temperature_that_the_calibration_gives_it() -> None:
    temperatures = tuple(1 + depth / 4 for depth in range(FALL11.tree.max_depth + 1))
    decoder = Decoder(FALL11, "level_softmax")
    found = decoder.calibrated(calibration_of(decoder, temperature=temperatures)).read(LOGITS)
    by_hand = Decoder(FALL11, "level_softmax", rule="product", temperature=temperatures).read(LOGITS)
    assert np.array_equal(found.nodes, by_hand.nodes)
    one = Decoder(FALL11, "level_softmax", rule="product", temperature=temperatures[0]).read(LOGITS)
    assert not np.array_equal(found.nodes, one.nodes)


def test_a_calibration_of_something_else_is_refused() -> None:
    decoder = Decoder(FALL11, "level_softmax")
    found = calibration_of(decoder)
    with pytest.raises(LabelSpaceMismatch, match="another set of allowed classes"):
        decoder.calibrated(found).restricted(under="animal")
    with pytest.raises(LabelSpaceMismatch, match="this head is sigmoid"):
        Decoder(FALL11, "sigmoid").calibrated(found)
    with pytest.raises(UsageError, match=r"only for 0\.9"):
        Decoder(FALL11, "level_softmax", hedge=0.8).calibrated(found)
    with pytest.raises(UsageError, match="made with the rule 'product': leave the rule out, or calibrate with 'min'"):
        Decoder(FALL11, "level_softmax", rule="min").calibrated(found)
    with pytest.raises(UsageError, match=r"^A calibration brings its own temperatures: leave temperature out\.$"):
        Decoder(FALL11, "level_softmax", temperature=2.0).calibrated(found)
    assert Decoder(FALL11, "level_softmax", rule="product").calibrated(found).tree_rule == "product"


@pytest.mark.parametrize("included", [False, True])
def test_a_record_gives_back_what_decides_alike(included: bool) -> None:
    decoder = Decoder(FALL11, "level_softmax", rule="min", temperature=1.5, hedge=0.25, include_withdrawn=included)
    again = Decoder.from_record(FALL11, "level_softmax", decoder.record())
    assert again.record() == decoder.record()
    assert np.array_equal(again.read(LOGITS).hedged.node, decoder.read(LOGITS).hedged.node)
    assert len(decoder.record()["masked"]) == (0 if included else 771)
    assert Decoder.from_record(FALL11, "sigmoid", {}).record() == Decoder(FALL11, "sigmoid", min_bits=0).record()


def test_a_decoder_is_a_frozen_value_that_shows_what_differs_from_the_defaults() -> None:
    decoder = Decoder(FALL11, "leaf_softmax", hedge=0.8).restricted(under="n02084071")
    said = "own='fall11', head='leaf_softmax', hedge=0.8, restriction='under dog'"
    assert repr(decoder) == f"Decoder({said})"
    assert repr(decoder.read(LOGITS)) == f"Decoded(4 rows of Decoder({said}))"
    with pytest.raises(FrozenInstanceError):
        decoder.hedge = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "softmax"}, "No head kind 'softmax'; the kinds are level_softmax, leaf_softmax, sigmoid."),
        ({"rule": "best"}, "No rule 'best'; the rules are "),
        ({"hedge": 0.0}, "A hedge level lies above 0 and up to 1, not 0.0."),
        ({"hedge": 1.01}, "A hedge level lies above 0 and up to 1, not 1.01."),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Decoder(**{"own": FALL11, "head": "sigmoid", **changes})
    assert str(caught.value).startswith(message)
    assert Decoder(FALL11, "sigmoid", hedge=1.0).hedge == 1


def _between(*names: str) -> np.ndarray:
    """Return logits [1, 1000] of a picture that is as probably one of the classes as another."""
    logits = np.full((1, 1000), -20, np.float32)
    logits[0, [IN1K.tree.names.index(name) for name in names]] = 10
    return logits


def _said(found: Decoded, row: int = 0) -> list[str]:
    graph = concepts_of(found.decoder.space)
    return [graph.name(one) for one in found.path.nodes[row, : found.length[row]].tolist()]


def test_concepts_are_read_where_the_tree_has_no_word() -> None:
    logits = _between("Great Pyrenees", "timber wolf")
    decoder = Decoder(IN1K, "leaf_softmax", reading="concepts")
    found = decoder.read(logits)
    assert _said(found) == ["animal", "vertebrate", "mammal", "carnivore", "canine"]
    assert found.reasons == ["hedge"]
    graph = concepts_of(IN1K)
    assert {graph.name(found.hedged.refused[0]), graph.name(found.hedged.runner_up[0])} == {"dog", "wolf"}
    np.testing.assert_allclose([found.hedged.refused_prob[0], found.hedged.runner_up_prob[0]], 0.5, atol=1e-4)
    published = Decoder(IN1K, "leaf_softmax").read(logits)
    assert [IN1K.tree.names[node] for node in published.path.nodes[0, : published.length[0]]] == ["animal"]
    whole = Decoder(IN1K, "leaf_softmax", reading="concepts", hedge=None).read(_between("tabby"))
    assert (_said(whole)[-1], whole.reasons) == ("tabby", ["leaf"])


def test_an_answer_that_says_too_little_is_none() -> None:
    logits = _between("tabby", "espresso")
    found = Decoder(IN1K, "leaf_softmax", reading="concepts").read(logits)
    assert (found.length.tolist(), found.reasons, found.hedged.node.tolist()) == ([0], ["bits"], [-1])
    assert found.hedged.refused[0] >= 0
    assert _said(Decoder(IN1K, "leaf_softmax", reading="concepts", min_bits=0).read(logits)) == ["physical entity"]
    things = _between("acoustic guitar", "church")  # artifact: 0.94 bits in the tree
    published = Decoder(IN1K, "leaf_softmax").read(things)
    assert (published.length.tolist(), published.reasons) == ([0], ["bits"])
    assert Decoder(IN1K, "leaf_softmax", min_bits=0.9).read(things).length.tolist() == [1]


def test_a_restricted_answer_on_concepts_is_given_the_restriction() -> None:
    logits = _between("Great Pyrenees", "timber wolf", "tabby", "tiger cat")
    decoder = Decoder(IN1K, "leaf_softmax", reading="concepts").restricted(classes=["dog", "domestic cat"])
    found = decoder.read(logits)
    graph = concepts_of(IN1K)
    np.testing.assert_allclose(found.given, 0.75, atol=1e-4)
    np.testing.assert_allclose(found.concepts_given[0, graph.index_of["n02121808"]], 2 / 3, atol=1e-4)
    assert found.reasons == ["hedge"]
    assert _said(found)[-1] == "domestic animal"
    cats = decoder.read(_between("tabby", "tiger cat"))
    assert (_said(cats)[-1], cats.reasons) == ("domestic cat", ["restriction"])


def test_impossible_readings_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^No reading 'tree'; there are published and concepts\.$"):
        Decoder(IN1K, "leaf_softmax", reading="tree")
    with pytest.raises(UsageError, match="min_bits=-1 asks for less"):
        Decoder(IN1K, "leaf_softmax", min_bits=-1)
    with pytest.raises(
        UsageError, match=r"^A depth is one of the published tree: leave it out, or read the answer as published\.$"
    ):
        Decoder(IN1K, "leaf_softmax", reading="concepts", max_depth=1)


def test_a_record_keeps_the_reading() -> None:
    decoder = Decoder(IN1K, "leaf_softmax", reading="concepts", min_bits=2)
    again = Decoder.from_record(IN1K, "leaf_softmax", decoder.record())
    assert (again.reading, again.min_bits, again.record()) == ("concepts", 2, decoder.record())


@pytest.mark.parametrize("changes", [{"rule": "product"}, {"temperature": 2.0}, {"include_withdrawn": True}])
def test_the_masses_follow_rule_temperature_and_withdrawn_classes(changes: dict[str, Any]) -> None:
    decoder = Decoder(FALL11, "level_softmax", **changes)
    found = decoder.read(LOGITS).masses
    withdrawn = None if "include_withdrawn" in changes else withdrawn_classes(FALL11)
    temperature = changes.get("temperature", 1.0)
    wanted = class_masses(
        FALL11.tree,
        LOGITS,
        "level_softmax",
        withdrawn=withdrawn,
        temperature=temperature,
        rule=changes.get("rule", "coherent"),
    )
    assert np.array_equal(found, wanted)
    assert not np.allclose(found, Decoder(FALL11, "level_softmax").read(LOGITS).masses, atol=1e-4)


def test_a_concept_of_which_every_class_was_withdrawn_restricts_to_nothing() -> None:
    concepts = concepts_of(FALL11)
    gone = next(c for c in np.flatnonzero(withdrawn_classes(FALL11)).tolist() if concepts.num_below[c] == 1)
    for conditions in ({"under": concepts.wnids[gone]}, {"classes": [concepts.wnids[gone]]}):
        with pytest.raises(UnknownClass, match="has no class of 'fall11' at or below it"):
            Decoder(FALL11, "leaf_softmax").restricted(**conditions)
        whole = Decoder(FALL11, "leaf_softmax", include_withdrawn=True).restricted(**conditions)
        assert whole.allowed is not None
        assert np.flatnonzero(whole.allowed).tolist() == [gone]


@pytest.mark.parametrize("head", ["level_softmax", "leaf_softmax", "sigmoid"])
def test_what_is_read_is_of_four_bytes_in_every_part(zoo_tree: Tree, head: Any) -> None:
    tree = zoo_tree if head != "level_softmax" else replace(zoo_tree, num_classes=9)
    logits = np.random.default_rng(0).normal(size=(3, tree.num_classes))
    for decoder in (
        Decoder(named(tree), head, hedge=0.5),
        Decoder(named(tree), head, hedge=0.5).restricted(under="dog"),
    ):
        found = decoder.read(logits)
        parts = {
            "nodes": found.nodes, "classes": found.classes, "masses": found.masses, "path": found.path.probs,
            "levels": found.levels.probs, "hedged": found.hedged.prob, "top": found.topk(2).probs,
        }  # fmt: skip
        assert {name: str(part.dtype) for name, part in parts.items()} == dict.fromkeys(parts, "float32")
        whole = {"path": found.path.nodes, "levels": found.levels.nodes, "top": found.topk(2).classes}
        assert {name: str(part.dtype) for name, part in whole.items()} == dict.fromkeys(whole, "int32")


def test_a_record_says_every_thing_that_decides_and_gives_it_back(zoo_tree: Tree) -> None:
    space = named(zoo_tree)
    decoder = Decoder(space, "leaf_softmax", temperature=2.0, hedge=None, min_bits=0.5).restricted(exclude="dog")
    decoder = decoder.asking(["cat", "boat"])
    record = decoder.record()
    assert record == {
        "hedge": None, "rule": None, "temperature": 2.0, "calibration": None,
        "removed_labels": "none", "reading": "published", "min_bits": 0.5, "masked": ["husky", "dog", "pug"],
        "asked": [
            {"question": "cat", "wnid": "cat", "name": "cat"}, {"question": "boat", "wnid": "boat", "name": "boat"},
        ],
    }  # fmt: skip
    again = Decoder.from_record(space, "leaf_softmax", record)
    assert again.record() == record
    assert again.restriction is not None
    assert again.restriction.condition == "as exported"
    assert [zoo_tree.wnids[c] for c in np.flatnonzero(~again.restriction.allowed)] == ["husky", "dog", "pug"]
    logits = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    assert np.array_equal(again.read(logits).nodes, decoder.read(logits).nodes)
    assert np.array_equal(again.read(logits).asked, decoder.read(logits).asked)


def test_a_record_without_a_word_means_the_default_of_its_time(zoo_tree: Tree) -> None:
    plain = Decoder.from_record(named(zoo_tree), "leaf_softmax", {})
    assert (plain.hedge, plain.rule, plain.temperature, plain.reading, plain.min_bits) == (
        0.9,
        None,
        None,
        "published",
        0,
    )
    assert (plain.include_withdrawn, plain.asked, plain.restriction) == (False, (), None)
    whole = replace(zoo_tree, num_classes=9)
    levels = {"temperature": [1.0, 2.0, 3.0], "rule": "min", "removed_labels": "included", "hedge": 0.5}
    found = Decoder.from_record(named(whole), "level_softmax", levels)
    assert (found.temperature, found.rule, found.include_withdrawn, found.hedge) == ((1.0, 2.0, 3.0), "min", True, 0.5)
    assert found.record()["temperature"] == [1.0, 2.0, 3.0]


def test_a_whole_path_shows_no_withdrawn_step_either() -> None:
    tree, withdrawn = FALL11.tree, withdrawn_classes(FALL11)
    child = next(c for c in np.flatnonzero(~withdrawn).tolist() if tree.parent[c] >= 0 and withdrawn[tree.parent[c]])
    logits = np.full((1, 11221), -30, np.float32)
    logits[0, child] = 30
    for included in (False, True):
        path = Decoder(FALL11, "leaf_softmax", hedge=None, include_withdrawn=included).read(logits).path
        steps = path.nodes[0, : path.length[0]].tolist()
        assert steps[-1] == child
        assert (tree.parent[child] in steps) is included


@pytest.mark.parametrize(("more", "answered"), [(0.0, True), (1e-3, False), (-1e-3, True)])
def test_an_answer_that_says_exactly_as_much_as_it_must_is_one(zoo_tree: Tree, more: float, answered: bool) -> None:
    plain = Decoder(named(zoo_tree), "leaf_softmax", hedge=0.9, min_bits=0)
    logits = np.array([[5, 5, 5, 5, 5, 0, 0]], np.float32)  # any animal
    animal = zoo_tree.index("animal")
    assert plain.read(logits).hedged.node.tolist() == [animal]
    bits = float(plain.node_bits[animal])
    assert bits > 0
    found = replace(plain, min_bits=bits + more).read(logits)
    assert found.hedged.node.tolist() == [animal if answered else -1]
    assert found.reasons == ["hedge" if answered else "bits"]
    whole = replace(plain, hedge=None, max_depth=0, min_bits=bits + more).read(logits)
    assert whole.length.tolist() == [1 if answered else 0]


@pytest.mark.parametrize("limit", [None, "animal"])
@pytest.mark.parametrize("head", ["level_softmax", "leaf_softmax", "sigmoid"])
def test_temperature_rule_and_mask_reach_every_part(zoo_tree: Tree, head: Any, limit: str | None) -> None:
    tree = zoo_tree if head != "level_softmax" else replace(zoo_tree, num_classes=9)
    space = with_withdrawn(tree, "pug")
    withdrawn = withdrawn_classes(space)
    logits = np.random.default_rng(5).normal(size=(3, tree.num_classes)).astype(np.float32) * 2
    decoder = Decoder(space, head, rule="min", temperature=1.7, hedge=0.4).restricted(under=limit)
    options: dict[str, Any] = {"temperature": 1.7, "rule": "min"}
    masses = class_masses(tree, logits, head, withdrawn=withdrawn, **options)
    if limit is None:
        exact = probabilities(tree, logits, head, allowed=~withdrawn, **options)
    else:
        assert decoder.restriction is not None
        allowed = decoder.restriction.allowed
        exact = conditional_probabilities(tree, logits, head, allowed, masses, withdrawn=withdrawn, **options)
    alone, whole = decoder.read(logits), decoder.read(logits)
    assert np.array_equal(whole.probabilities.nodes, exact.nodes)
    assert np.array_equal(whole.classes, np.where(withdrawn, 0, exact.classes))
    assert np.array_equal(alone.nodes, exact.nodes)
    assert np.array_equal(alone.masses, masses)
    graph = concepts_of(space)
    concepts = concept_probabilities(graph, masses, head)
    assert np.array_equal(alone.concepts, concepts)
    assert alone.concept([3, 0]) == pytest.approx(concepts[:, [3, 0]], abs=1e-6)
    assert alone.concepts_given.shape == concepts.shape
    assert np.array_equal(alone.concepts_given, concepts) is (limit is None)
    if head == "level_softmax":
        shown = decoder.allowed
        levels = decode_levels(tree, logits, allowed=shown, temperature=1.7)
        assert np.array_equal(alone.levels.nodes, levels.nodes)
        assert np.array_equal(alone.levels.probs, levels.probs)
    assert not np.array_equal(
        Decoder(space, head, rule="min", hedge=0.4).restricted(under=limit).read(logits).nodes, exact.nodes
    )
