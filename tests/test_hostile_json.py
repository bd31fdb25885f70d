"""Whatever stands in a JSON file that we read, it ends in one sentence, and never in a traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from miil21k.calibrate.record import load_calibration
from miil21k.data.inputs import require_images
from miil21k.errors import Miil21kError
from miil21k.hierarchy.load import load_label_space
from miil21k.prepare.workspace import read_json as read_record_of_prepare
from miil21k.train.journal import Journal
from miil21k.writers.output import note_path
from miil21k.zoo.manifest import parse_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def of_a_run(path: Path) -> Any:
    from miil21k.writers.layouts import JsonLines
    from miil21k.writers.output import RowFile

    rows = path.with_name("rows.jsonl")
    rows.touch()
    path.rename(note_path(rows))
    return RowFile(rows, JsonLines(), {}, "resume")


def of_training(path: Path) -> Any:
    path.rename(path.with_name("metrics.jsonl"))
    with path.with_name("metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
    return Journal(path.parent, 0)


READERS: dict[str, Callable[[Path], Any]] = {
    "label space": load_label_space,
    "calibration": load_calibration,
    "index of shards": lambda path: require_images([str(path)]),
    "record of prepare": lambda path: read_record_of_prepare(path, "id"),
    "note of a run": of_a_run,
    "journal of training": of_training,
    "manifest": lambda path: parse_manifest(path.read_bytes().decode("utf-8", "replace")),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        b"1e400",
        b'{"schema": 1e400}',
        b"9" * 5000,
        b"NaN",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe\x00",
        b'{"schema": [], "format": {}, "shards": 3, "nodes": null}',
    ],
    ids=lambda content: content[:12].decode("latin1"),
)
def test_a_hostile_file_is_one_sentence(tmp_path: Path, reader: str, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(Miil21kError) as caught:
        READERS[reader](path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
