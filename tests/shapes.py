"""Small real images with a hierarchy of three levels: coloured circles and squares, drawn with Pillow."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from miil21k.hierarchy.spaces import LabelSpace
from miil21k.hierarchy.tree import Tree

if TYPE_CHECKING:
    from pathlib import Path

FAMILIES = {"warm": ("red", "yellow"), "cold": ("blue", "green")}
COLOURS = {"red": (220, 40, 40), "yellow": (230, 210, 40), "blue": (40, 60, 220), "green": (40, 180, 70)}
FORMS = ("circle", "square")


def shape_space() -> LabelSpace:
    """Return 14 classes: 2 roots (warm, cold), 4 colours, 8 coloured forms; sorted by name."""
    parent: dict[str, str | None] = {}
    for family, colours in FAMILIES.items():
        parent[family] = None
        for colour in colours:
            parent[colour] = family
            parent |= {f"{colour}_{form}": colour for form in FORMS}
    names = sorted(parent)
    tree = Tree.from_parents(names, [parent[name] for name in names])
    return LabelSpace("shapes", tree, tree.names, ("",) * tree.num_nodes)


def draw_shape(name: str, rng: np.random.Generator, size: int = 32) -> Image.Image:
    """Return an image of class `name`; of an inner class, one of a random class below it."""
    if name in FAMILIES:
        name = str(rng.choice(FAMILIES[name]))
    colour, _, form = name.partition("_")
    form = form or str(rng.choice(FORMS))
    grey = int(rng.integers(90, 160))
    image = Image.new("RGB", (size, size), (grey, grey, grey))
    side = int(rng.integers(size // 3, 2 * size // 3))
    left, top = (int(rng.integers(0, size - side)) for _ in range(2))
    draw = ImageDraw.Draw(image)
    box = (left, top, left + side, top + side)
    (draw.ellipse if form == "circle" else draw.rectangle)(box, fill=COLOURS[colour])
    return image


def write_folders(root: Path, per_class: int, seed: int = 0, names: tuple[str, ...] | None = None) -> Path:
    """Write `per_class` JPEGs of every class below `root`, one folder per class; returns `root`."""
    rng = np.random.default_rng(seed)
    for name in names or shape_space().wnids:
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(per_class):
            draw_shape(name, rng).save(folder / f"{name}_{number}.jpg", quality=95)
    return root


def write_shard(path: Path, names: list[str], seed: int = 0, label: str = "cls") -> Path:
    """Write one image per entry of `names` into the tar at `path`, labelled by .cls or .json files."""
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(names):
            encoded = io.BytesIO()
            draw_shape(name, rng).save(encoded, "JPEG")
            text = name if label == "cls" else f'{{"wnid": "{name}", "label": {number}}}'
            for suffix, content in (("jpg", encoded.getvalue()), (label, text.encode())):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path
