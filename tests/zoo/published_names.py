"""From timm's tensor names to those of each published layout: the inverse of the adapters, written apart from them.

Each function takes and returns a mapping of names to tensors; tensors on the meta device pass as well.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

State = dict[str, "Tensor"]
EFFICIENTNET_LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)
OFA_STAGES = (1, 3, 4, 4, 4, 4)


def _flat(stages: tuple[int, ...]) -> dict[str, int]:
    """Map 'stage.block' of timm to the running number of the block."""
    places = [f"{s}.{b}" for s, depth in enumerate(stages) for b in range(depth)]
    return {place: i for i, place in enumerate(places)}


def inplace_abn(state: State) -> State:
    old: State = {}
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        part = re.fullmatch(r"(.*\.(?:conv\d|downsample\.\d))\.(conv|bn)\.(\w+)", key)
        if part is None:
            old[key] = tensor
            continue
        # A 3x3 convolution that subsamples sits one level deeper, beside its blur filter.
        block, name = part[1].rpartition(".")[0], part[1].rpartition(".")[2]
        first = re.fullmatch(r"body\.layer[234]\.0", block)
        bottleneck = f"{block}.conv3.conv.weight" in state
        blurred = first and name == ("conv2" if bottleneck else "conv1")
        nested = ".0" if blurred else ""
        old[f"{part[1]}{nested}.{0 if part[2] == 'conv' else 1}.{part[3]}"] = (
            tensor - 1e-5 if part[2] == "bn" and part[3] == "weight" else tensor
        )
    return old


def once_for_all(state: State) -> State:
    flat, old = _flat(OFA_STAGES), {}
    parts = {
        "conv_pw": "inverted_bottleneck.conv", "bn1": "inverted_bottleneck.bn", "conv_dw": "depth_conv.conv",
        "bn2": "depth_conv.bn", "se.conv_reduce": "depth_conv.se.fc.reduce",
        "se.conv_expand": "depth_conv.se.fc.expand", "conv_pwl": "point_linear.conv", "bn3": "point_linear.bn",
    }  # fmt: skip
    first = {
        "conv_dw": "depth_conv.conv",
        "bn1": "depth_conv.bn",
        "conv_pw": "point_linear.conv",
        "bn2": "point_linear.bn",
    }
    fixed = {
        "conv_stem": "first_conv.conv", "bn1": "first_conv.bn", "blocks.6.0.conv": "final_expand_layer.conv",
        "blocks.6.0.bn1": "final_expand_layer.bn", "conv_head": "feature_mix_layer.conv",
        "classifier": "classifier.linear",
    }  # fmt: skip
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        block = re.fullmatch(r"blocks\.([0-5]\.\d)\.(.+)", module)
        if block:
            number = flat[block[1]]
            module = f"blocks.{number}.mobile_inverted_conv.{(parts if number else first)[block[2]]}"
        else:
            module = fixed[module]
        old[f"{module}.{leaf}"] = tensor[:, :, None, None] if key == "classifier.weight" else tensor
    return old


def bit_archive(state: State) -> State:
    fixed = {
        "stem.conv.weight": "root_block/standardized_conv2d/kernel", "norm.weight": "group_norm/gamma",
        "norm.bias": "group_norm/beta", "head.fc.weight": "head/conv2d/kernel", "head.fc.bias": "head/conv2d/bias",
    }  # fmt: skip
    leaves = {
        "conv.weight": "standardized_conv2d/kernel",
        "norm.weight": "group_norm/gamma",
        "norm.bias": "group_norm/beta",
    }
    old = {}
    for key, tensor in state.items():
        unit = re.fullmatch(r"stages\.(\d)\.blocks\.(\d+)\.(.+)", key)
        if unit is None:
            name = fixed[key]
        elif unit[3] == "downsample.conv.weight":
            name = f"block{int(unit[1]) + 1}/unit{int(unit[2]) + 1:02d}/a/proj/standardized_conv2d/kernel"
        else:
            kind, number, leaf = re.fullmatch(r"(conv|norm)(\d)\.(\w+)", unit[3]).groups()
            part = leaves[f"{kind}.{leaf}"]
            name = f"block{int(unit[1]) + 1}/unit{int(unit[2]) + 1:02d}/{'abc'[int(number) - 1]}/{part}"
        old[f"resnet/{name}"] = tensor.permute(2, 3, 1, 0).contiguous() if tensor.ndim == 4 else tensor
    return old


def levit(state: State) -> State:
    """Names that only resemble the fork's: the adapter goes by position, as timm's order is the fork's."""
    old: State = {}
    for number, (key, tensor) in enumerate(state.items()):
        old["patch_embed.0.c.weight" if number == 0 else f"blocks.{number}.{key.rpartition('.')[2]}"] = tensor
        if key.endswith("attention_biases"):
            old[f"blocks.{number}.attention_bias_idxs"] = tensor
    return old


def edgenext(state: State) -> State:
    old = {}
    for key, tensor in state.items():
        name = re.sub(r"^head\.fc\.", "head.", re.sub(r"^head\.norm\.", "norm.", key))
        name = re.sub(r"^stem\.", "downsample_layers.0.", name)
        name = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
        name = re.sub(r"^(stages\.\d)\.blocks\.", r"\1.", name)
        old[name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")] = tensor
    return old


def efficientnet_pytorch(state: State) -> State:
    flat, old = _flat(EFFICIENTNET_LITE0_STAGES), {}
    fixed = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    full = {
        "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
        "conv_pwl": "_project_conv", "bn3": "_bn2",
    }  # fmt: skip
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        block = re.fullmatch(r"blocks\.(\d\.\d)\.(\w+)", module)
        if block:
            number = flat[block[1]]
            module = f"_blocks.{number}.{(full if number else first)[block[2]]}"
        else:
            module = fixed[module]
        old[f"{module}.{leaf}"] = tensor
    return old


PUBLISHED: dict[str, Callable[[State], State]] = {
    "timm": dict,
    "torchvision": dict,
    "tresnet_inplace_abn": inplace_abn,
    "ofa": once_for_all,
    "bit_npz": bit_archive,
    "levit_usi": levit,
    "edgenext": edgenext,
    "efficientnet_pytorch": efficientnet_pytorch,
}
