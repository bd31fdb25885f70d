"""`miil21k transfer suite`: a suite of data sets, 1,000 images of each. The rows and means on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.cli.options import add_loudness, add_options, value_of
from miil21k.cli.start import log_to_stderr, make_export
from miil21k.cli.train import Reports
from miil21k.cli.transfer import add_machine
from miil21k.text import printable
from miil21k.transfer.options import SUITE_METHODS, SuiteOptions, TransferOptions

if TYPE_CHECKING:
    import argparse

HELP = "Measure models on a suite of data sets that a file names, in the manner of VTAB-1k: 1,000 images of each."
_OWN = ("holdout", "epochs", "trials", "seed")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="TOML, JSON or CSV: name, data, group, ... of each data set")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the rows and the means")
    names = "names of the zoo or of timm, checkpoints, or NAME=FILE for weights of yours (default: embedded)"
    add("-m", "--models", nargs="+", default=["embedded"], metavar="NAME", help=names)
    methods = f"of {', '.join(SUITE_METHODS)}; several are compared on the validation images (default: logistic)"
    add("--methods", nargs="+", choices=SUITE_METHODS, default=["logistic"], metavar="NAME", help=methods)
    add_options(parser, SuiteOptions)
    add("--resume", action="store_true", help="do only what DIR lacks")
    add_options(parser, TransferOptions, only=_OWN)
    add_machine(parser, without=("checkpoint", "revision"))
    add_loudness(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb; 1 when a row failed."""
    log_to_stderr(args)
    from miil21k.transfer.suite import read_suite, run_suite

    settings = value_of(args, TransferOptions)
    options = value_of(args, SuiteOptions, models=tuple(args.models), methods=tuple(args.methods), settings=settings)
    say = Reports(args.quiet).say
    found = run_suite(read_suite(args.file), options, args.output, say=say, make=make_export, resume=args.resume)
    if sys.stdout.isatty():
        for row in found["rows"]:
            right = "failed" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
            said = row["reason"] if row["accuracy"] is None else row["method"]
            print(printable(f"{row['dataset']:24} {row['group']:14} {row['model']:28} {right:>7}  {said}"))
        for mean in found["means"]:
            right = "-" if mean["accuracy"] is None else f"{mean['accuracy']:.1%}"
            counted = f"{mean['datasets']} data sets" + (f", {mean['failed']} failed" if mean["failed"] else "")
            print(printable(f"{'mean':24} {mean['group']:14} {mean['model']:28} {right:>7}  {counted}"))
    else:
        for row in (*found["rows"], *found["means"]):
            print(json.dumps(row))
    return int(any(row["status"] != "ok" for row in found["rows"]))
