"""Raw files of cameras, developed at half of their size."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from camera_raw import HEIGHT, WIDTH, dng

from miil21k.data.images import load_image
from miil21k.data.inputs import expand
from miil21k.errors import ImageError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def photo(tmp_path: Path) -> Any:
    pytest.importorskip("rawpy", reason="the extra 'raw' is not installed")
    return dng(tmp_path / "a.dng")


def test_a_raw_file_is_developed_at_half_of_its_size(photo: Path) -> None:
    picture = np.asarray(load_image(photo))
    assert picture.shape == (HEIGHT // 2, WIDTH // 2, 3)
    assert picture[20, 20, 0] == 255
    assert picture[20, 20, 1:].max() < 100
    assert [image.name for image in expand([str(photo.parent)])] == [str(photo)]
    assert np.array_equal(load_image(photo.read_bytes(), name="from a server.DNG"), picture)


def test_its_guards(photo: Path) -> None:
    with pytest.raises(ImageError, match="128 x 96 pixels, more than the limit of 5,000"):
        load_image(photo, max_pixels=5000)
    photo.write_bytes(photo.read_bytes()[:60])
    with pytest.raises(ImageError, match="is damaged, or of a camera that LibRaw does not know"):
        load_image(photo)


def test_without_the_extra_the_error_says_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(ImageError, match=r"a\.dng' needs the package 'rawpy'.*pip install 'miil21k\[raw\]'"):
        load_image(dng(tmp_path / "a.dng"))
