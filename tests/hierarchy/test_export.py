"""A label space as text: every line of a small graph, of a branch of it, and of what lies around a concept."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.custom import from_csv
from miil21k.hierarchy.export import EXPORTS, neighbourhood_to_dot, to_csv, to_dot, to_json
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import LabelSpace
from miil21k.hierarchy.tree import Tree

if TYPE_CHECKING:
    from pathlib import Path

GRAPH = (
    "child,parent,name,gloss\npet,,pet,\ncanine,,canine,\n"
    'dog,pet,dog|hound,"a ""good"" one, käse"\npug,dog,pug,\ndog,canine,,\ncat,pet,cat,\n'
)
TREE = "pug dog\ncat pet\n\npet -\ncanine -\ndog pet\n"


@pytest.fixture
def pets(tmp_path: Path) -> LabelSpace:
    path = tmp_path / "pets.csv"
    path.write_text(GRAPH, encoding="utf-8")
    return from_csv(path)


def test_a_drawing_shows_classes_as_boxes_and_further_parents_dashed(pets: LabelSpace) -> None:
    assert to_dot(pets).split("\n") == [
        'digraph "pets" {',
        '  rankdir="LR";',
        '  "pug" [label="pug", shape=box];',
        '  "cat" [label="cat", shape=box];',
        '  "pet" [label="pet", shape=ellipse];',
        '  "canine" [label="canine", shape=ellipse];',
        '  "dog" [label="dog", shape=ellipse];',
        '  "dog" -> "pug";',
        '  "pet" -> "cat";',
        '  "pet" -> "dog";',
        '  "canine" -> "dog" [style=dashed];',
        "}",
        "",
    ]
    assert to_dot(pets, pets.tree.index("dog")).split("\n")[2:] == [
        '  "pug" [label="pug", shape=box];',
        '  "dog" [label="dog", shape=ellipse];',
        '  "dog" -> "pug";',
        "}",
        "",
    ]


def test_what_graphviz_would_read_as_its_own_is_escaped() -> None:
    tree = Tree.from_parents(['a"b\\c'], [None], ["two\nlines"])
    lines = to_dot(LabelSpace("x", tree, tree.names, ("",))).split("\n")
    assert lines[2] == r'  "a\"b\\c" [label="two\nlines", shape=box];'


def test_a_csv_has_one_row_per_node_and_one_per_further_parent(pets: LabelSpace) -> None:
    assert to_csv(pets).split("\n") == [
        "index,wnid,parent_wnid,name,gloss",
        "0,pug,dog,pug,",
        "1,cat,pet,cat,",
        ",pet,,pet,",
        ",canine,,canine,",
        ',dog,pet,dog,"a ""good"" one, käse"',
        ",dog,canine,,",
        "",
    ]
    assert to_csv(pets, pets.tree.index("dog")).split("\n")[1:] == [
        "0,pug,dog,pug,",
        ',dog,,dog,"a ""good"" one, käse"',
        "",
    ]


def test_json_has_one_line_per_node_and_the_digest_of_the_whole_alone(pets: LabelSpace) -> None:
    text = to_json(pets)
    assert text.split("\n")[5] == (
        '{"index": null, "wnid": "dog", "parent_wnid": "pet", "name": "dog", "lemmas": ["dog", "hound"], '
        '"gloss": "a \\"good\\" one, käse", "further_parents": ["canine"]}'
    )
    whole = json.loads(text)
    nodes = whole.pop("nodes")
    digest = hashlib.sha256(TREE.encode()).hexdigest()
    opening = {"format": "miil21k-label-space", "version": 1, "name": "pets"}
    assert whole == {**opening, "num_classes": 2, "sha256": digest}
    assert [node["wnid"] for node in nodes] == ["pug", "cat", "pet", "canine", "dog"]
    assert nodes[2] == {
        "index": None,
        "wnid": "pet",
        "parent_wnid": None,
        "name": "pet",
        "lemmas": ["pet"],
        "gloss": "",
    }
    branch = json.loads(to_json(pets, pets.tree.index("dog")))
    assert [(node["wnid"], node["parent_wnid"]) for node in branch.pop("nodes")] == [("pug", "dog"), ("dog", None)]
    assert branch == {**opening, "under": "dog"}
    named = LabelSpace("käse", pets.tree, pets.lemma_text, pets.gloss_text)
    assert to_json(named).startswith('{"format": "miil21k-label-space", "version": 1, "name": "käse", ')


def test_what_is_around_a_concept_is_drawn_with_the_trees_edges_bold(pets: LabelSpace) -> None:
    concepts = concepts_of(pets)
    assert neighbourhood_to_dot(concepts, concepts.index_of["dog"]).split("\n") == [
        'digraph "dog" {',
        '  rankdir="LR";',
        '  "pet" [label="pet (2)", shape=ellipse];',
        '  "canine" [label="canine (1)", shape=ellipse];',
        '  "dog" [label="dog (1)", shape=ellipse];',
        '  "pug" [label="pug (1)", shape=box];',
        '  "pet" -> "dog" [style=bold];',
        '  "canine" -> "dog";',
        '  "dog" -> "pug" [style=bold];',
        "}",
        "",
    ]


def test_around_a_concept_stands_all_that_is_above_it_and_no_cousin() -> None:
    concepts = concepts_of(load_label_space("in1k"))
    lines = neighbourhood_to_dot(concepts, concepts.index_of["n02083346"]).split("\n")
    assert '  "n02083346" [label="canine (130)", shape=ellipse];' in lines
    assert '  "n02084071" [label="dog (118)", shape=ellipse];' in lines
    assert '  "n02083346" -> "n02084071";' in lines  # dogs hang from domestic animal in the tree
    assert '  "n02075296" -> "n02083346" [style=bold];' in lines
    assert '  "n00003553" -> "n00004258";' in lines  # neither is a node of the tree
    assert not any('"n01317541"' in line for line in lines)  # domestic animal, the other parent of dog


def test_the_formats_have_their_names() -> None:
    assert {"json": to_json, "csv": to_csv, "dot": to_dot} == EXPORTS
