"""Data sets of TensorFlow Datasets that were prepared on this machine, as timm's factory names them: `tfds/NAME`.

They are read at random, without TensorFlow: that needs files in the format ArrayRecord or Parquet.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.data.lists import few, split_name
from miil21k.data.names import listed_classes
from miil21k.environment import need
from miil21k.errors import UsageError
from miil21k.suffixes import PassedOver

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["TensorflowSource", "open_tensorflow"]

_INFO = "dataset_info.json"  # lies in the folder of each prepared version
_BLOCK = 256  # records that are read at once for their labels


def open_tensorflow(name: str) -> dict[str, Callable[[], TensorflowSource]]:
    """Return what opens each split of a prepared data set; nothing is downloaded.

    name: NAME[/CONFIG][:VERSION] of one in $TFDS_DATA_DIR, else in ~/tensorflow_datasets; or the folder of a version.
    Raises UsageError when there is none, or its files cannot be read at random; MissingExtra without the packages
    tensorflow-datasets and array_record.
    """
    origin = f"tfds/{name}"
    tfds = need("tensorflow_datasets", "tfds", f"'{origin}'", package="tensorflow-datasets")
    need("array_record", "tfds", f"'{origin}'")
    try:
        if (Path(name) / _INFO).is_file():
            builder = tfds.builder_from_directory(name)
        else:
            builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
    except (ValueError, OSError, ImportError) as error:
        raise UsageError(
            f"'{origin}' is no data set that was prepared on this machine: {_first_line(error)}. Nothing is "
            f"downloaded: tfds.builder('{name}', file_format='array_record').download_and_prepare() does that."
        ) from None
    parts = {split_name(split): partial(TensorflowSource, builder, split, origin) for split in builder.info.splits}
    if len(parts) < len(builder.info.splits):
        raise UsageError(
            f"'{origin}' holds two splits for one part of a data set: {few(list(builder.info.splits), 9)}."
        )
    return dict(parts)


class TensorflowSource:
    """The images of one split, in its order, as they were stored.

    keys: the names of the classes that occur, in the order of the data set's own list. key_of: int32 [N], the place of
    each image's label in `keys`. Labels lie in the records, so all of these are read once.
    Raises UsageError where it is not clear which feature is the image or the label, for images without a label, and for
    files that have no random access.
    """

    def __init__(self, builder: Any, split: str, origin: str) -> None:
        import tensorflow_datasets as tfds

        self.called = "labels"
        self.label_sets, self.weights = None, None
        self.passed = PassedOver()
        self._split, self._origin = split, origin
        features = builder.info.features
        self._column = self._one("Image", "image", features)
        label = self._one("ClassLabel", "class label", features)
        try:
            self._records = builder.as_data_source(split=split, decoders={self._column: tfds.decode.SkipDecoding()})
        except NotImplementedError:
            raise UsageError(
                f"'{origin}' was prepared as {builder.info.file_format.value}, which has no random access: prepare it "
                "with file_format='array_record'."
            ) from None
        self._find_keys(self._labels(label), features[label].names)

    def _one(self, kind: str, role: str, features: Any) -> str:
        found: list[str] = [name for name, feature in features.items() if type(feature).__name__ == kind]
        if len(found) != 1:
            raise UsageError(
                f"'{self._origin}' has {len(found) or 'no'} features that may be the {role} (its features: "
                f"{few(list(features), 9)}), and one is needed."
            )
        return found[0]

    def _labels(self, column: str) -> NDArray[np.int64]:
        count = len(self._records)
        blocks = (range(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))
        return np.array([one[column] for block in blocks for one in self._records.__getitems__(list(block))], np.int64)

    def _find_keys(self, labels: NDArray[np.int64], names: list[str]) -> None:
        if not labels.size:
            raise UsageError(f"'{self._origin}' holds no images in {self._split}.")
        if lacking := int((labels < 0).sum()):
            raise UsageError(f"{lacking:,} of the {labels.size:,} images of '{self._origin}' have no label.")
        self.keys, self.key_of = listed_classes(labels, names)

    def __len__(self) -> int:
        return int(self.key_of.size)

    def name(self, index: int) -> str:
        """Return `SPLIT/NUMBER`: image `index` has no name of its own."""
        return f"{self._split}/{index}"

    def read(self, index: int) -> bytes:
        """Return the encoded bytes of image `index`."""
        return bytes(self._records[index][self._column])


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
