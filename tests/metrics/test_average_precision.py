from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miil21k.errors import LogitsError, UsageError
from miil21k.metrics.average_precision import AveragePrecision, average_precision


@st.composite
def problems(draw: st.DrawFn):
    """Draw scores with ties, targets and weights, some of them zero."""
    count, labels = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.integers(-3, 4, (count, labels)) / 4
    targets = rng.random((count, labels)) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    weights = rng.choice([0.0, 0.25, 1.0, 3.0], count)
    return scores, targets, weights


def by_thresholds(scores, targets, weights) -> float:
    """Sum recall gained times precision over the distinct scores, highest first, by loops."""
    positives = sum(w for t, w in zip(targets, weights, strict=True) if t)
    if not positives:
        return math.nan
    total, before = 0.0, 0.0
    for threshold in sorted({s for s, w in zip(scores, weights, strict=True) if w}, reverse=True):
        answered = sum(w for s, w in zip(scores, weights, strict=True) if s >= threshold)
        found = sum(w for s, t, w in zip(scores, targets, weights, strict=True) if t and s >= threshold)
        total += (found - before) / positives * found / answered
        before = found
    return total


def test_a_ranking_by_hand() -> None:
    # ranked: hit, miss, hit, miss: (1/2) (1/1) + (1/2) (2/3)
    assert average_precision(np.array([4.0, 3, 2, 1]), np.array([True, False, True, False])) == pytest.approx(5 / 6)
    # the two best tie: the threshold takes both, (1/2) (1/2) + (1/2) (2/3)
    assert average_precision(np.array([4.0, 4, 2, 1]), np.array([True, False, True, False])) == pytest.approx(7 / 12)
    # the miss counts threefold: (1/2) (1/1) + (1/2) (2/5)
    weights = np.array([1.0, 3, 1, 1])
    assert average_precision(np.array([4.0, 3, 2, 1]), np.array([1, 0, 1, 0], bool), weights) == pytest.approx(0.7)
    assert math.isnan(average_precision(np.array([1.0]), np.array([False])))


@settings(deadline=None, max_examples=60)
@given(problems())
def test_it_equals_the_loop_over_thresholds_and_scikit_learn(case) -> None:
    scores, targets, weights = case
    metric = AveragePrecision(scores.shape[1])
    metric.update(scores, targets, weights)
    expected = [by_thresholds(scores[:, i], targets[:, i], weights) for i in range(scores.shape[1])]
    assert metric.per_label == pytest.approx(expected, abs=1e-12, nan_ok=True)
    found = metric.compute()
    seen = [value for value in expected if not math.isnan(value)]
    assert found["mAP"] == pytest.approx(np.mean(seen) if seen else math.nan, abs=1e-12, nan_ok=True)
    assert found["labels"] == len(seen)
    sklearn = pytest.importorskip("sklearn.metrics")
    for at in range(scores.shape[1]):
        if not math.isnan(expected[at]):
            peer = sklearn.average_precision_score(targets[:, at], scores[:, at], sample_weight=weights)
            assert abs(metric.per_label[at] - peer) < 1e-12
    if seen:
        each = np.repeat(weights, scores.shape[1])
        peer = sklearn.average_precision_score(targets.ravel(), scores.ravel(), sample_weight=each)
        assert abs(found["mAP_micro"] - peer) < 1e-12


def test_large_rankings_equal_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(5000, 3)).astype(np.float32)
    targets = rng.random((5000, 3)) < 0.05
    metric = AveragePrecision(3)
    metric.update(scores, targets)
    assert abs(metric.compute()["mAP"] - sklearn.average_precision_score(targets, scores, average="macro")) < 1e-12


@settings(deadline=None, max_examples=30)
@given(problems(), st.integers(0, 12))
def test_parts_give_what_the_whole_gives(case, cut) -> None:
    scores, targets, weights = case
    whole, first, second = (AveragePrecision(scores.shape[1]) for _ in range(3))
    whole.update(scores, targets, weights)
    second.update(scores[:cut], targets[:cut], weights[:cut])
    first.load_state_dict(whole.state_dict())
    first.update(scores[cut:], targets[cut:], weights[cut:])
    first.load_state_dict({name: array[len(scores) :] for name, array in first.state_dict().items()})
    first.merge(second)
    assert first.compute() == pytest.approx(whole.compute(), abs=1e-12, nan_ok=True)
    assert first.positives.tolist() == targets.sum(0).tolist()


def test_what_is_no_batch_is_refused() -> None:
    metric = AveragePrecision(2)
    assert math.isnan(metric.compute()["mAP"])
    with pytest.raises(LogitsError, match=r"scores of shape \[batch, 2\], not \[1, 3\]"):
        metric.update(np.zeros((1, 3)), np.zeros((1, 3), bool))
    with pytest.raises(LogitsError, match="finite"):
        metric.update(np.array([[np.nan, 0]]), np.zeros((1, 2), bool))
    with pytest.raises(UsageError, match="bool targets"):
        metric.update(np.zeros((1, 2)), np.zeros((1, 2)))
    with pytest.raises(UsageError, match="1 weights"):
        metric.update(np.zeros((1, 2)), np.zeros((1, 2), bool), np.array([-1.0]))
    with pytest.raises(UsageError, match="3 labels is none over 2"):
        metric.merge(AveragePrecision(3))
    with pytest.raises(UsageError, match="no state"):
        metric.load_state_dict(AveragePrecision(3).state_dict())


def test_an_empty_metric_has_the_types_of_a_full_one_and_takes_any_state() -> None:
    empty, full = AveragePrecision(3), AveragePrecision(3)
    full.update(np.eye(3), np.eye(3, dtype=bool))
    assert {name: (array.dtype, array.shape[1:]) for name, array in empty.state_dict().items()} == {
        name: (array.dtype, array.shape[1:]) for name, array in full.state_dict().items()
    }
    empty.load_state_dict(full.state_dict())
    assert empty.compute() == full.compute() == {"mAP": 1.0, "mAP_micro": 1.0, "labels": 3.0}
