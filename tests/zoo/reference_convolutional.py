"""TResNet, OFA-595 and BiT as their own repositories name and compute them, restated without timm.

Written from the papers and the published tensor names; slow and plain. The zoo's adapters are tested against these.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name


class InplaceAbn(nn.Module):
    """InPlace-ABN in evaluation: normalise, scale by |weight| + eps, then leaky ReLU (slope None: nothing)."""

    def __init__(self, channels: int, slope: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels).sign() * (0.5 + torch.rand(channels)))
        self.bias = nn.Parameter(0.1 * torch.randn(channels))
        self.register_buffer("running_mean", 0.1 * torch.randn(channels))
        self.register_buffer("running_var", 0.5 + torch.rand(channels))
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight.abs() + 1e-5, self.bias)
        return x if self.slope is None else F.leaky_relu(x, self.slope)


class Blur(nn.Module):
    """Anti-aliasing before subsampling by 2 with the filter (1, 2, 1) / 4 in both directions."""

    def forward(self, x: Tensor) -> Tensor:
        line = torch.tensor([1.0, 2.0, 1.0])
        kernel = (line[:, None] * line[None] / 16).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=x.shape[1])


def conv_abn(inp: int, out: int, kernel: int, slope: float | None) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inp, out, kernel, padding=kernel // 2, bias=False), InplaceAbn(out, slope))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class TResNetBlock(nn.Module):
    def __init__(self, inp: int, planes: int, stride: int, bottleneck: bool, se: bool) -> None:
        super().__init__()
        out = planes * (4 if bottleneck else 1)
        self.bottleneck = bottleneck
        spatial = conv_abn(planes if bottleneck else inp, planes, 3, 1e-3)
        spatial = spatial if stride == 1 else nn.Sequential(spatial, Blur())
        if bottleneck:
            self.conv1 = conv_abn(inp, planes, 1, 1e-3)
            self.conv2 = spatial
            self.conv3 = conv_abn(planes, out, 1, None)
        else:
            self.conv1 = spatial
            self.conv2 = conv_abn(planes, planes, 3, None)
        squeezed = max(planes * 4 // 8, 64) if bottleneck else max(planes // 4, 64)
        self.se = SqueezeExcite(planes, squeezed) if se else None
        self.downsample = None
        if stride == 2 or inp != out:
            pool = [nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)] if stride == 2 else []
            self.downsample = nn.Sequential(*pool, conv_abn(inp, out, 1, None))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.conv2(self.conv1(x))
        y = y if self.se is None else self.se(y)
        y = self.conv3(y) if self.bottleneck else y
        return (y + shortcut).relu()


class TResNet(nn.Module):
    """layers: blocks per stage; bottleneck: whether the first two stages are bottlenecks (V2-L) or not (M)."""

    def __init__(self, layers: tuple[int, ...], bottleneck: bool, num_classes: int) -> None:
        super().__init__()
        stages: OrderedDict[str, nn.Module] = OrderedDict(conv1=conv_abn(48, 64, 3, 1e-2))
        inp = 64
        for i, depth in enumerate(layers):
            planes, wide = 64 * 2**i, bottleneck or i >= 2
            blocks = []
            for j in range(depth):
                blocks.append(TResNetBlock(inp, planes, 2 if i and not j else 1, wide, se=i < 3))
                inp = planes * (4 if wide else 1)
            stages[f"layer{i + 1}"] = nn.Sequential(*blocks)
        self.body = nn.Sequential(stages)
        self.head = nn.Sequential(OrderedDict(fc=nn.Linear(inp, num_classes)))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 3, 5, 1, 2, 4).reshape(n, c * 16, h // 4, w // 4)
        return self.head(self.body(x).mean((2, 3)))


# Kernel, expansion, channels in, channels out, stride, squeeze-and-excite, ReLU: the 20 blocks of OFA-595.
OFA_BLOCKS = [
    (3, 1, 24, 24, 1, 0, 1), (3, 3, 24, 32, 2, 0, 1), (5, 4, 32, 32, 1, 0, 1), (3, 3, 32, 32, 1, 0, 1),
    (5, 4, 32, 48, 2, 1, 1), (5, 4, 48, 48, 1, 1, 1), (3, 6, 48, 48, 1, 1, 1), (5, 3, 48, 48, 1, 1, 1),
    (7, 6, 48, 96, 2, 0, 0), (5, 6, 96, 96, 1, 0, 0), (3, 3, 96, 96, 1, 0, 0), (5, 4, 96, 96, 1, 0, 0),
    (3, 6, 96, 136, 1, 1, 0), (5, 6, 136, 136, 1, 1, 0), (7, 6, 136, 136, 1, 1, 0), (3, 4, 136, 136, 1, 1, 0),
    (3, 6, 136, 192, 2, 1, 0), (3, 6, 192, 192, 1, 1, 0), (5, 6, 192, 192, 1, 1, 0), (3, 3, 192, 192, 1, 1, 0),
]  # fmt: skip
OFA_SQUEEZED = {128: 32, 192: 48, 288: 72, 144: 40, 576: 144, 816: 208, 544: 136, 1152: 288}


def conv_bn(inp: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(out)))


class OfaBlock(nn.Module):
    def __init__(self, row: tuple[int, ...]) -> None:
        super().__init__()
        kernel, expand, inp, out, stride, se, relu = row
        mid = inp * expand
        self.inverted_bottleneck = conv_bn(inp, mid, 1) if expand > 1 else None
        self.depth_conv = conv_bn(mid, mid, kernel, stride, groups=mid)
        if se:
            layers = OrderedDict(
                reduce=nn.Conv2d(mid, OFA_SQUEEZED[mid], 1), expand=nn.Conv2d(OFA_SQUEEZED[mid], mid, 1)
            )
            self.depth_conv.add_module("se", nn.Sequential(OrderedDict(fc=nn.Sequential(layers))))
        self.point_linear = conv_bn(mid, out, 1)
        self.act = F.relu if relu else F.silu
        self.shortcut = stride == 1 and inp == out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.inverted_bottleneck is None else self.act(self.inverted_bottleneck(x))
        y = self.act(self.depth_conv.bn(self.depth_conv.conv(y)))
        if hasattr(self.depth_conv, "se"):
            fc = self.depth_conv.se.fc
            y = y * fc.expand(fc.reduce(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        y = self.point_linear(y)
        return x + y if self.shortcut else y


class Ofa595(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first_conv = conv_bn(3, 24, 3, 2)
        holders = [nn.Sequential(OrderedDict(mobile_inverted_conv=OfaBlock(row))) for row in OFA_BLOCKS]
        self.blocks = nn.Sequential(*holders)
        self.final_expand_layer = conv_bn(192, 1152, 1)
        self.feature_mix_layer = nn.Sequential(OrderedDict(conv=nn.Conv2d(1152, 1536, 1, bias=False)))
        self.classifier = nn.Sequential(OrderedDict(linear=nn.Conv2d(1536, num_classes, 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.silu(self.first_conv(x)))
        x = F.silu(self.final_expand_layer(x)).mean((2, 3), keepdim=True)
        return self.classifier(F.silu(self.feature_mix_layer(x))).flatten(1)


BIT_R50 = (3, 4, 6, 3)


def bit_arrays(num_classes: int, seed: int) -> dict[str, np.ndarray]:
    """Return a random BiT-R50x1 as Google's archive stores it: kernels HWIO, names with slashes."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}

    def kernel(name: str, size: int, inp: int, out: int) -> None:
        arrays[f"resnet/{name}/kernel"] = rng.normal(size=(size, size, inp, out)).astype(np.float32) / (inp * size)

    def norm(name: str, channels: int) -> None:
        arrays[f"resnet/{name}/gamma"] = rng.uniform(0.5, 1.5, channels).astype(np.float32)
        arrays[f"resnet/{name}/beta"] = rng.normal(scale=0.1, size=channels).astype(np.float32)

    kernel("root_block/standardized_conv2d", 7, 3, 64)
    inp = 64
    for b, units in enumerate(BIT_R50):
        mid = 64 * 2**b
        for u in range(units):
            unit = f"block{b + 1}/unit{u + 1:02d}"
            for part, size, i, o in (("a", 1, inp, mid), ("b", 3, mid, mid), ("c", 1, mid, 4 * mid)):
                kernel(f"{unit}/{part}/standardized_conv2d", size, i, o)
                norm(f"{unit}/{part}/group_norm", i)
            if u == 0:
                kernel(f"{unit}/a/proj/standardized_conv2d", 1, inp, 4 * mid)
            inp = 4 * mid
    norm("group_norm", inp)
    kernel("head/conv2d", 1, inp, num_classes)
    arrays["resnet/head/conv2d/bias"] = rng.normal(size=num_classes).astype(np.float32)
    return arrays


def bit_forward(arrays: dict[str, np.ndarray], x: Tensor) -> Tensor:
    """Return the logits of the BiT-ResNet (pre-activation, standardised kernels, 32 groups) whose arrays are given."""

    def conv(x: Tensor, name: str, stride: int = 1, standardise: bool = True) -> Tensor:
        w = torch.from_numpy(arrays[f"resnet/{name}/kernel"]).permute(3, 2, 0, 1)
        if standardise:
            var, mean = torch.var_mean(w, dim=(1, 2, 3), keepdim=True, unbiased=False)
            w = (w - mean) / torch.sqrt(var + 1e-10)
        return F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2)

    def norm(x: Tensor, name: str) -> Tensor:
        gamma, beta = (torch.from_numpy(arrays[f"resnet/{name}/{part}"]) for part in ("gamma", "beta"))
        return F.group_norm(x, 32, gamma, beta).relu()

    x = F.max_pool2d(F.pad(conv(x, "root_block/standardized_conv2d", 2), (1, 1, 1, 1)), 3, 2)
    for b, units in enumerate(BIT_R50):
        for u in range(units):
            unit, stride = f"block{b + 1}/unit{u + 1:02d}", 2 if b and not u else 1
            y = norm(x, f"{unit}/a/group_norm")
            shortcut = x if u else conv(y, f"{unit}/a/proj/standardized_conv2d", stride)
            y = conv(y, f"{unit}/a/standardized_conv2d")
            y = conv(norm(y, f"{unit}/b/group_norm"), f"{unit}/b/standardized_conv2d", stride)
            x = shortcut + conv(norm(y, f"{unit}/c/group_norm"), f"{unit}/c/standardized_conv2d")
    x = norm(x, "group_norm").mean((2, 3), keepdim=True)
    bias = torch.from_numpy(arrays["resnet/head/conv2d/bias"])
    return conv(x, "head/conv2d", standardise=False).flatten(1) + bias
