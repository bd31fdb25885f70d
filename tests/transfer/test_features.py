"""Features, and the shelf on which they are kept."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from miil21k.data.datasets import LabelledImages, label_images, open_source
from miil21k.errors import UsageError
from miil21k.hierarchy.load import load_own
from miil21k.predict.predictor import Predictor
from miil21k.transfer.features import Extractor, FeatureOptions

if TYPE_CHECKING:
    from pathlib import Path


def _images(folder: Path) -> LabelledImages:
    return label_images(open_source(str(folder)), load_own(folder))


@pytest.fixture(scope="module")
def extractor(tiny: Path) -> Extractor:
    return Extractor(str(tiny), FeatureOptions(workers=0, backend="torch", resizer="pillow"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return five noise pictures in two class folders, and one that is none."""
    rng = np.random.default_rng(0)
    for name in ("apples/a.png", "apples/b.png", "pears/c.png", "pears/d.png", "pears/e.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    (tmp_path / "photos" / "pears" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "photos"


def test_features_are_those_of_predict_and_are_computed_once(
    extractor: Extractor, tiny: Path, photos: Path, tmp_path: Path
) -> None:
    first = extractor.features(_images(photos), shelf=tmp_path / "shelf")
    assert (len(first), first.computed, first.labels.tolist()) == (5, 5, [0, 0, 1, 1, 1])
    assert [item.name for item in first.unreadable] == ["pears/broken.png"]
    predictor = Predictor(str(tiny), workers=0, embeddings=True, backend="torch", resizer="pillow")
    expected = predictor.predict([photos / "apples" / "a.png", photos / "pears" / "e.png"])
    assert first.values[[0, 4]] == pytest.approx(np.stack([row.embedding for row in expected]), abs=1e-4)

    (photos / "apples" / "a.png").rename(photos / "pears" / "moved.png")
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(photos / "apples" / "b.png")
    again = extractor.features(_images(photos), shelf=tmp_path / "shelf")
    assert (len(again), again.computed) == (5, 1)  # moved: known; changed: new
    assert again.values[-1] == pytest.approx(first.values[0], abs=0)
    assert again.labels.tolist() == [0, 1, 1, 1, 1]


def test_a_shelf_that_was_cut_short_is_computed_again(extractor: Extractor, photos: Path, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    extractor.features(_images(photos), shelf=shelf)
    (part,) = shelf.glob("*/*.npz")
    part.write_bytes(part.read_bytes()[:100])
    assert extractor.features(_images(photos), shelf=shelf).computed == 5


def test_other_pixels_have_a_shelf_of_their_own(extractor: Extractor) -> None:
    other = copy.copy(extractor)
    other.options = replace(extractor.options, decode="full")
    assert other.key != extractor.key
    other.options = replace(extractor.options, batch_size=3, workers=5)
    assert other.key == extractor.key


def test_images_of_which_none_can_be_read_are_refused(extractor: Extractor, tmp_path: Path) -> None:
    for name in ("a/x.jpg", "b/y.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(UsageError, match="None of the 2 images can be read"):
        extractor.features(_images(tmp_path))
