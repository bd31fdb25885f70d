"""Export every architecture of the zoo and compare it with torch; measure how fast a one-image process starts.

    python benchmarks/export.py zoo [ROW ...]     export, proof, size, ratios to torch eager (random weights)
    python benchmarks/export.py start MODEL.onnx  one image per process, against imports alone and against timm

Ratios come from one run, the contenders taking turns; numbers of different runs do not compare.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

IMAGE = Path(__file__).parent.parent / "examples" / "images" / "cat.jpg"
MOST_PARAMS = 120e6

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


def rows(names: list[str]) -> list:
    """Return one row of the zoo per architecture that can be built and decoded, or the rows of these names."""
    from miil21k.zoo.manifest import find_weights, load_manifest

    if names:
        return [find_weights(name) for name in names]
    known = [row for row in load_manifest().models if row.buildable]
    known.sort(key=lambda row: row.label_space is None)  # where it can be, the row whose label space is known
    small = [row for row in known if (row.params or row.candidates[0].params or 0) <= MOST_PARAMS]
    return list({row.arch: row for row in reversed(small)}.values())[::-1]


def random_model(row):
    """Return a `Loaded` of random weights whose norms are not the identity."""
    import torch

    from miil21k.data.transforms import normalise
    from miil21k.hierarchy.spaces import load_label_space
    from miil21k.predict.loading import Loaded
    from miil21k.zoo.registry import create_model

    torch.manual_seed(0)
    space = load_label_space(row.label_space or row.candidates[0].label_space)
    model = create_model(row.name, num_classes=space.num_classes)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.data.normal_(0, 0.02)  # heads that start at zero would agree about nothing
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.weight.data.uniform_(0.8, 1.2)
        norm.bias.data.uniform_(-0.1, 0.1)
    if norms:  # statistics that fit what comes in, as training leaves them: otherwise float32 itself is the limit
        with torch.no_grad():
            model.train()(torch.from_numpy(np.ascontiguousarray(normalise(samples(row), row.preprocess))))
    return Loaded(model.eval(), row.name, space, row.head, row.preprocess)


def samples(row) -> np.ndarray:
    """Return uint8 [4, H, W, 3], the three photographs and noise."""
    from miil21k.data.transforms import crop_image
    from miil21k.export.onnx_file import own_photographs

    crops = [crop_image(Image.open(path).convert("RGB"), row.preprocess) for path in own_photographs()]
    return np.stack([*crops, np.random.default_rng(0).integers(0, 256, crops[0].shape, np.uint8)])


def zoo(names: list[str]) -> None:
    import torch

    from miil21k.export.onnx_file import export_onnx

    torch.set_num_threads(1)
    columns = (
        "row",
        "seconds",
        "MB",
        "logits",
        "grey",
        "answers apart",
        "decoded apart",
        "batch 1",
        "batch 8",
    )
    print("|" + "|".join(columns) + "|\n|" + "---|" * len(columns), flush=True)
    for row in rows(names):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            loaded = random_model(row)
            began = time.perf_counter()
            report = export_onnx(loaded, path)
            seconds = time.perf_counter() - began
            worst = report["proof"]["worst"]
            ratios = [f"{speed_ratio(loaded, path, batch):.2f}x" for batch in (1, 8)]
        apart = worst["answers_apart"] + worst["photo_answers_apart"]
        cells = (row.name, f"{seconds:.0f}", f"{report['bytes'] / 1e6:.0f}", f"{worst['logits']:.1e}")
        cells += (worst["grey_levels"], apart, worst["decoded_differently"], *ratios)
        print("|" + "|".join(map(str, cells)) + "|", flush=True)


def speed_ratio(loaded, path: Path, batch: int, rounds: int = 3) -> float:
    """Return how many times faster the graph is than torch eager, network alone, one thread each, median of turns."""
    import torch

    from miil21k.backends.onnx_backend import OnnxBackend
    from miil21k.data.transforms import normalise

    backend = OnnxBackend(path, loaded.space.num_classes, normalises=True, device="cpu")
    _, height, width = loaded.preprocess.input_size
    crops = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)
    pixels = torch.from_numpy(np.ascontiguousarray(normalise(crops, loaded.preprocess)))
    found = []
    with backend.threads(1), torch.inference_mode():
        for _ in range(rounds + 1):
            began = time.perf_counter()
            loaded.model(pixels)
            middle = time.perf_counter()
            backend.run(crops)
            found.append((middle - began) / (time.perf_counter() - middle))
    return statistics.median(found[1:])


def start(model: Path, rounds: int = 7) -> None:
    from miil21k.zoo.exported import read_export_card

    card = read_export_card(model)
    row_arch = next((row.arch for row in rows([card.model])), "") if card.model else ""
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
    verbs.add_parser("zoo").add_argument("rows", nargs="*")
    verbs.add_parser("start").add_argument("model", type=Path)
    args = parser.parse_args()
    if args.verb == "zoo":
        zoo(args.rows)
    else:
        start(args.model)


if __name__ == "__main__":
    main()
