"""What a teacher said is kept in bounds, found again by the same batches alone, and decides the same weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import runs
import torch
from colour_export import write_colour_export
from level_network import write_level_network
from safetensors.torch import load_file
from shapes import shape_space

from miil21k.errors import UsageError
from miil21k.train import losses
from miil21k.train.distillation import SemanticKD, SemanticUnlabelled
from miil21k.train.level_order import level_table
from miil21k.train.objective import Teacher
from miil21k.train.teacher_memory import Softmaxes, TeacherMemory, bytes_of_image, shorten

if TYPE_CHECKING:
    from pathlib import Path

USI = replace(
    runs.TINY,
    objective="usi",
    kd_weight=5.0,
    label_smoothing=0.0,
    epochs=2,
    batch_size=14,
    accumulate=2,
    policy="",
    cutout=0.0,
    mixup=0.8,
    cutmix=1.0,
)
LOGITS = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)) * 3
ROWS = torch.tensor([3, 1, 2, 0])


def _memory(folder: Path, top_k: int = 3, most: float = 1e9, **facts: object) -> TeacherMemory:
    one = Softmaxes.of_classes(9, top_k)
    return TeacherMemory(folder, {"teacher": "a", **facts, "top_k": top_k}, one, 100, most)


def test_the_largest_shares_and_the_rest_are_kept_to_half_precision() -> None:
    found = shorten(LOGITS, 3)
    exact = LOGITS.softmax(1)
    best = exact.topk(3, dim=1)
    assert torch.equal(found.classes, best.indices)
    torch.testing.assert_close(found.shares, best.values, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.rest, 1 - best.values.sum(1), rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(found.shares.sum(1) + found.rest, torch.ones(4))


def test_the_divergence_over_top_and_rest_is_that_of_lumped_classes_and_whole_with_all() -> None:
    student = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    p, q = LOGITS.double().softmax(1), student.softmax(1)
    best = p.topk(3, dim=1)
    taught = losses.TopShares(best.indices, best.values, 1 - best.values.sum(1))
    lumped = q.gather(1, best.indices)
    expected = (best.values * (best.values / lumped).log()).sum(1)
    expected = expected + taught.rest * (taught.rest / (1 - lumped.sum(1))).log()
    found = losses.top_kl(student, taught)
    assert found.item() == pytest.approx(expected.mean().item(), rel=1e-9)
    assert found.item() < losses.teacher_kl(student, LOGITS.double()).item()
    every = p.topk(9, dim=1)
    whole = losses.top_kl(student, losses.TopShares(every.indices, every.values, torch.zeros(4, dtype=torch.float64)))
    assert whole.item() == pytest.approx(losses.teacher_kl(student, LOGITS.double()).item(), rel=1e-9)
    found.backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_an_answer_is_found_again_by_its_batch_alone(tmp_path: Path) -> None:
    memory = _memory(tmp_path)
    memory.at(2, 7, 1, ROWS)
    assert memory.recall(torch.device("cpu")) is None
    (said,) = memory.keep(LOGITS)
    memory.flush()
    again = _memory(tmp_path)
    assert again.bytes == memory.bytes > 4 * bytes_of_image([3])
    again.at(2, 7, 1, ROWS)
    found = again.recall(torch.device("cpu"))
    assert found is not None
    for name, kept in zip(said._fields, found[0], strict=True):
        torch.testing.assert_close(kept, getattr(said, name), rtol=1e-3, atol=1e-6, msg=name)
    for epoch, update, part, images in [(2, 7, 0, ROWS), (2, 8, 1, ROWS), (3, 7, 1, ROWS), (2, 7, 1, ROWS[:3])]:
        again.at(epoch, update, part, images)
        assert again.recall(torch.device("cpu")) is None
    assert (again.reused, again.asked) == (1, 4)


def test_no_more_is_kept_than_may_be(tmp_path: Path) -> None:
    memory = _memory(tmp_path, most=2.5 * 4 * bytes_of_image([3]))
    for update in range(4):
        memory.at(0, update, 0, ROWS)
        memory.keep(LOGITS)
    memory.flush()
    (shard,) = tmp_path.glob("*.safetensors")
    assert load_file(shard)["images"].tolist() == [3, 1, 2, 0] * 2
    assert "of which 28% fit" in _memory(tmp_path / "other", most=500).sentence()


def test_a_cache_of_another_key_and_a_folder_of_something_else_are_refused(tmp_path: Path) -> None:
    _memory(tmp_path / "cache", seed=1)
    with pytest.raises(UsageError, match=r"another teacher \(seed was 1, is 2\): choose another folder with --teacher"):
        _memory(tmp_path / "cache", seed=2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="holds other files"):
        _memory(tmp_path / "run")


def test_a_run_that_remembers_ends_with_the_weights_of_one_that_asks(shapes: Path, tmp_path: Path) -> None:
    write_colour_export(tmp_path / "colours.onnx")
    recipe = replace(USI, teacher=str(tmp_path / "colours.onnx"))
    lines: list[str] = []

    def train(name: str, **changes: object) -> dict[str, torch.Tensor]:
        wanted = runs.request(shapes / "train", tmp_path / name, recipe, teacher_cache=str(tmp_path / "cache"))
        runs.train_model(replace(wanted, **{"teacher_cache_top_k": 100, **changes}), say=lines.append)
        return load_file(tmp_path / name / "last.safetensors")

    asked = train("first")
    assert any("The teacher was asked 8 times, and remembered 0 times" in line for line in lines)
    lines.clear()
    remembered = train("second")
    assert any("The teacher was asked 0 times, and remembered 8 times" in line for line in lines)
    assert all(torch.equal(asked[name], tensor) for name, tensor in remembered.items())
    for shard in sorted((tmp_path / "cache").glob("epoch-00001-*.safetensors")):
        shard.unlink()  # as a kill in the second epoch would leave it
    lines.clear()
    halved = train("third")
    assert any("The teacher was asked 4 times, and remembered 4 times" in line for line in lines)
    assert all(torch.equal(asked[name], tensor) for name, tensor in halved.items())
    with pytest.raises(UsageError, match="top_k was 14, is 7"):
        train("fourth", teacher_cache_top_k=7)
    with pytest.raises(UsageError, match=r"augmentation.mean was None, is .*; augmentation.policy was"):
        train("policy", recipe=replace(recipe, policy="rand-m7"))  # which fills with the student's mean
    lines.clear()
    train("mean", recipe=replace(recipe, epochs=1, normalise="model", label_weight=0.0))  # labels change no answer
    assert any("The teacher was asked 0 times, and remembered 4 times" in line for line in lines)
    with pytest.raises(UsageError, match="leave --teacher-cache out"):
        train("fifth", recipe=replace(recipe, random_erase=0.5))
    plain = replace(recipe, objective="cross_entropy", teacher="")
    with pytest.raises(UsageError, match="'cross_entropy' has no teacher: leave --teacher-cache out"):
        train("sixth", recipe=plain)


class _Says(torch.nn.Module):
    """A student that says these logits whatever it sees."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, _images: torch.Tensor) -> torch.Tensor:
        return self.logits


LEVELS = Softmaxes((torch.tensor([4, 0]), torch.tensor([8, 2, 5, 1, 7])), 3)  # of 9 classes; 3 and 6 are in none


def test_each_level_keeps_its_largest_shares_and_its_rest(tmp_path: Path) -> None:
    assert bytes_of_image(LEVELS.kept) == 4 * (2 + 3) + 2 * 2 + 4
    memory = TeacherMemory(tmp_path, {"top_k": 3}, LEVELS, 100, 1e9)
    assert "3 largest shares of each of 2 levels and the rest's mass" in memory.sentence()
    assert "28 bytes an image" in memory.sentence()
    memory.at(0, 0, 0, ROWS)
    memory.keep(LOGITS)
    memory.flush()
    (shard,) = tmp_path.glob("*.safetensors")
    held = load_file(shard)
    assert sum(held[name].nbytes for name in ("images", "classes", "shares", "rest")) == 4 * 28
    again = TeacherMemory(tmp_path, {"top_k": 3}, LEVELS, 100, 1e9)
    again.at(0, 0, 0, ROWS)
    found = again.recall(torch.device("cpu"))
    assert found is not None
    logits = LEVELS.logits(found, 9)
    for columns in LEVELS.members:
        exact = LOGITS[:, columns].softmax(1)
        rebuilt = logits[:, columns].softmax(1)
        best = exact.topk(min(3, len(columns)), dim=1)
        torch.testing.assert_close(rebuilt.gather(1, best.indices), best.values, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(rebuilt.sum(1), torch.ones(4))
        least = rebuilt.topk(len(columns) - best.indices.shape[1], dim=1, largest=False).values
        rest = 1 - best.values.sum(1)
        torch.testing.assert_close(least.sum(1), rest, rtol=2e-3, atol=1e-6)
        torch.testing.assert_close(least, least[:, :1].expand_as(least))


@pytest.mark.parametrize("kind", [SemanticUnlabelled, SemanticKD])
def test_a_loss_over_levels_is_that_of_the_teacher_itself_where_all_is_kept(
    kind: type[SemanticUnlabelled | SemanticKD], tmp_path: Path
) -> None:
    table = level_table(shape_space().tree)
    members = tuple(table.order[start:stop] for start, stop in table.bounds)
    draw = torch.Generator().manual_seed(1)
    said, student = 3 * torch.randn(16, 14, generator=draw), torch.randn(16, 14, generator=draw)
    labels = torch.arange(16) % 14

    def loss(top_k: int | None) -> tuple[float, torch.Tensor]:
        teacher = Teacher(torch.nn.Identity(), torch.ones(()), torch.zeros(()))
        if top_k is not None:
            memory = TeacherMemory(tmp_path / f"{top_k}", {}, Softmaxes(members, top_k), 16, 1e9)
            memory.at(0, 0, 0, torch.arange(16))
            memory.keep(said)
            memory.flush()
            teacher = replace(teacher, memory=memory)
        logits = student.clone().requires_grad_()
        found = kind(table, teacher)(_Says(logits), said, labels)["loss"]
        found.backward()
        assert logits.grad is not None
        return found.item(), logits.grad

    exact, gradient = loss(None)
    found, its_gradient = loss(8)
    assert found == pytest.approx(exact, rel=1e-3)
    torch.testing.assert_close(its_gradient, gradient, rtol=2e-3, atol=1e-5)
    rough, its_gradient = loss(2)
    assert rough == pytest.approx(exact, rel=0.2)
    assert rough != pytest.approx(exact, rel=1e-3)
    assert torch.cosine_similarity(its_gradient.flatten(), gradient.flatten(), dim=0) > 0.95


@pytest.mark.parametrize("objective", ["semantic_unlabelled", "semantic_kd"])
def test_a_student_of_levels_learns_the_same_from_what_is_remembered(
    objective: str, shapes: Path, tmp_path: Path
) -> None:
    write_level_network(tmp_path / "levels.safetensors")
    unmixed = {"mixup": 0.0, "cutmix": 0.0} if objective == "semantic_kd" else {}
    recipe = replace(USI, objective=objective, teacher=str(tmp_path / "levels.safetensors"), **unmixed)
    lines: list[str] = []

    def train(name: str) -> dict[str, torch.Tensor]:
        wanted = runs.request(shapes / "train", tmp_path / name, recipe, teacher_cache=str(tmp_path / "cache"))
        lines.clear()
        runs.train_model(wanted, say=lines.append)
        return load_file(tmp_path / name / "last.safetensors")

    asked = train("asked")
    assert any("of each of" in line and "bytes an image" in line for line in lines)
    assert any("The teacher was asked 8 times, and remembered 0 times" in line for line in lines)
    remembered = train("remembered")
    assert any("The teacher was asked 0 times, and remembered 8 times" in line for line in lines)
    assert all(torch.equal(asked[name], tensor) for name, tensor in remembered.items())


def test_the_runtime_that_began_goes_on_though_another_one_is_faster_now(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    write_colour_export(tmp_path / "colours.onnx")
    recipe = replace(USI, teacher=str(tmp_path / "colours.onnx"), epochs=1)
    lines: list[str] = []

    def train(name: str, fastest: str, *, resume: bool = False, cache: str | None = "cache") -> str:
        monkeypatch.setattr(
            "miil21k.train.teachers.images_per_second",
            lambda backends, *_size, **_options: {runtime: float(runtime == fastest) for runtime in backends},
        )
        folder = None if cache is None else str(tmp_path / cache)
        wanted = runs.request(shapes / "train", tmp_path / name, recipe, teacher_cache=folder)
        lines.clear()
        runs.train_model(wanted, say=lines.append, resume=resume)
        return next(line for line in lines if line.startswith("The teacher") and "answers through" in line)

    assert "through OpenVINO in" in train("first", "openvino")
    assert "through OpenVINO in" in train("second", "onnx")
    assert any("asked 0 times, and remembered 4 times" in line for line in lines)
    assert "through OpenVINO in" in train("first", "onnx", resume=True)
    assert "through ONNX Runtime in" in train("plain", "onnx", cache=None)
    assert "through ONNX Runtime in" in train("plain", "openvino", cache=None, resume=True)


def test_shares_are_stored_in_two_bytes_each(tmp_path: Path) -> None:
    memory = _memory(tmp_path, top_k=5)
    memory.at(0, 0, 0, ROWS)
    memory.keep(LOGITS)
    memory.flush()
    (shard,) = tmp_path.glob("*.safetensors")
    held = load_file(shard)
    sizes = {name: held[name].element_size() * held[name].numel() for name in ("images", "classes", "shares", "rest")}
    assert sum(sizes.values()) == 4 * bytes_of_image([5])
    assert np.dtype(held["shares"].numpy().dtype) == np.float16
