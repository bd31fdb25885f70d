"""Key adapters: tensors under the names of a published layout become tensors under timm's names. Pure functions.

Every adapter recognises its layout by a tensor name that only this layout has, so tensors that already carry
timm's names pass unchanged and nothing is converted twice (InPlace-ABN weights would grow by their eps).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from miil21k.models.ofa import from_once_for_all, is_once_for_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import torch
    from torch import Tensor

    StateDict = Mapping[str, Tensor]
    # Names and shapes of the model that the tensors are meant for, in its own order.
    Template = Mapping[str, torch.Size]

__all__ = ["LAYOUTS", "KeyLayout", "adapt", "foreign_prefix", "unwrapped"]

# Modules that training puts around a network, whose names then stand before those of all tensors: data-parallel
# training, Lightning and others, detectors and segmenters.
_WRAPPERS = ("module.", "model.", "backbone.")
# What torch.compile puts around a network or any part of it.
_COMPILED = "_orig_mod."

# InPlace-ABN normalises with |weight| + eps (mapillary/inplace_abn); BatchNorm takes the weight as it is.
INPLACE_ABN_EPS = 1e-5


@dataclass(frozen=True)
class KeyLayout:
    """One published naming of tensors: how to recognise it, and how to turn it into timm's."""

    recognise: Callable[[StateDict], bool]
    convert: Callable[[StateDict, Template], dict[str, Tensor]]


def adapt(state_dict: StateDict, layouts: Iterable[str], template: Template) -> dict[str, Tensor]:
    """Return the tensors under the model's names.

    layouts: names of the layouts in which these weights were published; the first that recognises the tensors
    converts them, and tensors that none recognises are returned as they are.
    """
    for name in layouts:
        layout = LAYOUTS[name]
        if layout.recognise(state_dict):
            return layout.convert(state_dict, template)
    return dict(state_dict)


def unwrapped(state_dict: StateDict, template: Template) -> dict[str, Tensor]:
    """Return the tensors without the names of the wrappers around the network, however many there are.

    A wrapper's name stays where the model that the tensors are meant for has a part of that name.
    """
    found = {key.replace(_COMPILED, ""): tensor for key, tensor in state_dict.items()}
    while (prefix := next((p for p in _WRAPPERS if found and all(k.startswith(p) for k in found)), None)) is not None:
        if any(key.startswith(prefix) for key in template):
            break
        found = {key.removeprefix(prefix): tensor for key, tensor in found.items()}
    return found


def foreign_prefix(state_dict: StateDict, template: Template) -> str | None:
    """Return what all names begin with, up to a dot, when it is more than one name and none of the model's does."""
    first = {key.partition(".")[0] for key in state_dict}
    prefix = f"{next(iter(first))}." if len(first) == 1 and len(state_dict) > 1 else ""
    return prefix if prefix and not any(key.startswith(prefix) for key in template) else None


def _from_inplace_abn(state_dict: StateDict, template: Template) -> dict[str, Tensor]:
    """Rename TResNet's nested Sequentials and replace each InPlace-ABN weight w by |w| + eps."""
    del template
    converted = {}
    for key, tensor in state_dict.items():
        if key.endswith(".op.filt") and _is_the_blur(tensor):
            continue  # kept by the variant without TorchScript; every model computes it anew
        # conv1.0.0 is a convolution followed by anti-aliasing, conv1.0 one without.
        name = re.sub(r"\b(conv\d+|downsample\.\d+)(?:\.0)?\.0\.(?=\w+$)", r"\1.conv.", key)
        name = re.sub(r"\b(conv\d+|downsample\.\d+)(?:\.0)?\.1\.(?=\w+$)", r"\1.bn.", name)
        converted[name] = tensor.abs() + INPLACE_ABN_EPS if name.endswith("bn.weight") else tensor
    return converted


def _is_the_blur(tensor: Tensor) -> bool:
    """Return whether this is the filter (1, 2, 1) / 4 in both directions, for every channel."""
    line = tensor.new_tensor([0.25, 0.5, 0.25])
    return tensor.shape[1:] == (1, 3, 3) and bool(((tensor - line[:, None] * line).abs() < 1e-6).all())


def _from_big_transfer(state_dict: StateDict, template: Template) -> dict[str, Tensor]:
    """Rename the arrays of BiT's NumPy archives and turn their kernels from HWIO into OIHW."""
    del template
    return {_bit_name(key): t.permute(3, 2, 0, 1) if t.ndim == 4 else t for key, t in state_dict.items()}


_BIT_FIXED = {
    "root_block/standardized_conv2d/kernel": "stem.conv.weight",
    "group_norm/gamma": "norm.weight",
    "group_norm/beta": "norm.bias",
    "head/conv2d/kernel": "head.fc.weight",
    "head/conv2d/bias": "head.fc.bias",
}
_BIT_LEAVES = {
    "standardized_conv2d/kernel": "conv{}.weight",
    "group_norm/gamma": "norm{}.weight",
    "group_norm/beta": "norm{}.bias",
}
_BIT_UNIT = re.compile(r"block(\d+)/unit(\d+)/(?:([abc])/(?!proj)(.+)|a/proj/standardized_conv2d/kernel)")


def _bit_name(key: str) -> str:
    inner = key.removeprefix("resnet/")
    unit = _BIT_UNIT.fullmatch(inner)
    if unit is None:
        return _BIT_FIXED.get(inner, key)
    block = f"stages.{int(unit[1]) - 1}.blocks.{int(unit[2]) - 1}"
    if unit[3] is None:
        return f"{block}.downsample.conv.weight"
    leaf = _BIT_LEAVES.get(unit[4])
    return f"{block}.{leaf.format('abc'.index(unit[3]) + 1)}" if leaf else key


def _from_levit(state_dict: StateDict, template: Template) -> dict[str, Tensor]:
    """Take the tensors over by position: without its index buffers LeViT stores them in timm's order."""
    kept = [(key, tensor) for key, tensor in state_dict.items() if "attention_bias_idxs" not in key]
    if len(kept) != len(template):
        return dict(kept)
    return {name: tensor for name, (_, tensor) in zip(template, kept, strict=True)}


def _from_edgenext(state_dict: StateDict, template: Template) -> dict[str, Tensor]:
    """Rename the modules of the EdgeNeXt repository; its 1x1 layers may be matrices instead of kernels."""
    converted = {}
    for key, tensor in state_dict.items():
        name = re.sub(r"^downsample_layers\.0\.", "stem.", key)
        name = re.sub(r"^downsample_layers\.(\d)\.", r"stages.\1.downsample.", name)
        name = re.sub(r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2.", name)
        name = name.replace(".dwconv.", ".conv_dw.").replace(".pwconv", ".mlp.fc")
        name = re.sub(r"^norm\.", "head.norm.", re.sub(r"^head\.", "head.fc.", name))
        shape = template.get(name)
        same_size = shape is not None and shape.numel() == tensor.numel()
        converted[name] = tensor.reshape(shape) if shape is not None and same_size else tensor
    return converted


_EFFICIENTNET_FIXED = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_EFFICIENTNET_PARTS = {"_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pwl"}


def _from_efficientnet_pytorch(state_dict: StateDict, template: Template) -> dict[str, Tensor]:
    """Rename the flat `_blocks.N` of the first PyTorch EfficientNet to timm's stages."""
    places = list(dict.fromkeys(m[0] for key in template if (m := re.match(r"blocks\.\d+\.\d+", key))))
    converted = {}
    for key, tensor in state_dict.items():
        module, _, leaf = key.rpartition(".")
        block = re.fullmatch(r"_blocks\.(\d+)\.(_\w+)", module)
        if block and int(block[1]) < len(places):
            expands = f"_blocks.{block[1]}._expand_conv.weight" in state_dict
            module = f"{places[int(block[1])]}.{_efficientnet_part(block[2], expands)}"
        elif module == "_fc":
            module = "classifier"
        converted[f"{_EFFICIENTNET_FIXED.get(module, module)}.{leaf}"] = tensor
    return converted


def _efficientnet_part(part: str, expands: bool) -> str:
    """Return timm's name of a layer; a block that does not expand starts at its depthwise convolution."""
    if part.startswith("_bn"):
        return f"bn{int(part[3:]) + expands}"
    return "conv_pw" if part == "_project_conv" and not expands else _EFFICIENTNET_PARTS.get(part, part)


def _has(key: str) -> Callable[[StateDict], bool]:
    return lambda state_dict: key in state_dict


LAYOUTS: Mapping[str, KeyLayout] = {
    "timm": KeyLayout(lambda _: False, lambda state_dict, _: dict(state_dict)),
    "torchvision": KeyLayout(lambda _: False, lambda state_dict, _: dict(state_dict)),  # ResNet names equal timm's
    "tresnet_inplace_abn": KeyLayout(_has("body.conv1.0.weight"), _from_inplace_abn),
    "ofa": KeyLayout(is_once_for_all, lambda state_dict, _: from_once_for_all(state_dict)),
    "bit_npz": KeyLayout(_has("resnet/root_block/standardized_conv2d/kernel"), _from_big_transfer),
    "levit_usi": KeyLayout(_has("patch_embed.0.c.weight"), _from_levit),
    "edgenext": KeyLayout(_has("downsample_layers.0.0.weight"), _from_edgenext),
    "efficientnet_pytorch": KeyLayout(_has("_conv_stem.weight"), _from_efficientnet_pytorch),
}
