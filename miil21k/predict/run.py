"""One prediction run: inputs through what answers into the output, and all that may happen on the way.

The command line and `Predictor.run` are both this. A run can be killed at any point and gone on with: rows are whole
as they come, and the mark of an unfinished run goes last, after rows, embeddings, pictures and log are closed.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast

from miil21k.data.cloud import is_remote, remote_exists
from miil21k.data.inputs import Unfolded, expand, require_images
from miil21k.data.pipes import is_pipe
from miil21k.errors import UsageError
from miil21k.hierarchy.bin_lines import labels_of
from miil21k.predict.options import listed
from miil21k.predict.sinks import FileSink
from miil21k.suffixes import PassedOver
from miil21k.writers.formats import FORMATS, TABLE, format_of, open_output
from miil21k.writers.lock import locked
from miil21k.writers.output import RowsDone, already_done
from miil21k.writers.rows import Shape

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from contextlib import AbstractContextManager

    from miil21k.data.images import ImageInput
    from miil21k.data.inputs import Unit
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.predict.options import PredictOptions, RunOptions
    from miil21k.predict.prediction import Origin, Prediction
    from miil21k.predict.predictor import Predictor
    from miil21k.predict.sinks import Sink

    class Bar(Protocol):
        """What is told about every image that is done."""

        def advance(self) -> None:
            """Count one image."""
            ...

    BarOf = Callable[[Callable[[], Iterator[Any]] | None, int], AbstractContextManager[Bar]]

__all__ = ["Answering", "Outcome", "Taken", "count_images", "is_single", "run", "shape_of"]

log = logging.getLogger("miil21k.predict")
# Rows do not depend on these, or the note of an unfinished output records what they led to.
_FREE = {"workers", "threads", "offline", "cache_dir", "device", "make_export"}


class Answering(Protocol):
    """What answers images: a `Predictor`, or a `BulkPredictor`, whose stream takes shards whole."""

    @property
    def takes_shards(self) -> bool:
        """Whether `stream` takes the units of a run, shards among them, instead of images."""
        ...

    @property
    def origin(self) -> Origin:
        """What all rows share."""
        ...

    @property
    def space(self) -> LabelSpace:
        """The label space of the answers."""
        ...

    @property
    def batch_size(self) -> int:
        """Images per forward pass."""
        ...

    def stream(self, images: Any) -> Iterator[Prediction]:
        """Yield one prediction per image, in order."""
        ...


class Outcome(NamedTuple):
    """What a run came to.

    ended: `complete`; `stopped` by `on_error="fail"`; `already` complete before, so that nothing was done.
    rows: in the output, those of an earlier run included. failed: inputs. seconds: what this run took.
    """

    ended: Literal["complete", "stopped", "already"]
    rows: int
    failed: int
    seconds: float


class Taken(NamedTuple):
    """How far an earlier run into the same sink came: how many inputs it took, and the name of the last one."""

    inputs: int
    last: str


class _SilentBar:
    def advance(self) -> None:
        """Count nothing."""


def _no_bar(_count: Callable[[], Iterator[Any]] | None, _done: int) -> AbstractContextManager[Bar]:
    return nullcontext(_SilentBar())


def run(
    inputs: Sequence[str],
    model: str | None,
    answer: PredictOptions,
    options: RunOptions,
    answering: Callable[[str | None], AbstractContextManager[Answering]],
    *,
    sink: Sink | None = None,
    bar: BarOf | None = None,
    behind: Taken | None = None,
) -> Outcome:
    """Answer every input; returns what it came to.

    inputs: files, folders, globs, shards, URLs, lists, as `miil21k.data.inputs.expand_units` takes them. model, answer:
    what the rows depend on, besides `options`; an interrupted run is gone on with under the same only. answering: gives
    what answers, once nothing is left to refuse, told the backend of the rows that are there, None without any. sink:
    takes the predictions instead of the file `options.output`. bar: shows how far the run is. behind: the inputs that
    `sink` has taken before, none of which it is given again.
    Raises UsageError for what cannot work, before anything is loaded; a run that fails later says what is kept.
    """
    require_images(inputs, recursive=options.recursive)
    files = [path for path in (options.output if sink is None else None, options.embeddings) if path is not None]
    with locked(files):
        return _Run(inputs, model, answer, options, sink, bar or _no_bar, behind).perform(answering)


def _recorded(model: str | None, answer: PredictOptions, options: RunOptions) -> dict[str, Any]:
    """Return what the content of the rows depends on, as JSON values."""
    chosen = {name: value for name, value in asdict(answer).items() if name not in _FREE}
    chosen = {name: str(value) if isinstance(value, Path) else value for name, value in chosen.items()}
    of_run = {name: getattr(options, name) for name in ("on_error", "label_type", "frames")}
    return {**chosen, "model": model, **of_run}


def shape_of(answer: PredictOptions, options: RunOptions) -> Shape:
    """Return what the rows of a run hold."""
    restricted = any(names is not None for names in (answer.under, answer.classes, answer.exclude))
    asked, concepts = listed(answer.ask), answer.min_node is not None
    bins = labels_of(answer.bin_lines) if answer.bins is not None else ()
    labels = options.label_type is not None
    return Shape(answer.topk, labels, answer.levels, restricted, asked, concepts, bins, parts=answer.multi)


def count_images(inputs: Sequence[str], most: int, *, recursive: bool) -> int:
    """Return how many images there are, `most` if more; those of which standard input holds the list are two.

    Raises UsageError as `require_images` does.
    """
    if "@-" in inputs or "-" in inputs or any(map(is_pipe, inputs)):
        return 1 if list(inputs) == ["-"] else 2
    require_images(inputs, recursive=recursive)
    return sum(1 for _ in islice(expand(inputs, recursive=recursive), most))


def is_single(inputs: Sequence[str], *, recursive: bool) -> bool:
    """Return whether there is exactly one image. Raises UsageError as `require_images` does."""
    return count_images(inputs, 2, recursive=recursive) == 1


class _Run:
    """Construction refuses what cannot work, `perform` does the work."""

    def __init__(
        self,
        inputs: Sequence[str],
        model: str | None,
        answer: PredictOptions,
        options: RunOptions,
        sink: Sink | None,
        bar: BarOf,
        behind: Taken | None,
    ) -> None:
        self._inputs, self._options, self._bar, self._behind = list(inputs), options, bar, behind
        self._offline = bool(answer.offline)
        self._recorded = _recorded(model, answer, options)
        if options.log is not None:
            _require_place(str(options.log))
        self._sink = _file_sink(options, self._recorded, shape_of(answer, options)) if sink is None else sink
        self._embeddings = None
        if options.embeddings is not None:
            # What it imports would cost every run without embeddings a share of its start.
            from miil21k.writers.remote import open_embeddings

            self._embeddings = open_embeddings(options.embeddings, options.existing)
        self._pictures = None
        if options.save_plots is not None:
            from miil21k.predict.pictures import Gallery

            self._pictures = Gallery(Path(options.save_plots), exif=answer.exif, max_pixels=answer.max_pixels)
        self._rows = self._failed = self._before = self._again = 0
        self._passed = PassedOver()
        self._ended: Literal["failed", "interrupted", "stopped", "complete"] = "failed"
        self._clock = time.perf_counter()

    def _images(self) -> Unfolded:
        options = self._options
        return expand(self._inputs, recursive=options.recursive, offline=self._offline, frames=options.frames)

    def perform(self, answering: Callable[[str | None], AbstractContextManager[Answering]]) -> Outcome:
        if self._is_complete():
            return self._outcome("already")
        begun = self._sink.file.begun_with() if isinstance(self._sink, FileSink) else None
        with answering(None if begun is None else begun["backend"]) as answers:
            return self._answer(answers)

    def _outcome(self, ended: Literal["complete", "stopped", "already"]) -> Outcome:
        return Outcome(ended, self._rows, self._failed, time.perf_counter() - self._clock)

    def _answer(self, answers: Answering) -> Outcome:
        before, inputs = self._resumed(answers.batch_size)
        if self._pictures is not None and self._options.heat is not None:
            from miil21k.predict.heat import HeatMaps, require_maps

            predictor = cast("Predictor", answers)  # no engine draws pictures
            require_maps(predictor)
            maps = HeatMaps(predictor, self._options.heat)
            if maps.note is not None:
                log.info("%s", maps.note)
            self._pictures.show(maps.of)
        self._clock = time.perf_counter()
        self._sink.begin(answers.origin, answers.space)
        if self._embeddings is not None:
            self._embeddings.begin(before.rows)
        self._rows, self._failed, self._before = before.rows, before.failed, before.rows
        with self._logged(answers), self._closed():
            ended = self._work(answers, inputs, before)
        if ended == "complete" and isinstance(self._sink, FileSink):
            self._sink.file.settle()  # the last of all: what a kill leaves before this is gone on with
        self._say_how_it_ended(ended)
        return self._outcome(ended)

    @contextmanager
    def _logged(self, answers: Answering) -> Iterator[None]:
        """Write the record of the run when the context ends, however it ends."""
        if self._options.log is None:
            yield
            return
        from miil21k.predict.provenance import Provenance

        record = Provenance(self._options.log, answers.origin._asdict(), self._recorded)
        try:
            yield
        except KeyboardInterrupt:
            self._ended = "interrupted"
            raise
        finally:
            record.write(self._ended, rows=self._rows, failed=self._failed, rows_from_before=self._before)

    @contextmanager
    def _closed(self) -> Iterator[None]:
        """Close what an interruption leaves open, and say what is kept."""
        try:
            yield
        except BaseException as error:
            self._abandon()
            self._say_what_is_kept("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        self._abandon()

    def _is_complete(self) -> bool:
        """Return whether `resume` finds nothing left to do; raises UsageError for inputs that have no row yet."""
        skips = self._options.on_error == "skip"
        if not isinstance(self._sink, FileSink) or not self._sink.file.complete:
            return False
        inputs, file = self._images(), self._sink.file
        now, _ = already_done(file.rows(), inputs, skips=skips, chunk=1, path=file.path)
        rest = sum(1 for _ in inputs)
        if rest and not skips:
            raise UsageError(
                f"'{file.path}' is complete with {now.rows} rows, and {rest} more inputs follow: give only "
                "those with --append, or all of them with --overwrite."
            )
        if self._embeddings is not None:
            self._embeddings.require(now.rows)
        self._rows, self._failed = now.rows, now.failed + rest
        log.info("'%s' is complete already: %d rows, nothing to do.", file.path, now.rows)
        return True

    def _resumed(self, chunk: int) -> tuple[RowsDone, Iterator[Unit]]:
        """Return where the run goes on, at the beginning of a batch of `chunk`, and the inputs from there."""
        inputs = self._images()
        self._passed = inputs.passed
        if self._behind is not None:
            return self._skipped(inputs, self._behind, chunk)
        if not self._options.resume or not isinstance(self._sink, FileSink):
            return RowsDone(0, 0, 0, 0), inputs.rest([])
        file = self._sink.file
        recent: deque[ImageInput] = deque(maxlen=chunk)

        def seen() -> Iterator[ImageInput]:
            for item in inputs:
                recent.append(item)
                yield item

        skips = self._options.on_error == "skip"
        now, start = already_done(file.rows(), seen(), skips=skips, chunk=chunk, path=file.path)
        file.keep(start.end)
        again = now.inputs - start.inputs
        return start, inputs.rest(list(recent)[len(recent) - again :])

    def _skipped(self, inputs: Unfolded, behind: Taken, chunk: int) -> tuple[RowsDone, Iterator[Unit]]:
        """Return the point behind what the sink has taken, and the inputs from the beginning of its last batch on."""
        recent: list[ImageInput] = []
        name = ""
        for item in islice(inputs, behind.inputs):
            if item.new_batch or len(recent) == chunk:
                recent.clear()
            recent.append(item)
            name = item.name
        if name != behind.last:
            raise UsageError(
                f"Input {behind.inputs:,} was '{behind.last}' before, and is '{name}' now: go on with the same inputs, "
                "or --overwrite."
            )
        if len(recent) == chunk:
            recent.clear()
        self._again = len(recent)  # answered once more for the last digits of those beside them, and not taken twice
        return RowsDone(behind.inputs, 0, 0, 0), inputs.rest(recent)

    def _work(self, answers: Answering, inputs: Iterator[Unit], before: RowsDone) -> Literal["complete", "stopped"]:
        """Take every prediction; returns how it ended."""
        stream = cast("Generator[Prediction, None, None]", self._predictions(answers, inputs, before))
        once = {"-", "@-"} & set(self._inputs) or any(map(is_pipe, self._inputs)) or self._options.frames == "scenes"
        again = None if once else self._images
        with closing(stream), self._bar(again, before.inputs) as bar:
            for prediction in islice(stream, self._again, None):
                if self._take(prediction):
                    self._ended = "stopped"
                    return "stopped"
                bar.advance()
        self._sink.finish()
        if self._embeddings is not None:
            self._embeddings.finish()
        self._ended = "complete"
        return "complete"

    def _predictions(self, answers: Answering, inputs: Iterator[Unit], before: RowsDone) -> Iterator[Prediction]:
        if answers.takes_shards:
            return answers.stream(inputs)
        images: Iterator[ImageInput] = Unfolded(inputs)
        if self._pictures is not None:
            images = self._pictures.watching(images, before.inputs)
        return answers.stream(images)

    def _take(self, prediction: Prediction) -> bool:
        """Write one prediction; returns whether the run ends with it."""
        failed = prediction.error is not None
        self._failed += failed
        if failed and self._options.on_error == "fail":
            log.error("stopped: %s", prediction.error)
            return True
        if self._pictures is not None:
            self._pictures.draw(prediction)
        if failed and self._options.on_error == "skip":
            log.info("skipped: %s", prediction.error)
            return False
        if self._embeddings is not None:
            self._embeddings.write(prediction.embedding)
        self._sink.write(prediction)
        self._rows += 1
        return False

    def _abandon(self) -> None:
        """Close what an interruption left open; does nothing after a complete run."""
        if isinstance(self._sink, FileSink):
            self._sink.file.abandon()
        if self._embeddings is not None:
            self._embeddings.abandon()

    def _count(self) -> str:
        return f"{self._rows:,} row{'' if self._rows == 1 else 's'}"

    def _say_what_is_kept(self, ended: str) -> None:
        if isinstance(self._sink, FileSink):
            path = self._sink.file.path
            if not self._sink.file.lasting:
                log.error("%s: nothing was put at '%s': start again.", ended, path)
                return
            log.error("%s: '%s' has %s, all whole; the same command with --resume goes on.", ended, path, self._count())
        elif ended == "interrupted" and self._options.to_stdout:
            log.error("interrupted after %s", self._count())

    def _say_how_it_ended(self, ended: str) -> None:
        if ended == "stopped":
            self._say_what_is_kept(ended)
            return
        failures = f", {self._failed:,} of the inputs failed" if self._failed else ""
        if isinstance(self._sink, FileSink):
            seconds = time.perf_counter() - self._clock
            rate = f" ({(self._rows - self._before) / seconds:.1f} a second)" if seconds > 1 else ""
            log.info("'%s': %s%s in %.1f s%s", self._sink.file.path, self._count(), failures, seconds, rate)
        elif self._failed and self._rows > 1 and self._options.to_stdout:
            log.info("%s%s", self._count(), failures)
        if passed := self._passed.sentence():
            log.info("%s", passed)


def _require_place(log_file: str) -> None:
    """Raise UsageError where no log could be written, ImageError for a store that cannot be asked."""
    if is_remote(log_file):
        remote_exists(log_file)
    elif not Path(log_file).resolve().parent.is_dir():
        raise UsageError(f"There is no folder for the log '{log_file}'.")


def _file_sink(options: RunOptions, recorded: dict[str, Any], shape: Shape) -> FileSink:
    path = options.output
    if options.to_stdout:
        raise UsageError("A run writes to a file: name its output.")
    name = options.format or format_of(path)
    if name == TABLE:
        raise UsageError(f"A table is made for a terminal: choose {', '.join(FORMATS)} for --output.")
    return FileSink(open_output(name, path, shape, recorded, options.existing), options.label_type)
