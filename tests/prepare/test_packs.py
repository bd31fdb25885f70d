"""Samples as tar blocks."""

from __future__ import annotations

import tarfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from miil21k.prepare.packs import tar_entry


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
