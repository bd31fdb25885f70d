"""`miil21k export triton`: a model repository for the Triton Inference Server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.cli.options import add_options, given
from miil21k.export.options import TritonOptions

if TYPE_CHECKING:
    import argparse

__all__ = ["HELP", "configure", "run"]

HELP = "Put an export into a model repository of the Triton Inference Server, as a new model or a new version."


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k export triton`."""
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.onnx", help="what miil21k export onnx wrote, of either form")
    add("repository", type=Path, metavar="DIR", help="the model repository; made when it is not there")
    add("--name", help="of the model in Triton (default: that of the file)")
    add("--version", type=int, metavar="N", help="number of the version (default: the next one)")
    add(
        "--include-removed-labels",
        action="store_true",
        help="form tensor: name the classes that ImageNet withdrew, too",
    )
    served = parser.add_argument_group("config.pbtxt", "for a new model; an existing file is never changed")
    add_options(served, TritonOptions)


def run(args: argparse.Namespace) -> int:
    """Write the repository; prints where the new version lies."""
    from miil21k.export.triton.repository import export_triton

    said = given(args, TritonOptions)
    served = export_triton(
        args.model,
        args.repository,
        TritonOptions(**said) if said else None,
        name=args.name,
        version=args.version,
        include_withdrawn=args.include_removed_labels,
        say=lambda s: print(s, file=sys.stderr),
    )
    print(f"{served.folder / str(served.version) / 'model.onnx'}  version {served.version} of '{served.name}'")
    print(f"  serve it: tritonserver --model-repository={args.repository}")
    print(f"  ask it:   python {served.folder / 'client.py'} cat.jpg --url localhost:8000")
    return 0
