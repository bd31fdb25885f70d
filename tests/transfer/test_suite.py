"""A suite of data sets: its file, the division of the images, the choice of a method, and the means."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from miil21k.errors import UsageError
from miil21k.transfer.options import SuiteOptions, TransferOptions
from miil21k.transfer.suite import SuiteSet, divide, group_means, read_suite, run_suite

if TYPE_CHECKING:
    from pathlib import Path

TOML = """
[[datasets]]
name = "colours"
data = "colours"
group = "natural"
flip = false

[[datasets]]
name = "gone"
data = "gone"
group = "structured"
"""


def test_a_suite_is_read_from_toml_json_and_csv(tmp_path: Path) -> None:
    pytest.importorskip("tomllib")
    (tmp_path / "colours").mkdir()
    wanted = (
        SuiteSet("colours", str(tmp_path / "colours"), "natural", flip=False),
        SuiteSet("gone", "gone", "structured"),
    )
    (tmp_path / "a.toml").write_text(TOML)
    sets = [
        {"name": "colours", "data": "colours", "group": "natural", "flip": False},
        {"name": "gone", "data": "gone", "group": "structured"},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"datasets": sets}))
    (tmp_path / "a.csv").write_text("name,data,group,flip\ncolours,colours,natural,false\ngone,gone,structured,\n")
    for suffix in ("toml", "json", "csv"):
        assert read_suite(tmp_path / f"a.{suffix}").datasets == wanted


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "", "none of .toml, .json, .csv"),
        ("a.json", '{"datasets": []}', "names no data sets"),
        ("a.json", '{"datasets": [{"name": "a"}]}', "missing key 'data'"),
        ("a.csv", "name,data,colour\na,b,red\n", "unknown key 'colour'"),
        ("a.csv", "name,data,flip\na,b,maybe\n", "expected bool, found 'maybe'"),
        ("a.csv", "name,data\na,b\na,c\n", "names 'a' twice"),
        ("a.csv", "name,data\na,b,c\n", "unknown key"),
        ("a.toml", "datasets = [", "is no TOML"),
    ],
)
def test_a_suite_that_says_something_else_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    if name.endswith("toml"):
        pytest.importorskip("tomllib")
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=said):
        read_suite(tmp_path / name)


def test_images_are_divided_at_random_with_every_class_in_the_first_part() -> None:
    labels = np.array([0] * 500 + [1] * 499 + [2], np.int32)
    first, second = divide(labels, 80, 20, 3)
    assert (len(first), len(second)) == (80, 20)
    assert not set(first.tolist()) & set(second.tolist())
    assert set(labels[first].tolist()) == {0, 1, 2}
    assert divide(labels, 80, 20, 3)[1].tolist() == second.tolist() != divide(labels, 80, 20, 4)[1].tolist()
    few, fewer = divide(labels[:100], 800, 200, 0)
    assert (len(few), len(fewer)) == (80, 20)
    with pytest.raises(UsageError, match="3 classes cannot be divided into 2 to learn from"):
        divide(labels, 2, 20, 0)


def test_means_are_of_groups_and_of_all_and_count_failures() -> None:
    rows: list[dict[str, Any]] = [
        {"model": "m", "group": "natural", "accuracy": 0.5},
        {"model": "m", "group": "natural", "accuracy": 0.7},
        {"model": "m", "group": "structured", "accuracy": 0.1},
        {"model": "m", "group": "structured", "accuracy": None},
    ]
    found = {row["group"]: (row["accuracy"], row["datasets"], row["failed"]) for row in group_means(rows)}
    assert found["natural"] == (pytest.approx(0.6), 2, 0)
    assert found["structured"] == (0.1, 1, 1)
    assert found["all"] == (pytest.approx(1.3 / 3), 3, 1)


def test_a_method_is_chosen_on_the_validation_images_and_rows_are_not_repeated(tmp_path: Path) -> None:
    pytest.importorskip("tomllib")
    for part, count in (("train", 8), ("test", 3)):
        for label in range(3):
            for image in range(count):
                path = tmp_path / "colours" / part / "abc"[label] / f"{image}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = np.random.default_rng([label, image, count]).integers(0, 60, (40, 40, 3))
                Image.fromarray((noise + 80 * np.eye(3, dtype=np.int64)[label]).astype(np.uint8)).save(path)
    weights = tmp_path / "own.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model("test_convnext", num_classes=5).state_dict(), weights)
    (tmp_path / "a.toml").write_text(TOML)
    settings = TransferOptions(img_size=64, workers=0, device="cpu")
    options = SuiteOptions((f"test_convnext={weights}",), ("ridge", "knn"), 15, 5, settings)
    suite, said = read_suite(tmp_path / "a.toml"), list[str]()
    found = run_suite(suite, options, tmp_path / "out", say=said.append)
    colours, gone = found["rows"]
    assert (colours["status"], colours["num_train"], colours["num_test"], colours["classes"]) == ("ok", 20, 9, 3)
    assert set(colours["compared"]) == {"ridge", "knn"}
    assert colours["method"] == max(("ridge", "knn"), key=lambda name: colours["compared"][name])
    assert colours["accuracy"] > 0.6
    assert (gone["status"], gone["accuracy"]) == ("failed", None)
    assert "gone" in gone["reason"]
    said.clear()
    again = run_suite(suite, options, tmp_path / "out", say=said.append, resume=True)
    assert again == found
    assert [line for line in said if line.startswith("colours")] == []
    with pytest.raises(UsageError, match=r"\(methods\)"):
        run_suite(suite, replace(options, methods=("knn",)), tmp_path / "out", resume=True)
    (tmp_path / "colours" / "train" / "a" / "0.png").unlink()
    said.clear()
    run_suite(suite, options, tmp_path / "out", say=said.append, resume=True)
    assert [line.partition(",")[0] for line in said if line.startswith("colours")] == ["colours"]
