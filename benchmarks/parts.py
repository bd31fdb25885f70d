"""What `--multi` finds in pictures that are made of labelled photographs.

    python benchmarks/parts.py DIR [--model embedded] [--seed 1]

DIR has folders named by wnid. Makes pictures of 2 x 2 photographs and of 3 photographs of different sizes on a blurred
one, and takes photographs as they are. A part is right when it names the class of a photograph that its box touches, or
something above or below it; a photograph is found when such a part is there. Prints Markdown.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageFilter

from miil21k.hierarchy.concepts import concepts_of
from miil21k.predict.predictor import Predictor

READINGS = ("published", "concepts")


class Thing(NamedTuple):
    """A photograph in a picture. wnid: its class. box: where it stands."""

    wnid: str
    box: tuple[int, int, int, int]


class Made(NamedTuple):
    kind: str
    image: Image.Image
    things: list[Thing]


def photograph(folder: Path, chance: random.Random) -> Image.Image:
    return Image.open(chance.choice(sorted(folder.glob("*.jpg")))).convert("RGB")


def square(image: Image.Image, side: int) -> Image.Image:
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    return image.resize((side, side), Image.Resampling.BICUBIC, (left, top, left + short, top + short))


def pictures(root: Path, wnids: list[str], chance: random.Random) -> list[Made]:
    found = []
    for _ in range(20):
        chosen, image, things = chance.sample(wnids, 4), Image.new("RGB", (600, 600)), []
        for place, wnid in enumerate(chosen):
            x, y = 300 * (place % 2), 300 * (place // 2)
            image.paste(square(photograph(root / wnid, chance), 300), (x, y))
            things.append(Thing(wnid, (x, y, x + 300, y + 300)))
        found.append(Made("2 x 2 photographs", image, things))
    for _ in range(20):
        chosen, things = chance.sample(wnids, 3), []
        ground = photograph(root / chance.choice(wnids), chance).resize((900, 600))
        image = ground.filter(ImageFilter.GaussianBlur(40))
        for place, wnid in enumerate(chosen):
            side = chance.randint(180, 290)
            x, y = 300 * place + chance.randint(0, 300 - side), chance.randint(0, 600 - side)
            image.paste(square(photograph(root / wnid, chance), side), (x, y))
            things.append(Thing(wnid, (x, y, x + side, y + side)))
        found.append(Made("3 of different sizes", image, things))
    for _ in range(40):
        wnid = chance.choice(wnids)
        image = photograph(root / wnid, chance)
        found.append(Made("one photograph", image, [Thing(wnid, (0, 0, *image.size))]))
    return found


def touches(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DIR")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    predictors = {reading: Predictor(args.model, device="cpu", multi=True, reading=reading) for reading in READINGS}
    graph = concepts_of(predictors["published"].space)
    below = {wnid: frozenset(graph.classes(at).tolist()) for wnid, at in graph.index_of.items()}
    wnids = [folder.name for folder in sorted(args.data.iterdir()) if below.get(folder.name)]
    made = pictures(args.data, wnids, random.Random(args.seed))
    print(f"{len(wnids)} classes of {args.data.name}\n")
    print("| pictures | read | whole picture answered | photographs found | parts per picture | of them right |")
    print("|---|---|---|---|---|---|")
    for kind in dict.fromkeys(one.kind for one in made):
        for reading, predictor in predictors.items():
            these = [one for one in made if one.kind == kind]
            whole = things = found = parts = right = 0
            for one in these:
                answer = predictor.predict(one.image)
                hits = [
                    {
                        thing
                        for thing in one.things
                        if touches(part.box, thing.box)
                        and (below[part.wnid] <= below[thing.wnid] or below[thing.wnid] <= below[part.wnid])
                    }
                    for part in answer.parts or ()
                ]
                whole, things, found = (
                    whole + bool(answer.path),
                    things + len(one.things),
                    found + len(set().union(*hits)),
                )
                parts, right = parts + len(hits), right + sum(map(bool, hits))
            cells = (f"{whole / len(these):.0%}", f"{found / things:.0%}", f"{parts / len(these):.1f}")
            print("|" + "|".join((kind, reading, *cells, f"{right / max(parts, 1):.0%}")) + "|", flush=True)


if __name__ == "__main__":
    main()
