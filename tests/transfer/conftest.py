"""A network small enough that a whole transfer takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from miil21k.hierarchy.spaces import LabelSpace
from miil21k.hierarchy.tree import Tree
from miil21k.train.state import save_weights
from miil21k.zoo.checkpoint_card import TrainedCard
from miil21k.zoo.schema import Preprocess

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of a network of random weights at 32 pixels, whose batch norms fit pictures."""
    torch.manual_seed(0)
    tree = Tree.from_parents(["x", "y"], [None, None])
    space = LabelSpace("pair", tree, ("x", "y"), ("", ""))
    preprocess = Preprocess((3, 32, 32), "bilinear", 1.0, "squash", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "test")
    card = TrainedCard("test_resnet", {}, "leaf_softmax", space, preprocess, "none", {})
    model = card.build()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            torch.nn.init.ones_(module.weight)  # the last ones of residual branches begin at zero
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 32, 32) / 2 + 2 * torch.randn(8, 3, 1, 1))
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_weights(path, model.state_dict(), card.to_metadata())
    return path
