"""A rule is one entry of a table: every verb that reads logits takes it, and refuses what it does not know."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from miil21k.calibrate.record import load_calibration
from miil21k.cli.main import main
from miil21k.decode import tree_passes
from miil21k.decode.rules import RULES
from miil21k.predict.predictor import Predictor
from miil21k.serve.query import Asked, asked_of

if TYPE_CHECKING:
    from pathlib import Path

QUICKLY = ("--device", "cpu", "-q")


def squared(block: Any, order: Any, scale: Any) -> None:
    """A rule that nobody wants: the square of `product`."""
    tree_passes.softmax_levels(block, order, scale)
    tree_passes.multiply_down(block, order)
    block *= block


@pytest.fixture
def new_rule(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(RULES, "squared", squared)
    return "squared"


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    assert main([str(word) for word in words]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_new_rule_changes_what_predict_says(trained: Path, new_rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    image, model = trained / "val" / "red" / "red_0.jpg", trained / "model.safetensors"
    command = ("predict", image, "-m", model, "--no-hedge", "-f", "jsonl", "--backend", "torch", *QUICKLY)
    plain, changed = (printed(capsys, *command, "--rule", rule)["path"] for rule in ("product", new_rule))
    assert [node["wnid"] for node in plain] == [node["wnid"] for node in changed]
    for before, after in zip(plain, changed, strict=True):
        assert after["probability"] == pytest.approx(before["probability"] ** 2, abs=2e-6)


def test_a_new_rule_changes_what_is_measured_and_calibrated(
    trained: Path, tmp_path: Path, new_rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained / "model.safetensors"
    command = ("validate", trained / "val", "-m", model, "-f", "json", *QUICKLY)
    plain, changed = (printed(capsys, *command, "--rule", rule) for rule in ("product", new_rule))
    assert changed["reading"]["rule"] == new_rule
    assert changed["metrics"]["hedged"]["mean_length"] < plain["metrics"]["hedged"]["mean_length"]
    file = tmp_path / "c.json"
    assert main(["calibrate", str(trained / "val"), "-m", str(model), "-o", str(file), "--rule", new_rule, "-q"]) == 0
    found = load_calibration(file)
    assert found.rule == new_rule
    capsys.readouterr()
    with_it = printed(capsys, *command, "--calibration", file, "--hedge", found.thresholds[0][0])
    assert with_it["reading"]["rule"] == new_rule
    assert main([*map(str, command), "--calibration", str(file), "--rule", "min"]) == 2
    assert "The calibration was made with the rule 'squared'" in capsys.readouterr().err


def test_a_new_rule_without_onnx_form_is_refused_at_export(
    trained: Path, tmp_path: Path, new_rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "onnx", "--checkpoint", str(trained / "model.safetensors"), "-o", str(tmp_path / "m.onnx")]
    assert main([*command, "--rule", new_rule]) == 2
    assert "The rule 'squared' has no ONNX form" in capsys.readouterr().err
    assert not (tmp_path / "m.onnx").exists()


def test_a_request_may_ask_for_a_new_rule(trained: Path, new_rule: str) -> None:
    predictor = Predictor(str(trained / "model.safetensors"), device="cpu", backend="torch")
    asked = asked_of(Asked(predictor.options, None), [("rule", new_rule)])
    assert predictor.decoder_for(asked.options).tree_rule == new_rule
    assert predictor.decoder.tree_rule == "coherent"


@pytest.mark.parametrize("verb", [("predict", "x.jpg"), ("validate", "x", "-m", "m"), ("calibrate", "x", "-m", "m")])
def test_an_unknown_rule_is_a_usage_error(verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*verb, "--rule", "best"])
    assert "must be coherent or min or sibling or product, not 'best'" in capsys.readouterr().err
