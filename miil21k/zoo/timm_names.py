"""What importing this module adds to timm: an architecture, two tags, old names.

`timm.create_model` then answers for `ofa_flops_595m_s`, for the tags `resnet50.miil_in21k` and
`ofa_flops_595m_s.miil_in21k`, and for `<architecture>_miil_in21k` of all seven 21K backbones. The names with an
underscore load weights through this package (`pretrained=True`); the tags only configure the network, because
timm's own loader cannot read the published ResNet-50 file.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from timm.models import _registry as timm_registry
from timm.models import is_model, register_model

from miil21k.zoo.manifest import load_manifest
from miil21k.zoo.registry import create_model
from miil21k.zoo.schema import SECOND_NAMES
from miil21k.zoo.timm_config import timm_cfg

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from miil21k.zoo.manifest import Weights

default_cfgs: dict[str, dict[str, Any]] = {}  # where timm's decorator looks for the configuration of a name


def _entrypoint(name: str, weights: Weights) -> Callable[..., nn.Module]:
    def entrypoint(
        pretrained: bool = False,
        pretrained_cfg: object = None,
        pretrained_cfg_overlay: object = None,
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        del pretrained_cfg, pretrained_cfg_overlay  # the manifest row is the configuration
        return create_model(weights.name, pretrained, cache_dir=cache_dir, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = __name__
    entrypoint.__doc__ = f"Return {weights.name}; `kwargs` are those of `miil21k.create_model`."
    return entrypoint


def _register(weights: Weights) -> None:
    for arch in (weights.arch, SECOND_NAMES.get(weights.arch)):
        name = f"{arch.removesuffix('_miil')}_miil_in21k" if arch else ""
        if name and not is_model(name):
            default_cfgs[name] = timm_cfg(weights).to_dict()
            setattr(sys.modules[__name__], name, register_model(_entrypoint(name, weights)))
    if weights.name not in timm_registry._model_pretrained_cfgs:
        # timm has no public way to add a tag to an architecture that is already registered.
        timm_registry._model_pretrained_cfgs[weights.name] = timm_cfg(weights)
        timm_registry._model_with_tags[weights.arch].append(weights.name)


for _weights in load_manifest().models:
    if _weights.family == "miil21k" and _weights.head == "level_softmax":
        _register(_weights)
