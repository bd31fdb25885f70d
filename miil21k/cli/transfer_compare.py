"""`miil21k transfer compare`: accuracy against latency, and the best model within a budget. The table on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.benchmark.options import BenchmarkOptions
from miil21k.cli.benchmark import HEADINGS, add_speed, speed_line, speed_of, speed_text
from miil21k.cli.options import add_loudness, add_options, value_of
from miil21k.cli.start import log_to_stderr, make_export
from miil21k.cli.train import Reports
from miil21k.cli.transfer import add_machine
from miil21k.runtime.options import LoadOptions
from miil21k.transfer.options import CompareOptions, TransferOptions

if TYPE_CHECKING:
    import argparse

HELP = "Compare models on your images: accuracy against latency here, and the best one within a budget of time."
_OWN = ("test", "holdout", "label_space", "split", "root", "epochs", "flip", "cut", "seed")
_CHOSEN = ("checkpoint", "revision", "backend", "dtype", "make_export")  # by --models, --runtimes and --dtypes


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add = parser.add_argument
    add("data", metavar="DATA", help="class folders or a list, to learn from and, without --test, to judge by")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the rows, the table and the picture")
    names = "names of the zoo or of timm, checkpoints, or NAME=FILE for weights of yours (default: embedded)"
    add("-m", "--models", nargs="+", default=["embedded"], metavar="NAME", help=names)
    add_options(parser, CompareOptions)
    add("--resume", action="store_true", help="measure only what DIR lacks")
    add_options(parser, TransferOptions, only=_OWN)
    speed = parser.add_argument_group("speed")
    add_speed(speed)
    add_options(speed, BenchmarkOptions)
    add_machine(parser, without=_CHOSEN)
    add_loudness(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb; 1 when a row failed or no model keeps the budget."""
    log_to_stderr(args)
    from miil21k.transfer.compare import PICTURE, compare_models

    settings = value_of(args, TransferOptions, data=args.data, method=None, budget=10.0)
    load = value_of(args, LoadOptions, label_space=None)
    speed = speed_of(args, load)
    options = value_of(args, CompareOptions, models=tuple(args.models), speed=speed, settings=settings)
    say = Reports(args.quiet).say
    found = compare_models(options, args.output, say=say, make=make_export, resume=args.resume)
    if sys.stdout.isatty():
        print(f"{'right':>7}  {speed_line(HEADINGS)}")
        for row in sorted(found["rows"], key=lambda row: (row["status"] != "ok", row["latency_ms"] or 0)):
            right = "-" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
            print(f"{right:>7}{'*' if row['front'] else ' '} {speed_text(row)}")
        print("* no faster one is right as often")
    else:
        for row in found["rows"]:
            print(json.dumps(row))
    say(_verdict(found))
    say(f"Picture: {args.output / PICTURE}")
    return int(found["best"] is None or any(row["status"] == "failed" for row in found["rows"]))


def _verdict(found: dict[str, Any]) -> str:
    budget, best = found["budget_ms"], found["best"]
    within = "" if budget is None else f" within {budget:g} ms"
    if best is None:
        taken = [row["latency_ms"] for row in found["rows"] if row["status"] == "ok"]
        return f"No model answers{within}" + (f"; the fastest takes {min(taken):.1f} ms" if taken else "")
    return (
        f"Best{within}: {best['model']} in {best['runtime']}, {best['dtype']}: {best['accuracy']:.1%} right "
        f"(95 % band {best['accuracy_low']:.1%} to {best['accuracy_high']:.1%}), {best['latency_ms']:.1f} ms an image"
    )
