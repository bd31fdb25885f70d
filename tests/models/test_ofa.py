"""OFA-595 as timm sees it."""

from __future__ import annotations

import pytest
import timm
import torch

from miil21k.models.ofa import from_once_for_all, ofa_flops_595m_s


@pytest.mark.parametrize(("num_classes", "params"), [(0, 7_598_928), (1000, 9_135_928), (11221, 24_845_605)])
def test_the_parameters_are_those_that_were_published(num_classes: int, params: int) -> None:
    with torch.device("meta"):
        model = timm.create_model("ofa_flops_595m_s", num_classes=num_classes)
    assert sum(p.numel() for p in model.parameters()) == params


def _conv_macs(size: int) -> int:
    """Return the multiply-adds of all convolutions and the classifier, counted on the meta device."""
    total = 0

    def count(module: torch.nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        total += out.numel() * module.weight[0].numel()

    with torch.device("meta"):
        model = ofa_flops_595m_s()
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
    model(torch.empty(1, 3, size, size, device="meta"))
    return total


def test_the_multiply_adds_are_those_of_its_name_at_236_pixels() -> None:
    assert (_conv_macs(236), _conv_macs(224)) == (595_189_032, 512_861_680)


def test_it_swishes_with_a_sigmoid_in_squeeze_and_excite() -> None:
    model = ofa_flops_595m_s(num_classes=2)
    kinds = {type(m).__name__ for m in model.modules()}
    assert "Hardswish" not in kinds
    assert "Hardsigmoid" not in kinds
    gate = model.blocks[4][0].se.gate
    assert gate(torch.zeros(1)).item() == 0.5
    assert gate(torch.tensor([3.0])).item() == pytest.approx(0.952574, abs=1e-6)
    assert model.bn1.act(torch.tensor([-1.0])).item() == pytest.approx(-0.268941, abs=1e-6)


def test_the_feature_maps_shrink_to_a_32nd() -> None:
    with torch.device("meta"):
        model = timm.create_model("ofa_flops_595m_s", features_only=True)
    maps = model(torch.empty(1, 3, 224, 224, device="meta"))
    assert [(m.shape[1], m.shape[2]) for m in maps] == [(24, 112), (32, 56), (48, 28), (136, 14), (1152, 7)]


def test_the_kernel_of_the_published_classifier_becomes_a_matrix() -> None:
    model = ofa_flops_595m_s(num_classes=3)
    old = {"first_conv.conv.weight": model.conv_stem.weight, "classifier.linear.weight": torch.ones(3, 1536, 1, 1)}
    new = from_once_for_all(old)
    assert new["classifier.weight"].shape == (3, 1536)
    assert set(new) == {"conv_stem.weight", "classifier.weight"}


def test_without_weights_timm_says_so() -> None:
    with pytest.raises(RuntimeError, match="No pretrained weights exist for ofa_flops_595m_s"):
        timm.create_model("ofa_flops_595m_s", pretrained=True)
