"""`miil21k predict` and `miil21k-predict`: images in, one row per image out. Options only."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, get_args

from miil21k.cli.options import add_options
from miil21k.cli.start import starting
from miil21k.data.options import DECODES
from miil21k.data.resizers import RESIZERS
from miil21k.predict.options import AnswerOptions
from miil21k.runtime.base import BACKENDS
from miil21k.writers.formats import FORMATS
from miil21k.writers.labels import LABEL_TYPES
from miil21k.zoo.schema import HeadKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Group: TypeAlias = argparse._ArgumentGroup

__all__ = [
    "HELP",
    "add_answer",
    "add_computation",
    "add_loudness",
    "add_model",
    "add_reading",
    "configure",
    "fraction",
    "run",
    "whole",
]

HELP = "Name what is in images, as a path through the tree that stops where the model is no longer sure."
_EXAMPLES = """examples:
  miil21k-predict cat.jpg                              one picture, as a table
  miil21k-predict photos/ -r -o rows.csv               a folder and all below it, into a file
  miil21k-predict photos/ -r -o rows.csv --resume      go on after a kill: the same file, byte for byte
  miil21k-predict '**/*.png' --hedge 0.95 | jq .path   surer answers, JSON lines into a pipe
  miil21k-predict @list.txt --under n02084071          dogs only
  miil21k-predict 'shards/a-{000..099}.tar' --engine ray --address auto -o rows.parquet
  curl -s https://example.org/cat.jpg | miil21k-predict -

exit code: 0 all good, 1 some inputs failed, 2 usage, 130 interrupted. Rows go to standard output or --output,
everything else to standard error. Row schema: docs/predict.md.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k predict`."""
    parser.usage = "%(prog)s [options] INPUT ..."
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="file, folder, quoted glob, .tar shard, index.json of shards, http(s) URL, '-' (one image on stdin), "
        "'@list.txt' or '@-' (one per line)",
    )
    _inputs(parser)
    model = parser.add_argument_group("model")
    add_model(model)
    model.add_argument(
        "--list-models", nargs="?", const="*", metavar="GLOB", help="print the names of the models and stop"
    )
    add_answer(parser)
    _output(parser)
    _machine(parser)
    _messages(parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def _inputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("inputs")
    group.add_argument("--source", action="append", default=[], metavar="INPUT", help="the same as INPUT, repeatable")
    group.add_argument("-r", "--recursive", action="store_true", help="also the subfolders of a folder")
    add_reading(group)


def add_reading(group: Group) -> None:
    """Declare how images are read; `miil21k serve` shares this."""
    group.add_argument("--no-exif", action="store_true", help="leave the orientation that the camera stored unapplied")
    group.add_argument("--max-pixels", type=whole(1), metavar="N", help="refuse larger images (default: 178,956,970)")


def add_model(group: Group) -> None:
    """Declare which network answers; `miil21k serve` shares this."""
    group.add_argument(
        "-m",
        "--model",
        metavar="NAME",
        help="default: tresnet_m_21k, else embedded; an .onnx file of miil21k export; a .safetensors file of miil21k "
        "train; an architecture of timm with --checkpoint and --label-space",
    )
    group.add_argument("--checkpoint", "--weights", metavar="FILE", help="load this file into the model")
    group.add_argument(
        "--label-space", metavar="SPACE", help="answer in this space (winter21: exact from fall11), a name or a file"
    )
    group.add_argument(
        "--head", choices=get_args(HeadKind), help="what an architecture's logits mean (default: leaf_softmax)"
    )
    group.add_argument("--revision", help="branch, tag or commit of the Hub repository")
    group.add_argument("--cache-dir", metavar="DIR", help="where checkpoints are kept (default: the Hub's cache)")
    group.add_argument("--offline", action="store_true", default=None, help="no connection at all, URL inputs included")
    group.add_argument("--img-size", "--imgsz", type=whole(1), metavar="PX", help="input edge of the network")
    group.add_argument("--crop-pct", type=fraction, metavar="F", help="part of the resized image that is kept")
    group.add_argument("--crop-mode", choices=("center", "squash"), help="cut the middle, or change the aspect ratio")
    group.add_argument("--interpolation", choices=("bilinear", "bicubic"), help="how images are resized")
    group.add_argument(
        "--resizer",
        choices=RESIZERS,
        help="what resizes: cykooz is faster where bilinear, within a grey level of pillow",
    )
    group.add_argument(
        "--decode", choices=DECODES, help="full: every pixel of large JPEGs; reduced (default): several times as fast"
    )


def add_answer(parser: argparse.ArgumentParser) -> None:
    """Declare what is answered; `miil21k serve` shares this."""
    group = parser.add_argument_group("answer")
    group.add_argument("-k", "--topk", "--top-k", "--k", type=whole(1), default=5, metavar="N", help="default: 5")
    group.add_argument("--threshold", "--conf", type=fraction, default=0.0, metavar="P", help="least topk probability")
    sureness = group.add_mutually_exclusive_group()
    sureness.add_argument(
        "--hedge", type=fraction, default=0.9, metavar="P", help="stop the path where it is less sure (default: 0.9)"
    )
    group.add_argument(
        "--calibration", metavar="FILE", help="of miil21k calibrate: --hedge becomes the share of correct answers"
    )
    sureness.add_argument("--no-hedge", action="store_true", help="follow the path down to a leaf, sure or not")
    group.add_argument("--level", type=whole(0), metavar="N", help="cut the path at depth N (0: roots)")
    group.add_argument(
        "--levels", action="store_true", help="add one label per level, kept if p > 0.5 (published rule)"
    )
    group.add_argument(
        "--under", action="append", metavar="WNID", help="only classes at or below it (or its name), repeatable"
    )
    group.add_argument(
        "--classes", metavar="LIST", help="only these: wnids or names, comma-separated, or a file of wnids"
    )
    group.add_argument("--exclude", metavar="LIST", help="all but these and what lies below them, named likewise")
    add_options(group, AnswerOptions, only=("rule",))
    group.add_argument("--include-removed-labels", action="store_true", help="also the classes that ImageNet withdrew")
    group.add_argument("--label-type", choices=LABEL_TYPES, help="add a label to every node, and show it in tables")


def _output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", default="-", metavar="FILE", help="default: standard output")
    group.add_argument(
        "-f", "--format", choices=FORMATS, help="default: by FILE's extension; table on a terminal, jsonl in a pipe"
    )
    again = group.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with FILE after an interruption")
    again.add_argument("--append", action="store_true", help="add rows to FILE")
    again.add_argument("--overwrite", action="store_true", help="replace FILE")
    group.add_argument(
        "--on-error",
        choices=("row", "skip", "fail"),
        default="row",
        help="an input that fails gets a row (default), gets none, or ends the run",
    )
    group.add_argument("--embeddings", metavar="FILE.npy", help="the network's pre-logits, float32, one row per row")
    group.add_argument("--save-plots", metavar="DIR", help="one picture per image: the image beside its path")
    group.add_argument("--log", metavar="FILE.json", help="what was run: versions, model, device, counts, times")


def _machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("machine")
    add_computation(group)
    group.add_argument(
        "-b", "--batch-size", "--batch", type=whole(1), metavar="N", help="default: 16 on a CPU, else 64"
    )
    group.add_argument(
        "--engine", choices=("local", "ray"), help="let processes, or the nodes of a cluster, do the work"
    )
    group.add_argument("--address", metavar="HOST:PORT", help="of the Ray cluster, or auto (default: one started here)")
    group.add_argument(
        "-j",
        "--workers",
        type=whole(0),
        metavar="N",
        help="threads that read images (0: none); with --engine local: processes, with ray: jobs that are queued",
    )


def add_computation(group: Group) -> None:
    """Declare what computes; `miil21k serve` shares this."""
    group.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="what computes: torch, or onnx or openvino for an .onnx file (default: auto, the fastest that can)",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    group.add_argument(
        "--dtype",
        choices=("fp32", "fp16", "bf16"),
        default="fp32",
        help="precision (default: fp32); fp16 in torch, bf16 in torch or with --backend openvino",
    )
    group.add_argument("--half", dest="dtype", action="store_const", const="fp16", help="the same as --dtype fp16")


def _messages(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("messages")
    add_loudness(group)
    group.add_argument("--no-progress", action="store_true", help="no progress bar (never shown outside a terminal)")


def add_loudness(group: Group) -> None:
    """Declare how much is said on standard error; `miil21k serve` shares this."""
    loudness = group.add_mutually_exclusive_group()
    loudness.add_argument("-q", "--quiet", action="store_true", help="errors only")
    loudness.add_argument(
        "-v", "--verbose", action="store_true", help="also batches, threads, preprocessing, and why this backend"
    )


def whole(least: int) -> Callable[[str], int]:
    """Return the type of an option that is a whole number of at least `least`."""

    def number(text: str) -> int:
        value = int(text.replace(",", "").replace("_", ""))
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
        return value

    return number


def fraction(text: str) -> float:
    """Return the value of an option between 0 and 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, not {text}")
    return value


fraction.__name__ = "number"


def run(args: argparse.Namespace) -> int:
    """Predict every input; returns 0, or 1 when some failed."""
    if args.list_models is not None:
        return _list_models(args.list_models)
    with starting():
        from miil21k.cli.batch import execute

        return execute(args)


def _list_models(pattern: str) -> int:
    from miil21k.zoo.manifest import list_models

    names = list_models(pattern)
    if not names:
        print(f"No model matches '{pattern}'.", file=sys.stderr)
    for name in names:
        print(name)
    return 0 if names else 1
