"""What an index costs: building it, bringing it up to date, asking it, and how many bytes it takes.

    python benchmarks/find.py PHOTOS [--scratch DIR] [--rows 1000000] [--vectors 100000]

PHOTOS: a folder of photographs. Builds with `embedded`; writes below DIR, some gigabytes for a million rows. Every time
stands against a peer of the same run: predict alone, a full build, NumPy over the same probabilities in memory, or
comparing every embedding.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from miil21k.find.find import FindOptions, find
from miil21k.find.query import parse_query
from miil21k.find.store import Index

QUERIES = ("bird", "mammal", "vehicle", "musical instrument", "furniture")


def timed(*words: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "miil21k", *words, "-q"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def building(photos: Path, scratch: Path) -> float:
    """Return pictures a second."""
    count = sum(1 for file in photos.rglob("*") if file.is_file())
    both = []
    for _ in range(3):
        shutil.rmtree(scratch / "photos.index", ignore_errors=True)
        (scratch / "rows.jsonl").unlink(missing_ok=True)
        alone = timed("predict", str(photos), "-r", "-m", "embedded", "-o", str(scratch / "rows.jsonl"))
        both.append((alone, timed("index", str(photos), "-m", "embedded", "-o", str(scratch / "photos.index"))))
    alone, built = (statistics.median(times) for times in zip(*both, strict=True))
    print(
        f"| {count:,} photographs, `index` against `predict` alone | {count / built:.1f} against {count / alone:.1f} "
        f"a second | {alone / built:.2f}x its rate |"
    )
    print(f"| bytes per picture | {size_of(scratch / 'photos.index') / count:,.0f} | |")
    return count / built


def updating(photos: Path, scratch: Path, files: int, rate: float) -> None:
    many = scratch / "many"
    real = sorted(file for file in photos.rglob("*") if file.is_file())
    for number in range(files):
        target = many / f"{number // 1000}" / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(real[number % len(real)], target)
    index = scratch / "many.index"
    shutil.copytree(scratch / "photos.index", index, dirs_exist_ok=True)
    timed("index", str(many), "-o", str(index))  # rows of known bytes are taken over
    shutil.rmtree(scratch / "photos.index")
    imports = min(importing() for _ in range(3))
    again = min(timed("index", str(many), "-o", str(index)) for _ in range(3)) - imports
    full = files / rate
    print(
        f"| {files:,} unchanged files (imports, {imports:.1f} s, apart) | {again:.2f} s | {full / again:.0f}x faster "
        f"than {full:.0f} s |"
    )
    for number in range(files // 100):
        new = many / "new" / f"{number}.jpg"
        new.parent.mkdir(exist_ok=True)
        new.write_bytes(real[number % len(real)].read_bytes() + number.to_bytes(4, "big"))
    more = timed("index", str(many), "-o", str(index)) - imports
    print(f"| 1 % new files more | {more:.2f} s | {more / full:.1%} of a full build |")


def importing() -> float:
    began = time.perf_counter()
    code = "import miil21k.find.build, miil21k.cli.index, lancedb, miil21k.predict.run"
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


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
    stored = like.embeddings().astype(np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    _ = like._number_of
    hits, ours, exact = 0, [], []
    for number in rng.choice(len(real), 50, replace=False):
        vector = real[number]
        began = time.perf_counter()
        found, _ = like.nearest(vector, 10)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        best = np.argpartition(-(stored @ vector), 10)[:10]
        exact.append(time.perf_counter() - began)
        hits += len(set(found.tolist()) & set(best.tolist()))
    one, all_of = statistics.median(ours), statistics.median(exact)
    print(
        f"| {count:,} x {index.width} embeddings: ten most alike | {one * 1000:.1f} ms, recall {hits / 500:.3f} | "
        f"{all_of / one:.1f}x faster than exact in NumPy ({all_of * 1000:.1f} ms); index made in {making:.0f} s |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--scratch", type=Path, help="default: a temporary folder; on the disk of PHOTOS, for links")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--vectors", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        scratch = Path(folder)
        print("| what | measured | against |\n|---|---|---|")
        rate = building(args.photos, scratch)
        index = Index.open(str(scratch / "photos.index"))
        asking(index, scratch, args.rows)
        likeness(index, scratch, args.vectors)
        updating(args.photos, scratch, args.files, rate)


if __name__ == "__main__":
    main()
