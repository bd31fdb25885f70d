"""Concepts: how many there are, what lies below them, and what an own hierarchy makes of them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from reference_concepts import class_sets

from miil21k.errors import TreeError
from miil21k.hierarchy.concepts import Concepts, concepts_of
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import LABEL_SPACES, LabelSpace

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.hierarchy.tree import Tree

COUNTS = {"fall11": 13034, "winter21": 11979, "goog21k": 23547, "in1k": 1860}
# how many classes of ImageNet-1K are one, and how many of them the published tree holds below a node of that name
BELOW = {"mammal": (218, 95), "vehicle": (67, 21), "canine": (130, 12), "bird": (59, 52), "food": (26, 19)}
WNIDS = {
    "mammal": "n01861778", "vehicle": "n04524313", "canine": "n02083346", "bird": "n01503061", "food": "n00021265",
}  # fmt: skip


def named(name: str) -> Concepts:
    return concepts_of(load_label_space(name))


@pytest.mark.parametrize("name", LABEL_SPACES)
def test_every_space_has_its_concepts_with_the_tree_first(name: str) -> None:
    concepts = named(name)
    tree = load_label_space(name).tree
    assert len(concepts) == COUNTS[name]
    assert concepts.wnids[: tree.num_nodes] == tree.wnids
    assert list(concepts.wnids[tree.num_nodes :]) == sorted(concepts.wnids[tree.num_nodes :])
    assert concepts.num_below.max() == concepts.num_classes == concepts.num_below[concepts.index_of["n00001740"]]
    assert concepts.num_below.min() == 1
    assert concepts_of(load_label_space(name)) is concepts
    below = np.flatnonzero(tree.parent >= 0)  # a parent in the tree is a hypernym along some chain
    assert (concepts.num_below[tree.parent[below]] >= concepts.num_below[below]).all()


@pytest.mark.parametrize("name", ["in1k", "winter21"])
def test_the_classes_below_equal_the_slow_sets(name: str) -> None:
    concepts = named(name)
    slow = class_sets(concepts)
    assert [len(found) for found in slow] == concepts.num_below.tolist()
    owners = set(concepts.cover.owners.tolist())
    for concept in [*owners, *range(0, len(concepts), 17)]:
        assert concepts.classes(concept).tolist() == sorted(slow[concept])
    chosen = np.zeros(concepts.num_classes, bool)
    chosen[::3] = True
    every_third = set(range(0, concepts.num_classes, 3))
    assert concepts.count(chosen).tolist() == [len(found & every_third) for found in slow]


@pytest.mark.parametrize("name", list(BELOW))
def test_concepts_of_in1k_hold_what_the_published_tree_does_not(name: str) -> None:
    concepts, space = named("in1k"), load_label_space("in1k")
    concept = concepts.index_of[WNIDS[name]]
    in_concept, in_tree = BELOW[name]
    assert concepts.num_below[concept] == in_concept
    assert (space.tree.descendants(space.tree.index(WNIDS[name])) < space.num_classes).sum() == in_tree


def test_a_dog_is_a_canine_and_a_domestic_animal() -> None:
    concepts = named("winter21")
    dog = concepts.index_of["n02084071"]
    assert [concepts.name(p) for p in concepts.parents(dog)] == ["domestic animal", "canine"]
    chains = [[concepts.name(step) for step in path][-4:] for path in concepts.paths(dog)]
    assert chains == [
        ["organism", "animal", "domestic animal", "dog"],
        ["placental", "carnivore", "canine", "dog"],
    ]
    assert {concepts.name(k) for k in concepts.ancestors(dog)} >= {"entity", "mammal", "carnivore", "domestic animal"}
    assert dog in concepts.children(concepts.index_of["n02083346"])
    assert concepts.lemmas(dog) == (("dog", 1, 42), ("domestic dog", 1, 0), ("Canis familiaris", 1, 0))


def test_cat_and_dog_meet_at_carnivore_and_each_has_its_chain() -> None:
    concepts = named("winter21")
    cat, dog, sun = (concepts.index_of[w] for w in ("n02121620", "n02084071", "n09450163"))
    top = concepts.meet(cat, dog)
    assert concepts.name(top) == "carnivore"
    assert [concepts.name(c) for c in concepts.chain(top, dog)] == ["carnivore", "canine", "dog"]
    assert [concepts.name(c) for c in concepts.chain(top, cat)] == ["carnivore", "feline", "cat"]
    assert concepts.meet(dog, dog) == dog
    assert concepts.chain(dog, dog) == (dog,)
    assert concepts.name(concepts.meet(sun, dog)) == "whole"
    with pytest.raises(TreeError, match="'n02121620' is not above 'n02084071'"):
        concepts.chain(cat, dog)


def test_words_come_from_the_space_the_graph_or_goog21k() -> None:
    concepts = named("in1k")
    entity, canine = concepts.index_of["n00001740"], concepts.index_of["n02083346"]
    assert (concepts.name(entity), concepts.gloss(entity)[:13]) == ("entity", "that which is")
    assert (
        concepts.gloss(canine) == "any of various fissiped mammals with nonretractile claws and typically long muzzles"
    )
    assert concepts.gloss(0) == load_label_space("in1k").glosses[0]


def test_a_concept_of_a_shared_name_is_shown_with_its_wnid() -> None:
    concepts = named("in1k")
    shown = [concepts.display_name(concept) for concept in range(len(concepts))]
    assert sum(name != concepts.name(concept) for concept, name in enumerate(shown)) == 83
    index = concepts.index_of
    assert shown[index["n02012849"]] == "crane (n02012849)"  # a node of the tree
    assert shown[index["n02788689"]] == "bar (n02788689)"
    assert shown[index["n00001740"]] == "entity"


def test_what_lies_within_a_concept_has_all_its_classes_there() -> None:
    concepts = named("in1k")
    index = concepts.index_of
    within = {wnid: concepts.within(index[wnid]) for wnid in ("n00001740", "n02083346", "n02012849")}
    assert [int(inside.sum()) for inside in within.values()] == [1860, 171, 1]
    assert within["n02083346"][index["n02084071"]]  # a dog is a canine
    assert not within["n02083346"][index["n01317541"]]  # some domestic animals are cats
    assert within["n02012849"][index["n02012849"]]


def test_the_digest_follows_edges_and_classes() -> None:
    concepts = named("in1k")
    edges = concepts.child, concepts.parent
    assert Concepts(concepts.space, concepts.wnids, *edges).sha256 == concepts.sha256
    assert Concepts(concepts.space, concepts.wnids, edges[0][:-1], edges[1][:-1]).sha256 != concepts.sha256


def test_printing_concepts_is_one_short_line() -> None:
    assert repr(named("in1k")) == "Concepts('in1k', 1860 concepts, 1000 classes)"


def test_a_tree_of_other_words_is_its_own_graph(zoo_tree: Tree) -> None:
    space = LabelSpace("zoo", zoo_tree, zoo_tree.names, ("",) * 9)
    concepts = concepts_of(space)
    assert concepts.wnids == zoo_tree.wnids
    assert concepts.cover.owners.size == 0
    assert concepts.num_below.tolist() == [1, 3, 1, 5, 1, 1, 1, 1, 2]
    assert concepts.classes(3).tolist() == [0, 1, 2, 3, 4]
    assert concepts.lemmas(0) == (("husky", 0, 0),)
    assert concepts.gloss(0) == ""


def test_an_own_graph_keeps_all_its_edges(tmp_path: Path) -> None:
    path = tmp_path / "pets.csv"
    path.write_text("child,parent\npet,\nwild,\ncanine,\ndog,pet\nwolf,wild\nwolf,canine\ndog,canine\ncat,pet\n")
    concepts = concepts_of(load_label_space(path))
    assert {w: {concepts.wnids[c] for c in concepts.classes(k)} for w, k in concepts.index_of.items()} == {
        "dog": {"dog"},
        "wolf": {"wolf"},
        "cat": {"cat"},
        "pet": {"dog", "cat"},
        "wild": {"wolf"},
        "canine": {"dog", "wolf"},
    }


def test_wnid_leaves_are_joined_with_wordnet_and_own_edges_that_it_lacks_stay(tmp_path: Path) -> None:
    path = tmp_path / "pets.csv"
    path.write_text("child,parent\nwarm,\nn00015388,\nn02123045,n00015388\nn02123045,warm\nn02084071,n00015388\n")
    concepts = concepts_of(load_label_space(path))
    tabby, dog = concepts.index_of["n02123045"], concepts.index_of["n02084071"]
    assert [concepts.wnids[p] for p in concepts.parents(tabby)] == ["n02121808", "warm"]  # an animal by WordNet already
    assert concepts.classes(concepts.index_of["n02075296"]).tolist() == [tabby, dog]  # carnivore
    assert concepts.classes(concepts.index_of["warm"]).tolist() == [tabby]


def test_a_wnid_outside_of_imagenet_finds_its_hypernyms(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("child,parent\nthings,\nn02084071,things\nn05946687,things\n")  # religion
    concepts = concepts_of(load_label_space(path))
    assert concepts.classes(concepts.index_of["n00001740"]).tolist() == [0, 1]
    assert concepts.lemmas(1) == (("n05946687", 0, 0),)  # the user's own name
    assert {"n04847991", "n05941423"} <= set(concepts.index_of)  # both of its hypernyms


def test_a_cycle_between_own_edges_and_wordnet_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("child,parent\nn02084071,\nn02083346,n02084071\nn02123045,n02083346\n")  # a canine is a dog?
    with pytest.raises(TreeError, match=r"'own' form a cycle: 'n0208.*' -> 'n0208.*' -> 'n0208"):
        concepts_of(load_label_space(path))


def test_concepts_are_read_only_when_they_are_asked_for() -> None:
    script = (
        "import sys, miil21k; miil21k.load_label_space('winter21').tree\n"
        "print(*sorted({'miil21k.hierarchy.concepts', 'miil21k.hierarchy.nouns', 'gzip'} & set(sys.modules)))\n"
        "from miil21k.hierarchy import concepts, nouns\n"
        "space = miil21k.load_label_space('in1k'); concepts.concepts_of(space).num_below\n"
        "print(nouns.wordnet_nouns.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["", "0"]


def test_indices_are_of_four_bytes_and_cannot_be_written_to() -> None:
    concepts = named("in1k")
    concept = concepts.index_of["n02083346"]
    found = {
        "child": concepts.child, "parent": concepts.parent, "depth": concepts.depth, "below": concepts.num_below,
        "classes": concepts.classes(concept), "children": concepts.children(concept),
        "parents": concepts.parents(concept), "owners": concepts.cover.owners, "starts": concepts.cover.starts,
        "branches": concepts.cover.branches, "count": concepts.count(np.ones(1000, bool)),
    }  # fmt: skip
    assert {name: str(array.dtype) for name, array in found.items()} == dict.fromkeys(found, "int32")
    for name in ("child", "parent", "depth"):
        with pytest.raises(ValueError, match="read-only"):
            found[name][0] = 1


def test_a_class_that_two_ways_lead_to_is_counted_once(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("child,parent\npet,\nlarge,\ndog,pet\nboxer,dog\npug,dog\ndog,large\nboxer,large\npug,large\n")
    concepts = concepts_of(load_label_space(path))
    large = concepts.index_of["large"]
    assert concepts.num_below[large] == 2
    assert concepts.classes(large).tolist() == [concepts.index_of["boxer"], concepts.index_of["pug"]]
    assert [concepts.wnids[branch] for branch in concepts.cover.branches.tolist()] == ["dog"]


@pytest.mark.parametrize("name", ["in1k", "fall11"])
def test_a_word_is_searched_as_it_is_looked_up(name: str) -> None:
    fresh = dataclasses.replace(concepts_of(load_label_space(name)))  # has taken no lemma apart
    whole = concepts_of(load_label_space(name)).named
    words = [
        *sorted(whole)[:: len(whole) // 40],
        "crane",
        "dog",
        "cat",
        "big cat",
        "n02084071",
        "entity",
        "no such word",
        "",
    ]
    found = {word: fresh.meanings(word) for word in words}
    assert found == {word: whole.get(word, []) for word in words}
    assert "named" not in vars(fresh)


def test_own_names_are_searched_too(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("child,parent,name\nn02084071,,Hound_Dog|mutt\nn02110958,n02084071,pug\nn02123045,,tabby\n")
    concepts = concepts_of(load_label_space(path))
    fresh = dataclasses.replace(concepts)
    assert [concept for concept, _ in fresh.meanings("hound dog")] == [fresh.index_of["n02084071"]]
    assert fresh.meanings("dog") == concepts.named.get("dog", [])
