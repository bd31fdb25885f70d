"""`miil21k benchmark`: speed and memory of models here. A table on a terminal, JSON lines in a pipe."""

from __future__ import annotations

import csv
import json
import sys
from typing import TYPE_CHECKING, Any

from miil21k.benchmark.options import DTYPES, BenchmarkOptions
from miil21k.cli.options import add_loudness, add_options, value_of
from miil21k.cli.start import log_to_stderr, make_export
from miil21k.cli.train import Reports
from miil21k.runtime.options import LoadOptions
from miil21k.runtime.registry import RUNTIMES
from miil21k.text import printable

if TYPE_CHECKING:
    import argparse

    from miil21k.cli.options import Parser

HELP = "Measure models here: latency, images per second, training, memory, the largest batch."
_LOAD = ("device", "threads", "img_size", "cache_dir", "offline")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="a model as -m of predict takes it, or NAME=FILE for your weights")
    add("-f", "--format", choices=("table", "json", "csv"), help="default: table on a terminal, else JSON lines")
    add_options(parser, BenchmarkOptions)
    add_speed(parser)
    add_options(parser.add_argument_group("machine"), LoadOptions, only=_LOAD)
    add_loudness(parser)


def add_speed(parser: Parser) -> None:
    """Declare in which runtimes and precisions models are measured."""
    add = parser.add_argument
    add(
        "--runtimes", nargs="+", choices=tuple(RUNTIMES), default=None, metavar="NAME", help=f"of {', '.join(RUNTIMES)}"
    )
    add("--dtypes", nargs="+", choices=DTYPES, default=["fp32"], metavar="NAME", help="fp32, fp16, bf16: default fp32")


def speed_of(args: argparse.Namespace, load: LoadOptions) -> BenchmarkOptions:
    """Return what is measured."""
    runtimes = None if args.runtimes is None else tuple(args.runtimes)
    return value_of(args, BenchmarkOptions, runtimes=runtimes, dtypes=tuple(args.dtypes), load=load)


def run(args: argparse.Namespace) -> int:
    """Run the verb; 1 when a row failed."""
    log_to_stderr(args)
    from miil21k.benchmark.contestants import read_contestants
    from miil21k.benchmark.run import FIELDS, benchmark

    options = speed_of(args, value_of(args, LoadOptions))
    shown = args.format or ("table" if sys.stdout.isatty() else "json")
    failed = False
    writer = csv.DictWriter(sys.stdout, tuple(FIELDS), lineterminator="\n")
    if shown == "csv":
        writer.writeheader()
    elif shown == "table":
        print(speed_line(HEADINGS))
    rows = benchmark(read_contestants(args.models), options, make=make_export, say=Reports(args.quiet).say)
    for row in rows:
        failed |= row["status"] == "failed"
        if shown == "csv":
            writer.writerow(row)
        elif shown == "json":
            print(json.dumps(row))
        else:
            print(speed_text(row))
        sys.stdout.flush()
    return int(failed)


_WIDTHS = (30, 9, 5, 6, 5, 9, 9, 10, 8, 9, 8, 9)
HEADINGS = (
    "model", "runtime", "dtype", "device", "px", "ms", "p95", "images/s", "largest", "train/s", "largest", "MiB"
)  # fmt: skip


def speed_line(cells: tuple[str, ...]) -> str:
    """Return cells in columns, the first three of them to the left."""
    pairs = enumerate(zip(cells, _WIDTHS, strict=True))
    return " ".join(cell[:wide].ljust(wide) if at < 3 else cell.rjust(wide) for at, (cell, wide) in pairs)


def speed_text(row: dict[str, Any]) -> str:
    """Return a row of the table; a largest batch ends in + where no larger one was tried."""
    names = [printable(str(row[name])) for name in ("model", "runtime", "dtype")]
    if row["status"] != "ok":
        return f"{speed_line((*names, *[''] * 9)).rstrip()}  {row['status']}: {printable(row['reason'])}"
    figures = (
        str(row["device"]),
        str(row["input_size"]),
        _number(row["latency_ms"], 2),
        _number(row["latency_p95_ms"], 2),
        _number(row["images_per_second"], 1),
        _largest(row, "largest_batch"),
        _number(row["training_images_per_second"], 1),
        _largest(row, "largest_training_batch"),
        _number(row["batch_memory_mib"] or row["memory_mib"], 0),
    )
    return speed_line((*names, *figures)) + (f"  {printable(row['reason'])}" if row["reason"] else "")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _largest(row: dict[str, Any], field: str) -> str:
    return "-" if row[field] is None else f"{row[field]:,}{'+' if row[f'{field}_bound'] == 'option' else ''}"
