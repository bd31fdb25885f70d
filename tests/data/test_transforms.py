"""The evaluation transform equals timm's on real and on awkward images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from miil21k.data.images import load_image
from miil21k.data.transforms import crop_image, decode_edge, evaluation_transform, normalise, resize_edge
from miil21k.errors import UsageError
from miil21k.zoo.schema import Preprocess

IMAGES = Path(__file__).parents[2] / "examples" / "images"
CENTRE = Preprocess(
    input_size=(3, 224, 224),
    interpolation="bicubic",
    crop_pct=0.875,
    crop_mode="center",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    source="test",
)
GOLDEN = {
    (0, 0, 0): 0.7933,
    (1, 40, 200): 0.2752,
    (2, 112, 112): 0.4091,
    (0, 180, 60): 1.3413,
    (1, 223, 223): 0.8704,
    (2, 100, 20): -1.2293,
}
GOLDEN_MEAN = -0.1046
PLAIN = CENTRE._replace(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def timms(image: Image.Image, preprocess: Preprocess) -> np.ndarray:
    transform = create_transform(
        preprocess.input_size,
        is_training=False,
        interpolation=preprocess.interpolation,
        crop_pct=preprocess.crop_pct,
        crop_mode=preprocess.crop_mode,
        mean=preprocess.mean,
        std=preprocess.std,
    )
    return transform(image).numpy()


@pytest.mark.parametrize("name", ["cat", "coffee", "rocket"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("mode", "crop_pct"), [("center", 0.875), ("center", 1.0), ("squash", 1.0), ("squash", 0.9)])
def test_photographs_become_what_timm_makes_of_them(name: str, interpolation: str, mode: str, crop_pct: float) -> None:
    image = load_image(IMAGES / f"{name}.jpg")
    preprocess = PLAIN._replace(interpolation=interpolation, crop_mode=mode, crop_pct=crop_pct)
    for turned in (image, image.transpose(Image.Transpose.ROTATE_90)):
        ours = evaluation_transform(preprocess)(turned)
        assert (ours.shape, ours.dtype, ours.flags.c_contiguous) == ((3, 224, 224), np.float32, True)
        assert np.abs(ours - timms(turned, preprocess)).max() <= 1.001 / 255


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (224, 224), (256, 256), (225, 223), (1000, 700)])
def test_awkward_sizes_become_what_timm_makes_of_them(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    for mode in ("center", "squash"):
        preprocess = PLAIN._replace(crop_mode=mode, crop_pct=0.875)
        ours = evaluation_transform(preprocess)(image)
        assert np.abs(ours - timms(image, preprocess)).max() <= 1.001 / 255


def test_a_crop_larger_than_the_image_lies_on_black_as_in_timm() -> None:
    image = load_image(IMAGES / "cat.jpg")
    preprocess = PLAIN._replace(crop_mode="squash", crop_pct=1.25)
    ours = evaluation_transform(preprocess)(image)
    assert ours[:, 0].max() == 0
    assert np.abs(ours - timms(image, preprocess)).max() <= 1.001 / 255


def test_a_batch_is_normalised_as_its_images_are() -> None:
    crops = np.stack([crop_image(load_image(IMAGES / f"{name}.jpg"), CENTRE) for name in ("cat", "coffee")])
    batch = normalise(crops, CENTRE)
    assert (batch.shape, batch.dtype) == ((2, 3, 224, 224), np.float32)
    expected = (crops / 255 - np.array(CENTRE.mean)) / np.array(CENTRE.std)
    assert np.abs(batch - expected.transpose(0, 3, 1, 2)).max() < 1e-6
    assert batch.flags.c_contiguous
    assert normalise(crops[:0], CENTRE).shape == (0, 3, 224, 224)


def test_the_cat_keeps_its_pixels() -> None:
    """Pins the whole way from file to network input; a change here changes every prediction."""
    image = evaluation_transform(CENTRE)(load_image(IMAGES / "cat.jpg"))
    found = [round(float(image[c, y, x]), 4) for c, y, x in GOLDEN]
    assert found == pytest.approx(list(GOLDEN.values()), abs=0.0181)  # one grey level: JPEG decoders differ by that
    assert image.mean() == pytest.approx(GOLDEN_MEAN, abs=0.001)


def test_edges_follow_the_crop_fraction() -> None:
    assert (resize_edge(CENTRE), decode_edge(CENTRE)) == (256, 512)
    assert resize_edge(CENTRE._replace(crop_pct=0.9)) == 248


def test_a_centre_crop_that_is_not_square_is_refused() -> None:
    with pytest.raises(UsageError, match="square"):
        crop_image(Image.new("RGB", (9, 9)), CENTRE._replace(input_size=(3, 224, 192)))
