"""`miil21k export web`: a folder of static files that answers in the browser, without a server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.cli.export_onnx import licence_of, load_source
from miil21k.cli.options import add_options, given, opened_calibration, value_of
from miil21k.environment import require
from miil21k.errors import UsageError
from miil21k.export.options import ExportOptions, PageQuantizeOptions
from miil21k.runtime.options import ModelOptions

if TYPE_CHECKING:
    import argparse

    from miil21k.export.web.site import Site

__all__ = ["HELP", "configure", "run"]

HELP = "Write a static web page that answers in the browser: model, words and runtime in one folder, offline too."
_MODES = {"int8": "auto", "fp16": "fp16"}  # precision -> mode of PageQuantizeOptions
_FORM = ("form", "padding")
_BITS = ("method", "min_agreement", "most_left_out", "calibration_images")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k export web`."""
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        metavar="MODEL",
        help="an export (.onnx, form full, any precision) or a name of the zoo; not needed for a trained checkpoint",
    )
    add("-o", "--output", type=Path, required=True, metavar="SITE", help="the folder that is written")
    add("--overwrite", action="store_true", help="replace SITE")
    add(
        "--precision",
        choices=("fp32", *_MODES),
        help="of the network (default: int8, or that of the .onnx file); int8 and fp16 need --images",
    )
    add("--images", type=Path, metavar="DIR", help="pictures that set fewer bits up and judge them, subfolders too")
    add("--runtime", type=Path, metavar="DIR", help="an unpacked onnxruntime-web (default: a pinned one from npm)")
    meanings = {"label_space": "what the classes of a checkpoint of your own are, a name or a file"}
    add_options(parser.add_argument_group("model"), ModelOptions, meanings=meanings)
    add_options(parser.add_argument_group("answers, of a name or a checkpoint"), ExportOptions, without=_FORM)
    add_options(parser.add_argument_group("fewer bits"), PageQuantizeOptions, only=_BITS)


def run(args: argparse.Namespace) -> int:
    """Export and quantise where that is needed, write the folder, print its files and their sizes."""
    require("onnx", "export", "Exporting")
    from miil21k.export.web.runtime import require_runtime
    from miil21k.export.web.site import export_web
    from miil21k.files import temporary_folder

    if args.output.exists() and not args.overwrite:
        raise UsageError(f"'{args.output}' exists: give --overwrite to replace it, or another name.")
    require_runtime(args.runtime)
    with temporary_folder("miil21k-export-web") as scratch:
        model = _in_precision(args, _exported(args, scratch), scratch)
        site = export_web(model, args.output, runtime=args.runtime, say=_say)
    _print(site)
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _exported(args: argparse.Namespace, scratch: Path) -> Path:
    """Return the export that was given, or one that is made in `scratch`."""
    if args.model is not None and args.model.endswith(".onnx"):
        if said := sorted(given(args, ModelOptions) | given(args, ExportOptions)):
            raise UsageError(
                f"'{args.model}' is an export, whose {said[0].replace('_', '-')} was fixed when it was made."
            )
        return Path(args.model)
    if args.model is None and "checkpoint" not in given(args, ModelOptions):
        raise UsageError("Name a model of the zoo (miil21k models lists them), an export, or give --checkpoint.")
    _require_images(args, args.precision or "int8")
    require("onnxscript", "export", "Exporting")
    from miil21k.export.onnx.file import export_onnx

    options = value_of(args, ExportOptions, calibration=opened_calibration(args))
    loaded, output = load_source(args), scratch / "model.onnx"
    export_onnx(loaded, output, options, licence=licence_of(loaded.name), say=_say)
    return output


def _in_precision(args: argparse.Namespace, model: Path, scratch: Path) -> Path:
    """Return `model`, or a file of it in the bits that were asked for, which is made in `scratch`."""
    from miil21k.export.onnx.file import photographs_in
    from miil21k.export.quantize.quantize import quantize_onnx
    from miil21k.zoo.export_card import read_export_card

    own = read_export_card(model).precision
    wanted = args.precision or (own if args.model == str(model) else "int8")
    if wanted == own:
        return model
    if own != "fp32":
        raise UsageError(f"'{model}' is of {own}: give its fp32 export for --precision {wanted}.")
    _require_images(args, wanted)
    output = scratch / f"model.{wanted}.onnx"
    pictures = photographs_in(args.images, below=True)
    # How fast it is on this machine says little about browsers on others: what counts here is agreement and size.
    options = value_of(args, PageQuantizeOptions, mode=_MODES[wanted], require_faster=False)
    report = quantize_onnx(model, output, pictures, options, say=_say)
    agreement = report["quantization"]["agreement"]
    _say(f"{wanted} keeps the best class of {agreement['top1']:.1%} of {agreement['images']} pictures")
    return output


def _require_images(args: argparse.Namespace, precision: str) -> None:
    if precision in _MODES and args.images is None:
        raise UsageError(
            f"{precision} is set up and judged on pictures: give --images DIR, or --precision fp32, which needs none."
        )


def _print(site: Site) -> None:
    print(f"{site.folder}  {site.model}, {site.precision}, {site.runtime}")
    width = max(len(part.name) for part in site.parts)
    for part in site.parts:
        print(f"  {part.name:<{width}}  {part.raw / 1e3:9,.1f} kB  {part.sent / 1e3:9,.1f} kB as sent")
    print(f"  to the first answer: {site.sent / 1e6:.1f} MB are sent, {site.raw / 1e6:.1f} MB unpacked")
    print(f"  look at it: python -m http.server -d {site.folder}    then open http://localhost:8000")
