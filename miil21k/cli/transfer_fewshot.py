"""`miil21k transfer fewshot`: accuracy over images per class, of models and methods. The table on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.cli.options import add_loudness, add_options, value_of, whole
from miil21k.cli.start import log_to_stderr, make_export
from miil21k.cli.train import Reports
from miil21k.cli.transfer import add_machine
from miil21k.transfer.options import TransferOptions

if TYPE_CHECKING:
    import argparse

HELP = "Measure models with k images of each class: several random subsets, their median and spread, a curve."
_OWN = ("test", "holdout", "label_space", "split", "root", "epochs", "rule_batch", "flip", "cut", "seed")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add = parser.add_argument
    add("data", metavar="DATA", help="class folders or a list, to draw from and, without --test, to judge by")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the runs, the table and the curve")
    add("-m", "--models", nargs="+", default=["embedded"], metavar="NAME", help="or NAME=FILE (default: embedded)")
    methods = "logistic, ridge, knn, finetune or hyperrule (default: logistic)"
    add("--methods", nargs="+", default=["logistic"], metavar="NAME", help=methods)
    add(
        "--shots", nargs="+", type=whole(1), default=[1, 5, 10, 25], metavar="K", help="images of each class: 1 5 10 25"
    )
    add("--seeds", type=whole(1), default=5, metavar="N", help="random subsets of each size (default: %(default)s)")
    add("--resume", action="store_true", help="do not repeat the runs that DIR holds")
    add_options(parser, TransferOptions, only=_OWN)
    add_machine(parser, without=("checkpoint", "revision"))
    add_loudness(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb; 1 when a run failed."""
    log_to_stderr(args)
    from miil21k.transfer.fewshot import FewShotOptions, few_shot

    settings = value_of(args, TransferOptions, data=args.data)
    options = FewShotOptions(tuple(args.models), tuple(args.methods), tuple(args.shots), args.seeds, settings)
    say = Reports(args.quiet).say
    rows = few_shot(options, args.output, say=say, make=make_export, resume=args.resume)
    if sys.stdout.isatty():
        for row in rows:
            spread = f"{row['lowest']:6.1%} to {row['highest']:6.1%}"
            print(f"{row['model']:24} {row['method']:10} {row['shots']:4}  {row['median']:6.1%}  ({spread})")
    else:
        for row in rows:
            print(json.dumps(row))
    return 1 if any(row["failed"] for row in rows) else 0
