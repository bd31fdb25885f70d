"""kill -9 and full disks, with real processes."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from child_processes import kill_at_random, started, wait_until
from raw_archives import MAX_PIXELS, raw_classes, write_outer

OPTIONS = ["--min-images", "10", "--val-per-class", "2", "--codec", "pillow", "--max-pixels"]
SHARDS = ("--format", "webdataset", "--shard-size", "8")

SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="finds child processes in /proc")


def command(source: Path, target: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "miil21k", "prepare", str(source), str(target), *OPTIONS, str(MAX_PIXELS), *more]


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def finished(target: Path) -> dict[str, int]:
    """Return the inode of every journal entry: it changes when work is done again."""
    return {path.name: path.stat().st_ino for path in (target / ".prepare/units").glob("[!.]*.json")}


@pytest.fixture(scope="module")
def outer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    classes = {f"n0000{group}{wnid[5:]}": data for group in range(3) for wnid, data in raw_classes().items()}
    return write_outer(tmp_path_factory.mktemp("raw") / "whole.tar.gz", classes, "w:gz")


@pytest.mark.parametrize("options", [("--workers", "2"), ("--workers", "1", *SHARDS)])
def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(outer: Path, tmp_path: Path, options: tuple[str]) -> None:
    subprocess.run(command(outer, tmp_path / "whole", *options), check=True, capture_output=True, timeout=600)
    target = tmp_path / "killed"
    kept = 0
    for classes in (1, 3, 5):  # of 12: killed as soon as so many are finished
        before = finished(target)
        with started(command(outer, target, *options), **SILENT) as process:
            wait_until(lambda: len(finished(target)) >= classes, process)  # noqa: B023 - called at once
            process.kill()
            assert process.wait() == -signal.SIGKILL
        after = finished(target)
        assert before.items() <= after.items()
        kept += len(before)
    assert kept >= 1 + 3
    done = subprocess.run(command(outer, target, *options), check=True, capture_output=True, text=True, timeout=600)
    assert "classes were finished before" in done.stderr
    assert tree(target) == tree(tmp_path / "whole")


@needs_proc
def test_workers_end_with_their_parent(outer: Path, tmp_path: Path) -> None:
    with started(command(outer, tmp_path / "out", "--workers", "2"), **SILENT) as process:
        wait_until(lambda: len(_children(process)) == 3, process)  # two workers and the resource tracker
        children = _children(process)
        time.sleep(0.3)
        process.kill()
        process.wait()
        wait_until(lambda: not any(_alive(pid) for pid in children))


def _children(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@needs_proc
def test_the_class_of_a_killed_worker_is_done_again(outer: Path, tmp_path: Path) -> None:
    words = command(outer, tmp_path / "out", "--workers", "2")
    with started(words, **SILENT) as process:
        wait_until(lambda: len(_children(process)) == 3, process)
        os.kill(_children(process)[-1], signal.SIGKILL)
        assert process.wait(120) == 0
    subprocess.run(command(outer, tmp_path / "whole", "--workers", "1"), check=True, capture_output=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@needs_proc
@pytest.mark.parametrize("moment", ["while workers start", "while they work"])
def test_ctrl_c_is_one_line_and_leaves_no_process(outer: Path, tmp_path: Path, moment: str) -> None:
    target = tmp_path / "out"
    with started(command(outer, target, "--workers", "2"), stderr=subprocess.PIPE, text=True) as process:
        if moment == "while workers start":
            wait_until(lambda: len(_children(process)) >= 2, process)  # the tracker, and the first one
        else:
            wait_until(lambda: len(finished(target)) > 0, process)
        children = _children(process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to all of them
        errors = process.communicate(timeout=600)[1]
    assert (process.returncode, errors) == (130, "miil21k prepare: interrupted\n")
    wait_until(lambda: not any(_alive(pid) for pid in children))


def test_a_full_disk_stops_with_one_sentence_and_goes_on_when_there_is_space(outer: Path, tmp_path: Path) -> None:
    options = ("--workers", "1", *SHARDS)
    subprocess.run(command(outer, tmp_path / "whole", *options), check=True, capture_output=True)
    target = tmp_path / "full"
    limit = 150_000  # bytes that one file may have: stands for the space that is left
    stopped = subprocess.run(
        command(outer, target, *options),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        check=False,
    )
    assert (stopped.returncode, stopped.stdout) == (1, "")
    assert stopped.stderr == (
        f"miil21k prepare: No space left for '{target}': free some and run the same command again, finished classes "
        "are kept.\n"
    )
    subprocess.run(command(outer, target, *options), check=True, capture_output=True)
    assert tree(target) == tree(tmp_path / "whole")


def test_a_file_system_without_space_stops_and_goes_on(outer: Path, tmp_path: Path) -> None:
    target = tmp_path / "small"
    target.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", target], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("may not mount a file system")
    try:
        stopped = subprocess.run(command(outer, target, "--workers", "1"), capture_output=True, text=True, check=False)
        assert stopped.returncode == 1
        assert stopped.stderr.count("\n") == 1
        assert "No space left" in stopped.stderr
        before = finished(target)
        assert len(before) > 0
        subprocess.run(["mount", "-o", "remount,size=30m", target], check=True)
        done = subprocess.run(command(outer, target, "--workers", "1"), capture_output=True, text=True, check=True)
        assert f"{len(before)} classes were finished before" in done.stderr
        shutil.copytree(target, tmp_path / "copy")
    finally:
        subprocess.run(["umount", target], check=True)
    subprocess.run(command(outer, tmp_path / "whole", "--workers", "1"), check=True, capture_output=True)
    assert tree(tmp_path / "copy") == tree(tmp_path / "whole")


def test_two_runs_do_not_work_on_one_target(outer: Path, tmp_path: Path) -> None:
    with started(command(outer, tmp_path / "out", "--workers", "1"), **SILENT) as first:
        wait_until(lambda: len(finished(tmp_path / "out")) > 0, first)
        first.send_signal(signal.SIGSTOP)
        second = subprocess.run(
            command(outer, tmp_path / "out"), capture_output=True, text=True, check=False, timeout=600
        )
        assert second.returncode == 2
        assert "Another run is preparing" in second.stderr


@pytest.mark.parametrize("options", [(), SHARDS], ids=["folders", "webdataset"])
def test_a_kill_while_a_mended_class_is_done_again_costs_nothing(tmp_path: Path, options: tuple[str, ...]) -> None:
    source, target = tmp_path / "raw", tmp_path / "out"
    source.mkdir()
    for wnid, data in raw_classes().items():
        (source / f"{wnid}.tar").write_bytes(data)
    words = command(source, target, "--workers", "1", *options)
    mended = source / "n00000001.tar"
    good = mended.read_bytes()
    mended.write_bytes(good[: len(good) // 2])
    assert subprocess.run(words, capture_output=True, check=False, timeout=600).returncode == 1
    mended.write_bytes(good)
    record = target / ".prepare/units/n00000001.json"
    with started(words, **SILENT) as process:
        wait_until(lambda: not record.exists(), process)
        process.kill()
        process.wait()
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=600)
    assert "3 classes were finished before" in done.stderr
    whole = command(source, tmp_path / "whole", "--workers", "1", *options)
    subprocess.run(whole, check=True, capture_output=True, timeout=600)
    assert tree(target) == tree(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--workers", "2"), ("--workers", "2", *SHARDS)], ids=["folders", "webdataset"])
def test_fifty_kills_at_random_moments(outer: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    subprocess.run(command(outer, tmp_path / "whole", *options), check=True, capture_output=True, timeout=600)
    expected, target = tree(tmp_path / "whole"), tmp_path / "out"

    def finished() -> None:
        assert tree(target) == expected
        shutil.rmtree(target)

    kill_at_random(command(outer, target, *options), finished)
