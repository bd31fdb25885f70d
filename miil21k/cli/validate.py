"""`miil21k validate`: every metric of a model on labelled images. Metrics on stdout, everything else on stderr."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.cli.options import add_options
from miil21k.cli.start import log_to_stderr, make_export
from miil21k.data.options import DECODES
from miil21k.data.resizers import RESIZERS
from miil21k.predict.options import AnswerOptions
from miil21k.runtime.registry import backend_names

if TYPE_CHECKING:
    from collections.abc import Callable

HELP = "Measure a model on labelled images: flat, semantic, hierarchical and calibration metrics, with provenance."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add = parser.add_argument
    add_images_and_model(add)
    add(
        "--view", choices=["in1k"], help="the images are ImageNet-1K's: score the head on the classes it shares with it"
    )
    add("--hedge", type=float, default=0.9, metavar="P", help="how sure hedged answers must be (default: %(default)s)")
    add_options(parser, AnswerOptions, only=("rule",))
    add("--calibration", metavar="FILE", help="read the logits by a calibration of miil21k calibrate")
    add("-o", "--output", type=Path, metavar="DIR", help="write JSON, CSV tables and pictures there")
    add("-f", "--format", choices=["table", "json"], help="what stdout gets (default: table on a terminal, else json)")
    add_computation(add)
    add("-q", "--quiet", action="store_true", help="no progress and no notes on stderr")


def add_images_and_model(add: Callable[..., object]) -> None:
    """Add what is measured, and with what: `add` is a parser's `add_argument`."""
    add("data", metavar="DATA", help="class folders (DATA/<wnid>/<image>), or tar shards (folder or glob)")
    add(
        "-m",
        "--model",
        required=True,
        help="a name of the zoo, a checkpoint of miil21k train, or an .onnx file of miil21k export",
    )
    add("--checkpoint", metavar="FILE", help="weights for a named model, in any published layout")
    add("--label-space", metavar="SPACE", help="the label space of the images (default: the head's)")


def add_computation(add: Callable[..., object]) -> None:
    """Add how it is computed: `add` is a parser's `add_argument`."""
    add("-b", "--batch-size", type=int, default=32, help="images per forward pass (default: %(default)s)")
    add("-j", "--workers", type=int, default=2, help="threads that read and run images (default: %(default)s)")
    add(
        "--backend", choices=backend_names(), default="auto", help="what computes (default: %(default)s, as in predict)"
    )
    add(
        "--make-export",
        action=argparse.BooleanOptionalAction,
        help="make the export that the cache lacks first, or never",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    add(
        "--dtype",
        choices=["fp32", "fp16", "bf16"],
        default="fp32",
        help="precision (default: %(default)s); fp16 in torch, bf16 in torch or with --backend openvino",
    )
    add("--resizer", choices=RESIZERS, default="pillow", help="as published, or cykooz: faster, a grey level from it")
    add(
        "--decode",
        choices=DECODES,
        default="reduced",
        help="full reads every pixel of a large JPEG, as published; reduced is several times as fast",
    )
    add("--offline", action="store_true", default=None, help="never touch the network")


def run(args: argparse.Namespace) -> int:
    """Run the verb; 1 when an image could not be read."""
    from miil21k.errors import UsageError

    if args.batch_size < 1 or args.workers < 0 or not 0 < args.hedge <= 1:
        raise UsageError("--batch-size must be 1 or more, --workers 0 or more, --hedge in (0, 1].")
    log_to_stderr(args)
    from miil21k.calibrate.record import load_calibration
    from miil21k.validate.report import plain, write_report
    from miil21k.validate.run import validate

    found = validate(
        request_of(args),
        hedge=args.hedge,
        rule=getattr(args, "rule", None),
        calibration=load_calibration(args.calibration) if args.calibration else None,
        progress=None if args.quiet else show_progress,
    )
    if args.output is not None:
        written = write_report(args.output, found.report, found.card)
        if not args.quiet:
            print(f"{args.output}: {', '.join(written)}", file=sys.stderr)
            if "reliability.png" not in written:
                print("No pictures: they need matplotlib (pip install 'miil21k[plots]').", file=sys.stderr)
    if not args.quiet:
        for note in found.notes:
            print(note, file=sys.stderr)
    if (args.format or ("table" if sys.stdout.isatty() else "json")) == "json":
        print(json.dumps(plain(found.report), ensure_ascii=False))
    else:
        _print_table(found.report)
    return 1 if found.report["images"]["unreadable"] else 0


def request_of(args: argparse.Namespace) -> Any:
    """Return the request that the arguments make; `calibrate` shares it."""
    from miil21k.store.cache import Cache
    from miil21k.validate.run import Request

    return Request(
        data=args.data,
        model=args.model,
        checkpoint=args.checkpoint,
        label_space=args.label_space,
        view=getattr(args, "view", None),
        batch_size=args.batch_size,
        workers=args.workers,
        resizer=args.resizer,
        decode=args.decode,
        backend=args.backend,
        make_export=args.make_export,
        make=make_export,
        device=args.device,
        dtype=args.dtype,
        offline=args.offline,
        shard_cache=Cache.at().root / "shards",
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
            print(f"  {name:<28}{value:8.4f}{_REMARKS.get((group, name), '')}")


_REMARKS = {("hedged", "correct"): "  (no answer counts as correct)"}
