"""Which nodes and concepts words find, and in which order."""

from __future__ import annotations

import numpy as np
import pytest

from miil21k.errors import UnknownClass
from miil21k.hierarchy.concepts import Concepts, concepts_of
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.search import find, find_one, near, search_concepts
from miil21k.hierarchy.spaces import LabelSpace
from miil21k.hierarchy.tree import Tree


def space_of(rows: list[tuple[str, str]]) -> LabelSpace:
    """Return a space without edges, of lemmas joined by `|` and a gloss per node."""
    lemmas, glosses = (list(column) for column in zip(*rows, strict=True))
    wnids = tuple(f"w{number}" for number in range(len(rows)))
    names = tuple(text.split("|")[0] for text in lemmas)
    return LabelSpace("drawn", Tree(wnids, names, np.full(len(rows), -1), len(rows)), lemmas, glosses)


SPACE = space_of(
    [
        ("education", "what teaches about cats, siamese or not"),  # every word, in the gloss alone
        ("cattle|siamese cattle", "cows"),  # the words begin two words of one lemma
        ("Siamese|house cat", "the words stand in two lemmas"),
        ("pet|Siamese_cat", "the whole query is a lemma"),
        ("big siamese cat", "the words are in one lemma, with another"),
        ("location", "siamese"),  # one of the words, in the middle of another
    ]
)


@pytest.fixture
def concepts() -> Concepts:
    return concepts_of(SPACE)


def test_a_whole_lemma_comes_before_the_words_in_one_and_these_before_words_anywhere(concepts: Concepts) -> None:
    assert search_concepts(concepts, "siamese cat") == [3, 1, 4, 0, 2]
    assert search_concepts(concepts, " CAT  siamese ") == [1, 3, 4, 0, 2]


@pytest.mark.parametrize("query", ["", "  ", "(),", "zebra", "siamese zebra", "iamese"])
def test_what_no_concept_holds_is_not_found(concepts: Concepts, query: str) -> None:
    assert search_concepts(concepts, query) == []


def test_punctuation_stands_for_a_space_on_both_sides(concepts: Concepts) -> None:
    assert search_concepts(concepts, "cats,siamese") == [0]
    assert search_concepts(concepts, "siamese/cat (big)") == [4]


def test_the_ranking_of_a_shipped_space_is_the_documented_one() -> None:
    concepts = concepts_of(load_label_space("in1k"))
    found = search_concepts(concepts, "cat")
    whole = [c for c in found if "cat" in (lemma.word.casefold() for lemma in concepts.lemmas(c))]
    assert found[: len(whole)] == whole == sorted(whole)
    assert concepts.wnids[found[0]] == "n02121620"


def test_a_key_names_nodes_by_wnid_or_by_any_lemma() -> None:
    assert find(SPACE, "w2") == find(SPACE, "house  CAT") == find(SPACE, "house_cat") == [2]
    assert find_one(SPACE, "siamese cat") == 3
    twins = space_of([("crane", "a bird"), ("boat", ""), ("crane|hoist", "a machine")])
    assert find(twins, "crane") == [0, 2]
    with pytest.raises(UnknownClass, match=r"2 nodes of 'drawn' are named 'crane'.*w0 \(a bird\); w2 \(a machine\)"):
        find_one(twins, "crane")


def test_near_spellings_come_best_first_and_not_too_many() -> None:
    assert near(SPACE, "siamese catt") == [3, 1, 4]
    assert near(SPACE, "siamese catt", 1) == [3]
    winter21 = load_label_space("winter21")
    assert winter21.tree.wnids[near(winter21, "n0212359")[0]].startswith("n0212359")
    with pytest.raises(UnknownClass) as refused:
        find(SPACE, "hause cat")
    assert str(refused.value) == ("No node 'hause cat' in label space 'drawn' (6 classes). Near: 'Siamese' (w2).")
    with pytest.raises(UnknownClass) as refused:
        find(SPACE, "siamese catt")
    assert str(refused.value).endswith("Near: 'pet' (w3), 'cattle' (w1), 'big siamese cat' (w4).")
    with pytest.raises(UnknownClass) as refused:
        find(SPACE, "xyzzy")
    assert str(refused.value) == "No node 'xyzzy' in label space 'drawn' (6 classes). Try 'miil21k tree search'."


def test_at_most_eight_near_nodes_are_listed_and_three_told() -> None:
    many = space_of([(f"house {letter}", "") for letter in "abcdefghij"])
    assert len(near(many, "house")) == 8
    with pytest.raises(UnknownClass) as refused:
        find(many, "house")
    assert str(refused.value).count("'house ") == 3
    shared = space_of([("crane", "a bird"), ("crane", "a machine"), ("crate", "")])
    assert near(shared, "crane") == [0, 1, 2]
    assert near(shared, "crane", 1) == [0]
    wnids = Tree.from_parents([f"n0000000{digit}" for digit in "123"], [None] * 3)
    numbered = LabelSpace("numbered", wnids, wnids.names, ("",) * 3)
    assert sorted(near(numbered, "n00000009")) == [0, 1, 2]
    assert near(numbered, "n77777777") == []
