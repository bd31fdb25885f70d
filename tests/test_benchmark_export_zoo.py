"""The table of the zoo holds every architecture, goes on where it stopped, and hides no failure."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from miil21k.zoo.manifest import load_manifest

if TYPE_CHECKING:
    from types import ModuleType

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "export_zoo.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("export_zoo_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(**changes: Any) -> dict[str, Any]:
    proof = {"logits": 2e-6, "answers_apart": 0, "decoded_differently": 1, "photo_answers_apart": 2}
    facts = {"form": "full", "parameters": 4_000_000, "seconds": 7.6, "bytes": 16_400_000, "proof": proof}
    return {**facts, "speed": {"ONNX Runtime": [2.5, 1.25]}, **changes}


def test_every_architecture_has_one_row_and_the_small_ones_come_first(script: ModuleType) -> None:
    every = script.rows([], float("inf"))
    archs = [row.arch for row in every]
    assert sorted(archs) == sorted({row.arch for row in load_manifest().models if row.buildable})
    sizes = [script.parameters(row) for row in every]
    assert sizes == sorted(sizes)
    assert sizes[0] > 1e6
    assert sizes[-1] > 1e9
    small = [row.arch for row in script.rows([], 120e6)]
    assert small == [arch for arch, size in zip(archs, sizes, strict=True) if size <= 120e6]
    assert "tresnet_m" in small


def test_the_table_counts_every_difference_and_names_failures(script: ModuleType) -> None:
    text = script.table({"big": result(parameters=9_000_000), "small": result(), "bad": {"error": "logits is 1"}})
    lines = text.splitlines()[2:]
    assert lines[0] == "| `bad` | failed: logits is 1 |"
    assert lines[1] == "| `small` | 4.0 | full | 8 | 16 | 2.0e-06 | 3 | 2.50x | 1.25x |"
    assert lines[2].startswith("| `big` | 9.0 ")


def test_what_was_measured_is_not_measured_again(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "zoo.json"
    file.write_text(json.dumps({"embedded": result(), "tresnet_m.miil_in21k": result(parameters=9_000_000)}))
    before = file.read_bytes()
    monkeypatch.setattr(sys, "argv", ["export_zoo.py", "--results", str(file), "embedded", "tresnet_m.miil_in21k"])
    assert script.main() == 0
    assert file.read_bytes() == before
    assert capsys.readouterr().out.count("2.50x") == 2
