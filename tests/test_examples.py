"""The short examples run on the bundled photographs and say what they should."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

if TYPE_CHECKING:
    from types import ModuleType

EXAMPLES = Path(__file__).parent.parent / "examples"


def _run(script: str, *words: str) -> list[str]:
    command = [sys.executable, str(EXAMPLES / script), *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
    return done.stdout.splitlines()


def test_a_folder_is_counted_as_a_tree() -> None:
    lines = _run("tree_of_a_folder.py", str(EXAMPLES / "images"))
    assert "    1  animal" in lines
    assert lines[lines.index("    1  animal") + 2] == "    1      domestic cat"
    assert "    1      espresso" in lines


def test_logits_become_paths_that_shorten_as_the_hedge_rises() -> None:
    lines = _run("paths_from_logits.py", str(EXAMPLES / "images" / "cat.jpg"))
    assert lines[2] == "0.90  animal > domestic animal > domestic cat"
    answers = [line[6:] for line in lines]
    assert answers[3] == "(not sure)"
    assert all(deep.startswith(shallow) for deep, shallow in pairwise(answers[:3]))


def _detector() -> ModuleType:
    spec = importlib.util.spec_from_file_location("detector", EXAMPLES / "detector.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_pretrained_classifier_is_the_pyramid_of_a_detector() -> None:
    detector = _detector()
    pyramid = detector.Pyramid("embedded", channels=16).train()
    assert not any(module.training for module in pyramid.body.modules())
    levels = pyramid(torch.rand(1, 3, 128, 128))
    assert [tuple(level.shape) for level in levels.values()] == [(1, 16, n, n) for n in (16, 8, 4, 2, 1)]
    sum(level.square().mean() for level in levels.values()).backward()
    first = next(pyramid.body.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
    pictures, targets = detector.paint(2, 64, torch.Generator().manual_seed(0))
    left, top, right, bottom = targets[0]["boxes"][0].int().tolist()
    assert pictures[0][0, top:bottom, left:right].min() > 0.8 > 0.5 >= pictures[0][0].min()


@pytest.mark.slow
def test_a_detector_learns_to_find_squares() -> None:
    *steps, last = _run("detector.py", "--steps", "60")
    losses = [float(line.rpartition(" ")[2]) for line in steps]
    assert losses[-1] < losses[0]
    assert float(last.rpartition(" ")[2]) > 0.3


def test_frozen_features_serve_estimators_of_scikit_learn(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    for label, name in enumerate(("dark", "light")):
        (tmp_path / name).mkdir()
        for number in range(4):
            noise = np.random.default_rng([label, number]).integers(0, 60, (64, 64, 3)) + 150 * label
            Image.fromarray(noise.astype(np.uint8)).save(tmp_path / name / f"{number}.png")
    lines = _run("features_in_sklearn.py", str(tmp_path))
    assert lines[0] == "8 images of 2 classes, 1280 features each"
    assert lines[1].startswith("logistic regression")
    assert float(lines[1].split()[2].rstrip("%")) > 75
    assert len(lines) == 4
