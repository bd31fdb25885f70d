"""Twenty thousand images in 48 classes with every fault, through every way from source to target."""

from __future__ import annotations

import filecmp
import json
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from raw_archives import MAX_PIXELS, faulty, photo, tar, write_outer

from miil21k.data.datasets import open_source
from miil21k.engines.local import LocalEngine
from miil21k.prepare.options import PrepareOptions, resolve_codec
from miil21k.prepare.run import prepare
from miil21k.prepare.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
SIZES = [(250, 188), (320, 240), (240, 320), (200, 150), (500, 333), (470, 470), (60, 40), (224, 224)]
COUNTS = [500, 501, 502, 20, 650, 380] * 8  # images per class: 24 of 48 classes are kept
OPTIONS = PrepareOptions(max_pixels=MAX_PIXELS, codec=resolve_codec("auto"), shard_size=1000)


def raw() -> dict[str, bytes]:
    """Return class tars; every third class has the faults of `raw_archives.faulty` among its images."""
    classes = {}
    for number, count in enumerate(COUNTS):
        wnid = f"n{number:08d}"
        images = [(f"{wnid}_{i}.JPEG", photo(*SIZES[i % 8], seed=(i + number) % 5)) for i in range(count)]
        odd = [(f"odd_{name}" if name[0] == "n" else name, data) for name, data in faulty(wnid)[14:-1]]
        classes[wnid] = tar([*images, *odd] if number % 3 == 2 else images)
    return classes


def differing(left: Path, right: Path) -> list[str]:
    found = filecmp.dircmp(left, right)
    names = [*found.left_only, *found.right_only]
    names += filecmp.cmpfiles(left, right, found.common_files, shallow=False)[1]
    names += [name for sub in found.common_dirs for name in differing(left / sub, right / sub)]
    return [name for name in names if name != "summary.json"]  # it names the source


def test_every_way_gives_the_same_data_set(tmp_path: Path) -> None:
    classes = raw()
    outer = write_outer(tmp_path / "whole.tar", classes)
    summary = prepare(str(outer), tmp_path / "expected", OPTIONS, LocalEngine(2)).summary
    assert summary["members"] == sum(COUNTS) + 16 * 15 > 20_000
    assert summary["classes"] == {"total": 48, "kept": 24, "small": 24}
    assert summary["images"]["val"] == 24 * 50
    assert sum(summary["images"].values()) == summary["members"]
    assert verify(tmp_path / "expected", workers=2).faults == []

    stream = write_outer(tmp_path / "whole.tar.gz", classes, "w:gz")
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "miil21k", "prepare", str(stream), str(killed), "--max-pixels", str(MAX_PIXELS)]
    command += ["--shard-size", "1000", "--workers", "2"]
    for classes_done in (5, 20, 40):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list((killed / ".prepare/units").glob("*.json"))) < classes_done:
            time.sleep(0.01)
        process.kill()
        process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert differing(tmp_path / "expected", killed) == []

    shards = PrepareOptions(max_pixels=MAX_PIXELS, codec=OPTIONS.codec, shard_size=1000, format="webdataset")
    (tmp_path / "tars").mkdir()
    for wnid, data in classes.items():
        (tmp_path / f"tars/{wnid}.tar").write_bytes(data)
    prepare(str(tmp_path / "tars"), tmp_path / "shards", shards, LocalEngine(2))
    assert verify(tmp_path / "shards", workers=2).faults == []
    for place, count in json.loads((tmp_path / "shards/index.json").read_bytes())["images"].items():
        folder = {"train": "train", "val": "val", "small_class": "small_classes"}[place]
        files = open_source(str(tmp_path / f"expected/imagenet21k_{folder}"))
        packed = open_source(str(tmp_path / f"shards/imagenet21k_{folder}"))
        assert len(files) == len(packed) == count == summary["images"][place]
        assert Counter(packed.keys[key] for key in packed.key_of) == Counter(files.keys[key] for key in files.key_of)
