"""Calibrate on your pictures, and check the promise on others: python examples/calibrate_and_check.py LABELLED UNSEEN.

Both hold a folder of pictures for each class, named by a noun of WordNet or a wnid. From LABELLED a calibration is made
that promises: at least TARGET of pictures like these get a right answer, or none. UNSEEN shows whether that is so.
Needs: pip install "miil21k[embedded]". Exit code: 0 if the promise was kept as far as chance allows, 1 if it was
broken, 2 if LABELLED cannot promise it (too few pictures, or names that are no nouns).
"""

import argparse
import sys
from math import ceil, comb, exp, lgamma

from miil21k import MeasureRequest, UsageError, calibrate_model, validate_model


def chance(right: int, count: int, target: float, calibrated: int) -> float:
    """Return how probable it is that `right` or fewer of `count` unseen pictures get a right answer or none.

    For a promise that is just kept: the share that `calibrated` pictures lead to has a beta distribution.
    """
    a = ceil((calibrated + 1) * target)
    b = calibrated + 1 - a
    beta = lgamma(a) + lgamma(b) - lgamma(a + b)
    return sum(
        comb(count, k) * exp(lgamma(k + a) + lgamma(count - k + b) - lgamma(count + a + b) - beta)
        for k in range(right + 1)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labelled")
    parser.add_argument("unseen")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--target", type=float, default=0.9)
    parser.add_argument("-o", "--output", default="calibration.json")
    args = parser.parse_args()

    try:
        calibration = calibrate_model(MeasureRequest(args.labelled, args.model), [args.target])
        calibration.save(args.output)
        unseen = MeasureRequest(args.unseen, args.model)
        without = validate_model(unseen, hedge=args.target).report["metrics"]["hedged"]
        found = validate_model(unseen, hedge=args.target, calibration=calibration)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    hedged, count = found.report["metrics"]["hedged"], found.card.samples
    print(f"{count} unseen pictures     right or no answer   answered   right of these")
    for name, one in (("as the network says", without), ("calibrated", hedged)):
        print(f"{name:23} {one['correct']:17.1%} {one['answered']:10.1%} {one['correct_of_answered']:15.1%}")
    right = round(hedged["correct"] * count)
    kept = right >= args.target * count or chance(right, count, args.target, calibration.samples[1]) >= 0.01
    print(f"promised {args.target:.0%}: {'kept' if kept else 'broken'}. Use it: --calibration {args.output}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
