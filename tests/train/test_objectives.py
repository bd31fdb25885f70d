from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from miil21k.errors import LabelSpaceMismatch, UsageError
from miil21k.hierarchy.tree import Tree
from miil21k.train import losses
from miil21k.train.distillation import USI, SemanticKD
from miil21k.train.level_order import ancestor_table, head_order, level_table, to_level_order
from miil21k.train.objective import create_teacher
from miil21k.train.objectives import CrossEntropy, MultiLabel, SemanticSoftmax, create_objective
from miil21k.train.recipes import get_recipe

STATS = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture
def tree(zoo_tree: Tree) -> Tree:
    return Tree(zoo_tree.wnids, zoo_tree.names, zoo_tree.parent, zoo_tree.num_nodes)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 4, 8, 5])


def _net(classes: int = 9, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, classes)).eval()


def test_semantic_softmax_reports_its_levels_and_they_add_up(tree, batch) -> None:
    levels = level_table(tree, deepest="keep")
    found = SemanticSoftmax(levels)(_net(), *batch)
    assert list(found) == ["loss", "output", "level_00", "level_01", "level_02"]
    parts = torch.stack([found[name] for name in list(found)[2:]])
    assert found["loss"].item() == pytest.approx((parts * levels.weights).sum().item(), rel=1e-6)
    assert not parts.requires_grad
    found["loss"].backward()


@pytest.mark.parametrize("name", ["semantic", "multi_label", "kd"])
def test_mixed_labels_are_refused_where_they_are_not_defined(tree, batch, name) -> None:
    levels = level_table(tree)
    objective = {
        "semantic": SemanticSoftmax(levels),
        "multi_label": MultiLabel(ancestor_table(tree)),
        "kd": SemanticKD(levels, create_teacher(_net(), STATS, STATS)),
    }[name]
    with pytest.raises(UsageError, match="Mixup and cutmix are not defined"):
        objective(_net(), *batch, share=0.7)


def test_mixed_cross_entropy_equals_soft_targets(batch) -> None:
    images, labels = batch
    net = _net()
    one_hot = torch.eye(9)[labels]
    soft = 0.7 * one_hot + 0.3 * one_hot.flip(0)
    for smoothing in (0.0, 0.2):
        found = CrossEntropy(smoothing)(net, images, labels, share=0.7)["loss"]
        assert found.item() == pytest.approx(losses.cross_entropy(net(images), soft, smoothing).item(), rel=1e-5)


def test_usi_is_cross_entropy_plus_five_times_the_divergence(batch) -> None:
    images, labels = batch
    student, teacher = _net(seed=1), _net(seed=2)
    found = USI(create_teacher(teacher, STATS, STATS))(student, images, labels, share=0.4)
    expected = CrossEntropy(0.0)(student, images, labels, share=0.4)["loss"] + 5 * losses.teacher_kl(
        student(images), teacher(images)
    )
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert found["loss"].item() == pytest.approx(found["ce"].item() + 5 * found["kl"].item(), rel=1e-6)


def test_a_teacher_of_another_width_is_refused(batch) -> None:
    with pytest.raises(LabelSpaceMismatch, match="9 classes, the teacher 5"):
        USI(create_teacher(_net(5), STATS, STATS))(_net(), *batch)


def test_the_teacher_sees_the_pixels_in_its_own_normalisation(batch) -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return images.mean((2, 3))

    student_stats = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    teacher_stats = ((0.1, 0.2, 0.3), (0.5, 0.4, 0.2))
    teacher = create_teacher(Spy(), student_stats, teacher_stats)
    pixels = torch.full((1, 3, 2, 2), 0.5)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in student_stats)
    teacher((pixels - mean) / std)
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx([0.8, 0.75, 1.0])


def test_the_teacher_is_frozen_in_eval_mode_and_gets_no_gradient(tree, batch) -> None:
    net = _net(seed=2).train()
    teacher = create_teacher(net, STATS, STATS)
    found = SemanticKD(level_table(tree), teacher, weight=2.0)(_net(seed=1), *batch)
    found["loss"].backward()
    assert not any(module.training for module in net.modules())
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    assert found["loss"].item() == pytest.approx((found["semantic"] + 2 * found["kd"]).item(), rel=1e-6)


def test_a_standard_deviation_of_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="above 0"):
        create_teacher(_net(), STATS, ((0.0,) * 3, (1.0, 0.0, 1.0)))


@pytest.mark.parametrize("name", ["miil_semantic", "miil_single_label", "miil_multi_label", "miil_semantic_kd", "usi"])
def test_every_recipe_gives_an_objective_with_a_gradient(tree, batch, name) -> None:
    student = _net()
    objective = create_objective(get_recipe(name), tree, create_teacher(_net(seed=3), STATS, STATS)).to("cpu")
    objective(student, *batch)["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())


def test_recipes_reach_the_objective(tree, batch) -> None:
    net, recipe = _net(), get_recipe("miil_semantic")
    strict = create_objective(replace(recipe, deepest="published", label_smoothing=0.0), tree)(net, *batch)
    levels = level_table(tree, deepest="published")
    assert strict["loss"].item() == pytest.approx(losses.semantic_softmax(net(batch[0]), batch[1], levels, 0.0).item())
    bce = create_objective(replace(get_recipe("miil_multi_label"), multi_label_loss="bce"), tree)(net, *batch)
    assert bce["loss"].item() == pytest.approx(
        losses.multi_label_bce(net(batch[0]), batch[1], ancestor_table(tree)).item()
    )


def test_a_head_in_level_order_gives_the_same_loss_and_the_same_step(tree, batch) -> None:
    recipe = get_recipe("miil_semantic_kd")
    teacher = create_teacher(_net(seed=3), STATS, STATS)
    plain, ordered = _net(), _net()
    to_level_order(ordered[2], level_table(tree))
    first = create_objective(recipe, tree, teacher)(plain, *batch)["loss"]
    second = create_objective(recipe, tree, teacher, head_order(ordered[2]))(ordered, *batch)["loss"]
    assert second.item() == pytest.approx(first.item(), rel=1e-6)
    first.backward()
    second.backward()
    order = level_table(tree, deepest=recipe.deepest).order
    torch.testing.assert_close(ordered[2].weight.grad, plain[2].weight.grad[order])


def test_flat_objectives_refuse_a_head_in_level_order_and_kd_a_missing_teacher(tree) -> None:
    with pytest.raises(UsageError, match="class order"):
        create_objective(get_recipe("miil_single_label"), tree, order="level")
    with pytest.raises(UsageError, match="needs a teacher"):
        create_objective(get_recipe("usi"), tree)
