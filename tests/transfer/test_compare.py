"""Accuracy against latency: the front, the budget, and what a run that goes on repeats."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from miil21k.benchmark.options import BenchmarkOptions
from miil21k.errors import UsageError
from miil21k.runtime.options import LoadOptions
from miil21k.transfer.compare import best_within, compare_models, pareto_front
from miil21k.transfer.options import CompareOptions, TransferOptions, milliseconds

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("matplotlib")
SMALL = "test_convnext"


def _row(name: str, latency: float, accuracy: float | None, status: str = "ok") -> dict[str, Any]:
    return {"model": name, "latency_ms": latency, "accuracy": accuracy, "status": status}


ROWS = [
    _row("slow", 80.0, 0.9),
    _row("worse", 30.0, 0.6),
    _row("quick", 10.0, 0.7),
    _row("quick, too", 10.0, 0.65),
    _row("same", 40.0, 0.9),
    _row("broken", 1.0, None, "failed"),
]


def test_the_front_holds_what_no_faster_row_reaches() -> None:
    assert [row["model"] for row in pareto_front(ROWS)] == ["quick", "same"]


@pytest.mark.parametrize(("budget", "best"), [(None, "same"), (40.0, "same"), (39.9, "quick"), (9.0, None)])
def test_the_best_within_a_budget(budget: float | None, best: str | None) -> None:
    found = best_within(ROWS, budget)
    assert (found and found["model"]) == best


def test_times_are_written_with_their_unit() -> None:
    assert [milliseconds(text) for text in ("50ms", "0.05s", "50", " 2 ms")] == [50, 50, 50, 2]
    with pytest.raises(UsageError, match="'fast' is no time: write 50ms"):
        milliseconds("fast")


def test_models_are_rows_and_nothing_is_measured_twice(tmp_path: Path) -> None:
    for label in range(3):
        for image in range(6):
            path = tmp_path / "data" / "abc"[label] / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(10 * label + image).integers(0, 60, (40, 40, 3))
            Image.fromarray((noise + 80 * np.eye(3, dtype=np.int64)[label]).astype(np.uint8)).save(path)
    files = []
    for seed in range(2):
        torch.manual_seed(seed)
        files.append(tmp_path / f"{seed}.pth")
        torch.save(timm.create_model(SMALL, num_classes=5).state_dict(), files[-1])
    settings = TransferOptions(data=str(tmp_path / "data"), img_size=64, workers=0, device="cpu", holdout=0.3)
    speed = BenchmarkOptions(
        ("torch", "onnx"), batches=False, seconds=0.01, load=LoadOptions(device="cpu", img_size=64)
    )
    models = (f"{SMALL}={files[0]}", f"{SMALL}={files[1]}", f"{SMALL}={tmp_path / '2.pth'}")
    files.append(tmp_path / "2.pth")
    torch.save({"no": torch.ones(1)}, files[-1])
    options = CompareOptions(models, 10_000.0, "ridge", speed, settings)
    found = compare_models(options, tmp_path / "out", apart=False)
    told = [(row["model"], row["runtime"], row["status"]) for row in found["rows"]]
    assert told == [(f"{SMALL}={n}.pth", r, s) for n, r, s in zip(
        (0, 0, 1, 1, 2, 2), ("torch", "onnx") * 3, ("ok", "skipped", "ok", "skipped", "failed", "failed"), strict=True
    )]  # fmt: skip
    first = found["rows"][0]
    assert first["num_test"] == 6
    assert 0 <= first["accuracy_low"] <= first["accuracy"] <= first["accuracy_high"] <= 1
    assert found["best"]["status"] == "ok"
    assert found["best"]["front"]
    assert (tmp_path / "out" / "compare.png").read_bytes()[:4] == b"\x89PNG"
    kept = (tmp_path / "out" / "runs.jsonl").read_text().splitlines()

    with pytest.raises(UsageError, match="--resume"):
        compare_models(options, tmp_path / "out", apart=False)
    said: list[str] = []
    again = compare_models(replace(options, models=models[:2]), tmp_path / "out", say=said.append, resume=True)
    assert [line for line in said if line.endswith("torch, fp32: speed")] == []
    assert [row["latency_ms"] for row in again["rows"] if row["status"] == "ok"] == [
        json.loads(line)["latency_ms"] for line in kept if json.loads(line)["status"] == "ok"
    ]
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["best"] == again["best"]
    other = replace(options, method="knn")
    with pytest.raises(UsageError, match=r"\(method\)"):
        compare_models(other, tmp_path / "out", resume=True, apart=False)
