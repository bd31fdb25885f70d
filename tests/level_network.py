"""A network with one softmax per level, of random weights: a real file of what `miil21k train` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from shapes import shape_space

from miil21k.zoo.checkpoint_card import TrainedCard
from miil21k.zoo.schema import Preprocess

if TYPE_CHECKING:
    from pathlib import Path


def write_level_network(path: Path, edge: int = 16) -> None:
    """Write a network in the space of `shapes` for images of `edge` pixels, which it tells apart."""
    still = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    preprocess = Preprocess((3, edge, edge), "bilinear", 1.0, "center", *still, "none")
    card = TrainedCard("test_resnet", {}, "level_softmax", shape_space(), preprocess, "none", {})
    torch.manual_seed(0)
    network = card.build()
    torch.nn.init.normal_(network.get_classifier().weight, std=3.0)
    save_file(network.state_dict(), path, metadata=card.to_metadata())
