"""Recipes for photographs: docs/howto_photos.md."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import pytest
from PIL import Image, ImageOps
from shown import PHOTOS

if TYPE_CHECKING:
    from pathlib import Path

    from shown import Kitchen

PAGE = "photos"


def test_a_folder_is_sorted_and_put_back(kitchen: Kitchen) -> None:
    pytest.importorskip("lancedb", reason="the extra 'find' is not installed")
    before = {path.name: path.read_bytes() for path in (kitchen.folder / "photos").iterdir()}
    kitchen.prints_what_the_page_shows(PAGE, "sh examples/sort_a_folder.sh")
    kitchen.prints_what_the_page_shows(PAGE, "find sorted -name")
    assert not list((kitchen.folder / "photos").iterdir())

    kitchen.prints_what_the_page_shows(PAGE, "miil21k organize --undo")
    assert {path.name: path.read_bytes() for path in (kitchen.folder / "photos").iterdir()} == before


@pytest.mark.slow
def test_a_sorted_folder_tells_of_what_could_not_be_read(kitchen: Kitchen) -> None:
    pytest.importorskip("lancedb", reason="the extra 'find' is not installed")
    (kitchen.folder / "photos" / "broken.jpg").write_bytes(b"no picture")
    ran = kitchen.run("sh examples/sort_a_folder.sh photos sorted")
    assert ran.code == 1, ran.stderr
    assert "sorted/beverage/coffee/espresso" in ran.stdout
    assert (kitchen.folder / "photos" / "broken.jpg").exists()
    assert kitchen.run("sh examples/sort_a_folder.sh absent sorted2").code == 2


def test_a_folder_is_counted_as_a_tree(kitchen: Kitchen) -> None:
    kitchen.prints_what_the_page_shows(PAGE, "python examples/tree_of_a_folder.py")


def test_pictures_of_cameras_are_counted(kitchen: Kitchen) -> None:
    assert kitchen.run("python examples/crops.py photos cameras").code == 0
    kitchen.prints_what_the_page_shows(PAGE, "python examples/count_animals.py")
    rows = list(csv.DictReader((kitchen.folder / "counts.csv").read_text().splitlines()))
    kitchen.prints_what_the_page_shows(PAGE, "cat counts.csv")
    assert sum(int(row["pictures"]) for row in rows) == 36

    (kitchen.folder / "cameras" / "cat" / "broken.jpg").write_bytes(b"no picture")
    ran = kitchen.run("python examples/count_animals.py cameras --hedge 0.99")
    assert ran.code == 1
    assert "cat,unreadable,1,0.00" in ran.stdout.splitlines()
    surer = {row["seen"]: int(row["pictures"]) for row in csv.DictReader(ran.stdout.splitlines())}
    assert "domestic cat" not in surer, "of no picture is the model 99 % sure that it shows one"
    assert surer["animal"] + surer.get("domestic animal", 0) == 12


def _clip(kitchen: Kitchen) -> Path:
    """Show each photograph for three seconds, eight frames in each."""
    av = pytest.importorskip("av", reason="the extra 'video' is not installed")
    path = kitchen.folder / "clip.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 320, "yuv420p", 4_000_000
        for photo in PHOTOS:
            image = ImageOps.fit(Image.open(photo).convert("RGB"), (320, 320))
            for _ in range(3 * 8):
                container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))
    return path


def test_a_video_is_told_by_its_times(kitchen: Kitchen) -> None:
    _clip(kitchen)
    kitchen.prints_what_the_page_shows(PAGE, "python examples/video_frames.py")
    rows = [json.loads(line) for line in (kitchen.folder / "rows.jsonl").read_text().splitlines()]
    assert [row["input"] for row in rows] == [f"clip.mp4#t={second}" for second in range(9)]

    broken = kitchen.run("python examples/video_frames.py photos/absent.mp4 -o absent.jsonl")
    assert broken.code == 1
    assert "absent.mp4" in broken.stdout
    assert kitchen.run("python examples/video_frames.py clip.mp4").code == 2, "rows.jsonl is there already"
