"""`miil21k export quantize`: an export in fewer bits, kept only when it answers as fp32 does."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.cli.options import add_options, value_of
from miil21k.environment import require
from miil21k.errors import UsageError
from miil21k.export.options import QuantizeOptions

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from typing import Any

__all__ = ["HELP", "configure", "run"]

HELP = "Quantise an export to INT8 or fp16, kept only when it answers as fp32 does on your pictures."
_SHARES = (("top-1", "top1"), ("path", "path"), ("hedged node", "hedged"))


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k export quantize`."""
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="what miil21k export onnx wrote")
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, metavar="FILE.onnx", help="a report goes beside it, FILE.onnx.json")
    add("--overwrite", action="store_true", help="replace FILE.onnx")
    add(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="pictures that set it up and choose layers, subfolders too",
    )
    add("--eval", type=Path, metavar="DIR", help="other pictures that judge it (default: every second of --images)")
    add_options(parser, QuantizeOptions)
    add("-q", "--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Quantise, judge, and print what was measured."""
    if args.output.exists() and not args.overwrite:
        raise UsageError(f"'{args.output}' exists: give --overwrite to replace it, or another name.")
    require("onnx", "export", "Quantising")
    from miil21k.export.onnx.file import photographs_in
    from miil21k.export.quantize.quantize import quantize_onnx

    report = quantize_onnx(
        args.model,
        args.output,
        photographs_in(args.images, below=True),
        value_of(args, QuantizeOptions),
        judges=photographs_in(args.eval, below=True) if args.eval else (),
        say=lambda line: None if args.quiet else print(line, file=sys.stderr),
        progress=_silent if args.quiet else _bar,
    )
    _print(args.output, report)
    return 0


@contextmanager
def _silent(_what: str, _total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm

    with tqdm(total=total, desc=what, file=sys.stderr, dynamic_ncols=True, disable=not sys.stderr.isatty()) as bar:
        yield bar.update


def _print(output: Path, report: dict[str, Any]) -> None:
    from miil21k.export.quantize.agreement import FASTER

    how, agreement = report["quantization"], report["quantization"]["agreement"]
    size, before = report["bytes"] / 1e6, report["bytes_fp32"] / 1e6
    kind = " ".join(dict.fromkeys((how["mode"], report["precision"])))  # `static int8`, but `fp16`
    print(f"{output}  {size:.1f} MB of {before:.1f}, {kind}")
    if how["layers"]:
        print(f"  layers left in float: {len(how['left_out'])} of {how['layers']}")
    print(f"  on {agreement['images']} pictures that neither set it up nor chose it, against fp32 in {how['backend']}:")
    shown = f"at least {how['shown_agreement']:.1%} of such pictures keep their best class (95 % confidence)"
    same = ", ".join(f"{name} {agreement[key]:.1%}" for name, key in _SHARES)
    print(f"    equal {same}: {shown}")
    apart = f"{agreement['logits']:g}, {agreement['logits_relative']:.1%} of their range"
    print(f"    largest difference of a logit {apart}")
    if "asked" in agreement:
        print(f"    largest difference of a probability that was asked for {agreement['asked']:g}")
    ratios = ", ".join(f"{ratio:.2f} ({batch})" for batch, ratio in how["times_faster"].items())
    slower = min(how["times_faster"].values()) < FASTER
    print(f"    times as fast as fp32 here: {ratios}{'; NOT faster' if slower else ''}")
