"""Class probabilities in few bytes: what a concept loses is within the bound, whatever the network says."""

from __future__ import annotations

import numpy as np
import pytest

from miil21k.decode.compact import BOUND, compact_masses, counted_classes
from miil21k.decode.concepts import class_masses, concept_probabilities
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.load import load_label_space

RNG = np.random.default_rng(0)


def restored(kept, counted) -> np.ndarray:
    found = np.zeros((len(kept), counted.size), np.float32)
    for row, one in zip(found, kept, strict=True):
        row[counted] = one.rest
        row[one.classes] = one.probabilities
    return found


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, 8.0])
def test_no_concept_is_off_by_more_than_the_bound(scale: float) -> None:
    space = load_label_space("in1k")
    logits = RNG.normal(0, scale, (6, space.num_classes)).astype(np.float32)
    masses = class_masses(space.tree, logits, "leaf_softmax")
    counted = counted_classes(space.tree, None)

    kept = compact_masses(masses, "leaf_softmax", counted)

    concepts = concepts_of(space)
    exact, found = (concept_probabilities(concepts, m) for m in (masses, restored(kept, counted)))
    assert np.abs(exact - found).max() <= BOUND + 1e-6
    # The worst set of all, which may be no concept: every class that is off to one side.
    off = masses - restored(kept, counted)
    assert np.maximum(off, 0).sum(axis=1).max() <= BOUND + 1e-6


def test_smoothed_probabilities_are_kept_in_few_classes() -> None:
    masses = np.full((1, 1000), 0.1 / 1000, np.float32)
    masses[0, 7] += 0.9

    [kept] = compact_masses(masses, "leaf_softmax", np.ones(1000, bool))

    assert kept.classes.tolist() == [7]
    assert kept.probabilities[0] == pytest.approx(0.9001, abs=5e-4)
    assert kept.rest == pytest.approx(1e-4, rel=1e-5)


def test_a_sigmoid_head_keeps_what_is_above_the_bound() -> None:
    masses = np.array([[0.9, 0.001, 0.3, 0.0]], np.float32)

    [kept] = compact_masses(masses, "sigmoid", np.ones(4, bool))

    assert kept.classes.tolist() == [0, 2]
    assert kept.rest == 0


def test_withdrawn_classes_take_no_part_in_the_mean() -> None:
    counted = np.array([True, True, True, False])
    masses = np.array([[0.999, 0.0005, 0.0005, 0.0]], np.float32)

    [kept] = compact_masses(masses, "leaf_softmax", counted)

    assert kept.rest == pytest.approx(0.0005)
