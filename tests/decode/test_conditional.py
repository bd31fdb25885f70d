"""P(c | given) of every head, rule and mask, against a division said slowly."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from forests import named

from miil21k.decode.concepts import class_masses
from miil21k.decode.conditional import conditional_probabilities
from miil21k.decode.decoder import Decoder
from miil21k.decode.rules import RULES
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.tree import Tree

if TYPE_CHECKING:
    from typing import Any

READINGS = [("leaf_softmax", None), ("sigmoid", None), *(("level_softmax", rule) for rule in RULES)]
TREE = Tree.from_parents(
    ["animal", "dog", "cat", "husky", "pug", "vehicle", "boat"],
    [None, "animal", "animal", "dog", "dog", None, "vehicle"],
    num_classes=7,
)
FALL11 = load_label_space("fall11")


@pytest.mark.parametrize(("reading", "included"), list(product(READINGS, (False, True))))
def test_a_probability_times_that_of_its_condition_is_the_unconditional_one(
    reading: tuple[Any, str | None], included: bool
) -> None:
    head, rule = reading
    logits = np.random.default_rng(0).normal(size=(3, FALL11.num_classes)).astype(np.float32) * 3
    decoder = Decoder(FALL11, head, rule=rule, temperature=1.5, include_withdrawn=included)
    found = decoder.restricted(under=["person", "n02084071"], exclude="pug").read(logits)
    assert found.decoder.restriction is not None
    assert found.given is not None
    masses = decoder.read(logits).masses
    condition, shown = found.decoder.restriction.allowed, found.decoder.allowed
    assert shown is not None
    assert (shown.sum() < condition.sum()) != included  # some persons were withdrawn
    if head == "sigmoid":
        assert np.array_equal(found.given, masses[:, condition].max(axis=1))
        assert np.array_equal(found.classes[:, shown], masses[:, shown])
    else:
        assert found.given == pytest.approx(masses[:, condition].sum(axis=1), rel=1e-5)
        np.testing.assert_allclose(found.classes[:, shown] * found.given[:, None], masses[:, shown], atol=1e-6)
        np.testing.assert_allclose(found.classes[:, shown], masses[:, shown] / found.given[:, None], rtol=1e-5)
        roots = found.nodes[:, FALL11.tree.roots].sum(axis=1)
        assert roots == pytest.approx(np.ones(3), abs=1e-5)
    assert not found.classes[:, ~shown].any()
    above = FALL11.tree.parent >= 0
    assert (found.nodes[:, above] <= found.nodes[:, FALL11.tree.parent[above]]).all()
    assert found.nodes.max() <= 1


@pytest.mark.parametrize(("head", "rule"), READINGS)
def test_no_condition_is_too_improbable(head: Any, rule: str | None) -> None:
    logits = np.zeros((2, 7), np.float32)
    boat, car = TREE.index("boat"), TREE.index("vehicle")
    logits[:, [boat, car]] -= [[60], [600]]
    logits[:, boat] += 1
    condition = np.isin(np.arange(7), [boat, car])
    masses = class_masses(TREE, logits, head, rule=rule)
    found = conditional_probabilities(TREE, logits, head, condition, masses, rule=rule)
    assert np.isfinite(found.nodes).all()
    if head == "sigmoid":
        assert found.classes.max() < 1e-20
        return
    assert found.classes.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert found.nodes[:, TREE.roots].sum(axis=1) == pytest.approx([1, 1], abs=1e-5)
    if head == "leaf_softmax":
        assert found.classes[:, boat] == pytest.approx([np.e / (1 + np.e)] * 2, rel=1e-5)


def test_a_condition_that_a_rule_gives_nothing_still_has_an_answer() -> None:
    decoder = Decoder(named(TREE), "level_softmax", rule="sibling", hedge=None)
    logits = np.zeros((1, 7), np.float32)
    only = np.arange(7) == TREE.index("dog")  # an inner class, at which this rule leaves no mass
    found = decoder.restricted_to(only, "dog alone").read(logits)
    assert found.given == pytest.approx(0)
    assert [TREE.wnids[node] for node in found.path.nodes[0] if node >= 0] == ["animal", "dog"]


def test_where_a_rule_leaves_nothing_the_logits_of_the_condition_are_heard_by_that_rule() -> None:
    names = ["animal", "dog", "husky", "pug", "vehicle", "boat", "ferry", "raft"]
    tree = Tree.from_parents(names, [None, "animal", "dog", "dog", None, "vehicle", "boat", "boat"])
    logits = np.array([[1.0, 0, 0, 0, 0, 0, 0, 0]], np.float32)
    inner = tree.num_children > 0
    options = {"rule": "sibling", "temperature": 2.0}
    masses = class_masses(tree, logits, "level_softmax", **options)
    assert not masses[:, inner].any()
    found = conditional_probabilities(tree, logits, "level_softmax", inner, masses, **options)
    animal = 1 / (1 + np.exp(-0.5))  # a difference of 1, at a temperature of 2
    assert found.nodes[0] == pytest.approx([animal, animal, 0, 0, 1 - animal, 1 - animal, 0, 0])
    other = conditional_probabilities(tree, logits, "level_softmax", inner, masses, rule="product", temperature=2.0)
    assert other.nodes[0, 1] < 0.6 * animal  # a level of its own: half of it is the boat


@pytest.mark.parametrize(("head", "rule"), READINGS)
def test_a_temperature_divides_the_logits_of_the_faintest_condition_too(head: Any, rule: str | None) -> None:
    logits = np.random.default_rng(1).normal(size=(2, 7)).astype(np.float32)
    boat, vehicle = TREE.index("boat"), TREE.index("vehicle")
    logits[:, [boat, vehicle]] -= [[160], [1200]]
    condition = np.isin(np.arange(7), [boat, vehicle])
    warm = class_masses(TREE, logits, head, rule=rule, temperature=2.0)
    halved = class_masses(TREE, logits / 2, head, rule=rule)
    found = conditional_probabilities(TREE, logits, head, condition, warm, temperature=2.0, rule=rule)
    same = conditional_probabilities(TREE, logits / 2, head, condition, halved, rule=rule)
    np.testing.assert_allclose(found.nodes, same.nodes, rtol=1e-4, atol=1e-30)
    np.testing.assert_allclose(found.classes, same.classes, rtol=1e-4, atol=1e-30)
