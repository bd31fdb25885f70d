"""The index of all nouns: senses in their order of use, hypernyms, and words that are spelled alike."""

from __future__ import annotations

import pytest

from miil21k.hierarchy.nouns import Lemma, Nouns, fold, parse_lemma, singulars, wordnet_nouns


@pytest.mark.parametrize(
    ("text", "lemma"),
    [
        ("dog#1:42", Lemma("dog", 1, 42)),
        ("crane#5", Lemma("crane", 5, 0)),
        ("Canis familiaris", Lemma("Canis familiaris", 1, 0)),
    ],
)
def test_a_lemma_says_its_sense_and_how_often_it_was_tagged(text: str, lemma: Lemma) -> None:
    assert parse_lemma(text) == lemma


def test_crane_has_five_senses_in_their_order_of_use() -> None:
    found = wordnet_nouns().senses("Crane")
    assert [lemma.sense for _, lemma in found] == [1, 2, 3, 4, 5]
    assert [wnid for wnid, _ in found[3:]] == ["n03126707", "n02012849"]
    assert wordnet_nouns().senses("anis familiaris") == []  # whole lemmas only
    assert [wnid for wnid, _ in wordnet_nouns().senses("musical_instrument")] == ["n03800933"]


def test_hypernyms_of_any_noun_are_known() -> None:
    nouns = wordnet_nouns()
    assert nouns.hypernym_text("n02084071") == "n01317541 n02083346"
    assert nouns.hypernym_text("n00001740") == "-"
    assert nouns.lemma_text("n02084071") == "dog#1:42|domestic dog|Canis familiaris"
    assert "n02084071" in nouns
    assert "n02084072" not in nouns
    with pytest.raises(KeyError):
        nouns.hypernym_text("n02084072")
    with pytest.raises(KeyError):
        nouns.lemma_text("dog")


def test_near_words_begin_alike() -> None:
    assert wordnet_nouns().near("espreso", 1) == ["espresso"]
    assert wordnet_nouns().near("zzzzzz") == []
    first, second = "n00000001", "n00000002"
    nouns = Nouns(f"{first}\t-\tcrane#1:3|crate|Crana\n{second}\t{first}\tcraner#1|drane|cranes and boats\n")
    assert nouns.near("crane") == ["crane", "craner", "crate"]
    assert nouns.near("CRANE", 4) == ["crane", "craner", "crate", "crana"]
    assert nouns.near("crane", 1) == ["crane"]
    assert (nouns.hypernym_text(second), nouns.lemma_text(first)) == (first, "crane#1:3|crate|Crana")
    assert nouns.senses("Crate") == [(first, Lemma("crate", 1, 0))]
    assert nouns.senses("boats") == []
    assert (first in nouns, "n00000003" in nouns, "crate" in nouns) == (True, False, False)


@pytest.mark.parametrize(
    ("plural", "singular"),
    [("wolves", "wolf"), ("boxes", "box"), ("women", "woman"), ("berries", "berry"), ("dogs", "dog"), ("foxes", "fox")],
)
def test_plurals_lead_to_their_singular(plural: str, singular: str) -> None:
    assert singular in singulars(plural)
    assert singulars("s") == []
    assert fold("  Musical_Instrument ") == "musical instrument"
