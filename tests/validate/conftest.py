from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from shapes import shape_space, write_folders

from miil21k.train.launch import train_model
from miil21k.train.options import TrainRequest
from miil21k.train.recipes import RECIPES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model.safetensors`, a tiny network that knows the shapes a little, and the images `val`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("trained")
    write_folders(root / "train", 10, seed=0)
    write_folders(root / "val", 12, seed=1)
    write_folders(root / "test", 12, seed=2)
    (root / "shapes.tsv").write_text(shape_space().to_text())
    recipe = replace(
        RECIPES["miil_semantic"],
        epochs=5, batch_size=14, lr=1e-2, policy="", cutout=0.0, precision="fp32", image_size=32, pretrained=False,
    )  # fmt: skip
    request = TrainRequest(
        str(root / "train"), "test_resnet", "miil_semantic", recipe, root / "run",
        label_space=str(root / "shapes.tsv"), device="cpu", workers=0,
    )  # fmt: skip
    train_model(request, lambda _report: None, lambda _line: None)
    (root / "run" / "last.safetensors").rename(root / "model.safetensors")
    torch.set_num_threads(threads)
    return root


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are taken in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
