"""`miil21k predict` and `miil21k-predict`: images in, one row per image out. Options only."""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

from miil21k.cli.options import add_loudness, add_model_name, add_options, value_of
from miil21k.cli.start import log_to_stderr, make_export, settle, starting
from miil21k.data.options import ReadingOptions
from miil21k.data.resizers import resolve_resizer
from miil21k.errors import UsageError
from miil21k.predict.options import AnswerOptions, PredictOptions, RunOptions
from miil21k.runtime.options import ComputeOptions, ModelOptions
from miil21k.writers.formats import TABLE, require_format

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miil21k.predict.bulk import BulkPredictor
    from miil21k.predict.predictor import Predictor
    from miil21k.predict.sinks import Sink
    from miil21k.runtime.resolve import Count

__all__ = ["HELP", "configure", "run"]

HELP = "Name what is in images, as a path through the tree that stops where the model is no longer sure."
_EXAMPLES = """examples:
  miil21k-predict cat.jpg                              one picture, as a table
  miil21k-predict photos/ -r -o rows.csv               a folder and all below it, into a file
  miil21k-predict photos/ -r -o rows.csv --resume      go on after a kill: the same file, byte for byte
  miil21k-predict '**/*.png' --hedge 0.95 | jq .path   surer answers, JSON lines into a pipe
  miil21k-predict @list.txt --under dog                dogs only
  miil21k-predict photos/ --ask bird,vehicle           how probable is each? (any noun of WordNet)
  miil21k-predict cat.jpg --heat cat --save-plots why/ where is the evidence for a cat?
  miil21k-predict 'shards/a-{000..099}.tar' --engine ray --address auto -o rows.parquet
  curl -s https://example.org/cat.jpg | miil21k-predict -

exit code: 0 all good, 1 some inputs failed, 2 usage, 130 interrupted. Rows go to standard output or --output,
everything else to standard error. Row schema: docs/predict.md.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k predict`."""
    parser.usage = "%(prog)s [options] INPUT ..."
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="file, folder, quoted glob, .tar shard, index.json of shards, http(s) URL, '-' (one image on stdin), "
        "'@list.txt' or '@-' (one per line)",
    )
    group = parser.add_argument_group("inputs")
    group.add_argument("--source", action="append", default=[], metavar="INPUT", help="the same as INPUT, repeatable")
    add_options(group, RunOptions, only={"recursive", "frames"})
    add_options(group, ReadingOptions)
    group = parser.add_argument_group("model")
    add_model_name(group)
    add_options(group, ModelOptions)
    group.add_argument(
        "--list-models", nargs="?", const="*", metavar="GLOB", help="print the names of the models and stop"
    )
    group = parser.add_argument_group("answer")
    add_options(group, AnswerOptions)
    add_options(group, RunOptions, only={"label_type"})
    elsewhere = {"recursive", "frames", "label_type", "engine", "address"}
    add_options(parser.add_argument_group("output"), RunOptions, without=elsewhere)
    group = parser.add_argument_group("machine")
    of_engines = "; with --engine local: processes, with ray: jobs that are queued"
    add_options(group, ComputeOptions, more={"workers": of_engines})
    add_options(group, RunOptions, only={"engine", "address"})
    group = parser.add_argument_group("messages")
    add_loudness(group)
    group.add_argument("--no-progress", action="store_true", help="no progress bar (never shown outside a terminal)")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def run(args: argparse.Namespace) -> int:
    """Predict every input; returns 0, or 1 when some failed."""
    if args.list_models is not None:
        return _list_models(args.list_models)
    with starting():
        return _predict(args)


def _list_models(pattern: str) -> int:
    from miil21k.zoo.manifest import list_models

    names = list_models(pattern)
    if not names:
        print(f"No model matches '{pattern}'.", file=sys.stderr)
    for name in names:
        print(name)
    return 0 if names else 1


def _predict(args: argparse.Namespace) -> int:
    """Answer every input; returns the exit code."""
    from miil21k.cli.progress import ProgressBar
    from miil21k.predict.run import count_images, is_single, run

    log_to_stderr(args)
    options = value_of(args, RunOptions)
    inputs = [*args.inputs, *args.source]
    single = is_single(inputs, recursive=options.recursive)
    answer = value_of(args, PredictOptions, embeddings=options.embeddings is not None)
    if options.heat is not None and answer.backend == "auto" and not (args.model or "").endswith(".onnx"):
        answer = replace(answer, backend="torch")  # which alone keeps the features; a named export is refused later
    # For one image Pillow is ready sooner than a faster resizer is imported.
    resizer = "pillow" if single and answer.resizer == "auto" else resolve_resizer(answer.resizer)
    answer = replace(answer, resizer=resizer)
    sink = _stdout_sink(answer, options, single=single) if options.to_stdout else None
    card = single and options.to_stdout and _stdout_format(options) == TABLE  # which names the model itself
    rows_on_terminal = options.to_stdout and sys.stdout.isatty()
    shown = sys.stderr.isatty() and not (args.no_progress or args.quiet or rows_on_terminal)
    images = cache(partial(count_images, inputs, recursive=options.recursive))
    answering = partial(_answering, args, answer, options, images, introduced=not card or args.verbose)
    try:
        outcome = run(inputs, args.model, answer, options, answering, sink=sink, bar=partial(ProgressBar, shown))
    except KeyboardInterrupt:  # the run has said what is kept
        return 130
    return int(outcome.failed > 0)


@contextmanager
def _answering(
    args: argparse.Namespace,
    answer: PredictOptions,
    options: RunOptions,
    images: Count,
    begun: str | None,
    *,
    introduced: bool,
) -> Iterator[Predictor | BulkPredictor]:
    """Return what answers, and say which it is; the engine is left when the context ends.

    begun: the backend of the rows that are there; a file has one, unless another is named and refused.
    """
    from miil21k.predict.bulk import answering

    log = logging.getLogger("miil21k.predict")
    if begun is not None and answer.backend == "auto":
        answer = replace(answer, backend=begun)
    with answering(args.model, answer, options, images=images, make=make_export) as found:
        settle()
        origin = found.origin
        if introduced:
            log.info("%s on %s (%s), label space %s", origin.model, origin.device, origin.dtype, origin.label_space)
        for note in found.notes:
            log.info("%s", note)
        log.debug("batches of %s, threads that read: %s", found.batch_size, found.workers)
        log.debug("label space %s, %s", origin.label_space_sha256, found.preprocess)
        log.debug("resizer %s", found.resizer)
        yield found


def _stdout_format(options: RunOptions) -> str:
    """Return the format of what is printed; raises UsageError for one that is only written to a file."""
    chosen = options.format or (TABLE if sys.stdout.isatty() else "jsonl")
    if chosen != TABLE and require_format(chosen).layout is None:
        raise UsageError(f"{chosen.capitalize()} is written to a file: add --output FILE.{chosen}.")
    return chosen


def _stdout_sink(answer: PredictOptions, options: RunOptions, *, single: bool) -> Sink:
    from miil21k.cli.table import TableSink
    from miil21k.predict.run import shape_of
    from miil21k.predict.sinks import StreamSink

    chosen = _stdout_format(options)
    if chosen == TABLE:
        return TableSink(single, options.label_type)
    layout = require_format(chosen).layout
    assert layout is not None
    return StreamSink(sys.stdout.buffer, layout(shape_of(answer, options)), options.label_type)
