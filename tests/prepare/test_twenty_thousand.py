"""Twenty thousand images in 48 classes with every fault, through every way from source to target."""

from __future__ import annotations

import filecmp
import itertools
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from child_processes import started, wait_until
from raw_archives import MAX_PIXELS, faulty, photo, tar, write_outer

from miil21k.data.augment import Augmentation
from miil21k.data.datasets import label_images, open_source
from miil21k.data.loader import EpochSampler, evaluation_loader, training_loader
from miil21k.distribute.local import LocalEngine
from miil21k.hierarchy.spaces import LabelSpace
from miil21k.hierarchy.tree import Tree
from miil21k.prepare.options import PrepareOptions
from miil21k.prepare.run import prepare
from miil21k.prepare.verify import verify
from miil21k.zoo.schema import Preprocess

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
SIZES = [(250, 188), (320, 240), (240, 320), (200, 150), (500, 333), (470, 470), (60, 40), (224, 224)]
COUNTS = [500, 501, 502, 20, 650, 380] * 8  # images per class: 24 of 48 classes are kept
OPTIONS = PrepareOptions(max_pixels=MAX_PIXELS)
SHARDS = replace(OPTIONS, format="webdataset", shard_size=1000)
PREPROCESS = Preprocess((3, 224, 224), "bilinear", 1.0, "squash", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "test")


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


class Raw(NamedTuple):
    outer: Path
    tars: Path
    expected: Path
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Raw:
    root = tmp_path_factory.mktemp("twenty_thousand")
    classes = raw()
    found = Raw(write_outer(root / "whole.tar", classes), root / "tars", root / "expected", {})
    write_outer(root / "whole.tar.gz", classes, "w:gz")
    found.tars.mkdir()
    for wnid, data in classes.items():
        (found.tars / f"{wnid}.tar").write_bytes(data)
    summary = prepare(str(found.outer), found.expected, OPTIONS, LocalEngine(2)).summary
    return found._replace(summary=summary)


@pytest.fixture(scope="module")
def shards(made: Raw) -> Path:
    target = made.expected.with_name("shards")
    prepare(str(made.tars), target, SHARDS, LocalEngine(2))
    return target


def test_every_image_is_counted_once(made: Raw) -> None:
    summary = made.summary
    assert summary["members"] == sum(COUNTS) + 16 * 15 > 20_000
    assert summary["classes"] == {"total": 48, "kept": 24, "small": 24}
    assert summary["images"]["val"] == 24 * 50
    assert sum(summary["images"].values()) == summary["members"]
    assert verify(made.expected, workers=2).faults == []


def test_a_compressed_archive_prepared_in_four_attempts_gives_the_same(made: Raw, tmp_path: Path) -> None:
    stream, killed = made.outer.with_suffix(".tar.gz"), tmp_path / "killed"
    command = [sys.executable, "-m", "miil21k", "prepare", str(stream), str(killed), "--max-pixels", str(MAX_PIXELS)]
    command += ["--workers", "2"]
    for classes_done in (5, 20, 40):
        with started(command, stdout=subprocess.DEVNULL) as process:
            units = (killed / ".prepare/units").glob
            wait_until(lambda: len(list(units("[!.]*.json"))) >= classes_done, process)  # noqa: B023 - called at once
            process.kill()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert differing(made.expected, killed) == []


def test_shards_hold_what_the_folders_hold(made: Raw, shards: Path) -> None:
    assert verify(shards, workers=2).faults == []
    for place, count in json.loads((shards / "index.json").read_bytes())["images"].items():
        folder = {"train": "train", "val": "val", "small_class": "small_classes"}[place]
        files = open_source(str(made.expected / f"imagenet21k_{folder}"))
        packed = open_source(str(shards / f"imagenet21k_{folder}"))
        assert len(files) == len(packed) == count == made.summary["images"][place]
        assert Counter(packed.keys[key] for key in packed.key_of) == Counter(files.keys[key] for key in files.key_of)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ray_gives_the_same_folders_and_shards(made: Raw, shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from miil21k.distribute.ray_engine import RayEngine

    engine = RayEngine()
    try:
        prepare(str(made.outer), tmp_path / "folders", OPTIONS, engine)
        prepare(str(made.tars), tmp_path / "shards", SHARDS, engine)
    finally:
        engine.close()
    assert differing(made.expected, tmp_path / "folders") == []
    assert differing(shards, tmp_path / "shards") == []


@pytest.mark.parametrize("layout", ["folders", "webdataset"])
def test_the_loaders_of_the_training_read_it(made: Raw, shards: Path, layout: str) -> None:
    root = made.expected if layout == "folders" else shards
    wnids = tuple(f"n{number:08d}" for number, count in enumerate(COUNTS) if count > 500)
    space = LabelSpace("raw", Tree.from_parents(wnids, (None,) * 24, num_classes=24), wnids, ("",) * 24)
    val = label_images(open_source(str(root / "imagenet21k_val")), space)
    seen = [batch.labels for batch in evaluation_loader(val, PREPROCESS, 100, workers=2)]
    assert torch.bincount(torch.cat(seen)).tolist() == [50] * 24
    train = label_images(open_source(str(root / "imagenet21k_train")), space)
    sampler = EpochSampler(len(train), 100, seed=0)
    batches = list(itertools.islice(training_loader(train, Augmentation(224), sampler, workers=2), 20))
    assert [tuple(batch.images.shape) for batch in batches] == [(100, 3, 224, 224)] * 20
    assert not any(batch.unreadable for batch in batches)
    assert len(torch.cat([batch.labels for batch in batches]).unique()) == 24
