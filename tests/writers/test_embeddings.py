"""Embeddings stay aligned with the rows, also across failed inputs and an interruption."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from miil21k.errors import Miil21kError, UsageError
from miil21k.writers.embeddings import EmbeddingFile

if TYPE_CHECKING:
    from pathlib import Path

VALUES = [None, np.arange(3, dtype=np.float32), None, np.full(3, 7, np.float32)]


def write(path: Path, values: list[np.ndarray | None], existing: str = "refuse", keep: int = 0) -> EmbeddingFile:
    file = EmbeddingFile(path, existing)  # type: ignore[arg-type]
    file.begin(keep)
    for value in values:
        file.write(value)
    return file


def test_row_i_belongs_to_row_i_and_failures_are_nan(tmp_path: Path) -> None:
    write(tmp_path / "e.npy", VALUES).finish()
    found = np.load(tmp_path / "e.npy")
    assert (found.shape, found.dtype) == ((4, 3), np.float32)
    np.testing.assert_array_equal(np.isnan(found).all(1), [True, False, True, False])
    np.testing.assert_array_equal(found[[1, 3]], [[0, 1, 2], [7, 7, 7]])


def test_every_row_is_on_the_disk_when_the_file_is_finished(tmp_path: Path, synced: dict[int, int]) -> None:
    path = tmp_path / "e.npy"
    write(path, VALUES).finish()
    assert synced[path.stat().st_ino] == path.stat().st_size


@pytest.mark.parametrize("kept", range(5))
@pytest.mark.parametrize("written", range(5))
def test_an_interrupted_file_goes_on_after_the_rows_that_are_kept(tmp_path: Path, kept: int, written: int) -> None:
    path = tmp_path / "e.npy"
    write(path, VALUES[:written]).abandon()
    if kept > max(written, 1):  # one row without an embedding leaves nothing behind that could be missed
        if written > 1:
            with pytest.raises(Miil21kError, match="fewer"):
                write(path, [], "resume", kept)
        return
    write(path, VALUES[kept:], "resume", kept).finish()
    np.testing.assert_array_equal(np.load(path), np.load(_whole(tmp_path)))


def _whole(folder: Path) -> Path:
    write(folder / "whole.npy", VALUES, "overwrite").finish()
    return folder / "whole.npy"


def test_only_failures_give_no_columns(tmp_path: Path) -> None:
    write(tmp_path / "e.npy", [None, None]).finish()
    assert np.load(tmp_path / "e.npy").shape == (2, 0)


def test_an_existing_file_and_a_wrong_extension_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "e.npy", VALUES).finish()
    with pytest.raises(UsageError, match="--overwrite"):
        EmbeddingFile(tmp_path / "e.npy", "refuse")
    with pytest.raises(UsageError, match=r"must end in \.npy"):
        EmbeddingFile(tmp_path / "e.npz", "refuse")
