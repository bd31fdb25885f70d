from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from miil21k.data.annotations import read_coco
from miil21k.data.datasets import open_parts, open_source
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.data.datasets import ClassImages


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def labelled(source: ClassImages) -> dict[str, list[str]]:
    assert source.label_sets is not None
    return {source.name(i): sorted(source.keys[key] for key in source.label_sets[i]) for i in range(len(source))}


def coco(**changes: object) -> dict[str, object]:
    return {
        "info": {},
        "images": [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}, {"id": 5, "file_name": "c.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 18, "segmentation": [[1.5, 2]], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 1, "iscrowd": 1},
            {"id": 3, "image_id": 3, "category_id": 1},
            {"id": 4, "image_id": 3, "category_id": 18},
        ],
        "categories": [{"id": 1, "name": "traffic light"}, {"id": 18, "name": "dog"}, {"id": 90, "name": "cup"}],
        **changes,
    }


def test_coco_instances_are_a_list_of_images_with_the_classes_of_their_objects(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / "val2017" / f"{name}.jpg")
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(coco()))
    source = open_source(str(path))
    assert labelled(source) == {"b.jpg": ["traffic light"], "a.jpg": ["dog", "traffic light"], "c.jpg": []}
    assert source.keys == ("dog", "traffic light")
    assert source.read(0)[:2] == b"\xff\xd8"
    elsewhere = tmp_path / "mine.json"
    elsewhere.write_text(json.dumps(coco()))
    with pytest.raises(UsageError, match="3 of 3 images of"):
        open_source(str(elsewhere))
    assert len(open_source(str(elsewhere), root=tmp_path / "val2017")) == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images": {"id": 1}}, "'images' is no list of objects"),
        ({"images": [{"id": 1}]}, r"images\[0\] has no 'id' or no 'file_name'"),
        ({"images": [{"id": True, "file_name": ""}]}, r"images\[0\] has no 'id' or no 'file_name'"),
        ({"categories": [{"id": 1, "name": "x"}] * 2}, r"categories\[1\] has the id 1 of an earlier one"),
        ({"annotations": [{"image_id": 9, "category_id": 1}]}, r"annotations\[0\] has the image_id 9, which is not l"),
        ({"annotations": [{"image_id": 3, "category_id": [1]}]}, r"has the category_id \[1\], which is not listed"),
        ({"annotations": [7]}, "'annotations' is no list of objects"),
    ],
)
def test_coco_that_does_not_fit_together_is_refused(tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    (tmp_path / "x.json").write_text(json.dumps(coco(**changes)))
    with pytest.raises(UsageError, match=sentence):
        read_coco(tmp_path / "x.json")


def test_other_json_is_no_coco_and_damaged_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"images": [], "annotations": []}')
    assert read_coco(tmp_path / "x.json") is None
    for text in ('{"images": [NaN]}', "[" * 80, '{"a": 1, "a": 2}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(UsageError, match="is damaged"):
            read_coco(tmp_path / "x.json")


def note(name: str, *objects: str, head: str = "") -> str:
    each = "".join(f"<object><name>{label}</name><part><name>head</name></part></object>" for label in objects)
    return f"{head}<annotation><folder>VOC</folder><filename>{name}</filename>{each}</annotation>"


def voc(root: Path, notes: dict[str, str], **splits: str) -> Path:
    (root / "Annotations").mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    for name, text in notes.items():
        (root / "Annotations" / f"{name}.xml").write_text(text)
    for split, names in splits.items():
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names.split()) + "\n")
    return root


def test_voc_annotations_are_a_list_with_the_splits_of_its_image_sets(tmp_path: Path) -> None:
    notes = {
        "000002": note("000002.jpg", "person", "dog", "person"),
        "000001": note("000001.jpg"),
        "000009": note("000009.jpg", "cat"),
    }
    root = voc(tmp_path / "VOC2007", notes, train="000002", val="000001")
    for name in ("000001", "000002"):
        picture(root / "JPEGImages" / f"{name}.jpg")
    assert list(open_parts(str(root))) == ["val", "train"]
    train = open_source(str(root), split="train")
    assert labelled(train) == {"JPEGImages/000002.jpg": ["dog", "person"]}
    assert train.read(0)[:2] == b"\xff\xd8"
    assert labelled(open_source(str(root), split="val")) == {"JPEGImages/000001.jpg": []}
    (root / "ImageSets" / "Main" / "train.txt").unlink()
    (root / "ImageSets" / "Main" / "val.txt").unlink()
    with pytest.raises(UsageError, match=r"1 of 3 images of .* JPEGImages/000009\.jpg"):
        open_source(str(root))


LAUGHS = '<!DOCTYPE a [<!ENTITY l "ha"><!ENTITY m "&l;&l;&l;&l;&l;&l;&l;&l;">]>'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (note("a.jpg", "&m;", head=LAUGHS), "declares a document type or entities"),
        (
            note("a.jpg", "&x;", head='<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
            "declares a document type",
        ),
        (note("a.jpg", "&x;"), "is no XML: undefined entity"),
        (note("../../a.jpg", "dog"), "names no image beside it"),
        (note("a.jpg", ""), "an object without a name"),
        (note("a.jpg")[:-5], "is no XML"),
        ("<html></html>", "no annotation of Pascal VOC"),
        ("<annotation>" * 20, "nested deeper than 16"),
        (note("a.jpg", "x" * (1 << 20)), "more than 1,048,576 bytes"),
        ("", "is no XML"),
    ],
)
def test_hostile_annotations_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    root = voc(tmp_path, {"a": text})
    with pytest.raises(UsageError, match=sentence):
        open_source(str(root))
