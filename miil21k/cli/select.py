"""`miil21k select`: the images of a pool that a teacher is surest of, class by class. Options only."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.cli.options import add_loudness, add_model_name, add_options, names_of, value_of
from miil21k.cli.start import log_to_stderr, make_export
from miil21k.data.options import ReadingOptions
from miil21k.runtime.options import ComputeOptions, ModelOptions
from miil21k.teachers.options import SelectOptions

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from miil21k.predict.run import Answering

__all__ = ["HELP", "configure", "run"]

HELP = "Select the training images of a student from a pool without labels: for each class the best by a teacher."
_EXAMPLES = """examples:
  miil21k select pool/ -r --teacher embedded -K 100 -P 10 -o selected.parquet
  miil21k select 'shards/a-{000..999}.tar' --teacher t.safetensors -K 16000 --engine ray --address auto
  miil21k select rows.parquet -K 100 -o selected.parquet      rows that miil21k predict -k 10 wrote
  miil21k select part-*.parquet -K 16000 -o selected.parquet  selections of parts of a pool become that of the whole

exit code: 0 all good, 1 some images could not be read, 2 usage, 130 interrupted. Columns: wnid, rank, score, input.
"""
_MACHINE = {"engine", "address"}
_OUTPUT = {"output", "resume", "overwrite", "memory", "held_out", "shards", "shard_size"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k select`."""
    parser.usage = "%(prog)s [options] POOL ..."
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "pool",
        nargs="+",
        metavar="POOL",
        help="what predict takes: folders, quoted globs, .tar shards, @list.txt; or rows of predict, or selections "
        "(.jsonl, .parquet, .csv)",
    )
    group = parser.add_argument_group("selection")
    chosen = [name for name in names_of(SelectOptions) if name not in _MACHINE | _OUTPUT]
    add_options(group, SelectOptions, only=chosen)
    add_options(parser.add_argument_group("output"), SelectOptions, only=_OUTPUT)
    group = parser.add_argument_group("teacher")
    add_model_name(group, also="--teacher")
    add_options(group, ModelOptions)
    add_options(parser.add_argument_group("images"), ReadingOptions)
    group = parser.add_argument_group("machine")
    add_options(group, ComputeOptions, more={"workers": "; with --engine local: processes, with ray: queued jobs"})
    add_options(group, SelectOptions, only=_MACHINE)
    group = parser.add_argument_group("messages")
    add_loudness(group)
    group.add_argument("--no-progress", action="store_true", help="no progress bar (never shown outside a terminal)")


def run(args: argparse.Namespace) -> int:
    """Select; returns 1 when some images could not be read."""
    log_to_stderr(args)
    from miil21k.teachers.candidates import are_rows

    options = value_of(args, SelectOptions)
    report = _from_rows(args, options) if are_rows(args.pool) else _from_pool(args, options)
    if report is None:
        return 130
    if options.shards is not None:
        _pack(args, options)
    print(options.output)
    return int(report["unreadable"] > 0)


def _pack(args: argparse.Namespace, options: SelectOptions) -> None:
    import logging

    from miil21k.cli.train import Reports
    from miil21k.teachers.pack import pack

    assert options.shards is not None
    done = pack(Path(options.output), Path(options.shards), options.shard_size, say=Reports(args.quiet).say)
    lost = f"; {done['unreadable']:,} could not be read" if done["unreadable"] else ""
    logging.getLogger("miil21k.teachers").info(
        "'%s/index.json': %s images%s", options.shards, f"{done['images']:,}", lost
    )


def _from_rows(args: argparse.Namespace, options: SelectOptions) -> dict[str, Any] | None:
    from miil21k.errors import UsageError
    from miil21k.teachers.select import select_rows

    if args.model is not None:
        raise UsageError("The rows are answered already: leave --teacher out, or give the images themselves.")
    return select_rows(args.pool, options, getattr(args, "label_space", None))


def _from_pool(args: argparse.Namespace, options: SelectOptions) -> dict[str, Any] | None:
    from miil21k.cli.progress import ProgressBar
    from miil21k.data.resizers import resolve_resizer
    from miil21k.predict.bulk import answering
    from miil21k.predict.options import PredictOptions, RunOptions
    from miil21k.predict.run import count_images
    from miil21k.teachers.select import answer_options, select_pool

    answer = value_of(args, PredictOptions)
    answer = answer_options(options, replace(answer, resizer=resolve_resizer(answer.resizer)))
    how = RunOptions(recursive=options.recursive, engine=options.engine, address=options.address)
    images = cache(partial(count_images, args.pool, recursive=options.recursive))

    def answers(_: str | None) -> AbstractContextManager[Answering]:
        return answering(args.model, answer, how, images=images, make=make_export)

    shown = sys.stderr.isatty() and not (args.no_progress or args.quiet)
    try:
        return select_pool(args.pool, args.model, answer, options, answers, bar=partial(ProgressBar, shown))
    except KeyboardInterrupt:  # what is kept has been said
        return None
