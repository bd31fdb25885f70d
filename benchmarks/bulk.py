"""Shards predicted by the plain command, by the local engine and by Ray, on one machine.

    python benchmarks/bulk.py [--images 960] [--shards 12] [--rounds 3] [--backend torch]

Prints Markdown. Needs the extra bench. Each command is run over a quarter of the shards and over all of them, by
turns, and the best of the rounds counts: the difference is the cost of an image once all have started, what is left
is the start. CPU seconds are those of every process under this one, Ray's included; they mean something on a busy
machine too. The rows must be the same, byte for byte.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from predict import photographs

from miil21k.environment import available_cpus


class Cost(NamedTuple):
    """Seconds of the clock, and of all cores together."""

    wall: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=960)
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", choices=("torch", "onnx", "openvino"), default="torch")
    args = parser.parse_args()
    import ray

    with tempfile.TemporaryDirectory() as scratch:
        shards = write_shards(Path(scratch), args.images, args.shards)
        model = ["-m", "embedded", "--device", "cpu", "--backend", args.backend, "--cache-dir", f"{scratch}/cache"]
        if args.backend != "torch":
            words = ["fetch", "embedded", "--backend", args.backend, "--cache-dir", f"{scratch}/cache"]
            subprocess.run([sys.executable, "-m", "miil21k", *words], check=True, stdout=subprocess.DEVNULL)
        cluster = ray.init(num_cpus=available_cpus(), include_dashboard=False, log_to_driver=False)
        engines = {
            "plain": [],
            "--engine local": ["--engine", "local"],
            "--engine ray": ["--engine", "ray", "--address", cluster.address_info["address"]],
        }
        few = shards[: max(1, len(shards) // 4)]
        clock = CpuClock()
        found: dict[tuple[str, int], list[Cost]] = {}
        for _ in range(args.rounds):
            rows = set()
            for name, words in engines.items():
                for chosen in (few, shards):
                    cost, written = predict(chosen, [*model, *words], Path(scratch), clock)
                    found.setdefault((name, len(chosen)), []).append(cost)
                rows.add(written)
            assert len(rows) == 1, "the engines wrote different rows"
        ray.shutdown()
    best = {key: Cost(*map(min, zip(*costs, strict=True))) for key, costs in found.items()}
    report(args, best, list(engines), len(few))


def write_shards(folder: Path, images: int, count: int) -> list[Path]:
    """Return `count` shards of photographs between 500 x 375 and 1024 x 768, dealt in turn."""
    photographs(folder / "photographs", images)
    pictures = sorted((folder / "photographs").iterdir())
    shards = []
    for number in range(count):
        shards.append(folder / f"s-{number:03d}.tar")
        with tarfile.open(shards[-1], "w") as archive:
            for picture in pictures[number::count]:
                archive.add(picture, picture.name)
    return shards


def predict(shards: list[Path], words: list[str], folder: Path, clock: CpuClock) -> tuple[Cost, bytes]:
    """Return what the whole command costs, and what it wrote."""
    out = folder / "rows.jsonl"
    command = [sys.executable, "-m", "miil21k", "predict", *map(str, shards)]
    cpu, start = clock.seconds(), time.perf_counter()
    subprocess.run([*command, *words, "-q", "-o", str(out), "--overwrite"], check=True)
    return Cost(time.perf_counter() - start, clock.seconds() - cpu), out.read_bytes()


class CpuClock:
    """Tells the seconds that all processes below this one have used.

    Ended processes count through those that waited for them. Nobody waits for Ray's workers, so they are looked at
    five times a second as long as they live.
    """

    def __init__(self) -> None:
        self._me = psutil.Process()
        self._workers: dict[tuple[int, float], float] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    def seconds(self) -> float:
        """Return what has been used so far."""
        self._look()
        ended = self._me.cpu_times()
        total = ended.children_user + ended.children_system + sum(list(self._workers.values()))
        for process in self._me.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if (process.pid, process.create_time()) not in self._workers:
                    total += sum(process.cpu_times()[:4])
        return total

    def _watch(self) -> None:
        while True:
            time.sleep(0.2)
            self._look()

    def _look(self) -> None:
        with suppress(psutil.NoSuchProcess):
            for below in self._me.children():
                if below.name() == "raylet":
                    for worker in below.children(recursive=True):
                        with suppress(psutil.NoSuchProcess):
                            self._workers[worker.pid, worker.create_time()] = sum(worker.cpu_times()[:4])


def report(args: argparse.Namespace, best: dict[tuple[str, int], Cost], names: list[str], few: int) -> None:
    more = args.images * (args.shards - few) / args.shards
    print(
        f"{args.images} photographs in {args.shards} shards, embedded in {args.backend}, {available_cpus()} cores, "
        f"best of {args.rounds} rounds"
    )
    print("\n| | images/s once started | ratio | CPU ms per image | ratio | seconds to start | whole command | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    each = {}
    for name in names:
        short, long = best[name, few], best[name, args.shards]
        each[name] = Cost((long.wall - short.wall) / more, (long.cpu - short.cpu) / more)
    plain = each["plain"]
    for name in names:
        one, whole = each[name], best[name, args.shards].wall
        print(
            f"| {name} | {1 / one.wall:.1f} | {plain.wall / one.wall:.2f} | {1000 * one.cpu:.0f} "
            f"| {plain.cpu / one.cpu:.2f} | {whole - args.images * one.wall:.1f} | {args.images / whole:.1f} images/s "
            f"| {best['plain', args.shards].wall / whole:.2f} |"
        )


if __name__ == "__main__":
    main()
