"""Checks of finished data sets, ours and others."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from raw_archives import photo, photos, tar

from miil21k.distribute.local import LocalEngine
from miil21k.errors import PrepareError, UsageError
from miil21k.prepare.options import PrepareOptions
from miil21k.prepare.run import prepare
from miil21k.prepare.verify import verify

OPTIONS = PrepareOptions(min_images=10, val_per_class=2, shard_size=8, codec="pillow")
WNIDS = ("n02084071", "n02121808", "n02958343")  # dog, domestic cat, car; the car is a small class


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    (root / "raw").mkdir()
    for wnid, count in zip(WNIDS, (12, 13, 9), strict=True):
        (root / f"raw/{wnid}.tar").write_bytes(tar(photos(wnid, count)))
    for name in ("folders", "webdataset"):
        prepare(str(root / "raw"), root / name, replace(OPTIONS, format=name), LocalEngine(1))
    return root


@pytest.fixture(params=["folders", "webdataset"])
def target(made: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return Path(shutil.copytree(made / request.param, tmp_path / "target"))


def test_a_good_data_set_has_no_faults_and_names_its_release(target: Path) -> None:
    found = verify(target, decode=True, workers=2)
    assert found.faults == []
    assert found.images == {"train": 21, "val": 4, "small_class": 9}
    assert found.classes == {"kept": 2, "small": 1}
    assert found.release["name"] == "winter21"
    assert len(found.release["missing"]) == 10_448
    assert found.checked == (34 if found.layout == "folders" else 3 + 1 + 2)


def test_changed_missing_and_foreign_files_are_named(made: Path, tmp_path: Path) -> None:
    target = Path(shutil.copytree(made / "folders", tmp_path / "target"))
    train = target / "imagenet21k_train/n02084071"
    files = sorted(train.iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-1] + b"x")
    files[1].unlink()
    (train / "new.JPEG").write_bytes(b"new")
    (target / "imagenet21k_val/n00000009").mkdir()
    assert sorted(verify(target).faults) == [
        f"imagenet21k_train/n02084071/{files[0].name} has changed since it was written",
        f"imagenet21k_train/n02084071/{files[1].name} is missing",
        "imagenet21k_train/n02084071/new.JPEG is not in the manifest",
        "imagenet21k_val/n00000009 is not in the manifest",
    ]


def test_changed_missing_and_foreign_shards_are_named(made: Path, tmp_path: Path) -> None:
    target = Path(shutil.copytree(made / "webdataset", tmp_path / "target"))
    shards = sorted((target / "imagenet21k_train").iterdir())
    data = bytearray(shards[0].read_bytes())
    data[700] ^= 1
    shards[0].write_bytes(bytes(data))
    shutil.copy(shards[2], shards[2].with_name("more.tar"))
    shards[2].unlink()
    seen: list[tuple[int, int]] = []
    (target / "imagenet21k_val/n02084071").mkdir()
    assert verify(target, progress=lambda *counted: seen.append(counted)).faults == [
        "imagenet21k_train/more.tar is not in index.json",
        "imagenet21k_val/n02084071 is not in index.json",
        f"imagenet21k_train/{shards[0].name} has changed since it was written",
        f"imagenet21k_train/{shards[2].name} is missing",
    ]
    assert seen[-1] == (6, 6)  # of the index, the missing one among them


def test_one_stray_tar_does_not_hide_what_is_wrong_with_the_folders(made: Path, tmp_path: Path) -> None:
    target = Path(shutil.copytree(made / "folders", tmp_path / "target"))
    (target / "imagenet21k_train/n02084071.tar").write_bytes(tar(photos("n02084071", 2)))
    bad = next((target / "imagenet21k_train/n02121808").iterdir())
    bad.write_bytes(b"")
    found = verify(target)
    assert found.layout == "folders"
    assert sorted(found.faults) == [
        "imagenet21k_train/n02084071.tar is not in the manifest",
        f"imagenet21k_train/n02121808/{bad.name} has changed since it was written",
    ]


def test_a_changed_manifest_is_noticed(target: Path) -> None:
    manifest = target / "manifest.csv"
    manifest.write_bytes(manifest.read_bytes().replace(b",train,", b",val,", 1))
    assert verify(target).faults == ["manifest.csv is not the one that was written with this data set"]


def test_missing_reports_and_an_unfinished_data_set_are_faults(target: Path) -> None:
    (target / "val_images.txt").unlink()
    assert verify(target).faults == ["val_images.txt is missing"]
    (target / ".prepare").mkdir()
    (target / ".prepare/plan.json").write_text(json.dumps(json.loads((target / "summary.json").read_text())["plan"]))
    (target / "summary.json").unlink()
    assert verify(target).faults == ["it is not finished: run the command that began it again"]


def test_progress_reaches_all_files(target: Path) -> None:
    seen: list[tuple[int, int]] = []
    checked = verify(target, progress=lambda *counted: seen.append(counted)).checked
    assert seen == [(number, checked) for number in range(1, checked + 1)]


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_damaged_index_is_one_sentence(made: Path, tmp_path: Path, content: bytes) -> None:
    target = Path(shutil.copytree(made / "webdataset", tmp_path / "target"))
    (target / "index.json").write_bytes(content)
    with pytest.raises(PrepareError, match=r"index.json' is damaged \(no "):
        verify(target)


def test_a_data_set_from_elsewhere_is_decoded_image_by_image(target: Path) -> None:
    for report in ("manifest.csv", "summary.json", "index.json", "val_images.txt"):
        (target / report).unlink(missing_ok=True)
    assert verify(target).faults == []
    if (target / "imagenet21k_train/n02084071").is_dir():
        (target / "imagenet21k_train/n02084071/bad.JPEG").write_bytes(photo()[:-1500])
        name = "imagenet21k_train/n02084071/bad.JPEG"
    else:
        data = tar([("n02084071/bad.jpg", photo()[:-1500]), ("n02084071/bad.cls", b"n02084071")])
        (target / "imagenet21k_train/bad.tar").write_bytes(data)
        name = "imagenet21k_train/bad.tar/n02084071/bad.jpg"
    assert [fault.split(" is ")[0] for fault in verify(target).faults] == [f"'{name}'"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_in_a_data_set_is_not_waited_for(target: Path) -> None:
    for report in ("", "manifest.csv", "summary.json", "index.json", "val_images.txt"):
        if report:
            (target / report).unlink(missing_ok=True)
        else:
            victim = next(path for path in (target / "imagenet21k_train").rglob("*") if path.is_file())
            victim.unlink()
            os.mkfifo(victim)
        assert any(fault.endswith(f"{victim.name} is missing") for fault in verify(target).faults)


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no prepared data set"):
        verify(tmp_path)
