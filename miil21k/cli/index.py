"""`miil21k index`: pictures into an index that answers questions."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

from miil21k.cli.options import add_loudness, add_model_name, add_options, value_of
from miil21k.cli.start import log_to_stderr, make_export, settle, starting
from miil21k.data.options import ReadingOptions
from miil21k.find.options import IndexOptions
from miil21k.predict.options import AnswerOptions, PredictOptions, RunOptions
from miil21k.runtime.options import ComputeOptions, ModelOptions

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from miil21k.predict.bulk import BulkPredictor
    from miil21k.predict.predictor import Predictor

HELP = "Bring an index of pictures up to date, which 'miil21k find' then asks: new, changed, moved and deleted files."
# What an index keeps is decided by these; questions and restrictions come later, with 'find'.
ANSWERS = {"hedge", "reading", "min_bits", "calibration", "rule", "include_removed_labels"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("inputs", nargs="+", metavar="PHOTOS", help="folders, files, globs, shards, URLs, @list.txt")
    add_options(parser, IndexOptions, without={"engine", "address"})
    add_options(parser.add_argument_group("inputs"), ReadingOptions)
    group = parser.add_argument_group("model")
    add_model_name(group)
    add_options(group, ModelOptions)
    add_options(parser.add_argument_group("answer"), AnswerOptions, only=ANSWERS)
    group = parser.add_argument_group("machine")
    add_options(group, ComputeOptions)
    add_options(group, IndexOptions, only={"engine", "address"})
    group = parser.add_argument_group("messages")
    add_loudness(group)
    group.add_argument("--no-progress", action="store_true", help="no progress bar (never shown outside a terminal)")


def run(args: argparse.Namespace) -> int:
    """Index the pictures; returns 0, or 1 when some cannot be read."""
    with starting():
        return _index(args)


def _index(args: argparse.Namespace) -> int:
    from miil21k.cli.progress import ProgressBar
    from miil21k.data.resizers import resolve_resizer
    from miil21k.find.build import build_index, model_of

    log_to_stderr(args)
    options = value_of(args, IndexOptions)
    answer = value_of(args, PredictOptions, embeddings=True, facts=True)
    answer = replace(answer, resizer=resolve_resizer(answer.resizer))
    model = args.model if options.overwrite else model_of(options.output, args.model)
    shown = sys.stderr.isatty() and not (args.no_progress or args.quiet)
    answering = partial(_answering, model, answer, options, args.inputs)
    try:
        done = build_index(args.inputs, model, answer, options, answering, bar=partial(ProgressBar, shown))
    except KeyboardInterrupt:
        logging.getLogger("miil21k.find").error("interrupted: the same command goes on with what is not indexed yet")
        return 130
    if not args.quiet:
        kinds = ((f"{count:,} {kind}") for kind, count in done._asdict().items() if kind in _KINDS and count)
        failed = f"; {done.failed:,} could not be read" if done.failed else ""
        counted = ", ".join(kinds) or "nothing to do"
        print(
            f"'{options.output}': {done.total:,} pictures ({counted}{failed}) in {done.seconds:.1f} s", file=sys.stderr
        )
    print(options.output)
    return int(done.failed > 0)


_KINDS = ("new", "changed", "moved", "unchanged", "removed")


@contextmanager
def _answering(
    model: str | None, answer: PredictOptions, options: IndexOptions, inputs: list[str]
) -> Iterator[Predictor | BulkPredictor]:
    from miil21k.predict.bulk import answering
    from miil21k.predict.run import count_images

    log = logging.getLogger("miil21k.find")
    run_options = RunOptions(engine=options.engine, address=options.address)
    images = cache(partial(count_images, inputs, recursive=options.recursive))
    with answering(model, answer, run_options, images=images, make=make_export) as found:
        settle()
        origin = found.origin
        log.info("%s on %s (%s), label space %s", origin.model, origin.device, origin.dtype, origin.label_space)
        yield found
