"""`miil21k semisup`: a student from few labels and a pool without any. Options only; the model's path on stdout."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from miil21k.cli.options import add_options, names_of, value_of
from miil21k.cli.start import log_to_stderr, make_export
from miil21k.teachers.options import SemisupOptions

__all__ = ["HELP", "configure", "run"]

HELP = "Train a student on few labels and many images without: teacher, selection, pretraining, fine-tuning."
_EXAMPLES = """examples:
  miil21k semisup --labelled train/ --pool pool/ --val test/ --teacher resnet50.a1_in1k --student resnet18 \\
      -K 100 -P 3 --set image_size=64 -o plan
  miil21k semisup ... -o plan                          the same again: what is done is not done again
  miil21k semisup ... -o plan -K 200 --overwrite       the selection and what follows from it anew

The steps lie in plan/teacher, plan/selected.parquet, plan/pretrain and plan/finetune; plan/report.json sums them up.
"""
_DATA = ("val", "split", "root", "label_space", "recursive")
_CHOICE = ("per_class", "per_image", "on", "threshold", "memory")
_MACHINE = ("device", "workers", "cache_dir", "offline")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k semisup`."""
    parser.usage = "%(prog)s --labelled DATA --pool POOL --teacher NAME --student NAME -o DIR [options]"
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--labelled", required=True, metavar="DATA", help="class folders, shards, or a list with labels")
    add(
        "--pool",
        required=True,
        action="append",
        metavar="POOL",
        help="images without labels: a folder, a quoted glob, a shard, @list.txt; repeatable",
    )
    add_options(group, SemisupOptions, only=_DATA)
    group = parser.add_argument_group("models")
    model = "a name of the zoo or of timm, or a file of miil21k train"
    group.add_argument("--teacher", required=True, metavar="NAME", help=f"{model} or export")
    group.add_argument("--student", required=True, metavar="NAME", help=f"{model}; the teacher's name trains it again")
    add_options(group, SemisupOptions, only=["train_teacher"])
    add_options(parser.add_argument_group("selection"), SemisupOptions, only=_CHOICE)
    rest = [
        name
        for name in names_of(SemisupOptions)
        if name not in {*_DATA, *_CHOICE, *_MACHINE, "train_teacher", "overwrite"}
    ]
    add_options(parser.add_argument_group("training"), SemisupOptions, only=rest)
    add_options(parser.add_argument_group("machine"), SemisupOptions, only=_MACHINE)
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the plan")
    add_options(group, SemisupOptions, only=["overwrite"])
    group.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")


def run(args: argparse.Namespace) -> int:
    """Run the plan."""
    log_to_stderr(args)
    options = value_of(args, SemisupOptions)
    from miil21k.cli.progress import ProgressBar
    from miil21k.cli.train import Reports
    from miil21k.teachers.semisup import SemisupRequest, train_semisupervised

    progress = Reports(args.quiet)
    request = SemisupRequest(args.labelled, tuple(args.pool), args.teacher, args.student, args.output, options)
    bar = partial(ProgressBar, sys.stderr.isatty() and not args.quiet)
    try:
        report = train_semisupervised(request, progress, progress.say, bar=bar, make=make_export)
    except KeyboardInterrupt:
        progress.say("interrupted: the same command goes on.")
        return 130
    progress.say(f"{report['hours']:.3f} hours in all; {args.output / 'report.json'} sums them up")
    print(args.output / report["model"])
    return 0
