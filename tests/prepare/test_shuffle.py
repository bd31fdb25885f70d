"""The order of samples in shards."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from miil21k.prepare.shuffle import shuffled


@given(st.integers(1, 3000), st.integers(0, 1 << 40))
def test_every_sample_stands_at_exactly_one_place(count: int, seed: int) -> None:
    assert sorted(shuffled(np.arange(count), count, seed).tolist()) == list(range(count))


@given(st.integers(2, 3000), st.data())
def test_a_part_of_the_order_is_the_part_of_the_whole(count: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, count - 1))
    np.testing.assert_array_equal(
        shuffled(np.arange(start, count), count, 7), shuffled(np.arange(count), count, 7)[start:]
    )


def test_the_order_is_as_good_as_random() -> None:
    order = shuffled(np.arange(100_000), 100_000, seed=0)
    assert abs(np.corrcoef(order, np.arange(100_000))[0, 1]) < 0.01
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.01
    assert (order != shuffled(np.arange(100_000), 100_000, seed=1)).mean() > 0.999
