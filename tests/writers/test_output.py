"""An output that was interrupted at any byte ends, after a resume, as if nothing had happened."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from writers.rows import inputs, row

from miil21k.errors import UsageError
from miil21k.writers.layouts import JsonArray, JsonLines, Layout, Separated
from miil21k.writers.output import RowFile, already_done, note_path
from miil21k.writers.rows import Shape

if TYPE_CHECKING:
    from pathlib import Path

LAYOUTS: dict[str, Layout] = {"jsonl": JsonLines(), "json": JsonArray(), "csv": Separated(",", Shape(2))}
NAMES = [f"{letter}.jpg" for letter in "abcdefg"]
BAD = {"b.jpg", "e.jpg"}
RUN = {"model": "embedded", "device": "cpu"}


def wanted(name: str) -> dict[str, object]:
    return row(name, "damaged" if name in BAD else None)


def full(path: Path, layout: Layout, names: list[str] = NAMES, existing: str = "refuse") -> bytes:
    file = RowFile(path, layout, {"topk": 5}, existing)  # type: ignore[arg-type]
    file.begin(RUN)
    for name in names:
        file.write(wanted(name))
    file.finish()
    file.settle()
    return path.read_bytes()


def resume(path: Path, layout: Layout, chunk: int, skips: bool = False) -> int:
    """Go on as the command does; returns how many inputs were computed again or for the first time."""
    file = RowFile(path, layout, {"topk": 5}, "resume")
    _, start = already_done(file.rows(), inputs(NAMES), skips=skips, chunk=chunk, path=path)
    file.keep(start.end)
    file.begin(RUN)
    assert path.stat().st_size == max(start.end, len(layout.header))  # nothing torn is left in between
    todo = NAMES[start.inputs :]
    for name in todo:
        if not (skips and name in BAD):
            file.write(wanted(name))
    file.finish()
    file.settle()
    return len(todo)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("skips", [False, True])
def test_a_kill_at_any_byte_is_repaired_by_resume(tmp_path: Path, kind: str, chunk: int, skips: bool) -> None:
    layout = LAYOUTS[kind]
    names = [name for name in NAMES if not (skips and name in BAD)]
    whole = full(tmp_path / "whole", layout, names)
    path = tmp_path / "cut"
    begun = RowFile(path, layout, {"topk": 5}, "overwrite")
    begun.begin(RUN)
    begun.abandon()
    note = note_path(path).read_bytes()
    for cut in range(0, len(whole) - len(layout.footer) + 1, 37):
        path.write_bytes(whole[:cut])
        note_path(path).write_bytes(note)
        resume(path, layout, chunk, skips)
        assert path.read_bytes() == whole, cut
        assert not note_path(path).exists()


def test_a_resume_goes_on_at_the_beginning_of_the_broken_batch(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    file = RowFile(path, JsonLines(), {"topk": 5}, "refuse")
    file.begin(RUN)
    for name in NAMES[:5]:
        file.write(wanted(name))
    file.abandon()
    assert resume(path, JsonLines(), chunk=3) == 4  # d..g: batch d, e, f was broken


def test_rows_are_in_the_file_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    file = RowFile(path, JsonLines(), {}, "refuse")
    file.begin(RUN)
    for count in (1, 2, 3):
        file.write(row("a"))
        assert path.read_bytes().count(b"\n") == count
    file.abandon()


@pytest.mark.parametrize("kind", LAYOUTS)
def test_append_adds_to_a_complete_file_and_can_be_resumed(tmp_path: Path, kind: str) -> None:
    layout = LAYOUTS[kind]
    both, path = tmp_path / "both", tmp_path / "rows"
    expected = full(both, layout, ["x.jpg", *NAMES])
    full(path, layout, ["x.jpg"])
    file = RowFile(path, layout, {"topk": 5}, "append")
    file.begin(RUN)
    for name in NAMES[:4]:
        file.write(wanted(name))
    file.abandon()
    resume(path, layout, chunk=1)
    assert path.read_bytes() == expected


def test_an_existing_output_is_touched_only_when_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    before = full(path, LAYOUTS["csv"])
    with pytest.raises(UsageError, match="--overwrite replaces it"):
        RowFile(path, LAYOUTS["csv"], {}, "refuse")
    file = RowFile(path, LAYOUTS["csv"], {}, "overwrite")
    assert path.read_bytes() == before  # construction only looks
    file.begin(RUN)
    file.finish()
    file.settle()
    assert path.read_bytes() == LAYOUTS["csv"].header


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_row_is_on_the_disk_before_the_note_goes(tmp_path: Path, synced: dict[int, int], kind: str) -> None:
    path = tmp_path / "rows"
    file = RowFile(path, LAYOUTS[kind], {"topk": 5}, "refuse")
    file.begin(RUN)
    file.write(wanted("a.jpg"))
    file.finish()
    assert note_path(path).exists()
    assert synced[path.stat().st_ino] == path.stat().st_size


def test_a_resume_goes_on_where_an_input_asked_for_a_new_batch(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    begun(path, 4)
    file = RowFile(path, JsonLines(), {"topk": 5}, "resume")
    images = (replace(image, new_batch=image.name == "b.jpg") for image in inputs(NAMES))
    now, start = already_done(file.rows(), images, skips=False, chunk=9, path=path)
    assert (now.inputs, start.inputs, start.rows) == (4, 1, 1)


def begun(path: Path, rows: int = 2) -> None:
    file = RowFile(path, JsonLines(), {"topk": 5}, "refuse")
    file.begin(RUN)
    for name in NAMES[:rows]:
        file.write(wanted(name))
    file.abandon()


def test_resume_refuses_other_options_and_names_them(tmp_path: Path) -> None:
    begun(tmp_path / "rows")
    with pytest.raises(UsageError, match=r"topk = 5, this run has 3"):
        RowFile(tmp_path / "rows", JsonLines(), {"topk": 3}, "resume")


def test_resume_refuses_another_model_or_device(tmp_path: Path) -> None:
    begun(tmp_path / "rows")
    file = RowFile(tmp_path / "rows", JsonLines(), {"topk": 5}, "resume")
    with pytest.raises(UsageError, match=r"device = 'cpu', this run has 'cuda:0'"):
        file.begin({**RUN, "device": "cuda:0"})


@pytest.mark.parametrize(
    ("names", "words"), [(["a.jpg", "other.jpg"], "now 'other.jpg'"), (["a.jpg"], "the inputs end before it")]
)
def test_resume_refuses_other_inputs(tmp_path: Path, names: list[str], words: str) -> None:
    path = tmp_path / "rows"
    begun(path)
    file = RowFile(path, JsonLines(), {"topk": 5}, "resume")
    with pytest.raises(UsageError, match=words):
        already_done(file.rows(), inputs(names), skips=False, chunk=1, path=path)


def test_append_to_an_unfinished_file_is_refused(tmp_path: Path) -> None:
    begun(tmp_path / "rows")
    with pytest.raises(UsageError, match="finish it with --resume"):
        RowFile(tmp_path / "rows", JsonLines(), {"topk": 5}, "append")


def test_append_needs_the_same_columns(tmp_path: Path) -> None:
    full(tmp_path / "rows", Separated(",", Shape(2)))
    file = RowFile(tmp_path / "rows", Separated(",", Shape(3)), {}, "append")
    with pytest.raises(UsageError, match="same columns"):
        file.begin(RUN)


def test_what_an_earlier_run_failed_at_is_counted_also_where_it_left_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    begun(path, 3)
    file = RowFile(path, JsonLines(), {"topk": 5}, "resume")
    now, _ = already_done(file.rows(), inputs(NAMES), skips=False, chunk=1, path=path)
    assert (now.inputs, now.rows, now.failed) == (3, 3, 1)
    kept = (r for r in islice(file.rows(), 3) if r.ok)
    skipped, _ = already_done(kept, inputs(NAMES), skips=True, chunk=1, path=path)
    assert (skipped.inputs, skipped.rows, skipped.failed) == (3, 2, 1)
