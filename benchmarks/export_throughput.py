"""How many images a second an export answers, per backend, against torch eager and timm's inference loop.

    python benchmarks/export_throughput.py network [NAME ...]   the network alone, batches of 16
    python benchmarks/export_throughput.py folder [NAME ...]    a folder of 400 photographs, files to rows
    python benchmarks/export_throughput.py decoders             from file to crop: decoders and resizers
    python benchmarks/export_throughput.py bfloat16 FILE DIR    how often bf16 answers as fp32 does, in OpenVINO

Prints Markdown. Needs the extra bench. Weights are random: speed does not depend on them. All contenders take turns
in one run on the cores that the process may use, and the best of the rounds counts for each; numbers of different
runs do not compare. --exports DIR keeps the exports.
On a machine with other load, `network --busy` compares one thread each by the time of the processor.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from export_zoo import random_model
from predict import alternate, photographs

from miil21k.data.images import load_image, load_picture
from miil21k.data.resizers import resolve_resizer
from miil21k.data.transforms import crop_image, crop_picture, decode_edge, normalise
from miil21k.environment import available_cpus
from miil21k.runtime.loading import open_export
from miil21k.zoo.export_card import read_export_card
from miil21k.zoo.manifest import find_weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.data.resizers import ResizerName

NAMES = ("mobilenetv3_large_100_21k", "tresnet_m_21k")
BATCH = 16
# What answers a folder: backend and precision.
CONTENDERS = {
    "torch": ("torch", "fp32"),
    "onnx": ("onnx", "fp32"),
    "openvino": ("openvino", "fp32"),
    "openvino, bf16": ("openvino", "bf16"),
}


def export_of(name: str, folder: Path) -> Path:
    """Return the export of random weights in `folder`, and beside it the weights themselves; made when missing."""
    from safetensors.torch import save_file

    from miil21k.export.onnx.file import export_onnx

    path = folder / f"{name}.onnx"
    if not path.exists():
        loaded = random_model(find_weights(name))
        tensors = {key: value.contiguous() for key, value in loaded.model.state_dict().items()}
        save_file(tensors, path.with_suffix(".safetensors"))
        export_onnx(loaded, path)
    return path


def timm_model(name: str, path: Path):
    """Return the network as timm's scripts run it: eager, float32, its memory format left alone."""
    import timm

    row = find_weights(name)
    weights = str(path.with_suffix(".safetensors"))
    return timm.create_model(row.arch, num_classes=read_export_card(path).space.num_classes, checkpoint_path=weights)


def opened(path: Path, backend: str, dtype: str = "fp32"):
    return open_export(path, read_export_card(path), backend=backend, device="cpu", dtype=dtype)


def has_bfloat16() -> bool:
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def network(name: str, folder: Path, rounds: int, batches: int, *, compiled: bool, busy: bool) -> None:
    """Print the table of one network; busy: one thread for each, by the time of the processor."""
    import torch

    path = export_of(name, folder)
    card = read_export_card(path)
    shape = (BATCH, *card.preprocess.input_size[1:], 3)
    crops = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    pixels = torch.from_numpy(normalise(crops, card.preprocess))
    cpus, clock = (1, time.process_time) if busy else (available_cpus(), time.perf_counter)
    model = timm_model(name, path).eval()

    def eager(net: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], float]:
        def run() -> float:
            torch.set_num_threads(cpus)
            with torch.inference_mode():
                return _seconds(lambda: [net(pixels) for _ in range(batches)], clock)

        return run

    def side_by_side(backends: list, threads: int) -> Callable[[], float]:
        """One caller per entry of `backends`; an entry that comes twice is one session with two callers."""

        def run() -> float:
            share = batches // len(backends)

            def calls(backend) -> None:
                with backend.threads(threads):
                    for _ in range(share):
                        backend.run(crops)

            with ThreadPoolExecutor(len(backends)) as pool:
                seconds = _seconds(lambda: list(pool.map(calls, backends)), clock)
            return seconds * batches / (share * len(backends))

        return run

    onnx, openvino = opened(path, "onnx"), opened(path, "openvino")
    functions = {f"torch eager, {cpus} threads": eager(model)}
    if compiled:
        functions[f"torch.compile, {cpus} threads"] = eager(torch.compile(model))
    functions |= {
        f"ONNX Runtime, one session of {cpus} threads": side_by_side([onnx], cpus),
        f"OpenVINO, one stream of {cpus} threads": side_by_side([openvino], cpus),
    }
    if not busy:
        sessions = [opened(path, "onnx") for _ in range(cpus)]
        functions |= {
            f"ONNX Runtime, {cpus} sessions of one thread": side_by_side(sessions, 1),
            f"ONNX Runtime, one session, {cpus} callers of one thread (`onnx`)": side_by_side([onnx] * cpus, 1),
            f"OpenVINO, {cpus} streams of one thread (`openvino`)": side_by_side([openvino] * cpus, 1),
        }
        if has_bfloat16():
            rounded = opened(path, "openvino", "bf16")
            functions[f"the same, `--dtype bf16`, {cpus} streams"] = side_by_side([rounded] * cpus, 1)
    for function in functions.values():  # compiles, allocates, fills caches
        function()
    best = {key: min(values) for key, values in alternate(functions, rounds).items()}
    peer = best[f"torch eager, {cpus} threads"]
    unit = "time of the processor" if busy else "wall time"
    print(f"\n### {name}, network alone, {cpus} cores, batches of {BATCH}, {unit}\n")
    print("| | images/s | ratio to torch eager |\n|---|---|---|")
    for key, seconds in best.items():
        print(f"| {key} | {batches * BATCH / seconds:.1f} | {peer / seconds:.2f} |", flush=True)


def _seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def folder_of_photographs(name: str, folder: Path, images: Path, rounds: int) -> None:
    from miil21k.predict.predictor import Predictor

    path = export_of(name, folder)
    card = read_export_card(path)
    paths = sorted(images.iterdir())
    edge, workers, resizer = decode_edge(card.preprocess), available_cpus(), resolve_resizer("auto")

    def decode_only() -> float:
        def crop(path: Path) -> np.ndarray:
            return crop_picture(load_picture(path, reduce_to=edge), card.preprocess, resizer)

        with ThreadPoolExecutor(workers) as pool:
            return _seconds(lambda: list(pool.map(crop, paths)))

    functions = {
        "timm loop": timm_loop(name, path, images),
        "timm script, whole process": lambda: _timed([*TIMM_SCRIPT, *_timm_words(name, path, images)]),
        "decoding alone": decode_only,
    }
    contenders = {key: found for key, found in CONTENDERS.items() if found[1] == "fp32" or has_bfloat16()}
    for key, (backend, dtype) in contenders.items():
        model = [card.model, "--checkpoint", str(path.with_suffix(".safetensors"))] if backend == "torch" else [path]
        options = {"checkpoint": model[2]} if backend == "torch" else {}
        predictor = Predictor(str(model[0]), backend=backend, device="cpu", dtype=dtype, **options)
        functions[f"{key}: network alone"] = _network_only(predictor, len(paths))
        functions[f"{key}: files to rows"] = _files_to_rows(predictor, paths)
        command = [sys.executable, "-m", "miil21k", "predict", "-q", "--device", "cpu", "--backend", backend]
        command += ["--dtype", dtype, str(images), "-o", str(folder / "rows.jsonl"), "--overwrite"]
        command += ["-m", *map(str, model)]
        functions[f"{key}: whole command"] = lambda words=command: _timed(words)
    best = {key: min(values) for key, values in alternate(functions, rounds).items()}
    print(f"\n### {name}, folder of {len(paths)} photographs, {workers} cores\n")
    print("| | images/s | ratio to timm's loop | ratio to timm's whole process |\n|---|---|---|---|")
    for key, seconds in best.items():
        ratios = [best[peer] / seconds for peer in ("timm loop", "timm script, whole process")]
        print(f"| {key} | {len(paths) / seconds:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} |", flush=True)
    for contender in contenders:
        parts = best["decoding alone"], best[f"{contender}: network alone"]
        for what in ("files to rows", "whole command"):
            whole = best[f"{contender}: {what}"]
            print(
                f"\n{contender}, {what}: {max(parts) / whole:.0%} of the slower part alone on all cores, "
                f"{sum(parts) / whole:.0%} of what these cores can do when they do both parts."
            )


def _network_only(predictor, count: int) -> Callable[[], float]:
    """Return a run of the network over as many images, as `Predictor.stream` runs it: one thread per caller."""
    size, workers = predictor.batch_size, predictor.workers
    height, width = predictor.preprocess.input_size[1:]
    crops = np.random.default_rng(0).integers(0, 256, (size, height, width, 3), np.uint8)

    def call(_number: int) -> None:
        images = crops if predictor.backend.normalises else normalise(crops, predictor.preprocess)
        predictor.backend.run(images)

    def run() -> float:
        with predictor.backend.threads(1), ThreadPoolExecutor(workers) as pool:
            return _seconds(lambda: list(pool.map(call, range(-(-count // size))))) * count / (-(-count // size) * size)

    return run


def _files_to_rows(predictor, paths: list[Path]) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        rows = predictor.predict(paths)
        seconds = time.perf_counter() - start
        assert [row.input for row in rows] == [str(path) for path in paths]
        assert all(row.status == "ok" for row in rows)
        return seconds

    return run


def _timed(command: list[str]) -> float:
    return _seconds(lambda: subprocess.run(command, check=True, capture_output=True))


# What timm's own inference script does with a folder: its loader with two processes, the eager network, softmax, top-k.
TIMM_LOOP = """
import sys, timm, torch
from timm.data import create_dataset, create_loader

def loop(model, images, size):
    loader = create_loader(
        create_dataset(root=images, name=""), batch_size=64, use_prefetcher=False, num_workers=2,
        input_size=(3, size, size), interpolation="bilinear", crop_pct=1.0, crop_mode="squash",
        mean=(0, 0, 0), std=(1, 1, 1), device=torch.device("cpu"),
    )
    rows = []
    with torch.inference_mode():
        for batch, _ in loader:
            values, indices = model(batch).softmax(-1).topk(5)
            rows.append((values.numpy(), indices.numpy()))
    return rows
"""
TIMM_SCRIPT = [
    sys.executable,
    "-c",
    TIMM_LOOP
    + """
arch, classes, checkpoint, images, size = sys.argv[1:]
model = timm.create_model(arch, num_classes=int(classes), checkpoint_path=checkpoint).eval()
loop(model, images, int(size))
""",
]


def _timm_words(name: str, path: Path, images: Path) -> list[str]:
    card = read_export_card(path)
    weights = path.with_suffix(".safetensors")
    arch, size = find_weights(name).arch, card.preprocess.input_size[1]
    return [arch, str(card.space.num_classes), str(weights), str(images), str(size)]


def timm_loop(name: str, path: Path, images: Path) -> Callable[[], float]:
    """Return a run of timm's loop in this process, its imports and the building of the model left out."""
    import torch

    scope: dict = {}
    exec(TIMM_LOOP, scope)
    model = timm_model(name, path).eval()
    size = read_export_card(path).preprocess.input_size[1]

    def run() -> float:
        torch.set_num_threads(available_cpus())
        return _seconds(lambda: scope["loop"](model, str(images), size))

    return run


def decoders(images: Path, rounds: int) -> None:
    """Compare decoders and resizers, from file to crop, and what the crops differ by."""
    from PIL import Image
    from simplejpeg import decode_jpeg

    preprocess = find_weights(NAMES[0]).preprocess
    edge, paths = decode_edge(preprocess), sorted(images.iterdir())

    def pillow(path: Path, resizer: ResizerName = "pillow") -> np.ndarray:
        return crop_picture(load_picture(path, reduce_to=edge), preprocess, resizer)

    def scaled(path: Path, least: int, *, fast: bool = False, resizer: ResizerName = "cykooz") -> np.ndarray:
        found = decode_jpeg(path.read_bytes(), "RGB", fast, fast, min_height=least, min_width=least)
        return crop_image(Image.fromarray(found), preprocess, resizer)

    first = "Pillow, draft at twice the edge"
    contenders: dict[str, Callable[[Path], np.ndarray]] = {
        first: pillow,
        "simplejpeg, twice the edge, Pillow resizes": lambda path: scaled(path, edge, resizer="pillow"),
        "Pillow, draft at twice the edge, cykooz resizes (`fast`)": lambda path: pillow(path, "cykooz"),
        "simplejpeg, twice the edge, cykooz": lambda path: scaled(path, edge),
        "simplejpeg, twice the edge, fast DCT and chroma, cykooz": lambda path: scaled(path, edge, fast=True),
        "simplejpeg, the edge, cykooz": lambda path: scaled(path, edge // 2),
    }

    def reading(read: Callable[[Path], np.ndarray]) -> Callable[[], float]:
        return lambda: _seconds(lambda: [read(path) for path in paths], time.process_time)

    functions = {key: reading(read) for key, read in contenders.items()}
    best = {key: min(values) for key, values in alternate(functions, rounds).items()}
    full = [crop_image(load_image(path), preprocess).astype(int) for path in paths]
    print(f"\n### {len(paths)} photographs from file to crop, one thread, time of the processor\n")
    print("| | images/s | ratio to Pillow | most grey levels from Pillow's full decode | mean |\n|---|---|---|---|---|")
    for key, seconds in best.items():
        apart = [np.abs(contenders[key](path) - whole) for path, whole in zip(paths, full, strict=True)]
        most, mean = max(a.max() for a in apart), np.mean([a.mean() for a in apart])
        print(f"| {key} | {len(paths) / seconds:.0f} | {best[first] / seconds:.2f} | {most} | {mean:.2f} |")


def bfloat16(path: Path, folder: Path) -> None:
    """Compare the answers of an export in bf16 with those in fp32 on the pictures of a folder."""
    from miil21k.predict.predictor import Predictor

    pictures = sorted(folder.iterdir())
    answers = {}
    for dtype in ("fp32", "bf16"):
        predictor = Predictor(str(path), backend="openvino", device="cpu", dtype=dtype, hedge=0.9)
        answers[dtype] = [answer for answer in predictor.predict(pictures) if answer.status == "ok"]
    pairs = list(zip(*answers.values(), strict=True))
    same = {
        "best class": [exact.topk[0].wnid == rounded.topk[0].wnid for exact, rounded in pairs],
        "path, hedged at 0.9": [
            [node.wnid for node in exact.path] == [node.wnid for node in rounded.path] for exact, rounded in pairs
        ],
    }
    moved = [abs(exact.topk[0].probability - rounded.topk[0].probability) for exact, rounded in pairs]
    print(f"\n{path.name}, {len(pairs)} pictures, bf16 against fp32 in OpenVINO\n")
    print("".join(f"{key} the same: {np.mean(found):.1%}  \n" for key, found in same.items()), end="")
    print(f"the best probability moves by {np.mean(moved):.4f} on average, {max(moved):.4f} at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("network", "folder", "decoders", "bfloat16"))
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=8, help="per round, for network")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--compile", action="store_true", help="torch.compile too, which takes minutes")
    parser.add_argument("--busy", action="store_true", help="network on one thread, by the time of the processor")
    parser.add_argument("--exports", type=Path, metavar="DIR", help="keep the exports there, and use those that are")
    args = parser.parse_intermixed_args()
    if args.what == "bfloat16":
        bfloat16(*map(Path, args.names))
        return
    with tempfile.TemporaryDirectory() as scratch:
        exports = args.exports or Path(scratch)
        exports.mkdir(parents=True, exist_ok=True)
        images = Path(scratch) / "photographs"
        if args.what != "network":
            photographs(images, args.images)
        if args.what == "decoders":
            decoders(images, args.rounds)
        for name in args.names or NAMES:
            if args.what == "network":
                network(name, exports, args.rounds, args.batches, compiled=args.compile, busy=args.busy)
            elif args.what == "folder":
                folder_of_photographs(name, exports, images, args.rounds)


if __name__ == "__main__":
    main()
