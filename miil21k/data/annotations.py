"""Annotations of objects as lists: MS-COCO's instances in JSON, and Pascal VOC's folder of XML files.

An image has every class of which it holds an object, crowds and objects marked `difficult` included; one without an
object has none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

from miil21k.data.lists import Listing
from miil21k.errors import UsageError
from miil21k.records import StrictJsonError, read_json
from miil21k.text import printable

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

__all__ = ["coco_root", "is_voc", "read_coco", "read_voc"]

COCO_BYTES = 1 << 30  # instances_train2017.json has 449 MB
XML_BYTES = 1 << 20  # the largest of VOC2012 has 20 kB
XML_DEPTH = 16
_KEYS = {"images", "annotations", "categories"}
_SPLITS = ("train", "val", "test")


def read_coco(path: Path) -> Listing | None:
    """Return what a file of COCO instances says; None for JSON that is another thing.

    Raises UsageError when it cannot be read, is damaged, or speaks of an image or a category that it does not list.
    """
    try:
        content = read_json(path, max_bytes=COCO_BYTES)
    except OSError as error:
        raise UsageError(f"'{printable(path)}' cannot be read: {error.strerror or error}.") from None
    except StrictJsonError as error:
        raise UsageError(str(error)) from None
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        return None
    names = _by_id(path, content, "categories", "name")
    files = _by_id(path, content, "images", "file_name")
    found: dict[Hashable, dict[str, None]] = {image: {} for image in files}
    for at, note in enumerate(_objects(path, content, "annotations")):
        for key, known in (("image_id", files), ("category_id", names)):
            value = note.get(key)
            if not isinstance(value, (int, str)) or value not in known:
                raise UsageError(
                    f"'{printable(path)}': annotations[{at}] has the {key} {value!r}, which is not listed."
                )
        found[note["image_id"]][names[note["category_id"]]] = None
    labels = [tuple(found[image]) for image in files]
    return Listing(f"The list '{printable(path)}'", list(files.values()), labels, several=True)


def _objects(path: Path, content: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    rows = content[part]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"'{printable(path)}' is no file of COCO instances: '{part}' is no list of objects.")
    return rows


def _by_id(path: Path, content: Mapping[str, Any], part: str, field: str) -> dict[Hashable, str]:
    """Return the `field` of each row of a part by its id."""
    found: dict[Hashable, str] = {}
    for at, row in enumerate(_objects(path, content, part)):
        key, value = row.get("id"), row.get(field)
        if not isinstance(key, (int, str)) or not isinstance(value, str) or not value:
            raise UsageError(f"'{printable(path)}': {part}[{at}] has no 'id' or no '{field}'.")
        if key in found:
            raise UsageError(f"'{printable(path)}': {part}[{at}] has the id {key!r} of an earlier one.")
        found[key] = value
    return found


def coco_root(path: Path) -> Path:
    """Return where the images of `annotations/instances_val2017.json` lie: `val2017` beside its folder, or its own."""
    split = re.fullmatch(r"instances_(.+)", path.stem)
    beside = path.parent.parent / split.group(1) if split else path.parent
    return beside if beside.is_dir() else path.parent


def is_voc(folder: Path) -> bool:
    """Return whether a folder is one of Pascal VOC: `Annotations` beside `JPEGImages`."""
    return (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()


def read_voc(folder: Path) -> Listing:
    """Return what the annotations in a folder of Pascal VOC say, its images in bytewise order of their names.

    The splits are those of `ImageSets/Main/train.txt`, `val.txt` and `test.txt` where there are such files; images in
    none of them are left out then. Raises UsageError when an annotation is no plain XML of VOC.
    """
    notes = sorted((folder / "Annotations").glob("*.xml"), key=lambda path: path.name.encode(errors="surrogateescape"))
    if not notes:
        raise UsageError(f"'{printable(folder / 'Annotations')}' holds no .xml file.")
    split_of = _voc_splits(folder)
    kept = [path for path in notes if split_of is None or path.stem in split_of]
    found = [_voc_image(path) for path in kept]
    return Listing(
        f"The list '{printable(folder)}'",
        [f"JPEGImages/{name}" for name, _ in found],
        [labels for _, labels in found],
        several=True,
        splits=None if split_of is None else [split_of[path.stem] for path in kept],
    )


def _voc_splits(folder: Path) -> dict[str, str] | None:
    """Return the split of each image by the stem of its name; None where there are no lists of them."""
    found: dict[str, str] = {}
    lists = [(split, folder / "ImageSets" / "Main" / f"{split}.txt") for split in _SPLITS]
    for split, path in lists:
        if path.is_file():
            found |= {line.split()[0]: split for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}
    return found or None


def _voc_image(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the name of an image and the classes of its objects."""
    texts = _texts(path)
    names = [text for place, text in texts if place == ("annotation", "filename")]
    labels = [text for place, text in texts if place == ("annotation", "object", "name")]
    name = names[0] if names else f"{path.stem}.jpg"
    if Path(name).name != name or not all(labels):
        raise UsageError(f"'{printable(path)}' names no image beside it, or an object without a name.")
    return name, tuple(dict.fromkeys(labels))


def _texts(path: Path) -> list[tuple[tuple[str, ...], str]]:
    """Return where each text of an XML file stands, and the text; raises UsageError for what VOC does not need."""

    def refuse(*_: object) -> None:
        raise UsageError(f"'{printable(path)}' declares a document type or entities, which no annotation needs.")

    def opened(name: str, _: object) -> None:
        if len(place) == XML_DEPTH:
            raise UsageError(f"'{printable(path)}' is nested deeper than {XML_DEPTH} elements.")
        place.append(name)
        parts.append([])

    def closed(_: str) -> None:
        texts.append((tuple(place), "".join(parts.pop()).strip()))
        place.pop()

    def said(text: str) -> None:
        parts[-1].append(text)

    place: list[str] = []
    parts: list[list[str]] = []
    texts: list[tuple[tuple[str, ...], str]] = []
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = opened, closed
    parser.CharacterDataHandler = said
    try:
        with path.open("rb") as file:
            content = file.read(XML_BYTES + 1)
    except OSError as error:
        raise UsageError(f"'{printable(path)}' cannot be read: {error.strerror or error}.") from None
    if len(content) > XML_BYTES:
        raise UsageError(f"'{printable(path)}' has more than {XML_BYTES:,} bytes, more than any annotation.")
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise UsageError(f"'{printable(path)}' is no XML: {error}.") from None
    if not texts or texts[-1][0] != ("annotation",):
        raise UsageError(f"'{printable(path)}' is no annotation of Pascal VOC.")
    return texts
