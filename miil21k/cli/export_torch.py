"""`miil21k export torch`: one proved program that torch runs without timm and miil21k."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from miil21k.cli.export_onnx import licence_of, load_source, print_agreement, require_source, source_arguments

if TYPE_CHECKING:
    import argparse

__all__ = ["HELP", "configure", "run"]

HELP = "Write a network as a torch.export program, kept only when it computes what torch computes; --aot compiles it."


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k export torch`."""
    source_arguments(parser, ".pt2")
    parser.add_argument(
        "--aot", action="store_true", help="compile it for this machine's processor (minutes; needs a C++ compiler)"
    )


def run(args: argparse.Namespace) -> int:
    """Export, compile if asked to, and prove; prints what was measured."""
    require_source(args)
    from miil21k.export.onnx.file import photographs_in
    from miil21k.export.torch_program import export_program

    photos = photographs_in(args.images) if args.images else []
    loaded = load_source(args)
    report = export_program(
        loaded,
        args.output,
        aot=args.aot,
        licence=licence_of(loaded.name),
        photos=photos,
        say=lambda s: print(s, file=sys.stderr),
    )
    print(f"{args.output}  {report['bytes'] / 1e6:.1f} MB, {report['kind']}: pixels to logits and embedding")
    print_agreement(report)
    return 0
