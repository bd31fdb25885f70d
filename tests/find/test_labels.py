"""Labels out, in every format, read back by its documented keys; corrections in."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("lancedb", reason="the extra 'find' is not installed")

from pictures import made_up

from miil21k.cli.main import main
from miil21k.data.datasets import label_images, open_source
from miil21k.data.lists import read_list
from miil21k.errors import UsageError
from miil21k.find.labels import Correction, labelled, path_to, read_corrections
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.load import load_label_space

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.find.store import Index

ANIMAL, BIRD, COCK = ("n00015388", "animal"), ("n01503061", "bird"), ("n01514668", "cock")
VERTEBRATE = ("n01471682", "vertebrate")
CONCEPTS = concepts_of(load_label_space("in1k"))


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """A cock, a bird, a picture without an answer, and one whose name is no UTF-8 and holds a comma and a quote."""
    files = [tmp_path / name for name in ("cock.jpg", "bird.jpg", "unsure.jpg", "o,d'd\udcff.jpg")]
    for file in files:
        file.write_bytes(b"picture")
    paths = [[ANIMAL, VERTEBRATE, BIRD, COCK], [ANIMAL, VERTEBRATE, BIRD], [], [ANIMAL]]
    return made_up(tmp_path / "photos.index", files, paths)


def write(index: Index, kind: str, target: Path, *more: str) -> None:
    assert main(["labels", index.path, "-f", kind, "-o", str(target), "-q", *more]) == 0


def corrections(index: Index, target: Path, rows: list[tuple[int, str, str]]) -> Path:
    names = index.names
    target.write_text("path,label,verdict\n" + "".join(f"{names[n]},{label},{v}\n" for n, label, v in rows))
    return target


def test_a_list_holds_answers_and_what_people_said_instead(index: Index, tmp_path: Path) -> None:
    given = corrections(index, tmp_path / "c.csv", [(0, "n01514859", "is"), (1, "", "wrong"), (2, "goldfinches", "is")])
    write(index, "csv", tmp_path / "labels.csv", "--corrections", str(given), "--root", str(tmp_path))
    found = read_list(tmp_path / "labels.csv")
    assert list(zip(found.paths, found.labels, strict=True)) == [
        ("cock.jpg", "n01514859"),
        ("unsure.jpg", "n01531178"),
        ("o,d'd\\udcff.jpg", "n00015388"),
    ]


def test_a_name_that_is_no_utf8_is_corrected_too(index: Index, tmp_path: Path) -> None:
    name = index.names[3].encode("utf-8", "backslashreplace").decode()
    (tmp_path / "c.jsonl").write_text(json.dumps({"path": name, "label": "cock"}))
    assert read_corrections(tmp_path / "c.jsonl", CONCEPTS).keys() == {index.names[3]}


def test_only_what_was_corrected_is_learnt_from(index: Index, tmp_path: Path) -> None:
    given = corrections(index, tmp_path / "c.csv", [(0, "n01514668", "right"), (1, "", "wrong")])
    write(index, "csv", tmp_path / "labels.csv", "--corrections", str(given), "--only-corrected")
    assert read_list(tmp_path / "labels.csv").labels == ["n01514668"]


def test_labels_that_are_no_classes_are_left_out_for_training(index: Index, tmp_path: Path) -> None:
    write(index, "csv", tmp_path / "labels.csv", "--only-classes")
    found = open_source(str(tmp_path / "labels.csv"))
    assert label_images(found, load_label_space("in1k"), partial=True).labels.tolist() == [
        CONCEPTS.index_of["n01514668"]
    ]


def test_coco_names_what_is_above_each_category(index: Index, tmp_path: Path) -> None:
    write(index, "coco", tmp_path / "coco.json")
    content = json.loads((tmp_path / "coco.json").read_text())
    assert [(c["name"], c["supercategory"]) for c in content["categories"]] == [
        ("animal", "none"),
        ("vertebrate", "animal"),
        ("bird", "vertebrate"),
        ("cock", "bird"),
    ]
    names = {c["id"]: c["name"] for c in content["categories"]}
    assert [(n["image_id"], names[n["category_id"]], n["bbox"], n["area"]) for n in content["annotations"]] == [
        (1, "cock", [0, 0, 10, 10], 100),
        (2, "bird", [0, 0, 10, 10], 100),
        (4, "animal", [0, 0, 10, 10], 100),
    ]
    assert content["annotations"][0]["score"] == 0.95
    from miil21k.data.annotations import read_coco

    listing = read_coco(tmp_path / "coco.json")
    assert listing is not None
    assert listing.labels == [("cock",), ("bird",), (), ("animal",)]


def test_label_studio_gets_tasks_and_the_taxonomy_that_they_use(index: Index, tmp_path: Path) -> None:
    given = corrections(index, tmp_path / "c.csv", [(1, "n01514668", "is")])
    write(index, "labelstudio", tmp_path / "tasks.json", "--corrections", str(given), "--root", str(tmp_path))
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks[:2]] == [
        "/data/local-files/?d=cock.jpg",
        "/data/local-files/?d=bird.jpg",
    ]
    prediction = tasks[0]["predictions"][0]
    assert prediction["score"] == 0.95
    assert prediction["result"] == [
        {
            "from_name": "label",
            "to_name": "image",
            "type": "taxonomy",
            "value": {"taxonomy": [["animal", "vertebrate", "bird", "cock"]]},
        }
    ]
    assert tasks[1]["annotations"][0]["result"][0]["value"]["taxonomy"][0][-1] == "cock"
    assert "predictions" not in tasks[2]
    view = ET.parse(tmp_path / "tasks.config.xml").getroot()
    assert view.find("Image").get("name") == "image"  # type: ignore[union-attr]
    node: Any = view.find("Taxonomy")
    assert (node.get("name"), node.get("toName")) == ("label", "image")
    for name in ("animal", "vertebrate", "bird", "cock"):
        [node] = [choice for choice in node if choice.get("value") == name]


def test_fiftyone_gets_its_folder(index: Index, tmp_path: Path) -> None:
    write(index, "fiftyone", tmp_path / "dataset")
    files = json.loads((tmp_path / "dataset" / "data.json").read_text())
    content = json.loads((tmp_path / "dataset" / "labels.json").read_text())
    assert files["000000"] == index.names[0]
    first = content["labels"]["000000"]
    assert content["classes"][first["label"]] == "cock"
    assert first["confidence"] == 0.95
    assert first["attributes"]["hierarchy"] == ["animal", "vertebrate", "bird", "cock"]
    assert content["labels"]["000002"] is None
    assert files.keys() == content["labels"].keys()


def test_rows_keep_answer_and_correction(index: Index, tmp_path: Path) -> None:
    given = corrections(index, tmp_path / "c.csv", [(0, "", "wrong")])
    write(index, "jsonl", tmp_path / "rows.jsonl", "--corrections", str(given))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert (rows[0]["label"], rows[0]["source"], rows[0]["predicted"][-1]["name"]) == (None, "person", "cock")
    assert (rows[1]["label"], rows[1]["source"]) == ("n01503061", "model")


def test_corrections_are_read_from_csv_json_and_json_lines_alike(tmp_path: Path) -> None:
    rows = [
        {"path": "/a.jpg", "label": "n01503061", "verdict": "right"},
        {"path": "/b.jpg", "label": "", "verdict": "wrong"},
        {"path": "/a.jpg", "label": "cock", "verdict": "is"},
    ]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "c.csv").write_text("path,label,verdict\n/a.jpg,bird,right\n/b.jpg,,wrong\n/a.jpg,n01514668,is\n")
    (tmp_path / "list.csv").write_text("path,label\n/a.jpg,n01514668\n")
    expected = {
        "/a.jpg": Correction("/a.jpg", "n01514668", "is"),
        "/b.jpg": Correction("/b.jpg", "", "wrong"),
    }
    for name in ("c.json", "c.jsonl", "c.csv"):
        assert read_corrections(tmp_path / name, CONCEPTS) == expected
    assert read_corrections(tmp_path / "list.csv", CONCEPTS) == {"/a.jpg": expected["/a.jpg"]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.csv", "path,label,verdict\n/a,bird,maybe\n", "line 2: 'maybe' is no verdict: there are right, wrong, is"),
        ("c.csv", "path,label\n/a,brid\n", "line 2: 'brid' is no concept.*Near: .*'bird'"),
        ("c.csv", "path,label,verdict\n/a,,is\n", "line 2: 'is' needs a label"),
        ("c.csv", "file,label\n/a,bird\n", "it has no column 'path'"),
        ("c.csv", "path,label\n,bird\n", "line 2: no 'path' says which picture"),
        ("c.json", '{"path": "/a"}', "holds no list of corrections"),
        ("c.json", "[3]", "row 1: a correction is an object"),
        ("c.json", '[{"path": 3}]', "row 1: 'path' is no text"),
        ("c.jsonl", "{", "is no JSON"),
        ("c.txt", "", "give a .csv"),
        ("c.json", None, "cannot be read: No such file"),
    ],
)
def test_what_is_no_correction_is_refused_with_its_place(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        read_corrections(tmp_path / name, CONCEPTS)


def test_a_concept_outside_of_the_tree_hangs_below_its_hypernym(index: Index) -> None:
    tree = CONCEPTS.space.tree
    outside = next(c for c in range(tree.num_nodes, len(CONCEPTS)) if len(CONCEPTS.parents(c)))
    wnid = CONCEPTS.wnids[outside]
    levels = path_to(CONCEPTS, wnid)
    assert levels[-1].wnid == wnid
    found = list(labelled(index, {index.names[0]: Correction(index.names[0], wnid, "is")}))
    assert found[0].levels == levels


def test_mistakes_of_use_are_named(index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "x.json")
    assert main(["labels", index.path, "-f", "cocoa", "-o", target]) == 2
    assert main(["labels", index.path, "-o", target, "--only-corrected"]) == 2
    assert main(["labels", index.path, "-o", target, "--root", "/elsewhere"]) == 2
    assert main(["labels", index.path, "-o", str(tmp_path / "none" / "x.csv")]) == 2
    said = capsys.readouterr().err
    assert "Did you mean 'coco'" in said
    assert "--only-corrected needs --corrections" in said
    assert "give another --root" in said
    assert "cannot be written: No such file" in said


def test_corrections_of_other_pictures_are_counted(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.csv").write_text("path,label\n/gone.jpg,bird\n")
    assert main(["labels", index.path, "-o", str(tmp_path / "x.csv"), "--corrections", str(tmp_path / "c.csv")]) == 0
    assert "1 corrected pictures are not in the index and are left out: '/gone.jpg'" in capsys.readouterr().err
