"""Who may teach, what the teacher sees, and runs that learn from one with labels, beside them and without any."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import runs
import timm
import torch
from colour_export import EDGE, write_colour_export
from safetensors.torch import save_file
from shapes import draw_shape, shape_space, write_folders
from torch import nn

from miil21k.errors import CheckpointError, ExportError, LabelSpaceMismatch, Miil21kError, UnknownModel, UsageError
from miil21k.hierarchy.load import load_label_space
from miil21k.runtime.loading import Loaded, load_model
from miil21k.runtime.options import LoadOptions
from miil21k.runtime.resolve import resolve
from miil21k.train.teachers import OpenedTeacher, open_teacher
from miil21k.zoo.checkpoint_card import read_card
from miil21k.zoo.schema import Preprocess

if TYPE_CHECKING:
    from pathlib import Path

SPACE = shape_space()
LEAVES = tuple(wnid for wnid in SPACE.wnids if "_" in wnid)
USI = replace(
    runs.TINY, objective="usi", teacher="x", kd_weight=5.0, label_smoothing=0.0, epochs=1, policy="", cutout=0.0
)
STUDENT = Preprocess((3, 32, 32), "bilinear", 1.0, "squash", (0.5, 0.4, 0.3), (0.2, 0.25, 0.5), "student")


def _opened(model: nn.Module, size: int, head: str = "leaf_softmax") -> OpenedTeacher:
    own = Preprocess((3, size, size), "bilinear", 1.0, "squash", (0.1, 0.2, 0.3), (0.3, 0.3, 0.25), "teacher")
    return OpenedTeacher(Loaded(model, "own", SPACE, head, own), "0" * 64)  # type: ignore[arg-type]


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    write_colour_export(tmp_path / "colours.onnx")
    return tmp_path / "colours.onnx"


def test_batch_norms_of_the_teacher_are_folded_by_the_graph_and_its_answers_stay() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=14)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    model.eval()
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.3, 0.3, 0.25]).view(3, 1, 1)
    expected = model((pixels - mean) / std)
    teacher = _opened(model, 160).teach(USI, SPACE, STUDENT, "leaf_softmax")
    seen = (pixels - torch.tensor(STUDENT.mean).view(3, 1, 1)) / torch.tensor(STUDENT.std).view(3, 1, 1)
    torch.testing.assert_close(teacher(seen), expected, atol=1e-4, rtol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in teacher.model.modules())


def test_the_teacher_computes_in_the_precision_of_the_recipe_also_inside_autocast() -> None:
    torch.manual_seed(0)
    plain = timm.create_model("test_resnet", num_classes=14)
    images = torch.rand(2, 3, 32, 32)
    exact = _opened(plain, 32).teach(USI, SPACE, STUDENT, "leaf_softmax")(images)
    half = _opened(plain, 32).teach(replace(USI, precision="bf16"), SPACE, STUDENT, "leaf_softmax")
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        found = half(images)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().max() < 0.05


def test_images_keep_their_size_where_the_network_takes_any_and_are_resized_where_it_does_not() -> None:
    free, fixed = timm.create_model("test_resnet", num_classes=14), timm.create_model("test_vit", num_classes=14)
    own = fixed.pretrained_cfg["input_size"][1]
    assert _opened(free, 160).teach(USI, SPACE, STUDENT, "leaf_softmax").size == 0
    assert _opened(free, 160).teach(replace(USI, teacher_image_size=64), SPACE, STUDENT, "leaf_softmax").size == 64
    teacher = _opened(fixed, own).teach(USI, SPACE, STUDENT, "leaf_softmax")
    assert teacher.size == own == 160
    assert teacher(torch.rand(2, 3, 32, 32)).shape == (2, 14)
    with pytest.raises(UsageError, match=r"images of 160 x 160 pixels alone: leave teacher_image_size out"):
        _opened(fixed, own).teach(replace(USI, teacher_image_size=64), SPACE, STUDENT, "leaf_softmax")


def test_the_opening_says_which_teacher_answers_how_and_what_it_sees(colours: Path) -> None:
    free = _opened(timm.create_model("test_resnet", num_classes=14), 160)
    said = free.sentence(replace(USI, precision="bf16"), 32)
    assert "answers through torch in bf16 and sees 32 pixels, though it was trained on 160" in said
    assert said.endswith("--set teacher_image_size=160 resizes images for it")
    opened = open_teacher(replace(USI, teacher=str(colours)))
    assert opened is not None
    said = opened.sentence(replace(USI, teacher=str(colours)), 32)
    assert re.search(rf"answers through (ONNX Runtime|OpenVINO) in fp32 and sees {EDGE} pixels$", said)


def test_a_runtime_that_refuses_an_export_is_passed_over(colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    able = {"onnx"}

    def some(name: str, options: LoadOptions) -> Loaded:
        if options.backend not in able:
            raise ExportError(f"its answers would be others in {options.backend}")
        return resolve(name, options)

    monkeypatch.setattr("miil21k.train.teachers.resolve", some)
    opened = open_teacher(replace(USI, teacher=str(colours)))
    assert opened is not None
    assert opened.loaded.runtime == "onnx"
    able.clear()
    with pytest.raises(ExportError, match="would be others in"):
        open_teacher(replace(USI, teacher=str(colours)))


def test_an_export_teaches_pixels_that_are_resized_and_normalised_for_it(colours: Path) -> None:
    recipe = replace(USI, teacher=str(colours))
    opened = open_teacher(recipe)
    assert opened is not None
    teacher = opened.teach(recipe, SPACE, STUDENT, "leaf_softmax")
    red = torch.tensor([220, 40, 40]).view(1, 3, 1, 1).expand(1, 3, 32, 32) / 255
    seen = (red - torch.tensor(STUDENT.mean).view(3, 1, 1)) / torch.tensor(STUDENT.std).view(3, 1, 1)
    best = teacher(seen).softmax(1)[0].topk(2)
    assert {SPACE.wnids[index] for index in best.indices} == {"red_circle", "red_square"}
    assert best.values.sum() > 0.9


def test_an_export_that_takes_bytes_gets_the_pixels_as_grey_levels(tmp_path: Path, colours: Path) -> None:
    write_colour_export(tmp_path / "bytes.onnx", takes_bytes=True)
    images = torch.rand(3, 3, EDGE, EDGE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    student = STUDENT._replace(mean=(0.5,) * 3, std=(0.5,) * 3)
    answers = []
    for path in (colours, tmp_path / "bytes.onnx"):
        opened = OpenedTeacher(load_model(str(path), LoadOptions(backend="onnx", device="cpu")), "0" * 64)
        answers.append(opened.teach(USI, SPACE, student, "leaf_softmax")(images))
    torch.testing.assert_close(*answers, atol=40 * 0.5 / 255, rtol=0)  # half a level, by the largest weight


def test_what_cannot_teach_is_refused_with_the_way_out(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    save_file({"weight": torch.zeros(1)}, tmp_path / "bare.safetensors")
    for name, error, message in [
        ("bad.onnx", CheckpointError, "bad.onnx. is damaged or no ONNX model"),
        ("gone.onnx", UsageError, "There is no teacher"),
        ("gone.safetensors", UsageError, "There is no teacher"),
        ("photo.jpg", UsageError, "does not say what network it is: give a checkpoint of 'miil21k train'"),
        ("bare.safetensors", UsageError, "does not say what network it is"),
    ]:
        with pytest.raises(error, match=message):
            open_teacher(replace(USI, teacher=str(tmp_path / name)))
    with pytest.raises(UnknownModel):
        open_teacher(replace(USI, teacher="no_such_network"))
    whole = _opened(timm.create_model("test_resnet", num_classes=14), 32)
    with pytest.raises(LabelSpaceMismatch, match=r"lacks 1,000 of the 1,000 classes of 'in1k': train it on these"):
        whole.require(USI, load_label_space("in1k"), "leaf_softmax")
    with pytest.raises(UsageError, match=r"has a head of kind level_softmax.*'usi' distils one of kind leaf_softmax"):
        whole._replace(loaded=replace(whole.loaded, head="level_softmax")).require(USI, SPACE, "leaf_softmax")


def test_usi_trains_from_an_export_and_a_changed_teacher_is_another_run(
    shapes: Path, tmp_path: Path, colours: Path
) -> None:
    recipe = replace(USI, teacher=str(colours), mixup=0.8, cutmix=1.0, repeats=2, ema_decay=0.999)
    outcome, reports = runs.run(shapes / "train", tmp_path / "run", recipe, val=str(shapes / "val"))
    assert {"top1", "ema_top1"} <= set(reports[-1].metrics or {})
    assert outcome.metric == "top1"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert len(config["teacher_sha256"]) == 64
    with colours.open("ab") as file:
        file.write(b"\x12\x00")  # a field of ONNX's, empty: the same network in another file
    with pytest.raises(UsageError, match="teacher_sha256 was"):
        runs.run(shapes / "train", tmp_path / "run", recipe, resume=True)


def test_distillation_alone_looks_at_no_label(shapes: Path, tmp_path: Path, colours: Path) -> None:
    flat = tmp_path / "pool"
    flat.mkdir()
    for path in (shapes / "train").rglob("*.jpg"):
        (flat / path.name).write_bytes(path.read_bytes())
    recipe = replace(USI, teacher=str(colours), label_weight=0.0, batch_size=4, epochs=2, lr=1e-2)
    _, reports = runs.run(flat, tmp_path / "run", recipe, label_space=None, val=str(shapes / "val"), log_every=50)
    losses = [report.loss for report in reports if report.metrics is not None]
    assert losses[-1] < 0.6 * losses[0]
    card = read_card(tmp_path / "run" / "last.safetensors")
    assert card is not None
    assert card.space.sha256 == SPACE.sha256  # the teacher's
    with pytest.raises(UsageError, match="label_weight out"):
        runs.run(flat, tmp_path / "other", replace(runs.TINY, label_weight=0.0))


def test_a_hierarchy_is_learned_from_a_teacher_that_knows_no_levels_on_images_without_labels(
    tmp_path: Path, colours: Path
) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    (tmp_path / "pool").mkdir()
    for number in range(160):
        draw_shape(LEAVES[number % len(LEAVES)], rng).save(tmp_path / "pool" / f"{number}.png")
    write_folders(tmp_path / "val", 6, seed=3, names=LEAVES)
    recipe = replace(
        runs.TINY, objective="semantic_unlabelled", teacher=str(colours), epochs=2, batch_size=4, lr=1e-2, policy="",
        cutout=0.0, deepest="keep",
    )  # fmt: skip
    _, reports = runs.run(
        tmp_path / "pool", tmp_path / "run", recipe, label_space=None, val=str(tmp_path / "val"), log_every=50
    )
    best = max((report.metrics or {}).get("semantic_top1", 0.0) for report in reports)
    assert best > 0.65  # it names families and colours, and guesses the form: (1 + 1 + 0.5) / 3; chance is 0.29
    card = read_card(tmp_path / "run" / "last.safetensors")
    assert card is not None
    assert (card.head, card.space.num_classes) == ("level_softmax", 14)


def test_a_student_without_labels_answers_where_all_classes_of_the_teacher_are(tmp_path: Path, colours: Path) -> None:
    write_folders(tmp_path / "pool", 2, names=LEAVES[:4])
    recipe = replace(runs.TINY, objective="semantic_unlabelled", teacher=str(colours), epochs=1)
    with pytest.raises(Miil21kError, match=r"14 of the teacher's 14 classes are no nodes .*leave --label-space out"):
        runs.run(tmp_path / "pool", tmp_path / "run", recipe, label_space="in1k")
