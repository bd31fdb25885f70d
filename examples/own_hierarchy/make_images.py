"""Draw small images of eight forms into OUT/train, OUT/val, OUT/calibration and OUT/test, and a few into OUT/photos.

Stands in for photographs of your own; the hierarchy beside it is shapes.csv.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

FORMS = ("disc", "ring", "ellipse", "square", "diamond", "triangle", "star5", "star8")
SIZE = 32


def corners(form: str, x: float, y: float, radius: float, turn: float) -> list[tuple[float, float]]:
    """Return the corners of an angular form around (x, y)."""
    count = {"square": 4, "diamond": 4, "triangle": 3, "star5": 10, "star8": 16}[form]
    points = []
    for corner in range(count):
        angle = turn + 2 * math.pi * corner / count
        reach = radius * (0.45 if form.startswith("star") and corner % 2 else 1)
        wide = 0.55 if form == "diamond" else 1
        points.append((x + reach * wide * math.cos(angle), y + reach * math.sin(angle)))
    return points


def draw(form: str, rng: random.Random) -> Image.Image:
    """Return one image of `form`: any colour on any background, any size, sharp or blurred."""
    back, front = ([rng.randrange(256) for _ in range(3)] for _ in range(2))
    while sum(abs(a - b) for a, b in zip(back, front, strict=True)) < 200:
        front = [rng.randrange(256) for _ in range(3)]
    image = Image.new("RGB", (SIZE, SIZE), tuple(back))
    pen = ImageDraw.Draw(image)
    radius = rng.uniform(0.15, 0.42) * SIZE
    x, y = (rng.uniform(radius, SIZE - radius) for _ in range(2))
    if form in ("disc", "ring", "ellipse"):
        flat = 0.5 if form == "ellipse" else 1
        box = (x - radius, y - radius * flat, x + radius, y + radius * flat)
        pen.ellipse(box, outline=tuple(front), width=4, fill=None if form == "ring" else tuple(front))
    else:
        turn = {"square": math.pi / 4, "diamond": 0.0, "triangle": -math.pi / 2}.get(form, rng.uniform(0, math.pi))
        pen.polygon(corners(form, x, y, radius, turn), fill=tuple(front))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--per-class", type=int, default=150, help="training images per form")
    args = parser.parse_args()
    rng = random.Random(0)  # noqa: S311 (pictures, no secret)
    for part, count in (("train", args.per_class), ("val", 15), ("calibration", 40), ("test", 25), ("photos", 1)):
        for form in FORMS:
            folder = args.out / part / form if part != "photos" else args.out / part
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                draw(form, rng).save(folder / f"{form}_{number:03d}.png")


if __name__ == "__main__":
    main()
