"""How fast a one-image process starts from a proved export, against imports alone and against timm.

    python benchmarks/export.py start [NAME ...] [--rounds 9]

Weights are random: speed does not depend on them. They are put where the Hub's client keeps its files, exported by
`miil21k fetch`, and the processes take turns in one run. The two short ones take more turns, one right after the other,
in which what they share is warm in the caches of the processor; each is also timed right after a long one, which leaves
it nothing there. Prints the ratios of the medians, and of the best.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

COMMAND = Path(sysconfig.get_path("scripts")) / "miil21k-predict"
IMAGE = Path(__file__).parent.parent / "examples" / "images" / "cat.jpg"

OURS, BARE = "miil21k-predict --model NAME", "imports and one picture"
COLD = ", right after a process that loaded torch"
WARM_TURNS = 4  # of the two short processes, for one of the long ones

IMPORTS = """
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


def random_weights(name: str, cache: Path) -> tuple[str, int]:
    """Put random weights of a row into a cache of the Hub's layout; returns the architecture and its classes."""
    import torch
    from safetensors.torch import save_file

    from miil21k.zoo.manifest import find_weights
    from miil21k.zoo.registry import create_model

    row = find_weights(name)
    source = next(s for s in row.sources if s.kind == "hub" and not s.sha256 and not s.sha256_prefix)
    folder = cache / f"models--{source.repo.replace('/', '--')}"
    path = folder / "snapshots" / ("0" * 40) / source.file
    path.parent.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    torch.manual_seed(0)
    tensors = {key: tensor.contiguous() for key, tensor in create_model(row.name).state_dict().items()}
    if source.format == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return row.arch, row.num_classes


def start(name: str, rounds: int) -> None:
    # As an installed package: with the byte code that Python keeps.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        arch, classes = random_weights(name, Path(folder))
        here = ["--cache-dir", folder, "--offline"]
        python = [sys.executable]
        fetch = [*python, "-m", "miil21k", "fetch", name, "--backend", "onnx", *here]
        subprocess.run(fetch, check=True, env=environment, stdout=subprocess.DEVNULL)
        predict = [str(COMMAND), "-q", "--model", name, *here, str(IMAGE)]
        commands = {
            OURS: predict,
            BARE: [*python, "-c", IMPORTS, str(IMAGE)],
            "the same with --backend torch": [*predict, "--backend", "torch"],
            "timm script, no weights": [*python, "-c", TIMM, str(IMAGE), arch, str(classes)],
        }
        torch_backend, timm_script = list(commands)[2:]
        turns = [torch_backend, BARE + COLD, timm_script, OURS + COLD, *WARM_TURNS * (OURS, BARE)]
        times: dict[str, list[float]] = {title: [] for title in turns}
        for turn in range(rounds + 1):
            for title in turns:
                began = time.perf_counter()
                command = commands[title.removesuffix(COLD)]
                subprocess.run(command, check=True, capture_output=True, env=environment)
                if turn:  # the first turn warms the file cache and writes byte code
                    times[title].append(time.perf_counter() - began)
    for title, taken in times.items():
        ours = times[OURS + COLD * title.endswith(COLD)]
        median, best = statistics.median(taken) / statistics.median(ours), min(taken) / min(ours)
        print(f"| {name} | {title} | {1 / median:.2f} | {median:.2f} | {best:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verb = parser.add_subparsers(dest="verb", required=True).add_parser("start")
    verb.add_argument("names", nargs="*", default=["mobilenetv3_large_100_21k", "tresnet_m_21k"])
    verb.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    print("| model | process | ours / it | it / ours (median) | it / ours (best) |\n|---|---|---:|---:|---:|")
    for name in args.names:
        start(name, args.rounds)


if __name__ == "__main__":
    main()
