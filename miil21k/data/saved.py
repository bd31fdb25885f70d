"""Data sets of the package `datasets` on disk: saved by `save_to_disk`, or a folder of images or Parquet files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.data.lists import ROLES, few, split_name
from miil21k.data.names import label_order
from miil21k.data.opening import read_file
from miil21k.environment import need
from miil21k.errors import UsageError
from miil21k.suffixes import PassedOver

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["SavedSource", "open_saved"]

_SAVED = ("dataset_dict.json", "state.json")  # either lies in what save_to_disk writes


def open_saved(name: str) -> dict[str, Callable[[], SavedSource]]:
    """Return what opens each split of the data set in the folder `name`; one without splits is called "".

    Raises UsageError when there is none, or it cannot be read; MissingExtra without the package `datasets`.
    """
    origin = f"hfds/{name}"
    if not Path(name).is_dir():
        raise UsageError(f"'{origin}' names no folder: a data set of a hub must be downloaded first.")
    datasets = need("datasets", "hfds", f"'{origin}'")
    saved = any((Path(name) / file).is_file() for file in _SAVED)
    try:
        found = datasets.load_from_disk(name) if saved else datasets.load_dataset(name)
    except (OSError, ValueError, LookupError, TypeError, datasets.exceptions.DatasetsError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise UsageError(f"'{origin}' cannot be read as a data set: {why}.") from None
    if not isinstance(found, dict):
        return {"": partial(SavedSource, found, Path(name))}
    parts = {split_name(split): partial(SavedSource, part, Path(name), split) for split, part in found.items()}
    if len(parts) < len(found):
        raise UsageError(f"'{origin}' holds two splits for one part of a data set: {few(list(found), 9)}.")
    return dict(parts)


class SavedSource:
    """The images of one split, in its order.

    keys: the class names that occur, in the order of the data set's own list of classes; of labels without such a list,
    whole numbers by value, others bytewise. key_of: int32 [N], the place of each image's label in `keys`.
    Raises UsageError where it is not clear which column is the image or the label, and for images without a label.
    """

    def __init__(self, dataset: Any, folder: Path, split: str = "") -> None:
        self.called = "labels"
        self.label_sets, self.weights = None, None
        self.passed = PassedOver()
        self._split, self._folder, self._origin = split, folder.resolve(), f"hfds/{folder}"
        images = [name for name, feature in dataset.features.items() if type(feature).__name__ == "Image"]
        self._column = self._one(images, ROLES["path"], "image", dataset)
        label = self._one(self._label_columns(dataset), ROLES["label"], "class label", dataset)
        self._find_keys(list(dataset.with_format(None)[label]), getattr(dataset.features[label], "names", None), label)
        stored = dataset.with_format(None).select_columns([self._column])
        self._images = stored.cast_column(self._column, type(dataset.features[self._column])(decode=False))

    @staticmethod
    def _label_columns(dataset: Any) -> list[str]:
        kinds = {name: type(feature).__name__ for name, feature in dataset.features.items()}
        listed = [name for name, kind in kinds.items() if kind == "ClassLabel"]
        return listed or [name for name, kind in kinds.items() if kind == "Value" and name.lower() in ROLES["label"]]

    def _one(self, columns: list[str], usual: tuple[str, ...], role: str, dataset: Any) -> str:
        chosen = columns if len(columns) == 1 else [name for name in columns if name.lower() in usual]
        if len(chosen) != 1:
            raise UsageError(
                f"'{self._origin}' has {len(columns) or 'no'} columns that may be the {role} (its columns: "
                f"{few(list(dataset.features), 9)}): keep one, called '{usual[1] if role == 'image' else usual[0]}'."
            )
        return chosen[0]

    def _find_keys(self, labels: list[Any], names: list[str] | None, column: str) -> None:
        if not labels:
            raise UsageError(f"'{self._origin}' holds no images{f' in {self._split}' if self._split else ''}.")
        lacking = sum(label is None or label in (-1, "") for label in labels)
        if lacking:
            raise UsageError(
                f"{lacking:,} of the {len(labels):,} images of '{self._origin}' have no label in '{column}'."
            )
        strange = next((label for label in labels if type(label) not in (int, str)), None)
        if strange is not None:
            raise UsageError(
                f"The labels in '{column}' of '{self._origin}' are of the type {type(strange).__name__}: expected "
                "names or whole numbers."
            )
        found = set(labels)
        order = sorted(found) if names else sorted(found, key=lambda label: label_order(str(label)))
        self.keys: tuple[str, ...] = tuple(names[label] if names else str(label) for label in order)
        place = {label: index for index, label in enumerate(order)}
        self.key_of: NDArray[np.int32] = np.array([place[label] for label in labels], np.int32)

    def __len__(self) -> int:
        return int(self.key_of.size)

    def name(self, index: int) -> str:
        """Return the path of image `index` below the folder, or `SPLIT/NUMBER` where it is no file there."""
        path = self._images[index][self._column]["path"]
        if path and Path(path).is_relative_to(self._folder):
            return Path(path).relative_to(self._folder).as_posix()
        return f"{self._split}/{index}" if self._split else str(index)

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`; raises ImageError when its file cannot be read."""
        stored = self._images[index][self._column]
        return stored["bytes"] if stored["bytes"] is not None else read_file(stored["path"], self.name(index))
