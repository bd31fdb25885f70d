"""Data sets of torchvision that lie on disk, as timm's dataset factory names them: `torch/cifar10/FOLDER`."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.data.folders import FolderSource
from miil21k.data.names import listed_classes
from miil21k.errors import UsageError
from miil21k.suffixes import PassedOver
from miil21k.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["TorchvisionSource", "open_torchvision"]

# timm's name -> the class in torchvision.
_SETS = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "mnist": "MNIST",
    "kmnist": "KMNIST",
    "fashion_mnist": "FashionMNIST",
}
_FOLDERS = ("image_folder", "folder")  # timm's two names of a folder for each class
# Part -> the names that timm looks for below it.
_PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "eval", "evaluation")}


def open_torchvision(rest: str) -> dict[str, Callable[[], TorchvisionSource | FolderSource]]:
    """Return what opens each part of the data set `NAME/FOLDER`: its files lie in the folder, nothing is downloaded.

    Raises UsageError for another name, and where the folder or the files are missing.
    """
    name, _, root = rest.partition("/")
    name = name.lower()
    if name not in _SETS and name not in _FOLDERS:
        known = (*_SETS, *_FOLDERS)
        raise UsageError(
            f"No data set '{name}' among those of torchvision that are read from disk.{did_you_mean(name, known)} "
            f"There are {', '.join(known)}, each before its folder: torch/cifar10/FOLDER."
        )
    folder = Path(root)
    if not root or not folder.is_dir():
        raise UsageError(f"'torch/{rest}' names no folder: torch/{name}/FOLDER is the one that its files lie in.")
    if name in _SETS:
        return {part: partial(_opened, name, folder, part) for part in ("train", "test")}
    found = {
        part: next((folder / word for word in words if (folder / word).is_dir()), None)
        for part, words in _PARTS.items()
    }
    parts = {part: place for part, place in found.items() if place is not None} or {"": folder}
    return {part: partial(FolderSource, place) for part, place in parts.items()}


def _opened(name: str, folder: Path, part: str) -> TorchvisionSource:
    import torchvision

    try:  # what it unpickles of CIFAR has the published MD5, or it refuses
        return TorchvisionSource(getattr(torchvision.datasets, _SETS[name])(folder, train=part == "train"), part)
    except (RuntimeError, OSError, ValueError) as error:
        why = str(error).splitlines()[0].partition(" You can use download")[0].rstrip(".")
        raise UsageError(f"'torch/{name}/{folder}' cannot be read: {why}. Nothing is downloaded.") from None


class TorchvisionSource:
    """The images of one part, in its order, as PNG files.

    keys: the names of the classes that occur, in the order of the data set. key_of: int32 [N], the place of each
    image's label in `keys`. dataset: of torchvision, whose images are arrays.
    """

    def __init__(self, dataset: Any, part: str) -> None:
        self.called = "labels"
        self.label_sets, self.weights = None, None
        self.passed = PassedOver()
        self._dataset, self._part = dataset, part
        self.keys, self.key_of = listed_classes(dataset.targets, dataset.classes)

    def __len__(self) -> int:
        return int(self.key_of.size)

    def name(self, index: int) -> str:
        """Return `PART/NUMBER`: image `index` has no name of its own."""
        return f"{self._part}/{index}"

    def read(self, index: int) -> bytes:
        """Return image `index` as a PNG."""
        written = io.BytesIO()
        self._dataset[index][0].save(written, "PNG")
        return written.getvalue()
