"""An export that is killed at any moment leaves nothing, or the whole file with its report."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from child_processes import kill_at_random
from shapes import shape_space

from miil21k.predict.predictor import Predictor
from miil21k.train.state import save_weights
from miil21k.zoo.checkpoint_card import TrainedCard
from miil21k.zoo.schema import Preprocess

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_fifty_kills_of_an_export(tmp_path: Path) -> None:
    preprocess = Preprocess((3, 32, 32), "bilinear", 1.0, "squash", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "test")
    card = TrainedCard("test_resnet", {}, "leaf_softmax", shape_space(), preprocess, "none", {})
    save_weights(tmp_path / "net.safetensors", card.build().state_dict(), card.to_metadata())
    folder = tmp_path / "out"
    folder.mkdir()

    def finished() -> None:
        assert sorted(path.name for path in folder.iterdir()) == ["net.onnx", "net.onnx.json"]
        assert Predictor(str(folder / "net.onnx")).space.sha256 == shape_space().sha256
        shutil.rmtree(folder)
        folder.mkdir()

    words = ["export", "onnx", "--checkpoint", str(tmp_path / "net.safetensors"), "-o", str(folder / "net.onnx")]
    kill_at_random(
        [sys.executable, "-m", "miil21k", *words], finished, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=tmp_path
    )
