"""Export every architecture of the zoo with random weights, prove it, and compare its speed with torch eager.

    python benchmarks/export_zoo.py --results zoo.json            architectures below 120 million parameters
    python benchmarks/export_zoo.py --results zoo.json --all      the larger ones too
    python benchmarks/export_zoo.py --results zoo.json ROW ...    these rows
    python benchmarks/export_zoo.py --results programs.json --programs ROW ...
                                                                  with torch.export and AOTInductor beside ONNX Runtime
    python benchmarks/export_zoo.py --results zoo.json --table    print what was measured as Markdown

Each result is written to the file at once, and what is in it already is not measured again. Speed is that of the
network alone on one thread, torch eager and its rivals taking turns in one process; ratios are medians of the turns.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

MOST_PARAMS = 120e6
BATCHES = (1, 8)
TURN_SECONDS = 12.0  # for the turns of one batch size; one turn behind the first is measured whatever it takes


def rows(names: list[str], most_params: float) -> list:
    """Return one row of the zoo per architecture that can be built and decoded, smallest first, or those named."""
    from miil21k.zoo.manifest import find_weights, load_manifest

    if names:
        return [find_weights(name) for name in names]
    known = [row for row in load_manifest().models if row.buildable and parameters(row) <= most_params]
    known.sort(key=lambda row: row.label_space is None)  # where it can be, the row whose label space is known
    return sorted({row.arch: row for row in reversed(known)}.values(), key=parameters)


def parameters(row) -> int:
    return row.params or next((found.params for found in row.candidates or () if found.params), 0)


def random_model(row):
    """Return a `Loaded` of random weights whose norms are not the identity."""
    import torch

    from miil21k.data.transforms import normalise
    from miil21k.hierarchy.load import load_label_space
    from miil21k.runtime.loading import Loaded
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
            model.train()(torch.from_numpy(normalise(samples(row), row.preprocess)))
    return Loaded(model.eval(), row.name, space, row.head, row.preprocess)


def samples(row) -> np.ndarray:
    """Return uint8 [4, H, W, 3], the three photographs and noise."""
    from miil21k.data.transforms import crop_image
    from miil21k.export.onnx.file import own_photographs

    crops = [crop_image(Image.open(path).convert("RGB"), row.preprocess) for path in own_photographs()]
    return np.stack([*crops, np.random.default_rng(0).integers(0, 256, crops[0].shape, np.uint8)])


def measure(row, form: str, programs: bool, say) -> dict:
    """Return what the export of one row takes, how near it is to torch, and how fast it is."""
    import torch

    from miil21k.export.onnx.file import export_onnx
    from miil21k.export.options import ExportOptions

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        loaded = random_model(row)
        began = time.perf_counter()
        report = export_onnx(loaded, path, ExportOptions(form=form), say=say)
        result = {
            "form": form,
            "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
            "seconds": time.perf_counter() - began,
            "bytes": report["bytes"],
            "weights_file": report["weights_file"],
            "proof": report["proof"]["worst"],
        }
        rivals = {"ONNX Runtime": onnx_runner(loaded, path)}
        if programs:
            result["programs"] = {}
            for name in ("torch.export", "AOTInductor"):
                result["programs"][name], rivals[name] = export_and_open(loaded, Path(folder), name, say)
        say("measuring its speed")
        result["speed"] = speed_ratios(loaded, rivals)
    return result


def export_and_open(loaded, folder: Path, name: str, say):
    """Return what an export as a torch program takes, and the function that runs it."""
    import torch

    from miil21k.export.torch_program import export_program

    path, aot = folder / f"{name}.pt2", name == "AOTInductor"
    began = time.perf_counter()
    report = export_program(loaded, path, aot=aot, say=say)
    found = {
        "seconds": time.perf_counter() - began,
        "bytes": report["bytes"],
        "logits": report["proof"]["worst"]["logits"],
    }
    program = torch._inductor.aoti_load_package(str(path)) if aot else torch.export.load(path).module()
    return found, lambda _, pixels: program(pixels)


def onnx_runner(loaded, path: Path):
    """Return crops -> logits through ONNX Runtime on one thread."""
    from miil21k.runtime.onnx_backend import OnnxBackend
    from miil21k.zoo.export_card import read_export_card

    full = read_export_card(path).form == "full"
    backend = OnnxBackend(path, loaded.space.num_classes, normalises=full, device="cpu")

    def run(crops, pixels):
        with backend.threads(1):
            return backend.run(crops if full else pixels.numpy()).logits

    return run


def speed_ratios(loaded, rivals: dict) -> dict[str, list[float]]:
    """Return per rival, how many times faster than torch eager it is at batch 1 and at batch 8.

    rivals: name -> function of (crops uint8 [B, H, W, 3], the same normalised, a float32 tensor [B, 3, H, W]).
    """
    import torch

    from miil21k.data.transforms import normalise

    ratios: dict[str, list[float]] = {name: [] for name in rivals}
    _, height, width = loaded.preprocess.input_size
    for batch in BATCHES:
        crops = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)
        pixels = torch.from_numpy(normalise(crops, loaded.preprocess))
        contenders = {"torch": lambda _, pixels: loaded.model(pixels), **rivals}
        turns: list[dict[str, float]] = []
        began = time.perf_counter()
        with torch.inference_mode():
            while len(turns) < 2 or (len(turns) < 20 and time.perf_counter() - began < TURN_SECONDS):
                turn = {}
                for name, run in contenders.items():
                    start = time.perf_counter()
                    run(crops, pixels)
                    turn[name] = time.perf_counter() - start
                turns.append(turn)
        for name in rivals:  # the first turn opens files and warms caches
            ratios[name].append(statistics.median(turn["torch"] / turn[name] for turn in turns[1:]))
    return ratios


def table(results: dict[str, dict]) -> str:
    """Return the results as Markdown, smallest network first."""
    lines = [
        "| row | M params | form | export s | MB | logits, of their range | answers apart | batch 1 | batch 8 |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in sorted(results.items(), key=lambda item: item[1].get("parameters", 0)):
        if "error" in found:
            lines.append(f"| `{name}` | failed: {found['error']} |")
            continue
        worst = found["proof"]
        apart = sum(worst.get(key, 0) for key in ("answers_apart", "decoded_differently", "photo_answers_apart"))
        one, many = (f"{ratio:.2f}x" for ratio in found["speed"]["ONNX Runtime"])
        lines.append(
            f"| `{name}` | {found['parameters'] / 1e6:.1f} | {found['form']} | {found['seconds']:.0f} "
            f"| {found['bytes'] / 1e6:.0f} | {worst['logits']:.1e} | {apart} | {one} | {many} |"
        )
    if any("programs" in found for found in results.values()):
        lines += ["", "| row | as | export s | MB | logits, of their range | batch 1 | batch 8 |"]
        lines += ["|---|---|---:|---:|---:|---:|---:|"]
    for name, found in results.items():
        if "programs" not in found:
            continue
        onnx = {"seconds": found["seconds"], "bytes": found["bytes"], "logits": found["proof"]["logits"]}
        for kind, facts in {"ONNX Runtime": onnx, **found["programs"]}.items():
            one, many = (f"{ratio:.2f}x" for ratio in found["speed"][kind])
            lines.append(
                f"| `{name}` | {kind} | {facts['seconds']:.0f} | {facts['bytes'] / 1e6:.0f} | {facts['logits']:.1e} "
                f"| {one} | {many} |"
            )
    return "\n".join(lines)


def main() -> int:
    from miil21k.errors import Miil21kError
    from miil21k.files import replace_file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("rows", nargs="*", metavar="ROW", help="names of the zoo")
    add("--results", type=Path, required=True, metavar="FILE", help="JSON that results are added to")
    add("--all", action="store_true", help="also above 120 million parameters")
    add("--form", choices=("full", "tensor"), default="full", help="of the exports (%(default)s)")
    add("--programs", action="store_true", help="also as torch.export and AOTInductor programs (needs a C++ compiler)")
    add("--table", action="store_true", help="print the results as Markdown and measure nothing")
    args = parser.parse_args()
    results = json.loads(args.results.read_text()) if args.results.exists() else {}
    if args.table:
        print(table(results))
        return 0
    wanted = [row for row in rows(args.rows, float("inf") if args.all else MOST_PARAMS) if row.name not in results]
    began = time.perf_counter()
    for number, row in enumerate(wanted, 1):

        def say(what: str, label: str = f"[{number}/{len(wanted)}] {row.name}") -> None:
            print(f"{time.perf_counter() - began:6.0f} s  {label}: {what}", file=sys.stderr, flush=True)

        try:
            results[row.name] = measure(row, args.form, args.programs, say)
        except Miil21kError as error:
            say(f"failed: {error}")
            results[row.name] = {"error": str(error)}
        replace_file(args.results, json.dumps(results, indent=1) + "\n")
        gc.collect()
    print(table(results))
    return int(any("error" in found for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
