"""What an index costs: building it, bringing it up to date, asking it, and how many bytes it takes.

    python benchmarks/find.py PHOTOS [--only building updating asking likeness] [--scratch DIR] [--index photos.index]

PHOTOS: a folder of photographs. Builds with `embedded`; writes below DIR, some gigabytes for a million rows. --only:
some of the measurements; --index: for those after the first, an index of PHOTOS that is there already. Every time
stands against a peer of the same run: predict alone, a full build, NumPy over the same probabilities in memory, or
comparing every embedding. Of commands and of vectors the processor seconds stand there too, which count where something
else runs besides.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from miil21k.find.find import FindOptions, find
from miil21k.find.query import parse_query
from miil21k.find.store import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

QUERIES = ("bird", "mammal", "vehicle", "musical instrument", "furniture")


class Took(NamedTuple):
    """Seconds. clock: of the wall; busy: of the processors."""

    clock: float
    busy: float

    def less(self, other: Took) -> Took:
        return Took(self.clock - other.clock, self.busy - other.busy)

    def __str__(self) -> str:
        if self.clock < 1:
            return f"{self.clock * 1000:.1f} ms (processors {self.busy * 1000:.1f} ms)"
        return f"{self.clock:.1f} s (processors {self.busy:.1f} s)"


def ran(*command: str) -> Took:
    """Run a command and wait for it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def timed(*words: str) -> Took:
    return ran("-m", "miil21k", *words, "-q")


def median(several: Iterable[Took]) -> Took:
    return Took(*(statistics.median(each) for each in zip(*several, strict=True)))


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def building(photos: Path, scratch: Path, repeats: int) -> None:
    """Leaves the index behind."""
    count = sum(1 for file in photos.rglob("*") if file.is_file())
    alone, built = [], []
    for _ in range(repeats):
        shutil.rmtree(scratch / "photos.index", ignore_errors=True)
        (scratch / "rows.jsonl").unlink(missing_ok=True)
        alone.append(timed("predict", str(photos), "-r", "-m", "embedded", "-o", str(scratch / "rows.jsonl")))
        built.append(timed("index", str(photos), "-m", "embedded", "-o", str(scratch / "photos.index")))
    peer, ours = median(alone), median(built)
    print(
        f"| {count:,} photographs, `index` against `predict` alone | {ours} against {peer} | "
        f"{peer.clock / ours.clock:.2f}x its rate (by processors {peer.busy / ours.busy:.2f}x) |"
    )
    print(f"| bytes per picture | {size_of(scratch / 'photos.index') / count:,.0f} | |")


def updating(photos: Path, scratch: Path, files: int) -> None:
    """Small crops of the photographs, each another: a full build, a run over what did not change, 1 % more."""
    many, index = scratch / "many", scratch / "many.index"
    real = sorted(file for file in photos.rglob("*") if file.is_file())

    def crop(number: int, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(real[number % len(real)]) as image:
            left, upper = (number // len(real) + number) % 40, number % 30
            image.convert("RGB").crop((left, upper, left + 128, upper + 96)).save(target, quality=90)

    for number in range(files):
        crop(number, many / f"{number // 1000}" / f"{number}.jpg")
    full = timed("index", str(many), "-m", "embedded", "-o", str(index))
    imports = median(ran("-c", IMPORTS) for _ in range(3))
    again = median(timed("index", str(many), "-o", str(index)) for _ in range(3)).less(imports)
    print(
        f"| {files:,} unchanged files (imports, {imports}, apart) | {again} | "
        f"{full.less(imports).clock / again.clock:.0f}x faster than {full} (by processors "
        f"{full.less(imports).busy / again.busy:.0f}x) |"
    )
    for number in range(files, files + files // 100):
        crop(number, many / "new" / f"{number}.jpg")
    more = timed("index", str(many), "-o", str(index)).less(imports)
    print(
        f"| 1 % new files more | {more} | {more.clock / full.clock:.1%} of a full build (by processors "
        f"{more.busy / full.busy:.1%}) |"
    )


IMPORTS = "import miil21k.find.build, miil21k.cli.index, lancedb, miil21k.predict.run"


def asking(index: Index, scratch: Path, rows: int) -> None:
    import pyarrow as pa

    real = index.columns(*[name for name in index._table.schema.names if name != "embedding"])
    target = Index.create(str(scratch / "large.index"), index.about, index.width)
    kept = np.flatnonzero(index.answered)
    per = 50_000
    for first in range(0, rows, per):
        count = min(per, rows - first)
        part = real.take(pa.array(kept[np.arange(first, first + count) % len(kept)]))
        names = pa.array([f"/photos/{first + number:09d}.jpg" for number in range(count)])
        part = part.set_column(part.schema.get_field_index("input"), "input", names)
        empty = pa.nulls(count, target._table.schema.field("embedding").type)
        target._table.add(part.append_column("embedding", empty).select(target._table.schema.names))
    large = Index.open(str(scratch / "large.index"))
    began = time.perf_counter()
    _ = large.masses, large.rest, large.answered, large.names
    print(f"| {rows:,} rows: opening | {time.perf_counter() - began:.1f} s | |")
    matrix, ours, peers = large.masses, [], []
    for query in QUERIES:
        classes = parse_query(query, large).classes
        began = time.perf_counter()
        find(large, query, FindOptions(limit=50))
        ours.append(time.perf_counter() - began)
        weight = classes.astype(np.float32)
        began = time.perf_counter()
        held = np.add.reduceat(matrix.data * weight[matrix.indices], matrix.indptr[:-1]) + large.rest * weight.sum()
        peers.append(time.perf_counter() - began)
        assert held.shape == (rows,)
    query, peer = statistics.median(ours), statistics.median(peers)
    print(f"| {rows:,} rows: a concept, ranked | {query:.2f} s | {query / peer:.2f}x NumPy's sum ({peer:.2f} s) |")
    del large, matrix
    shutil.rmtree(scratch / "large.index")


def likeness(index: Index, scratch: Path, count: int) -> None:
    import pyarrow as pa

    rng = np.random.default_rng(0)
    real = index.embeddings(np.flatnonzero(index.answered)).astype(np.float32)
    target = Index.create(str(scratch / "like.index"), index.about, index.width)
    spread = real.std() * 0.5
    for first in range(0, count, 10_000):
        size = min(10_000, count - first)
        vectors = real[(first + np.arange(size)) % len(real)] + rng.normal(0, spread, (size, real.shape[1]))
        rows = pa.Table.from_arrays(
            [
                pa.array([f"/photos/{first + number:09d}.jpg" for number in range(size)]),
                pa.array(["ok"] * size),
                pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).ravel()), index.width),
            ],
            ["input", "status", "embedding"],
        )
        missing = [field for field in target._table.schema if field.name not in rows.schema.names]
        for field in missing:
            rows = rows.append_column(field.name, pa.nulls(size, field.type))
        target._table.add(rows.select(target._table.schema.names))
    began = time.perf_counter()
    target.tidy()
    making = time.perf_counter() - began
    like = Index.open(str(scratch / "like.index"))
    stored = np.empty((count, index.width), np.float32)
    for first in range(0, count, 50_000):  # a million in half precision and in single would not fit small memories
        numbers = np.arange(first, min(first + 50_000, count))
        stored[numbers] = like.embeddings(numbers)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    hits, ours, exact, scans = 0, [], [], []
    _ = like.nearest(real[0], 10)  # opens the index of embeddings
    for number in rng.choice(len(real), 50, replace=False):
        vector = real[number]
        took, (found, _) = clocked(lambda vector=vector: like.nearest(vector, 10))
        ours.append(took)
        took, best = clocked(lambda vector=vector: np.argpartition(-(stored @ vector), 10)[:10])
        exact.append(took)
        hits += len(set(found.tolist()) & set(best.tolist()))
        if len(scans) < 10:  # LanceDB without its index of vectors, from the disk
            query = like._table.search(vector, vector_column_name="embedding").distance_type("cosine").limit(10)
            scan = query.bypass_vector_index().select(["_distance"])
            scans.append(clocked(lambda scan=scan: scan.to_arrow())[0])
    one, all_of, scanned = median(ours), median(exact), median(scans)
    print(f"| {count:,} x {index.width} embeddings: ten most alike | {one}, recall {hits / 500:.3f} | |")
    for peer, took in (("NumPy, float32 in memory", all_of), ("LanceDB, from the disk", scanned)):
        ratio = f"{took.clock / one.clock:.1f}x faster (by processors {took.busy / one.busy:.1f}x)"
        print(f"| the same, compared with every embedding in {peer} | {took} | {ratio} |")
    print(f"| the index of embeddings, made | {making:.0f} s | |")


def clocked(act: Callable[[], Any]) -> tuple[Took, Any]:
    """Return what a call in this process takes, and what it returns."""
    began, busy = time.perf_counter(), time.process_time()
    result = act()
    return Took(time.perf_counter() - began, time.process_time() - busy), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--only", nargs="+", choices=MEASURED, default=MEASURED)
    parser.add_argument("--index", type=Path, help="of PHOTOS, where `building` is left out")
    parser.add_argument("--scratch", type=Path, help="default: a temporary folder")
    parser.add_argument("--repeats", type=int, default=3, help="of `building`")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--vectors", type=int, default=100_000)
    args = parser.parse_args()
    if "building" not in args.only and {"asking", "likeness"} & set(args.only) and args.index is None:
        parser.error("--index is needed where nothing is built")
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        scratch = Path(folder)
        print("| what | measured | against |\n|---|---|---|")
        if "building" in args.only:
            building(args.photos, scratch, args.repeats)
        made = scratch / "photos.index" if "building" in args.only else args.index
        if "asking" in args.only:
            asking(Index.open(str(made)), scratch, args.rows)
        if "likeness" in args.only:
            likeness(Index.open(str(made)), scratch, args.vectors)
        if "updating" in args.only:
            updating(args.photos, scratch, args.files)


MEASURED = ("building", "asking", "likeness", "updating")


if __name__ == "__main__":
    main()
