"""What we register with timm passes what timm's own tests ask of a model, and loses no fact that timm has."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg, is_model_pretrained

import miil21k.zoo.timm_names
from miil21k.zoo.manifest import find_weights, load_manifest
from miil21k.zoo.timm_config import timm_cfg

# Ours are the architecture that timm lacks and the names that it does not know.
OURS = sorted({"ofa_flops_595m_s", *miil21k.zoo.timm_names.default_cfgs})
SMALL = [name for name in OURS if not name.startswith("tresnet")]


def test_the_names_are_those_that_timm_lacks_in_both_spellings() -> None:
    assert OURS == [
        "ofa_flops_595m_s",
        "ofa_flops_595m_s_miil_in21k",
        "resnet50_miil_in21k",
        "tresnet_l_v2_miil_in21k",
        "tresnet_v2_l_miil_in21k",
    ]
    assert set(OURS) <= set(timm.list_models("*ofa*") + timm.list_models("*miil_in21k"))


@pytest.mark.parametrize("name", OURS)
def test_the_configuration_describes_the_network(name: str) -> None:
    model = timm.create_model(name, num_classes=11).eval()
    cfg = model.default_cfg
    names = model.state_dict().keys()
    for layer in (cfg["classifier"], cfg["first_conv"]):
        assert f"{layer}.weight" in names
    images = torch.randn(1, *cfg["input_size"])
    with torch.inference_mode():
        maps = model.forward_features(images)
        assert maps.shape[-2:] == cfg["pool_size"]
        assert model.forward_head(maps).shape == (1, 11)
        model.reset_classifier(0)
        pooled = model.forward_head(maps)
        assert pooled.shape == (1, getattr(model, "head_hidden_size", None) or model.num_features)
        model.reset_classifier(0, "")  # neither classifier nor pooling
        assert model.forward_head(maps).ndim == 4


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = timm.create_model(name, num_classes=42).train()
    logits = model(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 42)
    assert torch.isfinite(logits).all()
    logits.mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", OURS)
def test_feature_maps_have_the_channels_that_are_announced(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, features_only=True)
    maps = model(torch.empty(1, 3, 96, 96, device="meta"))
    assert len(maps) >= 4
    assert [m.shape[1] for m in maps] == model.feature_info.channels()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_the_network_that_timm_lacks_can_be_scripted() -> None:
    model = timm.create_model("ofa_flops_595m_s", num_classes=5, scriptable=True).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(torch.jit.script(model)(images), model(images))


STATED = {"architecture", "tag", "input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"}
TAGGED = [w for w in load_manifest().models if is_model_pretrained(w.name)]


@pytest.mark.parametrize("weights", TAGGED, ids=lambda w: w.name)
def test_a_configuration_keeps_what_timms_own_has(weights: object) -> None:
    theirs, ours = asdict(get_pretrained_cfg(weights.name)), asdict(timm_cfg(weights))
    assert {k for k in theirs if theirs[k] != ours[k]} <= STATED
    assert ours["hf_hub_id"] == f"timm/{weights.name}"
    assert asdict(timm_cfg(weights, weights.preprocessings["timm"])) == theirs


def test_the_larger_size_for_testing_is_kept_and_the_last_map_grows_with_the_image() -> None:
    edgenext = timm_cfg(find_weights("edgenext_small.usi_in1k"))
    assert (edgenext.test_input_size, edgenext.test_crop_pct) == ((3, 320, 320), 1.0)
    tresnet = find_weights("tresnet_m_21k")
    larger = timm_cfg(tresnet, tresnet.preprocess._replace(input_size=(3, 448, 448)))
    assert (timm_cfg(tresnet).pool_size, larger.pool_size) == ((7, 7), (14, 14))
