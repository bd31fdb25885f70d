"""Networks that export in seconds: timm's own test networks, and every family of the zoo with one block per stage."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import timm
import torch
from timm.layers import StdConv2d
from timm.models.levit import Levit
from timm.models.mlp_mixer import MlpMixer
from timm.models.resnet import Bottleneck, ResNet
from timm.models.resnetv2 import ResNetV2
from timm.models.tresnet import TResNet
from timm.models.vision_transformer import VisionTransformer

from miil21k.hierarchy.load import load_label_space
from miil21k.runtime.loading import Loaded
from miil21k.zoo.schema import Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

EDGE = 64
ONE = (1, 1, 1, 1)
FAMILIES: dict[str, Callable[[int], nn.Module]] = {
    "vit": lambda classes: VisionTransformer(EDGE, 16, num_classes=classes, embed_dim=32, depth=1, num_heads=2),
    "mixer": lambda classes: MlpMixer(classes, EDGE, patch_size=16, num_blocks=1, embed_dim=32),
    "resnext": lambda classes: ResNet(Bottleneck, ONE, classes, cardinality=8, base_width=4, channels=(16, 32, 32, 64)),
    "bit": lambda classes: ResNetV2(
        ONE, (128, 128, 128, 256), classes, stem_chs=32, stem_type="fixed", conv_layer=partial(StdConv2d, eps=1e-8)
    ),
    "tresnet": lambda classes: TResNet([1, 1, 1, 1], num_classes=classes, width_factor=0.25),
    "levit": lambda classes: Levit(
        EDGE, num_classes=classes, embed_dim=(32, 32, 64), key_dim=8, depth=(1, 1, 1), num_heads=(2, 2, 4)
    ),
}


def small_network(arch: str = "test_resnet", space: str = "in1k") -> Loaded:
    """Return a tiny network of random weights whose batch norms fit what comes in."""
    torch.manual_seed(0)
    classes = load_label_space(space)
    if arch in FAMILIES:
        model, edge = FAMILIES[arch](classes.num_classes), EDGE
    else:
        model = timm.create_model(arch, num_classes=classes.num_classes)
        edge = model.default_cfg["input_size"][1]
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.data.normal_(0, 0.02)  # a head that starts at zero would prove nothing
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(4, 3, edge, edge))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preprocess = Preprocess((3, edge, edge), "bicubic", 0.9, "center", mean, std, "test")
    head = "leaf_softmax" if space == "in1k" else "level_softmax"
    return Loaded(model.eval(), f"{arch}.random", classes, head, preprocess)  # type: ignore[arg-type]
