"""Samples as tar blocks, and their order in shards."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from miil21k.prepare.shards import shuffled, tar_entry


def by_tarfile(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return header + data + bytes(-len(data) % 512)


@given(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=130) | st.text("ab/._-1", min_size=1, max_size=130),
    st.binary(max_size=1100),
)
@example("a" * 100, b"x" * 512)
@example("a" * 101, b"")
@example("n00000001/\udcff.jpg", b"x")
def test_an_entry_is_that_of_tarfile(name: str, data: bytes) -> None:
    assert tar_entry(name, data) == by_tarfile(name, data)


@pytest.mark.parametrize("size", [0, 7, 512, 100_000])
def test_tarfile_reads_an_entry(size: int) -> None:
    found = tarfile.TarInfo.frombuf(tar_entry("n1/a.jpg", bytes(size))[:512], "utf-8", "strict")  # checks the checksum
    assert (found.name, found.size, found.mtime, found.uid, found.isreg()) == ("n1/a.jpg", size, 0, 0, True)


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
