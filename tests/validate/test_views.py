from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import shape_space, write_folders

from miil21k.data.datasets import open_source
from miil21k.errors import LabelSpaceMismatch, UsageError
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import projection
from miil21k.train.state import save_weights
from miil21k.validate.calibration import calibrate_model
from miil21k.validate.options import MeasureOptions
from miil21k.validate.run import MeasureRequest, validate_model
from miil21k.validate.views import choose_view, without_withdrawn
from miil21k.zoo.checkpoint_card import TrainedCard
from miil21k.zoo.schema import Preprocess

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PREPROCESS = Preprocess((3, 32, 32), "bilinear", 1.0, "squash", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "test")
MISSING_NINE = (
    "n02085782", "n02089078", "n02089867", "n02089973", "n02091635", "n02108000", "n02112706", "n02113978", "n04399382",
)  # fmt: skip


def _folders(root: Path, wnids: Iterable[str]) -> str:
    root.mkdir(exist_ok=True)
    picture = root / "picture.png"
    Image.new("RGB", (2, 2)).save(picture)
    for wnid in wnids:
        (root / "images" / wnid).mkdir(parents=True)
        os.link(picture, root / "images" / wnid / "0.png")
    return str(root / "images")


@pytest.mark.parametrize("head", ["fall11", "winter21"])
def test_a_21k_head_is_scored_on_the_991_classes_it_shares_with_imagenet_1k(tmp_path: Path, head: str) -> None:
    space = load_label_space(head)
    source = open_source(_folders(tmp_path, load_label_space("in1k").wnids))
    with pytest.raises(LabelSpaceMismatch, match="they share with --view in1k"):
        choose_view(source, space)
    view = choose_view(source, space, view="in1k")
    assert len(view.images) == 991
    assert view.images.skipped == MISSING_NINE
    assert view.allowed is not None
    assert view.allowed.sum() == 991
    assert view.allowed[view.images.labels].all()
    assert view.space is space
    assert view.notes[0].startswith("9 class folders cannot be answered by this head and were skipped: n02085782")


def test_the_991_folders_alone_give_the_same_view(tmp_path: Path) -> None:
    wnids = [wnid for wnid in load_label_space("in1k").wnids if wnid not in MISSING_NINE]
    view = choose_view(open_source(_folders(tmp_path, wnids)), load_label_space("winter21"), view="in1k")
    assert len(view.images) == 991
    assert view.images.skipped == ()
    assert view.notes == ()


def test_other_folders_are_refused_as_imagenet_1k(tmp_path: Path) -> None:
    source = open_source(_folders(tmp_path, ["n00005787", "n02123045"]))
    with pytest.raises(LabelSpaceMismatch, match="1 of 2 class folders are no classes of ImageNet-1K: n00005787"):
        choose_view(source, load_label_space("fall11"), view="in1k")
    with pytest.raises(UsageError, match="leave --label-space out"):
        choose_view(source, load_label_space("fall11"), view="in1k", label_space="winter21")
    with pytest.raises(UsageError, match="No view 'imagenet'"):
        choose_view(source, load_label_space("fall11"), view="imagenet")


def test_a_fall11_head_on_winter21_folders_is_refused_or_projected(tmp_path: Path) -> None:
    fall11, winter21 = load_label_space("fall11"), load_label_space("winter21")
    source = open_source(_folders(tmp_path, winter21.wnids))
    with pytest.raises(LabelSpaceMismatch, match="use --label-space winter21"):
        choose_view(source, fall11)
    view = choose_view(source, fall11, label_space="winter21")
    assert view.space is winter21
    assert view.images.labels.tolist() == list(range(10_450))
    logits = np.arange(11_221, dtype=np.float32)[None]
    projected = view.decoder(fall11, "leaf_softmax").project(logits)[0]
    assert np.array_equal(projected, projection(fall11, winter21))
    with pytest.raises(LabelSpaceMismatch, match="771 of its 11221"):
        choose_view(source, winter21, label_space="fall11")


def test_a_projected_head_answers_in_the_other_label_space(tmp_path: Path) -> None:
    fall11 = load_label_space("fall11")
    card = TrainedCard("test_resnet", {}, "leaf_softmax", fall11, PREPROCESS, "none", {})
    model = card.build()
    with torch.no_grad():
        model.get_parameter("fc.weight").zero_()
        model.get_parameter("fc.bias")[fall11.tree.index("n02123045")] = 9.0  # tabby, whatever the image
    save_weights(tmp_path / "model.safetensors", model.state_dict(), card.to_metadata())
    data = _folders(tmp_path, ["n02123045", "n02084071", "n15102894", "n00005787"])
    request = MeasureRequest(
        data, str(tmp_path / "model.safetensors"), MeasureOptions(label_space="winter21", device="cpu")
    )
    report = validate_model(request).report
    assert report["metrics"]["flat"]["top1"] == 0.25
    assert report["view"]["label_space"] == "winter21"
    assert report["model"]["label_space"] == "fall11"


def test_folders_of_any_noun_are_scored_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    in1k = load_label_space("in1k")
    card = TrainedCard("test_resnet", {}, "leaf_softmax", in1k, PREPROCESS, "none", {})
    model = card.build()
    with torch.no_grad():
        model.get_parameter("fc.weight").zero_()
        model.get_parameter("fc.bias").zero_()[in1k.tree.index("n02110958")] = 30.0  # a pug, whatever the image
    save_weights(tmp_path / "model.safetensors", model.state_dict(), card.to_metadata())
    data = _folders(tmp_path, ["n02110958", "dog", "bird", "okapi"])
    request = MeasureRequest(data, str(tmp_path / "model.safetensors"), MeasureOptions(device="cpu"))
    found = validate_model(request)
    images, metrics = found.report["images"], found.report["metrics"]
    assert (images["scored"], images["scored_of_classes"]) == (4, 1)
    assert [row["name"] for row in images["labels_that_are_no_classes"]] == ["bird", "dog", "okapi"]
    assert metrics["flat"]["top1"] == 1  # of the pug alone
    assert metrics["hedged"]["correct_of_answered"] == 0.5  # pug and dog
    assert metrics["semantic"]["path_accuracy"] == 0.5
    assert "3 of 4 labels are no classes of 'in1k': what lies at or above one is right" in found.notes[0]
    with pytest.raises(UsageError, match="cannot guarantee"):
        calibrate_model(
            MeasureRequest(_folders(tmp_path / "other", ["dog", "bird", "okapi", "n02110958", "fish"]), request.model),
            (0.9,),
        )
    assert "1 of 5 images were left out: their labels are no nodes of 'in1k'." in caplog.text


def test_withdrawn_classes_are_left_out_as_prediction_leaves_them_out(tmp_path: Path) -> None:
    fall11 = load_label_space("fall11")
    source = open_source(_folders(tmp_path, fall11.wnids))
    masked = without_withdrawn(choose_view(source, fall11), source)
    assert len(masked.images) == 10_450
    assert masked.mask is not None
    assert (~masked.mask).sum() == 771
    winter21 = load_label_space("winter21")
    (tmp_path / "other").mkdir()
    source = open_source(_folders(tmp_path / "other", ["n02084071"]))
    view = choose_view(source, winter21)
    assert without_withdrawn(view, source) is view


def test_a_few_folders_are_scored_and_the_report_says_how_few(tmp_path: Path) -> None:
    source = open_source(str(write_folders(tmp_path, 2, names=("red", "blue_square"))))
    view = choose_view(source, shape_space())
    assert len(view.images) == 4
    assert view.notes == ("Images of 2 of the 14 classes that can be answered are here.",)
