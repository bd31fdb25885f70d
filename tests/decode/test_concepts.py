"""P(concept) of every head and rule, against sets and sums said slowly."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from reference_concepts import class_sets

from miil21k.decode.concepts import asked_probabilities, class_masses, concept_probabilities
from miil21k.decode.decoder import Decoder
from miil21k.decode.probabilities import node_probabilities
from miil21k.decode.restriction import viable
from miil21k.decode.rules import RULES
from miil21k.errors import UsageError
from miil21k.hierarchy.concepts import Concepts, concepts_of
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import withdrawn_classes

if TYPE_CHECKING:
    from pathlib import Path

READINGS = [("leaf_softmax", None), ("sigmoid", None), *(("level_softmax", rule) for rule in RULES)]


def graph(tmp_path: Path) -> Concepts:
    """Return eight nodes, all of them classes; a dog is a pet and a canine, which is wild and an animal."""
    path = tmp_path / "pets.csv"
    edges = "animal, pet, wild, canine,animal canine,wild dog,pet dog,canine wolf,canine cat,pet pug,dog"
    path.write_text("child,parent\n" + "\n".join(edges.split()) + "\n")
    from miil21k.hierarchy.load import load_own

    return concepts_of(load_own(path, all_nodes=True))


def check_laws(concepts: Concepts, found: np.ndarray) -> None:
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found[:, concepts.child] <= found[:, concepts.parent]).all()  # exactly, along every edge


@pytest.mark.parametrize(("reading", "masked"), list(product(READINGS, (False, True))))
def test_a_small_graph_gives_sums_over_sets(tmp_path: Path, reading: tuple[str, str | None], masked: bool) -> None:
    head, rule = reading
    concepts = graph(tmp_path)
    tree, classes = concepts.space.tree, concepts.num_classes
    logits = np.random.default_rng(0).normal(size=(40, classes)).astype(np.float32) * 3
    withdrawn = np.isin(concepts.wnids, ["dog", "wolf"]) if masked else None
    masses = class_masses(tree, logits, head, withdrawn=withdrawn, temperature=1.7, rule=rule)
    found = concept_probabilities(concepts, masses, head)
    check_laws(concepts, found)
    fold = max if head == "sigmoid" else sum
    slow = [[fold([float(row[c]) for c in below]) for below in class_sets(concepts)] for row in masses]
    np.testing.assert_allclose(found, slow, atol=1e-6)
    asked = list(range(len(concepts)))[::-1]
    np.testing.assert_allclose(asked_probabilities(concepts, masses, asked, head), found[:, asked], atol=1e-6)
    if masked:
        assert masses[:, concepts.index_of["wolf"]].max() == 0  # a withdrawn leaf is no answer at all
        if head != "level_softmax":  # there the pug, alone on its level, takes all
            assert masses[:, concepts.index_of["dog"]].min() > 0  # a step to the pug
    if rule != "min":
        alive = None if withdrawn is None else viable(tree, ~withdrawn)
        nodes = node_probabilities(tree, logits, head, allowed=alive, temperature=1.7, rule=rule)
        sets = class_sets(concepts)
        same = [n for n in range(tree.num_nodes) if sets[n] == set(tree.descendants(n).tolist())]
        assert {concepts.wnids[n] for n in same} == {"pug", "dog", "wolf", "cat", "pet"}
        np.testing.assert_allclose(found[:, same], nodes[:, same], atol=1e-6)


def test_families_of_min_are_scaled_down_to_their_parent(tmp_path: Path) -> None:
    concepts = graph(tmp_path)
    tree = concepts.space.tree
    logits = np.zeros((1, 8), np.float32)
    nodes = node_probabilities(tree, logits, "level_softmax", rule="min")
    masses = class_masses(tree, logits, "level_softmax", rule="min")
    children = nodes[0, tree.children(tree.index("pet"))].sum()
    assert children > nodes[0, tree.index("pet")]  # dog and cat, each as probable as the pet itself
    assert masses.sum() == pytest.approx(1)
    assert masses[0, tree.index("pet")] == 0
    found = concept_probabilities(concepts, masses)
    assert found[0, concepts.index_of["pet"]] == pytest.approx(1 / 3)
    assert found[0, concepts.index_of["dog"]] == pytest.approx(1 / 6)


@pytest.mark.parametrize("name", ["in1k", "winter21"])
def test_shipped_spaces_keep_the_laws_and_agree_with_the_tree(name: str) -> None:
    concepts = concepts_of(load_label_space(name))
    tree = concepts.space.tree
    logits = np.random.default_rng(1).normal(size=(3, tree.num_classes)).astype(np.float32) * 4
    masses = class_masses(tree, logits, "leaf_softmax")
    found = concept_probabilities(concepts, masses)
    check_laws(concepts, found)
    nodes = node_probabilities(tree, logits, "leaf_softmax")
    subtree = np.bincount(tree.level_target[: tree.num_classes][tree.level_target[: tree.num_classes] >= 0])
    same = np.flatnonzero(subtree == concepts.num_below[: tree.num_nodes])
    assert same.size > 0.9 * tree.num_nodes
    np.testing.assert_allclose(found[:, same], nodes[:, same], atol=1e-6)
    chosen = concepts.cover.owners[::7]
    slow = np.stack([masses[:, concepts.classes(k)].astype(np.float64).sum(axis=1) for k in chosen], axis=1)
    np.testing.assert_allclose(found[:, chosen], slow, atol=1e-6)
    best = concept_probabilities(concepts, masses, "sigmoid")
    check_laws(concepts, best)
    assert np.array_equal(best[:, chosen], [[row[concepts.classes(k)].max() for k in chosen] for row in masses])


@pytest.mark.parametrize("head", ["leaf_softmax", "level_softmax"])
def test_a_withdrawn_worker_is_still_a_person(head: str) -> None:
    space = load_label_space("fall11")
    concepts, withdrawn = concepts_of(space), withdrawn_classes(space)
    person, worker = concepts.index_of["n00007846"], concepts.index_of["n09632518"]
    assert withdrawn[worker]
    logits = np.zeros((1, space.num_classes), np.float32)
    logits[0, [worker] if head == "leaf_softmax" else list(space.tree.path(worker))] = 25
    masses = class_masses(space.tree, logits, head, withdrawn=withdrawn)
    found = concept_probabilities(concepts, masses)
    assert found[0, person] > 0.99
    assert found[0, worker] > 0.99
    leaf = next(c for c in np.flatnonzero(withdrawn).tolist() if not viable(space.tree, ~withdrawn)[c])
    assert masses[0, leaf] == 0


def test_a_dog_is_a_mammal_whatever_the_tree_says() -> None:
    concepts = concepts_of(load_label_space("in1k"))
    logits = np.zeros((1, 1000), np.float32)
    logits[0, concepts.index_of["n02123045"]] = 30  # tabby, below domestic animal in the tree
    masses = class_masses(concepts.space.tree, logits, "leaf_softmax")
    found = concept_probabilities(concepts, masses)
    mammal, vehicle = concepts.index_of["n01861778"], concepts.index_of["n04524313"]
    assert found[0, mammal] > 0.999
    assert found[0, vehicle] < 1e-6
    assert asked_probabilities(concepts, masses, [mammal, vehicle])[0] == pytest.approx(found[0, [mammal, vehicle]])


def test_a_decoder_answers_about_concepts_whatever_its_restriction() -> None:
    space = load_label_space("in1k")
    concepts = concepts_of(space)
    logits = np.random.default_rng(2).normal(size=(4, 1000)).astype(np.float32) * 3
    decoder = Decoder(space, "leaf_softmax", temperature=2.0)
    free, bound = decoder.read(logits), decoder.restricted(under="bird").read(logits)
    expected = concept_probabilities(concepts, class_masses(space.tree, logits / 2, "leaf_softmax"))
    np.testing.assert_allclose(free.concepts, expected, atol=1e-6)
    assert np.array_equal(bound.concepts, free.concepts)
    bird = concepts.index_of["n01503061"]
    np.testing.assert_allclose(bound.concept([bird, 7]), free.concepts[:, [bird, 7]], atol=1e-6)


def test_no_rows_and_no_questions_are_fine_and_other_shapes_are_refused(tmp_path: Path) -> None:
    concepts = graph(tmp_path)
    assert concept_probabilities(concepts, np.empty((0, 8), np.float32)).shape == (0, 8)
    assert asked_probabilities(concepts, np.zeros((2, 8), np.float32), []).shape == (2, 0)
    with pytest.raises(UsageError, match=r"shape \[batch, 8\], not \[2, 7\]"):
        concept_probabilities(concepts, np.zeros((2, 7), np.float32))
