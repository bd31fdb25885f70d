"""An export answers as torch does, without torch; and says no where it cannot."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from miil21k.calibrate.record import load_calibration
from miil21k.cli.main import main
from miil21k.data.images import load_image
from miil21k.errors import CheckpointError, ExportError, UsageError
from miil21k.export.onnx.file import own_photographs
from miil21k.export.onnx.graph import IR_VERSION
from miil21k.predict.predictor import Predictor
from miil21k.runtime.onnx_backend import OnnxBackend
from miil21k.validate.calibration import calibrate_model
from miil21k.validate.options import MeasureOptions
from miil21k.validate.report import plain
from miil21k.validate.run import MeasureRequest, validate_model

if TYPE_CHECKING:
    from miil21k.runtime.loading import Loaded

ROOT = Path(__file__).parents[2]
PHOTOS = own_photographs()
WITHOUT_TORCH = """
import sys
from miil21k.cli.main import main
code = main(sys.argv[1:])
heavy = {"torch", "timm", "torchvision", "onnx", "onnxscript"} & sys.modules.keys()
assert not heavy, heavy
raise SystemExit(code)
"""


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def without_torch(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `miil21k` with these words in a process that must not have imported torch at its end."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def assert_same_answers(ours: list[dict], theirs: list[dict]) -> None:
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        for part in ("path", "topk"):
            assert [node["wnid"] for node in one[part]] == [node["wnid"] for node in other[part]]
            sure = [[node["probability"] for node in row[part]] for row in (one, other)]
            assert np.abs(np.subtract(*sure)).max(initial=0) < 2e-5
        assert one["stop"]["reason"] == other["stop"]["reason"]
        changed = {"path", "topk", "stop", "backend", "embedding"}
        assert one.keys() == other.keys()
        assert all(one[key] == other[key] for key in one.keys() - changed)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_the_command_gives_the_rows_of_torch_and_imports_none(backend: str, embedded_export: Path) -> None:
    done = without_torch(
        "predict", "--backend", backend, "--model", str(embedded_export), "-f", "jsonl", *map(str, PHOTOS)
    )
    assert "embedded on cpu (fp32), label space in1k" in done.stderr
    predictor = Predictor("embedded", device="cpu")
    theirs = [prediction.to_dict() for prediction in predictor.predict([str(photo) for photo in PHOTOS])]
    ours = rows(done.stdout)
    assert {row["backend"] for row in ours} == {backend}
    assert_same_answers(ours, json.loads(json.dumps(theirs)))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return class folders of 12 pictures, four crops of each photograph."""
    root = tmp_path_factory.mktemp("labelled")
    wnids = {"cat.jpg": "n02123159", "coffee.jpg": "n07920052", "rocket.jpg": "n04266014"}
    for photo in PHOTOS:
        picture = Image.open(photo).convert("RGB")
        (root / wnids[photo.name]).mkdir()
        for number in range(4):
            box = (10 * number, 5 * number, picture.width - 10 * number, picture.height)
            picture.crop(box).save(root / wnids[photo.name] / f"{number}.png")
    return root


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_an_export_is_validated_and_calibrated_without_torch(
    backend: str, embedded_export: Path, labelled: Path, tmp_path: Path
) -> None:
    request = MeasureRequest(str(labelled), "embedded", MeasureOptions(device="cpu"))
    theirs = validate_model(request)
    words = [str(labelled), "-m", str(embedded_export), "--backend", backend, "-q"]
    ours = json.loads(without_torch("validate", *words, "-f", "json").stdout)
    assert ours["run"]["backend"] == backend
    assert ours["images"]["scored"] == theirs.report["images"]["scored"] == 12
    for group, metrics in plain(theirs.report)["metrics"].items():
        assert ours["metrics"][group] == pytest.approx(metrics, abs=1e-4), group
    assert 0 < ours["metrics"]["flat"]["top5"] <= 1
    output = tmp_path / "calibration.json"
    without_torch("calibrate", *words, "-o", str(output))
    expected = calibrate_model(request, ())
    assert load_calibration(output).temperature == pytest.approx(expected.temperature, rel=1e-2)


def test_embeddings_masks_and_batches_are_those_of_torch(embedded_export: Path) -> None:
    options = {"device": "cpu", "embeddings": True, "under": "n00015388", "batch_size": 2, "workers": 2}
    files = [str(photo) for photo in PHOTOS]
    ours = Predictor(str(embedded_export), **options).predict(files)
    theirs = Predictor("embedded", **options).predict(files)
    assert_same_answers([p.to_dict() for p in ours], [p.to_dict() for p in theirs])
    for one, other in zip(ours, theirs, strict=True):
        assert one.embedding is not None
        assert other.embedding is not None
        assert np.abs(one.embedding - other.embedding).max() <= 1e-4 * np.ptp(other.embedding)


def test_the_tensor_form_predicts_too(tensor_export: Path, small: Loaded) -> None:
    predictor = Predictor(str(tensor_export), hedge=None, device="cpu")
    assert not predictor.backend.normalises
    answer = predictor.predict(PHOTOS[0])
    assert (answer.model, answer.label_space) == ("test_resnet.random", "in1k")
    assert len(answer.path) >= 2


def test_what_the_file_fixes_cannot_be_asked_otherwise(embedded_export: Path) -> None:
    path = str(embedded_export)
    with pytest.raises(UsageError, match="exported for 224 x 224"):
        Predictor(path, img_size=256)
    with pytest.raises(UsageError, match="holds its weights"):
        Predictor(path, checkpoint="other.pth")
    with pytest.raises(UsageError, match="computes in fp32"):
        Predictor(path, dtype="fp16")
    with pytest.raises(UsageError, match="No device 'mps' in ONNX Runtime"):
        Predictor(path, device="mps")


def test_a_provider_that_is_not_there_is_never_replaced(embedded_export: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has CUDA")
    with pytest.raises(UsageError, match=r"has no CUDA: choose --device cpu"):
        Predictor(str(embedded_export), device="cuda")
    assert OnnxBackend(embedded_export, 1000, normalises=True).device == "cpu"


def test_a_missing_a_foreign_and_a_damaged_file_are_named(embedded_export: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        Predictor(str(tmp_path / "missing.onnx"))
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(embedded_export.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"damaged or no ONNX model|was not written by"):
        Predictor(str(cut))
    foreign = tmp_path / "foreign.onnx"
    from onnx import helper

    graph = helper.make_graph([], "empty", [], [])
    foreign.write_bytes(helper.make_model(graph, ir_version=IR_VERSION).SerializeToString())
    with pytest.raises(CheckpointError, match="does not say what its logits mean"):
        Predictor(str(foreign))
    with pytest.raises(ExportError, match="cannot open"):
        OnnxBackend(foreign.with_name("none.onnx"), 10, normalises=True).run(np.zeros((1, 8, 8, 3), np.uint8))


def test_the_file_is_opened_once_per_thread_count(embedded_export: Path) -> None:
    backend = OnnxBackend(embedded_export, 1000, normalises=True, device="cpu")
    crops = np.zeros((2, 224, 224, 3), np.uint8)
    with backend.threads(1):
        one = backend.run(crops).logits
        assert np.array_equal(backend.run(crops).logits, one)
    assert backend.run(crops).embedding is None
    assert len(backend._sessions) == len({1, backend._threads})


def test_the_example_needs_onnxruntime_alone(embedded_export: Path) -> None:
    code = f"import sys, runpy; sys.modules.update(dict.fromkeys(('torch', 'miil21k'))); sys.argv = sys.argv[1:]; runpy.run_path({str(ROOT / 'examples' / 'onnx_only.py')!r}, run_name='__main__')"  # fmt: skip # noqa: E501
    command = [sys.executable, "-c", code, "onnx_only.py", str(embedded_export), str(PHOTOS[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].endswith("cat.jpg: domestic cat")
    assert "path: animal 0.95 > domestic animal 0.92 > domestic cat 0.91" in done.stdout
    assert not done.stderr


def test_the_node_example_gives_the_same_answer(embedded_export: Path, tmp_path: Path) -> None:
    node = ROOT / "examples" / "node"
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (node / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not installed: run 'npm install' in examples/node")
    image = load_image(PHOTOS[0])
    command = ["node", "predict.mjs", str(embedded_export), str(image.width), str(image.height)]
    done = subprocess.run(command, cwd=node, input=image.tobytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-500:]
    found = json.loads(done.stdout)
    answer = Predictor(str(embedded_export), device="cpu").predict(Image.fromarray(np.asarray(image)))
    assert answer.label is not None
    assert found["answer"] == answer.label.name == "domestic cat"
    assert found["probability"] == pytest.approx(answer.label.probability, abs=1e-3)
    assert found["topk"][0] == answer.topk[0].name


def test_the_verb_exports_a_trained_checkpoint_and_refuses_what_makes_no_sense(
    small: Loaded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    from miil21k.zoo.checkpoint_card import TrainedCard

    card = TrainedCard("test_resnet", {}, small.head, small.space, small.preprocess, "none", {})
    checkpoint, output = tmp_path / "mine.safetensors", tmp_path / "mine.onnx"
    save_file(small.model.state_dict(), checkpoint, metadata=card.to_metadata())
    words = ["export", "onnx", "--checkpoint", str(checkpoint), "-o", str(output), "--topk", "2"]
    asking = ["--read", "concepts", "--min-bits", "2", "--ask", "bird,vehicle"]
    assert main([*words, *asking, "--images", str(PHOTOS[0].parent)]) == 0
    printed = capsys.readouterr()
    assert "asked 0  bird: bird (n01503061)\n  asked 1  vehicle: vehicle (n04524313)" in printed.out
    assert "path and hedge_node are concepts, at least 2 bits" in printed.out
    assert "logits within" in printed.out
    assert "noise and 6 photographs" in printed.out
    assert "proving it" in printed.err
    assert Predictor(str(output), device="cpu").origin.model == "mine.safetensors"
    assert main(words) == 2
    assert "exists: give --overwrite" in capsys.readouterr().err
    assert main(["export", "onnx", "-o", str(tmp_path / "a.onnx")]) == 2
    assert main(["export", "onnx", str(output), "-o", str(tmp_path / "a.onnx")]) == 2
    assert "is an export already" in capsys.readouterr().err
