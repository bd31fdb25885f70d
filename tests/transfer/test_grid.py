"""The grid: points are rows, one that diverges too, and how far weights fall from their best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from miil21k.errors import UsageError
from miil21k.transfer.grid import falls, run_grid
from miil21k.transfer.options import GridOptions, TransferOptions

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("matplotlib")


def _row(accuracy: float | None, lr: float, status: str = "ok") -> dict[str, Any]:
    return {
        "model": "m", "optimizer": "sgd", "lr": lr, "weight_decay": 0.1, "accuracy": accuracy, "status": status
    }  # fmt: skip


def test_falls_are_from_the_best_point_and_diverging_falls_to_nothing() -> None:
    rows = [_row(0.9, 1.0), _row(0.8, 2.0), _row(0.5, 3.0), _row(None, 4.0, "diverged"), _row(None, 5.0, "failed")]
    (found,) = falls(rows)
    assert (found["best"], found["point"]["lr"]) == (0.9, 1.0)
    assert found["median_fall"] == pytest.approx(0.25)
    assert found["worst_fall"] == pytest.approx(0.9)
    assert (found["diverged"], found["failed"]) == (1, 1)
    assert falls([_row(None, 1.0, "failed")])[0]["best"] is None


def test_points_are_rows_and_one_that_diverges_ends_nothing(tmp_path: Path) -> None:
    for label in range(2):
        for image in range(6):
            path = tmp_path / "data" / "ab"[label] / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng([label, image]).integers(0, 60, (32, 32, 3))
            Image.fromarray((noise + 120 * label).astype(np.uint8)).save(path)
    weights = tmp_path / "own.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model("test_convnext", num_classes=5).state_dict(), weights)
    settings = TransferOptions(data=str(tmp_path / "data"), img_size=32, workers=0, device="cpu", epochs=1, holdout=0.3)
    models = (f"test_convnext={weights}", "random")
    options = GridOptions(models, ("sgd",), (1e-3, 1e30), (1e-4,), settings)
    said: list[str] = []
    found = run_grid(options, tmp_path / "out", say=said.append)
    assert [(row["model"], row["lr"]) for row in found["rows"]] == [
        (name, lr) for name in ("test_convnext", "test_convnext (random)") for lr in (1e-3, 1e30)
    ]
    assert [row["status"] for row in found["rows"]] == ["ok", "diverged"] * 2
    assert "NaN or infinite" in found["rows"][1]["reason"]
    assert found["rows"][0]["num_test"] == 4
    assert [one["diverged"] for one in found["models"]] == [1, 1]
    assert (tmp_path / "out" / "grid.png").read_bytes()[:4] == b"\x89PNG"
    assert not any((tmp_path / "out" / "training").iterdir())
    said.clear()
    assert run_grid(options, tmp_path / "out", say=said.append, resume=True) == found
    assert said == []
    with pytest.raises(UsageError, match="name one first"):
        run_grid(GridOptions(("random",), settings=settings), tmp_path / "other")
