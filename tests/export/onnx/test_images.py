"""The resize of the graph is that of Pillow, to one grey level."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import session_of
from onnx import TensorProto, helper
from PIL import Image

from miil21k.data.transforms import crop_image, normalise, resized_size
from miil21k.errors import UsageError
from miil21k.export.onnx.graph import GraphWriter
from miil21k.export.onnx.images import CROP_INPUT, crops, write_crop, write_normalisation
from miil21k.export.onnx.model import image_model
from miil21k.export.onnx.proof import open_session
from miil21k.zoo.schema import Preprocess

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def transform(
    edge: int = 64, interpolation: str = "bilinear", crop_pct: float = 0.875, mode: str = "center"
) -> Preprocess:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return Preprocess((3, edge, edge), interpolation, crop_pct, mode, mean, std, "test")  # type: ignore[arg-type]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("crop_pct", "mode"), [(0.875, "center"), (0.95, "center"), (1.0, "squash"), (0.9, "squash")])
@pytest.mark.parametrize("size", [(120, 90), (90, 121), (64, 64), (31, 47), (73, 73), (300, 65)])
def test_noise_of_any_size_is_resized_as_pillow_does(
    interpolation: str, crop_pct: float, mode: str, size: tuple[int, int]
) -> None:
    preprocess = transform(64, interpolation, crop_pct, mode)
    images = np.stack([picture(*size, seed) for seed in range(2)])
    found = open_session(image_model(preprocess).SerializeToString()).run(None, {"images": images})[0]
    assert found.shape == (2, 3, 64, 64)
    width, height = resized_size((size[1], size[0]), preprocess)
    for planes, image in zip(found, images, strict=True):
        rows_first = Image.fromarray(image).resize((width, size[0]), FILTERS[interpolation])
        exact = crop_image(rows_first.resize((width, height), FILTERS[interpolation]), preprocess)
        difference = np.abs(planes.transpose(1, 2, 0).astype(int) - exact)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.02


def test_crops_pass_unchanged_when_the_graph_is_told() -> None:
    preprocess = transform()
    session = open_session(image_model(preprocess).SerializeToString())
    crop = picture(64, 64)
    found = session.run(None, {"images": crop[None], CROP_INPUT: np.array(False)})[0]
    assert np.array_equal(found[0].transpose(1, 2, 0), crop)
    assert not np.array_equal(session.run(None, {"images": crop[None]})[0], found)


def test_a_plain_squash_has_no_crop_to_ask_about() -> None:
    preprocess = transform(crop_pct=1.0, mode="squash")
    assert not crops(preprocess)
    session = open_session(image_model(preprocess).SerializeToString())
    assert [value.name for value in session.get_overridable_initializers()] == []
    crop = picture(64, 64)
    assert np.array_equal(session.run(None, {"images": crop[None]})[0][0].transpose(1, 2, 0), crop)


@pytest.mark.parametrize("mean", [(0.0, 0.0, 0.0), (0.485, 0.456, 0.406)])
def test_normalisation_is_bit_equal_to_numpy(mean: tuple[float, float, float]) -> None:
    preprocess = Preprocess((3, 16, 16), "bilinear", 1.0, "squash", mean, (0.229, 0.224, 1.0), "test")
    graph = GraphWriter("images")
    write_normalisation(graph, "crop", preprocess, "pixels")
    session = session_of(
        graph,
        [helper.make_tensor_value_info("crop", TensorProto.UINT8, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 16, 16])],
    )
    crop = picture(16, 16)[None]
    found = session.run(None, {"crop": np.ascontiguousarray(crop.transpose(0, 3, 1, 2))})[0]
    assert np.array_equal(found, normalise(crop, preprocess))


def test_borders_and_oblong_crops_are_refused() -> None:
    graph = GraphWriter("images")
    with pytest.raises(UsageError, match="at most 1"):
        write_crop(graph, "images", transform(crop_pct=1.2))
    oblong = Preprocess((3, 64, 48), "bilinear", 0.9, "center", (0, 0, 0), (1, 1, 1), "test")
    with pytest.raises(UsageError, match="square"):
        write_crop(graph, "images", oblong)
