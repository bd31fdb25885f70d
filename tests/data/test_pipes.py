"""Images that a command writes: one, or a tar stream, and what happens when it fails or breaks off."""

from __future__ import annotations

import shlex
import tarfile
import time
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from miil21k.data.images import load_image
from miil21k.data.inputs import expand, require_images
from miil21k.errors import ImageError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(3):
            path = tmp_path / f"{number}.png"
            Image.new("RGB", (10 + number, 8)).save(path)
            archive.add(path, path.name)
        archive.add(tmp_path / "0.png", "0.cls")
    return tmp_path / "a.tar"


def test_a_tar_stream_gives_its_images(shard: Path) -> None:
    name = f"pipe:cat {shlex.quote(str(shard))}"
    require_images([name])
    found = list(expand([name]))
    assert [image.name for image in found] == [f"{name}/{number}.png" for number in range(3)]
    assert [load_image(image.source).width for image in found] == [10, 11, 12]  # type: ignore[arg-type]


def test_one_image(shard: Path) -> None:
    name = f"pipe:cat {shard.parent}/1.png"
    [image] = expand([name])
    assert image.name == name
    assert load_image(image.source).width == 11  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("command", "words", "images"),
    [
        ("exit 3", "failed with exit code 3", 0),
        ("true", "wrote no image", 0),
        ("head -c 1700 {shard}", "breaks off after 1 image", 1),
        ("cat {shard}; exit 4", "failed with exit code 4", 3),
    ],
)
def test_a_command_that_fails_is_one_row(shard: Path, command: str, words: str, images: int) -> None:
    *before, last = expand([f"pipe:{command.format(shard=shard)}"])
    assert len(before) == images
    assert callable(last.source)
    with pytest.raises(ImageError, match=words):
        last.source()


def test_a_command_is_ended_when_nobody_reads_on(shard: Path) -> None:
    begun = time.monotonic()
    stream = expand([f"pipe:cat {shard} && exec sleep 30"])
    next(stream)
    del stream
    assert time.monotonic() - begun < 10


def test_a_list_runs_no_command(shard: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"pipe:touch {tmp_path}/ran\n")
    [image] = expand([f"@{tmp_path}/list.txt"])
    assert callable(image.source)
    with pytest.raises(ImageError, match="given directly, and not in a list"):
        image.source()
    assert not (tmp_path / "ran").exists()
