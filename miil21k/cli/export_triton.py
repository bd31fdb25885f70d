"""`miil21k export triton`: a model repository for the Triton Inference Server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miil21k.export.triton.config import TritonOptions

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
    add = served.add_argument
    add(
        "--max-batch-size",
        type=int,
        metavar="N",
        help="most images per call (32); 0: no batching by the server, and requests may set 'hedge' and 'crop'",
    )
    add("--preferred-batch-sizes", type=_numbers, metavar="N,N", help="sizes that are run as soon as they are full")
    add("--queue-delay", type=int, metavar="US", help="how long a request may wait for others, in microseconds (0)")
    add("--instances", type=int, metavar="N", help="copies side by side, per GPU where there are GPUs (1)")
    where = served.add_mutually_exclusive_group()
    where.add_argument("--cpu", dest="device", action="store_const", const="cpu", help="run on the CPU")
    where.add_argument("--gpu", dest="device", action="store_const", const="gpu", help="run on every GPU")
    where.add_argument(
        "--gpus", type=_numbers, metavar="N,N", help="run on these GPUs (default: GPUs if there are any)"
    )
    add("--threads", type=int, metavar="N", help="of each copy on a CPU (default: all cores)")
    add("--keep", type=_keep, metavar="N|all", help="how many of the latest versions are served (1)")
    add("--no-warmup", dest="warmup", action="store_false", default=None, help="ready before a first picture was run")


def run(args: argparse.Namespace) -> int:
    """Write the repository; prints where the new version lies."""
    from miil21k.export.triton.repository import export_triton

    served = export_triton(
        args.model,
        args.repository,
        _options(args),
        name=args.name,
        version=args.version,
        include_withdrawn=args.include_removed_labels,
        say=lambda s: print(s, file=sys.stderr),
    )
    print(f"{served.folder / str(served.version) / 'model.onnx'}  version {served.version} of '{served.name}'")
    print(f"  serve it: tritonserver --model-repository={args.repository}")
    print(f"  ask it:   python {served.folder / 'client.py'} cat.jpg --url localhost:8000")
    return 0


def _options(args: argparse.Namespace) -> TritonOptions | None:
    """Return what the user said about serving; None when he said nothing."""
    from miil21k.export.triton.config import TritonOptions

    names = ("max_batch_size", "preferred_batch_sizes", "queue_delay", "instances", "device", "gpus")
    said = {name: getattr(args, name) for name in (*names, "threads", "keep", "warmup")}
    if said["gpus"] is not None:
        said["device"] = "gpu"
    said = {name: value for name, value in said.items() if value is not None}
    return TritonOptions(**said) if said else None


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of numbers, as 8,16 is.") from None


def _keep(text: str) -> int | str:
    if text == "all" or text.isdecimal():
        return text if text == "all" else int(text)
    raise argparse.ArgumentTypeError(f"'{text}' is neither a number nor 'all'.")
