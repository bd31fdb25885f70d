from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from shapes import shape_space, write_folders

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `train` (4 images of each of 14 classes), `val` (2) and the hierarchy `shapes.tsv`."""
    root = tmp_path_factory.mktemp("shapes")
    write_folders(root / "train", 4, seed=0)
    write_folders(root / "val", 2, seed=1)
    (root / "shapes.tsv").write_text(shape_space().to_text())
    return root


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are taken in one order, so that equal runs are equal to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
