"""Labels of an index for the tools that people label and train with: a table of formats.

| format | is | documented at |
|---|---|---|
| csv | a list that `miil21k train` reads | docs/train.md |
| jsonl | a row per picture with every level | here |
| coco | categories with `supercategory`; each label is a box around the whole picture | cocodataset.org/#format-data |
| labelstudio | tasks, and beside them a labelling configuration with a taxonomy | labelstud.io/guide/predictions |
| fiftyone | a folder, `FiftyOneImageClassificationDataset` | docs.voxel51.com/user_guide/dataset_creation |
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from miil21k.errors import UsageError
from miil21k.files import replace_file
from miil21k.text import did_you_mean, printable
from miil21k.writers.layouts import utf8_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from miil21k.find.labels import Labelled, LabelNode

__all__ = ["LABEL_FORMATS", "Exported", "export_labels"]


class Exported(NamedTuple):
    """pictures: that were written. labelled: those of them that have a label. corrected: by a person."""

    pictures: int
    labelled: int
    corrected: int


def export_labels(kind: str, target: Path, found: Iterable[Labelled], model: str, root: Path | None = None) -> Exported:
    """Write labels to `target` in the format `kind`, a key of `LABEL_FORMATS`, all of it or nothing.

    model: who answered. root: paths are written relative to this folder; as in the index without one.
    Raises UsageError for an unknown format, a picture outside of `root`, and a target that cannot be written.
    """
    if kind not in LABEL_FORMATS:
        raise UsageError(
            f"Labels are not written as '{kind}': there are {', '.join(LABEL_FORMATS)}."
            f"{did_you_mean(kind, LABEL_FORMATS)}"
        )
    rows = [row._replace(path=utf8_text(_below(row.path, root))) for row in found]
    try:
        LABEL_FORMATS[kind](target, rows, model)
    except OSError as error:
        raise UsageError(f"'{printable(target)}' cannot be written: {error.strerror or error}.") from None
    return Exported(len(rows), sum(row.label is not None for row in rows), sum(row.source == "person" for row in rows))


def _below(path: str, root: Path | None) -> str:
    if root is None:
        return path
    try:
        return PurePath(path).relative_to(os.path.abspath(root)).as_posix()
    except ValueError:
        raise UsageError(f"'{printable(path)}' does not lie in '{printable(root)}': give another --root.") from None


def _csv(target: Path, rows: Sequence[Labelled], model: str) -> None:  # noqa: ARG001
    """Pictures without a label are left out: a list has one in every row."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "name", "probability", "source"))
    for row in rows:
        if row.label is not None:
            probability = "" if row.label.probability is None else row.label.probability
            writer.writerow((row.path, row.label.wnid, row.label.name, probability, row.source))
    replace_file(target, text.getvalue())


def _jsonl(target: Path, rows: Sequence[Labelled], model: str) -> None:
    lines = []
    for row in rows:
        label = row.label
        line = {
            "path": row.path,
            "label": None if label is None else label.wnid,
            "name": None if label is None else label.name,
            "source": row.source,
            "levels": [level._asdict() for level in row.levels],
            "predicted": [level._asdict() for level in row.predicted],
            "model": model,
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    replace_file(target, "".join(f"{line}\n" for line in lines))


def _coco(target: Path, rows: Sequence[Labelled], model: str) -> None:
    shown, above = _tree(rows)
    category = {wnid: number for number, wnid in enumerate(shown, 1)}
    images: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for number, row in enumerate(rows, 1):
        width, height = row.width or 0, row.height or 0
        images.append({"id": number, "file_name": row.path, "width": width, "height": height})
        if row.label is not None:
            note = {
                "id": len(notes) + 1,
                "image_id": number,
                "category_id": category[row.label.wnid],
                "bbox": [0, 0, width, height],
                "area": width * height,
                "segmentation": [],
                "iscrowd": 0,
                "source": row.source,
            }
            notes.append(note if row.label.probability is None else {**note, "score": row.label.probability})
    content = {
        "info": {"description": f"Labels of pictures: corrections of people, and hedged answers of {model}"},
        "images": images,
        "annotations": notes,
        "categories": [
            {"id": category[wnid], "name": name, "supercategory": shown.get(above[wnid] or "", "none"), "wnid": wnid}
            for wnid, name in shown.items()
        ],
    }
    replace_file(target, json.dumps(content, ensure_ascii=False) + "\n")


def _labelstudio(target: Path, rows: Sequence[Labelled], model: str) -> None:
    """Write the tasks, and the configuration of the project as `<name>.config.xml` beside them."""
    shown, above = _tree(rows)

    def result(levels: Sequence[LabelNode]) -> list[dict[str, Any]]:
        chain = [shown[level.wnid] for level in levels]
        value = {"taxonomy": [chain]}
        return [{"from_name": "label", "to_name": "image", "type": "taxonomy", "value": value}] if chain else []

    tasks = []
    for row in rows:
        task: dict[str, Any] = {"data": {"image": _served(row.path), "path": row.path}}
        if row.predicted:
            score = row.predicted[-1].probability
            task["predictions"] = [{"model_version": model, "score": score, "result": result(row.predicted)}]
        if row.source == "person" and row.levels:
            task["annotations"] = [{"result": result(row.levels)}]
        tasks.append(task)

    def choices(top: str | None, indent: str) -> str:
        found = []
        for wnid, name in shown.items():
            if above[wnid] == top:
                inner = choices(wnid, indent + "  ")
                tag = f"{indent}<Choice value={quoteattr(name)} hint={quoteattr(wnid)}"
                found.append(f"{tag}>\n{inner}{indent}</Choice>\n" if inner else f"{tag}/>\n")
        return "".join(found)

    config = (
        '<View>\n  <Image name="image" value="$image"/>\n  <Taxonomy name="label" toName="image">\n'
        f"{choices(None, '    ')}  </Taxonomy>\n</View>\n"
    )
    replace_file(target.with_name(f"{target.stem}.config.xml"), config)
    replace_file(target, json.dumps(tasks, ensure_ascii=False) + "\n")


def _served(path: str) -> str:
    """Return the address of a picture: its own, or that of Label Studio's local files, below their document root."""
    return path if "://" in path else f"/data/local-files/?d={quote(path.lstrip('/'))}"


def _fiftyone(target: Path, rows: Sequence[Labelled], model: str) -> None:
    """Write the folder: `data.json` says where each picture lies, `labels.json` what it is."""
    shown, _ = _tree(rows)
    place = {wnid: number for number, wnid in enumerate(shown)}
    labels: dict[str, Any] = {}
    for number, row in enumerate(rows):
        if row.label is None:
            labels[f"{number:06d}"] = None
            continue
        levels = [shown[level.wnid] for level in row.levels]
        attributes = {"wnid": row.label.wnid, "hierarchy": levels, "source": row.source, "model": model}
        found: dict[str, Any] = {"label": place[row.label.wnid], "attributes": attributes}
        labels[f"{number:06d}"] = (
            found if row.label.probability is None else {**found, "confidence": row.label.probability}
        )
    target.mkdir(parents=True, exist_ok=True)
    files = {f"{number:06d}": row.path for number, row in enumerate(rows)}
    replace_file(target / "data.json", json.dumps(files, ensure_ascii=False) + "\n")
    content = {"classes": list(shown.values()), "labels": labels}
    replace_file(target / "labels.json", json.dumps(content, ensure_ascii=False) + "\n")


def _tree(rows: Iterable[Labelled]) -> tuple[dict[str, str], dict[str, str | None]]:
    """Return the name of each level by its wnid, distinct and in order of appearance, and the level above, if any."""
    names: dict[str, str] = {}
    above: dict[str, str | None] = {}
    for row in rows:
        for levels in (row.predicted, row.levels):
            for place, level in enumerate(levels):
                names.setdefault(level.wnid, level.name)
                above.setdefault(level.wnid, levels[place - 1].wnid if place else None)
    shared = Counter(names.values())
    return {wnid: f"{name} ({wnid})" if shared[name] > 1 else name for wnid, name in names.items()}, above


LABEL_FORMATS: dict[str, Callable[[Path, Sequence[Labelled], str], None]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "coco": _coco,
    "labelstudio": _labelstudio,
    "fiftyone": _fiftyone,
}
