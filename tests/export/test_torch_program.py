"""A program of torch is proved and kept, or leaves nothing, and runs in a process that has torch alone."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from miil21k.cli.main import main
from miil21k.errors import ExportError, UsageError
from miil21k.export.onnx.report import report_path
from miil21k.export.torch_program import CARD, export_program
from miil21k.zoo.checkpoint_card import TrainedCard

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.runtime.loading import Loaded

ELSEWHERE = """
import sys, torch
program = {loader}
logits, embedding = program(torch.load(sys.argv[2]))
assert not {{"timm", "miil21k"}} & sys.modules.keys()
torch.save((logits, embedding), sys.argv[3])
"""


def run_elsewhere(loader: str, program: Path, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and embedding from a process that imports neither timm nor miil21k."""
    given, found = program.with_name("pixels.pt"), program.with_name("found.pt")
    torch.save(pixels, given)
    command = [sys.executable, "-c", ELSEWHERE.format(loader=loader), str(program), str(given), str(found)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    logits, embedding = torch.load(found)
    return logits, embedding


def assert_same(small: Loaded, logits: torch.Tensor, embedding: torch.Tensor, pixels: torch.Tensor) -> None:
    with torch.inference_mode():
        exact = small.model(pixels)
        features = small.model.forward_head(small.model.forward_features(pixels), pre_logits=True)
    assert (logits - exact).abs().max() <= 1e-5 * np.ptp(exact.numpy())
    assert (embedding - features).abs().max() <= 1e-5 * np.ptp(features.numpy())


def test_a_program_is_proved_and_says_what_it_is(small: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    before = {name: tensor.clone() for name, tensor in small.model.state_dict().items()}
    report = export_program(small, path, licence="MIT")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["model.pt2", "model.pt2.json"]
    assert report == json.loads(report_path(path).read_text())
    assert (report["kind"], report["bytes"], report["licence"]) == ("torch.export", path.stat().st_size, "MIT")
    assert {row["batch"] for row in report["proof"]["rows"]} == {1, 2, 7}
    assert 0 < report["proof"]["worst"]["logits"] < 1e-5
    assert report["proof"]["worst"]["answers_apart"] == 0
    extra = {CARD: ""}
    torch.export.load(path, extra_files=extra)
    card = json.loads(extra[CARD])
    assert (card["form"], card["label_space_sha256"]) == ("tensor", small.space.sha256)
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.model.state_dict().items())
    pixels = torch.randn(5, *small.preprocess.input_size)
    assert_same(small, *run_elsewhere("torch.export.load(sys.argv[1]).module()", path, pixels), pixels)


def test_a_program_that_computes_something_else_leaves_nothing(small: Loaded, tmp_path: Path) -> None:
    class Louder(torch.nn.Module):
        """Its forward says twice what its forward_head says."""

        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.forward_features, self.forward_head = inner.forward_features, inner.forward_head

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return 2 * self.forward_head(self.forward_features(pixels))  # type: ignore[operator, no-any-return]

    wrong = dataclasses.replace(small, model=Louder(small.model))
    path = tmp_path / "model.pt2"
    path.write_bytes(b"an older export")
    with pytest.raises(ExportError, match="not kept: logits is"):
        export_program(wrong, path)
    assert path.read_bytes() == b"an older export"
    assert [found.name for found in tmp_path.iterdir()] == ["model.pt2"]


def test_names_folders_networks_and_compilers_that_are_missing_are_named(
    small: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"does not end in \.pt2"):
        export_program(small, tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="no folder"):
        export_program(small, tmp_path / "missing" / "model.pt2")
    with pytest.raises(ExportError, match="gives no embedding"):
        export_program(dataclasses.replace(small, model=torch.nn.Conv2d(3, 4, 1)), tmp_path / "model.pt2")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match="'no-such-compiler' is not here: install it or name another"):
        export_program(small, tmp_path / "model.pt2", aot=True)
    assert not list(tmp_path.iterdir())


def test_the_verb_writes_a_program_of_a_trained_checkpoint(
    small: Loaded, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    card = TrainedCard("test_resnet", {}, small.head, small.space, small.preprocess, "none", {})
    checkpoint, output = tmp_path / "mine.safetensors", tmp_path / "mine.pt2"
    save_file(small.model.state_dict(), checkpoint, metadata=card.to_metadata())
    words = ["export", "torch", "--checkpoint", str(checkpoint), "-o", str(output)]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "torch.export: pixels to logits and embedding" in printed.out
    assert "logits within" in printed.out
    assert main(words) == 2
    assert "exists: give --overwrite" in capsys.readouterr().err
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main([*words, "--overwrite", "--aot"]) == 2
    assert "without --aot none is needed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_compiled_program_is_proved_and_runs_with_torch_alone(
    small: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "model.pt2"
    report = export_program(small, path, aot=True)
    assert report["kind"] == "AOTInductor"
    assert 0 < report["proof"]["worst"]["logits"] < 1e-5
    loader = "torch._inductor.aoti_load_package(sys.argv[1])"
    pixels = torch.randn(3, *small.preprocess.input_size)
    assert_same(small, *run_elsewhere(loader, path, pixels), pixels)
    metadata = torch._inductor.aoti_load_package(str(path)).get_metadata()
    assert metadata["label_space_sha256"] == small.space.sha256
