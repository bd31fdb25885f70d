from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from shapes import shape_space, write_folders, write_shard

from miil21k.data.datasets import label_images, open_source
from miil21k.errors import ImageError, LabelSpaceMismatch, UsageError
from miil21k.hierarchy.load import load_label_space

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("folders"), per_class=3)


def _wnid_folders(root: Path, wnids: tuple[str, ...]) -> Path:
    picture = root / "picture.jpg"
    Image.new("RGB", (8, 8), "red").save(picture)
    for wnid in wnids:
        (root / "images" / wnid).mkdir(parents=True)
        os.link(picture, root / "images" / wnid / "0.jpg")
    return root / "images"


def test_every_image_of_a_folder_has_the_class_of_the_folder(folders: Path) -> None:
    images = label_images(open_source(str(folders)), shape_space())
    assert len(images) == 14 * 3
    assert images.absent.size == 0
    for index in range(len(images)):
        assert images.name(index).partition("/")[0] == images.space.wnids[images.labels[index]]


def test_files_are_read_in_bytewise_order_whatever_the_file_system_says(tmp_path: Path) -> None:
    for name in ("a_10.png", "a_2.png", "B.png", "a_1.png", ".hidden.png", "notes.txt"):
        (tmp_path / "red").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "red" / name, "PNG")
    source = open_source(str(tmp_path))
    assert [source.name(i) for i in range(len(source))] == [
        "red/B.png", "red/a_1.png", "red/a_10.png", "red/a_2.png",
    ]  # fmt: skip


def test_nested_class_folders_are_named_by_their_last_part(tmp_path: Path) -> None:
    write_folders(tmp_path / "warm" / "red", 1, names=("red_circle",))
    write_folders(tmp_path / "cold", 1, names=("blue",))
    images = label_images(open_source(str(tmp_path)), shape_space(), partial=True)
    assert [images.space.wnids[label] for label in images.labels] == ["blue", "red_circle"]
    assert images.absent.size == 12


def test_linked_class_folders_are_followed(tmp_path: Path, folders: Path) -> None:
    (tmp_path / "red").symlink_to(folders / "red")
    assert len(open_source(str(tmp_path))) == 3


def test_fall11_is_refused_on_the_folders_of_winter21_and_the_message_says_how_to_go_on(tmp_path: Path) -> None:
    root = _wnid_folders(tmp_path, load_label_space("winter21").wnids)
    source = open_source(str(root))
    with pytest.raises(LabelSpaceMismatch, match=r"are of label space 'winter21'.*use --label-space winter21"):
        label_images(source, load_label_space("fall11"))
    with pytest.raises(LabelSpaceMismatch, match="use --label-space winter21"):
        label_images(source, load_label_space("fall11"), partial=True)
    images = label_images(source, load_label_space("winter21"))
    assert images.labels.tolist() == list(range(10_450))


def test_folders_that_are_no_classes_are_refused_and_named(folders: Path, tmp_path: Path) -> None:
    write_folders(tmp_path, 1)
    (tmp_path / "red").rename(tmp_path / "crimson")
    with pytest.raises(LabelSpaceMismatch, match=r"1 of 14 class folders.*'shapes': crimson\."):
        label_images(open_source(str(tmp_path)), shape_space())


def test_classes_without_images_are_refused_unless_that_is_accepted(tmp_path: Path) -> None:
    source = open_source(str(write_folders(tmp_path, 1, names=("red", "blue"))))  # warm and cold are above them
    with pytest.raises(LabelSpaceMismatch, match="10 of the 14 classes"):
        label_images(source, shape_space())
    images = label_images(source, shape_space(), partial=True)
    assert len(images) == 2
    assert images.absent.size == 12


def test_skipped_classes_are_left_out_and_listed(tmp_path: Path) -> None:
    source = open_source(str(write_folders(tmp_path, 2, names=("red", "blue"))))
    images = label_images(source, shape_space(), partial=True, skip=("blue",))
    assert images.skipped == ("blue",)
    assert [images.name(i) for i in range(len(images))] == ["red/red_0.jpg", "red/red_1.jpg"]
    assert images.load(1).size == (32, 32)


def test_two_folders_of_one_class_are_refused(tmp_path: Path) -> None:
    write_folders(tmp_path / "a", 1, names=("red",))
    write_folders(tmp_path / "b", 1, names=("red",))
    with pytest.raises(LabelSpaceMismatch, match="'a/red' and 'b/red' both mean the class 'red'"):
        label_images(open_source(str(tmp_path)), shape_space(), partial=True)


@pytest.mark.parametrize("label", ["cls", "json"])
def test_shards_hold_the_same_images_and_labels_as_they_were_given(tmp_path: Path, label: str) -> None:
    write_shard(tmp_path / "train-000.tar", ["red", "blue", "green_circle"], seed=1, label=label)
    write_shard(tmp_path / "train-001.tar", ["blue", "red_square"], seed=2, label=label)
    images = label_images(open_source(str(tmp_path), cache=tmp_path / "cache"), shape_space(), partial=True)
    wnids = [images.space.wnids[i] for i in images.labels]
    assert wnids == ["red", "blue", "green_circle", "blue", "red_square"]
    assert images.name(3) == "train-001.tar/000000.jpg"
    colour = np.asarray(images.load(4).image).reshape(-1, 3)
    assert (np.abs(colour.astype(int) - (220, 40, 40)).max(axis=1) < 25).mean() > 0.1  # a red form is in the picture


def test_a_shard_index_is_kept_and_is_rebuilt_when_the_shard_changes(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", ["red", "blue"])
    cache = tmp_path / "cache"
    assert len(open_source(str(shard), cache)) == 2
    (stored,) = cache.iterdir()
    stored.write_bytes(b"damaged")
    assert len(open_source(str(shard), cache)) == 2
    write_shard(shard, ["red", "blue", "green"])
    assert len(open_source(str(shard), cache)) == 3
    assert len(list(cache.iterdir())) == 2


def test_a_shard_labelled_by_index_is_refused_because_an_index_names_no_label_space(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", ["red"])
    content = shard.read_bytes().replace(b"red" + b"\0" * 509, b"417" + b"\0" * 509)
    shard.write_bytes(content)
    with pytest.raises(UsageError, match="labelled by the index 417"):
        open_source(str(shard))


def test_a_shard_image_without_a_label_is_refused(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", ["red", "blue"])
    shard.write_bytes(shard.read_bytes().replace(b"000001.cls", b"000009.cls"))
    with pytest.raises(UsageError, match=r"'000001.jpg' in .*a.tar has no label"):
        open_source(str(shard))


def test_a_compressed_shard_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b\x08\x00 not a plain tar" * 40)
    with pytest.raises(UsageError, match="not a plain tar file"):
        open_source(str(tmp_path / "a.tar"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="No images below"):
        open_source(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="neither a folder nor a tar shard"):
        open_source(str(tmp_path / "nothing"))


def test_an_image_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    write_folders(tmp_path, 1, names=("red",))
    (tmp_path / "red" / "red_0.jpg").write_bytes(b"no image")
    images = label_images(open_source(str(tmp_path)), shape_space(), partial=True)
    with pytest.raises(ImageError, match=r"red/red_0\.jpg"):
        images.load(0)
