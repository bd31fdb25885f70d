"""What a trained network makes of images: one vector per image, computed once and kept on a shelf beside the output.

The shelf is a folder with a subfolder for each network and way of reading, named by the digest of both, in which an
image is found by the digest of its bytes: renaming or moving pictures costs nothing, and a changed one is computed.
"""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.data.crops import Unreadable
from miil21k.data.images import load_picture
from miil21k.data.options import ReadingOptions
from miil21k.data.resizers import resolve_resizer
from miil21k.data.threads import in_order
from miil21k.data.transforms import crop_picture, decode_edge, normalise
from miil21k.errors import ImageError, UsageError
from miil21k.files import atomic, replace_file, sweep
from miil21k.options import described, option_again
from miil21k.records import to_json
from miil21k.runtime.options import ComputeOptions, LoadOptions, threads_of, workers_of
from miil21k.runtime.resolve import resolve
from miil21k.store.integrity import tensors_digest
from miil21k.text import brief

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from miil21k.data.datasets import LabelledImages
    from miil21k.runtime.base import Backend
    from miil21k.runtime.loading import Loaded
    from miil21k.runtime.resolve import Make
    from miil21k.zoo.schema import Preprocess

__all__ = ["Extractor", "FeatureOptions", "Features", "compute_features"]

PART = 256  # images per file of a shelf: what a kill costs at most


@described
@dataclass(frozen=True)
class FeatureOptions(ReadingOptions, LoadOptions):
    """How features are computed: which weights, what computes, how images are read."""

    batch_size: int | None = option_again(ComputeOptions, "batch_size", 16, "images per forward pass")


@dataclass(frozen=True, eq=False)
class Features:
    """Vectors of the images that could be read, in order.

    values: float32 [n, D], what the classifier of the network multiplies. labels: int32 [n]. indices: int64 [n], places
    in the set of images. digests: uint8 [n, 32], SHA-256 of the bytes of each. unreadable: the others, and why. model:
    its name; weights: the digest of its tensors; preprocess: how images became its input. computed: how many vectors
    are new, in how many seconds; the others came from the shelf.
    """

    values: NDArray[np.float32]
    labels: NDArray[np.int32]
    indices: NDArray[np.int64]
    digests: NDArray[np.uint8]
    unreadable: tuple[Unreadable, ...]
    model: str
    weights: str
    preprocess: Preprocess
    computed: int
    seconds: float

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Features:
        """Return the features of these rows alone."""
        return replace(
            self,
            values=self.values[rows],
            labels=self.labels[rows],
            indices=self.indices[rows],
            digests=self.digests[rows],
        )


class Extractor:
    """A network that gives features, opened once for several sets of images.

    model: a name of the zoo, an export or a checkpoint. options: see `FeatureOptions`; label_space plays no part. make:
    makes an export that the cache lacks (see `resolve`), for `images` images in all. Attributes: loaded, name, weights
    (digest of the tensors), preprocess, resizer. Raises what `resolve` does.
    """

    def __init__(
        self,
        model: str,
        options: FeatureOptions | None = None,
        *,
        images: int | None = None,
        make: Make | None = None,
    ) -> None:
        self.options = replace(options or FeatureOptions(), label_space=None)
        count = None if images is None else lambda most: min(most, images)
        self.loaded: Loaded = resolve(model, self.options, images=count, make=make, nameless=True)
        self.name, self.preprocess = self.loaded.name, self.loaded.preprocess
        self.weights = self.loaded.weights_sha256 or tensors_digest(self.loaded.model)
        self.resizer = resolve_resizer(self.options.resizer, self.preprocess.interpolation)
        self.backend: Backend = self.loaded.start()

    def __repr__(self) -> str:
        return f"Extractor({self.name!r}, backend={self.backend.name!r}, device={self.backend.device!r})"

    @property
    def key(self) -> str:
        """Names the shelf: a digest of the weights and of all that decides what the network sees of an image."""
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """Return what decides the features of an image, besides its bytes."""
        preprocess: dict[str, Any] = to_json(self.preprocess)
        del preprocess["source"]
        return {
            "weights": self.weights,
            "preprocess": preprocess,
            "resizer": self.resizer,
            "decode": self.options.decode,
            "exif": self.options.exif,
            "dtype": self.backend.dtype,
        }

    def crop(self, content: bytes, name: str) -> NDArray[np.uint8]:
        """Return what the network sees of an encoded image, uint8 [H, W, 3]; raises ImageError."""
        options = self.options
        reduced = decode_edge(self.preprocess) if options.decode == "reduced" else None
        picture = load_picture(content, name=name, exif=options.exif, max_pixels=options.max_pixels, reduce_to=reduced)
        return crop_picture(picture, self.preprocess, self.resizer)

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features of crops, uint8 [B, H, W, 3], as float32 [B, D]; raises UsageError where it has none."""
        pixels = crops if self.backend.normalises else normalise(crops, self.preprocess)
        embedding = self.backend.run(pixels, embed=True).embedding
        if embedding is None:
            raise UsageError(f"'{self.name}' gives no features: name the weights that it was made from.")
        return embedding

    def logits(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits of crops, uint8 [B, H, W, 3], as float32 [B, C]."""
        pixels = crops if self.backend.normalises else normalise(crops, self.preprocess)
        return self.backend.run(pixels).logits

    def features(
        self,
        images: LabelledImages,
        *,
        shelf: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Features:
        """Return the features of every image that can be read.

        shelf: the folder in which they are kept, and looked for. progress: called with images done and in all.
        Raises UsageError when no image can be read.
        """
        began = time.perf_counter()
        kept = _Shelf(None if shelf is None else shelf / self.key, self.facts())
        found = _Collected()
        size = self.options.batch_size or 16
        batches = (range(start, min(start + size, len(images))) for start in range(0, len(images), size))
        workers = workers_of(self.options)
        try:
            with self.backend.threads(threads_of(self.options), max(1, workers)):
                for batch in in_order(
                    lambda rows: self._batch(images, rows, kept.known), batches, workers, "miil21k-features"
                ):
                    kept.add(batch.digests[batch.fresh], batch.values[batch.fresh])
                    found.add(batch)
                    if progress is not None:
                        progress(found.done, len(images))
        finally:
            kept.flush()
        if not found.indices:
            first = found.unreadable[0].reason if found.unreadable else "there are none."
            raise UsageError(f"None of the {len(images)} images can be read; the first one: {first}")
        indices = np.array(found.indices, np.int64)
        return Features(
            np.concatenate(found.values),
            images.labels[indices],
            indices,
            np.concatenate(found.digests),
            tuple(found.unreadable),
            self.name,
            self.weights,
            self.preprocess,
            found.fresh,
            time.perf_counter() - began,
        )

    def _batch(self, images: LabelledImages, rows: range, known: dict[bytes, NDArray[np.float32]]) -> _Batch:
        good, digests, values, crops, unreadable = [], [], [], [], []
        fresh: list[bool] = []
        for index in rows:
            name = images.name(index)
            try:
                content = images.source.read(int(images.rows[index]))
                digest = hashlib.sha256(content).digest()
                before = known.get(digest)
                if before is None:
                    crops.append(self.crop(content, name))
            except (ImageError, OSError) as error:
                unreadable.append(Unreadable(name, str(error)))
                continue
            except MemoryError:
                unreadable.append(Unreadable(name, f"'{name}' needs more memory than there is."))
                continue
            good.append(index)
            digests.append(np.frombuffer(digest, np.uint8))
            values.append(before)
            fresh.append(before is None)
        new = iter(self.embed(np.stack(crops))) if crops else iter(())
        filled = [next(new) if value is None else value for value in values]
        return _Batch(
            len(rows),
            good,
            np.array(digests, np.uint8).reshape(-1, 32),
            np.stack(filled) if filled else None,
            np.array(fresh, np.bool_),
            unreadable,
        )


class _Batch(NamedTuple):
    """done: images looked at. indices: those that can be read; digests, values, fresh: of these, None without any."""

    done: int
    indices: list[int]
    digests: NDArray[np.uint8]
    vectors: NDArray[np.float32] | None
    fresh: NDArray[np.bool_]
    unreadable: list[Unreadable]

    @property
    def values(self) -> NDArray[np.float32]:
        return np.empty((0, 0), np.float32) if self.vectors is None else self.vectors


@dataclass
class _Collected:
    done: int = 0
    fresh: int = 0
    indices: list[int] = field(default_factory=list)
    digests: list[NDArray[np.uint8]] = field(default_factory=list)
    values: list[NDArray[np.float32]] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)

    def add(self, batch: _Batch) -> None:
        self.done += batch.done
        self.fresh += int(batch.fresh.sum())
        self.indices += batch.indices
        self.unreadable += batch.unreadable
        if batch.vectors is not None:
            self.digests.append(batch.digests)
            self.values.append(batch.vectors)


class _Shelf:
    """Features on disk by the digest of an image, in files of at most `PART` images; in memory alone without a folder.

    known: the features that were there when it was opened. A damaged file is left out and computed again.
    """

    def __init__(self, folder: Path | None, facts: dict[str, Any]) -> None:
        self.folder = folder
        self.known: dict[bytes, NDArray[np.float32]] = {}
        self._digests: list[NDArray[np.uint8]] = []
        self._values: list[NDArray[np.float32]] = []
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        replace_file(folder / "network.json", json.dumps(facts, indent=2) + "\n")
        for path in sorted(folder.glob("*.npz")):
            try:
                with path.open("rb") as file, np.load(file, allow_pickle=False) as part:
                    digests, values = part["digests"], part["values"]
            except (OSError, ValueError, KeyError, zipfile.BadZipFile):
                path.unlink(missing_ok=True)
                continue
            self.known.update(zip((row.tobytes() for row in digests), values, strict=True))

    def add(self, digests: NDArray[np.uint8], values: NDArray[np.float32]) -> None:
        """Keep features; they reach the disk by the hundred."""
        if self.folder is None or not len(digests):
            return
        self._digests.append(digests)
        self._values.append(values)
        if sum(map(len, self._digests)) >= PART:
            self.flush()

    def flush(self) -> None:
        """Bring what was added to the disk."""
        if self.folder is None or not self._digests:
            return
        digests, values = np.concatenate(self._digests), np.concatenate(self._values)
        name = hashlib.sha256(digests.tobytes()).hexdigest()[:16]
        with atomic(self.folder / f"{name}.npz") as part, part.open("wb") as file:
            np.savez(file, digests=digests, values=values)
        self._digests, self._values = [], []


def compute_features(
    images: LabelledImages,
    model: str,
    options: FeatureOptions | None = None,
    *,
    shelf: Path | None = None,
    make: Make | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Return the features that `model` gives for `images`, those on the shelf not computed again.

    Arguments and errors as for `Extractor` and its `features`.
    """
    return Extractor(model, options, images=len(images), make=make).features(images, shelf=shelf, progress=progress)
