"""An export is proved and kept, or leaves nothing; what it says about itself is true."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from small_networks import FAMILIES, small_network
from torch import nn

from miil21k.calibrate.record import Calibration, mask_digest
from miil21k.errors import ExportError, LabelSpaceMismatch, UsageError
from miil21k.export.onnx.file import export_onnx, own_photographs, photographs_in
from miil21k.export.onnx.network import fold_weight_standardisation, network_to_onnx
from miil21k.export.onnx.proof import BOUNDS, open_session
from miil21k.export.onnx.report import report_path
from miil21k.export.options import ExportOptions
from miil21k.store.integrity import tensors_digest
from miil21k.zoo.export_card import read_export_card
from miil21k.zoo.registry import create_model

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.runtime.loading import Loaded


def test_the_embedded_model_keeps_every_bound_on_noise_and_photographs(embedded_export: Path) -> None:
    report = json.loads(report_path(embedded_export).read_text())
    rows = report["proof"]["rows"]
    assert sorted({(row["images"], row["batch"]) for row in rows}) == [
        ("noise", 1), ("noise", 2), ("noise", 7), ("photographs", 1), ("photographs", 2), ("photographs", 7),
    ]  # fmt: skip
    assert report["proof"]["photographs"] == len(own_photographs()) == 3
    worst = report["proof"]["worst"]
    assert 0 < worst["logits"] <= 1e-5
    assert worst["probabilities"] <= 1e-6
    assert worst["grey_levels"] <= 1
    assert worst["photo_logits"] < 1e-3
    for key in ("answers_apart", "answers_tied", "decoded_differently", "photo_answers_apart", "photo_answers_tied"):
        assert worst[key] == 0


def test_the_file_is_one_valid_model_with_named_batches_and_answers(embedded_export: Path) -> None:
    model = onnx.load(embedded_export)
    onnx.checker.check_model(model, full_check=True)
    declared = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert declared == {
        "images": ["batch", "height", "width", 3],
        "crop": [],
        "hedge": [],
        "logits": ["batch", 1000],
        "topk_index": ["batch", 5],
        "topk_prob": ["batch", 5],
        "path": ["batch", 11],
        "path_prob": ["batch", 11],
        "hedge_node": ["batch"],
        "hedge_prob": ["batch"],
        "embedding": ["batch", 1280],
    }
    assert sorted(path.name for path in embedded_export.parent.iterdir()) == ["embedded.onnx", "embedded.onnx.json"]
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_the_metadata_names_everything_that_running_needs(embedded_export: Path) -> None:
    card = read_export_card(embedded_export)
    assert (card.model, card.form, card.head, card.licence) == ("embedded", "full", "leaf_softmax", "Apache-2.0")
    assert card.space.name == "in1k"
    assert card.space.tree.names[281] == "tabby"
    assert card.preprocess.interpolation == "bicubic"
    assert card.decoding["hedge"] == 0.9
    assert card.decoding["removed_labels"] == "none"
    assert {"torch", "timm", "onnx", "onnxscript", "miil21k"} <= card.versions.keys()
    report = json.loads(report_path(embedded_export).read_text())
    assert report["weights_sha256"] == card.weights_sha256 == tensors_digest(create_model("embedded", pretrained=True))
    assert report["wnids"] == list(card.space.tree.wnids)
    assert report["label_space_sha256"] == card.space.sha256


def test_the_tensor_form_takes_pixels_and_gives_logits(tensor_export: Path, small: Loaded) -> None:
    session = open_session(tensor_export)
    assert [value.name for value in session.get_inputs()] == ["pixels"]
    pixels = torch.randn(5, *small.preprocess.input_size)
    logits, embedding = session.run(["logits", "embedding"], {"pixels": pixels.numpy()})
    with torch.inference_mode():
        exact = small.model(pixels).numpy()
    assert np.abs(logits - exact).max() <= 1e-4 * np.ptp(exact)
    weight, bias = small.model.fc.weight.detach().numpy(), small.model.fc.bias.detach().numpy()
    assert np.allclose(embedding @ weight.T + bias, logits, atol=1e-4)
    assert read_export_card(tensor_export).decoding == {}


class Inconsistent(nn.Module):
    """Its forward_head, which an export is made of, says half of what its forward says."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.inner.forward_features(pixels)  # type: ignore[operator, no-any-return]

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        found = self.inner.forward_head(features, pre_logits=pre_logits)  # type: ignore[operator]
        return found if pre_logits else found / 2  # type: ignore[no-any-return]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return 2 * self.forward_head(self.forward_features(pixels))


def test_an_export_that_computes_something_else_leaves_nothing(small: Loaded, tmp_path: Path) -> None:
    wrong = dataclasses.replace(small, model=Inconsistent(small.model))
    target = tmp_path / "model.onnx"
    target.write_bytes(b"an older export")
    with pytest.raises(ExportError, match=r"not kept: logits is 0\.\d+ on noise in a batch of 1, over 0\.0001"):
        export_onnx(wrong, target)
    assert target.read_bytes() == b"an older export"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


class DataDependent(nn.Module):
    """Its path depends on its input, so torch cannot export it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 1000)

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels if float(pixels.sum()) > 0 else -pixels

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        pooled = features.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)  # type: ignore[no-any-return]


def test_what_torch_cannot_export_is_an_error_that_names_the_network(small: Loaded, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot export DataDependent to ONNX"):
        export_onnx(dataclasses.replace(small, model=DataDependent()), tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="no timm forward_features"):
        export_onnx(dataclasses.replace(small, model=nn.Conv2d(3, 4, 1)), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


QUICK = ("vit", "bit", "tresnet")  # attention, standardised weights, operators of its own


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_a_small_network_of_every_family_passes_in_full(family: str, tmp_path: Path) -> None:
    loaded = small_network(family)
    worst = export_onnx(loaded, tmp_path / "model.onnx")["proof"]["worst"]
    assert worst["logits"] < 1e-5
    assert worst["embedding"] < 1e-4
    assert (worst["answers_apart"], worst["decoded_differently"], worst["photo_answers_apart"]) == (0, 0, 0)


def test_names_folders_and_options_that_make_no_sense_are_refused(small: Loaded, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not end in \.onnx"):
        export_onnx(small, tmp_path / "model.bin")
    with pytest.raises(UsageError, match="no folder"):
        export_onnx(small, tmp_path / "missing" / "model.onnx")
    with pytest.raises(UsageError, match="holds no pictures"):
        photographs_in(tmp_path)
    for wrong in ({"topk": 0}, {"hedge": 0.0}, {"hedge": 1.5}, {"form": "half"}):
        with pytest.raises(UsageError):
            ExportOptions(**wrong)  # type: ignore[arg-type]


def a_calibration(loaded: Loaded, **changes: Any) -> Calibration:
    values: dict[str, Any] = {
        "label_space": loaded.space.name, "sha256": loaded.space.sha256, "model": "", "weights": "",
        "head": loaded.head, "rule": "", "allowed": mask_digest(None), "temperature": (1.7,),
        "thresholds": ((0.9, 0.42),), "samples": (10, 10),
    }  # fmt: skip
    return Calibration(**{**values, **changes})


def test_a_calibration_sets_temperature_and_level_and_is_recorded(small: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    report = export_onnx(small, path, ExportOptions(topk=3, calibration=a_calibration(small)))
    card = read_export_card(path)
    assert (card.decoding["temperature"], card.decoding["hedge"], card.decoding["topk"]) == (1.7, 0.42, 3)
    assert json.loads(card.decoding["calibration"])["samples"] == [10, 10]
    assert report["proof"]["worst"]["decoded_differently"] == 0
    other = dataclasses.replace(a_calibration(small), sha256="0" * 64)
    with pytest.raises(LabelSpaceMismatch, match="calibration"):
        export_onnx(small, path, ExportOptions(calibration=other))


def test_a_21k_head_masks_the_withdrawn_classes_and_lists_them(tmp_path: Path) -> None:
    loaded = small_network("test_vit", "fall11")
    path = tmp_path / "model.onnx"
    report = export_onnx(loaded, path, ExportOptions(rule="min"))
    assert report["decoding"]["rule"] == "min"
    assert report["decoding"]["removed_labels"] == "masked"
    assert len(report["decoding"]["masked"]) == 771
    assert report["proof"]["worst"]["logits"] <= BOUNDS.logits


def test_standardised_weights_are_computed_once() -> None:
    torch.manual_seed(0)
    model = create_model("resnetv2_50x1_bit.goog_in21k_ft_in1k", num_classes=10).eval()
    pixels = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        exact = model(pixels)
        assert fold_weight_standardisation(model) == 53
        assert torch.allclose(model(pixels), exact, atol=1e-5)
    assert not any("StdConv" in type(module).__name__ for module in model.modules())


SMALL_ROWS = (
    "mobilenetv3_large_100.miil_in21k_ft_in1k",
    "ofa_flops_595m_s.miil_in21k",
    "tresnet_m.miil_in21k_ft_in1k",
    "levit_384.usi_in21k_single_label",
    "edgenext_small.usi_in1k",
    "resnet18.fb_swsl_ig1b_ft_in1k",
    "resnetv2_50x1_bit.goog_in1k",
    "mixer_b16_224.miil_in21k_ft_in1k",
    "vit_base_patch16_224_miil.in21k_ft_in1k",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_ROWS)
def test_every_architecture_exports_with_one_batch_axis(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=50).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.data.normal_(0, 0.02)  # a head that starts at zero would prove nothing
    size = model.weights.preprocess.input_size
    pixels = torch.randn(7, *size)
    with torch.inference_mode():
        exact = model(pixels).numpy()
    session = open_session(network_to_onnx(model, size).SerializeToString())
    for batch in (1, 2, 7):
        logits, embedding = session.run(None, {"pixels": pixels[:batch].numpy()})
        assert np.abs(logits - exact[:batch]).max() <= 1e-4 * np.ptp(exact)
        assert embedding.shape == (batch, getattr(model, "head_hidden_size", model.num_features))
