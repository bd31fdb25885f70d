"""`miil21k export quantize`: an export in fewer bits, kept only when it answers as fp32 does."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.environment import require
from miil21k.errors import UsageError
from miil21k.runtime.registry import export_runtimes

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
    add(
        "--mode",
        choices=("auto", "static", "dynamic", "fp16"),
        default="auto",
        help="auto: static for convolutional networks, dynamic for transformers",
    )
    add(
        "--method",
        choices=("minmax", "entropy", "percentile"),
        default="minmax",
        help="how static finds the range of each activation (%(default)s)",
    )
    add("--symmetric", action="store_true", help="static with zero points of 0, for miil21k export tensorrt")
    add(
        "--weight-bits",
        type=int,
        choices=(7, 8),
        help="7 is exact on every processor (default: 8 where this one's 8-bit products are exact, else 7)",
    )
    add(
        "--min-agreement",
        type=float,
        default=0.97,
        metavar="P",
        help="least share of equal top-1, shown with 95 %% confidence (%(default)s)",
    )
    add(
        "--most-left-out",
        type=float,
        default=0.95,
        metavar="P",
        help="share of layers that may stay float (%(default)s)",
    )
    add(
        "--calibration-images",
        type=int,
        default=256,
        metavar="N",
        help="most that set it up, and that choose (%(default)s)",
    )
    add("--backend", choices=export_runtimes(), default="onnx", help="what agreement and speed are measured in")
    yes, no = "--require-faster", "--no-require-faster"
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument(yes, action="store_true", default=None, help="refuse what is not faster (default for INT8)")
    speed.add_argument(
        no, action="store_false", dest="require_faster", help="keep it and say so (default for fp16 and --symmetric)"
    )
    add("-q", "--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Quantise, judge, and print what was measured."""
    if args.output.exists() and not args.overwrite:
        raise UsageError(f"'{args.output}' exists: give --overwrite to replace it, or another name.")
    require("onnx", "export", "Quantising")
    from miil21k.export.onnx.file import photographs_in
    from miil21k.export.quantize.quantize import quantize_onnx
    from miil21k.export.quantize.search import QuantizeOptions

    names = (
        "mode",
        "method",
        "symmetric",
        "weight_bits",
        "min_agreement",
        "most_left_out",
        "calibration_images",
        "backend",
        "require_faster",
    )
    options = QuantizeOptions(**{name: getattr(args, name) for name in names})
    report = quantize_onnx(
        args.model,
        args.output,
        photographs_in(args.images, below=True),
        options,
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
