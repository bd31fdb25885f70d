"""LeViT-384, EdgeNeXt-S and ViT-B/16 as their own repositories name and compute them, restated without timm."""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name


class ConvNorm(nn.Module):
    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.c = nn.Conv2d(inp, out, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.c(x))


class LinearNorm(nn.Module):
    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.c = nn.Linear(inp, out, bias=False)
        self.bn = nn.BatchNorm1d(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.c(x).flatten(0, 1)).view(*x.shape[:2], -1)


class Residual(nn.Module):
    def __init__(self, m: nn.Module) -> None:
        super().__init__()
        self.m = m

    def forward(self, x: Tensor) -> Tensor:
        return x + self.m(x)


def bias_indices(queries: int, keys: int, stride: int) -> Tensor:
    """Return int64 [queries^2, keys^2]: which bias belongs to a query cell and a key cell, by |dx| and |dy|."""
    rows = [
        [abs(a * stride - c) * keys + abs(b * stride - d) for c, d in product(range(keys), repeat=2)]
        for a, b in product(range(queries), repeat=2)
    ]
    return torch.tensor(rows)


class LevitAttention(nn.Module):
    """Attention with a bias per relative offset; `out` set: the queries are every second cell (subsampling)."""

    def __init__(self, dim: int, heads: int, resolution: int, out: int | None = None) -> None:
        super().__init__()
        self.heads, self.key, self.value, self.resolution = heads, 32, 32 * (4 if out else 2), resolution
        self.subsample = out is not None
        if out:
            self.kv = LinearNorm(dim, heads * (self.key + self.value))
            self.q = nn.Sequential(nn.Identity(), LinearNorm(dim, heads * self.key))
        else:
            self.qkv = LinearNorm(dim, heads * (2 * self.key + self.value))
        self.proj = nn.Sequential(nn.Hardswish(), LinearNorm(heads * self.value, out or dim))
        self.attention_biases = nn.Parameter(torch.randn(heads, resolution**2))
        queries = (resolution - 1) // 2 + 1 if out else resolution
        self.register_buffer("attention_bias_idxs", bias_indices(queries, resolution, 2 if out else 1))

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        if self.subsample:
            grid = x.view(n, self.resolution, self.resolution, -1)[:, ::2, ::2].flatten(1, 2)
            q = self.q(grid).view(n, -1, self.heads, self.key)
            k, v = self.kv(x).view(n, -1, self.heads, self.key + self.value).split([self.key, self.value], -1)
        else:
            sizes = [self.key, self.key, self.value]
            q, k, v = self.qkv(x).view(n, -1, self.heads, sum(sizes)).split(sizes, -1)
        scores = torch.einsum("nqhd,nkhd->nhqk", q, k) / math.sqrt(self.key)
        weights = (scores + self.attention_biases[:, self.attention_bias_idxs]).softmax(-1)
        return self.proj(torch.einsum("nhqk,nkhd->nqhd", weights, v).flatten(2))


def levit_mlp(dim: int) -> Residual:
    return Residual(nn.Sequential(LinearNorm(dim, 2 * dim), nn.Hardswish(), LinearNorm(2 * dim, dim)))


class Levit384(nn.Module):
    """LeViT-384 for 224x224 pixels, under the names of the USI fork."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        widths = (3, 48, 96, 192, 384)
        stem: list[nn.Module] = []
        for i in range(4):
            stem += [ConvNorm(widths[i], widths[i + 1]), nn.Hardswish()]
        self.patch_embed = nn.Sequential(*stem[:-1])
        blocks: list[nn.Module] = []
        dims, heads, resolution = (384, 512, 768), (6, 9, 12), 14
        for i, dim in enumerate(dims):
            for _ in range(4):
                blocks += [Residual(LevitAttention(dim, heads[i], resolution)), levit_mlp(dim)]
            if i < 2:
                blocks += [LevitAttention(dim, dim // 32, resolution, dims[i + 1]), levit_mlp(dims[i + 1])]
                resolution = (resolution - 1) // 2 + 1
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(OrderedDict(bn=nn.BatchNorm1d(768), l=nn.Linear(768, num_classes)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patch_embed(x).flatten(2).transpose(1, 2)).mean(1))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class EdgeMlp(nn.Module):
    """What both EdgeNeXt blocks end with: norm, expand by 4, GELU, shrink, layer scale, shortcut."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.randn(dim))

    def mix(self, x: Tensor, shortcut: Tensor) -> Tensor:
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(x.permute(0, 2, 3, 1)))))
        return shortcut + (self.gamma * y).permute(0, 3, 1, 2)


class ConvEncoder(EdgeMlp):
    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__(dim)
        self.dwconv = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.dwconv(x), x)


class FourierPosition(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.token_projection = nn.Conv2d(64, dim, 1)

    def forward(self, height: int, width: int) -> Tensor:
        y = torch.arange(1, height + 1).float() / (height + 1e-6) * 2 * math.pi
        x = torch.arange(1, width + 1).float() / (width + 1e-6) * 2 * math.pi
        period = 10000 ** (2 * torch.div(torch.arange(32), 2, rounding_mode="floor") / 32)
        waves = []
        for along in (y[:, None].expand(height, width), x[None].expand(height, width)):
            phase = along[..., None] / period
            waves.append(torch.stack((phase[..., 0::2].sin(), phase[..., 1::2].cos()), -1).flatten(-2))
        return self.token_projection(torch.cat(waves, -1).permute(2, 0, 1)[None])


class CrossCovariance(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(1 + torch.rand(8, 1, 1))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, 8, dim // 8).permute(2, 0, 3, 4, 1)
        weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature).softmax(-1)
        return self.proj((weights @ v).permute(0, 3, 1, 2).reshape(n, tokens, dim))


class SdtaEncoder(EdgeMlp):
    """Split depth-wise transpose attention."""

    def __init__(self, dim: int, scales: int, position: bool) -> None:
        super().__init__(dim)
        self.width = math.ceil(dim / scales)
        convs = [nn.Conv2d(self.width, self.width, 3, padding=1, groups=self.width) for _ in range(scales - 1)]
        self.convs = nn.ModuleList(convs)
        self.pos_embd = FourierPosition(dim) if position else None
        self.norm_xca = nn.LayerNorm(dim, eps=1e-6)
        self.gamma_xca = nn.Parameter(torch.randn(dim))
        self.xca = CrossCovariance(dim)

    def forward(self, x: Tensor) -> Tensor:
        n, dim, height, width = x.shape
        *parts, last = x.split(self.width, 1)
        done: list[Tensor] = []
        for conv, part in zip(self.convs, parts, strict=True):
            done.append(conv(part + done[-1] if done else part))
        y = torch.cat([*done, last], 1)
        if self.pos_embd is not None:
            y = y + self.pos_embd(height, width)
        tokens = y.flatten(2).transpose(1, 2)
        tokens = tokens + self.gamma_xca * self.xca(self.norm_xca(tokens))
        return self.mix(tokens.transpose(1, 2).view(n, dim, height, width), x)


class EdgeNextSmall(nn.Module):
    """EdgeNeXt-S under the names of its repository."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        dims, depths, kernels, scales = (48, 96, 160, 304), (3, 3, 9, 3), (3, 5, 7, 9), (2, 2, 3, 4)
        down: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), ChannelNorm(dims[0], eps=1e-6))]
        stages = []
        for i, dim in enumerate(dims):
            if i:
                down.append(nn.Sequential(ChannelNorm(dims[i - 1], eps=1e-6), nn.Conv2d(dims[i - 1], dim, 2, 2)))
            blocks: list[nn.Module] = [ConvEncoder(dim, kernels[i]) for _ in range(depths[i])]
            if i:
                blocks[-1] = SdtaEncoder(dim, scales[i], position=i == 1)
            stages.append(nn.Sequential(*blocks))
        self.downsample_layers = nn.ModuleList(down)
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head = nn.Linear(dims[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
        return self.head(self.norm(x.mean((2, 3))))


class VitBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim, bias=False), "proj": nn.Linear(dim, dim)})
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(OrderedDict(fc1=nn.Linear(dim, 4 * dim), act=nn.GELU(), fc2=nn.Linear(4 * dim, dim)))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).view(n, tokens, 3, 12, 64).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1) / 8).softmax(-1) @ v
        x = x + self.attn["proj"](mixed.transpose(1, 2).reshape(n, tokens, dim))
        return x + self.mlp(self.norm2(x))


class VitBase(nn.Module):
    """ViT-B/16 at 224 without qkv bias and without a representation layer, as MIIL trained it."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 768))
        self.pos_embed = nn.Parameter(torch.randn(1, 197, 768))
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, 768, 16, 16)))
        self.blocks = nn.Sequential(*[VitBlock(768) for _ in range(12)])
        self.norm = nn.LayerNorm(768, eps=1e-6)
        self.head = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.cls_token.expand(len(x), -1, -1), tokens), 1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])
