"""`miil21k validate`: every metric of a model on labelled images. Metrics on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.cli.options import add_model_name, add_options, names_of, opened_calibration, value_of
from miil21k.cli.start import log_to_stderr, make_export
from miil21k.data.options import ReadingOptions, SourceOptions
from miil21k.predict.options import AnswerOptions
from miil21k.runtime.options import ComputeOptions, ModelOptions
from miil21k.validate.options import MeasureOptions

if TYPE_CHECKING:
    import argparse

    from miil21k.validate.run import MeasureRequest

DATA = (
    "class folders (DATA/<wnid>/<image>), tar shards (folder or glob), a list (CSV, TSV, Parquet), or timm's "
    "wds/SHARDS, hfds/FOLDER, torch/SET/FOLDER and tfds/NAME"
)
HELP = "Measure a model on labelled images: flat, semantic, hierarchical and calibration metrics, with provenance."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add = parser.add_argument
    add_images(parser)
    add(
        "--view", choices=["in1k"], help="the images are ImageNet-1K's: score the head on the classes it shares with it"
    )
    add(
        "--classes-present",
        action="store_true",
        help="answer with the classes that have images here alone, as for ImageNet-A and ImageNet-R",
    )
    add(
        "--class-map",
        metavar="FILE",
        help="CSV of class,label: the images are labelled with other words, and many classes may mean one (ObjectNet)",
    )
    add_options(
        parser,
        AnswerOptions,
        only=("hedge", "reading", "min_bits", "bins", "rule", "calibration"),
        without=("--no-hedge",),
    )
    add("-o", "--output", type=Path, metavar="DIR", help="write JSON, CSV tables and pictures there")
    add("-f", "--format", choices=["table", "json"], help="what stdout gets (default: table on a terminal, else json)")
    add_measuring(parser)
    add("-q", "--quiet", action="store_true", help="no progress and no notes on stderr")


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add what is measured."""
    parser.add_argument("data", metavar="DATA", help=DATA)
    add_options(parser, SourceOptions)


def add_measuring(parser: argparse.ArgumentParser) -> None:
    """Add which network is measured, what computes it and how images are read."""
    group = parser.add_argument_group("model")
    add_model_name(group, required=True)
    space = "the label space of the images, a name or a file (default: the head's)"
    add_options(group, ModelOptions, meanings={"label_space": space})
    add_options(parser.add_argument_group("images"), MeasureOptions, only=names_of(ReadingOptions))
    add_options(parser.add_argument_group("machine"), MeasureOptions, only=names_of(ComputeOptions))


def run(args: argparse.Namespace) -> int:
    """Run the verb; 1 when an image could not be read."""
    log_to_stderr(args)
    answer = value_of(args, AnswerOptions)
    assert answer.hedge is not None
    from miil21k.validate.report import plain, write_report
    from miil21k.validate.run import validate_model

    found = validate_model(
        request_of(args),
        hedge=answer.hedge,
        rule=answer.rule,
        reading=answer.reading,
        min_bits=answer.min_bits,
        calibration=opened_calibration(args),
        progress=None if args.quiet else show_progress,
    )
    if args.output is not None:
        written = write_report(args.output, found.report, found.card)
        if not args.quiet:
            print(f"{args.output}: {', '.join(written)}", file=sys.stderr)
            if "operating_curve.csv" in written and "reliability.png" not in written:
                print("No pictures: they need matplotlib (pip install 'miil21k[plots]').", file=sys.stderr)
    if not args.quiet:
        for note in found.notes:
            print(note, file=sys.stderr)
    if (args.format or ("table" if sys.stdout.isatty() else "json")) == "json":
        print(json.dumps(plain(found.report), ensure_ascii=False))
    else:
        _print_table(found.report)
    return 1 if found.report["images"]["unreadable"] else 0


def request_of(args: argparse.Namespace) -> MeasureRequest:
    """Return the request that the arguments make; `calibrate` shares it."""
    from miil21k.store.cache import Cache
    from miil21k.validate.run import MeasureRequest

    options = value_of(args, MeasureOptions)
    shards = Cache.at(options.cache_dir).root / "shards"
    view = getattr(args, "view", None)
    source = value_of(args, SourceOptions)
    bins = getattr(args, "bins", None)
    return MeasureRequest(
        args.data,
        args.model,
        options,
        view,
        source,
        make_export,
        shards,
        bins,
        getattr(args, "classes_present", False),
        getattr(args, "class_map", None),
    )


def show_progress(done: int, total: int) -> None:
    """Show how many images are done on stderr, on one line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r{done:,} of {total:,} images", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _print_table(report: dict[str, Any]) -> None:
    view, images = report["view"], report["images"]
    name = report["model"]["name"]
    print(f"{name} on {images['scored']:,} images, {view['classes']:,} classes of {view['label_space']}")
    for group, metrics in report["metrics"].items():
        print(group)
        for name, value in metrics.items():
            shown = f"{value:8.4f}" if math.isfinite(value) else f"{'-':>8}"  # nothing was counted
            print(f"  {name:<28}{shown}{_REMARKS.get((group, name), '')}")


_REMARKS = {("hedged", "correct"): "  (no answer counts as correct)"}
