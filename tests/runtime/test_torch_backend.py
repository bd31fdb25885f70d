"""The torch backend computes what the plain model computes, and says no to devices that are not there."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn

from miil21k.environment import available_cpus
from miil21k.errors import UsageError
from miil21k.runtime.torch_backend import TorchBackend, choose_device, fold_batch_norm


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give the batch norms statistics as training would, so that folding them changes something."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.2, 0.2),
            ):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return model.eval()


def images(count: int, size: int = 64) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, size, size), np.float32)


@pytest.mark.parametrize(
    ("arch", "folded"),
    [("mobilenetv3_small_050", 34), ("resnet18", 20), ("tf_efficientnet_lite0", 49), ("tresnet_m", 60)],
)
def test_folding_batch_norms_keeps_the_logits(arch: str, folded: int) -> None:
    torch.manual_seed(0)
    model = lively(timm.create_model(arch, num_classes=50))
    batch = torch.from_numpy(images(2))
    with torch.inference_mode():
        before = model(batch)
        changed = copy.deepcopy(model)
        assert fold_batch_norm(changed) == folded
        after = changed(batch)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in changed.modules())
    assert float((after - before).abs().max()) <= 1e-4 * float(before.abs().max())


class Branching(nn.Module):
    """The first convolution is read by the norm and by the sum; the second one by its norm alone; a norm is shared."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.second, self.other = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.twice = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        z = self.other(self.second(y + self.norm(y)))
        return self.twice(self.twice(z)).mean((2, 3))


def test_only_a_convolution_that_one_norm_alone_reads_is_folded() -> None:
    torch.manual_seed(0)
    model = lively(Branching())
    batch = torch.from_numpy(images(3, 8))
    before = model(batch)
    assert fold_batch_norm(model) == 1
    assert isinstance(model.other, nn.Identity)
    assert torch.allclose(model(batch), before, atol=1e-5)


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        return (y if float(x.sum()) > 0 else -y).mean((2, 3))


def test_a_model_that_cannot_be_traced_runs_unfolded() -> None:
    model = Untraceable().eval()
    batch = images(2, 8)
    with torch.inference_mode():
        expected = model(torch.from_numpy(batch)).numpy()
    backend = TorchBackend(model, 4, device="cpu")
    assert isinstance(model.norm, nn.BatchNorm2d)
    assert np.allclose(backend.run(batch).logits, expected, atol=1e-6)


def test_the_embedding_is_what_the_classifier_multiplies() -> None:
    torch.manual_seed(0)
    model = lively(timm.create_model("mobilenetv3_small_050", num_classes=7))
    backend = TorchBackend(model, 7, device="cpu")
    outputs = backend.run(images(3), embed=True)
    assert outputs.embedding is not None
    assert outputs.embedding.shape == (3, 1024)
    weight, bias = (tensor.detach().numpy() for tensor in (model.classifier.weight, model.classifier.bias))
    assert np.allclose(outputs.embedding @ weight.T + bias, outputs.logits, atol=1e-5)
    plain = backend.run(images(3))
    assert plain.embedding is None
    assert np.allclose(plain.logits, outputs.logits, atol=1e-6)
    with pytest.raises(UsageError, match="no timm forward_head"):
        TorchBackend(nn.Conv2d(3, 4, 1), 4, device="cpu").run(images(1), embed=True)


def test_bfloat16_gives_float32_logits_near_the_exact_ones() -> None:
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv3_small_050", num_classes=7)
    exact = TorchBackend(copy.deepcopy(model), 7, device="cpu").run(images(2)).logits
    half = TorchBackend(model, 7, device="cpu", dtype="bf16")
    logits = half.run(images(2)).logits
    assert (half.dtype, logits.dtype) == ("bf16", np.float32)
    assert not np.array_equal(logits, exact)
    assert np.abs(logits - exact).max() < 0.02 * np.abs(exact).max() + 0.01


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:0", "cuda:-1", ""])
def test_a_device_of_an_unknown_name_is_a_usage_error(device: str) -> None:
    with pytest.raises(UsageError, match="choose auto, cpu"):
        choose_device(device)


def test_a_device_that_is_not_there_is_never_replaced() -> None:
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(UsageError, match=r"sees \d+ CUDA devices"):
        choose_device(absent)
    assert choose_device("cpu") == "cpu"
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert choose_device("auto") == "cpu"
    with pytest.raises(UsageError, match="fp8"):
        TorchBackend(nn.Conv2d(3, 4, 1), 4, device="cpu", dtype="fp8")


def test_the_thread_count_is_put_back() -> None:
    backend = TorchBackend(nn.Conv2d(3, 4, 1), 4, device="cpu")
    before = torch.get_num_threads()
    with backend.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    assert available_cpus() >= 1
