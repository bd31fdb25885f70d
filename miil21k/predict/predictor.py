"""Images in, predictions out: one per input, in order, its own."""

from __future__ import annotations

import copy
import glob
import io
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, cast, overload

import numpy as np
from PIL import Image

from miil21k.data.cloud import is_remote
from miil21k.data.documents import is_document
from miil21k.data.images import ImageInput, load_picture
from miil21k.data.inputs import Unfolded, expand_units, require_images
from miil21k.data.opening import read_file
from miil21k.data.parts import split_part
from miil21k.data.resizers import resolve_resizer
from miil21k.data.tar_inputs import has_braces, is_shard
from miil21k.data.threads import in_order
from miil21k.data.transforms import crop_picture, decode_edge, normalise
from miil21k.data.web import fetch_image, is_url
from miil21k.environment import available_cpus, require
from miil21k.errors import ImageError, Miil21kError, UsageError
from miil21k.hierarchy.load import load_label_space
from miil21k.predict.decoding import answers_of, decoder_of, paths_of
from miil21k.predict.options import PredictOptions, RunOptions, changed, listed
from miil21k.predict.parts import TileAnswer, cut, edge_of_tiles, joined
from miil21k.predict.prediction import Origin, Prediction
from miil21k.runtime.options import threads_of, workers_of
from miil21k.runtime.resolve import resolve
from miil21k.suffixes import TIFF_SUFFIXES, image_suffixes, suffix_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from miil21k.data.facts import ImageFacts
    from miil21k.data.images import ImageSource
    from miil21k.data.inputs import AnyUnit
    from miil21k.decode.compact import CompactMasses
    from miil21k.decode.decoder import Decoder
    from miil21k.predict.parts import Tile
    from miil21k.predict.prediction import ImagePart
    from miil21k.predict.run import BarOf, Outcome
    from miil21k.runtime.base import Backend, Outputs
    from miil21k.runtime.loading import Loaded

__all__ = ["Predictor", "Seen"]


class Seen(NamedTuple):
    """What was seen of an image.

    crop: uint8 [H, W, 3], for the network. size: (width, height), upright. facts, tiles: where they are wanted.
    """

    crop: NDArray[np.uint8]
    size: tuple[int, int]
    facts: ImageFacts | None = None
    tiles: Sequence[Tile] = ()


class Predictor:
    """A model that answers images with paths through the tree.

    model: a name of the zoo (canonical or alias), or the path of an `.onnx` file that miil21k exported. None prefers
    `tresnet_m_21k` and falls back to `embedded` when that is neither cached nor reachable; `notice` then says so, and
    a warning is logged. options, and keywords that change them: see `PredictOptions`
    (`Predictor("embedded", hedge=0.8, topk=3)`). loaded: what `resolve` returned for both, where that was asked before.

    Attributes: origin, what all rows share. space, the label space of the answers. head, what the logits mean.
    decoder, which reads them. preprocess. resizer, `pillow` or `cykooz`. backend. licence, of the weights where it is
    known. notice. notes, one line for each noun of several meanings in the options.
    Raises UnknownModel, UsageError (an option, a device), LabelSpaceMismatch, DownloadError, CheckpointError,
    MissingExtra.
    """

    takes_shards = False

    def __init__(
        self,
        model: str | None = None,
        *,
        options: PredictOptions | None = None,
        loaded: Loaded | None = None,
        **changes: Any,
    ) -> None:
        self.options = changed(options or PredictOptions(), changes)
        if self.options.facts:
            require("imagehash", "find", "A perceptual hash", package="ImageHash")
        self._model = model
        loaded = loaded or resolve(model, self.options)
        wanted = self.options.label_space
        self.space = loaded.space if wanted is None else load_label_space(wanted, head=loaded.space)
        self._own = loaded.space
        self.decoder = decoder_of(loaded.space, self.space, loaded.head, self.options)
        self.head, self.licence = loaded.head, loaded.licence
        self.preprocess = loaded.preprocess
        self.resizer = resolve_resizer(self.options.resizer, self.preprocess.interpolation)
        self.notice, self.notes = loaded.notice, self.decoder.notes
        self.backend: Backend = loaded.start()
        self.origin = Origin(
            model=loaded.name,
            label_space=self.space.name,
            label_space_sha256=self.space.sha256,
            removed_labels=self.decoder.withdrawn_labels,
            backend=self.backend.name,
            device=self.backend.device,
            dtype=self.backend.dtype,
        )

    def __repr__(self) -> str:
        name, space, _, _, backend, device, dtype = self.origin
        return f"Predictor({name!r}, label_space={space!r}, backend={backend!r}, device={device!r}, dtype={dtype!r})"

    @property
    def batch_size(self) -> int:
        """Images per forward pass: the option, or 16 on a CPU and 64 on an accelerator."""
        return self.options.batch_size or (16 if self.backend.device == "cpu" else 64)

    @property
    def workers(self) -> int:
        """Threads that work on batches: the option, or one per CPU (at most 8)."""
        return workers_of(self.options)

    @overload
    def predict(self, images: ImageSource | ImageInput) -> Prediction: ...  # type: ignore[overload-overlap]

    @overload
    def predict(
        self, images: Iterable[ImageSource | ImageInput], *, progress: Callable[[int], None] | None = None
    ) -> list[Prediction]: ...

    def predict(
        self,
        images: ImageSource | ImageInput | Iterable[ImageSource | ImageInput],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> Prediction | list[Prediction]:
        """Return one Prediction for one image, or a list of them for several, in order.

        images: a path, an http or https URL, encoded bytes, a binary file, a Pillow image, an array [H, W, 3] (or
        what else `load_image` takes), an `ImageInput`, or an iterable of these; an array [B, H, W, 3] is several. A
        folder, a glob, a shard, a PDF document, a video, a pattern of shards or `@list.txt` is several too, as on the
        command line (`miil21k.data.inputs.expand_units`), also within an iterable; the first page of a TIFF stands for
        all of it.
        progress: called after each image with how many are done. An unreadable image is a Prediction of status
        `error`, not an exception. Raises LogitsError when the network gives NaN or infinite logits, UsageError for
        what is neither an image nor an iterable, and for a folder or a glob without images.
        """
        if isinstance(images, (str, Path)) and _is_several(images):
            require_images([os.fspath(images)])
            images = [images]
        if _is_one(images):
            with self.backend.threads(self.options.threads or available_cpus()):
                return self._answer_batch([_named(images, 0)])[0]
        if not hasattr(images, "__iter__"):
            raise UsageError(f"A {type(images).__name__} is neither an image nor several of them.")
        answers = []
        for answer in self.stream(cast("Iterable[ImageSource | ImageInput]", images)):
            answers.append(answer)
            if progress is not None:
                progress(len(answers))
        return answers

    __call__ = predict

    @overload
    def ask(self, images: ImageSource | ImageInput, questions: Sequence[str] | str) -> Prediction: ...  # type: ignore[overload-overlap]

    @overload
    def ask(
        self,
        images: Iterable[ImageSource | ImageInput],
        questions: Sequence[str] | str,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[Prediction]: ...

    def ask(
        self,
        images: ImageSource | ImageInput | Iterable[ImageSource | ImageInput],
        questions: Sequence[str] | str,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> Prediction | list[Prediction]:
        """Return what `predict` does, with the probability of each question in `asked`.

        questions: nouns, wnids or synset names, one or several; `Prediction.probability("bird")` is the answer to one.
        Arguments and errors as for `predict`; also UnknownClass for a question that names no concept, or several.
        """
        asked = copy.copy(self)
        asked.options = replace(self.options, ask=listed(questions))
        asked.decoder = self.decoder_for(asked.options)
        asked.notes = asked.decoder.notes
        return asked.predict(cast("Iterable[ImageSource | ImageInput]", images), progress=progress)

    def heat(self, image: ImageSource | ImageInput, concept: str) -> NDArray[np.float32]:
        """Return where in the crop the evidence for `concept` is, float32 [h, w] on the grid of the features.

        The mean of the map is the gradient of log P(concept) times the pooled features; what is above 0 speaks for the
        concept, see `miil21k.predict.heat`. concept: a noun, a wnid or a synset name. Raises UnknownClass, ImageError
        (unreadable), UsageError for an export and for a head that is not linear over average-pooled features.
        """
        from miil21k.predict.heat import HeatMaps, require_maps

        with self.backend.threads(self.options.threads or available_cpus()):
            require_maps(self)
            return HeatMaps(self, concept).of(_named(image, 0)).values

    def stream(self, images: Iterable[ImageSource | ImageInput]) -> Iterator[Prediction]:
        """Yield one Prediction per image, in order; arguments and errors as for `predict`.

        Each worker thread takes the next `batch_size` images, reads, crops and runs them, so decoding and inference
        overlap without waiting for each other. At most two batches per worker are in memory. Batches are cut by
        position alone, unreadable images included, and before an image that says `new_batch`: starting at a multiple
        of `batch_size` gives the same numbers.
        While the iterator is open, torch's thread count for the process is that of `options.threads` (one per
        worker unless told otherwise).
        """
        images = [images] if isinstance(images, (str, Path)) else images
        named = Unfolded(_units(images, offline=bool(self.options.offline)))
        batches = _batches(named, self.batch_size)
        with self.backend.threads(threads_of(self.options), max(1, self.workers)):
            for answers in in_order(self._answer_batch, batches, self.workers, "miil21k-predict"):
                yield from answers

    def run(
        self,
        inputs: str | Path | Iterable[str | Path],
        output: str | Path,
        *,
        bar: BarOf | None = None,
        **options: Any,
    ) -> Outcome:
        """Answer every input into a file that survives a kill, as `miil21k-predict -o` does; returns what it came to.

        inputs: files, folders, globs, shards, `@list.txt`, URLs, or several of them. output: the file of rows, whose
        extension says the format. options: see `RunOptions` (`resume=True`, `recursive=True`, `on_error="skip"`,
        `embeddings="e.npy"`). bar: called with a function that counts the inputs, or None, and how many are done
        already; a context manager of something with `advance()`.
        A run that was interrupted is gone on with by the same call and `resume=True`. Raises UsageError for what cannot
        work, before anything is written, and what `stream` raises.
        """
        from miil21k.predict.run import run

        chosen = changed(RunOptions(output=output), options)
        if chosen.engine is not None:
            raise UsageError(
                "An engine has workers of its own, not this predictor: see miil21k.predict.bulk.answering."
            )
        names = [os.fspath(name) for name in ([inputs] if isinstance(inputs, (str, Path)) else inputs)]
        answers = copy.copy(self)
        answers.options = replace(self.options, embeddings=chosen.embeddings is not None)
        recorded = replace(answers.options, resizer=resolve_resizer(self.options.resizer))
        return run(names, self._model, recorded, chosen, lambda _: nullcontext(answers), bar=bar)

    def _answer_batch(self, batch: list[ImageInput]) -> list[Prediction]:
        height, width = self.preprocess.input_size[1:]
        crops = np.zeros((len(batch), height, width, 3), np.uint8)  # an unreadable image keeps its place, black
        errors: dict[int, str] = {}
        facts: dict[int, ImageFacts | None] = {}
        parts: dict[int, tuple[ImagePart, ...]] = {}
        for row, image in enumerate(batch):
            seen = self.look(image, tiles=self.options.multi)
            if isinstance(seen, str):
                errors[row] = seen
                continue
            crops[row], facts[row] = seen.crop, seen.facts
            if self.options.multi:  # now, so that the tiles of one image alone are in memory
                parts[row] = self._parts(seen)
        if len(errors) == len(batch):
            return [Prediction(image.name, self.origin, error=errors[row]) for row, image in enumerate(batch)]
        return self._answers(batch, crops, errors, facts, parts)

    def decoder_for(self, options: PredictOptions) -> Decoder:
        """Return what reads the logits of this network under other `options` of the answer; raises as `Decoder`."""
        return decoder_of(self._own, self.space, self.head, options)

    def crop(self, image: ImageInput) -> NDArray[np.uint8] | str:
        """Return what the network sees of `image`, uint8 [H, W, 3], or why it cannot be read."""
        seen = self.look(image)
        return seen if isinstance(seen, str) else seen.crop

    def look(self, image: ImageInput, *, tiles: bool = False) -> Seen | str:
        """Return what is seen of `image`, and of tiles of it where they are wanted; or why it cannot be read."""
        options, source = self.options, image.source
        edge = edge_of_tiles if tiles else decode_edge
        try:
            part = None
            if isinstance(source, str) and is_url(source):
                part = split_part(source)[1]
                source = fetch_image(source, offline=bool(options.offline))
            elif isinstance(source, str) and is_remote(source) and options.offline:
                raise ImageError(f"'{source}' was not fetched: the run is offline.")
            source = source() if callable(source) else source
            if options.facts and isinstance(source, (str, Path)) and split_part(str(source))[1] is None:
                source = read_file(source, image.name)  # one reading, so that the digest is that of what was seen
            picture = load_picture(
                source,
                name=image.name,
                exif=options.exif,
                max_pixels=options.max_pixels,
                reduce_to=None if options.decode != "reduced" else edge(self.preprocess),
                part=part,
            )
            facts = None
            if options.facts:
                from miil21k.data.facts import facts_of

                content = source if isinstance(source, bytes) else None
                facts = facts_of(content, picture, max_pixels=options.max_pixels)
            crop = crop_picture(picture, self.preprocess, self.resizer)
            parts = cut(picture, self.preprocess, self.resizer) if tiles else ()
            return Seen(crop, picture.size, facts, parts)
        except (Miil21kError, OSError) as error:
            return str(error)
        except MemoryError:
            return f"'{image.name}' needs more memory than there is."

    def _parts(self, seen: Seen) -> tuple[ImagePart, ...]:
        """Return the different things in the tiles of an image."""
        answers = []
        for start in range(0, len(seen.tiles), self.batch_size):
            tiles = seen.tiles[start : start + self.batch_size]
            paths = paths_of(self.decoder.read(self.outputs(np.stack([tile.crop for tile in tiles])).logits))
            answers += [TileAnswer(tile.box, path) for tile, path in zip(tiles, paths, strict=True)]
        return joined(answers)

    def outputs(self, crops: NDArray[np.uint8], *, embed: bool = False) -> Outputs:
        """Return the logits of crops, uint8 [B, H, W, 3], and their embedding if asked for."""
        images = crops if self.backend.normalises else normalise(crops, self.preprocess)
        return self.backend.run(images, embed=embed)

    def _answers(
        self,
        batch: list[ImageInput],
        crops: NDArray[np.uint8],
        errors: dict[int, str],
        facts: dict[int, ImageFacts | None],
        parts: dict[int, tuple[ImagePart, ...]],
    ) -> list[Prediction]:
        good = [row for row in range(len(batch)) if row not in errors]
        outputs = self.outputs(crops, embed=self.options.embeddings)
        decoded = self.decoder.read(outputs.logits[good])
        answers = dict(zip(good, answers_of(decoded, self.options), strict=True))
        masses: dict[int, CompactMasses] = {}
        if self.options.facts:
            from miil21k.decode.compact import compact_masses, counted_classes

            counted = counted_classes(self.space.tree, self.decoder.withdrawn)
            masses = dict(zip(good, compact_masses(decoded.masses, self.head, counted), strict=True))
        predictions = []
        for row, image in enumerate(batch):
            if row in errors:
                predictions.append(Prediction(image.name, self.origin, error=errors[row]))
                continue
            embedding = None if outputs.embedding is None else outputs.embedding[row]
            predictions.append(
                Prediction(
                    image.name,
                    self.origin,
                    None,
                    *answers[row]._replace(parts=parts.get(row)),
                    embedding=embedding,
                    facts=facts[row],
                    masses=masses.get(row),
                )
            )
        return predictions


def _batches(images: Iterable[ImageInput], size: int) -> Iterator[list[ImageInput]]:
    batch: list[ImageInput] = []
    for image in images:
        if batch and image.new_batch:
            yield batch
            batch = []
        batch.append(image)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _is_several(name: str | Path) -> bool:
    """Return whether a name of images stands for several of them."""
    text = os.fspath(name)
    if is_url(text) or text == "-":
        return False
    if is_remote(text):
        return suffix_of(text) not in image_suffixes()
    if os.path.lexists(text):
        paged = is_document(text) and suffix_of(text) not in TIFF_SUFFIXES
        return paged or is_shard(text) or os.path.isdir(text) or text.lower().endswith(".json")
    return isinstance(name, str) and (text.startswith("@") or has_braces(text) or glob.has_magic(text))


def _units(images: Iterable[ImageSource | ImageInput], *, offline: bool) -> Iterator[AnyUnit]:
    for number, image in enumerate(images):
        if isinstance(image, (str, Path)) and _is_several(image):
            yield from expand_units([os.fspath(image)], offline=offline)
        else:
            yield _named(image, number)


def _is_one(images: object) -> TypeGuard[ImageSource | ImageInput]:
    if isinstance(images, np.ndarray):
        return images.ndim != 4
    if type(images).__module__.partition(".")[0] == "torch":  # iterating a tensor would give its rows
        return True
    return isinstance(images, (str, Path, bytes, bytearray, memoryview, Image.Image, ImageInput, io.IOBase)) or hasattr(
        images, "read"
    )


def _named(image: ImageSource | ImageInput, number: int) -> ImageInput:
    if isinstance(image, ImageInput):
        return image
    if isinstance(image, (str, Path)):
        return ImageInput(str(image), image)
    file = getattr(image, "filename", None) or getattr(image, "name", None)
    return ImageInput(file if isinstance(file, str) and file else f"image {number}", image)
