"""`miil21k calibrate`: make the probabilities of a model trustworthy, from labelled images it was not trained on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.cli.options import add_options
from miil21k.cli.validate import add_computation, add_images_and_model, request_of, show_progress
from miil21k.predict.options import AnswerOptions

if TYPE_CHECKING:
    import argparse

HELP = "Fit temperatures, and hedge levels with a guarantee, on labelled images that the model was not trained on."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add = parser.add_argument
    add_images_and_model(add)
    add("-o", "--output", type=Path, default=Path("calibration.json"), metavar="FILE", help="default: %(default)s")
    target = "share of hedged answers to be correct; repeatable (besides 0.8, 0.9, 0.95 and 0.99 where possible)"
    add("--target", action="append", type=float, default=[], metavar="P", help=target)
    add("--images", type=int, default=10_000, metavar="N", help="use at most N images (default: %(default)s)")
    add_options(parser, AnswerOptions, only=("rule",), meanings={"rule": "how a level_softmax head becomes one tree"})
    add("--include-removed-labels", action="store_true", help="for answers with the classes that ImageNet withdrew")
    add("--seed", type=int, default=0, help="which images fit what (default: %(default)s)")
    add_computation(add)
    add("-q", "--quiet", action="store_true", help="no progress and no summary on stderr")


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from miil21k.errors import UsageError

    if args.batch_size < 1 or args.workers < 0 or args.images < 4 or args.seed < 0:
        raise UsageError("--batch-size must be 1 or more, --workers and --seed 0 or more, --images 4 or more.")
    from miil21k.validate.calibration import fit_calibration

    found = fit_calibration(
        request_of(args),
        args.target,
        most=args.images,
        include_withdrawn=args.include_removed_labels,
        rule=getattr(args, "rule", None),
        seed=args.seed,
        progress=None if args.quiet else show_progress,
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    found.save(args.output)
    if not args.quiet:
        first, second = found.samples
        temperatures = ", ".join(f"{value:.3g}" for value in found.temperature)
        print(f"temperature {temperatures} from {first} images", file=sys.stderr)
        for accuracy, level in found.thresholds:
            print(f"correct in {accuracy:.0%}: hedge at P >= {level:.4f}, from {second} images", file=sys.stderr)
    print(args.output)
    return 0
