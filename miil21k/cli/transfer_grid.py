"""`miil21k transfer grid`: fine-tuning over optimizer, learning rate and weight decay. The table on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.cli.options import add_loudness, add_options, value_of
from miil21k.cli.start import log_to_stderr, make_export
from miil21k.cli.train import Reports
from miil21k.cli.transfer import add_machine
from miil21k.text import printable
from miil21k.transfer.options import GridOptions, TransferOptions

if TYPE_CHECKING:
    import argparse

HELP = "Fine-tune over a grid of optimizer, learning rate and weight decay: how far do weights fall from their best?"
_OWN = ("test", "holdout", "label_space", "split", "root", "epochs", "flip", "cut", "seed")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add = parser.add_argument
    add("data", metavar="DATA", help="class folders or a list, to learn from and, without --test, to judge by")
    add(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the rows, the table and the heat map"
    )
    names = "as for compare; 'random' draws weights for the first one, NAME=random for another (default: embedded)"
    add("-m", "--models", nargs="+", default=["embedded"], metavar="NAME", help=names)
    usual = GridOptions()
    add("--optimizers", nargs="+", default=list(usual.optimizers), metavar="NAME", help=_usual(usual.optimizers))
    add("--lrs", nargs="+", type=float, default=list(usual.lrs), metavar="X", help=_usual(usual.lrs))
    decays = usual.weight_decays
    add("--weight-decays", nargs="+", type=float, default=list(decays), metavar="X", help=_usual(decays))
    add("--resume", action="store_true", help="do only the points that DIR lacks")
    add_options(parser, TransferOptions, only=_OWN, meanings={"epochs": "of every point (default: 10)"})
    add_machine(parser, without=("checkpoint", "revision"))
    add_loudness(parser)


def _usual(values: tuple[Any, ...]) -> str:
    return f"default: {' '.join(f'{value}' for value in values)}"


def run(args: argparse.Namespace) -> int:
    """Run the verb; 1 when a point failed, which diverging is not."""
    log_to_stderr(args)
    from miil21k.transfer.grid import PICTURE, run_grid

    settings = value_of(args, TransferOptions, data=args.data)
    options = GridOptions(
        tuple(args.models), tuple(args.optimizers), tuple(args.lrs), tuple(args.weight_decays), settings
    )
    reports = Reports(args.quiet)
    found = run_grid(options, args.output, say=reports.say, report=reports, make=make_export, resume=args.resume)
    if sys.stdout.isatty():
        for row in found["rows"]:
            right = row["status"] if row["accuracy"] is None else f"{row['accuracy']:.1%}"
            point = f"{row['optimizer']:8} {row['lr']:8g} {row['weight_decay']:8g}"
            print(printable(f"{row['model']:28} {point} {right:>8}"))
        for one in found["models"]:
            print(printable(f"{one['model']:28} {_words(one)}"))
    else:
        for row in (*found["rows"], *found["models"]):
            print(json.dumps(row))
    reports.say(f"Heat map: {args.output / PICTURE}")
    return int(any(row["status"] == "failed" for row in found["rows"]))


def _words(one: dict[str, Any]) -> str:
    if one["best"] is None:
        return "no point came to an end"
    point = one["point"]
    best = f"best {one['best']:.1%} ({point['optimizer']}, {point['lr']:g}, {point['weight_decay']:g})"
    return (
        f"{best}; falls by {100 * one['median_fall']:.1f} points in the median, {100 * one['worst_fall']:.1f} at worst"
    )
