"""Files that are seen whole or not at all."""

from __future__ import annotations

import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from miil21k.files import replace_file, replacing

if TYPE_CHECKING:
    from pathlib import Path


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    replace_file(path, "old")
    with replacing(path) as part:
        part.write_bytes(b"new, in part")
        assert path.read_text(encoding="utf-8") == "old"
        assert part.parent == tmp_path
        assert part.suffix == ".json"
    assert path.read_bytes() == b"new, in part"
    assert [p.name for p in tmp_path.iterdir()] == ["rows.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x"
    replace_file(path, b"old")

    def fail() -> None:
        with replacing(path) as part:
            part.write_bytes(b"half")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_folder_in_the_way_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(OSError, match="target"):
        replace_file(tmp_path / "target", b"content")
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_missing_folders_are_made_only_when_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "a" / "b" / "x", b"1")
    replace_file(tmp_path / "a" / "b" / "x", b"1", parents=True)
    assert (tmp_path / "a" / "b" / "x").read_bytes() == b"1"


@pytest.mark.skipif(os.name != "posix", reason="modes are a matter of POSIX")
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        replace_file(tmp_path / "x", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


def test_threads_that_write_one_file_do_not_share_a_part(tmp_path: Path) -> None:
    path, both = tmp_path / "x", threading.Barrier(2)

    def write(content: bytes) -> None:
        with replacing(path) as part:
            part.write_bytes(content)
            both.wait(10)

    threads = [threading.Thread(target=write, args=(content,)) for content in (b"one", b"two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in (b"one", b"two")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
