from __future__ import annotations

import io
import os
import sys
import tarfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from shapes import shape_space, write_folders, write_shard

from miil21k.data.datasets import label_images, open_source
from miil21k.errors import ImageError, LabelSpaceMismatch, UsageError
from miil21k.hierarchy.load import load_label_space
from miil21k.suffixes import image_suffixes

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.data.datasets import ClassImages


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


def test_a_folder_of_pictures_is_no_folder_of_classes(tmp_path: Path, folders: Path) -> None:
    with pytest.raises(LabelSpaceMismatch, match="Images lie in the folder itself"):
        label_images(open_source(str(next(folders.iterdir()))), shape_space(), partial=True)


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


def test_any_noun_is_a_label_where_nouns_may_be(tmp_path: Path) -> None:
    space = load_label_space("in1k")
    root = _wnid_folders(tmp_path, ["n02123045", "bird", "okapi"])
    with pytest.raises(LabelSpaceMismatch, match="2 of 3 class folders are no classes of label space 'in1k': bird"):
        label_images(open_source(str(root)), space, partial=True)
    images = label_images(open_source(str(root)), space, partial=True, nouns=True)
    tree = space.tree
    assert images.labels.tolist() == [tree.index("n01503061"), tree.index("n02123045"), tree.num_nodes]
    assert [label.wnid for label in images.outside] == ["n02439398"]
    assert images.absent.size == 999
    _wnid_folders(tmp_path, ["n02439398"])
    with pytest.raises(LabelSpaceMismatch, match="'n02439398' and 'okapi' both mean the class 'n02439398'"):
        label_images(open_source(str(root)), space, partial=True, nouns=True)


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


def pack(path: Path, members: dict[str, str | None]) -> Path:
    """Write a shard: a text for each label, None for each picture."""
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "JPEG")
    with tarfile.open(path, "w") as archive:
        for name, text in members.items():
            data = picture.getvalue() if text is None else text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def labelled(source: ClassImages) -> dict[str, str]:
    names = [source.name(index).partition("/")[2] for index in range(len(source))]
    return dict(zip(names, (source.keys[key] for key in source.key_of), strict=True))


def test_numbers_in_shards_count_the_classes_of_the_space_that_is_named(tmp_path: Path) -> None:
    members = {"0.jpg": None, "0.cls": "10", "1.jpg": None, "1.json": '{"class_id": 0}', "2.jpg": None, "2.cls": "2\n"}
    source = open_source(str(pack(tmp_path / "a.tar", members)))
    assert source.keys == ("0", "2", "10")
    with pytest.raises(LabelSpaceMismatch, match=r"labels are numbers \(0, 2, 10\).*--label-space"):
        label_images(source, shape_space(), partial=True)
    assert label_images(source, shape_space(), partial=True, numbered=True).labels.tolist() == [10, 0, 2]
    (tmp_path / "classes.txt").write_text("2\n10\n0\n")
    named = load_label_space(str(tmp_path / "classes.txt"))
    assert label_images(source, named).labels.tolist() == [1, 2, 0]
    with pytest.raises(LabelSpaceMismatch, match="has the classes 0 to 2: 1000 are none"):
        label_images(open_source(str(pack(tmp_path / "b.tar", members | {"0.cls": "1000"}))), named, numbered=True)


def test_a_shard_image_without_a_label_is_refused(tmp_path: Path) -> None:
    shard = pack(tmp_path / "a.tar", {"0.jpg": None, "0.cls": "red", "1.jpg": None, "2.cls": "blue"})
    with pytest.raises(UsageError, match=r"'1.jpg' in .*a.tar has no label"):
        open_source(str(shard))


def test_names_with_dots_keep_their_labels(tmp_path: Path) -> None:
    shard = pack(
        tmp_path / "a.tar",
        {
            "img.2021.05.01.jpg": None,
            "img.2021.05.01.cls": "red",
            "img.2021.05.02.JFIF": None,
            "img.2021.05.02.json": '{"wnid": "blue"}',
            "b/1.left.webp": None,
            "b/1.cls": "green",
            "2.jpg": None,
            "2.mask.png": None,
            "2.cls": "red",
            "__MACOSX/._2.jpg": None,
        },
    )
    assert labelled(open_source(str(shard))) == {
        "img.2021.05.01.jpg": "red",
        "img.2021.05.02.JFIF": "blue",
        "b/1.left.webp": "green",
        "2.jpg": "red",
    }


@pytest.mark.parametrize("names", [("1.jpg", "1.png"), ("1.left.jpg", "1.right.jpg")])
def test_two_images_of_one_sample_are_named(tmp_path: Path, names: tuple[str, str]) -> None:
    shard = pack(tmp_path / "a.tar", {names[0]: None, names[1]: None, "1.cls": "red"})
    with pytest.raises(UsageError, match=f"'{names[0]}' and '{names[1]}' in .*a.tar are two images of one sample, '1'"):
        open_source(str(shard))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux file systems hold any byte")
def test_a_name_in_a_shard_that_is_no_utf8_is_a_name(tmp_path: Path) -> None:
    source = open_source(str(pack(tmp_path / "a.tar", {"caf\udce9.jpg": None, "caf\udce9.cls": "red"})))
    assert labelled(source) == {"caf\udce9.jpg": "red"}
    assert label_images(source, shape_space(), partial=True).load(0).size == (8, 8)


def test_a_damaged_shard_and_a_damaged_label_are_refused_and_named(tmp_path: Path) -> None:
    shard = pack(tmp_path / "a.tar", {"0.jpg": None, "0.cls": "red", "1.jpg": None, "1.cls": "blue"})
    whole = shard.read_bytes()
    for content, fault in ((whole[:1800], "is cut off"), (whole.replace(b"1.jpg", b"2.jpg"), "is damaged")):
        shard.write_bytes(content)
        with pytest.raises(UsageError, match=f"The shard '.*a.tar' {fault}"):
            open_source(str(shard))
    shard = pack(tmp_path / "b.tar", {"0.jpg": None, "0.json": "[" * 100_000})
    with pytest.raises(UsageError, match=r"'0.json' in .*b.tar cannot be read: nested deeper than 64 levels"):
        open_source(str(shard))


def test_shards_may_be_given_as_predict_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        pack(tmp_path / f"a-{number:03}.tar", {"0.jpg": None, "0.cls": "red"})
    (tmp_path / "index.json").write_text('{"shards": [{"name": "a-002.tar"}, {"name": "a-000.tar"}]}')
    monkeypatch.chdir(tmp_path)
    for given, count in {"a-{000..002}.tar": 3, "a-{001,002}.tar": 2, "a-*.tar": 3, "index.json": 2}.items():
        assert len(open_source(given)) == count
    with pytest.raises(UsageError, match=r"There is no shard 'a-003.tar', which 'a-{000..003}.tar' names\."):
        open_source("a-{000..003}.tar")


def test_a_compressed_shard_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b\x08\x00 not a plain tar" * 40)
    with pytest.raises(UsageError, match="no plain tar file"):
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


def test_loops_of_links_and_what_systems_leave_behind_are_no_classes(tmp_path: Path) -> None:
    write_folders(tmp_path, 2, names=("red", "blue"))
    (tmp_path / "red" / "back").symlink_to(tmp_path)
    (tmp_path / "blue" / "here").symlink_to(tmp_path / "blue")
    (tmp_path / "nowhere").symlink_to(tmp_path / "nowhere")
    (tmp_path / "green").mkdir()
    for junk in ("__MACOSX/red", "red/@eaDir", "lost+found"):
        (tmp_path / junk).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / junk / "x.jpg")
    for name in ("red/1.mp4", "red/labels.txt"):
        (tmp_path / name).touch()
    source = open_source(str(tmp_path))
    assert source.keys == ("blue", "red")
    assert len(source) == 4
    assert source.passed.kinds["folder __MACOSX"] == source.passed.kinds["folder @eaDir"] == 1
    assert source.passed.kinds[".mp4"] == source.passed.kinds[".txt"] == 1


def test_every_suffix_that_predict_reads_is_an_image_here(tmp_path: Path) -> None:
    (tmp_path / "red").mkdir()
    for suffix in image_suffixes():
        (tmp_path / "red" / f"x{suffix.upper()}").touch()
    assert len(open_source(str(tmp_path))) == len(image_suffixes())


def test_the_folder_around_train_and_val_is_refused_in_words(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_folders(tmp_path / part, 1, names=("red",))
    with pytest.raises(UsageError, match=r"holds train and val, the parts of a data set.*such as '.*/train'"):
        open_source(str(tmp_path))
    for part in ("train", "val"):
        (tmp_path / "packed" / part).mkdir(parents=True)
        pack(tmp_path / "packed" / part / "a.tar", {"0.jpg": None, "0.cls": "red"})
    with pytest.raises(UsageError, match="holds train and val, the parts"):
        open_source(str(tmp_path / "packed"))
    assert len(open_source(str(tmp_path / "train"))) == 1
    write_folders(tmp_path / "toys" / "train", 1, names=("red",))  # a train may be a class of things
    assert open_source(str(tmp_path / "toys")).keys == ("train/red",)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_among_the_images_does_not_stop_the_run(tmp_path: Path) -> None:
    write_folders(tmp_path, 1, names=("red",))
    os.mkfifo(tmp_path / "red" / "pipe.jpg")
    images = label_images(open_source(str(tmp_path)), shape_space(), partial=True)
    with pytest.raises(ImageError, match=r"'red/pipe\.jpg' is a named pipe"):
        images.load(0)
