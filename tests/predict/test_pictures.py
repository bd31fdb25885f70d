"""Pictures: every case has one, at a bounded size, with its pixels where they belong."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from miil21k.errors import MissingExtra
from miil21k.predict.pictures import STEP, STRONG, draw_prediction, picture_name
from miil21k.predict.prediction import AskedConcept, Bin, BinAnswer, Node, Origin, Prediction, Stop

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")

ORIGIN = Origin("embedded", "in1k", "0" * 64, "none", "torch", "cpu", "fp32")
TIGER, EGYPTIAN = Node("n02123159", "tiger cat", 0.39), Node("n02124075", "Egyptian cat", 0.34)
ANIMAL, CAT = Node("n00015388", "animal", 0.95), Node("n02121808", "domestic cat", 0.91)
UNSURE = Stop("hedge", 0.9, False, TIGER, EGYPTIAN)
ORANGE = (255, 160, 0)
STEP_INK = tuple(bytes.fromhex(STEP[1:]))


def drawn(folder: Path, prediction: Prediction, size: tuple[int, int] = (60, 40)) -> NDArray[np.uint8]:
    target = folder / "picture.png"
    draw_prediction(Image.new("RGB", size, ORANGE), prediction, target)
    assert [p.name for p in folder.iterdir()] == ["picture.png"]
    with Image.open(target) as image:
        return np.asarray(image.convert("RGB"))


def pixels(picture: NDArray[np.uint8], colour: tuple[int, ...]) -> int:
    return int((np.abs(picture.astype(int) - colour).max(-1) < 4).sum())


def strong() -> tuple[int, ...]:
    return tuple(bytes.fromhex(STRONG[1:]))


def test_the_image_and_the_emphasised_bar_are_in_the_picture(tmp_path: Path) -> None:
    sure = drawn(tmp_path, Prediction("x", ORIGIN, path=(ANIMAL, CAT), stop=UNSURE, topk=(TIGER, EGYPTIAN)))
    assert pixels(sure, ORANGE) > 50_000
    half = Node("n02121808", "domestic cat", 0.455)
    unsure = drawn(tmp_path, Prediction("x", ORIGIN, path=(ANIMAL, half), stop=UNSURE, topk=(TIGER, EGYPTIAN)))
    assert pixels(sure, strong()) / pixels(unsure, strong()) == pytest.approx(2, rel=0.1)


def test_what_was_asked_has_a_bar_each(tmp_path: Path) -> None:
    plain = Prediction("x", ORIGIN, path=(CAT,), stop=UNSURE, topk=(TIGER,) * 6)
    more = replace(plain, asked=tuple(AskedConcept(name, "n1", name, 0.8) for name in ("bird", "mammal", "dog")))
    before, after = drawn(tmp_path, plain), drawn(tmp_path, more)
    assert after.shape[0] > before.shape[0]
    assert pixels(after, STEP_INK) > 5 * max(1, pixels(before, STEP_INK))


def test_the_answer_in_own_labels_has_bars_of_its_own(tmp_path: Path) -> None:
    plain = Prediction("x", ORIGIN, path=(), stop=UNSURE, topk=(TIGER,) * 6)
    labels = (Bin("pet", 0.95), Bin("cat", 0.92), Bin("other", 0.05))
    bins = replace(plain, bins=BinAnswer(labels[:2], 0.9, labels))
    before, after = drawn(tmp_path, plain), drawn(tmp_path, bins)
    assert after.shape[0] > before.shape[0]
    assert pixels(before, strong()) == 0
    one = drawn(tmp_path, replace(plain, bins=BinAnswer(labels[:1], 0.9, labels)))
    assert pixels(after, strong()) / pixels(one, strong()) == pytest.approx(0.92 / 0.95, rel=0.05)  # the last label


def test_an_empty_path_has_no_emphasised_bar(tmp_path: Path) -> None:
    picture = drawn(tmp_path, Prediction("x", ORIGIN, path=(), stop=UNSURE, topk=(TIGER,)))
    assert pixels(picture, strong()) == 0


def test_the_dotted_line_stands_at_the_level_that_decided(tmp_path: Path) -> None:
    def lined(hedge: float, level: float) -> NDArray[np.uint8]:
        stop = Stop("hedge", hedge, True, TIGER, None, level)
        return drawn(tmp_path, Prediction("x", ORIGIN, path=(ANIMAL, CAT), stop=stop, topk=()))

    calibrated = lined(0.9, 0.592)
    assert np.array_equal(calibrated, lined(0.592, 0.592))
    assert not np.array_equal(calibrated, lined(0.9, 0.9))


@pytest.mark.parametrize("size", [(1, 1), (4000, 30), (30, 4000)])
@pytest.mark.parametrize("steps", [0, 1, 12])
def test_extreme_images_and_paths_stay_on_the_page(tmp_path: Path, size: tuple[int, int], steps: int) -> None:
    long = "artifact, a man-made object taken as a whole, with a name that needs several lines " * 2
    path = tuple(Node("n00021939", long, 1 - step / 20) for step in range(steps))
    picture = drawn(tmp_path, Prediction("x", ORIGIN, path=path, stop=UNSURE, topk=(TIGER,) * 10), size)
    assert pixels(picture, ORANGE) > 200
    border = np.concatenate([picture[:5].reshape(-1, 3), picture[-5:].reshape(-1, 3), picture[:, -5:].reshape(-1, 3)])
    assert (border == 255).all()
    assert picture.shape[0] < 3600


def test_drawing_leaves_the_global_state_of_matplotlib_alone(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from PIL import Image\n"
        "from miil21k.predict.pictures import draw_prediction\n"
        "from miil21k.predict.prediction import Prediction, Origin\n"
        "p = Prediction('x', Origin('m', 's', '', 'none', 'torch', 'cpu', 'fp32'))\n"
        f"draw_prediction(Image.new('RGB', (8, 8)), p, Path({str(tmp_path / 'x.png')!r}))\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=600).returncode == 0


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"miil21k\[plots\]"):
        draw_prediction(Image.new("RGB", (8, 8)), Prediction("x", ORIGIN), tmp_path / "x.png")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b/cat.jpg", "000007_cat.png"),
        ("../../etc/pass wd\n.jpg", "000007_pass_wd.png"),
        ("https://example.org/x/y.png?size=2", "000007_y.png"),
        ("-", "000007_image.png"),
        ("C:\\photos\\猫.jpg", "000007_image.png"),
        ("a" * 300 + ".jpg", f"000007_{'a' * 60}.png"),
    ],
)
def test_picture_names_are_safe(name: str, expected: str) -> None:
    assert picture_name(7, name) == expected
