"""Networks that export in seconds."""

from __future__ import annotations

import timm
import torch

from miil21k.hierarchy.spaces import load_label_space
from miil21k.predict.loading import Loaded
from miil21k.zoo.schema import Preprocess


def small_network(arch: str = "test_resnet", space: str = "in1k") -> Loaded:
    """Return a tiny network of random weights whose batch norms fit what comes in."""
    torch.manual_seed(0)
    classes = load_label_space(space)
    model = timm.create_model(arch, num_classes=classes.num_classes)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    edge = model.default_cfg["input_size"][1]
    with torch.no_grad():
        model.train()(torch.randn(4, 3, edge, edge))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preprocess = Preprocess((3, edge, edge), "bicubic", 0.9, "center", mean, std, "test")
    head = "leaf_softmax" if space == "in1k" else "level_softmax"
    return Loaded(model.eval(), f"{arch}.random", classes, head, preprocess)  # type: ignore[arg-type]
