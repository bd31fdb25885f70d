from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
from shapes import write_shard

from miil21k.data.datasets import label_images, open_parts, open_source
from miil21k.data.saved import SavedSource
from miil21k.errors import ImageError, UsageError
from miil21k.hierarchy.load import load_label_space

if TYPE_CHECKING:
    from pathlib import Path


def describe(folder: Path, splits: object) -> str:
    (folder / "_info.json").write_text(json.dumps(splits))
    return f"wds/{folder}"


def test_wds_opens_a_folder_a_file_and_a_pattern(tmp_path: Path) -> None:
    write_shard(tmp_path / "a-0.tar", ["red", "blue"])
    write_shard(tmp_path / "a-1.tar", ["green"])
    assert [len(open_source(f"wds/{tmp_path}{rest}")) for rest in ("", "/a-0.tar", "/a-*.tar", "/a-{1..1}.tar")] == [
        3, 2, 3, 1,
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"none\*' names no shards"):
        open_source(f"wds/{tmp_path}/none*")
    with pytest.raises(UsageError, match="--root goes with a list"):
        open_source(f"wds/{tmp_path}", root=tmp_path)


def test_the_description_of_a_wds_folder_gives_its_splits(tmp_path: Path) -> None:
    write_shard(tmp_path / "x-train-0.tar", ["red", "blue"])
    write_shard(tmp_path / "x-validation-0.tar", ["green"])
    splits = {"train": {"filenames": ["x-train-0.tar"]}, "validation": {"filenames": ["x-validation-0.tar"]}}
    path = describe(tmp_path, {"splits": splits})
    assert list(open_parts(path)) == ["train", "val"]
    assert open_source(path, split="validation").keys == ("green",)
    assert len(open_source(path, rather=("train",))) == 2
    with pytest.raises(UsageError, match=r"holds train and val.*--split train"):
        open_source(path)
    with pytest.raises(UsageError, match=r"1 shards that .* names are missing: .*lost.tar"):
        open_source(describe(tmp_path, {"splits": {"train": {"filenames": ["lost.tar"]}}}))
    for broken in ({}, {"splits": {"train": {}}}, {"splits": []}, []):
        with pytest.raises(UsageError, match="is no description of shards"):
            open_source(describe(tmp_path, broken))
    for empty in ({}, {"train": {"filenames": []}}):
        with pytest.raises(UsageError, match="must give shards to each part"):
            open_source(describe(tmp_path, {"splits": empty}))


def test_an_unknown_prefix_is_answered_with_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"'files/mnist' is neither .* begins with none of wds/, hfds/"):
        open_source("files/mnist")
    with pytest.raises(UsageError, match=r"'hfds/owner/name' names no folder"):
        open_source("hfds/owner/name")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wds").mkdir()
    write_shard(tmp_path / "wds" / "a.tar", ["red"])  # a path that is there is itself
    assert len(open_source("wds/a.tar")) == 1


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pictures, each of one grey, of cats and dogs; saved in two splits, as Parquet and as a folder of images."""
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    pictures = [Image.new("RGB", (8, 8), (shade, shade, shade)) for shade in (0, 60, 120, 180)]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "bird", "cat"])}
    )
    whole = datasets.Dataset.from_dict({"image": pictures, "label": [0, 2, 2, 0]}, features=features)
    datasets.DatasetDict({"train": whole, "validation": whole.select([1])}).save_to_disk(tmp_path / "saved")
    whole.save_to_disk(tmp_path / "single")
    (tmp_path / "parquet").mkdir()
    whole.to_parquet(tmp_path / "parquet" / "train-0.parquet")
    for index, picture in enumerate(pictures):
        (tmp_path / "images" / "cd"[index % 2]).mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "images" / "cd"[index % 2] / f"{index // 2}.png")
    return tmp_path


def shades(path: str, space: str) -> list[tuple[str, int, int]]:
    images = label_images(open_source(path, rather=("train",)), load_label_space(space), partial=True)
    images = pickle.loads(pickle.dumps(images))  # as a loader's process has it
    return [
        (images.name(index), int(images.labels[index]), int(np.asarray(images.load(index).image)[0, 0, 0]))
        for index in range(len(images))
    ]


def test_hfds_reads_names_labels_and_pictures_of_what_lies_on_disk(saved: Path) -> None:
    (saved / "classes.txt").write_text("cat\ndog\n")
    (saved / "letters.txt").write_text("c\nd\n")
    classes = str(saved / "classes.txt")
    expected = [("0", 1, 0), ("1", 0, 60), ("2", 0, 120), ("3", 1, 180)]
    assert shades(f"hfds/{saved}/single", classes) == expected
    assert shades(f"hfds/{saved}/saved", classes) == [(f"train/{name}", *rest) for name, *rest in expected]
    assert shades(f"hfds/{saved}/parquet", classes) == [(f"train/{name}", *rest) for name, *rest in expected]
    assert shades(f"hfds/{saved}/images", str(saved / "letters.txt")) == [
        ("c/0.png", 0, 0), ("c/1.png", 0, 120), ("d/0.png", 1, 60), ("d/1.png", 1, 180),
    ]  # fmt: skip
    assert open_source(f"hfds/{saved}/single").keys == ("dog", "cat")  # as the data set counts them; no bird occurs
    assert list(open_parts(f"hfds/{saved}/saved")) == ["train", "val"]
    assert len(open_source(f"hfds/{saved}/saved", split="val")) == 1


def test_hfds_says_what_is_wrong_with_a_data_set(saved: Path) -> None:
    from datasets import concatenate_datasets, load_from_disk

    whole = load_from_disk(str(saved / "single"))
    number = whole.remove_columns("label").add_column("label", [10, 2, 2, 10])
    cases = {
        "has no columns that may be the class label .its columns: image.": whole.remove_columns("label"),
        "has no columns that may be the image": whole.remove_columns("image"),
        "2 columns that may be the image": concatenate_datasets(
            [whole.rename_column("image", "one"), whole.remove_columns("label").rename_column("image", "two")], axis=1
        ),
        "1 of the 4 images .* have no label in 'label'": number.remove_columns("label").add_column(
            "label", [1, -1, 1, 1]
        ),
        "of the type float": number.remove_columns("label").add_column("label", [0.5, 1.0, 1.0, 1.0]),
    }
    for index, (message, dataset) in enumerate(cases.items()):
        dataset.save_to_disk(saved / str(index))
        with pytest.raises(UsageError, match=message):
            open_source(f"hfds/{saved}/{index}")
    with pytest.raises(UsageError, match="holds no images in val"):
        SavedSource(whole.select([]), saved, "val")
    number.save_to_disk(saved / "number")
    assert open_source(f"hfds/{saved}/number").keys == ("2", "10")
    (saved / "single" / "data-00000-of-00001.arrow").write_bytes(b"damaged")
    whole.select([]).save_to_disk(saved / "none")
    (saved / "empty").mkdir()
    for name in ("single", "empty", "none"):
        with pytest.raises(UsageError, match=f"'hfds/.*{name}' cannot be read as a data set"):
            open_source(f"hfds/{saved}/{name}")
    images = open_source(f"hfds/{saved}/images")
    (saved / "images" / "c" / "0.png").unlink()
    with pytest.raises(ImageError, match=r"c/0\.png"):
        images.read(0)
