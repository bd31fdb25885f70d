"""`miil21k export onnx`: one proved file from pixels to paths."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.cli.options import add_options, given, opened_calibration, value_of
from miil21k.environment import require
from miil21k.errors import UnknownModel, UsageError
from miil21k.export.options import ExportOptions
from miil21k.runtime.options import ModelOptions

if TYPE_CHECKING:
    import argparse
    from typing import Any

    from miil21k.runtime.loading import Loaded

__all__ = [
    "HELP",
    "configure",
    "licence_of",
    "load_source",
    "print_agreement",
    "require_source",
    "run",
    "source_arguments",
]

HELP = "Write a model as one ONNX file, from uint8 images to paths, kept only when it computes what torch computes."


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k export onnx`."""
    source_arguments(parser, ".onnx")
    form = ("form", "padding")
    add_options(parser, ExportOptions, only=form)
    add_options(parser.add_argument_group("answers of the full form"), ExportOptions, without=form)


def source_arguments(parser: argparse.ArgumentParser, suffix: str) -> None:
    """Declare what is exported, to which file, and on which pictures it is proved."""
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="name of the zoo; not needed for a trained checkpoint"
    )
    add = parser.add_argument
    target = f"FILE{suffix}"
    add("-o", "--output", type=Path, required=True, metavar=target, help=f"a report goes beside it, {target}.json")
    add("--overwrite", action="store_true", help=f"replace {target}")
    add("--images", type=Path, metavar="DIR", help="prove it on these pictures too")
    meanings = {"label_space": "what the classes of a checkpoint of your own are, a name or a file"}
    add_options(parser.add_argument_group("model"), ModelOptions, meanings=meanings)


def run(args: argparse.Namespace) -> int:
    """Export and prove; prints what was measured."""
    require_source(args)
    from miil21k.export.onnx.file import export_onnx, photographs_in

    options = value_of(args, ExportOptions, calibration=opened_calibration(args))
    photos = photographs_in(args.images) if args.images else []
    loaded = load_source(args)
    report = export_onnx(
        loaded,
        args.output,
        options,
        licence=licence_of(loaded.name),
        photos=photos,
        say=lambda s: print(s, file=sys.stderr),
    )
    _print(args.output, report)
    return 0


def require_source(args: argparse.Namespace) -> None:
    """Raise UsageError for an output that is there or a source that is none, MissingExtra without the exporter."""
    if args.output.exists() and not args.overwrite:
        raise UsageError(f"'{args.output}' exists: give --overwrite to replace it, or another name.")
    if args.model is None and "checkpoint" not in given(args, ModelOptions):
        raise UsageError("Name a model of the zoo (miil21k models lists them), or give --checkpoint.")
    if args.model is not None and args.model.endswith((".onnx", ".pt2")):
        raise UsageError(f"'{args.model}' is an export already.")
    for package in ("onnx", "onnxscript"):
        require(package, "export", "Exporting")


def load_source(args: argparse.Namespace) -> Loaded:
    """Return the network that the options of `source_arguments` stand for."""
    from miil21k.hierarchy.load import load_label_space
    from miil21k.runtime.loading import load_model
    from miil21k.runtime.options import LoadOptions

    options = value_of(args, LoadOptions)
    loaded = load_model(args.model, options)
    if options.label_space and load_label_space(options.label_space).sha256 != loaded.space.sha256:
        raise UsageError(
            f"The head of '{loaded.name}' is of '{loaded.space.name}', and so is its export: leave --label-space out, "
            "and give it to miil21k-predict."
        )
    return loaded


def licence_of(name: str) -> str:
    """Return the licence of published weights, empty for a checkpoint of the user's own."""
    from miil21k.zoo.manifest import find_weights

    try:
        return find_weights(name).licence
    except UnknownModel:
        return ""


def _print(output: Path, report: dict[str, Any]) -> None:
    worst, bounds = report["proof"]["worst"], report["proof"]["bounds"]
    files = f"{output} and {report['weights_file']}" if report["weights_file"] else f"{output}"
    print(f"{files}  {report['bytes'] / 1e6:.1f} MB, opset {report['opset']}, form {report['form']}")
    for side in ("inputs", "outputs"):
        for value in report[side]:
            shape = ", ".join(map(str, value["shape"]))
            print(f"  {side[:-1]:<6}  {value['name']:<10}  {value['dtype']:<7}  [{shape}]")
    decoding = report["decoding"]
    for at, one in enumerate(decoding.get("asked", ())):
        print(f"  asked {at}  {one['question']}: {one['name']} ({one['wnid']})")
    for at, one in enumerate(decoding.get("bins", ())):
        held = f" (below {one['parent']})" if one["parent"] else ""
        print(f"  bins {at}   {one['label']}{held}")
    if decoding.get("reading") == "concepts":
        print(f"  path and hedge_node are concepts, at least {decoding['min_bits']:g} bits; the report has their names")
    print_agreement(report)
    if report["form"] == "full":
        print(f"    pixels within {worst['grey_levels']} grey level of Pillow (bound {bounds['grey_levels']})")
        print(f"    answers that differ from the NumPy decoding of equal logits: {worst['decoded_differently']}")
        print(f"    answers to photographs that differ from torch and Pillow: {worst['photo_answers_apart']}")
    for kind, row in report.get("zero_padding", {}).items():
        print(f"  with zeros in place of reflected edges, {row['images']} images ({kind}):")
        print(f"    logits within {row['logits']:.1e} of the original's, relative to their range")
        same = ", ".join(f"{words} {row[key]}" for key, words in _SAME.items())
        print(f"    the same answer as the original's: {same}")


_SAME = {"same_top1": "best class", "same_path": "path", "same_hedge": "hedged node"}


def print_agreement(report: dict[str, Any]) -> None:
    """Print how near an export of any kind is to torch."""
    worst, bounds = report["proof"]["worst"], report["proof"]["bounds"]
    print(f"  proved on batches of 1, 2 and 7, noise and {report['proof']['photographs']} photographs:")
    print(f"    logits within {worst['logits']:.1e} of torch, relative to their range (bound {bounds['logits']:g})")
    print(f"    answers that differ from torch: {worst['answers_apart']}")
