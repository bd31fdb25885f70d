"""Make a small data set of class folders out of a few photographs: python examples/crops.py PHOTOS TARGET [EACH].

Of every photograph, EACH (12) pieces are cut at random, half of them mirrored: TARGET/cat/00.jpg, TARGET/cat/01.jpg and
so on. Other examples use it where they need labelled pictures; the same call always makes the same ones.
"""

import random
import sys
from pathlib import Path

from PIL import Image, ImageOps


def main(photos: Path, target: Path, each: int = 12) -> None:
    for photo in sorted(photos.glob("*.jpg")):
        draw = random.Random(f"{target.name}/{photo.name}")  # noqa: S311
        folder = target / photo.stem
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(photo) as file:
            image = file.convert("RGB")
        for number in range(each):
            edge = int(min(image.size) * draw.uniform(0.3, 1))
            left, top = draw.randint(0, image.width - edge), draw.randint(0, image.height - edge)
            piece = image.crop((left, top, left + edge, top + edge))
            piece = ImageOps.mirror(piece) if number % 2 else piece
            piece.resize((256, 256)).save(folder / f"{number:02}.jpg", quality=90)
        print(f"{folder}: {each} pictures")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
