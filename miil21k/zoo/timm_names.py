"""What importing this module (or `miil21k.zoo.registry`) adds to timm: an architecture, two tags, old names.

`timm.create_model` then answers for `ofa_flops_595m_s`, for the tags `resnet50.miil_in21k` and
`ofa_flops_595m_s.miil_in21k`, and for `<architecture>_miil_in21k` of all seven 21K backbones. The names with an
underscore load weights through this package (`pretrained=True`); the tags only configure the network, because
timm's own loader cannot read the published ResNet-50 file.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from timm.data import resolve_data_config
from timm.models import PretrainedCfg, get_pretrained_cfg, is_model, register_model
from timm.models import _registry as timm_registry

import miil21k.models.ofa  # noqa: F401 - registers the architecture
from miil21k.errors import UnknownModel
from miil21k.zoo.manifest import Preprocess, load_manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from miil21k.zoo.manifest import Weights

__all__ = ["own_preprocess", "timm_cfg"]

default_cfgs: dict[str, dict[str, Any]] = {}  # where timm's decorator looks for the configuration of a name


def timm_cfg(weights: Weights, preprocess: Preprocess | None = None) -> PretrainedCfg:
    """Return timm's configuration of these weights, so that `timm.data.resolve_model_data_config` is right.

    preprocess: the row's default when None. The configuration names no source: this package downloads.
    """
    chosen = preprocess or weights.preprocess
    return replace(
        get_pretrained_cfg(weights.arch, allow_unregistered=False),
        url=None,
        hf_hub_id=None,
        hf_hub_filename=None,
        custom_load=False,
        architecture=weights.arch,
        tag=weights.name.partition(".")[2] or None,
        input_size=chosen.input_size,
        test_input_size=None,
        pool_size=None,
        interpolation=chosen.interpolation,
        crop_pct=chosen.crop_pct,
        test_crop_pct=None,
        crop_mode=chosen.crop_mode,
        mean=chosen.mean,
        std=chosen.std,
        num_classes=weights.num_classes or weights.candidates[0].num_classes,
        license=weights.licence,
    )


def own_preprocess(arch: str) -> Preprocess:
    """Return how timm preprocesses for an architecture by default. Raises UnknownModel for one it does not know."""
    if not is_model(arch):
        raise UnknownModel(f"'{arch}' is neither a weight of the zoo (miil21k models) nor an architecture of timm.")
    cfg = get_pretrained_cfg(arch) or PretrainedCfg()
    found = resolve_data_config(pretrained_cfg=cfg.to_dict())
    return Preprocess(
        input_size=found["input_size"],
        interpolation="bilinear" if found["interpolation"] == "bilinear" else "bicubic",
        crop_pct=found["crop_pct"],
        crop_mode="squash" if found["crop_mode"] == "squash" else "center",
        mean=found["mean"],
        std=found["std"],
        source=f"timm's default for {arch}",
    )


def _entrypoint(name: str, weights: Weights) -> Callable[..., nn.Module]:
    def entrypoint(
        pretrained: bool = False,
        pretrained_cfg: object = None,
        pretrained_cfg_overlay: object = None,
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        from miil21k.zoo.registry import create_model

        del pretrained_cfg, pretrained_cfg_overlay  # the manifest row is the configuration
        return create_model(weights.name, pretrained, cache_dir=cache_dir, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = __name__
    entrypoint.__doc__ = f"Return {weights.name}; `kwargs` are those of `miil21k.create_model`."
    return entrypoint


def _register(weights: Weights) -> None:
    name = f"{weights.arch.removesuffix('_miil')}_miil_in21k"
    if not is_model(name):
        default_cfgs[name] = timm_cfg(weights).to_dict()
        setattr(sys.modules[__name__], name, register_model(_entrypoint(name, weights)))
    if weights.name not in timm_registry._model_pretrained_cfgs:
        # timm has no public way to add a tag to an architecture that is already registered.
        timm_registry._model_pretrained_cfgs[weights.name] = timm_cfg(weights)
        timm_registry._model_with_tags[weights.arch].append(weights.name)


for _weights in load_manifest().models:
    if _weights.family == "miil21k" and _weights.head == "level_softmax":
        _register(_weights)
