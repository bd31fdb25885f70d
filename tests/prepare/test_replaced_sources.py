"""Sources that were cut, damaged or unreadable, and then mended: only what has changed is done again."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from raw_archives import photos, tar, write_outer

from miil21k.cli.main import main
from miil21k.distribute.local import LocalEngine
from miil21k.errors import PrepareError, UsageError
from miil21k.prepare.options import PrepareOptions
from miil21k.prepare.run import PrepareOutcome, prepare, require_well
from miil21k.prepare.verify import verify
from miil21k.prepare.workspace import Workspace

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = PrepareOptions(min_images=3, val_per_class=1, size=64, codec="pillow")
SHARDS = replace(OPTIONS, format="webdataset", shard_size=4)
LAYOUTS = pytest.mark.parametrize("options", [OPTIONS, SHARDS], ids=["folders", "webdataset"])
WNIDS = ("n00000001", "n00000002", "n00000003")
needs_unreadable = pytest.mark.skipif(sys.platform != "linux", reason="no file that even root cannot read")


def classes() -> dict[str, bytes]:
    return {wnid: tar(photos(wnid, 4, seed=place)) for place, wnid in enumerate(WNIDS)}


def as_tars(folder: Path, found: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for wnid, data in found.items():
        (folder / f"{wnid}.tar").write_bytes(data)
    return folder


def run(source: Path, target: Path, options: PrepareOptions = OPTIONS, **more: Any) -> PrepareOutcome:
    return prepare(str(source), target, options, LocalEngine(1), **more)


def done_by(source: Path, target: Path, options: PrepareOptions) -> tuple[list[str], PrepareOutcome]:
    """Return the classes that this run did, and what came of it."""
    done: list[str] = []
    before = {path.stem: path.stat().st_ino for path in Workspace(target).units.glob("*.csv")}

    def progress(record: dict[str, Any]) -> None:
        if "shards" not in record:
            for path in Workspace(target).units.glob("*.csv"):  # a class that is done again has new rows
                if before.get(path.stem) != path.stat().st_ino and path.stem not in done:
                    done.append(path.stem)

    outcome = run(source, target, options, progress=progress)
    return sorted(done), outcome


def tree(folder: Path) -> dict[str, str]:
    """Return the digest of every file of the data set; the summary names its source."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "summary.json")
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(params=["w", "w:gz"], ids=["tar", "tar.gz"])
def outer(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_outer(tmp_path / "raw.tar", classes(), request.param)


@LAYOUTS
def test_a_source_that_was_cut_and_then_replaced_is_gone_on_with(
    outer: Path, tmp_path: Path, options: PrepareOptions
) -> None:
    run(outer, tmp_path / "expected", options)
    whole = outer.read_bytes()
    outer.write_bytes(whole[: len(whole) * 3 // 5])
    with pytest.raises(PrepareError, match=r"is cut off or damaged after [12] class"):
        run(outer, tmp_path / "out", options)
    units = Workspace(tmp_path / "out").units
    finished = {path.stem: path.stat().st_ino for path in units.glob("*.csv")}
    assert 1 <= len(finished) < 3
    outer.write_bytes(whole)
    kept: dict[str, int] = {}

    def progress(record: dict[str, Any]) -> None:
        kept.update({path.stem: path.stat().st_ino for path in units.glob("*.csv")})

    assert run(outer, tmp_path / "out", options, progress=progress).resumed == len(finished)
    assert finished.items() <= kept.items()
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")


@LAYOUTS
def test_a_class_that_has_changed_is_done_again_and_alone(tmp_path: Path, options: PrepareOptions) -> None:
    source = as_tars(tmp_path / "raw", classes())

    def stop(record: dict[str, Any]) -> None:
        if record["id"] == WNIDS[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", options, progress=stop)
    (source / f"{WNIDS[0]}.tar").write_bytes(tar(photos(WNIDS[0], 3, seed=9)))  # now a small class
    os.utime(source / f"{WNIDS[1]}.tar", ns=(0, 0))  # copied again, say
    done, outcome = done_by(source, tmp_path / "out", options)
    assert done == [WNIDS[0], WNIDS[2]]
    assert outcome.resumed == 1
    run(source, tmp_path / "expected", options)
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")


@LAYOUTS
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_class_tar_is_mended_by_replacing_it(
    tmp_path: Path, options: PrepareOptions, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = as_tars(tmp_path / "raw", classes()), tmp_path / "out"
    run(source, tmp_path / "expected", options)
    good = (source / f"{WNIDS[1]}.tar").read_bytes()
    second = good.index(b"\xff\xd8\xff", 2000) - 512  # the header of the second member
    bad = good[: len(good) // 2] if damage == "cut" else good[:second] + b"\xff" * 8 + good[second + 8 :]
    (source / f"{WNIDS[1]}.tar").write_bytes(bad)
    words = ["prepare", str(source), str(target), "--min-images", "3", "--val-per-class", "1", "--size", "64"]
    words += ["--codec", "pillow", "--workers", "1", "--format", options.format]
    words += ["--shard-size", "4"] if options.format == "webdataset" else []
    assert main(words) == 1
    assert (
        "1 archives of classes are damaged (n00000002): mend the source and run the same command again, only these "
        f"classes are done again; to keep the data set without them, remove '{target}/.prepare'.\n"
    ) in capsys.readouterr().err
    assert verify(target).faults == [
        "a part of its source was unreadable or damaged: the command that made it tries that part again"
    ]
    (source / f"{WNIDS[1]}.tar").write_bytes(good)
    done, outcome = done_by(source, target, options)
    assert done == [WNIDS[1]]
    require_well(outcome.summary, target)
    assert tree(target) == tree(tmp_path / "expected")
    assert verify(target).faults == []
    assert main(words) == 0


@needs_unreadable
@LAYOUTS
def test_images_that_the_disk_did_not_give_are_tried_again(tmp_path: Path, options: PrepareOptions) -> None:
    source, target = tmp_path / "raw", tmp_path / "out"
    for wnid in WNIDS:
        (source / wnid).mkdir(parents=True)
        for name, data in photos(wnid, 4):
            (source / wnid / name).write_bytes(data)
    run(source, tmp_path / "expected", options)
    failing = source / WNIDS[2] / f"{WNIDS[2]}_1.JPEG"
    failing.unlink()
    failing.symlink_to("/proc/self/mem")  # reading it is an input/output error, for root too
    for _ in range(2):  # as long as it fails
        outcome = run(source, target, options)
        assert outcome.summary["outcomes"]["failed:unreadable"] == 1
        assert outcome.resumed in (0, 2)
        with pytest.raises(PrepareError, match=r"1 images could not be read \(n00000003\): mend the source and run"):
            require_well(outcome.summary, target)
    failing.unlink()
    failing.write_bytes(dict(photos(WNIDS[2], 4))[failing.name])
    done, outcome = done_by(source, target, options)
    assert done == [WNIDS[2]]
    require_well(outcome.summary, target)
    assert tree(target) == tree(tmp_path / "expected")


@needs_unreadable
def test_a_class_tar_that_the_disk_does_not_give_leaves_the_others_alone(tmp_path: Path) -> None:
    source = as_tars(tmp_path / "raw", classes())
    (source / f"{WNIDS[0]}.tar").unlink()
    (source / f"{WNIDS[0]}.tar").symlink_to("/proc/self/mem")
    outcome = run(source, tmp_path / "out")
    assert outcome.summary["damaged_archives"] == {WNIDS[0]: "unreadable (Input/output error)"}
    assert outcome.summary["classes"]["kept"] == 2


def test_what_is_accepted_as_damaged_is_complete(tmp_path: Path) -> None:
    found = classes()
    source = as_tars(tmp_path / "raw", found | {WNIDS[0]: found[WNIDS[0]][:-3000]})
    run(source, tmp_path / "out")
    shutil.rmtree(tmp_path / "out/.prepare")
    assert run(source, tmp_path / "out").resumed == 3
    assert verify(tmp_path / "out").faults == []


def test_classes_that_are_gone_stop_the_run_and_lose_nothing(tmp_path: Path) -> None:
    source = as_tars(tmp_path / "raw", classes())
    gone = source / f"{WNIDS[1]}.tar"

    def stop_at_the_last(record: dict[str, Any]) -> None:
        if record["id"] == WNIDS[2]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", progress=stop_at_the_last)
    data = gone.read_bytes()
    gone.unlink()
    with pytest.raises(PrepareError, match=r"lacks 1 classes that were prepared from it before \(n00000002\): bring"):
        run(source, tmp_path / "out")
    gone.write_bytes(data)
    assert run(source, tmp_path / "out").resumed == 3


def test_a_finished_data_set_and_an_old_journal_are_not_gone_on_with(tmp_path: Path) -> None:
    outer = write_outer(tmp_path / "raw.tar", classes())
    run(outer, tmp_path / "out")
    write_outer(outer, {**classes(), "n00000009": tar(photos("n00000009", 4))})
    with pytest.raises(UsageError, match=r"source bytes: \d+, now \d+"):
        run(outer, tmp_path / "out")
    (tmp_path / "old/.prepare").mkdir(parents=True)
    (tmp_path / "old/.prepare/plan.json").write_text('{"version": 1, "source": {"bytes": 1}}')
    with pytest.raises(UsageError, match="was begun by another version of miil21k"):
        run(outer, tmp_path / "old")


def test_the_same_bytes_come_without_what_only_posix_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outer = write_outer(tmp_path / "raw.tar", classes())
    run(outer, tmp_path / "expected", SHARDS)
    for name in ("pread", "pwrite", "posix_fadvise", "sync", "geteuid", "fork", "kill", "killpg", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    run(outer, tmp_path / "out", SHARDS)
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")


def test_where_the_system_names_no_start_sizes_are_always_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miil21k.prepare.workspace._boot_id", lambda: "")
    source = as_tars(tmp_path / "raw", classes())
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", progress=_interrupt)
    lost = next((tmp_path / "out").glob("imagenet21k_train/*/*"))
    lost.write_bytes(b"")
    assert run(source, tmp_path / "out").resumed == 0
    assert lost.read_bytes() != b""


def _interrupt(_: dict[str, Any]) -> None:
    raise KeyboardInterrupt
