"""`miil21k export VERB`: each verb is a module of this room, `export_<verb>`, with HELP, configure and run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miil21k.cli import export_onnx, export_quantize, export_tensorrt, export_torch, export_triton, export_web

if TYPE_CHECKING:
    import argparse

__all__ = ["HELP", "configure", "run"]

HELP = "Write a model as one file that runs without this package, and prove it against torch."
VERBS = {
    "onnx": export_onnx,
    "quantize": export_quantize,
    "tensorrt": export_tensorrt,
    "torch": export_torch,
    "triton": export_triton,
    "web": export_web,
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs of `miil21k export` and their options."""
    verbs = parser.add_subparsers(dest="export_verb", metavar="VERB", required=True)
    for name, module in VERBS.items():
        module.configure(verbs.add_parser(name, help=module.HELP, description=module.HELP))


def run(args: argparse.Namespace) -> int:
    """Run the verb that was asked for; returns the exit code."""
    code: int = VERBS[args.export_verb].run(args)
    return code
