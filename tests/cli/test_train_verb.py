from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from shapes import shape_space, write_folders

from miil21k.cli.main import main
from miil21k.cli.train import _duration
from miil21k.train.objectives import OBJECTIVES, CrossEntropy
from miil21k.train.recipes import RECIPES
from miil21k.zoo.checkpoint_card import read_card

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    write_folders(root / "train", 3, seed=0)
    write_folders(root / "val", 1, seed=1)
    (root / "shapes.tsv").write_text(shape_space().to_text())
    return root


def _words(data: Path, folder: Path) -> list[str]:
    return [
        "train", str(data / "train"), "-m", "test_resnet", "-o", str(folder), "--label-space", str(data / "shapes.tsv"),
        "--device", "cpu", "-j", "0", "--epochs", "1", "--batch-size", "14", "--image-size", "32",
        "--from-scratch",
    ]  # fmt: skip


def test_train_prints_the_checkpoint_on_stdout_and_progress_on_stderr(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*_words(data, tmp_path / "run"), "--val", str(data / "val"), "--set", "label_smoothing=0.1"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'run' / 'best.safetensors'}\n"
    assert (
        "\n42 images of 14 classes (label space 'shapes'), 14 to validate; test_resnet from random weights, by " in err
    )
    assert "epoch 1/1  update 3/3  loss" in err
    assert "ETA 0:00:00  waiting for data" in err
    assert "best semantic_top1 " in err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["recipe"]["label_smoothing"] == 0.1
    assert config["recipe_name"] == "miil_semantic"
    again = [*_words(data, tmp_path / "again"), "--recipe", str(tmp_path / "run" / "recipe.json"), "-q"]
    assert main(again) == 0
    assert json.loads((tmp_path / "again" / "recipe.json").read_text()) == config["recipe"]
    assert capsys.readouterr().out == f"{tmp_path / 'again' / 'last.safetensors'}\n"
    assert main([*words, "--resume", "-q"]) == 0
    assert capsys.readouterr() == (out, "")


def test_what_a_short_run_changes_in_its_recipe_is_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*_words(data, tmp_path / "run"), "--recipe", "finetune"]
    assert main(words) == 0
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first == "For 1 epoch(s): warmup_epochs 0 instead of 3; --set says otherwise"
    assert second.startswith("Looking for images in ")
    assert main(words) == 2
    assert "go on with --resume, start it anew with --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite", "-q"]) == 0


def test_without_validation_the_last_checkpoint_is_the_result(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*_words(data, tmp_path / "run"), "-q"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'run' / 'last.safetensors'}\n"
    assert not (tmp_path / "run" / "best.safetensors").exists()
    assert "epoch" not in err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--set", "epocks=3"], "Did you mean 'epochs'?"),
        (["--set", "lr"], "--set takes FIELD=VALUE, not 'lr'"),
        (["--set", "epochs=3"], "'epochs' is given twice"),
        (["--recipe", "mil_semantic"], "Did you mean 'miil_semantic'?"),
        (["--set", "objective=usl"], "No objective 'usl'. Did you mean 'usi'?"),
        (["--set", "label_smoothing=1"], "The recipe's label_smoothing lies at least 0 and below 1, not 1.0"),
        (["--device", "tpu"], "No device 'tpu'"),
        (["--label-space", "winter20"], "Did you mean"),
        (["-m", "test_resnex"], "No weight 'test_resnex'"),
    ],
)
def test_usage_errors_are_one_sentence_and_exit_2(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    assert main([*_words(data, tmp_path / "run"), *extra]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("miil21k train: ")
    assert message in last
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["-j", "-1"], "-j/--workers: must be at least 0, not -1"),
        (["--log-every", "0"], "--log-every: must be at least 1, not 0"),
        (["--lr", "0"], "--lr: must be above 0, not 0.0"),
        (["--label-smoothing", "1"], "--label-smoothing: lies at least 0 and below 1, not 1.0"),
        (["--precision", "fp8"], "--precision: must be fp32 or fp16 or bf16, not 'fp8'"),
    ],
)
def test_an_option_out_of_bounds_is_refused_by_its_declaration(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*_words(data, tmp_path / "run"), *extra])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_data_and_model_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 2
    assert "Training needs DATA and --model" in capsys.readouterr().err


def test_list_recipes_tells_source_and_expectation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list-recipes"]) == 0
    out = capsys.readouterr().out
    assert "miil_semantic\n  source: Alibaba-MIIL/ImageNet21K, train_semantic_softmax.py" in out
    assert out.count("(not reproduced by us)") == len(RECIPES)


def test_the_hierarchy_that_trained_a_model_is_taken_by_every_verb_after_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = shape_space()
    leaves = tuple(name for name in space.wnids if "_" in name)
    images = write_folders(tmp_path / "images", 8, names=leaves)
    hierarchy = tmp_path / "own.csv"
    rows = [
        f"{name},{space.tree.wnids[above] if above >= 0 else ''}"
        for name, above in zip(space.wnids, space.tree.parent, strict=True)
    ]
    hierarchy.write_text("child,parent\n" + "\n".join(rows) + "\n")
    words = [*_words(images.parent, tmp_path / "run"), "-q"]
    words[1] = str(images)
    words[words.index("--label-space") + 1] = str(hierarchy)
    assert main(words) == 0  # a class for every one of the 14 nodes, by semantic softmax
    weights = capsys.readouterr().out.strip()
    own = ["-m", weights, "--label-space", str(hierarchy), "--device", "cpu"]
    assert main(["validate", str(images), *own, "-j", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["metrics"]["semantic"]["semantic_top1"] <= 1
    assert main(["calibrate", str(images), *own, "-j", "1", "-o", str(tmp_path / "c.json")]) == 0
    capsys.readouterr()
    assert main(["predict", str(images / "red_circle" / "red_circle_0.jpg"), *own, "-f", "jsonl"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["label_space_sha256"] == space.sha256


def test_a_list_trains_validates_and_calibrates(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    colours = ("red_circle", "blue_square")
    rows = [
        f"{split}/{name}/{name}_{number}.jpg,{name},{split}"
        for split, count in (("train", 3), ("val", 1))
        for name in colours
        for number in range(count)
    ]
    listed = tmp_path / "shapes.csv"
    listed.write_text("file,class,split\n" + "\n".join(rows) + "\n")
    words = [*_words(data, tmp_path / "run"), "--root", str(data), "--batch-size", "2"]
    words[1] = str(listed)
    del words[words.index("--label-space") : words.index("--label-space") + 2]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "6 images of 2 classes (label space 'shapes'), 2 to validate" in err
    assert read_card(tmp_path / "run" / "best.safetensors").space.wnids == ("blue_square", "red_circle")
    own = [str(listed), "--root", str(data), "-m", out.strip(), "--device", "cpu", "-j", "0"]
    assert main(["validate", *own, "--split", "val"]) == 0
    assert json.loads(capsys.readouterr().out)["images"]["scored"] == 2
    assert main(["calibrate", *own, "--split", "train", "-q", "-o", str(tmp_path / "c.json")]) == 0
    assert main(["validate", *own]) == 2
    assert "holds train and val, the parts of a data set" in capsys.readouterr().err


@dataclass(frozen=True, eq=False)
class Doubled(CrossEntropy):
    """Twice the cross-entropy of another, and of a head of another kind."""

    head = "sigmoid"

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, share: float = 1.0
    ) -> dict[str, torch.Tensor]:
        result = super().__call__(model, images, labels, share)
        return {**result, "loss": 2 * result["loss"]}


def _first_loss(folder: Path) -> float:
    return float(json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"])


def test_a_new_objective_and_a_new_recipe_are_one_entry_each(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = replace(RECIPES["miil_single_label"], pretrained=False)
    monkeypatch.setitem(OBJECTIVES, "doubled", Doubled)
    monkeypatch.setitem(RECIPES, "flat", flat)
    monkeypatch.setitem(RECIPES, "mine", replace(flat, objective="doubled", lr=0.125, schedule="constant"))
    for name in ("flat", "mine"):
        words = [*_words(data, tmp_path / name), "--recipe", name, "--log-every", "1", "-q"]
        assert main(words) == 0
    assert _first_loss(tmp_path / "mine") == pytest.approx(2 * _first_loss(tmp_path / "flat"), rel=1e-6)
    rows = [json.loads(line) for line in (tmp_path / "mine" / "metrics.jsonl").read_text().splitlines()]
    assert {row["lr"] for row in rows} == {0.125}
    card = read_card(tmp_path / "mine" / "last.safetensors")
    assert card is not None
    assert (card.head, card.recipe) == ("sigmoid", "mine")
    capsys.readouterr()
    assert main(["train", "--list-recipes"]) == 0
    assert "\nmine\n  source: Alibaba-MIIL" in capsys.readouterr().out


def test_durations_read_as_hours_minutes_seconds() -> None:
    assert _duration(3725.4) == "1:02:05"
    assert _duration(float("nan")) == "unknown"
