"""Count what camera traps saw: python examples/count_animals.py CAMERAS > counts.csv [--model NAME].

CAMERAS holds a folder for each camera. A picture counts where P(animal) is at least 0.5, under the name that the model
is 80 % sure of: "domestic cat" from near, "animal" from afar. It is a count of pictures, not of individuals. `expected`
is the sum of the probabilities, also of pictures that do not count: how many one should expect if they are calibrated.
Needs: pip install "miil21k[embedded]". Exit code: 1 if a picture could not be read; its camera has a line `unreadable`.
"""

import argparse
import csv
import sys
from collections import Counter, defaultdict
from pathlib import Path

from miil21k import Predictor


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cameras", type=Path)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--question", default="animal", help="what is counted: any noun of WordNet")
    parser.add_argument("--hedge", type=float, default=0.8, help="how sure a name must be")
    args = parser.parse_args()

    predictor = Predictor(args.model, ask=(args.question,), hedge=args.hedge)
    counts: Counter[tuple[str, str]] = Counter()
    expected: dict[tuple[str, str], float] = defaultdict(float)
    for answer in predictor.stream([f"{args.cameras}/**/*.jpg"]):
        camera = Path(answer.input).relative_to(args.cameras).parts[0]
        if answer.status != "ok":
            counts[camera, "unreadable"] += 1
            continue
        probability = answer.probability(args.question)
        seen = answer.label.name if answer.label is not None else args.question
        name = seen if probability >= 0.5 else "nothing"
        counts[camera, name] += 1
        expected[camera, name] += probability

    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(("camera", "seen", "pictures", "expected"))
    for camera, name in sorted(counts):
        rows.writerow((camera, name, counts[camera, name], f"{expected[camera, name]:.2f}"))
    return 1 if any(name == "unreadable" for _, name in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
