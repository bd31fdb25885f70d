"""Images per class and per level."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from miil21k.errors import UsageError
from miil21k.prepare.stats import LevelStats, Stats, draw_stats, image_stats

if TYPE_CHECKING:
    from pathlib import Path

COUNTS = {"n00015388": 3, "n02084071": 5, "n02121808": 4, "n04524313": 2}  # animal, dog, domestic cat, vehicle


@pytest.fixture
def target(tmp_path: Path) -> Path:
    for wnid, count in COUNTS.items():
        (tmp_path / "imagenet21k_train" / wnid).mkdir(parents=True)
        for index in range(count):
            (tmp_path / "imagenet21k_train" / wnid / f"{index}.JPEG").write_bytes(b"")
    (tmp_path / "imagenet21k_val/n02084071").mkdir(parents=True)
    (tmp_path / "imagenet21k_val/n02084071/v.JPEG").write_bytes(b"")
    return tmp_path


def test_images_are_counted_by_class_and_by_depth_in_the_tree(target: Path) -> None:
    stats = image_stats(target)
    assert stats.wnids == ("n02084071", "n02121808", "n00015388", "n04524313")
    assert stats.counts.tolist() == [5, 4, 3, 2]
    assert stats.places == {"train": (4, 14), "val": (1, 1), "small_class": (0, 0)}
    assert stats.space == "winter21"
    assert sum(level.images for level in stats.levels) == 14
    assert stats.levels[0] == LevelStats(level=0, classes=1, images=3)  # animal is a root, vehicle is not
    assert stats.to_dict()["train_images_per_class"] == {"min": 2, "p25": 2.75, "median": 3.5, "p75": 4.25, "max": 5}


def test_classes_of_no_known_space_have_no_levels(tmp_path: Path) -> None:
    (tmp_path / "imagenet21k_train/mine").mkdir(parents=True)
    (tmp_path / "imagenet21k_train/mine/a.png").write_bytes(b"")
    stats = image_stats(tmp_path)
    assert (stats.space, stats.levels, stats.counts.tolist()) == (None, (), [1])


def test_the_picture_is_drawn_or_refused(target: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_stats(image_stats(target), tmp_path / "stats.png")
    picture = np.asarray(Image.open(tmp_path / "stats.png").convert("L"))
    assert picture.shape == (480, 1200)
    assert 0.01 < (picture < 200).mean() < 0.5
    with pytest.raises(UsageError, match=r"Cannot write '.*stats.docx'"):
        draw_stats(image_stats(target), tmp_path / "stats.docx")
    with pytest.raises(UsageError, match=r"Cannot write '.*gone.stats.png': No such file"):
        draw_stats(image_stats(target), tmp_path / "gone/stats.png")
    assert not list(tmp_path.glob(".*part*"))


def test_the_picture_names_numbers_plainly(target: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = image_stats(target)
    many = replace(found, counts=found.counts * 1_000_000, levels=(LevelStats(0, 1234, 3_000_000),))
    draw_stats(many, tmp_path / "many.svg")
    drawn = (tmp_path / "many.svg").read_text()
    for text in ("5,000,000", "1,234", "level of winter21"):
        assert f"<!-- {text} -->" in drawn
    assert "1e6" not in drawn


def test_without_a_label_space_there_is_one_picture(target: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for stats in (replace(image_stats(target), space=None, levels=()), Stats((), np.zeros(0, np.int64), {}, None, ())):
        draw_stats(stats, tmp_path / "stats.png")
        with Image.open(tmp_path / "stats.png") as picture:
            assert picture.size == (600, 480)


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no prepared data set"):
        image_stats(tmp_path)
