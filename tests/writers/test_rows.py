"""One declaration of the row gives JSON, cells and Parquet columns."""

from __future__ import annotations

import pytest
from writers.rows import row

from miil21k.errors import UnknownClass
from miil21k.hierarchy.load import load_label_space
from miil21k.predict.prediction import AskedConcept, Given, LevelLabel, Node, Origin, Prediction, Sense, Stop
from miil21k.writers.labels import label_of
from miil21k.writers.layouts import Separated
from miil21k.writers.rows import ROW, Shape, cells, json_schema

CAT = Node("n02121808", "domestic cat", 0.12345678)
ORIGIN = Origin("embedded", "in1k", "0" * 64, "none", "torch", "cpu", "fp32")


def test_a_row_is_written_from_its_declaration() -> None:
    found = Prediction(
        "x", ORIGIN, None, (CAT,), Stop("hedge", 0.9, False, CAT, None, 0.6, "concepts"), (CAT,),
        (LevelLabel(2, CAT, True),),
        Given("under cat", 0.98765432), (AskedConcept("cats", "n1", "cat", 0.5, (Sense("n2", "lion"),)),), (CAT,),
    )  # fmt: skip
    node = {"wnid": "n02121808", "name": "domestic cat", "probability": 0.123457}
    assert found.to_dict() == {
        "schema": 1,
        "input": "x",
        "status": "ok",
        "error": None,
        "model": "embedded",
        "label_space": "in1k",
        "label_space_sha256": "0" * 64,
        "removed_labels": "none",
        "backend": "torch",
        "device": "cpu",
        "dtype": "fp32",
        "path": [node],
        "stop": {
            "reason": "hedge",
            "hedge": 0.9,
            "reading": "concepts",
            "level": 0.6,
            "calibrated": False,
            "refused": node,
            "runner_up": None,
        },
        "topk": [node],
        "levels": [{"depth": 2, **node, "kept": True}],
        "given": {"condition": "under cat", "probability": 0.987654},
        "asked": [
            {
                "question": "cats",
                "wnid": "n1",
                "name": "cat",
                "probability": 0.5,
                "other_senses": [{"wnid": "n2", "name": "lion"}],
            }
        ],
        "concepts": [node],
    }
    assert list(Prediction("x", ORIGIN, error="why").to_dict()) == [f.name for f in ROW.fields if f.part is None]


def test_parquet_has_the_fields_of_the_row_that_its_shape_holds() -> None:
    pytest.importorskip("pyarrow")
    from miil21k.writers.parquet import arrow_schema

    plain, full = arrow_schema(Shape()), arrow_schema(Shape(5, True, True, True, ("cats",), True, ("pet", "other")))
    assert plain.names == list(row("x"))
    assert full.names == [*row("x"), "levels", "given", "asked", "concepts", "bins"]
    label = "struct<label: string, probability: double>"
    assert (
        str(full.field("bins").type) == f"struct<path: list<item: {label}>, level: double, labels: list<item: {label}>>"
    )
    assert str(full.field("given").type) == "struct<condition: string, probability: double>"
    assert str(full.field("levels").type.value_type) == (
        "struct<depth: int32, wnid: string, name: string, probability: double, kept: bool>"
    )
    assert [f.name for f in full.field("asked").type.value_type][-1] == "other_senses"
    assert [f.name for f in full.field("topk").type.value_type] == ["wnid", "name", "probability", "label"]


def test_the_json_schema_has_every_field_and_says_which_may_be_null() -> None:
    schema = json_schema(ROW, may_lack=False)
    assert schema["required"] == list(row("x"))
    assert schema["properties"]["topk"]["items"]["properties"]["probability"]["type"] == ["number", "null"]
    assert schema["properties"]["stop"]["type"] == ["object", "null"]
    assert schema["properties"]["model"]["description"] == "canonical name of the weights that answered"


def test_cells_that_a_row_does_not_have_are_empty() -> None:
    line = {name: content(row("a.jpg")) for name, content in cells(Shape(topk=3, labels=True, levels=True))}
    assert (line["input"], line["path"], line["path_probability"], line["stop"]) == (
        "a.jpg",
        "animal > cat",
        0.95,
        "hedge",
    )
    assert (line["top2_name"], line["top3_name"], line["label"], line["levels"]) == (
        "Egyptian cat, big",
        None,
        None,
        "",
    )
    failed = {name: content(row("b.jpg", "why")) for name, content in cells(Shape(1, asked=("bird",), concepts=True))}
    assert (failed["asked_bird"], failed["concepts"]) == (None, "")
    assert (failed["error"], failed["wnid"], failed["path"], failed["top1_wnid"]) == ("why", None, "", None)
    node = {"wnid": "n1", "name": "bird", "probability": 0.25}
    asked = {**row("c.jpg"), "asked": [{"question": "a bird", **node}], "concepts": [node, {**node, "name": "b"}]}
    found = {name: content(asked) for name, content in cells(Shape(1, asked=("a bird",), concepts=True))}
    assert (found["asked_a bird"], found["concepts"], found["concepts_probabilities"]) == (
        0.25,
        "bird; b",
        "0.25; 0.25",
    )
    pet, dog = {"label": "pet", "probability": 0.95}, {"label": "dog", "probability": 0.9}
    binned = {**row("d.jpg"), "bins": {"path": [pet, dog], "level": 0.9, "labels": [dog, pet]}}
    unsure = {**row("d.jpg"), "bins": {"path": [], "level": 0.9, "labels": [dog, pet]}}
    columns = dict(cells(Shape(1, bins=("dog", "pet"))))
    names = ("bin", "bin_path", "bin_probability", "bin_dog", "bin_pet")
    assert [columns[name](binned) for name in names] == ["dog", "pet > dog", 0.9, 0.9, 0.95]
    assert [columns[name](unsure) for name in names] == [None, "", None, 0.9, 0.95]
    assert [columns[name](row("e.jpg", "why")) for name in names] == [None, "", None, None, None]
    assert Separated(",", Shape(1)).columns[:3] == ["input", "status", "error"]


@pytest.mark.parametrize(
    ("label_type", "label"),
    [
        ("wnid", "n00004475"),
        ("name", "organism"),
        ("path", "entity > physical entity > object > whole > living thing > organism"),
        ("detailed", "organism, being: a living thing that has (or can develop) the ability to act or function"),
    ],
)
def test_a_concept_beside_the_tree_has_labels_too(label_type: str, label: str) -> None:
    space = load_label_space("in1k")
    assert "n00004475" not in space.tree.index_of
    assert label_of(space, "n00004475", label_type).startswith(label)
    with pytest.raises(UnknownClass, match="neither a node nor a concept"):
        label_of(space, "n99999999", "name")
