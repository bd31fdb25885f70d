"""`miil21k calibrate`: make the probabilities of a model trustworthy, from labelled images it was not trained on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.cli.options import add_options, value_of
from miil21k.cli.start import log_to_stderr
from miil21k.cli.validate import add_images, add_measuring, request_of, show_progress
from miil21k.predict.options import AnswerOptions

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from miil21k.calibrate.record import Calibration

HELP = "Fit temperatures, and hedge levels with a guarantee, on labelled images that the model was not trained on."


def _summary(found: Calibration) -> Iterator[str]:
    """Yield what was fitted, what it guarantees and over what, and how much was answered."""
    from miil21k.calibrate.guarantee import coverage_band

    first, second = found.samples
    yield f"temperature {', '.join(f'{value:.3g}' for value in found.temperature)} from {first} images"
    kinds = (
        ("", found.thresholds, found.outcomes),
        (" --read concepts", found.concept_thresholds, found.concept_outcomes),
        (" --bins", found.bin_thresholds, found.bin_outcomes),
    )
    for reading, thresholds, outcomes in kinds:
        for (accuracy, level), (_, answered, right) in zip(thresholds, outcomes, strict=True):
            yield (
                f"--hedge {accuracy:g}{reading}: P >= {level:.4f}; of these {second} images {answered:.1%} were "
                f"answered, and {right:.1%} of the answers were right"
            )
    levels = (*found.thresholds, *found.concept_thresholds, *found.bin_thresholds)
    for accuracy in sorted({accuracy for accuracy, _ in levels}):
        low, high = coverage_band(second, accuracy)
        yield (
            f"--hedge {accuracy:g}: at least {accuracy:.4g} of further images like these are answered rightly or not "
            f"at all, on average over such calibrations; with {second} images 9 in 10 of them reach between {low:.3f} "
            f"and {high:.3f}"
        )


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add = parser.add_argument
    add_images(parser)
    add("-o", "--output", type=Path, default=Path("calibration.json"), metavar="FILE", help="default: %(default)s")
    target = "share of hedged answers to be correct; repeatable (besides 0.8, 0.9, 0.95 and 0.99 where possible)"
    add("--target", action="append", type=float, default=[], metavar="P", help=target)
    add("--images", type=int, default=10_000, metavar="N", help="use at most N images (default: %(default)s)")
    meanings = {
        "rule": "how a level_softmax head becomes one tree (default: coherent)",
        "bins": "calibrate answers with your own labels, of which DATA holds a folder each: a CSV of "
        "label,concept[,parent]",
        "include_removed_labels": "for answers with the classes that ImageNet withdrew",
    }
    add_options(parser, AnswerOptions, only=meanings, meanings=meanings)
    add("--seed", type=int, default=0, help="which images fit what (default: %(default)s)")
    add_measuring(parser)
    add("-q", "--quiet", action="store_true", help="no progress and no summary on stderr")


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from miil21k.errors import UsageError

    if args.images < 4 or args.seed < 0:
        raise UsageError("--seed must be 0 or more, --images 4 or more.")
    from miil21k.validate.calibration import calibrate_model

    log_to_stderr(args)
    answer = value_of(args, AnswerOptions)
    found = calibrate_model(
        request_of(args),
        args.target,
        most=args.images,
        include_withdrawn=answer.include_removed_labels,
        rule=answer.rule,
        seed=args.seed,
        progress=None if args.quiet else show_progress,
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    found.save(args.output)
    if not args.quiet:
        for line in _summary(found):
            print(line, file=sys.stderr)
    print(args.output)
    return 0
