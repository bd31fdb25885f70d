"""LanceDB against Parquet with DuckDB and usearch, as the store of an index: the same rows, size, time and update.

    python benchmarks/find_stores.py photos.index --rows 20000

The rows of the index are repeated under other names, their embeddings moved a little, until there are as many as asked
for. Each store keeps the same columns. Questions: the probability of a concept for every row, and the ten embeddings
most like one (recall against comparing all). Update: one row in a hundred replaced, one in a hundred added. Times are
processor seconds of this process, with those of the clock in brackets: the second count where nothing else runs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from find import size_of
from usearch.index import Index as VectorIndex

from miil21k.find import store
from miil21k.find.query import parse_query
from miil21k.find.store import Index

if TYPE_CHECKING:
    from collections.abc import Callable

ASKED = ("bird", "mammal", "vehicle", "musical instrument", "furniture")
QUERIES = 50


class Took(NamedTuple):
    """Seconds, of the processors and of the clock."""

    busy: float
    clock: float

    def __str__(self) -> str:
        scale, unit = (1000, "ms") if self.clock < 1 else (1, "s")
        return f"{self.busy * scale:.3g} ({self.clock * scale:.3g}) {unit}"


def timed(act: Callable[[], Any]) -> tuple[Took, Any]:
    busy, clock = time.process_time(), time.perf_counter()
    result = act()
    return Took(time.process_time() - busy, time.perf_counter() - clock), result


def middle(acts: list[Callable[[], Any]]) -> Took:
    found = [timed(act)[0] for act in acts]
    return Took(*(statistics.median(part) for part in zip(*found, strict=True)))


class Lance:
    """What `miil21k index` writes."""

    name = "LanceDB"

    def __init__(self, folder: Path, model: Index) -> None:
        self._path = str(folder / "rows.index")
        self._index = Index.create(self._path, model.about, model.width)

    def build(self, rows: pa.Table) -> None:
        for first in range(0, rows.num_rows, 5000):
            self._index._table.add(cut(rows, first, 5000))
        self._index.tidy()

    def open(self) -> None:
        self._index = Index.open(self._path)
        _ = self._index.masses, self._index.rest, self._index._row_ids, self._index._has_vector_index

    def probability(self, classes: np.ndarray) -> np.ndarray:
        return self._index.probability(classes)

    def nearest(self, vector: np.ndarray) -> np.ndarray:
        return self._index.nearest(vector, 10)[0]

    def update(self, changed: pa.Table, new: pa.Table) -> None:
        merge = self._index._table.merge_insert("input").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(pa.concat_tables([changed, new]).combine_chunks())


class Parquet:
    """One Parquet file, DuckDB over it, and an HNSW index of usearch beside it; numbers of rows are its keys."""

    name = "Parquet, DuckDB, usearch"

    def __init__(self, folder: Path, model: Index) -> None:
        self._file, self._vectors = folder / "rows.parquet", folder / "rows.usearch"
        self._width = model.width

    def _added(self, index: VectorIndex, keys: np.ndarray, rows: pa.Table) -> None:
        flat = rows["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        index.add(keys, flat.reshape(-1, self._width))

    def build(self, rows: pa.Table) -> None:
        pq.write_table(rows, self._file, compression="zstd")
        index = VectorIndex(ndim=self._width, metric="cos", dtype="f16")
        self._added(index, np.arange(rows.num_rows), rows)
        index.save(str(self._vectors))

    def open(self) -> None:
        quiet = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
        self._sql = duckdb.connect(config=quiet)
        self._sql.execute(
            f"CREATE TABLE kept AS SELECT row_number() OVER () - 1 AS number, classes, probabilities, rest "
            f"FROM read_parquet('{self._file}')"
        )
        self._index = VectorIndex.restore(str(self._vectors), view=True)

    def probability(self, classes: np.ndarray) -> np.ndarray:
        wanted = np.flatnonzero(classes).tolist()
        found = self._sql.execute(
            "SELECT number, rest * $2 + coalesce(list_sum(list_transform(range(1, len(classes) + 1), "
            "lambda i: CASE WHEN list_contains($1, classes[i]) THEN probabilities[i] - rest ELSE 0 END)), 0) AS p "
            "FROM kept ORDER BY number",
            [wanted, len(wanted)],
        ).fetchnumpy()
        return np.asarray(found["p"], np.float32)

    def nearest(self, vector: np.ndarray) -> np.ndarray:
        return self._index.search(vector.astype(np.float16), 10).keys

    def update(self, changed: pa.Table, new: pa.Table) -> None:
        rows = pq.read_table(self._file)  # a Parquet file is written once: its rows are changed by writing it anew
        place = {name: number for number, name in enumerate(rows["input"].to_pylist())}
        numbers = np.array([place[name] for name in changed["input"].to_pylist()])
        staying = np.ones(rows.num_rows, bool)
        staying[numbers] = False
        order = np.argsort(np.concatenate([np.flatnonzero(staying), numbers]))
        kept = pa.concat_tables([rows.filter(pa.array(staying)), changed]).take(pa.array(order))
        pq.write_table(pa.concat_tables([kept, new]), self._file, compression="zstd")
        index = VectorIndex.restore(str(self._vectors))
        index.remove(numbers)
        self._added(index, numbers, changed)
        self._added(index, rows.num_rows + np.arange(new.num_rows), new)
        index.save(str(self._vectors))


def cut(rows: pa.Table, first: int, count: int) -> pa.Table:
    """Return some rows as arrays of their own: LanceDB 0.40 fails on a slice."""
    return rows.take(pa.array(np.arange(first, min(first + count, rows.num_rows))))


def repeated(index: Index, rows: int, first: int = 0) -> pa.Table:
    """Return so many rows, named from `first` on, whose embeddings are those of `index`, moved a little."""
    schema = index._table.schema
    kept = index.columns(*schema.names).filter(pa.array(index.answered))
    part = kept.take(pa.array((first + np.arange(rows)) % kept.num_rows))
    real = index.embeddings(np.flatnonzero(index.answered)).astype(np.float32)
    vectors = real[(first + np.arange(rows)) % len(real)]
    vectors += np.random.default_rng(first).normal(0, real.std() / 2, vectors.shape).astype(np.float32)
    columns = {
        "input": pa.array([f"/photos/{first + number:09d}.jpg" for number in range(rows)]),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).ravel()), index.width),
    }
    return pa.table([columns.get(name, part[name]) for name in schema.names], schema=schema)


def measured(kind: type[Lance | Parquet], index: Index, rows: pa.Table, folder: Path) -> list[str]:
    place = folder / kind.__name__
    place.mkdir()
    made = kind(place, index)
    building, _ = timed(lambda: made.build(rows))
    size = size_of(place) / rows.num_rows
    opening, _ = timed(made.open)
    classes = [parse_query(noun, index).classes for noun in ASKED]
    first = made.probability(classes[0])
    expected = index.probability(classes[0])[np.flatnonzero(index.answered)]
    assert np.abs(first - expected[np.arange(rows.num_rows) % len(expected)]).max() < 2e-3
    asking = middle([lambda of=of: made.probability(of) for of in classes])
    stored = rows["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, index.width)
    stored = stored.astype(np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    vectors = stored[np.random.default_rng(1).choice(len(stored), QUERIES, replace=False)]
    hits = [
        len(set(made.nearest(vector).tolist()) & set(np.argpartition(-(stored @ vector), 10)[:10].tolist()))
        for vector in vectors
    ]
    liking = middle([lambda vector=vector: made.nearest(vector) for vector in vectors])
    part = rows.num_rows // 100
    changed, new = cut(rows, part, part), repeated(index, part, first=rows.num_rows)
    updating, _ = timed(lambda: made.update(changed, new))
    after = size_of(place) / (rows.num_rows + part)
    recall = f"{liking}, recall {sum(hits) / 10 / QUERIES:.3f}"
    return [f"{size:,.0f}", str(building), str(opening), str(asking), recall, str(updating), f"{after:,.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", help="of `miil21k index`")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--scratch", type=Path, help="default: a temporary folder")
    args = parser.parse_args()
    store.MIN_ROWS_OF_VECTOR_INDEX = min(store.MIN_ROWS_OF_VECTOR_INDEX, args.rows)
    index = Index.open(args.index)
    rows = repeated(index, args.rows)
    names = ("bytes per row", "build", "open", "a concept", "ten most alike", "update", "bytes per row then")
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        columns = [measured(kind, index, rows, Path(folder)) for kind in (Lance, Parquet)]
    print(f"| {args.rows:,} rows | {Lance.name} | {Parquet.name} |\n|---|---:|---:|")
    for name, *cells in zip(names, *columns, strict=True):
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
