from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from shapes import shape_space, write_folders

from miil21k.cli.main import main
from miil21k.decode.decoder import Decoder
from miil21k.metrics.average_precision import average_precision
from miil21k.train.state import save_weights
from miil21k.zoo.checkpoint_card import TrainedCard, load_trained

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained `model.safetensors` for the shapes, and 12 images per class."""
    import torch

    from miil21k.train.state import save_weights
    from miil21k.zoo.schema import Preprocess

    root = tmp_path_factory.mktemp("work")
    write_folders(root / "images", 12)
    preprocess = Preprocess((3, 32, 32), "bilinear", 1.0, "squash", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "test")
    card = TrainedCard("test_resnet", {}, "leaf_softmax", shape_space(), preprocess, "none", {})
    torch.manual_seed(0)
    save_weights(root / "model.safetensors", card.build().state_dict(), card.to_metadata())
    level = replace(card, head="level_softmax")
    save_weights(root / "level.safetensors", card.build().state_dict(), level.to_metadata())
    return root


def _words(work: Path, verb: str, model: str = "model") -> list[str]:
    return [verb, str(work / "images"), "-m", str(work / f"{model}.safetensors"), "--device", "cpu", "-j", "0"]


def test_validate_prints_json_into_a_pipe_and_writes_the_report(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*_words(work, "validate"), "-o", str(tmp_path / "report")]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["images"]["scored"] == 14 * 12
    assert 0 <= report["metrics"]["flat"]["top1"] < 0.5  # nothing was learned
    assert json.loads((tmp_path / "report" / "validation.json").read_text()) == report
    assert "validation.json, classes.csv, subtrees.csv" in err


def test_validate_prints_a_table_when_asked(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*_words(work, "validate"), "-f", "table", "-q"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("model.safetensors on 168 images, 14 classes of shapes\nsemantic\n  semantic_top1 ")
    assert err == ""


def test_validate_exits_1_when_an_image_cannot_be_read(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folders(tmp_path, 1, names=("red", "blue"))
    (tmp_path / "red" / "red_0.jpg").write_bytes(b"")
    assert main(["validate", str(tmp_path), *_words(work, "validate")[2:]]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["images"]["unreadable"][0]["name"] == "red/red_0.jpg"
    assert "1 images could not be read and were left out." in err


def test_validate_refuses_images_of_another_label_space(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folders(tmp_path, 1, names=("red",))
    (tmp_path / "red").rename(tmp_path / "n02084071")
    assert main(["validate", str(tmp_path), *_words(work, "validate")[2:]]) == 2
    assert "1 of 1 class folders are no classes of label space 'shapes': n02084071" in capsys.readouterr().err
    assert main([*_words(work, "validate"), "--label-space", "winter21"]) == 2
    assert "cannot answer in 'winter21'" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["model", "level"])
def test_calibrate_writes_a_file_that_validate_and_predict_accept(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    path = tmp_path / "new" / "calibration.json"
    assert main([*_words(work, "calibrate", model), "-o", str(path), "--seed", "1"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{path}\n"
    assert err.startswith("temperature ")
    assert "of the answers were right" in err
    assert "are answered rightly or not at all, on average" in err
    thresholds = dict(json.loads(path.read_text())["thresholds"])
    assert 0.8 in thresholds
    words = [*_words(work, "validate", model), "--calibration", str(path), "--hedge", "0.8"]
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["reading"]["calibrated"]
    assert report["metrics"]["hedged"]["level"] == thresholds[0.8]
    image = str(work / "images" / "red" / "red_0.jpg")
    words = ["predict", image, "--checkpoint", str(work / f"{model}.safetensors"), "--device", "cpu", "-f", "jsonl"]
    assert main([*words, "--calibration", str(path), "--hedge", "0.8"]) == 0
    assert json.loads(capsys.readouterr().out)["stop"]["calibrated"]


def test_the_three_verbs_take_the_same_bins(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bins = tmp_path / "bins.csv"
    bins.write_text("label,concept,parent\nhot,warm,\nsea,blue,\n")
    images, out = tmp_path / "images", tmp_path / "bins.json"
    for folder, label in (("red", "hot"), ("blue", "sea"), ("green", "other")):
        (images / label).parent.mkdir(exist_ok=True)
        (images / label).symlink_to(work / "images" / folder)
    common = ["-m", str(work / "model.safetensors"), "--device", "cpu", "-j", "0", "--bins", str(bins)]
    assert main(["calibrate", str(images), *common, "--target", "0.5", "-o", str(out)]) == 0
    assert "--hedge 0.5 --bins: P >= " in capsys.readouterr().err
    more = ["--calibration", str(out), "--hedge", "0.5"]
    assert main(["validate", str(images), *common, *more]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] | {"data": ""} == {
        "data": "", "scored": 36, "labels_with_images": 3, "classes_skipped": [], "unreadable": [],
    }  # fmt: skip
    assert set(report["metrics"]) == {"bins", "hedged", "operating_curve", "reliability"}
    rows = tmp_path / "rows.csv"
    picture = str(next((images / "hot").iterdir()))
    assert main(["predict", picture, *common, *more, "-o", str(rows)]) == 0
    assert rows.read_text().splitlines()[0].endswith(",bin_hot,bin_sea,bin_other")
    assert "The calibration is of bins alone" in capsys.readouterr().err
    bins.write_text("label,concept\nhot,warm\nsea,cold\n")
    assert main(["predict", picture, *common, *more, "-q"]) == 2
    assert "knows levels for other bins" in capsys.readouterr().err
    bins.write_bytes(b"label,concept\nhei\xdf,warm\n")
    with pytest.raises(SystemExit):
        main(["predict", picture, *common])
    assert "is not UTF-8 text (byte 17): save it as UTF-8" in capsys.readouterr().err


def test_a_target_out_of_reach_is_refused_and_nothing_is_written(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "calibration.json"
    assert main([*_words(work, "calibrate"), "-o", str(path), "--target", "0.999"]) == 2
    assert "168 images cannot guarantee that 0.999 of the answers are correct" in capsys.readouterr().err
    assert main([*_words(work, "calibrate"), "-o", str(path), "--target", "1.5"]) == 2
    assert not path.exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--hedge", "0"], "lies above 0 and up to 1, not 0.0"),
        (["-b", "0"], "must be at least 1, not 0"),
        (["-j", "-1"], "must be at least 0, not -1"),
    ],
)
def test_numbers_out_of_range_are_refused(
    work: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*_words(work, "validate"), *extra])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_predict_takes_the_same_checkpoint_as_a_model(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = next((work / "images").rglob("*.jpg"))
    words = ["predict", str(image), "-m", str(work / "model.safetensors"), "-f", "jsonl", "-j", "0", "--device", "cpu"]
    assert main(words) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["status"], row["model"]) == ("ok", "model.safetensors")
    assert row["label_space_sha256"] == shape_space().sha256
    assert main([*words, "--checkpoint", "other.pth"]) == 2
    assert "leave checkpoint and head out" in capsys.readouterr().err


@pytest.mark.parametrize("head", ["leaf_softmax", "sigmoid"])
def test_a_list_of_several_labels_reports_the_average_precision_of_each(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], head: str
) -> None:
    import torch

    words = {"red_circle": "red_circle;red", "blue_square": "blue;red", "yellow": "warm", "cold": ""}
    has = {"red_circle": "red,red_circle,warm", "blue_square": "blue,red,warm", "yellow": "warm", "cold": ""}
    files = [f"{name}/{name}_{at}.jpg" for name in words for at in range(4)]
    weights = np.array([1, 2, 1, 2] * 4)
    rows = [f"{file},{words[file.partition('/')[0]]},{w}" for file, w in zip(files, weights, strict=True)]
    listed = work / "images" / "several.csv"
    listed.write_text("path,labels,weight\n" + "\n".join(rows) + "\n")
    model, card = load_trained(work / "model.safetensors")
    save_weights(tmp_path / "model.safetensors", model.state_dict(), replace(card, head=head).to_metadata())  # type: ignore[arg-type]
    command = _words(tmp_path, "validate")
    command[1] = str(listed)
    assert main([*command, "-o", str(tmp_path / "report"), "--backend", "torch"]) == 0
    out, err = capsys.readouterr()
    assert "Every metric counts an image as much as its weight says." in err
    report = json.loads(out)
    assert list(report["metrics"]) == ["labels"]
    assert report["images"]["scored"] == 16
    pixels = np.stack([np.asarray(Image.open(work / "images" / file)) for file in files]).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        logits = model.eval()(torch.tensor(pixels) / 255).numpy()
    space = shape_space()
    scores = logits if head == "sigmoid" else Decoder(space, "leaf_softmax").read(logits).nodes
    expected = {}
    for label in ("blue", "red", "red_circle", "warm"):
        target = np.array([label in has[file.partition("/")[0]].split(",") for file in files])
        expected[label] = average_precision(scores[:, space.tree.index(label)], target, weights)
    lines = [line.split(",") for line in (tmp_path / "report" / "labels.csv").read_text().splitlines()]
    assert lines[0] == ["wnid", "name", "images", "average_precision"]
    assert [(line[0], int(line[2])) for line in lines[1:]] == [("blue", 4), ("red", 8), ("red_circle", 4), ("warm", 12)]
    assert {line[0]: float(line[3]) for line in lines[1:]} == pytest.approx(expected, abs=1e-9)
    assert report["metrics"]["labels"]["mAP"] == pytest.approx(np.mean(list(expected.values())), abs=1e-9)
    assert main([*command, "-f", "table", "-q"]) == 0
    assert capsys.readouterr().out.splitlines()[1:3] == ["labels", f"  mAP {report['metrics']['labels']['mAP']:32.4f}"]
    assert main(["calibrate", *command[1:]]) == 2
    assert "several labels to an image, and a calibration needs one of each" in capsys.readouterr().err
