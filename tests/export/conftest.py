"""A small network and exports of it, made once per session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from small_networks import small_network

from miil21k.export.onnx.file import export_onnx
from miil21k.export.options import ExportOptions, TritonOptions
from miil21k.export.triton.repository import export_triton

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.runtime.loading import Loaded


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small() -> Loaded:
    return small_network()


@pytest.fixture(scope="session")
def tensor_export(small: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tensor") / "small.onnx"
    export_onnx(small, path, ExportOptions(form="tensor"))
    return path


@pytest.fixture(scope="session")
def concepts_export(small: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers on concepts, at a level that a network of random weights reaches, and is asked three questions."""
    path = tmp_path_factory.mktemp("concepts") / "concepts.onnx"
    options = ExportOptions(
        reading="concepts", min_bits=0.5, hedge=0.3, ask=("bird", "crane.n.04", "musical instrument")
    )
    export_onnx(small, path, options)
    return path


@pytest.fixture(scope="session")
def triton_repository(
    embedded_export: Path, tensor_export: Path, concepts_export: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("triton") / "models"
    export_triton(embedded_export, path, TritonOptions(preferred_batch_sizes=(4, 8), queue_delay=200, threads=1))
    export_triton(embedded_export, path, TritonOptions(max_batch_size=0), name="unbatched")
    export_triton(concepts_export, path, TritonOptions(warmup=False))
    export_triton(tensor_export, path, TritonOptions(device="gpu", gpus=(0, 1), instances=2, keep="all", warmup=False))
    return path
