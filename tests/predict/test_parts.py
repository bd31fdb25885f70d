"""Several things in one picture: where tiles lie, when their answers are one thing, a collage of three photographs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miil21k.cli.main import main
from miil21k.predict.parts import TileAnswer, joined, tiles_of
from miil21k.predict.prediction import Node, PixelBox
from miil21k.predict.predictor import Predictor

IMAGES = Path(__file__).parents[2] / "examples" / "images"
CELLS = {"cat": PixelBox(0, 0, 300, 300), "coffee": PixelBox(600, 0, 900, 300), "rocket": PixelBox(300, 300, 600, 600)}


@pytest.fixture(scope="module")
def embedded() -> Predictor:
    return Predictor("embedded", backend="torch", device="cpu", threads=1, multi=True)


@pytest.fixture(scope="module")
def collage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs on grey, 900 x 600."""
    whole = Image.new("RGB", (900, 600), (128, 128, 128))
    for name, box in CELLS.items():
        with Image.open(IMAGES / f"{name}.jpg") as photo:
            side = min(photo.size)
            left, top = (photo.width - side) // 2, (photo.height - side) // 2
            square = photo.convert("RGB").resize(
                (300, 300), Image.Resampling.BICUBIC, (left, top, left + side, top + side)
            )
        whole.paste(square, box[:2])
    path = tmp_path_factory.mktemp("collage") / "collage.png"
    whole.save(path)
    return path


@pytest.mark.parametrize(("size", "count"), [((600, 600), 9 + 25), ((900, 600), 15 + 40), ((600, 900), 15 + 40)])
def test_tiles_of_two_sizes_cover_the_image_and_overlap_by_half(size: tuple[int, int], count: int) -> None:
    tiles = tiles_of(size)
    assert len(tiles) == count
    for side in (300, 200):
        seen = np.zeros(size[::-1], int)
        for left, top, right, bottom in (tile for tile in tiles if tile.right - tile.left == side):
            assert bottom - top == side
            seen[top:bottom, left:right] += 1
        assert seen.min() == 1  # a corner
        assert seen[side // 2 : -side // 2, side // 2 : -side // 2].min() == 4


def test_a_strip_has_few_tiles_and_a_small_image_none_that_show_nothing() -> None:
    assert len(tiles_of((60000, 600))) == 16 * (3 + 5)
    assert {right - left for left, _, right, _ in tiles_of((80, 80))} == {40}
    assert tiles_of((63, 63)) == []


def tile(at: int, *names: str, p: float = 0.95) -> TileAnswer:
    path = tuple(Node(name, name, p) for name in names)
    return TileAnswer(PixelBox(at, 0, at + 100, 100), path)


def test_a_thing_is_named_once_with_its_surest_tile() -> None:
    found = joined([tile(0, "animal", "dog", p=0.91), tile(300, "animal", "dog", p=0.97), tile(50), tile(600, "car")])
    assert [tuple(part) for part in found] == [
        ("dog", "dog", 0.97, PixelBox(300, 0, 400, 100)),
        ("car", "car", 0.95, PixelBox(600, 0, 700, 100)),
    ]


def test_what_lies_above_an_answer_is_left_out_where_their_tiles_overlap() -> None:
    found = joined([tile(0, "animal"), tile(99, "animal", "dog"), tile(99, "animal", "dog", "corgi", p=0.9)])
    assert [part.name for part in found] == ["corgi"]
    apart = joined([tile(0, "animal"), tile(100, "animal", "dog")])
    assert [part.name for part in apart] == ["animal", "dog"]


def test_the_photographs_of_a_collage_are_found_where_they_are(embedded: Predictor, collage: Path) -> None:
    found = embedded.predict(collage)
    assert found.parts is not None
    names = {part.name: part for part in found.parts}
    for name, cell in (("domestic cat", CELLS["cat"]), ("espresso", CELLS["coffee"])):
        box = names[name].box
        assert cell.left <= box.left < box.right <= cell.right
        assert cell.top <= box.top < box.bottom <= cell.bottom
        assert names[name].probability >= 0.9
    alone = Predictor("embedded", backend="torch", device="cpu", threads=1)(collage)
    assert alone.parts is None
    assert [node.name for node in alone.path] == [node.name for node in found.path]


def test_every_format_holds_the_parts(collage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", str(collage), "-m", "embedded", "--device", "cpu", "--multi", "-q", "-o"]
    assert main([*command, str(tmp_path / "a.jsonl"), "--label-type", "path"]) == 0
    (part, *_) = parts = json.loads((tmp_path / "a.jsonl").read_text())["parts"]
    assert list(part["box"]) == ["left", "top", "right", "bottom"]
    assert part["label"].endswith(part["name"])
    assert main([*command, str(tmp_path / "a.csv")]) == 0
    with (tmp_path / "a.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["parts"] == "; ".join(one["name"] for one in parts)
    assert row["parts_boxes"].split("; ")[0] == ",".join(str(side) for side in part["box"].values())
    assert main([*command[:-1], "-f", "table"]) == 0
    assert "in parts of the image: left, top, right, bottom" in capsys.readouterr().out
    pq = pytest.importorskip("pyarrow.parquet", reason="the extra 'parquet' is not installed")
    assert main([*command, str(tmp_path / "a.parquet")]) == 0
    (row,) = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [one["box"] for one in row["parts"]] == [one["box"] for one in parts]


def test_the_picture_frames_the_parts(embedded: Predictor, collage: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    from miil21k.predict.pictures import draw_prediction

    found = embedded.predict(collage)
    with Image.open(collage) as image:
        draw_prediction(image.convert("RGB"), found, tmp_path / "drawn.png")
    with Image.open(tmp_path / "drawn.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    green = np.abs(pixels[:, :540] - (0x0B, 0x6E, 0x4F)).sum(axis=2) < 12  # left of the panel there are frames alone
    assert green.sum() > 300
