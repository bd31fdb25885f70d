"""Images in folders named by a user's own labels."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from shapes import shape_space, write_folders

from miil21k.errors import LabelSpaceMismatch, UsageError
from miil21k.predict.predictor import Predictor
from miil21k.validate.calibration import calibrate_model
from miil21k.validate.options import MeasureOptions
from miil21k.validate.report import write_report
from miil21k.validate.run import MeasureRequest, validate_model

if TYPE_CHECKING:
    from pathlib import Path

BINS = [("hot", "warm"), ("sunny", "yellow", "hot"), ("sea", "blue")]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders named by the labels, and one, green, that names a class of none of them."""
    root = tmp_path_factory.mktemp("labelled")
    write_folders(root, 12, seed=5, names=("red", "yellow", "blue", "green"))
    for colour, label in (("red", "hot"), ("yellow", "sunny"), ("blue", "sea")):
        (root / colour).rename(root / label)
    return root


@pytest.fixture
def request_(trained: Path, labelled: Path) -> MeasureRequest:
    options = MeasureOptions(device="cpu", workers=0)
    return MeasureRequest(str(labelled), str(trained / "model.safetensors"), options, bins=BINS)


def test_answers_are_measured_against_the_folders(request_: MeasureRequest, labelled: Path, tmp_path: Path) -> None:
    found = validate_model(request_, hedge=0.6)
    report = found.report
    assert report["images"]["scored"] == 48
    assert report["reading"]["bins"] == ["hot", "sunny", "sea", "other"]
    folders = {"hot": "hot", "sunny": "sunny", "sea": "sea", "green": "other"}
    truth, best, answers = [], [], []
    for prediction in Predictor(request_.model, device="cpu", bins=BINS, hedge=0.6, workers=0).stream(
        [f"{labelled}/*/*"]
    ):
        own = {one.label: one.probability for one in prediction.bins.labels}  # type: ignore[union-attr]
        own["hot"] -= own["sunny"]
        truth.append(folders[prediction.input.split("/")[-2]])
        best.append(max(own, key=lambda label: own[label]))
        answers.append(prediction.bins.label)  # type: ignore[union-attr]
    metrics = report["metrics"]
    assert metrics["bins"]["accuracy"] == pytest.approx(np.mean(np.array(truth) == best))
    assert metrics["bins"]["accuracy"] > 0.5
    given = np.array([answer is not None for answer in answers])
    right = np.array([(said, label) == ("hot", "sunny") or said == label for said, label in zip(answers, truth)])  # noqa: B905
    assert metrics["hedged"]["answered"] == pytest.approx(given.mean())
    assert metrics["hedged"]["correct_of_answered"] == pytest.approx(right[given].mean())
    assert repr(found) == f"Validation('model.safetensors', 48 images, top-1 {metrics['bins']['accuracy']:.4f})"
    assert {"labels.csv", "confusion.csv", "validation.json"} <= set(write_report(tmp_path, report, found.card))
    rows = list(csv.DictReader((tmp_path / "labels.csv").read_text().splitlines()))
    assert [(row["label"], row["parent"], row["images"]) for row in rows] == [
        ("hot", "", "12"), ("sunny", "hot", "12"), ("sea", "", "12"), ("other", "", "12"),
    ]  # fmt: skip
    confusion = list(csv.DictReader((tmp_path / "confusion.csv").read_text().splitlines()))
    diagonal = sum(int(row["images"]) for row in confusion if row["true"] == row["predicted"])
    assert diagonal == round(48 * metrics["bins"]["accuracy"])


def test_a_calibration_of_bins_is_fitted_and_applied(request_: MeasureRequest, labelled: Path, tmp_path: Path) -> None:
    found = calibrate_model(request_, (0.7,))
    assert 0.7 in [accuracy for accuracy, _ in found.bin_thresholds]
    found.save(tmp_path / "c.json")
    report = validate_model(request_, hedge=0.7, calibration=found).report
    assert report["metrics"]["hedged"]["level"] == found.threshold(0.7, "bins")
    predictor = Predictor(request_.model, device="cpu", bins=BINS, hedge=0.7, calibration=tmp_path / "c.json")
    assert predictor.notes[-1].startswith("The calibration is of bins alone")
    row = predictor(next((labelled / "sea").iterdir()))
    assert row.bins is not None
    assert row.bins.level == found.threshold(0.7, "bins")
    with pytest.raises(UsageError, match=r"cannot guarantee that 0\.999"):
        calibrate_model(request_, (0.999,))


def test_folders_that_are_no_labels_and_views_are_refused(request_: MeasureRequest, tmp_path: Path) -> None:
    write_folders(tmp_path, 1, names=("red",))
    (tmp_path / "red").rename(tmp_path / "reed")
    with pytest.raises(UsageError, match=r"'reed' .*The labels are: hot, sunny, sea, other|'reed' "):
        validate_model(replace(request_, data=str(tmp_path)))
    with pytest.raises(LabelSpaceMismatch, match="beside no label"):
        validate_model(replace(request_, data=str(tmp_path / "reed")))
    with pytest.raises(UsageError, match="--view in1k is of images labelled with classes"):
        validate_model(replace(request_, view="in1k"))
    assert shape_space().num_classes == 14
