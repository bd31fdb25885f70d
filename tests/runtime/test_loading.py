"""A user's own checkpoint in an architecture of timm, and published weights whose label space nobody stated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from miil21k.cli.main import predict_main
from miil21k.errors import LabelSpaceMismatch, UnknownModel, UsageError
from miil21k.predict.options import PredictOptions
from miil21k.predict.predictor import Predictor
from miil21k.runtime.loading import load_model
from miil21k.zoo.registry import create_model

CAT = Path(__file__).parents[2] / "examples" / "images" / "cat.jpg"
ARCH = "mobilenetv3_small_050"
TREE = "child,parent\ndog,animal\ncat,animal\nanimal,\ncar,\n"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a checkpoint that always says cat, as a training script writes it, and its label space."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "pets.csv").write_text(TREE, encoding="utf-8")
    torch.manual_seed(0)
    model = create_model(ARCH, num_classes=3)
    model.classifier.weight.data.zero_()
    model.classifier.bias.data = torch.tensor([1.0, 4.0, 0.0])
    torch.save({"epoch": 3, "arch": ARCH, "state_dict": model.state_dict()}, folder / "own.pth")
    return folder / "own.pth", folder / "pets.csv"


def _say(own: tuple[Path, Path], *words: str) -> int:
    return predict_main(["-m", ARCH, "--checkpoint", str(own[0]), *words, str(CAT), "-j", "0", "--offline"])


def test_an_own_checkpoint_answers_in_its_own_label_space(
    own: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _say(own, "--label-space", str(own[1]), "-f", "jsonl") == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["model"], row["label_space"]) == (ARCH, "pets")
    dog, cat, car = np.exp([1.0, 4.0, 0.0]) / np.exp([1.0, 4.0, 0.0]).sum()
    assert [node["name"] for node in row["path"]] == ["animal", "cat"]
    assert [node["probability"] for node in row["path"]] == pytest.approx([dog + cat, cat], abs=1e-5)
    assert row["topk"][2]["probability"] == pytest.approx(car, abs=1e-5)


def test_another_head_reads_the_same_logits_otherwise(
    own: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _say(own, "--label-space", str(own[1]), "-f", "jsonl", "--head", "sigmoid") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["topk"][0]["probability"] == pytest.approx(1 / (1 + np.exp(-4.0)), abs=1e-5)


def test_without_a_label_space_the_checkpoint_of_an_architecture_is_refused(
    own: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _say(own) == 2
    assert f"'{ARCH}' is an architecture: say with label_space what" in capsys.readouterr().err


def test_a_label_space_of_another_size_is_refused(own: tuple[Path, Path]) -> None:
    with pytest.raises(LabelSpaceMismatch, match=r"own\.pth has 3 classes, the label space 'in1k' 1000"):
        Predictor(ARCH, checkpoint=own[0], label_space="in1k")


def test_an_own_architecture_is_preprocessed_as_timm_does(own: tuple[Path, Path]) -> None:
    loaded = load_model(ARCH, PredictOptions(checkpoint=own[0], label_space=str(own[1]), crop_pct=1.0))
    assert loaded.head == "leaf_softmax"
    assert (loaded.preprocess.mean[0], loaded.preprocess.interpolation) == (0.485, "bicubic")
    assert (loaded.preprocess.crop_pct, loaded.preprocess.input_size) == (1.0, (3, 224, 224))


def test_an_unknown_architecture_stays_unknown(own: tuple[Path, Path]) -> None:
    with pytest.raises(UnknownModel, match="No weight 'mobilenetv9'"):
        load_model("mobilenetv9", PredictOptions(checkpoint=own[0], label_space=str(own[1])))
    with pytest.raises(UnknownModel, match="'resnet50' is an architecture, not a trained weight"):
        load_model("resnet50", PredictOptions(label_space="in1k"))


def test_the_head_of_published_weights_is_not_up_for_choice() -> None:
    with pytest.raises(UsageError, match=r"head of 'resnet18\.fb_ssl\w+' is known \(leaf_softmax\)"):
        load_model("resnet18_ssl", PredictOptions(head="sigmoid"))
    with pytest.raises(UsageError, match="name its architecture as the model"):
        load_model(None, PredictOptions(head="sigmoid"))
    with pytest.raises(UsageError, match="head must be level_softmax or leaf_softmax or sigmoid"):
        PredictOptions(head="softmax")


def test_weights_of_an_unpublished_label_space_take_the_one_that_is_given(tmp_path: Path) -> None:
    name = "mobilenetv3_large_100_21k_single_label"
    with pytest.raises(UsageError, match=r"it may be fall11 or winter21\): say with label_space"):
        load_model(name, PredictOptions())
    state = create_model(name, num_classes=10450).state_dict()
    torch.save({"state_dict": state}, tmp_path / "single_label_ls.pth")
    loaded = load_model(name, PredictOptions(checkpoint=tmp_path / "single_label_ls.pth", label_space="winter21"))
    assert (loaded.space.name, loaded.head, loaded.model.num_classes) == ("winter21", "leaf_softmax", 10450)
    with pytest.raises(LabelSpaceMismatch, match="has 10450 classes, the label space 'fall11' 11221"):
        load_model(name, PredictOptions(checkpoint=tmp_path / "single_label_ls.pth", label_space="fall11"))


def test_a_backend_for_exports_names_the_command_that_makes_one(
    own: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _say(own, "--label-space", str(own[1]), "--backend", "openvino") == 2
    assert f"'miil21k export onnx {ARCH} --checkpoint {own[0]} -o model.onnx'" in capsys.readouterr().err
    for name, words in ((None, "tresnet_m_21k"), ("mine.safetensors", "mine.safetensors"), ("embedded", "embedded")):
        with pytest.raises(UsageError, match=f"'miil21k export onnx {words} -o model.onnx'"):
            load_model(name, PredictOptions(backend="onnx"))
    with pytest.raises(UsageError, match="backend must be auto or torch or onnx or openvino, not 'tensorrt'"):
        PredictOptions(backend="tensorrt")  # type: ignore[arg-type]
