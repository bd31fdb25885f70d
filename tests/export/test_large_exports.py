"""The networks on both sides of what one file holds; 16 GB of memory and many minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from miil21k.export.onnx.file import export_onnx, own_photographs
from miil21k.export.onnx.saving import weights_path
from miil21k.hierarchy.load import load_label_space
from miil21k.predict.predictor import Predictor
from miil21k.runtime.loading import Loaded
from miil21k.zoo.manifest import find_weights
from miil21k.zoo.registry import create_model

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.zoo.schema import Preprocess


def smaller(preprocess: Preprocess) -> Preprocess:
    """Return the transform for 96 x 96 pixels: a fifth of the computation, and the same weights."""
    return preprocess._replace(input_size=(3, 96, 96))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "files"), [("resnetv2_101x3_bit.goog_in21k", 1), ("resnetv2_152x4_bit.goog_in21k", 2)]
)
def test_the_largest_networks_pass_in_full(name: str, files: int, tmp_path: Path) -> None:
    row = find_weights(name)
    space = load_label_space("goog21k")
    torch.manual_seed(0)
    model = create_model(name, num_classes=space.num_classes).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.data.normal_(0, 0.02)  # a head that starts at zero would prove nothing
    loaded = Loaded(model, name, space, row.head, smaller(row.preprocess))
    path = tmp_path / "model.onnx"
    report = export_onnx(loaded, path)
    assert weights_path(path).exists() == (files == 2)
    assert report["bytes"] > 2e9
    worst = report["proof"]["worst"]
    assert worst["logits"] <= 1e-4
    assert (worst["answers_apart"], worst["decoded_differently"], worst["photo_answers_apart"]) == (0, 0, 0)
    del loaded, model
    answer = Predictor(str(path), device="cpu").predict(own_photographs()[0])
    assert answer.model == name
    assert len(answer.topk) == 5
