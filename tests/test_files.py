"""Files that are seen whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from miil21k.errors import UsageError
from miil21k.files import Lock, atomic, atomic_folder, replace_file, scratch_folder, sweep, temporary_folder


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    replace_file(path, "old")
    with atomic(path) as part:
        part.write_bytes(b"new, in part")
        assert path.read_text(encoding="utf-8") == "old"
        assert part.parent == tmp_path
        assert part.suffix == ".json"
    assert path.read_bytes() == b"new, in part"
    assert [p.name for p in tmp_path.iterdir()] == ["rows.json"]


def test_every_byte_is_on_the_disk_before_the_name_leads_to_it(
    tmp_path: Path, synced: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.json"
    at_rename = []
    rename = type(path).replace

    def replace(part: Path, target: Path) -> Path:
        at_rename.append(synced.get(part.stat().st_ino))
        return rename(part, target)

    monkeypatch.setattr(type(path), "replace", replace)
    replace_file(path, b"x" * 1000)
    assert at_rename == [1000]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x"
    replace_file(path, b"old")

    def fail() -> None:
        with atomic(path) as part:
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
        with atomic(path) as part:
            part.write_bytes(content)
            both.wait(10)

    threads = [threading.Thread(target=write, args=(content,)) for content in (b"one", b"two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in (b"one", b"two")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_only_what_a_dead_process_left_is_swept(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom miil21k.files import atomic, scratch_folder\n"
        "here = Path(sys.argv[1])\n"
        "with atomic(here / 'weights.bin') as part, scratch_folder(here, 'bundle') as folder:\n"
        "    part.write_bytes(b'half')\n    (folder / 'x').write_bytes(b'half')\n    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    left = sorted(tmp_path.iterdir())
    assert len(left) == 2
    (tmp_path / ".part").touch()
    (tmp_path / ".notes.part.txt").touch()
    with atomic(tmp_path / "mine") as part, scratch_folder(tmp_path, "mine") as folder:
        assert sweep(tmp_path, remove=False) == left
        assert sweep(tmp_path) == left
        assert sweep(tmp_path) == []
        assert part.exists()
        assert folder.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".notes.part.txt", ".part", "mine"]
    assert sweep(tmp_path / "nowhere") == []


def test_a_temporary_folder_is_private_and_takes_what_a_killed_one_left_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed, other = tmp_path / ".spool.0123abcd.part", tmp_path / ".spools.0123abcd.part"
    for left in (killed, other):
        left.mkdir()
        (left / "class.tar").touch()
    with temporary_folder("spool") as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
        with temporary_folder("spool") as second:
            assert sorted(tmp_path.iterdir()) == sorted([other, folder, second])
    assert sorted(tmp_path.iterdir()) == [other], "what others left is not ours to remove"


def test_a_folder_takes_the_place_of_another_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "export"
    for content in ("old", "new"):
        with atomic_folder(target) as part:
            (part / content).touch()
            assert [p.name for p in target.parent.iterdir() if p.name[0] != "."] == ["export"][: content == "new"]
        assert [p.name for p in target.iterdir()] == [content]

    def fail() -> None:
        with atomic_folder(target) as part:
            (part / "half").touch()
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert [p.name for p in target.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["export"]


@pytest.mark.skipif(os.name != "posix", reason="modes are a matter of POSIX")
def test_folders_and_locks_too_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with atomic_folder(tmp_path / "x"), Lock(tmp_path / "y"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "y").stat().st_mode) == 0o644


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="has no folder where nobody may make a file")
def test_a_lock_that_cannot_be_made_is_not_called_busy() -> None:
    with pytest.raises(OSError, match=r"/proc/x\.lock"), Lock(Path("/proc/x.lock"), busy="Another run is writing."):
        pass


def test_one_at_a_time_holds_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "below" / "x.lock"
    with Lock(path, busy="Another run is at it.", keep=False):
        with pytest.raises(UsageError, match="Another run is at it"), Lock(path, busy="Another run is at it."):
            pass
        assert path.exists()
        waited: list[bool] = []

        def wait() -> None:
            with Lock(path):
                waited.append(True)

        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(0.1)
        assert not waited
    thread.join(10)
    assert waited


def test_a_name_as_long_as_a_name_may_be_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 125 + ".json")
    replace_file(path, "x")
    assert path.read_bytes() == b"x"
