from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2

from miil21k.errors import UsageError
from miil21k.hierarchy.tree import Tree
from miil21k.train import losses
from miil21k.train.distillation import SemanticKD
from miil21k.train.level_order import level_table
from miil21k.train.objective import create_teacher
from miil21k.train.objectives import CrossEntropy, SemanticSoftmax
from miil21k.train.tasks import ObjectiveTask

if TYPE_CHECKING:
    from timm.task import TrainingTask

STATS = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture
def tree(zoo_tree: Tree) -> Tree:
    return Tree(zoo_tree.wnids, zoo_tree.names, zoo_tree.parent, zoo_tree.num_nodes)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 5])


def _net(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", num_classes=9)


def _semantic(tree: Tree) -> ObjectiveTask:
    return ObjectiveTask(_net(), SemanticSoftmax(level_table(tree)), verbose=False)


def _train_step(task: TrainingTask, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Do what timm's training script does with a task in one step."""
    task.setup_ema(decay=0.5)
    optimizer = create_optimizer_v2(task.get_trainable_module(), opt="sgd", lr=0.1)
    task.train()
    with task.no_sync():
        result = task(*batch)
    result["loss"].backward()
    torch.nn.utils.clip_grad_norm_(task.get_clip_parameters(), 1.0)
    optimizer.step()
    task.update_ema()
    return result


def test_the_semantic_task_goes_through_a_step_of_timms_script(tree, batch) -> None:
    task = _semantic(tree)
    before = task.get_eval_model().get_classifier().weight.detach().clone()
    result = _train_step(task, batch)
    expected = losses.semantic_softmax(result["output"], batch[1], level_table(tree))
    assert result["loss"].item() == pytest.approx(expected.item())
    assert not torch.equal(task.get_eval_model().get_classifier().weight, before)
    state = task.get_checkpoint_state()
    assert state.keys() == {"state_dict"}
    _net().load_state_dict(state["state_dict"])  # strictly: the tables are not in the checkpoint
    evaluator = task.create_evaluator()
    evaluator.update(result["output"].detach(), batch[1])
    assert 0 <= evaluator.compute()["top1"] <= 100


def test_the_tables_follow_the_task_to_a_device(tree) -> None:
    task = _semantic(tree).to("meta")
    assert task.criterion.levels.targets.device.type == "meta"


def test_soft_targets_of_timms_mixup_are_refused(tree, batch) -> None:
    task = _semantic(tree)
    with pytest.raises(UsageError, match="class indices"):
        task(batch[0], torch.full((2, 9), 1 / 9))


def test_the_distillation_task_goes_through_a_step_and_leaves_the_teacher_alone(tree, batch) -> None:
    teacher = _net(seed=1)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    objective = SemanticKD(level_table(tree), create_teacher(teacher, STATS, STATS), weight=3.0)
    task = ObjectiveTask(_net(), objective, verbose=False)
    result = _train_step(task, batch)
    levels = level_table(tree)
    taught = teacher(batch[0])
    kd = losses.semantic_kd(result["output"], taught, batch[1], levels)
    semantic = losses.semantic_softmax(result["output"], batch[1], levels)
    assert result["kd"].item() == pytest.approx(kd.item(), rel=1e-4)
    assert result["loss"].item() == pytest.approx((semantic + 3 * kd).item(), rel=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert not any(module.training for module in teacher.modules())


def test_any_objective_is_a_task(batch) -> None:
    result = _train_step(ObjectiveTask(_net(), CrossEntropy(0.1), verbose=False), batch)
    expected = torch.nn.functional.cross_entropy(result["output"], batch[1], label_smoothing=0.1)
    assert result["loss"].item() == pytest.approx(expected.item())


def test_a_compiled_task_gives_the_same_loss(tree, batch) -> None:
    plain, compiled = (_semantic(tree).eval() for _ in range(2))
    compiled.compile(backend="eager")
    assert compiled(*batch)["loss"].item() == pytest.approx(plain(*batch)["loss"].item(), rel=1e-6)
