"""Data sets of TensorFlow Datasets on disk: written here in ArrayRecord, read at random without TensorFlow."""

from __future__ import annotations

import io
import pickle
import sys
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from miil21k.data.datasets import label_images, open_parts, open_source
from miil21k.data.sources import SOURCES
from miil21k.errors import UsageError
from miil21k.hierarchy.custom import from_labels
from miil21k.text import printable
from miil21k.train.job import choose_space
from miil21k.train.options import TrainRequest
from miil21k.train.recipes import get_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

tfds = pytest.importorskip("tensorflow_datasets", reason="the extra 'tfds' is not installed")
pytest.importorskip("array_record", reason="the extra 'tfds' is not installed")

COLOURS = ("red", "blue")


def write(folder: Path, labels: list[int], file_format: str = "array_record", second: bool = False) -> None:
    """Write a data set `small` of a picture per label; -1 for none. second: each has another picture."""

    class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        name = "small"
        code_path = None  # it has no checksums beside it

        def _info(self) -> Any:
            image = tfds.features.Image(shape=(None, None, 3))
            features = {"image": image, "label": tfds.features.ClassLabel(names=["red", "blue/navy", "green"])}
            if second:
                features["mask"] = tfds.features.Image(shape=(None, None, 3))
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _: Any) -> dict[str, Any]:
            return {"train": self._generate_examples(labels), "validation": self._generate_examples(labels[:1])}

        def _generate_examples(self, labels: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
            for number, label in enumerate(labels):
                file = io.BytesIO()
                Image.new("RGB", (20 + number, 10), COLOURS[label]).save(file, "PNG")
                picture = {"image": io.BytesIO(file.getvalue())} | ({"mask": file} if second else {})
                yield number, {**picture, "label": label}

    Small(data_dir=folder, file_format=file_format).download_and_prepare()


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    tfds.disable_progress_bar()


pytestmark = pytest.mark.usefixtures("quiet")


def test_a_prepared_data_set_is_read_by_name_and_by_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [0, 1, 0, 1, 1])
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    before = "tensorflow" in sys.modules
    assert list(open_parts("tfds/small")) == ["train", "val"]
    assert open_source("tfds/small:1.0.0", split="val").keys
    with pytest.raises(UsageError, match=r"holds train and val.*--split train"):
        open_source("tfds/small")
    source = open_source(f"tfds/{tmp_path}/small/1.0.0", split="train")
    assert (source.keys, len(source), source.name(2)) == (("red", "blue or navy"), 5, "train/2")
    space = from_labels(tmp_path, {"red": "1", "blue or navy": "2"})
    request = TrainRequest("tfds/small", "test_resnet", "finetune", get_recipe("finetune"), tmp_path)
    assert (choose_space(request, source).name, choose_space(request, source).wnids) == ("small", source.keys)
    images = label_images(pickle.loads(pickle.dumps(source)), space)
    found = [(images.load(place).image, space.wnids[images.labels[place]]) for place in range(5)]
    assert sorted(image.width for image, _ in found) == [20, 21, 22, 23, 24], "every picture once, in tfds's order"
    for image, label in found:
        assert image.getpixel((3, 3)) == ((255, 0, 0) if label == "red" else (0, 0, 255))
    assert source.read(0).startswith(b"\x89PNG"), "as it was stored"
    assert before or "tensorflow" not in sys.modules


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UsageError, match=r"'tfds/mnist' is no data set that was prepared.*Nothing is downloaded"):
        SOURCES["tfds"]("mnist", None)
    for folder, labels, options, said in (
        ("a", [0, -1, -1], {}, "2 of the 3 images of 'PLACE' have no label"),
        ("b", [0], {"second": True}, "has 2 features that may be the image"),
    ):
        write(tmp_path / folder, labels, **options)
        place = f"tfds/{tmp_path}/{folder}/small/1.0.0"
        with pytest.raises(UsageError, match=said.replace("PLACE", printable(place))):
            open_source(place, split="train")


def test_a_format_without_random_access_says_how_to_prepare_it(tmp_path: Path) -> None:
    write(tmp_path, [0, 1])
    info = tmp_path / "small" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(UsageError, match=r"prepared as tfrecord, .* prepare it with file_format='array_record'"):
        open_source(f"tfds/{info.parent}", split="train")
