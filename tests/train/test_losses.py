from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import reference_losses as slow
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from miil21k.errors import LabelSpaceMismatch, UsageError
from miil21k.hierarchy.tree import Tree
from miil21k.train import level_softmax, losses
from miil21k.train.level_order import (
    ancestor_table,
    from_level_order,
    head_order,
    level_table,
    to_class_order,
    to_level_order,
)
from miil21k.train.level_softmax import _composed, level_cross_entropy

if TYPE_CHECKING:
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.train.level_order import LevelTable

GOLDEN = [5.7104, 12.8905, 21.5307, 32.7876, 49.6061, 78.5072, 133.2178, 242.0673, 341.7395, 429.8738, 495.0358]
FLOORS = [1.6371, 1.8932, 2.0010, 2.0633, 2.0355, 1.9410, 1.8109, 1.6281, 1.4870, 1.3652, 1.1086]


@st.composite
def forests(draw: st.DrawFn) -> Tree:
    """Draw forests with at least two roots, every node a class, in any index order."""
    n = draw(st.integers(2, 14))
    parents: list[str | None] = [None, None]
    parents += [draw(st.sampled_from([None, *(f"n{j}" for j in range(i))])) for i in range(2, n)]
    order = draw(st.permutations(range(n)))
    return Tree.from_parents([f"n{i}" for i in order], [parents[i] for i in order])


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tree, torch.Tensor, torch.Tensor]:
    tree = draw(forests())
    batch = draw(st.integers(1, 5))
    labels = draw(st.lists(st.integers(0, tree.num_classes - 1), min_size=batch, max_size=batch))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.0, 1.0, 8.0]))
    logits = scale * torch.randn(batch, tree.num_classes, generator=generator, dtype=torch.float64)
    return tree, logits, torch.tensor(labels)


@settings(deadline=None)
@given(problems(), st.sampled_from([0.0, 0.2]), st.sampled_from(["published", "keep"]))
def test_semantic_softmax_equals_the_loop_in_both_head_orders(problem, smoothing, deepest) -> None:
    tree, logits, labels = problem
    if not slow.kept_levels(tree, deepest):
        with pytest.raises(UsageError, match="No level"):
            level_table(tree, deepest=deepest)
        return
    expected = slow.semantic_softmax(tree, logits.tolist(), labels.tolist(), smoothing, deepest)
    by_class = level_table(tree, deepest=deepest)
    by_level = level_table(tree, deepest=deepest, head="level")
    assert losses.semantic_softmax(logits, labels, by_class, smoothing).item() == pytest.approx(expected, abs=1e-9)
    ordered = logits[:, by_level.order]
    assert losses.semantic_softmax(ordered, labels, by_level, smoothing).item() == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(problems(), st.sampled_from(["class", "level"]))
def test_the_gradient_equals_the_one_that_autograd_finds(problem, head) -> None:
    tree, logits, labels = problem
    levels = level_table(tree, deepest="keep", head=head)
    z = (logits if head == "class" else logits[:, levels.order]).requires_grad_()
    fused = losses.semantic_softmax(z, labels, levels)
    columns = levels.order if head == "class" else torch.arange(levels.num_classes)
    targets = levels.targets_of(labels)
    plain = torch.zeros((), dtype=torch.float64)
    for k, (start, stop) in enumerate(levels.bounds):
        log_probs = z[:, columns[start:stop]].log_softmax(1)
        rows = targets[:, k] >= 0
        one = F.one_hot((targets[rows, k] - start), stop - start).double()
        plain = plain - levels.weights[k] * ((0.8 * one + 0.2 / (stop - start)) * log_probs[rows]).sum() / len(labels)
    expected = torch.autograd.grad(plain, z)[0]
    torch.testing.assert_close(torch.autograd.grad(3 * fused, z)[0], 3 * expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("head", ["class", "level"])
def test_gradcheck_passes_also_with_a_second_backward_pass(zoo_tree, head) -> None:
    levels = level_table(_all_classes(zoo_tree), deepest="keep", head=head)
    labels = torch.tensor([0, 4, 8, 5])
    z = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: losses.semantic_softmax_levels(x, labels, levels), z)
    loss = losses.semantic_softmax(z, labels, levels)
    first = torch.autograd.grad(loss, z, retain_graph=True)[0].clone()
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], first)


@pytest.mark.parametrize("head", ["class", "level"])
def test_levels_that_lie_far_below_the_others_keep_their_digits(zoo_tree, head) -> None:
    tree = _all_classes(zoo_tree)
    levels = level_table(tree, deepest="keep", head=head)
    z = torch.randn(3, 9, generator=torch.Generator().manual_seed(2))
    far = z.clone()
    far[:, torch.from_numpy(np.flatnonzero(tree.depth == 2))] -= 5000.0  # e^-5000 is 0 in any float
    labels = torch.tensor([0, 2, 4])
    order = slice(None) if head == "class" else levels.order
    near, moved = z[:, order].double().requires_grad_(), far[:, order].double().requires_grad_()
    losses_near = losses.semantic_softmax_levels(near, labels, levels)
    losses_far = losses.semantic_softmax_levels(moved, labels, levels)
    torch.testing.assert_close(losses_far, losses_near, atol=1e-3, rtol=0)  # float32 logits at 5000 are 5e-4 apart
    (g_near,) = torch.autograd.grad(losses_near.sum(), near)
    (g_far,) = torch.autograd.grad(losses_far.sum(), moved)
    torch.testing.assert_close(g_far, g_near, atol=1e-3, rtol=0)


def test_winter21_gives_the_golden_values_for_uniform_logits(winter21: LabelSpace) -> None:
    tree = winter21.tree
    levels = level_table(tree)
    assert levels.depths == tuple(range(11))
    assert [round(float(w), 4) for w in levels.weights] == pytest.approx(
        [1, 1.0298, 1.1508, 1.4398, 2.1899, 4.0084, 8.3333, 19.2096, 20, 20, 20], abs=5e-5
    )
    z = torch.zeros(1, 10450, dtype=torch.float64)
    of_depth = [
        losses.semantic_softmax(z, torch.tensor([np.flatnonzero(tree.depth == d)[0]]), levels) for d in range(12)
    ]
    assert [v.item() for v in of_depth] == pytest.approx([*GOLDEN, GOLDEN[-1]], abs=5.1e-5)
    mean = sum(v.item() * (tree.depth == d).sum() for d, v in enumerate(of_depth)) / 10450
    assert mean == pytest.approx(58.6515, abs=5e-5)
    assert losses.cross_entropy(z, torch.tensor([7])).item() == pytest.approx(9.2544, abs=5e-5)


def test_winter21_floors_are_reached_by_the_smoothed_targets_themselves(winter21: LabelSpace) -> None:
    levels = level_table(winter21.tree, head="level")
    label = int(np.flatnonzero(winter21.tree.depth == 10)[0])
    targets = levels.targets_of(torch.tensor([label]))
    logits = torch.zeros(1, 10450, dtype=torch.float64)
    for k, (start, stop) in enumerate(levels.bounds):
        logits[0, start:stop] = math.log(0.2 / (stop - start))
        logits[0, targets[0, k]] = math.log(0.8 + 0.2 / (stop - start))
    floors = losses.semantic_softmax_levels(logits, torch.tensor([label]), levels)
    assert floors.tolist() == pytest.approx(FLOORS, abs=5.1e-5)
    reach = torch.tensor([(winter21.tree.depth >= d).sum() for d in levels.depths]) / 10450
    assert (levels.weights * reach * floors).sum().item() == pytest.approx(16.0779, abs=5e-5)


def test_the_target_table_equals_the_path_of_every_class(winter21: LabelSpace) -> None:
    tree, levels = winter21.tree, level_table(winter21.tree)
    table = levels.targets_of(torch.arange(10450))
    assert (table >= 0).sum().item() == 46505
    classes = torch.where(table >= 0, levels.order[table.clamp(min=0)], -1).numpy()
    for label in range(0, 10450, 101):
        path = tree.path(label)[:11]
        assert classes[label].tolist() == [*path, *[-1] * (11 - len(path))]


def test_a_singleton_level_in_the_middle_does_not_shift_the_levels_below_it() -> None:
    tree = Tree.from_parents(["a", "b", "a1", "x", "y", "z"], [None, None, "a", "a1", "a1", "x"])
    assert level_table(tree).depths == (0, 2)  # depth 1 has one class, depth 3 is the deepest
    logits = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    labels = [5, 3, 1, 2]
    expected = slow.semantic_softmax(tree, logits.tolist(), labels, 0.2, "published")
    assert losses.semantic_softmax(logits, torch.tensor(labels), level_table(tree)).item() == pytest.approx(expected)


def test_inner_nodes_without_a_logit_are_refused(zoo_tree) -> None:
    with pytest.raises(UsageError, match="2 nodes of this tree are no classes"):
        level_table(zoo_tree)


def test_logits_of_another_width_are_refused(winter21) -> None:
    with pytest.raises(LabelSpaceMismatch, match="10450 classes"):
        losses.semantic_softmax(torch.zeros(1, 11221), torch.tensor([0]), level_table(winter21.tree))


def test_negative_labels_do_not_wrap_around(zoo_tree) -> None:
    levels = level_table(_all_classes(zoo_tree))
    with pytest.raises((IndexError, RuntimeError)):
        losses.semantic_softmax(torch.zeros(1, 9), torch.tensor([-1]), levels)


@pytest.mark.parametrize("word", ["confidence", "reduction", "teacher_head"])
def test_semantic_kd_takes_no_word_for_another(zoo_tree, word) -> None:
    levels = level_table(_all_classes(zoo_tree))
    logits = torch.zeros(1, levels.num_classes)
    with pytest.raises(UsageError, match="not 'other'"):
        losses.semantic_kd(logits, logits, torch.tensor([0]), levels, **{word: "other"})


@settings(deadline=None)
@given(problems(), st.sampled_from(["paper", "code"]))
def test_semantic_kd_equals_the_loop(problem, confidence) -> None:
    tree, student, labels = problem
    if not slow.kept_levels(tree, "published"):
        return
    teacher = student.flip(1) * 1.5 + 0.3
    expected = slow.semantic_kd(tree, student.tolist(), teacher.tolist(), labels.tolist(), confidence)
    by_level = level_table(tree, head="level")
    for levels, ours in ((level_table(tree), student), (by_level, student[:, by_level.order])):
        total = losses.semantic_kd(ours, teacher, labels, levels, confidence=confidence, reduction="sum")
        assert total.item() == pytest.approx(expected, abs=1e-9)
        mean = losses.semantic_kd(ours, teacher, labels, levels, confidence=confidence)
        assert mean.item() * len(labels) == pytest.approx(expected, abs=1e-9)


def test_a_uniform_teacher_is_trusted_as_published(winter21: LabelSpace) -> None:
    levels = level_table(winter21.tree, head="level")
    trust = [0.0530, 0.0506, 0.0505, 0.0503, 0.0503, 0.0503, 0.0507, 0.0519, 0.0548, 0.0610, 0.0769]
    student = torch.full((1, 10450), -1e4, dtype=torch.float64)
    for start, _ in levels.bounds:
        student[0, start] = 0.0  # one-hot, so the squared distance is 1 - 1 / N_k
    total = losses.semantic_kd(
        student, torch.zeros(1, 10450), torch.tensor([0]), levels, confidence="code", teacher_head="level"
    )
    expected = sum(t * (1 - 1 / (b - a)) for t, (a, b) in zip(trust, levels.bounds, strict=True))
    assert total.item() == pytest.approx(expected, abs=5.5e-4)


@settings(deadline=None)
@given(problems())
def test_binary_losses_equal_the_loop_over_all_classes(problem) -> None:
    tree, logits, labels = problem
    table, rows = ancestor_table(tree), logits.tolist()
    bce = losses.multi_label_bce(logits, labels, table).item()
    assert bce == pytest.approx(slow.binary(tree, rows, labels.tolist(), 0, 0, 0), abs=1e-8)
    for gammas in ((4.0, 0.0, 0.05), (2.0, 1.0, 0.0), (0.0, 0.0, 0.0)):
        found = losses.asymmetric(logits, labels, table, *gammas).item()
        assert found == pytest.approx(slow.binary(tree, rows, labels.tolist(), *gammas), abs=1e-8)


def test_the_asymmetric_gradient_is_finite_at_extreme_logits_and_passes_gradcheck(zoo_tree) -> None:
    table, labels = ancestor_table(zoo_tree), torch.tensor([0, 5])
    extreme = torch.tensor([[200.0, -200.0, 0, 3, -3, 90, -90]] * 2, requires_grad=True)
    losses.asymmetric(extreme, labels, table).backward()
    assert extreme.grad is not None
    assert torch.isfinite(extreme.grad).all()
    z = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: losses.asymmetric(x, labels, table, 4.0, 1.0, 0.05), z)


def test_a_gamma_below_one_is_refused(zoo_tree) -> None:
    with pytest.raises(UsageError, match=r"gamma_neg 0\.5"):
        losses.asymmetric(torch.zeros(1, 7), torch.tensor([0]), ancestor_table(zoo_tree), gamma_neg=0.5)


def test_teacher_kl_is_zero_for_equal_heads_and_matches_its_definition() -> None:
    student, teacher = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    assert losses.teacher_kl(student, student + 3.0).item() == pytest.approx(0, abs=1e-12)
    p, q = teacher.softmax(1), student.softmax(1)
    assert losses.teacher_kl(student, teacher).item() == pytest.approx((p * (p / q).log()).sum().item() / 4)


def test_half_precision_logits_inside_autocast_are_computed_in_float32(zoo_tree) -> None:
    levels = level_table(_all_classes(zoo_tree), deepest="keep")
    labels = torch.tensor([0, 4])
    z = torch.randn(2, 9, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = losses.semantic_softmax(z, labels, levels)
    exact = losses.semantic_softmax(z.detach().double(), labels, levels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), abs=1e-5)
    loss.backward()
    assert z.grad is not None
    assert z.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("labels", [torch.zeros(4, 9), torch.zeros(4), torch.zeros(4, 1).long()])
def test_mixed_labels_have_no_semantic_target(zoo_tree, labels) -> None:
    levels = level_table(_all_classes(zoo_tree))
    with pytest.raises(UsageError, match=r"\]: turn mixup, cutmix and soft labels off, or train with cross_entropy\.$"):
        levels.targets_of(labels)


@pytest.mark.parametrize("head", ["class", "level"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_what_is_left_to_the_compiler_is_the_same_formula(zoo_tree, head, smoothing) -> None:
    levels = level_table(_all_classes(zoo_tree), deepest="keep", head=head)
    targets = levels.targets_of(torch.tensor([0, 4, 8, 5]))
    assert (targets < 0).any()
    z = (3 * torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).requires_grad_()
    rows = torch.tensor([1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
    ours = level_cross_entropy(z, targets, levels, smoothing, rows)
    composed = _composed(z, targets, levels, smoothing, (targets >= 0) * rows[:, None])
    torch.testing.assert_close(composed, ours)
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    found, wanted = (torch.autograd.grad((loss * weights).sum(), z)[0] for loss in (composed, ours))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("head", ["class", "level"])
def test_torch_compile_finds_no_graph_break_and_the_same_numbers(zoo_tree, head) -> None:
    tree = _all_classes(zoo_tree)
    levels, labels = level_table(tree, head=head), torch.tensor([0, 4, 8])
    table = ancestor_table(tree)

    def total(z: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return (
            losses.semantic_softmax(z, labels, levels)
            + losses.semantic_kd(z, teacher, labels, levels)
            + losses.asymmetric(z, labels, table)
            + losses.multi_label_bce(z, labels, table)
            + losses.cross_entropy(z, labels)
            + losses.teacher_kl(z, teacher)
        )

    z = torch.randn(3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    teacher = z.detach().flip(1)
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")(z, teacher)
    eager = total(z, teacher)
    assert compiled.item() == pytest.approx(eager.item(), abs=1e-9)
    torch.testing.assert_close(torch.autograd.grad(compiled, z)[0], torch.autograd.grad(eager, z)[0])


def test_nothing_but_a_cpu_is_ever_waited_for(winter21: LabelSpace) -> None:
    """On the meta device any read of a value raises, as a read would stall a GPU."""
    for head in ("class", "level"):
        levels = level_table(winter21.tree, head=head).to("meta")
        z, labels = torch.empty(4, 10450, device="meta", requires_grad=True), torch.empty(4, device="meta").long()
        losses.semantic_softmax(z, labels, levels).backward()
        losses.semantic_kd(z, z, labels, levels).backward()
        losses.asymmetric(z, labels, ancestor_table(winter21.tree).to("meta")).backward()
        losses.multi_label_bce(z, labels, ancestor_table(winter21.tree).to("meta")).backward()


def test_large_batches_in_blocks_of_rows_equal_one_block(winter21: LabelSpace, monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10450, (5,), generator=generator)
    z = torch.randn(5, 10450, generator=generator).requires_grad_()
    for head in ("class", "level"):
        levels = level_table(winter21.tree, head=head)
        whole = level_cross_entropy(z, levels.targets_of(labels), levels, 0.2)
        (gradient,) = torch.autograd.grad(whole.sum(), z)
        with monkeypatch.context() as patch:
            patch.setattr("miil21k.train.level_softmax.BLOCK_BYTES", {head: 2 * 4 * 10450})
            parts = level_cross_entropy(z, levels.targets_of(labels), levels, 0.2)
            torch.testing.assert_close(parts, whole)
            torch.testing.assert_close(torch.autograd.grad(parts.sum(), z)[0], gradient)


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_goes_to_level_order_and_back_and_says_so(zoo_tree, bias) -> None:
    tree = _all_classes(zoo_tree)
    levels = level_table(tree, head="level")
    torch.manual_seed(0)
    head, features = torch.nn.Linear(4, 9, bias=bias), torch.randn(3, 4)
    plain, before = head(features), {n: t.clone() for n, t in head.state_dict().items()}
    to_level_order(head, levels)
    assert head_order(head) == "level"
    torch.testing.assert_close(head(features), plain[:, levels.order])
    with pytest.raises(RuntimeError, match="class_order"):
        torch.nn.Linear(4, 9, bias=bias).load_state_dict(head.state_dict())
    repaired = to_class_order({f"fc.{n}": t for n, t in head.state_dict().items()})
    assert all(torch.equal(repaired[f"fc.{n}"], t) for n, t in before.items())
    with pytest.raises(UsageError, match="level order already"):
        to_level_order(head, levels)
    from_level_order(head)
    assert head_order(head) == "class"
    assert head.state_dict().keys() == before.keys()
    assert all(torch.equal(head.state_dict()[n], t) for n, t in before.items())


def test_a_head_of_another_width_does_not_go_to_level_order(zoo_tree) -> None:
    with pytest.raises(LabelSpaceMismatch, match="7 outputs"):
        to_level_order(torch.nn.Linear(2, 7), level_table(_all_classes(zoo_tree)))


def _all_classes(tree: Tree) -> Tree:
    return Tree(tree.wnids, tree.names, tree.parent, tree.num_nodes)


def _zoo_and_levels(zoo_tree: Tree) -> tuple[Tree, LevelTable]:
    tree = _all_classes(zoo_tree)
    return tree, level_table(tree, deepest="keep")


def test_the_expected_semantic_loss_is_the_mean_over_labels_drawn_from_the_teacher(zoo_tree: Tree) -> None:
    tree, levels = _zoo_and_levels(zoo_tree)
    logits = torch.randn(5, tree.num_classes, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    taught = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).softmax(1)
    classes = torch.tensor([0, 5, 8, 3])  # of the teacher, as nodes of the student's tree
    columns = levels.targets.index_select(0, classes)
    expected = 0.0
    for row in range(5):
        for place, label in enumerate(classes.tolist()):
            one = losses.semantic_softmax(logits[row : row + 1], torch.tensor([label]), levels, 0.0)
            expected += taught[row, place].item() * one.item() / 5
    found = losses.semantic_expectation(logits, taught, levels, columns)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_a_teacher_of_levels_counts_as_far_as_it_is_sure(zoo_tree: Tree) -> None:
    tree, levels = _zoo_and_levels(zoo_tree)
    generator = torch.Generator().manual_seed(3)
    logits, taught = (torch.randn(3, tree.num_classes, dtype=torch.float64, generator=generator) for _ in range(2))
    expected = 0.0
    for level, (start, stop) in enumerate(levels.bounds):
        nodes = levels.order[start:stop]
        p, q = taught[:, nodes].softmax(1), logits[:, nodes].log_softmax(1)
        trust = p.topk(math.ceil((stop - start) / 20), dim=1).values.sum(1)
        expected += levels.weights[level].item() * (-(trust[:, None] * p * q).sum(1)).mean().item()
    found = losses.semantic_expectation(logits, taught, levels)
    assert found.item() == pytest.approx(expected, rel=1e-9)
    ordered = replace(levels, head="level")
    again = losses.semantic_expectation(logits[:, levels.order], taught, ordered)
    assert again.item() == pytest.approx(expected, rel=1e-9)


def test_a_call_that_leaves_numbers_out_means_the_published_ones(winter21: LabelSpace, zoo_tree: Tree) -> None:
    generator = torch.Generator().manual_seed(0)
    tree = _all_classes(zoo_tree)
    z, other = (torch.randn(3, 9, dtype=torch.float64, generator=generator) for _ in range(2))
    labels, table, levels = torch.tensor([0, 4, 8]), ancestor_table(tree), level_table(tree, deepest="keep")
    pairs = [
        (losses.asymmetric(z, labels, table), losses.asymmetric(z, labels, table, 4.0, 0.0, 0.05)),
        (losses.cross_entropy(z, labels), losses.cross_entropy(z, labels, 0.2)),
        (losses.semantic_softmax(z, labels, levels), losses.semantic_softmax(z, labels, levels, 0.2)),
        (
            losses.semantic_softmax_levels(z, labels, levels).sum(),
            losses.semantic_softmax_levels(z, labels, levels, 0.2).sum(),
        ),
        (
            losses.semantic_kd(z, other, labels, levels),
            losses.semantic_kd(
                z, other, labels, levels, confidence="paper", reduction="batchmean", teacher_head="class"
            ),
        ),
    ]
    for found, meant in pairs:
        assert found.item() == meant.item()
    assert (level_table(tree).depths, levels.depths) == ((0, 1), (0, 1, 2))
    table = level_table(winter21.tree)
    assert (table.head, table.weights.max().item()) == ("class", 20.0)


def test_the_formula_for_the_compiler_stands_in_while_it_traces(
    zoo_tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = level_table(_all_classes(zoo_tree), deepest="keep")
    z = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    targets = levels.targets.index_select(0, torch.tensor([0, 4, 8, 5]))
    passes = level_cross_entropy(z, targets, levels, 0.2)
    asked: list[torch.Tensor] = []

    def composed(logits: torch.Tensor, *rest: object) -> torch.Tensor:
        asked.append(logits)
        return _composed(logits, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(level_softmax, "_composed", composed)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(level_cross_entropy(z, targets, levels, 0.2), passes)
    assert asked == [z]


def test_a_head_in_class_order_stays_as_it_is() -> None:
    head = torch.nn.Linear(2, 9)
    before = head.weight.detach().clone()
    from_level_order(head)
    assert torch.equal(head.weight, before)
    assert head_order(head) == "class"
