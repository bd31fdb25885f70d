"""Data sets of torchvision on generated files: those of arrays, and folders of images."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from miil21k.data.datasets import label_images, open_parts, open_source
from miil21k.errors import UsageError
from miil21k.hierarchy.load import load_label_space

if TYPE_CHECKING:
    from pathlib import Path


def _idx(path: Path, values: np.ndarray) -> None:
    """Write an array of bytes as MNIST's files hold it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes())


def test_arrays_become_images_and_parts_are_those_of_the_data_set(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    for part, labels in (("train", [9, 0, 9]), ("t10k", [0, 2, 2])):
        _idx(tmp_path / "FashionMNIST" / "raw" / f"{part}-images-idx3-ubyte", pixels)
        _idx(tmp_path / "FashionMNIST" / "raw" / f"{part}-labels-idx1-ubyte", np.array(labels, np.uint8))
    path = f"torch/fashion_mnist/{tmp_path}"
    assert list(open_parts(path)) == ["train", "test"]
    source = open_source(path, split="train")
    assert (source.keys, source.key_of.tolist()) == (("T-shirt or top", "Ankle boot"), [1, 0, 1])
    assert (len(source), source.name(2)) == (3, "train/2")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(source.read(1)))), pixels[1])
    assert open_source(path, split="test").keys == ("T-shirt or top", "Pullover")
    (tmp_path / "classes.txt").write_text("Ankle boot\nT-shirt or top\n")
    labelled = label_images(source, load_label_space(str(tmp_path / "classes.txt")))
    assert labelled.labels.tolist() == [0, 1, 0]


def test_a_folder_of_images_gives_its_files_as_they_are(tmp_path: Path) -> None:
    for place, shade in (("train/b", 10), ("train/a", 20), ("validation/a", 30)):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (4, 4), (shade, 0, 0)).save(tmp_path / place / "1.jpg")
    path = f"torch/image_folder/{tmp_path}"
    assert list(open_parts(path)) == ["train", "val"]
    source = open_source(path, rather=("train",))
    assert (source.keys, source.name(1)) == (("a", "b"), "b/1.jpg")
    assert source.read(1) == (tmp_path / "train" / "b" / "1.jpg").read_bytes()
    assert open_source(f"torch/folder/{tmp_path}/train").keys == ("a", "b")


def test_what_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    for path, why in (
        (f"torch/cifar11/{tmp_path}", r"No data set 'cifar11' .* Did you mean 'cifar10'\?"),
        ("torch/cifar10", "names no folder: torch/cifar10/FOLDER"),
        ("torch/mnist/nowhere", "'torch/mnist/nowhere' names no folder"),
        (f"torch/folder/{tmp_path}", f"No images below '{tmp_path}'"),
    ):
        with pytest.raises(UsageError, match=why):
            open_source(path)
    with pytest.raises(UsageError, match=r"cannot be read: Dataset not found\. Nothing is downloaded\."):
        open_source(f"torch/mnist/{tmp_path}", split="train")
