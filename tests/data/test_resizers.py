"""The vectorised resizer against Pillow, on anything."""

from __future__ import annotations

import importlib.util
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from miil21k.data.crops import read_crops
from miil21k.data.datasets import label_images, open_source
from miil21k.data.images import load_image
from miil21k.data.resizers import resize, resolve_resizer
from miil21k.data.transforms import crop_image
from miil21k.errors import MissingExtra
from miil21k.hierarchy.load import load_label_space
from miil21k.zoo.manifest import find_weights

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
IMAGES = Path(__file__).parents[2] / "examples" / "images"
needs_cykooz = pytest.mark.skipif(resolve_resizer("auto") != "cykooz", reason="the extra 'fast' is not installed")
edges = st.integers(1, 300)


def apart(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    ours = resize(image, size, BILINEAR, "cykooz")
    assert ours.mode == "RGB"
    assert ours.size == size
    return np.abs(np.asarray(ours).astype(int) - np.asarray(image.resize(size, BILINEAR)))


@needs_cykooz
@given(st.tuples(edges, edges), st.tuples(edges, edges), st.sampled_from([2, 3, 256]), st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_hardly_a_value_is_more_than_one_grey_level_from_pillows(
    full: tuple[int, int], size: tuple[int, int], levels: int, seed: int
) -> None:
    steps = np.random.default_rng(seed).integers(0, levels, (*full[::-1], 3))
    difference = apart(Image.fromarray((steps * (255 // (levels - 1))).astype(np.uint8)), size)
    assert difference.max() <= 2
    assert (difference > 1).sum() <= 1 + difference.size // 100_000  # seen once in ten million values of photographs


@needs_cykooz
def test_photographs_differ_little_and_not_at_all_where_pillow_resizes() -> None:
    published = find_weights("tresnet_m_21k").preprocess
    assert published.interpolation == "bilinear"
    for path in sorted(IMAGES.glob("*.jpg")):
        image = load_image(path)
        exact = crop_image(image, published).astype(int)
        difference = np.abs(crop_image(image, published, "cykooz") - exact)
        assert 0 < difference.mean() < 0.2
        assert difference.max() == 1
        cubic = published._replace(interpolation="bicubic")
        assert np.array_equal(crop_image(image, cubic, "cykooz"), crop_image(image, cubic))


@needs_cykooz
def test_batches_of_labelled_images_are_read_with_the_one_that_is_asked_for(tmp_path: Path) -> None:
    space, published = load_label_space("in1k"), find_weights("tresnet_m_21k").preprocess
    folder = tmp_path / space.wnids[281]
    folder.mkdir()
    shutil.copy(IMAGES / "cat.jpg", folder)
    images = label_images(open_source(str(tmp_path)), space, partial=True)
    whole = load_image(IMAGES / "cat.jpg")
    for resizer in ("pillow", "cykooz"):
        (crop,) = read_crops(images, [0], published, resizer).crops
        assert np.array_equal(crop, crop_image(whole, published, resizer))
    assert np.array_equal(read_crops(images, [0], published).crops[0], crop_image(whole, published))


@needs_cykooz
def test_threads_do_not_disturb_each_other() -> None:
    image = load_image(IMAGES / "cat.jpg")
    sizes = [(40 + number % 7, 30 + number % 5) for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda size: np.asarray(resize(image, size, BILINEAR, "cykooz")), sizes))
    for size, pixels in zip(sizes, found, strict=True):
        assert np.array_equal(pixels, np.asarray(resize(image, size, BILINEAR, "cykooz")))


def test_auto_is_the_faster_one_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_resizer("pillow") == "pillow"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert resolve_resizer("auto") == resolve_resizer("cykooz") == "cykooz"
    assert resolve_resizer("auto", "bicubic") == resolve_resizer("cykooz", "bicubic") == "pillow"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert resolve_resizer("auto") == "pillow"
    with pytest.raises(MissingExtra, match=r"pip install 'miil21k\[fast\]'"):
        resolve_resizer("cykooz")
