"""Answers on concepts, against loops over sets; their paths in words; and what the score of a sample promises."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from reference_concepts import class_sets

from miil21k.calibrate.guarantee import conformal_threshold
from miil21k.decode.concept_reading import (
    TACIT,
    concept_paths,
    information,
    read_concepts,
    reading_scores,
    right_answers,
    right_concepts,
    vocabulary,
)
from miil21k.decode.concepts import concept_probabilities
from miil21k.decode.restriction import viable
from miil21k.errors import UsageError
from miil21k.hierarchy.concepts import Concepts, concepts_of
from miil21k.hierarchy.load import load_label_space, load_own
from miil21k.hierarchy.nouns import wordnet_nouns
from miil21k.hierarchy.spaces import withdrawn_classes

if TYPE_CHECKING:
    from pathlib import Path

GOLDEN = {  # of winter21
    "n02084071": "animal > domestic animal > dog",
    "n02083346": "animal > vertebrate > mammal > carnivore > canine",
    "n02114100": "animal > vertebrate > mammal > carnivore > canine > wolf",
    "n02123045": "animal > vertebrate > mammal > carnivore > feline > cat > domestic cat > tabby",
    "n02129165": "animal > vertebrate > mammal > carnivore > feline > big cat > lion",
    "n01562265": "animal > vertebrate > bird > passerine > thrush > robin",
    "n01443537": "animal > vertebrate > fish > bony fish > soft-finned fish > cypriniform fish > cyprinid > goldfish",
    "n01726692": "animal > vertebrate > reptile > snake",
    "n01772222": "animal > invertebrate > arthropod > arachnid > spider",
    "n01466257": "animal > chordate",
    "n00007846": "person",
    "n10565667": "person > scuba diver",
    "n09835506": "person > contestant > player > ballplayer",
    "n12268246": "plant > woody plant > tree > oak",
    "n12620196": "plant > woody plant > shrub > rose",
    "n11978233": "plant > flower > sunflower",
    "n11939491": "plant > flower > daisy",
    "n12421683": "plant > bulbous plant > narcissus > daffodil",
    "n13001041": "fungus > basidiomycete > agaric > mushroom",
    "n13134947": "natural object > plant part > fruit",
    "n07920052": "liquid > beverage > coffee > espresso",
    "n00021265": "food",
    "n09472597": "geological formation > natural elevation > mountain > volcano",
    "n03028079": "artifact > structure > building > place of worship > church",
    "n04285008": "artifact > conveyance > vehicle > wheeled vehicle > self-propelled vehicle > motor vehicle > car"
    " > sports car",
    "n02690373": "artifact > conveyance > vehicle > craft > aircraft > heavier-than-air craft > airplane > airliner",
    "n02676566": "artifact > device > musical instrument > stringed instrument > guitar > acoustic guitar",
    "n03642806": "artifact > device > machine > computer > digital computer > personal computer > portable computer"
    " > laptop",
    "n04398044": "artifact > implement > utensil > kitchen utensil > cooking utensil > pot > teapot",
    "n04099969": "artifact > furnishing > furniture > seat > chair > rocking chair",
}


@pytest.fixture(scope="module")
def winter21() -> Concepts:
    return concepts_of(load_label_space("winter21"))


@pytest.fixture
def zoo(tmp_path: Path) -> Concepts:
    """Return 18 nodes over nine classes; pets and swimmers lie across the mammals, two sets have two names."""
    edges = """animal, mammal,animal furry,mammal pet,animal swimmer,animal canine,furry feline,furry
    dog,canine dog,pet wolf,canine cat,feline cat,pet lion,feline whale,mammal whale,swimmer trout,swimmer
    goldfish,swimmer goldfish,pet lonely,animal oyster,lonely whaleish,mammal blue,whaleish"""
    path = tmp_path / "zoo.csv"
    path.write_text("child,parent\n" + "\n".join(edges.split()) + "\n")
    return concepts_of(load_own(path))


@lru_cache(maxsize=4)
def slow_speakers(concepts: Concepts) -> dict[frozenset[int], int]:
    """Return the concept that speaks for each set of classes."""
    found: dict[frozenset[int], int] = {}
    for concept, below in enumerate(class_sets(concepts)):
        key = frozenset(below)
        rival = found.get(key)
        rank = (concept >= concepts.num_classes, -concepts.depth[concept], concept)
        if rival is None or rank < (rival >= concepts.num_classes, -concepts.depth[rival], rival):
            found[key] = concept
    return found


def slow_answer(speakers: dict[frozenset[int], int], classes: int, row: np.ndarray, level: float, bits: float) -> int:
    sure = [(len(s), -row[c], c) for s, c in speakers.items() if row[c] >= level and len(s) * 2**bits <= classes]
    return min(sure)[2] if sure else -1


def drawn(concepts: Concepts, count: int, spread: float, seed: int = 0) -> np.ndarray:
    masses = np.random.default_rng(seed).dirichlet(np.full(concepts.num_classes, spread), count)
    return concept_probabilities(concepts, masses.astype(np.float32))


def names(concepts: Concepts, found: np.ndarray) -> list[str]:
    return ["-" if one < 0 else concepts.wnids[one] for one in found.tolist()]


def test_a_concept_says_the_logarithm_of_what_it_excludes(winter21: Concepts) -> None:
    bits = information(winter21)
    at = winter21.index_of
    assert bits[at["n00001740"]] == 0  # entity
    assert bits[at["n01861778"]] == pytest.approx(np.log2(10450 / 693))  # mammal
    assert bits[at["n02123045"]] == pytest.approx(np.log2(10450))  # a leaf
    half = np.arange(winter21.num_classes) % 2 == 0
    assert information(winter21, half)[at["n00001740"]] == 0
    with pytest.raises(UsageError, match="min_bits=-1"):
        vocabulary(winter21, min_bits=-1)


def test_of_concepts_with_one_set_the_class_speaks_else_the_lowest(zoo: Concepts) -> None:
    words = vocabulary(zoo, min_bits=0)
    spoken = {zoo.wnids[one] for one in words.order.tolist()}
    assert {zoo.wnids[one] for one in slow_speakers(zoo).values()} == spoken
    assert "oyster" in spoken  # the class, not `lonely`
    assert "lonely" not in spoken
    assert words.order.tolist() == sorted(words.order.tolist(), key=lambda one: (zoo.num_below[one], one))


@pytest.mark.parametrize("name", ["in1k", pytest.param("winter21", marks=pytest.mark.slow)])
def test_shipped_sets_are_told_apart_as_sets_are(name: str) -> None:
    concepts = concepts_of(load_label_space(name))
    assert sorted(vocabulary(concepts, min_bits=0).order.tolist()) == sorted(slow_speakers(concepts).values())


@pytest.mark.parametrize("level", [0.05, 0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("bits", [0.0, 1.0])
def test_the_answer_is_the_most_informative_that_is_sure(zoo: Concepts, level: float, bits: float) -> None:
    probabilities = drawn(zoo, 300, 0.3)
    found = read_concepts(vocabulary(zoo, min_bits=bits), probabilities, level)
    speakers = slow_speakers(zoo)
    slow = [slow_answer(speakers, zoo.num_classes, row, level - 1e-6, bits) for row in probabilities]
    assert found.concept.tolist() == slow
    assert len(set(slow)) > 1
    at = np.flatnonzero(found.concept >= 0)
    np.testing.assert_array_equal(found.prob[at], probabilities[at, found.concept[at]])
    assert (found.prob[found.concept < 0] == 0).all()


def test_a_shipped_space_is_read_as_loops_read_it() -> None:
    concepts = concepts_of(load_label_space("in1k"))
    probabilities = drawn(concepts, 40, 0.005)
    for level in (0.4, 0.9):
        slow = [slow_answer(slow_speakers(concepts), 1000, row, level - 1e-6, 1) for row in probabilities]
        assert read_concepts(vocabulary(concepts), probabilities, level).concept.tolist() == slow


def test_dog_or_wolf_is_canine(winter21: Concepts) -> None:
    masses = np.zeros((2, 10450), np.float32)
    masses[0, [winter21.index_of["n02111500"], winter21.index_of["n02114367"]]] = 0.5  # Great Pyrenees, timber wolf
    masses[1, [winter21.index_of["n02111500"], winter21.index_of["n03028079"]]] = 0.5  # Great Pyrenees, church
    probabilities = concept_probabilities(winter21, masses)
    words = vocabulary(winter21)
    found = read_concepts(words, probabilities, 0.9)
    assert [winter21.name(found.concept[0]), found.concept[1], found.prob[1]] == ["canine", -1, 0]
    paths = concept_paths(words, probabilities, found.concept)
    assert paths.length.tolist() == [5, 0]
    assert [winter21.name(one) for one in paths.nodes[0, :5]] == [
        "animal",
        "vertebrate",
        "mammal",
        "carnivore",
        "canine",
    ]
    np.testing.assert_allclose(paths.probs[0, :5], 1, atol=1e-6)
    assert (paths.nodes[1] == -1).all()
    whole = read_concepts(vocabulary(winter21, min_bits=0), probabilities, 0.9)
    assert winter21.name(whole.concept[1]) == "whole"


def test_thirty_golden_paths(winter21: Concepts) -> None:
    answers = np.array([winter21.index_of[wnid] for wnid in GOLDEN], np.int32)
    probabilities = drawn(winter21, 30, 0.1)
    paths = concept_paths(vocabulary(winter21), probabilities, answers)
    said = [" > ".join(winter21.name(one) for one in row[row >= 0]) for row in paths.nodes]
    assert said == list(GOLDEN.values())
    assert (np.diff(paths.probs, axis=1)[paths.nodes[:, 1:] >= 0] <= 0).all()
    np.testing.assert_array_equal(paths.nodes[np.arange(30), paths.length - 1], answers)


def test_tacit_steps_are_the_nouns_that_they_are_said_to_be() -> None:
    nouns = wordnet_nouns()
    assert {wnid: nouns.lemma_text(wnid).split("|")[0].split("#")[0] for wnid in TACIT} == TACIT


def test_a_step_with_the_classes_of_the_next_is_left_out(zoo: Concepts) -> None:
    words = vocabulary(zoo)
    answers = np.array([zoo.index_of[name] for name in ("blue", "oyster", "dog")], np.int32)
    paths = concept_paths(words, drawn(zoo, 3, 1.0), answers)
    said = [names(zoo, row[row >= 0]) for row in paths.nodes]
    # A pet may be three things, a canine two.
    assert said == [["animal", "mammal", "blue"], ["animal", "oyster"], ["animal", "mammal", "furry", "canine", "dog"]]


def test_what_is_hidden_is_neither_answer_nor_step() -> None:
    concepts = concepts_of(load_label_space("fall11"))
    withdrawn = withdrawn_classes(concepts.space)
    existing = viable(concepts.space.tree, ~withdrawn)[: concepts.num_classes]
    hidden = np.append(withdrawn, np.zeros(len(concepts) - concepts.num_classes, bool))
    words = vocabulary(concepts, existing=existing, hidden=hidden)
    assert not hidden[words.order].any()
    shown = words.order[words.order < concepts.num_classes]
    paths = concept_paths(words, np.zeros((shown.size, len(concepts)), np.float32), shown.astype(np.int32))
    assert not hidden[paths.nodes[paths.nodes >= 0]].any()
    worker = concepts.index_of["n09632518"]
    assert withdrawn[worker]
    masses = np.zeros((1, concepts.num_classes), np.float32)
    masses[0, worker] = 1
    found = read_concepts(words, concept_probabilities(concepts, masses), 0.9)
    assert concepts.name(found.concept[0]) == "person"


@pytest.mark.parametrize("level", [0, 1.1])
def test_impossible_levels_and_shapes_are_refused(zoo: Concepts, level: float) -> None:
    words = vocabulary(zoo)
    with pytest.raises(UsageError, match="above 0 and up to 1"):
        read_concepts(words, drawn(zoo, 2, 1.0), level)
    with pytest.raises(UsageError, match=rf"shape \[batch, {len(zoo)}\]"):
        read_concepts(words, np.zeros((2, 3), np.float32), 0.5)


def test_right_is_what_holds_the_label_or_lies_in_it(zoo: Concepts) -> None:
    right = right_concepts(zoo, zoo.index_of["canine"])
    assert {zoo.wnids[one] for one in np.flatnonzero(right)} == {"animal", "mammal", "furry", "canine", "dog", "wolf"}
    right = right_concepts(zoo, zoo.index_of["oyster"])
    assert {zoo.wnids[one] for one in np.flatnonzero(right)} == {"animal", "lonely", "oyster"}


def test_an_answer_is_held_against_the_label_of_its_own_row(zoo: Concepts) -> None:
    rows = [
        ("canine", "dog", True), ("dog", "canine", True), ("oyster", "dog", False), ("animal", "oyster", True),
        ("oyster", "oyster", True), ("furry", "oyster", False),
    ]  # fmt: skip
    answers = np.array([zoo.index_of[answer] for answer, _, _ in rows] + [-1])
    labels = np.array([zoo.index_of[label] for _, label, _ in rows] + [0])
    assert right_answers(zoo, answers, labels).tolist() == [right for _, _, right in rows] + [True]


def slow_score(concepts: Concepts, row: np.ndarray, label: int, bits: float) -> float:
    """Return the largest P of a wrong answer over all levels at which the answer can change."""
    speakers, right = slow_speakers(concepts), right_concepts(concepts, label)
    worst = 0.0
    for level in np.unique(row[row > 0]):
        answer = slow_answer(speakers, concepts.num_classes, row, level, bits)
        if answer >= 0 and not right[answer]:
            worst = max(worst, float(row[answer]))
    return worst


def test_the_score_is_the_surest_wrong_answer_of_any_level(zoo: Concepts) -> None:
    probabilities = drawn(zoo, 200, 0.4, seed=1)
    labels = np.random.default_rng(2).integers(0, len(zoo), 200)
    scores = reading_scores(zoo, vocabulary(zoo), probabilities, labels)
    slow = [slow_score(zoo, row, label, 1) for row, label in zip(probabilities, labels.tolist(), strict=True)]
    np.testing.assert_array_equal(scores, slow)
    assert 0 < np.count_nonzero(scores == 0) < 200


def tree_scores(concepts: Concepts, probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return P of the first wrong step on the way to the most probable class, the score that is valid on a tree."""
    top = probabilities[:, : concepts.num_classes].argmax(axis=1).astype(np.int32)
    paths = concept_paths(vocabulary(concepts), probabilities, top)
    right = np.stack([right_concepts(concepts, label) for label in labels.tolist()])
    wrong = ~right[np.arange(len(top))[:, None], paths.nodes] & (paths.nodes >= 0)
    return np.where(wrong, paths.probs, 0).max(axis=1).astype(np.float64)


def dogs_and_cats(concepts: Concepts, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities that are true, and labels: a dog is the best class, but a cat or lion is more probable.

    Where the dog is the truth, a low level is right (dog), a middle one wrong (feline), and a high one right (furry).
    """
    rng = np.random.default_rng(seed)
    dog, cat, lion = (concepts.index_of[name] for name in ("dog", "cat", "lion"))
    masses = np.zeros((count, concepts.num_classes))
    masses[:, dog] = 0.35 + 0.05 * rng.random(count)
    masses[:, cat] = 0.25 + 0.05 * rng.random(count)
    masses[:, lion] = 1 - masses.sum(axis=1)
    labels = np.array([dog, cat, lion])[(masses[:, [dog, cat, lion]].cumsum(1) < rng.random((count, 1))).sum(1)]
    return concept_probabilities(concepts, masses.astype(np.float32)), labels


def test_the_guarantee_holds_where_correctness_is_not_monotone_in_the_level(zoo: Concepts) -> None:
    words = vocabulary(zoo)
    right = {label: right_concepts(zoo, label) for label in range(zoo.num_classes)}

    def fine(p: np.ndarray, truth: np.ndarray, level: float) -> np.ndarray:
        found = read_concepts(words, p, level).concept
        return np.array([a < 0 or right[t][a] for a, t in zip(found.tolist(), truth.tolist(), strict=True)])

    probabilities, labels = dogs_and_cats(zoo, 400, 0)
    low, middle, high = (fine(probabilities, labels, level) for level in (0.32, 0.5, 0.9))
    assert (low & ~middle & high).mean() > 0.25

    delivered: dict[str, list[float]] = {"concepts": [], "tree": []}
    for draw in range(100):
        fitted, truth = dogs_and_cats(zoo, 100, 2 * draw + 1)
        fresh, fresh_truth = dogs_and_cats(zoo, 100, 2 * draw + 2)
        for name, scores in (
            ("concepts", reading_scores(zoo, words, fitted, truth)),
            ("tree", tree_scores(zoo, fitted, truth)),
        ):
            delivered[name].append(fine(fresh, fresh_truth, conformal_threshold(scores, 0.8)).mean())
    assert np.mean(delivered["concepts"]) >= 0.79  # 0.8 on average, of 100 draws
    assert np.mean(delivered["tree"]) < 0.7
