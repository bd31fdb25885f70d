"""Prediction by many processes or machines: inputs cut into jobs, answered by workers that keep their network.

A job is a part of a shard, or a run of files. Parts end where batches end, so the predictions are those of one
`Predictor` over the same inputs, to the last digit.
"""

from __future__ import annotations

import logging
import math
import os
import platform
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from miil21k.data.cloud import is_address, is_remote
from miil21k.data.parts import file_of
from miil21k.data.tar_inputs import Shard
from miil21k.errors import EngineError, Miil21kError, UsageError
from miil21k.predict.prediction import Prediction
from miil21k.predict.predictor import Predictor
from miil21k.runtime.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from miil21k.data.images import ImageInput, ImageSource
    from miil21k.data.inputs import Unit
    from miil21k.distribute.local import Engine
    from miil21k.distribute.processes import Lost
    from miil21k.predict.options import PredictOptions, RunOptions
    from miil21k.predict.prediction import Origin
    from miil21k.runtime.loading import Loaded
    from miil21k.runtime.resolve import Count, Make

__all__ = ["BulkJob", "BulkPredictor", "answer_job", "answering"]

BATCHES_PER_JOB = 16  # of files: seconds of work on a CPU, little to do again after a death
BYTES_PER_JOB = 2**27  # of a shard: its headers are read once per job
MOST_LOST = 3  # jobs in a row: then it is the machine, or the network, and not an image
_MOST_THREADS = 8


@dataclass(frozen=True)
class BulkJob:
    """What a worker answers at a time: `images`, or part `part` of `parts` of `shard`; with what, and how.

    seen: a file that the driver saw and every node must see, None when there is none.
    """

    model: str | None
    options: PredictOptions
    batch_size: int
    images: tuple[ImageInput, ...] = ()
    shard: Shard | None = None
    part: int = 0
    parts: int = 1
    seen: str | None = None

    def inputs(self) -> tuple[ImageInput, ...]:
        """Return the images of the job; reads the headers of the shard."""
        if self.shard is None:
            return self.images
        whole = _listed(self.shard)
        batches = math.ceil(len(whole) / self.batch_size)
        first, last = (batches * part // self.parts * self.batch_size for part in (self.part, self.part + 1))
        return whole[first:last]


class Answers(NamedTuple):
    """predictions: of the job, in order. inputs: how many inputs the job has, counted where it was done."""

    predictions: list[Prediction]
    inputs: int


@lru_cache(maxsize=2)  # the parts of a shard come one after another
def _listed(shard: Shard) -> tuple[ImageInput, ...]:
    return tuple(shard.images())


_kept: tuple[str | None, PredictOptions, Predictor] | None = None


def _predictor(model: str | None, options: PredictOptions) -> Predictor:
    """Return the predictor of this process, made for its first job."""
    global _kept  # noqa: PLW0603 - a process answers for one network, and keeps it for its life
    if _kept is None or _kept[:2] != (model, options):
        try:
            _kept = (model, options, Predictor(model, options=options))
        except Miil21kError as error:
            raise EngineError(
                f"The worker on '{platform.node()}' cannot load the model: {error} Every node needs the weights "
                "before the run: 'miil21k fetch' there, or a --cache-dir or file that all nodes see."
            ) from None
    return _kept[2]


def answer_job(job: BulkJob) -> Answers:
    """Return the predictions of `job`; an image that cannot be read is one of status `error`.

    Raises EngineError when this machine lacks the weights, or does not see the inputs; LogitsError as `Predictor`.
    """
    if job.seen is not None and not os.path.lexists(job.seen):
        raise EngineError(
            f"'{platform.node()}' does not see '{job.seen}': inputs must lie on storage that all nodes see."
        )
    inputs = job.inputs()
    return Answers(list(_predictor(job.model, job.options).stream(inputs)), len(inputs))


class BulkPredictor:
    """A predictor whose work an engine does; the model and the answers are those of `Predictor(model, options)`.

    The network is loaded here once, to fetch its weights and to refuse what cannot work; workers never download.
    engine_for: gives the engine, told whether a job needs a GPU. gpus: of the cluster, on which `auto` then means
    `cuda`; None where the devices of this machine count. loaded: as for `Predictor`.
    Attributes as those of `Predictor`: origin, space, decoder, preprocess, resizer, batch_size, notice, notes; workers,
    threads per job.
    jobs: how many have been finished. lost: how many of them were given up.
    """

    takes_shards = True

    def __init__(
        self,
        model: str | None,
        options: PredictOptions,
        engine_for: Callable[[bool], Engine],
        *,
        gpus: int | None = None,
        loaded: Loaded | None = None,
    ) -> None:
        device = options.device
        if gpus is not None:
            if device == "auto":
                device = "cuda" if gpus else "cpu"
            if device.startswith("cuda:"):
                raise UsageError(f"The cluster chooses the GPU: --device cuda, not {device}.")
            if device == "cuda" and not gpus:
                raise UsageError("Device 'cuda' was asked for, but no node of the cluster has a GPU: use --device cpu.")
        here = Predictor(model, options=options if gpus is None else replace(options, device="cpu"), loaded=loaded)
        self.space, self.preprocess, self.notice = here.space, here.preprocess, here.notice
        self.resizer, self.notes, self.decoder = here.resizer, here.notes, here.decoder
        self.origin: Origin = here.origin if gpus is None else here.origin._replace(device=device)
        gpu = self.origin.device != "cpu"
        self.batch_size = options.batch_size or (64 if gpu else 16)
        self._engine = engine_for(gpu)
        cores = self._engine.cores_per_job()
        self.workers = 0 if cores == 1 else min(cores, _MOST_THREADS)
        self.jobs = self.lost = 0
        # A fallback is decided here, for all.
        self._model = self.origin.model if model is None and options.checkpoint is None else _absolute(model)
        self._options = replace(
            options,
            backend=self.origin.backend,
            make_export=None,
            device=self.origin.device,
            batch_size=self.batch_size,
            workers=self.workers,
            resizer=self.resizer,
            threads=options.threads or max(1, cores // max(1, self.workers)),
            offline=True,
            revision=options.revision if here.notice is None else None,
            checkpoint=_absolute(options.checkpoint),
            calibration=_absolute(options.calibration),
            label_space=_absolute(options.label_space),
            cache_dir=None if options.cache_dir is None else os.path.abspath(options.cache_dir),  # noqa: PTH100
        )

    def stream(self, units: Iterable[Unit]) -> Iterator[Prediction]:
        """Yield one Prediction per image, in order.

        The images of a job that was given up get the reason as their error. Raises EngineError when the nodes differ,
        lack the weights or the inputs, or `MOST_LOST` jobs in a row were given up, and what `Predictor.stream` does.
        """
        # It loads multiprocessing, with which a process ends more slowly: a run without an engine needs none of it.
        from miil21k.distribute.processes import Lost

        waiting: list[tuple[BulkJob, Lost]] = []
        done = self._engine.run_in_order(answer_job, self._jobs(units))
        for job, result in done:
            if isinstance(result, Lost):
                waiting.append((job, result))
                if len(waiting) == MOST_LOST:
                    raise EngineError(
                        f"{MOST_LOST} jobs in a row were given up, {result.reason}: give each worker more memory "
                        "(fewer --workers, a smaller --batch-size) or leave these images out, then go on."
                    )
                continue
            yield from self._given_up(waiting)
            waiting = []
            self._check(result)
            self.jobs += 1
            yield from result.predictions
        yield from self._given_up(waiting)

    def _given_up(self, lost: list[tuple[BulkJob, Lost]]) -> Iterator[Prediction]:
        for job, result in lost:
            inputs = job.inputs()
            self.jobs += 1
            self.lost += 1
            error = f"The job of {len(inputs)} images that this one belongs to was given up: {result.reason}."
            yield from (Prediction(image.name, self.origin, error=f"'{image.name}': {error}") for image in inputs)

    def _check(self, answers: Answers) -> None:
        if len(answers.predictions) != answers.inputs:
            raise EngineError(f"A job of {answers.inputs} images came back with {len(answers.predictions)}.")
        if answers.predictions and answers.predictions[0].origin != self.origin:
            raise EngineError(
                f"A worker computes with {answers.predictions[0].origin}, this machine with {self.origin}: "
                "install the same packages and models on all nodes."
            )

    def _jobs(self, units: Iterable[Unit]) -> Iterator[BulkJob]:
        base = BulkJob(self._model, self._options, self.batch_size)
        files: list[ImageInput] = []
        for unit in units:
            if files and (isinstance(unit, Shard) or len(files) == BATCHES_PER_JOB * self.batch_size):
                yield _of_files(base, files)
                files = []
            if isinstance(unit, Shard):
                yield from _of_shard(base, unit)
            else:
                files.append(unit)
        if files:
            yield _of_files(base, files)


def _of_files(base: BulkJob, files: list[ImageInput]) -> BulkJob:
    images = tuple(replace(image, source=_absolute_source(image)) for image in files)
    paths = (image.source for image in images if isinstance(image.source, str) and not is_address(image.source))
    return replace(base, images=images, seen=next(filter(os.path.lexists, map(file_of, paths)), None))


def _absolute_source(image: ImageInput) -> ImageSource | Callable[[], ImageSource]:
    source = image.source
    if isinstance(source, Path):
        return source.absolute()
    return os.path.abspath(source) if isinstance(source, str) and not is_address(source) else source  # noqa: PTH100


def _of_shard(base: BulkJob, shard: Shard) -> Iterator[BulkJob]:
    if not is_remote(shard.path):
        shard = shard._replace(path=os.path.abspath(shard.path))  # noqa: PTH100
    try:
        size = os.stat(shard.path).st_size  # noqa: PTH116
    except OSError:
        size = 0  # it went away: its row says so
    parts = max(1, math.ceil(size / BYTES_PER_JOB))
    for part in range(parts):
        yield replace(base, shard=shard, part=part, parts=parts, seen=shard.path if size else None)


def _absolute(path: str | os.PathLike[str] | None) -> str | None:
    """Return the absolute path of a file that exists, and any other name as it is."""
    if path is None or not os.path.isfile(path):  # noqa: PTH113
        return None if path is None else os.fspath(path)
    return os.path.abspath(path)  # noqa: PTH100


@contextmanager
def answering(
    model: str | None,
    options: PredictOptions,
    run_options: RunOptions,
    *,
    images: Count | None = None,
    make: Make | None = None,
) -> Iterator[Predictor | BulkPredictor]:
    """Return what answers a run: a predictor in this process, or the workers of an engine while the context is open.

    With an engine `options.workers` are its processes, or the jobs that a cluster has queued. The machines of a cluster
    have caches of their own, so that the backend `auto` is torch on all of them, but for a model that is an export.
    images, make: as for `resolve`.
    """
    if run_options.engine is None:
        if options.workers is None and images is not None and images(2) == 1:
            options = replace(options, workers=0, batch_size=1)  # all processors for its forward pass
        yield Predictor(model, options=options, loaded=resolve(model, options, images=images, make=make))
        return
    workers = options.workers
    if workers == 0:
        raise UsageError("--engine needs at least one worker: --workers 1 or more.")
    options = replace(options, workers=None)  # each job decides on its threads
    if run_options.engine == "local":
        from miil21k.distribute.local import LocalEngine
        from miil21k.environment import available_cpus

        def engine_for(gpu: bool) -> LocalEngine:
            # Processes that share one GPU would each load the network onto it.
            return LocalEngine(workers or (1 if gpu else available_cpus()))

        loaded = resolve(model, options, images=images, make=make)
        yield BulkPredictor(model, options, engine_for, loaded=loaded)
        return
    from miil21k.distribute.ray_engine import RayEngine

    if options.backend == "auto" and not (model or "").endswith(".onnx"):
        options = replace(options, backend="torch")
    engine = RayEngine(run_options.address, workers)
    if engine.joined:
        logging.getLogger("miil21k.predict").info("joined the Ray cluster at '%s'", engine.joined)
    try:
        yield BulkPredictor(model, options, lambda gpu: engine.on_gpus() if gpu else engine, gpus=engine.gpus)
    finally:
        engine.close()
