"""Images of many requests in, rows out: read in threads, computed together, each answered under its own options."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from PIL import EpsImagePlugin

from miil21k import __version__
from miil21k.data.images import ImageInput
from miil21k.environment import available_cpus
from miil21k.errors import Miil21kError
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.nouns import fold
from miil21k.predict.decoding import answers_of
from miil21k.predict.prediction import Prediction
from miil21k.records import to_json
from miil21k.serve.batching import Batcher
from miil21k.serve.bodies import Buffer
from miil21k.serve.metrics import Metrics
from miil21k.writers.labels import add_labels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from miil21k.decode.decoder import Decoder
    from miil21k.predict.decoding import Answer
    from miil21k.predict.options import PredictOptions
    from miil21k.predict.predictor import Predictor
    from miil21k.serve.batching import Places
    from miil21k.serve.query import Asked

__all__ = ["Service", "serving"]

_BUFFER = 512 << 20  # bytes


class _Picture(NamedTuple):
    crop: NDArray[np.uint8]
    decoder: Decoder
    options: PredictOptions


class Service:
    """A predictor that answers concurrent requests; made by `serving`.

    workers: threads that read images. max_wait: in seconds; with queue, the images that may wait: see `Batcher`.
    buffer: the bytes of all bodies that may be here at a time. Batches have up to
    `predictor.batch_size` images. ending: whether the end was asked for; clients are told then.
    """

    ending = False

    def __init__(self, predictor: Predictor, *, workers: int, max_wait: float, queue: int, buffer: Buffer) -> None:
        self.predictor, self.buffer = predictor, buffer
        self.decoder = lru_cache(64)(predictor.decoder_for)
        self.readers = ThreadPoolExecutor(workers, "miil21k-read")
        model = {**predictor.origin._asdict(), "version": __version__}
        self.metrics = Metrics(lambda: self.batcher.waiting, buffer, model)
        self.batcher: Batcher[_Picture, Answer] = Batcher(
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
        """Answer one grey picture; raises what keeps the network from it."""
        crop = self.predictor.crop(ImageInput("grey", np.full((64, 64, 3), 128, np.uint8)))
        assert not isinstance(crop, str)
        with self.batcher.places() as places:
            places.take()
            options = self.predictor.options
            places.submit(_Picture(crop, self.decoder(options), options)).result()

    async def decoder_of(self, asked: Asked) -> Decoder:
        """Return what decodes under these options; raises UsageError where they make no sense for this label space."""
        return await asyncio.get_running_loop().run_in_executor(self.readers, self.decoder, asked.options)

    async def rows(
        self, images: list[ImageInput], decoder: Decoder, asked: Asked, places: Places[_Picture, Answer]
    ) -> list[dict[str, Any]]:
        """Return one row per image, in order; there is a place for each of them.

        Raises Miil21kError, or what the network's library raises, when an image could not be computed.
        """
        tasks = [self._row(image, decoder, asked, places) for image in images]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        for row in found:
            if isinstance(row, BaseException):
                raise row
        rows = cast("list[dict[str, Any]]", found)
        for row in rows:
            self.metrics.images.labels(row["status"]).inc()
        return rows

    async def _row(
        self, image: ImageInput, decoder: Decoder, asked: Asked, places: Places[_Picture, Answer]
    ) -> dict[str, Any]:
        origin = self.predictor.origin
        crop = await asyncio.get_running_loop().run_in_executor(self.readers, self._read, image)
        if isinstance(crop, str):
            places.give_back()
            return Prediction(image.name, origin, error=crop).to_dict()
        answer = await asyncio.wrap_future(places.submit(_Picture(crop, decoder, asked.options)))
        row = Prediction(image.name, origin, None, *answer).to_dict()
        return row if asked.label_type is None else add_labels(row, self.predictor.space, asked.label_type)

    def _read(self, image: ImageInput) -> NDArray[np.uint8] | str:
        with self.metrics.reading.time():
            return self.predictor.crop(image)

    def _compute(self, batch: list[_Picture]) -> list[Answer | Exception]:
        logits = self.predictor.outputs(np.stack([picture.crop for picture in batch])).logits
        alike: defaultdict[PredictOptions, list[int]] = defaultdict(list)
        for row, picture in enumerate(batch):
            alike[picture.options].append(row)
        answers: dict[int, Answer | Exception] = {}
        for options, rows in alike.items():
            answers.update(zip(rows, _answers(batch[rows[0]].decoder, options, logits[rows]), strict=True))
        return [answers[row] for row in range(len(batch))]

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
            *("topk", "threshold", "hedge", "reading", "min_bits", "levels"),
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
            "version": __version__,
        }


def _answers(decoder: Decoder, options: PredictOptions, logits: NDArray[np.float32]) -> list[Answer | Exception]:
    """Return an answer per row; where rows together fail, each of them alone, so that none spoils the others."""
    try:
        return list(answers_of(decoder.read(logits), options))
    except Miil21kError as error:
        if len(logits) == 1:
            return [error]
        return [_answers(decoder, options, row[None])[0] for row in logits]


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
