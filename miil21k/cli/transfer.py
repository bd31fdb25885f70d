"""`miil21k transfer`: from images of one's own to a model of their classes. The report's path on stdout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.cli.options import add_loudness, add_options, names_of, value_of
from miil21k.cli.start import log_to_stderr, make_export
from miil21k.cli.train import Reports
from miil21k.cli.validate import show_progress
from miil21k.data.options import ReadingOptions
from miil21k.runtime.options import ComputeOptions, ModelOptions
from miil21k.transfer.options import TransferOptions

if TYPE_CHECKING:
    import argparse

HELP = "Learn classes of your own from images, by the best way. See also transfer compare, fewshot, grid and suite."
_OWN = (
    "method",
    "test",
    "holdout",
    "label_space",
    "split",
    "root",
    "budget",
    "epochs",
    "trials",
    "rule_batch",
    "flip",
    "cut",
    "seed",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add = parser.add_argument
    add("data", metavar="DATA", help="class folders of any names (DATA/<class>/<image>), or a CSV or Parquet list")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the model and its report")
    add_base(parser)
    add("--resume", action="store_true", help="go on where DIR holds a transfer that was interrupted")
    add("--overwrite", action="store_true", help="start anew where DIR holds a transfer already")
    add_options(parser, TransferOptions, only=_OWN)
    add_machine(parser)
    add_loudness(parser)


def add_base(parser: argparse.ArgumentParser) -> None:
    """Declare the pretrained network."""
    parser.add_argument(
        "-m",
        "--model",
        default="embedded",
        metavar="NAME",
        help="pretrained weights: a name of the zoo or of timm, or a checkpoint (default: %(default)s)",
    )


def add_machine(parser: argparse.ArgumentParser, *, without: tuple[str, ...] = ()) -> None:
    """Declare which weights, how images are read, and what computes."""
    own = {"label_space", "head", *without}
    only = [name for name in names_of(ModelOptions) if name not in own]
    add_options(parser.add_argument_group("model"), TransferOptions, only=only)
    add_options(parser.add_argument_group("images"), TransferOptions, only=names_of(ReadingOptions))
    add_options(parser.add_argument_group("machine"), TransferOptions, only=names_of(ComputeOptions))


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    log_to_stderr(args)
    from miil21k.transfer.run import PAGE, Voices, transfer

    options = value_of(args, TransferOptions, data=args.data, output=args.output, model=args.model)
    reports = Reports(args.quiet)
    voices = Voices(reports.say, reports, None if args.quiet else show_progress)
    transfer(options, voices, make=make_export, resume=args.resume, overwrite=args.overwrite)
    print(args.output / PAGE)
    sys.stdout.flush()
    return 0
