"""Measure `miil21k prepare` against the published steps, side by side on this machine; prints Markdown.

    python benchmarks/prepare.py codecs      decode + resize + encode: milliseconds, ratios, PSNR
    python benchmarks/prepare.py pipeline    outer tar to finished layout; peak memory at 1x and 10x
    python benchmarks/prepare.py ray         the local engine and Ray, start and images apart

Needs the extra bench. Images are crops of examples/images at many sizes, with grain, as JPEG of quality 95. The
published script is restated here: OpenCV, eight threads, bilinear without antialiasing. Numbers of one run are
comparable with each other only.
"""

from __future__ import annotations

import argparse
import gzip
import io
import itertools
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from miil21k.distribute.local import LocalEngine
from miil21k.environment import available_cpus
from miil21k.prepare.codec_simplejpeg import SimplejpegConverter
from miil21k.prepare.options import PrepareOptions
from miil21k.prepare.run import prepare

if TYPE_CHECKING:
    from collections.abc import Callable

FAST = PrepareOptions(codec="simplejpeg")
# Widths and heights as they are frequent in ImageNet; then photographs of one to three megapixels.
COMMON = [(500, 375), (375, 500), (500, 333), (500, 375), (640, 480), (400, 300), (500, 500), (333, 500)]
_TURN = 8  # images in one turn: enough for caches to be warm, as they are in a run
MEGAPIXEL = [(1200, 900), (1024, 1024), (900, 1200), (1600, 1200), (2048, 1536)]


def photographs(sizes: list[tuple[int, int]], count: int, quality: int = 95) -> list[bytes]:
    rng = np.random.default_rng(0)
    originals = [
        Image.open(path).convert("RGB") for path in sorted(Path(__file__).parent.parent.glob("examples/images/*.jpg"))
    ]
    images = []
    for index in range(count):
        width, height = sizes[index % len(sizes)]
        original = originals[index % len(originals)]
        scale = max(width / original.width, height / original.height) * rng.uniform(1, 1.3)
        size = max(width, round(original.width * scale)), max(height, round(original.height * scale))
        left, top = rng.integers(0, size[0] - width + 1), rng.integers(0, size[1] - height + 1)
        crop = original.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + width, top + height))
        grainy = np.asarray(crop) + rng.normal(0, 3, (height, width, 1))
        out = io.BytesIO()
        Image.fromarray(np.clip(grainy, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=quality)
        images.append(out.getvalue())
    return images


def published(data: bytes) -> bytes:
    return cv2.imencode(".jpg", published_pixels(data)[:, :, ::-1])[1].tobytes()


def published_pixels(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.resize(image, (224, 224), interpolation=cv2.INTER_LINEAR)[:, :, ::-1]


def entropy_only(data: bytes, buffer: np.ndarray) -> None:
    simplejpeg.decode_jpeg(data, min_height=1, min_width=1, buffer=buffer)


def antialiased(pixels: np.ndarray, side: int = 224) -> np.ndarray:
    """Return what torch makes of uint8 or float64 [height, width, channels]."""
    # Here, since `prepare` never imports it, and must not be timed with its half a million objects, through which
    # Python's garbage collector would go again and again.
    import torch

    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(batch, size=(side, side), mode="bilinear", antialias=True)
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())


def ready_parts(data: bytes, smallest: int = 224, factor: float = 2) -> np.ndarray:
    """Return what simplejpeg and torch give when they are called as they come."""
    return antialiased(simplejpeg.decode_jpeg(data, min_height=smallest, min_width=smallest, min_factor=factor))


def pillow_ycbcr(data: bytes) -> np.ndarray:
    """Return the image resized in YCbCr, without colour conversion on the way."""
    image = Image.open(io.BytesIO(data))
    image.draft("YCbCr", (224, 224))
    return np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR).convert("RGB"))


def converter_pixels(converter: SimplejpegConverter, data: bytes) -> np.ndarray:
    """Return the pixels that the converter encodes."""
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    pixels = converter.resized(data, (width, height), (224, 224))
    return pixels[:, :, ::-1] if converter is PUBLISHED else pixels[:, :, :3]


PUBLISHED = SimplejpegConverter(PrepareOptions(codec="simplejpeg", resize="published"))
ANTIALIASED = SimplejpegConverter(FAST)


def with_encoding(pixels: Callable[[bytes], np.ndarray]) -> Callable[[bytes], object]:
    return lambda data: simplejpeg.encode_jpeg(pixels(data), 95, "RGB", "420")


def planes(data: bytes) -> None:
    """Decode to YCbCr planes, resize each at its own resolution, encode the planes."""
    found = [np.ascontiguousarray(plane)[:, :, None] for plane in TURBOJPEG.decode_to_yuv_planes(data)]
    resized = [antialiased(plane, side)[:, :, 0] for plane, side in zip(found, (224, 112, 112), strict=True)]
    simplejpeg.encode_jpeg_yuv_planes(*resized, 95)


try:
    import turbojpeg

    TURBOJPEG = turbojpeg.TurboJPEG()
except (ImportError, RuntimeError, OSError):
    TURBOJPEG = None


def milliseconds(work: dict[str, Callable[[bytes], object]], images: list[bytes], seconds: float) -> dict[str, float]:
    """Return the CPU time per image of every contender: the sum over parts of the best of many short turns.

    Other work on the machine only ever adds time, so the best turn is the one it disturbed least.
    """
    parts = [images[start : start + _TURN] for start in range(0, len(images), _TURN)]
    best = {name: [float("inf")] * len(parts) for name in work}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for index, part in enumerate(parts):
            for name, one in work.items():
                start = time.process_time_ns()
                for data in part:
                    one(data)
                best[name][index] = min(best[name][index], time.process_time_ns() - start)
    return {name: sum(found) / len(images) / 1e6 for name, found in best.items()}


def psnr(pixels: Callable[[bytes], np.ndarray], images: list[bytes]) -> tuple[float, float]:
    """Return 5th percentile and median against the exact filter on the whole image, before encoding."""
    values = []
    for data in images:
        exact = antialiased(simplejpeg.decode_jpeg(data).astype(np.float64))
        values.append(10 * np.log10(255**2 / np.mean((pixels(data) - exact) ** 2)))
    return float(np.percentile(values, 5)), float(np.median(values))


def codecs(seconds: float) -> None:
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    ours = partial(converter_pixels, ANTIALIASED)
    shown: dict[str, Callable[[bytes], np.ndarray]] = {
        "published: OpenCV": published_pixels,
        "**antialiased (default)**": ours,
        "**--resize published**": partial(converter_pixels, PUBLISHED),
        "ready parts, whole image": lambda data: antialiased(simplejpeg.decode_jpeg(data)),
        "ready parts, n/8, factor 2 or more": ready_parts,
        "ready parts, n/8, any factor": partial(ready_parts, factor=1),
        "Pillow, YCbCr": pillow_ycbcr,
    }
    work = {name: with_encoding(pixels) for name, pixels in shown.items()}
    work["published: OpenCV"] = published
    work["**antialiased (default)**"] = ANTIALIASED.convert
    work["**--resize published**"] = PUBLISHED.convert
    work["decoding alone, at 1/8"] = partial(entropy_only, buffer=np.empty(1 << 24, np.uint8))
    if TURBOJPEG:
        work["YCbCr planes"] = planes
    for title, sizes, count in (("ImageNet-sized", COMMON, 64), ("one to three megapixels", MEGAPIXEL, 20)):
        images = photographs(sizes, count)
        print(f"\n{title}: {count} photographs, {sum(map(len, images)) / count / 1000:.0f} kB each\n")
        print("| decode + resize to 224 + encode | CPU ms | rate | PSNR p5 | PSNR median |\n|---|---|---|---|---|")
        times = milliseconds(work, images, seconds)
        for name, spent in times.items():
            low, middle = psnr(shown[name], images) if name in shown else (float("nan"),) * 2
            quality = f"{low:.1f} | {middle:.1f}" if name in shown else "- | -"
            print(f"| {name} | {spent:.2f} | {times['published: OpenCV'] / spent:.2f}x | {quality} |")
        threads_against_processes(images)


def threads_against_processes(images: list[bytes]) -> None:
    """Print images per second of CPU time, all cores at work: eight threads, as the published script has them, against
    one process per core of ours."""
    cores = available_cpus()
    many = images * max(1, 6_000_000 // sum(map(len, images)))
    script = "published, 8 threads"
    ours = {f"antialiased, {cores} processes": ANTIALIASED, f"--resize published, {cores} processes": PUBLISHED}
    best = dict.fromkeys((script, *ours), 0.0)
    with ThreadPoolExecutor(8) as threads, ProcessPoolExecutor(cores) as processes:
        for _ in range(6):
            start = time.process_time()
            list(threads.map(published, many))
            best[script] = max(best[script], len(many) / (time.process_time() - start))
            for name, converter in ours.items():
                parts = [many[core::cores] for core in range(cores)]
                spent = sum(processes.map(convert_all, parts, [converter is PUBLISHED] * cores))
                best[name] = max(best[name], len(many) / spent)
    print()
    for name, rate in best.items():
        print(f"{name}: {rate:,.0f} images per CPU second ({rate / best[script]:.2f}x)  ")


def convert_all(images: list[bytes], aliased: bool = False) -> float:
    """Convert; return the CPU seconds it took."""
    converter = PUBLISHED if aliased else ANTIALIASED
    start = time.process_time()
    for data in images:
        converter.convert(data)
    return time.process_time() - start


def write_archive(path: Path, images: list[bytes], classes: int, per_class: int) -> int:
    """Write an outer tar; every fourth class is small. Return the number of images."""
    total = 0
    with tarfile.open(path, "w") as outer:
        for number in range(classes):
            wnid = f"n{number:08d}"
            count = per_class // 2 if number % 4 == 3 else per_class
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for index in range(count):
                    data = images[(number * 31 + index) % len(images)]
                    info = tarfile.TarInfo(f"{wnid}_{index}.JPEG")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
            info = tarfile.TarInfo(f"whole/{wnid}.tar")
            info.size = inner.tell()
            inner.seek(0)
            outer.addfile(info, inner)
            total += count
    return total


def published_steps(outer: Path, target: Path, min_images: int) -> None:
    """Unpack, unpack per class, move small classes, move the first 50, read again, resize, write: eight threads."""
    raw, train, val, small = (target / name for name in ("raw", "train", "val", "small"))
    subprocess.run(["mkdir", "-p", raw, train, val, small], check=True)
    subprocess.run(["tar", "-xf", outer, "-C", raw, "--strip-components=1"], check=True)
    for archive in sorted(raw.glob("*.tar")):
        (train / archive.stem).mkdir()
        subprocess.run(["tar", "-xf", archive, "-C", train / archive.stem], check=True)
        archive.unlink()
    for folder in sorted(train.iterdir()):
        names = sorted(path.name for path in folder.iterdir())
        if len(names) <= min_images:
            folder.rename(small / folder.name)
            continue
        (val / folder.name).mkdir()
        for name in names[:50]:
            (folder / name).rename(val / folder.name / name)
    files = [path for place in (train, val, small) for path in place.glob("*/*")]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(resize_file, files))


def resize_file(path: Path) -> None:
    image = cv2.imread(str(path))
    cv2.imwrite(str(path), cv2.resize(image, (224, 224), interpolation=cv2.INTER_LINEAR))


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Return wall-clock and CPU seconds, ended child processes included."""
    before, start = _cpu_seconds(), time.perf_counter()
    run()
    return time.perf_counter() - start, _cpu_seconds() - before


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(found.ru_utime + found.ru_stime for found in used)


def pipeline(folder: Path, per_class: int, rounds: int) -> None:
    cores = available_cpus()
    images = photographs(COMMON, 256)
    outer = folder / "outer.tar"
    count = write_archive(outer, images, 40, per_class)
    many = (images * (count // len(images) + 1))[:count]
    options = PrepareOptions(codec="simplejpeg", min_images=per_class - 1)
    best: dict[str, list[float]] = {}
    for number in range(rounds):
        target = folder / str(number)  # a new one each time: ext4 is slow to create files where others were deleted
        runs = {
            "published steps": partial(published_steps, outer, target / "a", per_class - 1),
            "prepare, in one process": partial(run_prepare, outer, target / "b", options, 1),
            f"`miil21k prepare --workers {cores}`, starts included": partial(
                command_line, outer, target / "c", ["--min-images", str(per_class - 1), "--workers", str(cores)]
            ),
            "conversion alone, no files": partial(convert_all, many),
        }
        for name, run in runs.items():
            best[name] = [min(pair) for pair in zip(best.get(name, [1e9, 1e9]), timed(run), strict=True)]
    print(f"\n{count:,} images in 40 classes, outer tar to finished folders\n", flush=True)
    print("| | images/s | ratio | images per CPU second | ratio |\n|---|---|---|---|---|")
    wall, cpu = best["published steps"]
    for name, (seconds, spent) in best.items():
        print(
            f"| {name} | {count / seconds:,.0f} | {wall / seconds:.2f}x | {count / spent:,.0f} | {cpu / spent:.2f}x |"
        )
    memory(folder, images)


def run_prepare(source: Path, target: Path, options: PrepareOptions, workers: int) -> None:
    prepare(str(source), target, options, LocalEngine(workers), release="none")


def command_line(source: Path, target: Path, options: list[str], code: str = "") -> str:
    """Run `miil21k prepare` in a process of its own, then `code` in it; return what it wrote to stderr."""
    start = f"import sys; from miil21k.cli.main import main; main(sys.argv[1:]); {code}"
    words = [sys.executable, "-c", start, "prepare", source, target, "--release", "none", *options]
    return subprocess.run(words, check=True, capture_output=True, text=True).stderr


def memory(folder: Path, images: list[bytes]) -> None:
    """Print the largest worker, and the process that leads them, of a run at 1x and 10x, plain and compressed."""
    print("\n| archive | images | largest worker | leading process |\n|---|---|---|---|", flush=True)
    # VmHWM: the leader's ru_maxrss would be that of this process, which started it.
    code = (
        "import resource; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, next(line.split()[1] for line "
        "in open('/proc/self/status') if line.startswith('VmHWM')), file=sys.stderr)"
    )
    for name, classes in (("1x", 8), ("10x", 80)):
        count = write_archive(folder / "outer.tar", images, classes, 100)
        with (folder / "outer.tar").open("rb") as plain, gzip.open(folder / "outer.tar.gz", "wb", 1) as packed:
            shutil.copyfileobj(plain, packed, 1 << 20)
        for kind in ("tar", "tar.gz"):
            target = folder / f"memory {name} {kind}"
            said = command_line(folder / f"outer.{kind}", target, ["--min-images", "60", "--workers", "2"], code)
            worker, leader = (int(found) / 1024 for found in said.splitlines()[-1].split())
            print(f"| {name}, {kind} | {count:,} | {worker:.0f} MiB | {leader:.0f} MiB |", flush=True)


def ray_against_local(folder: Path, per_class: int, rounds: int) -> None:
    """Print what `miil21k prepare` costs with either engine; Ray's cluster runs already.

    Each is run over a quarter of the classes and over all of them, by turns: the difference is the cost of an image
    once all processes have started, what is left is the start. CPU seconds are those of every process, Ray's included.
    """
    import ray
    from bulk import Cost, CpuClock

    counts = {}
    images = photographs(COMMON, 256)
    for classes in (10, 40):
        counts[classes] = write_archive(folder / f"{classes}.tar", images, classes, per_class)
    os.environ.update(RAY_worker_niceness="0")  # as `RayEngine` has it
    address = ray.init(include_dashboard=False, log_to_driver=False).address_info["gcs_address"]
    options = ["--min-images", str(per_class - 1)]
    engines = {"local": ["--workers", str(available_cpus())], "ray": ["--engine", "ray", "--address", address]}
    few, many = counts
    clock = CpuClock()
    # A new cluster has workers at hand for the first command; for every other one it starts them.
    command_line(folder / f"{few}.tar", folder / "first", [*options, *engines["ray"]])
    found: dict[tuple[str, str, int], list[Cost]] = {}
    for number, layout, classes, name in itertools.product(range(rounds), ("folders", "webdataset"), counts, engines):
        target = folder / f"{layout} {classes} {name} {number}"
        cpu, start = clock.seconds(), time.perf_counter()
        command_line(folder / f"{classes}.tar", target, [*options, *engines[name], "--format", layout])
        cost = Cost(time.perf_counter() - start, clock.seconds() - cpu)
        found.setdefault((layout, name, classes), []).append(cost)
    ray.shutdown()
    best = {key: Cost(*map(min, zip(*costs, strict=True))) for key, costs in found.items()}
    print(f"\n{counts[many]:,} images in {many} classes\n")
    print(
        "| | engine | images/s once started | ratio | CPU ms each | ratio | seconds to start | whole command | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for layout in ("folders", "webdataset"):
        each = {}
        for name in engines:
            short, long = best[layout, name, few], best[layout, name, many]
            each[name] = Cost(*((b - a) / (counts[many] - counts[few]) for a, b in zip(short, long, strict=True)))
        for name, one in each.items():
            whole, local = best[layout, name, many].wall, best[layout, "local", many].wall
            print(
                f"| {layout} | {name} | {1 / one.wall:,.0f} | {each['local'].wall / one.wall:.2f}x "
                f"| {1000 * one.cpu:.2f} | {each['local'].cpu / one.cpu:.2f}x | {whole - counts[many] * one.wall:.1f} "
                f"| {counts[many] / whole:,.0f} images/s | {local / whole:.2f}x |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("codecs", "pipeline", "ray"))
    parser.add_argument("--per-class", type=int, default=570, help="images of a kept class (default: 570)")
    parser.add_argument("--rounds", type=int, default=2, help="of pipeline and ray; the best counts (default: 2)")
    parser.add_argument("--seconds", type=float, default=30, help="of each table of codecs (default: 30)")
    args = parser.parse_args()
    if args.part == "codecs":
        codecs(args.seconds)
        return
    with tempfile.TemporaryDirectory() as folder:
        (pipeline if args.part == "pipeline" else ray_against_local)(Path(folder), args.per_class, args.rounds)


if __name__ == "__main__":
    main()
