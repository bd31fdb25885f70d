"""Measure how fast a process that answers one picture is, from an export and without one.

    python benchmarks/export.py start MODEL.onnx  one image per process, against imports alone and against timm

Ratios come from one run, the contenders taking turns; numbers of different runs do not compare.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

IMAGE = Path(__file__).parent.parent / "examples" / "images" / "cat.jpg"

BARE = """
import numpy, onnxruntime, sys
from PIL import Image
numpy.asarray(Image.open(sys.argv[1]).convert("RGB"))
"""
TIMM = """
import sys, timm, torch
from PIL import Image
model = timm.create_model(sys.argv[2], num_classes=int(sys.argv[3])).eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
with torch.no_grad():
    print(model(transform(Image.open(sys.argv[1]).convert("RGB"))[None]).softmax(-1).topk(5))
"""


def start(model: Path, rounds: int = 7) -> None:
    from miil21k.zoo.exported import read_export_card
    from miil21k.zoo.manifest import find_weights

    card = read_export_card(model)
    row_arch = find_weights(card.model).arch
    python = sys.executable
    contenders = {
        "imports and one picture": [python, "-c", BARE, str(IMAGE)],
        "predict --model FILE.onnx": [python, "-m", "miil21k", "predict", "-q", "--model", str(model), str(IMAGE)],
        "predict --model NAME (torch)": [python, "-m", "miil21k", "predict", "-q", "--model", card.model, str(IMAGE)],
        "timm script, no weights": [python, "-c", TIMM, str(IMAGE), row_arch, str(card.space.num_classes)],
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, command in contenders.items():
            began = time.perf_counter()
            done = subprocess.run(command, check=False, capture_output=True)
            if done.returncode == 0 and turn:  # the first turn warms the file cache
                times[name].append(time.perf_counter() - began)
    base = statistics.median(times["imports and one picture"])
    for name, measured in times.items():
        print(f"{name}: {statistics.median(measured) / base:.2f}" if measured else f"{name}: did not run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("start").add_argument("model", type=Path)
    args = parser.parse_args()
    start(args.model)


if __name__ == "__main__":
    main()
