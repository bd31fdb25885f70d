"""CIFAR-10 and Fashion-MNIST as label spaces of WordNet: every ancestor of a class is a class too.

The ancestors are those of ImageNet-21K (label space `goog21k`, which holds all twenty synsets). A training label is
replaced by one of its ancestors now and then, as ImageNet-21K labels a chair *chair*, *seat* or *furniture*.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from miil21k.errors import UsageError
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import LabelSpace
from miil21k.hierarchy.tree import Tree

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SOURCE = "goog21k"
SIZE = 32  # Fashion-MNIST is 28 pixels wide: two black pixels are put on each side

CIFAR10 = {
    "airplane": "n02691156",
    "automobile": "n02958343",
    "bird": "n01503061",
    "cat": "n02121808",  # domestic cat
    "deer": "n02430045",
    "dog": "n02084071",
    "frog": "n01639765",
    "horse": "n02374451",
    "ship": "n04194289",
    "truck": "n04490091",
}
# In the order of the labels. *Shirt* stands for shirts with a placket and would be the parent of *T-shirt*, so that it
# becomes *dress shirt*, and both are children of *shirt*.
FASHION = {
    "T-shirt/top": "n03595614",  # jersey, T-shirt
    "Trouser": "n04489008",
    "Pullover": "n04021028",
    "Dress": "n03236735",
    "Coat": "n03057021",
    "Sandal": "n04133789",
    "Shirt": "n03238879",  # dress shirt
    "Sneaker": "n03472535",  # gym shoe, sneaker
    "Bag": "n02774152",
    "Ankle boot": "n02872752",  # boot
}
# The same images with two of the ten classes as inner nodes of the tree, each above another of the ten: a fifth of the
# labels of ImageNet-21K-P are such nodes, and images of theirs belong to none of the classes below them.
INNER_CIFAR10 = CIFAR10 | {"automobile": "n03791235", "deer": "n02370806"}  # motor vehicle, ungulate
INNER_FASHION = FASHION | {"Shirt": "n04197391", "Sneaker": "n04199027"}  # shirt, shoe


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images uint8 [n, 3, 32, 32] and labels int64 [n], 0 to 9, the first ten classes of the space."""

    name: str
    space: LabelSpace
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


def space_of(name: str, wnids: dict[str, str]) -> LabelSpace:
    """Return the label space of these ten classes, first and in this order, and all their ancestors in `SOURCE`."""
    source = load_label_space(SOURCE)
    chains = [source.tree.path(source.tree.index(wnid)) for wnid in wnids.values()]
    nodes = list(dict.fromkeys([chain[-1] for chain in chains] + [node for chain in chains for node in chain]))
    parent = [source.tree.parent[node] for node in nodes]
    tree = Tree.from_parents(
        [source.tree.wnids[node] for node in nodes],
        [None if above < 0 else source.tree.wnids[above] for above in parent],
        [source.tree.names[node] for node in nodes],
    )
    lemmas, glosses = ([texts[node] for node in nodes] for texts in (source.lemma_text, source.gloss_text))
    return LabelSpace(name, tree, lemmas, glosses)


def with_inner_classes(data: ImageSet) -> ImageSet:
    """Return the images of `data` in the space in which two of its classes are inner nodes."""
    wnids = INNER_CIFAR10 if data.space.name == "cifar10" else INNER_FASHION
    space = space_of(f"{data.space.name}-inner", wnids)
    return replace(data, name=f"{data.name}, two inner classes", space=space)


def blur(tree: Tree, labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """Return `labels` with this share of them, on average, replaced by a random proper ancestor (int64 [n])."""
    rng = np.random.default_rng(seed)
    place = (rng.random(len(labels)) * tree.depth[labels]).astype(np.int64)  # a depth above the label's own
    chosen = tree.level_target[labels, place].astype(np.int64)
    blurred = (rng.random(len(labels)) < share) & (tree.depth[labels] > 0)
    return np.where(blurred, chosen, labels)


def load_fashion(folder: Path, train: int, test: int) -> ImageSet:
    """Return the first images of Fashion-MNIST, from the gzip files as published; raises UsageError without them."""
    parts = [_fashion_part(folder, "train", train), _fashion_part(folder, "t10k", test)]
    return ImageSet("Fashion-MNIST", space_of("fashion-mnist", FASHION), *parts[0], *parts[1])


def _fashion_part(folder: Path, prefix: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        images = gzip.decompress((folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((folder / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
    except OSError as error:
        raise UsageError(f"No Fashion-MNIST in {folder}: {error} (Debian: dataset-fashion-mnist).") from None
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)[:count]
    padded = np.pad(pixels, ((0, 0), (2, 2), (2, 2)))
    return np.repeat(padded[:, None], 3, axis=1), np.frombuffer(labels, np.uint8, offset=8)[:count].astype(np.int64)


def load_cifar(archive: Path, train: int, test: int) -> ImageSet:
    """Return equally many images of each class of CIFAR-10, from a zip of `train/<class>/*.jpg` and `test/...`."""
    try:
        with zipfile.ZipFile(archive) as opened:
            parts = [_cifar_part(opened, "train", train), _cifar_part(opened, "test", test)]
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"{archive} is no zip of images: {error}.") from None
    return ImageSet("CIFAR-10", space_of("cifar10", CIFAR10), *parts[0], *parts[1])


def _cifar_part(opened: zipfile.ZipFile, part: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    each, images, labels = max(1, count // len(CIFAR10)), [], []
    found = Counter[str]()
    for name in sorted(opened.namelist()):
        words = name.split("/")
        if len(words) < 3 or words[-3] != part or words[-2] not in CIFAR10 or found[words[-2]] == each:
            continue
        found[words[-2]] += 1
        pixels = np.asarray(Image.open(io.BytesIO(opened.read(name))).convert("RGB"))
        if pixels.shape != (SIZE, SIZE, 3):
            raise UsageError(f"{name} is {pixels.shape[1]}x{pixels.shape[0]}, not {SIZE}x{SIZE} pixels.")
        images.append(pixels.transpose(2, 0, 1))
        labels.append(list(CIFAR10).index(words[-2]))
    if len(found) < len(CIFAR10):
        raise UsageError(f"The zip has no '{part}' images of {', '.join(sorted(CIFAR10.keys() - found.keys()))}.")
    return np.stack(images), np.array(labels, np.int64)
