"""From the raw archive to the published layout: nothing lost, nothing done twice, the same bytes on every way."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_archives import FAULTS, MAX_PIXELS, faulty, photo, photos, raw_classes, tar, write_outer

from miil21k.data.datasets import label_images, open_source
from miil21k.distribute.local import LocalEngine
from miil21k.errors import PrepareError, UsageError
from miil21k.hierarchy.spaces import LabelSpace
from miil21k.hierarchy.tree import Tree
from miil21k.prepare import class_job
from miil21k.prepare.codecs import open_converter
from miil21k.prepare.dry_run import dry_run
from miil21k.prepare.manifest import ManifestRow, _escaped, _unescaped, decode_rows, encode_rows, read_manifest
from miil21k.prepare.members import Member, MemberReader
from miil21k.prepare.options import PrepareOptions
from miil21k.prepare.run import PrepareOutcome, check_summary, prepare
from miil21k.prepare.split import FOLDERS
from miil21k.prepare.verify import verify
from miil21k.prepare.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OPTIONS = PrepareOptions(min_images=10, val_per_class=2, size=224, max_pixels=MAX_PIXELS, shard_size=8, codec="pillow")
SHARDS = replace(OPTIONS, format="webdataset")


@pytest.fixture(scope="module")
def outer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_outer(tmp_path_factory.mktemp("raw") / "whole.tar", raw_classes())


def few_classes() -> dict[str, bytes]:
    """Return tars of three classes of two images each, small ones that are copied."""
    wnids = ("n00000001", "n00000002", "n00000003")
    return {wnid: tar([(f"{wnid}_{k}.JPEG", photo(200, 150, seed=k)) for k in range(2)]) for wnid in wnids}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_outer(tmp_path_factory.mktemp("few") / "few.tar", few_classes())


def run(source: Path, target: Path, options: PrepareOptions = OPTIONS, workers: int = 1, **more: Any) -> PrepareOutcome:
    return prepare(str(source), target, options, LocalEngine(workers), **more)


def tree(folder: Path) -> dict[str, str]:
    """Return the digest of every file below `folder`."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_published_layout_holds_what_the_published_steps_would_give(outer: Path, tmp_path: Path) -> None:
    run(outer, tmp_path / "out")
    expected: dict[str, bytes] = {}
    converter = open_converter(OPTIONS)
    for wnid, data in raw_classes().items():
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            unpacked = {
                m.name: archive.extractfile(m).read()  # type: ignore[union-attr]
                for m in archive
                if m.isreg() and m.name.lower().endswith((".jpeg", ".png")) and m.name[0] not in "./"
            }
        for rank, name in enumerate(sorted(unpacked)):
            place = "small_class" if len(unpacked) <= 10 else "val" if rank < 2 else "train"
            result = converter.convert(unpacked[name])
            if result.data is not None:
                suffix = ".JPEG" if name.endswith(".png") else ""
                expected[f"{FOLDERS[place]}/{wnid}/{name}{suffix}"] = result.data  # type: ignore[index]
    written = {name: digest for name, digest in tree(tmp_path / "out").items() if "/" in name}
    assert written == {name: hashlib.sha256(data).hexdigest() for name, data in expected.items()}


def test_every_member_stands_in_the_manifest_once_with_its_reason(outer: Path, tmp_path: Path) -> None:
    summary = run(outer, tmp_path / "out").summary
    rows = list(read_manifest(tmp_path / "out/manifest.csv"))
    assert len(rows) == summary["members"] == 13 + 30 + 10 + 11
    assert summary["images"] == {"train": 11 + 17 + 9, "val": 6, "small_class": 10, "duplicate": 1, "failed": 10}
    odd = {row.source: (row.place, row.outcome) for row in rows if row.source in FAULTS}
    assert odd == FAULTS
    assert [(r.source, r.source_bytes) for r in rows if r.place == "duplicate"] == [
        ("n00000002_3.JPEG", len(dict(photos("n00000002", 14))["n00000002_3.JPEG"]))
    ]
    for row in rows:
        if row.file:
            assert hashlib.sha256((tmp_path / "out" / row.file).read_bytes()).hexdigest() == row.sha256
    assert sum(row.bytes for row in rows) == summary["bytes"]
    listed = (tmp_path / "out/val_images.txt").read_bytes()
    assert listed.startswith(b"n00000001/n00000001_0.JPEG\nn00000001/n00000001_1.JPEG\nn00000002/")
    assert hashlib.sha256(listed).hexdigest() == summary["sha256"]["val_images.txt"]


@pytest.mark.parametrize("options", [OPTIONS, SHARDS], ids=["folders", "webdataset"])
def test_a_manifest_in_parquet_has_the_same_rows(outer: Path, tmp_path: Path, options: PrepareOptions) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    summary = run(outer, tmp_path / "csv", options).summary
    other = run(outer, tmp_path / "parquet", replace(options, manifest="parquet")).summary
    rows = list(read_manifest(tmp_path / "csv/manifest.csv"))
    assert list(read_manifest(tmp_path / "parquet/manifest.parquet")) == rows
    table = pq.read_table(tmp_path / "parquet/manifest.parquet").to_pydict()
    assert sum(table["bytes"]) == summary["bytes"] == other["bytes"]
    assert table["place"].count("train") == summary["images"]["train"]
    assert verify(tmp_path / "parquet").faults == []
    manifest = tmp_path / "parquet/manifest.parquet"
    manifest.write_bytes(manifest.read_bytes()[:-1] + b"x")
    with pytest.raises(PrepareError, match=r"manifest.parquet' is damaged"):
        list(read_manifest(manifest))


@given(st.lists(st.text(st.characters(codec="utf-8") | st.sampled_from("\\x\udc80\udcff")), min_size=1, max_size=4))
def test_any_file_name_comes_back_from_either_manifest(names: list[str]) -> None:
    names = [name.replace("\0", "").replace("\r", "") for name in names]
    rows = [ManifestRow("n1", name, "train", "resized", 3, 2, 5, 4, "ab", name) for name in names]
    assert list(decode_rows(encode_rows(rows))) == rows
    assert [_unescaped(_escaped(name)) for name in names] == names
    for name in names:
        _escaped(name).encode()


@pytest.mark.parametrize("options", [OPTIONS, SHARDS], ids=["folders", "webdataset"])
def test_files_that_a_power_cut_emptied_are_made_again(outer: Path, tmp_path: Path, options: PrepareOptions) -> None:
    run(outer, tmp_path / "expected", options)
    target, space = tmp_path / "out", Workspace(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        run(outer, target, options, progress=interrupt_after(3))
    pattern = "n00000001.train" if options.format == "webdataset" else "*/n00000001/n00000001_12.JPEG"
    lost = next((space.samples if options.format == "webdataset" else target).glob(pattern))
    lost.write_bytes(b"")
    (space.root / "boot").write_text("an earlier start")
    for folder in (target, space.units, space.shards):  # and what a kill left of a file that was being written
        (folder / ".n00000009.1-1.part.json").write_bytes(b"{")
    assert run(outer, target, options).resumed == 2
    assert tree(target) == tree(tmp_path / "expected")


def interrupt_after(count: int) -> Callable[[dict[str, Any]], None]:
    seen: list[dict[str, Any]] = []

    def progress(record: dict[str, Any]) -> None:
        seen.append(record)
        if len(seen) == count:
            raise KeyboardInterrupt

    return progress


def test_nothing_is_written_outside_the_target(outer: Path, tmp_path: Path) -> None:
    run(outer, tmp_path / "a/out")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]
    assert sorted(path.name for path in (tmp_path / "a/out").iterdir()) == [
        *sorted(FOLDERS.values()),
        "manifest.csv",
        "summary.json",
        "val_images.txt",
    ]


@pytest.mark.parametrize("options", [OPTIONS, SHARDS], ids=["folders", "webdataset"])
def test_the_loader_of_the_training_reads_what_was_written(
    outer: Path, tmp_path: Path, options: PrepareOptions
) -> None:
    run(outer, tmp_path / "out", options)
    wnids = ("n00000001", "n00000002", "n00000004")
    space = LabelSpace("raw", Tree.from_parents(wnids, (None,) * 3, num_classes=3), wnids, ("",) * 3)
    images = label_images(open_source(str(tmp_path / "out/imagenet21k_train")), space)
    assert len(images) == 37
    assert sorted(images.labels.tolist()) == [0] * 11 + [1] * 17 + [2] * 9
    assert {images.load(index).size for index in range(37)} == {(224, 224), (200, 150)}


def test_shards_hold_what_folders_hold_in_the_order_of_the_seed(outer: Path, tmp_path: Path) -> None:
    run(outer, tmp_path / "folders")
    summary = run(outer, tmp_path / "shards", SHARDS).summary
    index = json.loads((tmp_path / "shards/index.json").read_bytes())
    assert index["images"] == {"train": 37, "val": 6, "small_class": 10}
    assert [s["images"] for s in index["shards"] if s["place"] == "train"] == [8, 8, 8, 8, 5]
    order, contents = [], []
    for shard in (s for s in index["shards"] if s["place"] == "train"):
        data = (tmp_path / "shards" / shard["name"]).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (shard["sha256"], shard["bytes"])
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for info in archive:
                assert (info.mtime, info.uid, info.uname) == (0, 0, "")
                content = archive.extractfile(info).read()  # type: ignore[union-attr]
                if info.name.endswith(".cls"):
                    order.append(content.decode())
                    assert info.name.startswith(f"{order[-1]}/")
                else:
                    contents.append(hashlib.sha256(content).hexdigest())
    files = tree(tmp_path / "folders/imagenet21k_train")
    assert sorted(contents) == sorted(files.values())
    assert order != sorted(order)
    assert summary["sha256"]["index.json"] == hashlib.sha256((tmp_path / "shards/index.json").read_bytes()).hexdigest()
    run(outer, tmp_path / "other", replace(SHARDS, seed=1))
    assert tree(tmp_path / "other")["manifest.csv"] == tree(tmp_path / "shards")["manifest.csv"]
    assert json.loads((tmp_path / "other/index.json").read_bytes())["shards"][0] != index["shards"][0]


def test_all_kinds_of_source_and_any_number_of_workers_give_the_same(outer: Path, tmp_path: Path) -> None:
    run(outer, tmp_path / "expected")
    expected = {name: digest for name, digest in tree(tmp_path / "expected").items() if name != "summary.json"}
    stream = write_outer(tmp_path / "whole.tar.gz", raw_classes(), "w:gz")
    (tmp_path / "tars").mkdir()
    for wnid, data in raw_classes().items():
        (tmp_path / f"tars/{wnid}.tar").write_bytes(data)
    for name, source, workers in (("from gz", stream, 2), ("from tars", tmp_path / "tars", 1), ("again", outer, 2)):
        run(source, tmp_path / name, workers=workers)
        found = tree(tmp_path / name)
        del found["summary.json"]  # it names the source
        assert found == expected


@pytest.mark.parametrize("options", [OPTIONS, SHARDS], ids=["folders", "webdataset"])
def test_a_run_that_stops_anywhere_goes_on_and_ends_with_the_same_bytes(
    outer: Path, tmp_path: Path, options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(outer, tmp_path / "whole", options)
    done: list[str] = []

    def interrupt_after(count: int) -> Callable[[dict[str, Any]], None]:
        def progress(record: dict[str, Any]) -> None:
            if record.get("resumed"):
                assert record["id"] in done
                return
            done.append(record.get("id") or record["name"])
            if len(done) >= count:
                raise KeyboardInterrupt

        return progress

    for count in range(1, 20):
        try:
            run(outer, tmp_path / "parts", options, progress=interrupt_after(count))
            break
        except KeyboardInterrupt:
            continue
    assert len(done) == len(set(done))  # finished work is not done again
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")
    monkeypatch.setattr(class_job, "open_converter", None)  # a complete target is not touched
    assert run(outer, tmp_path / "parts", options).resumed == 4
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_files_of_an_unfinished_class_are_replaced(outer: Path, tmp_path: Path) -> None:
    run(outer, tmp_path / "whole")

    def stop(record: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(outer, tmp_path / "parts", progress=stop)
    half = tmp_path / "parts/imagenet21k_train/n00000002"
    half.mkdir()
    (half / "half.JPEG").write_bytes(b"half")
    (tmp_path / "parts/.prepare/staging/n00000002.dead").mkdir()
    run(outer, tmp_path / "parts")
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_other_options_or_another_source_are_refused_for_a_begun_target(outer: Path, tmp_path: Path) -> None:
    def stop(record: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(outer, tmp_path / "out", progress=stop)
    with pytest.raises(UsageError, match="val_per_class: 2, now 3"):
        dry_run(str(outer), tmp_path / "out", replace(OPTIONS, val_per_class=3))
    assert dry_run(str(outer), tmp_path / "out", OPTIONS)["finished"] == 1
    with pytest.raises(UsageError, match=r"options val_per_class: 2, now 3.*the same, or a new folder"):
        run(outer, tmp_path / "out", replace(OPTIONS, val_per_class=3))
    other = write_outer(tmp_path / "other.tar", {"n1": tar(photos("n1", 3))})
    with pytest.raises(UsageError, match=r"source name: 'whole.tar', now 'other.tar'"):
        run(other, tmp_path / "out")
    run(outer, tmp_path / "out")
    with pytest.raises(UsageError, match="options size: 224, now 225"):
        run(outer, tmp_path / "out", replace(OPTIONS, size=225))


def test_a_target_with_other_files_and_a_target_in_the_source_are_refused(outer: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    for refused in (run, partial(dry_run, options=OPTIONS)):
        with pytest.raises(UsageError, match="is not empty"):
            refused(str(outer), tmp_path / "mine")
        with pytest.raises(UsageError, match=r"thesis.tex' is a file: give the folder to make"):
            refused(str(outer), tmp_path / "mine/thesis.tex")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    (tmp_path / "src/n1").mkdir(parents=True)
    with pytest.raises(UsageError, match="lies in the source"):
        run(tmp_path / "src", tmp_path / "src/out")


def test_a_source_without_a_class_leaves_no_trace(few: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "new", tmp_path / "there"):
        (tmp_path / "there").mkdir(exist_ok=True)
        existed = target.exists()
        with pytest.raises(UsageError, match="holds no class"):
            run(tmp_path / "empty", target)
        assert target.exists() == existed
        assert run(few, target).summary["members"] == 6  # another source is welcome


def test_a_source_that_gives_no_image_is_an_error_that_counts(tmp_path: Path) -> None:
    nested = tmp_path / "nested.tar"
    nested.write_bytes(tar([("all.tar", tar([("n1.tar", tar(photos("n1", 2))), ("n2.tar", b"")]))]))
    for values in (run(nested, tmp_path / "out").summary, dry_run(str(nested), tmp_path / "dry", OPTIONS)):
        with pytest.raises(PrepareError, match=r"nested.tar' gives no image, all 2 members failed"):
            check_summary(values, str(nested), strict=False)


def test_a_damaged_summary_is_one_sentence(few: Path, tmp_path: Path) -> None:
    run(few, tmp_path / "out")
    for content in (b"{", b"[]", b"{}", b"\xff"):
        (tmp_path / "out/summary.json").write_bytes(content)
        for use in (lambda: run(few, tmp_path / "out"), lambda: verify(tmp_path / "out")):
            with pytest.raises(PrepareError, match=r"summary.json' is damaged .*: remove it, or prepare into a new"):
                use()


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tars"])
def test_progress_says_how_far_it_is(few: Path, tmp_path: Path, kind: str) -> None:
    source = tmp_path / kind
    if kind == "tars":
        source.mkdir()
        for wnid, data in few_classes().items():
            (source / f"{wnid}.tar").write_bytes(data)
    else:
        source.write_bytes(few.read_bytes() if kind == "tar" else gzip.compress(few.read_bytes()))
    seen: list[dict[str, Any]] = []

    def stop_at_two(record: dict[str, Any]) -> None:
        seen.append(record)
        if len(seen) == 2:
            raise KeyboardInterrupt

    options = replace(SHARDS, shard_size=4)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", options, progress=stop_at_two)
    seen.clear()
    run(source, tmp_path / "out", options, progress=seen.append)
    classes = [record for record in seen if "reached" in record]
    assert [(record["id"], record.get("resumed", False)) for record in classes] == [
        ("n00000001", True),
        ("n00000002", True),
        ("n00000003", False),
    ]
    # The archive of tarfile ends with zeros up to the next 10 kB; one that is compressed is read in larger blocks.
    shares = [record["reached"] for record in classes]
    assert shares == sorted(shares)
    assert 0.8 < shares[-1] <= 1
    assert kind == "tar.gz" or shares == pytest.approx([1 / 3, 2 / 3, 1], abs=0.2)
    assert [(record["finished"], record["shards"]) for record in seen if "shards" in record] == [(1, 2), (2, 2)]


def test_damaged_archives_and_repeated_classes_are_reported_and_strict_makes_them_fatal(tmp_path: Path) -> None:
    data = tar(photos("n00000001", 13))
    outer = tmp_path / "whole.tar"
    outer.write_bytes(
        tar(
            [
                ("n00000001.tar", data[:-3000]),
                ("n00000002.tar", tar(faulty())),
                ("more/n00000001.tar", tar(photos("n00000001", 2))),
                ("README", b"x"),
            ]
        )
    )
    summary = run(outer, tmp_path / "out").summary
    with pytest.raises(PrepareError, match=r"images that failed: 13; damaged class archives: 1"):
        check_summary(summary, str(outer), strict=True)
    check_summary(summary, str(outer), strict=False)
    assert summary["damaged_archives"] == {"n00000001": "cut off after 13 members (no end mark)"}
    assert summary["ignored"] == ["README"]
    assert summary["outcomes"]["failed:class_repeated"] == 2
    assert summary["outcomes"]["failed:archive_cut"] == 1
    assert summary["classes"] == {"total": 2, "kept": 2, "small": 0}


def test_counts_and_classes_are_compared_with_a_release(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for wnid in ("n02084071", "n02121808", "n99999999"):  # dog, domestic cat, nothing
        (tmp_path / f"raw/{wnid}.tar").write_bytes(tar(photos(wnid, 11)))
    summary = run(tmp_path / "raw", tmp_path / "out", release="fall11").summary
    assert (summary["release"]["name"], len(summary["release"]["missing"])) == ("fall11", 11_219)
    assert summary["release"]["extra"] == ["n99999999"]
    assert summary["release"]["deviations"][2:] == [
        "27 train images, published 11,797,632",
        "6 val images, published 561,052",
    ]
    with pytest.raises(PrepareError, match="11,219 classes of fall11 are missing"):
        check_summary(summary, "raw", strict=True)


def test_a_dry_run_counts_the_same_and_writes_nothing(
    outer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = sorted(tmp_path.iterdir())
    (tmp_path / ".miil21k-dry-run.0123abcd.part").mkdir()  # what a killed one left
    plan = dry_run(str(outer), tmp_path / "out", OPTIONS)
    assert sorted(tmp_path.iterdir()) == before
    assert plan["classes"] == {"total": 4, "kept": 3, "small": 1}
    # What is broken inside counts as an image until it is decoded: 901, 902, 903 and 906.
    assert plan["images"] == {"train": 41, "val": 6, "small_class": 10, "duplicate": 1, "failed": 6}
    run(outer, tmp_path / "out")
    on_disk = sum(-(-p.stat().st_size // 4096) * 4096 for p in (tmp_path / "out").glob("*/*/*"))
    assert plan["bytes"] == pytest.approx(on_disk, rel=0.2)
    packed = dry_run(str(write_outer(tmp_path / "whole.tar.gz", raw_classes(), "w:gz")), tmp_path / "shards", SHARDS)
    assert packed["images"] == plan["images"]
    assert packed["peak_bytes"] == pytest.approx(2 * packed["bytes"], abs=2)


def test_a_name_that_the_file_system_refuses_fails_alone(tmp_path: Path) -> None:
    entries = [("x" * 251 + ".png", photo(fmt="PNG")), ("y" * 300 + ".JPEG", photo()), ("a.JPEG", photo())]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/n1.tar").write_bytes(tar(entries))  # the first one's name is short enough until .JPEG is added
    summary = run(tmp_path / "raw", tmp_path / "folders").summary
    assert summary["outcomes"] == {"failed:name_refused": 2, "small_class:resized": 1}
    assert run(tmp_path / "raw", tmp_path / "shards", SHARDS).summary["outcomes"] == {"small_class:resized": 3}


def test_a_file_that_no_image_can_fill_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw/n1").mkdir(parents=True)
    read: list[int] = []
    original = MemberReader.read

    def counted(reader: MemberReader, member: Member) -> bytes:
        read.append(member.size)
        return original(reader, member)

    monkeypatch.setattr(MemberReader, "read", counted)
    for name, size in (("a", OPTIONS.max_bytes), ("b", OPTIONS.max_bytes + 1)):
        with (tmp_path / f"raw/n1/{name}.JPEG").open("wb") as file:
            file.truncate(size)  # takes no space
    dry_run(str(tmp_path / "raw"), tmp_path / "out", OPTIONS)
    assert read == [OPTIONS.max_bytes]
    summary = run(tmp_path / "raw", tmp_path / "out").summary
    assert summary["outcomes"] == {"failed:not_an_image": 1, "failed:too_large": 1}
    assert read == [OPTIONS.max_bytes] * 2


def test_names_that_would_fall_together_fail_instead_of_overwriting(tmp_path: Path) -> None:
    entries = [("a.png", photo(fmt="PNG")), ("a.png.JPEG", photo(seed=1)), ("b.x.jpg", photo()), ("b_x.jpg", photo())]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/n1.tar").write_bytes(tar(entries))
    summary = run(tmp_path / "raw", tmp_path / "folders").summary
    assert summary["outcomes"] == {"failed:name_taken": 1, "small_class:resized": 3}
    assert run(tmp_path / "raw", tmp_path / "shards", SHARDS).summary["outcomes"] == summary["outcomes"]
