"""Files in the published layouts, written from independent restatements of those networks, load and compute alike."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from reference_convolutional import Ofa595, TResNet, bit_arrays, bit_forward
from reference_transformers import EdgeNextSmall, Levit384, VitBase
from safetensors.torch import save_file
from torch import Tensor, nn

from miil21k.errors import CheckpointMismatch
from miil21k.store.cache import Cache, CachedFile
from miil21k.store.safetensors_cache import converted
from miil21k.zoo.adapters import LAYOUTS, adapt, unwrapped
from miil21k.zoo.manifest import find_weights, load_manifest
from miil21k.zoo.registry import create_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _published(build: Callable[[int], nn.Module], num_classes: int) -> nn.Module:
    """Return the network with random parameters and statistics, ready to evaluate."""
    torch.manual_seed(0)
    net = build(num_classes).eval()
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return net


def _assert_same_logits(name: str, file: Path, expected: Callable[[Tensor], Tensor], size: int = 64) -> nn.Module:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    model = create_model(name, checkpoint=file).eval()
    with torch.inference_mode():
        mine, theirs = model(images), expected(images)
    assert theirs.std() > 0
    assert mine.shape == theirs.shape
    assert (mine - theirs).abs().max() <= 1e-4 * theirs.abs().max()
    return model


def _tresnet_m(num_classes: int) -> nn.Module:
    return TResNet((3, 4, 11, 3), bottleneck=False, num_classes=num_classes)


def _tresnet_v2_l(num_classes: int) -> nn.Module:
    return TResNet((3, 4, 23, 3), bottleneck=True, num_classes=num_classes)


@pytest.mark.parametrize(
    ("name", "build"),
    [("tresnet_m_21k_ft_in1k", _tresnet_m), ("tresnet_l_v2_21k_ft_in1k", _tresnet_v2_l)],
)
def test_a_tresnet_with_inplace_abn_keeps_its_logits(name: str, build: Any, tmp_path: Path) -> None:
    net = _published(build, 1000)
    assert not any("num_batches_tracked" in key for key in net.state_dict())
    torch.save({"state_dict": net.state_dict()}, tmp_path / "old.pth")
    _assert_same_logits(name, tmp_path / "old.pth", net)


def test_the_variant_without_torchscript_keeps_its_filters_and_its_logits(tmp_path: Path) -> None:
    net = _published(_tresnet_m, 1000)
    line = torch.tensor([1.0, 2.0, 1.0])
    blur = line[:, None] * line / 16
    filters = {f"body.layer{i}.0.conv{c}.1.op.filt": blur.repeat(n, 1, 1, 1) for i, c, n in
               ((2, 1, 128), (3, 2, 256), (4, 2, 512))}  # fmt: skip
    torch.save({"state_dict": {**net.state_dict(), **filters}}, tmp_path / "old.pth")
    _assert_same_logits("tresnet_m_21k_ft_in1k", tmp_path / "old.pth", net)
    other = {"body.layer2.0.conv1.1.op.filt": blur.repeat(128, 1, 1, 1) + 0.1}
    torch.save({"state_dict": {**net.state_dict(), **other}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointMismatch, match=r"1 unexpected \(body\.layer2\.0\.conv1\.1\.op\.filt\)"):
        create_model("tresnet_m_21k_ft_in1k", checkpoint=tmp_path / "other.pth")


@pytest.mark.parametrize(
    "wrapper",
    ["_orig_mod.", "module.", "model.", "backbone.", "module._orig_mod.", "_orig_mod.module.model.", "model.backbone."],
)
def test_a_compiled_or_wrapped_network_is_taken_out(wrapper: str, tmp_path: Path) -> None:
    net = create_model("resnet18_ssl", num_classes=7)
    wrapped = {f"{wrapper}{name}": tensor for name, tensor in net.state_dict().items()}
    save_file(wrapped, tmp_path / "wrapped.safetensors")
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "wrapped.pth")
    for file in ("wrapped.safetensors", "wrapped.pth"):
        model = create_model("resnet18", checkpoint=tmp_path / file, num_classes=7)
        assert torch.equal(model.fc.weight, net.fc.weight)
        assert torch.equal(model.layer4[1].conv2.weight, net.layer4[1].conv2.weight)


def test_a_wrapped_old_layout_and_a_compiled_part_are_taken_out(tmp_path: Path) -> None:
    net = _published(_tresnet_m, 9)
    wrapped = {f"module.{k.replace('body.', 'body._orig_mod.')}": v for k, v in net.state_dict().items()}
    torch.save(wrapped, tmp_path / "old.pth")
    model = create_model("tresnet_m_21k_ft_in1k", checkpoint=tmp_path / "old.pth", num_classes=9)
    assert torch.equal(model.head.fc.weight, net.head.fc.weight)


def test_any_other_wrapper_is_named(tmp_path: Path) -> None:
    net = create_model("resnet18_ssl", num_classes=7)
    save_file({f"student.{k}": v for k, v in net.state_dict().items()}, tmp_path / "kd.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"all its names begin with 'student\.', and none of the model's does"):
        create_model("resnet18", checkpoint=tmp_path / "kd.safetensors", num_classes=7)
    assert unwrapped({"model.a": torch.zeros(1)}, {"model.a": torch.Size([1])}).keys() == {"model.a"}


def test_inplace_abn_weights_become_their_absolute_value_plus_eps_exactly_once() -> None:
    old = {"body.conv1.0.weight": torch.zeros(1), "body.conv1.1.weight": torch.tensor([-0.5, 0.0, 2.0])}
    once = adapt(old, ["tresnet_inplace_abn"], {})
    assert once["body.conv1.bn.weight"].tolist() == pytest.approx([0.50001, 0.00001, 2.00001], abs=1e-7)
    twice = adapt(once, ["tresnet_inplace_abn"], {})
    assert twice.keys() == {"body.conv1.conv.weight", "body.conv1.bn.weight"}
    assert torch.equal(twice["body.conv1.bn.weight"], once["body.conv1.bn.weight"])


def test_the_once_for_all_network_keeps_its_logits(tmp_path: Path) -> None:
    net = _published(Ofa595, 11221)
    assert sum(p.numel() for p in net.parameters()) == 24_845_605
    torch.save({"state_dict": net.state_dict()}, tmp_path / "old.pth")
    _assert_same_logits("ofa_flops_595m_s_21k", tmp_path / "old.pth", net)


def test_a_once_for_all_file_without_classifier_takes_a_fresh_head(tmp_path: Path) -> None:
    net = _published(Ofa595, 5)
    body = {k: v for k, v in net.state_dict().items() if not k.startswith("classifier")}
    torch.save(body, tmp_path / "body.pt")
    model = create_model("ofa_flops_595m_s_21k", checkpoint=tmp_path / "body.pt", num_classes=5)
    assert model.classifier.weight.shape == (5, 1536)
    assert torch.equal(model.conv_stem.weight, net.first_conv.conv.weight)


def test_a_bit_archive_keeps_its_logits(tmp_path: Path) -> None:
    arrays = bit_arrays(1000, seed=0)
    np.savez(tmp_path / "BiT.npz", **arrays)
    model = _assert_same_logits("bit_m_r50x1_ilsvrc2012", tmp_path / "BiT.npz", lambda x: bit_forward(arrays, x))
    assert model.stem.conv.weight.is_contiguous()


def test_levit_of_usi_keeps_its_logits_and_loses_its_index_buffers(tmp_path: Path) -> None:
    net = _published(Levit384, 10450)
    args = argparse.Namespace(lr=2e-3, model="levit_384")
    torch.save({"epoch": 3, "args": args, "state_dict": net.state_dict()}, tmp_path / "single_label_ls.pth")
    model = _assert_same_logits("levit_384_21k_single_label", tmp_path / "single_label_ls.pth", net, size=224)
    assert model.label_space is None  # the release was never stated, and a class count does not tell it


def test_levit_survives_the_conversion_to_safetensors(tmp_path: Path) -> None:
    net = _published(Levit384, 7)
    file = tmp_path / "levit.pth"
    torch.save({"state_dict": net.state_dict()}, file)
    source = find_weights("levit_384_21k_single_label").sources[0]
    stored = converted(CachedFile(file, "0" * 64, source), Cache(tmp_path, tmp_path))
    assert stored.suffix == ".safetensors"
    model = create_model("levit_384_21k_single_label", checkpoint=stored, num_classes=7).eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        assert torch.allclose(model(images), net(images), rtol=1e-3, atol=1e-3)


def test_edgenext_keeps_its_logits(tmp_path: Path) -> None:
    net = _published(EdgeNextSmall, 1000)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "edgenext_small_usi.pth")
    _assert_same_logits("edgenext_s_usi", tmp_path / "edgenext_small_usi.pth", net, size=96)


def test_a_vit_without_qkv_bias_keeps_its_logits(tmp_path: Path) -> None:
    net = _published(VitBase, 1000)
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    _assert_same_logits("vit_base_patch16_224_21k_ft_in1k", tmp_path / "vit.pth", net, size=224)


@pytest.mark.parametrize(("name", "arch"), [("resnet18_ssl", "resnet18"), ("resnext50_32x4d_swsl", "resnext50_32x4d")])
def test_a_facebook_file_keeps_the_logits_of_torchvision(name: str, arch: str, tmp_path: Path) -> None:
    import torchvision

    net = _published(lambda n: getattr(torchvision.models, arch)(num_classes=n), 1000)
    # The published files are from 2019: the old format of torch.save.
    torch.save(net.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    _assert_same_logits(name, tmp_path / "old.pth", net)


def test_the_embedded_weights_name_a_tiger_cat() -> None:
    skimage_data = pytest.importorskip("skimage.data", reason="scikit-image holds the photograph")
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config

    model = create_model("embedded", pretrained=True, offline=True).eval()
    transform = create_transform(**resolve_model_data_config(model))
    with torch.inference_mode():
        probs = model(transform(Image.fromarray(skimage_data.chelsea()))[None]).softmax(-1)[0]
    tiger_cat, egyptian_cat, tabby = 282, 285, 281
    assert probs[[tiger_cat, egyptian_cat, tabby]].tolist() == pytest.approx([0.39, 0.36, 0.17], abs=0.006)


def test_every_layout_of_the_manifest_has_an_adapter_and_every_adapter_a_layout() -> None:
    assert {layout for w in load_manifest().models for layout in w.layouts} == set(LAYOUTS)


def test_an_unknown_tensor_keeps_its_name_and_is_reported_later() -> None:
    layouts = find_weights("bit_m_r50x1").layouts
    old = {"resnet/root_block/standardized_conv2d/kernel": torch.zeros(7, 7, 3, 64), "resnet/block9/x": torch.zeros(1)}
    assert adapt(old, layouts, {}).keys() == {"stem.conv.weight", "resnet/block9/x"}
