"""Measure how fast INT8 is, and how often it answers as fp32 does.

    python benchmarks/quantize.py speed [ROW ...]                       INT8 against fp32 and torch eager
    python benchmarks/quantize.py operators [ROW ...] --threads 1       which operators are worth 8 bits, against fp32
    python benchmarks/quantize.py settings MODEL.onnx SETTING JUDGING   each mode and method, on two folders of pictures

Ratios come from one run, the contenders taking turns, each turn a batch of 8 crops on all CPUs (or --threads), the best
turn counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

ROWS = ("tresnet_m.miil_in21k", "mobilenetv3_large_100.miil_in21k", "embedded")
# What stays float in each contender of `operators`, besides what always does.
LEFT_OUT = {
    "all that may be": (),
    "less squeeze-excite convolutions": ("se",),
    "less Mul": ("Mul",),
    "less Add, Mul": ("Add", "Mul"),
    "less pooling, Pad, Concat": ("MaxPool", "AveragePool", "Pad", "Concat"),
    "convolutions and classifier alone": (
        "Add",
        "Mul",
        "Clip",
        "Relu",
        "LeakyRelu",
        "MaxPool",
        "AveragePool",
        "Pad",
        "Concat",
    ),
}
FLOORS = {"tresnet_m.miil_in21k": 3.5, "embedded": 1.0}
BATCH = 8


def speed(names: list[str], rounds: int) -> None:
    import onnx
    import torch
    from export_zoo import random_model

    from miil21k.backends.choose import open_export
    from miil21k.data.images import load_image
    from miil21k.data.transforms import crop_image, normalise
    from miil21k.export.network_part import put_network, take_network
    from miil21k.export.onnx_file import export_onnx, own_photographs
    from miil21k.export.precision import measure_ranges, static_int8
    from miil21k.predict.loading import load
    from miil21k.predict.options import PredictOptions
    from miil21k.processors import available_cpus
    from miil21k.zoo.exported import read_export_card
    from miil21k.zoo.manifest import find_weights

    torch.set_num_threads(available_cpus())
    columns = ("model", "runs in", "images/s", "x torch eager", "x fp32 there", "MB", "floor")
    print("|" + "|".join(columns) + "|\n|" + "---|" * len(columns), flush=True)
    for name in names:
        row = find_weights(name)
        with tempfile.TemporaryDirectory() as folder:
            loaded = load(name, PredictOptions()) if name == "embedded" else random_model(row)
            paths = {"fp32": Path(folder) / "fp32.onnx", "int8": Path(folder) / "int8.onnx"}
            export_onnx(loaded, paths["fp32"])
            card, model = read_export_card(paths["fp32"]), onnx.load(paths["fp32"])
            network = take_network(model, card.preprocess.input_size)
            photos = np.stack([crop_image(load_image(photo), card.preprocess) for photo in own_photographs()])
            ranges = measure_ranges(network, iter([normalise(photos, card.preprocess)]), "minmax")
            onnx.save(put_network(model, static_int8(network, ranges)), paths["int8"])
            _, height, width = loaded.preprocess.input_size
            crops = np.random.default_rng(0).integers(0, 256, (BATCH, height, width, 3), np.uint8)
            pixels = torch.from_numpy(normalise(crops, loaded.preprocess))
            runs = {("torch eager", "fp32"): lambda m=loaded.model, p=pixels: m(p)}
            for backend in ("onnx", "openvino"):
                with suppress(ImportError):
                    for precision, path in paths.items():
                        engine = open_export(path, card, backend=backend, device="cpu", dtype="fp32")
                        runs[backend, precision] = lambda e=engine, c=crops: e.run(c)
            best = _turns(runs, rounds)
            sizes = {precision: f"{path.stat().st_size / 1e6:.0f}" for precision, path in paths.items()}
        eager = best["torch eager", "fp32"]
        for (engine, precision), seconds in best.items():
            there = best.get((engine, "fp32"), seconds) / seconds
            floor = FLOORS.get(row.name, "") if precision == "int8" else ""
            cells = (row.name, f"{engine} {precision}", f"{BATCH / seconds:.1f}", f"{eager / seconds:.2f}")
            cells += (f"{there:.2f}", sizes[precision] if engine != "torch eager" else "", floor)
            print("|" + "|".join(map(str, cells)) + "|", flush=True)


def _turns(runs: dict, rounds: int) -> dict:
    import torch

    best = dict.fromkeys(runs, np.inf)
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for name, run in runs.items():
                began = time.perf_counter()
                run()
                if turn:  # the first turn opens files and compiles
                    best[name] = min(best[name], time.perf_counter() - began)
    return best


def operators(names: list[str], rounds: int, threads: int) -> None:
    import onnx
    from export_zoo import random_model

    from miil21k.backends.choose import open_export
    from miil21k.data.images import load_image
    from miil21k.data.transforms import crop_image, normalise
    from miil21k.export.network_part import put_network, take_network
    from miil21k.export.onnx_file import export_onnx, own_photographs
    from miil21k.export.onnx_model import ExportOptions
    from miil21k.export.precision import measure_ranges, static_int8
    from miil21k.predict.loading import load
    from miil21k.predict.options import PredictOptions
    from miil21k.zoo.exported import read_export_card
    from miil21k.zoo.manifest import find_weights

    print("|model|quantised|runs in|x fp32, batch 1|batch 8|\n|---|---|---|---|---|", flush=True)
    for name in names:
        row = find_weights(name)
        with tempfile.TemporaryDirectory() as folder, ExitStack() as few_threads:
            loaded = load(name, PredictOptions()) if name == "embedded" else random_model(row)
            paths = {"fp32": Path(folder) / "fp32.onnx"}
            export_onnx(loaded, paths["fp32"], ExportOptions(form="tensor"))
            card, model = read_export_card(paths["fp32"]), onnx.load(paths["fp32"])
            network = take_network(model, card.preprocess.input_size)
            crops = np.stack([crop_image(load_image(photo), card.preprocess) for photo in own_photographs()])
            pixels = normalise(np.tile(crops, (3, 1, 1, 1))[:BATCH], card.preprocess)
            ranges = measure_ranges(network, iter([pixels[: len(crops)]]), "minmax")
            for at, (what, kinds) in enumerate(LEFT_OUT.items()):
                stay = [
                    node.name
                    for node in network.graph.node
                    if node.op_type in kinds or ("se" in kinds and any(".se." in tensor for tensor in node.input))
                ]
                if kinds and not stay:
                    continue
                paths[what] = Path(folder) / f"{at}.onnx"
                onnx.save(put_network(model, static_int8(network, ranges, leave_out=stay)), paths[what])
            engines = {
                (backend, what): open_export(path, card, backend=backend, device="cpu", dtype="fp32")
                for backend in ("onnx", "openvino")
                for what, path in paths.items()
            }
            for engine in engines.values():
                few_threads.enter_context(engine.threads(threads))
            best = []
            for few in (pixels[:1], pixels):
                runs = {key: lambda e=engine, p=few: e.run(p) for key, engine in engines.items()}
                best.append(_turns(runs, rounds))
        for backend, what in engines:
            ratios = [f"{seconds[backend, 'fp32'] / seconds[backend, what]:.2f}" for seconds in best]
            print("|" + "|".join((row.name, what, backend, *ratios)) + "|", flush=True)


def settings(model: Path, setting: Path, judging: Path) -> None:
    from miil21k.errors import Miil21kError
    from miil21k.export.onnx_file import photographs_in
    from miil21k.export.precision import METHODS
    from miil21k.export.quantize import quantize_export
    from miil21k.export.settings import QuantizeOptions

    pictures, judges = photographs_in(setting, below=True), photographs_in(judging, below=True)
    columns = (
        "setting",
        "layers in float",
        "top-1",
        "path",
        "hedged node",
        "largest logit difference",
        "of their range",
    )
    columns += ("noise", "x fp32, batch 1", "batch 8", "MB")
    print("|" + "|".join(columns) + "|\n|" + "---|" * len(columns), flush=True)
    kept = {"min_agreement": 1e-9, "require_faster": False}  # every figure is wanted: nothing is refused
    tried = [QuantizeOptions(mode=mode, most_left_out=0, **kept) for mode in ("static", "fp16", "dynamic")]
    tried += [QuantizeOptions(method=method, mode="static", most_left_out=0, **kept) for method in METHODS[1:]]
    tried.append(QuantizeOptions(mode="static", require_faster=False))  # as the command does: layers are left out
    for options in tried:
        mode, method = options.mode, options.method
        with tempfile.TemporaryDirectory() as folder:
            try:
                report = quantize_export(model, Path(folder) / "model.onnx", pictures, options, judges=judges)
            except Miil21kError as error:
                print(f"|{mode} {method}|{error}|", flush=True)
                continue
        how = report["quantization"]
        found = how["agreement"]
        cells = [f"{mode} {method if mode == 'static' else ''}", f"{len(how['left_out'])} of {how['layers']}"]
        cells += [f"{found[key]:.1%}" for key in ("top1", "path", "hedged")]
        cells += [f"{found['logits']:.2f}", f"{found['logits_relative']:.1%}", f"{found['noise']:.3f}"]
        cells += [f"{how['times_faster'][f'batch {batch}']:.2f}" for batch in (1, 8)]
        print("|" + "|".join([*cells, f"{report['bytes'] / 1e6:.1f}"]) + "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    command = verbs.add_parser("speed")
    command.add_argument("rows", nargs="*", default=ROWS)
    command.add_argument("--rounds", type=int, default=7)
    command = verbs.add_parser("operators")
    command.add_argument("rows", nargs="*", default=ROWS)
    command.add_argument("--rounds", type=int, default=10)
    command.add_argument("--threads", type=int, default=1)
    command = verbs.add_parser("settings")
    for name in ("model", "setting", "judging"):
        command.add_argument(name, type=Path)
    args = parser.parse_args()
    if args.verb == "speed":
        speed(args.rows, args.rounds)
    elif args.verb == "operators":
        operators(args.rows, args.rounds, args.threads)
    else:
        settings(args.model, args.setting, args.judging)


if __name__ == "__main__":
    main()
