"""One run of `predict`: inputs through the predictor into the output, and all that may happen on the way."""

from __future__ import annotations

import sys
from collections import deque
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, cast

from miil21k.cli.bulk import answering, refuse_engine_options
from miil21k.cli.progress import ProgressBar
from miil21k.cli.request import existing_output, fingerprint, predict_options
from miil21k.cli.sinks import FileSink, chosen_format, open_sink
from miil21k.cli.start import log_to_stderr, settle
from miil21k.data.inputs import Unfolded, expand, require_images
from miil21k.errors import UsageError
from miil21k.writers.embeddings import EmbeddingFile
from miil21k.writers.lock import locked
from miil21k.writers.output import Progress, already_done

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator, Iterator

    from miil21k.data.images import ImageInput
    from miil21k.data.inputs import Unit
    from miil21k.predict.bulk import BulkPredictor
    from miil21k.predict.prediction import Prediction
    from miil21k.predict.predictor import Predictor

__all__ = ["execute"]


def execute(args: argparse.Namespace) -> int:
    """Predict every input of the parsed command line; returns 0, 1 when some failed, 130 when interrupted."""
    log_to_stderr(args)
    names = [*args.inputs, *args.source]
    refuse_engine_options(args)
    require_images(names, recursive=args.recursive)
    with locked(path for path in (args.output, args.embeddings) if path not in (None, "-")):
        return Batch(args, names).run()


class Batch:
    """One run: construction refuses what cannot work before a model is loaded, `run` does the work."""

    def __init__(self, args: argparse.Namespace, names: list[str]) -> None:
        self._args = args
        self._names = names
        self._single = self._is_single()
        self._options = predict_options(args, single=self._single)
        self._recorded = fingerprint(args, self._options)
        existing = existing_output(args)
        if args.append and args.embeddings:
            raise UsageError("--append cannot be joined with --embeddings: their rows would no longer match.")
        if args.log is not None and not Path(args.log).resolve().parent.is_dir():
            raise UsageError(f"There is no folder for the log '{args.log}'.")
        self._card = self._single and chosen_format(args) == "table"  # names the model itself
        self._sink = open_sink(args, self._recorded, existing, single=self._single)
        self._embeddings = EmbeddingFile(Path(args.embeddings), existing) if args.embeddings else None
        self._plots = None
        if args.save_plots is not None:
            from miil21k.cli.gallery import Gallery

            self._plots = Gallery(Path(args.save_plots), exif=not args.no_exif, max_pixels=self._options.max_pixels)
        self._rows = self._failed = 0

    def _inputs(self) -> Unfolded:
        return expand(self._names, recursive=self._args.recursive, offline=bool(self._args.offline))

    def _is_single(self) -> bool:
        """Return whether there is exactly one input; standard input is not read to find out."""
        if "@-" in self._names or "-" in self._names:
            return self._names == ["-"]
        inputs = self._inputs()
        return next(inputs, None) is not None and next(inputs, None) is None

    def run(self) -> int:
        """Return the exit code."""
        if self._is_complete():
            return int(self._failed > 0)
        with answering(self._args, self._options, single=self._single, say=self._note) as predictor:
            settle()
            return self._answer(predictor)

    def _answer(self, predictor: Predictor | BulkPredictor) -> int:
        before, inputs = self._resumed(predictor.batch_size)
        self._say_who_answers(predictor)
        self._sink.begin(predictor.run, predictor.space)
        if self._embeddings is not None:
            self._embeddings.begin(before.rows)
        provenance = None
        if self._args.log is not None:
            from miil21k.cli.provenance import Provenance

            provenance = Provenance(Path(self._args.log), predictor.run._asdict(), self._recorded)
        self._rows, self._failed = before.rows, before.failed
        outcome = "failed"
        try:
            outcome = self._work(predictor, inputs, before)
        except KeyboardInterrupt:
            outcome = "interrupted"
        finally:
            self._abandon()
            if provenance is not None:
                provenance.write(outcome, rows=self._rows, failed=self._failed, rows_from_before=before.rows)
        self._say_how_it_ended(outcome)
        return 130 if outcome == "interrupted" else int(self._failed > 0)

    def _is_complete(self) -> bool:
        """Return whether `--resume` finds nothing left to do; raises UsageError for inputs that have no row yet."""
        sink, skips = self._sink, self._args.on_error == "skip"
        if not isinstance(sink, FileSink) or not sink.file.complete:
            return False
        inputs = self._inputs()
        now, _ = already_done(sink.file.rows(), inputs, skips=skips, chunk=1, path=sink.file.path)
        rest = sum(1 for _ in inputs)
        if rest and not skips:
            raise UsageError(
                f"'{self._args.output}' is complete with {now.rows} rows, and {rest} more inputs follow: give only "
                "those with --append, or all of them with --overwrite."
            )
        self._failed = now.failed + rest
        self._note(f"'{self._args.output}' is complete already: {now.rows} rows, nothing to do.")
        return True

    def _resumed(self, chunk: int) -> tuple[Progress, Iterator[Unit]]:
        """Return where the run goes on, at the beginning of a batch of `chunk`, and the inputs from there."""
        inputs = self._inputs()
        if not self._args.resume or not isinstance(self._sink, FileSink):
            return Progress(0, 0, 0, 0), inputs.rest([])
        file = self._sink.file
        recent: deque[ImageInput] = deque(maxlen=chunk)

        def seen() -> Iterator[ImageInput]:
            for item in inputs:
                recent.append(item)
                yield item

        skips = self._args.on_error == "skip"
        now, start = already_done(file.rows(), seen(), skips=skips, chunk=chunk, path=file.path)
        file.keep(start.end)
        again = now.inputs - start.inputs
        return start, inputs.rest(list(recent)[len(recent) - again :])

    def _work(self, predictor: Predictor | BulkPredictor, inputs: Iterator[Unit], before: Progress) -> str:
        """Take every prediction; returns how it ended."""
        stream = cast("Generator[Prediction, None, None]", self._predictions(predictor, inputs, before))
        with closing(stream), self._bar(before.inputs) as bar:
            for prediction in stream:
                if self._take(prediction):
                    return "stopped"
                bar.advance()
        self._sink.finish()
        if self._embeddings is not None:
            self._embeddings.finish()
        return "complete"

    def _predictions(
        self, predictor: Predictor | BulkPredictor, inputs: Iterator[Unit], before: Progress
    ) -> Iterator[Prediction]:
        if self._args.engine is not None:
            return cast("BulkPredictor", predictor).stream(inputs)
        images: Iterator[ImageInput] = Unfolded(inputs)
        if self._plots is not None:
            images = self._plots.watching(images, before.inputs)
        return cast("Predictor", predictor).stream(images)

    def _take(self, prediction: Prediction) -> bool:
        """Write one prediction; returns whether the run ends with it."""
        failed = prediction.error is not None
        self._failed += failed
        if failed and self._args.on_error == "fail":
            print(f"stopped: {prediction.error}", file=sys.stderr)
            return True
        if self._plots is not None:
            self._plots.draw(prediction)
        if failed and self._args.on_error == "skip":
            self._note(f"skipped: {prediction.error}")
            return False
        if self._embeddings is not None:
            self._embeddings.write(prediction.embedding)
        self._sink.write(prediction)
        self._rows += 1
        return False

    def _bar(self, done: int) -> ProgressBar:
        args = self._args
        rows_on_terminal = args.output == "-" and sys.stdout.isatty()
        shown = sys.stderr.isatty() and not (args.no_progress or args.quiet or rows_on_terminal)
        readable_twice = not {"-", "@-"} & set(self._names)
        return ProgressBar(shown, self._inputs if readable_twice else None, done)

    def _abandon(self) -> None:
        """Close what an interruption left open; does nothing after a complete run."""
        if isinstance(self._sink, FileSink):
            self._sink.file.abandon()
        if self._embeddings is not None:
            self._embeddings.abandon()

    def _say_how_it_ended(self, outcome: str) -> None:
        rows = f"{self._rows} row{'' if self._rows == 1 else 's'}"
        if outcome != "complete" and isinstance(self._sink, FileSink):
            print(
                f"{outcome}: '{self._args.output}' has {rows}, all whole; the same command with --resume goes on.",
                file=sys.stderr,
            )
        elif outcome == "interrupted":
            print(f"interrupted after {rows}", file=sys.stderr)
        elif self._failed and self._rows > 1:
            self._note(f"{rows}, {self._failed} of the inputs failed")

    def _say_who_answers(self, predictor: Predictor | BulkPredictor) -> None:
        run = predictor.run
        if not self._card or self._args.verbose:
            self._note(f"{run.model} on {run.device} ({run.dtype}), label space {run.label_space}")
        if self._args.verbose:
            self._note(f"batches of {predictor.batch_size}, threads that read: {predictor.workers}")
            self._note(f"label space {run.label_space_sha256}, {predictor.preprocess}")
            self._note(f"resizer {predictor.resizer}")

    def _note(self, text: str) -> None:
        if not self._args.quiet:
            print(text, file=sys.stderr)
