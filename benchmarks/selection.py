"""How much memory and time a selection takes, whatever the size of the pool: synthetic rows, one process per figure.

    python benchmarks/selection.py                      # 10^4, 10^5, 10^6 rows, K = 1,000 and 64,000, and heapq
    python benchmarks/selection.py --rows 10000000 --per-class 1000  # any other size

A row is an image that offers itself to P = 10 of 1,000 classes, drawn by Zipf's law as tail classes are, under the name
of a member of a shard (46 bytes). What it takes for 10^9 images is computed from the largest pool: the peak stays, time
and the rows that pass the floors grow. The peer is the plain way, one `heapq` of (score, name) per class.
"""

from __future__ import annotations

import argparse
import heapq
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

CLASSES, PER_IMAGE = 1000, 10
CHUNK, DRAWN = 1_000, 2_000  # rows at a time; sets of classes that rows are drawn from


def offers(rows: int) -> Iterator[tuple[bytes, list[str], list[float]]]:
    """Yield names, wnids and scores."""
    rng = np.random.default_rng(0)
    wnids = [f"n{place:08d}" for place in range(CLASSES)]
    keys = (np.log(1 / np.arange(1, CLASSES + 1)) + rng.gumbel(size=(DRAWN, CLASSES))).astype(np.float32)
    drawn = np.argpartition(-keys, PER_IMAGE, axis=1)[:, :PER_IMAGE]
    del keys
    for start in range(0, rows, CHUNK):
        best = drawn[rng.integers(DRAWN, size=CHUNK)].tolist()
        scores = np.sort(rng.dirichlet(np.full(PER_IMAGE, 0.3), CHUNK), axis=1)[:, ::-1].tolist()
        for row in range(min(CHUNK, rows - start)):
            number = start + row
            name = f"shards/train-{number // 10_000:06d}.tar/image-{number:012d}.jpg".encode()
            yield name, [wnids[place] for place in best[row]], scores[row]


def ours(rows: int, per_class: int, memory: float, folder: Path) -> dict[str, float]:
    from miil21k.teachers.best import ClassBests
    from miil21k.teachers.listing import write_list

    bests = ClassBests(folder / "runs", per_class, int(memory * 1e9))
    seconds = 0.0
    stream = offers(rows)
    while chunk := list(islice(stream, CHUNK)):
        began = time.perf_counter()
        for offer in chunk:
            bests.add(*offer)
        seconds += time.perf_counter() - began
    began = time.perf_counter()
    bests.flush()
    on_disk = sum(path.stat().st_size for path in (folder / "runs").rglob("*"))
    written = write_list(folder / "selected.parquet", bests.merged())
    size = (folder / "selected.parquet").stat().st_size
    found = {"selected_rows": written.rows, "spilled_runs": bests.spilled, "runs_bytes": on_disk, "list_bytes": size}
    return {"add_seconds": seconds, "write_seconds": time.perf_counter() - began, **found}


def heaps(rows: int, per_class: int, _: float, __: Path) -> dict[str, float]:
    kept: dict[str, list[tuple[float, bytes]]] = {}
    seconds = 0.0
    stream = offers(rows)
    while chunk := list(islice(stream, CHUNK)):
        began = time.perf_counter()
        for name, wnids, scores in chunk:
            for wnid, score in zip(wnids, scores, strict=True):
                heap = kept.setdefault(wnid, [])
                if len(heap) < per_class:
                    heapq.heappush(heap, (score, name))
                elif heap[0] < (score, name):
                    heapq.heapreplace(heap, (score, name))
        seconds += time.perf_counter() - began
    return {"add_seconds": seconds, "selected_rows": sum(map(len, kept.values()))}


def one(args: argparse.Namespace) -> None:
    """Measure in this process, and print the row."""
    import pyarrow.parquet  # noqa: F401 - part of what is there before

    import miil21k.teachers.listing  # noqa: F401

    list(islice(offers(CHUNK), CHUNK))  # what makes the rows takes memory too
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        found = WAYS[args.one](args.rows[0], args.per_class[0], args.memory[0], Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row = {"way": args.one, "rows": args.rows[0], "per_class": args.per_class[0], "memory_gb": args.memory[0]}
    print(json.dumps({**row, "before_bytes": before, "peak_bytes": peak, **found}))


def driver(folder: Path) -> str:
    """Return what the one process costs that takes the predictions of all workers: CPU time per image."""
    from miil21k.predict.bulk import Answers
    from miil21k.predict.prediction import Node, Origin, Prediction
    from miil21k.teachers.best import ClassBests
    from miil21k.teachers.candidates import of_prediction

    origin = Origin("teacher", "in1k", "0" * 64, "none", "torch", "cuda", "fp16")
    found = [
        Prediction(name.decode(), origin, topk=tuple(Node(w, "a name", s) for w, s in zip(wnids, scores, strict=True)))
        for name, wnids, scores in islice(offers(CHUNK), CHUNK)
    ]
    sent = pickle.dumps(Answers(found, len(found)), protocol=5)
    bests = ClassBests(folder / "driver", 1000, 10**9)
    began = time.process_time()
    rounds = 20
    for _ in range(rounds):
        for prediction in pickle.loads(sent).predictions:
            candidates = of_prediction(prediction, "classes", PER_IMAGE, {})
            bests.add(candidates.input.encode(), candidates.wnids, candidates.scores)
    each = (time.process_time() - began) / rounds / len(found)
    return f"one driver: {each * 1e6:.1f} us of CPU time per image, {len(sent) / len(found):.0f} bytes sent for each"


WAYS = {"miil21k": ours, "heapq": heaps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--per-class", type=int, nargs="+", default=[1_000, 64_000])
    parser.add_argument("--memory", type=float, nargs="+", default=[0.2, 2.0], help="GB, as miil21k select --memory")
    parser.add_argument("--scratch", type=Path, help="where runs and lists go meanwhile")
    parser.add_argument("--output", type=Path, help="rows as JSON lines; appended")
    parser.add_argument("--driver", action="store_true", help="only what the process costs that takes predictions")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args)
        return
    if args.driver:
        with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
            print(driver(Path(folder)))
        return
    print("| way | images | K | --memory | above the start, peak | us per image | list | on disk meanwhile |")
    print("|---|---|---|---|---|---|---|---|")
    for rows in args.rows:
        for per_class in args.per_class:
            for way, memory in [("heapq", 0.0), *(("miil21k", memory) for memory in args.memory)]:
                words = ["--one", way, "--rows", rows, "--per-class", per_class, "--memory", memory]
                words += ["--scratch", args.scratch] if args.scratch else []
                done = subprocess.run(
                    [sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=True
                )
                row = json.loads(done.stdout)
                print(_table_row(row), flush=True)
                if args.output:
                    with args.output.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")


def _table_row(row: dict[str, float]) -> str:
    above = (row["peak_bytes"] - row["before_bytes"]) / 1e6
    seconds = row["add_seconds"] + row.get("write_seconds", 0)
    memory = f"{row['memory_gb']} GB" if row["memory_gb"] else "-"
    listed, disk = row.get("list_bytes", 0) / 1e6, row.get("runs_bytes", 0) / 1e6
    return (
        f"| {row['way']} | {row['rows']:,} | {row['per_class']:,} | {memory} | {above:,.0f} MB | "
        f"{seconds / row['rows'] * 1e6:.1f} | {row['selected_rows']:,} rows, {listed:,.0f} MB | {disk:,.0f} MB |"
    )


if __name__ == "__main__":
    main()
