"""Classes out of archives and folders."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

import pytest
from raw_archives import photos, raw_classes, tar, write_outer

from miil21k.errors import PrepareError, UsageError
from miil21k.prepare.members import list_members
from miil21k.prepare.sources import open_raw

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = {name: data for name, data in raw_classes().items() if name != "n00000002"}


def listing(path: Path, spool: Path, done: str = "") -> tuple[dict[str, int], list[str]]:
    ignored: list[str] = []
    units = open_raw(str(path)).units(spool, lambda unit: unit.id == done, ignored)
    return {unit.id: len(list_members(unit).members) for unit in units}, ignored


def as_tars(folder: Path) -> Path:
    folder.mkdir()
    for wnid, data in CLASSES.items():
        (folder / f"{wnid}.tar").write_bytes(data)
    (folder / "notes.txt").write_text("x")
    return folder


def as_folders(folder: Path) -> Path:
    for wnid, count, seed in (("n00000001", 13, 0), ("n00000003", 10, 2), ("n00000004", 11, 4)):
        (folder / wnid).mkdir(parents=True)
        for name, data in photos(wnid, count, seed):
            (folder / wnid / name).write_bytes(data)
    (folder / "notes.txt").write_text("x")
    return folder


@pytest.mark.parametrize("kind", ["archive", "stream", "tars", "folders"])
def test_every_kind_of_source_gives_the_same_classes(tmp_path: Path, kind: str) -> None:
    make = {
        "archive": lambda: write_outer(tmp_path / "whole.tar", CLASSES),
        "stream": lambda: write_outer(tmp_path / "whole.tar.gz", CLASSES, "w:gz"),
        "tars": lambda: as_tars(tmp_path / "tars"),
        "folders": lambda: as_folders(tmp_path / "folders"),
    }
    path = make[kind]()
    assert open_raw(str(path)).kind == kind
    found, ignored = listing(path, tmp_path / "spool")
    assert found == {"n00000001": 13, "n00000003": 10, "n00000004": 11}
    assert ignored == (["notes.txt"] if kind in ("tars", "folders") else [])
    assert listing(path, tmp_path / "spool", done="n00000003")[0].keys() == {"n00000001", "n00000004"}


def test_a_compressed_archive_is_spooled_one_class_at_a_time(tmp_path: Path) -> None:
    path = write_outer(tmp_path / "whole.tar.gz", CLASSES, "w:gz")
    spool = tmp_path / "spool"
    for unit in open_raw(str(path)).units(spool, lambda _: False, []):
        assert [copy.name for copy in spool.iterdir()] == [f"{unit.id}.tar"]
        unit.path.unlink()


@pytest.mark.parametrize(("name", "mode"), [("whole.tar", "w"), ("whole.tar.gz", "w:gz")])
def test_an_archive_that_is_cut_off_says_after_which_class(tmp_path: Path, name: str, mode: str) -> None:
    path = write_outer(tmp_path / name, CLASSES, mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    with pytest.raises(PrepareError, match=r"cut off or damaged after (1 class|2 classes) "):
        listing(path, tmp_path / "spool")


def test_a_class_that_comes_again_gets_a_serial_number(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(
        tar([("x/n1.tar", CLASSES["n00000001"]), ("y/n1.tar", CLASSES["n00000003"]), ("../n2.txt", b"x")])
    )
    found, ignored = listing(tmp_path / "a.tar", tmp_path / "spool")
    assert found == {"n1": 13, "n1~2": 10}
    assert ignored == ["../n2.txt"]


def test_class_names_cannot_leave_the_target(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar([("../../n1.tar", CLASSES["n00000001"]), ("...tar", b""), ("-x.tar", b"")]))
    found, ignored = listing(path, tmp_path / "spool")
    assert list(found) == ["n1"]
    assert ignored == ["...tar", "-x.tar"]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such files")
def test_a_pipe_or_a_socket_is_refused_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    os.mkfifo("pipe.tar")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("whole.tar")
        for name in ("pipe.tar", "whole.tar"):
            with pytest.raises(UsageError, match=f"'{name}' is a pipe, a socket or a device: give"):
                open_raw(name)


@pytest.mark.skipif(sys.platform != "linux", reason="no such file")
def test_what_cannot_be_read_is_not_called_a_wrong_format() -> None:
    with pytest.raises(PrepareError, match=r"Cannot read '/proc/self/mem': Input/output error"):
        open_raw("/proc/self/mem")  # for root too


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "images.tar").write_bytes(tar(photos("n1", 2)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="There is no"):
        open_raw(str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="is no tar archive"):
        open_raw(str(tmp_path / "text"))
    for name in ("images.tar", "empty"):
        with pytest.raises(UsageError, match="holds no class: give the outer archive"):
            listing(tmp_path / name, tmp_path / "spool")
