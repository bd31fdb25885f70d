"""P(label) of a user's own labels: pooled masses, and the path of labels that is sure enough."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from miil21k.calibrate.record import Calibration, mask_digest
from miil21k.decode.decoder import Decoder
from miil21k.errors import UsageError
from miil21k.hierarchy.bin_lines import bin_lines
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.load import load_label_space

IN1K = load_label_space("in1k")
LINES = bin_lines(
    [
        ("animal", "animal"),
        ("bird", "bird", "animal"),
        ("pet", "", "animal"),
        ("dog", "dog", "pet"),
        ("dog", "wolf"),
        ("cat", "cat", "pet"),
        ("vehicle", "vehicle"),
    ]
)


def slowly(decoder: Decoder, logits: np.ndarray, head: str) -> np.ndarray:
    """Return P of each label: over the set of its classes and of those of all labels below it."""
    graph, bins = concepts_of(decoder.space), decoder.bins
    assert bins is not None
    fold = max if head == "sigmoid" else sum
    masses = decoder.read(logits).masses
    if decoder.restriction is not None:
        masses = masses * decoder.restriction.allowed
        if head != "sigmoid":
            masses = masses / masses.sum(axis=1, keepdims=True)
    own = [set().union(*(graph.classes(q.concept).tolist() for q in each), set()) for each in bins.questions]
    found = np.zeros((len(logits), len(bins)))
    rest = set(range(graph.num_classes)) - set().union(*own)
    for label in range(len(bins)):
        held = set().union(*(own[below] for below in bins.tree.descendants(label))) or rest
        for row in range(len(logits)):
            found[row, label] = fold(masses[row, sorted(held)].astype(float))
    return found


@pytest.mark.parametrize("restriction", [{}, {"under": "animal"}, {"exclude": ["dog", "motor vehicle"]}], ids=str)
@pytest.mark.parametrize("head", ["leaf_softmax", "level_softmax", "sigmoid"])
def test_labels_have_the_mass_of_their_classes_counted_once(head: str, restriction: dict[str, object]) -> None:
    space = load_label_space("fall11") if head == "level_softmax" else IN1K
    logits = 3 * np.random.default_rng(0).standard_normal((3, space.num_classes)).astype(np.float32)
    decoder = Decoder(space, head).binned(LINES).restricted(**restriction)  # type: ignore[arg-type]
    found = decoder.read(logits)
    assert found.bins == pytest.approx(slowly(decoder, logits, head), abs=2e-6)
    tree = decoder.bins.tree  # type: ignore[union-attr]
    inner = np.flatnonzero(tree.parent >= 0)
    assert (found.bins[:, inner] <= found.bins[:, tree.parent[inner]]).all()
    if head != "sigmoid":
        assert found.bins_alone.sum(axis=1) == pytest.approx(found.bins[:, tree.parent < 0].sum(axis=1), abs=1e-6)
        assert found.bins_alone.sum(axis=1) == pytest.approx(1, abs=1e-5)
    asked = decoder.asking(["bird", "vehicle"]).read(logits)
    if not restriction:
        labels = [decoder.bins.labels.index(label) for label in ("bird", "vehicle")]  # type: ignore[union-attr]
        assert found.bins[:, labels] == pytest.approx(asked.asked, abs=1e-6)


def test_the_answer_is_a_path_of_labels_as_far_as_they_are_sure() -> None:
    names = IN1K.tree.names

    def answer(level: float | None, *classes: str) -> list[str]:
        logits = np.full((1, 1000), -20, np.float32)
        logits[0, [names.index(name) for name in classes]] = 10
        decoder = Decoder(IN1K, "leaf_softmax", hedge=level).binned(LINES)
        path = decoder.read(logits).bins_path
        assert decoder.bins is not None
        return [decoder.bins.labels[node] for node in path.nodes[0, : path.length[0]]]

    assert answer(0.9, "Great Pyrenees", "timber wolf") == ["animal", "pet", "dog"]
    assert answer(0.9, "Great Pyrenees", "tabby") == ["animal", "pet"]
    assert answer(0.9, "tabby", "hen") == ["animal"]
    assert answer(0.9, "African elephant") == ["animal"]
    assert answer(0.9, "church", "espresso") == ["other"]
    assert answer(0.9, "church", "hen") == []
    assert answer(None, "church", "hen", "cock") == ["animal", "bird"]


def test_a_decoder_without_bins_says_so() -> None:
    with pytest.raises(UsageError, match=r"^This decoder has no bins: give it some with binned\(\)\.$"):
        _ = Decoder(IN1K, "leaf_softmax").read(np.zeros((1, 1000), np.float32)).bins


def test_a_withdrawn_class_that_is_a_step_counts_for_the_label_above_it() -> None:
    fall11 = load_label_space("fall11")
    logits = np.full((1, fall11.num_classes), -20, np.float32)
    logits[0, fall11.tree.names.index("worker")] = 10
    decoder = Decoder(fall11, "leaf_softmax").binned(bin_lines({"person": "person", "animal": ["bird", "dog"]}))
    assert decoder.read(logits).bins[0] == pytest.approx([1, 0, 0], abs=1e-3)


def test_bins_without_a_calibration_promise_nothing_and_say_nothing() -> None:
    decoder = Decoder(IN1K, "leaf_softmax", hedge=0.7).binned(LINES)
    plain = Decoder(IN1K, "leaf_softmax", hedge=0.7)
    assert not any("calibration" in note for note in (*decoder.notes, *plain.notes))
    assert (decoder.level, decoder.bins_level, plain.level) == (0.7, 0.7, 0.7)


def test_a_record_names_each_label_its_parent_and_its_concepts_and_gives_them_back() -> None:
    lines = bin_lines([("beast", "animal"), ("pet", "", "beast"), ("dog", "dog", "pet"), ("dog", "wolf", "pet")])
    decoder = Decoder(IN1K, "leaf_softmax").binned(lines)
    record = decoder.record()
    assert record["bins"] == [
        {"label": "beast", "parent": None, "concepts": ["n00015388"]},
        {"label": "pet", "parent": "beast", "concepts": []},
        {"label": "dog", "parent": "pet", "concepts": ["n02084071", "n02114100"]},
        {"label": "other", "parent": None, "concepts": []},
    ]
    again = Decoder.from_record(IN1K, "leaf_softmax", record)
    assert again.bins is not None
    assert decoder.bins is not None
    assert (again.bins.sha256, again.bins.labels) == (decoder.bins.sha256, ("beast", "pet", "dog", "other"))
    assert "bins" not in Decoder(IN1K, "leaf_softmax").record()


def test_a_calibration_of_bins_alone_gives_their_level_and_leaves_that_of_the_tree() -> None:
    decoder = Decoder(IN1K, "leaf_softmax").binned(LINES)
    assert decoder.bins is not None
    graph = concepts_of(IN1K)
    bins_alone = Calibration(
        label_space="in1k",
        sha256=IN1K.sha256,
        model="",
        weights="",
        head="leaf_softmax",
        rule="",
        allowed=mask_digest(None),
        temperature=(2.0,),
        thresholds=(),
        samples=(10, 10),
        bins=decoder.bins.sha256,
        bin_thresholds=((0.9, 0.4),),
    )
    said = "The calibration is of bins alone: the path stops where P < 0.9, which guarantees nothing."
    fixed = decoder.calibrated(bins_alone)
    assert (fixed.level, fixed.bins_level, said in fixed.notes) == (0.9, 0.4, True)
    assert said not in replace(fixed, hedge=None).notes
    whole = decoder.calibrated(replace(bins_alone, thresholds=((0.9, 0.5),)))
    assert (whole.level, whole.bins_level, said in whole.notes) == (0.5, 0.4, False)
    read = replace(bins_alone, concepts=graph.sha256, concept_thresholds=((0.9, 0.6),), min_bits=1.0)
    concepts = replace(decoder, reading="concepts").calibrated(read)
    assert (concepts.level, concepts.bins_level, said in concepts.notes) == (0.6, 0.4, False)
