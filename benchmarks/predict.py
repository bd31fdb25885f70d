"""One image as a whole process, and a folder of photographs, against what a timm user would write.

    python benchmarks/predict.py [--images 400] [--rounds 3] [--only one|folder|draft]

Prints Markdown. Needs the extra bench: the folder is cut from scikit-image's photographs. Weights are random: speed
does not depend on them. Ours and the peer alternate in one run, and the best of the rounds counts for both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from miil21k.environment import available_cpus

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = "mobilenetv3_large_100.miil_in21k"

# The shortest script that prints five classes for one image and one local checkpoint.
TIMM_ONE_IMAGE = """
import sys, timm, torch
from PIL import Image
model = timm.create_model("mobilenetv3_large_100", num_classes=11221, checkpoint_path=sys.argv[2]).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.inference_mode():
    top = model(transform(Image.open(sys.argv[1]).convert("RGB"))[None]).softmax(-1).topk(5)
print(top.indices.tolist(), top.values.tolist())
"""
OURS_STAGES = """
import json, sys, time
start = time.perf_counter()
stages = {}
def done(name):
    global start
    stages[name] = time.perf_counter() - start
    start = time.perf_counter()
import numpy, PIL.Image
done("import numpy, PIL")
import torch
done("import torch")
import torchvision
done("import torchvision (timm asks for it)")
import timm
done("import timm")
import miil21k.predict.predictor, miil21k.zoo.registry
done("import the rest of miil21k")
from miil21k.runtime import loading
from miil21k.predict.options import PredictOptions
loaded = loading.load_model(sys.argv[3], PredictOptions(checkpoint=sys.argv[2]))
done("build, read the weights, label space")
from miil21k.runtime.torch_backend import TorchBackend
backend = TorchBackend(loaded.model, loaded.space.num_classes, device="cpu")
done("fold the batch norms")
from miil21k.data.images import load_image
from miil21k.data.transforms import crop_image, normalise
batch = normalise(crop_image(load_image(sys.argv[1]), loaded.preprocess)[None], loaded.preprocess)
done("read, decode, crop")
logits = backend.run(batch).logits
done("run the network")
from miil21k.predict.decoding import answers_of, decoder_of
decoder = decoder_of(loaded.space, loaded.space, loaded.head, PredictOptions())
answers_of(decoder.read(logits), PredictOptions())
done("decode the path")
print(json.dumps(stages))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["one", "folder", "draft"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "photographs"
        photographs(folder, args.images)
        checkpoint = random_checkpoint(Path(scratch))
        if args.only in (None, "one"):
            one_image(next(iter(sorted(folder.iterdir()))), checkpoint, args.rounds)
        if args.only in (None, "folder"):
            whole_folder(folder, checkpoint, args.rounds)
        if args.only in (None, "draft"):
            reduced_decoding(Path(scratch))


def photographs(folder: Path, count: int) -> None:
    """Write `count` JPEGs between 500 x 375 and 1024 x 768, random crops of real photographs, recompressed."""
    import skimage.data

    rng = np.random.default_rng(0)
    sources = [skimage.data.chelsea(), skimage.data.coffee(), skimage.data.rocket(), skimage.data.astronaut()]
    pictures = [Image.fromarray(source) for source in sources]
    folder.mkdir()
    for number in range(count):
        picture = pictures[number % len(pictures)]
        part = rng.uniform(0.5, 1.0)
        width, height = int(picture.width * part), int(picture.height * part)
        left, top = rng.integers(0, picture.width - width + 1), rng.integers(0, picture.height - height + 1)
        scale = rng.uniform(500, 1024)
        size = (int(scale), int(scale * 0.75))
        crop = picture.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        crop.save(folder / f"{number:05d}.jpg", quality=int(rng.integers(80, 96)))


def random_checkpoint(folder: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    from miil21k.zoo.registry import create_model

    torch.manual_seed(0)
    path = folder / "random.safetensors"
    save_file({k: v.contiguous() for k, v in create_model(MODEL).state_dict().items()}, path)
    return path


def alternate(functions: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every round of each function, which take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            seconds[name].append(function())
    return seconds


def timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def one_image(image: Path, checkpoint: Path, rounds: int) -> None:
    ours = [sys.executable, "-c", "from miil21k.cli.main import predict_main; import sys; sys.exit(predict_main())"]
    seconds = alternate(
        {
            "timm script": lambda: timed([sys.executable, "-c", TIMM_ONE_IMAGE, str(image), str(checkpoint)]),
            "miil21k-predict": lambda: timed(
                [*ours, str(image), "--model", MODEL, "--checkpoint", str(checkpoint), "--device", "cpu", "-f", "jsonl"]
            ),
        },
        rounds,
    )
    best = {name: min(values) for name, values in seconds.items()}
    print("\n### One image, whole process\n\n| | seconds (best of rounds) | ratio |\n|---|---|---|")
    for name, value in best.items():
        print(f"| {name} | {value:.2f} | {value / best['timm script']:.2f} |")
    command = [sys.executable, "-c", OURS_STAGES, str(image), str(checkpoint), MODEL]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(rounds)
    ]
    total = sum(min(run[stage] for run in runs) for stage in runs[0])
    print("\n| where our time goes | seconds | share |\n|---|---|---|")
    for stage in runs[0]:
        value = min(run[stage] for run in runs)
        print(f"| {stage} | {value:.3f} | {value / total:.0%} |")


def timm_loop(folder: Path, checkpoint: Path, threads: int) -> Callable[[], float]:
    """Return a run of timm's inference loop over the folder: its loader, its model call, softmax, top-k.

    threads: torch's threads for the network. timm's script leaves torch's default, one per core.
    """
    import timm
    import torch
    from timm.data import create_dataset, create_loader

    model = timm.create_model("mobilenetv3_large_100", num_classes=11221, checkpoint_path=str(checkpoint)).eval()
    # The preprocessing that our manifest states: squash to 224, bilinear.
    data = {"input_size": (3, 224, 224), "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"}

    def run() -> float:
        torch.set_num_threads(threads)
        start = time.perf_counter()
        loader = create_loader(
            create_dataset(root=str(folder), name=""),
            batch_size=64,
            use_prefetcher=False,
            num_workers=2,
            mean=(0, 0, 0),
            std=(1, 1, 1),
            device=torch.device("cpu"),
            **data,
        )
        rows = []
        with torch.inference_mode():
            for images, _ in loader:
                values, indices = model(images).softmax(-1).topk(5)
                rows.append((values.float().numpy(), indices.numpy()))
        return time.perf_counter() - start

    return run


def whole_folder(folder: Path, checkpoint: Path, rounds: int) -> None:
    import torch

    from miil21k.data.images import load_image
    from miil21k.data.resizers import resolve_resizer
    from miil21k.data.transforms import crop_image, normalise
    from miil21k.predict.predictor import Predictor

    paths = sorted(folder.iterdir())
    predictor = Predictor(MODEL, checkpoint=checkpoint, device="cpu")
    size, resizer = predictor.batch_size, resolve_resizer("auto")
    crops = np.stack([crop_image(load_image(path), predictor.preprocess) for path in paths[:size]])
    batch = normalise(crops, predictor.preprocess)

    def ours() -> float:
        start = time.perf_counter()
        rows = predictor.predict(paths)
        assert [row.input for row in rows] == [str(path) for path in paths]
        assert all(row.status == "ok" for row in rows)
        return time.perf_counter() - start

    def decode_only() -> float:
        start = time.perf_counter()
        with ThreadPoolExecutor(predictor.workers) as pool:
            list(pool.map(lambda path: crop_image(load_image(path), predictor.preprocess, resizer).shape, paths))
        return time.perf_counter() - start

    def model_only() -> float:
        torch.set_num_threads(available_cpus())
        start = time.perf_counter()
        rounds = max(1, len(paths) // len(batch))  # the folder may be smaller than a batch
        for _ in range(rounds):
            predictor.backend.run(batch)
        return (time.perf_counter() - start) * len(paths) / (rounds * len(batch))

    functions = {
        "timm loop": timm_loop(folder, checkpoint, available_cpus()),
        "timm loop, torch on one thread": timm_loop(folder, checkpoint, 1),
        "miil21k": ours,
        "decoding alone, all cores": decode_only,
        "network alone, all cores": model_only,
    }
    seconds = alternate(functions, rounds)
    best = {name: min(values) for name, values in seconds.items()}
    print(f"\n### Folder of {len(paths)} photographs, {available_cpus()} cores\n")
    print("| | images/s (best of rounds) | ratio to timm |\n|---|---|---|")
    for name, value in best.items():
        print(f"| {name} | {len(paths) / value:.0f} | {best['timm loop'] / value:.2f} |")
    parts = (best["decoding alone, all cores"], best["network alone, all cores"])
    print(
        f"\nOurs reaches {max(parts) / best['miil21k']:.0%} of the slower part alone on all cores, and "
        f"{sum(parts) / best['miil21k']:.0%} of what the same cores can do when they do both parts."
    )
    for peer in ("timm loop", "timm loop, torch on one thread"):
        ratios = [b / a for a, b in zip(seconds["miil21k"], seconds[peer], strict=True)]
        print(f"\nTo the {peer}, in each round: {', '.join(f'{r:.2f}' for r in ratios)}")


def reduced_decoding(scratch: Path) -> None:
    """Say what decoding large JPEGs at reduced scale costs in fidelity, with the embedded network."""
    from miil21k.data.images import load_image
    from miil21k.data.transforms import decode_edge, normalise
    from miil21k.predict.predictor import Predictor

    folder = scratch / "large"
    photographs(folder, 48)
    predictor = Predictor("embedded", device="cpu")
    print("\n### JPEGs of 12 megapixels decoded at reduced scale\n")
    print("| smallest side kept | decoding speed-up | worst PSNR of a crop | same top-1 | most a probability moves |")
    print("|---|---|---|---|---|")
    large = []
    for path in sorted(folder.iterdir()):
        image = load_image(path).resize((4000, 3000), Image.Resampling.BICUBIC)
        image.save(path, quality=90)
        large.append(path)
    full = _crops(large, None, predictor)
    edge = decode_edge(predictor.preprocess)
    for name, reduce_to in (("2 x the resize edge (default)", edge), ("1 x the resize edge", edge // 2)):
        reduced = _crops(large, reduce_to, predictor)
        errors = ((full[0].astype(float) - reduced[0]) ** 2).mean(axis=(1, 2, 3))
        logits = [predictor.backend.run(normalise(c, predictor.preprocess)).logits for c in (full[0], reduced[0])]
        probabilities = [np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in logits]
        agree = (logits[0].argmax(1) == logits[1].argmax(1)).mean()
        change = np.abs(probabilities[0] - probabilities[1]).max()
        psnr = (10 * np.log10(255**2 / np.maximum(errors, 1e-9))).min()
        print(f"| {name} | {full[1] / reduced[1]:.1f} | {psnr:.1f} dB | {agree:.0%} | {change:.3f} |")


def _crops(paths: list[Path], reduce_to: int | None, predictor: object) -> tuple[np.ndarray, float]:
    from miil21k.data.images import load_picture
    from miil21k.data.transforms import crop_picture

    start = time.perf_counter()
    crops = [crop_picture(load_picture(path, reduce_to=reduce_to), predictor.preprocess) for path in paths]
    return np.stack(crops), time.perf_counter() - start


if __name__ == "__main__":
    main()
