from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import reference_metrics as slow
from forests import forests
from hypothesis import given, settings
from hypothesis import strategies as st

from miil21k.errors import LogitsError, UsageError
from miil21k.hierarchy.tree import Tree
from miil21k.metrics.accuracy import FlatAccuracy, SemanticAccuracy, SubtreeConfusion, subtree_groups
from miil21k.metrics.distance import (
    HierarchicalDistance,
    NodeAccuracy,
    information,
    is_correct,
    lca_height,
    node_height,
    truncate,
)
from miil21k.metrics.operating import OperatingCurve, area, darts, darts_nodes, intercept, pareto_steps
from miil21k.metrics.reliability import Reliability

if TYPE_CHECKING:
    from collections.abc import Callable


@st.composite
def scored(draw: st.DrawFn, nodes: bool = False):
    """Draw a forest, tied values per class or node in [0, 1], and labels."""
    tree = draw(forests())
    width = tree.num_nodes if nodes else tree.num_classes
    count = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.integers(0, 6, (count, width)) / 5
    return tree, values, rng.integers(0, tree.num_classes, count)


@settings(deadline=None)
@given(scored(), st.sampled_from(["published", "keep"]))
def test_semantic_top1_equals_the_loop(case, deepest) -> None:
    tree, logits, labels = case
    metric = SemanticAccuracy(tree, deepest)
    metric.update(logits, labels)
    pairs = slow.semantic_pairs(tree, logits.tolist(), labels.tolist(), tree.max_depth - (deepest == "published"))
    found = metric.compute()
    if not pairs:
        assert math.isnan(found["semantic_top1"])
        return
    assert found["semantic_top1"] == pytest.approx(sum(hit for _, hit in pairs) / len(pairs))
    levels = sorted({depth for depth, _ in pairs})
    each = [np.mean([hit for d, hit in pairs if d == depth]) for depth in levels]
    assert [found[f"semantic_top1_level_{depth:02d}"] for depth in levels] == pytest.approx(each)
    assert found["semantic_top1_macro"] == pytest.approx(np.mean(each))


@settings(deadline=None)
@given(scored(nodes=True))
def test_with_inner_nodes_every_level_of_a_path_is_asked(case) -> None:
    tree, probs, labels = case
    metric = SemanticAccuracy(tree, "keep", inner=True)
    metric.update(probs, labels)
    wider = Tree(tree.wnids, tree.names, tree.parent, tree.num_nodes)
    pairs = slow.semantic_pairs(wider, probs.tolist(), labels.tolist(), tree.max_depth)
    if pairs:
        assert metric.compute()["semantic_top1"] == pytest.approx(sum(hit for _, hit in pairs) / len(pairs))


def test_a_path_is_right_only_where_its_inner_nodes_are(zoo_tree) -> None:
    cat = np.array([zoo_tree.index("cat")])
    probs = np.zeros((1, 9))
    probs[0, [zoo_tree.index("animal"), zoo_tree.index("dog"), zoo_tree.index("cat")]] = 0.9, 0.5, 0.4
    probs[0, zoo_tree.index("feline")] = 0.4  # feline is no class; the level says dog
    over_nodes, over_classes = SemanticAccuracy(zoo_tree, "keep", inner=True), SemanticAccuracy(zoo_tree, "keep")
    over_nodes.update(probs, cat)
    over_classes.update(probs[:, :7], cat)
    assert over_nodes.compute()["path_accuracy"] == 0
    assert over_classes.compute()["path_accuracy"] == 1


def test_path_figures_tell_a_wrong_chain_from_a_broken_one(winter21) -> None:
    tree = winter21.tree
    dog, cat, samoyed = (tree.index(w) for w in ("n02084071", "n02121620", "n02111889"))
    logits = np.zeros((3, 10450))
    logits[0, list(tree.path(samoyed))] = 1  # right all the way
    logits[1, list(tree.path(cat))] = 1  # one chain, the wrong one
    logits[2, list(tree.path(dog))] = 1
    logits[2, tree.path(cat)[1]] = 2  # the second level leaves the chain
    metric = SemanticAccuracy(tree)
    metric.update(logits, np.array([samoyed, dog, dog]))
    found = metric.compute()
    assert found["path_accuracy"] == pytest.approx(1 / 3)
    assert found["path_consistent"] == pytest.approx(2 / 3)


@settings(deadline=None)
@given(scored())
def test_flat_accuracy_equals_sorting(case) -> None:
    tree, logits, labels = case
    metric = FlatAccuracy(tree.num_classes, (1, 2))
    metric.update(logits, labels)
    ranks = [np.argsort(-row, kind="stable").tolist().index(y) for row, y in zip(logits, labels, strict=True)]
    found = metric.compute()
    assert found["top1"] == pytest.approx(np.mean([r < 1 for r in ranks]))
    assert found["top2"] == pytest.approx(np.mean([r < 2 for r in ranks]))
    each = []
    for label in set(labels.tolist()):
        each.append(np.mean([r < 1 for r, y in zip(ranks, labels, strict=True) if y == label]))
        assert metric.per_class[label] == pytest.approx(each[-1])
    assert found["class_mean"] == pytest.approx(np.mean(each))


@settings(deadline=None)
@given(scored())
def test_distances_equal_the_loop(case) -> None:
    tree, logits, labels = case
    metric = HierarchicalDistance(tree, (1, 2))
    metric.update(logits, labels)
    top = [np.argsort(-row, kind="stable").tolist() for row in logits]
    first = [slow.distance(tree, row[0], y) for row, y in zip(top, labels, strict=True)]
    found = metric.compute()
    assert found["distance_at_1"] == pytest.approx(np.mean(first))
    wrong = [d for d, row, y in zip(first, top, labels, strict=True) if row[0] != y]
    if wrong:
        assert found["mistake_severity"] == pytest.approx(np.mean(wrong))
    else:
        assert math.isnan(found["mistake_severity"])
    if tree.num_classes >= 2:
        two = [slow.distance(tree, n, y) for row, y in zip(top, labels, strict=True) for n in row[:2]]
        assert found["distance_at_2"] == pytest.approx(np.mean(two))


def test_dog_for_cat_is_a_smaller_mistake_than_car_for_cat(zoo_tree) -> None:
    dog, cat, car = (zoo_tree.index(n) for n in ("dog", "cat", "car"))
    assert node_height(zoo_tree).tolist() == [0, 1, 0, 2, 0, 0, 0, 1, 1]
    heights = lca_height(zoo_tree, np.array([dog, car, cat]), np.array([cat] * 3))
    assert heights.tolist() == [2, 3, 0]


def test_information_is_in_bits_of_leaves(zoo_tree) -> None:
    leaves = math.log2(5)
    expected = [leaves, leaves - 1, leaves, leaves - math.log2(3), leaves, leaves, leaves, leaves, leaves - 1]
    assert information(zoo_tree).tolist() == pytest.approx(expected)


def test_no_answer_is_told_apart_from_a_right_one(zoo_tree) -> None:
    dog, car = zoo_tree.index("dog"), zoo_tree.index("car")
    metric = NodeAccuracy(zoo_tree)
    metric.update(np.array([dog] * 11 + [car] * 9 + [-1] * 80), np.full(100, dog))
    found = metric.compute()
    assert (found["answered"], found["correct"], found["correct_of_answered"]) == (0.2, 0.91, 0.55)


@settings(deadline=None)
@given(scored(), st.data())
def test_node_accuracy_equals_the_loop(case, data) -> None:
    tree, _, labels = case
    nodes = np.array([data.draw(st.integers(-1, tree.num_nodes - 1)) for _ in labels])
    metric = NodeAccuracy(tree)
    metric.update(nodes, labels)
    found = metric.compute()
    answers = [slow.shown(tree, n, y) for n, y in zip(nodes.tolist(), labels.tolist(), strict=True)]
    right = [a in slow.ancestors(tree, y) for a, y in zip(answers, labels.tolist(), strict=True)]
    assert found["correct"] == pytest.approx(np.mean(right))
    assert found["answered"] == pytest.approx((nodes >= 0).mean())
    answered_right = [ok for ok, node in zip(right, nodes.tolist(), strict=True) if node >= 0]
    if answered_right:
        assert found["correct_of_answered"] == pytest.approx(np.mean(answered_right))
    assert is_correct(tree, nodes, labels).tolist() == right
    for flavour, value in (
        ("depth", lambda n: tree.depth[n] + 1 if n >= 0 else 0),
        ("info", lambda n: slow.info(tree, n) if n >= 0 else 0),
    ):
        shared = [value(slow.meeting(tree, a, y)) for a, y in zip(answers, labels.tolist(), strict=True)]
        said, wanted = [value(a) for a in answers], [value(int(y)) for y in labels]
        recall = [s / w if w > 1e-9 else 1 for s, w in zip(shared, wanted, strict=True)]
        precision = [s / w if w > 1e-9 else 1 for s, w in zip(shared, said, strict=True)]
        assert found[f"recall_{flavour}"] == pytest.approx(np.mean(recall), abs=1e-9)
        assert found[f"precision_{flavour}"] == pytest.approx(np.mean(precision), abs=1e-9)
        assert found[f"excess_{flavour}"] == pytest.approx(np.mean(np.subtract(said, shared)), abs=1e-9)


@settings(deadline=None)
@given(scored(nodes=True))
def test_pareto_steps_equal_the_loop(case) -> None:
    tree, probs, _ = case
    steps = pareto_steps(tree, probs)
    for row, values in enumerate(probs.tolist()):
        mine = [(int(n), p) for r, n, p in zip(*steps, strict=True) if r == row]
        assert [p for _, p in mine] == pytest.approx([p for _, p in slow.pareto(tree, values)])
        assert [slow.info(tree, n) if n >= 0 else 0 for n, _ in mine] == pytest.approx(
            [slow.info(tree, n) if n >= 0 else 0 for n, _ in slow.pareto(tree, values)]
        )


@settings(deadline=None)
@given(scored(nodes=True))
def test_every_point_of_the_operating_curve_is_what_that_threshold_gives(case) -> None:
    tree, probs, labels = case
    metric = OperatingCurve(tree, bins=5)
    metric.update(probs, labels)
    curve = metric.curve()
    steps = [slow.pareto(tree, row) for row in probs.tolist()]
    for place, threshold in enumerate(curve.threshold):
        if place == 0:
            continue
        answers = [
            slow.shown(tree, slow.answer_at(s, threshold - 1e-9), y)
            for s, y in zip(steps, labels.tolist(), strict=True)
        ]
        right = [a in slow.ancestors(tree, y) for a, y in zip(answers, labels.tolist(), strict=True)]
        assert curve.correct[place] == pytest.approx(np.mean(right), abs=1e-9)
        depth = [
            (tree.depth[m] + 1 if (m := slow.meeting(tree, a, y)) >= 0 else 0) / (tree.depth[y] + 1)
            for a, y in zip(answers, labels.tolist(), strict=True)
        ]
        assert curve.recall_depth[place] == pytest.approx(np.mean(depth), abs=1e-9)
    assert curve.correct[0] == 1.0
    assert curve.recall_depth[0] == 0.0


def test_an_oracle_has_full_area_and_a_silent_model_none(zoo_tree) -> None:
    labels = np.arange(7)
    oracle = np.zeros((7, 9))
    for y in labels:
        oracle[y, list(zoo_tree.path(int(y)))] = 1
    metric = OperatingCurve(zoo_tree)
    metric.update(oracle, labels)
    found = metric.compute()
    assert [found[k] for k in ("ac_depth", "ap_depth", "ac_exact", "recall_info_at_95")] == pytest.approx([1] * 4)
    silent = OperatingCurve(zoo_tree)
    silent.update(np.zeros((7, 9)), labels)
    assert silent.compute()["ac_depth"] == 0
    assert math.isnan(OperatingCurve(zoo_tree).compute()["ac_depth"])


def test_area_and_intercept_have_their_closed_forms() -> None:
    a, b = np.array([0, 0.2, 0.6, 0.5]), np.array([1, 0.5, 0.8, 0.4])
    assert area(a, b) == pytest.approx(0.6 * 0.8)  # 0.8 is reached at 0.6, so everywhere below it
    assert intercept(a, b, 0.8) == 0.6
    assert intercept(a, b, 0.9) == 0.0


@settings(deadline=None)
@given(scored(nodes=True), st.sampled_from([0.0, 0.3, 2.0, 50.0]))
def test_darts_answers_are_the_argmax_over_all_nodes(case, trade) -> None:
    tree, probs, _ = case
    chosen = darts_nodes(tree, pareto_steps(tree, probs), trade)
    for node, row in zip(chosen.tolist(), probs.tolist(), strict=True):
        score = {n: (slow.info(tree, n) + trade) * p for n, p in enumerate(row)} | {-1: trade}
        assert score[node] == pytest.approx(max(score.values()), abs=1e-9)


def test_darts_reaches_the_accuracy_and_gives_up_no_more_than_needed(zoo_tree) -> None:
    rng = np.random.default_rng(0)
    leaves, n = zoo_tree.leaves, 2000
    leaf = rng.dirichlet(np.full(leaves.size, 0.3), n)
    labels = leaves[(leaf.cumsum(1) > rng.random((n, 1))).argmax(1)]
    probs = np.zeros((n, 9))
    for place, node in enumerate(leaves):
        probs[:, list(zoo_tree.path(int(node)))] += leaf[:, [place]]
    trade, answer = darts(zoo_tree, probs, labels, 0.95)
    share = is_correct(zoo_tree, answer, labels).mean()
    assert 0.95 <= share < 0.96
    assert trade > 0
    assert darts(zoo_tree, probs, labels, 0.05)[0] == 0.0


def test_ece_of_calibrated_statements_is_small_and_of_boasts_is_the_gap() -> None:
    rng = np.random.default_rng(0)
    stated = rng.random(200_000)
    honest, boast = Reliability(), Reliability()
    honest.update(stated, rng.random(200_000) < stated)
    boast.update(np.full(1000, 0.99), np.arange(1000) < 700)
    assert honest.compute()["ece"] < 0.006
    assert boast.compute()["ece"] == pytest.approx(0.29)
    assert boast.diagram.statements[-1] == 1000


def test_reliability_of_nodes_counts_a_node_below_its_label_as_right(zoo_tree) -> None:
    dog, husky, cat = (zoo_tree.index(n) for n in ("dog", "husky", "cat"))
    metric = Reliability(bins=1)
    metric.update_nodes(zoo_tree, np.full((2, 9), 0.5), np.array([[husky, -1], [dog, cat]]), np.array([dog, dog]))
    assert metric.compute() == {"ece": pytest.approx(1 / 6), "stated": 0.5, "observed": pytest.approx(2 / 3)}


def test_confusion_by_subtree_counts_cells(zoo_tree) -> None:
    dog, husky, cat, car = (zoo_tree.index(n) for n in ("dog", "husky", "cat", "car"))
    group, nodes = subtree_groups(zoo_tree, 0)
    assert [zoo_tree.names[n] for n in nodes] == ["animal", "vehicle"]
    assert group[husky] == group[cat] != group[car]
    metric = SubtreeConfusion(zoo_tree)
    metric.update(np.array([dog, car, car]), np.array([husky, cat, car]))
    assert metric.matrix.tolist() == [[1, 1], [0, 1]]
    assert metric.compute()["subtree_accuracy"] == pytest.approx(2 / 3)


@settings(deadline=None, max_examples=30)
@given(scored(), st.integers(0, 6))
def test_parts_of_a_data_set_add_up_to_the_whole(case, cut) -> None:
    tree, logits, labels = case
    probs = np.concatenate([logits, np.zeros((len(logits), tree.num_nodes - tree.num_classes))], 1)
    makers = [
        (lambda: SemanticAccuracy(tree), logits),
        (lambda: FlatAccuracy(tree.num_classes), logits),
        (lambda: HierarchicalDistance(tree), logits),
        (lambda: OperatingCurve(tree, 64), probs),
        (lambda: NodeAccuracy(tree), logits.argmax(1)),
        (lambda: SubtreeConfusion(tree), logits.argmax(1)),
    ]
    for make, values in makers:
        whole, first, second, restored = make(), make(), make(), make()
        whole.update(values, labels)
        if cut:
            first.update(values[:cut], labels[:cut])
        if cut < len(labels):
            second.update(values[cut:], labels[cut:])
        restored.load_state_dict(first.state_dict())
        restored.merge(second)
        assert restored.compute() == pytest.approx(whole.compute(), nan_ok=True)


def test_metrics_of_another_tree_do_not_merge(zoo_tree, winter21) -> None:
    with pytest.raises(UsageError, match="no state of SemanticAccuracy"):
        SemanticAccuracy(zoo_tree).merge(SemanticAccuracy(winter21.tree))


def test_nan_logits_and_labels_out_of_range_are_refused(zoo_tree) -> None:
    metric = FlatAccuracy(7)
    with pytest.raises(LogitsError, match="Row 1"):
        metric.update(np.array([[0.0] * 7, [np.nan] * 7]), np.array([0, 0]))
    with pytest.raises(UsageError, match=r"0\.\.6"):
        metric.update(np.zeros((1, 7)), np.array([-1]))
    with pytest.raises(LogitsError, match="shape"):
        metric.update(np.zeros((1, 8)), np.array([1]))


@settings(deadline=None, max_examples=40)
@given(scored(nodes=True), st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_a_weight_counts_a_sample_as_often_as_it_says(case, repeats) -> None:
    tree, values, labels = case
    times = np.array(repeats[: len(labels)])
    again = np.repeat(np.arange(len(labels)), times)
    classes, top = values[:, : tree.num_classes], values.argmax(1)
    inputs: dict[str, tuple] = {
        "semantic": (SemanticAccuracy, (tree, "keep"), (classes, labels)),
        "flat": (FlatAccuracy, (tree.num_classes,), (classes, labels)),
        "subtree": (SubtreeConfusion, (tree,), (top, labels)),
        "distance": (HierarchicalDistance, (tree,), (classes, labels)),
        "node": (NodeAccuracy, (tree,), (top - 1, labels)),
        "operating": (OperatingCurve, (tree,), (values, labels)),
        "reliability": (Reliability, (), (values[:, 0], labels == 0)),
    }
    for name, (kind, of, batch) in inputs.items():
        weighted, repeated = kind(*of), kind(*of)
        weighted.update(*batch, weights=times / 2)  # no ratio changes with the scale
        repeated.update(*(array[again] for array in batch))
        assert weighted.compute() == pytest.approx(repeated.compute(), abs=1e-9, nan_ok=True), name
        twice = kind(*of)
        twice.merge(weighted)
        assert twice.compute() == pytest.approx(weighted.compute(), abs=1e-9, nan_ok=True), name


def refused(error: type[Exception], call: Callable[..., object], *args: object) -> str:
    """Return the whole message of the error that a call ends with."""
    with pytest.raises(error) as caught:
        call(*args)
    return str(caught.value)


def test_what_cannot_be_measured_is_refused_in_a_whole_sentence(zoo_tree) -> None:
    flat, no_labels = FlatAccuracy(7), np.zeros(0, int)
    flat.update(np.zeros((0, 7)), no_labels)  # an empty batch is one
    two = np.zeros((2, 7))
    for values, labels, error, message in (
        (two[:, :6], [0, 0], LogitsError, "Expected values of shape [batch, 7], not [2, 6]."),
        (two[0], [0, 0], LogitsError, "Expected values of shape [batch, 7], not [7]."),
        (two * np.array([[1], [np.nan]]), [0, 0], LogitsError, "Row 1 holds values that are NaN or infinite."),
        (two, [0, 7], UsageError, "Labels must lie in 0..6, not 0..7."),
        (two, [-1, 6], UsageError, "Labels must lie in 0..6, not -1..6."),
        (two, [0, 1, 2], UsageError, "Expected 2 integer labels, not int64 [3]."),
        (two, [0.0, 1.0], UsageError, "Expected 2 integer labels, not float64 [2]."),
    ):
        assert refused(error, flat.update, values, np.array(labels)) == message
    assert refused(UsageError, OperatingCurve, zoo_tree, 0) == (
        "An operating curve needs at least one threshold, not 0."
    )
    assert OperatingCurve(zoo_tree, 1).bins == 1
    assert refused(UsageError, OperatingCurve(zoo_tree).curve) == "An operating curve needs at least one sample."
    probs, label = np.full((1, 9), 0.5), np.array([0])
    for accuracy in (-0.1, 1.1):
        assert refused(UsageError, darts, zoo_tree, probs, label, accuracy) == (
            f"The accuracy to reach lies between 0 and 1, not {accuracy}."
        )
    for depth in (-1, 3):
        assert refused(UsageError, subtree_groups, zoo_tree, depth) == f"The tree has the depths 0..2, not {depth}."
    assert len(subtree_groups(zoo_tree, 2)[1]) == 9  # the deepest level is one


def test_probabilities_may_leave_their_range_by_rounding_alone(zoo_tree) -> None:
    metric, yes = Reliability(bins=2), np.array([True, False])
    metric.update(np.array([0.0, 1.0]), yes)
    metric.update(np.array([0.5, 1 + 1e-5]), yes)
    assert metric["count"].tolist() == [1, 3]
    metric.update(np.zeros(0), np.zeros(0, bool))
    assert refused(UsageError, metric.update, np.array([0.2, 1 + 2e-5]), yes) == (
        "Probabilities lie in [0, 1], not 0.2..1.00002."
    )
    assert refused(UsageError, metric.update, np.array([-1e-9, 0.5]), yes).endswith("not -1e-09..0.5.")
    assert refused(UsageError, metric.update, np.array([np.nan, 0.5]), yes).startswith("Probabilities lie in [0, 1]")
    assert refused(UsageError, metric.update, np.zeros(3), yes) == (
        "Expected a bool for each of 3 probabilities, not bool (2,)."
    )
    assert refused(UsageError, metric.update, np.zeros(2), yes.astype(int)) == (
        "Expected a bool for each of 2 probabilities, not int64 (2,)."
    )
    rounded, one = np.full((2, 9), -1e-3), Reliability(bins=2)
    rounded[1] = 1.001
    one.update_nodes(zoo_tree, rounded, np.array([[0], [0]]), np.array([0, 0]))
    assert (one["stated"].tolist(), one["observed"].tolist()) == ([0.0, 1.0], [1, 1])


def test_a_state_of_another_metric_is_refused_with_both_shapes() -> None:
    metric = Reliability(bins=2)
    state = {**metric.state_dict(), "count": np.zeros(3, np.int64)}
    assert refused(UsageError, metric.load_state_dict, state) == (
        "This is no state of Reliability: expected {'count': (2,), 'stated': (2,), 'observed': (2,)}, found "
        "{'count': ((3,), 'int64'), 'stated': ((2,), 'float64'), 'observed': ((2,), 'int64')}."
    )
    copied = metric.state_dict()
    copied["count"][0] = 5
    assert metric["count"].tolist() == [0, 0]
    metric.load_state_dict(copied)
    copied["count"][0] = 6
    assert metric["count"].tolist() == [5, 0]


def test_heights_and_answers_are_of_the_documented_types(zoo_tree) -> None:
    labels = np.array([0, 4])
    assert lca_height(zoo_tree, np.array([1, 4]), labels).dtype == np.int32
    assert node_height(zoo_tree).dtype == np.int32
    assert is_correct(zoo_tree, np.array([1, -1]), labels).dtype == np.bool_
    assert truncate(zoo_tree, np.array([1, -1]), labels).dtype == np.int64
    assert information(zoo_tree).dtype == np.float64
    steps = pareto_steps(zoo_tree, np.full((1, 9), 0.5))
    assert darts_nodes(zoo_tree, steps, 0.0).dtype.kind == "i"


def test_a_metric_without_numbers_measures_what_papers_report(zoo_tree, winter21) -> None:
    assert (Reliability().bins, OperatingCurve(zoo_tree).bins) == (15, 65536)
    label, logits = np.array([0]), np.eye(30)[:1]
    flat = FlatAccuracy(30)
    flat.update(logits, label)
    assert [name for name in flat.compute() if name.startswith("top")] == ["top1", "top5"]
    wide = HierarchicalDistance(winter21.tree)
    wide.update(np.eye(10450)[:1], label)
    assert [name for name in wide.compute() if "_at_" in name] == ["distance_at_1", "distance_at_5", "distance_at_20"]
    published, kept = SemanticAccuracy(zoo_tree), SemanticAccuracy(zoo_tree, "keep", inner=False)
    assert [depth for depth, _ in published.levels] == [0, 1][-len(published.levels) :]
    assert len(kept.levels) == len(published.levels) + 1
    assert [zoo_tree.names[node] for node in subtree_groups(zoo_tree)[1]] == ["animal", "vehicle"]
    assert SubtreeConfusion(zoo_tree).matrix.shape == (2, 2)


def test_before_the_first_sample_every_figure_has_its_name_and_none_a_value(zoo_tree) -> None:
    label, row = np.array([0]), np.full((1, 9), 0.5)
    makers: list[tuple[Callable[[], Any], tuple[np.ndarray, ...]]] = [
        (lambda: SemanticAccuracy(zoo_tree), (row[:, :7], label)),
        (lambda: FlatAccuracy(7), (row[:, :7], label)),
        (lambda: SubtreeConfusion(zoo_tree), (label, label)),
        (lambda: HierarchicalDistance(zoo_tree), (row[:, :7], label)),
        (lambda: NodeAccuracy(zoo_tree), (label, label)),
        (lambda: OperatingCurve(zoo_tree), (row, label)),
        (Reliability, (row[0], row[0] > 0)),
    ]
    for make, batch in makers:
        empty, filled = make(), make()
        filled.update(*batch)
        assert list(empty.compute()) == list(filled.compute())
        assert all(math.isnan(value) for value in empty.compute().values())


def test_counts_are_whole_numbers_and_sums_are_not(zoo_tree) -> None:
    counts = {
        SemanticAccuracy: "hits valid samples right consistent", FlatAccuracy: "hits class_hits class_samples",
        SubtreeConfusion: "matrix", HierarchicalDistance: "total severity mistakes samples",
        NodeAccuracy: "samples answered correct exact", OperatingCurve: "samples",
    }  # fmt: skip
    for kind, whole in counts.items():
        metric = kind(7) if kind is FlatAccuracy else kind(zoo_tree)
        types = {name: str(array.dtype) for name, array in metric.state_dict().items()}
        assert types == {name: "int64" if name in whole.split() else "float64" for name in types}
