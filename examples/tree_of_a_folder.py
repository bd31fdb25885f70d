"""Count what is in a folder of images, as a tree: `python examples/tree_of_a_folder.py FOLDER [MODEL]`."""

import sys
from collections import Counter
from pathlib import Path

from miil21k import Predictor

folder, model = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "embedded"
files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"})

counts: Counter[tuple[str, ...]] = Counter()
for answer in Predictor(model, hedge=0.8).stream(files):
    names = tuple(node.name for node in answer.path) or ("(not sure)",)
    for depth in range(len(names)):
        counts[names[: depth + 1]] += 1

for names in sorted(counts):
    print(f"{counts[names]:5d}  {'  ' * (len(names) - 1)}{names[-1]}")
