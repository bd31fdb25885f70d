"""The few-shot protocol: what is drawn, kept and summed up."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from miil21k.errors import UsageError
from miil21k.transfer.fewshot import FewShotOptions, few_shot, medians
from miil21k.transfer.options import TransferOptions

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("sklearn")


def test_runs_are_rows_that_are_not_repeated(tmp_path: Path, tiny: Path) -> None:
    for label in range(3):
        for image in range(6):
            path = tmp_path / "data" / str("abc"[label]) / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(10 * label + image).integers(0, 60, (40, 40, 3))
            Image.fromarray((noise + 80 * np.eye(3, dtype=np.int64)[label]).astype(np.uint8)).save(path)
    settings = TransferOptions(data=str(tmp_path / "data"), workers=0, backend="torch", holdout=0.3)
    options = FewShotOptions((str(tiny),), ("ridge", "knn"), (1, 3, 50), 2, settings)
    said: list[str] = []
    rows = few_shot(options, tmp_path / "out", say=said.append)
    assert [(row["method"], row["shots"], row["runs"]) for row in rows] == [
        ("knn", 1, 2),
        ("knn", 3, 2),
        ("ridge", 1, 2),
        ("ridge", 3, 2),
    ]
    assert "No class has 50 images: left out" in said
    lines = (tmp_path / "out" / "runs.jsonl").read_text().splitlines()
    assert len(lines) == 8
    first = json.loads(lines[0])
    assert (first["train"], first["judged"], first["seed"]) == (3, 6, 0)
    assert (tmp_path / "out" / "curve.png").read_bytes()[:4] == b"\x89PNG"

    (tmp_path / "out" / "runs.jsonl").write_text("\n".join(lines[:7]) + "\n" + lines[7][:20])  # a kill
    with pytest.raises(UsageError, match="--resume"):
        few_shot(options, tmp_path / "out")
    said.clear()
    assert few_shot(options, tmp_path / "out", say=said.append, resume=True) == rows
    assert sum("subset" in line for line in said) == 1
    with pytest.raises(UsageError, match="epochs"):
        few_shot(replace(options, settings=replace(settings, epochs=3)), tmp_path / "out", resume=True)
    with pytest.raises(UsageError, match="other images or another split"):
        few_shot(replace(options, settings=replace(settings, seed=4)), tmp_path / "out", resume=True)


def test_medians_leave_failed_runs_out_and_count_them() -> None:
    runs = [
        {"model": "m", "method": "ridge", "shots": 5, "seed": seed, "accuracy": value}
        for seed, value in enumerate((0.5, None, 0.9, 0.8))
    ]
    (row,) = medians(runs)
    assert (row["median"], row["lowest"], row["highest"], row["runs"], row["failed"]) == (0.8, 0.5, 0.9, 3, 1)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UsageError, match="No method 'svm' of the few-shot protocol"):
        FewShotOptions(methods=("svm",))
