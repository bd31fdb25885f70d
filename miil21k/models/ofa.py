"""OFA-595: the once-for-all sub-network that MIIL trained on ImageNet-21K-P, as a timm MobileNetV3.

Importing this module makes `ofa_flops_595m_s` known to `timm.create_model`. The blocks are those of the
configuration `flops@595M_top1@80.0_finetune@75` (arXiv 1908.09791); MIIL replaced its hard-swish by
x * sigmoid(x) and the hard-sigmoid of its squeeze-and-excite by sigmoid.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["from_once_for_all", "is_once_for_all", "ofa_flops_595m_s"]

# One string per block: kernel k, stride s, expansion e, output channels c, squeeze-and-excite se, ReLU instead of
# swish nre. One list per stage.
STAGES = [
    ["ds_r1_k3_s1_e1_c24_nre"],
    ["ir_r1_k3_s2_e3_c32_nre", "ir_r1_k5_s1_e4_c32_nre", "ir_r1_k3_s1_e3_c32_nre"],
    [
        "ir_r1_k5_s2_e4_c48_se0.25_nre",
        "ir_r1_k5_s1_e4_c48_se0.25_nre",
        "ir_r1_k3_s1_e6_c48_se0.25_nre",
        "ir_r1_k5_s1_e3_c48_se0.25_nre",
    ],
    ["ir_r1_k7_s2_e6_c96", "ir_r1_k5_s1_e6_c96", "ir_r1_k3_s1_e3_c96", "ir_r1_k5_s1_e4_c96"],
    [
        "ir_r1_k3_s1_e6_c136_se0.25",
        "ir_r1_k5_s1_e6_c136_se0.25",
        "ir_r1_k7_s1_e6_c136_se0.25",
        "ir_r1_k3_s1_e4_c136_se0.25",
    ],
    [
        "ir_r1_k3_s2_e6_c192_se0.25",
        "ir_r1_k3_s1_e6_c192_se0.25",
        "ir_r1_k5_s1_e6_c192_se0.25",
        "ir_r1_k3_s1_e3_c192_se0.25",
    ],
    ["cn_r1_k1_s1_c1152"],
]

default_cfgs = generate_default_cfgs(
    {"ofa_flops_595m_s": {"first_conv": "conv_stem", "classifier": "classifier", "pool_size": (7, 7)}}
)

_FIXED = {
    "first_conv.conv": "conv_stem",
    "first_conv.bn": "bn1",
    "final_expand_layer.conv": "blocks.6.0.conv",
    "final_expand_layer.bn": "blocks.6.0.bn1",
    "feature_mix_layer.conv": "conv_head",
    "classifier.linear": "classifier",
}
_PARTS = {
    "inverted_bottleneck.conv": "conv_pw",
    "inverted_bottleneck.bn": "bn1",
    "depth_conv.conv": "conv_dw",
    "depth_conv.bn": "bn2",
    "depth_conv.se.fc.reduce": "se.conv_reduce",
    "depth_conv.se.fc.expand": "se.conv_expand",
    "point_linear.conv": "conv_pwl",
    "point_linear.bn": "bn3",
}
# The first block expands nothing: timm calls its two convolutions by other names.
_FIRST_PARTS = _PARTS | {"depth_conv.bn": "bn1", "point_linear.conv": "conv_pw", "point_linear.bn": "bn2"}
_BLOCK = re.compile(r"blocks\.(\d+)\.mobile_inverted_conv\.(.+)")


@register_model  # type: ignore[untyped-decorator]
def ofa_flops_595m_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Return the network, 7.6 million parameters without its classifier; `kwargs` are those of timm's MobileNetV3.

    `features_only=True` returns the stages as timm does it elsewhere.
    """
    squeeze = partial(SqueezeExcite, gate_layer="sigmoid", force_act_layer=nn.ReLU, rd_round_fn=round_channels)
    model: nn.Module = build_model_with_cfg(
        MobileNetV3,
        "ofa_flops_595m_s",
        pretrained,
        pretrained_filter_fn=_filter,
        feature_cfg={"out_indices": (0, 1, 2, 3, 4), "feature_cls": "getter"},
        block_args=decode_arch_def(STAGES),
        num_features=1536,
        stem_size=24,
        fix_stem=True,
        head_bias=False,
        act_layer=nn.SiLU,
        se_layer=squeeze,
        **kwargs,
    )
    return model


def is_once_for_all(keys: Mapping[str, Tensor]) -> bool:
    """Return whether the tensors carry the names of the once-for-all code."""
    return "first_conv.conv.weight" in keys


def from_once_for_all(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under timm's names; the 1x1 convolution of the classifier becomes a matrix."""
    places = [f"blocks.{s}.{b}" for s, stage in enumerate(STAGES[:-1]) for b in range(len(stage))]
    renamed = {_rename(key, places): tensor for key, tensor in state_dict.items()}
    weight = renamed.get("classifier.weight")
    if weight is not None:
        renamed["classifier.weight"] = weight.flatten(1)
    return renamed


def _rename(key: str, places: list[str]) -> str:
    module, _, leaf = key.rpartition(".")
    block = _BLOCK.fullmatch(module)
    if block and int(block[1]) < len(places):
        parts = _FIRST_PARTS if block[1] == "0" else _PARTS
        return f"{places[int(block[1])]}.{parts.get(block[2], block[2])}.{leaf}"
    return f"{_FIXED.get(module, module)}.{leaf}"


def _filter(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Do for timm's own loader what the zoo does: unwrap MIIL's file and rename its tensors."""
    del model
    tensors = state_dict.get("state_dict", state_dict)
    return from_once_for_all(tensors) if is_once_for_all(tensors) else dict(tensors)
