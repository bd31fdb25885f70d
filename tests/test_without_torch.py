"""An installation that runs exported models: NumPy, Pillow, ONNX Runtime, filelock and tqdm, nothing else."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from miil21k.environment import REQUIRED

pytest.importorskip("onnx", reason="the extra 'export' is not installed")
from colour_export import write_colour_export
from shapes import COLOURS

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).parent.parent
PACKAGES = ("numpy", "pillow", "onnxruntime", "filelock", "tqdm")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return what runs `miil21k ...` where only PACKAGES can be imported, in a folder with pictures and an export."""
    if os.name == "nt":
        pytest.skip("links to folders need a right here")
    site = tmp_path_factory.mktemp("site")
    for package in PACKAGES:
        found = importlib.metadata.distribution(package)
        tops = {file.parts[0] for file in found.files or () if file.parts[0] != ".."}
        for top in tops:
            (site / top).symlink_to(Path(str(found.locate_file(top))))
    for name in ("miil21k", "weights_manifest.json"):
        (site / name).symlink_to(ROOT / name)
    folder = tmp_path_factory.mktemp("work")
    for name in ("red", "blue_square", "green_circle"):
        (folder / "val" / name).mkdir(parents=True)
        Image.new("RGB", (9, 8), COLOURS[name.partition("_")[0]]).save(folder / "val" / name / "0.png")
    write_colour_export(folder / "colours.onnx")
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "OMP_NUM_THREADS": "1",
        "MIIL21K_CACHE": str(folder / "cache"),
    }

    def start(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-m", "miil21k", *words]  # -S: no site-packages
        return subprocess.run(
            command, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )

    return start


def test_an_export_predicts_and_is_validated_without_torch(run: Run, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    done = run("predict", "val", "-r", "-m", "colours.onnx", "-o", str(rows), "--embeddings", str(tmp_path / "e.npy"))
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["status"] for row in found] == ["ok"] * 3
    assert [row["topk"][0]["name"].partition("_")[0] for row in found] == ["blue", "green", "red"]
    done = run("validate", "val", "-m", "colours.onnx")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"]["scored"] == 3


def test_what_needs_more_says_which_package(run: Run) -> None:
    done = run("train", "val", "-m", "test_resnet", "-o", "run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "miil21k train: this needs the package 'torch', which was left out" in done.stderr
    assert run("tree", "search", "dog").returncode == 0
    doctor = run("doctor", "--offline")
    assert "torch is not installed" in doctor.stdout, doctor.stderr


def test_the_documented_lines_are_those_that_are_tested() -> None:
    for page in ("README.md", "docs/export.md"):
        assert f"pip install {' '.join(PACKAGES)}\n" in (ROOT / page).read_text(), page


def test_a_torch_for_the_cpu_satisfies_the_requirements() -> None:
    requirements = pytest.importorskip("packaging.requirements")
    project = (ROOT / "pyproject.toml").read_text()
    base = re.findall(r'"([^"]+)"', project.split("dependencies = [")[1].split("]")[0])
    named = {found.name: found for found in map(requirements.Requirement, base)}
    assert set(named) <= set(REQUIRED.values())
    assert named["torch"].specifier.contains("2.9.1+cpu")  # as pytorch.org calls its builds without CUDA
