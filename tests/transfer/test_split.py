"""What is held out, divided into folds, drawn as a subset, and taken for a copy."""

from __future__ import annotations

import numpy as np
import pytest

from miil21k.errors import UsageError
from miil21k.transfer.split import balanced_subset, copies_of, fold_numbers, hold_out, near_copies

LABELS = np.array([0] * 10 + [1] * 3 + [2])


def test_a_share_of_each_class_is_held_out_and_never_all() -> None:
    out = hold_out(LABELS, 0.2, seed=0)
    assert np.bincount(LABELS[out], minlength=3).tolist() == [2, 1, 0]
    assert np.array_equal(out, hold_out(LABELS, 0.2, seed=0))
    assert not np.array_equal(out, hold_out(LABELS, 0.2, seed=1))
    assert np.bincount(LABELS[hold_out(LABELS, 0.99, seed=0)], minlength=3).tolist() == [9, 2, 0]
    with pytest.raises(UsageError, match=r"between 0 and 1, not 1\.5"):
        hold_out(LABELS, 1.5, seed=0)


def test_copies_stay_on_one_side_and_those_of_two_classes_in_training() -> None:
    groups = np.arange(14)
    groups[:5] = 0  # five copies in the first class
    groups[10] = 9  # a picture of the first class and of the second
    for seed in range(20):
        out = hold_out(LABELS, 0.3, seed, groups)
        assert out[:5].all() or not out[:5].any()
        assert not out[9]
        assert not out[10]
        folds = fold_numbers(LABELS, 5, seed, groups)
        assert len(set(folds[:5].tolist())) == 1
        assert folds[[9, 10, 13]].tolist() == [-1, -1, -1]


def test_folds_hold_every_class_evenly() -> None:
    folds = fold_numbers(LABELS, 5, seed=0)
    assert np.bincount(folds[:10]).tolist() == [2, 2, 2, 2, 2]
    assert len(set(folds[10:13].tolist())) == 3
    assert folds[13] == -1


def test_a_balanced_subset_has_so_many_of_each_class_or_all() -> None:
    chosen = balanced_subset(LABELS, 3, seed=0)
    assert np.bincount(LABELS[chosen]).tolist() == [3, 3, 1]
    assert len(np.unique(chosen)) == 7
    assert not np.array_equal(chosen, balanced_subset(LABELS, 3, seed=1))


def test_copies_are_found_by_features_and_by_bytes() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((40, 64)).astype(np.float32)
    values[7] = values[3] + 0.02
    values[11] = values[7] + 0.02
    digests = np.arange(40, dtype=np.uint8)[:, None].repeat(32, 1)
    digests[20] = digests[30]
    groups = near_copies(values, digests)
    assert groups[[3, 7, 11]].tolist() == [3, 3, 3]
    assert groups[30] == groups[20] == 20
    assert len(np.unique(groups)) == 37
    assert copies_of(values[[7, 12]] + 0.01, np.delete(values, [7, 11, 12], axis=0)).tolist() == [3, -1]
