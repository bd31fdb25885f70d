"""How well a counted share is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miil21k.metrics.shares import wilson_interval


def test_the_interval_is_that_of_the_literature() -> None:
    low, high = wilson_interval(np.array([0.0, 0.5, 0.9]), np.array([10, 10, 100]))
    assert low == pytest.approx([0.0, 0.2366, 0.8256], abs=1e-4)
    assert high == pytest.approx([0.2775, 0.7634, 0.9448], abs=1e-4)


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_the_share_lies_in_its_interval_and_more_trials_narrow_it(count: int, share: float) -> None:
    low, high = wilson_interval(np.array([share]), np.array([count]))
    assert -1e-12 <= low[0] <= share <= high[0] <= 1 + 1e-12
    closer_low, closer_high = wilson_interval(np.array([share]), np.array([4 * count]))
    assert closer_high[0] - closer_low[0] < high[0] - low[0]


def test_one_end_alone_lies_nearer() -> None:
    low, _ = wilson_interval(0.98, 700, 1.644854)
    assert low == pytest.approx(0.96927, abs=1e-5)
    assert low > wilson_interval(0.98, 700)[0]
