"""`miil21k export tensorrt`: a proved engine, or the line that builds it elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.cli.options import add_options, value_of
from miil21k.environment import require
from miil21k.errors import UsageError
from miil21k.export.options import EngineOptions

if TYPE_CHECKING:
    import argparse

__all__ = ["HELP", "configure", "run"]

HELP = "Build a TensorRT engine of an export of the form tensor, kept only when it computes what ONNX Runtime does."


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k export tensorrt`."""
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.onnx", help="of miil21k export onnx --form tensor; its types are kept")
    add("-o", "--output", type=Path, required=True, metavar="FILE.engine", help="a report goes beside it, with .json")
    add("--overwrite", action="store_true", help="replace FILE.engine")
    add("--command", action="store_true", help="print the line for trtexec instead of building")
    add_options(parser, EngineOptions)
    add("--bound", type=float, metavar="X", help="how far logits may be from ONNX Runtime's, relative to their range")
    add("--images", type=Path, metavar="DIR", help="prove it on these pictures too")


def run(args: argparse.Namespace) -> int:
    """Build and prove, or print the command."""
    if args.output.exists() and not (args.overwrite or args.command):
        raise UsageError(f"'{args.output}' exists: give --overwrite to replace it, or another name.")
    require("onnx", "export", "Reading the graph")
    from miil21k.export.onnx.file import own_photographs, photographs_in
    from miil21k.export.tensorrt.file import export_tensorrt, plan_command

    options = value_of(args, EngineOptions)
    if args.command:
        print(plan_command(args.model, args.output, options))
        return 0
    photos = [*own_photographs(), *(photographs_in(args.images) if args.images else ())]
    report = export_tensorrt(
        args.model, args.output, options, bound=args.bound, photos=photos, say=lambda s: print(s, file=sys.stderr)
    )
    proof, engine = report["proof"], report["engine"]
    rows = [row for row in proof["rows"] if row["images"] == "photographs"]
    total = sum(row["batch"] for row in rows)
    print(f"{args.output}  {report['bytes'] / 1e6:.1f} MB, {report['precision']}, batches of {report['batch']}")
    print(f"  TensorRT {engine['tensorrt']} on {engine['gpu']} (compute capability {engine['compute_capability']})")
    print(
        f"  logits within {proof['logits']:.1e} of ONNX Runtime's, relative to their range (bound {proof['bound']:g})"
    )
    for key, words in (("same_top1", "best class"), ("same_path", "path")):
        print(f"  the same {words} on {sum(row[key] for row in rows)} of {total} photographs")
    return 0
