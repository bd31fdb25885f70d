"""The plan, by real trainings of a tiny network: four steps, each done once, gone on with, redone where it must be."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from colour_export import write_colour_export
from safetensors.torch import load_file
from shapes import shape_space, write_folders

from miil21k.errors import LabelSpaceMismatch, UsageError
from miil21k.store.integrity import sha256_of
from miil21k.teachers import semisup as module
from miil21k.teachers.options import SemisupOptions
from miil21k.teachers.semisup import SemisupRequest, train_semisupervised
from miil21k.zoo.checkpoint_card import read_card

if TYPE_CHECKING:
    from pathlib import Path

QUICK = (
    "image_size=32",
    "finetune.epochs=1",
    "pretrain.steps=4",
    "teacher.pretrained=false",
    "teacher.epochs=1",
    "teacher.precision=fp32",
    "teacher.batch_size=14",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """labelled/ and val/ by class, pool/ without: 42 images, one of them val's, and a file that is none; an export."""
    root = tmp_path_factory.mktemp("semisup")
    (root / "shapes.tsv").write_text(shape_space().to_text(), encoding="utf-8")
    write_folders(root / "labelled", 1, seed=0)
    write_folders(root / "val", 1, seed=1)
    drawn = write_folders(root / "drawn", 3, seed=2)
    (root / "pool").mkdir()
    for path in drawn.rglob("*.jpg"):
        path.rename(root / "pool" / path.name)
    (root / "pool" / "blue_circle_0.jpg").write_bytes((root / "val/blue_circle/blue_circle_0.jpg").read_bytes())
    (root / "pool" / "odd.jpg").write_text("no picture", encoding="utf-8")
    write_colour_export(root / "teacher.onnx")
    return root


def request(data: Path, folder: Path, teacher: str = "", **changes: Any) -> SemisupRequest:
    values = {"changes": QUICK, "per_class": 3, "per_image": 1}
    values |= {"batch_size": 14, "workers": 0, "device": "cpu", "label_space": str(data / "shapes.tsv")}
    options = SemisupOptions(**{**values, **changes})
    teacher = teacher or str(data / "teacher.onnx")
    return SemisupRequest(str(data / "labelled"), (str(data / "pool"),), teacher, "test_resnet", folder, options)


def test_four_steps_are_done_once_and_what_changes_is_done_anew_when_that_is_said(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    plan = request(data, tmp_path / "plan", "test_resnet", train_teacher="always", val=str(data / "val"))
    with caplog.at_level("INFO", "miil21k"):
        report = train_semisupervised(plan, say=said.append)
    assert [step["step"] for step in report["steps"]] == ["teacher", "select", "pretrain", "finetune"]
    for step in report["steps"]:
        assert sha256_of(plan.folder / step["output"]) == step["sha256"]
    teacher, select, pretrain, finetune = (step["report"] for step in report["steps"])
    assert (select["images"], select["unreadable"]) == (43, 1)
    assert 0 < select["rows"] <= 42
    assert pretrain["update"] == 4
    assert all(0 <= one["val_top1"] <= 1 for one in (teacher, pretrain, finetune))
    card = read_card(plan.folder / report["model"])
    assert card is not None
    assert (card.space.sha256, card.recipe) == (shape_space().sha256, "ssl_finetune")
    assert "1 image could not be read" in caplog.text
    assert json.loads((plan.folder / "report.json").read_text(encoding="utf-8")) == report

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a step was done again")

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_model", never)
        patch.setattr(module, "select_pool", never)
        assert train_semisupervised(plan) == report
        longer = replace(plan, options=replace(plan.options, changes=(*plan.options.changes, "finetune.epochs=2")))
        with pytest.raises(UsageError, match=r"holds the step 'finetune' of another plan: recipe.epochs was 1, is 2"):
            train_semisupervised(longer)
    again = train_semisupervised(replace(longer, options=replace(longer.options, overwrite=True)))
    assert [a == b for a, b in zip(report["steps"], again["steps"], strict=True)] == [True, True, True, False]
    measured = [json.loads(line) for line in (plan.folder / "finetune/metrics.jsonl").read_text("utf-8").splitlines()]
    ends = [row for row in measured if row["kind"] == "epoch"]
    assert len(ends) == 2
    best = max(ends, key=lambda row: (row["val_semantic_top1"], -row["epoch"]))
    assert again["steps"][3]["report"] == {key: best[key] for key in again["steps"][3]["report"]}, "best.safetensors"
    assert set(again["steps"][3]["report"]) > {"epoch", "val_semantic_top1"}


def test_a_plan_that_was_killed_in_pretraining_goes_on_there_to_the_same_weights(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = request(data, tmp_path / "plan", val=str(data / "val"), per_class=50)
    with caplog.at_level("INFO", "miil21k"):
        whole = train_semisupervised(plan)
    assert [step["step"] for step in whole["steps"]] == ["select", "pretrain", "finetune"], "it has these classes"
    assert f"lie in '{data / 'val'}' too, byte for byte" in caplog.text
    killed = replace(plan, folder=tmp_path / "killed")

    def kill(report: Any) -> None:
        if report.update == 4 and report.metrics is not None:  # the state of update 3 is saved
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_semisupervised(killed, kill)
    said: list[str] = []
    found = train_semisupervised(killed, say=said.append)
    assert "select: done before, selected.parquet" in said
    assert "pretrain: goes on" in said
    assert found["steps"][0]["sha256"] == whole["steps"][0]["sha256"]
    for step in found["steps"][1:]:  # the digests differ: safetensors writes its notes in no order
        mine, theirs = (load_file(one.folder / step["output"]) for one in (killed, plan))
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_teacher_of_other_classes_is_refused_with_the_way_out(data: Path, tmp_path: Path) -> None:
    (tmp_path / "labelled" / "n02084071").mkdir(parents=True)
    (tmp_path / "labelled" / "n00005787").mkdir()
    for name in ("n02084071", "n00005787"):
        (tmp_path / "labelled" / name / "a.jpg").write_bytes((data / "pool/red_0.jpg").read_bytes())
    given = request(data, tmp_path / "plan", label_space=None)
    given = replace(given, labelled=str(tmp_path / "labelled"))
    with pytest.raises(LabelSpaceMismatch, match=r"lacks 2 of the 2 classes .*--train-teacher always trains it"):
        train_semisupervised(given)
    never = replace(given, teacher="embedded", options=replace(given.options, train_teacher="never"))
    with pytest.raises(LabelSpaceMismatch, match=r"no concept for 1 of the 2 classes \(n00005787\)"):
        train_semisupervised(never)
    unknown = replace(never, teacher="test_resnet")
    with pytest.raises(LabelSpaceMismatch, match="Nobody has told in which classes"):
        train_semisupervised(unknown)
    with pytest.raises(UsageError, match="There is no teacher"):
        train_semisupervised(replace(given, teacher="gone.onnx"))
    assert not list((tmp_path / "plan").glob("*.json")), "nothing was begun"
