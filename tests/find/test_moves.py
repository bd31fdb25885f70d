"""Links, copies and moves: killed at any moment they are gone on with, and undone to the byte."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from miil21k.errors import UsageError
from miil21k.find import moves
from miil21k.find.moves import KINDS, FileStep, Plan, digest_of, perform, undo, undo_path, unfinished

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = ("link", "unlink", "symlink", "replace", "rmdir", "fsync")  # what a step changes on the disk


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below, with its bytes and its time; links by where they lead."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_symlink() or file.is_file())
    found = {}
    for file in files:
        content = str(file.readlink()).encode() if file.is_symlink() else file.read_bytes()
        found[str(file.relative_to(folder))] = (content, file.lstat().st_mtime_ns)
    return found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(3):
        file = tmp_path / "photos" / f"{number}.jpg"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes([number]) * 100)
        os.utime(file, ns=(10**18 + number, 10**18 + number))
    return tmp_path / "photos"


def steps_of(photos: Path, kind: str) -> list[FileStep]:
    steps = []
    for file in sorted(photos.iterdir()):
        state, target = file.stat(), photos.parent / "sorted" / "deep" / file.name
        steps.append(FileStep(kind, str(file), str(target), state.st_size, state.st_mtime_ns, digest_of(str(file))))
    return steps


def expected(before: dict[str, tuple[bytes, int]], photos: Path, kind: str) -> dict[str, bytes]:
    """What lies in `sorted` afterwards, and in `photos`."""
    placed = {
        f"sorted/deep/{name}": str(photos / name).encode() if kind == "symlink" else content
        for name, (content, _) in before.items()
    }
    kept = {} if kind == "move" else {f"photos/{name}": content for name, (content, _) in before.items()}
    return {**placed, **kept}


def without_undo(folder: Path) -> dict[str, bytes]:
    return {name: content for name, (content, _) in tree(folder).items() if moves.UNDO_FILE not in name}


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "copy", "move"])
def test_what_was_done_is_undone_to_the_byte_and_the_time(photos: Path, kind: str) -> None:
    before = tree(photos)
    path = undo_path(photos.parent / "sorted")

    done = perform(path, Plan(steps_of(photos, kind)))

    assert (done.steps, done.failed) == (3, [])
    assert without_undo(photos.parent) == expected(before, photos, kind)
    if kind in ("copy", "move"):
        times = [file.stat().st_mtime_ns for file in sorted((photos.parent / "sorted/deep").iterdir())]
        assert times == [when for _, when in before.values()]
    assert undo(path) == (3, [])
    assert tree(photos.parent) == {f"photos/{name}": found for name, found in before.items()}
    assert not (photos.parent / "sorted").exists()


def killed_at(moment: int, monkeypatch: pytest.MonkeyPatch, path: Path, plan: Plan) -> bool:
    """Perform a plan, and end before the given change of the disk; returns whether there was such a moment."""
    calls: list[str] = []

    def killing(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*words: object, **more: object) -> object:
            calls.append(name)
            if len(calls) == moment:
                raise KeyboardInterrupt
            return real(*words, **more)

        return call

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, killing(name, getattr(os, name)))
        try:
            perform(path, plan)
        except KeyboardInterrupt:
            return True
    return False


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "copy", "move"])
def test_a_kill_at_any_moment_loses_and_doubles_nothing(
    photos: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(photos)
    wanted = expected(before, photos, kind)
    path = photos.parent / "sorted" / "miil21k-undo.json"
    moments = 1
    while True:
        finished = not killed_at(moments, monkeypatch, path, Plan(steps_of(photos, kind)))
        now = without_undo(photos.parent)
        assert {content for content, _ in before.values()} <= set(now.values())  # nothing is lost
        begun = unfinished(photos.parent / "sorted")
        perform(*((begun,) if begun else (path, Plan(steps_of(photos, kind)))))
        assert {n: c for n, c in without_undo(photos.parent).items() if ".part" not in n} == wanted
        assert undo(path).failed == []
        assert {n: c for n, c in tree(photos.parent).items() if ".part" not in n} == {
            f"photos/{name}": found for name, found in before.items()
        }
        if finished:
            break
        moments += 1
    assert moments > 5


def test_what_is_there_is_never_replaced(photos: Path) -> None:
    steps = steps_of(photos, "move")
    taken = Path(steps[1].target)
    taken.parent.mkdir(parents=True)
    taken.write_bytes(b"mine")

    done = perform(undo_path(photos.parent / "sorted"), Plan(steps))

    assert done.steps == 2
    assert done.failed == [f"'{taken}' exists: it is left alone."]
    assert taken.read_bytes() == b"mine"
    assert (photos / "1.jpg").exists()


@pytest.mark.parametrize("kind", ["symlink", "copy", "move"])
def test_what_changed_since_is_left_alone_and_named(photos: Path, kind: str) -> None:
    path = undo_path(photos.parent / "sorted")
    steps = steps_of(photos, kind)
    perform(path, Plan(steps))
    changed = Path(steps[0].target)
    changed.unlink()
    changed.write_bytes(b"edited")

    done = undo(path)

    assert done.steps == 2
    assert len(done.failed) == 1
    assert "0.jpg" in done.failed[0]
    assert changed.read_bytes() == b"edited"
    assert path.exists()  # what is left may be undone later


def test_a_picture_that_changed_since_it_was_indexed_is_refused(photos: Path) -> None:
    steps = steps_of(photos, "copy")
    (photos / "0.jpg").write_bytes(b"new")
    (photos / "1.jpg").unlink()

    done = perform(undo_path(photos.parent / "sorted"), Plan(steps))

    assert done.steps == 1
    assert [sentence.rpartition("' ")[2] for sentence in done.failed][1] == "is gone."
    assert "changed since it was indexed" in done.failed[0]


def test_a_later_run_undoes_its_own_steps_alone(photos: Path) -> None:
    folder = photos.parent / "sorted"
    perform(undo_path(folder), Plan(steps_of(photos, "symlink")[:2]))
    perform(undo_path(folder), Plan(steps_of(photos, "symlink")))

    undo(folder / "miil21k-undo-2.json")

    assert sorted(file.name for file in (folder / "deep").iterdir()) == ["0.jpg", "1.jpg"]


def test_what_is_no_undo_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"schema": 1, "steps": [{"kind": "shred"}], "folders": [], "done": true}')
    with pytest.raises(UsageError, match="is no undo file"):
        undo(tmp_path / "x.json")
    with pytest.raises(UsageError, match="There is no undo file"):
        undo(tmp_path / "y.json")
    assert set(KINDS) == {"symlink", "hardlink", "copy", "move", "write"}
