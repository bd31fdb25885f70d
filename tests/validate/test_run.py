from __future__ import annotations

import csv
import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from shapes import shape_space

from miil21k.calibrate.record import load_calibration
from miil21k.data.datasets import label_images, open_source
from miil21k.data.transforms import evaluation_transform
from miil21k.decode.levels import decode_levels
from miil21k.decode.path import hedge
from miil21k.decode.probabilities import probabilities
from miil21k.errors import LabelSpaceMismatch, UsageError
from miil21k.predict.predictor import Predictor
from miil21k.validate.calibration import calibrate_model
from miil21k.validate.options import MeasureOptions
from miil21k.validate.report import plain, write_report
from miil21k.validate.run import MeasureRequest, Validation, validate_model
from miil21k.zoo.checkpoint_card import load_trained

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.calibrate.record import Calibration


def _request(trained: Path, data: str = "val", **changes: object) -> MeasureRequest:
    options = MeasureOptions(device="cpu", **changes)  # type: ignore[arg-type]
    return MeasureRequest(str(trained / data), str(trained / "model.safetensors"), options)


@pytest.fixture(scope="module")
def found(trained: Path) -> Validation:
    return validate_model(_request(trained))


@pytest.fixture(scope="module")
def calibration(trained: Path) -> Calibration:
    return calibrate_model(_request(trained, workers=0), (0.7,))


def _by_hand(trained: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels, image by image, without loader, batch or folded norms."""
    model, card = load_trained(trained / "model.safetensors")
    images = label_images(open_source(str(trained / "val")), card.space)
    transform = evaluation_transform(card.preprocess)
    with torch.inference_mode():
        rows = [model(torch.from_numpy(transform(images.load(i).image))[None])[0].numpy() for i in range(len(images))]
    return np.stack(rows), images.labels


def test_the_metrics_are_those_of_a_slow_pass_over_the_images(trained: Path, found: Validation) -> None:
    logits, labels = _by_hand(trained)
    tree = shape_space().tree
    metrics = found.report["metrics"]
    nodes, classes = probabilities(tree, logits, "level_softmax")
    assert metrics["flat"]["top1"] == pytest.approx((classes.argmax(1) == labels).mean())
    levels = decode_levels(tree, logits, deepest="keep").nodes
    valid = tree.level_target[labels] >= 0
    assert metrics["semantic"]["semantic_top1"] == pytest.approx((levels == tree.level_target[labels])[valid].mean())
    answers = hedge(tree, nodes, 0.9)
    right = [answer < 0 or tree.lca(answer, label) in (answer, label) for answer, label in zip(answers.node, labels)]  # noqa: B905
    assert metrics["hedged"]["correct"] == pytest.approx(np.mean(right))
    assert metrics["hedged"]["mean_length"] == pytest.approx(answers.length.mean())
    confusion = np.zeros((2, 2), int)
    top = tree.level_target[:, 0]
    for label, answer in zip(labels, classes.argmax(1), strict=True):
        confusion[int(top[label] == tree.index("warm")), int(top[answer] == tree.index("warm"))] += 1
    assert metrics["subtree"]["subtree_accuracy"] == pytest.approx(np.trace(confusion) / len(labels))
    assert 0.4 < metrics["semantic"]["semantic_top1"] < 1


def test_batch_size_and_workers_change_nothing_but_rounding(trained: Path, found: Validation) -> None:
    other = validate_model(_request(trained, batch_size=5, workers=2))
    for group, metrics in found.report["metrics"].items():
        assert other.report["metrics"][group] == pytest.approx(metrics, abs=1e-4), group


def test_another_resizer_is_named_in_the_report_and_changes_little(trained: Path, found: Validation) -> None:
    pytest.importorskip("cykooz_resizer")
    other = validate_model(_request(trained, resizer="auto"))
    assert other.report["run"]["resizer"] == "cykooz"
    assert other.report["metrics"]["flat"]["top1"] == pytest.approx(found.report["metrics"]["flat"]["top1"], abs=0.02)


def test_the_report_says_what_was_measured(found: Validation) -> None:
    report = found.report
    assert report["model"]["label_space"] == "shapes"
    assert report["model"]["label_space_sha256"] == report["view"]["label_space_sha256"] == shape_space().sha256
    assert report["model"]["preprocess"]["input_size"] == [3, 32, 32]
    assert len(report["model"]["tensors_sha256"]) == 64
    assert report["images"]["scored"] == 14 * 12
    assert report["images"]["classes_with_images"] == 14
    assert report["run"]["resizer"] == "pillow"
    assert report["reading"] == {
        "temperature": None,
        "rule": "coherent",
        "calibrated": False,
        "hedged_on": "published",
        "min_bits": 1.0,
    }
    assert torch.__version__.startswith(report["versions"]["torch"])
    assert json.loads(json.dumps(plain(report)))["metrics"]["flat"]["top1"] == report["metrics"]["flat"]["top1"]


def test_an_image_that_cannot_be_read_is_left_out_and_named(trained: Path, tmp_path: Path, found: Validation) -> None:
    shutil.copytree(trained / "val", tmp_path / "val")
    (tmp_path / "val" / "red" / "red_3.jpg").write_bytes(b"no image")
    other = validate_model(
        MeasureRequest(str(tmp_path / "val"), str(trained / "model.safetensors"), MeasureOptions(device="cpu"))
    )
    assert other.report["images"]["scored"] == found.report["images"]["scored"] - 1
    assert other.report["images"]["unreadable"][0]["name"] == "red/red_3.jpg"
    assert "1 images could not be read and were left out." in other.notes


def test_the_files_of_a_report_add_up(tmp_path: Path, found: Validation) -> None:
    written = write_report(tmp_path / "report", found.report, found.card)
    assert sorted(written) == sorted(path.name for path in (tmp_path / "report").iterdir())
    with (tmp_path / "report" / "classes.csv").open() as file:
        classes = list(csv.DictReader(file))
    assert [row["wnid"] for row in classes] == list(shape_space().wnids)
    hits = sum(float(row["top1"]) * int(row["images"]) for row in classes)
    assert hits / (14 * 12) == pytest.approx(found.report["metrics"]["flat"]["top1"])
    with (tmp_path / "report" / "subtrees.csv").open() as file:
        pairs = list(csv.DictReader(file))
    assert sum(int(row["images"]) for row in pairs) == 14 * 12
    within = sum(int(row["images"]) for row in pairs if row["true_wnid"] == row["predicted_wnid"])
    assert within / (14 * 12) == pytest.approx(found.report["metrics"]["subtree"]["subtree_accuracy"])
    for name in ("operating_curve.png", "reliability.png"):
        assert (tmp_path / "report" / name).read_bytes().startswith(b"\x89PNG")


def test_a_report_without_matplotlib_has_no_pictures(
    tmp_path: Path, found: Validation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert write_report(tmp_path, found.report, found.card) == [
        "validation.json", "classes.csv", "subtrees.csv", "operating_curve.csv",
    ]  # fmt: skip


def test_calibration_brings_stated_and_observed_together_on_other_images(
    trained: Path, calibration: Calibration
) -> None:
    before = validate_model(_request(trained, data="test")).report["metrics"]
    after = validate_model(_request(trained, data="test"), hedge=0.8, calibration=calibration).report["metrics"]
    assert after["reliability"]["ece"] < before["reliability"]["ece"]
    # The guarantee is on average over draws; with 168 images three standard errors are 9 per cent.
    assert after["hedged"]["correct"] > 0.8 - 0.09
    assert after["hedged"]["level"] == calibration.threshold(0.8)
    assert after["hedged"]["mean_length"] > before["hedged"]["mean_length"]


def test_a_target_that_so_few_images_cannot_guarantee_is_refused(trained: Path) -> None:
    with pytest.raises(UsageError, match=r"20 images cannot guarantee that 0\.99 of the answers are correct"):
        calibrate_model(_request(trained), (0.99,), most=20)


def test_calibration_of_another_head_is_refused(trained: Path, calibration: Calibration) -> None:
    from dataclasses import replace

    with pytest.raises(LabelSpaceMismatch, match="The calibration is of label space"):
        validate_model(_request(trained), calibration=replace(calibration, sha256="0" * 64))
    with pytest.raises(UsageError, match=r"holds no threshold for accuracy 0\.83"):
        validate_model(_request(trained), hedge=0.83, calibration=calibration)


def test_prediction_accepts_the_calibration(trained: Path, tmp_path: Path, calibration: Calibration) -> None:
    path = tmp_path / "calibration.json"
    calibration.save(path)
    assert load_calibration(path) == calibration
    image = trained / "val" / "red_circle" / "red_circle_0.jpg"
    model = str(trained / "model.safetensors")
    plainly = Predictor(checkpoint=model, device="cpu", hedge=None)(image)
    with_it = Predictor(checkpoint=model, device="cpu", hedge=0.7, calibration=path)(image)
    assert with_it.stop is not None
    assert with_it.stop.calibrated
    assert with_it.stop.hedge == 0.7
    assert all(node.probability >= calibration.threshold(0.7) - 1e-6 for node in with_it.path)
    assert plainly.path[0].probability != with_it.path[0].probability if with_it.path else True


def test_nothing_to_score_is_an_error(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(UsageError, match="None of the 1 images"):
        validate_model(MeasureRequest(str(tmp_path), str(trained / "model.safetensors"), MeasureOptions(device="cpu")))
    with pytest.raises(UsageError, match="leave checkpoint and head out"):
        validate_model(_request(trained, checkpoint="x.safetensors"))


def test_options_of_reading_are_heeded(trained: Path) -> None:
    with pytest.raises(UsageError, match="None of the 168 images"):
        validate_model(_request(trained, max_pixels=100))
