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


class Prepared:
    """A row of the zoo, exported with its own weights where it has them, and what its INT8 files are made from."""

    def __init__(self, name: str, folder: str, form: str) -> None:
        import onnx
        from export_zoo import random_model

        from miil21k.data.images import load_image
        from miil21k.data.transforms import crop_image, normalise
        from miil21k.export.onnx.file import export_onnx, own_photographs
        from miil21k.export.options import ExportOptions
        from miil21k.export.quantize.network_part import take_network
        from miil21k.export.quantize.precision import measure_ranges
        from miil21k.predict.options import PredictOptions
        from miil21k.runtime.loading import load_model
        from miil21k.zoo.export_card import read_export_card
        from miil21k.zoo.manifest import find_weights

        self.name = find_weights(name).name
        self.loaded = load_model(name, PredictOptions()) if name == "embedded" else random_model(find_weights(name))
        self.folder = Path(folder)
        self.paths = {"fp32": self.folder / "fp32.onnx"}
        export_onnx(self.loaded, self.paths["fp32"], ExportOptions(form=form))
        self.card, self.model = read_export_card(self.paths["fp32"]), onnx.load(self.paths["fp32"])
        self.network = take_network(self.model, self.card.preprocess.input_size)
        self.crops = np.stack([crop_image(load_image(photo), self.card.preprocess) for photo in own_photographs()])
        self._ranges = measure_ranges(self.network, iter([normalise(self.crops, self.card.preprocess)]), "minmax")

    def write_int8(self, what: str, leave_out: tuple[str, ...] = ()) -> None:
        import onnx

        from miil21k.export.quantize.network_part import put_network
        from miil21k.export.quantize.precision import static_int8

        self.paths[what] = self.folder / f"{len(self.paths)}.onnx"
        narrow = static_int8(self.network, self._ranges, leave_out=leave_out)
        onnx.save(put_network(self.model, narrow), self.paths[what])

    def engines(self) -> dict:
        """Return each file in each library that is installed."""
        from miil21k.runtime.loading import open_export

        found = {}
        for library in ("onnx", "openvino"):
            with suppress(ImportError):
                for what, path in self.paths.items():
                    found[library, what] = open_export(path, self.card, backend=library, device="cpu", dtype="fp32")
        return found


def speed(names: list[str], rounds: int) -> None:
    import torch

    from miil21k.data.transforms import normalise
    from miil21k.environment import available_cpus

    torch.set_num_threads(available_cpus())
    columns = ("model", "runs in", "images/s", "x torch eager", "x fp32 there", "MB", "floor")
    print("|" + "|".join(columns) + "|\n|" + "---|" * len(columns), flush=True)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            row = Prepared(name, folder, "full")
            row.write_int8("int8")
            _, height, width = row.card.preprocess.input_size
            crops = np.random.default_rng(0).integers(0, 256, (BATCH, height, width, 3), np.uint8)
            pixels = torch.from_numpy(normalise(crops, row.card.preprocess))
            runs = {("torch eager", "fp32"): lambda m=row.loaded.model, p=pixels: m(p)}
            runs |= {key: lambda e=engine, c=crops: e.run(c) for key, engine in row.engines().items()}
            best = _turns(runs, rounds)
            sizes = {precision: f"{path.stat().st_size / 1e6:.0f}" for precision, path in row.paths.items()}
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
    from miil21k.data.transforms import normalise

    print("|model|quantised|runs in|x fp32, batch 1|batch 8|\n|---|---|---|---|---|", flush=True)
    for name in names:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as few_threads:
            row = Prepared(name, folder, "tensor")
            for what, kinds in LEFT_OUT.items():
                stay = tuple(
                    node.name
                    for node in row.network.graph.node
                    if node.op_type in kinds or ("se" in kinds and any(".se." in tensor for tensor in node.input))
                )
                if stay or not kinds:
                    row.write_int8(what, stay)
            engines = row.engines()
            for engine in engines.values():
                few_threads.enter_context(engine.threads(threads))
            pixels = normalise(np.tile(row.crops, (3, 1, 1, 1))[:BATCH], row.card.preprocess)
            best = []
            for few in (pixels[:1], pixels):
                runs = {key: lambda e=engine, p=few: e.run(p) for key, engine in engines.items()}
                best.append(_turns(runs, rounds))
        for library, what in engines:
            ratios = [f"{seconds[library, 'fp32'] / seconds[library, what]:.2f}" for seconds in best]
            print("|" + "|".join((row.name, what, library, *ratios)) + "|", flush=True)


def settings(model: Path, setting: Path, judging: Path) -> None:
    from typing import get_args

    from miil21k.errors import Miil21kError
    from miil21k.export.onnx.file import photographs_in
    from miil21k.export.options import Method, QuantizeOptions
    from miil21k.export.quantize.quantize import quantize_onnx

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
    tried += [QuantizeOptions(method=method, mode="static", most_left_out=0, **kept) for method in get_args(Method)[1:]]
    tried.append(QuantizeOptions(mode="static", require_faster=False))  # as the command does: layers are left out
    for options in tried:
        mode, method = options.mode, options.method
        with tempfile.TemporaryDirectory() as folder:
            try:
                report = quantize_onnx(model, Path(folder) / "model.onnx", pictures, options, judges=judges)
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
