"""Images of many requests in, rows out: read in threads, computed together, each answered under its own options."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from PIL import EpsImagePlugin

from miil21k import __version__
from miil21k.data.images import ImageInput
from miil21k.environment import available_cpus
from miil21k.errors import LogitsError, Miil21kError, UsageError
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.nouns import fold
from miil21k.predict.decoding import answers_of
from miil21k.predict.heat import HeatMaps, require_maps
from miil21k.predict.parts import TileAnswer, joined
from miil21k.predict.predictor import Seen
from miil21k.records import to_json
from miil21k.serve.batching import Batcher
from miil21k.serve.bodies import Buffer
from miil21k.serve.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from miil21k.decode.decoded import Decoded
    from miil21k.decode.decoder import Decoder
    from miil21k.predict.decoding import Answer
    from miil21k.predict.heat import Heat
    from miil21k.predict.options import PredictOptions
    from miil21k.predict.predictor import Predictor
    from miil21k.serve.batching import Places
    from miil21k.serve.query import Asked

__all__ = ["Found", "Service", "Wanted", "serving", "stacked"]

_BUFFER = 512 << 20  # bytes


class Wanted(NamedTuple):
    """What is wanted of an image.

    decoder: reads its logits under `options`; None where only the embedding is. heat: makes a map of evidence.
    """

    options: PredictOptions
    decoder: Decoder | None
    embedding: bool = False
    tensors: bool = False
    heat: HeatMaps | None = None


class Found(NamedTuple):
    """What was found in an image: the parts that were wanted.

    answer: the parts of a row. embedding: float32 [D]. tensors: arrays by name, without the axis of the batch: those of
    an export (docs/export.md) but that `path` may be longer than that of another image, padded with -1. heat: the map.
    """

    answer: Answer | None
    embedding: NDArray[np.float32] | None
    tensors: dict[str, NDArray[Any]] | None
    heat: Heat | None = None


class _Picture(NamedTuple):
    seen: Seen
    wanted: Wanted


class Service:
    """A predictor that answers concurrent requests; made by `serving`.

    workers: threads that read images. max_wait: in seconds; with queue, the images that may wait: see `Batcher`.
    buffer: the bytes of all bodies that may be here at a time. Batches have up to
    `predictor.batch_size` images. ending: whether the end was asked for; clients are told then. no_embedding, no_heat:
    why there is no embedding, no map of evidence; None where there is one.
    """

    ending = False
    no_embedding: str | None = None
    no_heat: str | None = None

    def __init__(self, predictor: Predictor, *, workers: int, max_wait: float, queue: int, buffer: Buffer) -> None:
        self.predictor, self.buffer = predictor, buffer
        self.decoder = lru_cache(64)(predictor.decoder_for)
        self.heat = lru_cache(64)(self._heat)
        self.readers = ThreadPoolExecutor(workers, "miil21k-read")
        model = {**predictor.origin._asdict(), "version": __version__}
        self.metrics = Metrics(lambda: self.batcher.waiting, buffer, model)
        self.batcher: Batcher[_Picture, Found] = Batcher(
            self._compute,
            max_batch=predictor.batch_size,
            max_wait=max_wait,
            capacity=queue,
            observe=self.metrics.batch,
        )

    def end(self) -> None:
        """Note that the end was asked for."""
        self.ending = True

    def warm_up(self) -> None:
        """Answer one grey picture, find out about embeddings and maps; raises what keeps the network from answering."""
        seen = self.predictor.look(ImageInput("grey", np.full((64, 64, 3), 128, np.uint8)))
        assert not isinstance(seen, str)
        options = self.predictor.options
        try:
            self._answer(seen, Wanted(options, self.decoder(options), embedding=True))
        except UsageError as error:
            self.no_embedding = str(error)
            self._answer(seen, Wanted(options, self.decoder(options)))
        try:
            require_maps(self.predictor)
        except UsageError as error:
            self.no_heat = str(error)

    def _answer(self, seen: Seen, wanted: Wanted) -> None:
        with self.batcher.places() as places:
            places.take()
            places.submit(_Picture(seen, wanted)).result()

    def _heat(self, concept: str, options: PredictOptions) -> HeatMaps:
        return HeatMaps(self.predictor, concept, self.decoder(options))

    async def wanted_of(self, asked: Asked, *, embedding: bool = False, tensors: bool = False) -> Wanted:
        """Return what a request wants; raises UsageError where it makes no sense for this label space or network."""
        loop = asyncio.get_running_loop()
        decoder = await loop.run_in_executor(self.readers, self.decoder, asked.options)
        heat = None
        if asked.heat is not None:
            if self.no_heat is not None:
                raise UsageError(self.no_heat)
            heat = await loop.run_in_executor(self.readers, self.heat, asked.heat, asked.options)
        return Wanted(asked.options, decoder, embedding, tensors, heat)

    async def answers(
        self, images: list[ImageInput], wanted: Wanted, places: Places[_Picture, Found]
    ) -> list[Found | str]:
        """Return what was found in each image, in order, or why it cannot be read; there is a place for each of them.

        Raises Miil21kError, or what the network's library raises, when an image could not be computed.
        """
        if wanted.options.multi and wanted.decoder is not None:
            # One by one: the tiles of all images at once would not find room.
            return self._counted([await self._in_parts(image, wanted, places) for image in images])
        tasks = [self._one(image, wanted, places) for image in images]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        for answer in found:
            if isinstance(answer, BaseException):
                raise answer
        return self._counted(cast("list[Found | str]", found))

    def _counted(self, answers: list[Found | str]) -> list[Found | str]:
        for answer in answers:
            self.metrics.images.labels("error" if isinstance(answer, str) else "ok").inc()
        return answers

    async def _in_parts(self, image: ImageInput, wanted: Wanted, places: Places[_Picture, Found]) -> Found | str:
        """Return what was found in an image and in its tiles, each of which takes a place."""
        seen = await asyncio.get_running_loop().run_in_executor(self.readers, partial(self._read, tiles=True), image)
        if isinstance(seen, str):
            places.give_back()
            return seen
        if len(seen.tiles) >= self.batcher.capacity:
            raise UsageError(f"'{image.name}' has {len(seen.tiles)} tiles, more than this server lets wait.")
        places.take(len(seen.tiles))
        plain = Wanted(wanted.options, wanted.decoder)
        work = [places.submit(_Picture(seen._replace(tiles=()), wanted))]
        work += [places.submit(_Picture(Seen(tile.crop, seen.size), plain)) for tile in seen.tiles]
        whole, *tiles = await asyncio.gather(*map(asyncio.wrap_future, work))
        assert whole.answer is not None
        paths = (found.answer.path for found in tiles if found.answer is not None)
        parts = joined([TileAnswer(tile.box, path) for tile, path in zip(seen.tiles, paths, strict=True)])
        return whole._replace(answer=whole.answer._replace(parts=parts))

    async def _one(self, image: ImageInput, wanted: Wanted, places: Places[_Picture, Found]) -> Found | str:
        seen = await asyncio.get_running_loop().run_in_executor(self.readers, self._read, image)
        if isinstance(seen, str):
            places.give_back()
            return seen
        return await asyncio.wrap_future(places.submit(_Picture(seen, wanted)))

    def _read(self, image: ImageInput, *, tiles: bool = False) -> Seen | str:
        with self.metrics.reading.time():
            return self.predictor.look(image, tiles=tiles)

    def _compute(self, batch: list[_Picture]) -> list[Found | Exception]:
        embed = any(picture.wanted.embedding for picture in batch)
        logits, embedding = self.predictor.outputs(np.stack([picture.seen.crop for picture in batch]), embed=embed)
        alike: defaultdict[Wanted, list[int]] = defaultdict(list)
        for row, picture in enumerate(batch):
            alike[picture.wanted].append(row)
        answers: dict[int, Found | Exception] = {}
        for wanted, rows in alike.items():
            vectors = embedding[rows] if wanted.embedding and embedding is not None else None
            answers.update(zip(rows, _answers(wanted, logits[rows], vectors), strict=True))
        for row, (seen, wanted) in enumerate(batch):
            answer = answers[row]
            if wanted.heat is not None and isinstance(answer, Found):
                answers[row] = answer._replace(heat=wanted.heat.over(seen.crop, seen.size))
        return [answers[row] for row in range(len(batch))]

    @property
    def tensors(self) -> dict[str, tuple[str, list[int]]]:
        """The outputs that an image may have as tensors: type in KServe and shape, -1 for an axis of any length."""
        one, many = [-1], [-1, -1]
        return {
            "row": ("BYTES", one),
            "logits": ("FP32", [-1, self.predictor.space.num_classes]),
            "topk_index": ("INT32", many),
            "topk_prob": ("FP32", many),
            "path": ("INT32", many),
            "path_prob": ("FP32", many),
            "hedge_node": ("INT32", one),
            "hedge_prob": ("FP32", one),
            "asked": ("FP32", many),
            "bins": ("FP32", many),
            **({"embedding": ("FP32", many)} if self.no_embedding is None else {}),
        }

    def concepts(self, like: str) -> list[dict[str, Any]]:
        """Return at most a dozen nouns that begin with `like`, those with most classes below first.

        Each with its `noun`, `wnid` and how many `classes` are below.
        """
        graph, shown = concepts_of(self.predictor.space), self.predictor.decoder.shown
        beginning = fold(like)
        if not beginning:
            return []
        count = graph.num_below if shown is None else graph.count(shown)
        nouns = ((word, meanings[0][0]) for word, meanings in graph.named.items() if word.startswith(beginning))
        found = sorted((-int(count[one]), noun, one) for noun, one in nouns if count[one])[:12]
        return [{"noun": noun, "wnid": graph.wnids[one], "classes": -fewer} for fewer, noun, one in found]

    def description(self) -> dict[str, Any]:
        """Return what answers, as `GET /v1/model` says it."""
        predictor, options = self.predictor, self.predictor.options
        calibration = predictor.decoder.calibration
        defaults = (
            *("topk", "threshold", "hedge", "reading", "min_bits", "levels", "multi"),
            *("under", "classes", "exclude", "ask", "min_node", "bins"),
        )
        return {
            "schema": 1,
            **predictor.origin._asdict(),
            "num_classes": predictor.space.num_classes,
            "head": predictor.head,
            "preprocess": {**to_json(predictor.preprocess), "resizer": predictor.resizer},
            "calibration": None if calibration is None else json.loads(calibration.to_json()),
            "licence": predictor.licence,
            "defaults": {name: getattr(options, name) for name in defaults} | {"level": options.max_depth},
            "max_batch": predictor.batch_size,
            "heat": self.no_heat is None,
            "version": __version__,
        }


def _answers(
    wanted: Wanted, logits: NDArray[np.float32], embedding: NDArray[np.float32] | None
) -> list[Found | Exception]:
    """Return an answer per row; where rows together fail, each of them alone, so that none spoils the others."""
    try:
        return list(_found(wanted, logits, embedding))
    except Miil21kError as error:
        if len(logits) == 1:
            return [error]
        alone = (slice(row, row + 1) for row in range(len(logits)))
        return [_answers(wanted, logits[row], None if embedding is None else embedding[row])[0] for row in alone]


def _found(wanted: Wanted, logits: NDArray[np.float32], embedding: NDArray[np.float32] | None) -> Iterator[Found]:
    if embedding is not None and not np.isfinite(embedding).all():
        raise LogitsError("The embedding holds nan or infinity: the weights, or what computes them, are broken.")
    decoded = None if wanted.decoder is None else wanted.decoder.read(logits)
    answers = None if decoded is None else answers_of(decoded, wanted.options)
    tensors = _tensors(decoded, wanted.options.topk) if wanted.tensors and decoded is not None else None
    for row in range(len(logits)):
        yield Found(
            None if answers is None else answers[row],
            None if embedding is None else embedding[row],
            None if tensors is None else {name: values[row] for name, values in tensors.items()},
        )


def stacked(found: Sequence[Found], rows: Sequence[bytes]) -> dict[str, NDArray[Any]]:
    """Return the tensors of several images as one each, [B, ...], beside their rows as JSON and their embeddings."""
    every = [one.tensors or {} for one in found]
    tensors: dict[str, NDArray[Any]] = {"row": np.array(rows, object)}
    for name in every[0]:
        values = [each[name] for each in every]
        if name in ("path", "path_prob"):
            longest = max(len(value) for value in values)
            padding = -1 if name == "path" else 0
            values = [np.pad(value, (0, longest - len(value)), constant_values=padding) for value in values]
        tensors[name] = np.stack(values)
    vectors = [one.embedding for one in found if one.embedding is not None]
    return {**tensors, **({"embedding": np.stack(vectors)} if vectors else {})}


def _tensors(found: Decoded, k: int) -> dict[str, NDArray[Any]]:
    """Return what an export of this decoder gives, by the same names."""
    top, path, last = found.topk(k), found.path, np.maximum(found.length - 1, 0)
    rows, answered = np.arange(len(found)), found.length > 0
    return {
        "logits": found.logits.astype(np.float32, copy=False),
        "topk_index": top.classes,
        "topk_prob": top.probs,
        "path": path.nodes,
        "path_prob": path.probs,
        "hedge_node": np.where(answered, path.nodes[rows, last], np.int32(-1)),
        "hedge_prob": np.where(answered, path.probs[rows, last], np.float32(0)),
        **({"asked": found.asked} if found.decoder.asked else {}),
        **({"bins": found.bins} if found.decoder.bins is not None else {}),
    }


@contextmanager
def serving(
    predictor: Predictor, *, workers: int, max_wait: float, queue: int, buffer: Buffer | None = None
) -> Iterator[Service]:
    """Return the service of `predictor`; when the context ends, what was submitted is answered and threads are gone.

    Encapsulated PostScript is refused in this process from now on: Pillow reads it by running Ghostscript, which
    interprets programs, and these images come from anyone.
    """
    EpsImagePlugin.gs_binary = False
    with predictor.backend.threads(available_cpus(), 1):
        service = Service(predictor, workers=workers, max_wait=max_wait, queue=queue, buffer=buffer or Buffer(_BUFFER))
        try:
            yield service
        finally:
            service.batcher.close()
            service.readers.shutdown(cancel_futures=True)
